package attest

import (
	"testing"
	"time"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// look beats, looks at the deadlines, and says what guest attestation is held to be.
func (b *bench) look(m *machine) string {
	b.t.Helper()
	if err := b.store.Beat(b.ctx, b.tenant, b.now()); err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.store.CheckDeadlines(b.ctx, b.tenant, finding.DefaultSilenceLimits(), b.now(), admin); err != nil {
		b.t.Fatal(err)
	}
	items, _, err := b.store.ListAssessments(b.ctx, b.tenant, store.AssessmentFilter{MachineID: &m.id, Code: finding.CodeGuestAttestationHealthy}, store.Page{})
	if err != nil || len(items) != 1 {
		b.t.Fatal(items, err)
	}
	return string(items[0].Status) + " " + items[0].Cause
}

// Stored evidence that is judged again is no sign of life: a silent machine stays stale, with its alert, and what the new
// verdict says of its health counts when it is back. The first boot, and the next, are told from intervals.
func TestReappraisalOfASilentMachine(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	if r := b.attest(m); r.Trigger != verifier.TriggerFirst {
		t.Errorf("the first attestation came after %s", r.Trigger)
	}
	if r := b.attest(m); r.Trigger != verifier.TriggerPeriodic || r.New {
		t.Errorf("the second came after %s", r.Trigger)
	}
	if got := b.look(m); got != "Healthy attested" {
		t.Error(got)
	}
	for range 80 { // twenty minutes, in which the service is there
		b.wait(15 * time.Second)
		b.look(m)
	}
	missing := func() string {
		items, _, err := b.store.ListAlerts(b.ctx, b.tenant, store.AlertFilter{MachineID: &m.id, Code: finding.CodeAttestationMissing}, store.Page{}, b.now())
		if err != nil || len(items) != 1 {
			t.Fatal(items, err)
		}
		return items[0].Status
	}
	if got := b.look(m) + ", " + missing(); got != "Unhealthy stale, active" {
		t.Fatal(got)
	}
	b.policy(func(p *verifier.Policy) { p.RequireBaseline = true })
	b.reappraise()
	if v := b.standing(m); v.Appraisal.Status != verifier.Contraindicated || v.Trigger != verifier.TriggerReappraisal {
		t.Errorf("judged again: %s after %s", v.Appraisal.Status, v.Trigger)
	}
	if got := b.look(m) + ", " + missing(); got != "Unhealthy stale, active" {
		t.Error("judged again: ", got)
	}
	m.reboot(specimen(t, "sb-on-1", bootLog))
	if r := b.attest(m); r.Trigger != verifier.TriggerBoot {
		t.Errorf("a boot is told as %s", r.Trigger)
	}
	if got := b.look(m) + ", " + missing(); got != "Unhealthy baseline_deviation, resolved" {
		t.Error("back: ", got)
	}
	if got := mustMachine(b, m.id); got.BootCount != 2 || got.LastBootAt == nil || !got.LastBootAt.Equal(*got.LastSeenAt) {
		t.Errorf("%d boots, the last at %v", got.BootCount, got.LastBootAt)
	}
}
