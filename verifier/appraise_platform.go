package verifier

import (
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// ComponentLaunch is the component of a deviation in the launch measurement of a confidential VM: its firmware, and
// the paravisor where there is one.
const ComponentLaunch eventlog.Component = "launch_measurement"

// platformCitations name the text that demands each step of a hardware report.
var platformCitations = map[tee.Technology]map[tee.Step]string{
	tee.SEVSNP: {
		tee.StepReport:        "AMD 56860 (SEV-SNP ABI), section 7.3; AMD 57230 (VCEK and KDS), section 2",
		tee.StepChipID:        "AMD 57230 (VCEK and KDS), table 9 (HWID)",
		tee.StepTCB:           "AMD 57230 (VCEK and KDS), table 9; AMD 56860, section 2.2 (TCB_VERSION)",
		tee.StepVMPL:          "AMD 56860 (SEV-SNP ABI), table 23 (VMPL)",
		tee.StepDebug:         "AMD 56860 (SEV-SNP ABI), section 4.3 (guest policy, DEBUG)",
		tee.StepMigration:     "AMD 56860 (SEV-SNP ABI), section 4.3 (guest policy, MIGRATE_MA)",
		tee.StepMeasurement:   "AMD 56860 (SEV-SNP ABI), table 23 (MEASUREMENT)",
		tee.StepSigner:        "AMD 56860 (SEV-SNP ABI), section 8.18 (ID block)",
		tee.StepConfiguration: "Azure confidential VM guest attestation, runtime data (vm-configuration)",
		tee.StepBinding:       "AMD 56860 (SEV-SNP ABI), table 23 (REPORT_DATA)",
	},
	tee.TDX: {
		tee.StepReport:        "Intel TDX DCAP Quoting Library API, appendix A.3; Intel SGX PCK Certificate and CRL Profile",
		tee.StepTCB:           "Intel PCS API v4, TCB info and QE identity",
		tee.StepDebug:         "Intel TDX Module ABI, ATTRIBUTES (TUD.DEBUG)",
		tee.StepMigration:     "Intel TDX Module ABI, ATTRIBUTES (MIGRATABLE)",
		tee.StepMeasurement:   "Intel TDX Module ABI, TDINFO (MRTD)",
		tee.StepSigner:        "Intel TDX Module ABI, TDINFO (MROWNER, MRCONFIGID)",
		tee.StepConfiguration: "Azure confidential VM guest attestation, runtime data (vm-configuration)",
		tee.StepBinding:       "Intel TDX Module ABI, REPORTDATA",
	},
}

// checkPlatform judges the hardware report and its binding to the key and the quote. What it needs of the quote
// was verified before.
func (a *appraiser) checkPlatform() {
	if a.ev.Platform == nil {
		a.platformAbsent()
		return
	}
	result := a.in.Platform
	if result == nil {
		result = &tee.Result{Steps: []tee.StepResult{{Step: tee.StepReport, Detail: "the hardware report was not verified"}}}
	}
	steps := result.Steps
	if result.Report != nil {
		steps = a.launchedAsEnrolled(result.Report, mergeSteps(steps, result.Report.Judge(&a.in.Policy.PlatformEvidence)))
	}
	failed := false
	for _, s := range steps {
		a.recordStep(s)
		failed = failed || s.Outcome == tee.Fail
	}
	a.configurationAt = len(a.out.Checks)
	binding, kind := a.bind(result)
	a.demandBinding(&binding, kind)
	a.recordStep(binding)
	if binding.Outcome != tee.Pass {
		return // a report that could be of another machine says nothing of this one
	}
	a.out.Platform, a.out.Claims.Platform = result.Report, result.Report.Claims()
	if !failed {
		a.raise(kind)
	}
}

// launchedAsEnrolled holds the report of a machine without a TPM against that of its enrolment, where neither policy nor
// baseline names a launch measurement: nothing else would tell a report that another confidential VM lends. That both are
// the same is nobody's expectation, so it is no step that passes.
func (a *appraiser) launchedAsEnrolled(report *tee.Report, steps []tee.StepResult) []tee.StepResult {
	enrolled, actual := a.in.AK.Launched, hex.EncodeToString(report.Measurement())
	if !a.ev.NoTPM || enrolled == "" || actual == enrolled || len(a.in.Policy.PlatformEvidence.LaunchMeasurements) > 0 ||
		slices.ContainsFunc(a.in.Candidates, func(c Candidate) bool { return len(c.Reference.values.LaunchMeasurements) > 0 }) {
		return steps
	}
	at := slices.IndexFunc(steps, func(s tee.StepResult) bool { return s.Step == tee.StepSigner })
	if at < 0 {
		at = len(steps)
	}
	return slices.Insert(slices.Clone(steps), at, tee.StepResult{Step: tee.StepMeasurement, Outcome: tee.Warn, Detail: fmt.Sprintf(
		"the launch measurement %s is not that of the enrolment (%s), and neither policy nor baseline names one: the VM was launched with other firmware, or the report is of another VM", actual, enrolled)})
}

// platformAbsent judges that no hardware evidence was sent.
func (a *appraiser) platformAbsent() {
	const none = "no platform evidence was sent"
	switch {
	case a.in.AK.Assurance == TEEBound:
		a.record(CheckPlatformReport, Fail, "the machine's key was proved by its hardware report, and this evidence brings none: without it nothing says that the key is still that of a confidential VM")
	case a.in.Policy.PlatformEvidence.Require:
		a.record(CheckPlatformReport, Fail, "the policy requires the hardware report of a confidential VM, and none was sent")
	default:
		a.record(CheckPlatformReport, Skipped, none)
	}
	a.record(CheckPlatformBinding, Skipped, none)
}

func (a *appraiser) recordStep(s tee.StepResult) {
	status := map[tee.Outcome]CheckStatus{tee.Fail: Fail, tee.Pass: Pass, tee.Warn: Warn, tee.Skipped: Skipped}[s.Outcome]
	a.out.Checks = append(a.out.Checks, Check{Code: CheckCode(s.Step), Status: status, Detail: s.Detail, Citation: a.platformCitation(s.Step)})
}

func (a *appraiser) platformCitation(s tee.Step) string {
	technology := tee.SEVSNP
	if a.ev.Platform.Type == tee.TypeTDX || a.ev.Platform.Type == tee.TypeAzureHCL && len(a.ev.Platform.Quote) > 0 {
		technology = tee.TDX
	}
	return platformCitations[technology][s]
}

// mergeSteps joins what the report says of itself with what the policy makes of it. A step that both speak of has
// the worse outcome, and both texts.
func mergeSteps(proof, judged []tee.StepResult) []tee.StepResult {
	out := slices.Clone(proof)
	for _, s := range judged {
		i := slices.IndexFunc(out, func(o tee.StepResult) bool { return o.Step == s.Step })
		switch {
		case i < 0:
			out = append(out, s)
		case out[i].Outcome == tee.Fail:
		case s.Outcome == tee.Fail:
			out[i] = s
		default:
			out[i].Detail += "; " + s.Detail
		}
	}
	return out
}

// bind judges whether the report is of the machine whose key signed the quote: report → key → quote.
func (a *appraiser) bind(result *tee.Result) (tee.StepResult, tee.Binding) {
	step := tee.StepResult{Step: tee.StepBinding}
	kind := result.Binding(a.in.AK.Public, a.bindingNonce(result))
	switch kind {
	case tee.BoundRuntime:
		step.Outcome, step.Detail = tee.Pass, "the report covers the paravisor's runtime data, which names the key that signed the quote"
		if a.out.Quote == nil && a.quoteSteps.Steps[tpm.StepSignature].Outcome != tpm.Pass {
			step.Outcome, step.Detail = tee.Fail, "the quote is not signed by the key that the report names: they are not of one machine"
		} else if !a.in.Policy.PlatformEvidence.PinsLaunch() {
			// Any guest at VMPL 0 can write runtime data of its own: what was launched decides whose word it is.
			step.Detail += "; whose paravisor that is only a baseline tells, since the policy names no launch measurement and no signer"
		}
	case tee.BoundKey:
		step.Outcome, step.Detail = tee.Pass, "the report was made for this challenge and names the key that signed the quote"
	case tee.BoundNonce:
		step.Outcome, step.Detail = tee.Skipped, "the report was made for this challenge, but does not name the attestation key: it shows a confidential VM, and not that this key is its own, so it raises nothing"
		if a.ev.NoTPM {
			step.Outcome, step.Detail = tee.Pass, "the report itself was made for this challenge; the machine has no TPM"
		}
	default:
		step.Detail = a.unbound(result)
		return step, kind
	}
	if step.Outcome == tee.Pass && result.Report == nil {
		step.Outcome, step.Detail = tee.Skipped, "the report names the key, but is not proven itself"
	}
	return step, kind
}

// demandBinding fails a report that binds less than the machine owes: it would else stand in for the one that was
// withheld, since anybody who has a confidential VM can have a report of any nonce and any key's name.
func (a *appraiser) demandBinding(binding *tee.StepResult, kind tee.Binding) {
	switch {
	case binding.Outcome == tee.Fail:
	case a.in.AK.Assurance == TEEBound && !a.ev.NoTPM && kind != tee.BoundRuntime:
		binding.Outcome, binding.Detail = tee.Fail, "the machine's key was proved by the report of its paravisor, and this report is not one that names the key: it could be of any confidential VM"
	case a.in.Policy.PlatformEvidence.Require && binding.Outcome != tee.Pass:
		binding.Outcome, binding.Detail = tee.Fail, "the policy requires the hardware report of this machine, and nothing shows that this one is: "+binding.Detail
	}
}

func (a *appraiser) unbound(result *tee.Result) string {
	switch {
	case result.AK() != nil && a.in.AK.Public == nil:
		return "the report names an attestation key, and none is known of the machine"
	case result.AK() != nil:
		return "the report names another attestation key than the one that signed the quote: report and quote are of different machines"
	case a.ev.Platform.Type == tee.TypeAzureHCL:
		return "the HCL report names no key that could be compared"
	case a.ev.NoTPM:
		return "the report was not made for this challenge"
	}
	return "the report's report_data names neither the key that signed the quote nor this challenge: nothing binds the two"
}

// bindingNonce is the nonce that a report of the guest's own making has to carry: that of the quote beside it, which
// is judged by itself.
func (a *appraiser) bindingNonce(result *tee.Result) []byte {
	switch {
	case a.out.Quote != nil:
		return a.out.Quote.ExtraData()
	case a.ev.NoTPM && a.in.Freshness.Unchecked && len(a.in.Freshness.Nonce) == 0:
		return result.Nonce()
	case a.ev.NoTPM && a.in.Freshness.Fault != "":
		return result.Nonce() // ours, but late or used: quote.nonce says so
	}
	return a.in.Freshness.Nonce
}

// raise sets the assurance where every hop holds. A paravisor's word on its own vTPM raises any key. That of
// software in the guest raises a key that is known to be in a TPM already: it could as well have made one up.
func (a *appraiser) raise(kind tee.Binding) {
	switch {
	case a.ev.NoTPM && a.in.Freshness.Fault == "", kind == tee.BoundRuntime && a.out.Quote != nil,
		kind == tee.BoundKey && a.out.Quote != nil && (a.in.AK.Assurance == EKActivated || a.in.AK.Assurance == AKCertified):
		a.out.Assurance = TEEBound
	}
}

// checkConfiguration compares what the paravisor says of the VM with what its boot log and its quote show. It is
// inserted before platform.binding, since it can be told only once the log has replayed.
func (a *appraiser) checkConfiguration() {
	vm, told := a.out.Platform.VM()
	if !told {
		return
	}
	step := tee.StepResult{Step: tee.StepConfiguration, Outcome: tee.Pass, Detail: "what the paravisor says of the VM agrees with what the VM shows"}
	logged := a.out.Claims.SecureBoot
	switch {
	case vm.TPMEnabled != nil && !*vm.TPMEnabled && a.out.Quote != nil:
		step.Outcome, step.Detail = tee.Warn, "the paravisor says that the VM has no TPM, and a quote of its TPM is here"
	case vm.SecureBoot != nil && logged != nil && *vm.SecureBoot != *logged:
		step.Outcome, step.Detail = tee.Warn, fmt.Sprintf("the paravisor says that Secure Boot is %s, the boot log that it is %s", onOff(*vm.SecureBoot), onOff(*logged))
	case logged == nil:
		step.Outcome, step.Detail = tee.Skipped, "there is no boot log that the paravisor's word on the VM could be compared with"
	}
	a.recordStep(step)
	last := a.out.Checks[len(a.out.Checks)-1]
	copy(a.out.Checks[a.configurationAt+1:], a.out.Checks[a.configurationAt:len(a.out.Checks)-1])
	a.out.Checks[a.configurationAt] = last
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// secureBootByParavisor tells whether, with no log to tell it, a proven and bound report of a paravisor says that the
// VM's firmware has Secure Boot on.
func (a *appraiser) secureBootByParavisor() bool {
	on := a.paravisorsSecureBoot()
	return on != nil && *on
}

// paravisorsSecureBoot is the word of a proven and bound report of a paravisor on Secure Boot, where no log tells of
// it; nil without.
func (a *appraiser) paravisorsSecureBoot() *bool {
	if a.in.Log != nil || !a.passed(CheckPlatformBinding) || a.platformFailed() {
		return nil
	}
	vm, _ := a.out.Platform.VM() // without a paravisor nothing is told
	return vm.SecureBoot
}

// secureBootByRTMRs tells whether a machine without a TPM has firmware with Secure Boot on, and its boot is known: with
// RTMR 0 and 1 at values of the reference, what they hold was judged before, also whether shim validated. Its log alone
// cannot tell that (see eventlog's claims of registers).
func (a *appraiser) secureBootByRTMRs() bool {
	on := a.out.Claims.SecureBoot
	if !a.ev.NoTPM || on == nil || !*on || isTrue(a.out.Claims.ShimValidationDisabled) {
		return false
	}
	for i := range a.in.Candidates {
		r := a.in.Candidates[i].Reference
		if r.rtmrs.matchValue(shownRTMRs{a.out.RTMRs}, 0) && r.rtmrs.matchValue(shownRTMRs{a.out.RTMRs}, 1) {
			return true
		}
	}
	return false
}

func isTrue(b *bool) bool { return b != nil && *b }

// platformFailed tells whether a step of the hardware report failed.
func (a *appraiser) platformFailed() bool {
	for i := range a.out.Checks {
		if c := &a.out.Checks[i]; c.Status == Fail && isPlatformCheck(c.Code) {
			return true
		}
	}
	return false
}

func isPlatformCheck(c CheckCode) bool {
	return len(c) > len("platform.") && c[:len("platform.")] == "platform."
}

// checkReportInPlaceOfQuote fills the steps of a quote for a confidential VM that has no TPM.
func (a *appraiser) checkReportInPlaceOfQuote() {
	const none = "the machine has no TPM; its hardware report stands in place of a quote"
	a.record(CheckQuoteSignature, Skipped, none)
	a.record(CheckQuoteType, Skipped, none)
	f := a.in.Freshness
	switch bound := a.in.Platform != nil && a.in.Platform.Binding(nil, f.Nonce) == tee.BoundNonce; {
	case f.Fault != "":
		a.record(CheckQuoteNonce, Fail, f.Fault)
	case f.Unchecked && len(f.Nonce) == 0:
		a.record(CheckQuoteNonce, Skipped, "judged without a nonce, so nothing shows when the report was made")
	case len(f.Nonce) == 0:
		a.record(CheckQuoteNonce, Fail, "no nonce is expected from this machine")
	case !bound:
		a.record(CheckQuoteNonce, Fail, "the hardware report was made for another nonce than the one expected")
	case a.out.Platform == nil:
		a.record(CheckQuoteNonce, Skipped, "not judged: the hardware report is not proven")
	default:
		a.record(CheckQuoteNonce, Pass, "the hardware report was made for the nonce of this challenge")
	}
	a.record(CheckQuoteSelection, Skipped, none)
	a.record(CheckQuoteDigest, Skipped, none)
	a.record(CheckQuoteClock, Skipped, none)
}

// proven tells whether there is something signed to judge the boot by: a quote, or for a machine without a TPM
// its hardware report.
func (a *appraiser) proven() bool {
	return a.out.Quote != nil || a.ev.NoTPM && a.out.Platform != nil
}

// matchLaunch compares the launch measurement with the reference values.
func (r *Reference) matchLaunch(report *tee.Report) []Deviation {
	allowed := r.values.LaunchMeasurements
	if len(allowed) == 0 {
		return nil
	}
	d := Deviation{PCR: -1, Kind: Removed, Component: ComponentLaunch, Expected: allowed,
		Description: "the baseline expects a launch measurement, and no proven hardware report shows one"}
	if report != nil {
		d.Kind, d.Actual = Changed, hex.EncodeToString(report.Measurement())
		if slices.ContainsFunc(allowed, func(text string) bool { return equalHex(text, d.Actual) }) {
			return nil
		}
		d.Description = "launch measurement changed: the confidential VM was launched with another firmware, paravisor or configuration"
	}
	return []Deviation{d}
}

// equalHex compares hex of any letter case with hex in lower case.
func equalHex(text, lower string) bool {
	b, err := hex.DecodeString(text)
	return err == nil && hex.EncodeToString(b) == lower
}

// RelyingClaims are what relying parties of confidential VMs decide by, in one place. Null is not known.
type RelyingClaims struct {
	SecureBoot  *bool  `json:"secure_boot"`
	Debug       *bool  `json:"debug"`                // of the guest by its host, or of its firmware or kernel
	TestSigning *bool  `json:"test_signing"`         // Windows
	TEEType     string `json:"tee_type,omitempty"`   // sev_snp, tdx; empty for other machines
	Compliance  string `json:"compliance,omitempty"` // compliant or noncompliant; empty for other machines
	VMID        string `json:"vm_id,omitempty"`
	TCB         string `json:"tcb,omitempty"`
	TCBStatus   string `json:"tcb_status,omitempty"`
}

// relying sums up the claims. A confidential VM is compliant if its hardware report is bound to it, its Secure Boot
// is on, nothing debugs it, and nothing about it was refused.
func (a *appraiser) relying() *RelyingClaims {
	if !a.out.Genuine {
		return nil
	}
	c := a.out.Claims.Claims
	r := &RelyingClaims{SecureBoot: c.SecureBoot, Debug: c.FirmwareDebugger}
	if c.SecureBootEffective != nil {
		r.SecureBoot = c.SecureBootEffective
	}
	if w := c.Windows; w != nil {
		r.TestSigning = w.TestSigning
		for _, d := range []*bool{w.BootDebugging, w.KernelDebugging, w.HypervisorDebugging} {
			if d != nil && (r.Debug == nil || *d) {
				r.Debug = d
			}
		}
	}
	p := a.out.Claims.Platform
	if p == nil {
		return r
	}
	r.TEEType = p.TEEType
	if r.Debug == nil || p.Debug {
		r.Debug = &p.Debug
	}
	if p.VM != nil {
		r.VMID = p.VM.VMID
		if r.SecureBoot == nil {
			r.SecureBoot = a.paravisorsSecureBoot()
		}
	}
	switch {
	case p.TCB != nil:
		r.TCB = p.TCB.String()
	case p.TEETCBSVN != "":
		r.TCB = p.TEETCBSVN
	}
	if p.TCBStatus != nil {
		r.TCBStatus = p.TCBStatus.Platform
	}
	r.Compliance = "noncompliant"
	if a.out.Assurance == TEEBound && a.out.Status != Contraindicated && !a.platformFailed() &&
		r.SecureBoot != nil && *r.SecureBoot && !*r.Debug && (r.TestSigning == nil || !*r.TestSigning) {
		r.Compliance = "compliant"
	}
	return r
}

// replayWithoutTPM judges the boot log of a machine whose registers are in its hardware report. It comes as any boot
// log does, or in the hardware evidence; where both came, both have to hold.
func (a *appraiser) replayWithoutTPM() {
	if a.out.Platform.Technology() != tee.TDX {
		a.record(CheckEventLogReplay, Skipped, "an SEV-SNP machine without a TPM has no registers that a boot log could be compared with: only its launch measurement can be judged")
		return
	}
	status, detail := a.replayCC(a.out.Platform)
	if status != Fail && (a.in.Log != nil || a.in.LogFault != "") || a.in.CCLog == nil && a.in.CCLogFault == "" {
		a.in.CCLog, a.in.CCLogFault = a.in.Log, a.in.LogFault
		status, detail = a.replayCC(a.out.Platform)
	}
	a.record(CheckEventLogReplay, status, detail)
}

// replayBeside judges the CC event log of a machine that has a TPM too, once its report is bound to it. What fails
// there fails eventlog.replay, whatever the TPM's log says; else both are told.
func (a *appraiser) replayBeside() {
	if a.out.Quote == nil || a.out.Platform == nil || !a.passed(CheckPlatformBinding) || a.platformFailed() {
		return
	}
	status, detail := a.replayCC(a.out.Platform)
	c := &a.out.Checks[len(a.out.Checks)-1]
	if c.Code != CheckEventLogReplay || status == Skipped {
		return
	}
	c.Detail += "; CC event log: " + detail
	if status == Fail || status == Warn && c.Status != Fail {
		c.Status = status
	}
}
