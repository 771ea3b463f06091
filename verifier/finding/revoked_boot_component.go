package finding

import (
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier/revocations"
)

// Nothing that was revoked should boot: an attacker who brings a revoked boot loader gets past Secure Boot, and a
// machine that boots one itself can be made to run anything. What only an optional revocation names is less pressing:
// its vendor leaves it to each administrator when to apply it.
var revokedBootComponent = &Rule{
	Code:      "revoked_boot_component",
	Title:     "Machines should not boot components that have been revoked",
	Severity:  High,
	Area:      "secure_boot",
	Kinds:     []Kind{KindRecommendation},
	Condition: "The digest or the signer of an image that booted is on the official revocation lists (dbx, its advisories), or on the tenant's.",
	Why:       "A revoked boot loader has a known hole: behind it anything can run, and Secure Boot says that all is well.",
	Needs:     []string{"claims.boot_loaders", "claims.drivers", "claims.boot_authorities", "collateral.revocations"},
	Citations: []Citation{
		{"UEFI Specification 2.10", "section 32.4.1 (forbidden signature database)", "https://uefi.org/specs/UEFI/2.10/32_Secure_Boot_and_Driver_Signing.html"},
		{"rhboot/shim, SBAT.md", "SBAT", "https://github.com/rhboot/shim/blob/main/SBAT.md"},
	},
	Steps: map[string][]string{
		"": {
			"Update the named component: install the pending updates of the boot loader (shim, GRUB, Windows boot manager) or the firmware of the card, and boot again.",
			"Once nothing revoked boots any more, update the machine's dbx, so that firmware refuses the old one.",
			"If nobody knows how the component got there, treat the machine as compromised: isolate it, keep its disk, and reinstall it.",
		},
		"linux":   {"On Linux, update the packages shim-signed and grub-efi (or shim-x64 and grub2-efi-x64), then `fwupdmgr update` brings the current dbx."},
		"windows": {"On Windows, install the pending updates; KB5025885 tells how to move to the boot manager that Windows UEFI CA 2023 signs and to revoke the old one (CVE-2023-24932)."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		known := knownBad(in)
		if known == nil || known.Revoked == nil {
			return
		}
		if len(known.Revoked) == 0 {
			r.settle(out)
			return
		}
		severity := Medium
		parts := make([]string, 0, len(known.Revoked))
		for i := range known.Revoked {
			x := &known.Revoked[i]
			if !x.Optional {
				severity = r.Severity
			}
			if len(parts) == maxListed {
				parts = append(parts, fmt.Sprintf("and %d more", len(known.Revoked)-maxListed))
				break
			}
			parts = append(parts, revokedWords(x))
		}
		r.recommendAt(severity, in, out, in.name()+" booted what has been revoked: "+strings.Join(parts, "; ")+".")
	},
}

// revokedWords says what booted, as what it is known, and why it was revoked.
func revokedWords(x *revocations.Revoked) string {
	text := strings.ReplaceAll(x.Component, "_", " ")
	if x.Name != "" {
		text += " " + x.Name
	}
	if known := product(&x.Advisory); known != "" && known != x.Name {
		text += ", known as " + known
	}
	text += " (SHA-256 " + x.Digest[:min(16, len(x.Digest))] + "…"
	if why := advisory(&x.Advisory); why != "" {
		text += "; " + strings.TrimSuffix(why, ".")
	}
	if x.Optional {
		text += "; its vendor leaves it to administrators when to apply this revocation"
	}
	return text + ")"
}
