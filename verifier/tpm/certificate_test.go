package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bundle parses every certificate of a PEM file, one at a time as ParseEKCertificate takes them.
func bundle(t testing.TB, text []byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return out
		}
		text = rest
		cert, err := ParseEKCertificate(pem.EncodeToMemory(block))
		if err != nil {
			t.Errorf("certificate %d: %v", len(out), err)
			continue
		}
		out = append(out, cert)
	}
}

func certificate(t testing.TB, elements ...string) *x509.Certificate {
	t.Helper()
	cert, err := ParseEKCertificate(read(t, elements...))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// stamped puts the NV header of a full certificate before it.
func stamped(der []byte) []byte {
	n := len(der) + 2
	return append([]byte{0x10, 0x01, 0x00, byte(n >> 8), byte(n), 0x10, 0x02}, der...)
}

func TestEveryPublishedCertificateParses(t *testing.T) {
	count := 0
	err := filepath.WalkDir("testdata/certs", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b := read(t, path)
		certs := []*x509.Certificate{}
		if bytes.Contains(b, []byte("-----BEGIN")) {
			certs = bundle(t, b)
		} else if cert, err := ParseEKCertificate(b); err != nil {
			t.Errorf("%s: %v", path, err)
		} else {
			certs = append(certs, cert)
		}
		if len(certs) == 0 {
			t.Errorf("%s: no certificate", path)
		}
		for _, cert := range certs {
			if _, err := CertifiedKey(cert); err != nil {
				t.Errorf("%s: %s: %v", path, cert.Subject, err)
			}
		}
		count += len(certs)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d certificates", count)
	if count < 200 {
		t.Errorf("only %d certificates", count)
	}
}

func TestCapturedEKCertificatesMatchTheirKeys(t *testing.T) {
	for _, boot := range bootsWithEvidence(t) {
		dir := filepath.Join(boots, boot, "evidence")
		ek := mustParse(t, read(t, dir, "ek-rsa2048.tpmt_public"))
		if err := MatchEK(certificate(t, dir, "ek-rsa2048.der"), ek); err != nil {
			t.Errorf("%s: %v", boot, err)
		}
		if err := MatchEK(certificate(t, dir, "ek-ecc-p384.der"), ek); !errors.Is(err, ErrKeyMismatch) {
			t.Errorf("%s: %v", boot, err)
		}
	}
	other := mustParse(t, read(t, boots, "sb-on-otherbox", "evidence", "ek-rsa2048.tpmt_public"))
	cert := certificate(t, boots, "sb-on-1", "evidence", "ek-rsa2048.der")
	if err := MatchEK(cert, other); !errors.Is(err, ErrKeyMismatch) {
		t.Error(err)
	}
	if MatchEK(nil, other) == nil || MatchEK(cert, nil) == nil || MatchAK(cert, other) == nil {
		t.Error("nothing matches something")
	}
}

func TestWhatSurroundsACertificate(t *testing.T) {
	der := read(t, boots, "sb-on-1", "evidence", "ek-rsa2048.der")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	ones := bytes.Repeat([]byte{0xff}, 300)
	for name, c := range map[string]struct {
		b    []byte
		want string // empty: it parses
	}{
		"DER":                      {der, ""},
		"PEM":                      {text, ""},
		"PEM with blank lines":     {join([]byte("\n\n"), text, []byte("\n\n")), ""},
		"padded with zeros":        {join(der, make([]byte, 700)), ""},
		"padded with ones":         {join(der, ones), ""},
		"NV header":                {stamped(der), ""},
		"NV header and padding":    {join(stamped(der), ones), ""},
		"empty":                    {nil, "no DER"},
		"huge":                     {make([]byte, 1<<20), "1048576 bytes"},
		"mixed padding":            {join(der, []byte{0, 0, 0xff}), "not padding"},
		"something behind it":      {join(der, der), "not padding"},
		"behind it in NV":          {join(stamped(der), []byte{1}), "something follows"},
		"two in PEM":               {join(text, text), "something follows"},
		"key in PEM":               {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "no certificate"},
		"broken PEM":               {[]byte("-----BEGIN CERTIFICATE-----\nAAAA"), "no certificate"},
		"NV header of a URL":       {[]byte{0x10, 0x01, 0x01, 0, 4, 0x10, 0x03, 1, 2}, "not that of a full"},
		"NV header larger":         {[]byte{0x10, 0x01, 0x00, 0xff, 0xff, 0x10, 0x02, 0x30, 0}, "65533 bytes, 2 are there"},
		"NV header smaller than 0": {[]byte{0x10, 0x01, 0x00, 0, 1, 0x10, 0x02, 0x30, 0}, "NV header tells"},
		"truncated":                {der[:len(der)-1], "no DER"},
		"no certificate":           {[]byte{0x30, 0x00}, "EK certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			cert, err := ParseEKCertificate(c.b)
			if c.want == "" && (err != nil || !bytes.Equal(cert.Raw, der)) {
				t.Fatal(err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v", err)
			}
		})
	}
}

// An EK certificate may restrict its RSA key to OAEP, which crypto/x509 leaves undecoded.
func TestOAEPKeyOfACertificate(t *testing.T) {
	key, public := rsaAK(t)
	spki, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{pkix.AlgorithmIdentifier{Algorithm: oidRSAESOAEP}, asn1.BitString{Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey), BitLength: 8 * len(x509.MarshalPKCS1PublicKey(&key.PublicKey))}})
	if err != nil {
		t.Fatal(err)
	}
	if err := MatchEK(&x509.Certificate{RawSubjectPublicKeyInfo: spki}, public); err != nil {
		t.Error(err)
	}
	noKey, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{pkix.AlgorithmIdentifier{Algorithm: oidRSAESOAEP}, asn1.BitString{Bytes: []byte{0x30, 0}, BitLength: 16}})
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range [][]byte{nil, noKey, spki[:40], bytes.Replace(spki, []byte{7}, []byte{6}, 1), append(bytes.Clone(spki), 0)} {
		if key, err := CertifiedKey(&x509.Certificate{RawSubjectPublicKeyInfo: broken}); err == nil {
			t.Errorf("%x: %v", broken, key)
		}
	}
}

func TestGCECertificatesChain(t *testing.T) {
	dir := "testdata/certs/gce"
	roots := []*x509.Certificate{certificate(t, dir, "gcp_ek_ak_ca_root.crt"), certificate(t, dir, "tpm_ek_root_1.cer")}
	intermediates := []*x509.Certificate{certificate(t, dir, "gcp_ek_ak_ca_intermediate_v3.crt"),
		certificate(t, dir, "tpm_ek_intermediate_2.crt"), certificate(t, dir, "tpm_ek_intermediate_3.crt")}
	for _, name := range []string{"pca_tpm_rsa", "pca_tpm_ecc", "uca_tpm_rsa", "uca_tpm_ecc"} {
		ek, ak := certificate(t, dir, name+"_enc_cert.pem"), certificate(t, dir, name+"_sign_cert.pem")
		for role, cert := range map[string]*x509.Certificate{"EK": ek, "AK": ak} {
			verify, other := VerifyEKChain, VerifyAKChain
			if role == "AK" {
				verify, other = other, verify
			}
			t.Run(name+" "+role, func(t *testing.T) {
				at := cert.NotBefore.Add(time.Hour)
				critical := len(cert.UnhandledCriticalExtensions)
				chain, err := verify(cert, intermediates, roots, at)
				if err != nil || len(chain) != 3 {
					t.Fatalf("%d certificates, %v", len(chain), err)
				}
				if _, err := other(cert, intermediates, roots, at); err == nil || !strings.Contains(err.Error(), "key usage") {
					t.Errorf("in the other role: %v", err)
				}
				if _, err := verify(cert, intermediates, roots, cert.NotBefore.Add(-time.Hour)); err == nil {
					t.Error("chains before its time")
				}
				if _, err := verify(cert, nil, roots, at); err == nil {
					t.Error("chains without its intermediate")
				}
				if _, err := verify(cert, intermediates, nil, at); err == nil || !strings.Contains(err.Error(), "no trust anchor") {
					t.Error("chains to no root")
				}
				if _, err := verify(cert, intermediates, roots, time.Time{}); err == nil {
					t.Error("chains at no time")
				}
				if len(cert.UnhandledCriticalExtensions) != critical {
					t.Error("the certificate was changed")
				}
			})
		}
	}
}

func TestSecLAKCertificateChains(t *testing.T) {
	dir := "testdata/quotes/secl-intel-trustagent"
	cert := certificate(t, dir, "ak-cert.pem")
	_, err := VerifyAKChain(cert, nil, []*x509.Certificate{certificate(t, "testdata/certs/gce/gcp_ek_ak_ca_root.crt")}, cert.NotBefore.Add(time.Hour))
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("chains to another CA: %v", err)
	}
}

// testCA issues certificates of any shape.
type testCA struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newCA(t testing.TB) testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return testCA{t, key, cert}
}

func (ca testCA) issue(change func(*x509.Certificate)) *x509.Certificate {
	ca.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage: x509.KeyUsageKeyEncipherment, UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEKCertificate}, BasicConstraintsValid: true}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &ca.key.PublicKey, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	cert, err := ParseEKCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	return cert
}

func TestChainRules(t *testing.T) {
	ca := newCA(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	critical := func(id ...int) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: id, Critical: true, Value: []byte{0x30, 0x00}}}
		}
	}
	directory := pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 1}, Value: "id:49465800"}}}
	name, err := asn1.Marshal(directory)
	if err != nil {
		t.Fatal(err)
	}
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*x509.Certificate)
		ek, ak string // empty: chains
	}{
		{"EK certificate valid until 9999", func(*x509.Certificate) {}, "", "key usage"},
		{"critical directory name", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}}
		}, "", "key usage"},
		{"critical directory attributes", critical(2, 5, 29, 9), "", "key usage"},
		{"critical unknown extension", critical(1, 2, 3, 4), "unhandled critical", "unhandled critical"},
		{"no usages at all", func(c *x509.Certificate) { c.KeyUsage, c.UnknownExtKeyUsage = 0, nil }, "", ""},
		{"any extended usage", func(c *x509.Certificate) {
			c.KeyUsage, c.UnknownExtKeyUsage, c.ExtKeyUsage = 0, nil, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		}, "", ""},
		{"AK certificate", func(c *x509.Certificate) {
			c.KeyUsage, c.UnknownExtKeyUsage = x509.KeyUsageDigitalSignature, []asn1.ObjectIdentifier{oidAIKCertificate}
		}, "key usage", ""},
		{"AK usage without key usage", func(c *x509.Certificate) {
			c.KeyUsage, c.UnknownExtKeyUsage = 0, []asn1.ObjectIdentifier{oidAIKCertificate}
		}, "extended key usage", ""},
		{"EK usage without key usage", func(c *x509.Certificate) { c.KeyUsage = 0 }, "", "extended key usage"},
		{"platform certificate", func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 2}} }, "extended key usage", "key usage"},
		{"TLS server", func(c *x509.Certificate) {
			c.KeyUsage |= x509.KeyUsageDigitalSignature
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}, "extended key usage", "extended key usage"},
		{"CA", func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageDigitalSignature }, "that of a CA", "that of a CA"},
		{"expired", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }, "expired", "expired"},
		{"not yet valid", func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }, "not yet valid", "not yet valid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cert := ca.issue(c.change)
			for role, want := range map[string]string{"EK": c.ek, "AK": c.ak} {
				verify := VerifyEKChain
				if role == "AK" {
					verify = VerifyAKChain
				}
				_, err := verify(cert, nil, []*x509.Certificate{nil, ca.cert}, now)
				if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
					t.Errorf("%s: %v", role, err)
				}
			}
		})
	}
	if _, err := VerifyEKChain(nil, nil, []*x509.Certificate{ca.cert}, now); err == nil {
		t.Error("no certificate chains")
	}
	impostor := newCA(t) // the same name, another key
	if _, err := VerifyEKChain(impostor.issue(func(*x509.Certificate) {}), nil, []*x509.Certificate{ca.cert}, now); err == nil {
		t.Error("chains to a root that did not sign")
	}
}
