package finding

import (
	"fmt"
	"slices"
	"strconv"
)

// TPM firmware with a published weakness should be updated. Who made the TPM is told by its EK certificate, the version by the
// signed quote. A TPM obscures the version in quotes of keys outside the endorsement and platform hierarchies (TPM 2.0
// Part 2, TPMS_ATTEST.firmwareVersion), with 64 bits that look random: such a version hits one of the few listed
// ones with a probability below 2^-25, so that it makes no false finding; and it ends none (judgedBy).
var tpmFirmwareWeakness = &Rule{
	Code:      "tpm_firmware_weakness",
	Title:     "TPM firmware with a known weakness should be updated",
	Severity:  Medium,
	Area:      "tpm",
	Kinds:     []Kind{KindRecommendation},
	Condition: "The EK certificate names Infineon or STMicroelectronics, and the quote a firmware version that the maker lists as affected by CVE-2017-15361 (ROCA) or CVE-2019-16863 (TPM-FAIL).",
	Why:       "Keys that such a TPM makes or uses can be recovered: computed from the public key (ROCA), or measured from the time that signing takes (TPM-FAIL). Then somebody else signs the machine's evidence.",
	Needs:     []string{"claims.tpm", "inventory.endorsement_key"},
	Citations: []Citation{
		{"Microsoft ADV170012, Vulnerability in TPM could allow Security Feature Bypass", "affected firmware versions of Infineon", "https://msrc.microsoft.com/update-guide/vulnerability/ADV170012"},
		{"STMicroelectronics, TPM firmware update", "firmware versions affected (CVE-2019-16863)", "https://www.st.com/content/st_com/en/campaigns/tpm-update.html"},
		{"Moghimi, Sunar, Eisenbarth, Heninger: TPM-FAIL (USENIX Security 2020)", "section 5", "https://tpm.fail/"},
	},
	Steps: map[string][]string{
		"": {
			"Install the TPM firmware update of the machine's maker; suspend disk encryption that is bound to the TPM first.",
			"Make the keys anew that the old firmware made, the attestation key included, and enrol the machine again: an update does not mend them.",
		},
		"linux":   {"On Linux, `tpm2_getcap properties-fixed` shows TPM2_PT_FIRMWARE_VERSION_1; `fwupdmgr get-updates` lists updates where the maker provides them."},
		"windows": {"On Windows, `Get-Tpm` shows ManufacturerVersion; clear the TPM after the update."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		e, a := in.Machine.Endorsement, in.Appraisal
		if e == nil || !e.Certified || e.TPM.Manufacturer == "" || a == nil || !a.Genuine {
			return
		}
		version, err := strconv.ParseUint(a.Claims.TPM.FirmwareVersion, 16, 64)
		if err != nil {
			return
		}
		major, minor := int(version>>48), int(version>>32&0xFFFF)
		for i := range tpmWeaknesses {
			if w := &tpmWeaknesses[i]; w.manufacturer == e.TPM.Manufacturer && w.affects(major, minor) {
				r.recommend(in, out, fmt.Sprintf("The TPM of %s is %s with firmware %d.%d, which is affected by %s; %s.", in.subject(), w.maker, major, minor, w.name, w.fixed))
				return
			}
		}
		if judgedBy(e.TPM.Manufacturer, major, minor) {
			r.settle(out)
		}
	},
}

// judgedBy tells whether a version that is not listed as affected proves that the TPM is not. Of a maker without a list nothing is
// to be proved. Of one with a list the version has to be of a line that the list is about, with a minor version of the size that
// the makers use: another may be an obscured one, and a guest that makes its AK in the owner hierarchy would end by it
// what its TPM is known for. A finding that was made then stays until
// such a version or another maker's TPM is shown; after a change to a TPM of the same maker's other line it is to be exempted.
func judgedBy(manufacturer string, major, minor int) bool {
	listed := false
	for i := range tpmWeaknesses {
		if w := &tpmWeaknesses[i]; w.manufacturer == manufacturer {
			if listed = true; w.major == major && minor <= largestMinor {
				return true
			}
		}
	}
	return !listed
}

// largestMinor is far above every minor version that the makers have published, and far below nearly all that look random.
const largestMinor = 0xFF

// tpmWeakness is a list of firmware versions of one maker that has a published weakness.
type tpmWeakness struct {
	manufacturer, maker, name, fixed string
	major                            int
	upTo                             int   // the last affected minor version; -1 where minors tells
	minors                           []int // the affected minor versions
}

func (w *tpmWeakness) affects(major, minor int) bool {
	return major == w.major && (minor <= w.upTo || slices.Contains(w.minors, minor))
}

// tpmWeaknesses are the makers' own lists. Of Infineon's, only the lines that speak TPM 2.0 (5: SLB 9665, 7: SLB 9670).
// Intel's (CVE-2019-11090), AMD's and the reference code's (CVE-2023-1017, CVE-2023-1018) are not here: neither the
// certificate nor the quote tells which version of these is affected.
var tpmWeaknesses = []tpmWeakness{
	{"IFX", "one of Infineon's", "CVE-2017-15361 (ROCA)", "5.62 is the first version without it", 5, 61, nil},
	{"IFX", "one of Infineon's", "CVE-2017-15361 (ROCA)", "7.62 is the first version without it", 7, 61, nil},
	{"STM", "one of STMicroelectronics'", "CVE-2019-16863 (TPM-FAIL)", "71.16 is the fixed version", 71, -1, []int{0, 4, 12}},
	{"STM", "one of STMicroelectronics'", "CVE-2019-16863 (TPM-FAIL)", "73.20, 73.21, 73.64 and 73.65 are the fixed versions", 73, -1, []int{0, 4, 5, 8, 9}},
	{"STM", "one of STMicroelectronics'", "CVE-2019-16863 (TPM-FAIL)", "74.20, 74.21, 74.64 and 74.65 are the fixed versions", 74, -1, []int{0, 4, 5, 8, 9, 16}},
}
