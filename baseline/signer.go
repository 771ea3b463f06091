package baseline

import "crypto/x509"

// Certified is the signer whose certificate leads to an anchor, as somebody else has verified.
func Certified(cert, anchor *x509.Certificate) *Signer {
	signer := certified(cert, anchor)
	return &signer
}
