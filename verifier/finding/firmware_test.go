package finding

import (
	"slices"
	"testing"
)

// Versions of one model's firmware are ordered; texts that no rule of their maker orders are of no family.
func TestFirmwareOrder(t *testing.T) {
	for _, c := range []struct{ older, newer, model string }{
		{"N22ET50W", "N22ET72W", ""}, {"N22ET99W", "N22ETA1W", ""}, {"G4ETA9WW", "G4ETB0WW", ""}, {"N22ET09W", "N22ET10W", ""},
		{"U46 v1.56 (11/29/2021)", "U46 v2.10 (01/02/2023)", ""}, {"U46 v1.6 (11/29/2021)", "U46 v1.56 (11/29/2021)", ""},
		{"1.9.3", "1.10.0", "R340"}, {"2.1", "10.0", "X"}, {"v1.2.3.4", "V1.2.3.5", "X"},
	} {
		family, a := firmwareOrder(c.older, c.model)
		other, b := firmwareOrder(c.newer, c.model)
		if family == "" || family != other || slices.Compare(a, b) >= 0 {
			t.Errorf("%s (%s, %v) is not older than %s (%s, %v)", c.older, family, a, c.newer, other, b)
		}
	}
	for _, c := range [][2]string{{"N22ET50W", "N32ET68W"}, {"U46 v1.56 (11/29/2021)", "U30 v2.10 (01/02/2023)"}, {"1.2", "1.2.0"}} {
		if FirmwareFamily(c[0], "m") == FirmwareFamily(c[1], "m") {
			t.Errorf("%s and %s are of one family", c[0], c[1])
		}
	}
	for _, version := range []string{"", "1.9.3", "GCE Virtual Firmware v2", "546bfb1e-1d0c-4055-a4ad-4ef4bf17b83a", "N1429", "n22et50w", "N22ET50W (1.35 )", "U46 v1.56", "1.2.3.4.5"} {
		if got := FirmwareFamily(version, ""); got != "" {
			t.Errorf("%q is of family %q", version, got)
		}
	}
	if FirmwareFamily("1.2", "a") == FirmwareFamily("1.2", "b") {
		t.Error("two models are of one family")
	}
}
