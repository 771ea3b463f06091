package bundle

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Inputs is what a verdict was judged with, beside the evidence itself and the time, which are in the verdict. It is kept with the
// verdict as JSON, and its text is part of the verdict's hash. What is large is named by its SHA-256.
type Inputs struct {
	Engine    string              `json:"engine,omitempty"` // build of the service
	PolicyRef verifier.VersionRef `json:"policy"`
	Policy    json.RawMessage     `json:"policy_document"`
	// BaselineWaived tells that the boot was to be learned, so that no baseline was required of it.
	BaselineWaived bool                 `json:"baseline_waived,omitempty"`
	Baselines      []Layer              `json:"baselines,omitempty"`
	Withdrawn      []verifier.Withdrawn `json:"withdrawn,omitempty"`
	Key            Key                  `json:"attestation_key"`
	// Nonce is the challenge that was expected; NonceFault why there was none to expect.
	Nonce      []byte          `json:"nonce,omitempty"`
	NonceFault string          `json:"nonce_fault,omitempty"`
	LastClock  *tpm.ClockState `json:"last_clock,omitempty"`
	// ClockThen is what was said of the clock when the evidence came, where it was stored evidence that was judged.
	ClockThen *tpm.StepResult        `json:"clock_then,omitempty"`
	HadLog    bool                   `json:"had_log,omitempty"`
	IMAState  *ima.State             `json:"ima_state,omitempty"`
	Machine   *verifier.MachineFacts `json:"machine,omitempty"` // where the policy has rules
	// Anchors and Collateral are what hardware evidence was checked with; empty where there was none.
	Anchors    []Anchor     `json:"anchors,omitempty"`
	Collateral []Collateral `json:"collateral,omitempty"`
}

// Layer is a baseline version that was valid.
type Layer struct {
	ID        string            `json:"id"`
	Version   int               `json:"version"`
	State     string            `json:"state"`
	Selector  verifier.Selector `json:"selector"`
	Reference string            `json:"reference_values_sha256"`
}

// Key is the attestation key as it was known.
type Key struct {
	ID        string             `json:"id,omitempty"`
	Public    []byte             `json:"public,omitempty"` // TPMT_PUBLIC, or the SubjectPublicKeyInfo that a paravisor named
	Assurance verifier.Assurance `json:"assurance,omitempty"`
	NoTPM     bool               `json:"no_tpm,omitempty"`
	Launched  string             `json:"launched,omitempty"` // launch measurement of the enrolment, where there is no TPM
	Fault     string             `json:"fault,omitempty"`    // why it was not to be trusted
}

// The purposes of anchors.
const (
	PurposeSNP = "snp"
	PurposeTDX = "tdx"
)

// Anchor names a certificate.
type Anchor struct {
	Purpose string `json:"purpose"`
	SHA256  string `json:"sha256"`
}

// Collateral names a piece of collateral: kind and name find it, the digest (CollateralDigest) says which one it was.
type Collateral struct {
	Kind   tee.Kind `json:"kind"`
	Name   string   `json:"name"`
	SHA256 string   `json:"sha256"`
}

// collateralEntry is the form of collateral in a bundle.
type collateralEntry struct {
	Kind        tee.Kind `json:"kind"`
	Body        []byte   `json:"body"`
	IssuerChain []byte   `json:"issuer_chain,omitempty"`
}

// MarshalCollateral is a piece of collateral as an entry, and the name of it.
func MarshalCollateral(c *tee.Collateral) (entry []byte, name Collateral, err error) {
	entry, err = json.Marshal(collateralEntry{c.Kind, c.Body, c.IssuerChain})
	return entry, Collateral{Kind: c.Kind, Name: c.Name, SHA256: Digest(entry)}, err
}

// Digest is the SHA-256 of an entry as names write it.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// ParseKey reads a stored attestation key: a TPMT_PUBLIC, or the bare public key that a paravisor's runtime data names.
func ParseKey(stored []byte) (*tpm.Public, error) {
	public, err := tpm.ParsePublic(stored)
	if err == nil {
		return public, nil
	}
	bare, bareErr := x509.ParsePKIXPublicKey(stored)
	if bareErr != nil {
		return nil, err
	}
	if public, err = tpm.PublicFromCrypto(bare); err != nil {
		return nil, fmt.Errorf("the public key: %w", err)
	}
	return public, nil
}
