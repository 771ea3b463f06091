package server

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/server/auth/authtest"
	"github.com/assay-verifier/assay/store"
)

const ciAudience = "https://assay.example"

// ci is an issuer that the tenant trusts, with a rule for main of example/images.
type ci struct {
	b        *bench
	issuer   *authtest.Issuer
	now      func() time.Time
	provider string // id
	rule     string // id
	down     *authtest.Issuer
	foreign  authtest.Key // another key under the name of the issuer's
}

// rule is what the rule of newCI says, with changes.
func (c *ci) ruleBody(changes map[string]any) map[string]any {
	body := map[string]any{
		"name": "images", "provider_id": c.provider,
		"conditions": []any{map[string]any{"claim": "repository", "in": []string{"example/images"}}, map[string]any{"claim": "ref", "pattern": "refs/heads/main"}},
		"baselines":  map[string]any{"pattern": "ci-.*"}, "selector": map[string]any{"scale_set": []string{"web"}},
		"actions": []string{"create", "add_version"}, "states": []string{"draft"},
	}
	for name, v := range changes {
		if body[name] = v; v == nil {
			delete(body, name)
		}
	}
	return body
}

func (c *ci) providerBody(changes map[string]any) map[string]any {
	body := map[string]any{"name": "github", "issuer": c.issuer.URL(), "audiences": []string{ciAudience}}
	for name, v := range changes {
		body[name] = v
	}
	return body
}

func newCI(b *bench, now func() time.Time) *ci {
	b.t.Helper()
	c := &ci{b: b, issuer: authtest.Start(b.outer, false), now: now}
	c.foreign = authtest.Key{ID: "rsa-1", Private: authtest.RSA(b.t), Algorithm: "RS256"}
	c.provider = b.want(201, "POST", "/v1/identity-providers", b.admin, c.providerBody(nil)).text(b.t, "id")
	c.rule = b.want(201, "POST", "/v1/pipeline-rules", b.admin, c.ruleBody(nil)).text(b.t, "id")
	return c
}

// token is one of a run on main of example/images, with changed claims.
func (c *ci) token(changes map[string]any) string {
	return c.issuer.Token(c.issuer.Claims(ciAudience, c.now(), changes))
}

const ciBaseline = `{"name": "ci-web", "selector": {"scale_set": ["web"]}, "state": "draft", "reference_values": {"claims": {"secure_boot": true}}, "provenance": {"repository": "github.com/evil/images"}}`

// pipelines drives the operations about identity providers and pipeline rules, and those that a pipeline may call.
func pipelines(b *bench, _ *machine) {
	c := newCI(b, time.Now)
	c.down = authtest.Start(b.outer, false)
	b.ci = c
	down := b.want(201, "POST", "/v1/identity-providers", b.admin, map[string]any{"name": "down", "issuer": c.down.URL(), "audiences": []string{ciAudience}, "enabled": true}).text(b.t, "id")
	providers, rules := "/v1/identity-providers/", "/v1/pipeline-rules/"
	b.refused("conflict", "", "POST", "/v1/identity-providers", b.admin, c.providerBody(nil))
	b.refused("conflict", "", "POST", "/v1/identity-providers", b.admin, c.providerBody(map[string]any{"name": "other"}))
	b.refused("conflict", "", "PUT", providers+down, b.admin, map[string]any{"name": "github", "issuer": c.down.URL(), "audiences": []string{ciAudience}})
	b.refused("invalid_field", "/issuer", "PUT", providers+c.provider, b.admin, c.providerBody(map[string]any{"issuer": c.down.URL()}))
	b.refused("invalid_field", "/issuer", "POST", "/v1/identity-providers", b.admin, c.providerBody(map[string]any{"issuer": "https://169.254.169.254"}))
	b.refused("invalid_field", "/audiences/1", "POST", "/v1/identity-providers", b.admin, c.providerBody(map[string]any{"audiences": []string{"a", "b/" + nobody}}))
	b.refused("invalid_field", "/audiences/1", "POST", "/v1/identity-providers", b.admin, c.providerBody(map[string]any{"audiences": []string{"a", "a"}}))
	b.refused("invalid_field", "/algorithms/0", "POST", "/v1/identity-providers", b.admin, c.providerBody(map[string]any{"algorithms": []string{"HS256"}}))
	b.want(200, "PUT", providers+c.provider, b.admin, c.providerBody(map[string]any{"algorithms": []string{"RS256"}, "max_token_lifetime_seconds": 600}))
	if p := b.want(200, "GET", providers+c.provider, b.admin, nil).json(b.t); p["max_token_lifetime_seconds"] != 600.0 || p["keys_fetched_at"] != nil || p["enabled"] != true {
		b.t.Errorf("provider: %v", p)
	}
	b.want(200, "GET", "/v1/identity-providers", b.admin, nil)
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		var provider, rule any
		if method == "PUT" {
			provider, rule = c.providerBody(nil), c.ruleBody(nil)
		}
		b.refused("not_found", "", method, providers+nobody, b.admin, provider)
		b.refused("not_found", "", method, rules+nobody, b.admin, rule)
	}

	second := b.want(201, "POST", "/v1/pipeline-rules", b.admin, c.ruleBody(map[string]any{"name": "second", "subject": map[string]any{"in": []string{"x"}}})).text(b.t, "id")
	b.refused("conflict", "", "POST", "/v1/pipeline-rules", b.admin, c.ruleBody(nil))
	b.refused("conflict", "", "PUT", rules+second, b.admin, c.ruleBody(nil))
	b.refused("not_found", "", "POST", "/v1/pipeline-rules", b.admin, c.ruleBody(map[string]any{"provider_id": nobody}))
	b.refused("invalid_field", "/conditions/0/pattern", "PUT", rules+second, b.admin, c.ruleBody(map[string]any{"conditions": []any{map[string]any{"claim": "ref", "pattern": "("}}}))
	b.refused("invalid_field", "/conditions", "POST", "/v1/pipeline-rules", b.admin, c.ruleBody(map[string]any{"name": "all", "conditions": []any{map[string]any{"claim": "ref", "pattern": ".*"}}}))
	b.refused("invalid_field", "/selector", "POST", "/v1/pipeline-rules", b.admin, c.ruleBody(map[string]any{"name": "all", "selector": nil}))
	b.want(200, "PUT", rules+second, b.admin, c.ruleBody(map[string]any{"name": "third"}))
	if r := b.want(200, "GET", rules+second, b.admin, nil).json(b.t); r["name"] != "third" || r["subject"] != nil {
		b.t.Errorf("rule: %v", r)
	}
	b.want(200, "GET", "/v1/pipeline-rules", b.admin, nil)
	b.want(204, "DELETE", rules+second, b.admin, nil)
	b.refused("conflict", "", "DELETE", providers+c.provider, b.admin, nil)
	b.refused("not_found", "", "POST", rules+"test", b.admin, map[string]any{"provider_id": nobody, "claims": map[string]any{}})
	spare := b.want(201, "POST", "/v1/identity-providers", b.admin, c.providerBody(map[string]any{"name": "spare", "audiences": []string{"spare"}})).text(b.t, "id")
	b.want(204, "DELETE", providers+spare, b.admin, nil)
	c.outcomes()

	// Every operation that a pipeline may call, as one that no rule admits.
	stranger := c.token(map[string]any{"repository": "stranger/images"})
	before := b.rows()
	for _, o := range operations(b.t, &machine{id: nobody}) {
		if o.needs == permPublic || !rolePipeline.may(o.needs) {
			continue
		}
		a := b.refused("rule_denied", "", o.method, o.path, stranger, o.body)
		if !strings.Contains(string(a.body), `claim repository is \"stranger/images\"`) || strings.Contains(string(a.body), "example/images") {
			b.t.Errorf("%s: %s", o.name, a.body)
		}
	}
	before["audit_events"]++ // the keys were fetched
	b.sameRows(before)
	c.down.Stop()
}

// outcomes asks what the rule makes of claims.
func (c *ci) outcomes() {
	b := c.b
	ask := func(claims, attempt string) map[string]any {
		body := `{"provider_id": "` + c.provider + `", "claims": ` + claims
		if attempt != "" {
			body += `, "attempt": ` + attempt
		}
		return b.want(200, "POST", "/v1/pipeline-rules/test", b.admin, body+"}").json(b.t)
	}
	const admitted = `{"sub": "x", "repository": "example/images", "ref": "refs/heads/main"}`
	for _, x := range []struct {
		claims, attempt   string
		admitted, allowed any
		why               string
	}{
		{admitted, "", true, nil, "[]"},
		{`{"repository": "example/images"}`, "", false, nil, "claim ref is missing"},
		{admitted, `{"action": "create", "baseline": "ci-web", "selector": {"scale_set": ["web"]}, "state": "draft"}`, true, true, "[]"},
		{admitted, `{"action": "create", "baseline": "ci-web", "selector": {"scale_set": ["web"]}}`, true, false, `begin as "active"`},
		{admitted, `{"action": "promote", "baseline": "db", "state": "draft"}`, true, false, "scale_set is wider"},
	} {
		got := ask(x.claims, x.attempt)
		raw, _ := json.Marshal(got["rules"])
		if got["admitted"] != x.admitted || got["allowed"] != x.allowed || !strings.Contains(strings.ReplaceAll(string(raw), `\"`, `"`), x.why) {
			b.t.Errorf("%s %s: %v", x.claims, x.attempt, got)
		}
	}
	b.refused("malformed_json", "/claims/a", "POST", "/v1/pipeline-rules/test", b.admin, `{"provider_id": "`+c.provider+`", "claims": {"a": 1, "a": 2}}`)
}

// refusedTokens sends one token of each kind that is refused.
func (b *bench) refusedTokens(o operation) {
	b.t.Helper()
	for code, token := range b.ci.refused() {
		a := b.refused(code, "", o.method, o.path, token, o.body)
		if strings.Contains(string(a.body), token[len(token)/2:]) {
			b.t.Errorf("%s repeats the token", o.name)
		}
		if a.status == 401 && !strings.Contains(a.header.Get("WWW-Authenticate"), "invalid_token") || a.status == 503 && a.header.Get("Retry-After") == "" {
			b.t.Errorf("%s: %s: %v", o.name, code, a.header)
		}
	}
}

// refused are tokens by the code that they are refused with.
func (c *ci) refused() map[string]string {
	now := c.now().Unix()
	claims := c.issuer.Claims(ciAudience, c.now(), nil)
	foreign := c.foreign
	return map[string]string{
		auth.CodeMalformed:   c.token(map[string]any{"exp": "soon"}),
		auth.CodeIssuer:      c.token(map[string]any{"iss": "https://evil.example"}),
		auth.CodeAudience:    c.token(map[string]any{"aud": "somebody"}),
		auth.CodeAlgorithm:   authtest.Unsigned(c.b.t, claims) + "AAAA",
		auth.CodeExpired:     c.token(map[string]any{"iat": now - 600, "exp": now - 300}),
		auth.CodeNotYetValid: c.token(map[string]any{"iat": now + 100}),
		auth.CodeLifetime:    c.token(map[string]any{"exp": now + 660}),
		auth.CodeClaims:      c.token(map[string]any{"sub": nil}),
		auth.CodeKeyUnknown:  authtest.Sign(c.b.t, foreign, map[string]any{"kid": "none"}, claims),
		auth.CodeSignature:   authtest.Sign(c.b.t, foreign, nil, claims),
		auth.CodeIssuerUnavailable: authtest.Sign(c.b.t, foreign, nil,
			c.issuer.Claims(ciAudience, c.now(), map[string]any{"iss": c.down.URL()})),
	}
}

// wallClock is a clock that a test moves.
type wallClock struct {
	mu  sync.Mutex
	now time.Time
}

func (w *wallClock) Now() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }
func (w *wallClock) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func newPipelineBench(t *testing.T) (*bench, *ci, *wallClock) {
	clock := &wallClock{now: time.Now()}
	b := newBench(t, func(cfg *Config) { cfg.Now = clock.Now })
	return b, newCI(b, clock.Now), clock
}

func TestPipelineWritesWhatItsRuleAllowsAndNothingElse(t *testing.T) {
	b, c, _ := newPipelineBench(t)
	token := c.token(nil)
	a := b.want(201, "POST", "/v1/baselines", token, ciBaseline)
	id := a.text(t, "id")
	who := "pipeline:" + c.issuer.URL() + "|repo:example/images:ref:refs/heads/main"
	if got := a.text(t, "created_by"); got != who {
		t.Errorf("created by %s", got)
	}
	provenance := a.json(t)["provenance"].(map[string]any)
	verified := provenance["verified"].(map[string]any)
	claims := verified["claims"].(map[string]any)
	if provenance["repository"] != "github.com/evil/images" || verified["issuer"] != c.issuer.URL() || verified["rule"] != "images" || verified["provider"] != "github" ||
		claims["repository"] != "example/images" || claims["run_id"] != "4711" || claims["sha"] != "9fceb02d0ae598e95dc970b74767f19372d61af8" || claims["jti"] != nil {
		t.Errorf("provenance: %v", provenance)
	}
	if kind := b.column(`SELECT string_agg(actor_kind || ':' || actor_id, ' ') FROM audit_events WHERE action = 'baseline.create'`); kind != who {
		t.Errorf("audit: %s", kind)
	}
	b.refused("unknown_field", "/provenance/verified", "POST", "/v1/baselines", token, strings.Replace(ciBaseline, `"repository":`, `"verified": {}, "repository":`, 1))

	version := `{"reference_values": {"claims": {"secure_boot": true, "kernel_cmdline": "x"}}}`
	path := "/v1/baselines/" + id
	b.want(201, "POST", path+"/versions", token, version)
	b.want(200, "GET", path+"/versions/2", token, nil)
	b.want(200, "GET", path+"/versions", token, nil)
	b.want(200, "GET", path, token, nil)
	before := b.rows()
	b.refused("rule_denied", "", "POST", path+"/versions/1/promote", token, nil)
	b.refused("rule_denied", "", "POST", path+"/versions", token, strings.Replace(version, "{", `{"state": "active", `, 1))
	for _, change := range [][2]string{{`"state": "draft"`, `"state": "active"`}, {`, "state": "draft"`, ""}, {`"ci-web"`, `"other"`}, {`"ci-web"`, `"xci-web"`}, {`["web"]`, `["web", "db"]`}, {`{"scale_set": ["web"]}`, `{}`}, {`{"scale_set": ["web"]}`, `{"scale_set": ["web"], "machine_ids": ["` + nobody + `"]}`}} {
		b.refused("rule_denied", "", "POST", "/v1/baselines", token, strings.Replace(ciBaseline, change[0], change[1], 1))
	}
	for _, path := range []string{path + "/versions/1/retire", "/v1/machines/" + nobody + "/baseline", "/v1/alerts/" + nobody + "/resolve"} {
		b.refused("forbidden", "", "POST", path, token, nil)
	}
	b.sameRows(before)

	// What its rules are not about does not exist for it.
	other := b.want(201, "POST", "/v1/baselines", b.admin, `{"name": "secret", "selector": {"scale_set": ["web"]}, "reference_values": {"claims": {"secure_boot": true}}}`).text(t, "id")
	wide := b.want(201, "POST", "/v1/baselines", b.admin, `{"name": "ci-wide", "reference_values": {"claims": {"secure_boot": true}}}`).text(t, "id")
	for _, hidden := range []string{other, wide} {
		for _, path := range []string{"", "/versions", "/versions/1"} {
			b.refused("not_found", "", "GET", "/v1/baselines/"+hidden+path, token, nil)
		}
		if a := b.refused("rule_denied", "", "POST", "/v1/baselines/"+hidden+"/versions", token, version); strings.Contains(string(a.body), "secret") {
			t.Errorf("%s", a.body)
		}
		b.refused("rule_denied", "", "POST", "/v1/baselines/"+hidden+"/versions/1/promote", token, nil)
	}
	if items := b.want(200, "GET", "/v1/baselines", token, nil).json(t)["items"].([]any); len(items) != 1 || items[0].(map[string]any)["id"] != id {
		t.Errorf("it sees %v", items)
	}
	if v := b.want(201, "POST", path+"/versions", b.admin, version).json(t)["provenance"].(map[string]any); v["verified"] != nil {
		t.Errorf("an administrator's version is verified: %v", v)
	}
}

func TestRulesAndProvidersChangeAtOnce(t *testing.T) {
	b, c, _ := newPipelineBench(t)
	token := c.token(nil)
	id := b.want(201, "POST", "/v1/baselines", token, ciBaseline).text(t, "id")
	promote := "/v1/baselines/" + id + "/versions/1/promote"
	b.refused("rule_denied", "", "POST", promote, token, nil)
	b.want(200, "PUT", "/v1/pipeline-rules/"+c.rule, b.admin, c.ruleBody(map[string]any{"actions": []string{"promote"}, "states": nil}))
	b.want(200, "POST", promote, token, nil)
	b.want(200, "PUT", "/v1/identity-providers/"+c.provider, b.admin, c.providerBody(map[string]any{"enabled": false}))
	b.refused("token_issuer", "", "GET", "/v1/baselines/"+id, token, nil)
	b.want(200, "PUT", "/v1/identity-providers/"+c.provider, b.admin, c.providerBody(nil))
	b.want(200, "GET", "/v1/baselines/"+id, token, nil)
	b.want(200, "PUT", "/v1/identity-providers/"+c.provider, b.admin, c.providerBody(map[string]any{"audiences": []string{"https://new.example"}}))
	b.refused("token_audience", "", "GET", "/v1/baselines/"+id, token, nil)
	b.want(200, "PUT", "/v1/identity-providers/"+c.provider, b.admin, c.providerBody(nil))
	b.want(204, "DELETE", "/v1/pipeline-rules/"+c.rule, b.admin, nil)
	b.refused("rule_denied", "", "GET", "/v1/baselines/"+id, token, nil)
	b.want(204, "DELETE", "/v1/identity-providers/"+c.provider, b.admin, nil)
	b.refused("token_issuer", "", "GET", "/v1/baselines/"+id, token, nil)
	if actions := b.column(`SELECT string_agg(DISTINCT action, ' ' ORDER BY action) FROM audit_events WHERE action LIKE 'identity_provider.%' OR action LIKE 'pipeline_rule.%'`); actions !=
		"identity_provider.create identity_provider.delete identity_provider.keys identity_provider.update pipeline_rule.create pipeline_rule.delete pipeline_rule.update" {
		t.Errorf("audited: %s", actions)
	}
}

// A pipeline tries values before it registers them, and imports documents, within its rules.
func TestPipelineTriesAndImports(t *testing.T) {
	b, c, _ := newPipelineBench(t)
	token := c.token(nil)
	id := b.want(201, "POST", "/v1/baselines", token, ciBaseline).text(t, "id")
	version := "/v1/baselines/" + id + "/versions/1/dry-run"
	values := `"reference_values": {"claims": {"secure_boot": true}}`
	named := `{"name": "ci-web", "selector": {"scale_set": ["web"]}, ` + values + `}`
	next := `{"baseline_id": "` + id + `", ` + values + `}`
	b.refused("rule_denied", "", "POST", version, token, nil)
	b.refused("rule_denied", "", "POST", "/v1/baselines/dry-run", token, named)
	b.refused("rule_denied", "", "POST", "/v1/baselines/dry-run", token, next)
	b.want(200, "PUT", "/v1/pipeline-rules/"+c.rule, b.admin, c.ruleBody(map[string]any{"actions": []string{"dry_run", "create", "add_version"}}))
	b.want(200, "POST", version, token, nil)
	b.want(200, "POST", "/v1/baselines/dry-run", token, named)
	b.want(200, "POST", "/v1/baselines/dry-run", token, next)
	for _, body := range []string{strings.Replace(named, "ci-web", "other", 1), strings.Replace(named, `"name": "ci-web", `, "", 1), strings.Replace(named, `["web"]`, `["db"]`, 1),
		strings.Replace(named, `"selector": {"scale_set": ["web"]}, `, "", 1)} {
		b.refused("rule_denied", "", "POST", "/v1/baselines/dry-run", token, body)
	}
	b.refused("forbidden", "", "POST", "/v1/policies/test", token, `{"policy": {}}`)

	const document, unsigned = `{"claims": {"secure_boot": true}}`, `&allow_unsigned=true`
	const inScope = `&selector={"scale_set":["web"]}`
	v := b.want(201, "POST", importPath+"?name=ci-more&state=draft"+inScope+unsigned, token, document).json(t)
	if v["provenance"].(map[string]any)["verified"] == nil || v["imported"] == nil {
		t.Errorf("provenance: %v", v["provenance"])
	}
	b.want(201, "POST", importPath+"?baseline_id="+id+unsigned, token, document)
	before := b.rows()
	for _, query := range []string{"?name=other&state=draft" + inScope, "?name=ci-x" + inScope, "?name=ci-x&state=draft", "?baseline_id=" + id + "&state=active"} {
		b.refused("rule_denied", "", "POST", importPath+query+unsigned, token, document)
	}
	b.sameRows(before)
}

// restart serves the same database by another process.
func (b *bench) restart() {
	b.t.Helper()
	var err error
	if b.server, err = New(b.cfg); err != nil {
		b.t.Fatal(err)
	}
	b.http.Close()
	b.http = httptest.NewServer(b.server.Handler())
	b.t.Cleanup(b.http.Close)
}

func TestTheIssuerIsDown(t *testing.T) {
	b, c, clock := newPipelineBench(t)
	b.want(200, "GET", "/v1/baselines", c.token(nil), nil) // Cache-Control: max-age=600
	p := b.want(200, "GET", "/v1/identity-providers/"+c.provider, b.admin, nil).json(t)
	fetched, err1 := time.Parse(time.RFC3339, p["keys_fetched_at"].(string))
	expire, err2 := time.Parse(time.RFC3339, p["keys_expire_at"].(string))
	if err1 != nil || err2 != nil || expire.Sub(fetched) != 10*time.Minute {
		t.Errorf("keys: %v", p)
	}
	c.issuer.Stop()
	b.restart()
	clock.pass(9 * time.Minute)
	b.want(200, "GET", "/v1/baselines", c.token(nil), nil)
	clock.pass(time.Minute)
	a := b.refused("issuer_unavailable", "", "GET", "/v1/baselines", c.token(nil), nil)
	if a.status != 503 || a.header.Get("Retry-After") == "" || a.header.Get("Retry-After") == "0" || strings.Contains(string(a.body), c.issuer.URL()) {
		t.Errorf("%v %s", a.header, a.body)
	}
	if !strings.Contains(b.logs.String(), "connection refused") {
		t.Error("the cause is not in the logs")
	}
	if strings.Contains(b.logs.String(), c.token(nil)[:40]) {
		t.Error("a token is in the logs")
	}
}

func TestATokenIsGoodForItsLifeAndNotLonger(t *testing.T) {
	b, c, clock := newPipelineBench(t)
	token := c.token(nil) // five minutes
	for range 3 {
		b.want(200, "GET", "/v1/baselines", token, nil)
	}
	clock.pass(5 * time.Minute)
	b.refused("token_expired", "", "GET", "/v1/baselines", token, nil)
}

func TestTwoProvidersOfOneIssuer(t *testing.T) {
	b, c, _ := newPipelineBench(t)
	staging := b.want(201, "POST", "/v1/identity-providers", b.admin, c.providerBody(map[string]any{"name": "staging", "audiences": []string{"https://staging.example"}})).text(t, "id")
	// The rule is about the first provider alone.
	b.refused("rule_denied", "", "GET", "/v1/baselines", c.token(map[string]any{"aud": "https://staging.example"}), nil)
	b.refused("token_audience", "", "GET", "/v1/baselines", c.token(map[string]any{"aud": []string{ciAudience, "https://staging.example"}}), nil)
	b.want(201, "POST", "/v1/pipeline-rules", b.admin, c.ruleBody(map[string]any{"name": "staging", "provider_id": staging, "baselines": map[string]any{"in": []string{"staging"}}}))
	b.refused("rule_denied", "", "POST", "/v1/baselines", c.token(map[string]any{"aud": "https://staging.example"}), ciBaseline)
	b.want(201, "POST", "/v1/baselines", c.token(map[string]any{"aud": "https://staging.example"}), strings.Replace(ciBaseline, "ci-web", "staging", 1))
	b.want(201, "POST", "/v1/baselines", c.token(nil), ciBaseline)
}

func TestAudiencesKeepTenantsApart(t *testing.T) {
	b, c, clock := newPipelineBench(t)
	other := uuid.MustParse("01900000-0000-7000-8000-000000000002")
	ctx, lead := context.Background(), store.Actor{Kind: "admin", ID: "test"}
	if err := b.store.EnsureTenant(ctx, other, clock.Now()); err != nil {
		t.Fatal(err)
	}
	aud := "https://assay.example/" + other.String()
	b.refused("invalid_field", "/audiences/0", "POST", "/v1/identity-providers", b.admin, c.providerBody(map[string]any{"name": "taker", "audiences": []string{aud}}))
	p := store.IdentityProvider{Name: "github", Issuer: c.issuer.URL(), Audiences: []string{aud, ciAudience}, Algorithms: []string{"RS256"}, MaxTokenLifetime: time.Hour, Enabled: true}
	p, err := b.store.CreateIdentityProvider(ctx, other, p, clock.Now(), lead)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(auth.Rule{Subject: &auth.Match{Pattern: "repo:example/.*"}, Baselines: auth.Match{Pattern: ".*"}, WholeFleet: true, Actions: []auth.Action{auth.ActionCreate}, States: []string{"draft"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.CreatePipelineRule(ctx, other, store.PipelineRule{Name: "all", ProviderID: p.ID, Body: body}, clock.Now(), lead); err != nil {
		t.Fatal(err)
	}
	mine := b.want(201, "POST", "/v1/baselines", c.token(nil), ciBaseline).text(t, "id")
	theirs := b.want(201, "POST", "/v1/baselines", c.token(map[string]any{"aud": aud}), ciBaseline).text(t, "id")
	b.refused("not_found", "", "GET", "/v1/baselines/"+mine, c.token(map[string]any{"aud": aud}), nil)
	b.refused("not_found", "", "GET", "/v1/baselines/"+theirs, c.token(nil), nil)
	b.refused("token_audience", "", "GET", "/v1/baselines", c.token(map[string]any{"aud": []string{aud, ciAudience}}), nil)
	// A rule of one tenant cannot name a provider of another.
	b.refused("not_found", "", "POST", "/v1/pipeline-rules", b.admin, c.ruleBody(map[string]any{"name": "x", "provider_id": p.ID.String()}))
}

func TestKeysThatWereFetchedForAnEarlierProviderAreDropped(t *testing.T) {
	b, c, clock := newPipelineBench(t)
	ctx := context.Background()
	id := uuid.MustParse(c.provider)
	was, err := b.store.GetIdentityProvider(ctx, store.DefaultTenant, id)
	if err != nil {
		t.Fatal(err)
	}
	b.want(200, "PUT", "/v1/identity-providers/"+c.provider, b.admin, c.providerBody(nil))
	keys := store.IssuerKeys{JWKS: []byte(`{"keys":[]}`), FetchedAt: clock.Now(), ExpiresAt: clock.Now().Add(time.Hour)}
	if err := b.store.SaveIssuerKeys(ctx, store.DefaultTenant, was, keys); err != nil {
		t.Fatal(err)
	}
	now, err := b.store.GetIdentityProvider(ctx, store.DefaultTenant, id)
	if err != nil || now.Keys != nil {
		t.Errorf("kept: %v, %v", now.Keys, err)
	}
	if err := b.store.SaveIssuerKeys(ctx, store.DefaultTenant, now, keys); err != nil {
		t.Fatal(err)
	}
	older := keys
	older.JWKS, older.FetchedAt = []byte(`{"keys":[1]}`), keys.FetchedAt.Add(-time.Minute)
	if err := b.store.SaveIssuerKeys(ctx, store.DefaultTenant, now, older); err != nil {
		t.Fatal(err)
	}
	if got, err := b.store.GetIdentityProvider(ctx, store.DefaultTenant, id); err != nil || got.Keys == nil || string(got.Keys.JWKS) != `{"keys":[]}` {
		t.Errorf("%+v, %v", got.Keys, err)
	}
}

func TestAPipelineCannotWriteBeforeARuleWasAsked(t *testing.T) {
	p := &pipeline{}
	ctx := withPrincipal(context.Background(), principal{kind: rolePipeline, pipeline: p})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("it may write")
			}
		}()
		actorOf(ctx)
	}()
	p.allowed = &auth.Rule{Name: "images"}
	if actor := actorOf(ctx); !strings.Contains(string(actor.Identity), "images") {
		t.Errorf("%s", actor.Identity)
	}
}

func TestOnlyAVerifiedTokenMakesAVerifiedProvenance(t *testing.T) {
	b, _, clock := newPipelineBench(t)
	for _, forged := range []string{`{"verified": {"issuer": "x"}, "source": "y"}`, `{"Verified": {"issuer": "x"}, "VERIFIED": 1, "source": "y"}`} {
		v, err := b.store.CreateBaseline(context.Background(), store.DefaultTenant, uuid.NewString(), selectorOf(nil), store.BaselineVersion{Provenance: json.RawMessage(forged)}, clock.Now(), store.Actor{Kind: "admin"})
		if err != nil || string(v.Provenance) != `{"source":"y"}` {
			t.Errorf("%s, %v", v.Provenance, err)
		}
	}
}
