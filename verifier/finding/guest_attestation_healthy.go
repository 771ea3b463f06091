package finding

import (
	"github.com/assay-verifier/assay/verifier"
)

// CodeGuestAttestationHealthy is its code.
const CodeGuestAttestationHealthy = "guest_attestation_healthy"

// R3: guest attestation status should be healthy. It is issued once attestation is running, that is with
// every appraisal, and never before the first. Only an affirming appraisal is healthy; the assessment
// says what the others lack. Of a machine that is silent past its deadline the last appraisal does not count any more.
var guestAttestationHealthy = &Rule{
	Code:      CodeGuestAttestationHealthy,
	Title:     "Guest attestation status should be healthy",
	Severity:  Medium,
	Area:      "attestation",
	Kinds:     []Kind{KindAssessment},
	Condition: "The last appraisal is not affirming.",
	Why:       "It is the one word on whether the machine is what it should be; everything else explains it.",
	Needs:     []string{"verdict"},
	Citations: []Citation{
		{"RFC 9334 (RATS Architecture)", "section 8.4 (Attestation Results)", "https://www.rfc-editor.org/rfc/rfc9334#section-8.4"},
		{"draft-ietf-rats-ar4si", "section 2.3.2", "https://datatracker.ietf.org/doc/draft-ietf-rats-ar4si/"},
	},
	Steps: attestationSteps,
	evaluate: func(r *Rule, in *Input, out *Result) {
		a := in.Appraisal
		if in.Silent != nil {
			r.assess(out, Unhealthy, CauseStale, in.silence()+" Nothing is known of what it runs now.")
			return
		}
		if a == nil {
			return
		}
		switch a.Status {
		case verifier.Affirming:
			r.assess(out, Healthy, "attested", "The last evidence is genuine and as expected.")
		case verifier.Contraindicated:
			r.assess(out, Unhealthy, string(a.Reason), explain(in, a))
		case verifier.Warning:
			r.assess(out, Unhealthy, "warning", "The last evidence is genuine, but something about it needs a look: "+listChecks(a, verifier.Warn, verifier.Skipped))
		default:
			r.assess(out, NotApplicable, "nothing_appraised", "The evidence is genuine, but there is nothing to judge it by: no boot log, no baseline, and Secure Boot is not required.")
		}
	},
}
