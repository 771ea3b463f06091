package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

const nobody = "01900000-0000-7000-8000-0000000000ff"

// TestContract tells the whole story over HTTP, each answer checked against the contract, and ends by
// making sure that every operation was driven and every documented problem code was reached. Every operation is also sent as
// every kind of principal, anonymous callers among them (CVE-2026-1709: administrative routes that were open to them).
func TestContract(t *testing.T) {
	b := newBench(t, nil)
	m := newMachine(t, "sb-on-1")
	steps := []struct {
		name string
		step func(*bench, *machine)
	}{
		{"public", publicPages},
		{"enrolment", enrolment},
		{"enrolment refused", enrolmentRefused},
		{"evidence", evidenceAccepted},
		{"evidence refused", evidenceRefused},
		{"fleet", fleetConflicts},
		{"results", results},
		{"inventory", inventory},
		{"baselines", baselines},
		{"trials", trials},
		{"reappraisals", reappraisals},
		{"approvals", approvals},
		{"pipelines", pipelines},
		{"access", access},
		{"notifications", notifications},
		{"findings", findings},
		{"suppression", suppression},
		{"administration", administration},
		{"anchors", anchors},
		{"imports", imports},
		{"collateral", collateral},
		{"revocation", revocation},
		{"policies", policies},
		{"retention", retention},
		{"known-bad", knownBad},
		{"audit", auditing},
		{"lists", lists},
		{"malformed", malformed},
		{"idempotency", idempotency},
		{"principals", principals},
		{"no secret in the record", recordWithoutSecrets},
		{"overload", overload},
		{"limits", limited},
		{"broken", broken}, // last: it closes the database
	}
	for _, s := range steps {
		ok := t.Run(s.name, func(t *testing.T) {
			b.t, m.t = t, t
			s.step(b, m)
		})
		if !ok {
			t.Errorf("%s failed; what follows builds on it", s.name)
		}
	}
	b.t = t
	complete(b)
}

func publicPages(b *bench, _ *machine) {
	b.want(200, "GET", "/healthz", "", nil)
	b.want(200, "GET", "/readyz", "", nil)
	keys := b.want(200, "GET", "/.well-known/jwks.json", "", nil)
	if !strings.Contains(keys.header.Get("Cache-Control"), "max-age") || !bytes.Contains(keys.body, []byte(`"OKP"`)) || bytes.Contains(keys.body, []byte(`"d"`)) {
		b.t.Errorf("jwks: %v %s", keys.header, keys.body)
	}
	b.want(200, "GET", "/openapi.yaml", "", nil)
	page := b.want(200, "GET", "/docs", "", nil)
	if !strings.Contains(page.header.Get("Content-Security-Policy"), "default-src 'none'") || bytes.Contains(page.body, []byte("http")) {
		b.t.Errorf("docs: %v %s", page.header, page.body)
	}
	for _, path := range []string{"/docs/redoc.standalone.js", "/docs/init.js", "/docs/problems/invalid_field"} {
		if a := b.want(200, "GET", path, "", nil); len(a.body) < 100 {
			b.t.Errorf("%s: %s", path, a.body)
		}
	}
	b.headOfHealth()
	b.want(302, "GET", "/", "", nil)
	b.refused("not_found", "", "GET", "/docs/problems/nonsense", "", nil)
	b.refused("not_found", "", "GET", "/ui/", "", nil)
	b.refused("not_found", "", "GET", "/v2", "", nil)
	if a := b.refused("method_not_allowed", "", "DELETE", "/v1/machines", b.admin, nil); a.header.Get("Allow") != "GET, POST" {
		b.t.Errorf("Allow: %q", a.header.Get("Allow"))
	}
	if a := b.want(200, "GET", "/healthz", "", nil, "X-Request-Id", "probe-17"); a.header.Get("X-Request-Id") != "probe-17" {
		b.t.Errorf("the request id was not taken: %v", a.header)
	}
	if a := b.want(200, "GET", "/healthz", "", nil, "X-Request-Id", "forged line\tx"); strings.Contains(a.header.Get("X-Request-Id"), "forged") {
		b.t.Errorf("a bad request id was taken: %v", a.header)
	}
}

func enrolment(b *bench, m *machine) {
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "swtpm", "purpose": "ek", "certificates_pem": m.rootPEM()})
	b.enrol(m, "web-1", b.joinToken())
}

func enrolmentRefused(b *bench, m *machine) {
	join := b.joinToken()
	post := func(change func(map[string]any)) map[string]any {
		e := m.enrollment("web-2")
		change(e)
		return e
	}
	before := b.rows()
	b.refused("ak_refused", "", "POST", "/v1/enrollments", join, post(func(e map[string]any) { e["ak_public"] = m.ekPub }))
	b.refused("ek_untrusted", "", "POST", "/v1/enrollments", join, post(func(e map[string]any) { delete(e, "ek_certificate_chain") }))
	report := func(b []byte) map[string]any {
		return post(func(e map[string]any) {
			e["platform_evidence"] = map[string]any{"type": "sev_snp", "report": base64.StdEncoding.EncodeToString(b)}
		})
	}
	b.refused("platform_evidence_refused", "/platform_evidence", "POST", "/v1/enrollments", join, report([]byte("short")))
	later := make([]byte, 1184)
	later[0] = 99 // of a version that nobody has published
	b.refused("platform_evidence_unsupported", "/platform_evidence", "POST", "/v1/enrollments", join, report(later))
	b.refused("unknown_field", "/ak", "POST", "/v1/enrollments", join, post(func(e map[string]any) { e["ak"] = "AAAA" }))
	b.refused("invalid_field", "/machine/name", "POST", "/v1/enrollments", join,
		post(func(e map[string]any) { e["machine"].(map[string]any)["name"] = "a\u0000b" }))
	b.refused("invalid_field", "/ak_public", "POST", "/v1/enrollments", join, post(func(e map[string]any) { e["ak_public"] = "AAA" }))
	other := m.otherKey(2)
	e := m.enrollment("web-1")
	e["ak_public"] = other
	b.sameRows(before)
	b.refused("identity_conflict", "", "POST", "/v1/enrollments", join, e) // which goes into the audit record

	again := b.want(201, "POST", "/v1/enrollments", join, m.enrollment("web-1"))
	path := "/v1/enrollments/" + again.text(b.t, "enrollment_id") + "/activation"
	b.refused("activation_failed", "", "POST", path, "", `{"secret": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`)
	b.refused("activation_used", "", "POST", path, "", `{"secret": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`)
	b.refused("not_found", "", "POST", "/v1/enrollments/"+nobody+"/activation", "", `{"secret": "AAAA"}`)
	b.refused("invalid_field", "/secret", "POST", path, "", `{"secret": "!"}`)
}

func evidenceAccepted(b *bench, m *machine) {
	sum := sha256.Sum256(m.log)
	name := hex.EncodeToString(sum[:])
	packed := zstdOf(b.t, m.log)
	put := func(status int, body []byte, encoding string) {
		b.t.Helper()
		b.want(status, "PUT", "/v1/machines/"+m.id+"/event-logs/"+name, m.token, body, "Content-Encoding", encoding)
	}
	put(204, packed, "zstd")
	put(204, packed, "zstd")
	put(204, gzipOf(b.t, m.log), "gzip")
	put(204, m.log, "identity")
	e := m.evidence(b.nonce(m))
	e["event_log_digest"] = "sha256:" + name
	a := b.want(201, "POST", "/v1/machines/"+m.id+"/evidence", m.token, e)
	v := a.json(b.t)
	if v["result_token"] == nil || v["next_challenge"] == nil || v["next_attestation_after_seconds"] == nil {
		b.t.Errorf("the answer lacks what an agent needs: %s", a.body)
	}
	if checks, _ := v["checks"].([]any); len(checks) != 15 {
		b.t.Errorf("%d checks", len(checks))
	}
	// The same quote again is a verdict about the machine, not an error.
	again := b.want(201, "POST", "/v1/machines/"+m.id+"/evidence", m.token, e).json(b.t)
	if again["status"] != "contraindicated" || again["reason"] != "origin_unverified" {
		b.t.Errorf("a replay was judged %v, %v", again["status"], again["reason"])
	}
	b.attest(m)
	b.want(201, "POST", "/v1/machines/"+m.id+"/challenges", m.token, `{}`)

	id := v["id"].(string)
	b.want(200, "GET", "/v1/verdicts/"+id, b.admin, nil)
	log := b.want(200, "GET", "/v1/verdicts/"+id+"/event-log", b.admin, nil)
	var events []map[string]any
	if err := json.Unmarshal(log.body, &events); err != nil || len(events) < 20 {
		b.t.Errorf("decoded log: %v, %d events", err, len(events))
	}
	list := b.want(200, "GET", "/v1/machines/"+m.id+"/verdicts?limit=1&status=contraindicated&reason=origin_unverified&since=2020-01-01T00:00:00Z&until=2099-01-01T00:00:00Z", b.admin, nil)
	if items := list.json(b.t)["items"].([]any); len(items) != 1 {
		b.t.Errorf("%d verdicts", len(items))
	}
	b.refused("not_found", "", "GET", "/v1/verdicts/"+nobody, b.admin, nil)
	b.refused("not_found", "", "GET", "/v1/verdicts/"+nobody+"/event-log", b.admin, nil)
	b.refused("not_found", "", "GET", "/v1/machines/"+nobody+"/verdicts", b.admin, nil)
}

func evidenceRefused(b *bench, m *machine) {
	path := "/v1/machines/" + m.id + "/evidence"
	good := m.evidence(b.nonce(m))
	good["event_log"] = m.log
	change := func(f func(map[string]any)) string {
		var e map[string]any
		if err := json.Unmarshal([]byte(mustJSON(b.t, good)), &e); err != nil {
			b.t.Fatal(err)
		}
		f(e)
		return mustJSON(b.t, e)
	}
	digest := "/v1/machines/" + m.id + "/event-logs/" + strings.Repeat("ab", 32)
	before := b.rows()
	for _, c := range []struct{ code, pointer, body string }{
		{"malformed_json", "", `{`},
		{"malformed_json", "/quotes", `{"quotes": [], "quotes": []}`},
		{"malformed_json", "", `{} {}`},
		{"invalid_field", "", strings.Repeat("[", 10000)},
		{"invalid_field", "/quotes/0", `{"quotes": ` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`},
		{"unknown_field", "/nonce", `{"nonce": "AAAA"}`},
		{"invalid_field", "/quotes", change(func(e map[string]any) { e["quotes"] = []any{} })},
		{"invalid_field", "/quotes/0/message", change(func(e map[string]any) { e["quotes"].([]any)[0].(map[string]any)["message"] = "!!!" })},
		{"invalid_field", "/pcrs/sha256/24", change(func(e map[string]any) {
			e["pcrs"].(map[string]any)["sha256"].(map[string]any)["24"] = strings.Repeat("0", 64)
		})},
		{"invalid_field", "/pcrs/sha256/0", change(func(e map[string]any) { e["pcrs"].(map[string]any)["sha256"].(map[string]any)["0"] = "abcd" })},
		{"invalid_field", "/event_log_digest", change(func(e map[string]any) { delete(e, "event_log"); e["event_log_digest"] = "sha256:ab" })},
		{"platform_evidence_required", "/platform_evidence_digest", change(func(e map[string]any) { e["platform_evidence_digest"] = "sha256:" + strings.Repeat("ab", 32) })},
		{"event_log_required", "", change(func(e map[string]any) {
			delete(e, "event_log")
			e["event_log_digest"] = "sha256:" + strings.Repeat("ab", 32)
		})},
	} {
		b.refused(c.code, c.pointer, "POST", path, m.token, c.body)
	}
	b.refused("unsupported_media_type", "", "POST", path, m.token, `{}`, "Content-Type", "text/plain")
	b.refused("malformed_protobuf", "", "POST", path, m.token, []byte{0xff}, "Content-Type", "application/x-protobuf")
	b.refused("unsupported_encoding", "", "POST", path, m.token, `{}`, "Content-Encoding", "gzip")
	b.refused("digest_mismatch", "", "PUT", digest, m.token, []byte("not the log"))
	b.refused("malformed_encoding", "", "PUT", digest, m.token, []byte("not zstd"), "Content-Encoding", "zstd")
	b.refused("malformed_encoding", "", "PUT", digest, m.token, []byte("not gzip"), "Content-Encoding", "gzip")
	b.refused("unsupported_encoding", "", "PUT", digest, m.token, []byte("x"), "Content-Encoding", "br")
	b.refused("unsupported_media_type", "", "PUT", digest, m.token, `{}`)
	b.refused("invalid_field", "sha256", "PUT", "/v1/machines/"+m.id+"/event-logs/ABCD", m.token, []byte("x"))
	// Compression bombs, by both encodings.
	bomb := make([]byte, 7<<20)
	b.refused("body_too_large", "", "PUT", digest, m.token, zstdOf(b.t, bomb), "Content-Encoding", "zstd")
	b.refused("body_too_large", "", "PUT", digest, m.token, gzipOf(b.t, bomb), "Content-Encoding", "gzip")
	b.sameRows(before)

	// A nonce that was never ours leaves an audit event and nothing else.
	before = b.rows()
	b.refused("unknown_challenge", "", "POST", path, m.token, m.evidence(make([]byte, 32)))
	before["audit_events"]++
	b.sameRows(before)
}

func inventory(b *bench, m *machine) {
	one := b.want(200, "POST", "/v1/machines", b.admin, `{"name": "db-1", "external_id": "ext-db-1", "os": "windows", "platform": "azure",
		"security_type": "confidential_snp", "scale_set": "db", "labels": {"env": "prod"},
		"declared": {"secure_boot_supported": true, "secure_boot": true, "vtpm": true, "agent_installed": false}}`)
	b.want(200, "POST", "/v1/machines/batch", b.admin, `{"items": [{"name": "db-2", "os": "linux"}, {"name": "db-3", "os": "linux",
		"security_type": "confidential_tdx", "declared": {"secure_boot_supported": true, "secure_boot": false, "vtpm": null}}]}`)
	b.want(200, "GET", "/v1/machines/"+one.text(b.t, "id"), b.admin, nil)
	b.refused("not_found", "", "GET", "/v1/machines/"+nobody, b.admin, nil)
	for query, n := range map[string]int{
		"": 4, "?name=db-2": 1, "?scale_set=web": 1, "?platform=azure": 1, "?os=linux": 3, "?security_type=confidential_snp": 2,
		"?label=env%3Dprod": 2, "?label=env": 2, "?seen_before=2020-01-01T00:00:00Z": 3, "?limit=500": 4,
		"?stale=false": 4, "?stale=true": 0, "?silence_alert_id=" + nobody: 0,
	} {
		a := b.want(200, "GET", "/v1/machines"+query, b.admin, nil)
		if items := a.json(b.t)["items"].([]any); len(items) != n {
			b.t.Errorf("%s: %d machines, not %d", query, len(items), n)
		}
	}
	b.refused("invalid_field", "stale", "GET", "/v1/machines?stale=perhaps", b.admin, nil)
	b.refused("invalid_field", "silence_alert_id", "GET", "/v1/machines?silence_alert_id=x", b.admin, nil)
	// Pages walk the list without a repetition.
	seen := map[string]bool{}
	for cursor := ""; ; {
		a := b.want(200, "GET", "/v1/machines?limit=1"+cursor, b.admin, nil).json(b.t)
		for _, item := range a["items"].([]any) {
			seen[item.(map[string]any)["id"].(string)] = true
		}
		if a["next_cursor"] == nil {
			break
		}
		cursor = "&cursor=" + a["next_cursor"].(string)
	}
	if len(seen) != 4 {
		b.t.Errorf("pages showed %d machines", len(seen))
	}
	b.refused("no_verdict", "", "POST", "/v1/machines/"+one.text(b.t, "id")+"/results", b.admin, nil)
	b.refused("no_genuine_verdict", "", "POST", "/v1/machines/"+one.text(b.t, "id")+"/baseline", b.admin, nil)
	b.refused("not_found", "", "POST", "/v1/machines/"+nobody+"/baseline", b.admin, nil)
	public := m.otherKey(3)
	vouched := b.want(201, "POST", "/v1/machines/"+one.text(b.t, "id")+"/attestation-keys", b.admin, map[string]any{"ak_public": public, "comment": "legacy client"})
	b.want(201, "POST", "/v1/machines/"+one.text(b.t, "id")+"/challenges", vouched.text(b.t, "machine_token"), nil)
	b.refused("identity_conflict", "", "POST", "/v1/machines/"+m.id+"/attestation-keys", b.admin, map[string]any{"ak_public": public})
	b.refused("ak_refused", "", "POST", "/v1/machines/"+m.id+"/attestation-keys", b.admin, map[string]any{"ak_public": m.ekPub})
	b.refused("not_found", "", "POST", "/v1/machines/"+nobody+"/attestation-keys", b.admin, map[string]any{"ak_public": public})
}

func baselines(b *bench, m *machine) {
	captured := b.want(201, "POST", "/v1/machines/"+m.id+"/baseline", b.admin, nil)
	if values := captured.json(b.t)["reference_values"].(map[string]any); len(values) == 0 {
		b.t.Error("the captured baseline has no reference values")
	}
	body := `{"name": "golden", "selector": {"scale_set": ["db"], "labels": {"env": "prod"}, "platform": ["azure"], "machine_ids": ["` + m.id + `"]},
		"reference_values": {"pcrs": {"sha256": {"7": ["` + strings.Repeat("ab", 32) + `"]}}, "claims": {"secure_boot": true}},
		"provenance": {"repository": "github.com/example/images", "commit": "9fceb02", "build_url": "https://ci.example/1"}}`
	id := b.want(201, "POST", "/v1/baselines", b.admin, body).text(b.t, "id")
	b.refused("conflict", "", "POST", "/v1/baselines", b.admin, body)
	b.want(200, "GET", "/v1/baselines", b.admin, nil)
	b.want(200, "GET", "/v1/baselines/"+id, b.admin, nil)
	next := `{"reference_values": {"pcrs": {"sha256": {"7": ["` + strings.Repeat("cd", 32) + `"]}}}, "active_until": null}`
	b.want(201, "POST", "/v1/baselines/"+id+"/versions", b.admin, next)
	versions := "/v1/baselines/" + id + "/versions"
	if items := b.want(200, "GET", versions, b.admin, nil).json(b.t)["items"].([]any); len(items) != 2 {
		b.t.Errorf("%d versions", len(items))
	}
	if v := b.want(200, "GET", versions+"/1", b.admin, nil).json(b.t); v["state"] != "active" || v["reference_values"] == nil || v["provenance"].(map[string]any)["commit"] != "9fceb02" {
		b.t.Errorf("version 1: %v", v)
	}
	b.refused("not_found", "", "GET", versions+"/7", b.admin, nil)
	b.want(200, "POST", versions+"/2/promote", b.admin, `{"grace_until": "2099-01-01T00:00:00Z"}`)
	if v := b.want(200, "GET", versions+"/1", b.admin, nil).json(b.t); v["state"] != "grace" || v["active_until"] != "2099-01-01T00:00:00Z" {
		b.t.Errorf("version 1 after promotion: %v", v)
	}
	b.refused("version_changed", "", "POST", versions+"/2/promote", b.admin, nil)
	b.want(200, "POST", versions+"/1/retire", b.admin, nil)
	b.refused("version_changed", "", "POST", versions+"/1/retire", b.admin, nil)
	b.refused("not_found", "", "POST", versions+"/9/retire", b.admin, nil)
	b.refused("not_found", "", "POST", versions+"/9/promote", b.admin, nil)
	b.refused("not_found", "", "GET", "/v1/baselines/"+nobody+"/versions", b.admin, nil)
	if a := b.refused("conflict", "", "POST", versions, b.admin, strings.Replace(next, "{", `{"state": "active", `, 1)); !bytes.Contains(a.body, []byte("another version of the baseline is active")) {
		b.t.Errorf("the refusal does not say what is in the way: %s", a.body)
	}
	b.refused("conflict", "/name", "POST", "/v1/machines/"+m.id+"/baseline", b.admin, `{"name": "golden"}`)
	b.refused("invalid_field", "/grace_until", "POST", versions+"/2/promote", b.admin, `{"grace_until": "2001-01-01T00:00:00Z"}`)
	b.refused("invalid_field", "/reference_values/claims/kernel_cmdline/pattern", "POST", versions, b.admin, `{"reference_values": {"claims": {"kernel_cmdline": {"pattern": "("}}}}`)
	b.refused("not_found", "", "GET", "/v1/baselines/"+nobody, b.admin, nil)
	b.refused("not_found", "", "POST", "/v1/baselines/"+nobody+"/versions", b.admin, next)
}

// catalog reads the catalogue whole and filtered, and what is open under an entry.
func catalog(b *bench) {
	all := b.want(200, "GET", "/v1/catalog", b.admin, nil).json(b.t)["items"].([]any)
	if len(all) != len(finding.Rules) {
		b.t.Errorf("%d entries of %d rules", len(all), len(finding.Rules))
	}
	some := b.want(200, "GET", "/v1/catalog?kind=recommendation&severity=low&area=secure_boot&os=windows&platform=azure&counts=true", b.admin, nil).json(b.t)["items"].([]any)
	if len(some) == 0 || len(some) >= len(all) {
		b.t.Errorf("filtered: %d entries", len(some))
	}
	for _, x := range some {
		e := x.(map[string]any)
		if steps := e["remediation_steps"].(map[string]any); e["open"] == nil || steps["linux"] != nil || steps["gcp"] != nil {
			b.t.Errorf("%v", e)
		}
	}
	entry := b.want(200, "GET", "/v1/catalog/attestation_failed?counts=true", b.admin, nil).json(b.t)
	if open := entry["open"].(map[string]any); open["alerts"] != float64(1) || open["recommendations"] != float64(0) {
		b.t.Errorf("open: %v", open)
	}
	entry = b.want(200, "GET", "/v1/catalog/secure_boot_enabled", b.admin, nil).json(b.t)
	if _, counted := entry["open"]; counted || entry["display_name"] == "" || len(entry["citations"].([]any)) == 0 {
		b.t.Errorf("%v", entry)
	}
	b.refused("invalid_field", "", "GET", "/v1/catalog?kind=event", b.admin, nil)
	b.refused("invalid_field", "", "GET", "/v1/catalog/No-Code", b.admin, nil)
	b.refused("unknown_field", "", "GET", "/v1/catalog?color=red", b.admin, nil)
	b.refused("not_found", "", "GET", "/v1/catalog/nonsense", b.admin, nil)
}

func findings(b *bench, m *machine) {
	m.extend(4, bytes.Repeat([]byte{7}, 32)) // something that no log tells of
	if v := b.attest(m).json(b.t); v["status"] != "contraindicated" {
		b.t.Fatalf("an unlogged extend was judged %v", v["status"])
	}
	b.want(200, "GET", "/v1/assessments?severity=medium&status=Unhealthy&machine_id="+m.id+"&code=guest_attestation_healthy&scale_set=web", b.admin, nil)
	if items := b.want(200, "GET", "/v1/assessments", b.admin, nil).json(b.t)["items"].([]any); len(items) < 4 {
		b.t.Errorf("%d assessments", len(items))
	}
	recommended := b.want(200, "GET", "/v1/recommendations?status=active", b.admin, nil).json(b.t)["items"].([]any)
	if len(recommended) == 0 {
		b.t.Fatal("no recommendation for a confidential VM with Secure Boot off")
	}
	rec := "/v1/recommendations/" + recommended[0].(map[string]any)["id"].(string)
	b.want(200, "GET", rec, b.admin, nil)
	// What is resolved cannot be exempt: Secure Boot of db-3 is on now.
	b.want(200, "POST", "/v1/machines", b.admin, `{"name": "db-3", "declared": {"secure_boot": true}}`)
	resolved := b.want(200, "GET", "/v1/recommendations?status=resolved", b.admin, nil).json(b.t)["items"].([]any)
	b.refused("conflict", "", "POST", "/v1/recommendations/"+resolved[0].(map[string]any)["id"].(string)+"/exempt", b.admin, `{"reason": "waiver"}`)
	rec = "/v1/recommendations/" + b.want(200, "GET", "/v1/recommendations?status=active", b.admin, nil).json(b.t)["items"].([]any)[0].(map[string]any)["id"].(string)
	if r := b.want(200, "POST", rec+"/exempt", b.admin, `{"reason": "waiver", "comment": "lab", "expires_at": "2099-01-01T00:00:00Z"}`).json(b.t); r["status"] != "exempt" {
		b.t.Errorf("exempt: %v", r)
	}
	soon := b.want(200, "GET", "/v1/recommendations?exemption_ends_before=2100-01-01T00:00:00Z", b.admin, nil).json(b.t)["items"].([]any)
	if none := b.want(200, "GET", "/v1/recommendations?exemption_ends_before=2098-01-01T00:00:00Z", b.admin, nil).json(b.t)["items"].([]any); len(soon) != 1 || len(none) != 0 {
		b.t.Errorf("%d and %d exemptions end before", len(soon), len(none))
	}
	if r := b.want(200, "POST", rec+"/unexempt", b.admin, `{"comment": "the lab is closed"}`).json(b.t); r["status"] != "active" || r["exemption"] != nil {
		b.t.Errorf("unexempt: %v", r)
	}
	b.refused("conflict", "", "POST", rec+"/unexempt", b.admin, nil)
	b.refused("not_found", "", "POST", "/v1/recommendations/"+nobody+"/unexempt", b.admin, nil)
	if events := b.want(200, "GET", rec+"/history", b.admin, nil).json(b.t)["items"].([]any); len(events) != 2 || events[0].(map[string]any)["kind"] != "unexempted" {
		b.t.Errorf("history of exemptions: %v", events)
	}
	b.refused("not_found", "", "GET", "/v1/recommendations/"+nobody+"/history", b.admin, nil)
	b.want(200, "POST", rec+"/exempt", b.admin, `{"reason": "waiver"}`)
	b.refused("invalid_field", "/expires_at", "POST", rec+"/exempt", b.admin, `{"reason": "waiver", "expires_at": "2001-01-01T00:00:00Z"}`)
	b.refused("not_found", "", "GET", "/v1/recommendations/"+nobody, b.admin, nil)
	b.refused("not_found", "", "POST", "/v1/recommendations/"+nobody+"/exempt", b.admin, `{"reason": "waiver"}`)

	catalog(b)
	alerts := b.want(200, "GET", "/v1/alerts?status=active&code=attestation_failed&machine_id="+m.id+"&include_suppressed=true", b.admin, nil).json(b.t)["items"].([]any)
	if len(alerts) != 1 {
		b.t.Fatalf("%d alerts", len(alerts))
	}
	alert := "/v1/alerts/" + alerts[0].(map[string]any)["id"].(string)
	b.want(200, "GET", alert, b.admin, nil)
	for _, step := range []struct{ action, status string }{{"in-progress", "in_progress"}, {"dismiss", "dismissed"}, {"activate", "active"}, {"resolve", "resolved"}} {
		if got := b.want(200, "POST", alert+"/"+step.action, b.admin, nil).text(b.t, "status"); got != step.status {
			b.t.Errorf("%s: %s", step.action, got)
		}
	}
	for _, action := range []string{"in-progress", "dismiss", "resolve"} {
		b.refused("conflict", "", "POST", alert+"/"+action, b.admin, nil)
	}
	b.refused("unknown_field", "/why", "POST", alert+"/activate", b.admin, `{"why": "x"}`)
	incidents(b, alert)
	b.refused("not_found", "", "GET", "/v1/alerts/"+nobody, b.admin, nil)
	for _, action := range []string{"in-progress", "dismiss", "resolve", "activate"} {
		b.refused("not_found", "", "POST", "/v1/alerts/"+nobody+"/"+action, b.admin, nil)
	}
	b.want(200, "GET", "/v1/overview", b.admin, nil)
}

// incidents comes when the alert has been resolved by hand.
func incidents(b *bench, alert string) {
	count := func() {
		b.t.Helper()
		if _, err := b.server.store.CountIncidents(b.t.Context(), store.DefaultTenant, b.server.now()); err != nil {
			b.t.Fatal(err)
		}
	}
	b.want(200, "POST", alert+"/activate", b.admin, `{"comment": "it is still there"}`)
	count()
	list := b.want(200, "GET", "/v1/incidents?open=true&status=active&code=attestation_failed&severity=medium&reason=baseline_deviation", b.admin, nil).json(b.t)["items"].([]any)
	if len(list) != 0 {
		b.t.Errorf("an unlogged extend is of origin, not a deviation: %v", list)
	}
	if list = b.want(200, "GET", "/v1/incidents?open=true&code=attestation_failed", b.admin, nil).json(b.t)["items"].([]any); len(list) != 1 {
		b.t.Fatalf("%d open incidents", len(list))
	}
	id := b.want(200, "GET", alert, b.admin, nil).json(b.t)["incident_id"]
	path := fmt.Sprintf("/v1/incidents/%s", id)
	if i := b.want(200, "GET", path, b.admin, nil).json(b.t); i["open_alerts"].(float64) != 1 || i["status"] != "active" || i["scale_sets"].(map[string]any)["web"].(float64) != 1 {
		b.t.Errorf("incident %v", i)
	}
	if members := b.want(200, "GET", path+"/members?open=true", b.admin, nil).json(b.t)["items"].([]any); len(members) != 1 {
		b.t.Errorf("%d members", len(members))
	}
	change := func(action, body string) {
		b.t.Helper()
		if n := b.want(200, "POST", path+"/"+action, b.admin, body).json(b.t)["alerts"].(float64); n != 1 {
			b.t.Errorf("%s changed %v alerts", action, n)
		}
	}
	change("comments", `{"comment": "looking"}`)
	change("in-progress", `{"comment": "mine", "assignee": "alex"}`)
	b.refused("conflict", "", "POST", path+"/in-progress", b.admin, nil)
	change("dismiss", `{}`)
	if i := b.want(200, "GET", path, b.admin, nil).json(b.t); i["open_alerts"].(float64) != 0 || i["status"] != "dismissed" {
		b.t.Errorf("incident after its alert was dismissed: %v", i)
	}
	b.want(200, "POST", alert+"/activate", b.admin, nil)
	change("resolve", `{"comment": "repaired"}`)
	for _, action := range []string{"dismiss", "resolve"} {
		b.refused("conflict", "", "POST", path+"/"+action, b.admin, nil)
	}
	b.refused("conflict", "", "POST", path+"/comments", b.admin, `{"comment": "x"}`)
	for _, action := range []string{"dismiss", "resolve", "in-progress"} {
		b.refused("not_found", "", "POST", "/v1/incidents/"+nobody+"/"+action, b.admin, nil)
	}
	b.refused("not_found", "", "POST", "/v1/incidents/"+nobody+"/comments", b.admin, `{"comment": "x"}`)
	b.refused("not_found", "", "GET", "/v1/incidents/"+nobody, b.admin, nil)
	b.refused("not_found", "", "GET", "/v1/incidents/"+nobody+"/members", b.admin, nil)

	if e := b.want(201, "POST", alert+"/comments", b.admin, `{"comment": "line\nbreak"}`).json(b.t); e["kind"] != "commented" || e["comment"] != "line\nbreak" {
		b.t.Errorf("the comment came back as %v", e)
	}
	b.refused("not_found", "", "POST", "/v1/alerts/"+nobody+"/comments", b.admin, `{"comment": "x"}`)
	b.refused("invalid_field", "/comment", "POST", alert+"/comments", b.admin, `{"comment": ""}`)
	history := b.want(200, "GET", alert+"/history", b.admin, nil).json(b.t)["items"].([]any)
	var kinds []string
	for _, e := range history {
		kinds = append(kinds, e.(map[string]any)["kind"].(string))
	}
	want := "commented status_changed reopened status_changed status_changed commented reopened status_changed reopened status_changed status_changed reopened"
	if got := strings.Join(kinds, " "); !strings.HasPrefix(got, want) || kinds[len(kinds)-1] != "opened" {
		b.t.Errorf("history %s, want %s and so on", got, want)
	}
	if items := b.want(200, "GET", alert+"/occurrences", b.admin, nil).json(b.t)["items"].([]any); len(items) < 2 || items[0].(map[string]any)["verdict_id"] == items[1].(map[string]any)["verdict_id"] {
		b.t.Errorf("occurrences %v", items)
	}
	b.refused("not_found", "", "GET", "/v1/alerts/"+nobody+"/history", b.admin, nil)
	b.refused("not_found", "", "GET", "/v1/alerts/"+nobody+"/occurrences", b.admin, nil)
}

func suppression(b *bench, m *machine) {
	b.attest(m) // the alert opens again
	open := b.want(200, "GET", "/v1/alerts?status=active", b.admin, nil).json(b.t)["items"].([]any)
	b.refused("conflict", "", "POST", "/v1/alerts/"+open[0].(map[string]any)["id"].(string)+"/activate", b.admin, nil)
	x := b.want(200, "POST", "/v1/suppression-rules/simulate", b.admin, `{"alert_code": "attestation_failed", "days": 7, "scope": {"all_of": [{"field": "machine.scale_set", "in": ["web"]}]}}`).json(b.t)
	if x["would_hide"].(float64) < 1 || x["open"].(float64) != 1 || len(x["items"].([]any)) < 1 || x["complete"] != true {
		b.t.Errorf("simulation: %v", x)
	}
	b.refused("invalid_field", "/scope/all_of/0", "POST", "/v1/suppression-rules/simulate", b.admin, `{"alert_code": "*", "scope": {"all_of": [{"field": "machine.name"}]}}`)
	rule := b.want(201, "POST", "/v1/suppression-rules", b.admin, `{"alert_code": "*", "reason": "driver lab", "comment": "line\nbreak",
		"expires_at": "2099-01-01T00:00:00Z", "scope": {"all_of": [{"field": "machine.scale_set", "in": ["web"]}, {"field": "machine.name", "contains": "web"}]}}`)
	path := "/v1/suppression-rules/" + rule.text(b.t, "id")
	count := func(query string) int {
		return len(b.want(200, "GET", "/v1/alerts"+query+"&code=attestation_failed", b.admin, nil).json(b.t)["items"].([]any))
	}
	if count("?status=active") != 0 || count("?status=active&include_suppressed=true") != 1 {
		b.t.Errorf("the rule did not hide the alert")
	}
	b.want(200, "GET", "/v1/suppression-rules", b.admin, nil)
	b.want(200, "GET", path, b.admin, nil)
	changed := b.want(200, "PATCH", path, b.admin, `{"expires_at": null, "state": "disabled", "reason": "over"}`).json(b.t)
	if changed["expires_at"] != nil || changed["state"] != "disabled" || changed["reason"] != "over" || changed["comment"] != "line\nbreak" {
		b.t.Errorf("after the change: %v", changed)
	}
	if count("?status=active") != 1 {
		b.t.Error("a disabled rule still hides")
	}
	b.refused("invalid_field", "/scope/all_of/0", "POST", "/v1/suppression-rules", b.admin, `{"alert_code": "*", "reason": "x", "scope": {"all_of": [{"field": "machine.name"}]}}`)
	b.refused("invalid_field", "/expires_at", "PATCH", path, b.admin, `{"expires_at": "2001-01-01T00:00:00Z"}`)
	b.want(204, "DELETE", path, b.admin, nil)
	b.refused("not_found", "", "GET", path, b.admin, nil)
	b.refused("not_found", "", "PATCH", path, b.admin, `{"state": "enabled"}`)
	b.refused("not_found", "", "DELETE", path, b.admin, nil)
}

func administration(b *bench, m *machine) {
	b.want(200, "GET", "/v1/policies", b.admin, nil)
	before := b.want(200, "GET", "/v1/policies/default", b.admin, nil).json(b.t)
	after := b.want(200, "PUT", "/v1/policies/default", b.admin, `{"attestation_interval_seconds": 60}`).json(b.t)
	if after["version"].(float64) != before["version"].(float64)+1 || after["attestation_interval_seconds"].(float64) != 60 || after["require_secure_boot"] != true {
		b.t.Errorf("policy: %v", after)
	}
	b.refused("invalid_field", "/attestation_interval_seconds", "PUT", "/v1/policies/default", b.admin, `{"attestation_interval_seconds": 1}`)
	b.refused("invalid_field", "/pcrs/sha256/0", "PUT", "/v1/policies/default", b.admin, `{"pcrs": {"sha256": [24]}}`)
	b.refused("invalid_field", "name", "GET", "/v1/policies/No%20Name", b.admin, nil)
	b.refused("not_found", "", "GET", "/v1/policies/nothing", b.admin, nil)

	anchor := b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "more", "purpose": "ak", "certificates_pem": m.rootPEM()})
	b.want(200, "GET", "/v1/trust-anchors?purpose=ak", b.admin, nil)
	b.want(204, "DELETE", "/v1/trust-anchors/"+anchor.text(b.t, "id"), b.admin, nil)
	b.refused("not_found", "", "DELETE", "/v1/trust-anchors/"+nobody, b.admin, nil)
	for _, text := range []string{"nothing", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", m.rootPEM() + "trailing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		b.refused("invalid_field", "/certificates_pem", "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "bad", "purpose": "ek", "certificates_pem": text})
	}
	b.want(200, "GET", "/v1/join-tokens", b.admin, nil)
	b.want(201, "POST", "/v1/api-tokens", b.admin, `{"name": "pipeline", "role": "admin", "expires_in_seconds": 60}`)
	b.want(200, "GET", "/v1/api-tokens", b.admin, nil)
	used := b.want(201, "POST", "/v1/join-tokens", b.admin, `{"name": "one", "labels": {"team": "a"}, "scale_set": "web"}`).text(b.t, "token")
	if !strings.HasPrefix(used, prefixJoin) {
		b.t.Errorf("join token: %s", used)
	}
}

func zstdOf(t testing.TB, raw []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	return w.EncodeAll(raw, nil)
}

func gzipOf(t testing.TB, raw []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// racesOnly are codes that one request at a time cannot reach: two writes of one machine at the same
// moment, or a key replaced while its evidence is judged. Tests of store and server/attest reach them.
var racesOnly = map[string]bool{
	"POST /v1/machines conflict": true, "POST /v1/machines/batch conflict": true,
	"POST /v1/audit-checkpoints conflict":              true,
	"POST /v1/machines/{machine_id}/evidence conflict": true, "POST /v1/enrollments/{enrollment_id}/activation identity_conflict": true,
}

// complete fails where an operation was never driven to success, or a documented code never reached.
func complete(b *bench) {
	doc, err := loadContract()
	if err != nil {
		b.t.Fatal(err)
	}
	reached := map[string]bool{"not_found": true, "method_not_allowed": true}
	for _, codes := range b.seen.problems {
		for code := range codes {
			reached[code] = true
		}
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if name := method + " " + path; !b.seen.successes[name] {
				b.t.Errorf("%s was never driven to success", name)
			}
		}
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if documented, _ := op.Extensions["x-problem-codes"].([]any); !slices.Contains(documented, any(codeUnauthenticated)) {
				continue
			}
			for _, code := range auth.TokenCodes() {
				if !b.seen.problems[method+" "+path][code] {
					b.t.Errorf("%s %s was never seen to refuse a token with %s", method, path, code)
				}
			}
		}
	}
	limits, _ := doc.Extensions["x-limit-problem-codes"].([]any)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			name := method + " " + path
			if op.OperationID == "getHealth" || op.OperationID == "getReadiness" {
				continue
			}
			for _, code := range limits {
				free := code == codeOverloaded && gateOf(op.OperationID, method != "GET") == gateNone
				if !free && !b.seen.problems[name][code.(string)] {
					b.t.Errorf("%s was never seen to answer %s", name, code)
				}
			}
		}
	}
	for code := range b.server.problems {
		if !reached[code] {
			b.t.Errorf("problem code %s was never reached", code)
		}
	}
	var missing []string
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			name := method + " " + path
			documented, _ := op.Extensions["x-problem-codes"].([]any)
			for _, c := range documented {
				if !b.seen.problems[name][c.(string)] && !racesOnly[name+" "+c.(string)] {
					missing = append(missing, fmt.Sprintf("%s %s", name, c))
				}
			}
		}
	}
	if len(missing) > 0 {
		b.t.Errorf("%d documented codes were never seen at their operation:\n%s", len(missing), strings.Join(missing, "\n"))
	}
}
