package corim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/veraison/go-cose"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/importtest"
	"github.com/assay-verifier/assay/verifier"
)

func exported(t testing.TB) []byte {
	t.Helper()
	b, err := Export(verifier.ReferenceValues{LaunchMeasurements: []string{hexOf(48, 1)}}, Meta{ID: "id"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSign(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ES256": newKey(t, elliptic.P256()), "ES384": newKey(t, elliptic.P384()), "ES512": newKey(t, elliptic.P521()),
		"PS256": rsaKey, "EdDSA": edKey} {
		t.Run(name, func(t *testing.T) {
			meta := SignerMeta{Name: "Signer", URI: "https://signer.example", NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(0, 0, 1)}
			if name == "PS256" {
				meta.Rand = rand.Reader
			}
			document := exported(t)
			signed, err := Sign(document, key, []byte("key id"), meta)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Import(signed, trusting(newKey(t, elliptic.P256()).Public(), key.Public()))
			if err != nil {
				t.Fatal(err)
			}
			if got.Signer.Subject != "test key" || got.Signer.AnchorSHA256 != got.Signer.KeySHA256 || got.Provenance["signer"] != "Signer" ||
				got.Provenance["signer_uri"] != "https://signer.example" || got.Provenance["signature_valid_until"] != "2024-11-26T12:00:00Z" {
				t.Errorf("%+v, %v", got.Signer, got.Provenance)
			}
			_, err = Import(signed, trusting(newKey(t, elliptic.P256()).Public()))
			importtest.WantError(t, err, baseline.ImportUntrusted, "/signature: no trusted key verifies the signature")
			_, err = Import(signed, nil)
			importtest.WantError(t, err, baseline.ImportUntrusted, "the time to judge the validity at is not given")
			// Another payload, another header, another signature.
			for what, at := range map[string]int{"payload": bytes.Index(signed, hash(48, 1)), "header": bytes.Index(signed, []byte("key id")), "signature": len(signed) - 1} {
				changed := bytes.Clone(signed)
				changed[at] ^= 1
				if _, err := Import(changed, trusting(key.Public())); err == nil {
					t.Errorf("a changed %s is accepted", what)
				}
			}
			if name != "PS256" {
				again, err := Sign(document, key, []byte("key id"), meta)
				if err != nil || !bytes.Equal(again, signed) {
					t.Errorf("without randomness, the signature is not the same again (%v)", err)
				}
			}
		})
	}
}

// Another implementation reads what is signed, and every bit of it counts.
func TestEveryByteIsSigned(t *testing.T) {
	key := newKey(t, elliptic.P256())
	signed, err := Sign(exported(t), key, nil, SignerMeta{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	var message cose.Sign1Message
	if err := message.UnmarshalCBOR(signed); err != nil {
		t.Fatal(err)
	}
	other, err := cose.NewVerifier(cose.AlgorithmES256, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := message.Verify(nil, other); err != nil {
		t.Fatal(err)
	}
	for i := range signed {
		changed := bytes.Clone(signed)
		changed[i] ^= 1 << (i % 8)
		if got, err := Import(changed, trusting(key.Public())); err == nil {
			t.Errorf("byte %d changed, and accepted: %+v", i, got)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	key := newKey(t, elliptic.P256())
	if _, err := Sign(specimen(t, "signed-good-corim.cbor"), key, nil, SignerMeta{Name: "x"}); err == nil {
		t.Error("a signed CoRIM is signed again")
	}
	if _, err := Sign([]byte("no CBOR"), key, nil, SignerMeta{Name: "x"}); err == nil {
		t.Error("what is no CoRIM is signed")
	}
	if _, err := Sign(exported(t), key, nil, SignerMeta{}); err == nil {
		t.Error("a signature without a name")
	}
	if _, err := Sign(exported(t), key, nil, SignerMeta{Name: "x", NotBefore: now}); err == nil {
		t.Error("a validity without end")
	}
	if _, err := Sign(exported(t), newKey(t, elliptic.P224()), nil, SignerMeta{Name: "x"}); err == nil {
		t.Error("a curve that COSE has no algorithm for")
	}
}

// authority is a CA with an intermediate one and a signer.
type authority struct {
	root, intermediate, cert *x509.Certificate
	key                      *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, change func(*x509.Certificate)) *authority {
	t.Helper()
	issue := func(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
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
	template := func(name string, ca bool) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true, IsCA: ca,
			NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature}
		if ca {
			c.KeyUsage = x509.KeyUsageCertSign
		}
		return c
	}
	rootKey, middleKey, key := newKey(t, elliptic.P256()), newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	a := &authority{key: key}
	a.root = issue(template("root", true), template("root", true), rootKey.Public(), rootKey)
	a.intermediate = issue(template("intermediate", true), a.root, middleKey.Public(), rootKey)
	leaf := template("signer", false)
	if change != nil {
		change(leaf)
	}
	a.cert = issue(leaf, a.intermediate, key.Public(), middleKey)
	return a
}

func TestCertificateChain(t *testing.T) {
	a, stranger := newAuthority(t, nil), newAuthority(t, nil)
	roots := func(certs ...*x509.Certificate) *baseline.ImportTrust {
		return &baseline.ImportTrust{Roots: certs, Now: now}
	}
	expired := newAuthority(t, func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) })
	encipher := newAuthority(t, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })
	for _, test := range []struct {
		name  string
		key   crypto.Signer
		chain []*x509.Certificate
		trust *baseline.ImportTrust
		want  string // of the error; empty is accepted
	}{
		{"chain", a.key, []*x509.Certificate{a.cert, a.intermediate}, roots(a.root), ""},
		{"chain with the root in it", a.key, []*x509.Certificate{a.cert, a.intermediate, a.root}, roots(a.root), ""},
		{"the certificate itself is trusted", a.key, []*x509.Certificate{a.cert}, roots(a.cert), ""},
		{"no chain, the certificate is trusted", a.key, nil, roots(stranger.cert, a.cert), ""},
		{"its key is trusted", a.key, []*x509.Certificate{a.cert}, trusting(a.key.Public()), ""},
		{"no intermediate", a.key, []*x509.Certificate{a.cert}, roots(a.root), "/protected/x5chain: CN=signer chains to no trust anchor"},
		{"another root", a.key, []*x509.Certificate{a.cert, a.intermediate}, roots(stranger.root), "chains to no trust anchor"},
		{"a root of its own in the chain", a.key, []*x509.Certificate{a.cert, a.intermediate, a.root}, roots(stranger.root), "chains to no trust anchor"},
		{"another's certificate", stranger.key, []*x509.Certificate{a.cert, a.intermediate}, roots(a.root), "the signature is not that of the certificate"},
		{"the signer is not the first", a.key, []*x509.Certificate{a.intermediate, a.cert}, roots(a.root), "the signature is not that of the certificate"},
		{"expired", expired.key, []*x509.Certificate{expired.cert, expired.intermediate}, roots(expired.root), "expired on 2024-11-24"},
		{"expired, trusted itself", expired.key, nil, roots(expired.cert), "expired on 2024-11-24"},
		{"not for signatures", encipher.key, []*x509.Certificate{encipher.cert, encipher.intermediate}, roots(encipher.root), "does not allow to sign documents"},
		{"nobody", a.key, []*x509.Certificate{a.cert}, nil, "no trust anchors are given"},
	} {
		t.Run(test.name, func(t *testing.T) {
			signed, err := Sign(exported(t), test.key, nil, SignerMeta{Name: "x", Certificates: test.chain})
			if err != nil {
				t.Fatal(err)
			}
			got, err := Import(signed, test.trust)
			if test.want != "" {
				importtest.WantError(t, err, baseline.ImportUntrusted, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Signer.AnchorSHA256) != 64 || got.Signer.Subject == "" {
				t.Errorf("%+v", got.Signer)
			}
		})
	}
}

// What a signature may not leave out, and what must be understood.
func TestHeaders(t *testing.T) {
	key := newKey(t, elliptic.P256())
	signer, err := cose.NewSigner(cose.AlgorithmES256, key)
	if err != nil {
		t.Fatal(err)
	}
	meta := func(v any) []byte { return marshal(t, v) }
	named := meta(m{0: m{0: "x"}})
	epoch := func(days int) any { return tag(1, now.AddDate(0, 0, days).Unix()) }
	many := make([]any, maxCertificates+1)
	for i := range many {
		many[i] = []byte{1}
	}
	for _, test := range []struct {
		name        string
		protected   cose.ProtectedHeader // besides the algorithm and content type; nil values take out
		unprotected cose.UnprotectedHeader
		kind, want  string
	}{
		{"corim-meta", cose.ProtectedHeader{int64(8): named}, nil, "", ""},
		{"CWT claims", cose.ProtectedHeader{int64(15): map[any]any{int64(1): "x", int64(2): "s"}}, nil, "", ""},
		{"both, the same times", cose.ProtectedHeader{int64(8): meta(m{0: m{0: "x"}, 1: m{1: epoch(1)}}), int64(15): map[any]any{int64(1): "x", int64(4): now.AddDate(0, 0, 1).Unix()}}, nil, "", ""},
		{"the content type of earlier drafts", cose.ProtectedHeader{int64(3): "application/corim-unsigned+cbor", int64(8): named}, nil, "", ""},
		{"something critical that is understood", cose.ProtectedHeader{int64(8): named, int64(2): []any{int64(8)}}, nil, "", ""},
		{"neither", cose.ProtectedHeader{}, nil, baseline.ImportMalformed, "/protected: corim-meta (8) or CWT claims (15) must say who signs"},
		{"corim-meta that nobody signed", cose.ProtectedHeader{}, cose.UnprotectedHeader{int64(8): named}, baseline.ImportMalformed, "must say who signs"},
		{"no content type", cose.ProtectedHeader{int64(3): nil, int64(8): named}, nil, baseline.ImportMalformed, "/protected: the content type (3) is missing"},
		{"another content type", cose.ProtectedHeader{int64(3): "application/eat+cwt", int64(8): named}, nil, baseline.ImportUnsupported, "/protected/content-type: \"application/eat+cwt\""},
		{"a hash envelope", cose.ProtectedHeader{int64(8): named, int64(258): int64(-16)}, nil, baseline.ImportUnsupported, "/protected/payload-hash-alg: only the hash"},
		{"something critical that is not understood", cose.ProtectedHeader{int64(8): named, int64(2): []any{int64(99)}, int64(99): int64(1)}, nil, baseline.ImportUnsupported, "/protected/crit/0: the critical header is not understood"},
		{"a nameless signer", cose.ProtectedHeader{int64(8): meta(m{1: m{1: epoch(1)}})}, nil, baseline.ImportMalformed, "/protected/corim-meta: the signer (0) is missing"},
		{"CWT claims without issuer", cose.ProtectedHeader{int64(15): map[any]any{int64(2): "x"}}, nil, baseline.ImportMalformed, "/protected/cwt-claims: the issuer (1) is missing"},
		{"corim-meta that is no CBOR", cose.ProtectedHeader{int64(8): []byte{0xff}}, nil, baseline.ImportMalformed, "/protected/corim-meta: "},
		{"over", cose.ProtectedHeader{int64(8): meta(m{0: m{0: "x"}, 1: m{1: epoch(-1)}})}, nil, baseline.ImportUntrusted, "/protected/corim-meta/signature-validity: not valid after 2024-11-24"},
		{"to come", cose.ProtectedHeader{int64(8): meta(m{0: m{0: "x"}, 1: m{0: epoch(1), 1: epoch(2)}})}, nil, baseline.ImportUntrusted, "not valid before 2024-11-26"},
		{"over, by CWT claims", cose.ProtectedHeader{int64(15): map[any]any{int64(1): "x", int64(4): now.AddDate(0, 0, -1).Unix()}}, nil, baseline.ImportUntrusted, "/protected/cwt-claims: not valid after 2024-11-24"},
		{"to come, by CWT claims", cose.ProtectedHeader{int64(15): map[any]any{int64(1): "x", int64(5): now.AddDate(0, 0, 1).Unix()}}, nil, baseline.ImportUntrusted, "/protected/cwt-claims: not valid before 2024-11-26"},
		{"both, other times", cose.ProtectedHeader{int64(8): meta(m{0: m{0: "x"}, 1: m{1: epoch(1)}}), int64(15): map[any]any{int64(1): "x", int64(4): now.AddDate(0, 0, 2).Unix()}}, nil, baseline.ImportMalformed, "give the signature different times"},
		{"a chain of nothing", cose.ProtectedHeader{int64(8): named}, cose.UnprotectedHeader{int64(33): []byte{1}}, baseline.ImportMalformed, "/unprotected/x5chain: x509"},
		{"a long chain", cose.ProtectedHeader{int64(8): named}, cose.UnprotectedHeader{int64(33): many}, baseline.ImportTooLarge, "/unprotected/x5chain: more than 16 certificates"},
	} {
		t.Run(test.name, func(t *testing.T) {
			protected := cose.ProtectedHeader{int64(1): cose.AlgorithmES256, int64(3): "application/rim+cbor"}
			for label, v := range test.protected {
				if v == nil {
					delete(protected, label)
				} else {
					protected[label] = v
				}
			}
			message := cose.Sign1Message{Headers: cose.Headers{Protected: protected, Unprotected: test.unprotected}, Payload: exported(t)}
			if err := message.Sign(rand.Reader, nil, signer); err != nil {
				t.Fatal(err)
			}
			signed, err := message.MarshalCBOR()
			if err != nil {
				t.Fatal(err)
			}
			_, err = Import(signed, trusting(key.Public()))
			if test.kind == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			importtest.WantError(t, err, test.kind, test.want)
		})
	}
	protected := func(alg any) []byte { return marshal(t, m{1: alg, 3: "application/rim+cbor", 8: named}) }
	for _, test := range []struct {
		name       string
		message    any
		kind, want string
	}{
		{"no algorithm", l{marshal(t, m{3: "application/rim+cbor", 8: named}), m{}, exported(t), []byte{1}}, baseline.ImportUntrusted, "/protected: the algorithm of the signature is not allowed"},
		{"the algorithm is not signed", l{marshal(t, m{3: "application/rim+cbor", 8: named}), m{1: -7}, exported(t), []byte{1}}, baseline.ImportUntrusted, "/protected: the algorithm"},
		{"RSA PKCS #1 v1.5", l{protected(-257), m{}, exported(t), []byte{1}}, baseline.ImportUntrusted, "/protected: the algorithm"},
		{"RSA with SHA-1", l{protected(-65535), m{}, exported(t), []byte{1}}, baseline.ImportUntrusted, "/protected: the algorithm"},
		{"HMAC", l{protected(5), m{}, exported(t), []byte{1}}, baseline.ImportUntrusted, "/protected: the algorithm"},
		{"no payload", l{protected(-7), m{}, nil, []byte{1}}, baseline.ImportUnsupported, "/payload: the payload is not in the document"},
		{"an empty payload", l{protected(-7), m{}, []byte{}, []byte{1}}, baseline.ImportUnsupported, "/payload: the payload is not in the document"},
		{"an empty signature", l{protected(-7), m{}, exported(t), []byte{}}, baseline.ImportMalformed, "not a COSE_Sign1"},
		{"a label in both headers", l{protected(-7), m{8: named}, exported(t), []byte{1}}, "", ""},
		{"three elements", l{protected(-7), m{}, exported(t)}, baseline.ImportMalformed, "has four elements; this has 3"},
		{"no array", m{}, baseline.ImportMalformed, "an array is needed"},
		{"a protected header that is no map", l{marshal(t, 1), m{}, exported(t), []byte{1}}, baseline.ImportMalformed, "/protected: a map is needed"},
		{"an unprotected header that is no map", l{protected(-7), l{}, exported(t), []byte{1}}, baseline.ImportMalformed, "/unprotected: a map is needed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Import(marshal(t, tag(tagSign1, test.message)), trusting(key.Public()))
			if test.kind == "" {
				if err == nil {
					t.Fatal("accepted")
				}
				return
			}
			importtest.WantError(t, err, test.kind, test.want)
		})
	}
	t.Run("keys that are not known", func(t *testing.T) {
		protected := cose.ProtectedHeader{int64(1): cose.AlgorithmES256, int64(3): "application/rim+cbor",
			int64(8): meta(m{0: m{0: "x", 9: 1}, 9: 1}), int64(15): map[any]any{int64(1): "x", int64(99): int64(1)}}
		message := cose.Sign1Message{Headers: cose.Headers{Protected: protected}, Payload: exported(t)}
		if err := message.Sign(rand.Reader, nil, signer); err != nil {
			t.Fatal(err)
		}
		signed, err := message.MarshalCBOR()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Import(signed, trusting(key.Public()))
		if err != nil {
			t.Fatal(err)
		}
		notes := strings.Join(got.Notes, "\n")
		for _, want := range []string{"/protected/corim-meta/9: not", "/protected/corim-meta/signer/9: not", "/protected/cwt-claims/99: not"} {
			if !strings.Contains(notes, want) {
				t.Errorf("no note has %q:\n%s", want, notes)
			}
		}
	})
	// The payload of a signature that is good must be a CoRIM all the same.
	for _, payload := range [][]byte{{0xff}, {0x01}, marshal(t, m{})} {
		message := cose.Sign1Message{Headers: cose.Headers{Protected: cose.ProtectedHeader{int64(1): cose.AlgorithmES256, int64(3): "application/rim+cbor", int64(8): named}}, Payload: payload}
		if err := message.Sign(rand.Reader, nil, signer); err != nil {
			t.Fatal(err)
		}
		signed, err := message.MarshalCBOR()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Import(signed, trusting(key.Public())); err == nil {
			t.Errorf("%x is accepted", payload)
		}
	}
}
