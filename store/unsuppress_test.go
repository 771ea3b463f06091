package store_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// hidden is one machine with an open alert that a rule hides until an hour from t0.
type hidden struct {
	t       *testing.T
	s       *store.Store
	conn    *pgx.Conn
	machine store.Enrollment
	rule    store.SuppressionRule
}

func byReason(reason string) store.SuppressionScope {
	return store.SuppressionScope{AllOf: []store.SuppressionCondition{{Field: "alert.reason", In: []string{reason}}, {Field: "machine.labels.env", In: []string{"lab"}}}}
}

func newHidden(t *testing.T) *hidden {
	t.Helper()
	h := &hidden{t: t}
	h.s, h.conn = newStore(t)
	h.machine = active(t, h.s, joinToken(t, h.s, "j", 9), "web-1")
	h.label("lab", t0)
	end := t0.Add(time.Hour)
	h.rule = must[store.SuppressionRule](t)(h.s.CreateSuppressionRule(t.Context(), tenant, store.SuppressionRule{AlertCode: "attestation_failed", Reason: "lab", ExpiresAt: &end,
		Scope: byReason("baseline_deviation")}, t0, system))
	record(t, h.s, caused(h.machine, t0, "grub"))
	must[store.IncidentsCounted](t)(h.s.CountIncidents(t.Context(), tenant, t0))
	h.expect("hidden", "alert.opened hidden, incident.opened hidden", "opened")
	return h
}

func (h *hidden) label(env string, at time.Time) {
	h.t.Helper()
	must[[]store.Machine](h.t)(h.s.UpsertMachines(h.t.Context(), tenant, []store.MachineInput{{Name: "web-1", ExternalID: "id-web-1", Labels: map[string]string{"env": env}}}, nil, at, system))
}

func (h *hidden) texts(sql string) string {
	h.t.Helper()
	rows, _ := h.conn.Query(h.t.Context(), sql)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must0(h.t, err)
	return strings.Join(list, ", ")
}

// expect holds what the outbox and the alert's history say, in their order.
func (h *hidden) expect(story, outbox, history string) {
	h.t.Helper()
	if got := h.texts(`SELECT kind || CASE WHEN payload->>'suppressed_by' IS NOT NULL OR payload->>'suppressed' = 'true' THEN ' hidden' ELSE '' END FROM outbox ORDER BY written_at, event_id`); got != outbox {
		h.t.Errorf("%s: the outbox says %q, want %q", story, got, outbox)
	}
	if got := h.texts(`SELECT kind FROM alert_events ORDER BY at, event_id`); got != history {
		h.t.Errorf("%s: the history says %q, want %q", story, got, history)
	}
}

func (h *hidden) count(at time.Time) {
	h.t.Helper()
	must[store.IncidentsCounted](h.t)(h.s.CountIncidents(h.t.Context(), tenant, at))
}

// An open alert that no rule hides any more is told to receivers and in its history, once, whatever the reason; and so is its
// incident. What comes later tells it no second time.
func TestWhatIsSuppressedNoMoreIsTold(t *testing.T) {
	later := t0.Add(time.Minute)
	for story, c := range map[string]struct {
		by    func(h *hidden)
		actor string
	}{
		"the rule is deleted": {func(h *hidden) {
			must0(h.t, h.s.DeleteSuppressionRule(h.t.Context(), tenant, h.rule.ID, later, system))
		}, "system:test"},
		"the rule is disabled": {func(h *hidden) {
			h.rule.State = "disabled"
			must[store.SuppressionRule](h.t)(h.s.UpdateSuppressionRule(h.t.Context(), tenant, h.rule, later, system))
		}, "system:test"},
		"the rule is narrowed": {func(h *hidden) {
			h.rule.Scope.AllOf = append(h.rule.Scope.AllOf, store.SuppressionCondition{Field: "machine.name", In: []string{"web-2"}})
			must[store.SuppressionRule](h.t)(h.s.UpdateSuppressionRule(h.t.Context(), tenant, h.rule, later, system))
		}, "system:test"},
		"the machine is another": {func(h *hidden) { h.label("prod", later) }, "system:test"},
		"the reason is another": {func(h *hidden) {
			rec := caused(h.machine, later, "grub")
			rec.Fingerprint, rec.Findings.Alerts[0].Reason = [32]byte{1}, verifier.OriginUnverified
			record(h.t, h.s, rec)
		}, "system:alerts"},
		"the rule expires":                        {func(h *hidden) { h.count(t0.Add(time.Hour)) }, "system:alerts"},
		"an occurrence finds that it has expired": {func(h *hidden) { record(h.t, h.s, caused(h.machine, t0.Add(time.Hour), "grub 2")) }, "system:alerts"},
	} {
		t.Run(story, func(t *testing.T) {
			h := newHidden(t)
			c.by(h)
			h.count(t0.Add(time.Hour))
			got := h.texts(`SELECT kind FROM outbox WHERE kind LIKE '%unsuppressed' ORDER BY written_at`)
			if want := "alert.unsuppressed, incident.unsuppressed"; got != want && story != "the reason is another" && !strings.Contains(story, "occurrence") {
				t.Errorf("told %q, want %q", got, want)
			} else if !strings.HasPrefix(got, "alert.unsuppressed") || strings.Count(got, "alert.") != 1 { // of another cause, the incident is another
				t.Errorf("told %q", got)
			}
			if got := h.texts(`SELECT actor FROM alert_events WHERE kind = 'unsuppressed' AND from_status = '' AND to_status = ''`); got != c.actor {
				t.Errorf("by %q, want %q", got, c.actor)
			}
			if got := h.texts(`SELECT concat_ws(' ', payload->>'to', payload->>'severity', payload->>'code', payload->>'suppressed_by') FROM outbox WHERE kind = 'alert.unsuppressed'`); got != "active medium attestation_failed" {
				t.Errorf("the event says %q", got)
			}
			if n := number(t, h.conn, `SELECT coalesce(sum(suppressed_members), 0) FROM incidents`); n != 0 {
				t.Errorf("%d are counted as hidden", n)
			}
			h.count(t0.Add(2 * time.Hour))
			record(t, h.s, caused(h.machine, t0.Add(2*time.Hour), "again"))
			if err := h.s.DeleteSuppressionRule(t.Context(), tenant, h.rule.ID, t0.Add(2*time.Hour), system); err != nil && !strings.Contains(story, "deleted") {
				t.Error(err)
			}
			if n := number(t, h.conn, `SELECT count(*) FROM outbox WHERE kind = 'alert.unsuppressed'`) + number(t, h.conn, `SELECT count(*) FROM alert_events WHERE kind = 'unsuppressed'`); n != 2 {
				t.Errorf("told %d times in all", n)
			}
		})
	}
}

// Nothing is told where another rule hides the alert from then on, nor of an alert that is closed.
func TestWhatStaysHiddenIsNotTold(t *testing.T) {
	h := newHidden(t)
	other := must[store.SuppressionRule](t)(h.s.CreateSuppressionRule(t.Context(), tenant, store.SuppressionRule{AlertCode: "*", Reason: "all"}, t0, system))
	must0(t, h.s.DeleteSuppressionRule(t.Context(), tenant, h.rule.ID, t0, system))
	h.count(t0)
	h.expect("another rule", "alert.opened hidden, incident.opened hidden", "opened")
	id := alertsOf(t, h.s, store.AlertFilter{IncludeSuppressed: true}, t0)[0].ID
	must[store.Alert](t)(h.s.SetAlertStatus(t.Context(), tenant, id, store.AlertChange{To: "resolved"}, t0.Add(time.Minute), system))
	must0(t, h.s.DeleteSuppressionRule(t.Context(), tenant, other.ID, t0.Add(2*time.Minute), system))
	h.expect("closed", "alert.opened hidden, incident.opened hidden, alert.resolved", "opened, status_changed")
	// Opened again by hand, it is what it is now: rules did not look at it while it was closed.
	a := must[store.Alert](t)(h.s.SetAlertStatus(t.Context(), tenant, id, store.AlertChange{To: "active"}, t0.Add(3*time.Minute), system))
	if a.SuppressedBy != nil {
		t.Errorf("hidden by %s, which was deleted", a.SuppressedBy)
	}
	must[store.SuppressionRule](t)(h.s.CreateSuppressionRule(t.Context(), tenant, store.SuppressionRule{AlertCode: "other", Reason: "x"}, t0.Add(4*time.Minute), system))
	h.expect("reopened", "alert.opened hidden, incident.opened hidden, alert.resolved, alert.reopened", "opened, status_changed, reopened")
	if n := number(t, h.conn, `SELECT count(*) FROM alerts WHERE suppressed_by IS NOT NULL`); n != 0 {
		t.Errorf("%d alerts name a rule", n)
	}
}

// Replicas that find at once that rules have expired, while alerts are raised: each alert is told once, and the clock of one that
// is behind brings no rule back.
func TestExpiryIsToldOnceByReplicas(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 99)
	end := t0.Add(time.Hour)
	must[store.SuppressionRule](t)(s.CreateSuppressionRule(t.Context(), tenant, store.SuppressionRule{AlertCode: "*", Reason: "lab", ExpiresAt: &end}, t0, system))
	var machines []store.Enrollment
	for i := range 30 {
		machines = append(machines, active(t, s, token, fmt.Sprint("m", i)))
		record(t, s, caused(machines[i], t0, "grub"))
	}
	other := open(t, conn.Config().ConnString(), store.Options{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if _, err := []*store.Store{s, other}[i%2].CountIncidents(t.Context(), tenant, end); err != nil {
				t.Error(err)
			}
		})
	}
	for i, e := range machines[:10] {
		wg.Go(func() { record(t, s, caused(e, end.Add(time.Duration(i)*time.Millisecond), "grub")) })
	}
	wg.Wait()
	for _, e := range machines[:5] { // a replica whose clock is behind
		record(t, other, caused(e, end.Add(-time.Minute), "kernel"))
	}
	must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, end.Add(time.Second)))
	if n := number(t, conn, `SELECT count(*) FROM alerts WHERE suppressed_by IS NOT NULL`); n != 0 {
		t.Errorf("%d are hidden still", n)
	}
	for _, sql := range []string{`SELECT count(*) FROM outbox WHERE kind = 'alert.unsuppressed'`, `SELECT count(DISTINCT subject_id) FROM outbox WHERE kind = 'alert.unsuppressed'`,
		`SELECT count(*) FROM alert_events WHERE kind = 'unsuppressed'`} {
		if n := number(t, conn, sql); n != 30 {
			t.Errorf("%s: %d", sql, n)
		}
	}
	if n := number(t, conn, `SELECT count(*) FROM outbox WHERE kind = 'incident.unsuppressed'`); n > 1 {
		t.Errorf("the incident was told %d times", n)
	}
}
