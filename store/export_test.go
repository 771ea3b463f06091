package store

import (
	"context"
	"encoding/base64"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// BoundWaits is boundWaits.
var BoundWaits = boundWaits

// explained is a list of which one page is explained: its statement by sort.
type explained struct {
	name      string
	sorts     []string
	statement func(sort string) (string, []any, error)
}

func explainable[T any](l *listing[T], q func() *query, without ...string) explained {
	e := explained{name: l.name, statement: func(sort string) (string, []any, error) {
		sql, args, _, err := l.statement(q(), Page{Sort: sort})
		return sql, args, err
	}}
	for sort := range l.sorts {
		if !strings.Contains(strings.Join(without, " "), sort) {
			e.sorts = append(e.sorts, sort, "-"+sort)
		}
	}
	return e
}

// ExplainLists asks Postgres how it would read a page of each list that may be large, in each of its orders and with each
// of these filters, and calls plan with the answer. It is for TestOrdersHaveIndexes, whose database is filled.
func ExplainLists(ctx context.Context, pool *pgxpool.Pool, tenant uuid.UUID, now time.Time, plan func(name, plan string)) error {
	since := now.Add(-time.Hour)
	for _, e := range []explained{
		explainable(&machineList, func() *query { return machineQuery(tenant, MachineFilter{}) }, "last_seen_at"),
		explainable(&machineList, func() *query { return machineQuery(tenant, MachineFilter{Status: "contraindicated"}) }, "last_seen_at"),
		explainable(&verdictList, func() *query { return verdictQuery(tenant, VerdictFilter{}) }),
		explainable(&verdictList, func() *query { return verdictQuery(tenant, VerdictFilter{Status: "contraindicated"}) }),
		explainable(&verdictList, func() *query { return verdictQuery(tenant, VerdictFilter{Since: &since}) }),
		explainable(&alertList, func() *query { return alertQuery(tenant, AlertFilter{IncludeSuppressed: true}, now) }),
		explainable(&alertList, func() *query { return alertQuery(tenant, AlertFilter{Status: "active"}, now) }),
		explainable(&recommendationList, func() *query { return recommendationQuery(tenant, RecommendationFilter{}, now) }),
		explainable(&assessmentList, func() *query { return assessmentQuery(tenant, AssessmentFilter{}) }),
		explainable(&assessmentList, func() *query { return assessmentQuery(tenant, AssessmentFilter{Status: "Unhealthy"}) }),
	} {
		for _, sort := range e.sorts {
			sql, args, err := e.statement(sort)
			if err != nil {
				return err
			}
			rows, _ := pool.Query(ctx, "EXPLAIN "+sql, args...)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				return err
			}
			plan(e.name+" by "+sort, strings.Join(lines, "\n"))
		}
	}
	return nil
}

// PoolOf is the pool that lists are read by.
func PoolOf(s *Store) *pgxpool.Pool { return s.pool }

// SortsOf are the orders of the lists that may be large.
func SortsOf() map[string][]string {
	out := map[string][]string{}
	add := func(name string, sorts map[string][]sortKey) {
		for sort := range sorts {
			out[name] = append(out[name], sort, "-"+sort)
		}
	}
	add("machines", machineList.sorts)
	add("verdicts", verdictList.sorts)
	add("alerts", alertList.sorts)
	add("recommendations", recommendationList.sorts)
	add("assessments", assessmentList.sorts)
	return out
}

// WithTenant says whose rows the statements of a context are about.
func WithTenant(ctx context.Context, tenant uuid.UUID) context.Context {
	return withTenant(ctx, tenant)
}

// WithTenants says it of several.
func WithTenants(ctx context.Context, tenants ...uuid.UUID) context.Context {
	return withTenants(ctx, tenants, func(t uuid.UUID) uuid.UUID { return t })
}

// ScramOf is the verifier of a password with that salt, in base64.
func ScramOf(password, salt string) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(salt)
	if err != nil {
		return "", err
	}
	return scramOf(password, raw)
}
