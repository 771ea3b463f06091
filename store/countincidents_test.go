package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// miscounted are the incidents whose row says something else than their members, counted whole and written down a second time.
const miscounted = `SELECT concat_ws(' ', i.title, i.status, 'open', i.open_members, n.open, 'episode', i.episode_members, n.episode, 'all', i.all_members, i.ever_members, n.all_n,
		'left', i.left_members, n.episode - n.open, 'undismissed', i.left_undismissed, n.undismissed, 'joined', i.last_joined_at, n.joined, 'left', i.last_left_at, n.left_last, i.closed_at)
	FROM incidents i CROSS JOIN LATERAL (SELECT count(*) AS all_n, count(*) FILTER (WHERE left_at IS NULL) AS open, max(joined_at) AS joined, max(left_at) AS left_last,
			count(*) FILTER (WHERE left_at IS NULL OR left_at >= i.opened_at) AS episode, count(*) FILTER (WHERE left_at >= i.opened_at AND left_as <> 'dismissed') AS undismissed
		FROM incident_members m WHERE m.tenant_id = i.tenant_id AND m.group_key = i.group_key) n
	WHERE (i.open_members, i.episode_members, i.all_members, i.ever_members, i.left_members, i.left_undismissed, i.last_joined_at) <>
			(n.open, n.episode, n.all_n, n.all_n, n.episode - n.open, n.undismissed, n.joined)
		OR (i.closed_at IS NULL) <> (n.open > 0) OR n.open = 0 AND (i.status = 'dismissed') <> (n.undismissed = 0) OR i.closed_at <> n.left_last OR i.closed_at <> i.last_left_at`

// Whatever alerts do between two counts, however far these are apart, what is added up is what a count of all members finds; also
// where a replica that knows nothing of changes counted in between.
func TestIncidentsAddUp(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 100000)
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		var machines []store.Enrollment
		for i := range 3 {
			machines = append(machines, active(t, s, token, fmt.Sprintf("m%d-%d", runs, i)))
		}
		clock := t0
		for range rapid.IntRange(3, 16).Draw(r, "steps") {
			clock = clock.Add(time.Duration(rapid.SampledFrom([]int{1, 1, 60, 8 * 24 * 3600}).Draw(r, "seconds")) * time.Second)
			e := rapid.SampledFrom(machines).Draw(r, "machine")
			switch step := rapid.SampledFrom([]string{"grub", "grub", "kernel", "good", "good", "dismissed", "active", "count", "count", "version before"}).Draw(r, "step"); step {
			case "grub", "kernel":
				rec := caused(e, clock, fmt.Sprint(runs, step))
				rec.Findings.Alerts[0].DisplayName = fmt.Sprint(runs)
				record(t, s, rec)
			case "good":
				record(t, s, judgement(e, clock, verifier.Affirming, "good"))
			case "dismissed", "active":
				if list := alertsOf(t, s, store.AlertFilter{MachineID: &e.MachineID}, clock); len(list) > 0 {
					_, _ = s.SetAlertStatus(t.Context(), tenant, list[0].ID, store.AlertChange{To: step}, clock, system) // or it is refused
				}
			case "version before":
				if _, err := conn.Exec(t.Context(), `UPDATE incidents SET counted_opened_at = NULL WHERE display_name = $1`, fmt.Sprint(runs)); err != nil {
					r.Fatal(err)
				}
			default:
				must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, clock))
				rows, _ := conn.Query(t.Context(), miscounted)
				wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
				if err != nil || len(wrong) > 0 {
					r.Fatalf("%v %v", wrong, err)
				}
			}
		}
	})
	if n := number(t, conn, `SELECT count(*) FROM incidents WHERE reopened_count > 0`); n == 0 {
		t.Error("no incident was ever opened again")
	}
}

// BenchmarkCountPastMembers is a count of an incident with one open member and 100,000 that have left: by what changed, and, as it
// was before and is after an upgrade once, by reading all members.
func BenchmarkCountPastMembers(b *testing.B) {
	s, conn := newStore(b)
	e := active(b, s, joinToken(b, s, "j", 9), "web-1")
	record(b, s, caused(e, t0, "grub"))
	must[store.IncidentsCounted](b)(s.CountIncidents(b.Context(), tenant, t0))
	for _, sql := range []string{
		`INSERT INTO machines (tenant_id, machine_id, name, state, created_at, updated_at) SELECT $1, gen_random_uuid(), 'p' || i, 'active', $2, $2 FROM generate_series(1, 100000) i`,
		`INSERT INTO alerts (tenant_id, alert_id, machine_id, code, display_name, severity, reason, description, remediation_steps, status, first_seen_at, last_seen_at, seen_count,
				updated_at, opened_at, closed_at, closed_by, group_key)
			SELECT tenant_id, gen_random_uuid(), machine_id, 'attestation_failed', 'x', 'medium', '', '', '{}', 'resolved', $2, $2, 1, $2, $2, $2, 'system:alerts', (SELECT group_key FROM incidents)
			FROM machines WHERE tenant_id = $1 AND name LIKE 'p%'`,
		`INSERT INTO incident_members (tenant_id, group_key, alert_id, joined_at, left_at, left_as) SELECT tenant_id, group_key, alert_id, $2, $2, 'resolved' FROM alerts WHERE tenant_id = $1 AND status = 'resolved'`,
	} {
		if _, err := conn.Exec(b.Context(), sql, tenant, t0); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := conn.Exec(b.Context(), `ANALYZE`); err != nil {
		b.Fatal(err)
	}
	const touch = `INSERT INTO incident_touches (tenant_id, touch_id, group_key, code, display_name, severity, reason, title) SELECT tenant_id, gen_random_uuid(), group_key, code, display_name, severity, reason, '' FROM incidents`
	for _, c := range []struct{ name, before string }{
		{"all members", `WITH x AS (UPDATE incidents SET counted_opened_at = NULL) ` + touch},
		{"changes", touch},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := conn.Exec(b.Context(), c.before); err != nil {
					b.Fatal(err)
				}
				if n := must[store.IncidentsCounted](b)(s.CountIncidents(b.Context(), tenant, t0)); n.Counted != 1 {
					b.Fatalf("%+v", n)
				}
			}
			if n := number(b, conn, `SELECT all_members FROM incidents`); n != 100001 {
				b.Fatalf("%d members", n)
			}
		})
	}
}
