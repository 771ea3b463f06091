package finding

// The serial console of a confidential VM is a way in and out of it that its host carries. On Azure it is on unless
// it was turned off, so this is a low recommendation, and no sign of anything wrong.
var teeConsoleEnabled = &Rule{
	Code:      "tee_console_enabled",
	Title:     "The serial console of confidential virtual machines should be disabled where it is not needed",
	Severity:  Low,
	Area:      "tee",
	Kinds:     []Kind{KindRecommendation},
	Condition: "The paravisor of a confidential VM says that the serial console is enabled.",
	Why:       "What is written to the console, and who logs in there, passes through the host in the clear, and the host is what a confidential VM is to be protected from.",
	Needs:     []string{"claims.platform"},
	Citations: []Citation{
		{"Azure confidential VM guest attestation", "runtime data (vm-configuration, console-enabled)", "https://learn.microsoft.com/azure/confidential-computing/guest-attestation-confidential-virtual-machines-design"},
	},
	Steps: map[string][]string{
		"": {
			"On Azure the console is on by default. If nobody needs it, turn boot diagnostics (and with it the serial console) off for the machine, or for the subscription, and start the machine again.",
			"If it is needed, let it ask for a password and keep secrets out of what is written to it; then exempt this recommendation (`POST /v1/recommendations/{id}/exempt`).",
		},
		"linux":   {"On Linux, take `console=ttyS0` out of the kernel's command line and stop the login on it: `systemctl disable --now serial-getty@ttyS0`."},
		"windows": {"On Windows, turn the Special Administration Console off: `bcdedit /ems {current} off`."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		c := platformClaims(in.Appraisal)
		switch {
		case c == nil:
			r.withoutReport(in, out, false)
		case c.VM == nil || c.VM.ConsoleEnabled == nil:
			r.settle(out) // only a paravisor tells, and here none does
		case *c.VM.ConsoleEnabled:
			r.recommend(in, out, "The paravisor of "+in.subject()+" says that the serial console is enabled. What the machine writes there, and who logs in there, passes through its host in the clear. This is Azure's default, and harmless where the console is silent and asks for a password.")
		default:
			r.settle(out)
		}
	},
}
