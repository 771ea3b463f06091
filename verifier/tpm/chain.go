package tpm

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Extended key usages of TPM certificates (TCG EK Credential Profile 2.5, section 3.2.16; TCG OID
// Registry, section 3).
var (
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
	oidAIKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 3} // tcg-kp-AIKCertificate
)

// toleratedCritical are extensions that a TPM's certificate marks critical and that crypto/x509
// leaves to its caller. A subject alternative name that holds only a directoryName names the TPM's
// manufacturer, model and version (2.23.133.2.1 to .3), and nothing is decided by it here; subject
// directory attributes name the TPM specification that it follows.
var toleratedCritical = []asn1.ObjectIdentifier{
	{2, 5, 29, 17}, // subjectAltName
	{2, 5, 29, 9},  // subjectDirectoryAttributes
}

// VerifyEKChain checks that an EK certificate was issued under one of roots and answers the chain,
// leaf first. It checks, at time now: signatures, validity, CA flags and path lengths of every
// certificate (crypto/x509); that the leaf is no CA; that the leaf's extended key usage is
// tcg-kp-EKCertificate, any, or absent, as older vendors left it; and that its key usage, where
// stated, is encipherment (RSA) or agreement (ECC), since some CAs give an AK the same extended key
// usage. It fetches nothing: intermediates that the machine did not send must be given. It asks no
// revocation list.
func VerifyEKChain(leaf *x509.Certificate, intermediates, roots []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	chain, err := verifyChain(leaf, intermediates, roots, now)
	if err != nil {
		return nil, fmt.Errorf("EK certificate: %w", err)
	}
	const usage = x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement | x509.KeyUsageDataEncipherment
	if leaf.KeyUsage != 0 && leaf.KeyUsage&usage == 0 {
		return nil, errors.New("EK certificate: its key usage is not that of an endorsement key")
	}
	if !hasUsage(leaf, oidEKCertificate) {
		return nil, errors.New("EK certificate: its extended key usage is not tcg-kp-EKCertificate (2.23.133.8.1)")
	}
	return chain, nil
}

// VerifyAKChain is VerifyEKChain for a certificate that certifies an AK directly. The extended key
// usage must be tcg-kp-AIKCertificate, any, or absent; Google's vTPM CA writes tcg-kp-EKCertificate
// into AK certificates too, so that one is accepted where the key usage is digitalSignature alone.
func VerifyAKChain(leaf *x509.Certificate, intermediates, roots []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	chain, err := verifyChain(leaf, intermediates, roots, now)
	if err != nil {
		return nil, fmt.Errorf("AK certificate: %w", err)
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, errors.New("AK certificate: its key usage is not digitalSignature")
	}
	signsOnly := leaf.KeyUsage == x509.KeyUsageDigitalSignature && hasUsage(leaf, oidEKCertificate)
	if !hasUsage(leaf, oidAIKCertificate) && !signsOnly {
		return nil, errors.New("AK certificate: its extended key usage is not tcg-kp-AIKCertificate (2.23.133.8.3)")
	}
	return chain, nil
}

// hasUsage tells whether a certificate allows the usage: it names it, or any, or none at all.
func hasUsage(cert *x509.Certificate, want asn1.ObjectIdentifier) bool {
	if len(cert.ExtKeyUsage) == 0 && len(cert.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny) ||
		slices.ContainsFunc(cert.UnknownExtKeyUsage, want.Equal)
}

func verifyChain(leaf *x509.Certificate, intermediates, roots []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	if leaf == nil {
		return nil, errors.New("there is no certificate")
	}
	if len(roots) == 0 {
		return nil, errors.New("there is no trust anchor to chain to")
	}
	if now.IsZero() {
		return nil, errors.New("the time to judge at is not given") // x509 would take the clock's
	}
	if leaf.IsCA {
		return nil, errors.New("the certificate is that of a CA, not of a TPM's key")
	}
	chains, err := tolerate(leaf).Verify(x509.VerifyOptions{
		Roots:         pool(roots),
		Intermediates: pool(intermediates),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, err
	}
	return chains[0], nil
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, cert := range certs {
		if cert != nil {
			p.AddCert(tolerate(cert))
		}
	}
	return p
}

// tolerate is a copy of cert that does not list the tolerated critical extensions as unhandled. The
// caller's certificate is never changed.
func tolerate(cert *x509.Certificate) *x509.Certificate {
	c := *cert
	c.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(cert.UnhandledCriticalExtensions), func(id asn1.ObjectIdentifier) bool {
		return slices.ContainsFunc(toleratedCritical, id.Equal)
	})
	return &c
}
