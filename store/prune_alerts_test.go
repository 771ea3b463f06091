package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

const days = 24 * time.Hour

// flap lets a machine fail by n verdicts in a row, a minute apart, and heal.
func flap(t testing.TB, s *store.Store, e store.Enrollment, from time.Time, n int, heal bool) {
	t.Helper()
	for i := range n {
		rec := judgement(e, from.Add(time.Duration(i)*time.Minute), verifier.Contraindicated, fmt.Sprint(from, i))
		rec.Findings.Alerts[0].Group.Cause = []string{"grub"}
		record(t, s, rec)
	}
	if heal {
		record(t, s, judgement(e, from.Add(time.Duration(n)*time.Minute), verifier.Affirming, "good"))
	}
}

// occurrencesOf are the counts of an alert's occurrences, oldest first, with a ? where there is no verdict.
func occurrencesOf(t testing.TB, s *store.Store, alert uuid.UUID) string {
	t.Helper()
	list, _, err := s.AlertOccurrences(t.Context(), tenant, alert, store.Page{Limit: 500})
	must0(t, err)
	slices.Reverse(list)
	out := ""
	for i, o := range list {
		if i > 0 && o.FirstAt.Before(list[i-1].LastAt) {
			t.Errorf("occurrence %d begins at %s, before the one before it ends at %s", i, o.FirstAt, list[i-1].LastAt)
		}
		out += fmt.Sprint(" ", o.Count)
		if o.VerdictID == nil {
			out += "?"
		}
	}
	return out
}

func historyOf(t testing.TB, s *store.Store, alert uuid.UUID) (kinds []string) {
	t.Helper()
	list, _, err := s.AlertHistory(t.Context(), tenant, alert, store.Page{Limit: 500})
	must0(t, err)
	for _, e := range slices.Backward(list) {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// What was over long ago loses its history and keeps what it was; what is open, or was over lately, keeps everything. Pages of
// one row come to the same as large ones.
func TestPruneAlerts(t *testing.T) {
	for _, page := range []int{1, 2, 1000} {
		t.Run(fmt.Sprint("pages of ", page), func(t *testing.T) {
			s, conn := newStore(t)
			token := joinToken(t, s, "j", 9)
			old, lately, open, dismissed := active(t, s, token, "old"), active(t, s, token, "lately"), active(t, s, token, "open"), active(t, s, token, "dismissed")
			flap(t, s, old, t0, 6, true)
			flap(t, s, old, t0.Add(time.Hour), 2, true) // opened again: history, and 8 occurrences
			flap(t, s, dismissed, t0, 6, false)
			flap(t, s, open, t0, 6, false)
			alertOf := func(e store.Enrollment) store.Alert {
				t.Helper()
				return alertsOf(t, s, store.AlertFilter{MachineID: &e.MachineID}, t0)[0]
			}
			for _, comment := range []string{"a", "b"} {
				must[store.AlertEvent](t)(s.CommentAlert(t.Context(), tenant, alertOf(old).ID, comment, t0.Add(2*time.Hour), system))
			}
			must[store.Alert](t)(s.SetAlertStatus(t.Context(), tenant, alertOf(dismissed).ID, store.AlertChange{To: "dismissed"}, t0.Add(time.Hour), system))
			must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, t0.Add(2*time.Hour)))
			flap(t, s, lately, t0.Add(300*days), 5, true)
			flap(t, s, dismissed, t0.Add(300*days), 4, false) // goes on, dismissed
			for _, sql := range []string{
				`INSERT INTO silences (tenant_id, silence_id, scope, silent, peak, since, started_at, ended_at) SELECT $1, gen_random_uuid(), 'fleet', 0, 5, $2, $2, $2 FROM generate_series(1, 3)`,
				`INSERT INTO silences (tenant_id, silence_id, scope, silent, peak, since, started_at) VALUES ($1, gen_random_uuid(), 'fleet', 5, 5, $2, $2)`,
				`INSERT INTO fleet_conflicts (tenant_id, conflict_id, code, kind, machine_id, subject, details, first_seen_at, last_seen_at, ended_at, ended_why)
					SELECT tenant_id, gen_random_uuid(), 'identity_conflict', 'ek_shared', machine_id, 's', '{}', $2, $2, CASE WHEN name <> 'open' THEN $2::timestamptz END, '' FROM machines WHERE tenant_id = $1`,
			} {
				if _, err := conn.Exec(t.Context(), sql, tenant, t0); err != nil {
					t.Fatal(err)
				}
			}
			before := alertOf(old)
			now := t0.Add(500 * days)
			got := must[store.PrunedAlerts](t)(s.PruneAlerts(t.Context(), tenant, now.Add(-400*days), page))
			want := store.PrunedAlerts{Occurrences: 5 + 4, Events: 4, Silences: 3, Conflicts: 3}
			if got != want {
				t.Errorf("pruned %+v, want %+v", got, want)
			}
			// 8 occurrences: the first, the six between as one, the last. Of the dismissed one those that began before, from the second on.
			for _, c := range []struct {
				e    store.Enrollment
				want string
			}{{old, " 1 6? 1"}, {lately, " 1 1 1 1 1"}, {open, " 1 1 1 1 1 1"}, {dismissed, " 1 5? 1 1 1 1"}} {
				if got := occurrencesOf(t, s, alertOf(c.e).ID); got != c.want {
					t.Errorf("occurrences are%s, want%s", got, c.want)
				}
			}
			if got := historyOf(t, s, before.ID); !slices.Equal(got, []string{"opened", "commented"}) {
				t.Errorf("the history is %v", got)
			}
			if after := alertOf(old); after.Count != before.Count || !after.FirstSeenAt.Equal(before.FirstSeenAt) || !after.LastSeenAt.Equal(before.LastSeenAt) || after.ReopenedCount != 1 {
				t.Errorf("the alert was %+v and is %+v", before, after)
			}
			if n := number(t, conn, `SELECT count(*) FROM silences WHERE ended_at IS NULL`) + number(t, conn, `SELECT count(*) FROM fleet_conflicts WHERE ended_at IS NULL`); n != 2 {
				t.Errorf("%d open rows are left, want 2", n)
			}
			if again := must[store.PrunedAlerts](t)(s.PruneAlerts(t.Context(), tenant, now.Add(-400*days), page)); again.Sum() != 0 {
				t.Errorf("again: %+v", again)
			}
			// What is over later is met later, the same alerts again too.
			flap(t, s, old, now, 5, true)
			must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, now))
			must[store.PrunedAlerts](t)(s.PruneAlerts(t.Context(), tenant, now.Add(days), page))
			if got := occurrencesOf(t, s, alertOf(lately).ID); got != " 1 3? 1" {
				t.Errorf("occurrences of the later one are%s", got)
			}
			if got := occurrencesOf(t, s, before.ID); got != " 1 6? 1" {
				t.Errorf("occurrences of the first one are%s", got)
			}
		})
	}
}

// A closed incident loses its members and keeps its counts, also when it opens again afterwards.
func TestPruneIncidents(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 99)
	var machines []store.Enrollment
	for i := range 12 {
		machines = append(machines, active(t, s, token, fmt.Sprint("m", i)))
		record(t, s, caused(machines[i], t0, "grub"))
		if i%2 == 0 {
			record(t, s, caused(active(t, s, token, fmt.Sprint("o", i)), t0, "open"))
		}
	}
	must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, t0))
	for _, e := range machines {
		record(t, s, judgement(e, t0.Add(time.Hour), verifier.Affirming, "good"))
	}
	must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, t0.Add(time.Hour)))
	now := t0.Add(500 * days)
	if p := must[store.PrunedAlerts](t)(s.PruneAlerts(t.Context(), tenant, now.Add(-400*days), 5)); p.Members != 12 || number(t, conn, `SELECT count(*) FROM incident_members`) != 6 {
		t.Errorf("pruned %+v", p)
	}
	record(t, s, caused(machines[0], now, "grub"))
	record(t, s, caused(active(t, s, token, "new"), now, "grub"))
	must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, now))
	list, _, err := s.ListIncidents(t.Context(), tenant, store.IncidentFilter{Open: true}, store.Page{Sort: "-opened_at"})
	must0(t, err)
	// The alert of m0 is a new one: the old was resolved too long ago.
	if i := list[0]; len(list) != 2 || i.Title != "grub changed" || i.All != 14 || i.Episode != 2 || i.Open != 2 || i.ReopenedCount != 1 || !i.FirstSeenAt.Equal(t0) {
		t.Errorf("%+v", list)
	}
}
