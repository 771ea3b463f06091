package tee

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Policy is what a group of machines is asked of its hardware reports. Its zero value is the default: a genuine
// report of a guest that cannot be debugged or migrated, at the privilege level of a paravisor where there is one.
type Policy struct {
	// Require fails a machine that sends no hardware evidence. A machine that enrolled by it is always asked for it.
	Require bool `json:"require,omitempty"`
	// LaunchMeasurements are the allowed ones in hex (MEASUREMENT or MRTD, 96 digits); empty allows any.
	LaunchMeasurements []string `json:"launch_measurements,omitempty"`
	AllowDebug         bool     `json:"allow_debug,omitempty"`
	AllowMigration     bool     `json:"allow_migration,omitempty"`
	// RequireCRL fails reports whose chain no valid CRL was held for.
	RequireCRL bool      `json:"require_crl,omitempty"`
	SNP        SNPPolicy `json:"snp,omitzero"`
	TDX        TDXPolicy `json:"tdx,omitzero"`
}

// PinsLaunch tells whether the policy says what may have been launched, or whose word on it counts.
func (p *Policy) PinsLaunch() bool {
	return len(p.LaunchMeasurements)+len(p.SNP.IDKeyDigests)+len(p.SNP.AuthorKeyDigests) > 0
}

// SNPPolicy is what is asked of SEV-SNP reports.
type SNPPolicy struct {
	// MinimumTCB is the least reported TCB by product (milan, genoa, turin).
	MinimumTCB map[Product]TCB `json:"minimum_tcb,omitempty"`
	// RecommendedTCB raises a recommendation where the reported TCB is below it; it fails nothing.
	RecommendedTCB map[Product]TCB `json:"recommended_tcb,omitempty"`
	// MaxVMPL is the highest virtual machine privilege level that a report may be made for. Null is 0 for a report of
	// a paravisor, whose word it is, and 3 for others.
	MaxVMPL *uint32 `json:"max_vmpl,omitempty"`
	// AllowVLEK is false where only keys of the chip itself (VCEK) count. Null allows both.
	AllowVLEK *bool `json:"allow_vlek,omitempty"`
	// MinimumGuestSVN is the least security version of the launched image.
	MinimumGuestSVN uint32 `json:"minimum_guest_svn,omitempty"`
	// IDKeyDigests and AuthorKeyDigests are the allowed signers of the launch (96 hex digits); empty allows any.
	IDKeyDigests     []string `json:"id_key_digests,omitempty"`
	AuthorKeyDigests []string `json:"author_key_digests,omitempty"`
	// HostData is what the host may have given the guest at launch (64 hex digits); empty allows any.
	HostData []string `json:"host_data,omitempty"`
}

// TDXPolicy is what is asked of TD quotes.
type TDXPolicy struct {
	// AllowedTCBStatuses are Intel's words that pass. Empty allows all but Revoked. Where it is not empty, TCB info has
	// to be held: an unknown status is none of them.
	AllowedTCBStatuses []string `json:"allowed_tcb_statuses,omitempty"`
	// MinimumTEETCBSVN is 32 hex digits, compared byte by byte.
	MinimumTEETCBSVN string `json:"minimum_tee_tcb_svn,omitempty"`
	// The allowed values of the TD's owner and configuration registers (96 hex digits); empty allows any.
	MRConfigIDs    []string `json:"mr_config_ids,omitempty"`
	MROwners       []string `json:"mr_owners,omitempty"`
	MROwnerConfigs []string `json:"mr_owner_configs,omitempty"`
	// MRSignerSeams are the allowed signers of the TDX module; empty allows Intel's alone (zeros).
	MRSignerSeams []string `json:"mr_signer_seams,omitempty"`
}

// PolicyError is a value of a policy that does not fit, with its place as an RFC 6901 pointer into the Policy.
type PolicyError struct{ Pointer, Detail string }

// Error implements error.
func (e *PolicyError) Error() string { return e.Pointer + ": " + e.Detail }

const maxPolicyValues = 256

// Validate checks ranges and digits, and writes hex in lower case. The error is a *PolicyError.
func (p *Policy) Validate() error {
	for _, list := range [...]struct {
		pointer string
		values  []string
		size    int
	}{
		{"/launch_measurements", p.LaunchMeasurements, 48},
		{"/snp/id_key_digests", p.SNP.IDKeyDigests, 48}, {"/snp/author_key_digests", p.SNP.AuthorKeyDigests, 48}, {"/snp/host_data", p.SNP.HostData, 32},
		{"/tdx/mr_config_ids", p.TDX.MRConfigIDs, 48}, {"/tdx/mr_owners", p.TDX.MROwners, 48}, {"/tdx/mr_owner_configs", p.TDX.MROwnerConfigs, 48},
		{"/tdx/mr_signer_seams", p.TDX.MRSignerSeams, 48},
	} {
		if len(list.values) > maxPolicyValues {
			return &PolicyError{list.pointer, fmt.Sprintf("more than %d values", maxPolicyValues)}
		}
		for i, text := range list.values {
			b, err := hex.DecodeString(text)
			if err != nil || len(b) != list.size {
				return &PolicyError{list.pointer + "/" + strconv.Itoa(i), fmt.Sprintf("%d hex digits are needed", 2*list.size)}
			}
			list.values[i] = hex.EncodeToString(b)
		}
	}
	for _, m := range [...]struct {
		pointer string
		tcbs    map[Product]TCB
	}{{"/snp/minimum_tcb", p.SNP.MinimumTCB}, {"/snp/recommended_tcb", p.SNP.RecommendedTCB}} {
		for product := range m.tcbs {
			if product != Milan && product != Genoa && product != Turin {
				return &PolicyError{m.pointer, fmt.Sprintf("%q is none of milan, genoa, turin", string(product))}
			}
		}
	}
	if v := p.SNP.MaxVMPL; v != nil && *v > 3 {
		return &PolicyError{"/snp/max_vmpl", fmt.Sprintf("%d is outside 0 to 3", *v)}
	}
	for i, s := range p.TDX.AllowedTCBStatuses {
		if statusRank(s) > statusRank("Revoked") {
			return &PolicyError{"/tdx/allowed_tcb_statuses/" + strconv.Itoa(i), fmt.Sprintf("%q is no TCB status of Intel's", s)}
		}
	}
	if text := p.TDX.MinimumTEETCBSVN; text != "" {
		if b, err := hex.DecodeString(text); err != nil || len(b) != 16 {
			return &PolicyError{"/tdx/minimum_tee_tcb_svn", "32 hex digits are needed"}
		}
	}
	return nil
}

// Judge holds a proven report against a policy. The steps are in the order of a verdict; platform.tcb is left out
// where nothing is asked and nothing known.
func (r *Report) Judge(p *Policy) []StepResult {
	out := make([]StepResult, 0, 6)
	add := func(step Step, fault, fine string) {
		if fault != "" {
			out = append(out, StepResult{step, Fail, fault})
			return
		}
		out = append(out, StepResult{step, Pass, fine})
	}
	tcb, known := r.judgeTCB(p)
	switch {
	case tcb != "":
		add(StepTCB, tcb, "")
	case known != "":
		add(StepTCB, "", known)
	case r.tdx != nil:
		out = append(out, StepResult{StepTCB, Skipped, "no TCB info of Intel's is held: whether the TCB is up to date is unknown"})
	}
	if r.snp != nil {
		add(StepVMPL, r.judgeVMPL(p), fmt.Sprintf("made at VMPL %d", r.snp.vmpl))
	}
	add(StepDebug, r.judgeDebug(p), "the host cannot read the guest's memory by debugging")
	migration := ""
	if r.migratable && !p.AllowMigration {
		migration = "the guest's policy lets a migration agent move it to another machine, and the policy here does not allow that"
	}
	add(StepMigration, migration, "no migration agent can move the guest")
	if len(p.LaunchMeasurements) > 0 {
		fault := ""
		if actual := hex.EncodeToString(r.measurement); !slices.Contains(p.LaunchMeasurements, actual) {
			fault = fmt.Sprintf("the launch measurement %s is none that the policy allows", actual)
		}
		add(StepMeasurement, fault, "the launch measurement is one that the policy allows")
	}
	if fault, asked := r.judgeSigner(p); asked {
		add(StepSigner, fault, "launched and signed by whom the policy allows")
	}
	return out
}

// judgeTCB answers a fault, or in words what holds.
func (r *Report) judgeTCB(p *Policy) (fault, fine string) {
	if r.snp != nil {
		minimum, asked := p.SNP.MinimumTCB[r.snp.product]
		if !asked {
			if len(p.SNP.MinimumTCB) > 0 {
				return fmt.Sprintf("the policy sets minimum TCBs, and none for %s", r.snp.product), ""
			}
			return "", ""
		}
		if below := r.snp.reported.below(minimum); below != "" {
			return "the reported TCB is below the policy's minimum: " + below, ""
		}
		return "", "the reported TCB reaches the policy's minimum: " + r.snp.reported.String()
	}
	if text := p.TDX.MinimumTEETCBSVN; text != "" {
		minimum, _ := hex.DecodeString(text)
		for i, have := range r.tdx.teeTCBSVN {
			if i >= len(minimum) || have < minimum[i] {
				return fmt.Sprintf("TEE TCB SVN %x is below the policy's minimum %s at byte %d", r.tdx.teeTCBSVN, text, i), ""
			}
		}
		fine = "TEE TCB SVN reaches the policy's minimum"
	}
	allowed := p.TDX.AllowedTCBStatuses
	if r.tcbStatus == nil {
		if len(allowed) > 0 {
			return "the policy asks for a TCB status, and no TCB info of Intel's is held that would tell it", ""
		}
		return "", fine
	}
	status := r.tcbStatus.worst()
	switch {
	case len(allowed) > 0 && (r.tcbStatus.Platform == "" || r.tcbStatus.QE == ""):
		return "the policy asks for a TCB status, and only a part of Intel's collateral is held", ""
	case len(allowed) > 0 && !slices.Contains(allowed, status), len(allowed) == 0 && statusRank(status) >= statusRank("Revoked"):
		return fmt.Sprintf("Intel says of the TCB: %s, which the policy does not allow", status), ""
	case r.tcbStatus.Platform == "": // the quoting enclave's word says nothing of the platform
		return "", fine
	}
	return "", "Intel says of the TCB: " + status
}

func (r *Report) judgeVMPL(p *Policy) string {
	limit := uint32(3)
	if r.Paravisor() {
		limit = 0
	}
	if p.SNP.MaxVMPL != nil {
		limit = *p.SNP.MaxVMPL
	}
	if r.snp.vmpl <= limit {
		return ""
	}
	return fmt.Sprintf("made at VMPL %d, but at most %d is trusted: software of a lower privilege asked for it, or the host", r.snp.vmpl, limit)
}

func (r *Report) judgeDebug(p *Policy) string {
	switch {
	case p.AllowDebug:
		return ""
	case r.debug && r.snp != nil:
		return "the guest's policy allows debugging: the host can read and change its memory"
	case r.debug:
		return "the TD is under debug: the host can read and change its memory"
	case r.tdx != nil && r.tdx.servicesDebug:
		return "the TDX module itself runs with attributes set (SEAMATTRIBUTES), as under debug"
	}
	return ""
}

// judgeSigner answers whether anything was asked, too.
func (r *Report) judgeSigner(p *Policy) (fault string, asked bool) {
	check := func(what string, actual []byte, allowed []string) {
		if len(allowed) == 0 {
			return
		}
		asked = true
		if fault == "" && !slices.Contains(allowed, hex.EncodeToString(actual)) {
			fault = fmt.Sprintf("%s %s is none that the policy allows", what, orNone(actual))
		}
	}
	if s := r.snp; s != nil {
		check("the id key digest", s.idKeyDigest, p.SNP.IDKeyDigests)
		check("the author key digest", s.authorKeyDigest, p.SNP.AuthorKeyDigests)
		check("the host data", s.hostData, p.SNP.HostData)
		if m := p.SNP.MinimumGuestSVN; m > 0 {
			asked = true
			if fault == "" && s.guestSVN < m {
				fault = fmt.Sprintf("the guest's security version %d is below the policy's minimum %d", s.guestSVN, m)
			}
		}
		if a := p.SNP.AllowVLEK; a != nil && !*a {
			asked = true
			if fault == "" && r.keyKind == KindVLEK {
				fault = "signed by a cloud provider's key (VLEK), and the policy wants the chip's own (VCEK)"
			}
		}
		return fault, asked
	}
	check("the TD's MRCONFIGID", r.tdx.mrConfigID, p.TDX.MRConfigIDs)
	check("the TD's MROWNER", r.tdx.mrOwner, p.TDX.MROwners)
	check("the TD's MROWNERCONFIG", r.tdx.mrOwnerConfig, p.TDX.MROwnerConfigs)
	if len(p.TDX.MRSignerSeams) > 0 {
		check("the TDX module's signer", r.tdx.mrSignerSeam, p.TDX.MRSignerSeams)
	} else if !bytes.Equal(r.tdx.mrSignerSeam, make([]byte, 48)) {
		asked = true
		if fault == "" {
			fault = "the TDX module is not signed by Intel (MRSIGNERSEAM is not zero)"
		}
	}
	return fault, asked
}

func orNone(b []byte) string {
	if isZero(b) {
		return "(none)"
	}
	return hex.EncodeToString(b)
}

// Outdated says in words why a TCB that passes is not the best one; empty if nothing tells.
func (r *Report) Outdated(p *Policy) string { return r.claims.Outdated(p) }

// Outdated says in words why the TCB is not the best one: each part that is behind, and of Intel's word the
// advisories that it rests on. Empty if nothing tells.
func (c *Claims) Outdated(p *Policy) string {
	if c == nil {
		return ""
	}
	if c.TCB != nil {
		if want, asked := p.SNP.RecommendedTCB[c.Product]; asked {
			if behind := c.TCB.behind(want); len(behind) > 0 {
				return "the reported TCB is below the recommended one: " + strings.Join(behind, "; ")
			}
		}
		if c.CommittedTCB != nil {
			if behind := c.TCB.behind(*c.CommittedTCB); len(behind) > 0 {
				return "the platform has committed to a newer TCB than the one that it reports: " + strings.Join(behind, "; ")
			}
		}
	}
	s := c.TCBStatus
	if s == nil {
		return ""
	}
	parts := make([]string, 0, 2)
	for _, part := range [...]struct{ name, status string }{{"platform", s.Platform}, {"quoting enclave", s.QE}} {
		if part.status != "" && statusRank(part.status) >= statusRank("OutOfDate") {
			parts = append(parts, part.name+" "+part.status)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	text := "Intel says of the TCB: " + strings.Join(parts, ", ")
	if s.Date != "" {
		text += ", at the level of " + s.Date
	}
	if len(s.Advisories) > 0 {
		text += "; advisories " + strings.Join(s.Advisories, ", ")
	}
	return text
}
