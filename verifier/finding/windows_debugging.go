package finding

import "github.com/assay-verifier/assay/verifier/eventlog"

// A debugger rules all of Windows. Its switches are measured before anything that it could change runs.
var windowsDebugging = &Rule{
	Code:      "windows_debugging",
	Title:     "No debugger should be enabled in the boot of Windows",
	Severity:  High,
	Area:      "windows",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Windows measured that boot debugging, kernel debugging or hypervisor debugging was on.",
	Why:       "Whoever is at the other end of a debugger's cable or network can read and change all that runs, whatever was signed.",
	Needs:     []string{"claims.windows", "inventory.os"},
	Citations: []Citation{
		{"Microsoft Learn, HealthAttestation CSP", "Device HealthAttestation CSP, what each attested fact means", "https://learn.microsoft.com/en-us/windows/client-management/mdm/healthattestation-csp"},
		{"Microsoft Learn, BCDEdit /debug", "Enables or disables kernel debugging", "https://learn.microsoft.com/en-us/windows-hardware/drivers/devtest/bcdedit--debug"},
		{"Windows SDK, wbcl.h", "SIPAEVENT_BOOTDEBUGGING, SIPAEVENT_OSKERNELDEBUG, SIPAEVENT_HYPERVISOR_DEBUG", "https://learn.microsoft.com/en-us/windows/win32/api/wbcl/"},
	},
	Steps: map[string][]string{
		"windows": {
			"On Windows, in an elevated prompt: `bcdedit /debug off`, `bcdedit /bootdebug off` (also for `{bootmgr}` and `{hypervisorsettings}`: `bcdedit /set hypervisordebug off`).",
			"Take away the debugger's transport as well: `bcdedit /dbgsettings` shows it.",
			"Turn Secure Boot on: with it, Windows refuses most of these switches.",
			"Reboot; the next attestation confirms the change.",
		},
	},
	evaluate: aboutWindows(func(in *Input, w *eventlog.Windows) judgement {
		var on []string
		for _, s := range []struct {
			on   *bool
			name string
		}{{w.BootDebugging, "boot debugging"}, {w.KernelDebugging, "kernel debugging"}, {w.HypervisorDebugging, "hypervisor debugging"}} {
			if isTrue(s.on) {
				on = append(on, s.name)
			}
		}
		if len(on) > 0 {
			return judgement{text: "Windows on " + in.subject() + " was started with " + listed(on) + " on."}
		}
		return judgement{known: w.Complete}
	}),
}
