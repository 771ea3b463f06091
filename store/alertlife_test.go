package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// lifeModel is what an alert's life is, written down a second time: the newest alert of one machine and code.
type lifeModel struct {
	alerts []modelAlert // oldest first
	now    time.Time
}

type modelAlert struct {
	status    string
	count     int64
	what      string // the cause
	closed    time.Time
	reopened  int
	histories int
	runs      int // occurrences
	over      bool
}

func (a *modelAlert) open() bool { return a.status == "active" || a.status == "in_progress" }

// current is the open alert, else the newest; nil for none.
func (m *lifeModel) current() *modelAlert {
	for i := range m.alerts {
		if m.alerts[i].open() {
			return &m.alerts[i]
		}
	}
	if len(m.alerts) == 0 {
		return nil
	}
	return &m.alerts[len(m.alerts)-1]
}

// fail is an attestation that fails by the cause what; sameRun tells that the one before was judged alike.
func (m *lifeModel) fail(what string, sameRun bool) {
	switch a := m.current(); {
	case a != nil && a.open():
		a.count++
		if !sameRun {
			a.runs++
		}
		a.what = what
	case a != nil && a.status == "dismissed" && a.what == what && !a.over:
		a.count++
		if !sameRun {
			a.runs++
		}
	case a != nil && a.status == "resolved" && m.now.Sub(a.closed) < 7*24*time.Hour:
		a.status, a.what = "active", what
		a.count, a.reopened, a.histories, a.runs = a.count+1, a.reopened+1, a.histories+1, a.runs+1
	default:
		m.alerts = append(m.alerts, modelAlert{status: "active", count: 1, what: what, histories: 1, runs: 1})
	}
}

func (m *lifeModel) heal() {
	for i := range m.alerts {
		a := &m.alerts[i]
		if a.open() {
			a.status, a.closed = "resolved", m.now
			a.histories++
		}
		a.over = a.over || a.status == "dismissed"
	}
}

// set is a change by hand of the newest alert; false where it is refused.
func (m *lifeModel) set(to string) bool {
	a := &m.alerts[len(m.alerts)-1]
	allowed := map[string]bool{
		"active in_progress": true, "active dismissed": true, "active resolved": true,
		"in_progress active": true, "in_progress dismissed": true, "in_progress resolved": true,
		"dismissed active": true, "resolved active": true,
	}
	if !allowed[a.status+" "+to] {
		return false
	}
	if !a.open() {
		a.reopened, a.over = a.reopened+1, false
	}
	a.status = to
	a.histories++
	if !a.open() {
		a.closed, a.over = m.now, false
	}
	return true
}

// The store and the table of transitions agree on whatever happens, in whatever order.
func TestAlertsLiveByTheTable(t *testing.T) {
	s, _ := newStore(t)
	token := joinToken(t, s, "j", 10000)
	lives := 0
	rapid.Check(t, func(r *rapid.T) {
		lives++
		e := active(t, s, token, fmt.Sprintf("m%d", lives))
		m := lifeModel{now: t0}
		last := ""
		for range rapid.IntRange(1, 14).Draw(r, "steps") {
			m.now = m.now.Add(time.Duration(rapid.SampledFrom([]int{1, 60, 60, 8 * 24 * 60}).Draw(r, "minutes")) * time.Minute)
			switch step := rapid.SampledFrom([]string{"bad", "bad after a boot", "worse", "good", "active", "in_progress", "dismissed", "resolved"}).Draw(r, "step"); step {
			case "bad", "bad after a boot", "worse":
				cause, _, _ := strings.Cut(step, " ")
				rec := judgement(e, m.now, verifier.Contraindicated, step)
				rec.Findings.Alerts[0].Group.Cause = []string{cause}
				record(t, s, rec)
				m.fail(cause, last == step)
				last = step
			case "good":
				record(t, s, judgement(e, m.now, verifier.Affirming, "good"))
				if last != "good" { // a repetition changes nothing
					m.heal()
				}
				last = "good"
			default:
				list := alertsOf(t, s, store.AlertFilter{MachineID: &e.MachineID}, m.now)
				if len(list) == 0 {
					continue
				}
				_, err := s.SetAlertStatus(t.Context(), tenant, list[0].ID, store.AlertChange{To: step}, m.now, system)
				if done := m.set(step); done != (err == nil) || err != nil && !errors.Is(err, store.ErrConflict) {
					r.Fatalf("to %s: %v, and the table says %v", step, err, done)
				}
			}
			compare(t, r, s, e.MachineID, &m)
		}
	})
}

func compare(t *testing.T, r *rapid.T, s *store.Store, machine uuid.UUID, m *lifeModel) {
	got := alertsOf(t, s, store.AlertFilter{MachineID: &machine}, m.now)
	slices.Reverse(got)
	var have, want []string
	for _, a := range got {
		history, _, err := s.AlertHistory(t.Context(), tenant, a.ID, store.Page{Limit: 500})
		must0(t, err)
		runs, _, err := s.AlertOccurrences(t.Context(), tenant, a.ID, store.Page{Limit: 500})
		must0(t, err)
		total := int64(0)
		for _, o := range runs {
			total += o.Count
		}
		if total != a.Count || !runs[0].LastAt.Equal(a.LastSeenAt) || !runs[len(runs)-1].FirstAt.Equal(a.FirstSeenAt) {
			r.Fatalf("occurrences %+v of alert %+v", runs, a)
		}
		have = append(have, fmt.Sprintf("%s×%d reopened %d, history %d, runs %d, closed %v", a.Status, a.Count, a.ReopenedCount, len(history), len(runs), a.ClosedAt != nil))
	}
	for _, a := range m.alerts {
		want = append(want, fmt.Sprintf("%s×%d reopened %d, history %d, runs %d, closed %v", a.status, a.count, a.reopened, a.histories, a.runs, !a.open()))
	}
	if !slices.Equal(have, want) {
		r.Fatalf("alerts\n%s\nand by the table\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

// Whoever comes first: of one machine and code one alert is open at most, nothing is lost, and each change by hand either
// happened or was refused.
func TestConcurrentTransitions(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	record(t, s, judgement(e, t0, verifier.Contraindicated, "bad"))
	id := alertsOf(t, s, store.AlertFilter{}, t0)[0].ID
	const workers, rounds = 6, 15
	var wg sync.WaitGroup
	var mu sync.Mutex
	byHand := int64(0)
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				at := t0.Add(time.Duration(w*rounds+i) * time.Second)
				var err error
				switch (w + i) % 4 {
				case 0:
					_, err = s.RecordAppraisal(t.Context(), tenant, judgement(e, at, verifier.Contraindicated, fmt.Sprintf("bad %d", i%2)))
				case 1:
					_, err = s.RecordAppraisal(t.Context(), tenant, judgement(e, at, verifier.Affirming, "good"))
				default:
					to := []string{"active", "in_progress", "dismissed", "resolved"}[(w+i/2)%4]
					if _, err = s.SetAlertStatus(t.Context(), tenant, id, store.AlertChange{To: to}, at, system); err == nil {
						mu.Lock()
						byHand++
						mu.Unlock()
					}
				}
				if err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNonceUsed) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := number(t, conn, `SELECT count(*) FROM alerts WHERE status IN ('active', 'in_progress')`); n > 1 {
		t.Errorf("%d open alerts of one machine and code", n)
	}
	for what, sql := range map[string]string{
		"changes by hand in the history": `SELECT count(*) FROM alert_events WHERE actor = 'system:test'`,
		"changes by hand in the audit":   `SELECT count(*) FROM audit_events WHERE action = 'alert.set_status'`,
	} {
		if n := number(t, conn, sql); n != byHand {
			t.Errorf("%d %s, want %d", n, what, byHand)
		}
	}
	for what, sql := range map[string]string{
		"events of the history without one in the outbox": `SELECT count(*) FROM alert_events h WHERE h.kind <> 'commented' AND NOT EXISTS (SELECT FROM outbox o WHERE o.event_id = h.event_id)`,
		"alerts whose last event says otherwise":          `SELECT count(*) FROM alerts a WHERE reopened_count <> (SELECT count(*) FROM alert_events h WHERE h.alert_id = a.alert_id AND h.kind = 'reopened')`,
		"open alerts that are no member":                  `SELECT count(*) FROM alerts a WHERE a.closed_at IS NULL AND NOT EXISTS (SELECT FROM incident_members m WHERE m.alert_id = a.alert_id AND m.group_key = a.group_key AND m.left_at IS NULL)`,
		"closed alerts that are a member":                 `SELECT count(*) FROM alerts a WHERE a.closed_at IS NOT NULL AND EXISTS (SELECT FROM incident_members m WHERE m.alert_id = a.alert_id AND m.left_at IS NULL)`,
		"closed without a time, or open with one":         `SELECT count(*) FROM alerts WHERE (closed_at IS NULL) <> (status IN ('active', 'in_progress')) OR (closed_by = '') <> (closed_at IS NULL)`,
	} {
		if n := number(t, conn, sql); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}
