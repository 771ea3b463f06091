package ui_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// TestWhatEachRoleIsOffered: a page shows exactly the buttons that the role's permissions allow, and a request without the
// button says what is missing.
func TestWhatEachRoleIsOffered(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	alert := site.URL + "/ui/alerts/" + f.alerts["web-3"].ID.String()
	for _, role := range []store.Role{store.RoleViewer, store.RoleResponder, store.RoleBaselineAuthor, store.RoleBaselineApprover, store.RoleOperator} {
		c := signIn(t, site, f.token(t, string(role), role, f.now.Add(-time.Hour)))
		_, page := get(t, c, alert)
		token := csrf(t, page)
		if !strings.Contains(page, strings.ReplaceAll(string(role), "_", " ")) && !strings.Contains(strings.ToLower(page), strings.ReplaceAll(string(role), "_", " ")) {
			t.Errorf("%s: the page does not name the role", role)
		}
		for action, needs := range map[string]string{"comments": "alerts:write", "refuse": "alerts:refuse", "in-progress": "alerts:write"} {
			if offered := strings.Contains(page, "/"+action+`"`); offered && !server.RoleMay(role, needs) {
				t.Errorf("%s is offered %s", role, action)
			}
		}
		res, body := post(t, c, alert+"/in-progress", url.Values{"csrf": {token}})
		switch may := server.RoleMay(role, "alerts:write"); {
		case may && res.StatusCode != http.StatusSeeOther:
			t.Errorf("%s: %s", role, res.Status)
		case !may && (res.StatusCode != http.StatusForbidden || !strings.Contains(body, "alerts:write")):
			t.Errorf("%s is refused with %s and not told why", role, res.Status)
		}
		for path, needs := range map[string]string{"/ui/suppressions": "suppression_rules:write", "/ui/signing-keys/rotate": "signing_keys:write",
			"/ui/baselines/" + f.alerts["web-3"].ID.String() + "/versions/1/promote": "baselines:promote", "/ui/baselines/" + f.alerts["web-3"].ID.String() + "/versions/1/retire": "baselines:approve"} {
			res, body := post(t, c, site.URL+path, url.Values{"csrf": {token}})
			if refused := res.StatusCode == http.StatusForbidden && strings.Contains(body, needs); refused == server.RoleMay(role, needs) {
				t.Errorf("%s, %s: %s", role, path, res.Status)
			}
		}
	}
}

// TestATokenForSomeMachinesDoesNotOpenThePages: they show the whole fleet.
func TestATokenForSomeMachinesDoesNotOpenThePages(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	secret := f.scopedToken(t, "web only", store.RoleAdmin, store.Scope{verifier.Selector{ScaleSet: []string{"web"}}}, f.now.Add(-time.Hour))
	if res, body := post(t, browser(t), site.URL+"/ui/sign-in", url.Values{"token": {secret}}); res.StatusCode != http.StatusForbidden || !strings.Contains(body, "some machines only") {
		t.Errorf("%s", res.Status)
	}
}
