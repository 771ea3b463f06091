package finding

// A firmware debugger can change whatever boots, before and behind each measurement. Firmware that has one on has to
// measure it.
var firmwareDebuggerEnabled = &Rule{
	Code:      "firmware_debugger_enabled",
	Title:     "Firmware should not have a debugger enabled",
	Severity:  High,
	Area:      "firmware",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Firmware measured \"UEFI Debug Mode\" in PCR 7.",
	Why:       "Who holds the debugger's cable stops the boot at any instruction and changes what he likes; what is measured afterwards is worth nothing.",
	Needs:     []string{"claims.firmware_debugger"},
	Citations: []Citation{{"TCG PC Client Platform Firmware Profile 1.06", "section 3.3.4.8 (PCR 7, UEFI Debug Mode)", "https://trustedcomputinggroup.org/resource/pc-client-specific-platform-firmware-profile-specification/"}},
	Steps: map[string][]string{
		"": {
			"Install release firmware in place of a debug build, and turn off source-level debugging, DCI and JTAG in the firmware setup.",
			"Treat the machine as compromised if nobody knows why the debugger is on: firmware for debugging is not what makers ship.",
			"Boot again and capture a new baseline, since PCR 7 changes.",
		},
		"qemu": {"On QEMU, use an OVMF build without SOURCE_DEBUG_ENABLE."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		c := provenClaims(in)
		switch {
		case c == nil || c.FirmwareDebugger == nil:
		case *c.FirmwareDebugger:
			r.recommend(in, out, "The firmware of "+in.subject()+" measured that a debugger is enabled in it, so whoever is connected can change everything that boots.")
		default:
			r.settle(out)
		}
	},
}
