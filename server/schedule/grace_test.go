package schedule

import (
	"context"
	"testing"
	"time"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// The job ends a window once, says so, and leaves what is not due.
func TestEndGrace(t *testing.T) {
	st := newStore(t)
	ctx := t.Context()
	reference := store.BaselineVersion{Reference: verifier.ReferenceValues{LaunchMeasurements: []string{"aa"}}}
	v, err := st.CreateBaseline(ctx, tenant, "web", verifier.Selector{}, reference, t0, system)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.AddBaselineVersion(ctx, tenant, v.BaselineID, reference, t0, system); err != nil {
		t.Fatal(err)
	}
	until := t0.Add(time.Hour)
	if _, err := st.PromoteVersion(ctx, tenant, v.BaselineID, 2, store.Promotion{Grace: store.Grace{Until: &until}}, t0, system); err != nil {
		t.Fatal(err)
	}
	now := t0
	jobs := []Job{EndGrace(st, tenant, func() time.Time { return now })}
	run := func(want string) {
		t.Helper()
		if report, err := Once(context.WithoutCancel(ctx), jobs, "baseline-grace"); err != nil || report != want {
			t.Errorf("%q %v, want %q", report, err, want)
		}
	}
	run("")
	now = until
	run("baseline web version 1 retired: its time was over")
	run("")
	if got, err := st.GetBaselineVersion(ctx, tenant, v.BaselineID, 1); err != nil || got.State != "retired" || got.ChangedBy != "system:baseline-grace" {
		t.Errorf("%+v %v", got, err)
	}
}
