package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"testing"
)

// message is a TPMS_ATTEST in the making; its zero fields are written as they are.
type message struct {
	magic      uint32
	kind       AttestType
	signer     []byte
	extra      []byte
	clock      ClockState
	selections []Selection
	digest     []byte
	trailing   []byte
}

func (m message) bytes() []byte {
	var b []byte
	sized := func(v []byte) { b = append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...) }
	b = binary.BigEndian.AppendUint32(b, m.magic)
	b = binary.BigEndian.AppendUint16(b, uint16(m.kind))
	sized(m.signer)
	sized(m.extra)
	b = binary.BigEndian.AppendUint64(b, m.clock.Clock)
	b = binary.BigEndian.AppendUint32(b, m.clock.ResetCount)
	b = binary.BigEndian.AppendUint32(b, m.clock.RestartCount)
	if m.clock.Safe {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = binary.BigEndian.AppendUint64(b, m.clock.FirmwareVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.selections)))
	for _, s := range m.selections {
		b = binary.BigEndian.AppendUint16(b, uint16(s.Alg))
		b = append(b, 3, byte(s.Mask), byte(s.Mask>>8), byte(s.Mask>>16))
	}
	sized(m.digest)
	return append(b, m.trailing...)
}

// forger signs what no TPM would: a key in software, and PCR values of its own.
type forger struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	ak   *Public
	pcrs PCRs
}

var testNonce = bytes.Repeat([]byte{7}, 32)

func newForger(t testing.TB) *forger {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := PublicFromCrypto(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	f := &forger{t: t, key: key, ak: ak}
	for _, alg := range []HashAlg{SHA1, SHA256, SHA384} {
		bank := Bank{Alg: alg, Mask: 1<<NumPCRs - 1}
		for i := range bank.Values {
			bank.Values[i] = bytes.Repeat([]byte{byte(alg) + byte(i)}, alg.Size())
		}
		f.pcrs = append(f.pcrs, bank)
	}
	return f
}

// message is a faithful quote of the forger's PCRs.
func (f *forger) message(selections ...Selection) message {
	h := crypto.SHA256.New()
	for _, s := range selections {
		bank := f.pcrs.Bank(s.Alg)
		for _, i := range s.Indices() {
			h.Write(bank.Values[i])
		}
	}
	return message{magic: generatedValue, kind: AttestQuote, signer: []byte("signer"), extra: testNonce, selections: selections,
		digest: h.Sum(nil), clock: ClockState{Clock: 1000, ResetCount: 5, RestartCount: 2, Safe: true, FirmwareVersion: 9}}
}

func (f *forger) sign(b []byte) Quote {
	f.t.Helper()
	h := crypto.SHA256.New()
	h.Write(b)
	r, s, err := ecdsa.Sign(rand.Reader, f.key, h.Sum(nil))
	if err != nil {
		f.t.Fatal(err)
	}
	return Quote{Message: b, Signature: (&Signature{Scheme: Scheme{AlgECDSA, SHA256}, R: r.Bytes(), S: s.Bytes()}).Marshal()}
}

func (f *forger) quote(selections ...Selection) Quote {
	f.t.Helper()
	return f.sign(f.message(selections...).bytes())
}

// rsaAK is an RSA key in software without a scheme of its own.
func rsaAK(t testing.TB) (*rsa.PrivateKey, *Public) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := PublicFromCrypto(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, ak
}

func fresh() Expectation { return Expectation{Freshness: Freshness{Nonce: testNonce}} }

const allPCRs = 1<<NumPCRs - 1
