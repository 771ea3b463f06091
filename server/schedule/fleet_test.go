package schedule

import (
	"context"
	"testing"
	"time"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// The job finds what was noted, says so once, and ends what is gone.
func TestFleetDetection(t *testing.T) {
	st := newStore(t)
	ctx := t.Context()
	machines, err := st.UpsertMachines(ctx, tenant, []store.MachineInput{{Name: "a"}, {Name: "b"}}, func(store.Machine) finding.Result { return finding.Result{} }, t0, system)
	if err != nil {
		t.Fatal(err)
	}
	now := t0
	jobs := []Job{FleetDetection(st, tenant, func() time.Time { return now })}
	run := func(want string) {
		t.Helper()
		if report, err := Once(context.WithoutCancel(ctx), jobs, "fleet-detection"); err != nil || report != want {
			t.Errorf("%q %v, want %q", report, err, want)
		}
	}
	run("")
	if err := st.NoteSighting(ctx, tenant, machines[0].ID, store.Sighting{Kind: finding.QuoteRelayed, Other: &machines[1].ID}, t0); err != nil {
		t.Fatal(err)
	}
	run("1 changes looked at, 1 conflicts seen, 2 alerts opened, 0 conflicts ended")
	run("")
	alerts, _, err := st.ListAlerts(ctx, tenant, store.AlertFilter{Code: "identity_conflict"}, store.Page{}, t0)
	if err != nil || len(alerts) != 2 {
		t.Fatalf("%v %v", alerts, err)
	}
	for i := range alerts {
		if _, err := st.SetAlertStatus(ctx, tenant, alerts[i].ID, store.AlertChange{To: "resolved"}, t0, system); err != nil {
			t.Fatal(err)
		}
	}
	now = t0.Add(time.Minute)
	run("0 changes looked at, 0 conflicts seen, 0 alerts opened, 1 conflicts ended")
}
