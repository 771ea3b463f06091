package finding

import (
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
)

// A machine should send the strongest evidence that its platform can give. A confidential VM whose key no hardware
// report binds is, to whoever relies on the verdict, as good as any other VM.
var evidenceWeakerThanPlatform = &Rule{
	Code:      "evidence_weaker_than_platform",
	Title:     "Machines should send the strongest evidence that their platform can give",
	Severity:  Medium,
	Area:      "attestation",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Genuine evidence of a confidential VM is not bound to its hardware; or a machine on Google Cloud enrolled without the certificate that names its instance.",
	Why:       "What the platform could prove and the evidence does not, a relying party has to take on trust: a confidential VM without a bound report is worth as much as any other VM.",
	Needs:     []string{"verdict", "claims.platform", "inventory.security_type", "inventory.platform"},
	Citations: []Citation{
		{"RFC 9334 (RATS Architecture)", "section 3.2 (layered attestation)", "https://www.rfc-editor.org/rfc/rfc9334#section-3.2"},
	},
	Steps: map[string][]string{
		"": {
			"On Azure confidential VMs the agent reads the HCL report from NV index 0x01400001 and the VCEK, or for TDX the TD quote, from the instance metadata service; other clients send them as `platform_evidence` of type `azure_hcl`.",
			"On other SEV-SNP and TDX guests the agent asks configfs-tsm (kernel 6.7 or later) for a report over the challenge and the key; the key itself has to be proved by its EK or AK certificate.",
			"On Google Cloud the agent sends the AK certificate from NV index 0x01c10000 (RSA) or 0x01c10002 (ECC) at enrolment; it names project, zone and instance.",
			"Enrol the machine again where the stronger evidence is to prove its key.",
		},
		"linux":   {"On Linux, check what the machine can give: `ls /sys/kernel/config/tsm/report`, `tpm2_nvreadpublic 0x01400001`. Update the agent if it does not collect it."},
		"windows": {"On Windows, `tpmtool getdeviceinformation` shows that the TPM is there; the client has to read the NV index and send its content."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		a := in.Appraisal
		if a == nil || !a.Genuine {
			return
		}
		switch {
		case a.Assurance == verifier.TEEBound:
			r.settle(out)
		case platformFailed(a):
			// The report is there and was refused: the alert says why, and there is nothing else to send.
		case confidential(in):
			r.recommend(in, out, weaker(in, a))
		case in.Machine.Platform == "gcp" && !in.Machine.InstanceProven && (a.Assurance == verifier.FirstUse || a.Assurance == verifier.EKActivated):
			r.recommendAt(Low, in, out, in.name()+" is on Google Cloud, whose certificate of the attestation key would prove which instance of which project this is. It was enrolled without ("+string(a.Assurance)+"), so its name is its own word.")
		default:
			r.settle(out)
		}
	},
}

// weaker says what a confidential VM's evidence lacks.
func weaker(in *Input, a *verifier.Appraisal) string {
	text := in.name() + " is a confidential VM" + confidentialBy(in, a) + ", but its evidence reaches only the assurance " + string(a.Assurance) + ": "
	switch {
	case a.Claims.Platform != nil:
		return text + "its hardware report is bound to the key by software in the guest alone, and nothing proves that the key is in its TPM. Prove the key by its EK or AK certificate."
	case bindingSkippedWithReport(a):
		return text + "its hardware report is genuine, but does not name the attestation key, so it could be that of another VM."
	}
	return text + "no hardware report binds its attestation key, so nothing proves that its memory is protected."
}

// bindingSkippedWithReport tells of a report that is proven and names no key.
func bindingSkippedWithReport(a *verifier.Appraisal) bool {
	return checkStatus(a, verifier.CheckPlatformReport) == verifier.Pass && checkStatus(a, verifier.CheckPlatformBinding) == verifier.Skipped
}

// confidentialBy says what the machine is known from to be a confidential VM.
func confidentialBy(in *Input, a *verifier.Appraisal) string {
	switch {
	case a.Claims.Platform != nil:
		return " (" + technologyName(a.Claims.Platform.TEEType) + ", as its hardware says)"
	case in.Machine.PlatformEvidence != "":
		return " (an earlier hardware report showed it)"
	case strings.HasSuffix(in.Machine.SecurityType, "_tdx"):
		return " (" + technologyName(string(tee.TDX)) + ", as the inventory says)"
	}
	return " (" + technologyName(string(tee.SEVSNP)) + ", as the inventory says)"
}
