package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/binary"
	"math/big"
	"strings"
	"testing"
)

func TestNumberOfQuotes(t *testing.T) {
	f := newForger(t)
	claims := restrict(f.pcrs, []Selection{{SHA256, 1}})
	q := f.quote(Selection{SHA256, 1})
	quotes := make([]Quote, 9)
	for i := range quotes {
		quotes[i] = q
	}
	v, r := Verify(f.ak, nil, claims, fresh())
	mustFail(t, StepSignature, "no quote", v, r)
	v, r = Verify(f.ak, quotes, claims, fresh())
	mustFail(t, StepSignature, "9 quotes", v, r)
	v, r = Verify(f.ak, quotes[:8], claims, fresh())
	mustPass(t, v, r)
	quotes[7].Signature = f.quote(Selection{SHA256, 3}).Signature
	v, r = Verify(f.ak, quotes[:8], claims, fresh())
	mustFail(t, StepSignature, "quote 8 of 8", v, r)
}

// Whatever its caller forgot to check: a key that may sign anything does not verify a quote.
func TestVerifyRefusesAKeyThatIsNoAK(t *testing.T) {
	s := capture(t, "sb-on-1", "rsassa-sha256")
	raw := s.ak.Raw()
	binary.BigEndian.PutUint32(raw[4:], uint32(s.ak.Attributes()&^Restricted))
	ak, err := ParsePublic(raw)
	if err != nil {
		t.Fatal(err)
	}
	v, r := Verify(ak, []Quote{s.quote}, s.claims(t), s.expectation())
	mustFail(t, StepSignature, "not restricted", v, r)
	v, r = Verify(&Public{}, []Quote{s.quote}, s.claims(t), s.expectation())
	mustFail(t, StepSignature, "no key", v, r)
}

func TestOversizedMessage(t *testing.T) {
	f := newForger(t)
	v, r := Verify(f.ak, []Quote{f.sign(make([]byte, maxStructure+1))}, nil, fresh())
	mustFail(t, StepSignature, "1025 bytes", v, r)
}

func TestSignatureScheme(t *testing.T) {
	key, bare := rsaAK(t)
	f := newForger(t)
	message := f.message(Selection{SHA256, 1}).bytes()
	claims := restrict(f.pcrs, []Selection{{SHA256, 1}})

	digest := func(alg HashAlg) []byte {
		h := alg.Hash().New()
		h.Write(message)
		return h.Sum(nil)
	}
	pkcs := func(alg HashAlg) []byte {
		sig, err := rsa.SignPKCS1v15(rand.Reader, key, alg.Hash(), digest(alg))
		if err != nil {
			t.Fatal(err)
		}
		return (&Signature{Scheme: Scheme{AlgRSASSA, alg}, RSA: sig}).Marshal()
	}
	pss := func(alg HashAlg, salt int) []byte {
		sig, err := rsa.SignPSS(rand.Reader, key, alg.Hash(), digest(alg), &rsa.PSSOptions{SaltLength: salt})
		if err != nil {
			t.Fatal(err)
		}
		return (&Signature{Scheme: Scheme{AlgRSAPSS, alg}, RSA: sig}).Marshal()
	}
	// The same key as a TPM would describe it, for one scheme only.
	tpmKey := func(scheme Alg, hash HashAlg) *Public {
		p, err := ParsePublic(rsaPublic(key.N.Bytes(), scheme, hash))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	short := pkcs(SHA256)
	binary.BigEndian.PutUint16(short[4:], 255)
	ecdsaByRSA := (&Signature{Scheme: Scheme{AlgECDSA, SHA256}, R: []byte{1}, S: []byte{1}}).Marshal()

	for _, c := range []struct {
		name      string
		ak        *Public
		signature []byte
		detail    string // empty: the signature passes
	}{
		{"RSASSA, no own scheme", bare, pkcs(SHA256), ""},
		{"RSASSA with sha512, no own scheme", bare, pkcs(SHA512), ""},
		{"RSAPSS, no own scheme", bare, pss(SHA256, 32), ""},
		{"RSASSA, own scheme", tpmKey(AlgRSASSA, SHA256), pkcs(SHA256), ""},
		{"RSAPSS, salt of the digest's length", tpmKey(AlgRSAPSS, SHA256), pss(SHA256, 32), ""},
		{"RSAPSS, longest salt", tpmKey(AlgRSAPSS, SHA256), pss(SHA256, 256-32-2), ""},
		{"RSAPSS with sha384, longest salt", tpmKey(AlgRSAPSS, SHA384), pss(SHA384, 256-48-2), ""},
		{"RSAPSS, salt that no TPM makes", tpmKey(AlgRSAPSS, SHA256), pss(SHA256, 20), "does not verify"},
		{"other padding than the key's", tpmKey(AlgRSASSA, SHA256), pss(SHA256, 32), "RSAPSS with sha256, but the key signs RSASSA with sha256"},
		{"other hash than the key's", tpmKey(AlgRSASSA, SHA256), pkcs(SHA384), "but the key signs"},
		{"SHA-1", bare, pkcs(SHA1), "uses sha1"},
		{"SHA-1, PSS", bare, pss(SHA1, sha1.Size), "uses sha1"},
		{"ECDSA of an RSA key", bare, ecdsaByRSA, "another type"},
		{"RSASSA of an ECDSA key", f.ak, pkcs(SHA256), "another type"},
		{"short", bare, short[:len(short)-1], "255 bytes, but the key 256"},
		{"long", bare, (&Signature{Scheme: Scheme{AlgRSASSA, SHA256}, RSA: make([]byte, 257)}).Marshal(), "257 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, r := Verify(c.ak, []Quote{{message, c.signature}}, claims, fresh())
			if c.detail != "" {
				mustFail(t, StepSignature, c.detail, v, r)
			} else if r.Steps[StepSignature].Outcome != Pass {
				t.Error(describe(r))
			}
		})
	}
}

func TestECDSARange(t *testing.T) {
	f := newForger(t)
	message := f.message(Selection{SHA256, 1}).bytes()
	claims := restrict(f.pcrs, []Selection{{SHA256, 1}})
	h := crypto.SHA256.New()
	h.Write(message)
	r, s, err := ecdsa.Sign(rand.Reader, f.key, h.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	n := f.key.Params().N
	for name, c := range map[string]struct {
		r, s   []byte
		detail string
	}{
		"good":               {r.Bytes(), s.Bytes(), ""},
		"with leading zeros": {append([]byte{0, 0}, r.Bytes()...), append([]byte{0}, s.Bytes()...), ""},
		"r is zero":          {nil, s.Bytes(), "order of the curve"},
		"s is zero":          {r.Bytes(), []byte{0}, "order of the curve"},
		"r plus the order":   {new(big.Int).Add(r, n).Bytes(), s.Bytes(), "order of the curve"},
		"s plus the order":   {r.Bytes(), new(big.Int).Add(s, n).Bytes(), "order of the curve"},
	} {
		t.Run(name, func(t *testing.T) {
			signature := (&Signature{Scheme: Scheme{AlgECDSA, SHA256}, R: c.r, S: c.s}).Marshal()
			v, r := Verify(f.ak, []Quote{{message, signature}}, claims, fresh())
			if c.detail != "" {
				mustFail(t, StepSignature, c.detail, v, r)
			} else {
				mustPass(t, v, r)
			}
		})
	}
}

func TestParseSignatureErrors(t *testing.T) {
	good := (&Signature{Scheme: Scheme{AlgECDSA, SHA256}, R: []byte{1}, S: []byte{2}}).Marshal()
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":          {nil, "empty"},
		"huge":           {make([]byte, 2000), "2000 bytes"},
		"HMAC":           {[]byte{0, 5, 0, 11}, "none of RSASSA, RSAPSS and ECDSA"},
		"NULL":           {[]byte{0, 0x10}, "NULL is none of"},
		"ends early":     {good[:len(good)-1], "at byte 9: signatureS needs 1 bytes"},
		"trailing":       {append(bytes.Clone(good), 0), "at byte 10: 1 bytes follow"},
		"size too large": {[]byte{0, 0x14, 0, 11, 0xff, 0xff}, "at byte 4: sig has a size of 65535"},
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := ParseSignature(c.b); err == nil || !strings.Contains(err.Error(), c.want) || s != nil {
				t.Errorf("%v, %v", s, err)
			}
		})
	}
}
