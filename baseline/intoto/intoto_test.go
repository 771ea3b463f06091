package intoto_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/importtest"
	"github.com/assay-verifier/assay/baseline/intoto"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

const values = `{"claims": {"secure_boot": true}}`

func statement(version, predicateType, predicate string) string {
	return fmt.Sprintf(`{"_type": "https://in-toto.io/Statement/%s", "subject": [{"name": "image.efi", "digest": {"sha512": "cd", "sha256": "ab"}}],
		"predicateType": %q, "predicate": %s}`, version, predicateType, predicate)
}

func good() string {
	return statement("v1", intoto.PredicateType, `{"reference_values": `+values+`, "provenance": {"repository": "acme/images"}}`)
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func pae(payload string) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(intoto.PayloadType), intoto.PayloadType, len(payload), payload)
}

func ecSign(t testing.TB, key *ecdsa.PrivateKey, payload string) []byte {
	t.Helper()
	sum := sha256.Sum256(pae(payload))
	return must[[]byte](t)(ecdsa.SignASN1(rand.Reader, key, sum[:]))
}

type sig map[string]any

func envelope(t testing.TB, payload string, signatures ...sig) []byte {
	t.Helper()
	for _, s := range signatures {
		if raw, ok := s["sig"].([]byte); ok {
			s["sig"] = base64.StdEncoding.EncodeToString(raw)
		}
	}
	return must[[]byte](t)(json.Marshal(map[string]any{"payloadType": intoto.PayloadType, "payload": base64.StdEncoding.EncodeToString([]byte(payload)), "signatures": signatures}))
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func keys(list ...crypto.PublicKey) *baseline.ImportTrust {
	trust := &baseline.ImportTrust{Now: now}
	for i, k := range list {
		trust.Keys = append(trust.Keys, baseline.ImportKey{Name: fmt.Sprint("key ", i), Key: k})
	}
	return trust
}

func TestImport(t *testing.T) {
	key := newKey(t)
	for _, version := range []string{"v1", "v0.1"} {
		payload := statement(version, intoto.PredicateType, `{"reference_values": `+values+`, "provenance": {"repository": "acme/images", "commit": "c", "build_url": "u"}}`)
		out, err := intoto.Import(envelope(t, payload, sig{"sig": ecSign(t, key, payload)}), keys(&key.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		if string(out.Values.Claims["secure_boot"]) != "true" || out.Signer.Subject != "key 0" || out.Signer.KeySHA256 != out.Signer.AnchorSHA256 ||
			out.Provenance["subject image.efi"] != "sha256:ab" || out.Provenance["repository"] != "acme/images" {
			t.Errorf("%+v", out)
		}
	}
}

// Each kind of key is checked in its own way and in no other.
func TestKindsOfKeys(t *testing.T) {
	payload := good()
	message := pae(payload)
	sum, sum384 := sha256.Sum256(message), sha512.Sum384(message)
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	p384 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	p224 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	edPublic, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec := newKey(t)
	for name, c := range map[string]struct {
		key crypto.PublicKey
		sig []byte
		ok  bool
	}{
		"RSA PKCS #1 v1.5":      {&rsaKey.PublicKey, must[[]byte](t)(rsa.SignPKCS1v15(nil, rsaKey, crypto.SHA256, sum[:])), true},
		"RSA PSS":               {&rsaKey.PublicKey, must[[]byte](t)(rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA256, sum[:], nil)), true},
		"RSA with SHA-384":      {&rsaKey.PublicKey, must[[]byte](t)(rsa.SignPKCS1v15(nil, rsaKey, crypto.SHA384, sum384[:])), false},
		"P-384":                 {&p384.PublicKey, must[[]byte](t)(ecdsa.SignASN1(rand.Reader, p384, sum384[:])), true},
		"P-384 with SHA-256":    {&p384.PublicKey, must[[]byte](t)(ecdsa.SignASN1(rand.Reader, p384, sum[:])), false},
		"P-224":                 {&p224.PublicKey, must[[]byte](t)(ecdsa.SignASN1(rand.Reader, p224, sum[:])), false},
		"Ed25519":               {edPublic, ed25519.Sign(edPrivate, message), true},
		"Ed25519 over the hash": {edPublic, ed25519.Sign(edPrivate, sum[:]), false},
		"over the payload alone": {&ec.PublicKey, func() []byte {
			s := sha256.Sum256([]byte(payload))
			return must[[]byte](t)(ecdsa.SignASN1(rand.Reader, ec, s[:]))
		}(), false},
		"a key of another signature": {&ec.PublicKey, ed25519.Sign(edPrivate, message), false},
	} {
		_, err := intoto.Import(envelope(t, payload, sig{"sig": c.sig}), keys(c.key))
		if c.ok != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if !c.ok {
			importtest.Refused(t, err, baseline.ImportUntrusted, "/signatures/0")
		}
	}
}

type ca struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newCA(t *testing.T, name string, parent *ca, notAfter time.Time) *ca {
	t.Helper()
	c := &ca{key: newKey(t)}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	issuer := parent
	if issuer == nil {
		issuer = &ca{key: c.key, cert: template}
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, issuer.cert, &c.key.PublicKey, issuer.key))
	c.cert = must[*x509.Certificate](t)(x509.ParseCertificate(der))
	return c
}

func (c *ca) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
}

func TestCertificates(t *testing.T) {
	root := newCA(t, "root", nil, now.Add(time.Hour))
	between := newCA(t, "between", root, now.Add(time.Hour))
	leaf := newCA(t, "leaf", between, now.Add(time.Hour))
	late := newCA(t, "late", root, now.Add(-time.Minute))
	stranger := newCA(t, "stranger", nil, now.Add(time.Hour))
	trust := &baseline.ImportTrust{Roots: []*x509.Certificate{root.cert}, Now: now}
	payload := good()
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

	out, err := intoto.Import(envelope(t, payload, sig{"sig": ecSign(t, leaf.key, payload), "cert": leaf.pem() + between.pem()}), trust)
	if err != nil || out.Signer.Subject != "CN=leaf" || out.Signer.AnchorSHA256 != fmt.Sprintf("%x", sha256.Sum256(root.cert.Raw)) {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err = intoto.Import(envelope(t, payload, sig{"sig": ecSign(t, leaf.key, payload), "certificate": b64(leaf.pem()), "intermediates": []string{b64(between.pem())}}), trust); err != nil {
		t.Error(err)
	}
	// The anchor's own key, without a certificate in the envelope.
	if out, err = intoto.Import(envelope(t, payload, sig{"sig": ecSign(t, root.key, payload)}), trust); err != nil || out.Signer.Subject != "CN=root" {
		t.Error(err)
	}
	for name, s := range map[string]sig{
		"without the intermediate": {"sig": ecSign(t, leaf.key, payload), "cert": leaf.pem()},
		"expired":                  {"sig": ecSign(t, late.key, payload), "cert": late.pem()},
		"a stranger's":             {"sig": ecSign(t, stranger.key, payload), "cert": stranger.pem()},
		"signed by another key":    {"sig": ecSign(t, stranger.key, payload), "cert": leaf.pem() + between.pem()},
	} {
		_, err := intoto.Import(envelope(t, payload, s), trust)
		if err == nil {
			t.Errorf("%s: imported", name)
			continue
		}
		importtest.Refused(t, err, baseline.ImportUntrusted, "/signatures/0")
	}
	expired := *trust
	expired.Now = now.Add(2 * time.Hour)
	_, err = intoto.Import(envelope(t, payload, sig{"sig": ecSign(t, root.key, payload)}), &expired)
	importtest.Refused(t, err, baseline.ImportUntrusted, "/signatures/0")
	for _, bad := range []sig{
		{"sig": "AAAA", "cert": "no PEM"}, {"sig": "AAAA", "certificate": b64(strings.Replace(leaf.pem(), "MII", "AAA", 1))},
		{"sig": "AAAA", "cert": strings.Repeat(leaf.pem(), 9)},
	} {
		_, err := intoto.Import(envelope(t, payload, bad), trust)
		if name := "cert"; bad[name] == nil {
			importtest.Refused(t, err, baseline.ImportMalformed, "/signatures/0/certificate")
		} else {
			importtest.Refused(t, err, baseline.ImportMalformed, "/signatures/0/cert")
		}
	}
}

// One trusted signature is enough, wherever it stands; and none is.
func TestSeveralSignatures(t *testing.T) {
	key, stranger := newKey(t), newKey(t)
	payload := good()
	mine, other := sig{"keyid": "k", "sig": ecSign(t, key, payload)}, sig{"keyid": nil, "sig": ecSign(t, stranger, payload)}
	if out, err := intoto.Import(envelope(t, payload, other, mine), keys(&newKey(t).PublicKey, &key.PublicKey)); err != nil || out.Signer.Subject != "key 1" {
		t.Error(err)
	}
	_, err := intoto.Import(envelope(t, payload, other, sig{"sig": "AAAA"}), keys(&key.PublicKey))
	importtest.Refused(t, err, baseline.ImportUntrusted, "/signatures")
	_, err = intoto.Import(envelope(t, payload, []sig{}...), keys(&key.PublicKey))
	importtest.Refused(t, err, baseline.ImportUntrusted, "/signatures")
	many := make([]sig, 17)
	for i := range many {
		many[i] = sig{"sig": "AAAA"}
	}
	_, err = intoto.Import(envelope(t, payload, many...), keys(&key.PublicKey))
	importtest.Refused(t, err, baseline.ImportTooLarge, "/signatures/15")
}

func TestRefused(t *testing.T) {
	key := newKey(t)
	trust := keys(&key.PublicKey)
	deep := `{"reference_values": ` + strings.Repeat(`{"a":`, 5000) + `1` + strings.Repeat(`}`, 5000) + `}`
	for payload, want := range map[string][2]string{
		`{}`: {baseline.ImportUnsupported, "/payload/_type"},
		statement("v2", intoto.PredicateType, `{}`):                             {baseline.ImportUnsupported, "/payload/_type"},
		statement("v1", "https://slsa.dev/provenance/v1", `{}`):                 {baseline.ImportUnsupported, "/payload/predicateType"},
		statement("v1", intoto.PredicateType, `{}`):                             {baseline.ImportMalformed, "/payload/predicate/reference_values"},
		statement("v1", intoto.PredicateType, `{"reference_values": {"x": 1}}`): {baseline.ImportMalformed, "/payload/predicate/reference_values/x"},
		statement("v1", intoto.PredicateType, `{"reference_values": {}}`):       {baseline.ImportNothingFound, "/payload/predicate/reference_values"},
		statement("v1", intoto.PredicateType, `{"x": 1}`):                       {baseline.ImportMalformed, "/payload/predicate/x"},
		statement("v1", intoto.PredicateType, `{"provenance": {"x": 1}}`):       {baseline.ImportMalformed, "/payload/predicate/provenance/x"},
		statement("v1", intoto.PredicateType, deep):                             {baseline.ImportMalformed, "/payload/predicate/reference_values/a"},
		strings.Replace(good(), `"digest"`, `"hash"`, 1):                        {baseline.ImportMalformed, "/payload/subject/0/hash"},
		strings.Replace(good(), `{"sha512": "cd", "sha256": "ab"}`, `{}`, 1):    {baseline.ImportMalformed, "/payload/subject/0"},
		strings.Replace(good(), `"subject": [`, `"extra": [`, 1):                {baseline.ImportMalformed, "/payload/extra"},
		good() + `{}`:          {baseline.ImportMalformed, "/payload"},
		good()[:len(good())-1]: {baseline.ImportMalformed, "/payload"},
	} {
		_, err := intoto.Import(envelope(t, payload, sig{"sig": ecSign(t, key, payload)}), trust)
		importtest.Refused(t, err, want[0], want[1])
	}
	for body, want := range map[string]string{
		`{`: "", `[]`: "", `{"payload": "AAAA"}`: "/payloadType", `{"payload": "!"}`: "/payload", `{"payload": 1}`: "/payload",
		`{"payload": "", "payloadType": "", "signatures": [{}]}`:                                "/signatures/0",
		`{"payload": "", "payloadType": "", "signatures": [{"sig": "AAAA", "alg": "none"}]}`:    "/signatures/0/alg",
		`{"payload": "", "payloadType": "", "signatures": [{"sig": "AAAA", "sig": "AAAA"}]}`:    "/signatures/0/sig",
		`{"payload": "", "payloadType": "", "signatures": [{"sig": "AAAA"}], "mediaType": "x"}`: "/mediaType",
		`{"payload": "", "payloadType": "", "signatures": [{"sig": "AAAA"}]} trailing`:          "",
	} {
		_, err := intoto.Import([]byte(body), trust)
		importtest.Refused(t, err, baseline.ImportMalformed, want)
	}
}

func FuzzImport(f *testing.F) {
	key := newKey(f)
	payload := good()
	f.Add(envelope(f, payload, sig{"sig": ecSign(f, key, payload)}), payload)
	f.Add([]byte(`{"payload": "", "payloadType": "", "signatures": []}`), statement("v0.1", intoto.PredicateType, `{}`))
	trust := keys(&key.PublicKey)
	f.Fuzz(func(t *testing.T, b []byte, payload string) {
		for _, doc := range [][]byte{b, envelope(t, payload, sig{"sig": ecSign(t, key, payload)})} {
			out, err := intoto.Import(doc, trust)
			if importtest.Usable(t, out, err) && out.Signer == nil {
				t.Fatal("nobody signed it")
			}
		}
	})
}
