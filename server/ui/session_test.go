package ui_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/server/ui"
	"github.com/assay-verifier/assay/store"
)

// get fetches a page and gives its text.
func get(t testing.TB, c *http.Client, address string) (*http.Response, string) {
	t.Helper()
	res, err := c.Get(address)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	return res, string(body)
}

// post sends a form as a browser on the same site does.
func post(t testing.TB, c *http.Client, address string, form url.Values, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, address, strings.NewReader(form.Encode()))
	must(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := c.Do(req)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	return res, string(body)
}

// paths are all pages of a fleet.
func (f *fleet) paths() []string {
	b := f.baseline.BaselineID.String()
	out := []string{"/ui/", "/ui/machines", "/ui/verdicts", "/ui/alerts", "/ui/alerts?status=all&suppressed=1", "/ui/recommendations", "/ui/baselines",
		"/ui/baselines/" + b, "/ui/baselines/" + b + "/versions/1", "/ui/suppressions", "/ui/notifications"}
	for _, name := range []string{"web-1", "web-3", "db-1", "legacy-1", "build-7", "cvm-1"} {
		out = append(out, "/ui/machines/"+f.machines[name].String())
		if v, ok := f.verdicts[name]; ok {
			out = append(out, "/ui/verdicts/"+v.String())
		}
	}
	for _, a := range f.alerts {
		out = append(out, "/ui/alerts/"+a.ID.String())
	}
	if f.incident != uuid.Nil {
		out = append(out, "/ui/incidents", "/ui/incidents?status=all", "/ui/incidents/"+f.incident.String())
	}
	return out
}

func TestPagesNeedASession(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	for _, path := range f.paths() {
		res, body := get(t, browser(t), site.URL+path)
		want := "/ui/sign-in?" + url.Values{"next": {path}}.Encode()
		if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != want {
			t.Errorf("%s: %s to %q", path, res.Status, res.Header.Get("Location"))
		}
		if strings.Contains(body, "web-1") {
			t.Errorf("%s: shows data to nobody", path)
		}
	}
	// A cookie that is no token of ours is no session.
	c := browser(t)
	u, _ := url.Parse(site.URL + "/ui/")
	c.Jar.SetCookies(u, []*http.Cookie{{Name: "assay_session", Value: "assay_adm_guessed", Path: "/ui/"}})
	if res, _ := get(t, c, site.URL+"/ui/machines"); res.StatusCode != http.StatusSeeOther {
		t.Errorf("a guessed cookie: %s", res.Status)
	}
}

func TestSignIn(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	res, body := post(t, browser(t), site.URL+"/ui/sign-in", url.Values{"token": {"assay_adm_wrong-token"}})
	if res.StatusCode != http.StatusForbidden || len(res.Cookies()) > 0 || strings.Contains(body, "wrong-token") || !strings.Contains(body, "does not open these pages") {
		t.Errorf("wrong token: %s, cookies %v", res.Status, res.Cookies())
	}
	if res, _ := post(t, browser(t), site.URL+"/ui/sign-in", url.Values{"token": {strings.Repeat("x", 5000)}}); res.StatusCode != http.StatusForbidden {
		t.Errorf("absurd token: %s", res.Status)
	}
	if res, _ := post(t, browser(t), site.URL+"/ui/sign-in", url.Values{"token": {strings.Repeat("x", 50000)}}); res.StatusCode != http.StatusBadRequest {
		t.Errorf("absurd form: %s", res.Status)
	}
	for next, want := range map[string]string{"/ui/alerts?status=all": "/ui/alerts?status=all", "https://evil.example/": "/ui/", "//evil.example/ui/": "/ui/"} {
		res, _ = post(t, browser(t), site.URL+"/ui/sign-in", url.Values{"token": {" " + f.reader + "\n"}, "next": {next}})
		if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != want {
			t.Errorf("next %q leads to %q (%s)", next, res.Header.Get("Location"), res.Status)
		}
	}
	cookie := res.Header.Get("Set-Cookie")
	for _, part := range []string{"assay_session=", "Path=/ui/", "HttpOnly", "SameSite=Strict", "Max-Age="} {
		if !strings.Contains(cookie, part) {
			t.Errorf("cookie without %s: %s", part, cookie)
		}
	}
	if res, _ := post(t, browser(t), site.URL+"/ui/sign-in", url.Values{"token": {f.admin}}, "Sec-Fetch-Site", "cross-site"); res.StatusCode != http.StatusForbidden || len(res.Cookies()) > 0 {
		t.Errorf("another site signs somebody in: %s", res.Status)
	}
}

func TestSecureCookies(t *testing.T) {
	f := newFleet(t)
	handler, err := ui.New(ui.Config{May: server.RoleMay, Store: db, EventLog: f.eventLog, Authenticate: authenticate(time.Now), Now: func() time.Time { return f.now }, SecureCookies: true})
	must(t, err)
	site := httptest.NewTLSServer(handler)
	defer site.Close()
	c := site.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, _ := post(t, c, site.URL+"/ui/sign-in", url.Values{"token": {f.admin}})
	cookie := res.Header.Get("Set-Cookie")
	if !strings.HasPrefix(cookie, "__Secure-assay_session=") || !strings.Contains(cookie, "Secure") {
		t.Errorf("cookie: %s", cookie)
	}
}

// TestTokenStaysSecret: no page, no header and no address ever holds the token.
func TestTokenStaysSecret(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	c := signIn(t, site, f.admin)
	for _, path := range append(f.paths(), "/ui/sign-in", "/ui/nothing") {
		res, body := get(t, c, site.URL+path)
		if strings.Contains(body, f.admin) || strings.Contains(res.Header.Get("Location"), f.admin) {
			t.Errorf("%s holds the token", path)
		}
	}
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

// csrf reads the form token from a page.
func csrf(t testing.TB, page string) string {
	t.Helper()
	m := csrfField.FindStringSubmatch(page)
	if m == nil {
		t.Fatal("the page has no form token")
	}
	return m[1]
}

func TestSignOut(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	c := signIn(t, site, f.reader)
	_, page := get(t, c, site.URL+"/ui/")
	if res, _ := post(t, c, site.URL+"/ui/sign-out", url.Values{"csrf": {"guess"}}); res.StatusCode != http.StatusForbidden {
		t.Errorf("sign-out without the form's token: %s", res.Status)
	}
	if res, _ := get(t, c, site.URL+"/ui/"); res.StatusCode != http.StatusOK {
		t.Fatalf("the session ended all the same: %s", res.Status)
	}
	if res, _ := post(t, c, site.URL+"/ui/sign-out", url.Values{"csrf": {csrf(t, page)}}); res.StatusCode != http.StatusSeeOther {
		t.Errorf("sign-out: %s", res.Status)
	}
	if res, _ := get(t, c, site.URL+"/ui/"); res.StatusCode != http.StatusSeeOther {
		t.Errorf("after signing out: %s", res.Status)
	}
}

// TestSessionEndsWithItsToken: the token is authenticated on every request.
func TestSessionEndsWithItsToken(t *testing.T) {
	f := newFleet(t)
	valid := true
	handler, err := ui.New(ui.Config{May: server.RoleMay, Store: db, EventLog: f.eventLog, Now: func() time.Time { return f.now }, Authenticate: func(ctx context.Context, bearer string) (ui.Principal, error) {
		if !valid {
			return ui.Principal{}, store.ErrTokenInvalid
		}
		return authenticate(time.Now)(ctx, bearer)
	}})
	must(t, err)
	site := httptest.NewServer(handler)
	defer site.Close()
	c := signIn(t, site, f.admin)
	valid = false
	if res, _ := get(t, c, site.URL+"/ui/machines"); res.StatusCode != http.StatusSeeOther {
		t.Errorf("a revoked token still opens pages: %s", res.Status)
	}
}

// TestOtherPrincipals: a token that authenticates as something else than a person opens nothing.
func TestOtherPrincipals(t *testing.T) {
	handler, err := ui.New(ui.Config{May: server.RoleMay, Store: database(t), EventLog: (&fleet{}).eventLog, Now: time.Now, Authenticate: func(context.Context, string) (ui.Principal, error) {
		return ui.Principal{Tenant: uuid.Max, Role: "machine"}, nil
	}})
	must(t, err)
	site := httptest.NewServer(handler)
	defer site.Close()
	if res, _ := post(t, browser(t), site.URL+"/ui/sign-in", url.Values{"token": {"assay_agt_x"}}); res.StatusCode != http.StatusForbidden || len(res.Cookies()) > 0 {
		t.Errorf("a machine signs in: %s", res.Status)
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	if _, err := ui.New(ui.Config{}); err == nil {
		t.Error("New accepts nothing")
	}
}

func TestHeaders(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	c := signIn(t, site, f.reader)
	for _, path := range []string{"/ui/", "/ui/sign-in", "/ui/nothing", "/ui/static/app.css", "/ui/machines/" + uuid.NewString()} {
		res, _ := get(t, c, site.URL+path)
		policy := res.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("%s: policy %q", path, policy)
		}
		for header, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin"} {
			if got := res.Header.Get(header); got != want {
				t.Errorf("%s: %s is %q", path, header, got)
			}
		}
		if !strings.Contains(path, "static") && res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: a page about the fleet may be kept: %q", path, res.Header.Get("Cache-Control"))
		}
	}
	_, page := get(t, c, site.URL+"/ui/")
	style := regexp.MustCompile(`/ui/static/app\.css\?v=[0-9a-f]+`).FindString(page)
	if res, body := get(t, browser(t), site.URL+style); res.StatusCode != http.StatusOK || !strings.Contains(res.Header.Get("Cache-Control"), "immutable") || body == "" {
		t.Errorf("style sheet %s: %s, %s", style, res.Status, res.Header.Get("Cache-Control"))
	}
	if res, _ := get(t, browser(t), site.URL+"/ui/static/ui.go"); res.StatusCode != http.StatusNotFound {
		t.Errorf("other files: %s", res.Status)
	}
}

// TestFailureStaysInside: what is wrong inside reaches the log, not the page.
func TestFailureStaysInside(t *testing.T) {
	handler, err := ui.New(ui.Config{May: server.RoleMay, Store: database(t), EventLog: (&fleet{}).eventLog, Now: time.Now, Authenticate: func(context.Context, string) (ui.Principal, error) {
		return ui.Principal{}, errors.New("dial tcp 10.1.2.3:5432: secret detail")
	}})
	must(t, err)
	site := httptest.NewServer(handler)
	defer site.Close()
	res, body := post(t, browser(t), site.URL+"/ui/sign-in", url.Values{"token": {"x"}})
	if res.StatusCode != http.StatusInternalServerError || strings.Contains(body, "secret detail") || !strings.Contains(body, "Id: <code>") {
		t.Errorf("%s: %s", res.Status, body)
	}
}
