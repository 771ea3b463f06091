package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
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
// quote, IMA list; of hardware evidence only what it is bound to. It keeps one machine by external id.
type verifierServer struct {
	*httptest.Server
	t         *testing.T
	roots     []*x509.Certificate
	inters    []*x509.Certificate
	akRoots   []*x509.Certificate
	joinToken string

	mu          sync.Mutex
	machines    map[string]*machine // by external id
	inventory   map[string]client.Machine
	enrollments map[string]*enrollment
	logs        map[string][]byte
	platforms   map[string]bool           // digests of the platform evidence that is held
	enrolled    *client.EnrollmentRequest // the last one
	calls       map[string]int            // "POST evidence", …
	connections int
	interval    int
	lifetime    time.Duration // of a challenge that comes with a verdict
	verdicts    []string
	lastBody    map[string]json.RawMessage // of the last evidence
	before      func(w http.ResponseWriter, r *http.Request) (done bool)
	renew       bool // machine tokens with each verdict
}

type machine struct {
	id, token string
	assurance string
	ak        *tpm.Public // nil: it has no TPM
	platform  string      // digest of its last platform evidence
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
		logs: map[string][]byte{}, platforms: map[string]bool{}, calls: map[string]int{}, interval: 300, lifetime: time.Minute,
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
	s.enrolled = &in
	if in.AKPublic == nil && in.PlatformEvidence == nil {
		refuse(w, 422, "ak_refused", "neither a key nor platform evidence")
		return
	}
	var ak *tpm.Public
	var err error
	if in.AKPublic != nil {
		if ak, err = tpm.ParsePublic(in.AKPublic); err == nil {
			err = tpm.CheckAK(ak)
		}
		if err != nil {
			refuse(w, 422, "ak_refused", err.Error())
			return
		}
	}
	if known := s.machines[in.Machine.ExternalID]; known != nil && ak != nil && !known.ak.SameKey(ak) {
		refuse(w, 409, "identity_conflict", "machine "+known.id+" has another attestation key")
		return
	}
	assurance := ""
	switch {
	case in.PlatformEvidence != nil:
		if err := bound(in.PlatformEvidence, ak, make([]byte, 32)); err != nil {
			refuse(w, 422, "platform_evidence_untrusted", err.Error())
			return
		}
		assurance = "tee_bound"
	case in.AKCertificate != nil:
		if err := s.checkAKCertificate(&in, ak); err != nil {
			refuse(w, 422, "ak_untrusted", err.Error())
			return
		}
		assurance = "ak_certified"
	}
	if assurance != "" {
		s.inventory[in.Machine.ExternalID] = in.Machine
		m := s.activated(in.Machine.ExternalID, ak, assurance)
		answer(w, 201, map[string]any{"enrollment_id": "e", "machine_id": m.id, "status": "active", "assurance": assurance,
			"challenge": s.challenge(m, s.lifetime), "machine_token": m.token})
		return
	}
	ek, err := s.checkEK(&in)
	if err != nil {
		refuse(w, 422, "ek_untrusted", err.Error())
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

func (s *verifierServer) activated(externalID string, ak *tpm.Public, assurance string) *machine {
	m := &machine{id: "m-" + externalID, token: "token-" + hex.EncodeToString(random(8)), assurance: assurance, ak: ak, nonces: map[string]bool{}}
	s.machines[externalID] = m
	return m
}

// bound checks what hardware evidence is over, and nothing else of it: an HCL report names the key, the others hold
// what DESIGN says.
func bound(e *client.PlatformEvidence, ak *tpm.Public, nonce []byte) error {
	want := append(bytes.Clone(nonce), make([]byte, 32)...)
	if ak != nil {
		sum := sha512.Sum512(slices.Concat([]byte("assay-platform-binding-v1\x00"), nonce, ak.Name()))
		want = sum[:]
	}
	var got []byte
	switch {
	case e.Type == client.AzureHCL:
		modulus := base64.RawURLEncoding.EncodeToString(ak.Key().(*rsa.PublicKey).N.Bytes())
		if !bytes.Contains(e.HCLReport, []byte(`"n":"`+modulus+`"`)) {
			return errors.New("the HCL report names another key")
		}
		return nil
	case e.Type == client.SEVSNP && len(e.Report) == 1184:
		got = e.Report[0x50:0x90]
	case e.Type == client.TDX && len(e.Quote) > 632:
		got = e.Quote[568:632]
	}
	if !bytes.Equal(got, want) {
		return errors.New("the report is over other data")
	}
	return nil
}

func (s *verifierServer) checkAKCertificate(in *client.EnrollmentRequest, ak *tpm.Public) error {
	cert, err := x509.ParseCertificate(in.AKCertificate)
	if err != nil {
		return err
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range s.akRoots {
		o.Roots.AddCert(c)
	}
	for _, der := range in.AKCertificateChain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		o.Intermediates.AddCert(c)
	}
	if _, err := cert.Verify(o); err != nil {
		return err
	}
	certified, err := tpm.PublicFromCertificate(cert)
	if err == nil && !certified.SameKey(ak) {
		err = errors.New("the certificate is of another key")
	}
	return err
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
	m := s.activated(e.externalID, e.ak, "ek_activated")
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
	var platform any
	if m.platform != "" {
		platform = m.platform
	}
	offset := 0
	if m.ima != nil {
		offset = m.ima.Entries
	}
	return map[string]any{"nonce": nonce, "expires_at": time.Now().Add(lifetime).UTC(), "known_event_log": known, "known_platform_evidence": platform, "ima_log_offset": offset,
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
	digest := in.PlatformEvidenceDigest
	if in.PlatformEvidence != nil {
		digest = in.PlatformEvidence.Digest()
		s.platforms[digest] = true
	} else if digest != "" && !s.platforms[digest] {
		refuse(w, 409, "platform_evidence_required", "the named evidence is not held")
		return
	}
	m.platform = digest
	nonce, err := nonceOf(&in)
	if err != nil || !m.nonces[string(nonce)] {
		refuse(w, 409, "unknown_challenge", "the nonce was never issued here")
		return
	}
	delete(m.nonces, string(nonce))
	if in.PlatformEvidence != nil {
		if err := bound(in.PlatformEvidence, m.ak, nonce); err != nil {
			refuse(w, 422, "platform_evidence_untrusted", err.Error())
			return
		}
	}
	status, checks := s.judge(m, &in, nonce)
	m.log = in.EventLogDigest
	s.verdicts = append(s.verdicts, status)
	out := map[string]any{"id": "v-" + strconv.Itoa(len(s.verdicts)), "machine_id": m.id, "received_at": time.Now().UTC(),
		"status": status, "reason": nil, "assurance": m.assurance, "checks": checks, "deviations": []any{}, "claims": map[string]any{},
		"next_challenge": s.challenge(m, s.lifetime), "next_attestation_after_seconds": s.interval}
	if s.renew {
		m.token += "x" // the one before is not good here any more, so that the agent has to use it
		out["machine_token"] = m.token
	}
	answer(w, 201, out)
}

// nonceOf reads the nonce where the evidence has it.
func nonceOf(in *client.Evidence) ([]byte, error) {
	switch e := in.PlatformEvidence; {
	case len(in.Quotes) > 0:
		return tpm.PeekExtraData(in.Quotes[0].Message)
	case e == nil:
		return nil, errors.New("neither a quote nor platform evidence")
	case len(e.Report) == 1184:
		return e.Report[0x50:0x70], nil
	case len(e.Quote) > 632:
		return e.Quote[568:600], nil
	}
	return nil, errors.New("no report")
}

func (s *verifierServer) judge(m *machine, in *client.Evidence, nonce []byte) (status string, checks []client.Check) {
	if m.ak == nil {
		return "affirming", []client.Check{{Code: "platform.binding", Status: "pass", Detail: "the report is over the nonce"}}
	}
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
