package finding

import "fmt"

// An endorsement key whose private part can be computed proves no TPM: everything that rests on its activation is the
// word of whoever computed it.
var weakEndorsementKey = &Rule{
	Code:      "weak_endorsement_key",
	Title:     "The endorsement key of a TPM should not be weak",
	Severity:  High,
	Area:      "tpm",
	Kinds:     []Kind{KindRecommendation},
	Condition: "The RSA endorsement key that the attestation key was proved against has the form of CVE-2017-15361 (ROCA), or is shorter than 2048 bits.",
	Why:       "Its private key can be computed from the public one. Whoever does can activate credentials and make attestation keys of his own that pass for this TPM's.",
	Needs:     []string{"inventory.endorsement_key"},
	Citations: []Citation{
		{"Nemec, Sys, Svenda, Klinec, Matyas: The Return of Coppersmith's Attack (CCS 2017)", "section 2.3 (fingerprinting)", "https://crocs.fi.muni.cz/public/papers/rsa_ccs17"},
		{"CVE-2017-15361", "description", "https://nvd.nist.gov/vuln/detail/CVE-2017-15361"},
		{"TCG EK Credential Profile 2.5", "annex B (templates)", "https://trustedcomputinggroup.org/resource/tcg-ek-credential-profile-for-tpm-family-2-0/"},
	},
	Steps: map[string][]string{
		"": {
			"Update the TPM's firmware, and make and certify a new endorsement key if its maker offers that; the old one stays weak whatever the firmware. Else enrol with an ECC endorsement key, or replace the TPM.",
			"Enrol the machine again; keys that were sealed or made by the old firmware have to be made anew, too.",
			"Until then, do not trust the name of this machine's key: withdraw it (`DELETE /v1/machines/{id}/attestation-keys`) if anything important rests on it.",
		},
		"linux":   {"On Linux, `tpm2_getekcertificate` or `tpm2_createek -G ecc` shows which other endorsement keys the TPM has; `tpm2_getcap properties-fixed` shows its firmware."},
		"windows": {"On Windows, `Get-TpmEndorsementKeyInfo` shows the key; ADV170012 tells how to update the firmware and clear the TPM."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		e := in.Machine.Endorsement
		switch {
		case e == nil || e.Unusable != "" && e.RSABits == 0:
		case e.ROCA:
			r.recommend(in, out, "The endorsement key of "+in.subject()+" is weak: its modulus was made by the flawed key generation of CVE-2017-15361 (ROCA), and its private key can be computed.")
		case e.RSABits != 0 && e.RSABits < minRSAEndorsement:
			r.recommend(in, out, fmt.Sprintf("The endorsement key of %s is an RSA key of %d bits; %d are needed.", in.subject(), e.RSABits, minRSAEndorsement))
		default:
			r.settle(out)
		}
	},
}
