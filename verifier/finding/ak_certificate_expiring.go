package finding

import (
	"fmt"
	"time"
)

// An AK certificate should be renewed before it ends. It is judged at enrolment, so its end does not fail a machine
// that has enrolled; but nobody vouches for the key any more, and the machine cannot enrol with it again.
var akCertificateExpiring = &Rule{
	Code:      "ak_certificate_expiring",
	Title:     "The attestation key's certificate should be renewed before it expires",
	Severity:  Low,
	Area:      "tpm",
	Kinds:     []Kind{KindRecommendation},
	Condition: "The certificate that proves the machine's attestation key has ended, or ends within 30 days.",
	Why:       "The key goes on being accepted after that day, but nobody vouches for it any more, and a machine that has to enrol again cannot.",
	Needs:     []string{"inventory.key_expires_at"},
	Citations: []Citation{
		{"RFC 5280", "section 4.1.2.5 (validity)", "https://www.rfc-editor.org/rfc/rfc5280#section-4.1.2.5"},
		{"TCG TPM 2.0 Keys for Device Identity and Attestation 1.0", "section 5", "https://trustedcomputinggroup.org/resource/tpm-2-0-keys-for-device-identity-and-attestation/"},
	},
	Steps: map[string][]string{
		"": {
			"Let the issuer renew the certificate: a cloud writes a new one to the machine's NV index when it is stopped and started; a CA of your own has to be asked.",
			"Enrol the machine again with the new certificate. The key may stay the same; then nothing else changes.",
		},
		"linux":   {"On Linux, `tpm2_nvread 0x01c10000 | openssl x509 -inform der -noout -enddate` shows the end of the certificate that the machine holds (of an ECC key: 0x01c10002)."},
		"windows": {"On Windows, `Get-TpmEndorsementKeyInfo` shows the TPM's certificates, `certutil -dump FILE` the end of one."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		end := in.Machine.KeyExpiresAt
		if end == nil {
			if in.Appraisal != nil {
				r.settle(out) // an appraisal knows the key: it rests on no certificate
			}
			return
		}
		day := end.UTC().Format(time.DateOnly)
		const then = "The enrolled key goes on being accepted, but nobody vouches for it any more, and the machine cannot enrol again with this certificate, after it was reinstalled or its key was replaced."
		switch left := end.Sub(in.Now); {
		case left <= 0:
			r.recommend(in, out, fmt.Sprintf("The certificate of the attestation key of %s ended on %s. %s", in.subject(), day, then))
		case left <= expiryNotice:
			r.recommend(in, out, fmt.Sprintf("The certificate of the attestation key of %s ends on %s. %s", in.subject(), day, then))
		default:
			r.settle(out)
		}
	},
}
