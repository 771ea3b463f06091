package teetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"
)

// Intel is an Intel of its own: a root, what stands below it, and the key of one processor.
type Intel struct {
	Root, PCKCA, TCBSigner *x509.Certificate
	RootKey, PCKCAKey      *ecdsa.PrivateKey
	TCBSignerKey, PCKKey   *ecdsa.PrivateKey
	AttestationKey         *ecdsa.PrivateKey // of the quoting enclave

	t testing.TB
}

// TDQESigner is MRSIGNER of Intel's TD quoting enclave, and TDQEProduct its ISVPRODID.
const (
	TDQESigner  = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"
	TDQEProduct = 2
)

// TCBSignerUntil is when the certificate of TCB info's signer ends.
var TCBSignerUntil = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// P256 makes a key.
func P256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func intelName(commonName string) pkix.Name {
	return pkix.Name{Organization: []string{"Intel Corporation"}, Country: []string{"US"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"}, CommonName: commonName}
}

// NewIntel makes an Intel.
func NewIntel(t testing.TB) *Intel {
	t.Helper()
	i := &Intel{t: t, RootKey: P256(t), PCKCAKey: P256(t), TCBSignerKey: P256(t), PCKKey: P256(t), AttestationKey: P256(t)}
	root := i.template("Intel SGX Root CA", 0x20000, RootUntil, &i.RootKey.PublicKey, true)
	i.Root = Issue(t, root, root, i.RootKey)
	i.PCKCA = Issue(t, i.template("Intel SGX PCK Platform CA", 0x20001, IntermediateUntil, &i.PCKCAKey.PublicKey, true), i.Root, i.RootKey)
	i.TCBSigner = i.NewTCBSigner()
	return i
}

func (i *Intel) template(commonName string, number int64, until time.Time, key *ecdsa.PublicKey, ca bool) *x509.Certificate {
	c := &x509.Certificate{SerialNumber: serial(number), Subject: intelName(commonName), NotBefore: begin, NotAfter: until,
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: []byte(commonName),
		CRLDistributionPoints: []string{"https://crl.example/root.der"}, SignatureAlgorithm: x509.ECDSAWithSHA256, PublicKey: key}
	if ca {
		c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	return c
}

// NewTCBSigner is a certificate for the key that signs TCB info and identities.
func (i *Intel) NewTCBSigner(edits ...Edit) *x509.Certificate {
	return Issue(i.t, i.template("Intel SGX TCB Signing", 0x20002, TCBSignerUntil, &i.TCBSignerKey.PublicKey, false), i.Root, i.RootKey, edits...)
}

// Anchors is the root.
func (i *Intel) Anchors() []*x509.Certificate { return []*x509.Certificate{i.Root} }

// PEM is a chain as Intel writes it.
func PEM(certificates ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certificates {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// The arc of the SGX extensions (Intel SGX PCK Certificate and CRL Specification, section 1.3.5).
func sgxOID(tail ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, tail...)
}

// Platform is what a PCK certificate says of its processor.
type Platform struct {
	FMSPC, PCEID, CPUSVN []byte // 6, 2, 16 bytes; CPUSVN is the 16 components
	PCESVN               uint16
}

// DefaultPlatform is an ordinary one.
func DefaultPlatform() Platform {
	return Platform{FMSPC: []byte{0x50, 0x80, 0x6f, 0, 0, 0}, PCEID: []byte{0, 0}, CPUSVN: bytes.Repeat([]byte{5}, 16), PCESVN: 11}
}

func (p Platform) extension(t testing.TB) pkix.Extension {
	type entry struct {
		ID    asn1.ObjectIdentifier
		Value any
	}
	tcb := make([]entry, 0, 18)
	for n, svn := range p.CPUSVN {
		tcb = append(tcb, entry{sgxOID(2, n+1), int(svn)})
	}
	tcb = append(tcb, entry{sgxOID(2, 17), int(p.PCESVN)}, entry{sgxOID(2, 18), p.CPUSVN})
	return pkix.Extension{Id: sgxOID(), Value: must[[]byte](t)(asn1.Marshal([]entry{
		{sgxOID(1), bytes.Repeat([]byte{0x99}, 16)}, {sgxOID(2), tcb}, {sgxOID(3), p.PCEID}, {sgxOID(4), p.FMSPC}, {sgxOID(5), asn1.Enumerated(1)}}))}
}

// PCK is the certificate of a processor's key.
func (i *Intel) PCK(p Platform, edits ...Edit) *x509.Certificate {
	c := i.template("Intel SGX PCK Certificate", 0x20003, LeafUntil, &i.PCKKey.PublicKey, false)
	c.ExtraExtensions = []pkix.Extension{p.extension(i.t)}
	return Issue(i.t, c, i.PCKCA, i.PCKCAKey, edits...)
}

// Quote is the fields of a TD quote (Intel TDX DCAP Quoting Library API, appendix A.3). Slices that are too short are
// followed by zeros.
type Quote struct {
	Version, AttestationKeyType uint16
	TEEType                     uint32
	VendorID, UserData          []byte

	TEETCBSVN, MRSeam, MRSignerSeam          []byte
	SeamAttributes, TDAttributes, XFAM       []byte
	MRTD, MRConfigID, MROwner, MROwnerConfig []byte
	RTMRs                                    [4][]byte
	ReportData                               []byte
	QEMiscSelect                             uint32
	QEAttributes, QEMRSigner, QEAuth         []byte
	QEProduct, QESVN                         uint16
	QEReportData                             []byte            // nil is the hash of attestation key and QEAuth
	Chain                                    []byte            // nil is PCK, PCK CA and root
	PCK                                      *x509.Certificate // nil is that of DefaultPlatform
	QuoteSigner, QESigner                    *ecdsa.PrivateKey // nil are the attestation key and the PCK's
	Padding                                  int               // zeros behind the quote
	CertificationType, ChainType             uint16            // 0 are 6 and 5
}

// Fields are those of an ordinary quote.
func (i *Intel) Fields() Quote {
	q := Quote{Version: 4, AttestationKeyType: 2, TEEType: 0x81, VendorID: []byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07},
		TEETCBSVN: append([]byte{5, 1}, bytes.Repeat([]byte{3}, 14)...), MRSeam: bytes.Repeat([]byte{0x5e}, 48),
		TDAttributes: []byte{0, 0, 0, 0x10}, XFAM: []byte{0xe7, 0, 6}, MRTD: bytes.Repeat([]byte{0x3e}, 48), ReportData: bytes.Repeat([]byte{0xda}, 64),
		QEAttributes: []byte{0x11}, QEMRSigner: must[[]byte](i.t)(hex.DecodeString(TDQESigner)), QEProduct: TDQEProduct, QESVN: 4, QEAuth: []byte("quoting enclave")}
	for n := range q.RTMRs {
		q.RTMRs[n] = bytes.Repeat([]byte{0x40 + byte(n)}, 48)
	}
	return q
}

func field(b, value []byte, from, to int) { copy(b[from:to], value) }

// publicBytes are X and Y of a P-256 key.
func publicBytes(key *ecdsa.PublicKey) []byte {
	b, err := key.Bytes()
	if err != nil {
		panic(err)
	}
	return b[1:]
}

// rawSignature is R and S in 32 bytes each.
func rawSignature(t testing.TB, key *ecdsa.PrivateKey, message []byte) []byte {
	sum := sha256.Sum256(message)
	der := must[[]byte](t)(ecdsa.SignASN1(rand.Reader, key, sum[:]))
	var rs struct{ R, S *big.Int }
	must[[]byte](t)(asn1.Unmarshal(der, &rs))
	return append(rs.R.FillBytes(make([]byte, 32)), rs.S.FillBytes(make([]byte, 32))...)
}

// Quote encodes and signs a quote.
func (i *Intel) Quote(q Quote) []byte {
	u16, u32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	head := make([]byte, 0x278)
	u16(head[0:], q.Version)
	u16(head[2:], q.AttestationKeyType)
	u32(head[4:], q.TEEType)
	field(head, q.VendorID, 0xC, 0x1C)
	field(head, q.UserData, 0x1C, 0x30)
	body := head[0x30:]
	field(body, q.TEETCBSVN, 0x00, 0x10)
	field(body, q.MRSeam, 0x10, 0x40)
	field(body, q.MRSignerSeam, 0x40, 0x70)
	field(body, q.SeamAttributes, 0x70, 0x78)
	field(body, q.TDAttributes, 0x78, 0x80)
	field(body, q.XFAM, 0x80, 0x88)
	field(body, q.MRTD, 0x88, 0xB8)
	field(body, q.MRConfigID, 0xB8, 0xE8)
	field(body, q.MROwner, 0xE8, 0x118)
	field(body, q.MROwnerConfig, 0x118, 0x148)
	for n, rtmr := range q.RTMRs {
		field(body, rtmr, 0x148+48*n, 0x148+48*(n+1))
	}
	field(body, q.ReportData, 0x208, 0x248)

	attestationKey := publicBytes(&i.AttestationKey.PublicKey)
	qe := make([]byte, 384)
	u32(qe[0x10:], q.QEMiscSelect)
	field(qe, q.QEAttributes, 0x30, 0x40)
	field(qe, q.QEMRSigner, 0x80, 0xA0)
	u16(qe[0x100:], q.QEProduct)
	u16(qe[0x102:], q.QESVN)
	reportData := q.QEReportData
	if reportData == nil {
		sum := sha256.Sum256(append(bytes.Clone(attestationKey), q.QEAuth...))
		reportData = sum[:]
	}
	field(qe, reportData, 0x140, 0x180)

	chain := q.Chain
	if chain == nil {
		pck := q.PCK
		if pck == nil {
			pck = i.PCK(DefaultPlatform())
		}
		chain = append(PEM(pck, i.PCKCA, i.Root), 0)
	}
	certification := bytes.Clone(qe)
	certification = append(certification, rawSignature(i.t, orDefault(q.QESigner, i.PCKKey), qe)...)
	certification = binary.LittleEndian.AppendUint16(certification, uint16(len(q.QEAuth)))
	certification = append(certification, q.QEAuth...)
	certification = binary.LittleEndian.AppendUint16(certification, orDefault(q.ChainType, 5))
	certification = binary.LittleEndian.AppendUint32(certification, uint32(len(chain)))
	certification = append(certification, chain...)

	signed := append(rawSignature(i.t, orDefault(q.QuoteSigner, i.AttestationKey), head), attestationKey...)
	signed = binary.LittleEndian.AppendUint16(signed, orDefault(q.CertificationType, 6))
	signed = binary.LittleEndian.AppendUint32(signed, uint32(len(certification)))
	signed = append(signed, certification...)
	out := binary.LittleEndian.AppendUint32(head, uint32(len(signed)))
	out = append(out, signed...)
	return append(out, make([]byte, q.Padding)...)
}

// TDReport is the TDREPORT_STRUCT from which the quote of these fields is made (Intel TDX Module ABI).
func (q Quote) TDReport() []byte {
	b := make([]byte, 1024)
	b[0] = 0x81
	field(b, q.ReportData, 128, 192)
	field(b, q.TEETCBSVN, 264, 280)
	field(b, q.MRSeam, 280, 328)
	field(b, q.MRSignerSeam, 328, 376)
	field(b, q.SeamAttributes, 376, 384)
	td := b[512:]
	field(td, q.TDAttributes, 0, 8)
	field(td, q.XFAM, 8, 16)
	field(td, q.MRTD, 16, 64)
	field(td, q.MRConfigID, 64, 112)
	field(td, q.MROwner, 112, 160)
	field(td, q.MROwnerConfig, 160, 208)
	for n, rtmr := range q.RTMRs {
		field(td, rtmr, 208+48*n, 208+48*(n+1))
	}
	return b
}

// HCL is the HCL report of an Azure TDX machine whose vTPM's AK is ak, and the TD quote beside it; a nil vm is VM().
func (i *Intel) HCL(ak *rsa.PublicKey, vm map[string]any, o HCL) (report, quote []byte) {
	runtime := o.runtime(i.t, ak, vm)
	q := i.Fields()
	q.ReportData = o.reportData(runtime)
	if o.Quote != nil {
		o.Quote(&q)
	}
	return o.encode(4, q.TDReport(), runtime), i.Quote(q)
}

// The validity of collateral that is made here by default.
var (
	CollateralFrom  = time.Date(2026, 11, 10, 0, 0, 0, 0, time.UTC)
	TCBInfoUntil    = time.Date(2026, 12, 10, 0, 0, 0, 0, time.UTC)
	QEIdentityUntil = time.Date(2026, 12, 11, 0, 0, 0, 0, time.UTC)
	CRLUntil        = time.Date(2026, 12, 12, 0, 0, 0, 0, time.UTC)
)

// Object is a JSON object in the making.
type Object = map[string]any

// Level is a TCB level of TCB info: what a platform has at least.
func Level(status string, sgx, tdx byte, pceSVN uint16, advisories ...string) Object {
	components := func(svn byte) []Object {
		out := make([]Object, 16)
		for n := range out {
			out[n] = Object{"svn": svn}
		}
		return out
	}
	return Object{"tcb": Object{"sgxtcbcomponents": components(sgx), "pcesvn": pceSVN, "tdxtcbcomponents": components(tdx)},
		"tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": advisories}
}

// SVNLevel is a TCB level of an enclave or a TDX module.
func SVNLevel(status string, svn int, advisories ...string) Object {
	return Object{"tcb": Object{"isvsvn": svn}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": advisories}
}

// TCBInfo is TCB info by which the platform and the quote of Fields are up to date.
func TCBInfo() Object {
	module := Object{"mrsigner": fmt.Sprintf("%096d", 0), "attributes": "0000000000000000", "attributesMask": "FFFFFFFFFFFFFFFF"}
	return Object{"id": "TDX", "version": 3, "issueDate": CollateralFrom, "nextUpdate": TCBInfoUntil, "fmspc": "50806f000000", "pceId": "0000",
		"tcbType": 0, "tcbEvaluationDataNumber": 15, "tdxModule": module,
		"tdxModuleIdentities": []Object{{"id": "TDX_01", "mrsigner": module["mrsigner"], "attributes": module["attributes"],
			"attributesMask": module["attributesMask"], "tcbLevels": []Object{SVNLevel("UpToDate", 5), SVNLevel("OutOfDate", 2, "INTEL-SA-00002")}}},
		"tcbLevels": []Object{Level("UpToDate", 5, 3, 11), Level("OutOfDate", 2, 1, 5, "INTEL-SA-00001")}}
}

// QEIdentity is an identity of Intel's TD quoting enclave by which that of Fields is up to date.
func QEIdentity() Object {
	return Object{"id": "TD_QE", "version": 2, "issueDate": CollateralFrom, "nextUpdate": QEIdentityUntil, "tcbEvaluationDataNumber": 15,
		"miscselect": "00000000", "miscselectMask": "FFFFFFFF", "attributes": "11000000000000000000000000000000",
		"attributesMask": "FBFFFFFFFFFFFFFF0000000000000000", "mrsigner": TDQESigner, "isvprodid": TDQEProduct,
		"tcbLevels": []Object{SVNLevel("UpToDate", 4), SVNLevel("OutOfDate", 2, "INTEL-SA-00003")}}
}

// Signed is an answer of Intel's PCS, "tcbInfo" or "enclaveIdentity", and the chain of its signer.
func (i *Intel) Signed(name string, content Object) (body, chain []byte) {
	return i.SignedBy(name, content, i.TCBSigner, i.TCBSignerKey)
}

// SignedBy is one that somebody else signed.
func (i *Intel) SignedBy(name string, content Object, signer *x509.Certificate, key *ecdsa.PrivateKey) (body, chain []byte) {
	inner := must[[]byte](i.t)(json.Marshal(content))
	return fmt.Appendf(nil, `{%q:%s,"signature":"%x"}`, name, inner, rawSignature(i.t, key, inner)), PEM(signer, i.Root)
}

// CRL is a CRL of the root or the PCK CA, of what it revokes.
func (i *Intel) CRL(issuer *x509.Certificate, thisUpdate, nextUpdate time.Time, certificates ...*x509.Certificate) []byte {
	key := i.RootKey
	if issuer == i.PCKCA {
		key = i.PCKCAKey
	}
	return must[[]byte](i.t)(x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: serial(1), ThisUpdate: thisUpdate, NextUpdate: nextUpdate,
		RevokedCertificateEntries: revoked(certificates, thisUpdate)}, issuer, key))
}
