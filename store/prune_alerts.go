package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// PrunedAlerts is how many rows one call of PruneAlerts deleted.
type PrunedAlerts struct{ Occurrences, Events, Members, Silences, Conflicts int64 }

// Sum is all of them.
func (p PrunedAlerts) Sum() int64 {
	return p.Occurrences + p.Events + p.Members + p.Silences + p.Conflicts
}

// prunedAtOnce bounds the alerts (or incidents) that one transaction of PruneAlerts looks at, and by page the rows that each of
// its statements deletes.
const prunedAtOnce = 200

// PruneAlerts deletes what of closed alerts, incidents, silences and fleet conflicts is older than the time, in transactions of
// at most page rows each:
//
//   - of an alert that was closed before: its history but the first and the last event, and its occurrences but the first and
//     the last. What lies between becomes one without a verdict, so that counts and times stay. The alert itself stays.
//   - of a dismissed alert that is still repeated: such occurrences that began before.
//   - of an incident that was closed before: its members. The incident and its counts stay.
//   - silences and fleet conflicts that ended before.
//
// What is open is never touched. It goes on where the last call ended (alert_retention), so that a round meets each closed
// alert once; replicas do so one after the other.
func (s *Store) PruneAlerts(ctx context.Context, tenant uuid.UUID, before time.Time, page int) (PrunedAlerts, error) {
	ctx = withTenant(ctx, tenant)
	var p PrunedAlerts
	steps := []func(context.Context, pgx.Tx) (more bool, err error){
		func(ctx context.Context, tx pgx.Tx) (bool, error) { return p.alerts(ctx, tx, tenant, before, page) },
		func(ctx context.Context, tx pgx.Tx) (bool, error) { return p.incidents(ctx, tx, tenant, before, page) },
		func(ctx context.Context, tx pgx.Tx) (bool, error) {
			return pruned(ctx, tx, &p.Silences, page, `DELETE FROM silences WHERE tenant_id = $1 AND silence_id IN (SELECT silence_id FROM silences
				WHERE tenant_id = $1 AND ended_at < $2 LIMIT $3 FOR UPDATE SKIP LOCKED)`, tenant, before, page)
		},
		func(ctx context.Context, tx pgx.Tx) (bool, error) {
			return pruned(ctx, tx, &p.Conflicts, page, `DELETE FROM fleet_conflicts WHERE tenant_id = $1 AND conflict_id IN (SELECT conflict_id FROM fleet_conflicts
				WHERE tenant_id = $1 AND ended_at < $2 LIMIT $3 FOR UPDATE SKIP LOCKED)`, tenant, before, page)
		},
	}
	var after uuid.UUID
	steps = append(steps, func(ctx context.Context, tx pgx.Tx) (bool, error) {
		return p.repeated(ctx, tx, tenant, before, page, &after)
	})
	for _, step := range steps {
		for more := true; more; {
			if err := s.inTx(ctx, func(tx pgx.Tx) (err error) {
				more, err = step(ctx, tx)
				return err
			}); err != nil {
				return p, fmt.Errorf("prune alerts: %w", err)
			}
		}
	}
	return p, nil
}

// pruned runs a statement that deletes page rows at most, counts them, and tells whether there may be more.
func pruned(ctx context.Context, tx pgx.Tx, n *int64, page int, sql string, args ...any) (more bool, err error) {
	tag, err := tx.Exec(ctx, sql, args...)
	*n += tag.RowsAffected()
	return tag.RowsAffected() >= int64(page), err
}

// pruneMark is how far pruning has come: rows are met in the order of (updated_at, id).
type pruneMark struct {
	at pgtype.Timestamptz
	id pgtype.UUID
}

// lockMark reads the tenant's mark and keeps it until the transaction ends.
func lockMark(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, kind string) (m pruneMark, err error) {
	if _, err := tx.Exec(ctx, `INSERT INTO alert_retention (tenant_id, kind, updated_at, last_id) VALUES ($1, $2, '-infinity', '00000000-0000-0000-0000-000000000000') ON CONFLICT DO NOTHING`,
		pgUUID(tenant), kind); err != nil {
		return m, err
	}
	err = tx.QueryRow(ctx, `SELECT updated_at, last_id FROM alert_retention WHERE tenant_id = $1 AND kind = $2 FOR UPDATE`, pgUUID(tenant), kind).Scan(&m.at, &m.id)
	return m, err
}

func setMark(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, kind string, m pruneMark) error {
	_, err := tx.Exec(ctx, `UPDATE alert_retention SET updated_at = $3, last_id = $4 WHERE tenant_id = $1 AND kind = $2`, pgUUID(tenant), kind, m.at, m.id)
	return err
}

// A row that another transaction holds is passed over: whoever opens it again gives it a later updated_at.
const (
	nextAlerts = `SELECT updated_at, alert_id FROM alerts WHERE tenant_id = $1 AND (updated_at, alert_id) > ($2, $3) AND updated_at < $4
		ORDER BY updated_at, alert_id LIMIT $5`
	lockClosedAlerts = `SELECT alert_id FROM alerts WHERE tenant_id = $1 AND alert_id = ANY ($2::uuid[]) AND status IN ('dismissed', 'resolved') AND closed_at < $3
		FOR NO KEY UPDATE SKIP LOCKED`
	nextIncidents = `SELECT updated_at, incident_id FROM incidents WHERE tenant_id = $1 AND (updated_at, incident_id) > ($2, $3) AND updated_at < $4
		ORDER BY updated_at, incident_id LIMIT $5`
	lockClosedIncidents = `SELECT incident_id FROM incidents WHERE tenant_id = $1 AND incident_id = ANY ($2::uuid[]) AND closed_at < $3 FOR NO KEY UPDATE SKIP LOCKED`
	repeatedAlerts      = `SELECT alert_id FROM alerts WHERE tenant_id = $1 AND status = 'dismissed' AND over_at IS NULL AND first_seen_at < $2 AND alert_id > $3
		ORDER BY alert_id LIMIT $4`
)

// marked prunes the next rows of a kind, those that are closed, and sets the mark behind them once nothing of them is left.
func marked(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, kind, next, lock string, before time.Time, prune func(closed []pgtype.UUID) (more bool, err error)) (more bool, err error) {
	m, err := lockMark(ctx, tx, tenant, kind)
	if err != nil {
		return false, err
	}
	rows, _ := tx.Query(ctx, next, pgUUID(tenant), m.at, m.id, before, prunedAtOnce)
	var ids []pgtype.UUID
	if _, err := pgx.ForEachRow(rows, []any{&m.at, &m.id}, func() error {
		ids = append(ids, m.id)
		return nil
	}); err != nil || len(ids) == 0 {
		return false, err
	}
	rows, _ = tx.Query(ctx, lock, pgUUID(tenant), ids, before)
	closed, err := pgx.CollectRows(rows, pgx.RowTo[pgtype.UUID])
	if err != nil {
		return false, err
	}
	if more, err = prune(closed); err != nil || more {
		return more, err
	}
	return len(ids) == prunedAtOnce, setMark(ctx, tx, tenant, kind, m)
}

// The rows between the first and the last of each alert that are older than $3, in their order: the first of these stays for all
// of them, without a verdict, the others go. A deletion that ends early leaves a beginning of them deleted, which is as right.
const (
	oldOccurrences = `WITH r AS (SELECT alert_id, seen_before, first_at, row_number() OVER (PARTITION BY alert_id ORDER BY seen_before) AS n,
			row_number() OVER (PARTITION BY alert_id ORDER BY seen_before DESC) AS back
		FROM alert_occurrences WHERE tenant_id = $1 AND alert_id = ANY ($2::uuid[])),
	old AS (SELECT alert_id, seen_before, n FROM r WHERE n > 1 AND back > 1 AND first_at < $3) `
	mergeOccurrences = oldOccurrences + `UPDATE alert_occurrences o SET verdict_id = NULL FROM old
		WHERE o.tenant_id = $1 AND o.alert_id = old.alert_id AND o.seen_before = old.seen_before AND old.n = 2 AND o.verdict_id IS NOT NULL
			AND EXISTS (SELECT FROM old x WHERE x.alert_id = old.alert_id AND x.n = 3)`
	deleteOccurrences = oldOccurrences + `DELETE FROM alert_occurrences o USING (SELECT alert_id, seen_before FROM old WHERE n > 2 ORDER BY alert_id, seen_before LIMIT $4) x
		WHERE o.tenant_id = $1 AND o.alert_id = x.alert_id AND o.seen_before = x.seen_before`
	deleteAlertEvents = `DELETE FROM alert_events e USING (SELECT alert_id, event_id FROM (SELECT alert_id, event_id, at,
				row_number() OVER (PARTITION BY alert_id ORDER BY at, event_id) AS n, row_number() OVER (PARTITION BY alert_id ORDER BY at DESC, event_id DESC) AS back
			FROM alert_events WHERE tenant_id = $1 AND alert_id = ANY ($2::uuid[])) r WHERE n > 1 AND back > 1 AND at < $3 LIMIT $4) x
		WHERE e.tenant_id = $1 AND e.alert_id = x.alert_id AND e.event_id = x.event_id`
	deleteMembers = `DELETE FROM incident_members m USING (SELECT im.group_key, im.alert_id FROM incidents i
			JOIN incident_members im ON im.tenant_id = i.tenant_id AND im.group_key = i.group_key
			WHERE i.tenant_id = $1 AND i.incident_id = ANY ($2::uuid[]) AND im.left_at < $3 LIMIT $4) x
		WHERE m.tenant_id = $1 AND m.group_key = x.group_key AND m.alert_id = x.alert_id`
)

func (p *PrunedAlerts) occurrences(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, before time.Time, page int, alerts []pgtype.UUID) (more bool, err error) {
	if _, err := tx.Exec(ctx, mergeOccurrences, pgUUID(tenant), alerts, before); err != nil {
		return false, err
	}
	return pruned(ctx, tx, &p.Occurrences, page, deleteOccurrences, pgUUID(tenant), alerts, before, page)
}

func (p *PrunedAlerts) alerts(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, before time.Time, page int) (more bool, err error) {
	return marked(ctx, tx, tenant, "alerts", nextAlerts, lockClosedAlerts, before, func(closed []pgtype.UUID) (bool, error) {
		if more, err := p.occurrences(ctx, tx, tenant, before, page, closed); err != nil || more {
			return more, err
		}
		return pruned(ctx, tx, &p.Events, page, deleteAlertEvents, pgUUID(tenant), closed, before, page)
	})
}

func (p *PrunedAlerts) incidents(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, before time.Time, page int) (more bool, err error) {
	return marked(ctx, tx, tenant, "incidents", nextIncidents, lockClosedIncidents, before, func(closed []pgtype.UUID) (bool, error) {
		return pruned(ctx, tx, &p.Members, page, deleteMembers, pgUUID(tenant), closed, before, page)
	})
}

// repeated prunes the alerts that are dismissed while their cause goes on: these are counted up without a later updated_at. Each
// round reads them all, after is the last that was looked at.
func (p *PrunedAlerts) repeated(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, before time.Time, page int, after *uuid.UUID) (more bool, err error) {
	rows, _ := tx.Query(ctx, repeatedAlerts, pgUUID(tenant), before, *after, prunedAtOnce)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[pgtype.UUID])
	if err != nil || len(ids) == 0 {
		return false, err
	}
	if more, err = p.occurrences(ctx, tx, tenant, before, page, ids); err != nil || more {
		return more, err
	}
	*after = ids[len(ids)-1].Bytes
	return len(ids) == prunedAtOnce, nil
}
