package integration_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/server/auth/authtest"
	"github.com/assay-verifier/assay/store/keyring"
)

// heard keeps what somebody was sent.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *heard) add(parts ...[]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range parts {
		h.text.Write(p)
		h.text.WriteByte('\n')
	}
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// eavesdrop is a server that keeps the headers and bodies of what it is sent.
func eavesdrop(t *testing.T) (*httptest.Server, *heard) {
	t.Helper()
	h := &heard{}
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var header bytes.Buffer
		_ = r.Header.Write(&header)
		h.add(header.Bytes(), body)
	}))
	t.Cleanup(s.Close)
	return s, h
}

// answersKept keeps the headers and bodies of answers.
type answersKept struct{ *heard }

func (k answersKept) RoundTrip(r *http.Request) (*http.Response, error) {
	rsp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return rsp, err
	}
	body, err := io.ReadAll(rsp.Body)
	if err != nil {
		return rsp, err
	}
	var header bytes.Buffer
	_ = rsp.Header.Write(&header)
	k.add(header.Bytes(), body)
	rsp.Body = io.NopCloser(bytes.NewReader(body))
	return rsp, nil
}

// TestNoSecretIsShown: a service at its most talkative, through the whole life of a machine, a pipeline, a webhook and a person, shows none
// of the secrets that it gave out or took: not in its log, nor in traces, metrics, errors, lists, pages or what receivers are told. Each
// secret is shown in the one answer that gives it, and nowhere again.
func TestNoSecretIsShown(t *testing.T) {
	collector, traces := eavesdrop(t)
	receiver, told := eavesdrop(t)
	issuer := authtest.Start(t, false)
	kek := filepath.Join(newFolder(t), "keys")
	if _, err := keyring.CreateKeyFile(kek); err != nil {
		t.Fatal(err)
	}
	svc := newService(t, "--log-level", "debug", "--otlp-endpoint", collector.URL, "--trace-ratio", "1", "--notify-allow-http",
		"--notify-allow-networks", "127.0.0.0/8", "--allow-private-issuers", "--allow-insecure-issuers", "--key-file", kek)
	secrets := map[string]string{"admin token": svc.admin, "key-encryption key": lastField(t, kek)}
	keep := func(name, secret string) string {
		t.Helper()
		if len(secret) < 12 {
			t.Fatalf("%s is %q", name, secret)
		}
		secrets[name] = secret
		return secret
	}
	type made struct{ ID, Token, Secret string }
	create := func(path string, body any) (m made) {
		t.Helper()
		svc.post(t, path, body, &m)
		return m
	}

	// A machine, by its own hands: activation, token, evidence, result.
	m := newMachine(t, svc, "secret-web", "secret")
	join := keep("join token", create("/v1/join-tokens", map[string]any{"name": "fleet", "uses": 5}).Token)
	device, ek, ak := m.keys()
	var e client.Enrollment
	svc.call(t, http.MethodPost, "/v1/enrollments", join, string(m.request(ek, ak)), http.StatusCreated, &e)
	activation, err := device.Activate(ak, ek, e.CredentialBlob, e.EncryptedSecret)
	if err != nil {
		t.Fatal(err)
	}
	keep("activation secret", string(activation))
	var active client.Enrollment
	got := svc.activate(t, e.EnrollmentID, activation)
	if err := json.Unmarshal(got.body, &active); err != nil || got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	token := keep("machine token", active.MachineToken)
	var result struct {
		ResultToken string `json:"result_token"`
	}
	evidence := string(m.evidenceBy(device, ak, active.Challenge))
	svc.call(t, http.MethodPost, "/v1/machines/"+e.MachineID+"/evidence", token, evidence, http.StatusCreated, &result)
	keep("result", result.ResultToken)

	// A person, a receiver, a pipeline.
	reader := keep("API token", create("/v1/api-tokens", map[string]any{"name": "reader", "role": "reader"}).Token)
	webhook := create("/v1/webhooks", map[string]any{"name": "siem", "url": receiver.URL + "/in?key=query-of-the-receiver"})
	keep("webhook secret", webhook.Secret)
	keep("query of a webhook", "query-of-the-receiver")
	var rotated made
	svc.call(t, http.MethodPost, "/v1/webhooks/"+webhook.ID+"/rotate-secret", svc.admin, map[string]any{"overlap_seconds": 60}, http.StatusOK, &rotated)
	keep("rotated secret", rotated.Secret)
	provider := create("/v1/identity-providers", map[string]any{"name": "ci", "issuer": issuer.URL(), "audiences": []string{"https://assay.example"}})
	create("/v1/pipeline-rules", map[string]any{"name": "images", "provider_id": provider.ID, "conditions": []any{map[string]any{"claim": "repository", "in": []string{"example/images"}}},
		"baselines": map[string]any{"pattern": "ci-.*"}, "selector": map[string]any{"scale_set": []string{"web"}}, "actions": []string{"create"}, "states": []string{"draft"}})
	pipeline := keep("identity token", issuer.Token(issuer.Claims("https://assay.example", time.Now(), nil)))

	// From here on every answer is kept: none of them gives a secret for the first time.
	answers := &heard{}
	svc.http.Transport = answersKept{answers}
	svc.call(t, http.MethodPost, "/v1/baselines", pipeline, map[string]any{"name": "ci-web", "selector": map[string]any{"scale_set": []string{"web"}}, "state": "draft",
		"reference_values": map[string]any{"claims": map[string]any{"secure_boot": true}}}, http.StatusCreated, nil)
	svc.call(t, http.MethodPost, "/v1/webhooks/"+webhook.ID+"/test", svc.admin, nil, http.StatusOK, nil)
	for _, path := range []string{"/v1/join-tokens", "/v1/api-tokens", "/v1/webhooks", "/v1/webhooks/" + webhook.ID, "/v1/notification-channels", "/v1/identity-providers", "/v1/pipeline-rules",
		"/v1/deliveries", "/v1/machines", "/v1/machines/" + e.MachineID, "/v1/verdicts", "/v1/baselines", "/v1/signing-keys", "/v1/overview", "/.well-known/jwks.json"} {
		svc.call(t, http.MethodGet, path, svc.admin, nil, http.StatusOK, nil)
	}
	// Mistakes: each secret as the wrong credential, in the wrong place, of the wrong kind.
	secretTexts := []string{svc.admin, join, token, reader, webhook.Secret, rotated.Secret, pipeline, base64.StdEncoding.EncodeToString(activation), result.ResultToken}
	for _, secret := range secretTexts {
		for _, path := range []string{"/v1/api-tokens", "/v1/machines/" + e.MachineID + "/evidence", "/v1/results/introspect", "/v1/enrollments"} {
			if _, err := svc.send(t.Context(), http.MethodPost, path, secret, "application/json", []byte(`{`)); err != nil {
				t.Fatal(err)
			}
			if _, err := svc.send(t.Context(), http.MethodGet, path, secret+"x", "", nil); err != nil {
				t.Fatal(err)
			}
		}
		form, err := http.PostForm(svc.url+"/ui/sign-in", url.Values{"token": {secret + "x"}})
		answers.add(whole(t, form, err))
	}
	svc.activate(t, e.EnrollmentID, activation)
	expired := issuer.Token(issuer.Claims("https://assay.example", time.Now().Add(-24*time.Hour), nil))
	svc.call(t, http.MethodGet, "/v1/baselines", keep("expired identity token", expired), nil, http.StatusUnauthorized, nil)
	svc.http.Transport = nil

	metrics, err := http.Get("http://" + svc.adminAddress(t) + "/metrics")
	measured := whole(t, metrics, err)
	audit := one[string](t, svc.sql(t), `SELECT coalesce(string_agg(a::text, ' '), '') FROM audit_events a`)
	if err := svc.terminate(); err != nil { // what traces are left goes out
		t.Fatal(err)
	}
	for where, text := range map[string]string{"log": svc.wholeLog(), "traces": traces.String(), "answers": answers.String(), "metrics": string(measured), "audit record": audit,
		"receiver": told.String()} {
		if len(text) < 500 {
			t.Errorf("the %s holds nearly nothing: %q", where, text)
		}
		for name, secret := range secrets {
			if where == "receiver" && name == "query of a webhook" {
				continue // it is the receiver's own
			}
			for form, shape := range map[string]string{"itself": secret, "hex": hex.EncodeToString([]byte(secret)), "base64": base64.StdEncoding.EncodeToString([]byte(secret)),
				"base64url": base64.RawURLEncoding.EncodeToString([]byte(secret)), "escaped": url.QueryEscape(secret)} {
				if strings.Contains(text, shape) {
					t.Errorf("the %s shows the %s (%s)", where, name, form)
				}
			}
		}
	}
}

// whole is the body of an answer.
func whole(t *testing.T, rsp *http.Response, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rsp.Body.Close() }()
	body, err := io.ReadAll(rsp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// lastField is the key in a key file.
func lastField(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(raw))
	return f[len(f)-1]
}

// adminAddress is where metrics are.
func (s *service) adminAddress(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(s.wholeLog()) {
		var entry struct {
			Msg   string `json:"msg"`
			Admin string `json:"admin_listen"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "ready" {
			return entry.Admin
		}
	}
	t.Fatal("the service is not ready")
	return ""
}
