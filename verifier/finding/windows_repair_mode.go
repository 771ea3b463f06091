package finding

import "github.com/assay-verifier/assay/verifier/eventlog"

// Safe mode and Windows PE are for repairs and installation.
var windowsRepairMode = &Rule{
	Code:      "windows_repair_mode",
	Title:     "Windows should run in its normal mode",
	Severity:  Medium,
	Area:      "windows",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Windows measured that it was started in safe mode, or that it is Windows PE.",
	Why:       "Both leave out most of what guards Windows, anti-malware among it, and are what somebody starts who wants to get around that.",
	Needs:     []string{"claims.windows", "inventory.os"},
	Citations: []Citation{
		{"Microsoft Learn, HealthAttestation CSP", "Device HealthAttestation CSP, what each attested fact means", "https://learn.microsoft.com/en-us/windows/client-management/mdm/healthattestation-csp"},
		{"Microsoft Learn, BCDEdit /set", "debug, bootdebug, testsigning, nointegritychecks, nx, hypervisorlaunchtype, vsmlaunchtype", "https://learn.microsoft.com/en-us/windows-hardware/drivers/devtest/bcdedit--set"},
		{"Windows SDK, wbcl.h", "SIPAEVENT_SAFEMODE, SIPAEVENT_WINPE", "https://learn.microsoft.com/en-us/windows/win32/api/wbcl/"},
	},
	Steps: map[string][]string{
		"windows": {
			"Ask whether somebody repairs or installs the machine right now; if so, the recommendation ends with the next normal start.",
			"On Windows, in an elevated prompt: `bcdedit /deletevalue {current} safeboot`, or msconfig > Boot > clear Safe boot. Then reboot.",
			"If nobody knows of it, treat the machine as tampered with: safe mode and Windows PE are used to take protections out.",
		},
	},
	evaluate: aboutWindows(func(in *Input, w *eventlog.Windows) judgement {
		var modes []string
		if isTrue(w.SafeMode) {
			modes = append(modes, "safe mode")
		}
		if isTrue(w.WinPE) {
			modes = append(modes, "Windows PE")
		}
		if len(modes) > 0 {
			return judgement{text: "What started on " + in.subject() + " is Windows in a mode for repairs: " + listed(modes) + "."}
		}
		return judgement{known: w.Complete || w.SafeMode != nil && w.WinPE != nil}
	}),
}
