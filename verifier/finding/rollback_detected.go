package finding

import "fmt"

// The clock and the counters of a TPM only go forward. Where they go back, or go on from two places at once, the TPM's state
// was put back or copied: what the machine proved since then is forgotten, and keys and sealed secrets are in two places.
// Quotes behind the last one fail quote.clock; what this alert adds is the pair of states, and the forks that one quote
// alone does not show. It is found by the store.
//
// It does not end by genuine evidence, since of two copies one stays genuine: it ends when the key is replaced or revoked,
// or when somebody closes it.
var rollbackDetected = &Rule{
	Code:      "rollback_detected",
	Title:     "A TPM's history went back or forked",
	Severity:  High,
	Area:      "fleet",
	Kinds:     []Kind{KindAlert},
	Condition: "The clock or a counter of a machine's TPM went back, or its history goes on from two places at once.",
	Why:       "The TPM's state was put back or copied: what was proved since is forgotten, and its keys and sealed secrets are in two places.",
	Needs:     []string{"history.boots", "history.clock"},
	FoundBy:   "The job fleet-detection, over all quotes of one attestation key.",
	Citations: []Citation{
		{"TPM 2.0 Library Part 1", "section 36 (timing components: Clock, resetCount, restartCount, Safe)", "https://trustedcomputinggroup.org/resource/tpm-library-specification/"},
		{"TPM 2.0 Library Part 3", "section 24.6 (TPM2_Clear)", "https://trustedcomputinggroup.org/resource/tpm-library-specification/"},
	},
	Steps: map[string][]string{
		"": {
			"Ask whether somebody restored a snapshot or a backup of the machine, migrated it, cleared its TPM or updated the TPM's firmware at the time shown.",
			"If a snapshot was restored on purpose, bring the software up to date again, release the machine (`assay machines release NAME`) and enrol it anew; then close the alert.",
			"If two copies of the machine run, stop one of them and give it a TPM of its own: secrets that were sealed to this TPM are in both.",
			"If nobody did any of this, treat it as an attack: software is run on an old state to get at what was sealed, or to use holes that were closed. Isolate the machine and keep its disk.",
		},
		"linux":   {"On Linux, `tpm2_readclock` shows clock, resetCount and restartCount; `virsh snapshot-list` on the host shows what was restored."},
		"windows": {"On Windows, Get-VMSnapshot on the Hyper-V host shows what was restored; Get-TpmEndorsementKeyInfo whether two machines have one TPM."},
	},
}

func (c *Conflict) rollbackWords(own, _ string) string {
	first, second := c.First.text(), c.Second.text()
	switch {
	case c.Kind == ResetBack:
		return fmt.Sprintf("%s: the TPM's reset counter went back, from (%s) to (%s).%s", own, first, second, c.mayBeText())
	case c.Kind == ClockBack:
		return fmt.Sprintf("%s: the TPM's clock or restart counter went back, from (%s) to (%s).%s", own, first, second, c.mayBeText())
	case c.Observed.AheadMS != 0:
		return fmt.Sprintf("%s: the TPM's clock went faster than time, from (%s) to (%s): %d ms more than have passed.%s", own, first, second, c.Observed.AheadMS, c.mayBeText())
	case c.First.Boot != c.Second.Boot:
		return fmt.Sprintf("%s: one boot of the TPM, by its counters, shows two different boots, (%s) and (%s).%s", own, first, second, c.mayBeText())
	}
	return fmt.Sprintf("%s: after the TPM had gone back to (%s), it answers again from where it was, (%s): two copies of it live.%s", own, first, second, c.mayBeText())
}
