package finding

import (
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
)

// R7: only signed and trusted boot components. What boots is trusted where the baseline matches it, or
// where Secure Boot was effective and so checked each signature; and it is not where a deviation names
// something that runs, or shim was told not to check.
var trustedBootComponents = &Rule{
	Code:      "trusted_boot_components",
	Title:     "Virtual machines should be running only signed and trusted boot components",
	Severity:  Low,
	Area:      "secure_boot",
	Kinds:     []Kind{KindAssessment, KindRecommendation},
	Condition: "A deviation from the baseline names something that runs in the boot, or shim was told not to check signatures.",
	Why:       "Whatever runs in the boot can change everything that comes after it, the operating system's own defences included.",
	Needs:     []string{"verdict", "claims.secure_boot_effective", "claims.shim_validation_disabled", "baseline"},
	Citations: []Citation{
		{"TCG PC Client Platform Firmware Profile 1.06", "section 3.3.4 (PCR usage)", "https://trustedcomputinggroup.org/resource/pc-client-specific-platform-firmware-profile-specification/"},
		{"NIST SP 800-155", "section 3", "https://csrc.nist.gov/pubs/sp/800/155/ipd"},
	},
	Steps: map[string][]string{
		"": {
			"Read the deviations of the last verdict: they name each component that is not the expected one.",
			"Reinstall or update the named components from their trusted source, or, if they are meant, add them to the baseline.",
		},
		"linux":   {"On Linux, `sudo mokutil --enable-validation` makes shim check signatures again; `sbverify --list FILE` shows who signed an image."},
		"windows": {"On Windows, `Get-AuthenticodeSignature FILE` shows who signed an image; `bcdedit` shows whether test signing is on."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		a := in.Appraisal
		if a == nil {
			return
		}
		if !a.Genuine {
			r.assess(out, NotApplicable, "origin_unverified", "The last evidence is not proven to be this machine's, so it says nothing of what booted.")
			return
		}
		if text := untrusted(in, a); text != "" {
			r.assess(out, Unhealthy, "untrusted_boot_component", text)
			r.recommend(in, out, text)
			return
		}
		switch {
		case checkStatus(a, verifier.CheckBaselineMatch) == verifier.Pass:
			r.assess(out, Healthy, "baseline_matched", "Every boot component that the baseline judges is the expected one.")
			r.settle(out)
		case effective(a):
			r.assess(out, Healthy, "secure_boot_effective", "Secure Boot was on and checked the signature of everything that booted.")
			r.settle(out)
		default:
			r.assess(out, NotApplicable, "nothing_to_judge_by", "No baseline applies and Secure Boot is not shown to be effective, so nothing tells which boot components are trusted.")
		}
	},
}

// bootComponents are the components that run, or decide what runs.
var bootComponents = map[eventlog.Component]bool{
	eventlog.ComponentFirmware: true, eventlog.ComponentOptionROM: true, eventlog.ComponentDriver: true,
	eventlog.ComponentAuthority: true, eventlog.ComponentShim: true, eventlog.ComponentMOK: true,
	eventlog.ComponentBootLoader: true, eventlog.ComponentBootConfig: true, eventlog.ComponentKernel: true,
	eventlog.ComponentInitrd: true, eventlog.ComponentKernelCmdline: true, eventlog.ComponentUKISection: true,
	eventlog.ComponentWindows: true, eventlog.ComponentSecureBoot: true,
}

// untrusted names what boots and is not trusted; empty where nothing is.
func untrusted(in *Input, a *verifier.Appraisal) string {
	var parts []string
	for i := range a.Deviations {
		d := &a.Deviations[i]
		if !bootComponents[d.Component] {
			continue
		}
		if len(parts) == maxListed {
			parts = append(parts, "and more")
			break
		}
		parts = append(parts, describe(d))
	}
	if c := a.Claims.Claims; c != nil && isTrue(c.ShimValidationDisabled) {
		parts = append(parts, "shim was told not to check signatures (MokSBState), so unsigned code can run though the firmware says that Secure Boot is on")
	}
	if len(parts) == 0 {
		return ""
	}
	return in.name() + " runs boot components that are not trusted: " + strings.Join(parts, "; ") + "."
}

// effective tells whether Secure Boot is proven to have been effective.
func effective(a *verifier.Appraisal) bool {
	return a.Claims.Claims != nil && isTrue(a.Claims.SecureBootEffective)
}
