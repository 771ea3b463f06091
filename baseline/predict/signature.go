package predict

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Bounds of the certificate table.
const (
	maxCertificateTable = 1 << 20
	maxSignatures       = 16
	maxCertificates     = 64 // in one signature
	maxChain            = 8
)

// Signature is one Authenticode signature of an image: the certificates that lead from the signer upwards, as many as
// the signature carries.
type Signature struct {
	Chain []*x509.Certificate
}

// Signer is the signing certificate's name.
func (s *Signature) Signer() string {
	name := s.Chain[0].Subject
	if name.CommonName != "" {
		return name.CommonName
	}
	return name.String()
}

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	digestOIDs       = map[string]tpm.HashAlg{
		"2.16.840.1.101.3.4.2.1": tpm.SHA256, "2.16.840.1.101.3.4.2.2": tpm.SHA384, "2.16.840.1.101.3.4.2.3": tpm.SHA512,
	}
)

// The ASN.1 of RFC 2315, section 9, and of Authenticode's SpcIndirectDataContent.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,optional,tag:0"`
	}
	signedData struct {
		Version      int
		Digests      []pkix.AlgorithmIdentifier `asn1:"set"`
		Content      contentInfo
		Certificates asn1.RawValue `asn1:"optional,tag:0"`
		CRLs         asn1.RawValue `asn1:"optional,tag:1"`
		Signers      []signerInfo  `asn1:"set"`
	}
	signerInfo struct {
		Version         int
		Issuer          issuerAndSerial
		Digest          pkix.AlgorithmIdentifier
		Authenticated   asn1.RawValue `asn1:"optional,tag:0"`
		Encryption      pkix.AlgorithmIdentifier
		Signature       []byte
		Unauthenticated asn1.RawValue `asn1:"optional,tag:1"`
	}
	issuerAndSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	attribute struct {
		Type   asn1.ObjectIdentifier
		Values asn1.RawValue
	}
	indirectData struct {
		Data struct {
			Type  asn1.ObjectIdentifier
			Value asn1.RawValue `asn1:"optional"`
		}
		Digest struct {
			Algorithm pkix.AlgorithmIdentifier
			Digest    []byte
		}
	}
)

// signatures reads and verifies the Authenticode signatures of the image (Authenticode PE Signature Format 1.0). One
// that does not hold is an error: firmware would refuse the image as unsigned, and so what it measures is not known.
func (p *image) signatures() ([]Signature, error) {
	if p.certSize == 0 {
		return nil, nil
	}
	if p.certSize > maxCertificateTable {
		return nil, errorf(CodeTooLarge, p.file, "certificate table", "%d bytes; at most %d are accepted", p.certSize, maxCertificateTable)
	}
	table, err := p.read("certificate table", p.certOffset, p.certSize)
	if err != nil {
		return nil, err
	}
	var out []Signature
	for at := 0; at+8 <= len(table); {
		place := fmt.Sprintf("certificate table, offset %d", at)
		size := int(binary.LittleEndian.Uint32(table[at:]))
		if size < 8 || size > len(table)-at || len(out) == maxSignatures {
			return nil, errorf(CodeMalformedSignature, p.file, place, "an entry of %d bytes does not fit", size)
		}
		if kind := binary.LittleEndian.Uint16(table[at+6:]); kind != 2 {
			return nil, errorf(CodeMalformedSignature, p.file, place, "certificate type 0x%04x is not PKCS#7 (0x0002)", kind)
		}
		s, err := p.verify(table[at+8 : at+size])
		if err != nil {
			return nil, errorf(CodeMalformedSignature, p.file, place, "%v", err)
		}
		out = append(out, *s)
		at += (size + 7) &^ 7
	}
	return out, nil
}

// verify checks one PKCS#7 SignedData: the image's hash is the signed one, and the signature is the signer's.
func (p *image) verify(der []byte) (*Signature, error) {
	var outer contentInfo
	if _, err := asn1.Unmarshal(der, &outer); err != nil || !outer.Type.Equal(oidSignedData) {
		return nil, fmt.Errorf("no PKCS#7 SignedData")
	}
	var sd signedData
	if _, err := asn1.Unmarshal(outer.Content.Bytes, &sd); err != nil {
		return nil, fmt.Errorf("SignedData: %w", err)
	}
	if !sd.Content.Type.Equal(oidIndirectData) || len(sd.Signers) != 1 {
		return nil, fmt.Errorf("one signature over SpcIndirectDataContent is needed; there are %d over %v", len(sd.Signers), sd.Content.Type)
	}
	var indirect indirectData
	if _, err := asn1.Unmarshal(sd.Content.Content.Bytes, &indirect); err != nil {
		return nil, fmt.Errorf("SpcIndirectDataContent: %w", err)
	}
	alg, known := digestOIDs[indirect.Digest.Algorithm.Algorithm.String()]
	if !known {
		return nil, fmt.Errorf("the signed hash's algorithm %v is not SHA-2", indirect.Digest.Algorithm.Algorithm)
	}
	own, err := p.authenticode([]tpm.HashAlg{alg})
	if err != nil {
		return nil, err
	}
	if own[alg.String()] != hex.EncodeToString(indirect.Digest.Digest) {
		return nil, fmt.Errorf("the signature is over another image: %s %x is signed, the image has %s", alg, indirect.Digest.Digest, own[alg.String()])
	}
	certificates, err := readCertificates(sd.Certificates.Bytes)
	if err != nil {
		return nil, err
	}
	signer := findSigner(certificates, &sd.Signers[0])
	if signer == nil {
		return nil, fmt.Errorf("the signer's certificate is not among the signature's certificates")
	}
	var signed asn1.RawValue
	if _, err := asn1.Unmarshal(sd.Content.Content.Bytes, &signed); err != nil {
		return nil, fmt.Errorf("SpcIndirectDataContent: %w", err)
	}
	if err := checkSigner(&sd.Signers[0], signer, signed.Bytes); err != nil {
		return nil, err
	}
	return &Signature{Chain: chainOf(signer, certificates)}, nil
}

func readCertificates(b []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for len(b) > 0 {
		var raw asn1.RawValue
		rest, err := asn1.Unmarshal(b, &raw)
		if err != nil || len(out) == maxCertificates {
			return nil, fmt.Errorf("certificate %d cannot be read", len(out)+1)
		}
		b = rest
		c, err := x509.ParseCertificate(raw.FullBytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out)+1, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func findSigner(certificates []*x509.Certificate, info *signerInfo) *x509.Certificate {
	for _, c := range certificates {
		if info.Issuer.Serial != nil && c.SerialNumber.Cmp(info.Issuer.Serial) == 0 && bytes.Equal(c.RawIssuer, info.Issuer.Issuer.FullBytes) {
			return c
		}
	}
	return nil
}

// checkSigner checks the signature over the authenticated attributes, and that they name the content.
func checkSigner(info *signerInfo, signer *x509.Certificate, content []byte) error {
	alg, known := digestOIDs[info.Digest.Algorithm.String()]
	if !known {
		return fmt.Errorf("the signer's digest algorithm %v is not SHA-2", info.Digest.Algorithm)
	}
	sum := func(b []byte) []byte { h := alg.Hash().New(); h.Write(b); return h.Sum(nil) }
	if len(info.Authenticated.FullBytes) == 0 {
		return fmt.Errorf("there are no authenticated attributes")
	}
	named := false
	for rest := info.Authenticated.Bytes; len(rest) > 0; {
		var a attribute
		var err error
		if rest, err = asn1.Unmarshal(rest, &a); err != nil {
			return fmt.Errorf("authenticated attributes: %w", err)
		}
		if a.Type.Equal(oidMessageDigest) {
			var digest []byte
			if _, err := asn1.Unmarshal(a.Values.Bytes, &digest); err != nil || !bytes.Equal(digest, sum(content)) {
				return fmt.Errorf("the attribute messageDigest is not the digest of the content")
			}
			named = true
		}
	}
	if !named {
		return fmt.Errorf("the attribute messageDigest is missing")
	}
	// RFC 2315, section 9.3: what is signed is the attributes as a SET, not as the implicit [0] that is sent.
	attributes := append([]byte{0x31}, info.Authenticated.FullBytes[1:]...)
	return checkKey(signer.PublicKey, alg.Hash(), sum(attributes), info.Signature)
}

func checkKey(key crypto.PublicKey, alg crypto.Hash, digest, signature []byte) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(k, alg, digest, signature); err != nil {
			return fmt.Errorf("the signature does not verify")
		}
		return nil
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(k, digest, signature) {
			return fmt.Errorf("the signature does not verify")
		}
		return nil
	}
	return fmt.Errorf("keys of type %T are not supported", key)
}

// chainOf follows the issuers from the signer upwards.
func chainOf(signer *x509.Certificate, certificates []*x509.Certificate) []*x509.Certificate {
	chain := []*x509.Certificate{signer}
	for len(chain) < maxChain {
		last := chain[len(chain)-1]
		next := issuerAmong(last, certificates)
		if next == nil || bytes.Equal(next.Raw, last.Raw) {
			break
		}
		chain = append(chain, next)
	}
	return chain
}

func issuerAmong(c *x509.Certificate, certificates []*x509.Certificate) *x509.Certificate {
	for _, candidate := range certificates {
		if issued(candidate, c) {
			return candidate
		}
	}
	return nil
}

// issued tells whether ca issued c. Neither dates nor usages are asked: firmware does not check them.
func issued(ca, c *x509.Certificate) bool {
	return bytes.Equal(ca.RawSubject, c.RawIssuer) && ca.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// verifiedBy tells whether a trusted certificate is in the signature's chain or issued one that is (UEFI 2.10,
// section 32.5.3.3; EDK II, Pkcs7Verify with partial chains).
func (s *Signature) verifiedBy(trusted []byte) bool {
	for _, c := range s.Chain {
		if bytes.Equal(c.Raw, trusted) {
			return true
		}
	}
	ca, err := x509.ParseCertificate(trusted)
	if err != nil {
		return false // firmware may read it; what it verifies is then not known to be by it
	}
	for _, c := range s.Chain {
		if issued(ca, c) {
			return true
		}
	}
	return false
}
