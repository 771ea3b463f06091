package finding

import (
	"fmt"
	"strings"
)

// The list of what firmware must refuse should be up to date: until then, whoever can write to the disk may boot what
// was revoked since. It is asked of machines whose db trusts Microsoft, for whom the list is made, and where Secure
// Boot is not off.
var dbxOutdated = &Rule{
	Code:      "dbx_outdated",
	Title:     "The forbidden signature database (dbx) should be up to date",
	Severity:  Medium,
	Area:      "secure_boot",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Secure Boot is not proven to be off, db trusts Microsoft, and the measured dbx lacks entries of the official list or holds older security versions.",
	Why:       "Until the list is there, whoever can write to the boot disk can start a boot loader that was revoked since, and run anything behind it.",
	Needs:     []string{"claims.dbx", "claims.db", "claims.secure_boot", "collateral.revocations"},
	Citations: []Citation{
		{"UEFI Specification 2.10", "section 32.4.1 (forbidden signature database)", "https://uefi.org/specs/UEFI/2.10/32_Secure_Boot_and_Driver_Signing.html"},
		{"NIST SP 800-147", "section 3.1", "https://doi.org/10.6028/NIST.SP.800-147"},
	},
	Steps: map[string][]string{
		"": {
			"Check first that nothing revoked boots (the recommendation revoked_boot_component): firmware would refuse it.",
			"Install the current dbx. In a cloud it may come with the image or the firmware: create the machine anew from a current image where the guest cannot write it.",
		},
		"linux":   {"On Linux, `fwupdmgr refresh && fwupdmgr update` installs the current dbx; `fwupdmgr get-devices` shows its version under UEFI dbx."},
		"windows": {"On Windows, install the pending updates: they bring the current dbx. KB5025885 tells of the security version numbers."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		known := knownBad(in)
		switch {
		case known == nil:
		case !enforced(in):
			r.settle(out)
		case known.DBX == nil:
		case known.DBX.Missing == 0 && len(known.DBX.Outdated) == 0:
			r.settle(out)
		default:
			r.recommend(in, out, dbxWords(in))
		}
	},
}

func dbxWords(in *Input) string {
	d := in.KnownBad.DBX
	var parts []string
	if d.Missing > 0 {
		text := fmt.Sprintf("it lacks %d of the %d entries of the official list for %s", d.Missing, d.Expected, d.Architecture)
		if d.Newest != nil {
			text += ", the newest of them " + strings.TrimSpace(product(d.Newest)+" ("+strings.TrimSuffix(advisory(d.Newest), ".")+")")
		}
		parts = append(parts, text)
	}
	for _, v := range d.Outdated {
		parts = append(parts, fmt.Sprintf("it admits %s from security version %s, and %s is the present one", v.File, v.Has, v.Present))
	}
	return "The dbx of " + in.subject() + " is out of date: " + strings.Join(parts, "; ") + "."
}
