package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// counted is a brute-force count over history: by step and key.
type counted map[time.Time]map[string]int64

func (c counted) add(r store.SeriesRange, at time.Time, key string, n int64) {
	for _, start := range r.Starts() {
		if !at.Before(start) && at.Before(start.Add(r.Step)) {
			if c[start] == nil {
				c[start] = map[string]int64{}
			}
			c[start][key] += n
		}
	}
}

// history counts the rows of a statement (time, key) step by step.
func history(t *rapid.T, conn *pgx.Conn, r store.SeriesRange, sql string) counted {
	out := counted{}
	rows, _ := conn.Query(context.Background(), sql, tenant)
	var at time.Time
	var key string
	if _, err := pgx.ForEachRow(rows, []any{&at, &key}, func() error {
		out.add(r, at, key, 1)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

const closedHistory = `SELECT o.created_at, a.severity FROM outbox o JOIN alerts a ON a.tenant_id = o.tenant_id AND a.alert_id = o.subject_id
	WHERE o.tenant_id = $1 AND (o.kind = 'alert.resolved' OR o.kind = 'alert.status_changed' AND o.payload->>'to' = 'dismissed')`

const openedHistory = `SELECT a.first_seen_at, a.severity FROM alerts a WHERE a.tenant_id = $1
	UNION ALL SELECT o.created_at, a.severity FROM outbox o JOIN alerts a ON a.tenant_id = o.tenant_id AND a.alert_id = o.subject_id
	WHERE o.tenant_id = $1 AND (o.kind = 'alert.reopened' OR o.kind = 'alert.status_changed' AND o.payload->>'to' = 'active' AND o.payload->>'from' IN ('dismissed', 'resolved'))`

const attestHistory = `SELECT at, CASE WHEN took <= 1 THEN '1' WHEN took <= 5 THEN '5' WHEN took <= 15 THEN '15' WHEN took <= 60 THEN '60' WHEN took <= 300 THEN '300'
		WHEN took <= 900 THEN '900' WHEN took <= 3600 THEN '3600' WHEN took <= 21600 THEN '21600' WHEN took <= 86400 THEN '86400' WHEN took <= 604800 THEN '604800' ELSE 'inf' END
	FROM (SELECT at, extract(epoch FROM at - created_at) AS took FROM machines m JOIN LATERAL (SELECT v.first_at AS at FROM verdicts v
		WHERE v.tenant_id = m.tenant_id AND v.machine_id = m.machine_id ORDER BY v.verdict_id LIMIT 1) v ON true WHERE m.tenant_id = $1) x`

// machineHistory is when machines came to a status (1) and left it (-1).
const machineHistory = `SELECT created_at, 'unattested', 1 FROM machines WHERE tenant_id = $1
	UNION ALL SELECT first_at, status, 1 FROM verdicts WHERE tenant_id = $1
	UNION ALL SELECT first_at, coalesce(lag(status) OVER (PARTITION BY machine_id ORDER BY verdict_id), 'unattested'), -1 FROM verdicts WHERE tenant_id = $1`

// TestSeriesAreExact does random things to a fleet through two replicas, which move counts into the rollups at the same
// time, and compares every series with a count over history.
func TestSeriesAreExact(t *testing.T) {
	u := emptyDatabase(t, "template_assay")
	replicas := []*store.Store{open(t, u, store.Options{}), open(t, u, store.Options{})}
	must0(t, replicas[0].EnsureTenant(t.Context(), tenant, t0))
	conn := must[*pgx.Conn](t)(pgx.Connect(t.Context(), u))
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	token := hash("fleet")
	must0(t, replicas[0].CreateJoinToken(t.Context(), tenant, store.JoinToken{Name: "fleet", UsesLeft: 100_000, ExpiresAt: t0.AddDate(10, 0, 0), CreatedAt: t0}, token, system))
	var fleet []store.Enrollment
	at := t0
	rapid.Check(t, func(rt *rapid.T) {
		stop := foldMeanwhile(t, replicas)
		defer stop()
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			at = at.Add(time.Duration(rapid.SampledFrom([]int{1, 40, 1800, 4000, 20_000}).Draw(rt, "seconds")) * time.Second)
			s := rapid.SampledFrom(replicas).Draw(rt, "replica")
			if len(fleet) == 0 || rapid.IntRange(0, 4).Draw(rt, "what") == 0 {
				name := fmt.Sprintf("m%d", len(fleet))
				e, err := s.CreateEnrollment(t.Context(), tenant, enrolment(token, store.MachineInput{Name: name, ExternalID: name}, "ek "+name, "ak "+name), at, system)
				if err != nil {
					rt.Fatal(err)
				}
				fleet = append(fleet, e)
				continue
			}
			step(t.Context(), rt, s, rapid.SampledFrom(fleet).Draw(rt, "machine"), at)
		}
		stop()
		for _, r := range []store.SeriesRange{{Since: t0, Until: at.Add(time.Hour), Step: time.Hour}, {Since: t0.Add(-50 * time.Hour), Until: at.Add(30 * time.Hour), Step: 24 * time.Hour},
			{Since: at.Add(-30 * time.Hour), Until: at, Step: 6 * time.Hour}} {
			compareSeries(t.Context(), rt, replicas[1], conn, r)
		}
	})
}

// step is one thing that happens to a machine.
func step(ctx context.Context, t *rapid.T, s *store.Store, e store.Enrollment, at time.Time) {
	status := rapid.SampledFrom([]verifier.Status{verifier.Affirming, verifier.Warning, verifier.Contraindicated}).Draw(t, "status")
	if rapid.IntRange(0, 3).Draw(t, "decide") > 0 {
		if _, err := s.RecordAppraisal(ctx, tenant, judgement(e, at, status, status.String())); err != nil {
			t.Fatal(err)
		}
		return
	}
	items, _, err := s.ListAlerts(ctx, tenant, store.AlertFilter{MachineID: &e.MachineID}, store.Page{Limit: 5}, at)
	if err != nil {
		t.Fatal(err)
	}
	if len(items) > 0 {
		to := rapid.SampledFrom([]string{"active", "in_progress", "dismissed", "resolved"}).Draw(t, "to")
		if _, err := s.SetAlertStatus(ctx, tenant, rapid.SampledFrom(items).Draw(t, "alert").ID, store.AlertChange{To: to}, at, system); err != nil && !errors.Is(err, store.ErrConflict) {
			t.Fatal(err)
		}
	}
}

// foldMeanwhile lets each replica move counts, a few at a time, until stop.
func foldMeanwhile(t *testing.T, replicas []*store.Store) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for _, s := range replicas {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.FoldRollups(context.WithoutCancel(ctx), tenant, 3); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		cancel()
		all.Wait()
	})
}

func compareSeries(ctx context.Context, t *rapid.T, s *store.Store, conn *pgx.Conn, r store.SeriesRange) {
	want := map[store.Metric]counted{
		store.VerdictsByStatus: history(t, conn, r, `SELECT first_at, status FROM verdicts WHERE tenant_id = $1`),
		store.AlertsOpened:     history(t, conn, r, openedHistory),
		store.AlertsClosed:     history(t, conn, r, closedHistory),
		store.TimeToAttest:     history(t, conn, r, attestHistory),
		store.MachinesByStatus: machinesAt(t, conn, r),
	}
	for metric, steps := range want {
		points, err := s.Series(ctx, tenant, metric, r)
		if err != nil {
			t.Fatal(err)
		}
		if len(points) != len(r.Starts()) {
			t.Fatalf("%s has %d points", metric, len(points))
		}
		for _, p := range points {
			if !maps.Equal(p.Counts, steps[p.At]) && len(p.Counts)+len(steps[p.At]) > 0 {
				t.Fatalf("%s by %s at %s: %v, counted %v", metric, r.Step, p.At, p.Counts, steps[p.At])
			}
		}
	}
}

// machinesAt is the number of machines of each status at the end of each step.
func machinesAt(t *rapid.T, conn *pgx.Conn, r store.SeriesRange) counted {
	out := counted{}
	rows, _ := conn.Query(context.Background(), machineHistory, tenant)
	var at time.Time
	var key string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&at, &key, &n}, func() error {
		for _, start := range r.Starts() {
			if at.Before(start.Add(r.Step)) {
				if out[start] == nil {
					out[start] = map[string]int64{}
				}
				if out[start][key] += n; out[start][key] == 0 {
					delete(out[start], key)
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// What is there already when the counts begin is counted by the migration, and old rollups are deleted.
func TestRollupsKeepTheirTime(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 1), "web")
	record(t, s, judgement(e, t0, verifier.Affirming, "good"))
	for must[int64](t)(s.FoldRollups(t.Context(), tenant, 100)) > 0 {
	}
	if n := number(t, conn, `SELECT count(*) FROM rollup_deltas`); n != 0 {
		t.Errorf("%d counts are left", n)
	}
	hours := number(t, conn, `SELECT count(*) FROM rollup_hours`)
	if deleted := must[int64](t)(s.PruneRollups(t.Context(), tenant, t0.Add(store.KeepHours))); deleted != 0 || hours == 0 {
		t.Errorf("%d of %d rollups were deleted too early", deleted, hours)
	}
	if deleted := must[int64](t)(s.PruneRollups(t.Context(), tenant, t0.Add(store.KeepHours+2*time.Hour))); deleted != hours {
		t.Errorf("%d of %d hours were deleted", deleted, hours)
	}
	if n := number(t, conn, `SELECT count(*) FROM rollup_days`); n == 0 {
		t.Error("the days are gone with the hours")
	}
	p := store.SeriesPoint{Counts: map[string]int64{"1": 50, "60": 49, "inf": 1}}
	for share, want := range map[float64]int64{0.5: 1, 0.51: 60, 0.99: 60} {
		if got, ok := p.Quantile(share); !ok || got != want {
			t.Errorf("quantile %v is %d", share, got)
		}
	}
	if _, ok := p.Quantile(0.999); ok {
		t.Error("a quantile above all bounds is told")
	}
	if _, ok := (store.SeriesPoint{}).Quantile(0.5); ok {
		t.Error("a quantile of nothing is told")
	}
}
