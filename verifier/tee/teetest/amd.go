package teetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"
)

// The product lines, as AMD's certificates spell them.
const (
	Milan = "Milan"
	Genoa = "Genoa"
	Turin = "Turin"
)

// ReportSize is the size of an ATTESTATION_REPORT; signed is the part before its signature.
const (
	ReportSize = 1184
	signed     = 0x2A0
)

// TCB is a TCB_VERSION by its parts. FMC counts for Turin only.
type TCB struct{ FMC, Bootloader, TEE, SNP, Microcode uint8 }

// bytes are the 8 bytes as they stand in a report (AMD 56860, tables 3 and 4).
func (t TCB) bytes(product string) []byte {
	if product == Turin {
		return []byte{t.FMC, t.Bootloader, t.TEE, t.SNP, 0, 0, 0, t.Microcode}
	}
	return []byte{t.Bootloader, t.TEE, 0, 0, 0, 0, t.SNP, t.Microcode}
}

// AMD is an AMD of its own: a root for one product line, and the keys of one chip and one cloud provider.
type AMD struct {
	Product        string
	ARK, ASK, ASVK *x509.Certificate
	VCEKKey        *ecdsa.PrivateKey
	VLEKKey        *ecdsa.PrivateKey
	ChipID         []byte // 64 bytes; of Turin the first 8 count and the others are zero
	TCB            TCB    // of the reports that Fields makes

	t                      testing.TB
	arkKey, askKey, asvKey *rsa.PrivateKey
}

// NewAMD makes an AMD. All that a test binary makes of one product have the same root.
func NewAMD(t testing.TB, product string) *AMD {
	t.Helper()
	return newAMD(t, product, "amd")
}

// NewFalseAMD makes one with the same names and other keys.
func NewFalseAMD(t testing.TB, product string) *AMD {
	t.Helper()
	return newAMD(t, product, "false amd")
}

func amdName(commonName string) pkix.Name {
	return pkix.Name{Organization: []string{"Advanced Micro Devices"}, Country: []string{"US"}, OrganizationalUnit: []string{"Engineering"},
		Locality: []string{"Santa Clara"}, Province: []string{"CA"}, CommonName: commonName}
}

func newAMD(t testing.TB, product, who string) *AMD {
	t.Helper()
	a := &AMD{Product: product, t: t, TCB: TCB{FMC: 1, Bootloader: 4, TEE: 2, SNP: 24, Microcode: 220},
		arkKey: RSAKey(t, who+" ark"), askKey: RSAKey(t, who+" ask"), asvKey: RSAKey(t, who+" asvk")}
	a.VCEKKey = must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	a.VLEKKey = must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	a.ChipID = make([]byte, 64)
	size := 64
	if product == Turin {
		size = 8
	}
	must[int](t)(rand.Read(a.ChipID[:size]))
	anchors.Lock()
	defer anchors.Unlock()
	made, ok := anchors.made[who+product]
	if !ok {
		ark := a.ca("ARK-"+product, 0x10000, RootUntil, &a.arkKey.PublicKey)
		made[0] = Issue(t, ark, ark, a.arkKey)
		made[1] = Issue(t, a.ca("SEV-"+product, 0x10001, IntermediateUntil, &a.askKey.PublicKey), made[0], a.arkKey)
		made[2] = Issue(t, a.ca("SEV-VLEK-"+product, 0x10002, IntermediateUntil, &a.asvKey.PublicKey), made[0], a.arkKey)
		anchors.made[who+product] = made
	}
	a.ARK, a.ASK, a.ASVK = made[0], made[1], made[2]
	return a
}

// anchors are made once for a test binary: ARK, ASK and ASVK by who they are of.
var anchors = struct {
	sync.Mutex
	made map[string][3]*x509.Certificate
}{made: map[string][3]*x509.Certificate{}}

func (a *AMD) ca(commonName string, number int64, until time.Time, key *rsa.PublicKey) *x509.Certificate {
	return &x509.Certificate{SerialNumber: serial(number), Subject: amdName(commonName), NotBefore: begin, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SignatureAlgorithm: x509.SHA384WithRSAPSS, PublicKey: key}
}

// Anchors are the root and both intermediates.
func (a *AMD) Anchors() []*x509.Certificate { return []*x509.Certificate{a.ARK, a.ASK, a.ASVK} }

// Intermediate is another intermediate of the root, with a key of its own, and what it signs with.
func (a *AMD) Intermediate(edits ...Edit) (*x509.Certificate, *rsa.PrivateKey) {
	key := RSAKey(a.t, "another intermediate")
	return Issue(a.t, a.ca("SEV-"+a.Product, 0x10003, IntermediateUntil, &key.PublicKey), a.ARK, a.arkKey, edits...), key
}

// CRL is the root's, of what it revokes.
func (a *AMD) CRL(thisUpdate, nextUpdate time.Time, certificates ...*x509.Certificate) []byte {
	return must[[]byte](a.t)(x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: serial(1), ThisUpdate: thisUpdate, NextUpdate: nextUpdate,
		SignatureAlgorithm: x509.SHA384WithRSAPSS, RevokedCertificateEntries: revoked(certificates, thisUpdate)}, a.ARK, a.arkKey))
}

// The arc of AMD's extensions (AMD 57230, tables 8 to 10).
func amdOID(tail ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, tail...)
}

// The extensions, by the names of their OIDs, for edits.
var (
	OIDProductName = amdOID(2)
	OIDBootloader  = amdOID(3, 1)
	OIDTEE         = amdOID(3, 2)
	OIDSNP         = amdOID(3, 3)
	OIDMicrocode   = amdOID(3, 8)
	OIDFMC         = amdOID(3, 9)
	OIDHWID        = amdOID(4)
	OIDCSPID       = amdOID(5)
)

// Extension is one with a value in DER.
func Extension(oid asn1.ObjectIdentifier, der []byte) pkix.Extension {
	return pkix.Extension{Id: oid, Value: der}
}

// SetExtension puts a value in the place of an extension, or adds it; a nil value removes it.
func SetExtension(oid asn1.ObjectIdentifier, der []byte) Edit {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = slices.DeleteFunc(c.ExtraExtensions, func(e pkix.Extension) bool { return e.Id.Equal(oid) })
		if der != nil {
			c.ExtraExtensions = append(c.ExtraExtensions, Extension(oid, der))
		}
	}
}

// DER encodes a value for an extension.
func DER(t testing.TB, v any) []byte {
	t.Helper()
	if s, ok := v.(string); ok {
		return must[[]byte](t)(asn1.MarshalWithParams(s, "ia5"))
	}
	return must[[]byte](t)(asn1.Marshal(v))
}

func (a *AMD) endorsement(subject string, tcb TCB, key *ecdsa.PublicKey) *x509.Certificate {
	c := &x509.Certificate{SerialNumber: serial(7), Subject: amdName(subject), NotBefore: begin, NotAfter: LeafUntil,
		SignatureAlgorithm: x509.SHA384WithRSAPSS, PublicKey: key}
	c.ExtraExtensions = []pkix.Extension{
		Extension(amdOID(1), DER(a.t, 0)), Extension(OIDProductName, DER(a.t, a.Product+"-B0")),
		Extension(OIDBootloader, DER(a.t, int(tcb.Bootloader))), Extension(OIDTEE, DER(a.t, int(tcb.TEE))),
		Extension(OIDSNP, DER(a.t, int(tcb.SNP))), Extension(OIDMicrocode, DER(a.t, int(tcb.Microcode))),
	}
	if a.Product == Turin {
		c.ExtraExtensions = append(c.ExtraExtensions, Extension(OIDFMC, DER(a.t, int(tcb.FMC))))
	}
	return c
}

// VCEK is the certificate of the chip's key, DER.
func (a *AMD) VCEK(chipID []byte, tcb TCB, edits ...Edit) []byte {
	return a.VCEKUnder(a.ASK, a.askKey, chipID, tcb, edits...)
}

// VCEKUnder is one that another intermediate issued.
func (a *AMD) VCEKUnder(issuer *x509.Certificate, key any, chipID []byte, tcb TCB, edits ...Edit) []byte {
	c := a.endorsement("SEV-VCEK", tcb, &a.VCEKKey.PublicKey)
	hwid := chipID
	if a.Product == Turin {
		hwid = chipID[:8]
	}
	c.ExtraExtensions = append(c.ExtraExtensions, Extension(OIDHWID, hwid))
	return Issue(a.t, c, issuer, key, edits...).Raw
}

// VLEK is the certificate of a cloud provider's key, DER.
func (a *AMD) VLEK(cspID string, tcb TCB, edits ...Edit) []byte {
	return a.VLEKUnder(a.ASVK, a.asvKey, cspID, tcb, edits...)
}

// VLEKUnder is one that another intermediate issued.
func (a *AMD) VLEKUnder(issuer *x509.Certificate, key any, cspID string, tcb TCB, edits ...Edit) []byte {
	c := a.endorsement("SEV-VLEK", tcb, &a.VLEKKey.PublicKey)
	c.ExtraExtensions = append(c.ExtraExtensions, Extension(OIDCSPID, DER(a.t, cspID)))
	return Issue(a.t, c, issuer, key, edits...).Raw
}

// ASKKey and ASVKKey sign for the intermediates.
func (a *AMD) ASKKey() *rsa.PrivateKey { return a.askKey }

// ASVKKey signs for the ASVK.
func (a *AMD) ASVKKey() *rsa.PrivateKey { return a.asvKey }

// The bits of a guest policy and of SIGNER_INFO.
const (
	PolicyReserved1 = 1 << 17
	PolicySMT       = 1 << 16
	PolicyMigrateMA = 1 << 18
	PolicyDebug     = 1 << 19

	SignerVLEK         = 1 << 2
	SignerNone         = 7 << 2
	SignerMaskChipKey  = 1 << 1
	SignerAuthorKeyEn  = 1 << 0
	SignatureECDSAP384 = 1
)

// Report is the fields of an ATTESTATION_REPORT (AMD 56860, table 23). Slices that are too short are followed by zeros.
type Report struct {
	Version, GuestSVN                           uint32
	Policy                                      uint64
	FamilyID, ImageID                           []byte
	VMPL, SignatureAlgo                         uint32
	Current, Reported, Committed, Launch        TCB
	PlatformInfo                                uint64
	SignerInfo                                  uint32
	ReportData, Measurement, HostData           []byte
	IDKeyDigest, AuthorKeyDigest                []byte
	ReportID, ReportIDMA                        []byte
	Family, Model, Stepping                     byte // from version 3 on
	ChipID                                      []byte
	LaunchMitigationVector, MitigationVectorNow uint64
}

// Fields are those of an ordinary report of the chip, signed by its VCEK.
func (a *AMD) Fields(version uint32) Report {
	r := Report{Version: version, GuestSVN: 3, Policy: PolicyReserved1 | PolicySMT, FamilyID: []byte("family"), ImageID: []byte("image"),
		SignatureAlgo: SignatureECDSAP384, Current: a.TCB, Reported: a.TCB, Committed: a.TCB, Launch: a.TCB, PlatformInfo: 1,
		ReportData: bytes.Repeat([]byte{0xda}, 64), Measurement: bytes.Repeat([]byte{0x3e}, 48), HostData: bytes.Repeat([]byte{0x05}, 32),
		IDKeyDigest: bytes.Repeat([]byte{0x1d}, 48), AuthorKeyDigest: bytes.Repeat([]byte{0xa0}, 48),
		ReportID: bytes.Repeat([]byte{0x44}, 32), ReportIDMA: bytes.Repeat([]byte{0xff}, 32), ChipID: a.ChipID}
	if version >= 3 {
		switch a.Product {
		case Milan:
			r.Family, r.Model, r.Stepping = 0x19, 0x01, 1
		case Genoa:
			r.Family, r.Model, r.Stepping = 0x19, 0x11, 1
		case Turin:
			r.Family, r.Model, r.Stepping = 0x1a, 0x02, 1
		}
	}
	return r
}

// Encode writes a report without its signature.
func (a *AMD) Encode(f Report) []byte {
	b := make([]byte, ReportSize)
	u32, u64 := binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	u32(b[0x00:], f.Version)
	u32(b[0x04:], f.GuestSVN)
	u64(b[0x08:], f.Policy)
	u32(b[0x30:], f.VMPL)
	u32(b[0x34:], f.SignatureAlgo)
	u64(b[0x40:], f.PlatformInfo)
	u32(b[0x48:], f.SignerInfo)
	for _, field := range []struct {
		from, to int
		value    []byte
	}{
		{0x10, 0x20, f.FamilyID}, {0x20, 0x30, f.ImageID}, {0x38, 0x40, f.Current.bytes(a.Product)},
		{0x50, 0x90, f.ReportData}, {0x90, 0xC0, f.Measurement}, {0xC0, 0xE0, f.HostData}, {0xE0, 0x110, f.IDKeyDigest},
		{0x110, 0x140, f.AuthorKeyDigest}, {0x140, 0x160, f.ReportID}, {0x160, 0x180, f.ReportIDMA},
		{0x180, 0x188, f.Reported.bytes(a.Product)}, {0x1A0, 0x1E0, f.ChipID},
		{0x1E0, 0x1E8, f.Committed.bytes(a.Product)}, {0x1F0, 0x1F8, f.Launch.bytes(a.Product)},
	} {
		copy(b[field.from:field.to], field.value)
	}
	if f.Version >= 3 {
		b[0x188], b[0x189], b[0x18A] = f.Family, f.Model, f.Stepping
	}
	copy(b[0x1E8:], []byte{8, 55, 1, 0, 8, 55, 1, 0}) // firmware 1.55.8, current and committed
	if f.Version >= 5 {
		u64(b[0x1F8:], f.LaunchMitigationVector)
		u64(b[0x200:], f.MitigationVectorNow)
	}
	return b
}

// Report encodes and signs a report, with the VLEK where SIGNER_INFO says so, else with the VCEK.
func (a *AMD) Report(f Report) []byte {
	b := a.Encode(f)
	key := a.VCEKKey
	if f.SignerInfo>>2&7 == 1 {
		key = a.VLEKKey
	}
	a.Sign(b, key)
	return b
}

// Sign puts a signature on a report, of whatever key: R and S in 72 bytes each, little-endian.
func (a *AMD) Sign(report []byte, key *ecdsa.PrivateKey) {
	sum := sha512.Sum384(report[:signed])
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		a.t.Fatal(err)
	}
	for i, n := range [...]*big.Int{r, s} {
		part := n.FillBytes(make([]byte, 72))
		slices.Reverse(part)
		copy(report[signed+72*i:], part)
	}
}
