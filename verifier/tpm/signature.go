package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
)

// Signature is a TPMT_SIGNATURE (Part 2, section 11.3.4) of a kind that can sign a quote. Its
// slices alias the parsed bytes.
type Signature struct {
	Scheme Scheme
	RSA    []byte // RSASSA and RSAPSS: the signature, as long as the modulus
	R, S   []byte // ECDSA: big-endian, possibly with leading zeros
}

// ParseSignature reads a TPMT_SIGNATURE of RSASSA, RSAPSS or ECDSA, with no bytes left over.
func ParseSignature(b []byte) (*Signature, error) {
	s := &Signature{}
	if err := s.parse(b); err != nil {
		return nil, fmt.Errorf("TPMT_SIGNATURE: %w", err)
	}
	return s, nil
}

func (s *Signature) parse(b []byte) error {
	r := newReader("the signature", b)
	s.Scheme.Alg = Alg(r.u16("sigAlg"))
	switch s.Scheme.Alg {
	case AlgRSASSA, AlgRSAPSS:
		s.Scheme.Hash = HashAlg(r.u16("hash"))
		s.RSA = r.bytes2B(512, "sig")
	case AlgECDSA:
		s.Scheme.Hash = HashAlg(r.u16("hash"))
		s.R = r.bytes2B(66, "signatureR")
		s.S = r.bytes2B(66, "signatureS")
	default:
		if r.err == nil {
			return fmt.Errorf("at byte 0: %s is none of RSASSA, RSAPSS and ECDSA", s.Scheme.Alg)
		}
	}
	return r.end()
}

// Marshal is the TPMT_SIGNATURE that ParseSignature reads. It serves those who hold a raw signature
// and know its scheme, as Azure's evidence does: Signature{Scheme: Scheme{AlgRSASSA, SHA256}, RSA: raw}.
func (s *Signature) Marshal() []byte {
	b := make([]byte, 0, 8+len(s.RSA)+len(s.R)+len(s.S))
	b = binary.BigEndian.AppendUint16(b, uint16(s.Scheme.Alg))
	b = binary.BigEndian.AppendUint16(b, uint16(s.Scheme.Hash))
	parts := [][]byte{s.RSA}
	if s.Scheme.Alg == AlgECDSA {
		parts = [][]byte{s.R, s.S}
	}
	for _, part := range parts {
		b = binary.BigEndian.AppendUint16(b, uint16(len(part)))
		b = append(b, part...)
	}
	return b
}

// verify checks the signature over message with the key of p. The scheme and hash must be the key's
// own; where the key has none (AlgNull) the kind of key decides. SHA-1 is never accepted.
func (s *Signature) verify(p *Public, message []byte) error {
	if !signatureHash(s.Scheme.Hash) {
		return fmt.Errorf("the signature uses %s; only sha256, sha384 and sha512 are accepted", s.Scheme.Hash)
	}
	if p.scheme.Alg != AlgNull && p.scheme != s.Scheme {
		return fmt.Errorf("the signature is %s, but the key signs %s", s.Scheme, p.scheme)
	}
	hash := s.Scheme.Hash.Hash()
	h := hash.New()
	h.Write(message)
	var sum [64]byte
	digest := h.Sum(sum[:0])
	switch {
	case p.rsa != nil && s.Scheme.Alg != AlgECDSA:
		return s.verifyRSA(p.rsa, hash, digest)
	case p.ecdsa != nil && s.Scheme.Alg == AlgECDSA:
		return s.verifyECDSA(p.ecdsa, digest)
	}
	return fmt.Errorf("the signature is %s, which a key of another type (%s) cannot make", s.Scheme, p)
}

var errSignature = errors.New("the signature does not verify with this attestation key")

func (s *Signature) verifyRSA(key *rsa.PublicKey, hash crypto.Hash, digest []byte) error {
	if len(s.RSA) != key.Size() {
		return fmt.Errorf("the signature has %d bytes, but the key %d", len(s.RSA), key.Size())
	}
	if s.Scheme.Alg == AlgRSASSA {
		if rsa.VerifyPKCS1v15(key, hash, digest, s.RSA) != nil {
			return errSignature
		}
		return nil
	}
	// TPMs salt with as many bytes as the digest has (FIPS 186-5, section 5.4) or with as many as
	// fit (Part 1, section B.7). Any other length is not a TPM's work.
	most := (key.N.BitLen()-1+7)/8 - hash.Size() - 2
	for _, salt := range [...]int{rsa.PSSSaltLengthEqualsHash, most} {
		if rsa.VerifyPSS(key, hash, digest, s.RSA, &rsa.PSSOptions{SaltLength: salt}) == nil {
			return nil
		}
	}
	return errSignature
}

func (s *Signature) verifyECDSA(key *ecdsa.PublicKey, digest []byte) error {
	r, t := new(big.Int).SetBytes(s.R), new(big.Int).SetBytes(s.S)
	order := key.Params().N
	if r.Sign() == 0 || t.Sign() == 0 || r.Cmp(order) >= 0 || t.Cmp(order) >= 0 {
		return errors.New("a half of the ECDSA signature is not between 1 and the order of the curve")
	}
	if !ecdsa.Verify(key, digest, r, t) {
		return errSignature
	}
	return nil
}

// sameSigner tells whether two attestations name the same signer.
func sameSigner(a, b *Attest) bool { return bytes.Equal(a.QualifiedSigner, b.QualifiedSigner) }
