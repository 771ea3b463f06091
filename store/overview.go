package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Overview is the fleet in numbers, as of one snapshot. It reads what is: machines, open alerts, recommendations; of
// history it reads the rollups alone, or, with a scope, what is of the scope's machines.
func (s *Store) Overview(ctx context.Context, tenant uuid.UUID, scope Scope, now time.Time) (Overview, error) {
	ctx = withTenant(ctx, tenant)
	var o Overview
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		tx = scope.over(tx)
		for _, c := range []struct {
			into *map[string]int64
			sql  string
		}{
			{&o.MachinesByStatus, machinesByStatus},
			{&o.MachinesByPlatform, `SELECT platform, count(*) FROM machines WHERE tenant_id = $1 GROUP BY 1`},
			{&o.MachinesByAssurance, `SELECT assurance, count(*) FROM machines WHERE tenant_id = $1 AND assurance <> '' GROUP BY 1`},
			{&o.MachinesBySecurityType, `SELECT security_type, count(*) FROM machines WHERE tenant_id = $1 GROUP BY 1`},
			{&o.FailingScaleSets, `SELECT scale_set, count(*) FROM machines WHERE tenant_id = $1 AND status = 'contraindicated' AND scale_set <> ''
				GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10`},
			{&o.AssessmentsByStatus, `SELECT status, count(*) FROM assessments WHERE tenant_id = $1 AND code = 'guest_attestation_healthy' GROUP BY 1`},
		} {
			*c.into = map[string]int64{}
			if err := readCounts(ctx, tx, *c.into, c.sql, pgUUID(tenant)); err != nil {
				return err
			}
		}
		for _, n := range o.MachinesByStatus {
			o.Machines += n
		}
		if err := tx.QueryRow(ctx, `SELECT count(*)`+machineTables+`WHERE m.tenant_id = $1 AND m.state = 'active' AND st.next_due_at < $2`,
			pgUUID(tenant), now).Scan(&o.MachinesOverdue); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM silent_machines WHERE tenant_id = $1`, pgUUID(tenant)).Scan(&o.StaleMachines); err != nil {
			return err
		}
		if err := o.readFindings(ctx, tx, tenant, now); err != nil {
			return err
		}
		if err := o.readRecent(ctx, tx, tenant, scope, now); err != nil {
			return err
		}
		return o.readOldest(ctx, tx, tenant)
	})
	if err != nil {
		return Overview{}, fmt.Errorf("overview: %w", err)
	}
	return o, nil
}

func (o *Overview) readFindings(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, now time.Time) error {
	for _, c := range []struct {
		into *map[string]int64
		sql  string
	}{
		{&o.OpenAlertsBySeverity, `SELECT a.severity, count(*)` + openAlerts + `AND NOT ` + isSuppressed + ` GROUP BY 1`},
		{&o.OpenAlertsByReason, `SELECT a.reason, count(*)` + openAlerts + `AND a.reason <> '' AND NOT ` + isSuppressed + ` GROUP BY 1`},
		{&o.OpenAlertsByCode, `SELECT a.code, count(*)` + openAlerts + `AND NOT ` + isSuppressed + ` GROUP BY 1`},
		{&o.RecommendationsByCode, `SELECT code, count(*) FROM (` + recommendationSelect + `) x WHERE status = 'active' GROUP BY 1`},
		{&o.RecommendationsBySev, `SELECT severity, count(*) FROM (` + recommendationSelect + `) x WHERE status = 'active' GROUP BY 1`},
	} {
		*c.into = map[string]int64{}
		if err := readCounts(ctx, tx, *c.into, c.sql, pgUUID(tenant), now); err != nil {
			return err
		}
	}
	if err := tx.QueryRow(ctx, `SELECT count(*) FILTER (WHERE `+isSuppressed+`), min(a.first_seen_at) FILTER (WHERE NOT `+isSuppressed+`)`+openAlerts,
		pgUUID(tenant), now).Scan(&o.SuppressedAlerts, &o.OldestOpenAlert); err != nil {
		return err
	}
	return tx.QueryRow(ctx, `SELECT count(*) FROM (`+recommendationSelect+`) x WHERE status = 'exempt'`, pgUUID(tenant), now).Scan(&o.RecommendationsExempt)
}

// What the rollups count, counted in the tables themselves.
const (
	recentVerdicts = `SELECT status, count(*) FROM verdicts WHERE tenant_id = $1 AND first_at >= $2 GROUP BY 1`
	recentTurns    = `SELECT a.severity, count(*) FROM alert_events e JOIN alerts a USING (tenant_id, alert_id) WHERE e.tenant_id = $1 AND e.at >= $2`
	recentlyOpened = recentTurns + ` AND e.to_status IN ('active', 'in_progress') AND e.from_status NOT IN ('active', 'in_progress') GROUP BY 1`
	recentlyClosed = recentTurns + ` AND e.to_status IN ('dismissed', 'resolved') AND e.from_status NOT IN ('dismissed', 'resolved') GROUP BY 1`
)

// readRecent adds up the last day out of the rollups, from the full hour on.
func (o *Overview) readRecent(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, scope Scope, now time.Time) error {
	r := SeriesRange{Step: time.Hour}
	o.Since = r.floor(now.Add(-24 * time.Hour))
	if scope != nil { // the rollups do not tell machines apart
		for into, sql := range map[*map[string]int64]string{&o.RecentVerdicts: recentVerdicts, &o.RecentAlertsOpened: recentlyOpened, &o.RecentAlertsClosed: recentlyClosed} {
			*into = map[string]int64{}
			if err := readCounts(ctx, tx, *into, sql, pgUUID(tenant), o.Since); err != nil {
				return err
			}
		}
		return nil
	}
	for metric, into := range map[Metric]*map[string]int64{VerdictsByStatus: &o.RecentVerdicts, AlertsOpened: &o.RecentAlertsOpened, AlertsClosed: &o.RecentAlertsClosed} {
		counts := map[string]int64{}
		if err := readSteps(ctx, tx, tenant, metric, r, o.Since, seriesEnd, func(_ time.Time, key string, n int64) { counts[key] += n }); err != nil {
			return err
		}
		*into = counts
	}
	return nil
}

func (o *Overview) readOldest(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	rows, _ := tx.Query(ctx, `SELECT st.last_seen_at, st.machine_id FROM machine_attestation_state st JOIN machines m USING (tenant_id, machine_id)
		WHERE st.tenant_id = $1 AND m.state = 'active' AND st.last_seen_at IS NOT NULL ORDER BY st.last_seen_at LIMIT 1`, pgUUID(tenant))
	var at time.Time
	var owner uuid.UUID
	_, err := pgx.ForEachRow(rows, []any{&at, &owner}, func() error {
		oldest, machine := at, owner
		o.OldestAttestation, o.OldestAttestationOwner = &oldest, &machine
		return nil
	})
	return err
}
