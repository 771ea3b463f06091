package tpm

// Step is one of the checks of Verify, in their order.
type Step int

// The steps.
const (
	StepSignature Step = iota
	StepType
	StepNonce
	StepSelection
	StepDigest
	StepClock
	numSteps
)

var steps = [numSteps]struct{ code, citation string }{
	StepSignature: {"quote.signature", "TPM 2.0 Part 3, section 18.4 (TPM2_Quote); Part 2, section 11.3.4 (TPMT_SIGNATURE)"},
	StepType:      {"quote.type", "TPM 2.0 Part 2, section 10.12 (TPMS_ATTEST); Part 1, section 31.2 (TPM_GENERATED_VALUE)"},
	StepNonce:     {"quote.nonce", "TPM 2.0 Part 3, section 18.4 (qualifyingData); RFC 9334, section 10 (freshness)"},
	StepSelection: {"quote.selection", "TPM 2.0 Part 2, section 10.12 (TPMS_QUOTE_INFO) and TPML_PCR_SELECTION"},
	StepDigest:    {"quote.digest", "TPM 2.0 Part 3, section 18.4 (pcrDigest); Part 1, section 17 (PCR operations)"},
	StepClock:     {"quote.clock", "TPM 2.0 Part 1, section 36 (timing components); Part 2, TPMS_CLOCK_INFO"},
}

// Code is the check code of the API: "quote.signature", ….
func (s Step) Code() string {
	if s < 0 || s >= numSteps {
		return "quote.unknown"
	}
	return steps[s].code
}

// Citation names the documents that demand the step.
func (s Step) Citation() string {
	if s < 0 || s >= numSteps {
		return ""
	}
	return steps[s].citation
}

// Outcome is how a step went. The zero value is Skipped, so that what was not checked never passes.
type Outcome int

// The outcomes, each worse than the one before it.
const (
	Skipped Outcome = iota
	Pass
	Warn
	Fail
)

// String is the outcome as the API spells it.
func (o Outcome) String() string {
	switch o {
	case Pass:
		return "pass"
	case Warn:
		return "warn"
	case Fail:
		return "fail"
	}
	return "skipped"
}

// StepResult is how one step went and why, in plain words.
type StepResult struct {
	Step    Step
	Outcome Outcome
	Detail  string
}

// Report is the result of every step, in order.
type Report struct{ Steps [numSteps]StepResult }

func newReport() Report {
	var r Report
	for i := range r.Steps {
		r.Steps[i].Step = Step(i)
	}
	return r
}

func (r *Report) set(s StepResult) { r.Steps[s.Step] = s }

func (r *Report) skipFrom(first Step, why string) {
	for s := first; s < numSteps; s++ {
		r.set(StepResult{s, Skipped, why})
	}
}

// Failed tells whether a step failed.
func (r Report) Failed() bool {
	for _, s := range r.Steps {
		if s.Outcome == Fail {
			return true
		}
	}
	return false
}

// allows tells whether the report is good enough for a VerifiedQuote. It asks for what must be
// there rather than for the absence of failures: a step that did not run is none that passed.
func (r Report) allows(f Freshness) bool {
	for _, s := range r.Steps {
		switch {
		case s.Outcome == Pass, s.Outcome == Warn && s.Step == StepClock:
		case s.Outcome == Skipped && s.Step == StepNonce && f.Unchecked:
		default:
			return false
		}
	}
	return true
}
