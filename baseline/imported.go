package baseline

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
)

// Imported is what a document of another format says of reference values. Only what its signature covers is in it.
type Imported struct {
	Format string                   `json:"format"` // "tcg-rim", "corim", "in-toto", ...
	Values verifier.ReferenceValues `json:"reference_values"`
	// Signer is nil for a format that has no signature; whoever posts it then vouches for it.
	Signer *Signer `json:"signer,omitempty"`
	// Provenance is what the document says of its origin, by the document's own names: vendor, product, version, source.
	Provenance map[string]string `json:"provenance,omitempty"`
	// Notes say in words what the document holds and cannot be judged by, so that nothing is dropped silently.
	Notes []string `json:"notes,omitempty"`
}

// Signer is whose key signed a document.
type Signer struct {
	// Subject is the certificate's, or the name of the anchor that holds a bare key.
	Subject string `json:"subject"`
	// KeySHA256 is the SHA-256 of the signing key's SubjectPublicKeyInfo in lower-case hex.
	KeySHA256 string `json:"key_sha256"`
	// AnchorSHA256 is that of the trusted certificate or key (DER) that the signature rests on.
	AnchorSHA256 string `json:"anchor_sha256"`
}

// ImportTrust is whose documents are believed: the tenant's trust anchors of purpose reference_values.
type ImportTrust struct {
	Roots []*x509.Certificate
	Keys  []ImportKey // bare public keys
	// Platform is what the hardware report of imported evidence is checked with; nil: such evidence is not imported.
	Platform *tee.Trust
	Now      time.Time
}

// ImportKey is a trusted public key without a certificate.
type ImportKey struct {
	Name string
	Key  crypto.PublicKey
}

// The kinds of *ImportError. They are stable and reach the API as problem codes.
const (
	ImportMalformed    = "import_malformed"   // the document cannot be read
	ImportUntrusted    = "import_untrusted"   // no signature, a bad one, or one of a key that nobody trusts
	ImportUnsupported  = "import_unsupported" // well-formed, of a version or kind that cannot be judged by
	ImportTooLarge     = "import_too_large"   // beyond a bound on size, depth or number
	ImportNothingFound = "import_empty"       // nothing in it that a machine could be judged by
)

// ImportError is why a document is refused.
type ImportError struct {
	Kind string
	// Element is the place in the document's own terms: an XPath-like path, a CBOR or JSON pointer, a line.
	Element string
	Detail  string
}

// Error implements error.
func (e *ImportError) Error() string {
	if e.Element == "" {
		return e.Detail
	}
	return e.Element + ": " + e.Detail
}

// ImportErrorf makes an *ImportError.
func ImportErrorf(kind, element, format string, args ...any) *ImportError {
	return &ImportError{Kind: kind, Element: element, Detail: fmt.Sprintf(format, args...)}
}
