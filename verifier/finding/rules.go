package finding

import (
	"github.com/assay-verifier/assay/verifier"
)

// Rule is one thing that is asked of every machine. To add a rule, write its file, list it in Rules and
// put a passing and a failing specimen into testdata/<code>/.
type Rule struct {
	Code     string
	Title    string // the display name of what it raises
	Severity Severity
	Citation string // the text that demands it
	// Steps tell how to put it right, by operating system ("linux", "windows"); "" is for both.
	Steps map[string][]string
	// evaluate adds to the result what follows from the input. It says nothing where the input leaves
	// the question open.
	evaluate func(*Rule, *Input, *Result)
}

// Rules are all rules, in the order in which they are evaluated and listed.
var Rules = []*Rule{
	secureBootEnabled,
	vtpmEnabled,
	guestAttestationInstalled,
	guestAttestationHealthy,
	attestationFailed,
	baselineRollback,
	trustedBootComponents,
	kernelModuleSignatures,
	kernelModuleRefused,
	teeTCBOutOfDate,
	teeCollateralExpiring,
	teeDebugEnabled,
	teeConsoleEnabled,
	akCertificateExpiring,
	evidenceWeakerThanPlatform,
	revokedBootComponent,
	dbxOutdated,
	secureBootCertificates2011,
	sbatLevelOutdated,
}

// Derive evaluates every rule.
func Derive(in Input) Result {
	var out Result
	for _, r := range Rules {
		r.evaluate(r, &in, &out)
	}
	return out
}

// assess states the rule's assessment.
func (r *Rule) assess(out *Result, status AssessmentStatus, cause, description string) {
	out.Assessments = append(out.Assessments, Assessment{
		Code: r.Code, DisplayName: r.Title, Severity: r.Severity, Status: status, Cause: cause, Description: description,
	})
}

// recommend asks for a change.
func (r *Rule) recommend(in *Input, out *Result, description string) {
	r.recommendAt(r.Severity, in, out, description)
}

// recommendAt asks for a change that is more pressing, or less, than the rule's usually are.
func (r *Rule) recommendAt(severity Severity, in *Input, out *Result, description string) {
	out.EvaluatedRecommendations = append(out.EvaluatedRecommendations, r.Code)
	out.Recommendations = append(out.Recommendations, Recommendation{
		Code: r.Code, DisplayName: r.Title, Severity: severity, Description: description, RemediationSteps: r.steps(in),
	})
}

// settle says that there is nothing to recommend; an earlier recommendation is resolved.
func (r *Rule) settle(out *Result) {
	out.EvaluatedRecommendations = append(out.EvaluatedRecommendations, r.Code)
}

// alert reports what happened.
func (r *Rule) alert(in *Input, out *Result, reason verifier.Reason, description string) {
	out.EvaluatedAlerts = append(out.EvaluatedAlerts, r.Code)
	out.Alerts = append(out.Alerts, Alert{
		Code: r.Code, DisplayName: r.Title, Severity: r.Severity, Reason: reason, Description: description, RemediationSteps: r.steps(in),
	})
}

// group says which incident the alert that was raised last belongs to.
func (out *Result) group(g Group) { out.Alerts[len(out.Alerts)-1].Group = g }

// clear says that what the alert reports is over; an earlier alert is resolved.
func (r *Rule) clear(out *Result) { out.EvaluatedAlerts = append(out.EvaluatedAlerts, r.Code) }

// steps are the remediation steps for the machine's operating system; of both where it is not known.
func (r *Rule) steps(in *Input) []string {
	out := append([]string{}, r.Steps[""]...)
	for _, os := range []string{"linux", "windows"} {
		if in.Machine.OS == os || !supportedOS(in) {
			out = append(out, r.Steps[os]...)
		}
	}
	return out
}

// fact is what is known of one security feature: what attestation observed, else what the inventory
// declares, else nil.
func fact(observed, declared *bool) *bool {
	if observed != nil {
		return observed
	}
	return declared
}

func (in *Input) secureBoot() *bool {
	return fact(in.Machine.Observed.SecureBoot, in.Machine.Declared.SecureBoot)
}

// vtpm is whether the machine has a TPM that is on; an enrolled one is, unless it enrolled without.
func (in *Input) vtpm() *bool {
	if in.Machine.Enrolled && !in.Machine.NoTPM {
		return &in.Machine.Enrolled
	}
	return fact(in.Machine.Observed.VTPM, in.Machine.Declared.VTPM)
}

// agent is whether an agent is installed; one that has enrolled is.
func (in *Input) agent() *bool {
	if in.Machine.Enrolled {
		return &in.Machine.Enrolled
	}
	return fact(in.Machine.Observed.AgentInstalled, in.Machine.Declared.AgentInstalled)
}

func isTrue(b *bool) bool  { return b != nil && *b }
func isFalse(b *bool) bool { return b != nil && !*b }

func supportedOS(in *Input) bool { return in.Machine.OS == "linux" || in.Machine.OS == "windows" }

// checkStatus is the status of one check of the appraisal; skipped where it is absent.
func checkStatus(a *verifier.Appraisal, code verifier.CheckCode) verifier.CheckStatus {
	for i := range a.Checks {
		if a.Checks[i].Code == code {
			return a.Checks[i].Status
		}
	}
	return verifier.Skipped
}

// name is how a description calls the machine.
func (in *Input) name() string {
	if in.Machine.Name == "" {
		return "The machine"
	}
	return "Machine " + in.Machine.Name
}

// subject is the same inside a sentence.
func (in *Input) subject() string {
	if in.Machine.Name == "" {
		return "the machine"
	}
	return "machine " + in.Machine.Name
}

// osName is the operating system in words.
func (in *Input) osName() string {
	switch in.Machine.OS {
	case "linux":
		return "Linux"
	case "windows":
		return "Windows"
	}
	return "Windows or Linux"
}
