package server

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// operation is one operation of the contract with a request that gets through its guard.
type operation struct {
	name, method, path string // path with the parameters filled in
	needs              permission
	scope              scoping
	body               any // a body that fits; nil where there is none
	media              []string
	op                 *openapi3.Operation
}

// fittingBodies are bodies that the guard accepts, by operation.
var fittingBodies = map[string]string{
	"createEnrollment":     `{"machine": {"name": "x", "os": "linux"}, "ak_public": "AAAA"}`,
	"activateEnrollment":   `{"secret": "AAAA"}`,
	"captureBaseline":      `{}`,
	"vouchAttestationKey":  `{"ak_public": "AAAA"}`,
	"upsertMachine":        `{"name": "m", "os": "linux"}`,
	"upsertMachines":       `{"items": [{"name": "m", "os": "linux"}]}`,
	"exemptRecommendation": `{"reason": "waiver"}`,
	"dismissAlert":         `{}`, "resolveAlert": `{}`, "activateAlert": `{}`, "progressAlert": `{}`, "unexemptRecommendation": `{}`,
	"dismissIncident": `{}`, "resolveIncident": `{}`, "progressIncident": `{}`,
	"commentAlert": `{"comment": "x"}`, "commentIncident": `{"comment": "x"}`,
	"simulateSuppressionRule": `{"alert_code": "*", "scope": {"all_of": []}}`,
	"createSuppressionRule":   `{"alert_code": "*", "reason": "x", "scope": {"all_of": []}}`,
	"updateSuppressionRule":   `{"state": "enabled"}`,
	"createBaseline":          `{"name": "x", "reference_values": {"claims": {"secure_boot": true}}}`,
	"createBaselineVersion":   `{"reference_values": {"claims": {"secure_boot": true}}}`,
	"promoteBaselineVersion":  `{}`,
	"retireBaselineVersion":   `{}`,
	"approveBaselineVersion":  `{}`,
	"approveAlert":            `{"comment": "x"}`,
	"refuseAlert":             `{"comment": "x"}`,
	"createJoinToken":         `{"name": "x"}`,
	"createAPIToken":          `{"name": "x", "role": "reader"}`,
	"createIdentityProvider":  `{"name": "x", "issuer": "https://issuer.example", "audiences": ["x"]}`,
	"putIdentityProvider":     `{"name": "x", "issuer": "https://issuer.example", "audiences": ["x"]}`,
	"createPipelineRule":      `{"name": "x", "provider_id": "` + nobody + `", "baselines": {"in": ["x"]}, "actions": ["promote"]}`,
	"putPipelineRule":         `{"name": "x", "provider_id": "` + nobody + `", "baselines": {"in": ["x"]}, "actions": ["promote"]}`,
	"testPipelineRules":       `{"provider_id": "` + nobody + `", "claims": {}}`,
	"createWebhook":           `{"name": "x", "url": "https://siem.example"}`, "putWebhook": `{"name": "x", "url": "https://siem.example"}`, "rotateWebhookSecret": `{}`,
	"createNotificationChannel": `{"name": "x", "kind": "syslog", "address": "syslog.example:6514"}`,
	"putNotificationChannel":    `{"name": "x", "kind": "syslog", "address": "syslog.example:6514"}`,
	"createRoleBinding":         `{"name": "x", "provider_id": "` + nobody + `", "role": "viewer", "subject": {"in": ["x"]}}`,
	"putRoleBinding":            `{"name": "x", "provider_id": "` + nobody + `", "role": "viewer", "subject": {"in": ["x"]}}`,
	"createTrustAnchor":         `{"name": "x", "purpose": "ek", "certificates_pem": "x"}`,
	"putPolicy":                 `{}`,
	"putRetention":              `{"evidence_days": 30, "verdict_days": 60, "audit_days": 365}`,
	"dryRunReferenceValues":     `{"reference_values": {"claims": {"secure_boot": true}}}`,
	"testPolicy":                `{"policy": {}}`,
	"createReappraisal":         `{"comment": "x"}`,
	"submitEvidence":            `{}`,
	"createResult":              `{}`,
	"introspectResult":          `{"token": "x"}`,
	"rotateSigningKeys":         `{}`,
	"revokeSigningKey":          `{"reason": "x"}`,
}

func operations(t testing.TB, m *machine) []operation {
	t.Helper()
	doc, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("{machine_id}", nobody, "{enrollment_id}", nobody, "{verdict_id}", nobody, "{recommendation_id}", nobody,
		"{alert_id}", nobody, "{incident_id}", nobody, "{rule_id}", nobody, "{baseline_id}", nobody, "{reappraisal_id}", nobody, "{anchor_id}", nobody, "{token_id}", nobody, "{binding_id}", nobody, "{provider_id}", nobody, "{webhook_id}", nobody, "{channel_id}", nobody, "{delivery_id}", nobody, "{event_id}", nobody, "{checkpoint_id}", nobody, "{version}", "1", "{name}", "default",
		"{sha256}", strings.Repeat("ab", 32), "{kind}", "vcek", "{code}", "vtpm_enabled", "{key_id}", strings.Repeat("A", 43))
	var out []operation
	for _, path := range sortedKeys(doc.Paths.Map()) {
		ops := doc.Paths.Value(path).Operations()
		for _, method := range sortedKeys(ops) {
			op := ops[method]
			needs, _ := op.Extensions["x-assay-permission"].(string)
			scope, _ := op.Extensions["x-assay-scope"].(string)
			o := operation{name: method + " " + path, method: method, needs: permission(needs), scope: scoping(scope), op: op}
			if roleMachine.may(o.needs) && o.needs != permPublic {
				path = strings.Replace(path, "{machine_id}", m.id, 1)
			}
			if op.OperationID == "listMachineVerdicts" { // the only list below something that has to exist
				path = strings.Replace(path, "{machine_id}", m.id, 1)
			}
			if op.OperationID == "putRevocations" {
				path = strings.Replace(path, "{kind}", "sbat_level", 1)
			}
			o.path = fill.Replace(path)
			if op.RequestBody != nil {
				o.media = sortedKeys(op.RequestBody.Value.Content)
				if text, ok := fittingBodies[op.OperationID]; ok {
					o.body = text
				} else {
					o.body = []byte("raw")
				}
			}
			out = append(out, o)
		}
	}
	return out
}

func (o *operation) write() bool { return o.method != http.MethodGet }

func (o *operation) has(parameter string) bool {
	for _, p := range o.op.Parameters {
		if p.Value.Name == parameter {
			return true
		}
	}
	return false
}

// tokens are one bearer token of each kind of principal.
func (b *bench) tokens(m *machine) map[role]string {
	return map[role]string{roleAdmin: b.admin, roleReader: b.readerToken(), roleJoin: b.joinToken(), roleMachine: m.token, rolePublic: "", rolePipeline: b.ci.token(nil), roleRelyingParty: b.relyingToken()}
}

// bearerFor is a token of whoever may call an operation in any case.
func bearerFor(tokens map[role]string, needs permission) string {
	for _, r := range []role{rolePublic, roleJoin, roleMachine, roleRelyingParty, roleReader, roleAdmin} {
		if r.may(needs) && (r != roleMachine || needs == permAgent) {
			return tokens[r]
		}
	}
	return ""
}

func (b *bench) newToken(body any) string {
	b.t.Helper()
	return b.want(201, "POST", "/v1/api-tokens", b.admin, body).text(b.t, "token")
}

func (b *bench) relyingToken() string {
	b.t.Helper()
	return b.newToken(`{"name": "relying", "role": "relying_party"}`)
}

func (b *bench) readerToken() string {
	b.t.Helper()
	return b.newToken(`{"name": "reader", "role": "reader"}`)
}

// malformed sends every operation what does not fit. Each is refused with its code, and nothing is stored.
func malformed(b *bench, m *machine) {
	tokens := b.tokens(m)
	before := b.rows()
	for _, o := range operations(b.t, m) {
		bearer := bearerFor(tokens, o.needs)
		b.refused("unknown_field", `"nonsense"`, o.method, o.path+"?nonsense=1", bearer, o.body)
		if strings.Contains(o.path, nobody) || strings.Contains(o.path, m.id) {
			broken := strings.Replace(strings.Replace(o.path, nobody, "not-an-id", 1), m.id, "not-an-id", 1)
			b.refused("invalid_field", "", o.method, broken, bearer, o.body)
		}
		if o.has("limit") {
			for _, limit := range []string{"0", "501", "-1", "x", "1.5", "99999999999999999999", "1&limit=2"} {
				b.refused("invalid_field", "limit", o.method, o.path+"?limit="+limit, bearer, nil)
			}
			b.refused("invalid_cursor", "cursor", o.method, o.path+"?cursor=AAAA", bearer, nil)
			b.refused("invalid_field", "cursor", o.method, o.path+"?cursor=a%00b", bearer, nil)
		}
		for _, p := range o.op.Parameters {
			if p.Value.In == "query" && (len(p.Value.Schema.Value.Enum) > 0 || (p.Value.Schema.Value.Items != nil && len(p.Value.Schema.Value.Items.Value.Enum) > 0) || p.Value.Schema.Value.Format != "" || p.Value.Schema.Value.Type.Is("boolean")) {
				b.refused("invalid_field", p.Value.Name, o.method, o.path+"?"+p.Value.Name+"=nonsense", bearer, nil)
			}
		}
		if !o.write() {
			continue
		}
		b.refused("invalid_field", "Idempotency-Key", o.method, o.path, bearer, o.body, "Idempotency-Key", "two words")
		b.refused("unsupported_encoding", "", o.method, o.path, bearer, o.body, "Content-Encoding", "br")
		b.tooLarge(o, bearer)
		if o.media == nil {
			b.refused("invalid_field", "", o.method, o.path, bearer, `{"x": 1}`)
			continue
		}
		b.refused("unsupported_media_type", "", o.method, o.path, bearer, o.body, "Content-Type", "text/plain")
		if !contains(o.media, "application/json") || o.op.OperationID == "putCollateral" || o.op.OperationID == "putRevocations" || o.op.OperationID == "importBaseline" { // whose JSON has a decoder of its own
			continue
		}
		for _, c := range []struct{ code, body string }{
			{"malformed_json", `{`},
			{"malformed_json", `{"a`},
			{"malformed_json", `{} {}`},
			{"malformed_json", "{\"name\": \"\xff\"}"},
			{"malformed_json", strings.Repeat(`{"a":`, 20000)},
			{"invalid_field", strings.Repeat("[", 9000) + strings.Repeat("]", 9000)},
			{"invalid_field", `[]`},
			{"invalid_field", `"text"`},
			{"invalid_field", `null`},
			{"unknown_field", fitting(o, `"nonsense": 1`)},
		} {
			// The decoder of evidence stops at the first fault, which here is a field that it does not know.
			if o.op.OperationID == "submitEvidence" && (strings.HasPrefix(c.body, `{"a":`) || strings.Contains(c.body, "\xff")) {
				c.code = codeUnknownField
			}
			b.refused(c.code, "", o.method, o.path, bearer, c.body)
		}
	}
	b.sameRows(before)
	b.fields(m)
	b.sameRows(before)
}

// fitting is the operation's body with one more member.
func fitting(o operation, member string) string {
	text := strings.TrimSuffix(strings.TrimSpace(o.body.(string)), "}")
	if strings.TrimSpace(text) != "{" {
		text += ", "
	}
	return text + member + "}"
}

// tooLarge declares 100 MB. The answer must come before the body is sent.
func (b *bench) tooLarge(o operation, bearer string) {
	b.t.Helper()
	body := &countingReader{left: 100 << 20}
	req, err := http.NewRequestWithContext(context.Background(), o.method, b.http.URL+o.path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	req.ContentLength = 100 << 20
	req.Header.Set("Expect", "100-continue")
	req.Header.Set("Content-Type", append(o.media, "application/json")[0])
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	if a := b.do(req); a.code(b.t) != codeBodyTooLarge {
		b.t.Errorf("%s with 100 MB: %d %s", o.name, a.status, cut(a.body))
	}
	if body.read > 1<<20 {
		b.t.Errorf("%s: %d bytes of a body that is too large were taken", o.name, body.read)
	}
}

type countingReader struct{ left, read int64 }

func (c *countingReader) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), c.left)
	c.left -= n
	c.read += n
	return int(n), nil
}

// fields is one fault of a field a line.
func (b *bench) fields(m *machine) {
	for _, c := range []struct{ method, path, pointer, body string }{
		{"POST", "/v1/machines", "/name", `{"os": "linux"}`},
		{"POST", "/v1/machines", "/name", `{"name": "", "os": "linux"}`},
		{"POST", "/v1/machines", "/name", `{"name": "a\u0000b", "os": "linux"}`},
		{"POST", "/v1/machines", "/name", `{"name": "a\nb", "os": "linux"}`},
		{"POST", "/v1/machines", "/name", `{"name": "` + strings.Repeat("x", 254) + `", "os": "linux"}`},
		{"POST", "/v1/machines", "/name", `{"name": 5, "os": "linux"}`},
		{"POST", "/v1/machines", "/os", `{"name": "x", "os": "plan9"}`},
		{"POST", "/v1/machines", "/labels/a", `{"name": "x", "os": "linux", "labels": {"a": 1}}`},
		{"POST", "/v1/machines", "/labels/a~1b~0", `{"name": "x", "os": "linux", "labels": {"a/b~": "\u0007"}}`},
		{"POST", "/v1/machines", "/labels/a\x01", `{"name": "x", "os": "linux", "labels": {"a\u0001": "b"}}`},
		{"POST", "/v1/machines", "/declared/vtpm", `{"name": "x", "os": "linux", "declared": {"vtpm": "yes"}}`},
		{"POST", "/v1/machines/batch", "/items", `{"items": []}`},
		{"POST", "/v1/machines/batch", "/items", `{"items": [` + strings.Repeat(`{"name":"x","os":"linux"},`, 500) + `{"name":"x","os":"linux"}]}`},
		{"POST", "/v1/machines/batch", "/items/1/name", `{"items": [{"name": "x", "os": "linux"}, {"os": "linux"}]}`},
		{"POST", "/v1/join-tokens", "/uses", `{"name": "x", "uses": 0}`},
		{"POST", "/v1/join-tokens", "/uses", `{"name": "x", "uses": 1.5}`},
		{"POST", "/v1/join-tokens", "/uses", `{"name": "x", "uses": 1e400}`},
		{"POST", "/v1/api-tokens", "/role", `{"name": "x", "role": "root"}`},
		{"POST", "/v1/baselines", "/reference_values/pcrs/sha256/24", `{"name": "x", "reference_values": {"pcrs": {"sha256": {"24": ["` + strings.Repeat("ab", 32) + `"]}}}}`},
		{"POST", "/v1/baselines", "/reference_values/pcrs/md5", `{"name": "x", "reference_values": {"pcrs": {"md5": {"0": ["` + strings.Repeat("ab", 32) + `"]}}}}`},
		{"POST", "/v1/baselines", "/reference_values/pcrs/sha256/0/0", `{"name": "x", "reference_values": {"pcrs": {"sha256": {"0": ["abcd"]}}}}`},
		{"POST", "/v1/baselines", "/reference_values/events/0/pcr", `{"name": "x", "reference_values": {"events": [{"pcr": 24, "digests": {"sha256": ["` + strings.Repeat("ab", 32) + `"]}}]}}`},
		{"POST", "/v1/baselines", "/selector/machine_ids/0", `{"name": "x", "selector": {"machine_ids": ["web"]}, "reference_values": {"claims": {"secure_boot": true}}}`},
		{"POST", "/v1/suppression-rules", "/scope/all_of/0/field", `{"alert_code": "*", "reason": "x", "scope": {"all_of": [{"field": "machine.id", "in": ["x"]}]}}`},
		{"POST", "/v1/suppression-rules", "/alert_code", `{"alert_code": "atestation_failed", "reason": "x", "scope": {"all_of": []}}`},
		{"POST", "/v1/suppression-rules", "/alert_code", `{"alert_code": "secure_boot_enabled", "reason": "x", "scope": {"all_of": []}}`},
		{"POST", "/v1/suppression-rules/simulate", "/alert_code", `{"alert_code": "atestation_failed", "scope": {"all_of": []}}`},
		{"POST", "/v1/suppression-rules", "/reason", `{"alert_code": "*", "scope": {"all_of": []}}`},
		{"POST", "/v1/suppression-rules", "/expires_at", `{"alert_code": "*", "reason": "x", "expires_at": "tomorrow", "scope": {"all_of": []}}`},
		{"POST", "/v1/machines/" + m.id + "/attestation-keys", "/comment", `{"ak_public": "AAAA", "comment": 1}`},
	} {
		b.refused("invalid_field", c.pointer, c.method, c.path, b.admin, c.body)
	}
	b.refused("malformed_json", "/name", "POST", "/v1/machines", b.admin, `{"name": "x", "name": "y", "os": "linux"}`)
	b.refused("malformed_json", "", "POST", "/v1/baselines", b.admin, `{"name": "x", "reference_values": {"claims": {"a": `+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`}}}`)
	b.refused("unknown_field", "/machine~1", "POST", "/v1/machines", b.admin, `{"name": "x", "os": "linux", "machine/": 1}`)
}

// principals sends every operation as every kind of principal: who may not is told so, and stores nothing.
func principals(b *bench, m *machine) {
	other := b.want(200, "POST", "/v1/machines", b.admin, `{"name": "other", "os": "linux"}`).text(b.t, "id")
	public := m.otherKey(9)
	otherToken := b.want(201, "POST", "/v1/machines/"+other+"/attestation-keys", b.admin, map[string]any{"ak_public": public}).text(b.t, "machine_token")
	tokens := b.tokens(m)
	scoped := b.newToken(`{"name": "scoped", "role": "admin", "selector": {"scale_set": ["web"]}}`)
	before := b.rows()
	garbage := []string{"garbage", "assay_adm_AAAA", "assay_rdr_" + strings.Repeat("A", 43), "assay_join_x", "assay_agt_x", m.token[:len(m.token)-4] + "AAAA", strings.Repeat("x", 4000)}
	for _, o := range operations(b.t, m) {
		if o.needs == permPublic {
			continue
		}
		a := b.refused("unauthenticated", "", o.method, o.path, "", o.body)
		if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
			b.t.Errorf("%s: WWW-Authenticate is %q", o.name, a.header.Get("WWW-Authenticate"))
		}
		for _, g := range garbage {
			a := b.refused("unauthenticated", "", o.method, o.path, g, o.body)
			if strings.Contains(string(a.body), g) {
				b.t.Errorf("%s repeats the token", o.name)
			}
		}
		b.refused("unauthenticated", "", o.method, o.path, "", o.body, "Authorization", "Basic YTpi")
		for kind, secret := range tokens {
			if kind == rolePublic || kind.may(o.needs) {
				continue
			}
			b.refused("forbidden", "", o.method, o.path, secret, o.body)
		}
		if roleMachine.may(o.needs) {
			b.refused("forbidden", "", o.method, o.path, otherToken, o.body)
		}
		if o.scope == scopeForbidden {
			b.refused("scope_forbids", "", o.method, o.path, scoped, o.body)
		}
		b.refusedTokens(o)
	}
	b.sameRows(before)
	// A token whose attestation key was replaced ends with it.
	replacement := m.otherKey(10)
	b.want(201, "POST", "/v1/machines/"+other+"/attestation-keys", b.admin, map[string]any{"ak_public": replacement})
	b.refused("unauthenticated", "", "POST", "/v1/machines/"+other+"/challenges", otherToken, nil)
	if logged := b.logs.String(); strings.Contains(logged, b.admin) || strings.Contains(logged, m.token) || strings.Contains(logged, tokens[roleJoin]) {
		b.t.Error("a token is in the logs")
	}
}

// idempotency repeats writes under one key.
func idempotency(b *bench, m *machine) {
	body := `{"name": "once", "role": "reader"}`
	first := b.want(201, "POST", "/v1/api-tokens", b.admin, body, "Idempotency-Key", "k1")
	before := b.rows()
	again := b.want(201, "POST", "/v1/api-tokens", b.admin, body, "Idempotency-Key", "k1")
	if string(again.body) != string(first.body) || again.header.Get("Idempotency-Replayed") != "true" || first.header.Get("Idempotency-Replayed") != "" {
		b.t.Errorf("not the same answer: %v %s", again.header, again.body)
	}
	b.sameRows(before)
	if stored := b.column("SELECT string_agg(encode(body, 'escape'), ' ') FROM idempotency_keys"); strings.Contains(stored, "assay_rdr_") {
		b.t.Error("a token is readable in the database")
	}
	// A refusal that changed state is replayed as it was.
	e := b.want(201, "POST", "/v1/enrollments", b.joinToken(), m.enrollment("web-1"))
	path := "/v1/enrollments/" + e.text(b.t, "enrollment_id") + "/activation"
	wrong := `{"secret": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`
	b.refused("activation_failed", "", "POST", path, "", wrong, "Idempotency-Key", "k1")
	if a := b.refused("activation_failed", "", "POST", path, "", wrong, "Idempotency-Key", "k1"); a.header.Get("Idempotency-Replayed") != "true" {
		b.t.Error("the refusal was not replayed")
	}
	// The key of a request stands for that request: every other write is refused.
	tokens := b.tokens(m)
	b.want(201, "POST", "/v1/machines/"+m.id+"/challenges", m.token, nil, "Idempotency-Key", "k1")
	b.refused("ak_refused", "", "POST", "/v1/enrollments", tokens[roleJoin], func() any { x := m.enrollment("q"); x["ak_public"] = m.ekPub; return x }(), "Idempotency-Key", "k1")
	b.refused("not_found", "", "POST", "/v1/pipeline-rules/test", tokens[roleReader], `{"provider_id": "`+nobody+`", "claims": {"sub": "x"}}`, "Idempotency-Key", "k1")
	b.want(200, "POST", "/v1/results/introspect", tokens[roleRelyingParty], `{"token": "another"}`, "Idempotency-Key", "k1")
	for _, o := range operations(b.t, m) {
		if !o.write() {
			continue
		}
		body := o.body
		switch o.op.OperationID {
		case "activateEnrollment":
			b.refused("not_found", "", o.method, o.path, "", `{"secret": "AAAAAAAA"}`, "Idempotency-Key", "k1")
		case "createChallenge":
			body = `{}`
		}
		b.refused("idempotency_conflict", "", o.method, o.path, bearerFor(tokens, o.needs), body, "Idempotency-Key", "k1")
	}
}

// overload sends every write while the body budget is taken.
func overload(b *bench, m *machine) {
	tokens := b.tokens(m)
	if !b.server.budget.TryAcquire(b.server.cfg.BodyBudget) {
		b.t.Fatal("the body budget is not free: a request did not give its bytes back")
	}
	defer b.server.budget.Release(b.server.cfg.BodyBudget)
	before := b.rows()
	for _, o := range operations(b.t, m) {
		if o.write() {
			if a := b.refused("overloaded", "", o.method, o.path, bearerFor(tokens, o.needs), o.body); a.header.Get("Retry-After") == "" {
				b.t.Errorf("%s: no Retry-After", o.name)
			}
		}
	}
	b.sameRows(before)
}

// broken takes the database away: every operation that needs it answers internal, and says nothing of why.
func broken(b *bench, m *machine) {
	tokens := b.tokens(m)
	log := []byte("a log")
	b.store.Close()
	for _, o := range operations(b.t, m) {
		switch o.op.OperationID {
		case "getHealth":
			b.want(200, o.method, o.path, "", nil)
			continue
		case "getReadiness":
			b.refused("not_ready", "", o.method, o.path, "", nil)
			continue
		case "introspectResult": // what is no token at all is not asked about
			o.body = map[string]any{"token": b.result}
		case "getOpenIDConfiguration":
			b.refused("not_found", "", o.method, o.path, "", nil)
			continue
		case "getJWKS", "getOpenAPI", "getDocs": // need no database
			continue
		case "createEnrollment":
			o.body = m.enrollment("late")
		case "submitEvidence":
			o.body = m.evidence(make([]byte, 32))
		case "putEventLog":
			o.path, o.body = strings.Replace(o.path, strings.Repeat("ab", 32), hexSHA256(log), 1), log
		case "putCollateral":
			o.body = specimen(b.t, "snp/vcek.testcer")
		case "putRevocations":
			o.path, o.body = "/v1/revocations/sbat_level", []byte("sbat,1,2099010100\nshim,9\n")
		case "importBaseline":
			o.path += "?name=late"
		case "vouchAttestationKey":
			o.body = map[string]any{"ak_public": m.akPub}
		case "createTrustAnchor":
			o.body = map[string]any{"name": "late", "purpose": "ek", "certificates_pem": m.rootPEM()}
		}
		a := b.refused("internal", "", o.method, o.path, bearerFor(tokens, o.needs), o.body)
		if text := string(a.body); strings.Contains(text, "pool") || strings.Contains(text, "pgx") || strings.Contains(text, "closed") {
			b.t.Errorf("%s tells of its insides: %s", o.name, text)
		}
	}
	if !strings.Contains(b.logs.String(), "closed pool") {
		b.t.Error("the reason is not in the logs")
	}
}
