package client

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"time"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// EnrollmentRequest registers a machine with its keys. Byte slices travel as base64. A machine without TPM has
// no keys, and platform evidence.
type EnrollmentRequest struct {
	Machine            Machine  `json:"machine"`
	EKCertificate      []byte   `json:"ek_certificate,omitempty"`       // DER
	EKCertificateChain [][]byte `json:"ek_certificate_chain,omitempty"` // DER, issuer first
	EKPublic           []byte   `json:"ek_public,omitempty"`            // TPMT_PUBLIC
	AKPublic           []byte   `json:"ak_public,omitempty"`            // TPMT_PUBLIC
	AKCertificate      []byte   `json:"ak_certificate,omitempty"`       // DER
	AKCertificateChain [][]byte `json:"ak_certificate_chain,omitempty"` // DER, issuer first

	PlatformEvidence *PlatformEvidence `json:"platform_evidence,omitempty"`
}

// The types of platform evidence.
const (
	AzureHCL = "azure_hcl"
	SEVSNP   = "sev_snp"
	TDX      = "tdx"
)

// PlatformEvidence is hardware evidence of a confidential VM.
type PlatformEvidence struct {
	Type         string   `json:"type"`
	HCLReport    []byte   `json:"hcl_report,omitempty"`   // azure_hcl: NV index 0x01400001
	Report       []byte   `json:"report,omitempty"`       // sev_snp: ATTESTATION_REPORT
	Quote        []byte   `json:"quote,omitempty"`        // tdx, and azure_hcl of a TDX machine: TD quote
	Certificates [][]byte `json:"certificates,omitempty"` // DER
	EventLog     []byte   `json:"event_log,omitempty"`    // CC event log of a machine that has a TPM too
}

// Digest names the evidence as the server does: "sha256:" and the SHA-256, in hex, of type, HCL report, report,
// quote, event log and each certificate, each preceded by its length as 8 bytes big-endian.
func (e *PlatformEvidence) Digest() string {
	h := sha256.New()
	for _, part := range append([][]byte{[]byte(e.Type), e.HCLReport, e.Report, e.Quote, e.EventLog}, e.Certificates...) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Machine is what a machine says of itself for the inventory.
type Machine struct {
	Name         string            `json:"name"`
	ExternalID   string            `json:"external_id,omitempty"`
	OS           string            `json:"os,omitempty"`
	Platform     string            `json:"platform,omitempty"`
	SecurityType string            `json:"security_type,omitempty"`
	ScaleSet     string            `json:"scale_set,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
}

// The states of an enrolment.
const (
	ActivationRequired = "activation_required"
	Active             = "active"
)

// Enrollment is the answer to an enrolment or an activation.
type Enrollment struct {
	EnrollmentID    string     `json:"enrollment_id"`
	MachineID       string     `json:"machine_id"`
	Status          string     `json:"status"`
	CredentialBlob  []byte     `json:"credential_blob"`  // TPM2B_ID_OBJECT
	EncryptedSecret []byte     `json:"encrypted_secret"` // TPM2B_ENCRYPTED_SECRET
	Assurance       string     `json:"assurance"`
	Challenge       *Challenge `json:"challenge"`
	MachineToken    string     `json:"machine_token"`
}

// Challenge is a nonce, what to quote over it, and what need not be sent again.
type Challenge struct {
	Nonce         []byte           `json:"nonce"`
	ExpiresAt     time.Time        `json:"expires_at"`
	PCRSelection  map[string][]int `json:"pcr_selection"`
	KnownEventLog string           `json:"known_event_log"` // "sha256:<hex>"; empty for null
	IMALogOffset  int              `json:"ima_log_offset"`  // in entries

	KnownPlatformEvidence string `json:"known_platform_evidence"` // "sha256:<hex>"; empty for null
}

// Evidence is one evidence POST. A machine without TPM has platform evidence in the place of quotes and PCRs.
type Evidence struct {
	Quotes         []Quote                      `json:"quotes,omitempty"`
	PCRs           map[string]map[string]string `json:"pcrs,omitempty"`
	EventLog       []byte                       `json:"event_log,omitempty"`
	EventLogDigest string                       `json:"event_log_digest,omitempty"`
	IMALog         []byte                       `json:"ima_log,omitzero"` // empty, not nil: no entry since ima_log_offset
	IMALogOffset   int                          `json:"ima_log_offset,omitempty"`
	Agent          Agent                        `json:"agent"`

	PlatformEvidence       *PlatformEvidence `json:"platform_evidence,omitempty"`
	PlatformEvidenceDigest string            `json:"platform_evidence_digest,omitempty"` // instead, when the server holds it
}

// Quote is a TPMS_ATTEST and its TPMT_SIGNATURE.
type Quote struct {
	Message   []byte `json:"message"`
	Signature []byte `json:"signature"`
}

// Agent is what the agent says of itself; nothing is decided by it.
type Agent struct {
	Version       string  `json:"version,omitempty"`
	BootID        string  `json:"boot_id,omitempty"`
	Kernel        string  `json:"kernel,omitempty"`
	UptimeSeconds float64 `json:"uptime_seconds,omitempty"`
}

// PCRValues puts PCR values into their wire form.
func PCRValues(pcrs tpm.PCRs) map[string]map[string]string {
	out := make(map[string]map[string]string, len(pcrs))
	for i := range pcrs {
		values := map[string]string{}
		for index, v := range pcrs[i].Values {
			if v != nil {
				values[strconv.Itoa(index)] = hex.EncodeToString(v)
			}
		}
		out[pcrs[i].Alg.String()] = values
	}
	return out
}

// Verdict is the answer to evidence: the fields that an agent uses, and all of it in Raw.
type Verdict struct {
	ID         string      `json:"id"`
	MachineID  string      `json:"machine_id"`
	ReceivedAt time.Time   `json:"received_at"`
	Status     string      `json:"status"` // affirming, warning, contraindicated, none
	Reason     string      `json:"reason"` // origin_unverified, baseline_deviation; empty for null
	Assurance  string      `json:"assurance"`
	Checks     []Check     `json:"checks"`
	Deviations []Deviation `json:"deviations"`

	MachineToken                string     `json:"machine_token"` // replaces the agent's; empty: it stays
	NextChallenge               *Challenge `json:"next_challenge"`
	NextAttestationAfterSeconds int        `json:"next_attestation_after_seconds"`

	Raw        json.RawMessage `json:"-"` // the answer as it came
	ServerTime time.Time       `json:"-"` // when the server answered, by its own clock; zero if it did not say
}

// Check is one step of the chain of origin.
type Check struct {
	Code   string `json:"code"`
	Status string `json:"status"` // pass, fail, warn, skipped
	Detail string `json:"detail"`
}

// Deviation is one difference from the baseline.
type Deviation struct {
	PCR         int      `json:"pcr"`
	Kind        string   `json:"kind"` // added, removed, changed
	Component   string   `json:"component"`
	Description string   `json:"description"`
	EventType   string   `json:"event_type"`
	Expected    []string `json:"expected"`
	Actual      string   `json:"actual"`
	Bank        string   `json:"bank"` // "rtmr" for a run-time measurement register of a TDX machine
}

// ResultRequest is how a relying party wants a result; what is empty is not asked for.
type ResultRequest struct {
	Audience  string `json:"audience,omitempty"`
	Nonce     string `json:"nonce,omitempty"`
	Algorithm string `json:"algorithm,omitempty"`
	// With an Audience the machine has to be affirming, but for these.
	AllowWarning bool `json:"allow_warning,omitempty"`
	AnyStatus    bool `json:"any_status,omitempty"`
}

// Result is an attestation result that the server signed.
type Result struct {
	Token     string    `json:"token"`
	VerdictID string    `json:"verdict_id"`
	Status    string    `json:"status"`
	Algorithm string    `json:"algorithm"`
	ExpiresAt time.Time `json:"expires_at"`
}
