package server

import (
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// headOfHealth: load balancers that probe with HEAD get what GET answers, without the body.
func (b *bench) headOfHealth() {
	b.t.Helper()
	for _, path := range []string{"/healthz", "/readyz"} {
		got := b.want(200, "GET", path, "", nil)
		req, err := http.NewRequestWithContext(context.Background(), http.MethodHead, b.http.URL+path, nil)
		if err != nil {
			b.t.Fatal(err)
		}
		resp, err := b.http.Client().Do(req)
		if err != nil {
			b.t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || len(body) != 0 || resp.Header.Get("Content-Type") != got.header.Get("Content-Type") || resp.Header.Get("X-Request-Id") == "" {
			b.t.Errorf("HEAD %s: %d %v %q, %v", path, resp.StatusCode, resp.Header, body, err)
		}
	}
	if a := b.refused("method_not_allowed", "", "DELETE", "/healthz", "", nil); a.header.Get("Allow") != "GET, HEAD" {
		b.t.Errorf("Allow: %q", a.header.Get("Allow"))
	}
}

// revocation reinstalls web-1, so that its agent comes with another AK of the same TPM, and ends tokens.
func revocation(b *bench, m *machine) {
	keys := "/v1/machines/" + m.id + "/attestation-keys"
	old, oldToken, oldID := m.ak, m.token, m.id
	nonce := b.nonce(m)
	late := m.evidence(nonce)
	late["event_log"] = m.log
	pending := b.want(201, "POST", "/v1/enrollments", b.joinToken(), m.enrollment("web-1")) // the same AK, to be proved again

	run[tpm2.FlushContextResponse](b.t, m.device, tpm2.FlushContext{FlushHandle: old.Handle})
	m.ak, m.akPub = m.newKey(21)
	b.refused("identity_conflict", "", "POST", "/v1/enrollments", b.joinToken(), m.enrollment("web-1"))
	events := func() string {
		return b.column("SELECT count(*)::text FROM audit_events WHERE action = 'attestation_key.revoke' AND target = 'machine:" + m.id + "' AND before ->> 'ak_name' <> ''")
	}
	b.want(204, "DELETE", keys, b.admin, nil)
	if events() != "1" {
		b.t.Errorf("%s audit events", events())
	}
	if got := b.want(200, "GET", "/v1/machines/"+m.id, b.admin, nil).json(b.t); got["state"] != "registered" || got["assurance"] != nil || got["last_verdict_id"] == nil {
		b.t.Errorf("the released machine: %v", got)
	}
	before := b.rows()
	b.refused("conflict", "", "DELETE", keys, b.admin, nil)
	b.refused("not_found", "", "DELETE", "/v1/machines/"+nobody+"/attestation-keys", b.admin, nil)
	b.refused("unauthenticated", "", "POST", "/v1/machines/"+m.id+"/challenges", oldToken, nil)
	b.refused("unauthenticated", "", "POST", "/v1/machines/"+m.id+"/evidence", oldToken, late)
	b.refused("unauthenticated", "", "PUT", "/v1/machines/"+m.id+"/event-logs/"+hexSHA256([]byte("x")), oldToken, []byte("x"))
	b.refused("activation_failed", "", "POST", "/v1/enrollments/"+pending.text(b.t, "enrollment_id")+"/activation", "", `{"secret": "AAAA"}`)
	before["audit_events"]++ // of the activation
	b.sameRows(before)

	b.enrol(m, "web-1", b.joinToken())
	if m.id != oldID {
		b.t.Errorf("the machine came back as %s, it was %s", m.id, oldID)
	}
	b.attest(m)
	b.refused("unauthenticated", "", "POST", "/v1/machines/"+m.id+"/challenges", oldToken, nil)
	// Evidence by the old key is not the machine's, whoever posts it.
	if v := b.want(201, "POST", "/v1/machines/"+m.id+"/evidence", m.token, late).json(b.t); v["reason"] != "origin_unverified" {
		b.t.Errorf("evidence of the revoked key was judged %v, %v", v["status"], v["reason"])
	}
	b.attest(m)
	tokens(b, m)
	pages(b, m)
}

// tokens ends a join token and an API token.
func tokens(b *bench, m *machine) {
	made := b.want(201, "POST", "/v1/join-tokens", b.admin, `{"name": "leaked", "uses": 50}`)
	path := "/v1/join-tokens/" + made.text(b.t, "id")
	b.want(204, "DELETE", path, b.admin, nil)
	b.refused("unauthenticated", "", "POST", "/v1/enrollments", made.text(b.t, "token"), m.enrollment("web-1"))
	b.refused("not_found", "", "DELETE", path, b.admin, nil)

	made = b.want(201, "POST", "/v1/api-tokens", b.admin, `{"name": "left", "role": "admin"}`)
	path, token := "/v1/api-tokens/"+made.text(b.t, "id"), made.text(b.t, "token")
	b.want(200, "GET", "/v1/overview", token, nil) // this process remembers it now
	if a := b.refused("conflict", "", "DELETE", path, token, nil); !strings.Contains(string(a.body), "itself") {
		b.t.Errorf("one's own token: %s", a.body)
	}
	b.want(204, "DELETE", path, b.admin, nil)
	b.refused("unauthenticated", "", "GET", "/v1/overview", token, nil)
	b.refused("not_found", "", "DELETE", path, b.admin, nil)
	if n := b.column("SELECT string_agg(action, ' ' ORDER BY action) FROM audit_events WHERE action IN ('api_token.revoke', 'join_token.revoke')"); n != "api_token.revoke join_token.revoke" {
		b.t.Errorf("audit events: %s", n)
	}
}

// pages walks the lists of policies and trust anchors one by one.
func pages(b *bench, m *machine) {
	b.want(200, "PUT", "/v1/policies/a-lab", b.admin, `{"selector": {"scale_set": ["lab"]}}`)
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "second", "purpose": "ek", "certificates_pem": m.rootPEM()})
	for list, want := range map[string]string{"/v1/policies?limit=1": "a-lab default", "/v1/trust-anchors?purpose=ek&limit=1": "second swtpm"} {
		var names []string
		for cursor := ""; len(names) < 10; {
			a := b.want(200, "GET", list+cursor, b.admin, nil).json(b.t)
			items := a["items"].([]any)
			if len(items) != 1 {
				b.t.Errorf("%s: %d items on a page", list, len(items))
			}
			for _, item := range items {
				names = append(names, item.(map[string]any)["name"].(string))
			}
			if a["next_cursor"] == nil {
				break
			}
			cursor = "&cursor=" + a["next_cursor"].(string)
		}
		if got := strings.Join(names, " "); got != want {
			b.t.Errorf("%s: %s, not %s", list, got, want)
		}
	}
}
