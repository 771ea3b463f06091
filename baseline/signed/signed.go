// Package signed decides whether the signature of an imported document is one of a key that the tenant trusts: a bare
// public key, or a certificate that leads to one of the tenant's roots. What a key is good for follows from the key
// itself: no document names the algorithm that it is checked with.
package signed

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // hashes of signatures
	_ "crypto/sha512"
	"errors"
	"fmt"
	"slices"

	"github.com/assay-verifier/assay/baseline"
)

// Candidates are the keys that trust holds itself: bare keys, and those of root certificates that may sign now.
func Candidates(trust *baseline.ImportTrust) []baseline.TrustedKey {
	return slices.DeleteFunc(trust.TrustedKeys(), func(k baseline.TrustedKey) bool { return k.Problem != nil })
}

// Verify checks a signature over message with a key of trust. ECDSA takes the hash of its curve (P-256: SHA-256, P-384: SHA-384, P-521:
// SHA-512), RSA SHA-256 with PKCS #1 v1.5 or PSS, Ed25519 the message itself.
func Verify(key crypto.PublicKey, message, signature []byte) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		hash, ok := curveHash(key.Curve)
		if !ok {
			return fmt.Errorf("keys on the curve %s are not accepted", key.Params().Name)
		}
		if !ecdsa.VerifyASN1(key, sum(hash, message), signature) {
			return errors.New("the ECDSA signature does not verify")
		}
		return nil
	case *rsa.PublicKey:
		digest := sum(crypto.SHA256, message)
		if rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, signature) == nil ||
			rsa.VerifyPSS(key, crypto.SHA256, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil {
			return nil
		}
		return errors.New("the RSA signature does not verify")
	case ed25519.PublicKey:
		if !ed25519.Verify(key, message, signature) {
			return errors.New("the Ed25519 signature does not verify")
		}
		return nil
	}
	return fmt.Errorf("keys of type %T are not accepted", key)
}

func curveHash(c elliptic.Curve) (crypto.Hash, bool) {
	switch c {
	case elliptic.P256():
		return crypto.SHA256, true
	case elliptic.P384():
		return crypto.SHA384, true
	case elliptic.P521():
		return crypto.SHA512, true
	}
	return 0, false
}

func sum(h crypto.Hash, b []byte) []byte {
	w := h.New()
	w.Write(b)
	return w.Sum(nil)
}
