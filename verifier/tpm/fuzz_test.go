package tpm

import (
	"bytes"
	"encoding/pem"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

func FuzzParseAttest(f *testing.F) {
	for _, s := range append(published(f), captured(f, "sb-on-1")...) {
		f.Add(s.quote.Message)
	}
	f.Add(read(f, "testdata/quotes/goattest-windows-gce-shielded-vm/ak.CreateAttestation.bin"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAttest(b)
		extra, peekErr := PeekExtraData(b)
		if err != nil {
			return
		}
		if peekErr != nil || !bytes.Equal(extra, a.ExtraData) {
			t.Fatalf("peeked %x, %v; parsed %x", extra, peekErr, a.ExtraData)
		}
		again, err := ParseAttest(message{magic: generatedValue, kind: AttestQuote, signer: a.QualifiedSigner, extra: a.ExtraData,
			clock: a.Clock, selections: a.Selections, digest: a.PCRDigest}.bytes())
		if err != nil || !reflect.DeepEqual(a, again) {
			t.Fatalf("%+v became %+v, %v", a, again, err)
		}
		for _, s := range a.Selections {
			if s.Mask >= 1<<NumPCRs {
				t.Fatalf("selection %v", s)
			}
		}
	})
}

func FuzzParseSignature(f *testing.F) {
	for _, s := range append(published(f), captured(f, "sb-on-1")...) {
		f.Add(s.quote.Signature)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSignature(b); err == nil && !bytes.Equal(s.Marshal(), b) {
			t.Fatalf("%x became %x", b, s.Marshal())
		}
	})
}

func FuzzParsePublic(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(boots, "sb-on-1", "evidence", "*.tpmt_public"))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		f.Add(read(f, file))
		f.Add(prefixed(read(f, file)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePublic(b)
		if err != nil {
			return
		}
		raw := p.Raw()
		if !bytes.Equal(raw, b) && !bytes.Equal(prefixed(raw), b) {
			t.Fatalf("%x became %x", b, raw)
		}
		again, err := ParsePublic(raw)
		if err != nil || !reflect.DeepEqual(p, again) {
			t.Fatalf("%v became %v, %v", p, again, err)
		}
		_, _ = CheckAK(p), CheckEK(p)
		// What is accepted here, go-tpm reads as the same object.
		theirs, err := tpm2.Unmarshal[tpm2.TPMTPublic](raw)
		if err != nil {
			return // it knows fewer algorithms
		}
		if name, err := tpm2.ObjectName(theirs); err != nil || !bytes.Equal(name.Buffer, p.Name()) {
			t.Fatalf("name %x, go-tpm says %x, %v", p.Name(), name, err)
		}
	})
}

func FuzzParseEKCertificate(f *testing.F) {
	der := read(f, boots, "sb-on-1", "evidence", "ek-rsa2048.der")
	f.Add(der)
	f.Add(stamped(der))
	f.Add(append(stamped(read(f, boots, "sb-on-1", "evidence", "ek-ecc-p384.der")), 0xff, 0xff, 0xff))
	f.Add(read(f, "testdata/certs/gce/uca_tpm_ecc_enc_cert.pem"))
	f.Fuzz(func(t *testing.T, b []byte) {
		cert, err := ParseEKCertificate(b)
		if err != nil {
			return
		}
		if block, _ := pem.Decode(b); block == nil && !bytes.Contains(b, cert.Raw) {
			t.Fatal("the certificate is not in the input")
		}
		if again, err := ParseEKCertificate(cert.Raw); err != nil || !bytes.Equal(again.Raw, cert.Raw) {
			t.Fatal(err)
		}
		_, _ = PublicFromCertificate(cert)
	})
}

// Nothing but the very message and values that the TPM signed verifies.
func FuzzVerify(f *testing.F) {
	var specimens []specimen
	for _, name := range flipped {
		s := capture(f, "sb-on-1", name)
		f.Add(byte(len(specimens)), s.quote.Message, s.quote.Signature, byte(4), s.all.Bank(SHA256).Values[4])
		specimens = append(specimens, s)
	}
	f.Fuzz(func(t *testing.T, which byte, message, signature []byte, index byte, value []byte) {
		s := specimens[int(which)%len(specimens)]
		claims := s.claims(t)
		bank := claims.Bank(SHA256)
		i := int(index) % NumPCRs
		honest := bytes.Equal(bank.Values[i], value) && bytes.Equal(message, s.quote.Message)
		bank.Values[i] = value
		v, r := Verify(s.ak, []Quote{{message, signature}}, claims, s.expectation())
		if v != nil && (!honest || r.Failed()) {
			t.Fatalf("verified: %s", describe(r))
		}
		if v == nil && !r.Failed() {
			t.Fatalf("nothing failed: %s", describe(r))
		}
	})
}
