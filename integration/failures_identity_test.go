package integration_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/integration/swtpm"
)

// keys opens a machine's TPM with its EK and a new AK.
func (m *machine) keys() (*tpmdevice.Device, *tpmdevice.EK, *tpmdevice.Key) {
	m.t.Helper()
	device, err := tpmdevice.Open(m.box.Socket)
	if err != nil {
		m.t.Fatal(err)
	}
	ek, err := device.EK()
	if err != nil {
		m.t.Fatal(errors.Join(err, device.Close()))
	}
	_, ak, err := device.CreateAK(tpmdevice.ECDSA)
	if err != nil {
		m.t.Fatal(errors.Join(err, ek.Close(), device.Close()))
	}
	m.t.Cleanup(func() {
		if err := errors.Join(ak.Close(), ek.Close(), device.Close()); err != nil {
			m.t.Error(err)
		}
	})
	return device, ek, ak
}

// request is an enrolment of the EK with an AK, as JSON.
func (m *machine) request(ek *tpmdevice.EK, ak *tpmdevice.Key) []byte {
	m.t.Helper()
	body, err := json.Marshal(client.EnrollmentRequest{
		Machine:       client.Machine{Name: m.name, ExternalID: "ext-" + m.name, OS: "linux"},
		EKCertificate: ek.Certificate, EKCertificateChain: ek.Chain, EKPublic: ek.Public, AKPublic: ak.Public,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return body
}

// activate sends the secret of an activation.
func (s *service) activate(t *testing.T, enrollment string, secret []byte) answer {
	t.Helper()
	body, err := json.Marshal(map[string][]byte{"secret": secret})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.send(t.Context(), http.MethodPost, "/v1/enrollments/"+enrollment+"/activation", "", "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestCVE202338201ActivationSecretStaysInside: a registrar answered a wrong secret with the right one, and took any number of tries, so that
// a machine could be enrolled with an AK that is in no TPM (CVE-2023-38201). Here the answer to a wrong secret holds nothing of the right
// one, nor does the log; the one try is used up, and the right secret comes too late.
func TestCVE202338201ActivationSecretStaysInside(t *testing.T) {
	svc := newService(t, "--log-level", "debug")
	m := newMachine(t, svc, "secret-web", "")
	device, ek, ak := m.keys()
	enrol := func() (*client.Enrollment, []byte) {
		t.Helper()
		var e client.Enrollment
		svc.call(t, http.MethodPost, "/v1/enrollments", svc.joinToken(t), string(m.request(ek, ak)), http.StatusCreated, &e)
		secret, err := device.Activate(ak, ek, e.CredentialBlob, e.EncryptedSecret)
		if err != nil {
			t.Fatal(err)
		}
		return &e, secret
	}
	for name, wrong := range map[string]func([]byte) []byte{
		"one bit":     func(s []byte) []byte { s[0] ^= 1; return s },
		"too short":   func(s []byte) []byte { return s[:len(s)-1] },
		"too long":    func(s []byte) []byte { return append(s, 0) },
		"all zeros":   func(s []byte) []byte { return make([]byte, len(s)) },
		"its digests": func(s []byte) []byte { return append(s[16:], s[:16]...) },
	} {
		e, secret := enrol()
		got := svc.activate(t, e.EnrollmentID, wrong(bytes.Clone(secret)))
		if got.status != http.StatusForbidden || problemCode(t, got) != "activation_failed" {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		late := svc.activate(t, e.EnrollmentID, secret)
		if late.status != http.StatusConflict || problemCode(t, late) != "activation_used" {
			t.Errorf("%s: the right secret after it: %d %s", name, late.status, late.body)
		}
		for form, text := range map[string]string{"itself": string(secret), "hex": hex.EncodeToString(secret),
			"base64": base64.StdEncoding.EncodeToString(secret), "base64url": base64.RawURLEncoding.EncodeToString(secret)} {
			for where, said := range map[string]string{"answer": string(got.body) + string(late.body), "log": svc.wholeLog()} {
				if bytes.Contains([]byte(said), []byte(text)) {
					t.Errorf("%s: the %s tells the secret (%s)", name, where, form)
				}
			}
		}
		if n := one[int](t, svc.sql(t), `SELECT count(*) FROM attestation_keys`); n != 0 {
			t.Fatalf("%s: %d keys are enrolled", name, n)
		}
	}
	e, secret := enrol() // the machine itself is not locked out
	if got := svc.activate(t, e.EnrollmentID, secret); got.status != http.StatusOK {
		t.Errorf("the right secret in a new enrolment: %d %s", got.status, got.body)
	}
}

// TestCVE20221053TheKeyActivatedIsTheKeyUsed: identity was checked with one key and quotes with another, so that a genuine TPM vouched for
// a software one (CVE-2022-1053). Here a credential names the AK: the EK of one TPM opens none that was made for the key of another, and
// after an activation no other key, of the same TPM or of another, signs for the machine.
func TestCVE20221053TheKeyActivatedIsTheKeyUsed(t *testing.T) {
	svc := sharedService(t)
	real, soft := newMachine(t, svc, "twokeys-web", ""), newMachine(t, svc, "twokeys-other", "")
	real.boot(bootLog(t, "sb-on-1"))
	t.Run("the EK of one and the AK of another", func(t *testing.T) {
		device, ek, own := real.keys()
		_, _, foreign := soft.keys()
		mixed := *real
		mixed.name = "twokeys-mixed"
		var e client.Enrollment
		svc.call(t, http.MethodPost, "/v1/enrollments", svc.joinToken(t), string(mixed.request(ek, foreign)), http.StatusCreated, &e)
		if e.Status != client.ActivationRequired || e.MachineToken != "" {
			t.Fatalf("enrolled before any proof: %+v", e)
		}
		secret, err := device.Activate(own, ek, e.CredentialBlob, e.EncryptedSecret)
		if err == nil {
			got := svc.activate(t, e.EnrollmentID, secret)
			t.Fatalf("the TPM opened a credential for a key that it does not hold: %d %s", got.status, got.body)
		}
		if got := svc.activate(t, e.EnrollmentID, make([]byte, 32)); got.status != http.StatusForbidden {
			t.Errorf("a guess: %d %s", got.status, got.body)
		}
		if n := one[int](t, svc.sql(t), `SELECT count(*) FROM attestation_keys WHERE machine_id = $1`, e.MachineID); n != 0 {
			t.Errorf("%d keys are enrolled", n)
		}
	})
	real.enroll()
	real.attest().must(t, "affirming", "")
	real.judged(real.evidenceFrom(real.challenge(), real.box.Socket, true)).must(t, "contraindicated", "origin_unverified", "quote.signature")
	real.judged(real.evidenceFrom(real.challenge(), soft.box.Socket, true)).must(t, "contraindicated", "origin_unverified", "quote.signature")
	real.attest().must(t, "affirming", "")
}

// TestCVE20213406EKChainEndsInATrustedRoot: an EK certificate was believed without its chain (CVE-2021-3406). Here one of a CA that nobody
// trusts enrols nothing, though the CA calls itself as the trusted one does and sends its own certificates along; so does one whose
// signature is broken.
func TestCVE20213406EKChainEndsInATrustedRoot(t *testing.T) {
	svc := sharedService(t)
	genuine := newMachine(t, svc, "chain-genuine", "")
	stranger := *genuine
	stranger.name = "chain-stranger"
	stranger.box = swtpm.New(t, swtpm.Options{CADir: filepath.Join(newFolder(t), "ca"), Name: stranger.name, Banks: []string{"sha1", "sha256"}})
	_, ek, ak := stranger.keys()
	refused := func(name string, body []byte) {
		t.Helper()
		got, err := svc.send(t.Context(), http.MethodPost, "/v1/enrollments", svc.joinToken(t), "application/json", body)
		if err != nil || got.status != http.StatusUnprocessableEntity || problemCode(t, got) != "ek_untrusted" {
			t.Errorf("%s: %v %d %s", name, err, got.status, got.body)
		}
	}
	if len(ek.Certificate) == 0 {
		t.Fatal("the TPM has no EK certificate")
	}
	refused("a CA of the same name", stranger.request(ek, ak))
	root, err := stranger.box.RootPEM()
	if err != nil {
		t.Fatal(err)
	}
	intermediate, err := stranger.box.IntermediatePEM()
	if err != nil {
		t.Fatal(err)
	}
	own := *ek
	own.Chain = [][]byte{der(t, intermediate), der(t, root)}
	refused("with its own root along", stranger.request(&own, ak))

	_, genuineEK, genuineAK := genuine.keys()
	broken := *genuineEK
	broken.Certificate = bytes.Clone(genuineEK.Certificate)
	broken.Certificate[len(broken.Certificate)-1] ^= 1
	refused("a broken signature", genuine.request(&broken, genuineAK))
	if n := one[int](t, svc.sql(t), `SELECT count(*) FROM machines WHERE name IN ('chain-genuine', 'chain-stranger')`); n != 0 {
		t.Errorf("%d machines were made", n)
	}
}

// TestEndedSessionsTokensAreRefused: what a token could do ends with what it was given for, at once and everywhere: a machine's with its key,
// one of the API with its deletion; a signed result is told to be void when another verdict stands.
func TestEndedSessionsTokensAreRefused(t *testing.T) {
	svc := sharedService(t)
	m := booted(t, svc, "ended-web", "", "sb-on-1")
	first := m.attest().must(t, "affirming", "")
	state, pending := m.agentState(), m.challenge()
	body := m.evidence(pending)

	active := func(result string) bool {
		t.Helper()
		var said struct{ Active bool }
		svc.call(t, http.MethodPost, "/v1/results/introspect", svc.admin, map[string]string{"token": result}, http.StatusOK, &said)
		return said.Active
	}
	if first.Token != "" && !active(first.Token) {
		t.Error("a result is void while its verdict stands")
	}
	svc.call(t, http.MethodDelete, "/v1/machines/"+state.MachineID+"/attestation-keys", svc.admin, nil, http.StatusNoContent, nil)
	for name, path := range map[string]string{"evidence": "/evidence", "challenge": "/challenges", "result": "/results"} {
		sent := body
		if name != "evidence" {
			sent = nil
		}
		got, err := svc.send(t.Context(), http.MethodPost, "/v1/machines/"+state.MachineID+path, state.Bearer(), "application/json", sent)
		if err != nil || got.status != http.StatusUnauthorized {
			t.Errorf("%s by the token of a released key: %v %d %s", name, err, got.status, got.body)
		}
	}
	if first.Token != "" && active(first.Token) {
		t.Error("the result of a released machine still holds")
	}

	var reader struct{ ID, Token string }
	svc.post(t, "/v1/api-tokens", map[string]any{"name": "ended", "role": "reader"}, &reader)
	svc.call(t, http.MethodGet, "/v1/machines", reader.Token, nil, http.StatusOK, nil)
	svc.call(t, http.MethodDelete, "/v1/api-tokens/"+reader.ID, svc.admin, nil, http.StatusNoContent, nil)
	svc.call(t, http.MethodGet, "/v1/machines", reader.Token, nil, http.StatusUnauthorized, nil)
}

// TestStolenMACKeysAreReplaced: whoever stole the keys that authenticate challenges and machine tokens can make both. Deleted from the
// database, they are made anew at the next start: no token of the old key is accepted any more, nor a challenge that was given before, and
// a machine that is released enrols again.
func TestStolenMACKeysAreReplaced(t *testing.T) {
	svc := newService(t)
	m := booted(t, svc, "stolen-web", "", "sb-on-1")
	m.attest().must(t, "affirming", "")
	old, body := m.agentState(), m.evidence(m.challenge())
	if tag, err := svc.sql(t).Exec(t.Context(), `DELETE FROM service_keys WHERE purpose IN ('machine_token', 'challenge_nonce')`); err != nil || tag.RowsAffected() != 2 {
		t.Fatalf("%v, %v", tag, err)
	}
	if err := svc.terminate(); err != nil {
		t.Fatal(err)
	}
	if err := svc.start(); err != nil {
		t.Fatal(err)
	}
	m.server = svc.url
	if got := m.submit(body); got.status != http.StatusUnauthorized {
		t.Errorf("the token of the old key: %d %s", got.status, got.body)
	}
	svc.call(t, http.MethodDelete, "/v1/machines/"+old.MachineID+"/attestation-keys", svc.admin, nil, http.StatusNoContent, nil)
	m.enroll()
	if again := m.agentState(); again.MachineID != old.MachineID || again.Bearer() == old.Bearer() {
		t.Errorf("enrolled as %s with the same token (%t); it was %s", again.MachineID, again.Bearer() == old.Bearer(), old.MachineID)
	}
	if got := m.submit(body); got.status != http.StatusConflict || problemCode(t, got) != "unknown_challenge" {
		t.Errorf("a challenge of the old key: %d %s", got.status, got.body)
	}
	m.attest().must(t, "affirming", "")
}

// der is the first certificate of a PEM file.
func der(t *testing.T, file []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(file)
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}
