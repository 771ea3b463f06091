package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// OpenFindings is how many findings of one code a tenant has open.
type OpenFindings struct {
	Assessments     int64 // machines whose assessment is Unhealthy
	Recommendations int64 // active: neither resolved nor exempt
	Alerts          int64 // active or in progress, and not suppressed
}

// CountOpenFindings counts a tenant's open findings by code, those of a scope's machines, in one snapshot. Codes of which none is open are absent.
func (s *Store) CountOpenFindings(ctx context.Context, tenant uuid.UUID, scope Scope, now time.Time) (map[string]OpenFindings, error) {
	ctx = withTenant(ctx, tenant)
	out := map[string]OpenFindings{}
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		tx = scope.over(tx)
		for _, c := range []struct {
			sql string
			add func(*OpenFindings, int64)
		}{
			{`SELECT code, count(*) FROM assessments WHERE tenant_id = $1 AND $2::timestamptz IS NOT NULL AND status = 'Unhealthy' GROUP BY 1`,
				func(o *OpenFindings, n int64) { o.Assessments = n }},
			{`SELECT code, count(*) FROM (` + recommendationSelect + `) x WHERE status = 'active' GROUP BY 1`,
				func(o *OpenFindings, n int64) { o.Recommendations = n }},
			{`SELECT a.code, count(*)` + openAlerts + `AND NOT ` + isSuppressed + ` GROUP BY 1`,
				func(o *OpenFindings, n int64) { o.Alerts = n }},
		} {
			rows, _ := tx.Query(ctx, c.sql, pgUUID(tenant), now)
			var code string
			var n int64
			if _, err := pgx.ForEachRow(rows, []any{&code, &n}, func() error {
				o := out[code]
				c.add(&o, n)
				out[code] = o
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count open findings: %w", err)
	}
	return out, nil
}
