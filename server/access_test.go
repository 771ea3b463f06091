package server

import (
	"maps"
	"strings"
)

func bindingBody(provider string, changes map[string]any) map[string]any {
	body := map[string]any{"name": "security", "provider_id": provider, "role": "responder", "subject": map[string]any{"in": []string{"alice"}}}
	for name, v := range changes {
		if body[name] = v; v == nil {
			delete(body, name)
		}
	}
	return body
}

// access drives the operations about roles and who has them.
func access(b *bench, m *machine) {
	const bindings = "/v1/role-bindings"
	roles := map[string]int{}
	for _, x := range b.want(200, "GET", "/v1/roles", b.admin, nil).json(b.t)["items"].([]any) {
		r := x.(map[string]any)
		roles[r["role"].(string)] = len(r["permissions"].([]any))
	}
	want := map[string]int{}
	for _, r := range personal {
		want[string(r)] = len(permissionsOf[r])
	}
	if !maps.Equal(roles, want) {
		b.t.Errorf("roles: %v", roles)
	}
	body := func(changes map[string]any) map[string]any { return bindingBody(b.ci.provider, changes) }
	one := b.want(201, "POST", bindings, b.admin, body(map[string]any{"selector": map[string]any{"scale_set": []string{"web"}}})).text(b.t, "id")
	two := b.want(201, "POST", bindings, b.admin, body(map[string]any{"name": "two"})).text(b.t, "id")
	b.refused("conflict", "", "POST", bindings, b.admin, body(nil))
	b.refused("conflict", "", "PUT", bindings+"/"+two, b.admin, body(nil))
	b.refused("not_found", "", "POST", bindings, b.admin, bindingBody(nobody, map[string]any{"name": "x"}))
	b.refused("invalid_field", "/selector", "POST", bindings, b.admin, body(map[string]any{"name": "x", "selector": map[string]any{}}))
	b.refused("invalid_field", "/conditions", "POST", bindings, b.admin, body(map[string]any{"name": "x", "subject": map[string]any{"pattern": ".*"}}))
	b.refused("invalid_field", "/conditions", "POST", bindings, b.admin, body(map[string]any{"name": "x", "subject": nil}))
	b.refused("invalid_field", "/role", "POST", bindings, b.admin, body(map[string]any{"name": "x", "role": "root"}))
	b.refused("invalid_field", "/subject", "POST", bindings, b.admin, body(map[string]any{"name": "x", "subject": map[string]any{"in": []string{"a"}, "pattern": "a"}}))
	changed := b.want(200, "PUT", bindings+"/"+two, b.admin, body(map[string]any{"name": "two", "role": "viewer", "conditions": []any{map[string]any{"claim": "groups", "in": []string{"sec"}}}})).json(b.t)
	if got := b.want(200, "GET", bindings+"/"+two, b.admin, nil).json(b.t); got["role"] != "viewer" || got["selector"] != nil || len(got["conditions"].([]any)) != 1 || changed["updated_at"] != got["updated_at"] {
		b.t.Errorf("binding: %v", got)
	}
	if items := b.want(200, "GET", bindings+"?q=sec&provider_id="+b.ci.provider, b.admin, nil).json(b.t)["items"].([]any); len(items) != 1 {
		b.t.Errorf("%d bindings", len(items))
	}
	b.refused("conflict", "", "DELETE", "/v1/identity-providers/"+b.ci.provider, b.admin, nil)
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		var with any
		if method == "PUT" {
			with = body(map[string]any{"name": "x"})
		}
		b.refused("not_found", "", method, bindings+"/"+nobody, b.admin, with)
	}
	b.want(204, "DELETE", bindings+"/"+one, b.admin, nil)
	b.want(204, "DELETE", bindings+"/"+two, b.admin, nil)

	// What a body could reach beyond a scope.
	scoped := b.newToken(`{"name": "web only", "role": "admin", "selector": {"scale_set": ["web"]}}`)
	const values = `"reference_values": {"claims": {"secure_boot": true}}`
	for _, selector := range []string{"", `"selector": {"scale_set": ["web", "db"]}, `, `"selector": {"labels": {"a": "b"}}, `, `"selector": {"machine_ids": ["` + nobody + `"]}, `} {
		b.refused("scope_forbids", "", "POST", "/v1/baselines", scoped, `{"name": "wide", `+selector+values+`}`)
		b.refused("scope_forbids", "", "POST", "/v1/baselines/dry-run", scoped, `{`+selector+values+`}`)
		if selector != "" {
			b.refused("scope_forbids", "", "POST", "/v1/machines/"+m.id+"/baseline", scoped, `{`+strings.TrimSuffix(selector, ", ")+`}`)
		}
		b.refused("scope_forbids", "", "POST", "/v1/api-tokens", scoped, `{"name": "wide", `+selector+`"role": "viewer"}`)
	}
	b.refused("scope_forbids", "", "POST", importPath+"?name=wide&allow_unsigned=true", scoped, []byte("x"))
}
