package finding

import "github.com/assay-verifier/assay/verifier/eventlog"

// Test signing is what a driver needs that nobody would sign.
var windowsTestSigning = &Rule{
	Code:      "windows_test_signing",
	Title:     "Windows should not accept test signatures",
	Severity:  High,
	Area:      "windows",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Windows measured that test signing was on; low where it was flight signing alone.",
	Why:       "With test signing, drivers run in the kernel that anybody has signed. Flight signing accepts builds that Microsoft has not released.",
	Needs:     []string{"claims.windows", "inventory.os"},
	Citations: []Citation{
		{"Microsoft Learn, HealthAttestation CSP", "Device HealthAttestation CSP, what each attested fact means", "https://learn.microsoft.com/en-us/windows/client-management/mdm/healthattestation-csp"},
		{"Microsoft Learn, The TESTSIGNING Boot Configuration Option", "TESTSIGNING", "https://learn.microsoft.com/en-us/windows-hardware/drivers/install/the-testsigning-boot-configuration-option"},
		{"Windows SDK, wbcl.h", "SIPAEVENT_TESTSIGNING, SIPAEVENT_FLIGHTSIGNING", "https://learn.microsoft.com/en-us/windows/win32/api/wbcl/"},
	},
	Steps: map[string][]string{
		"windows": {
			"On Windows, in an elevated prompt: `bcdedit /set testsigning off`.",
			"Where flight signing is on, the machine takes part in Windows Insider: leave the programme, or `bcdedit /set flightsigning off`.",
			"Find the drivers that were only test-signed: `Get-AuthenticodeSignature C:\\Windows\\System32\\drivers\\*.sys | Where-Object Status -ne Valid`.",
			"Turn Secure Boot on: with it, Windows refuses test signing.",
			"Reboot; the next attestation confirms the change.",
		},
	},
	evaluate: aboutWindows(func(in *Input, w *eventlog.Windows) judgement {
		switch {
		case isTrue(w.TestSigning):
			return judgement{text: "Windows on " + in.subject() + " was started with test signing on: it runs drivers that anybody has signed."}
		case isTrue(w.FlightSigning):
			return judgement{severity: Low, text: "Windows on " + in.subject() + " was started with flight signing on: it accepts builds that are not released."}
		}
		return judgement{known: w.Complete || w.TestSigning != nil && w.FlightSigning != nil}
	}),
}
