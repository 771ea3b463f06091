package finding

import "github.com/assay-verifier/assay/verifier"

// A key that was taken on trust when it first came proves only that it is the same as then. Whether it is in a TPM at all,
// and in whose, nobody has shown.
var attestationKeyFirstUse = &Rule{
	Code:      "attestation_key_first_use",
	Title:     "The attestation key should be proved to be in the machine's own TPM",
	Severity:  Medium,
	Area:      "tpm",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Genuine evidence is signed by a key whose assurance is first_use: an administrator vouches for it, or its EK has no certificate.",
	Why:       "A key in software signs whatever its holder likes: then everything that the evidence says of the boot is that holder's word.",
	Needs:     []string{"verdict", "inventory.endorsement_key"},
	Citations: []Citation{
		{"TCG TPM 2.0 Keys for Device Identity and Attestation 1.0", "section 5 (certificate enrolment of an AK)", "https://trustedcomputinggroup.org/resource/tpm-2-0-keys-for-device-identity-and-attestation/"},
		{"RFC 9334 (RATS Architecture)", "section 7.4 (trust of a Verifier in an Attester's key)", "https://www.rfc-editor.org/rfc/rfc9334#section-7.4"},
	},
	Steps: map[string][]string{
		"": {
			"Enrol the machine with its EK certificate, under a trust anchor of purpose `ek` of the TPM's maker: then activating a credential proves that the key is in that TPM.",
			"Or have the attestation key certified by a CA of your own, which is trusted as an anchor of purpose `ak`.",
			"Set `require_ek_certificate` in the policy, so that no further machine enrols without.",
		},
		"linux": {"On Linux, `tpm2_getekcertificate -o ek.der` fetches the EK certificate, from NV index 0x01c00002 (RSA) or 0x01c0000a (ECC), or from the maker's service."},
		"azure": {"On Azure confidential VMs, send the HCL report as `platform_evidence`: it binds the key to the hardware."},
		"gcp":   {"On Google Cloud, send the AK certificate from NV index 0x01c10000 (RSA) or 0x01c10002 (ECC)."},
		"aws":   {"On AWS, `aws ec2 get-instance-tpm-ek-pub` shows the EK that the platform made; compare it before an administrator vouches for the key."},
		"qemu":  {"On QEMU, let `swtpm_setup --create-ek-cert` issue EK certificates under a CA of your own, and trust that CA."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		a := in.Appraisal
		switch {
		case a == nil || !a.Genuine || a.Assurance == "" || in.Machine.NoTPM:
		case a.Assurance != verifier.FirstUse:
			r.settle(out)
		case in.Machine.Endorsement != nil && !in.Machine.Endorsement.Certified:
			r.recommend(in, out, "The key of "+in.subject()+" was proved against an endorsement key without a certificate (assurance first_use), so nothing shows that a TPM holds it.")
		default:
			r.recommend(in, out, "The key of "+in.subject()+" is trusted since somebody vouched for it (assurance first_use), and nothing shows that the machine's own TPM holds it.")
		}
	},
}
