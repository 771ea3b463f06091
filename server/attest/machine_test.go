package attest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"log"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"github.com/google/uuid"

	"github.com/assay-verifier/assay/integration/swtpm"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// specimen is a file of one of the project's captured boots.
func specimen(t testing.TB, boot, file string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "integration", "testdata", "boots", boot, "evidence", file))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

const bootLog = "binary_bios_measurements"

// machine is a real software TPM that has booted one of the captured boots: each event's digest was
// extended into its PCRs. It does by hand what an agent does.
type machine struct {
	t      testing.TB
	box    *swtpm.TPM
	device transport.TPM
	ek, ak key
	log    []byte

	id    uuid.UUID
	keyID uuid.UUID
}

type key struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public []byte // TPMT_PUBLIC
}

func execute[R any](t testing.TB, device transport.TPM, cmd interface {
	Execute(transport.TPM, ...tpm2.Session) (*R, error)
}) *R {
	t.Helper()
	r, err := cmd.Execute(device)
	if err != nil {
		t.Fatalf("%T: %v", cmd, err)
	}
	return r
}

// pool keeps the software TPMs of finished tests for later ones: making one takes longer than a test. To
// another test it is another machine, since each has a database of its own.
var pool tpmPool

type tpmPool struct {
	mu   sync.Mutex
	dir  string
	made []*swtpm.TPM
	free []*swtpm.TPM
}

// take gives a TPM that has just been reset, with a CA of its own.
func (p *tpmPool) take(t testing.TB) *swtpm.TPM {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	ctx := context.Background()
	var box *swtpm.TPM
	if n := len(p.free); n > 0 {
		box, p.free = p.free[n-1], p.free[:n-1]
		if err := box.Reset(ctx); err != nil {
			t.Fatal(err)
		}
	} else {
		var err error
		if box, err = swtpm.Start(ctx, filepath.Join(p.dir, "tpm"+strconv.Itoa(len(p.made))), swtpm.Options{Banks: []string{"sha256"}}); err != nil {
			t.Fatal(err)
		}
		p.made = append(p.made, box)
	}
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.free = append(p.free, box)
	})
	return box
}

func (p *tpmPool) stop() {
	for _, box := range p.made {
		if err := box.Stop(); err != nil {
			log.Print(err)
		}
	}
}

// newMachine boots a TPM.
func newMachine(t testing.TB, boot string) *machine {
	t.Helper()
	m := &machine{t: t, box: pool.take(t)}
	m.connect()
	m.ek = m.readEK()
	m.ak = m.newAK()
	m.boot(specimen(t, boot, bootLog))
	return m
}

func (m *machine) connect() {
	m.t.Helper()
	// A socket that has just been made may not be listened on yet.
	var conn net.Conn
	var err error
	for range 200 {
		if conn, err = net.Dial("unix", m.box.Socket); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	_ = conn.Close()
	if m.device, err = linuxudstpm.Open(m.box.Socket); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) readEK() key {
	m.t.Helper()
	const rsa2048 tpm2.TPMHandle = 0x81010001
	r := execute[tpm2.ReadPublicResponse](m.t, m.device, tpm2.ReadPublic{ObjectHandle: rsa2048})
	return key{rsa2048, r.Name, r.OutPublic.Bytes()}
}

// newAK makes a primary key under the owner hierarchy; unique makes one machine's keys differ.
func (m *machine) newAK() key {
	m.t.Helper()
	r := execute[tpm2.CreatePrimaryResponse](m.t, m.device, tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(m.template())})
	return key{r.ObjectHandle, r.Name, r.OutPublic.Bytes()}
}

// template is that of an AK which no other call has.
func (m *machine) template() tpm2.TPMTPublic {
	template := tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true,
			NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}})}
	unique := uuid.New()
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: bytes.Repeat(unique[:], 2)}})
	return template
}

// boot extends every event of a log, as firmware and boot loaders did when it was captured.
func (m *machine) boot(raw []byte) {
	m.t.Helper()
	m.log = raw
	log, err := eventlog.Parse(raw)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range log.Events() {
		if !e.Extended {
			continue
		}
		for _, d := range e.Digests {
			if d.Alg == tpm.SHA256 {
				m.extend(e.PCR, d.Bytes)
			}
		}
	}
}

func (m *machine) extend(pcr int, digest []byte) {
	m.t.Helper()
	execute[tpm2.PCRExtendResponse](m.t, m.device, tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)}, //nolint:gosec // 0 to 23
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}}})
}

// reboot resets the TPM, which clears its PCRs and counts resetCount up, and boots another log.
func (m *machine) reboot(raw []byte) {
	m.t.Helper()
	m.persist()
	if err := m.box.Reset(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	m.connect()
	m.boot(raw)
}

// persist keeps the AK in the TPM over resets, until the test ends.
func (m *machine) persist() {
	m.t.Helper()
	const persistent tpm2.TPMHandle = 0x81000001
	if m.ak.handle == persistent {
		return
	}
	evict := func(handle tpm2.TPMHandle) {
		execute[tpm2.EvictControlResponse](m.t, m.device, tpm2.EvictControl{
			Auth:         tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle: &tpm2.NamedHandle{Handle: handle, Name: m.ak.name}, PersistentHandle: persistent})
	}
	evict(m.ak.handle)
	m.ak.handle = persistent
	m.t.Cleanup(func() { evict(persistent) })
}

// request is the machine's enrolment, with its EK certificate and the CA's intermediate.
func (m *machine) request(name string) EnrolRequest {
	m.t.Helper()
	cert, err := m.box.EKCertificate("rsa2048")
	if err != nil {
		m.t.Fatal(err)
	}
	text, err := m.box.IntermediatePEM()
	if err != nil {
		m.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	return EnrolRequest{
		Machine: store.MachineInput{ExternalID: "ext-" + name, Name: name, OS: "linux", Platform: "qemu",
			SecurityType: "confidential_snp", Labels: map[string]string{}},
		EKCertificate: cert, EKCertificateChain: [][]byte{block.Bytes}, EKPublic: m.ek.public, AKPublic: m.ak.public,
	}
}

// trust makes the machine's CA an anchor of a purpose.
func (b *bench) trust(m *machine, purpose string) {
	b.t.Helper()
	text, err := m.box.RootPEM()
	if err != nil {
		b.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	_, err = b.store.CreateTrustAnchor(b.ctx, b.tenant, store.TrustAnchor{Name: "swtpm " + uuid.NewString(), Purpose: purpose, CreatedAt: b.now(),
		Certificates: []store.TrustCertificate{{DER: block.Bytes, Subject: "test", Fingerprint: fingerprintOf(block.Bytes)}}}, b.now(), admin)
	if err != nil {
		b.t.Fatal(err)
	}
}

func fingerprintOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// open decrypts a credential in the TPM (TPM2_ActivateCredential).
func (m *machine) open(blob, encrypted []byte) ([]byte, error) {
	m.t.Helper()
	object, err := tpm2.Unmarshal[tpm2.TPM2BIDObject](blob)
	if err != nil {
		m.t.Fatal(err)
	}
	secret, err := tpm2.Unmarshal[tpm2.TPM2BEncryptedSecret](encrypted)
	if err != nil {
		m.t.Fatal(err)
	}
	policy := tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(device transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			PolicySession: session, NonceTPM: nonce}.Execute(device)
		return err
	})
	r, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: m.ak.handle, Name: m.ak.name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: m.ek.handle, Name: m.ek.name, Auth: policy},
		CredentialBlob: *object, Secret: *secret}.Execute(m.device)
	if err != nil {
		return nil, err
	}
	return r.CertInfo.Buffer, nil
}

// enrol takes a machine through enrolment and activation.
func (b *bench) enrol(m *machine, name string) *ActivateResult {
	b.t.Helper()
	e, err := b.Enrol(b.ctx, b.tenant, m.request(name), b.join, admin)
	if err != nil {
		b.t.Fatal(err)
	}
	secret, err := m.open(e.CredentialBlob, e.EncryptedSecret)
	if err != nil {
		b.t.Fatal(err)
	}
	a, err := b.Activate(b.ctx, b.tenant, e.EnrollmentID, secret, admin)
	if err != nil {
		b.t.Fatal(err)
	}
	m.id = a.MachineID
	if m.keyID, err = b.keyOf(a.MachineToken); err != nil {
		b.t.Fatal(err)
	}
	return a
}

// enrolled is a healthy machine with an active key.
func (b *bench) enrolled(boot string) *machine {
	b.t.Helper()
	m := newMachine(b.t, boot)
	b.trust(m, "ek")
	b.enrol(m, "web-"+uuid.NewString()[:8])
	return m
}

// evidence is the JSON body of an evidence POST.
type evidence struct {
	Quotes         []map[string]string          `json:"quotes,omitempty"`
	PCRs           map[string]map[string]string `json:"pcrs,omitempty"`
	EventLog       string                       `json:"event_log,omitempty"`
	EventLogDigest string                       `json:"event_log_digest,omitempty"`
	IMALog         string                       `json:"ima_log,omitempty"`
	IMALogOffset   int                          `json:"ima_log_offset,omitempty"`
	Platform       map[string]any               `json:"platform_evidence,omitempty"`
	PlatformDigest string                       `json:"platform_evidence_digest,omitempty"`
}

func (e *evidence) body(t testing.TB) []byte {
	t.Helper()
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// quote signs PCR 0 to 14 over a nonce and makes evidence of it, the boot log included.
func (m *machine) quote(nonce []byte) *evidence {
	m.t.Helper()
	mask := []byte{0xff, 0x7f, 0x00}
	q := execute[tpm2.QuoteResponse](m.t, m.device, tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: m.ak.handle, Name: m.ak.name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: nonce}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: mask}}}})
	values := map[string]string{}
	for first := 0; first < 16; first += 8 {
		part := []byte{0, 0, 0}
		part[first/8] = mask[first/8]
		r := execute[tpm2.PCRReadResponse](m.t, m.device, tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{
			PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: part}}}})
		for i, d := range r.PCRValues.Digests {
			values[strconv.Itoa(first+i)] = hex.EncodeToString(d.Buffer)
		}
	}
	b64 := base64.StdEncoding.EncodeToString
	return &evidence{
		Quotes:   []map[string]string{{"message": b64(q.Quoted.Bytes()), "signature": b64(tpm2.Marshal(q.Signature))}},
		PCRs:     map[string]map[string]string{"sha256": values},
		EventLog: b64(m.log),
	}
}

// post sends evidence as the machine.
func (b *bench) post(m *machine, e *evidence) (*Result, error) {
	b.t.Helper()
	return b.Appraise(b.ctx, b.tenant, m.id, "application/json", e.body(b.t), store.Actor{Kind: "machine", ID: m.id.String()}, ByKey(m.keyID))
}

// attest asks for a challenge and answers it.
func (b *bench) attest(m *machine) *Result {
	b.t.Helper()
	r, err := b.post(m, m.quote(b.nonce(m)))
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) nonce(m *machine) []byte {
	b.t.Helper()
	c, err := b.Challenge(b.ctx, b.tenant, m.id, admin)
	if err != nil {
		b.t.Fatal(err)
	}
	return c.Nonce[:]
}
