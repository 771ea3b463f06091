package server

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/assay-verifier/assay/integration/swtpm"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// bootLog is a log of one of the project's captured boots.
func bootLog(t testing.TB, boot string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "integration", "testdata", "boots", boot, "evidence", "binary_bios_measurements"))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// machine is a software TPM that has booted a captured boot, and an agent that does by hand what one does.
type machine struct {
	t      testing.TB
	box    *swtpm.TPM
	device transport.TPM
	ek, ak *tpm2.NamedHandle
	ekPub  []byte
	akPub  []byte
	log    []byte

	id, token string
}

func run[R any](t testing.TB, device transport.TPM, cmd interface {
	Execute(transport.TPM, ...tpm2.Session) (*R, error)
}) *R {
	t.Helper()
	r, err := cmd.Execute(device)
	if err != nil {
		t.Fatalf("%T: %v", cmd, err)
	}
	return r
}

func newMachine(t testing.TB, boot string) *machine {
	t.Helper()
	m := &machine{t: t, box: swtpm.New(t, swtpm.Options{Banks: []string{"sha256"}}), log: bootLog(t, boot)}
	device, err := linuxudstpm.Open(m.box.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = device.Close() })
	m.device = device
	ek := run[tpm2.ReadPublicResponse](t, device, tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x81010001)})
	m.ek, m.ekPub = &tpm2.NamedHandle{Handle: 0x81010001, Name: ek.Name}, ek.OutPublic.Bytes()
	m.ak, m.akPub = m.newKey(1)
	log, err := eventlog.Parse(m.log)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range log.Events() {
		for _, d := range e.Digests {
			if e.Extended && d.Alg == tpm.SHA256 {
				m.extend(e.PCR, d.Bytes)
			}
		}
	}
	return m
}

// newKey makes an attestation key; n makes several differ.
func (m *machine) newKey(n byte) (*tpm2.NamedHandle, []byte) {
	m.t.Helper()
	template := tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte{n}}})}
	r := run[tpm2.CreatePrimaryResponse](m.t, m.device, tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template)})
	return &tpm2.NamedHandle{Handle: r.ObjectHandle, Name: r.Name}, r.OutPublic.Bytes()
}

// otherKey is the public area of one more attestation key, which is not used.
func (m *machine) otherKey(n byte) []byte {
	m.t.Helper()
	handle, public := m.newKey(n)
	run[tpm2.FlushContextResponse](m.t, m.device, tpm2.FlushContext{FlushHandle: handle.Handle})
	return public
}

func (m *machine) extend(pcr int, digest []byte) {
	m.t.Helper()
	run[tpm2.PCRExtendResponse](m.t, m.device, tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)}, //nolint:gosec // 0 to 23
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}}})
}

func (m *machine) rootPEM() string {
	m.t.Helper()
	text, err := m.box.RootPEM()
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}

// enrollment is the body of POST /v1/enrollments.
func (m *machine) enrollment(name string) map[string]any {
	m.t.Helper()
	cert, err := m.box.EKCertificate("rsa2048")
	if err != nil {
		m.t.Fatal(err)
	}
	intermediate, err := m.box.IntermediatePEM()
	if err != nil {
		m.t.Fatal(err)
	}
	block, _ := pem.Decode(intermediate)
	return map[string]any{
		"machine": map[string]any{"name": name, "external_id": "ext-" + name, "os": "linux", "platform": "qemu",
			"security_type": "confidential_snp", "scale_set": "web", "labels": map[string]string{"env": "prod"}},
		"ek_certificate": cert, "ek_certificate_chain": [][]byte{block.Bytes}, "ek_public": m.ekPub, "ak_public": m.akPub,
	}
}

// open decrypts a credential in the TPM.
func (m *machine) open(blob, secret []byte) []byte {
	m.t.Helper()
	object, err := tpm2.Unmarshal[tpm2.TPM2BIDObject](blob)
	if err != nil {
		m.t.Fatal(err)
	}
	encrypted, err := tpm2.Unmarshal[tpm2.TPM2BEncryptedSecret](secret)
	if err != nil {
		m.t.Fatal(err)
	}
	policy := tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(device transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, PolicySession: session, NonceTPM: nonce}.Execute(device)
		return err
	})
	return run[tpm2.ActivateCredentialResponse](m.t, m.device, tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: m.ak.Handle, Name: m.ak.Name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: m.ek.Handle, Name: m.ek.Name, Auth: policy},
		CredentialBlob: *object, Secret: *encrypted}).CertInfo.Buffer
}

// evidence quotes PCR 0 to 14 over a nonce; the caller adds the log.
func (m *machine) evidence(nonce []byte) map[string]any {
	m.t.Helper()
	mask := []byte{0xff, 0x7f, 0x00}
	q := run[tpm2.QuoteResponse](m.t, m.device, tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: m.ak.Handle, Name: m.ak.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: nonce}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: mask}}}})
	values := map[string]string{}
	for first := 0; first < 16; first += 8 {
		part := []byte{0, 0, 0}
		part[first/8] = mask[first/8]
		r := run[tpm2.PCRReadResponse](m.t, m.device, tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{
			PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: part}}}})
		for i, d := range r.PCRValues.Digests {
			values[strconv.Itoa(first+i)] = hex.EncodeToString(d.Buffer)
		}
	}
	return map[string]any{
		"quotes": []map[string]any{{"message": q.Quoted.Bytes(), "signature": tpm2.Marshal(q.Signature)}},
		"pcrs":   map[string]any{"sha256": values},
	}
}

// field is binary data in a JSON answer.
func (a answer) bytes(t testing.TB, field string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(a.text(t, field))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// enrol takes the machine through enrolment and activation.
func (b *bench) enrol(m *machine, name, join string) {
	b.t.Helper()
	e := b.want(201, "POST", "/v1/enrollments", join, m.enrollment(name))
	a := b.want(200, "POST", "/v1/enrollments/"+e.text(b.t, "enrollment_id")+"/activation", "",
		map[string]any{"secret": m.open(e.bytes(b.t, "credential_blob"), e.bytes(b.t, "encrypted_secret"))})
	m.id, m.token = a.text(b.t, "machine_id"), a.text(b.t, "machine_token")
}

func (b *bench) nonce(m *machine) []byte {
	b.t.Helper()
	return b.want(201, "POST", "/v1/machines/"+m.id+"/challenges", m.token, nil).bytes(b.t, "nonce")
}

// attest answers a fresh challenge, with the log in the body.
func (b *bench) attest(m *machine) answer {
	b.t.Helper()
	e := m.evidence(b.nonce(m))
	e["event_log"] = m.log
	return b.want(201, "POST", "/v1/machines/"+m.id+"/evidence", m.token, e)
}

func (b *bench) joinToken() string {
	b.t.Helper()
	return b.want(201, "POST", "/v1/join-tokens", b.admin, `{"name": "fleet", "uses": 50, "expires_in_seconds": 3600}`).text(b.t, "token")
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
