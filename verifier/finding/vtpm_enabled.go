package finding

// R7: the virtual TPM should be enabled. Without it there is nothing to attest with.
var vtpmEnabled = &Rule{
	Code:      "vtpm_enabled",
	Title:     "vTPM should be enabled on supported virtual machines",
	Severity:  Low,
	Area:      "tpm",
	Kinds:     []Kind{KindAssessment, KindRecommendation},
	Condition: "Attestation or the inventory says that the machine has no TPM that is on.",
	Why:       "Without a TPM nothing can attest what the machine boots, and disk encryption cannot be bound to it.",
	Needs:     []string{"inventory.vtpm"},
	Citations: []Citation{
		{"TCG PC Client Platform TPM Profile 1.05", "section 1", "https://trustedcomputinggroup.org/resource/pc-client-platform-tpm-profile-ptp-specification/"},
		{"RFC 9334 (RATS Architecture)", "section 3.1", "https://www.rfc-editor.org/rfc/rfc9334#section-3.1"},
	},
	Steps: map[string][]string{
		"": {
			"Shut the machine down and turn the virtual TPM on in its settings (on hardware: turn the TPM on in the firmware setup).",
			"Start the machine and enrol the attestation agent.",
		},
		"azure":   {"On Azure, the security type Trusted launch or Confidential brings the vTPM: `az vm update --security-type TrustedLaunch --enable-vtpm true` on a deallocated machine of generation 2."},
		"gcp":     {"On Google Cloud, `gcloud compute instances update NAME --shielded-vtpm` on a stopped Shielded VM."},
		"aws":     {"On AWS, NitroTPM comes with the image and cannot be added later: `aws ec2 register-image --boot-mode uefi --tpm-support v2.0`, then launch from that image."},
		"vmware":  {"On vSphere, add the device Trusted Platform Module to the machine while it is off; it needs EFI firmware and a key provider."},
		"linux":   {"On Linux, check that /dev/tpmrm0 exists."},
		"windows": {"On Windows, check with `Get-Tpm` in an elevated PowerShell: TpmPresent and TpmReady must be True."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		on := in.vtpm()
		switch {
		case in.Machine.NoTPM:
			r.assess(out, NotApplicable, "no_tpm", "The machine is a confidential VM that attests without a TPM: its hardware report stands in place of one.")
			r.settle(out)
		case on == nil:
			r.assess(out, NotApplicable, "unknown", "Neither attestation nor the inventory tells whether the machine has a TPM.")
		case *on:
			r.assess(out, Healthy, "vtpm_on", "The TPM is on.")
			r.settle(out)
		default:
			text := in.name() + " has no TPM that is on" + sourceOf(in.Machine.Observed.VTPM) + ", so nothing can attest what it boots."
			r.assess(out, Unhealthy, "vtpm_off", text)
			r.recommend(in, out, text)
		}
	},
}
