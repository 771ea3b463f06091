package server

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/baseline/intoto"
	"github.com/assay-verifier/assay/server/limit"
	"github.com/assay-verifier/assay/store"
)

// drained are buckets that everybody has emptied already.
func drained[K comparable](keys ...K) *limit.Buckets[K] {
	b := limit.NewBuckets[K](limit.Rate{PerSecond: 0.001, Burst: 1}, 1000, time.Now())
	for _, k := range keys {
		b.Take(k, 1, time.Now())
	}
	return b
}

// limited drives every operation into its rate, and into a gate that is full: what the contract calls x-limit-problem-codes.
// Nothing is stored, and health is answered all the while.
func limited(b *bench, m *machine) {
	tokens := b.tokens(m)
	before := b.rows()
	was := *b.server.limits
	defer func() { *b.server.limits = was }()
	here := netip.MustParseAddr("127.0.0.1")
	everybody := func() *limit.Buckets[who] {
		var keys []who
		for _, token := range tokens {
			p := b.principalOf(token)
			keys = append(keys, who{p.kind, p.id})
		}
		return drained(keys...)
	}
	b.server.limits.source = drained(here)
	b.server.limits.machine, b.server.limits.principal, b.server.limits.join = everybody(), everybody(), everybody()
	for _, o := range operations(b.t, m) {
		if id := o.op.OperationID; id == "getHealth" || id == "getReadiness" {
			b.want(200, o.method, o.path, "", nil)
			continue
		}
		a := b.refused("rate_limited", "", o.method, o.path, bearerFor(tokens, o.needs), o.body)
		if n, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || n < 1 || n > 3600 || a.status != http.StatusTooManyRequests {
			b.t.Errorf("%s: status %d, Retry-After %q", o.name, a.status, a.header.Get("Retry-After"))
		}
	}
	*b.server.limits = was

	b.server.limits.gates = map[gate]*limit.Gate{}
	var held []*limit.Pass
	for name := range was.gates {
		full := limit.NewGate(1, 0, time.Minute)
		pass, err := full.Reserve()
		if err != nil {
			b.t.Fatal(err)
		}
		held = append(held, &pass)
		b.server.limits.gates[name] = full
	}
	for _, o := range operations(b.t, m) {
		if gateOf(o.op.OperationID, o.write()) == gateNone {
			b.call(o.method, o.path, "", nil)
			continue
		}
		a := b.refused("overloaded", "", o.method, o.path, bearerFor(tokens, o.needs), o.body)
		if n, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || n < minRetry || n > maxRetry {
			b.t.Errorf("%s: Retry-After %q", o.name, a.header.Get("Retry-After"))
		}
	}
	for _, p := range held {
		p.Leave()
	}
	b.sameRows(before)
	quotas(b, m)
}

// principalOf is whom the service takes a token for.
func (b *bench) principalOf(token string) principal {
	b.t.Helper()
	if token == "" {
		return principal{kind: rolePublic}
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	p, err := b.server.authenticate(r)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// quotas drives each operation that may exceed a quota into it, and reads how the tenant stands.
func quotas(b *bench, m *machine) {
	set := func(kind store.QuotaKind, n *int64) {
		b.t.Helper()
		if err := b.store.SetQuota(b.t.Context(), store.DefaultTenant, kind, n, time.Now(), store.Actor{Kind: "system", ID: "test"}); err != nil {
			b.t.Fatal(err)
		}
	}
	baseline := b.want(201, "POST", "/v1/baselines", b.admin, `{"name": "quota", "state": "draft", "reference_values": {"claims": {"secure_boot": true}}}`).text(b.t, "id")
	key, pemKey := newKey(b.t)
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "quota builds", "purpose": "reference_values", "certificates_pem": pemKey})
	envelope := envelopeOf(b.t, key, intoto.PayloadType, statementOf(`{"claims": {"secure_boot": true}}`))
	other, shown := newMachine(b.t, "sb-on-1"), newMachine(b.t, "sb-on-1")
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "quota swtpm", "purpose": "ek", "certificates_pem": other.rootPEM() + shown.rootPEM()})
	b.enrol(shown, "web-shown", b.joinToken())
	b.attest(shown)
	stored := b.joinToken()
	none := int64(0)
	for _, kind := range store.QuotaKinds() {
		set(kind, &none)
	}
	before := b.rows()
	for _, c := range []struct {
		kind         store.QuotaKind
		method, path string
		bearer       string
		body         any
		header       []string
	}{
		{store.QuotaMachines, "POST", "/v1/machines", b.admin, `{"name": "one-more", "os": "linux"}`, nil},
		{store.QuotaMachines, "POST", "/v1/machines/batch", b.admin, `{"items": [{"name": "one-more", "os": "linux"}, {"name": "two-more", "os": "linux"}]}`, nil},
		{store.QuotaMachines, "POST", "/v1/enrollments", stored, other.enrollment("web-quota"), nil},
		{store.QuotaBaselines, "POST", "/v1/baselines", b.admin, `{"name": "more", "reference_values": {"claims": {"secure_boot": true}}}`, nil},
		{store.QuotaBaselineVersions, "POST", "/v1/baselines/" + baseline + "/versions", b.admin, `{"reference_values": {"claims": {"secure_boot": false}}}`, nil},
		{store.QuotaBaselines, "POST", importPath + "?name=quota-image&state=draft", b.admin, envelope, []string{"Content-Type", "application/vnd.dsse.envelope.v1+json"}},
		{store.QuotaBaselines, "POST", "/v1/machines/" + shown.id + "/baseline", b.admin, `{"name": "captured-quota"}`, nil},
		{store.QuotaJoinTokens, "POST", "/v1/join-tokens", b.admin, `{"name": "more"}`, nil},
		{store.QuotaAPITokens, "POST", "/v1/api-tokens", b.admin, `{"name": "more", "role": "reader"}`, nil},
		{store.QuotaChannels, "POST", "/v1/webhooks", b.admin, `{"name": "more", "url": "https://siem.example"}`, nil},
		{store.QuotaChannels, "POST", "/v1/notification-channels", b.admin, `{"name": "more", "kind": "syslog", "address": "syslog.example:6514"}`, nil},
	} {
		a := b.refused("quota_exceeded", "", c.method, c.path, c.bearer, c.body, c.header...)
		q, _ := a.json(b.t)["quota"].(map[string]any)
		if q["kind"] != string(c.kind) || q["limit"] != 0.0 || q["used"] == nil {
			b.t.Errorf("%s %s: %s", c.method, c.path, a.body)
		}
	}
	b.sameRows(before)
	// What changes nothing is stored nowhere; what changes the judgement is refused, and redeems no challenge.
	m.extend(8, make([]byte, 32))
	e := m.evidence(b.nonce(m))
	e["event_log"] = m.log
	a := b.refused("quota_exceeded", "", "POST", "/v1/machines/"+m.id+"/evidence", m.token, e)
	if n, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || n < 1 || n > 86400 {
		b.t.Errorf("Retry-After %q of a quota that comes back", a.header.Get("Retry-After"))
	}
	for _, kind := range store.QuotaKinds() {
		set(kind, nil)
	}
	list := b.want(200, "GET", "/v1/quotas", b.admin, nil).json(b.t)["quotas"].([]any)
	if len(list) != len(store.QuotaKinds()) {
		b.t.Errorf("%d quotas", len(list))
	}
	for _, q := range list {
		if q := q.(map[string]any); q["own"] != false {
			b.t.Errorf("%v is not the default", q)
		}
	}
}

// TestRates: each kind of principal has a bucket of its own, and nobody pays for another.
func TestRates(t *testing.T) {
	b := newBench(t, func(c *Config) {
		one := limit.Rate{PerSecond: 0.001, Burst: 3}
		c.Limits.Principal, c.Limits.Source = one, one
	})
	other := b.readerToken() // the first of the admin's three
	for range 2 {
		b.want(200, "GET", "/v1/overview", b.admin, nil)
	}
	b.refused("rate_limited", "", "GET", "/v1/overview", b.admin, nil)
	b.want(200, "GET", "/v1/overview", other, nil)
	for range 3 {
		b.want(200, "GET", "/openapi.yaml", "", nil)
	}
	b.refused("rate_limited", "", "GET", "/openapi.yaml", "", nil)
	for range 10 {
		b.want(200, "GET", "/healthz", "", nil)
		b.want(200, "GET", "/readyz", "", nil)
	}
	metrics := b.metrics()
	for _, want := range []string{`assay_limited_total{limit="rate_principal"} 1`, `assay_limited_total{limit="rate_source"} 1`, `assay_gate_slots{gate="appraisal"} 256`, `assay_gate_waiting{gate="query"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// metrics is what /metrics says.
func (b *bench) metrics() string {
	b.t.Helper()
	w := &recordedAnswer{header: http.Header{}}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "/metrics", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.server.AdminHandler().ServeHTTP(w, r)
	return w.body.String()
}

// TestGuessingIsSlowed: beyond its failures an address has no more tokens looked up, while those that are known go on: the
// neighbours behind the same address do not pay for who guesses.
func TestGuessingIsSlowed(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Limits.Failures = limit.Rate{PerSecond: 0.001, Burst: 5} })
	m := newMachine(t, "sb-on-1")
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "swtpm", "purpose": "ek", "certificates_pem": m.rootPEM()})
	b.enrol(m, "web-1", b.joinToken())
	fresh := b.readerToken()
	for i := range 5 {
		b.refused("unauthenticated", "", "GET", "/v1/overview", fmt.Sprintf("assay_adm_%043d", i), nil)
	}
	for _, token := range []string{fmt.Sprintf("assay_adm_%043d", 99), fmt.Sprintf("assay_join_%043d", 99), "", "eyJhbGciOiJSUzI1NiJ9.e30.e30", "assay_agt_x", fresh} {
		b.refused("rate_limited", "", "GET", "/v1/overview", token, nil)
	}
	b.want(200, "GET", "/v1/overview", b.admin, nil) // looked up a moment ago
	b.attest(m)                                      // known by its MAC
	if n := b.server.limits.failures.Len(); n != 1 {
		t.Errorf("%d addresses are remembered", n)
	}
}

// TestShareOfOnePrincipal: slow bodies of one take its own share, and nobody else's.
func TestShareOfOnePrincipal(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Limits.PrincipalShare = 2 })
	other := b.want(201, "POST", "/v1/api-tokens", b.admin, `{"name": "other", "role": "admin"}`).text(t, "token")
	address := strings.TrimPrefix(b.http.URL, "http://")
	var slow []*slowRequest
	for range 2 {
		slow = append(slow, startSlow(t, address, "/v1/machines", b.admin, 1000))
	}
	key := who{roleAdmin, b.principalOf(b.admin).id}
	waitFor(t, func() bool {
		if b.server.limits.principalShare.Enter(key) {
			b.server.limits.principalShare.Leave(key)
			return false
		}
		return true
	})
	b.refused("rate_limited", "", "GET", "/v1/overview", b.admin, nil)
	b.want(200, "GET", "/v1/overview", other, nil)
	for _, s := range slow {
		s.close()
	}
	waitFor(t, func() bool { return b.call("GET", "/v1/overview", b.admin, nil).status == 200 })
}

// TestClientAddress believes X-Forwarded-For of a proxy that is trusted, from its end on, and of nobody else.
func TestClientAddress(t *testing.T) {
	l := &limiter{proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("2001:db8::/64")}}
	for _, c := range []struct {
		remote, want string
		forwarded    []string
	}{
		{"192.0.2.1:1", "192.0.2.1", []string{"203.0.113.9"}},
		{"10.0.0.1:1", "10.0.0.1", nil},
		{"10.0.0.1:1", "203.0.113.9", []string{"203.0.113.9"}},
		{"10.0.0.1:1", "203.0.113.9", []string{"198.51.100.1, 203.0.113.9, 10.0.0.2"}},
		{"10.0.0.1:1", "203.0.113.9", []string{"198.51.100.1", "203.0.113.9"}},
		{"10.0.0.1:1", "10.0.0.1", []string{"203.0.113.9, nonsense"}},
		{"10.0.0.1:1", "10.0.0.2", []string{"nonsense, 10.0.0.2"}},
		{"10.0.0.1:1", "10.0.0.2", []string{strings.Repeat("10.0.0.2,", 1000) + "10.0.0.2"}},
		{"[2001:db8::1]:1", "203.0.113.9", []string{"::ffff:203.0.113.9"}},
		{"pipe", "pipe", []string{"203.0.113.9"}},
	} {
		r := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": c.forwarded}}
		if got := l.clientAddress(r); got != c.want {
			t.Errorf("%s with %q: %s, not %s", c.remote, c.forwarded, got, c.want)
		}
	}
}
