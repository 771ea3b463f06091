package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/integration/swtpm"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// verifierServer speaks the agent's side of the API and judges for real: EK chain, credential, nonce,
// quote, IMA list. It keeps one machine by external id.
type verifierServer struct {
	*httptest.Server
	t         *testing.T
	roots     []*x509.Certificate
	inters    []*x509.Certificate
	joinToken string

	mu          sync.Mutex
	machines    map[string]*machine // by external id
	inventory   map[string]client.Machine
	enrollments map[string]*enrollment
	logs        map[string][]byte
	calls       map[string]int // "POST evidence", …
	connections int
	interval    int
	lifetime    time.Duration // of a challenge that comes with a verdict
	verdicts    []string
	lastBody    map[string]json.RawMessage // of the last evidence
	before      func(w http.ResponseWriter, r *http.Request) (done bool)
}

type machine struct {
	id, token string
	ak        *tpm.Public
	nonces    map[string]bool
	log       string // digest of the last log
	ima       *ima.State
	clock     *tpm.ClockState
}

type enrollment struct {
	externalID string
	ak         *tpm.Public
	secret     []byte
}

func newServer(t *testing.T, box *swtpm.TPM, useTLS bool) *verifierServer {
	t.Helper()
	s := &verifierServer{
		t: t, joinToken: "join-me", machines: map[string]*machine{}, inventory: map[string]client.Machine{}, enrollments: map[string]*enrollment{},
		logs: map[string][]byte{}, calls: map[string]int{}, interval: 300, lifetime: time.Minute,
	}
	root, err := box.RootPEM()
	if err != nil {
		t.Fatal(err)
	}
	inter, err := box.IntermediatePEM()
	if err != nil {
		t.Fatal(err)
	}
	s.roots, s.inters = certs(t, root), certs(t, inter)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/enrollments", s.enroll)
	mux.HandleFunc("POST /v1/enrollments/{id}/activation", s.activate)
	mux.HandleFunc("POST /v1/machines/{id}/challenges", s.challenges)
	mux.HandleFunc("PUT /v1/machines/{id}/event-logs/{sha256}", s.putLog)
	mux.HandleFunc("POST /v1/machines/{id}/evidence", s.evidence)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		parts := strings.Split(r.URL.Path, "/")
		name := parts[len(parts)-1]
		if r.Method == http.MethodPut {
			name = "event-log"
		}
		s.calls[r.Method+" "+name]++
		if s.before != nil && s.before(w, r) {
			return
		}
		mux.ServeHTTP(w, r)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			s.connections++
			s.mu.Unlock()
		}
	}
	if useTLS {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func certs(t *testing.T, text []byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func refuse(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "about:blank", "title": "Refused", "status": status, "code": code, "detail": detail})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// read decodes a body strictly, as the service does.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		refuse(w, 400, "malformed_json", err.Error())
		return false
	}
	return true
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func (s *verifierServer) enroll(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+s.joinToken {
		refuse(w, 401, "unauthenticated", "the join token is unknown, expired or used up")
		return
	}
	var in client.EnrollmentRequest
	if !read(w, r, &in) {
		return
	}
	ak, err := tpm.ParsePublic(in.AKPublic)
	if err == nil {
		err = tpm.CheckAK(ak)
	}
	if err != nil {
		refuse(w, 422, "ak_refused", err.Error())
		return
	}
	ek, err := s.checkEK(&in)
	if err != nil {
		refuse(w, 422, "ek_untrusted", err.Error())
		return
	}
	if known := s.machines[in.Machine.ExternalID]; known != nil && !known.ak.SameKey(ak) {
		refuse(w, 409, "identity_conflict", "machine "+known.id+" has another attestation key")
		return
	}
	secret := random(32)
	blob, encrypted, err := tpm.MakeCredential(ek, ak.Name(), secret, rand.Reader)
	if err != nil {
		refuse(w, 422, "ek_untrusted", err.Error())
		return
	}
	s.inventory[in.Machine.ExternalID] = in.Machine
	id := hex.EncodeToString(random(8))
	s.enrollments[id] = &enrollment{externalID: in.Machine.ExternalID, ak: ak, secret: secret}
	answer(w, 201, map[string]any{"enrollment_id": id, "machine_id": "m-" + in.Machine.ExternalID, "status": "activation_required",
		"credential_blob": blob, "encrypted_secret": encrypted})
}

func (s *verifierServer) checkEK(in *client.EnrollmentRequest) (*tpm.Public, error) {
	ek, err := tpm.ParsePublic(in.EKPublic)
	if err != nil {
		return nil, err
	}
	cert, err := tpm.ParseEKCertificate(in.EKCertificate)
	if err != nil {
		return nil, err
	}
	if err := tpm.MatchEK(cert, ek); err != nil {
		return nil, err
	}
	inters := s.inters
	if len(in.EKCertificateChain) > 0 { // then only what the agent sent
		inters = nil
		for _, der := range in.EKCertificateChain {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, err
			}
			inters = append(inters, c)
		}
	}
	_, err = tpm.VerifyEKChain(cert, inters, s.roots, time.Now())
	return ek, err
}

func (s *verifierServer) activate(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Secret []byte `json:"secret"`
	}
	if !read(w, r, &in) {
		return
	}
	e := s.enrollments[r.PathValue("id")]
	delete(s.enrollments, r.PathValue("id"))
	if e == nil || subtle.ConstantTimeCompare(e.secret, in.Secret) != 1 {
		refuse(w, 403, "activation_failed", "the secret is wrong")
		return
	}
	m := &machine{id: "m-" + e.externalID, token: "token-" + hex.EncodeToString(random(8)), ak: e.ak, nonces: map[string]bool{}}
	s.machines[e.externalID] = m
	answer(w, 200, map[string]any{"machine_id": m.id, "status": "active", "assurance": "ek_activated",
		"challenge": s.challenge(m, s.lifetime), "machine_token": m.token})
}

func (s *verifierServer) challenge(m *machine, lifetime time.Duration) map[string]any {
	nonce := random(32)
	m.nonces[string(nonce)] = true
	var known any
	if m.log != "" {
		known = m.log
	}
	offset := 0
	if m.ima != nil {
		offset = m.ima.Entries
	}
	return map[string]any{"nonce": nonce, "expires_at": time.Now().Add(lifetime).UTC(), "known_event_log": known, "ima_log_offset": offset,
		"pcr_selection": map[string][]int{"sha256": {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}}}
}

func (s *verifierServer) machine(w http.ResponseWriter, r *http.Request) *machine {
	for _, m := range s.machines {
		if m.id == r.PathValue("id") && r.Header.Get("Authorization") == "Bearer "+m.token {
			return m
		}
	}
	refuse(w, 401, "unauthenticated", "not this machine's token")
	return nil
}

func (s *verifierServer) challenges(w http.ResponseWriter, r *http.Request) {
	if m := s.machine(w, r); m != nil {
		answer(w, 201, s.challenge(m, time.Minute))
	}
}

func (s *verifierServer) putLog(w http.ResponseWriter, r *http.Request) {
	if s.machine(w, r) == nil {
		return
	}
	body, err := io.ReadAll(r.Body)
	sum := sha256.Sum256(body)
	if name := hex.EncodeToString(sum[:]); err != nil || name != r.PathValue("sha256") || r.Header.Get("Content-Type") != "application/octet-stream" {
		refuse(w, 422, "digest_mismatch", "the body does not hash to its name")
		return
	}
	s.logs["sha256:"+r.PathValue("sha256")] = body
	w.WriteHeader(204)
}

func (s *verifierServer) evidence(w http.ResponseWriter, r *http.Request) {
	m := s.machine(w, r)
	if m == nil {
		return
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.lastBody = map[string]json.RawMessage{}
	_ = json.Unmarshal(raw, &s.lastBody)
	r.Body = io.NopCloser(bytes.NewReader(raw))
	var in client.Evidence
	if !read(w, r, &in) {
		return
	}
	if in.EventLog != nil {
		sum := sha256.Sum256(in.EventLog)
		in.EventLogDigest = "sha256:" + hex.EncodeToString(sum[:])
		s.logs[in.EventLogDigest] = in.EventLog
	}
	if in.EventLogDigest != "" && s.logs[in.EventLogDigest] == nil {
		refuse(w, 409, "event_log_required", "the named log is not held")
		return
	}
	nonce, err := tpm.PeekExtraData(in.Quotes[0].Message)
	if err != nil || !m.nonces[string(nonce)] {
		refuse(w, 409, "unknown_challenge", "the nonce was never issued here")
		return
	}
	delete(m.nonces, string(nonce))
	status, checks := s.judge(m, &in, nonce)
	m.log = in.EventLogDigest
	s.verdicts = append(s.verdicts, status)
	answer(w, 201, map[string]any{"id": "v-" + strconv.Itoa(len(s.verdicts)), "machine_id": m.id, "received_at": time.Now().UTC(),
		"status": status, "reason": nil, "assurance": "ek_activated", "checks": checks, "deviations": []any{}, "claims": map[string]any{},
		"next_challenge": s.challenge(m, s.lifetime), "next_attestation_after_seconds": s.interval})
}

func (s *verifierServer) judge(m *machine, in *client.Evidence, nonce []byte) (status string, checks []client.Check) {
	var pcrs tpm.PCRs
	for name, values := range in.PCRs {
		alg, _ := tpm.ParseHashAlg(name)
		bank := tpm.Bank{Alg: alg}
		for index, text := range values {
			i, _ := strconv.Atoi(index)
			bank.Values[i], _ = hex.DecodeString(text)
			bank.Mask |= 1 << i
		}
		pcrs = append(pcrs, bank)
	}
	var quotes []tpm.Quote
	for _, q := range in.Quotes {
		quotes = append(quotes, tpm.Quote{Message: q.Message, Signature: q.Signature})
	}
	verified, report := tpm.Verify(m.ak, quotes, pcrs, tpm.Expectation{Freshness: tpm.Freshness{Nonce: nonce}, Last: m.clock,
		Required: []tpm.Selection{{Alg: tpm.SHA256, Mask: 0x7fff}}})
	for _, step := range report.Steps {
		checks = append(checks, client.Check{Code: step.Step.Code(), Status: step.Outcome.String(), Detail: step.Detail})
	}
	if verified == nil {
		return "contraindicated", checks
	}
	clock := verified.Clock()
	if m.clock != nil && m.clock.ResetCount != clock.ResetCount {
		m.ima = nil
	}
	m.clock = &clock
	check := client.Check{Code: "ima.replay", Status: "skipped", Detail: "no list"}
	if in.IMALog != nil {
		check = s.judgeIMA(m, in, pcrs)
	}
	checks = append(checks, check)
	if check.Status == "fail" {
		return "contraindicated", checks
	}
	return "affirming", checks
}

func (s *verifierServer) judgeIMA(m *machine, in *client.Evidence, pcrs tpm.PCRs) client.Check {
	list, err := ima.Parse(in.IMALog)
	if err != nil {
		return client.Check{Code: "ima.replay", Status: "fail", Detail: err.Error()}
	}
	from := m.ima
	if in.IMALogOffset == 0 {
		from = nil
	} else if from == nil || from.Entries != in.IMALogOffset {
		return client.Check{Code: "ima.replay", Status: "fail", Detail: fmt.Sprintf("the list starts at entry %d", in.IMALogOffset)}
	}
	quoted := map[tpm.HashAlg][]byte{}
	for i := range pcrs {
		quoted[pcrs[i].Alg] = pcrs[i].Values[10]
	}
	next, rep := list.Replay(quoted, from)
	if rep.Status == ima.Pass {
		m.ima = &next
	}
	return client.Check{Code: "ima.replay", Status: rep.Status.String(), Detail: rep.Detail}
}
