package finding

import "github.com/assay-verifier/assay/verifier/eventlog"

// What is not measured is only known to be missing where everything that was measured is known (Windows.Complete).
var windowsELAMOff = &Rule{
	Code:      "windows_elam_off",
	Title:     "Windows should start an early-launch anti-malware driver",
	Severity:  Low,
	Area:      "windows",
	Kinds:     []Kind{KindRecommendation},
	Condition: "All that Windows measured is known, and no early-launch anti-malware driver is among it; or (medium) the policy is to start drivers that it finds bad as well.",
	Why:       "An early-launch driver is the only guard that runs before the drivers it should judge; what starts before it can hide from all that comes later.",
	Needs:     []string{"claims.windows", "inventory.os"},
	Citations: []Citation{
		{"Microsoft Learn, Overview of Early Launch AntiMalware", "ELAM", "https://learn.microsoft.com/en-us/windows-hardware/drivers/install/early-launch-antimalware"},
		{"Microsoft Learn, ELAM Driver Requirements", "AM Driver Callback Interface (the policy is measured)", "https://learn.microsoft.com/en-us/windows-hardware/drivers/install/elam-driver-requirements"},
		{"Windows SDK, wbcl.h", "SIPAEVENT_ELAM_AGGREGATION, SIPAEVENT_DRIVER_LOAD_POLICY", "https://learn.microsoft.com/en-us/windows/win32/api/wbcl/"},
	},
	Steps: map[string][]string{
		"windows": {
			"On Windows, check that Microsoft Defender or another anti-malware product with an ELAM driver is installed and on: `Get-MpComputerStatus`; Defender's driver is WdBoot.sys.",
			"Set the policy Computer Configuration > Administrative Templates > System > Early Launch Antimalware > Boot-Start Driver Initialization Policy to `Good and unknown` or stricter.",
			"Reboot; the next attestation confirms the change.",
		},
	},
	evaluate: aboutWindows(func(in *Input, w *eventlog.Windows) judgement {
		switch {
		case is(w.DriverLoadPolicy, eventlog.AllDrivers):
			return judgement{severity: Medium, text: "Windows on " + in.subject() + " was started with the policy to start all drivers, those that its early-launch anti-malware finds bad included."}
		case len(w.ELAM) == 0 && w.Complete:
			return judgement{text: "Windows on " + in.subject() + " started no early-launch anti-malware driver: none is among its measurements."}
		}
		return judgement{known: len(w.ELAM) > 0}
	}),
}
