package verifier

import (
	"errors"
	"fmt"
	"sort"
	"strconv"

	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Selector chooses machines. An empty list or map does not restrict; all that are given must hold.
type Selector struct {
	ScaleSet   []string          `json:"scale_set,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Platform   []string          `json:"platform,omitempty"`
	MachineIDs []string          `json:"machine_ids,omitempty"`
}

// Policy is an appraisal policy: what a quote must cover and what a machine must be. Its JSON form is
// the wire form of API.md; absent fields take the values of DefaultPolicy.
type Policy struct {
	// PCRs that a quote must cover, by bank. A stronger bank (sha384, sha512) of the same indices
	// satisfies the requirement too, since some TPMs have only that.
	PCRs map[string][]int `json:"pcrs"`
	// BaselinePCRs are the PCRs that a captured or learned baseline judges.
	BaselinePCRs []int `json:"baseline_pcrs"`

	RequireSecureBoot    bool `json:"require_secure_boot"`
	AllowSHA1PCRs        bool `json:"allow_sha1_pcrs"`
	RequireEKCertificate bool `json:"require_ek_certificate"`
	LearnFirstBoot       bool `json:"learn_first_boot"`
	RequireBaseline      bool `json:"require_baseline"`
	RequireIMA           bool `json:"require_ima"`
	// RequireEventLog fails machines that send no boot log. Without it a machine is judged by PCR values
	// alone, as far as its baseline names them.
	RequireEventLog bool `json:"require_event_log"`
	// RecommendSecureBootEverywhere widens recommendation R1 from confidential VMs to all machines.
	RecommendSecureBootEverywhere bool `json:"recommend_secure_boot_everywhere"`

	// TwoPersonApproval: nobody's word alone activates reference values for the machines of this policy. Whoever made
	// a version needs another principal to approve or promote it.
	TwoPersonApproval bool `json:"two_person_approval"`

	// PlatformEvidence is what confidential VMs' hardware reports are asked.
	PlatformEvidence tee.Policy `json:"platform_evidence,omitzero"`

	// AttestationIntervalSeconds is the longest time between two attestations of a machine, and from its enrolment to
	// the first. A machine that is StaleAfterSeconds past that is stale, and the alert that its attestation is missing
	// comes AttestationMissingDelaySeconds later.
	AttestationIntervalSeconds     int `json:"attestation_interval_seconds"`
	StaleAfterSeconds              int `json:"stale_after_seconds"`
	AttestationMissingDelaySeconds int `json:"attestation_missing_delay_seconds"`
	ChallengeLifetimeSeconds       int `json:"challenge_lifetime_seconds"`

	Selector Selector `json:"selector"`

	// Rules are the policy's own rules; the check policy.rules asks them.
	Rules []PolicyRule `json:"rules,omitempty"`
}

// DefaultPolicy is what a new tenant starts with.
//
// PCR 6 (host platform manufacturer), 10 (IMA, judged by its own list), 13 (system extensions) and
// 15-23 are not in the captured baseline by default: they move by themselves on real machines.
func DefaultPolicy() Policy {
	return Policy{
		PCRs:                       map[string][]int{"sha256": {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}},
		BaselinePCRs:               []int{0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 14},
		RequireSecureBoot:          true,
		RequireEKCertificate:       true,
		AttestationIntervalSeconds: 300,
		StaleAfterSeconds:          120,
		ChallengeLifetimeSeconds:   120,

		AttestationMissingDelaySeconds: 600,
	}
}

// FieldError is a value that does not fit, with its place as an RFC 6901 JSON pointer.
type FieldError struct {
	Pointer string
	Detail  string
}

// Error implements error.
func (e *FieldError) Error() string { return e.Pointer + ": " + e.Detail }

func fieldErrorf(pointer, format string, args ...any) *FieldError {
	return &FieldError{Pointer: pointer, Detail: fmt.Sprintf(format, args...)}
}

// ParsePolicy reads a policy object. Unknown fields are refused; absent ones take their default. The
// error is a *DecodeError or a *FieldError, each with its place.
func ParsePolicy(b []byte) (Policy, error) {
	def := DefaultPolicy()
	p := def
	p.PCRs, p.BaselinePCRs = nil, nil
	if err := DecodeStrict(b, &p); err != nil {
		return Policy{}, err
	}
	if p.PCRs == nil {
		p.PCRs = def.PCRs
	}
	if p.BaselinePCRs == nil {
		p.BaselinePCRs = def.BaselinePCRs
	}
	if err := p.Validate(); err != nil {
		return Policy{}, err
	}
	return p, nil
}

// Validate checks ranges and names. The error is a *FieldError.
func (p *Policy) Validate() error {
	if len(p.PCRs) == 0 {
		return fieldErrorf("/pcrs", "at least one bank is needed")
	}
	banks := make([]string, 0, len(p.PCRs))
	for bank := range p.PCRs {
		banks = append(banks, bank)
	}
	sort.Strings(banks)
	for _, bank := range banks {
		alg, ok := tpm.ParseHashAlg(bank)
		if !ok || !alg.PCRBank() || alg.Hash() == 0 {
			return fieldErrorf("/pcrs/"+bank, "%q is no PCR bank that can be judged (sha1, sha256, sha384, sha512)", bank)
		}
		if alg == tpm.SHA1 && !p.AllowSHA1PCRs {
			return fieldErrorf("/pcrs/sha1", "a SHA-1 bank needs allow_sha1_pcrs")
		}
		if len(p.PCRs[bank]) == 0 {
			return fieldErrorf("/pcrs/"+bank, "at least one PCR is needed")
		}
		for i, pcr := range p.PCRs[bank] {
			if pcr < 0 || pcr >= tpm.NumPCRs {
				return fieldErrorf("/pcrs/"+bank+"/"+strconv.Itoa(i), "PCR %d is outside 0 to 23", pcr)
			}
		}
	}
	for i, pcr := range p.BaselinePCRs {
		if pcr < 0 || pcr >= tpm.NumPCRs {
			return fieldErrorf("/baseline_pcrs/"+strconv.Itoa(i), "PCR %d is outside 0 to 23", pcr)
		}
	}
	if err := p.PlatformEvidence.Validate(); err != nil {
		var at *tee.PolicyError
		if errors.As(err, &at) {
			return fieldErrorf("/platform_evidence"+at.Pointer, "%s", at.Detail)
		}
		return fieldErrorf("/platform_evidence", "%s", err)
	}
	if err := validateRules(p.Rules); err != nil {
		return err
	}
	const week = 7 * 24 * 3600
	for _, f := range []struct {
		name             string
		value, low, high int
	}{
		{"attestation_interval_seconds", p.AttestationIntervalSeconds, 10, week},
		// Below half a minute a restart of the service would make machines stale.
		{"stale_after_seconds", p.StaleAfterSeconds, 30, week},
		{"attestation_missing_delay_seconds", p.AttestationMissingDelaySeconds, 0, week},
		{"challenge_lifetime_seconds", p.ChallengeLifetimeSeconds, 5, 24 * 3600},
	} {
		if f.value < f.low || f.value > f.high {
			return fieldErrorf("/"+f.name, "%d is outside %d to %d", f.value, f.low, f.high)
		}
	}
	return nil
}

// RequiredSelections is the policy's PCR coverage in TPM terms, in ascending order of bank.
func (p *Policy) RequiredSelections() []tpm.Selection {
	out := make([]tpm.Selection, 0, len(p.PCRs))
	for bank, pcrs := range p.PCRs {
		alg, _ := tpm.ParseHashAlg(bank)
		s := tpm.Selection{Alg: alg}
		for _, i := range pcrs {
			s.Mask |= 1 << uint(i)
		}
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Alg < out[j].Alg })
	return out
}
