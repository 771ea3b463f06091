package schedule

import (
	"testing"
	"time"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// The job deletes what was over for longer than it is told to keep, and says how much that was.
func TestPruneAlertsJob(t *testing.T) {
	st := newStore(t)
	failing := true
	alert := finding.Alert{Code: "attestation_failed", DisplayName: "x", Severity: finding.Low}
	derive := func(store.Machine) finding.Result {
		r := finding.Result{EvaluatedAlerts: []string{alert.Code}}
		if failing {
			r.Alerts = []finding.Alert{alert}
		}
		return r
	}
	report := func(at time.Time) {
		t.Helper()
		if _, err := st.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: "web-1"}}, derive, at, system); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 { // opened, resolved, and so on: six events
		failing = true
		report(t0.Add(time.Duration(2*i) * time.Minute))
		failing = false
		report(t0.Add(time.Duration(2*i+1) * time.Minute))
	}
	if _, err := st.CountIncidents(t.Context(), tenant, t0.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	now := t0.Add(LeastAlertRetention)
	jobs := []Job{PruneAlerts(st, tenant, LeastAlertRetention, func() time.Time { return now })}
	for _, c := range []struct {
		after time.Duration
		want  string
	}{{0, ""}, {2 * time.Hour, "deleted 0 occurrences and 4 events of alerts, 1 members of incidents, 0 silences, 0 fleet conflicts"}, {0, ""}} {
		now = now.Add(c.after)
		if got, err := Once(t.Context(), jobs, "alerts-retention"); err != nil || got != c.want {
			t.Errorf("%q %v, want %q", got, err, c.want)
		}
	}
}
