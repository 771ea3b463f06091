package finding

import "strings"

// Microsoft's Secure Boot certificates of 2011 have ended in 2026. Firmware does not look at the date, so machines go
// on booting; but what is signed from now on, boot loaders and updates of dbx, leads to the certificates of 2023 alone.
var secureBootCertificates2011 = &Rule{
	Code:      "secure_boot_certificates_2011",
	Title:     "Machines should hold Microsoft's Secure Boot certificates of 2023",
	Severity:  Medium,
	Area:      "secure_boot",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Secure Boot is not proven to be off, and KEK or db holds a certificate of Microsoft's of 2011 without the one of 2023 that follows it.",
	Why:       "What is signed from now on, boot loaders and updates of dbx, leads to the certificates of 2023 alone: such a machine gets no more of them.",
	Needs:     []string{"claims.kek", "claims.db", "claims.secure_boot", "collateral.revocations"},
	Citations: []Citation{
		{"Microsoft KB5062710", "Windows Secure Boot certificate expiration and CA updates", "https://support.microsoft.com/help/5062710"},
		{"UEFI Specification 2.10", "section 32.3", "https://uefi.org/specs/UEFI/2.10/32_Secure_Boot_and_Driver_Signing.html"},
	},
	Steps: map[string][]string{
		"": {
			"Install the newest firmware of the machine, or in a cloud create it anew from a current image: many bring the certificates.",
			"Add the certificates of 2023 to KEK and db before the next boot loader is installed that only they verify; capture a new baseline afterwards, since PCR 7 changes.",
		},
		"linux":   {"On Linux, `fwupdmgr refresh && fwupdmgr update` installs KEK and db updates where the vendor provides them; `mokutil --kek` and `mokutil --db` show what is there."},
		"windows": {"On Windows, let Windows Update do it, or set the registry value AvailableUpdates to 0x5944 as the guidance for managed devices under KB5062710 tells; `Get-SecureBootUEFI db` shows what is there."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		known := knownBad(in)
		switch {
		case known == nil:
		case !enforced(in):
			r.settle(out)
		case known.Keys == nil:
		case len(known.Keys.Alone) == 0:
			r.settle(out)
		default:
			r.recommend(in, out, "Secure Boot of "+in.subject()+" rests on certificates of 2011, which have ended in 2026, without those that follow them. It has "+
				strings.Join(known.Keys.Alone, ", ")+"; it lacks "+strings.Join(known.Keys.Missing, ", ")+".")
		}
	},
}
