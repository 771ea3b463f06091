package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/server/token/relying"
)

const formType = "application/x-www-form-urlencoded"

// introspectionForms asks as RFC 7662 (section 2.1) says, with a form; what is no such form is refused.
func introspectionForms(b *bench) {
	const path = "/v1/results/introspect"
	relier := b.relyingToken()
	for _, form := range []url.Values{{"token": {b.result}}, {"token": {b.result}, "token_type_hint": {"access_token"}}} {
		a := b.want(200, "POST", path, relier, form.Encode(), "Content-Type", formType)
		if a.json(b.t)["active"] != true || a.header.Get("Cache-Control") != "no-store" {
			b.t.Errorf("%v %s", a.header, a.body)
		}
	}
	if a := b.want(200, "POST", path, relier, "token="+b.result, "Content-Type", "Application/X-WWW-Form-Urlencoded; charset=UTF-8"); a.json(b.t)["active"] != true {
		b.t.Errorf("with a charset: %s", a.body)
	}
	if a := b.want(200, "POST", path, relier, "token=x.y.z", "Content-Type", formType); a.json(b.t)["active"] != false {
		b.t.Errorf("another token: %s", a.body)
	}
	many := strings.Builder{}
	for i := range 40 {
		fmt.Fprintf(&many, "p%d=x&", i)
	}
	for story, c := range map[string][3]string{
		"nothing":          {"", "invalid_field", "/token"},
		"no token":         {"token_type_hint=x", "invalid_field", "/token"},
		"an empty token":   {"token=", "invalid_field", "/token"},
		"twice":            {"token=a&token=b", "invalid_field", "/token"},
		"another field":    {"token=a&client_secret=b", "unknown_field", "/client_secret"},
		"a broken escape":  {"token=%zz", "invalid_field", ""},
		"no UTF-8":         {"token=%ff", "invalid_field", ""},
		"NUL":              {"token=a%00", "invalid_field", "/token"},
		"long":             {"token=" + strings.Repeat("a", 65537), "invalid_field", "/token"},
		"forty parameters": {many.String(), "invalid_field", ""},
		"JSON":             {`{"token": "x"}`, "invalid_field", ""},
	} {
		b.t.Log(story)
		b.refused(c[1], c[2], "POST", path, relier, c[0], "Content-Type", formType)
	}
	b.refused("malformed_json", "", "POST", path, relier, "token=x", "Content-Type", "application/json")
	b.refused("unsupported_media_type", "", "POST", path, relier, "token=x", "Content-Type", "text/plain")
	b.refused("unsupported_media_type", "", "POST", "/v1/signing-keys/rotate", b.admin, "algorithm=EdDSA", "Content-Type", formType) // nothing else takes forms
}

// Signing keys are of one tenant and sign for all. What another tenant asks about a result of this one tells it nothing, and its
// administrators cannot change the keys.
func TestResultsKeepTenantsApart(t *testing.T) {
	b := newBench(t, nil)
	ctx := t.Context()
	other := uuid.MustParse("01900000-0000-7000-8000-000000000002")
	if err := b.store.EnsureTenant(ctx, other, time.Now()); err != nil {
		t.Fatal(err)
	}
	stranger, err := BootstrapAdminToken(ctx, b.store, other, time.Now(), rand.Reader)
	if err != nil || stranger == "" {
		t.Fatal(err)
	}
	relier := b.want(201, "POST", "/v1/api-tokens", stranger, `{"name": "relying", "role": "relying_party"}`).text(t, "token")
	m := newMachine(t, "sb-on-1")
	enrolment(b, m)
	b.attest(m)
	result := b.newResult(m, nil)
	if b.introspected(result)["active"] != true {
		t.Fatal("the result is not active for its own tenant")
	}
	forged := result[:len(result)-4] + "AAAA"
	want := b.want(200, "POST", "/v1/results/introspect", relier, map[string]any{"token": forged})
	for name, bearer := range map[string]string{"relying party": relier, "administrator": stranger} {
		got := b.want(200, "POST", "/v1/results/introspect", bearer, map[string]any{"token": result})
		if string(got.body) != string(want.body) || got.json(t)["active"] != false {
			t.Errorf("another tenant's %s is told %s, of a token that nobody signed %s", name, got.body, want.body)
		}
	}
	b.refused("not_found", "", "POST", "/v1/machines/"+m.id+"/results", stranger, nil)
	keys := b.want(200, "GET", "/v1/signing-keys", stranger, nil)
	kid := b.published()[0].ID
	b.refused("forbidden", "", "POST", "/v1/signing-keys/rotate", stranger, `{}`)
	b.refused("forbidden", "", "POST", "/v1/signing-keys/"+kid+"/revoke", stranger, `{"reason": "x"}`)
	if after := b.want(200, "GET", "/v1/signing-keys", b.admin, nil); string(after.body) != string(keys.body) {
		t.Errorf("the keys were changed: %s", after.body)
	}

	// Judged again for real: the result ends with the verdict that it was about, also when the machine is as good as before afterwards.
	wrong := b.want(201, "POST", "/v1/baselines", b.admin, `{"name": "wrong", "selector": {"machine_ids": ["`+m.id+`"]}, "reference_values": {"claims": {"secure_boot": false}}}`).text(t, "id")
	if b.introspected(result)["active"] != true {
		t.Error("nothing was judged again yet")
	}
	b.want(202, "POST", "/v1/reappraisals", b.admin, `{"comment": "an audit", "selector": {"machine_ids": ["`+m.id+`"]}}`)
	b.runReappraisals()
	b.inactive("judged again", result, "superseded", "contraindicated")
	again := b.newResult(m, nil)
	b.want(200, "POST", "/v1/baselines/"+wrong+"/versions/1/retire", b.admin, `{"release": true, "comment": "out of the way"}`)
	b.runReappraisals()
	for story, token := range map[string]string{"of the verdict between": again, "of the first verdict, which was as good": result} {
		if got := b.introspected(token); got["active"] != false || got["inactive_reason"] != "superseded" {
			t.Errorf("judged a second time, a result %s: %v", story, got)
		}
	}
}

// Two replicas rotate and withdraw at once, each by its own API. Each result that one of them signs verifies by a key set of the other,
// and once it is quiet both publish the same keys, one of each algorithm signs, and what was withdrawn is in neither.
func TestTwoReplicasChangeKeys(t *testing.T) {
	b := newBench(t, nil)
	two := b.replica()
	m := newMachine(t, "sb-on-1")
	enrolment(b, m)
	b.attest(m)
	b.exec(`UPDATE service_keys SET created_at = created_at - interval '1 hour' WHERE purpose LIKE 'result_signing%'`)
	var withdrawn sync.Map
	var all sync.WaitGroup
	for _, r := range []*bench{b, two} {
		all.Go(func() {
			for range 4 {
				if r.call("POST", "/v1/signing-keys/rotate", r.admin, `{}`).status != 200 {
					t.Error("a replica could not rotate")
				}
				result := r.call("POST", "/v1/machines/"+m.id+"/results", m.token, `{"algorithm": "ES256"}`) // whose keys are not withdrawn
				keys, err := relying.ParseKeySet(r.call("GET", "/.well-known/jwks.json", "", nil).body)
				if err == nil {
					_, err = relying.Verify(result.text(t, "token"), keys)
				}
				if err != nil {
					t.Errorf("a result does not verify by its own replica's key set: %v", err)
				}
				for _, item := range r.call("GET", "/v1/signing-keys", r.admin, nil).json(t)["items"].([]any) {
					k := item.(map[string]any)
					if k["state"] != "active" || k["algorithm"] != "EdDSA" {
						continue
					}
					kid := k["key_id"].(string)
					if a := r.call("POST", "/v1/signing-keys/"+kid+"/revoke", r.admin, `{"reason": "test"}`); a.status != 200 && a.status != 409 { // 409: the other was first
						t.Errorf("revoke: %d %s", a.status, a.body)
					}
					withdrawn.Store(kid, true)
				}
			}
		})
	}
	all.Wait()
	for _, r := range []*bench{b, two} {
		if err := r.server.token.Refresh(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	first := b.want(200, "GET", "/.well-known/jwks.json", "", nil)
	second := two.want(200, "GET", "/.well-known/jwks.json", "", nil)
	if string(first.body) != string(second.body) || first.header.Get("ETag") != second.header.Get("ETag") {
		t.Errorf("the replicas publish %s and %s", first.body, second.body)
	}
	n := 0
	withdrawn.Range(func(kid, _ any) bool {
		n++
		if strings.Contains(string(first.body), kid.(string)) {
			t.Errorf("the withdrawn key %s is published", kid)
		}
		return true
	})
	if n == 0 {
		t.Error("nothing was withdrawn")
	}
	for _, algorithm := range token.Algorithms() {
		one := b.newResult(m, `{"algorithm": "`+algorithm+`"}`)
		if _, err := relying.Verify(one, two.published()); err != nil {
			t.Errorf("%s: a result of one replica does not verify by the keys of the other: %v", algorithm, err)
		}
		if two.introspected(one)["active"] != true {
			t.Errorf("%s: the other replica does not know it", algorithm)
		}
	}
	keys, err := b.server.token.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	active := map[string]int{}
	for _, k := range keys {
		if k.State == token.Active {
			active[k.Algorithm]++
		}
	}
	if len(active) != 2 || active["EdDSA"] != 1 || active["ES256"] != 1 {
		t.Errorf("keys that sign: %v", active)
	}
}
