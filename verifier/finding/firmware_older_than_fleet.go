package finding

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// A machine whose firmware is older than that of others of its model has missed an update, and updates of firmware close
// holes. Only versions that the measured text itself orders are compared: see firmwareSchemes.
var firmwareOlderThanFleet = &Rule{
	Code:      "firmware_older_than_fleet",
	Title:     "Firmware should not be older than that of the fleet's other machines of the model",
	Severity:  Low,
	Area:      "fleet",
	Kinds:     []Kind{KindRecommendation},
	Condition: "The measured firmware version is older than the one that at least two machines of the same model showed last. Models and order are known of Lenovo's and HPE's version texts, and of dotted numbers where the inventory's label \"model\" is the same.",
	Why:       "An update that others have and this machine has not leaves open what it closes, and nobody may have noticed that it failed.",
	Needs:     []string{"claims.firmware_version", "inventory.labels", "fleet.firmware"},
	Citations: []Citation{
		{"NIST SP 800-193", "section 4.2 (updates of platform firmware)", "https://doi.org/10.6028/NIST.SP.800-193"},
		{"TCG PC Client Platform Firmware Profile 1.06", "section 10.4.1 (EV_S_CRTM_VERSION)", "https://trustedcomputinggroup.org/resource/pc-client-specific-platform-firmware-profile-specification/"},
	},
	Steps: map[string][]string{
		"": {
			"Install the firmware version that the other machines have; look into the management tool why this one was left out.",
			"Capture a new baseline version afterwards, since PCR 0 changes.",
		},
		"linux":   {"On Linux, `fwupdmgr refresh && fwupdmgr update` installs it where the maker provides it to LVFS; `cat /sys/class/dmi/id/bios_version` shows what is there."},
		"windows": {"On Windows, install the maker's update; `Get-CimInstance Win32_BIOS` shows what is there."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		c := provenClaims(in)
		if c == nil || c.FirmwareVersion == nil || in.Fleet == nil {
			return
		}
		family, own := firmwareOrder(*c.FirmwareVersion, in.Machine.Labels["model"])
		if family == "" || family != in.Fleet.Family {
			return
		}
		machines, newest, newestOrder := 0, "", own
		for i := range in.Fleet.Versions {
			v := &in.Fleet.Versions[i]
			of, order := firmwareOrder(v.Version, in.Machine.Labels["model"])
			if of != family || slices.Compare(order, own) <= 0 {
				continue
			}
			machines += v.Machines
			if slices.Compare(order, newestOrder) > 0 {
				newest, newestOrder = v.Version, order
			}
		}
		if machines < minFleetMachines {
			r.settle(out)
			return
		}
		r.recommend(in, out, fmt.Sprintf("The firmware of %s is %s, and %d machines of its model show a newer one; the newest is %s.", in.subject(), *c.FirmwareVersion, machines, newest))
	},
}

// minFleetMachines is how many machines have to show newer firmware: one alone may be the first to try it.
const minFleetMachines = 2

// Fleet is what the other machines of a tenant show.
type Fleet struct {
	Family   string          `json:"family"` // of the machine's firmware, as FirmwareFamily names it
	Versions []FleetFirmware `json:"versions"`
}

// FleetFirmware is a version of a family, and the number of machines that showed it last.
type FleetFirmware struct {
	Version  string `json:"version"`
	Machines int    `json:"machines"`
}

// FirmwareFamily names the firmware versions that the given one can be compared with; empty where there are none. Model
// is the inventory's label of that name.
func FirmwareFamily(version, model string) string {
	family, _ := firmwareOrder(version, model)
	return family
}

// maxFirmwareText bounds a version text and a model.
const maxFirmwareText = 128

// firmwareSchemes are texts of which their makers say what names the model and what counts up. EDK2 and many boards
// measure a GUID, and clouds a text that no update changes: those are not compared.
var (
	// Lenovo: three characters name the model's firmware, "ET", and two count builds: 0 to 9, then A to Z.
	lenovoFirmware = regexp.MustCompile(`^([A-Z0-9]{2,3})ET([0-9A-Z])([0-9A-Z])WW?$`)
	// HPE: a letter and two digits name the system ROM, then the version and its date.
	hpeFirmware = regexp.MustCompile(`^([A-Z][0-9]{2}) v([0-9]{1,4})\.([0-9]{1,4}) \([0-9]{2}/[0-9]{2}/[0-9]{4}\)$`)
	// Two to four numbers with dots name no model.
	dottedFirmware = regexp.MustCompile(`^[vV]?([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?(?:\.([0-9]{1,6}))?$`)
)

// firmwareOrder is the family of a version and its place in it: compared from the left, the greater is the newer.
func firmwareOrder(version, model string) (family string, order []int) {
	if len(version) > maxFirmwareText || len(model) > maxFirmwareText {
		return "", nil
	}
	if m := lenovoFirmware.FindStringSubmatch(version); m != nil {
		return "lenovo " + m[1], []int{int(m[2][0]), int(m[3][0])} // digits come before letters in ASCII, too
	}
	if m := hpeFirmware.FindStringSubmatch(version); m != nil {
		return "hpe " + m[1], numbers(m[2:])
	}
	if m := dottedFirmware.FindStringSubmatch(version); m != nil && model != "" {
		order = numbers(m[1:])
		return fmt.Sprintf("model %s, %d numbers", model, len(order)), order // 1.2 and 1.2.0 are not of one scheme
	}
	return "", nil
}

// numbers reads texts of a few digits; an empty one is left out.
func numbers(texts []string) []int {
	out := make([]int, 0, len(texts))
	for _, text := range texts {
		if n, err := strconv.Atoi(text); err == nil {
			out = append(out, n)
		}
	}
	return out
}
