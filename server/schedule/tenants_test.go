package schedule

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// Every tenant has its round, one after a failing one too, and the report sums up.
func TestForTenants(t *testing.T) {
	st := newStore(t)
	other := uuid.MustParse("ffffffff-0000-4000-8000-0000000000ff")
	if err := st.EnsureTenant(t.Context(), other, t0); err != nil {
		t.Fatal(err)
	}
	for _, of := range []uuid.UUID{tenant, other} {
		machines, err := st.UpsertMachines(t.Context(), of, []store.MachineInput{{Name: "a"}, {Name: "b"}}, func(store.Machine) finding.Result { return finding.Result{} }, t0, system)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.NoteSighting(t.Context(), of, machines[0].ID, store.Sighting{Kind: finding.QuoteRelayed, Other: &machines[1].ID}, t0); err != nil {
			t.Fatal(err)
		}
	}
	const found = "1 changes looked at, 1 conflicts seen, 2 alerts opened, 0 conflicts ended"
	detection := ForTenants(st, func(of uuid.UUID) Job { return FleetDetection(st, of, func() time.Time { return t0 }) })
	if report, err := Once(t.Context(), []Job{detection}, "fleet-detection"); err != nil || report != found+"; tenant "+other.String()+": "+found {
		t.Errorf("%q, %v", report, err)
	}
	failing := ForTenants(st, func(of uuid.UUID) Job {
		return Job{Name: "a", Every: time.Second, Run: func(context.Context) (string, error) {
			if of == tenant {
				return "", errors.New("it broke")
			}
			return "done", nil
		}}
	})
	if report, err := Once(t.Context(), []Job{failing}, "a"); report != "tenant "+other.String()+": done" || err == nil || !strings.Contains(err.Error(), tenant.String()+": it broke") {
		t.Errorf("%q, %v", report, err)
	}
}

// A round that hangs is ended, and the log says so; each job has a bound.
func TestRoundsEnd(t *testing.T) {
	hangs := Job{Name: "a", Every: time.Second, Limit: time.Nanosecond, Run: func(ctx context.Context) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}}
	if _, err := Once(t.Context(), []Job{hangs}, "a"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "ended after 1ns") {
		t.Error(err)
	}
	for every, want := range map[time.Duration]time.Duration{time.Second: 5 * time.Minute, time.Hour: 10 * time.Hour} {
		if got := (&Job{Every: every}).limit(); got != want {
			t.Errorf("a round of each %s may take %s, want %s", every, got, want)
		}
	}
}
