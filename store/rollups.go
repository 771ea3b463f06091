package store

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// How long the rollups are kept.
const (
	KeepHours = 92 * 24 * time.Hour
	KeepDays  = 3 * 366 * 24 * time.Hour
)

// Metric names a time series.
type Metric string

// The metrics. All but MachinesByStatus count events of a step; MachinesByStatus is the number at its end.
const (
	VerdictsByStatus Metric = "verdicts_by_status" // verdicts recorded: changes of judgement, not attestations
	AlertsOpened     Metric = "alerts_opened"      // by severity; an alert that is opened again counts again
	AlertsClosed     Metric = "alerts_closed"      // dismissed or resolved, by severity
	MachinesByStatus Metric = "machines_by_status" // "unattested" before the first verdict
	TimeToAttest     Metric = "time_to_attest"     // first verdicts, by the time since the machine became known
)

// TimeBuckets are the keys of TimeToAttest in order: upper bounds in seconds.
var TimeBuckets = []string{"1", "5", "15", "60", "300", "900", "3600", "21600", "86400", "604800", "inf"}

// SeriesRange chooses the steps of a series: whole steps in UTC that touch the time from Since until before Until. Step is
// an hour, six hours, a day, or a week from Monday.
type SeriesRange struct {
	Since, Until time.Time
	Step         time.Duration
}

// seriesOrigin is a Monday: steps begin at whole multiples of their length from it.
var seriesOrigin = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)

// Starts are the beginnings of the steps.
func (r SeriesRange) Starts() []time.Time {
	var out []time.Time
	for at := r.floor(r.Since); at.Before(r.Until); at = at.Add(r.Step) {
		out = append(out, at)
	}
	return out
}

func (r SeriesRange) floor(at time.Time) time.Time {
	d := at.Sub(seriesOrigin) % r.Step
	if d < 0 {
		d += r.Step
	}
	return at.Add(-d).UTC()
}

// SeriesPoint is one step. Counts without an entry are 0.
type SeriesPoint struct {
	At     time.Time
	Counts map[string]int64
}

// Series reads a time series out of the rollups and what is not in them yet, as of one snapshot.
func (s *Store) Series(ctx context.Context, tenant uuid.UUID, m Metric, r SeriesRange) ([]SeriesPoint, error) {
	ctx = withTenant(ctx, tenant)
	starts := r.Starts()
	points := make([]SeriesPoint, len(starts))
	for i, at := range starts {
		points[i] = SeriesPoint{At: at, Counts: map[string]int64{}}
	}
	if len(points) == 0 {
		return points, nil
	}
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if m == MachinesByStatus {
			return machineSeries(ctx, tx, tenant, r, points)
		}
		return readSteps(ctx, tx, tenant, m, r, starts[0], starts[len(starts)-1].Add(r.Step), func(at time.Time, key string, n int64) {
			points[at.Sub(starts[0])/r.Step].Counts[key] = n
		})
	})
	if err != nil {
		return nil, fmt.Errorf("series %s: %w", m, err)
	}
	return points, nil
}

// stepSums adds up what was counted from $3 until before $4, by steps of $5.
func stepSums(table, column string) string {
	return `SELECT date_bin($5, at, '2001-01-01 00:00:00+00'), key, sum(n)::bigint FROM (
		SELECT ` + column + ` AS at, key, n FROM ` + table + ` WHERE tenant_id = $1 AND metric = $2 AND ` + column + ` >= $3 AND ` + column + ` < $4
		UNION ALL SELECT hour, key, n FROM rollup_deltas WHERE tenant_id = $1 AND metric = $2 AND hour >= $3 AND hour < $4) x
	GROUP BY 1, 2 HAVING sum(n) <> 0`
}

func readSteps(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, m Metric, r SeriesRange, from, until time.Time, add func(time.Time, string, int64)) error {
	sql := stepSums("rollup_hours", "hour")
	if r.Step%(24*time.Hour) == 0 {
		sql = stepSums("rollup_days", "day")
	}
	rows, _ := tx.Query(ctx, sql, pgUUID(tenant), string(m), from, until, r.Step)
	var at time.Time
	var key string
	var n int64
	_, err := pgx.ForEachRow(rows, []any{&at, &key, &n}, func() error {
		add(at, key, n)
		return nil
	})
	return err
}

// machineSeries goes back from the number of machines now by what changed since.
func machineSeries(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, r SeriesRange, points []SeriesPoint) error {
	now := map[string]int64{}
	if err := readCounts(ctx, tx, now, machinesByStatus, pgUUID(tenant)); err != nil {
		return err
	}
	first := points[0].At
	last := points[len(points)-1].At
	changes := make([]map[string]int64, len(points)+1) // the last: after the series
	end := seriesEnd
	if err := readSteps(ctx, tx, tenant, MachinesByStatus, r, first, end, func(at time.Time, key string, n int64) {
		i := len(points)
		if !at.After(last) {
			i = int(at.Sub(first) / r.Step)
		}
		if changes[i] == nil {
			changes[i] = map[string]int64{}
		}
		changes[i][key] += n
	}); err != nil {
		return err
	}
	for i := len(points) - 1; i >= 0; i-- {
		for key, n := range changes[i+1] {
			now[key] -= n
		}
		for key, n := range now {
			if n != 0 {
				points[i].Counts[key] = n
			}
		}
	}
	return nil
}

// seriesEnd is later than anything that is counted.
var seriesEnd = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

const machinesByStatus = `SELECT CASE WHEN last_verdict_id IS NULL THEN 'unattested' ELSE status END, count(*) FROM machines WHERE tenant_id = $1 GROUP BY 1`

// readCounts fills counts with the rows of a statement: a word and a number.
func readCounts(ctx context.Context, tx pgx.Tx, counts map[string]int64, sql string, args ...any) error {
	rows, _ := tx.Query(ctx, sql, args...)
	var word string
	var n int64
	_, err := pgx.ForEachRow(rows, []any{&word, &n}, func() error {
		counts[word] = n
		return nil
	})
	return err
}

// Each row is moved once: whoever else moves at the time passes over what is locked. Rollups are written
// in one order, so that two movers wait for each other and never in a circle.
const foldRollups = `WITH taken AS (
		DELETE FROM rollup_deltas d USING (SELECT tenant_id, delta_id FROM rollup_deltas WHERE tenant_id = $1 LIMIT $2 FOR UPDATE SKIP LOCKED) t
		WHERE d.tenant_id = t.tenant_id AND d.delta_id = t.delta_id
		RETURNING d.tenant_id, d.metric, d.hour, d.key, d.n),
	summed AS (SELECT tenant_id, metric, hour, key, sum(n) AS n FROM taken GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4),
	hours AS (INSERT INTO rollup_hours AS h (tenant_id, metric, hour, key, n) SELECT * FROM summed
		ON CONFLICT (tenant_id, metric, hour, key) DO UPDATE SET n = h.n + EXCLUDED.n),
	days AS (INSERT INTO rollup_days AS d (tenant_id, metric, day, key, n)
		SELECT tenant_id, metric, date_bin('1 day', hour, '2001-01-01 00:00:00+00') AS day, key, sum(n) FROM summed GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
		ON CONFLICT (tenant_id, metric, day, key) DO UPDATE SET n = d.n + EXCLUDED.n)
	SELECT count(*) FROM taken`

// FoldRollups moves up to limit counts of a tenant into its rollups, and tells how many it moved. Several may do so at
// once; one that dies has moved nothing.
func (s *Store) FoldRollups(ctx context.Context, tenant uuid.UUID, limit int) (moved int64, err error) {
	ctx = withTenant(ctx, tenant)
	if err := s.pool.QueryRow(ctx, foldRollups, pgUUID(tenant), limit).Scan(&moved); err != nil {
		return 0, fmt.Errorf("fold rollups: %w", err)
	}
	return moved, nil
}

// PruneRollups deletes the tenant's rollups that are kept no longer.
func (s *Store) PruneRollups(ctx context.Context, tenant uuid.UUID, now time.Time) (deleted int64, err error) {
	ctx = withTenant(ctx, tenant)
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		for sql, before := range map[string]time.Time{
			`DELETE FROM rollup_hours WHERE tenant_id = $1 AND hour < $2`: now.Add(-KeepHours),
			`DELETE FROM rollup_days WHERE tenant_id = $1 AND day < $2`:   now.Add(-KeepDays),
		} {
			tag, err := tx.Exec(ctx, sql, pgUUID(tenant), before)
			if err != nil {
				return fmt.Errorf("prune rollups: %w", err)
			}
			deleted += tag.RowsAffected()
		}
		return nil
	})
	return deleted, err
}

// Keys are the keys of a metric's counts, in the order to show them.
func (m Metric) Keys() []string {
	switch m {
	case VerdictsByStatus:
		return []string{"affirming", "warning", "contraindicated", "none"}
	case MachinesByStatus:
		return []string{"affirming", "warning", "contraindicated", "none", "unattested"}
	case TimeToAttest:
		return TimeBuckets
	}
	return []string{"high", "medium", "low"}
}

// Quantile is the upper bound, in seconds, of the bucket of TimeToAttest that holds the quantile; not ok where nothing was
// counted, or where it is above all bounds.
func (p SeriesPoint) Quantile(share float64) (seconds int64, ok bool) {
	var total, below int64
	for _, n := range p.Counts {
		total += n
	}
	for _, key := range TimeBuckets {
		below += p.Counts[key]
		if total > 0 && float64(below) >= share*float64(total) {
			seconds, err := strconv.ParseInt(key, 10, 64)
			return seconds, err == nil
		}
	}
	return 0, false
}
