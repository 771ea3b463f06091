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
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/baseline"
)

// minRSABits is the smallest RSA key whose signatures are believed.
const minRSABits = 2048

// Candidate is a trusted key, and how it is trusted.
type Candidate struct {
	Key    crypto.PublicKey
	Signer baseline.Signer
}

// Candidates are the keys that trust holds itself: bare keys, and those of root certificates that are valid now.
func Candidates(trust *baseline.ImportTrust) []Candidate {
	if trust == nil {
		return nil
	}
	var out []Candidate
	for _, k := range trust.Keys {
		if spki, err := x509.MarshalPKIXPublicKey(k.Key); err == nil {
			out = append(out, Candidate{k.Key, *baseline.SignerOfKey(k.Name, spki)})
		}
	}
	for _, c := range trust.Roots {
		if !trust.Now.Before(c.NotBefore) && !trust.Now.After(c.NotAfter) {
			out = append(out, Candidate{c.PublicKey, *baseline.SignerOf(c, c)})
		}
	}
	return out
}

// Chain verifies that a certificate leads to one of the roots, now. The chain is the leaf's, in any order.
func Chain(leaf *x509.Certificate, intermediates []*x509.Certificate, trust *baseline.ImportTrust) (Candidate, error) {
	if trust == nil || len(trust.Roots) == 0 {
		return Candidate{}, errors.New("no certificate is trusted for reference values")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range trust.Roots {
		roots.AddCert(c)
	}
	for _, c := range intermediates {
		between.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: trust.Now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return Candidate{}, fmt.Errorf("the certificate %q is not trusted: %s", leaf.Subject, strings.TrimPrefix(err.Error(), "x509: "))
	}
	return Candidate{leaf.PublicKey, *baseline.SignerOf(leaf, chains[0][len(chains[0])-1])}, nil
}

// Verify checks a signature over message. ECDSA takes the hash of its curve (P-256: SHA-256, P-384: SHA-384, P-521:
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
		if key.N.BitLen() < minRSABits {
			return fmt.Errorf("an RSA key of %d bits is too short; at least %d are needed", key.N.BitLen(), minRSABits)
		}
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
