package tpm

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

// maxCertificate bounds an EK certificate; the NV indices that hold them have some 2 KB.
const maxCertificate = 16 << 10

// ParseEKCertificate reads an EK (or AK) certificate as it is found in the wild: DER or one PEM
// block; before the DER the 7-byte header of a stored certificate in NV (TCG PC Client Specific
// Implementation Specification for Conventional BIOS, section 7.3.2: 10 01 00, a size, 10 02); after
// it the padding of an NV index, all zeros or all ones. Anything else around the certificate is an
// error, as is more than 16 KiB. Nothing in the certificate is verified.
func ParseEKCertificate(b []byte) (*x509.Certificate, error) {
	if len(b) > maxCertificate {
		return nil, fmt.Errorf("EK certificate: %d bytes, at most %d are accepted", len(b), maxCertificate)
	}
	der, err := certificateDER(b)
	if err != nil {
		return nil, fmt.Errorf("EK certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("EK certificate: %w", err)
	}
	return cert, nil
}

// certificateDER cuts the certificate out of what surrounds it.
func certificateDER(b []byte) ([]byte, error) {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN ")) {
		block, rest := pem.Decode(b)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("the PEM text holds no certificate")
		}
		if len(bytes.TrimSpace(rest)) != 0 {
			return nil, errors.New("something follows the certificate in the PEM text")
		}
		b = block.Bytes
	}
	const header = 7
	if len(b) > header && b[0] == 0x10 && b[1] == 0x01 {
		if b[2] != 0 || b[5] != 0x10 || b[6] != 0x02 {
			return nil, errors.New("at byte 2: the NV header is not that of a full X.509 certificate")
		}
		size := int(b[3])<<8 + int(b[4]) - 2 // it counts the tag 10 02 as well
		if size < 0 || size > len(b)-header {
			return nil, fmt.Errorf("at byte 3: the NV header tells of %d bytes, %d are there", size, len(b)-header)
		}
		if !isPadding(b[header+size:]) {
			return nil, fmt.Errorf("at byte %d: something follows the certificate", header+size)
		}
		b = b[header : header+size]
	}
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(b, &outer)
	if err != nil {
		return nil, fmt.Errorf("no DER: %w", err)
	}
	if !isPadding(rest) {
		return nil, fmt.Errorf("at byte %d: something that is not padding follows the certificate", len(b)-len(rest))
	}
	return outer.FullBytes, nil
}

// isPadding tells whether b is empty or all zeros or all ones (erased NV).
func isPadding(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if b[0] != 0 && b[0] != 0xff {
		return false
	}
	for _, c := range b {
		if c != b[0] {
			return false
		}
	}
	return true
}

// oidRSAESOAEP marks the key of some EK certificates as for OAEP only (RFC 4055, section 4.1). The
// key itself is an ordinary RSA key, but crypto/x509 does not decode it.
var oidRSAESOAEP = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}

// CertifiedKey is the key that a certificate certifies, *rsa.PublicKey or *ecdsa.PublicKey, also
// where the certificate restricts an RSA key to OAEP.
func CertifiedKey(cert *x509.Certificate) (crypto.PublicKey, error) {
	if cert == nil {
		return nil, errors.New("there is no certificate")
	}
	if cert.PublicKey != nil {
		return cert.PublicKey, nil
	}
	var spki struct {
		Algorithm struct {
			OID        asn1.ObjectIdentifier
			Parameters asn1.RawValue `asn1:"optional"`
		}
		Key asn1.BitString
	}
	if rest, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &spki); err != nil || len(rest) != 0 {
		return nil, errors.New("the certificate's key cannot be read")
	}
	if !spki.Algorithm.OID.Equal(oidRSAESOAEP) {
		return nil, fmt.Errorf("the certificate's key is of the unknown kind %s", spki.Algorithm.OID)
	}
	var key struct {
		N *big.Int
		E int
	}
	if rest, err := asn1.Unmarshal(spki.Key.RightAlign(), &key); err != nil || len(rest) != 0 || key.N.Sign() <= 0 {
		return nil, errors.New("the certificate's RSA key cannot be read")
	}
	return &rsa.PublicKey{N: key.N, E: key.E}, nil
}

// PublicFromCertificate is PublicFromCrypto of the certified key.
func PublicFromCertificate(cert *x509.Certificate) (*Public, error) {
	key, err := CertifiedKey(cert)
	if err != nil {
		return nil, err
	}
	return PublicFromCrypto(key)
}

// ErrKeyMismatch is the answer of MatchEK and MatchAK when the certificate is of another key.
var ErrKeyMismatch = errors.New("the certificate certifies another key")

// MatchEK checks that a certificate certifies the key of ekPublic, so that what was proved of the
// one holds for the other.
func MatchEK(cert *x509.Certificate, ekPublic *Public) error {
	certified, err := PublicFromCertificate(cert)
	if err != nil {
		return err
	}
	if ekPublic == nil || !certified.SameKey(ekPublic) {
		return ErrKeyMismatch
	}
	return nil
}

// MatchAK is MatchEK for an AK and its certificate.
func MatchAK(cert *x509.Certificate, akPublic *Public) error { return MatchEK(cert, akPublic) }

// SameKey tells whether two Publics hold the same public key, whatever else they say about it.
func (p *Public) SameKey(other *Public) bool {
	switch {
	case p == nil || other == nil:
		return false
	case p.rsa != nil && other.rsa != nil:
		return p.rsa.Equal(other.rsa)
	case p.ecdsa != nil && other.ecdsa != nil:
		return p.ecdsa.Equal(other.ecdsa)
	}
	return false
}
