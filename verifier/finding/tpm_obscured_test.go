package finding

import "testing"

// An obscured firmware version looks random: it ends no finding, while a version of a maker's list does.
func TestObscuredFirmwareVersionSaysNothing(t *testing.T) {
	for _, c := range []struct {
		manufacturer string
		major        int
		want         bool
	}{{"IFX", 7, true}, {"STM", 71, true}, {"IFX", 0x9c41, false}, {"STM", 7, false}, {"INTC", 7, false}} {
		if got := inList(c.manufacturer, c.major); got != c.want {
			t.Errorf("%s %d: %t", c.manufacturer, c.major, got)
		}
	}
}
