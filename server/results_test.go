package server

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/verifier/ear"
)

// exec changes the database behind the service's back.
func (b *bench) exec(sql string, args ...any) {
	b.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if tag, err := conn.Exec(ctx, sql, args...); err != nil || tag.RowsAffected() == 0 {
		b.t.Fatalf("%s: %d rows, %v", sql, tag.RowsAffected(), err)
	}
}

// published are the keys that a relying party fetches.
func (b *bench) published() []relying.Key {
	b.t.Helper()
	keys, err := relying.ParseKeySet(b.want(200, "GET", "/.well-known/jwks.json", "", nil).body)
	if err != nil {
		b.t.Fatal(err)
	}
	return keys
}

// verified are the claims of a result, as a relying party reads them.
func (b *bench) verified(result string) relying.Claims {
	b.t.Helper()
	t, err := relying.Verify(result, b.published())
	if err != nil {
		b.t.Fatal(err)
	}
	claims, err := relying.ReadClaims(t)
	if err != nil {
		b.t.Fatal(err)
	}
	return claims
}

func (b *bench) newResult(m *machine, body any) string {
	b.t.Helper()
	return b.want(201, "POST", "/v1/machines/"+m.id+"/results", m.token, body).text(b.t, "token")
}

// introspected asks as a relying party does.
func (b *bench) introspected(result string) map[string]any {
	b.t.Helper()
	return b.want(200, "POST", "/v1/results/introspect", b.relyingToken(), map[string]any{"token": result}).json(b.t)
}

func (b *bench) inactive(story, result, reason string, current any) {
	b.t.Helper()
	got := b.introspected(result)
	if got["active"] != false || got["inactive_reason"] != reason || got["current_status"] != current {
		b.t.Errorf("%s: %v", story, got)
	}
	for name := range got {
		if name != "active" && name != "inactive_reason" && name != "current_status" {
			b.t.Errorf("%s: an inactive result tells its %s", story, name)
		}
	}
}

// results are what relying parties get, and how long it holds.
func results(b *bench, m *machine) {
	path := "/v1/machines/" + m.id + "/results"
	b.attest(m)
	plain := b.verified(b.newResult(m, nil))
	if plain.Profile != ear.Profile || plain.Subject != m.id || len(plain.Audience) != 0 || plain.Nonce != "" {
		b.t.Errorf("claims %s", plain.Raw)
	}
	reader := b.readerToken()
	made := b.want(201, "POST", path, reader, `{"audience": "https://relying.example", "nonce": "q3IvsnkD2zqDPi9sRZfJpA", "algorithm": "ES256", "profile": "`+ear.ProfileIETF+`"}`)
	b.result = made.text(b.t, "token")
	claims := b.verified(b.result)
	now := time.Now()
	for _, c := range claims.Check(relying.Expect{Now: now, Audience: "https://relying.example", Nonce: "q3IvsnkD2zqDPi9sRZfJpA"}) {
		if c.Status == "fail" {
			b.t.Errorf("%s: %s", c.Name, c.Detail)
		}
	}
	machine, err := claims.Machine()
	if err != nil || machine.Status != "affirming" || machine.Status != made.text(b.t, "status") || claims.VerdictID != made.text(b.t, "verdict_id") || claims.ID == plain.ID || claims.Profile != ear.ProfileIETF {
		b.t.Errorf("claims %s, %v", claims.Raw, err)
	}
	if ends := time.Unix(*claims.Expires, 0); ends.After(now.Add(301*time.Second)) || made.text(b.t, "expires_at") != ends.UTC().Format(time.RFC3339) {
		b.t.Errorf("valid until %s, told %s, although evidence is due in five minutes", ends, made.text(b.t, "expires_at"))
	}
	active := b.introspected(b.result)
	if active["active"] != true || active["sub"] != m.id || active["aud"] != "https://relying.example" || active["eat_nonce"] != "q3IvsnkD2zqDPi9sRZfJpA" || active["status"] != "affirming" || active["token_type"] != "eat+jwt" || active["submods"] == nil {
		b.t.Errorf("introspection: %v", active)
	}
	resultsRefused(b, m)
	introspectionForms(b)
	resultsEnd(b, m)
	signingKeys(b, m)
	b.discovery()
	if strings.Contains(b.logs.String(), strings.Split(b.result, ".")[2]) {
		b.t.Error("a result is in the logs")
	}
}

func resultsRefused(b *bench, m *machine) {
	path := "/v1/machines/" + m.id + "/results"
	for pointer, body := range map[string]string{
		"/algorithm": `{"algorithm": "none"}`, "/nonce": `{"nonce": "short"}`, "/audience": `{"audience": "two words"}`, "/profile": `{"profile": "tag:example.com,2026:mine"}`,
	} {
		b.refused("invalid_field", pointer, "POST", path, m.token, body)
	}
	for _, body := range []string{`{"status": "affirming"}`, `{"lifetime_seconds": 1000000}`} { // nothing asks for a better result
		b.refused("unknown_field", "", "POST", path, m.token, body)
	}
	b.refused("not_found", "", "POST", "/v1/machines/"+nobody+"/results", b.admin, nil)
	b.refused("forbidden", "", "POST", "/v1/machines/"+nobody+"/results", m.token, nil)
	parts := strings.Split(b.result, ".")
	for story, text := range map[string]string{
		"garbage": "garbage", "two parts": "a.b", "alg none": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".",
		"another payload": parts[0] + "." + strings.Split(b.newResult(m, nil), ".")[1] + "." + parts[2], "a bearer token of ours": m.token,
	} {
		b.inactive(story, text, "unknown", nil)
	}
}

// resultsEnd is how a result that is valid by its signature stops holding.
func resultsEnd(b *bench, m *machine) {
	path := "/v1/machines/" + m.id + "/results"
	b.exec(`UPDATE machine_attestation_state SET next_due_at = now() - interval '1 second' WHERE machine_id = $1`, m.id)
	b.refused("verdict_stale", "", "POST", path, m.token, nil)
	b.inactive("evidence is overdue", b.result, "stale", "affirming")
	b.attest(m)
	if b.introspected(b.result)["active"] != true {
		b.t.Error("the machine attests again, with the same outcome, and the result stays inactive")
	}
	verdict := b.verified(b.result).VerdictID
	b.exec(`UPDATE attestation_keys SET state = 'revoked' WHERE machine_id = $1 AND state = 'active'`, m.id)
	b.inactive("the attestation key was revoked", b.result, "attestation_key_ended", "affirming")
	b.refused("verdict_stale", "", "POST", path, b.admin, nil)
	b.refused("unauthenticated", "", "POST", path, m.token, nil)
	b.exec(`UPDATE attestation_keys SET state = 'active' WHERE machine_id = $1 AND state = 'revoked'`, m.id)
	b.exec(`UPDATE verdicts SET superseded_by = $2 WHERE verdict_id = $1`, verdict, nobody)
	b.inactive("judged again", b.result, "superseded", "affirming")
	b.exec(`UPDATE verdicts SET superseded_by = NULL WHERE verdict_id = $1`, verdict)
	// A replayed quote is a failure of the machine.
	e := m.evidence(b.nonce(m))
	e["event_log"] = m.log
	b.want(201, "POST", "/v1/machines/"+m.id+"/evidence", m.token, e)
	b.want(201, "POST", "/v1/machines/"+m.id+"/evidence", m.token, e)
	b.inactive("the machine fails", b.result, "replaced", "contraindicated")
	failing := b.want(201, "POST", path, m.token, nil)
	if failing.text(b.t, "status") != "contraindicated" {
		b.t.Errorf("a result of a failing machine: %s", failing.body)
	}
	b.onlySound(m)
	b.attest(m)
	b.inactive("it was affirming before, and is again", failing.text(b.t, "token"), "replaced", "affirming")
	b.result = b.newResult(m, nil)
}

// onlySound: a failing machine gets no result that a consumer of identities would take, which compares iss, aud, sub and exp.
func (b *bench) onlySound(m *machine) {
	path := "/v1/machines/" + m.id + "/results"
	const audience = `"audience": "https://relying.example"`
	b.refused("not_affirming", "", "POST", path, m.token, `{`+audience+`}`)
	b.refused("not_affirming", "", "POST", path, b.readerToken(), `{`+audience+`, "allow_warning": true}`)
	claims := b.verified(b.newResult(m, `{`+audience+`, "any_status": true}`))
	if machine, err := claims.Machine(); err != nil || machine.Status != "contraindicated" || len(claims.Audience) != 1 {
		b.t.Errorf("a result of any status: %s, %v", claims.Raw, err)
	}
}

// signingKeys rotates and withdraws the keys.
func signingKeys(b *bench, m *machine) {
	states := func(a answer) (out []string) {
		for _, item := range a.json(b.t)["items"].([]any) {
			k := item.(map[string]any)
			if k["algorithm"] == "EdDSA" {
				out = append(out, k["state"].(string))
			}
		}
		return out
	}
	list := b.want(200, "GET", "/v1/signing-keys", b.readerToken(), nil)
	if got := strings.Join(states(list), " "); got != "next active" || strings.Contains(string(list.body), `"d"`) {
		b.t.Errorf("keys %s: %s", got, list.body)
	}
	before := b.published()
	b.exec(`UPDATE service_keys SET created_at = created_at - interval '1 hour' WHERE purpose LIKE 'result_signing%' AND generation = 2`) // published long enough
	rotated := b.want(200, "POST", "/v1/signing-keys/rotate", b.admin, `{"algorithm": "EdDSA"}`)
	if got := strings.Join(states(rotated), " "); got != "next active retiring" {
		b.t.Errorf("rotated: %s", got)
	}
	again := b.want(200, "POST", "/v1/signing-keys/rotate", b.admin, nil)
	if got := strings.Join(states(again), " "); got != "next next active retiring" {
		b.t.Errorf("rotated twice in a moment: %s", got)
	}
	after := b.newResult(m, nil)
	if _, err := relying.Verify(after, before); err != nil {
		b.t.Errorf("the key set of before the rotation does not verify a result after it: %v", err)
	}
	b.verified(b.result)
	if b.introspected(b.result)["active"] != true || b.introspected(after)["active"] != true {
		b.t.Error("a result ended with the rotation")
	}
	// Whoever has the set spares its transfer.
	set := b.want(200, "GET", "/.well-known/jwks.json", "", nil)
	b.want(http.StatusNotModified, "GET", "/.well-known/jwks.json", "", nil, "If-None-Match", set.header.Get("ETag"))

	parts, err := relying.Split(after)
	if err != nil {
		b.t.Fatal(err)
	}
	revoke := "/v1/signing-keys/" + parts.Header.KeyID + "/revoke"
	revoked := b.want(200, "POST", revoke, b.admin, `{"reason": "a laptop was stolen"}`)
	if got := strings.Join(states(revoked), " "); got != "next active revoked retiring" {
		b.t.Errorf("revoked: %s", got)
	}
	b.inactive("a result of the revoked key", after, "key_revoked", nil)
	if _, err := relying.Verify(after, b.published()); err != relying.ErrUnknownKey {
		b.t.Errorf("the revoked key is published: %v", err)
	}
	if b.introspected(b.result)["active"] != true {
		b.t.Error("a result of another key ended")
	}
	b.refused("key_ended", "", "POST", revoke, b.admin, `{"reason": "again"}`)
	b.refused("not_found", "", "POST", "/v1/signing-keys/"+strings.Repeat("A", 43)+"/revoke", b.admin, `{"reason": "x"}`)
	b.result = b.newResult(m, nil)
	b.verified(b.result)
	if text := b.column(`SELECT string_agg(action || ' ' || after::text, ' ') FROM audit_events WHERE action LIKE 'signing_key.%'`); !strings.Contains(text, "a laptop was stolen") || !strings.Contains(text, "signing_key.rotate") {
		b.t.Errorf("audit: %s", text)
	}
}

// discovery is what a consumer of workload identities reads.
func (b *bench) discovery() {
	b.t.Helper()
	b.refused("not_found", "", "GET", "/.well-known/openid-configuration", "", nil)
	b.server.cfg.Issuer = "https://assay.example"
	defer func() { b.server.cfg.Issuer = "" }()
	a := b.want(200, "GET", "/.well-known/openid-configuration", "", nil)
	d := a.json(b.t)
	if d["issuer"] != "https://assay.example" || d["jwks_uri"] != "https://assay.example/.well-known/jwks.json" || !strings.Contains(a.header.Get("Cache-Control"), "max-age") {
		b.t.Errorf("discovery: %v %s", a.header, a.body)
	}
	// OpenID Connect Discovery 1.0, section 3: what is required of an issuer that nobody signs in to.
	for name, want := range map[string]string{"response_types_supported": "id_token", "subject_types_supported": "public", "id_token_signing_alg_values_supported": "EdDSA"} {
		if list, _ := d[name].([]any); len(list) == 0 || list[0] != want {
			b.t.Errorf("discovery: %s is %v", name, d[name])
		}
	}
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/jwks.json"} {
		tag := b.want(200, "GET", path, "", nil).header.Get("ETag")
		for _, match := range []string{tag, "W/" + tag, `"another", ` + tag, "*"} {
			again := b.want(http.StatusNotModified, "GET", path, "", nil, "If-None-Match", match)
			if len(again.body) != 0 || again.header.Get("ETag") != tag || !strings.Contains(again.header.Get("Cache-Control"), "max-age=300") {
				b.t.Errorf("%s, %s: %v %s", path, match, again.header, again.body)
			}
		}
		b.want(200, "GET", path, "", nil, "If-None-Match", `"another"`)
	}
}

// The token of a relying party opens no page.
func TestRelyingPartyIsNoReader(t *testing.T) {
	b := newBench(t, nil)
	token := b.relyingToken()
	if !strings.HasPrefix(token, prefixes[roleRelyingParty]) {
		t.Errorf("token %.12s…", token)
	}
	b.refused("forbidden", "", "GET", "/v1/machines", token, nil)
	b.refused("forbidden", "", "GET", "/v1/signing-keys", token, nil)
	b.inactive("whatever it asks", "x.y.z", "unknown", nil)
}
