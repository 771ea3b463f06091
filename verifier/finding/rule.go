package finding

import (
	"slices"

	"github.com/assay-verifier/assay/verifier"
)

// Kind is what a rule can raise.
type Kind string

// The kinds.
const (
	KindAssessment     Kind = "assessment"
	KindRecommendation Kind = "recommendation"
	KindAlert          Kind = "alert"
)

// Citation is the text that a rule rests on.
type Citation struct {
	Document string `json:"document"`
	Section  string `json:"section"`
	URL      string `json:"url"`
}

// Areas are what rules are about, in the order in which the catalogue lists them.
var Areas = []string{"attestation", "baseline", "secure_boot", "firmware", "tpm", "tee", "kernel", "ima", "windows", "agent", "fleet"}

// Platforms and operating systems that a step can be for, in the order in which steps are listed.
var (
	systems   = []string{"linux", "windows"}
	platforms = []string{"azure", "gcp", "aws", "vmware", "qemu", "physical"}
)

// Rule is one thing that is asked of every machine, and its entry in the catalogue. To add a rule, write its file
// (named after its code), list it in Rules, put a passing and a failing specimen into testdata/<code>/, and run
// `go generate ./verifier/finding`. All fields are required; a test says which is missing.
type Rule struct {
	Code     string
	Title    string   // the display name of what it raises
	Severity Severity // of what it raises; a description that says "medium where ..." tells where it is another
	Area     string   // one of Areas
	Kinds    []Kind
	// Condition is when something is raised, and Why it matters, in plain words for whoever has to act.
	Condition string
	Why       string
	// Needs are what has to be known to decide. The word before the dot is where it comes from: claims (of genuine
	// evidence, by their JSON name), evidence, verdict, inventory, policy, baseline, collateral, history, fleet.
	Needs     []string
	Citations []Citation
	// Steps tell how to put it right, by operating system ("linux", "windows") and platform ("azure", "gcp", "aws",
	// "vmware", "qemu", "physical"); "" is for all. A step that is not for all says for what it is, since where
	// the machine's system or platform is not known, the steps of all are listed.
	Steps map[string][]string
	// FoundBy says what finds it, of a rule that Derive cannot evaluate since it is about more than one evaluation
	// (the silence of a machine, two machines with one key). Such a rule has no evaluate and no specimens here.
	FoundBy string
	// evaluate adds to the result what follows from the input. It says nothing where the input leaves
	// the question open.
	evaluate func(*Rule, *Input, *Result)
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
	out.Alerts = append(out.Alerts, r.Alert(&in.Machine, reason, description))
}

// Alert is the rule's alert about a machine, for whoever finds it elsewhere than in Derive. An alert about many
// machines has the zero Machine.
func (r *Rule) Alert(m *Machine, reason verifier.Reason, description string) Alert {
	return Alert{Code: r.Code, DisplayName: r.Title, Severity: r.Severity, Reason: reason, Description: description, RemediationSteps: r.stepsFor(m)}
}

// group says which incident the alert that was raised last belongs to.
func (out *Result) group(g Group) { out.Alerts[len(out.Alerts)-1].Group = g }

// clear says that what the alert reports is over; an earlier alert is resolved.
func (r *Rule) clear(out *Result) { out.EvaluatedAlerts = append(out.EvaluatedAlerts, r.Code) }

// steps are the remediation steps for the machine; where its operating system or platform is not known, of all.
func (r *Rule) steps(in *Input) []string { return r.stepsFor(&in.Machine) }

func (r *Rule) stepsFor(m *Machine) []string {
	n := 0
	for _, steps := range r.Steps {
		n += len(steps)
	}
	out := append(make([]string, 0, n), r.Steps[""]...)
	knownSystem := m.OS == "linux" || m.OS == "windows"
	for _, os := range systems {
		if m.OS == os || !knownSystem {
			out = append(out, r.Steps[os]...)
		}
	}
	for _, platform := range platforms {
		if m.Platform == platform || m.Platform == "" {
			out = append(out, r.Steps[platform]...)
		}
	}
	return out
}

// By returns the rule of a code; nil if there is none.
func By(code string) *Rule {
	for _, r := range Rules {
		if r.Code == code {
			return r
		}
	}
	return nil
}

// RaisesAlert tells whether there may be alerts of the code; * stands for all.
func RaisesAlert(code string) bool {
	r := By(code)
	return code == "*" || r != nil && slices.Contains(r.Kinds, KindAlert)
}
