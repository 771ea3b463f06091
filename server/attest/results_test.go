package attest

import "testing"

// Made out to an audience, a result is of an affirming machine, but where the request says otherwise.
func TestResultForAnAudience(t *testing.T) {
	for status, want := range map[string][4]bool{ // no audience, plain, allow_warning, any_status
		"affirming":       {true, true, true, true},
		"warning":         {true, false, true, true},
		"contraindicated": {true, false, false, true},
		"none":            {true, false, false, true},
	} {
		for i, r := range []ResultRequest{{}, {Audience: "x"}, {Audience: "x", AllowWarning: true}, {Audience: "x", AnyStatus: true}} {
			if got := r.admits(status); got != want[i] {
				t.Errorf("%s, %+v: %t", status, r, got)
			}
		}
	}
}
