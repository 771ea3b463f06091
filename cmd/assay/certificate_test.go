package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// authority is a CA that certifies AKs, made for one test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

var aikUsage = asn1.ObjectIdentifier{2, 23, 133, 8, 3}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: day(1), NotAfter: day(300),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	return authority{key, sign(t, template, template, key.Public(), key)}
}

func day(n int) time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, n) }

func sign(t *testing.T, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (a authority) certify(t *testing.T, public crypto.PublicKey) []byte {
	t.Helper()
	return sign(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "an AK"}, NotBefore: day(1), NotAfter: day(200),
		KeyUsage: x509.KeyUsageDigitalSignature, UnknownExtKeyUsage: []asn1.ObjectIdentifier{aikUsage}}, a.cert, public, a.key).Raw
}

func (a authority) file(t *testing.T) string {
	t.Helper()
	return writeFile(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func akKey(t *testing.T, boot string) crypto.PublicKey {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(boots, boot, "evidence", "ak-rsassa.tpmt_public"))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := tpm.ParsePublic(b)
	if err != nil {
		t.Fatal(err)
	}
	return pub.Key()
}

// TestVerifyCertifiedKey: an AK certificate counts only where it chains to an anchor at the time asked
// for, and only for the key that it certifies.
func TestVerifyCertifiedKey(t *testing.T) {
	ca, other := newAuthority(t, "AK CA"), newAuthority(t, "another CA")
	certificate := ca.certify(t, akKey(t, "sb-on-1"))
	anchors, wrong := ca.file(t), other.file(t)
	inTime, late := "2026-03-01T00:00:00Z", "2026-12-31T00:00:00Z"
	for _, c := range []struct {
		name             string
		enrollment       document
		args             []string
		check, assurance string
		status           string
	}{
		{"certified", document{"ak_certificate": certificate}, []string{"--trust-anchors", anchors, "--at", inTime}, "pass", "ak_certified", "affirming"},
		{"certified, chain sent too", document{"ak_certificate": certificate, "ak_certificate_chain": [][]byte{ca.cert.Raw}}, []string{"--trust-anchors", anchors, "--at", inTime}, "pass", "ak_certified", "affirming"},
		{"no anchors", document{"ak_certificate": certificate}, []string{"--at", inTime}, "pass", "first_use", "affirming"},
		{"anchors, but no certificate", document{}, []string{"--trust-anchors", anchors, "--at", inTime}, "warn", "first_use", "warning"},
		{"another anchor", document{"ak_certificate": certificate}, []string{"--trust-anchors", wrong, "--at", inTime}, "fail", "first_use", "contraindicated"},
		{"chain to its own root", document{"ak_certificate": certificate, "ak_certificate_chain": [][]byte{ca.cert.Raw}}, []string{"--trust-anchors", wrong, "--at", inTime}, "fail", "first_use", "contraindicated"},
		{"expired", document{"ak_certificate": certificate}, []string{"--trust-anchors", anchors, "--at", late}, "fail", "first_use", "contraindicated"},
		{"of another key", document{"ak_certificate": ca.certify(t, akKey(t, "sb-on-otherbox"))}, []string{"--trust-anchors", anchors, "--at", inTime}, "fail", "first_use", "contraindicated"},
		{"a CA's own", document{"ak_certificate": ca.cert.Raw}, []string{"--trust-anchors", anchors, "--at", inTime}, "fail", "first_use", "contraindicated"},
	} {
		for _, withPublic := range []bool{true, false} {
			if !withPublic && (c.check != "fail" || len(c.enrollment) == 0 || c.name == "of another key" || c.name == "a CA's own") {
				continue // see TestVerifyKeyFromCertificate; of another key, the signature is what does not hold
			}
			doc := evidenceDocument(t, "sb-on-1", "rsassa", "sha256", false)
			if !withPublic {
				delete(doc["enrollment"].(document), "ak_public")
			}
			for k, v := range c.enrollment {
				doc["enrollment"].(document)[k] = v
			}
			args := append([]string{"--evidence", writeJSON(t, doc), "--nonce", bootNonce(t, "sb-on-1")}, c.args...)
			v, _ := verify(t, args...)
			if got, detail := v.check("ak.trusted"); got != c.check || v.Assurance != c.assurance || v.Status != c.status {
				t.Errorf("%s (ak_public %v): ak.trusted %s (%s), assurance %s, %s", c.name, withPublic, got, detail, v.Assurance, v.Status)
			}
		}
	}
}

// TestVerifyKeyFromCertificate: where only the certificate is sent, it is the key's source, and the quote
// is checked with it.
func TestVerifyKeyFromCertificate(t *testing.T) {
	ca := newAuthority(t, "AK CA")
	for boot, want := range map[string]string{"sb-on-1": "pass", "sb-on-otherbox": "fail"} {
		doc := evidenceDocument(t, "sb-on-1", "rsassa", "sha256", false)
		doc["enrollment"] = document{"ak_certificate": ca.certify(t, akKey(t, boot))}
		v, _ := verify(t, "--evidence", writeJSON(t, doc), "--trust-anchors", ca.file(t), "--at", "2026-03-01T00:00:00Z")
		if got, detail := v.check("quote.signature"); got != want || v.Assurance != "ak_certified" {
			t.Errorf("certificate of the key of %s: quote.signature %s (%s), assurance %s", boot, got, detail, v.Assurance)
		}
	}
}
