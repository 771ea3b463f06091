package verifier

import (
	"errors"
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// citations names, for each check, the text that demands it.
var citations = map[CheckCode]string{
	CheckAKTrusted:       "TCG TPM 2.0 Keys for Device Identity and Attestation, section 5",
	CheckPlatformReport:  "RFC 9334, section 3.2 (layered attestation)",
	CheckPlatformBinding: "RFC 9334, section 3.2 (layered attestation)",
	CheckQuoteSignature:  "TPM 2.0 Part 3, section 18.4 (TPM2_Quote)",
	CheckQuoteType:       "TPM 2.0 Part 2, section 10.12.8 (TPMS_ATTEST)",
	CheckQuoteNonce:      "TPM 2.0 Part 1, section 31 (attestation, qualifyingData)",
	CheckQuoteSelection:  "TPM 2.0 Part 2, section 10.6.2 (TPMS_PCR_SELECTION)",
	CheckQuoteDigest:     "TPM 2.0 Part 2, section 10.12.1 (TPMS_QUOTE_INFO)",
	CheckQuoteClock:      "TPM 2.0 Part 1, section 36 (timing components)",
	CheckEventLogReplay:  "TCG PC Client Platform Firmware Profile 1.06, section 10",
	CheckSecureBoot:      "UEFI 2.10, section 32.3; TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.8",
	CheckBaselineMatch:   "RFC 9334, section 8.3 (reference values)",
	CheckIMAReplay:       "Linux kernel, Documentation/security/IMA-templates.rst",
	CheckIMAPolicy:       "Linux kernel, Documentation/ABI/testing/ima_policy",
	CheckPolicyRules:     "RFC 9334, section 8.5 (appraisal policy for evidence)",
}

// originChecks are those whose failure means that the evidence cannot be believed to come from this
// machine's own TPM, or hardware (DESIGN §3, the two reasons).
var originChecks = map[CheckCode]bool{
	CheckAKTrusted: true, CheckPlatformReport: true, CheckPlatformBinding: true,
	CheckQuoteSignature: true, CheckQuoteType: true, CheckQuoteNonce: true, CheckQuoteSelection: true,
	CheckQuoteDigest: true, CheckQuoteClock: true, CheckEventLogReplay: true, CheckIMAReplay: true,
	// A report of a guest that its host can read, change or move proves no key of its own.
	CheckCode(tee.StepChipID): true, CheckCode(tee.StepTCB): true, CheckCode(tee.StepVMPL): true,
	CheckCode(tee.StepDebug): true, CheckCode(tee.StepMigration): true,
}

// appraiser holds one appraisal while it is made.
type appraiser struct {
	in  Inputs
	ev  *Evidence
	out *Appraisal

	quoteSteps      tpm.Report
	configurationAt int // where platform.configuration belongs among the checks
}

// Appraise judges evidence. It performs these checks, in order, and reports each:
//
//	ak.trusted           the AK is this machine's, proved, not revoked, and of an acceptable kind
//	platform.report      the hardware report of a confidential VM is genuine
//	platform.…           … of a VM that is protected, and launched, as the policy asks (tee.Step)
//	platform.binding     … and names the AK that signed the quote
//	quote.signature      every quote is signed by the AK
//	quote.type           … is a quote made inside a TPM
//	quote.nonce          … over the challenge that was expected
//	quote.selection      … of exactly the claimed PCRs, covering what the policy requires
//	quote.digest         … with exactly the claimed values
//	quote.clock          … at a TPM clock and reset count that have not gone back
//	eventlog.replay      the boot log explains the quoted PCRs
//	secure_boot.enabled  Secure Boot was effective, where the policy requires it
//	baseline.match       what was measured is what one of the candidate baselines expects
//	ima.replay           the IMA list explains the quoted PCR 10
//	ima.policy           … and holds only files that the baseline allows
//	policy.rules         the policy's own rules hold
//
// It never returns an error: what is wrong with a machine is a finding. The caller must have taken all
// of Inputs from one snapshot, must store the result before acting on it, and must remember clock, log
// and IMA state only where Genuine is true.
func Appraise(ev *Evidence, in Inputs) *Appraisal {
	a := &appraiser{in: in, ev: ev, out: &Appraisal{
		Assurance:  in.AK.Assurance,
		Checks:     make([]Check, 0, 15),
		Deviations: []Deviation{},
		Policy:     in.PolicyRef,
		Claims:     Claims{Claims: &eventlog.Claims{}},
	}}
	if in.AK.Assurance == TEEBound {
		// What bound the key once is to be shown each time (raise).
		a.out.Assurance = FirstUse
	}
	a.verifyQuote()
	a.checkAK()
	a.checkPlatform()
	a.checkQuote()
	a.checkEventLog()
	a.replayBeside()
	a.checkConfiguration()
	a.checkSecureBoot()
	a.checkBaseline()
	a.checkIMA()
	a.checkRules()
	a.conclude()
	return a.out
}

func (a *appraiser) recordf(code CheckCode, status CheckStatus, format string, args ...any) {
	a.record(code, status, fmt.Sprintf(format, args...))
}

func (a *appraiser) record(code CheckCode, status CheckStatus, detail string) {
	a.out.Checks = append(a.out.Checks, Check{Code: code, Status: status, Detail: detail, Citation: citations[code]})
}

func (a *appraiser) failed(code CheckCode) bool {
	for i := range a.out.Checks {
		if a.out.Checks[i].Code == code {
			return a.out.Checks[i].Status == Fail
		}
	}
	return false
}

func (a *appraiser) passed(code CheckCode) bool {
	for i := range a.out.Checks {
		if a.out.Checks[i].Code == code {
			return a.out.Checks[i].Status == Pass
		}
	}
	return false
}

func (a *appraiser) checkAK() {
	k := a.in.AK
	switch {
	case k.Fault != "":
		a.record(CheckAKTrusted, Fail, k.Fault)
		return
	case k.NoTPM && a.ev.NoTPM:
		a.record(CheckAKTrusted, Pass, "the machine has no TPM: its hardware report stands in place of a key")
		return
	case k.NoTPM:
		a.record(CheckAKTrusted, Fail, "the machine enrolled without a TPM, so no attestation key is known that could have signed this quote")
		return
	case k.Public == nil:
		a.record(CheckAKTrusted, Fail, "no attestation key is enrolled for this machine")
		return
	case a.ev.NoTPM:
		a.record(CheckAKTrusted, Fail, "the machine's attestation key signed nothing: the evidence holds no quote")
		return
	case k.Assurance == "":
		a.record(CheckAKTrusted, Fail, "nothing proves that the attestation key belongs to this machine")
		return
	}
	// Of a key that is known by its certificate alone, the TPM attributes are the issuer's word.
	issuerVouches := k.Assurance == AKCertified || k.Assurance == TEEBound
	if err := tpm.CheckAK(k.Public); err != nil && (!issuerVouches || !errors.Is(err, tpm.ErrAttributesUnknown)) {
		a.recordf(CheckAKTrusted, Fail, "the attestation key is not acceptable: %s", err)
		return
	}
	if k.Unproven != "" {
		a.record(CheckAKTrusted, Warn, k.Unproven)
		return
	}
	detail := map[Assurance]string{
		TEEBound:    "the AK is the one that a hardware report proved at enrolment; platform.binding tells whether this evidence still shows it",
		EKActivated: "the AK was proved to be in the TPM of the enrolled EK by credential activation",
		AKCertified: "the AK's certificate chains to a trusted root",
		FirstUse:    "the AK is taken on the word of an administrator or the caller",
	}[k.Assurance]
	if detail == "" {
		a.recordf(CheckAKTrusted, Fail, "%q is no known assurance level", string(k.Assurance))
		return
	}
	if k.Note != "" {
		detail += " (" + k.Note + ")"
	}
	a.record(CheckAKTrusted, Pass, detail)
}

// verifyQuote verifies the quote before anything is recorded, since the hardware report is held against it.
func (a *appraiser) verifyQuote() {
	if a.in.AK.Public == nil || a.ev.NoTPM {
		return
	}
	a.out.Quote, a.quoteSteps = tpm.Verify(a.in.AK.Public, a.ev.Quotes, a.ev.PCRs, tpm.Expectation{
		Freshness:     a.in.Freshness,
		Required:      a.in.Policy.RequiredSelections(),
		AllowSHA1PCRs: a.in.Policy.AllowSHA1PCRs,
		Last:          a.in.LastClock,
		ClockThen:     a.in.ClockThen,
	})
}

func (a *appraiser) checkQuote() {
	if a.ev.NoTPM {
		a.checkReportInPlaceOfQuote()
		return
	}
	if a.in.AK.Public == nil {
		for step := tpm.StepSignature; step <= tpm.StepClock; step++ {
			a.record(CheckCode(step.Code()), Skipped, "there is no attestation key to check the quote with")
		}
		return
	}
	quote := a.out.Quote
	for _, step := range a.quoteSteps.Steps {
		status, detail := stepStatus(step.Outcome), step.Detail
		if step.Step == tpm.StepSelection && status == Pass && quote != nil {
			if substitute := a.substitute(quote); substitute != "" {
				status, detail = Warn, substitute
			}
		}
		a.record(CheckCode(step.Step.Code()), status, detail)
	}
	if quote == nil {
		return
	}
	clock := quote.Clock()
	a.out.Claims.TPM = TPMClaims{
		FirmwareVersion: fmt.Sprintf("%016x", clock.FirmwareVersion),
		ResetCount:      clock.ResetCount,
		RestartCount:    clock.RestartCount,
	}
	for _, alg := range quote.Banks() {
		a.out.Claims.TPM.Banks = append(a.out.Claims.TPM.Banks, alg.String())
	}
}

// substitute says so where a stronger bank stands in for one that the policy names. Firmware may fill
// one bank only, and the other is then open to whoever holds the TPM: what stands in is no reason to
// affirm. A policy that names the bank is.
func (a *appraiser) substitute(q *tpm.VerifiedQuote) string {
	for _, required := range a.in.Policy.RequiredSelections() {
		if !covers(q, required) {
			return fmt.Sprintf("the policy asks for PCRs of bank %s; a stronger bank was quoted in its place. Name that bank in the policy of machines that have no other", required.Alg)
		}
	}
	return ""
}

func covers(q *tpm.VerifiedQuote, required tpm.Selection) bool {
	for _, s := range q.Selections() {
		if s.Alg == required.Alg && required.Mask&^s.Mask == 0 {
			return true
		}
	}
	return false
}

// unexplainedBank names a bank that the policy requires, that was quoted, and that the log does not
// replay: then nobody has judged what the firmware measured into it.
func (a *appraiser) unexplainedBank(report *eventlog.Report) string {
	for _, required := range a.in.Policy.RequiredSelections() {
		for _, bank := range report.Banks {
			if bank.Alg == required.Alg && bank.State != eventlog.BankReplayed {
				return bank.Alg.String()
			}
		}
	}
	return ""
}

func stepStatus(o tpm.Outcome) CheckStatus {
	switch o {
	case tpm.Pass:
		return Pass
	case tpm.Warn:
		return Warn
	case tpm.Skipped:
		return Skipped
	}
	return Fail
}

const notGenuine = "not judged: the quote is not proven"

func (a *appraiser) checkEventLog() {
	switch {
	case a.in.LogFault != "":
		a.recordf(CheckEventLogReplay, Fail, "the event log cannot be read: %s", a.in.LogFault)
	case !a.proven():
		a.record(CheckEventLogReplay, Skipped, notGenuine)
	case a.ev.NoTPM:
		a.replayWithoutTPM()
	case a.in.Log == nil || a.in.Log.Empty():
		if a.in.HadLog {
			a.record(CheckEventLogReplay, Fail, "no event log was sent, though this very boot has shown one before")
			return
		}
		if a.in.Policy.RequireEventLog {
			a.record(CheckEventLogReplay, Fail, "the policy requires an event log, and none was sent")
			return
		}
		a.record(CheckEventLogReplay, Skipped, "the machine has no event log: only PCR values can be judged, and what a log would tell is unknown")
	default:
		a.replayLog()
	}
}

func (a *appraiser) replayLog() {
	measurements, report := eventlog.Replay(a.out.Quote, a.in.Log)
	switch {
	case report.Outcome != eventlog.Replayed:
		a.record(CheckEventLogReplay, Fail, report.Detail)
		return
	case a.unexplainedBank(&report) != "":
		a.recordf(CheckEventLogReplay, Fail, "the log does not explain the quoted bank %s, which the policy requires", a.unexplainedBank(&report))
		return
	case len(report.Contradicted) > 0:
		a.recordf(CheckEventLogReplay, Warn, "%s; but the data of event %d is not what its digest covers, so the log was altered after it was measured or its firmware is faulty",
			report.Detail, report.Contradicted[0])
	default:
		a.record(CheckEventLogReplay, Pass, report.Detail)
	}
	a.out.Measurements = measurements
	a.out.Claims.Claims = measurements.Claims()
}

func (a *appraiser) checkSecureBoot() {
	required := a.in.Policy.RequireSecureBoot
	claims := a.out.Claims.Claims
	switch {
	case !a.proven():
		a.record(CheckSecureBoot, Skipped, notGenuine)
	case claims.SecureBootEffective != nil && *claims.SecureBootEffective:
		a.record(CheckSecureBoot, Pass, "Secure Boot was on, and shim did not switch its checks off")
	case a.secureBootByRTMRs():
		a.record(CheckSecureBoot, Pass, "Secure Boot was on in the firmware, and RTMR 0 and 1 have values that the baseline knows")
	case a.secureBootByParavisor():
		a.record(CheckSecureBoot, Pass, "there is no event log, but the hardware report covers the paravisor's word that Secure Boot is on; whether shim validates is unknown")
	case !required:
		a.record(CheckSecureBoot, Skipped, "the policy does not require Secure Boot; it is "+secureBootWord(claims))
	case a.failed(CheckEventLogReplay):
		a.record(CheckSecureBoot, Skipped, "not judged: the event log is not proven")
	case a.in.Log == nil && a.out.Quote != nil && a.secureBootByReference():
		a.record(CheckSecureBoot, Pass, "there is no event log, but PCR 7 has the value that the baseline gives for Secure Boot on")
	default:
		a.record(CheckSecureBoot, Fail, "Secure Boot is required, and it is "+secureBootWord(claims))
	}
}

func (a *appraiser) secureBootByReference() bool {
	for i := range a.in.Candidates {
		if a.in.Candidates[i].Reference.secureBootByValue(a.out.Quote) {
			return true
		}
	}
	return false
}

func secureBootWord(c *eventlog.Claims) string {
	switch {
	case c.SecureBoot == nil:
		return "unknown: nothing in the evidence proves its state"
	case !*c.SecureBoot:
		return "off"
	case c.ShimValidationDisabled != nil && *c.ShimValidationDisabled:
		return "on in the firmware, but shim was told not to validate (MokSBState), so unsigned code can run"
	case c.SecureBootEffective == nil:
		return "on in the firmware, but whether shim validates is unknown"
	}
	return "off"
}

func (a *appraiser) checkBaseline() {
	if !a.proven() {
		a.record(CheckBaselineMatch, Skipped, notGenuine)
		return
	}
	withdrawn := a.withdrawn()
	if len(a.in.Candidates) == 0 {
		switch {
		case withdrawn != "":
			a.record(CheckBaselineMatch, Fail, withdrawn)
		case a.in.Policy.RequireBaseline:
			a.record(CheckBaselineMatch, Fail, "the policy requires a baseline, and none applies to this machine")
		default:
			a.record(CheckBaselineMatch, Skipped, "no baseline applies to this machine")
		}
		return
	}
	m := measured{quote: a.out.Quote, log: a.out.Measurements, rtmrs: a.out.RTMRs, rtmrLog: a.out.RTMRMeasurements, claims: &a.out.Claims}
	var first []Deviation
	for i := range a.in.Candidates {
		c := &a.in.Candidates[i]
		deviations := append(c.Reference.match(m), c.Reference.matchLaunch(a.out.Platform)...)
		if len(deviations) == 0 {
			a.out.Baseline, a.out.Layers = &c.Baseline, c.Layers
			if withdrawn != "" {
				a.record(CheckBaselineMatch, Fail, withdrawn+"; the baselines that are left are matched")
				return
			}
			a.record(CheckBaselineMatch, Pass, "everything that the baseline judges is as expected")
			return
		}
		if i == 0 {
			first = deviations
		}
	}
	a.out.Baseline = &a.in.Candidates[0].Baseline
	a.out.Deviations = first
	detail := summarize(first)
	if withdrawn != "" {
		detail = withdrawn + "; " + detail
	}
	a.record(CheckBaselineMatch, Fail, detail)
}

// withdrawn says which baselines of the machine have ended; empty where none has. That is no reason to judge less than
// before: what they judged is judged by nothing now.
func (a *appraiser) withdrawn() string {
	parts := make([]string, len(a.in.Withdrawn))
	for i := range a.in.Withdrawn {
		parts[i] = a.in.Withdrawn[i].String()
	}
	return strings.Join(parts, "; ")
}

// summarize names the first deviations in one sentence.
func summarize(deviations []Deviation) string {
	const shown = 3
	parts := make([]string, 0, shown+1)
	for i := range deviations {
		if i == shown {
			parts = append(parts, fmt.Sprintf("and %d more", len(deviations)-shown))
			break
		}
		parts = append(parts, deviations[i].Description)
	}
	noun := "deviations"
	if len(deviations) == 1 {
		noun = "deviation"
	}
	return fmt.Sprintf("%d %s: %s", len(deviations), noun, strings.Join(parts, "; "))
}

// checkIMA judges the runtime measurement list, from the entries that earlier appraisals have not seen.
func (a *appraiser) checkIMA() {
	wanted := a.imaReference()
	if a.ev.NoTPM && a.proven() {
		a.imaWithoutTPM(wanted != nil)
		return
	}
	if a.out.Quote == nil {
		a.record(CheckIMAReplay, Skipped, notGenuine)
		a.record(CheckIMAPolicy, Skipped, notGenuine)
		return
	}
	if a.in.IMAFault != "" {
		a.recordf(CheckIMAReplay, Fail, "the IMA list cannot be read: %s", a.in.IMAFault)
		a.record(CheckIMAPolicy, Skipped, "not judged: the list cannot be read")
		return
	}
	if a.in.IMA == nil && a.ev.IMALogOffset > 0 {
		// Nothing new since the last time: an empty part of a list, not a list withheld.
		a.in.IMA, _ = ima.Parse(nil)
	}
	if a.in.IMA == nil {
		a.record(CheckIMAReplay, Skipped, "no IMA list was sent")
		if a.in.Policy.RequireIMA || wanted != nil {
			a.record(CheckIMAPolicy, Fail, "an IMA list is required, and none was sent")
			return
		}
		a.record(CheckIMAPolicy, Skipped, "no IMA list was sent")
		return
	}
	quoted := map[tpm.HashAlg][]byte{}
	for _, alg := range a.out.Quote.Banks() {
		if value, ok := a.out.Quote.PCR(alg, 10); ok {
			quoted[alg] = value
		}
	}
	if len(quoted) == 0 {
		a.record(CheckIMAReplay, Fail, "an IMA list was sent, but PCR 10 was not quoted")
		a.record(CheckIMAPolicy, Skipped, "not judged: the list is not proven")
		return
	}
	from, fault := a.imaStart()
	if fault != "" {
		a.record(CheckIMAReplay, Fail, fault)
		a.record(CheckIMAPolicy, Skipped, "not judged: the list is not proven")
		return
	}
	next, report := a.in.IMA.Replay(quoted, from)
	if report.Status != ima.Pass {
		a.record(CheckIMAReplay, Fail, report.Detail)
		a.record(CheckIMAPolicy, Skipped, "not judged: the list is not proven")
		return
	}
	a.record(CheckIMAReplay, Pass, report.Detail)
	a.out.NextIMA, a.out.IMA, a.out.IMAReport = &next, a.in.IMA, report
	a.out.Claims.IMA = &IMAClaims{Entries: next.Entries, Violations: report.Violations}
	if wanted == nil {
		a.record(CheckIMAPolicy, Skipped, "the baseline does not judge files")
		return
	}
	a.judgeFiles(wanted, report)
}

// imaStart is the state that the sent part of the list continues: nil for a whole list. What an earlier
// boot has shown proves nothing about this one.
func (a *appraiser) imaStart() (from *ima.State, fault string) {
	if a.ev.IMALogOffset == 0 {
		return nil, ""
	}
	last := a.in.LastClock
	if a.in.IMAState == nil || last == nil || last.ResetCount != a.out.Quote.Clock().ResetCount {
		return nil, fmt.Sprintf("the IMA list starts at entry %d, but nothing of this boot has been seen before: send it whole", a.ev.IMALogOffset)
	}
	if a.in.IMAState.Entries != a.ev.IMALogOffset {
		return nil, fmt.Sprintf("the IMA list starts at entry %d, but %d entries have been seen: send it from there", a.ev.IMALogOffset, a.in.IMAState.Entries)
	}
	return a.in.IMAState, ""
}

// imaReference is the file policy of the baseline that matched, or of the first candidate.
func (a *appraiser) imaReference() *ima.CompiledPolicy {
	for i := range a.in.Candidates {
		c := &a.in.Candidates[i]
		if a.out.Baseline == nil || *a.out.Baseline == c.Baseline {
			return c.Reference.ima
		}
	}
	return nil
}

const maxFileDeviations = 200

func (a *appraiser) judgeFiles(p *ima.CompiledPolicy, report ima.Report) {
	judgement := a.in.IMA.Judge(p, report)
	a.out.Claims.IMA.Unexpected = judgement.Unexpected
	if judgement.Unexpected == 0 {
		a.record(CheckIMAPolicy, Pass, "every measured file is one that the baseline allows")
		return
	}
	for i, f := range judgement.Findings {
		if i == maxFileDeviations {
			break
		}
		a.out.Deviations = append(a.out.Deviations, Deviation{PCR: ima.PCR, Kind: Added, Component: eventlog.ComponentIMA,
			EventType: "IMA", IMAKind: f.Kind, Expected: []string{}, Actual: f.Digest, Now: f.Path, Description: f.Why})
	}
	a.recordf(CheckIMAPolicy, Fail, "%d measured files are not allowed by the baseline, the first: %s", judgement.Unexpected, judgement.Findings[0].Why)
}

// conclude derives status and reason. Everything that failed contraindicates; a check that warns, or a
// nonce that nobody expected, warns; and evidence in which nothing could be appraised says nothing.
func (a *appraiser) conclude() {
	origin, deviation, warned := false, false, false
	for i := range a.out.Checks {
		c := &a.out.Checks[i]
		switch {
		case c.Status == Fail && originChecks[c.Code]:
			origin = true
		case c.Status == Fail:
			deviation = true
		case c.Status == Warn, c.Status == Skipped && c.Code == CheckQuoteNonce:
			warned = true
		}
	}
	a.out.Genuine = !origin && a.proven()
	switch {
	case origin || !a.proven():
		a.out.Status, a.out.Reason = Contraindicated, OriginUnverified
	case deviation:
		a.out.Status, a.out.Reason = Contraindicated, BaselineDeviation
	case !a.passed(CheckEventLogReplay) && !a.passed(CheckSecureBoot) && !a.passed(CheckBaselineMatch) &&
		(!a.passed(CheckCode(tee.StepMeasurement)) || !a.passed(CheckPlatformBinding)):
		a.out.Status = None
	case warned:
		a.out.Status = Warning
	default:
		a.out.Status = Affirming
	}
	a.out.Claims.Relying = a.relying()
}

// imaWithoutTPM: IMA's list is proven by PCR 10, which a machine without a TPM does not have.
func (a *appraiser) imaWithoutTPM(wanted bool) {
	const none = "the machine has no TPM, so nothing proves an IMA list"
	a.record(CheckIMAReplay, Skipped, none)
	if a.in.Policy.RequireIMA || wanted {
		a.record(CheckIMAPolicy, Fail, "an IMA list is required, and "+none)
		return
	}
	a.record(CheckIMAPolicy, Skipped, none)
}
