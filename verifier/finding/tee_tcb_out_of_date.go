package finding

// The TCB of a confidential VM's processor should be up to date: firmware with known weaknesses can give away what
// the processor is to protect. AMD's word is the TCB that the platform has committed to, and what the policy
// recommends; Intel's is the status in its TCB info.
var teeTCBOutOfDate = &Rule{
	Code:      "tee_tcb_out_of_date",
	Title:     "The trusted computing base of confidential virtual machines should be up to date",
	Severity:  Medium,
	Area:      "tee",
	Kinds:     []Kind{KindAssessment, KindRecommendation},
	Condition: "The report's TCB is below what the platform has committed to or the policy recommends (AMD), or Intel's TCB info calls it out of date.",
	Why:       "Firmware and microcode with known weaknesses can give away what the processor is to protect.",
	Needs:     []string{"claims.platform", "policy.platform_evidence", "collateral.tee"},
	Citations: []Citation{
		{"AMD 56860, SEV-SNP Firmware ABI", "section 2.2 (TCB_VERSION)", "https://www.amd.com/content/dam/amd/en/documents/developer/56860.pdf"},
		{"Intel Provisioning Certification Service API v4", "TCB info (tcbStatus, advisoryIDs)", "https://api.portal.trustedservices.intel.com/content/documentation.html"},
	},
	Steps: map[string][]string{
		"": {
			"In a cloud, the provider updates the host: stop and deallocate the machine and start it again, so that it comes up on an updated host; if the finding stays, ask the provider for its schedule of firmware updates.",
			"On hardware of your own, install the vendor's firmware update (BIOS, SEV firmware or TDX module, microcode) and reboot the host.",
			"Read the named advisories: some are only mitigated once the guest's own software is updated, too.",
			"To refuse such machines instead of recommending, set `platform_evidence.snp.minimum_tcb` or `platform_evidence.tdx.allowed_tcb_statuses` in the policy.",
		},
		"linux":   {"On Linux, `dmesg | grep -iE 'sev|tdx'` shows what the guest knows of its platform; `snpguest display report` shows the TCB of a report."},
		"windows": {"On Windows, install the pending updates of the guest: they bring the guest's part of the mitigations."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		c := platformClaims(in.Appraisal)
		if c == nil {
			r.withoutReport(in, out, true)
			return
		}
		if why := c.Outdated(&in.Policy.PlatformEvidence); why != "" {
			text := in.name() + " runs on " + technologyPhrase(c.TEEType) + " platform whose TCB is out of date: " + why + "."
			r.assess(out, Unhealthy, "tcb_out_of_date", text)
			r.recommend(in, out, text)
			return
		}
		if c.TCB == nil && (c.TCBStatus == nil || c.TCBStatus.Platform == "") {
			r.assess(out, NotApplicable, "unknown", "No TCB info of Intel's is held, so nothing tells whether the TCB is up to date.")
			return
		}
		r.assess(out, Healthy, "tcb_current", "Nothing that is held says that the TCB is out of date.")
		r.settle(out)
	},
}
