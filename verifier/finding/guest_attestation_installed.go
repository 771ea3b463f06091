package finding

// R2: the attestation agent should be installed where Secure Boot and vTPM are already on: attestation
// is then only one step away. It is asked of single machines and of members of scale sets alike.
var guestAttestationInstalled = &Rule{
	Code:      "guest_attestation_installed",
	Title:     "Guest attestation agent should be installed on supported Windows/Linux virtual machines",
	Severity:  Low,
	Area:      "attestation",
	Kinds:     []Kind{KindAssessment, KindRecommendation},
	Condition: "Secure Boot and vTPM are on, the operating system is Linux or Windows, and no agent reports.",
	Why:       "Everything that attestation needs is there, and nobody looks: what the machine boots is checked by no one.",
	Needs:     []string{"inventory.secure_boot", "inventory.vtpm", "inventory.agent_installed", "inventory.os"},
	Citations: []Citation{
		{"RFC 9334 (RATS Architecture)", "section 3 (Attester)", "https://www.rfc-editor.org/rfc/rfc9334#section-3"},
	},
	Steps: map[string][]string{
		"": {"Make a join token: `POST /v1/join-tokens`, for a scale set with its name, so that its members are recognised."},
		"linux": {
			"Install assay-agent, put the join token into its configuration and start it: `systemctl enable --now assay-agent`.",
			"For a scale set, do this in the image or in its first-boot configuration, so that new instances enrol themselves.",
		},
		"windows": {
			"Install an attestation client that speaks the enrolment API, and give it the join token.",
			"For a scale set, do this in the image, so that new instances enrol themselves.",
		},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		secureBoot, vtpm := in.secureBoot(), in.vtpm()
		switch {
		case isTrue(in.agent()):
			r.assess(out, Healthy, "agent_installed", "An attestation agent is installed.")
			r.settle(out)
		case !supportedOS(in):
			r.assess(out, NotApplicable, "os_not_supported", "The agent is for Windows and Linux; the machine's operating system is neither, or not known.")
			r.settle(out)
		case isFalse(secureBoot) || isFalse(vtpm):
			r.assess(out, NotApplicable, "secure_boot_or_vtpm_off", "Secure Boot and vTPM have to be on first: without them attestation could not succeed.")
			r.settle(out)
		case secureBoot == nil || vtpm == nil:
			r.assess(out, NotApplicable, "unknown", "It is not known whether Secure Boot and vTPM are on.")
		default:
			text := in.name() + " (" + in.osName() + scaleSet(in) + ") has Secure Boot and vTPM on, but no attestation agent reports, so nobody checks what it boots."
			r.assess(out, Unhealthy, "agent_missing", text)
			r.recommend(in, out, text)
		}
	},
}

func scaleSet(in *Input) string {
	if in.Machine.ScaleSet == "" {
		return ""
	}
	return ", scale set " + in.Machine.ScaleSet
}
