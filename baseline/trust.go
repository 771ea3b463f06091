package baseline

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// minRSA is the shortest RSA key, in bits, that a document may be signed with.
const minRSA = 2048

// TrustedKey is a key that a document's signature may rest on by itself: a bare key, or that of a trusted certificate.
type TrustedKey struct {
	Key crypto.PublicKey
	// KeyID is the certificate's subject key identifier, by which documents name their signer; nil of a bare key.
	KeyID  []byte
	Signer Signer
	// Problem is why the key must not be accepted all the same: its certificate has expired, for example. It is kept so
	// that the error can say so.
	Problem error
}

// TrustedKeys lists the bare keys, then those of the trusted certificates. A nil trust has none.
func (t *ImportTrust) TrustedKeys() []TrustedKey {
	if t == nil {
		return nil
	}
	out := make([]TrustedKey, 0, len(t.Keys)+len(t.Roots))
	for _, k := range t.Keys {
		der, err := x509.MarshalPKIXPublicKey(k.Key)
		if err != nil {
			continue // no key that could have signed anything
		}
		sum := sha256Hex(der)
		out = append(out, TrustedKey{Key: k.Key, Signer: Signer{Subject: k.Name, KeySHA256: sum, AnchorSHA256: sum}, Problem: signingKey(k.Key)})
	}
	for _, cert := range t.Roots {
		problem := signingCertificate(cert)
		if problem == nil {
			problem = validAt(cert, t.Now)
		}
		out = append(out, TrustedKey{Key: cert.PublicKey, KeyID: cert.SubjectKeyId, Signer: certified(cert, cert), Problem: problem})
	}
	return out
}

// SignerOf tells who signed, given the certificate whose key verified the signature and the certificates that came with
// it. The certificate must be allowed to sign, and at t.Now it must be a trusted one, or chain to one; or its key must
// be trusted by itself.
func (t *ImportTrust) SignerOf(cert *x509.Certificate, others []*x509.Certificate) (*Signer, error) {
	if t == nil {
		return nil, errors.New("no trust anchors are given")
	}
	if err := signingKey(cert.PublicKey); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(cert.PublicKey)
	if err != nil {
		return nil, err
	}
	for _, k := range t.Keys {
		if trusted, err := x509.MarshalPKIXPublicKey(k.Key); err == nil && bytes.Equal(trusted, der) {
			sum := sha256Hex(der)
			return &Signer{Subject: k.Name, KeySHA256: sum, AnchorSHA256: sum}, nil
		}
	}
	if err := signingCertificate(cert); err != nil {
		return nil, err
	}
	if err := validAt(cert, t.Now); err != nil {
		return nil, err
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range t.Roots {
		roots.AddCert(c)
	}
	for _, c := range others {
		intermediates.AddCert(c)
	}
	chains, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: t.Now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, fmt.Errorf("%s chains to no trust anchor: %w", cert.Subject, err)
	}
	signer := certified(cert, chains[0][len(chains[0])-1])
	return &signer, nil
}

func certified(cert, anchor *x509.Certificate) Signer {
	return Signer{Subject: cert.Subject.String(), KeySHA256: sha256Hex(cert.RawSubjectPublicKeyInfo), AnchorSHA256: sha256Hex(anchor.Raw)}
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// signingCertificate refuses a certificate whose key usage (RFC 5280, section 4.2.1.3) is not to sign documents.
func signingCertificate(cert *x509.Certificate) error {
	if cert.KeyUsage != 0 && cert.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return fmt.Errorf("the key usage of %s does not allow to sign documents", cert.Subject)
	}
	return signingKey(cert.PublicKey)
}

func signingKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSA {
			return fmt.Errorf("the RSA key has %d bits; at least %d are needed", key.N.BitLen(), minRSA)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return fmt.Errorf("a %T cannot verify a document", key)
	}
	return nil
}

func validAt(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.IsZero():
		// A zero time would make x509 read the clock.
		return errors.New("the time to judge certificates at is not given")
	case now.Before(cert.NotBefore):
		return fmt.Errorf("the certificate of %s is not valid before %s", cert.Subject, cert.NotBefore.UTC().Format(time.RFC3339))
	case now.After(cert.NotAfter):
		return fmt.Errorf("the certificate of %s expired on %s", cert.Subject, cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// Shown is text of a document that nobody vouches for, cut to at most `most` bytes and so short enough for an error or a
// note.
func Shown(text string, most int) string {
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
