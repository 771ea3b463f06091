package integration_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// relyingParty is a process of Node with the library jose: see jose/verify.mjs. It keeps the key set while it lives.
type relyingParty struct {
	t    *testing.T
	jwks string
	in   *json.Encoder
	out  *bufio.Reader
}

// judgement is what it says of a result.
type judgement struct {
	OK      bool           `json:"ok"`
	Payload map[string]any `json:"payload"`
	Alg     string         `json:"alg"`
	Code    string         `json:"code"`
	Fetches int            `json:"fetches"`
}

func newRelyingParty(t *testing.T, svc *service) *relyingParty {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", "verify.mjs")
	cmd.Dir, cmd.Stderr = "jose", os.Stderr
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + workDir}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("node: %v", err)
		}
	})
	return &relyingParty{t: t, jwks: svc.url + "/.well-known/jwks.json", in: json.NewEncoder(in), out: bufio.NewReader(out)}
}

// question is what the relying party asks of a result.
type question struct {
	Token    string `json:"token"`
	JWKS     string `json:"jwks"`
	Issuer   string `json:"issuer,omitempty"`
	Audience string `json:"audience,omitempty"`
	Nonce    string `json:"nonce,omitempty"`
	At       string `json:"at,omitempty"`
}

func (r *relyingParty) ask(q question) judgement {
	r.t.Helper()
	q.JWKS = r.jwks
	if err := r.in.Encode(q); err != nil {
		r.t.Fatal(err)
	}
	line, err := r.out.ReadBytes('\n')
	if err != nil {
		r.t.Fatal(err)
	}
	var j judgement
	if err := json.Unmarshal(line, &j); err != nil {
		r.t.Fatal(err)
	}
	return j
}

func (r *relyingParty) accepts(story string, q question) judgement {
	r.t.Helper()
	j := r.ask(q)
	if !j.OK {
		r.t.Errorf("%s: jose refuses: %s", story, j.Code)
	}
	return j
}

func (r *relyingParty) refuses(story, code string, q question) {
	r.t.Helper()
	if j := r.ask(q); j.OK || j.Code != code {
		r.t.Errorf("%s: jose says %v %s, want %s", story, j.OK, j.Code, code)
	}
}

// Results verify with a library that is not ours, in another language, which keeps the key set: before a rotation, while
// it is under way, and after it, without a single fetch more. What must not pass does not.
func TestResultsInAnotherLanguage(t *testing.T) {
	const issuer, audience, nonce = "https://assay.example", "https://relying.example", "q3IvsnkD2zqDPi9sRZfJpA"
	svc := newService(t, "--public-url", issuer+"/")
	m := booted(t, svc, "passport", "passports", "sb-on-1")
	m.attest()
	passport := func(more ...string) string {
		t.Helper()
		var r struct{ Token string }
		out, err := m.agent("token", append([]string{"--audience", audience, "--nonce", nonce}, more...)...).Output()
		if err != nil || json.Unmarshal(out, &r) != nil {
			t.Fatalf("token: %v\n%s", err, out)
		}
		return r.Token
	}
	asked := func(token string) question {
		return question{Token: token, Issuer: issuer, Audience: audience, Nonce: nonce}
	}
	party := newRelyingParty(t, svc)
	before := passport()
	first := party.accepts("before the rotation", asked(before))
	if first.Alg != "EdDSA" || first.Payload["sub"] != m.id() || first.Payload["iss"] != issuer || first.Fetches != 1 {
		t.Errorf("%+v", first)
	}
	es256 := passport("--algorithm", "ES256")
	if j := party.accepts("ES256", asked(es256)); j.Alg != "ES256" || j.Fetches != 1 {
		t.Errorf("%+v", j)
	}

	var discovery struct {
		Issuer     string
		JWKS       string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	svc.call(t, http.MethodGet, "/.well-known/openid-configuration", "", nil, http.StatusOK, &discovery)
	if discovery.Issuer != issuer || discovery.JWKS != issuer+"/.well-known/jwks.json" || len(discovery.Algorithms) != 2 {
		t.Errorf("discovery: %+v", discovery)
	}

	mustNotPass(t, party, asked, before)

	// The next keys have been published for an hour; they sign from now on.
	if _, err := svc.sql(t).Exec(t.Context(), `UPDATE service_keys SET created_at = created_at - interval '1 hour' WHERE purpose LIKE 'result_signing%' AND generation = 2`); err != nil {
		t.Fatal(err)
	}
	cli(t, svc, "signing-keys", "rotate")
	during := passport()
	if keyOf(t, during) == keyOf(t, before) {
		t.Fatal("the keys were not rotated")
	}
	if j := party.accepts("signed after the rotation, the key set kept since before", asked(during)); j.Fetches != 1 {
		t.Errorf("the relying party had to fetch the key set again: %d times", j.Fetches)
	}
	party.accepts("ES256 after the rotation", asked(passport("--algorithm", "ES256")))
	party.accepts("signed before the rotation", asked(before))
	later := newRelyingParty(t, svc)
	later.accepts("signed before the rotation, the key set fetched after it", asked(before))
	later.accepts("ES256, likewise", asked(es256))

	// A restart changes nothing.
	if err := svc.terminate(); err != nil {
		t.Fatal(err)
	}
	if err := svc.start(); err != nil {
		t.Fatal(err)
	}
	m.server = svc.url
	after := newRelyingParty(t, svc)
	for story, token := range map[string]string{"before": before, "during": during, "after": passport(), "ES256": es256} {
		after.accepts("after a restart, signed "+story, asked(token))
	}

	// A key in other hands.
	stolen := passport()
	cli(t, svc, "signing-keys", "revoke", keyOf(t, stolen), "--reason", "a test")
	fresh := newRelyingParty(t, svc)
	fresh.refuses("signed by a revoked key", "ERR_JWKS_NO_MATCHING_KEY", asked(stolen))
	fresh.accepts("signed by the key that followed", asked(passport()))
	fresh.accepts("signed by a key that was rotated before", asked(before))
	file := writeFile(t, "stolen.jwt", []byte(stolen))
	cmd := exec.CommandContext(t.Context(), program("assay"), "token", "introspect", file)
	cmd.Env = []string{"HOME=" + workDir, "ASSAY_SERVER=" + svc.url, "ASSAY_TOKEN=" + svc.admin}
	if out, err := cmd.Output(); err == nil || !strings.Contains(string(out), "withdrawn") {
		t.Errorf("introspection of a result of a revoked key: %v %s", err, out)
	}
	if info, err := os.Stat(filepath.Join(svc.dataDir, "key-encryption.keys")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file: %v, %v", info, err)
	}
	if n := one[int](t, svc.sql(t), `SELECT count(*) FROM service_keys WHERE kek_id IS NULL AND erased_at IS NULL`); n != 0 {
		t.Errorf("%d keys are not sealed", n)
	}
}

// mustNotPass are results that the library has to refuse.
func mustNotPass(t *testing.T, party *relyingParty, asked func(string) question, good string) {
	t.Helper()
	other := asked(good)
	other.Audience = "https://somebody.example"
	party.refuses("for another audience", "ERR_JWT_CLAIM_VALIDATION_FAILED", other)
	other = asked(good)
	other.Issuer = "https://somebody.example"
	party.refuses("of another issuer", "ERR_JWT_CLAIM_VALIDATION_FAILED", other)
	other = asked(good)
	other.Nonce = "AAAAAAAAAAAAAAAAAAAAAA"
	party.refuses("with another nonce", "NONCE", other)
	other = asked(good)
	other.At = time.Now().Add(2 * time.Hour).UTC().Format(time.RFC3339)
	party.refuses("two hours later", "ERR_JWT_EXPIRED", other)
	parts := strings.Split(good, ".")
	forged := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(payloadOf(t, good), "contraindicated", "affirming", 1) + " "))
	party.refuses("tampered with", "ERR_JWS_SIGNATURE_VERIFICATION_FAILED", asked(parts[0]+"."+forged+"."+parts[2]))
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"eat+jwt"}`))
	party.refuses("alg none", "ERR_JOSE_ALG_NOT_ALLOWED", asked(none+"."+parts[1]+"."))
}

func payloadOf(t *testing.T, token string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// keyOf is the id of the key that signed a token.
func keyOf(t *testing.T, token string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var header struct{ Kid string }
	if err := json.Unmarshal(raw, &header); err != nil || header.Kid == "" {
		t.Fatalf("header %s: %v", raw, err)
	}
	return header.Kid
}
