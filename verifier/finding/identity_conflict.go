package finding

import "fmt"

// A TPM is one machine's. Where one EK, AK, virtual machine or boot log stands behind two names, one of them answers for
// something that it is not: a clone, a relay (the "cuckoo" of Parno, HotSec 2008), or an inventory that has the same machine
// twice. It is found by the store, over the machines of one tenant, and not by an appraisal, which sees one machine.
//
// It ends by itself when a key of the pair was replaced or revoked, or when the evidence of both does not show it any
// more; an attempt to enrol, and a relayed quote, are over when somebody closes the alert.
var identityConflict = &Rule{
	Code:      "identity_conflict",
	Title:     "Two machines claim one identity",
	Severity:  High,
	Area:      "fleet",
	Kinds:     []Kind{KindAlert},
	Condition: "One endorsement key, attestation key, virtual machine or boot log stands behind two machines of the tenant, or a quote of one answers for the other.",
	Why:       "One of the two answers for something that it is not: a clone, a relayed quote, or an inventory that has the same machine twice.",
	Needs:     []string{"fleet.identities", "history.evidence"},
	FoundBy:   "The job fleet-detection, over all machines of the tenant, and the enrolment that is refused.",
	Citations: []Citation{
		{"TPM 2.0 Library Part 1", "section 9.4.3.2 (identity of the root of trust for reporting)", "https://trustedcomputinggroup.org/resource/tpm-library-specification/"},
		{"TPM 2.0 Library Part 3", "section 18.4 (TPM2_Quote)", "https://trustedcomputinggroup.org/resource/tpm-library-specification/"},
	},
	Steps: map[string][]string{
		"": {
			"Compare the two machines shown here: which of them is meant to have this identity, and is the other known at all?",
			"If a virtual machine was cloned together with its virtual TPM, give the copy a new TPM (and with it a new EK), then enrol it under its own name.",
			"If one machine was renamed or reinstalled, release the old entry: `assay machines release NAME`. The alert ends by itself.",
			"If nobody knows the other machine, treat both as attacked: one TPM's answers are being relayed for another machine. Isolate the machine that does not hold the TPM, and revoke the join token that was used.",
		},
		"linux":   {"On Linux with libvirt, `virt-clone` copies the TPM's state from /var/lib/libvirt/swtpm: delete the copy's folder before its first boot."},
		"windows": {"On Windows with Hyper-V, a copied key protector copies the vTPM: give the copy one of its own with Set-VMKeyProtector -NewLocalKeyProtector."},
	},
}

// sharedWords say what both machines have.
var sharedWords = map[string]string{
	"vm": "the cloud's id of the virtual machine", "instance": "the cloud instance in the certificate of its attestation key",
	"guest": "the hardware's id of the running guest (REPORT_ID)",
}

func (c *Conflict) identityWords(own, other string) string {
	claim := ", and has not shown that it holds that key"
	if p := c.Observed.Proved; p != nil && *p {
		claim = ", and has shown that it holds that key"
	}
	switch c.Kind {
	case EKShared:
		return fmt.Sprintf("The endorsement key of one TPM was presented for two machines. %s conflicts with %s: somebody asked to enrol it under a second name%s. Nothing was changed.", own, other, claim)
	case AKShared:
		switch {
		case c.Event() && c.Observed.Proved == nil:
			return fmt.Sprintf("Somebody wanted to vouch for one attestation key at two machines. %s conflicts with %s: the key answers for one of them already. Nothing was changed.", own, other)
		case c.Event():
			return fmt.Sprintf("One attestation key was presented for two machines. %s conflicts with %s: somebody asked to enrol it under a second name%s. Nothing was changed.", own, other, claim)
		}
		return fmt.Sprintf("%s and %s are proved by one and the same attestation key.", own, other)
	case NameClaimed:
		return fmt.Sprintf("%s: somebody asked to enrol another TPM under its name. That TPM's endorsement key is not the machine's own%s. Nothing was changed.", own, claim)
	case QuoteRelayed:
		return fmt.Sprintf("A quote that came for one machine was signed by the TPM of the other. %s conflicts with %s: one of them passes on the other's answers.", own, other)
	case LogOfOther:
		return fmt.Sprintf("%s and %s booted with logs that name the same machine: the same network cards and disks.", own, other)
	case SeriesShared:
		return fmt.Sprintf("%s and %s told the same clock, reset counter, restart counter and firmware, to the millisecond, at %d boots: one TPM stands behind both.", own, other, c.Observed.Boots)
	case VMShared, ClockBack, ResetBack, HistoryForked:
	}
	return fmt.Sprintf("%s and %s are one virtual machine: both have %s.", own, other, sharedWords[c.Observed.What])
}
