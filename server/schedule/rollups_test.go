package schedule

import (
	"testing"
	"time"

	"github.com/assay-verifier/assay/store"
)

// The job moves what was counted once, and deletes it when its time is over.
func TestRollups(t *testing.T) {
	st := newStore(t)
	if _, err := st.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: "a"}, {Name: "b"}}, nil, t0, system); err != nil {
		t.Fatal(err)
	}
	now := t0
	jobs := []Job{Rollups(st, tenant, func() time.Time { return now })}
	run := func(want string) {
		t.Helper()
		if report, err := Once(t.Context(), jobs, "rollups"); err != nil || report != want {
			t.Errorf("%q %v, want %q", report, err, want)
		}
	}
	run("2 counts moved, 0 old ones deleted")
	run("")
	now = t0.Add(store.KeepHours + 2*time.Hour)
	run("0 counts moved, 1 old ones deleted")
}
