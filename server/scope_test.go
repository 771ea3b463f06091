package server

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// fixture is a fleet of two scale sets. All that the API can show is of web-1 in the set "web"; db-1 is of "db".
type fixture struct {
	m                 *machine
	other, otherToken string
	paths             map[string]string // by parameter
	secrets           []string          // what nobody outside of web may see: ids and names of what is of it
}

// fill puts the fixture's ids into the path of an operation; filled is the path with ids that nobody has.
func (f *fixture) fill(template, filled string) string {
	parts, out := strings.Split(template, "/"), strings.Split(filled, "/")
	for i, p := range parts {
		if id, known := f.paths[strings.Trim(p, "{}")]; known && strings.HasPrefix(p, "{") {
			out[i] = id
		}
	}
	return strings.Join(out, "/")
}

func newFixture(b *bench) *fixture {
	t := b.t
	t.Helper()
	f := &fixture{m: newMachine(t, "sb-on-1"), paths: map[string]string{}}
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "swtpm", "purpose": "ek", "certificates_pem": f.m.rootPEM()})
	b.enrol(f.m, "web-1", b.joinToken())
	b.ci = newCI(b, time.Now)
	f.paths["machine_id"] = f.m.id
	// Declared as it is, web-1 has a recommendation; so has db-1.
	for _, set := range []string{"web", "db"} {
		b.want(200, "POST", "/v1/machines", b.admin, `{"name": "`+set+`-2", "external_id": "ext-`+set+`", "os": "linux", "platform": "azure", "security_type": "confidential_snp", "scale_set": "`+set+`",
			"declared": {"secure_boot_supported": true, "secure_boot": false, "vtpm": true, "agent_installed": false}}`)
	}
	first := func(path string, fits func(map[string]any) bool) map[string]any {
		t.Helper()
		for _, item := range b.want(200, "GET", path, b.admin, nil).json(t)["items"].([]any) {
			if x := item.(map[string]any); fits == nil || fits(x) {
				return x
			}
		}
		t.Fatalf("%s has nothing that fits", path)
		return nil
	}
	id := func(path string, fits func(map[string]any) bool) string {
		t.Helper()
		return first(path, fits)["id"].(string)
	}
	f.other = id("/v1/machines?name=db-2", nil)
	f.otherToken = b.want(201, "POST", "/v1/machines/"+f.other+"/attestation-keys", b.admin, map[string]any{"ak_public": f.m.otherKey(9)}).text(t, "machine_token")
	b.attest(f.m)
	f.paths["baseline_id"] = b.want(201, "POST", "/v1/machines/"+f.m.id+"/baseline", b.admin, `{"name": "golden of web"}`).text(t, "id")
	b.want(201, "POST", "/v1/baselines", b.admin, `{"name": "for all", "state": "draft", "reference_values": {"claims": {"secure_boot": true}}}`)
	f.m.extend(4, make([]byte, 32))
	b.attest(f.m)
	if _, err := b.store.CountIncidents(context.Background(), store.DefaultTenant, time.Now()); err != nil {
		t.Fatal(err)
	}
	f.paths["verdict_id"] = id("/v1/machines/"+f.m.id+"/verdicts", nil)
	f.paths["alert_id"] = id("/v1/alerts?code=attestation_failed", nil)
	f.paths["incident_id"] = id("/v1/incidents?code=attestation_failed", nil)
	web := first("/v1/machines?name=web-2", nil)["id"].(string)
	ofWeb := func(x map[string]any) bool { return x["machine_id"] == web }
	f.paths["recommendation_id"] = id("/v1/recommendations", ofWeb)
	b.exec(`INSERT INTO fleet_conflicts (tenant_id, conflict_id, code, kind, machine_id, other_id, subject, details, first_seen_at, last_seen_at)
		VALUES ($1, $2, 'identity_conflict', 'log_of_other', $2, $3, 'x', $4, now(), now())`, store.DefaultTenant, f.m.id, web,
		json.RawMessage(`{"kind": "log_of_other", "machines": [{"id": "`+f.m.id+`", "name": "web-1"}, {"id": "`+web+`", "name": "web-2"}], "observed": {}}`))
	f.secrets = []string{f.m.id, web, "web-1", "web-2", f.paths["verdict_id"], f.paths["alert_id"], f.paths["incident_id"], f.paths["recommendation_id"], f.paths["baseline_id"], "golden of web", "for all"}
	return f
}

// seen are the fixture's secrets that an answer shows.
func (f *fixture) seen(a answer) []string {
	var out []string
	for _, secret := range f.secrets {
		if strings.Contains(string(a.body), secret) {
			out = append(out, secret)
		}
	}
	return out
}

// emptyOutside are filtered operations that show none of the secrets to anybody, with the reason.
var emptyOutside = map[string]string{
	"GET /v1/overview":       "it holds numbers, which TestNumbersWithinAScope looks at",
	"GET /v1/catalog":        "it is the same but for its counts, which TestNumbersWithinAScope looks at",
	"GET /v1/catalog/{code}": "likewise",
	"GET /v1/api-tokens":     "tokens are no machine's, and TestTokensWithinAScope looks at them",
}

// TestListsWithinAScope asks each list, and its exports, with whatever would widen it, from inside, from outside, and from
// outside with the cursor and the filters of somebody inside.
func TestListsWithinAScope(t *testing.T) {
	b := newBench(t, nil)
	f := newFixture(b)
	inside := b.newToken(`{"name": "in", "role": "admin", "selector": {"scale_set": ["web"]}}`)
	outside := b.newToken(`{"name": "out", "role": "admin", "selector": {"scale_set": ["db"]}}`)
	nowhere := b.newToken(`{"name": "label", "role": "viewer", "selector": {"labels": {"scale_set": "web"}, "platform": ["azure"]}}`)
	asked := 0
	for _, o := range operations(t, f.m) {
		path := strings.SplitN(o.name, " ", 2)[1]
		if o.scope != scopeFiltered || o.write() || emptyOutside[o.name] != "" {
			continue
		}
		asked++
		queries := []string{""}
		for _, p := range o.op.Parameters {
			switch p.Value.Name {
			case "machine_id":
				queries = append(queries, "?machine_id="+f.m.id)
			case "scale_set":
				queries = append(queries, "?scale_set=web")
			case "sort":
				for _, sort := range p.Value.Schema.Value.Enum {
					queries = append(queries, "?sort="+sort.(string))
				}
			}
		}
		for _, query := range queries {
			all := b.want(200, "GET", path+query, b.admin, nil)
			if len(f.seen(all)) == 0 {
				t.Errorf("%s%s shows nothing to an administrator, so that it proves nothing", path, query)
			}
			if len(f.seen(b.want(200, "GET", path+query, inside, nil))) == 0 {
				t.Errorf("%s%s shows nothing to somebody inside", path, query)
			}
			for _, secret := range []string{outside, nowhere} {
				for _, accept := range []string{"application/json", mediaNDJSON, mediaCSV} {
					if got := f.seen(b.want(200, "GET", path+query, secret, nil, "Accept", accept)); len(got) > 0 {
						t.Errorf("%s%s as %s shows %q to somebody outside", path, query, accept, got)
					}
				}
			}
		}
		page := b.want(200, "GET", path+"?limit=1", inside, nil).json(t)
		if cursor, more := page["next_cursor"].(string); more {
			b.refused("invalid_cursor", "cursor", "GET", path+"?limit=1&cursor="+cursor, outside, nil)
		}
	}
	if asked < 8 {
		t.Errorf("only %d lists were asked", asked)
	}
}

// TestItemsOutsideAScopeDoNotExist compares, byte by byte, the answers about what is outside and about what nobody has.
func TestItemsOutsideAScopeDoNotExist(t *testing.T) {
	b := newBench(t, nil)
	f := newFixture(b)
	inside := b.newToken(`{"name": "in", "role": "admin", "selector": {"machine_ids": ["` + f.m.id + `"], "scale_set": ["web"]}}`)
	web := b.newToken(`{"name": "in", "role": "admin", "selector": {"scale_set": ["web"]}}`)
	outside := b.newToken(`{"name": "out", "role": "admin", "selector": {"scale_set": ["db"]}}`)
	before := b.rows()
	asked := 0
	for _, o := range operations(t, f.m) {
		template := strings.SplitN(o.name, " ", 2)[1]
		if scopedParameter[o.scope] == "" || !roleAdmin.may(o.needs) {
			continue
		}
		asked++
		real := f.fill(template, o.path)
		unknown := strings.Replace(real, f.paths[scopedParameter[o.scope]], nobody, 1)
		instance := func(a answer) string { return strings.Replace(string(a.body), a.header.Get("X-Request-Id"), "", 1) }
		theirs := b.refused("not_found", "", o.method, real, outside, o.body, "X-Request-Id", "same")
		nobodys := b.refused("not_found", "", o.method, unknown, outside, o.body, "X-Request-Id", "same")
		if instance(theirs) != instance(nobodys) {
			t.Errorf("%s: %s\n%s", o.name, theirs.body, nobodys.body)
		}
		keyed := b.refused("not_found", "", o.method, real, outside, o.body, "X-Request-Id", "same")
		if len(keyed.header) != len(nobodys.header) {
			t.Errorf("%s: %v and %v", o.name, keyed.header, nobodys.header)
		}
		if got := decide(b, &operation{name: o.name, method: o.method, path: real, body: o.body}, web); got != "let in" && o.scope != scopeBaseline {
			t.Errorf("%s is %s inside", o.name, got)
		}
		if o.scope == scopeMachine {
			if got := decide(b, &operation{name: o.name, method: o.method, path: real, body: o.body}, inside); got != "let in" {
				t.Errorf("%s is %s for the machine itself", o.name, got)
			}
		}
	}
	if asked < 30 {
		t.Errorf("only %d operations were asked", asked)
	}
	b.sameRows(before)
}

// TestNumbersWithinAScope counts what is counted for the whole fleet, from within.
func TestNumbersWithinAScope(t *testing.T) {
	b := newBench(t, nil)
	newFixture(b)
	numbers := func(selector string) map[string]any {
		token := b.newToken(`{"name": "n", "role": "viewer"` + selector + `}`)
		o := b.want(200, "GET", "/v1/overview", token, nil).json(t)
		c := b.want(200, "GET", "/v1/catalog/attestation_failed?counts=true", token, nil).json(t)
		return map[string]any{"machines": o["machines"], "alerts": o["open_alerts_by_code"], "verdicts": o["last_day"].(map[string]any)["verdicts_by_status"],
			"opened": o["last_day"].(map[string]any)["alerts_opened"], "open": c["open"].(map[string]any)["alerts"], "oldest": o["oldest_attestation_machine_id"]}
	}
	all, web, db := numbers(""), numbers(`, "selector": {"scale_set": ["web"]}`), numbers(`, "selector": {"scale_set": ["db"]}`)
	if all["machines"] != 3.0 || web["machines"] != 2.0 || db["machines"] != 1.0 {
		t.Errorf("machines: %v, %v, %v", all["machines"], web["machines"], db["machines"])
	}
	for _, name := range []string{"alerts", "verdicts", "opened", "open", "oldest"} {
		if a, w := mustJSON(t, all[name]), mustJSON(t, web[name]); a != w || name == "alerts" && a == "{}" {
			t.Errorf("%s: %s, and %s within web, where all of them are", name, a, w)
		}
		if d := mustJSON(t, db[name]); d != "{}" && d != "0" && d != "null" {
			t.Errorf("%s within db: %s", name, d)
		}
	}
}

// TestTokensWithinAScope lets a limited administrator make, see and end tokens of its own limits, and none beyond.
func TestTokensWithinAScope(t *testing.T) {
	b := newBench(t, nil)
	const path = "/v1/api-tokens"
	web := b.newToken(`{"name": "web admin", "role": "admin", "selector": {"scale_set": ["web", "app"]}}`)
	db := b.want(201, "POST", path, b.admin, `{"name": "db", "role": "viewer", "selector": {"scale_set": ["db"]}}`).text(t, "id")
	whole := b.want(201, "POST", path, b.admin, `{"name": "whole", "role": "viewer"}`).text(t, "id")
	narrow := b.want(201, "POST", path, web, `{"name": "narrow", "role": "admin", "selector": {"scale_set": ["app"], "labels": {"env": "prod"}}}`)
	items := b.want(200, "GET", path, web, nil).json(t)["items"].([]any)
	if len(items) != 2 { // its own, and what it made
		t.Errorf("it sees %v", items)
	}
	b.refused("not_found", "", "DELETE", path+"/"+db, web, nil)
	b.refused("not_found", "", "DELETE", path+"/"+whole, web, nil)
	b.refused("not_found", "", "DELETE", path+"/"+nobody, web, nil)
	b.want(204, "DELETE", path+"/"+narrow.text(t, "id"), web, nil)
	b.refused("unauthenticated", "", "GET", "/v1/machines", narrow.text(t, "token"), nil)
}

// TestNobodyGivesMoreThanTheyHave asks for more of each kind.
func TestNobodyGivesMoreThanTheyHave(t *testing.T) {
	b := newBench(t, nil)
	web := store.Scope{verifier.Selector{ScaleSet: []string{"web"}}}
	give := func(grants []grant, given role, scope store.Scope) error {
		p := principal{kind: kindPerson, tenant: store.DefaultTenant, id: "x", grants: grants}
		p.scope = p.scopeFor(permTokensWrite)
		return b.server.mayGive(withPrincipal(context.Background(), p), given, &scope)
	}
	for _, x := range []struct {
		story  string
		grants []grant
		given  role
		scope  store.Scope
		allows bool
	}{
		{"all of all", []grant{{role: roleAdmin}}, roleAdmin, nil, true},
		{"a part of all", []grant{{role: roleAdmin}}, roleOperator, web, true},
		{"another role", []grant{{role: roleResponder}}, roleOperator, nil, false},
		{"a role above", []grant{{role: roleViewer}}, roleResponder, nil, false},
		{"wider than the scope", []grant{{role: roleAdmin, scope: web}}, roleViewer, nil, false},
		{"elsewhere", []grant{{role: roleAdmin, scope: web}}, roleViewer, store.Scope{verifier.Selector{ScaleSet: []string{"db"}}}, false},
		{"within", []grant{{role: roleAdmin, scope: web}}, roleAdmin, store.Scope{verifier.Selector{ScaleSet: []string{"web"}, Platform: []string{"azure"}}}, true},
		// The role of one binding is not to be had in the scope of another.
		{"mixed", []grant{{role: roleAdmin, scope: web}, {role: roleViewer}}, roleAdmin, nil, false},
		{"not mixed", []grant{{role: roleAdmin, scope: web}, {role: roleViewer}}, roleViewer, nil, true},
	} {
		if err := give(x.grants, x.given, x.scope); (err == nil) != x.allows {
			t.Errorf("%s: %v", x.story, err)
		}
	}
}

// TestAnAnswerWithoutAskingForTheScopeIsNotSent is the second fence.
func TestAnAnswerWithoutAskingForTheScopeIsNotSent(t *testing.T) {
	for _, asked := range []bool{false, true} {
		w, failed := httptest.NewRecorder(), false
		f := &scopeFence{ResponseWriter: w, asked: &asked, fail: func(w http.ResponseWriter) { failed = true; w.WriteHeader(500) }}
		_, _ = f.Write([]byte("secret"))
		_, _ = f.Write([]byte("more"))
		if failed == asked || strings.Contains(w.Body.String(), "secret") != asked || (w.Code == 500) == asked {
			t.Errorf("asked %v: %d %s", asked, w.Code, w.Body)
		}
	}
}

// TestAuthorsDraftAndApproversMakeThemCount is the life of a version between the two.
func TestAuthorsDraftAndApproversMakeThemCount(t *testing.T) {
	b := newBench(t, nil)
	author := b.newToken(`{"name": "author", "role": "baseline_author"}`)
	approver := b.newToken(`{"name": "approver", "role": "baseline_approver"}`)
	const values = `"reference_values": {"claims": {"secure_boot": true}}`
	b.refused("forbidden", "", "POST", "/v1/baselines", author, `{"name": "x", "state": "active", `+values+`}`)
	v := b.want(201, "POST", "/v1/baselines", author, `{"name": "x", `+values+`}`)
	if v.text(t, "state") != "draft" {
		t.Errorf("an author's version begins as %s", v.text(t, "state"))
	}
	versions := "/v1/baselines/" + v.text(t, "id") + "/versions"
	b.refused("forbidden", "", "POST", versions, author, `{"state": "active", `+values+`}`)
	b.refused("forbidden", "", "POST", versions+"/1/promote", author, `{}`)
	b.refused("forbidden", "", "POST", versions, approver, `{`+values+`}`)
	if got := b.want(200, "POST", versions+"/1/promote", approver, `{}`).json(t); got["state"] != "active" {
		t.Errorf("%v", got)
	}
	b.refused("forbidden", "", "POST", versions+"/1/retire", author, `{}`)
	b.want(200, "POST", versions+"/1/retire", approver, `{}`)
}
