package finding

import "github.com/assay-verifier/assay/verifier/eventlog"

// The value is the policy of the loader: 0 (opt in) is the default of clients, and not off.
var windowsDEPOff = &Rule{
	Code:      "windows_dep_off",
	Title:     "Data execution prevention of Windows should not be turned off",
	Severity:  Medium,
	Area:      "windows",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Windows measured that data execution prevention was always off (nx AlwaysOff).",
	Why:       "With it off, what an attacker writes into memory as data can be run as code.",
	Needs:     []string{"claims.windows", "inventory.os"},
	Citations: []Citation{
		{"Microsoft Learn, BCDEdit /set", "debug, bootdebug, testsigning, nointegritychecks, nx, hypervisorlaunchtype, vsmlaunchtype", "https://learn.microsoft.com/en-us/windows-hardware/drivers/devtest/bcdedit--set"},
		{"Microsoft Learn, BcdOSLoader_NxPolicy enumeration", "NxPolicyAlwaysOff = 2", "https://learn.microsoft.com/en-us/previous-versions/windows/desktop/bcd/bcdosloader-nxpolicy"},
		{"Windows SDK, wbcl.h", "SIPAEVENT_DATAEXECUTIONPREVENTION", "https://learn.microsoft.com/en-us/windows/win32/api/wbcl/"},
	},
	Steps: map[string][]string{
		"windows": {
			"On Windows, in an elevated prompt: `bcdedit /set nx OptOut` (the default of servers) or `bcdedit /set nx OptIn` (that of clients).",
			"Reboot; the next attestation confirms the change.",
		},
	},
	evaluate: aboutWindows(func(in *Input, w *eventlog.Windows) judgement {
		if is(w.DataExecutionPrevention, eventlog.DEPAlwaysOff) {
			return judgement{text: "Windows on " + in.subject() + " was started with data execution prevention turned off."}
		}
		return judgement{known: w.DataExecutionPrevention != nil}
	}),
}
