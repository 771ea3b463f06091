package golden_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/golden"
	"github.com/assay-verifier/assay/baseline/importtest"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

const boots = "../../integration/testdata/boots"

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// evidence is what an agent posts of a captured boot, with what identifies its key.
func evidence(t testing.TB, boot string) map[string]any {
	t.Helper()
	dir := filepath.Join(boots, boot, "evidence")
	message := read(t, filepath.Join(dir, "quote-rsassa-sha256.tpms_attest"))
	attest, err := tpm.ParseAttest(message)
	if err != nil {
		t.Fatal(err)
	}
	var held struct {
		PCRs map[string]map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal(read(t, filepath.Join(dir, "tpm.json")), &held); err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, s := range attest.Selections {
		if s.Alg == tpm.SHA256 {
			for _, i := range s.Indices() {
				values[strconv.Itoa(i)] = held.PCRs["sha256"][strconv.Itoa(i)]
			}
		}
	}
	return map[string]any{
		"quotes":     []any{map[string]any{"message": message, "signature": read(t, filepath.Join(dir, "quote-rsassa-sha256.tpmt_signature"))}},
		"pcrs":       map[string]any{"sha256": values},
		"event_log":  read(t, filepath.Join(dir, "binary_bios_measurements")),
		"enrollment": map[string]any{"ak_public": read(t, filepath.Join(dir, "ak-rsassa.tpmt_public"))},
	}
}

func document(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// certify makes a CA and a certificate of the boot's attestation key.
func certify(t *testing.T, boot string) (root *x509.Certificate, certificate []byte) {
	t.Helper()
	pub, err := tpm.ParsePublic(read(t, filepath.Join(boots, boot, "evidence", "ak-rsassa.tpmt_public")))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	make := func(c, parent *x509.Certificate, of crypto.PublicKey) *x509.Certificate {
		c.NotBefore, c.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, of, key)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "builds"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root = make(template, template, &key.PublicKey)
	leaf := make(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "golden"}, KeyUsage: x509.KeyUsageDigitalSignature,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}}, root, pub.Key())
	return root, leaf.Raw
}

func TestImport(t *testing.T) {
	out, err := golden.Import(document(t, evidence(t, "sb-on-1")), &baseline.ImportTrust{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if out.Signer != nil || len(out.Values.PCRs["sha256"]) == 0 || len(out.Values.Events) < 10 || string(out.Values.Claims["secure_boot"]) != "true" || out.Provenance["assurance"] != "first_use" {
		t.Errorf("%+v", out)
	}
	if _, err := golden.Import(document(t, evidence(t, "sb-on-1")), nil); err != nil {
		t.Error(err)
	}
	// The machine that it was taken from meets it.
	reference, err := verifier.CompileReference(out.Values)
	if err != nil || !reference.Judges(4) {
		t.Error(err)
	}
}

// Evidence counts as signed where its key's certificate leads to a trusted root.
func TestSignedByItsCertificate(t *testing.T) {
	root, certificate := certify(t, "sb-on-1")
	stranger, _ := certify(t, "sb-on-1")
	e := evidence(t, "sb-on-1")
	e["enrollment"].(map[string]any)["ak_certificate"] = certificate
	out, err := golden.Import(document(t, e), &baseline.ImportTrust{Roots: []*x509.Certificate{root}, Now: now})
	if err != nil || out.Signer == nil || out.Signer.Subject != "CN=golden" || out.Provenance["assurance"] != "ak_certified" {
		t.Errorf("%+v, %v", out, err)
	}
	for name, trust := range map[string]*baseline.ImportTrust{
		"another root": {Roots: []*x509.Certificate{stranger}, Now: now},
		"expired":      {Roots: []*x509.Certificate{root}, Now: now.Add(2 * time.Hour)},
	} {
		if out, err := golden.Import(document(t, e), trust); err != nil || out.Signer != nil {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
	}
	// The certificate of another key is none of this evidence.
	_, other := certify(t, "sb-on-otherbox")
	e["enrollment"].(map[string]any)["ak_certificate"] = other
	_, err = golden.Import(document(t, e), &baseline.ImportTrust{Roots: []*x509.Certificate{root}, Now: now})
	importtest.Refused(t, err, baseline.ImportUntrusted, "")
}

// What gotpm wrote on a cloud VM.
func TestAttestationOfGoTPM(t *testing.T) {
	out, err := golden.Import(read(t, "../../verifier/testdata/gce-cos-85-nonce9009.pb"), &baseline.ImportTrust{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if out.Signer != nil || len(out.Values.PCRs) == 0 || len(out.Values.Events) == 0 {
		t.Errorf("%+v", out)
	}
}

func TestRefused(t *testing.T) {
	e := evidence(t, "sb-on-1")
	e["event_log"] = append([]byte{}, e["event_log"].([]byte)[:2000]...)
	_, err := golden.Import(document(t, e), nil)
	importtest.Refused(t, err, baseline.ImportUntrusted, "")
	e = evidence(t, "sb-on-1")
	e["pcrs"].(map[string]any)["sha256"].(map[string]string)["4"] = strings.Repeat("00", 32)
	_, err = golden.Import(document(t, e), nil)
	importtest.Refused(t, err, baseline.ImportUntrusted, "")
	delete(e, "event_log")
	e["event_log_digest"] = "sha256:" + strings.Repeat("ab", 32)
	_, err = golden.Import(document(t, e), nil)
	importtest.Refused(t, err, baseline.ImportMalformed, "/event_log_digest")
	e = evidence(t, "sb-on-1")
	e["platform_evidence"] = map[string]any{"type": "sev_snp", "report": make([]byte, 1184)}
	_, err = golden.Import(document(t, e), nil)
	importtest.Refused(t, err, baseline.ImportUnsupported, "/platform_evidence")
	_, err = golden.Import([]byte(`{"quotes": 1}`), nil)
	importtest.Refused(t, err, baseline.ImportMalformed, "/quotes")
	_, err = golden.Import([]byte{0xff}, nil)
	importtest.Refused(t, err, baseline.ImportMalformed, "")
}

func FuzzGolden(f *testing.F) {
	f.Add(document(f, evidence(f, "sb-on-1")))
	f.Add(read(f, "../../verifier/testdata/gce-cos-85-nonce9009.pb"))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := golden.Import(b, &baseline.ImportTrust{Now: now})
		importtest.Usable(t, out, err)
	})
}
