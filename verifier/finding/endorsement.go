package finding

import (
	"crypto/rsa"
	"crypto/x509"
	"time"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// minRSAEndorsement is the size in bits that an RSA endorsement key needs at least (TCG EK Credential Profile 2.5, template L-1).
const minRSAEndorsement = 2048

// Endorsement is what is known of the TPM in which a machine's attestation key was proved to be.
type Endorsement struct {
	// Certified: an EK certificate, which chained to a trust anchor when the machine enrolled, names the maker.
	Certified bool         `json:"certified"`
	TPM       tpm.Identity `json:"tpm"`                  // empty where the certificate does not tell
	RSABits   int          `json:"rsa_bits,omitempty"`   // size of an RSA EK; 0 for another kind
	ROCA      bool         `json:"roca,omitempty"`       // its modulus has the form of CVE-2017-15361
	NotAfter  *time.Time   `json:"not_after,omitempty"`  // end of the certificate
	Unusable  string       `json:"unreadable,omitempty"` // why the stored key or certificate cannot be read
}

// EndorsementOf reads an endorsement key (DER SubjectPublicKeyInfo) and its certificate (DER; nil if there is none).
// It answers nil where there is no key. What cannot be read is said in Unusable and leaves the rest unknown.
func EndorsementOf(public, certificate []byte) *Endorsement {
	if len(public) == 0 {
		return nil
	}
	out := &Endorsement{Certified: len(certificate) > 0}
	key, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		out.Unusable = "endorsement key: " + err.Error()
		return out
	}
	if k, ok := key.(*rsa.PublicKey); ok {
		out.RSABits, out.ROCA = k.N.BitLen(), tpm.WeakROCA(k.N)
	}
	if !out.Certified {
		return out
	}
	cert, err := tpm.ParseEKCertificate(certificate)
	if err != nil {
		out.Unusable = "EK certificate: " + err.Error()
		return out
	}
	out.TPM, _ = tpm.IdentityOf(cert)
	out.NotAfter = &cert.NotAfter
	return out
}
