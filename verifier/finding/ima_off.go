package finding

import (
	"github.com/assay-verifier/assay/verifier"
)

// Where the policy requires IMA, its list has to be there and to say something. What IMA measures depends on a policy that
// may be loaded after the boot and is in no log, so that a weak one cannot be told from the command line; one under which
// nothing was measured can.
var imaOff = &Rule{
	Code:      "ima_off",
	Title:     "IMA should measure where the policy requires it",
	Severity:  Medium,
	Area:      "ima",
	Kinds:     []Kind{KindRecommendation},
	Condition: "The policy requires IMA, and genuine evidence brings no list of measured files, or a list that holds nothing but the boot aggregate.",
	Why:       "The boot log ends with the kernel. What runs after it, only IMA's list shows.",
	Needs:     []string{"policy", "verdict", "claims.ima"},
	Citations: []Citation{
		{"Linux kernel, ABI/testing/ima_policy", "Description", "https://www.kernel.org/doc/Documentation/ABI/testing/ima_policy"},
		{"Linux kernel, admin-guide/kernel-parameters", "ima_policy=, ima_hash=, ima_template=", "https://www.kernel.org/doc/html/latest/admin-guide/kernel-parameters.html"},
	},
	Steps: map[string][]string{
		"linux": {
			"On Linux, `sudo head /sys/kernel/security/ima/ascii_runtime_measurements` shows the list. A file that is missing means a kernel without IMA; one line alone means that IMA has no policy.",
			"Give IMA a policy: `ima_policy=tcb` on the kernel command line, or one of your own in /etc/ima/ima-policy, which systemd loads.",
			"Where the list is there and is not sent, let the agent read it (it needs root), and check that the policy's PCRs hold PCR 10.",
			"Reboot, and register the new command line in the baseline.",
		},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		a := in.Appraisal
		switch {
		case a == nil || !a.Genuine:
		case !in.Policy.RequireIMA:
			r.settle(out)
		case a.Claims.IMA == nil && extended(a):
			r.recommend(in, out, "The policy requires IMA, and "+in.subject()+" sends no list of measured files, though its kernel extends PCR 10.")
		case a.Claims.IMA == nil:
			r.recommend(in, out, "The policy requires IMA, and "+in.subject()+" sends no list of measured files; nothing shows that its kernel measures any.")
		case a.Claims.IMA.Entries <= 1:
			r.recommend(in, out, "The policy requires IMA, and IMA on "+in.subject()+" has measured nothing but the boot aggregate: it has no policy, or an empty one.")
		default:
			r.settle(out)
		}
	},
}

// extended tells whether the quote shows a PCR 10 that was extended.
func extended(a *verifier.Appraisal) bool {
	if a.Quote == nil {
		return false
	}
	for _, alg := range a.Quote.Banks() {
		value, ok := a.Quote.PCR(alg, 10)
		for _, b := range value {
			if ok && b != 0 {
				return true
			}
		}
	}
	return false
}
