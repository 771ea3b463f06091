package finding

// Evidence in the SHA-1 bank alone proves less than it seems to: collisions of SHA-1 are made for some ten thousand
// dollars, so that whoever prepares an image can have two of one digest.
var sha1BankOnly = &Rule{
	Code:      "sha1_bank_only",
	Title:     "Machines should be measured with SHA-256 or stronger",
	Severity:  Medium,
	Area:      "tpm",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Genuine evidence quotes the SHA-1 bank of PCRs and no other.",
	Why:       "SHA-1 collisions are feasible. Who makes boot components can make a good and a bad one with the same measurement, and the PCRs cannot tell which of them ran.",
	Needs:     []string{"claims.tpm"},
	Citations: []Citation{
		{"NIST SP 800-131A Rev. 2", "section 9 (hash functions)", "https://doi.org/10.6028/NIST.SP.800-131Ar2"},
		{"SHA-1 is a Shambles (Leurent, Peyrin, 2020)", "section 1", "https://eprint.iacr.org/2020/014"},
	},
	Steps: map[string][]string{
		"": {
			"Turn the SHA-256 bank on in the firmware setup (TPM, PCR banks), or allocate it: it becomes active with the next boot.",
			"Let the agent quote it: name `sha256` in the policy's `pcrs`, and take `allow_sha1_pcrs` out of the policy when no machine needs it any more.",
			"A TPM 1.2 has SHA-1 alone: update it to TPM 2.0 where its maker offers that, else replace the machine.",
		},
		"linux":   {"On Linux, `tpm2_getcap pcrs` shows the banks, `sudo tpm2_pcrallocate sha256:all+sha1:none` allocates them."},
		"windows": {"On Windows, `tpmtool getdeviceinformation` shows the TPM's version; the banks are chosen in the firmware setup."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		a := in.Appraisal
		if a == nil || !a.Genuine || len(a.Claims.TPM.Banks) == 0 {
			return
		}
		for _, bank := range a.Claims.TPM.Banks {
			if bank != "sha1" {
				r.settle(out)
				return
			}
		}
		r.recommend(in, out, "The evidence of "+in.subject()+" is in the SHA-1 bank alone, and collisions of SHA-1 can be made: two boot components may have one measurement.")
	},
}
