package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// TestTenants: made with a token that is shown once and works, renamed, listed; each sees what is its own.
func TestTenants(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	if code, out := once(t, nil, "tenants", "list", "--data-dir", data); code != 1 || !strings.Contains(out, "assayd migrate") {
		t.Errorf("before there is a schema: %d %s", code, out)
	}
	d := start(t, nil, "serve", "--data-dir", data, "--log-level", "warn")
	own := readToken(t, filepath.Join(data, "admin.token"))
	d.stop()
	if strings.Contains(d.output.String(), "login of its own") {
		t.Errorf("the embedded Postgres has a login for the service:\n%s", d.output.String())
	}

	var made struct {
		ID    string `json:"id"`
		Name  string `json:"name"`
		Token string `json:"admin_token"`
	}
	code, out := once(t, nil, "tenants", "create", "--data-dir", data, "-o", "json", "Example Corp")
	if err := json.Unmarshal([]byte(out), &made); code != 0 || err != nil || made.Name != "Example Corp" || !strings.HasPrefix(made.Token, "assay_adm_") {
		t.Fatalf("%d %v %s", code, err, out)
	}
	for _, bad := range [][]string{{"create", "Example Corp"}, {"create", "default"}, {"create", " x"}, {"create", "--id", "nonsense", "y"}, {"create", "--id", made.ID, "z"},
		{"rename", made.ID, "default"}, {"rename", "nonsense", "x"}, {"rename", "01900000-0000-7000-8000-0000000000ee", "x"}} {
		if code, out := once(t, nil, append([]string{"tenants", bad[0], "--data-dir", data}, bad[1:]...)...); code != exitBadCall {
			t.Errorf("%v: %d %s", bad, code, out)
		}
	}
	if code, out := once(t, nil, "tenants", "rename", "--data-dir", data, made.ID, "Example"); code != 0 || !strings.Contains(out, "Example") {
		t.Errorf("%d %s", code, out)
	}
	code, out = once(t, nil, "tenants", "list", "--data-dir", data)
	if lines := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || len(lines) != 2 || !strings.HasSuffix(lines[0], "default") || !strings.HasSuffix(lines[1], "Example") || strings.Contains(out, made.Token) {
		t.Errorf("%d %s", code, out)
	}
	code, out = once(t, nil, "admin-token", "--data-dir", data, "--tenant", made.ID)
	again := strings.TrimSpace(out)
	if code != 0 || !strings.HasPrefix(again, "assay_adm_") {
		t.Errorf("%d %s", code, out)
	}
	if code, out := once(t, nil, "admin-token", "--data-dir", data, "--tenant", "01900000-0000-7000-8000-0000000000ee"); code != 1 || !strings.Contains(out, "not found") {
		t.Errorf("%d %s", code, out)
	}

	d = start(t, nil, "serve", "--data-dir", data, "--log-level", "warn")
	defer d.stop()
	for _, c := range []struct{ path, token, has, hasNot string }{
		{"/v1/api-tokens", own, "bootstrap", "first administrator"},
		{"/v1/api-tokens", made.Token, "first administrator", "bootstrap"},
		{"/v1/api-tokens", again, "first administrator", "bootstrap"},
		{"/v1/policies/default", made.Token, `"require_secure_boot":true`, "not_found"},
		{"/v1/trust-anchors?limit=500", made.Token, `"enabled":true`, `"items":[]`},
	} {
		if status, body := d.get(d.url+c.path, c.token); status != 200 || !strings.Contains(body, c.has) || strings.Contains(body, c.hasNot) {
			t.Errorf("%s: %d %.300s; wanted %q and not %q", c.path, status, body, c.has, c.hasNot)
		}
	}
}
