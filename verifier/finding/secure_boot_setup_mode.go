package finding

// Firmware that is in setup mode has no platform key: whoever runs code with the rights of an administrator may write
// the Secure Boot databases without a signature. In audit mode it looks at signatures and starts what it likes.
// Few logs state the modes; a platform key that was measured with no entry says the same as setup mode
// (UEFI 2.10, section 32.3: without PK the platform is in setup mode).
var secureBootSetupMode = &Rule{
	Code:      "secure_boot_setup_mode",
	Title:     "Firmware should not be left in Secure Boot setup or audit mode",
	Severity:  Medium,
	Area:      "secure_boot",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Firmware measured SetupMode or AuditMode as on, or a platform key (PK) without any entry.",
	Why:       "In setup mode an administrator of the running system, or malware with his rights, can install Secure Boot keys of its own and own the machine's boot from then on. In audit mode signatures are checked and nothing is refused.",
	Needs:     []string{"claims.setup_mode", "claims.audit_mode", "claims.pk"},
	Citations: []Citation{
		{"UEFI Specification 2.10", "section 32.3 (firmware/OS key exchange: creating trust relationships)", "https://uefi.org/specs/UEFI/2.10/32_Secure_Boot_and_Driver_Signing.html"},
		{"TCG PC Client Platform Firmware Profile 1.06", "section 3.3.4.8 (PCR 7)", "https://trustedcomputinggroup.org/resource/pc-client-specific-platform-firmware-profile-specification/"},
	},
	Steps: map[string][]string{
		"": {
			"Enrol a platform key: restore the factory keys in the firmware setup, or install keys of your own (PK last, since it ends setup mode).",
			"Turn Secure Boot on, boot again, and capture a new baseline, since PCR 7 changes.",
		},
		"linux":   {"On Linux, `bootctl status` or `sbctl status` shows the mode; `sbctl enroll-keys --microsoft` enrols keys."},
		"windows": {"On Windows, `Get-SecureBootUEFI SetupMode` in an elevated PowerShell shows the mode."},
		"azure":   {"On Azure, create the machine from an image or gallery version whose UEFI settings hold a PK."},
		"gcp":     {"On Google Cloud, create the image with `--platform-key-file` or without any of the key files, so that the default keys are used."},
		"aws":     {"On AWS, register the image with `--uefi-data` that holds a PK (`uefivars`)."},
		"vmware":  {"On vSphere, remove the machine's .nvram file while it is off: the next start makes it anew with the default keys."},
		"qemu":    {"On QEMU, use OVMF variables in which keys are enrolled (OVMF_VARS.ms.fd, or `virt-fw-vars --enroll-generate`)."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		c := provenClaims(in)
		if c == nil {
			return
		}
		noKey := c.PK != nil && len(c.PK.Certificates) == 0 && c.PK.CertificatesOmitted == 0 && c.PK.HashCount == 0
		switch {
		case isTrue(c.SetupMode):
			r.recommend(in, out, "The firmware of "+in.subject()+" is in setup mode: the Secure Boot databases can be written without a signature.")
		case noKey:
			r.recommend(in, out, "The firmware of "+in.subject()+" measured a platform key (PK) without any entry, so it is in setup mode: the Secure Boot databases can be written without a signature.")
		case isTrue(c.AuditMode):
			r.recommend(in, out, "The firmware of "+in.subject()+" is in audit mode: it looks at signatures, and starts what fails them all the same.")
		case c.PK != nil || isFalse(c.SetupMode):
			r.settle(out)
		}
	},
}
