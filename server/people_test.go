package server

import (
	"strings"
	"testing"
	"time"
)

// TestPeopleByIdentityTokens gives roles by what an issuer says of people, and takes them away.
func TestPeopleByIdentityTokens(t *testing.T) {
	b, c, clock := newPipelineBench(t)
	bind := func(name string, role role, changes map[string]any) string {
		changes["name"], changes["role"] = name, role
		return b.want(201, "POST", "/v1/role-bindings", b.admin, bindingBody(c.provider, changes)).text(t, "id")
	}
	condition := func(claim string, values ...string) []any {
		return []any{map[string]any{"claim": claim, "in": values}}
	}
	const tokens = "/v1/api-tokens"
	token := func(subject string, claims map[string]any) string {
		all := map[string]any{"sub": subject, "repository": nil, "ref": nil}
		for k, v := range claims {
			all[k] = v
		}
		return c.token(all)
	}
	alice := token("alice", nil)
	b.refused("forbidden", "", "GET", "/v1/machines", alice, nil) // nobody yet
	id := bind("alice", roleAdmin, map[string]any{})
	b.want(200, "GET", "/v1/machines", alice, nil)
	made := b.want(201, "POST", tokens, alice, `{"name": "mine", "role": "admin"}`)
	who := "person:" + c.issuer.URL() + "|alice"
	if got := made.text(t, "owner"); got != who {
		t.Errorf("a person's token is of %s", got)
	}
	if got := b.column(`SELECT string_agg(actor_kind || ':' || actor_id, ' ') FROM audit_events WHERE action = 'api_token.create' AND actor_kind = 'person'`); got != who {
		t.Errorf("in the audit record: %s", got)
	}
	b.refused("forbidden", "/owner", "POST", tokens, alice, `{"name": "x", "role": "viewer", "owner": "person:https://issuer.example|bob"}`)
	b.refused("forbidden", "/owner", "POST", tokens, made.text(t, "token"), `{"name": "x", "role": "viewer", "owner": "person:https://issuer.example|bob"}`)
	b.refused("invalid_field", "/owner", "POST", tokens, b.admin, `{"name": "x", "role": "viewer", "owner": "bob"}`)
	twoPersons(b, alice, made.text(t, "token"), who)

	// Groups, and addresses that the issuer has verified.
	bind("groups", roleViewer, map[string]any{"subject": nil, "conditions": condition("groups", "sec")})
	bind("mail", roleViewer, map[string]any{"subject": nil, "conditions": condition("email", "dora@example.com")})
	bind("mail by pointer", roleViewer, map[string]any{"subject": nil, "conditions": condition("/email", "emil@example.com")})
	for _, x := range []struct {
		claims map[string]any
		in     bool
	}{
		{map[string]any{"groups": []string{"dev", "sec"}}, true},
		{map[string]any{"groups": []string{"dev"}}, false},
		{map[string]any{"groups": "sec"}, true},
		{map[string]any{"email": "dora@example.com", "email_verified": true}, true},
		{map[string]any{"email": "dora@example.com", "email_verified": "true"}, true},
		{map[string]any{"email": "dora@example.com", "email_verified": false}, false},
		{map[string]any{"email": "dora@example.com", "email_verified": []bool{true, false}}, false},
		{map[string]any{"email": "dora@example.com"}, false},
		{map[string]any{"email": "emil@example.com"}, false},
		{map[string]any{"email": "emil@example.com", "email_verified": true}, true},
	} {
		a := b.call("GET", "/v1/machines", token("somebody", x.claims), nil)
		if (a.status == 200) != x.in || !x.in && a.status != 403 {
			t.Errorf("%v: %d %s", x.claims, a.status, a.body)
		}
	}

	// The union of bindings, each in its own scope.
	bind("carol reads all", roleViewer, map[string]any{"subject": map[string]any{"in": []string{"carol"}}})
	bind("carol answers for web", roleResponder, map[string]any{"subject": map[string]any{"in": []string{"carol"}}, "selector": map[string]any{"scale_set": []string{"web"}}})
	carol := token("carol", nil)
	b.want(200, "GET", "/v1/policies", carol, nil)                                                                      // by the first, in all of the tenant
	b.refused("scope_forbids", "", "POST", "/v1/suppression-rules", carol, fittingBodies["createSuppressionRule"])      // by the second, in web
	b.refused("forbidden", "", "PUT", "/v1/policies/default", carol, `{}`)                                              // by neither
	b.refused("not_found", "", "POST", "/v1/alerts/"+nobody+"/comments", carol, `{"comment": "x"}`)                     // as of one outside
	b.refused("token_audience", "", "GET", "/v1/machines", token("carol", map[string]any{"aud": "somebody else"}), nil) // made out to another
	b.refused("token_lifetime", "", "GET", "/v1/machines", token("carol", map[string]any{"exp": clock.Now().Add(30 * 24 * time.Hour).Unix()}), nil)

	// What is taken away is gone at once; a token ends by itself.
	b.want(204, "DELETE", "/v1/role-bindings/"+id, b.admin, nil)
	b.refused("forbidden", "", "GET", "/v1/machines", alice, nil)
	b.want(200, "GET", "/v1/policies", carol, nil)
	clock.pass(6 * time.Minute)
	b.refused("token_expired", "", "GET", "/v1/policies", carol, nil)
}

// twoPersons makes sure that a person and the tokens of that person are one.
func twoPersons(b *bench, person, token, who string) {
	b.want(200, "PUT", "/v1/policies/default", b.admin, `{"two_person_approval": true}`)
	v := b.want(201, "POST", "/v1/baselines", person, `{"name": "two", "reference_values": {"claims": {"secure_boot": true}}}`)
	if v.text(b.t, "created_by") != who || v.text(b.t, "state") != "draft" {
		b.t.Errorf("%s", v.body)
	}
	version := "/v1/baselines/" + v.text(b.t, "id") + "/versions/1"
	b.refused("second_person_required", "", "POST", version+"/promote", token, `{}`)
	b.refused("second_person_required", "", "POST", version+"/approve", token, `{}`)
	own := b.newToken(`{"name": "hers", "role": "baseline_approver", "owner": "` + who + `"}`)
	b.refused("second_person_required", "", "POST", version+"/promote", own, `{}`)
	b.want(200, "POST", version+"/promote", b.newToken(`{"name": "other", "role": "baseline_approver"}`), `{}`)
	b.want(200, "PUT", "/v1/policies/default", b.admin, `{"two_person_approval": false}`)
}

// TestTokensLiveAsLongAsTheServiceAllows sets the longest life.
func TestTokensLiveAsLongAsTheServiceAllows(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxTokenLifetime = time.Hour })
	const path = "/v1/api-tokens"
	a := b.want(201, "POST", path, b.admin, `{"name": "x", "role": "viewer"}`)
	end, err := time.Parse(time.RFC3339, a.text(t, "expires_at"))
	if err != nil || time.Until(end) > time.Hour || time.Until(end) < 55*time.Minute {
		t.Errorf("it ends at %s, %v", end, err)
	}
	b.refused("invalid_field", "/expires_in_seconds", "POST", path, b.admin, `{"name": "x", "role": "viewer", "expires_in_seconds": 3601}`)
	b.want(201, "POST", path, b.admin, `{"name": "x", "role": "viewer", "expires_in_seconds": 3600}`)
	if !strings.HasPrefix(a.text(t, "token"), "assay_rdr_") {
		t.Errorf("%s", a.text(t, "token")[:10])
	}
}

// TestTokensWithAScopeAreNothingToAReleaseThatKnowsOfNone: it looks tokens up by their role, and a role with a scope has
// another word there.
func TestTokensWithAScopeAreNothingToAReleaseThatKnowsOfNone(t *testing.T) {
	b := newBench(t, nil)
	b.newToken(`{"name": "web", "role": "admin", "selector": {"scale_set": ["web"]}}`)
	if got := b.column(`SELECT string_agg(role, ' ' ORDER BY role) FROM api_tokens`); got != "admin scoped:admin" {
		t.Errorf("roles: %s", got)
	}
	if n := len(b.want(200, "GET", "/v1/api-tokens?role=admin", b.admin, nil).json(t)["items"].([]any)); n != 2 {
		t.Errorf("%d tokens of administrators", n)
	}
}
