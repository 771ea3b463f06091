package schedule

import (
	"testing"
	"time"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// The jobs find a silent machine, tell of it once, and say what they did; by hand, where nobody serves, nothing is found.
func TestDeadlineJobs(t *testing.T) {
	st := newStore(t)
	m, err := st.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: "web-1"}}, nil, t0, system)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.AddAttestationKey(t.Context(), tenant, m[0].ID, store.AttestationKey{Public: []byte("ak"), Name: []byte("ak"), Assurance: verifier.FirstUse}, t0, system); err != nil {
		t.Fatal(err)
	}
	now := t0
	clock := func() time.Time { return now }
	jobs := []Job{Heartbeat(st, tenant, clock), Deadlines(st, tenant, finding.DefaultSilenceLimits(), clock)}
	run := func(job, want string) {
		t.Helper()
		if report, err := Once(t.Context(), jobs, job); err != nil || report != want {
			t.Errorf("%s: %q %v, want %q", now, report, err, want)
		}
	}
	run(StaleName, "no replica serves, so that no machine could have been heard")
	for ; now.Before(t0.Add(20 * time.Minute)); now = now.Add(15 * time.Second) {
		run(HeartbeatName, "")
		want := map[time.Duration]string{7 * time.Minute: "1 machines are stale", 17 * time.Minute: "1 alerts of single machines"}[now.Sub(t0)]
		run(StaleName, want)
	}
	if deadlineReport(store.DeadlineRound{Stale: 9, Begun: 1, Ended: 2}) != "9 machines are stale, 1 mass silences began, 2 mass silences ended" {
		t.Error("the report leaves something out")
	}
}
