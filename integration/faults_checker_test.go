package integration_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
)

// judged is what a machine's history counts by what was judged.
type judged map[string]int64

const (
	affirmed = "affirming "
	deviated = "contraindicated baseline_deviation"
	denied   = "contraindicated origin_unverified"
)

// bounds are how often each judgement must have been counted at least, and may at most: attempts whose sender was told
// nothing may have been judged, once.
type bounds struct{ least, most judged }

func (b *bounds) sure(what string) { b.least[what]++; b.most[what]++ }
func (b *bounds) maybe(what ...string) {
	for _, w := range what {
		b.most[w]++
	}
}

// expect says what an attempt must have been answered, and counts what may be stored of it. Evidence of which nobody was told
// anything may have been judged after a later one: then its challenge is used, which is a judgement for the worse.
func (a *attempt) expect(b *bounds) error {
	right := map[truth]string{good: affirmed, deviating: deviated, forged: denied, replayed: denied}[a.truth]
	switch {
	case a.verdict != nil:
		got := a.verdict.Status + " " + a.verdict.Reason
		if a.truth == replayed && got == affirmed && a.first.verdict == nil { // the first never arrived, so that this is it
			b.least[affirmed]++
			if a.first.told() {
				b.most[affirmed]++
			}
			return nil
		}
		if a.skewed && got == denied && a.verdict.check("quote.nonce").Status == "fail" { // late, by a clock that is wrong
			b.sure(denied)
			return nil
		}
		if got != right {
			return fmt.Errorf("evidence that is %s was judged %s: %+v", a.truth, got, a.verdict.statuses())
		}
		b.sure(got)
	case !a.told() && a.truth == foreign:
	case !a.told():
		b.maybe(right)
		if right != denied {
			b.maybe(denied)
		}
		if a.truth == replayed && a.first.verdict == nil && a.first.told() { // where it was not told, one of the two may be
			b.maybe(affirmed)
		}
	case (a.truth == foreign || a.skewed) && a.code == "unknown_challenge":
	case a.code == "event_log_required" && a.truth != foreign: // nothing was judged
	case a.skewed && a.code == "unauthenticated": // the token's time is in the future
	case a.code == "overloaded" || a.code == "rate_limited":
	default:
		return fmt.Errorf("evidence that is %s was refused: %d %s", a.truth, a.status, a.code)
	}
	return nil
}

// check compares the whole database with what the machines were told: how many verdicts, and how often nothing.
func (f *subjects) check(t testing.TB, db *pgx.Conn) (answers, open int) {
	t.Helper()
	for _, s := range f.all {
		if s.err != nil {
			t.Errorf("%s machine %s: %v", s.kind, s.id, s.err)
		}
		b := bounds{judged{}, judged{}}
		for _, a := range s.attempts {
			if err := a.expect(&b); err != nil {
				t.Errorf("%s machine %s: %v", s.kind, s.id, err)
			}
			if a.verdict != nil {
				answers++
			} else if !a.told() {
				open++
			}
		}
		s.compareCounts(t, db, &b)
		s.compareRuns(t, db)
	}
	compareAlertCounts(t, db)
	compareRollups(t, db)
	consistent(t, db)
	return answers, open
}

// runs are the machine's verdicts, each with how often it was judged so: the last run counts in the hot row.
const runs = `SELECT v.verdict_id::text, v.status, coalesce(v.reason, ''), CASE WHEN st.verdict_id = v.verdict_id THEN st.run_count ELSE v.run_count END
	FROM verdicts v JOIN machine_attestation_state st USING (tenant_id, machine_id) WHERE v.machine_id = $1`

// compareCounts holds that what was answered is counted, once, and nothing is that was not sent.
func (s *subject) compareCounts(t testing.TB, db *pgx.Conn, b *bounds) {
	t.Helper()
	got := judged{}
	s.eachRun(t, db, func(_, judgement string, n int64) { got[judgement] += n })
	for what, n := range got {
		if n < b.least[what] || n > b.most[what] {
			t.Errorf("%s machine %s: %d judgements %q are counted; %d were answered, and with those that had no answer there are at most %d",
				s.kind, s.id, n, what, b.least[what], b.most[what])
		}
	}
	var least, most, total int64
	for what := range b.most {
		if got[what] < b.least[what] {
			t.Errorf("%s machine %s: %d judgements %q were answered, and %d are left", s.kind, s.id, b.least[what], what, got[what])
		}
		least, total = least+b.least[what], total+got[what]
	}
	for _, a := range s.attempts {
		if a.verdict != nil || !a.told() && a.truth != foreign {
			most++
		}
	}
	if total < least || total > most {
		t.Errorf("%s machine %s: %d judgements are counted of %d attempts", s.kind, s.id, total, most)
	}
}

func (s *subject) eachRun(t testing.TB, db *pgx.Conn, use func(id, judgement string, n int64)) {
	t.Helper()
	rows, _ := db.Query(t.Context(), runs, s.id)
	var id, status, reason string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&id, &status, &reason, &n}, func() error {
		use(id, status+" "+reason, n)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// compareRuns holds that each verdict that was answered is there as it was answered, and counts at least as often as it was.
func (s *subject) compareRuns(t testing.TB, db *pgx.Conn) {
	t.Helper()
	stored, counts, answered := map[string]string{}, map[string]int64{}, map[string]int64{}
	s.eachRun(t, db, func(id, judgement string, n int64) { stored[id], counts[id] = judgement, n })
	for _, a := range s.attempts {
		if v := a.verdict; v != nil {
			answered[v.ID]++
			if stored[v.ID] != v.Status+" "+v.Reason {
				t.Errorf("%s machine %s: verdict %s was answered as %s %s and is stored as %q", s.kind, s.id, v.ID, v.Status, v.Reason, stored[v.ID])
			}
		}
	}
	for id, n := range answered {
		if counts[id] < n {
			t.Errorf("%s machine %s: verdict %s was answered %d times and counts %d", s.kind, s.id, id, n, counts[id])
		}
	}
}

// compareAlertCounts holds that each failed judgement, and nothing else, was counted by an alert.
func compareAlertCounts(t testing.TB, db *pgx.Conn) {
	t.Helper()
	rows, _ := db.Query(t.Context(), `SELECT m.name,
			(SELECT coalesce(sum(a.seen_count), 0)::bigint FROM alerts a WHERE a.tenant_id = m.tenant_id AND a.machine_id = m.machine_id AND a.code = 'attestation_failed'),
			(SELECT coalesce(sum(CASE WHEN st.verdict_id = v.verdict_id THEN st.run_count ELSE v.run_count END), 0)::bigint FROM verdicts v
				WHERE v.tenant_id = m.tenant_id AND v.machine_id = m.machine_id AND v.status = 'contraindicated')
		FROM machines m JOIN machine_attestation_state st USING (tenant_id, machine_id)`)
	var name string
	var alerts, verdicts int64
	if _, err := pgx.ForEachRow(rows, []any{&name, &alerts, &verdicts}, func() error {
		if alerts != verdicts {
			t.Errorf("machine %s: its alerts count %d failed judgements, its verdicts %d", name, alerts, verdicts)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// compareRollups holds that what charts count is what is there.
func compareRollups(t testing.TB, db *pgx.Conn) {
	t.Helper()
	for what, counted := range map[string]string{
		"verdicts_by_status": `SELECT status, count(*) FROM verdicts GROUP BY 1`,
		"machines_by_status": `SELECT CASE WHEN last_verdict_id IS NULL THEN 'unattested' ELSE status END, count(*) FROM machines GROUP BY 1`,
	} {
		for _, table := range []string{"rollup_hours", "rollup_days"} {
			n := one[int](t, db, `WITH rolled AS (SELECT key, sum(n)::bigint AS n FROM (SELECT key, n FROM `+table+` WHERE metric = $1
					UNION ALL SELECT key, n FROM rollup_deltas WHERE metric = $1) x GROUP BY 1 HAVING sum(n) <> 0),
				counted (key, n) AS (`+counted+`)
				SELECT count(*) FROM rolled FULL JOIN counted USING (key) WHERE rolled.n IS DISTINCT FROM counted.n`, what)
			if n != 0 {
				t.Errorf("%d counts of %s in %s are not those of the rows", n, what, table)
			}
		}
	}
}

// overheard takes down what a check finds wrong.
type overheard struct {
	testing.TB
	found int
}

func (o *overheard) Helper()               {}
func (o *overheard) Errorf(string, ...any) { o.found++ }

// The checker says so where a database is broken in any of the ways that it is for.
func TestCheckerSees(t *testing.T) {
	t.Parallel()
	pg, err := embedded.Start(t.Context(), embedded.Config{DataDir: newFolder(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Stop(context.Background()) })
	if err := store.Migrate(t.Context(), pg.URL()); err != nil {
		t.Fatal(err)
	}
	replica := newClocked(t, pg.URL())
	refuseOtherKernels(t, pg.URL())
	fleet := newSubjects(t, replica.service, 1, 1, good, deviating, forged, foreign, replayed)
	fleet.at(0, replica.url)
	for range 6 {
		for _, s := range fleet.all {
			for _, kind := range []truth{s.kind, good} {
				if err := s.attest(kind); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	db := connect(t, pg.URL())
	if answers, open := fleet.check(t, db); answers < 40 || open > 0 {
		t.Errorf("%d answers, %d posts without one", answers, open)
	}
	for what, sql := range map[string]string{
		"evidence was counted twice":            `UPDATE machine_attestation_state SET run_count = run_count + 1`,
		"accepted evidence was lost":            `UPDATE machine_attestation_state SET run_count = run_count - 1`,
		"a verdict is better than its evidence": `UPDATE verdicts SET status = 'affirming', reason = '' WHERE status = 'contraindicated'`,
		"a verdict is gone":                     `DELETE FROM verdicts WHERE verdict_id = (SELECT verdict_id FROM verdicts WHERE run_count > 0 ORDER BY 1 LIMIT 1)`,
		"an alert counts what did not happen":   `UPDATE alerts SET seen_count = seen_count + 1`,
		"charts have lost something":            `DELETE FROM rollup_deltas WHERE metric = 'verdicts_by_status'`,
		"a machine's status is no verdict's":    `UPDATE machines SET status = 'warning'`,
		"an alert was told to nobody":           `DELETE FROM outbox`,
		"evidence is gone":                      `DELETE FROM evidence`,
	} {
		for _, statement := range []string{`BEGIN`, sql} {
			if _, err := db.Exec(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		o := &overheard{TB: t}
		fleet.check(o, db)
		if o.found == 0 {
			t.Errorf("the checker does not see that %s", what)
		}
		if _, err := db.Exec(t.Context(), `ROLLBACK`); err != nil {
			t.Fatal(err)
		}
	}
}
