package verifier

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Status is the outcome of an appraisal in the words of AR4SI (draft-ietf-rats-ar4si, section 2.3.2).
// The zero value is None, so that a forgotten assignment never affirms.
type Status uint8

// The statuses.
const (
	None            Status = iota // nothing in the evidence could be appraised
	Affirming                     // genuine, and as expected
	Warning                       // genuine, but something about it needs a look
	Contraindicated               // not genuine, or not as expected
)

var statusNames = [...]string{"none", "affirming", "warning", "contraindicated"}

// String is the status as the API spells it.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return "none"
}

// MarshalText implements encoding.TextMarshaler.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Status) UnmarshalText(b []byte) error {
	for i, name := range statusNames {
		if name == string(b) {
			*s = Status(i)
			return nil
		}
	}
	return fmt.Errorf("status %q is none of none, affirming, warning, contraindicated", b)
}

// Reason is why an appraisal failed: one of exactly two (DESIGN §3).
type Reason string

// The two reasons. NoReason marshals as null.
const (
	NoReason          Reason = ""
	OriginUnverified  Reason = "origin_unverified"
	BaselineDeviation Reason = "baseline_deviation"
)

// MarshalJSON writes null for NoReason.
func (r Reason) MarshalJSON() ([]byte, error) {
	if r == NoReason {
		return []byte("null"), nil
	}
	return json.Marshal(string(r))
}

// Assurance says how the attestation key was proved to be of this machine's own TPM.
type Assurance string

// The assurance levels, strongest first.
const (
	TEEBound    Assurance = "tee_bound"    // a hardware report of the confidential VM binds the AK
	EKActivated Assurance = "ek_activated" // credential activation against a certified EK
	AKCertified Assurance = "ak_certified" // a certificate of the AK chains to a trusted root
	FirstUse    Assurance = "first_use"    // an administrator, or the caller, vouches for the AK
)

// CheckCode names one step of an appraisal. The order of the constants is the order of checks.
type CheckCode string

// The checks of every verdict, in order. Those of a confidential VM's hardware report, beside platform.report and
// platform.binding, are in a verdict only where there was such a report (tee.Step has all).
const (
	CheckAKTrusted       CheckCode = "ak.trusted"
	CheckPlatformReport  CheckCode = "platform.report"
	CheckPlatformConfig  CheckCode = CheckCode(tee.StepConfiguration)
	CheckPlatformBinding CheckCode = "platform.binding"
	CheckQuoteSignature  CheckCode = "quote.signature"
	CheckQuoteType       CheckCode = "quote.type"
	CheckQuoteNonce      CheckCode = "quote.nonce"
	CheckQuoteSelection  CheckCode = "quote.selection"
	CheckQuoteDigest     CheckCode = "quote.digest"
	CheckQuoteClock      CheckCode = "quote.clock"
	CheckEventLogReplay  CheckCode = "eventlog.replay"
	CheckSecureBoot      CheckCode = "secure_boot.enabled"
	CheckBaselineMatch   CheckCode = "baseline.match"
	CheckIMAReplay       CheckCode = "ima.replay"
	CheckIMAPolicy       CheckCode = "ima.policy"
	CheckPolicyRules     CheckCode = "policy.rules"
)

// CheckStatus is the outcome of one check.
type CheckStatus string

// The outcomes of a check.
const (
	Pass    CheckStatus = "pass"
	Fail    CheckStatus = "fail"
	Warn    CheckStatus = "warn"
	Skipped CheckStatus = "skipped"
)

// Check is one step of the chain of origin: what was checked, how it went and why, with the
// specification that demands it.
type Check struct {
	Code     CheckCode   `json:"code"`
	Status   CheckStatus `json:"status"`
	Detail   string      `json:"detail"`
	Citation string      `json:"citation"`
}

// DeviationKind tells how an event differs from the reference values.
type DeviationKind string

// The kinds of deviation.
const (
	Added   DeviationKind = "added"
	Removed DeviationKind = "removed"
	Changed DeviationKind = "changed"
	// Moved is between two sets of reference values only: the same digest in another register.
	Moved DeviationKind = "moved"
)

// Deviation is one difference between what was measured and what was expected.
// PCR is -1 where the deviation is in a claim and no single PCR carries it. With bank "rtmr" it is the index of a TDX
// guest's RTMR.
type Deviation struct {
	PCR         int                `json:"pcr"`
	Kind        DeviationKind      `json:"kind"`
	Component   eventlog.Component `json:"component"`
	Description string             `json:"description"`
	EventType   string             `json:"event_type"`
	Expected    []string           `json:"expected"` // hex digests, or values of a claim
	Actual      string             `json:"actual"`   // hex digest, or value of a claim; empty for Removed
	Bank        string             `json:"bank,omitempty"`
	// Now and Before are what is measured and what was, in plain words; empty where nothing is known of it.
	Now    string `json:"now,omitempty"`
	Before string `json:"before,omitempty"`
	// Known names the reference values, other than those judged by, that list what was measured.
	Known string `json:"known_from,omitempty"`
	// IMAKind is of an entry of IMA's list what reference values can say of it; empty for all else.
	IMAKind ima.EntryKind `json:"ima_kind,omitempty"`
	// Claims are those that the deviation is about, or that the register it is in carries, with what they are.
	// They are not stored: they are known where the evidence was judged.
	Claims []UnmetClaim `json:"-"`
	// Allows is between two sets of reference values only: what the later one newly allows by this change, as
	// "sha256:<hex>"; values that changed along with events have their register before them.
	Allows []string `json:"allows,omitempty"`
}

// UnmetClaim is a claim that evidence proves to be otherwise than expected. Both are JSON.
type UnmetClaim struct{ Name, Expected, Actual string }

// Evidence is what a machine sent, decoded and bounded, not yet believed.
type Evidence struct {
	Quotes         []tpm.Quote
	PCRs           tpm.PCRs
	EventLog       []byte    // raw; nil when EventLogDigest names one that the verifier holds, or when there is none
	EventLogDigest *[32]byte // SHA-256 of the log, where it was sent by name
	IMALog         []byte
	IMALogOffset   int // number of IMA entries that came before IMALog
	// Platform is the hardware evidence of a confidential VM, PlatformDigest names evidence that the verifier holds
	// (tee.Evidence.Digest).
	Platform       *tee.Evidence
	PlatformDigest *[32]byte
	// NoTPM: a confidential VM without a TPM sent its hardware evidence alone; there are no quotes.
	NoTPM bool
	Agent AgentInfo
	// Enrollment holds what identifies the AK where the evidence carries it itself: the "enrollment"
	// object of an offline file, or the certificate in a gotpm attestation.
	Enrollment *KeyEvidence
}

// KeyEvidence identifies an attestation key.
type KeyEvidence struct {
	AKPublic           *tpm.Public
	AKCertificate      []byte   // DER
	AKCertificateChain [][]byte // DER, issuer first
}

// AgentInfo is what the agent says of itself. Nothing is decided by it.
type AgentInfo struct {
	Version       string  `json:"version,omitempty"`
	BootID        string  `json:"boot_id,omitempty"`
	Kernel        string  `json:"kernel,omitempty"`
	UptimeSeconds float64 `json:"uptime_seconds,omitempty"`
}

// AttestationKey is the key that a machine's quotes must be signed with, and what is known of it.
type AttestationKey struct {
	Public    *tpm.Public
	Assurance Assurance
	// Fault is why the key is not to be trusted (not enrolled, revoked, chain broken); empty if it is.
	Fault string
	// Note is added to the detail of a passing ak.trusted, for example the subject of the EK certificate.
	Note string
	// NoTPM: the machine is a confidential VM that enrolled by its hardware report alone.
	NoTPM bool
	// Launched is the launch measurement (lower-case hex) that the report of the enrolment showed; empty where none is
	// known. It is asked of a machine without a TPM, which has no key that would tell it from another.
	Launched string
	// Unproven lets the check warn instead of pass, with the text as detail: the caller holds a
	// certificate but nothing to check it against.
	Unproven string
}

// VersionRef names one version of a baseline or policy.
type VersionRef struct {
	ID      string `json:"id"`
	Version int    `json:"version"`
}

// Candidate is one set of reference values that the machine may satisfy: with several versions of a
// baseline valid at once, each is a candidate and one match is enough. The first is the one that
// deviations are explained against.
type Candidate struct {
	Baseline VersionRef
	// Layers are all versions that were laid upon one another, Baseline first; nil where it is the only one.
	Layers    []VersionRef
	Reference *Reference
}

// Withdrawn is a baseline that was judged by, and of which no version is valid any more: all were retired or have ended, and
// nobody has released its machines from it.
type Withdrawn struct {
	Baseline VersionRef // the version that was valid last
	Name     string     // of the baseline
	Ended    time.Time  // when its time was over; zero where it was retired
}

// String says what happened, as a sentence without its end.
func (w *Withdrawn) String() string {
	if w.Ended.IsZero() {
		return fmt.Sprintf("version %d of %s was withdrawn and nothing replaces it", w.Baseline.Version, w.Name)
	}
	return fmt.Sprintf("version %d of %s ended at %s and nothing replaces it", w.Baseline.Version, w.Name, w.Ended.UTC().Format(time.RFC3339))
}

// Inputs is all that Appraise knows beside the evidence. It is built from one snapshot of the store.
type Inputs struct {
	Now       time.Time
	AK        AttestationKey
	Freshness tpm.Freshness
	LastClock *tpm.ClockState // of the last genuine quote by this AK; nil if none
	// ClockThen is what quote.clock said of this evidence when it came, where stored evidence is judged again
	// (tpm.Expectation); nil for evidence that has just come.
	ClockThen  *tpm.StepResult
	Policy     Policy
	PolicyRef  VersionRef
	Candidates []Candidate
	// Withdrawn are the baselines of the machine that have no valid version any more. They fail baseline.match.
	Withdrawn []Withdrawn
	// Rules are Policy.Rules, compiled (package verifier/rules). A policy that has rules fails without.
	Rules RuleSet
	// Machine is what the inventory says of the machine, for rules; nil where nothing is known.
	Machine *MachineFacts
	// Log is the parsed event log; nil when there is none. LogFault says why it could not be parsed.
	Log      *eventlog.Log
	LogFault string
	// HadLog: the same boot (reset count in LastClock) has shown a log before, so its absence is suspect.
	HadLog bool
	// Platform is what tee.Verify made of the evidence's hardware report, under the anchors and the collateral of the
	// tenant; nil where none was sent. It must be of Evidence.Platform, and still valid at Now.
	Platform *tee.Result
	// CCLog is the parsed CC event log of a TDX guest; nil when there is none. CCLogFault says why it could not be
	// parsed.
	CCLog      *eventlog.Log
	CCLogFault string
	// IMA is the parsed list (nil: none sent), IMAState the entries already folded in.
	IMA      *ima.List
	IMAFault string
	IMAState *ima.State
}

// Appraisal is the verdict and what the caller must remember for the next one.
type Appraisal struct {
	Status     Status      `json:"status"`
	Reason     Reason      `json:"reason"`
	Assurance  Assurance   `json:"assurance"`
	Checks     []Check     `json:"checks"`
	Deviations []Deviation `json:"deviations"`
	Claims     Claims      `json:"claims"`
	Baseline   *VersionRef `json:"baseline"`
	// Layers are the versions that matched together, Baseline first, where there are several.
	Layers []VersionRef `json:"baseline_layers,omitempty"`
	Policy VersionRef   `json:"policy"`

	// Genuine is true when every check of origin passed: only then may Quote's clock, the log or the
	// IMA state be remembered, and only then may a baseline be captured from it.
	Genuine bool               `json:"-"`
	Quote   *tpm.VerifiedQuote `json:"-"`
	// Platform is the hardware report, where it is proven and bound to this machine's key or challenge; else nil.
	Platform     *tee.Report            `json:"-"`
	Measurements *eventlog.Measurements `json:"-"`
	// RTMRs is the proven report of a TDX guest, RTMRMeasurements what its CC event log proves; nil without.
	RTMRs            *tee.Report            `json:"-"`
	RTMRMeasurements *eventlog.Measurements `json:"-"`
	NextIMA          *ima.State             `json:"-"`
	// IMA is the list whose entries IMAReport proves; nil without.
	IMA       *ima.List  `json:"-"`
	IMAReport ima.Report `json:"-"`
}

// Claims is what the evidence proves about the machine. Unknown is null, never assumed.
type Claims struct {
	*eventlog.Claims
	TPM TPMClaims  `json:"tpm"`
	IMA *IMAClaims `json:"ima,omitempty"`
	// Platform is what the hardware report of a confidential VM proves, where it is proven.
	Platform *tee.Claims `json:"platform,omitempty"`
	// Relying are the few facts that relying parties of the clouds decide by.
	Relying *RelyingClaims `json:"relying_party,omitempty"`
}

// TPMClaims are facts out of the signed quote.
type TPMClaims struct {
	FirmwareVersion string   `json:"firmware_version,omitempty"` // hex of TPMS_ATTEST.firmwareVersion
	ResetCount      uint32   `json:"reset_count"`
	RestartCount    uint32   `json:"restart_count"`
	Banks           []string `json:"banks,omitempty"`
}

// IMAClaims sum up the runtime measurement list.
type IMAClaims struct {
	Entries    int `json:"entries"`    // entries that the quoted PCR 10 proves, from the start of the boot
	Violations int `json:"violations"` // among the entries judged now
	Unexpected int `json:"unexpected"` // entries that the reference values do not allow
}
