package finding

// R1: Secure Boot should be enabled on supported virtual machines. It is asked of confidential VMs,
// by the inventory's word or by that of their own hardware, and of every machine where the policy widens it. A machine counts as supporting Secure Boot unless the
// inventory says that it does not.
var secureBootEnabled = &Rule{
	Code:      "secure_boot_enabled",
	Title:     "Secure Boot should be enabled on supported Windows/Linux virtual machines",
	Severity:  Low,
	Area:      "secure_boot",
	Kinds:     []Kind{KindAssessment, KindRecommendation},
	Condition: "The machine supports Secure Boot and it is off. It is asked of confidential VMs, and of all machines where the policy says recommend_secure_boot_everywhere.",
	Why:       "Without Secure Boot, boot loaders and kernels that nobody signed can start before anything could notice.",
	Needs:     []string{"claims.secure_boot", "inventory.secure_boot", "inventory.secure_boot_supported", "inventory.security_type", "policy.recommend_secure_boot_everywhere"},
	Citations: []Citation{
		{"UEFI Specification 2.10", "section 32", "https://uefi.org/specs/UEFI/2.10/32_Secure_Boot_and_Driver_Signing.html"},
		{"NIST SP 800-147B", "section 3", "https://doi.org/10.6028/NIST.SP.800-147B"},
	},
	Steps: map[string][]string{
		"": {
			"Check that every boot loader, kernel and driver of the machine carries a signature that its firmware trusts: with Secure Boot on, what is unsigned does not start.",
			"Shut the machine down and turn Secure Boot on in the settings of the virtual machine (on hardware: in the firmware setup).",
			"Start the machine; its next attestation confirms the change.",
		},
		"azure":   {"On Azure, `az vm update --enable-secure-boot true` on a deallocated machine of security type TrustedLaunch or ConfidentialVM."},
		"gcp":     {"On Google Cloud, `gcloud compute instances update NAME --shielded-secure-boot` on a stopped Shielded VM."},
		"aws":     {"On AWS, Secure Boot is on where the image brings its keys: register it with `--boot-mode uefi` and `--uefi-data`, then launch from that image."},
		"vmware":  {"On vSphere, turn Secure Boot on under VM Options, Boot Options, with the machine off and EFI firmware chosen."},
		"linux":   {"On Linux, check with `mokutil --sb-state`: it must say that Secure Boot is enabled, and must not say that shim's validation is disabled (`sudo mokutil --enable-validation` turns that on again)."},
		"windows": {"On Windows, check with `Confirm-SecureBootUEFI` in an elevated PowerShell: it must answer True."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		on := in.secureBoot()
		supported := fact(in.Machine.Observed.SecureBootSupported, in.Machine.Declared.SecureBootSupported)
		switch {
		case !confidential(in) && !in.Policy.RecommendSecureBootEverywhere:
			r.assess(out, NotApplicable, "not_confidential", "Secure Boot is recommended for confidential virtual machines; the policy can widen it to all.")
			r.settle(out)
		case isFalse(supported) && !isTrue(on):
			r.assess(out, NotApplicable, "not_supported", in.name()+" does not support Secure Boot.")
			r.settle(out)
		case on == nil:
			r.assess(out, NotApplicable, "unknown", "Neither attestation nor the inventory tells whether Secure Boot is on.")
		case *on:
			r.assess(out, Healthy, "secure_boot_on", "Secure Boot is on.")
			r.settle(out)
		default:
			text := in.name() + " supports Secure Boot, but it is off" + sourceOf(in.Machine.Observed.SecureBoot) +
				". Without it, boot loaders and kernels that nobody signed can start before anything could notice."
			r.assess(out, Unhealthy, "secure_boot_off", text)
			r.recommend(in, out, text)
		}
	},
}

// sourceOf tells the reader where a posture is known from.
func sourceOf(observed *bool) string {
	if observed != nil {
		return " (shown by attestation)"
	}
	return " (as the inventory says)"
}
