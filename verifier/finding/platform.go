package finding

import (
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
)

// platformClaims is what a proven and bound hardware report says; nil where there is none. Evidence that fails for
// what its report says alone (a TCB below the minimum, a guest under debug) still proves that it says so, and that
// is when its reader most needs to know. Evidence that fails for anything else may be of another machine or time.
func platformClaims(a *verifier.Appraisal) *tee.Claims {
	if a == nil || a.Claims.Platform == nil || !a.Genuine && !failsByPlatformAlone(a) {
		return nil
	}
	return a.Claims.Platform
}

func failsByPlatformAlone(a *verifier.Appraisal) bool {
	found := false
	for i := range a.Checks {
		if a.Checks[i].Status != verifier.Fail {
			continue
		}
		if !strings.HasPrefix(string(a.Checks[i].Code), "platform.") {
			return false
		}
		found = true
	}
	return found
}

// platformFailed tells whether a check of the hardware report failed.
func platformFailed(a *verifier.Appraisal) bool {
	for i := range a.Checks {
		if a.Checks[i].Status == verifier.Fail && strings.HasPrefix(string(a.Checks[i].Code), "platform.") {
			return true
		}
	}
	return false
}

// confidential tells whether the machine is a confidential VM: its proven hardware report says so, now or the last
// time that there was one, or the inventory does.
func confidential(in *Input) bool {
	return platformClaims(in.Appraisal) != nil || in.Machine.PlatformEvidence != "" || strings.HasPrefix(in.Machine.SecurityType, "confidential_")
}

// withoutReport answers for a rule that asks a hardware report, where there is none. That a machine which has sent
// reports sends none puts nothing right, so what was recommended stays; of another, genuine evidence leaves nothing to
// recommend. An assessment is worth stating of confidential VMs only.
func (r *Rule) withoutReport(in *Input, out *Result, assesses bool) {
	if in.Appraisal == nil || !in.Appraisal.Genuine {
		return
	}
	if assesses && confidential(in) {
		r.assess(out, NotApplicable, "no_hardware_report", "The last evidence brings no hardware report that is bound to the machine, so nothing tells.")
	}
	if in.Machine.PlatformEvidence == "" {
		r.settle(out)
	}
}

// technologyName is a confidential VM's hardware in words.
func technologyName(teeType string) string {
	switch teeType {
	case string(tee.SEVSNP):
		return "SEV-SNP"
	case string(tee.TDX):
		return "TDX"
	}
	return "confidential VM"
}

// technologyPhrase is the same with its article.
func technologyPhrase(teeType string) string {
	name := technologyName(teeType)
	if strings.HasPrefix(name, "SEV") { // spelled letter by letter
		return "an " + name
	}
	return "a " + name
}
