package finding

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier"
)

// Which way a TPM went back, and what that may be; what goes forward is none.
func TestCompareStates(t *testing.T) {
	day := uint64(24 * 3600 * 1000)
	first := ConflictState{ResetCount: 500, RestartCount: 3, ClockMS: 100 * day, FirmwareVersion: "01"}
	for story, c := range map[string]struct {
		change func(*ConflictState)
		kind   ConflictKind
		mayBe  string
	}{
		"later":                                {func(s *ConflictState) { s.ClockMS++ }, "", ""},
		"resumed: the restart counter":         {func(s *ConflictState) { s.RestartCount++; s.ClockMS++ }, "", ""},
		"booted: restarts begin anew":          {func(s *ConflictState) { s.ResetCount++; s.RestartCount = 0; s.ClockMS++ }, "", ""},
		"new firmware, and forward":            {func(s *ConflictState) { s.FirmwareVersion = "02"; s.ClockMS++ }, "", ""},
		"a snapshot of an earlier boot":        {func(s *ConflictState) { s.ResetCount, s.ClockMS = 490, 90*day }, ResetBack, "snapshot_restored vtpm_cloned"},
		"cleared: all from zero":               {func(s *ConflictState) { s.ResetCount, s.RestartCount, s.ClockMS = 0, 0, 3000 }, ResetBack, "tpm_cleared snapshot_restored vtpm_cloned"},
		"firmware update that began anew":      {func(s *ConflictState) { s.ResetCount, s.ClockMS, s.FirmwareVersion = 400, 100*day, "02" }, ResetBack, "tpm_firmware_updated snapshot_restored vtpm_cloned"},
		"within one boot":                      {func(s *ConflictState) { s.ClockMS-- }, ClockBack, "old_quote snapshot_restored vtpm_cloned"},
		"the restart counter within one boot":  {func(s *ConflictState) { s.RestartCount = 2 }, ClockBack, "snapshot_restored vtpm_cloned"},
		"a later boot, with an earlier clock":  {func(s *ConflictState) { s.ResetCount, s.ClockMS = 501, 99*day }, ClockBack, "snapshot_restored vtpm_cloned"},
		"few resets, but the clock of a life":  {func(s *ConflictState) { s.ResetCount, s.ClockMS = 2, 99*day }, ResetBack, "snapshot_restored vtpm_cloned"},
		"a young clock, but resets of a life ": {func(s *ConflictState) { s.ResetCount, s.ClockMS = 400, day }, ResetBack, "snapshot_restored vtpm_cloned"},
	} {
		t.Run(story, func(t *testing.T) {
			second := first
			c.change(&second)
			kind, mayBe, behind := CompareStates(&first, &second)
			if kind != c.kind || strings.Join(mayBe, " ") != c.mayBe || behind != (c.kind != "") {
				t.Errorf("%s %v", kind, mayBe)
			}
		})
	}
}

// Every kind has words of its own for both machines of the pair, which name the other, and the same incident.
func TestConflictAlerts(t *testing.T) {
	state := func(reset uint32, boot string) *ConflictState {
		return &ConflictState{At: time.Unix(0, 0), ResetCount: reset, ClockMS: 5, Boot: boot}
	}
	yes := true
	for story, c := range map[string]struct {
		conflict Conflict
		contains string
	}{
		"ek":              {Conflict{Kind: EKShared}, "endorsement key"},
		"ek, proved":      {Conflict{Kind: EKShared, Observed: ConflictObserved{Proved: &yes}}, "has shown that it holds"},
		"ak asked for":    {Conflict{Kind: AKShared, Observed: ConflictObserved{Proved: new(bool)}}, "has not shown"},
		"ak vouched for":  {Conflict{Kind: AKShared}, "vouch"},
		"ak of both":      {Conflict{Kind: AKShared, Observed: ConflictObserved{Sharing: 2}}, "proved by one and the same"},
		"vm":              {Conflict{Kind: VMShared, Observed: ConflictObserved{What: "vm", Sharing: 2}}, "the cloud's id"},
		"instance":        {Conflict{Kind: VMShared, Observed: ConflictObserved{What: "instance", Sharing: 2}}, "certificate"},
		"guest":           {Conflict{Kind: VMShared, Observed: ConflictObserved{What: "guest", Sharing: 2}}, "REPORT_ID"},
		"relay":           {Conflict{Kind: QuoteRelayed}, "signed by the TPM of the other"},
		"log":             {Conflict{Kind: LogOfOther, Observed: ConflictObserved{Sharing: 2}}, "network cards"},
		"series":          {Conflict{Kind: SeriesShared, Observed: ConflictObserved{Boots: 3}}, "3 boots"},
		"reset":           {Conflict{Kind: ResetBack, First: state(9, ""), Second: state(8, ""), Observed: ConflictObserved{MayBe: []string{MayBeCleared}}}, "from (reset counter 9, restart counter 0, clock 5 ms) to (reset counter 8"},
		"clock":           {Conflict{Kind: ClockBack, First: state(9, ""), Second: state(9, "")}, "clock or restart counter went back"},
		"fork of a boot":  {Conflict{Kind: HistoryForked, First: state(9, "aa"), Second: state(9, "bb")}, "two different boots"},
		"fork, ahead":     {Conflict{Kind: HistoryForked, First: state(9, ""), Second: state(9, ""), Observed: ConflictObserved{AheadMS: 7}}, "7 ms more than have passed"},
		"fork, both live": {Conflict{Kind: HistoryForked, First: state(8, ""), Second: state(9, "")}, "two copies of it live"},
	} {
		t.Run(story, func(t *testing.T) {
			c.conflict.Machines = []ConflictMachine{{"1", "web-1"}, {"2", "web-2"}}
			code := "identity_conflict"
			if c.conflict.Kind.Rollback() {
				c.conflict.Machines, code = c.conflict.Machines[:1], "rollback_detected"
			}
			var keys [][32]byte
			for _, m := range c.conflict.Machines {
				a := c.conflict.Alert(m.ID, "linux")
				if a.Code != code || a.Severity != High || a.Reason != verifier.OriginUnverified || !strings.Contains(a.Description, c.contains) {
					t.Errorf("%+v", a)
				}
				for _, other := range c.conflict.Machines {
					if !strings.Contains(a.Description, other.Name) || !strings.Contains(a.GroupTitle(), other.Name) {
						t.Errorf("does not name %s: %s", other.Name, a.Description)
					}
				}
				if !slices.ContainsFunc(a.RemediationSteps, func(s string) bool { return strings.Contains(s, "On Linux") }) ||
					slices.ContainsFunc(a.RemediationSteps, func(s string) bool { return strings.Contains(s, "On Windows") }) {
					t.Errorf("steps %q", a.RemediationSteps)
				}
				keys = append(keys, a.GroupKey())
			}
			if keys[0] != keys[len(keys)-1] {
				t.Error("the two alerts of a pair are two incidents")
			}
		})
	}
	claimed := Conflict{Kind: NameClaimed, Machines: []ConflictMachine{{"1", "web-1"}, {"", "web-1"}}, Observed: ConflictObserved{Proved: new(bool)}}
	if a := claimed.Alert("1", ""); !strings.Contains(a.Description, "another TPM under its name") || !strings.Contains(a.Description, "Machine web-1") {
		t.Error(a.Description)
	}
}

// The rules that the store finds are in the catalogue, and no appraisal decides them.
func TestFleetRules(t *testing.T) {
	for _, r := range []*Rule{identityConflict, rollbackDetected} {
		if !slices.Contains(Rules, r) || r.evaluate != nil || r.FoundBy == "" || r.Severity != High || len(r.Steps["linux"]) == 0 || len(r.Steps["windows"]) == 0 {
			t.Errorf("%+v", r)
		}
	}
}
