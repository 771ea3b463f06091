package baseline

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
)

// SignerOf is the signer whose certificate leads to an anchor.
func SignerOf(leaf, anchor *x509.Certificate) *Signer {
	return &Signer{Subject: leaf.Subject.String(), KeySHA256: hexSHA256(leaf.RawSubjectPublicKeyInfo), AnchorSHA256: hexSHA256(anchor.Raw)}
}

// SignerOfKey is the signer whose bare key is trusted. spki is its SubjectPublicKeyInfo.
func SignerOfKey(name string, spki []byte) *Signer {
	return &Signer{Subject: name, KeySHA256: hexSHA256(spki), AnchorSHA256: hexSHA256(spki)}
}

func hexSHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
