package finding

import "github.com/assay-verifier/assay/verifier/eventlog"

// The loader measures whether code integrity is on, after all that can turn it off was heeded (nointegritychecks, load
// options, the menu of advanced options).
var windowsCodeIntegrityOff = &Rule{
	Code:      "windows_code_integrity_off",
	Title:     "Code integrity of Windows should be on",
	Severity:  High,
	Area:      "windows",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Windows measured that code integrity was off (nointegritychecks, or a debugger's option).",
	Why:       "Without code integrity the kernel loads drivers and system files whose signature is missing or wrong.",
	Needs:     []string{"claims.windows", "inventory.os"},
	Citations: []Citation{
		{"Microsoft Learn, HealthAttestation CSP", "Device HealthAttestation CSP, what each attested fact means", "https://learn.microsoft.com/en-us/windows/client-management/mdm/healthattestation-csp"},
		{"Microsoft Learn, BCDEdit /set", "debug, bootdebug, testsigning, nointegritychecks, nx, hypervisorlaunchtype, vsmlaunchtype", "https://learn.microsoft.com/en-us/windows-hardware/drivers/devtest/bcdedit--set"},
		{"Windows SDK, wbcl.h", "SIPAEVENT_CODEINTEGRITY", "https://learn.microsoft.com/en-us/windows/win32/api/wbcl/"},
	},
	Steps: map[string][]string{
		"windows": {
			"On Windows, in an elevated prompt: `bcdedit /set nointegritychecks off` and `bcdedit /deletevalue loadoptions` (which may say DDISABLE_INTEGRITY_CHECKS).",
			"Start without the entry `Disable driver signature enforcement` of the advanced boot options.",
			"Turn Secure Boot on: with it, Windows refuses to start without code integrity.",
			"Reboot; the next attestation confirms the change.",
		},
	},
	evaluate: aboutWindows(func(in *Input, w *eventlog.Windows) judgement {
		if isFalse(w.CodeIntegrity) {
			return judgement{text: "Windows on " + in.subject() + " was started with code integrity off: it loads drivers and system files that nobody signed."}
		}
		return judgement{known: w.CodeIntegrity != nil}
	}),
}
