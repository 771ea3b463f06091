package finding

import (
	"fmt"
	"strings"
)

// The SBAT level is shim's list of what it must refuse. A machine at an older level boots current software as well,
// so this is a chance that is left to an attacker, and not a hole that is open.
var sbatLevelOutdated = &Rule{
	Code:      "sbat_level_outdated",
	Title:     "The SBAT revocation level of shim should be up to date",
	Severity:  Low,
	Area:      "secure_boot",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Secure Boot is not proven to be off, and the SBAT level that shim measured admits generations that the newest level refuses.",
	Why:       "Shim goes on admitting a shim or GRUB with known holes, which an attacker can bring along.",
	Needs:     []string{"claims.shim_sbat_level", "claims.secure_boot", "collateral.revocations"},
	Citations: []Citation{
		{"rhboot/shim, SBAT.md", "SbatLevel", "https://github.com/rhboot/shim/blob/main/SBAT.md"},
		{"rhboot/shim, SbatLevel_Variable.txt", "list of levels", "https://github.com/rhboot/shim/blob/main/SbatLevel_Variable.txt"},
	},
	Steps: map[string][]string{
		"": {"Update shim and GRUB: a current shim raises the level by itself at the next boot."},
		"linux": {
			"On Linux, `mokutil --list-sbat-revocations` shows the level that is in force.",
			"`sudo mokutil --set-sbat-policy latest` and a reboot take over the newest level that the installed shim brings; check first that no older system on the machine, or medium for recovery, has to boot.",
		},
		"windows": {"On Windows beside Linux, the monthly updates raise the level, unless SbatLevel was opted out of."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		known := knownBad(in)
		switch {
		case known == nil:
		case !enforced(in):
			r.settle(out)
		case known.SBAT == nil:
		case len(known.SBAT.Raised) == 0:
			r.settle(out)
		default:
			s := known.SBAT
			raised := make([]string, len(s.Raised))
			for i, g := range s.Raised {
				raised[i] = fmt.Sprintf("%s before generation %d", g.Component, g.Least)
			}
			text := fmt.Sprintf("Shim on %s is at the SBAT level of %s, and the newest is of %s: it still admits %s", in.subject(), s.Level, s.Newer, strings.Join(raised, ", "))
			if len(s.CVEs) > 0 {
				shown := s.CVEs[max(0, len(s.CVEs)-maxCVEs):]
				text += " (" + strings.Join(shown, ", ")
				if len(s.CVEs) > len(shown) {
					text += fmt.Sprintf(" and %d more", len(s.CVEs)-len(shown))
				}
				text += ")"
			}
			r.recommend(in, out, text+".")
		}
	},
}
