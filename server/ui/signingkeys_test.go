package ui_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/server/ui"
)

// keySite is the pages with signing keys of a tenant.
func keySite(t *testing.T, f *fleet, tenant uuid.UUID) (*httptest.Server, *token.Service) {
	t.Helper()
	must(t, db.EnsureTenant(t.Context(), tenant, f.now))
	begin := f.now // the database's clock says when the first keys were made; it and the fleet's then go on together
	clock := func() time.Time { return time.Now().Add(f.now.Sub(begin)) }
	tokens, err := token.New(t.Context(), token.Config{Store: db, Tenant: tenant, Now: clock, RotateEvery: 720 * time.Hour})
	must(t, err)
	handler, err := ui.New(ui.Config{May: server.RoleMay, Store: db, EventLog: f.eventLog, Authenticate: authenticate(f.clock), Now: f.clock, Tokens: tokens})
	must(t, err)
	site := httptest.NewServer(handler)
	t.Cleanup(site.Close)
	return site, tokens
}

// signs is the id of the key that signs with an algorithm.
func signs(t *testing.T, tokens *token.Service, algorithm string) string {
	t.Helper()
	keys, err := tokens.Keys(context.Background())
	must(t, err)
	for _, k := range keys {
		if k.Algorithm == algorithm && k.State == token.Active {
			return k.ID
		}
	}
	t.Fatalf("no key signs with %s", algorithm)
	return ""
}

// Administrators of the keys' own tenant see them and change them, readers see them, and administrators of other tenants change
// nothing.
func TestSigningKeysPage(t *testing.T) {
	f := emptyFleet(t)
	site, tokens := keySite(t, f, f.tenant)
	const page = "/ui/signing-keys"
	c := signIn(t, site, f.admin)
	_, body := get(t, c, site.URL+page)
	key := signs(t, tokens, "EdDSA")
	contains(t, page, body, "EdDSA", "ES256", key, "signs since", "next key follows", "published", "Withdraw at once", `aria-current="page"`)
	form := func(reason string) url.Values { return url.Values{"csrf": {csrf(t, body)}, "reason": {reason}} }
	revoke := site.URL + page + "/" + key + "/revoke"
	refused := func(story string, c *http.Client, address string, form url.Values, status int) {
		t.Helper()
		if res, _ := post(t, c, address, form); res.StatusCode != status {
			t.Errorf("%s: %s, want %d", story, res.Status, status)
		}
		if got := signs(t, tokens, "EdDSA"); got != key {
			t.Fatalf("%s: changed something", story)
		}
	}
	refused("without the form's token", c, revoke, url.Values{"reason": {"x"}}, 403)
	refused("rotate without the form's token", c, site.URL+page+"/rotate", url.Values{}, 403)
	refused("without a reason", c, revoke, form(" "), 400)
	refused("a long reason", c, revoke, form(strings.Repeat("ä", 254)), 400)
	refused("a reason with control characters", c, revoke, form("a\nb"), 400)
	refused("no such key", c, site.URL+page+"/"+strings.Repeat("A", 43)+"/revoke", form("x"), 404)
	reader := signIn(t, site, f.reader)
	_, readers := get(t, reader, site.URL+page)
	contains(t, page, readers, key, "signs since")
	if strings.Contains(readers, "Withdraw at once") || strings.Contains(readers, "Let the next") {
		t.Error("a reader is offered what he may not do")
	}
	refused("a reader", reader, revoke, url.Values{"csrf": {csrf(t, readers)}, "reason": {"x"}}, 403)

	res, _ := post(t, c, revoke, form("a laptop <b>was</b> stolen"))
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != page+"?done=revoked" {
		t.Fatalf("revoke: %s", res.Status)
	}
	if signs(t, tokens, "EdDSA") == key {
		t.Error("a key that was withdrawn signs")
	}
	_, body = get(t, c, site.URL+page+"?done=revoked")
	contains(t, page, body, "The key was withdrawn", "a laptop &lt;b&gt;was&lt;/b&gt; stolen", "withdrawn <time")
	if res, _ := post(t, c, revoke, form("again")); res.StatusCode != http.StatusConflict {
		t.Errorf("again: %s", res.Status)
	}

	// The keys of another tenant than the administrator's, which sign for his too.
	others, keys := keySite(t, f, uuid.New())
	stranger := signIn(t, others, f.admin)
	before := signs(t, keys, "EdDSA")
	_, body = get(t, stranger, others.URL+page)
	contains(t, page, body, before)
	for _, path := range []string{"/rotate", "/" + before + "/revoke"} {
		if res, _ := post(t, stranger, others.URL+page+path, form("x")); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s by an administrator of another tenant: %s", path, res.Status)
		}
	}
	if strings.Contains(body, "Withdraw at once") || signs(t, keys, "EdDSA") != before {
		t.Error("the keys of another tenant can be changed")
	}
	// Without keys there is no page.
	bare := f.site(t)
	if res, _ := get(t, signIn(t, bare, f.admin), bare.URL+page); res.StatusCode != http.StatusNotFound {
		t.Errorf("without keys: %s", res.Status)
	}
}

// Keys are rotated and withdrawn by the keyboard and without a script; the page can be read in light and dark and on a phone.
func TestSigningKeysInABrowser(t *testing.T) {
	f := emptyFleet(t)
	site, tokens := keySite(t, f, f.tenant)
	f.now = f.now.Add(time.Hour) // the next keys have been published long enough
	ctx := chromium(t)
	_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	must(t, err)
	open(t, ctx, site, f.admin)
	before := signs(t, tokens, "ES256")
	must(t, chromedp.Do(ctx, chromedp.Navigate(site.URL+"/ui/signing-keys"), chromedp.SendKeys(chromedp.CSS("#rotate"), "\n"), chromedp.WaitVisible(chromedp.CSS(".notice.good"))))
	next := signs(t, tokens, "ES256")
	if next == before {
		t.Error("the next key does not sign")
	}
	must(t, chromedp.Do(ctx, chromedp.SendKeys(chromedp.CSS(`[id="reason-`+next+`"]`), "seen in a backup\n"), chromedp.WaitVisible(chromedp.CSS(".notice.good")),
		chromedp.WaitVisible(chromedp.CSS(`[id="key-`+next+`"] .tag`))))
	if text := evaluate[string](t, ctx, `document.getElementById("key-`+next+`").innerText`); !strings.Contains(text, "Revoked") || !strings.Contains(text, "seen in a backup") {
		t.Errorf("the key is shown as %q", text)
	}
	for _, bad := range evaluate[[]string](t, ctx, structure) {
		t.Error(bad)
	}
	for _, scheme := range []string{"light", "dark"} {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		must(t, err)
		for _, bad := range evaluate[[]string](t, ctx, lowContrast) {
			t.Errorf("%s: too little contrast: %s", scheme, bad)
		}
	}
	must(t, chromedp.Do(ctx, chromedp.EmulateViewport(390, 844)))
	if wide := evaluate[float64](t, ctx, `document.documentElement.scrollWidth`); wide > 390 {
		t.Errorf("%v pixels wide on a screen of 390", wide)
	}
}
