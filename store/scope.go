package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/verifier"
)

// Scope limits what is read to the machines that one of its selectors chooses, and to what is of them. nil is the whole
// tenant; a scope without a selector is nothing, and so is a selector that bounds nothing.
//
// A statement with a scope begins with common table expressions that stand in for the tables: wherever the statement asks
// for alerts it gets those of machines within the scope, however it joins them.
type Scope []verifier.Selector

// The tables as they are seen from within a scope. {machine} is the condition on a machine m, {selector} that on the
// selector of a baseline b. What is about several machines is within a scope only where all of them are.
const scopedTables = `WITH machines AS NOT MATERIALIZED (SELECT m.* FROM machines m WHERE m.tenant_id = $1 AND ({machine})),
	machine_attestation_state AS NOT MATERIALIZED (SELECT x.* FROM machine_attestation_state x JOIN machines USING (tenant_id, machine_id)),
	silent_machines AS NOT MATERIALIZED (SELECT x.* FROM silent_machines x JOIN machines USING (tenant_id, machine_id)),
	assessments AS NOT MATERIALIZED (SELECT x.* FROM assessments x JOIN machines USING (tenant_id, machine_id)),
	recommendations AS NOT MATERIALIZED (SELECT x.* FROM recommendations x JOIN machines USING (tenant_id, machine_id)),
	verdicts AS NOT MATERIALIZED (SELECT x.* FROM verdicts x JOIN machines USING (tenant_id, machine_id)),
	fleet_conflicts AS NOT MATERIALIZED (SELECT x.* FROM fleet_conflicts x JOIN machines USING (tenant_id, machine_id)
		WHERE x.other_id IS NULL OR EXISTS (SELECT FROM machines o WHERE o.tenant_id = x.tenant_id AND o.machine_id = x.other_id)),
	alerts AS NOT MATERIALIZED (SELECT x.* FROM alerts x JOIN machines USING (tenant_id, machine_id)
		WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(CASE jsonb_typeof(x.details->'machines') WHEN 'array' THEN x.details->'machines' ELSE '[]' END) named
			WHERE named->>'id' IS NOT NULL AND NOT EXISTS (SELECT FROM machines o WHERE o.tenant_id = x.tenant_id AND o.machine_id::text = named->>'id'))),
	incidents AS NOT MATERIALIZED (SELECT i.* FROM incidents i WHERE i.tenant_id = $1
		AND EXISTS (SELECT FROM incident_members im WHERE im.tenant_id = i.tenant_id AND im.group_key = i.group_key)
		AND NOT EXISTS (SELECT FROM incident_members im WHERE im.tenant_id = i.tenant_id AND im.group_key = i.group_key
			AND NOT EXISTS (SELECT FROM alerts a WHERE a.tenant_id = im.tenant_id AND a.alert_id = im.alert_id))),
	baselines AS NOT MATERIALIZED (SELECT b.* FROM baselines b WHERE b.tenant_id = $1 AND ({selector})),
	api_tokens AS NOT MATERIALIZED (SELECT t.* FROM api_tokens t WHERE t.tenant_id = $1 AND t.scope IS NOT NULL
		AND NOT EXISTS (SELECT FROM jsonb_array_elements(t.scope) b (selector) WHERE ({selector}) IS NOT TRUE))
`

// tables is what a statement begins with whose parameters so far are args, and the parameters with those of the scope. The
// first parameter is the tenant.
func (s Scope) tables(args []any) (sql string, all []any) {
	sql, _, all = s.compile(args)
	return sql, all
}

// compile gives the tables, and the condition on a selector b.selector to be within, which asks them.
func (s Scope) compile(args []any) (tables, selector string, all []any) {
	if s == nil {
		return "", "TRUE", args
	}
	c := conditions{args: args}
	machines, selectors := []string{"FALSE"}, []string{"FALSE"}
	for i := range s {
		machines = append(machines, c.chooses(&s[i]))
		selectors = append(selectors, c.bounds(&s[i]))
	}
	// A selector that names machines is within where all of them are, however they came there.
	selectors = append(selectors, `(jsonb_array_length(coalesce(b.selector->'machine_ids', '[]')) > 0 AND NOT EXISTS (SELECT FROM jsonb_array_elements_text(b.selector->'machine_ids') named
		WHERE NOT EXISTS (SELECT FROM machines o WHERE o.tenant_id = $1 AND o.machine_id::text = lower(named))))`)
	selector = strings.Join(selectors, " OR ")
	return strings.NewReplacer("{machine}", strings.Join(machines, " OR "), "{selector}", selector).Replace(scopedTables), selector, c.args
}

// conditions writes conditions together with their parameters.
type conditions struct{ args []any }

func (c *conditions) arg(v any) string {
	c.args = append(c.args, v)
	return "$" + strconv.Itoa(len(c.args))
}

// all joins conditions that must all hold; none at all holds for nothing.
func all(conditions []string) string {
	if len(conditions) == 0 {
		return "FALSE"
	}
	return "(" + strings.Join(conditions, " AND ") + ")"
}

// chooses tells that a selector chooses the machine m.
func (c *conditions) chooses(s *verifier.Selector) string {
	var out []string
	if len(s.ScaleSet) > 0 {
		out = append(out, "m.scale_set = ANY("+c.arg(s.ScaleSet)+"::text[])")
	}
	if len(s.Platform) > 0 {
		out = append(out, "m.platform = ANY("+c.arg(s.Platform)+"::text[])")
	}
	if len(s.Labels) > 0 {
		out = append(out, "m.labels @> "+c.arg(s.Labels)+"::jsonb")
	}
	if len(s.MachineIDs) > 0 {
		out = append(out, "m.machine_id = ANY("+c.arg(s.MachineIDs)+"::uuid[])")
	}
	return all(out)
}

// bounds tells that the selector b.selector chooses nothing that a selector does not choose, whatever machines there are.
func (c *conditions) bounds(s *verifier.Selector) string {
	var out []string
	for _, f := range []struct {
		name  string
		bound []string
	}{{"scale_set", s.ScaleSet}, {"platform", s.Platform}, {"machine_ids", s.MachineIDs}} {
		if len(f.bound) > 0 {
			out = append(out, "jsonb_array_length(coalesce(b.selector->'"+f.name+"', '[]')) > 0 AND b.selector->'"+f.name+"' <@ "+c.arg(f.bound)+"::jsonb")
		}
	}
	if len(s.Labels) > 0 {
		out = append(out, "coalesce(b.selector->'labels' @> "+c.arg(s.Labels)+"::jsonb, FALSE)")
	}
	return all(out)
}

// within limits a list to a scope. A cursor is good for the same scope only.
func (q *query) within(s Scope) *query {
	if s == nil {
		return q
	}
	q.before, q.args = s.tables(q.args)
	fmt.Fprintf(&q.filters, "within\x00%v\x00", []verifier.Selector(s))
	return q
}

// over makes a transaction whose statements ask for what is within the scope. The first parameter of each is the tenant.
func (s Scope) over(tx pgx.Tx) pgx.Tx {
	if s == nil {
		return tx
	}
	return scopedTx{tx, s}
}

// scopedTx reads within a scope; it is for transactions that change nothing.
type scopedTx struct {
	pgx.Tx
	scope Scope
}

// Query implements pgx.Tx.
func (t scopedTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	tables, args := t.scope.tables(args)
	return t.Tx.Query(ctx, tables+sql, args...)
}

// QueryRow implements pgx.Tx.
func (t scopedTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	tables, args := t.scope.tables(args)
	return t.Tx.QueryRow(ctx, tables+sql, args...)
}

// scopedKinds are the statements that look for one thing of a kind in the tables of a scope.
var scopedKinds = map[string]string{ // #nosec G101 -- names and statements
	"machine":        `SELECT EXISTS (SELECT FROM machines WHERE tenant_id = $1 AND machine_id = $2)`,
	"verdict":        `SELECT EXISTS (SELECT FROM verdicts WHERE tenant_id = $1 AND verdict_id = $2)`,
	"alert":          `SELECT EXISTS (SELECT FROM alerts WHERE tenant_id = $1 AND alert_id = $2)`,
	"recommendation": `SELECT EXISTS (SELECT FROM recommendations WHERE tenant_id = $1 AND recommendation_id = $2)`,
	"incident":       `SELECT EXISTS (SELECT FROM incidents WHERE tenant_id = $1 AND incident_id = $2)`,
	"baseline":       `SELECT EXISTS (SELECT FROM baselines WHERE tenant_id = $1 AND baseline_id = $2)`,
	"api_token":      `SELECT EXISTS (SELECT FROM api_tokens WHERE tenant_id = $1 AND token_id = $2)`,
}

// InScope makes sure that a thing of a kind (machine, verdict, alert, recommendation, incident, baseline, api_token) is
// within a scope. ErrNotFound where it is not, as where there is none.
func (s *Store) InScope(ctx context.Context, tenant uuid.UUID, scope Scope, kind string, id uuid.UUID) error {
	ctx = withTenant(ctx, tenant)
	sql, known := scopedKinds[kind]
	if !known {
		return fmt.Errorf("there is no scope of kind %q", kind)
	}
	tables, args := scope.tables([]any{pgUUID(tenant), pgUUID(id)})
	var there bool
	if err := s.pool.QueryRow(ctx, tables+sql, args...).Scan(&there); err != nil {
		return fmt.Errorf("look for %s %s in a scope: %w", kind, id, err)
	}
	if !there {
		return fmt.Errorf("%s %s: %w", kind, id, ErrNotFound)
	}
	return nil
}

// Covers tells whether a selector chooses nothing outside of a scope: it is as narrow as one of the scope's selectors, or
// names machines that are all within.
func (s *Store) Covers(ctx context.Context, tenant uuid.UUID, scope Scope, selector verifier.Selector) (bool, error) {
	ctx = withTenant(ctx, tenant)
	if scope == nil {
		return true, nil
	}
	tables, condition, args := scope.compile([]any{pgUUID(tenant), selector})
	var covered bool
	if err := s.pool.QueryRow(ctx, tables+`SELECT `+condition+` FROM (SELECT $2::jsonb AS selector) b`, args...).Scan(&covered); err != nil {
		return false, fmt.Errorf("compare a selector with a scope: %w", err)
	}
	return covered, nil
}
