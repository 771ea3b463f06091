package finding

import "github.com/assay-verifier/assay/verifier/eventlog"

// That it was to be started does not prove that it runs, so that "auto" only ends the recommendation. Whether memory integrity
// is on within it is not judged: what the value of SIPAEVENT_VBS_HVCI_POLICY means is not documented.
var windowsVBSOff = &Rule{
	Code:      "windows_vbs_off",
	Title:     "Virtualization-based security of Windows should be on",
	Severity:  Low,
	Area:      "windows",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Windows measured that virtualization-based security was not to be started (its launch type is off).",
	Why:       "Without it there is no memory integrity (HVCI) and no Credential Guard: a bug in one driver is enough to change the kernel or to take credentials.",
	Needs:     []string{"claims.windows", "inventory.os"},
	Citations: []Citation{
		{"Microsoft Learn, Virtualization-based Security (VBS)", "Overview", "https://learn.microsoft.com/en-us/windows-hardware/design/device-experiences/oem-vbs"},
		{"Microsoft Learn, Enable virtualization-based protection of code integrity", "Enable memory integrity", "https://learn.microsoft.com/en-us/windows/security/hardware-security/enable-virtualization-based-protection-of-code-integrity"},
		{"Windows SDK, wbcl.h", "SIPAEVENT_VSM_LAUNCH_TYPE", "https://learn.microsoft.com/en-us/windows/win32/api/wbcl/"},
	},
	Steps: map[string][]string{
		"windows": {
			"On Windows, `Get-CimInstance -ClassName Win32_DeviceGuard -Namespace root\\Microsoft\\Windows\\DeviceGuard` shows what runs and what is missing for it.",
			"Turn on virtualization in the firmware, then memory integrity in Windows Security > Device security > Core isolation, or by group policy: Device Guard > Turn On Virtualization Based Security.",
			"Where it was turned off on purpose: `bcdedit /set vsmlaunchtype auto` and `bcdedit /set hypervisorlaunchtype auto`.",
			"Reboot; the next attestation confirms the change.",
		},
	},
	evaluate: aboutWindows(func(in *Input, w *eventlog.Windows) judgement {
		if is(w.VSMLaunch, eventlog.LaunchOff) {
			text := "Windows on " + in.subject() + " was started without virtualization-based security, and so without memory integrity and Credential Guard"
			if is(w.HypervisorLaunch, eventlog.LaunchOff) {
				text += "; its hypervisor was not to be started either"
			}
			return judgement{text: text + "."}
		}
		return judgement{known: w.VSMLaunch != nil}
	}),
}
