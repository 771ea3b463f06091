package launch_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/importtest"
	"github.com/assay-verifier/assay/baseline/launch"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// signer is a chain of three as Google has: root, and a signing key below it.
type signer struct {
	key        *rsa.PrivateKey
	root, leaf *x509.Certificate
}

func newSigner(t testing.TB) *signer {
	t.Helper()
	s := &signer{}
	rootKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if s.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	template := func(name string, isCA bool) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: isCA, BasicConstraintsValid: true}
	}
	make := func(t2, parent *x509.Certificate, key *rsa.PublicKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, t2, parent, key, rootKey)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	root := template("root", true)
	s.root = make(root, root, &rootKey.PublicKey)
	s.leaf = make(template("signer", false), s.root, &s.key.PublicKey)
	return s
}

func (s *signer) trust() *baseline.ImportTrust {
	return &baseline.ImportTrust{Roots: []*x509.Certificate{s.root}, Now: now}
}

func bytesField(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func varint(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func measurement(c byte) []byte { return bytes.Repeat([]byte{c}, 48) }

// golden writes VMGoldenMeasurement with two measurements of SEV-SNP and one of TDX.
func (s *signer) golden() []byte {
	var snp, tdx, b []byte
	snp = varint(snp, 1, 5)
	for i := byte(1); i <= 2; i++ {
		snp = bytesField(snp, 2, bytesField(varint(nil, 1, uint64(i)), 2, measurement(i)))
	}
	tdx = bytesField(varint(tdx, 1, 6), 2, bytesField(varint(varint(nil, 1, 16), 2, 1), 3, measurement(9)))
	b = bytesField(b, 1, varint(nil, 1, uint64(now.Unix())))
	b = varint(b, 2, 4711)
	b = bytesField(b, 3, []byte{0xca, 0xfe})
	b = bytesField(b, 4, s.leaf.Raw)
	b = bytesField(b, 5, measurement(7))
	b = bytesField(b, 6, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.root.Raw}))
	return bytesField(bytesField(b, 7, snp), 8, tdx)
}

func (s *signer) endorse(t testing.TB, golden []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(golden)
	sig, err := rsa.SignPSS(rand.Reader, s.key, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	if err != nil {
		t.Fatal(err)
	}
	return bytesField(bytesField(nil, 1, golden), 2, sig)
}

// Constructed by proto/endorsement.proto and signed by a chain of our own: no endorsement of Google's is at hand.
func TestAConstructedEndorsement(t *testing.T) {
	s := newSigner(t)
	out, err := launch.Import(s.endorse(t, s.golden()), s.trust())
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Values.LaunchMeasurements) != 3 || out.Values.LaunchMeasurements[2][:4] != "0909" || out.Signer.Subject != "CN=signer" ||
		out.Provenance["changelist"] != "4711" || out.Provenance["commit"] != "cafe" || out.Provenance["timestamp"] != "2026-11-25T12:00:00Z" || out.Provenance["sev_snp_svn"] != "5" {
		t.Errorf("%+v", out)
	}
	_, err = launch.Import(s.endorse(t, s.golden()), nil)
	importtest.Refused(t, err, baseline.ImportUntrusted, "serialized_uefi_golden.cert")
	_, err = launch.Import(s.endorse(t, s.golden()), newSigner(t).trust())
	importtest.Refused(t, err, baseline.ImportUntrusted, "serialized_uefi_golden.cert")
	late := s.trust()
	late.Now = now.Add(2 * time.Hour)
	_, err = launch.Import(s.endorse(t, s.golden()), late)
	importtest.Refused(t, err, baseline.ImportUntrusted, "serialized_uefi_golden.cert")
	// A bare key is no root, and a signature of another key is none.
	other := newSigner(t)
	other.leaf = s.leaf
	_, err = launch.Import(other.endorse(t, s.golden()), s.trust())
	importtest.Refused(t, err, baseline.ImportUntrusted, "signature")
	golden := s.golden()
	whole := s.endorse(t, golden)
	changed := bytes.Replace(whole, measurement(9), measurement(8), 1)
	_, err = launch.Import(changed, s.trust())
	importtest.Refused(t, err, baseline.ImportUntrusted, "signature")
}

func TestConstructedEndorsementsThatAreRefused(t *testing.T) {
	s := newSigner(t)
	only := func(fields ...byte) []byte { // the certificate and what is given
		return append(bytesField(nil, 4, s.leaf.Raw), fields...)
	}
	var many []byte
	for range 1001 {
		many = bytesField(many, 2, bytesField(nil, 2, measurement(1)))
	}
	for name, c := range map[string]struct {
		doc           []byte
		kind, element string
	}{
		"nothing":         {nil, baseline.ImportMalformed, "VMLaunchEndorsement"},
		"no signature":    {bytesField(nil, 1, s.golden()), baseline.ImportMalformed, "VMLaunchEndorsement"},
		"no protobuf":     {[]byte("\xff\xff"), baseline.ImportMalformed, "VMLaunchEndorsement"},
		"a group":         {protowire.AppendTag(nil, 1, protowire.StartGroupType), baseline.ImportMalformed, "VMLaunchEndorsement"},
		"no measurements": {s.endorse(t, only()), baseline.ImportNothingFound, "serialized_uefi_golden"},
		"a short one":     {s.endorse(t, only(bytesField(nil, 7, bytesField(nil, 2, bytesField(nil, 2, []byte{1})))...)), baseline.ImportMalformed, "serialized_uefi_golden.sev_snp.measurements"},
		"a short MRTD":    {s.endorse(t, only(bytesField(nil, 8, bytesField(nil, 2, bytesField(nil, 3, []byte{1})))...)), baseline.ImportMalformed, "serialized_uefi_golden.tdx.measurements.mrtd"},
		"too many":        {s.endorse(t, only(bytesField(nil, 7, many)...)), baseline.ImportTooLarge, "serialized_uefi_golden.sev_snp.measurements"},
		"no certificate":  {s.endorse(t, bytesField(nil, 7, bytesField(nil, 2, bytesField(nil, 2, measurement(1))))), baseline.ImportMalformed, "serialized_uefi_golden.cert"},
		"no PEM":          {s.endorse(t, only(bytesField(nil, 6, []byte("text"))...)), baseline.ImportMalformed, "serialized_uefi_golden.ca_bundle"},
	} {
		_, err := launch.Import(c.doc, s.trust())
		t.Run(name, func(t *testing.T) { importtest.Refused(t, err, c.kind, c.element) })
	}
}

func FuzzLaunch(f *testing.F) {
	s := newSigner(f)
	f.Add(s.golden())
	f.Add([]byte{0x0a, 0})
	trust := s.trust()
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, doc := range [][]byte{b, s.endorse(t, b)} {
			out, err := launch.Import(doc, trust)
			if importtest.Usable(t, out, err) && out.Signer == nil {
				t.Fatal("nobody signed it")
			}
		}
	})
}
