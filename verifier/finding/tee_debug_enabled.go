package finding

// A confidential VM should not be open to debugging. The default policy refuses such a machine; one that a policy
// admits all the same keeps no secret from its host, and stays a finding.
var teeDebugEnabled = &Rule{
	Code:      "tee_debug_enabled",
	Title:     "Debugging should be disabled on confidential virtual machines",
	Severity:  High,
	Area:      "tee",
	Kinds:     []Kind{KindAssessment, KindRecommendation},
	Condition: "The hardware report says that the guest may be debugged.",
	Why:       "The host of such a guest can read and change its memory: nothing in it is confidential, whatever the rest of the evidence says.",
	Needs:     []string{"claims.platform"},
	Citations: []Citation{
		{"AMD 56860, SEV-SNP Firmware ABI", "section 4.3 (guest policy, DEBUG)", "https://www.amd.com/content/dam/amd/en/documents/developer/56860.pdf"},
		{"Intel TDX Module ABI Specification", "ATTRIBUTES (TUD.DEBUG)", "https://www.intel.com/content/www/us/en/developer/tools/trust-domain-extensions/documentation.html"},
	},
	Steps: map[string][]string{
		"": {
			"Treat every secret that was ever given to this machine as known to whoever runs its host.",
			"Launch the machine anew with debugging off: for SEV-SNP without the DEBUG bit (19) of the guest policy, for TDX without the DEBUG bit (0) of ATTRIBUTES. The setting is fixed at launch and cannot be changed in a running guest.",
			"If a policy allows debugging for development, keep its selector to those machines, and take `platform_evidence.allow_debug` out of the policy of all others.",
		},
		"linux":   {"On Linux with QEMU, the guest policy is the property `policy` of the object sev-snp-guest, the TD's attributes those of tdx-guest (`debug=off`)."},
		"windows": {"On Windows, `bcdedit` shows whether the guest's own kernel debugging is on, too; `bcdedit /debug off` ends that."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		c := platformClaims(in.Appraisal)
		switch {
		case c == nil:
			r.withoutReport(in, out, true)
		case c.Debug:
			text := in.name() + " is " + technologyPhrase(c.TEEType) + " guest under a hardware policy that allows debugging: its host can read and change its memory, so nothing in it is confidential."
			r.assess(out, Unhealthy, "debug_allowed", text)
			r.recommend(in, out, text)
		default:
			r.assess(out, Healthy, "debug_off", "The hardware lets nobody debug the guest.")
			r.settle(out)
		}
	},
}
