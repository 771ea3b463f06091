// Package finding turns an appraisal and the inventory into what a security team acts on:
// assessments, recommendations and alerts (DESIGN §1, R1–R7). One file holds one rule; Rules lists
// them. The package is pure: same input, same findings.
package finding

import (
	"time"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/revocations"
)

// Severity of a finding.
type Severity string

// The severities.
const (
	Low    Severity = "low"
	Medium Severity = "medium"
	High   Severity = "high"
)

// Posture is what is known of a machine's security features; nil is unknown.
type Posture struct {
	SecureBootSupported *bool `json:"secure_boot_supported,omitempty"`
	SecureBoot          *bool `json:"secure_boot,omitempty"`
	VTPM                *bool `json:"vtpm,omitempty"`
	AgentInstalled      *bool `json:"agent_installed,omitempty"`
}

// Machine is what rules know of a machine beside the appraisal.
type Machine struct {
	Name         string
	OS           string // linux, windows
	Platform     string
	SecurityType string // confidential_snp, confidential_tdx, trusted_launch, standard, physical
	ScaleSet     string
	Labels       map[string]string
	Declared     Posture // by the inventory
	Observed     Posture // by attestation; wins over Declared
	Enrolled     bool    // an attestation key is active: an agent reports
	// NoTPM: it enrolled as a confidential VM without a TPM; its hardware report answers the challenge.
	NoTPM bool
	// KeyExpiresAt is the end of the certificate that proves its attestation key; nil if none does, or it is not known.
	KeyExpiresAt *time.Time
	// PlatformEvidence is the type of its last genuine hardware evidence; empty if there was none.
	PlatformEvidence string
	// Endorsement is what is known of the TPM that its key was proved to be in; nil if nothing is.
	Endorsement *Endorsement
	// InstanceProven: an AK certificate proves which instance of its cloud it is.
	InstanceProven bool
}

// Input is one evaluation. Appraisal is nil where only the inventory changed.
type Input struct {
	Machine   Machine
	Appraisal *verifier.Appraisal
	Policy    verifier.Policy
	// RefusedModules are paths of kernel modules that this evidence proves to have been refused.
	RefusedModules []string
	// KnownBad is what is known to be bad of what booted; nil where nobody asked. It must be of the appraisal's claims.
	KnownBad *revocations.Assessment
	// Rollbacks are the baselines of which the machine matches an older version than it did before.
	Rollbacks []Rollback
	// Silent is the deadline that the machine missed; nil where it missed none. There is no appraisal then.
	Silent *Silence
	// Fleet is what the other machines of the tenant show; nil where nobody asked.
	Fleet *Fleet
	// Baselines are those that cover the machine; nil where nobody asked.
	Baselines *Baselines
	Now       time.Time
}

// Baselines are what is known of the baselines that cover a machine.
type Baselines struct {
	// Valid are the versions that are valid now, and Withdrawn the names of the baselines that have none any more.
	Valid     []BaselineVersion `json:"valid"`
	Withdrawn []string          `json:"withdrawn"`
}

// BaselineVersion is a valid version of a baseline that covers the machine.
type BaselineVersion struct {
	Name    string `json:"name"` // of the baseline
	Version int    `json:"version"`
	// Learned: the policy took it from the machine's first boot; no person made it.
	Learned bool `json:"learned"`
	// Until is when its validity ends; nil for no end.
	Until *time.Time `json:"until"`
}

// AssessmentStatus is Healthy, Unhealthy or NotApplicable.
type AssessmentStatus string

// The assessment statuses.
const (
	Healthy       AssessmentStatus = "Healthy"
	Unhealthy     AssessmentStatus = "Unhealthy"
	NotApplicable AssessmentStatus = "NotApplicable"
)

// Assessment is the state of one code for one machine.
type Assessment struct {
	Code        string           `json:"code"`
	DisplayName string           `json:"display_name"`
	Severity    Severity         `json:"severity"`
	Status      AssessmentStatus `json:"status"`
	Cause       string           `json:"cause"` // stable machine-readable word, e.g. "baseline_deviation"
	Description string           `json:"description"`
}

// Recommendation asks for a change.
type Recommendation struct {
	Code             string   `json:"code"`
	DisplayName      string   `json:"display_name"`
	Severity         Severity `json:"severity"`
	Description      string   `json:"description"`
	RemediationSteps []string `json:"remediation_steps"`
}

// Alert reports something that happened.
type Alert struct {
	Code             string          `json:"code"`
	DisplayName      string          `json:"display_name"`
	Severity         Severity        `json:"severity"`
	Reason           verifier.Reason `json:"reason"`
	Description      string          `json:"description"`
	RemediationSteps []string        `json:"remediation_steps"`
	Group            Group           `json:"-"`
}

// Result is all that follows from one evaluation. EvaluatedRecommendations and EvaluatedAlerts list the
// codes that were decided: what is listed there but absent from Recommendations or Alerts has ended and
// is resolved; what is not listed is left as it is.
type Result struct {
	Assessments              []Assessment
	Recommendations          []Recommendation
	EvaluatedRecommendations []string
	Alerts                   []Alert
	EvaluatedAlerts          []string
}
