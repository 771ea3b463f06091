package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/revocations"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// The errors of this package. Everything else that a method returns is a failure of the database.
var (
	ErrNotFound         = errors.New("not found")
	ErrConflict         = errors.New("conflicts with what is stored")
	ErrIdentityConflict = errors.New("the machine exists with another EK or AK")
	ErrNonceUsed        = errors.New("the challenge has been redeemed already, or a later one has")
	ErrTokenInvalid     = errors.New("the token is unknown, expired or used up")
	ErrAttemptUsed      = errors.New("the enrolment's one activation attempt has been used")
	ErrInvalidCursor    = errors.New("the cursor is not one of ours")
	ErrOtherCursor      = fmt.Errorf("the cursor is of another sort or of other filters: %w", ErrInvalidCursor)
	ErrInvalidSort      = errors.New("the list has no such sort")
	ErrNoCheckpoint     = errors.New("no checkpoint is due")
)

// DefaultTenant is the tenant of a single-tenant service. Every method takes the tenant explicitly.
var DefaultTenant = uuid.MustParse("01900000-0000-7000-8000-000000000001")

// Page asks for part of a list. Cursor is what an earlier answer gave as next cursor (opaque, keyset); it is good for the
// same sort and the same filters only. Sort is one of the list's orders, with "-" before it for the other way round; empty
// is the list's own. A row that does not change while somebody walks the pages is in exactly one of them; one that comes,
// or whose sort keys change, may be in none or in two.
type Page struct {
	Limit  int // 1 to 500; 0 means 50
	Cursor string
	Sort   string
}

// Actor says who changes something, for the audit record: "admin:<id of the token>", "machine:<id>", "system:<job>".
type Actor struct {
	Kind string // the role of an API token; person, join, machine, pipeline, system
	ID   string
	// Owner is the person that an API token is of, as "person:issuer|subject"; empty where nobody has said. What the person
	// does by the token counts as done by the person: see String.
	Owner string
	// Identity is what a verified token says of a pipeline, as JSON; nil for everybody else. It becomes part of the
	// provenance of the versions that the pipeline makes.
	Identity json.RawMessage
	// RemoteAddr and RequestID let an auditor find the request in the logs.
	RemoteAddr string
	RequestID  string
}

// Role is what an API token may do.
type Role string

// The roles. What each may do is the business of package server.
const (
	RoleAdmin            Role = "admin"
	RoleViewer           Role = "viewer"
	RoleReader           Role = "reader" // the same as viewer, and older
	RoleResponder        Role = "responder"
	RoleBaselineAuthor   Role = "baseline_author"
	RoleBaselineApprover Role = "baseline_approver"
	RoleOperator         Role = "operator"
	// RoleRelyingParty may ask whether a result still holds, and nothing else.
	RoleRelyingParty Role = "relying_party"
)

// APIToken is a bearer token of a person or pipeline. Only its SHA-256 is stored.
type APIToken struct {
	ID        uuid.UUID
	Name      string
	Role      Role
	Scope     Scope  // nil for the whole tenant
	Owner     string // the person that it is of, as "person:issuer|subject"; empty where nobody has said
	ExpiresAt *time.Time
	CreatedAt time.Time
	CreatedBy string // empty of tokens that are older than this column
	LastUsed  *time.Time
	// CertificateSHA256 is of the client certificate without which the token is refused; nil for none.
	CertificateSHA256 []byte
}

// JoinToken lets agents enrol. ScaleSet and Labels, where given, are forced onto the machines it admits.
type JoinToken struct {
	ID        uuid.UUID
	Name      string
	UsesLeft  int
	ExpiresAt time.Time
	ScaleSet  string
	Labels    map[string]string
	CreatedAt time.Time
}

// Machine is one row of the inventory with what was last known of it.
type Machine struct {
	ID           uuid.UUID
	ExternalID   string // unique in the tenant where not empty
	Name         string
	OS           string
	Platform     string
	SecurityType string
	ScaleSet     string
	Labels       map[string]string
	Declared     finding.Posture
	Observed     finding.Posture
	State        string // "registered" (inventory only), "enrolling", "active"
	Status       verifier.Status
	Reason       verifier.Reason
	Assurance    verifier.Assurance
	LastVerdict  *uuid.UUID
	// Instance is the cloud instance that the machine's AK certificate proves, as JSON; nil if none.
	Instance json.RawMessage
	// PlatformEvidenceType and VMID are of the last genuine hardware evidence; empty if there was none.
	PlatformEvidenceType, VMID string
	LastSeenAt                 *time.Time // last accepted evidence
	NextDueAt                  *time.Time // nil where no evidence is expected
	// StaleSince is when it was found to be silent past its deadline; nil while it is not.
	StaleSince *time.Time
	// LastBootAt is when the first genuine evidence of its last boot was received, nil before, and BootCount how many boots
	// genuine evidence has shown.
	LastBootAt *time.Time
	BootCount  int64
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// MachineInput is an inventory upsert: by ExternalID where it is given, else a new machine (or the one
// of the same name that has no external id).
type MachineInput struct {
	ExternalID, Name, OS, Platform, SecurityType, ScaleSet string
	Labels                                                 map[string]string
	Declared                                               finding.Posture
	// Instance is a cloud instance that is proven (by an AK certificate): it replaces what is there. Nil says nothing.
	Instance json.RawMessage
}

// MachineFilter narrows ListMachines. Empty fields do not restrict; Label is "key=value" or "key".
// Platform, OS, SecurityType, Status and Assurance may hold several values with commas between them.
type MachineFilter struct {
	Scope                                                     Scope // nil for the whole tenant
	Name, ScaleSet, Platform, OS, SecurityType, Label, Status string

	Assurance, State      string
	NamePrefix            string
	Labels                []string // as Label; all must hold
	SeenBefore, DueBefore *time.Time
	Stale                 *bool // silent past their deadline, or not
	// SilenceAlert is the alert of a mass silence that silent machines are part of.
	SilenceAlert *uuid.UUID
}

// EnrollmentInput is a checked request to enrol; Public keys are parsed, chains verified by the caller.
type EnrollmentInput struct {
	JoinTokenHash []byte // SHA-256 of the bearer token; one use is taken in the same transaction
	Machine       MachineInput
	EKPublic      []byte // canonical identity of the EK: DER SubjectPublicKeyInfo; nil if none
	EKCertificate []byte // DER; nil if none
	AKPublic      []byte // TPMT_PUBLIC
	AKName        []byte
	// Activation: SecretHash is the SHA-256 of the credential's secret, one try until ExpiresAt.
	// With Proved set there is no activation: the key becomes active at once with Assurance.
	SecretHash []byte
	ExpiresAt  time.Time
	Proved     bool
	Assurance  verifier.Assurance
	Evidence   json.RawMessage // what proved it (certificate subjects, fingerprints), for people
	// Kind, AnchorFingerprint and CertificateNotAfter are as in AttestationKey.
	Kind                string
	AnchorFingerprint   string
	CertificateNotAfter *time.Time
}

// Enrollment is the row of an enrolment in progress or done.
type Enrollment struct {
	ID        uuid.UUID
	MachineID uuid.UUID
	Status    string // "activation_required", "active", "failed", "expired"
	AKPublic  []byte
	AKName    []byte
	Assurance verifier.Assurance
	KeyID     uuid.UUID // attestation_keys row once active
	ExpiresAt time.Time

	madeMachine bool // the machine was not there before
}

// The kinds of attestation keys.
const (
	KeyTPM = "tpm" // an AK
	KeyTEE = "tee" // a guest without a vTPM: its hardware report answers the challenge
)

// AttestationKey is one row of attestation_keys.
type AttestationKey struct {
	ID        uuid.UUID
	MachineID uuid.UUID
	Public    []byte // TPMT_PUBLIC
	Name      []byte
	Assurance verifier.Assurance
	State     string // "active", "replaced", "revoked"
	Evidence  json.RawMessage
	CreatedAt time.Time
	// Kind is KeyTPM (also where it is left empty) or KeyTEE. Public is empty for KeyTEE, and Name is what
	// identifies the guest.
	Kind string
	// AnchorFingerprint is the SHA-256, in lower-case hex, of the trust anchor's certificate that the proof ended
	// in; empty if unknown.
	AnchorFingerprint string
	// CertificateNotAfter is the end of the AK certificate or endorsement; nil if there is none.
	CertificateNotAfter *time.Time
}

// AppraisalInputs is one snapshot of all that the store knows for an appraisal.
type AppraisalInputs struct {
	Machine   Machine
	Key       *AttestationKey // nil: no active key
	LastClock *tpm.ClockState
	// LastChallenge is the order key (time and random part) of the last redeemed challenge.
	LastChallenge []byte
	LastLog       []byte // SHA-256 of the log of the last genuine verdict; nil if it had none
	LastPlatform  []byte // digest of the hardware evidence of the last genuine verdict; nil if it had none
	// Trust is what the tenant trusts, as of the same snapshot. It is shared: it must not be modified.
	Trust *TenantTrust
	// Revocations is what is known to be bad, as of the same snapshot. It is shared.
	Revocations *revocations.Set
	IMAState    *ima.State
	Policy      verifier.Policy
	PolicyRef   verifier.VersionRef
	// Versions are the valid versions (active and in grace, not past ActiveUntil) of every baseline whose selector fits.
	Versions []BaselineVersion
	// Withdrawn are the baselines whose selector fits that have no valid version any more, and were not released.
	Withdrawn []verifier.Withdrawn
	// Learned tells whether the machine already has a learned or captured baseline of its own.
	HasOwnBaseline bool
	// Matches are the versions that have affirmed the machine, one a baseline.
	Matches []BaselineMatch
	// CurrentRun is the id of the verdict that an identical judgement extends; nil if none.
	CurrentRun *uuid.UUID
	// LastBootID is what the agent called the boot of the last genuine evidence; empty if it said nothing.
	LastBootID string
}

// Baseline is the head of a baseline: its name and selector.
type Baseline struct {
	ID        uuid.UUID
	Name      string
	Selector  verifier.Selector
	CreatedAt time.Time
	UpdatedAt time.Time
	Versions  []BaselineVersion // newest first; filled by GetBaseline and ListBaselines (reference values left out in lists)
}

// BaselineVersion is one immutable version.
type BaselineVersion struct {
	BaselineID  uuid.UUID
	Name        string // of the baseline
	Selector    verifier.Selector
	Version     int
	State       string // draft, active, grace, retired
	ActiveUntil *time.Time
	Reference   verifier.ReferenceValues
	Provenance  json.RawMessage
	Origin      string // "registered", "captured", "learned"
	CreatedAt   time.Time
	CreatedBy   string
	// ImportAnchor is the fingerprint of the anchor's certificate or key that the signature of the imported document ends
	// in; empty where there was none. It is only written: versions are read without it.
	ImportAnchor string
	// GraceMovedPercent ends grace once that share of the machines has moved on; nil for no such end.
	GraceMovedPercent *int
	// Activation is the version's place in the order in which the versions of its baseline became active: a version
	// with a higher one is newer. Nil for one that never was.
	Activation *int
	// BasedOn is the version that was active when this one was made by approving an alert, and the only one that it may
	// replace; nil for others.
	BasedOn *int
	// Proposal is what becomes of a draft that a second person approves, or that somebody wants it retired; nil for nothing.
	Proposal *Proposal
	// LastChange is the last change of State (created, promoted, replaced, retired, released, grace_ended, ended, anchor_withdrawn), ChangedBy and ChangedAt
	// who made it and when; empty and nil for created.
	LastChange, ChangedBy string
	ChangedAt             *time.Time
	// Approvals are who stood up for it beside its author, oldest first, and NeedsSecond whether the two-person rule is
	// in force for it. GetBaselineVersion and the methods that change a version fill them in.
	Approvals   []Approval
	NeedsSecond bool
	// ReferenceDigest is the SHA-256 of Reference as stored: versions with the same digest have the same
	// reference values, so what is compiled from them can be shared.
	ReferenceDigest []byte
}

// Approval is one person's word for a version.
type Approval struct {
	By      string // principal, kind:id
	At      time.Time
	Comment string
}

// Grace is for how long the version that is replaced stays valid: until a time, or until a share of the machines has
// moved, whichever is first. The zero Grace is none: it is retired at once.
type Grace struct {
	Until        *time.Time `json:"grace_until,omitempty"`
	MovedPercent *int       `json:"grace_until_moved_percent,omitempty"`
}

// Proposal is what the first of two persons wants to become of a version: that a draft is activated, or that one is retired.
type Proposal struct {
	Activate bool `json:"activate"`
	Grace
	AlertID *uuid.UUID `json:"alert_id,omitempty"`
	Retire  bool       `json:"retire,omitempty"`
	Release bool       `json:"release,omitempty"` // see Retirement
	By      string     `json:"by,omitempty"`      // principal, of a retirement
	Comment string     `json:"comment,omitempty"` // of a retirement
}

// PolicyVersion is one version of a named policy.
type PolicyVersion struct {
	ID        uuid.UUID // of the policy (stable over versions)
	Name      string
	Version   int
	Policy    verifier.Policy
	CreatedAt time.Time
	CreatedBy string
}

// AppraisalRecord is all that one appraisal changes; RecordAppraisal commits it as one.
type AppraisalRecord struct {
	MachineID    uuid.UUID
	KeyID        uuid.UUID
	ReceivedAt   time.Time
	NextDueAt    time.Time
	ChallengeKey []byte // order key of the redeemed challenge; nil where the appraisal redeems none (its nonce failed)
	Appraisal    *verifier.Appraisal
	Trigger      verifier.Trigger
	BootID       string          // as the agent calls it; empty if it says nothing
	Clock        *tpm.ClockState // of the quote, only where genuine
	Fingerprint  [32]byte        // of the judgement: equal fingerprints in a row extend one verdict
	EventLog     []byte          // raw; stored once per digest; nil if none or already held
	EventLogHash []byte          // SHA-256; nil if none
	EvidenceType string          // content type of Evidence
	Evidence     []byte          // raw body, stored on change
	// JudgedBy tells, as JSON, what the evidence was judged with, so that it can be judged again elsewhere (verifier/bundle, Inputs). It is
	// asked only of a record that begins a run, and becomes part of the verdict's hash as it is.
	JudgedBy func() ([]byte, error)
	// EvidenceDigest is the SHA-256 of the evidence that was judged, where Evidence is not given because it is stored already.
	EvidenceDigest []byte
	IMAState       *ima.State
	IMAFrom        *ima.State // what the IMA list in Evidence continues; nil for a whole list
	// PlatformDigest names the hardware evidence (tee.Evidence.Digest); nil if there was none. PlatformEvidence is
	// it as JSON, stored once per digest; nil if it is held already. PlatformType is its type, and VMID the cloud's
	// id of the VM that it states, if any: both count where the appraisal is genuine and begins a run.
	PlatformDigest     []byte
	PlatformEvidence   []byte
	PlatformType, VMID string
	// Collateral came with the evidence and was verified; what is newer than what is held is stored.
	Collateral []tee.Collateral
	// CollateralWants is what a check lacked.
	CollateralWants []tee.Want
	// Firmware is what genuine evidence shows of the machine's firmware; nil where it cannot be compared with others.
	Firmware *Firmware
	// Matched are the versions that affirm the machine now, on all layers.
	Matched       []BaselineMatch
	Findings      finding.Result
	Observed      finding.Posture
	LearnBaseline *verifier.ReferenceValues // set where the policy learns at first boot
	Actor         Actor
	// Identity tells what genuine evidence proves of which machine it is, all of it, and its TPM's time (nil for none). It is
	// asked only of a record that changes something; nil leaves the traits that are there.
	Identity func() ([]MachineTrait, *BootPoint)
	// Sighting is a conflict that the evidence shows.
	Sighting *Sighting
}

// BaselineMatch is which version of a baseline affirmed a machine last, and which is the one activated last of those that
// ever did. Of a record only the former counts.
type BaselineMatch struct {
	BaselineID                        uuid.UUID
	Version, Activation               int
	HighestVersion, HighestActivation int
}

// Recorded is what RecordAppraisal answers.
type Recorded struct {
	VerdictID    uuid.UUID
	New          bool // a new verdict row; false where a run was extended
	Count        int64
	OpenedAlerts []uuid.UUID
}

// Verdict is one run of identical judgements.
type Verdict struct {
	ID           uuid.UUID
	MachineID    uuid.UUID
	MachineName  string
	ReceivedAt   time.Time // of the evidence that was judged: FirstAt, but where stored evidence was judged again
	FirstAt      time.Time
	LastAt       time.Time
	Count        int64
	Trigger      verifier.Trigger   // of the first evidence; empty for a verdict from before it was kept
	Appraisal    verifier.Appraisal // Checks, Deviations, Claims, Baseline, Policy as stored
	EventLogHash []byte
	KeyID        uuid.UUID
	// Where stored evidence was judged again: the verdict that this one supersedes, the one whose evidence it judged,
	// and the reappraisal that made it; nil where the machine attested. SupersededBy is nil while nothing superseded it.
	Supersedes, EvidenceID, ReappraisalID, SupersededBy *uuid.UUID
}

// VerdictFilter narrows ListVerdicts.
// Status, Reason and Assurance may hold several values with commas between them.
type VerdictFilter struct {
	Scope               Scope // nil for the whole tenant
	MachineID           *uuid.UUID
	Status, Reason      string
	Assurance, ScaleSet string
	Since, Until        *time.Time
}

// StoredEvidence is the raw evidence behind a verdict.
type StoredEvidence struct {
	ContentType  string
	Body         []byte
	EventLogHash []byte
}

// Assessment is the current state of one code of one machine.
type Assessment struct {
	finding.Assessment
	MachineID        uuid.UUID
	MachineName      string
	FirstEvaluatedAt time.Time
	StatusChangedAt  time.Time
	EvaluatedAt      time.Time
}

// AssessmentFilter narrows ListAssessments.
// Code, Status and Severity may hold several values with commas between them.
type AssessmentFilter struct {
	Scope                            Scope // nil for the whole tenant
	MachineID                        *uuid.UUID
	Code, Status, ScaleSet, Severity string
	Since, Until                     *time.Time // of the last change of status
}

// Recommendation is one row of recommendations.
type Recommendation struct {
	finding.Recommendation
	ID          uuid.UUID
	MachineID   uuid.UUID
	MachineName string
	Status      string // active, resolved, exempt
	FirstSeenAt time.Time
	LastSeenAt  time.Time
	Exemption   *Exemption
}

// Exemption is why a recommendation does not count.
type Exemption struct {
	Reason    string // waiver, mitigated
	Comment   string
	ExpiresAt *time.Time
	CreatedBy string
	CreatedAt time.Time
}

// RecommendationFilter narrows ListRecommendations.
// Code, Status and Severity may hold several values with commas between them.
type RecommendationFilter struct {
	Scope                            Scope // nil for the whole tenant
	MachineID                        *uuid.UUID
	Code, Status, Severity, ScaleSet string
	ExemptionEndsBefore              *time.Time // exempt now, and no more at that time
	Since, Until                     *time.Time // of first_seen_at
}

// Alert is one row of alerts. One alert per machine (or scope) and code is open (active or in_progress) at a time;
// a repetition counts up.
type Alert struct {
	finding.Alert
	ID           uuid.UUID
	MachineID    uuid.UUID // uuid.Nil for an alert of many machines, which has a Scope
	MachineName  string
	ScaleSet     string
	Scope        string
	Details      json.RawMessage // of the last occurrence, by code; nil for none
	VerdictID    uuid.UUID       // of the last occurrence; uuid.Nil where no verdict raised it
	Status       string          // active, in_progress, dismissed, resolved
	FirstSeenAt  time.Time
	LastSeenAt   time.Time
	Count        int64
	SuppressedBy *uuid.UUID // suppression rule that hides it
	UpdatedAt    time.Time
	OpenedAt     time.Time // the last time: FirstSeenAt, or its last reopening
	// ReopenedCount is how often it was opened again, by itself or by hand.
	ReopenedCount int
	ClosedAt      *time.Time // nil while open
	ClosedBy      string     // principal, kind:id, or system:alerts; empty while open
	Assignee      string     // who works on it; empty for nobody
}

// AlertFilter narrows ListAlerts. Suppressed alerts are left out unless IncludeSuppressed.
type AlertFilter struct {
	Scope                                    Scope // nil for the whole tenant
	MachineID                                *uuid.UUID
	Code, Status, Severity, Reason, ScaleSet string
	IncludeSuppressed                        bool
	Since, Until                             *time.Time // of first_seen_at
}

// SuppressionRule hides alerts of a scope.
type SuppressionRule struct {
	ID        uuid.UUID
	AlertCode string // a code, or "*"
	Reason    string
	Comment   string
	ExpiresAt *time.Time
	State     string // enabled, disabled, expired (expired is computed from ExpiresAt)
	Scope     SuppressionScope
	CreatedBy string
	CreatedAt time.Time
	UpdatedAt time.Time
}

// SuppressionScope is the condition of a rule: all must hold; an empty list is every machine.
type SuppressionScope struct {
	AllOf []SuppressionCondition `json:"all_of"`
}

// SuppressionCondition compares one field (machine.name, machine.scale_set, machine.labels.X, alert.reason).
type SuppressionCondition struct {
	Field    string   `json:"field"`
	In       []string `json:"in,omitempty"`
	Contains string   `json:"contains,omitempty"`
}

// TrustAnchor is a root or intermediate that the tenant trusts for a purpose.
type TrustAnchor struct {
	ID           uuid.UUID
	Name         string
	Purpose      string // ek, ak, snp, tdx, reference_values
	Certificates []TrustCertificate
	Origin       string // "tenant", or "shipped" with the service; empty stands for tenant
	Enabled      bool   // chains may end in it; CreateTrustAnchor makes it so
	Source       string // where a shipped one's certificates come from
	CreatedBy    string
	CreatedAt    time.Time
	// Retired are the baseline versions that the call retired which withdrew the anchor.
	Retired []BaselineVersion
}

// TrustCertificate is one certificate of an anchor.
type TrustCertificate struct {
	Kind        string // CertificateAnchor (also where empty), KeyAnchor
	DER         []byte // of the certificate, or the key's SubjectPublicKeyInfo
	Subject     string
	Fingerprint string    // sha256 hex
	NotAfter    time.Time // zero for a key
}

// Overview is the fleet in numbers.
type Overview struct {
	Machines               int64
	MachinesByStatus       map[string]int64 // verdict status; "unattested" for machines without a verdict
	MachinesByPlatform     map[string]int64
	OpenAlertsBySeverity   map[string]int64 // active and in_progress, not suppressed
	OpenAlertsByReason     map[string]int64
	SuppressedAlerts       int64
	RecommendationsByCode  map[string]int64 // active
	RecommendationsBySev   map[string]int64
	AssessmentsByStatus    map[string]int64 // guest_attestation_healthy
	OldestAttestation      *time.Time       // least recent last_seen_at of active machines
	OldestAttestationOwner *uuid.UUID
	StaleMachines          int64 // silent past their deadline

	MachinesByAssurance    map[string]int64 // without those that have no key
	MachinesBySecurityType map[string]int64
	MachinesOverdue        int64            // active, and their next evidence was due before now
	FailingScaleSets       map[string]int64 // contraindicated machines of the ten scale sets that have most
	OpenAlertsByCode       map[string]int64
	OldestOpenAlert        *time.Time // first_seen_at, suppressed ones left out
	RecommendationsExempt  int64
	Since                  time.Time        // begin of what the following count: the hour 24 hours ago
	RecentVerdicts         map[string]int64 // recorded since then, by status
	RecentAlertsOpened     map[string]int64 // by severity
	RecentAlertsClosed     map[string]int64
}

// IdempotentResponse is a stored answer to a write that carried an Idempotency-Key.
type IdempotentResponse struct {
	Status      int
	ContentType string
	Body        []byte
}
