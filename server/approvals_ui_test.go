package server

import (
	"context"
	"crypto/sha256"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/assay-verifier/assay/server/ui"
)

// person is somebody who works with the pages.
type person struct {
	b    *bench
	http *http.Client
	base string
}

// signIn opens the pages with a token, as a browser without JavaScript does.
func (b *bench) signIn(token string) *person {
	b.t.Helper()
	s := b.server
	pages, err := ui.New(ui.Config{May: RoleMay, Store: s.store, EventLog: s.attest.DecodedLog, PreviewApproval: s.attest.PreviewApproval, ApproveAlert: s.attest.ApproveAlert,
		RefuseAlert: s.attest.RefuseAlert, DiffVersion: s.attest.DiffVersion, Now: s.now, API: s.Inner(),
		Authenticate: func(ctx context.Context, bearer string) (ui.Principal, error) {
			hash := sha256.Sum256([]byte(bearer))
			tenant, t, err := s.store.LookupAPIToken(ctx, hash[:], s.now())
			return ui.Principal{Tenant: tenant, TokenID: t.ID, Name: t.Name, Role: t.Role, Owner: t.Owner, Scope: t.Scope}, err
		}})
	if err != nil {
		b.t.Fatal(err)
	}
	router := chi.NewRouter() // as the service mounts them
	router.Handle("/ui/*", pages)
	site := httptest.NewServer(router)
	b.t.Cleanup(site.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	p := &person{b: b, http: &http.Client{Jar: jar}, base: site.URL}
	if status, _ := p.send("/ui/sign-in", url.Values{"token": {token}}); status != http.StatusOK {
		b.t.Fatalf("sign in: %d", status)
	}
	return p
}

// send posts a form and follows to the page that comes of it.
func (p *person) send(path string, form url.Values) (status int, page string) {
	p.b.t.Helper()
	res, err := p.http.PostForm(p.base+path, form)
	return p.read(res, err)
}

func (p *person) see(path string) string {
	p.b.t.Helper()
	res, err := p.http.Get(p.base + path)
	status, page := p.read(res, err)
	if status != http.StatusOK {
		p.b.t.Fatalf("%s: %d %s", path, status, page)
	}
	return page
}

func (p *person) read(res *http.Response, err error) (int, string) {
	p.b.t.Helper()
	if err != nil {
		p.b.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.b.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

var hidden = regexp.MustCompile(`<input type="hidden" name="([a-z_]+)" value="([^"]*)">`)

// form is the hidden fields of the form with that action.
func (p *person) form(page, action string) url.Values {
	p.b.t.Helper()
	_, rest, found := strings.Cut(page, `action="`+action+`"`)
	if !found {
		p.b.t.Fatalf("no form %s in %s", action, page)
	}
	form, _, _ := strings.Cut(rest, "</form>")
	values := url.Values{}
	for _, m := range hidden.FindAllStringSubmatch(form, -1) {
		values.Set(m[1], m[2])
	}
	return values
}

func (p *person) contains(page string, wants ...string) {
	p.b.t.Helper()
	for _, want := range wants {
		if !strings.Contains(page, want) {
			p.b.t.Errorf("no %q in %s", want, page)
		}
	}
}

// refuseOnPage refuses an alert in the pages.
func (p *person) refuseOnPage(alert, comment string) {
	p.b.t.Helper()
	path := strings.Replace(alert, "/v1/", "/ui/", 1)
	page := p.see(path)
	p.contains(page, "would be made out of version 2", "kernel added: /vmlinuz", `allows <code title="sha256:`, "Approve", "Refuse", `aria-current="true"`)
	form := p.form(page, path+"/refuse")
	if status, _ := p.send(path+"/refuse", form); status != http.StatusBadRequest {
		p.b.t.Errorf("refused without a reason: %d", status)
	}
	form.Set("comment", comment)
	status, page := p.send(path+"/refuse", form)
	if status != http.StatusOK {
		p.b.t.Fatalf("refuse: %d %s", status, page)
	}
	p.contains(page, "The deviations are refused. The alert stays as it is.", comment, "the same deviations were refused by admin:")
	form.Del("csrf")
	if status, _ := p.send(path+"/refuse", form); status != http.StatusForbidden {
		p.b.t.Errorf("without the form's token: %d", status)
	}
}

// approveOnPage approves an alert in the pages, with what is measured in place of what was expected.
func (p *person) approveOnPage(alert string) {
	p.b.t.Helper()
	path := strings.Replace(alert, "/v1/", "/ui/", 1)
	form := p.form(p.see(path+"?replace=1"), path+"/approve")
	form.Set("comment", "it was announced")
	status, page := p.send(path+"/approve", form)
	if status != http.StatusConflict {
		p.b.t.Errorf("approved what was refused: %d", status)
	}
	p.contains(page, "The same deviations were refused before")
	form.Set("force", "1")
	form.Set("grace_percent", "101")
	if status, _ := p.send(path+"/approve", form); status != http.StatusBadRequest {
		p.b.t.Errorf("101 percent: %d", status)
	}
	form.Set("grace_percent", "")
	if status, page = p.send(path+"/approve", form); status != http.StatusOK {
		p.b.t.Fatalf("approve: %d %s", status, page)
	}
	p.contains(page, "The deviations are approved.", "version 3")
	status, page = p.send(path+"/approve", form)
	if status != http.StatusConflict {
		p.b.t.Errorf("approved twice: %d", status)
	}
	p.contains(page, "This cannot be approved")
}
