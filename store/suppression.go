package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier"
)

// lockSuppressionRules returns the enabled rules and keeps them from changing until the transaction ends: a
// rule that is made meanwhile waits, and then looks at the alerts that this transaction opened. It comes
// before any other lock of the transaction.
func (s *Store) lockSuppressionRules(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) ([]SuppressionRule, error) {
	var generation int64
	if err := tx.QueryRow(ctx, `SELECT config_generation FROM tenants WHERE tenant_id = $1 FOR SHARE`, pgUUID(tenant)).Scan(&generation); err != nil {
		return nil, notFound(err, "tenant", tenant)
	}
	cfg, err := s.configAt(ctx, tx, tenant, generation)
	if err != nil {
		return nil, err
	}
	return cfg.rules, nil
}

// hides tells whether the rule hides an alert of the machine at a time.
func (r *SuppressionRule) hides(code string, reason verifier.Reason, m *Machine, now time.Time) bool {
	if r.State != "enabled" || r.ExpiresAt != nil && !now.Before(*r.ExpiresAt) {
		return false
	}
	if r.AlertCode != "*" && r.AlertCode != code {
		return false
	}
	for _, c := range r.Scope.AllOf {
		value, known := fieldOf(c.Field, reason, m)
		if !known || len(c.In) == 0 && c.Contains == "" {
			return false // a condition that says nothing hides nothing
		}
		if len(c.In) > 0 && !slices.Contains(c.In, value) || !strings.Contains(value, c.Contains) {
			return false
		}
	}
	return true
}

func fieldOf(field string, reason verifier.Reason, m *Machine) (value string, known bool) {
	switch field {
	case "machine.name":
		return m.Name, true
	case "machine.scale_set":
		return m.ScaleSet, true
	case "alert.reason":
		return string(reason), true
	}
	if label, ok := strings.CutPrefix(field, "machine.labels."); ok {
		value, known = m.Labels[label]
		return value, known
	}
	return "", false
}

// suppressor is the rule that hides an alert, nil if none does. Of several it is the one that lasts longest, so
// that the alert stays hidden when a shorter one expires.
func suppressor(rules []SuppressionRule, code string, reason verifier.Reason, m *Machine, now time.Time) *uuid.UUID {
	var best *SuppressionRule
	for i := range rules {
		r := &rules[i]
		if !r.hides(code, reason, m, now) {
			continue
		}
		if best == nil || best.ExpiresAt != nil && (r.ExpiresAt == nil || r.ExpiresAt.After(*best.ExpiresAt)) {
			best = r
		}
	}
	if best == nil {
		return nil
	}
	return &best.ID
}

// rehidden is an alert that another rule hides than did before; nil for none.
type rehidden struct {
	alert    uuid.UUID
	was, now *uuid.UUID
}

// lookAgain locks alerts, those that the condition finds ($2 is its parameter), and tells which of them another rule hides now.
// It locks in the order of lockMembers.
func lookAgain(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, condition string, param any, rules []SuppressionRule, now time.Time) ([]rehidden, error) {
	rows, _ := tx.Query(ctx, `SELECT a.alert_id, a.code, a.reason, a.suppressed_by, coalesce(m.name, ''), coalesce(m.scale_set, ''), coalesce(m.labels, '{}')
		FROM alerts a LEFT JOIN machines m ON m.tenant_id = a.tenant_id AND m.machine_id = a.machine_id
		WHERE a.tenant_id = $1 AND `+condition+` ORDER BY a.machine_id, a.alert_id FOR UPDATE OF a`, pgUUID(tenant), param)
	var changed []rehidden
	var id uuid.UUID
	var code, reason string
	var was *uuid.UUID
	var m Machine
	_, err := pgx.ForEachRow(rows, []any{&id, &code, &reason, &was, &m.Name, &m.ScaleSet, &m.Labels}, func() error {
		by := suppressor(rules, code, verifier.Reason(reason), &m, now)
		if (was == nil) != (by == nil) || was != nil && *was != *by {
			changed = append(changed, rehidden{id, was, by})
		}
		m.Labels = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look again at alerts: %w", err)
	}
	return changed, nil
}

// The conditions of lookAgain.
const (
	openOfMachine = `a.machine_id = $2 AND a.status IN ('active', 'in_progress')`
	openOfAll     = `$2::text = '' AND a.status IN ('active', 'in_progress')`
	openOfRules   = `a.suppressed_by = ANY ($2::uuid[]) AND a.status IN ('active', 'in_progress')`
	oneAlert      = `a.alert_id = $2`
)

// resuppress looks again at alerts (see lookAgain) after rules or a machine changed. An alert that a rule hid, and that none
// hides now, is told to receivers and in its history, as of who caused it. What is written is what the alert's row says, under
// its lock: so each time is told once, whoever finds it first.
func resuppress(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, condition string, param any, rules []SuppressionRule, now time.Time, actor string) error {
	changed, err := lookAgain(ctx, tx, tenant, condition, param, rules, now)
	if err != nil || len(changed) == 0 {
		return err
	}
	ids, by, touches, events := make([]uuid.UUID, len(changed)), make([]*uuid.UUID, len(changed)), make([]uuid.UUID, len(changed)), make([]*uuid.UUID, len(changed))
	for i, c := range changed {
		ids[i], by[i], touches[i] = c.alert, c.now, newID(now)
		if c.now == nil {
			id := newID(now)
			events[i] = &id
		}
	}
	if _, err := tx.Exec(ctx, rehide, pgUUID(tenant), ids, by, now, touches, events, actor); err != nil {
		return fmt.Errorf("suppress alerts: %w", err)
	}
	return nil
}

// rehide writes which rules hide alerts: $2 alerts, $3 their rules (null for none), $4 time, $5 touch ids, $6 ids of the events
// of those that none hides any more, $7 who caused it.
const rehide = `WITH u AS (SELECT * FROM unnest($2::uuid[], $3::uuid[], $5::uuid[], $6::uuid[]) u (alert_id, rule_id, touch_id, event_id)),
	hidden AS (UPDATE alerts a SET suppressed_by = u.rule_id, updated_at = $4 FROM u WHERE a.tenant_id = $1 AND a.alert_id = u.alert_id
		RETURNING a.alert_id, a.machine_id, a.scope, a.status, a.verdict_id, a.group_key, u.touch_id, u.event_id, a.code, a.display_name, a.severity, a.reason),
	told AS (INSERT INTO alert_events (tenant_id, alert_id, event_id, at, kind, actor)
		SELECT $1, alert_id, event_id, $4, 'unsuppressed', $7 FROM hidden WHERE event_id IS NOT NULL),
	sent AS (INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at)
		SELECT $1, event_id, 'alert.unsuppressed', alert_id, jsonb_build_object('alert_id', alert_id, 'machine_id', machine_id, 'scope', scope, 'code', code,
			'severity', severity, 'reason', reason, 'verdict_id', verdict_id, 'suppressed_by', NULL, 'to', status), $4
		FROM hidden WHERE event_id IS NOT NULL)
	INSERT INTO incident_touches (tenant_id, touch_id, group_key, code, display_name, severity, reason, title)
	SELECT DISTINCT ON (group_key) $1, touch_id, group_key, code, display_name, severity, reason, '' FROM hidden ORDER BY group_key, touch_id`

// hideReopened sets which rule hides a closed alert that is about to be opened by hand: rules that changed while it was closed
// did not look at it. Nothing is told of it, since the opening is.
func hideReopened(ctx context.Context, tx pgx.Tx, tenant, alert uuid.UUID, rules []SuppressionRule, now time.Time) error {
	changed, err := lookAgain(ctx, tx, tenant, oneAlert, pgUUID(alert), rules, now)
	if err != nil || len(changed) == 0 {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE alerts SET suppressed_by = $3 WHERE tenant_id = $1 AND alert_id = $2`, pgUUID(tenant), pgUUID(alert), pgUUIDPtr(changed[0].now)); err != nil {
		return fmt.Errorf("suppress a reopened alert: %w", err)
	}
	return nil
}

// expireRules ends the rules whose time is over: nothing is written when a rule expires by itself, so that this looks for those
// whose end has not been counted. From then on it is over for every replica, whatever its clock says (rulesInForce). It is a
// transaction of its own, as each change of rules.
func (s *Store) expireRules(ctx context.Context, tenant uuid.UUID, now time.Time) error {
	const over = ` FROM suppression_rules WHERE tenant_id = $1 AND state = 'enabled' AND expires_at <= $2 AND expiry_counted_at IS NULL`
	var some bool
	if err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT`+over+`)`, pgUUID(tenant), now).Scan(&some); err != nil {
		return fmt.Errorf("look for expired suppression rules: %w", err)
	}
	if !some {
		return nil
	}
	return s.inTx(ctx, func(tx pgx.Tx) error {
		if err := bumpConfig(ctx, tx, tenant); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, `UPDATE suppression_rules r SET expiry_counted_at = $2 FROM (SELECT rule_id`+over+` ORDER BY rule_id FOR UPDATE) x
			WHERE r.tenant_id = $1 AND r.rule_id = x.rule_id RETURNING r.rule_id`, pgUUID(tenant), now)
		ended, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return fmt.Errorf("end expired suppression rules: %w", err)
		}
		if len(ended) == 0 { // another replica did it meanwhile
			return nil
		}
		rules, err := rulesInForce(ctx, tx, tenant)
		if err != nil {
			return err
		}
		return resuppress(ctx, tx, tenant, openOfRules, ended, rules, now, automatic)
	})
}

// rulesInForce are the enabled rules whose end no replica has found. Those that expire hide until they do (hides).
func rulesInForce(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) ([]SuppressionRule, error) {
	rows, _ := tx.Query(ctx, `SELECT `+ruleColumns+` FROM suppression_rules WHERE tenant_id = $1 AND state = 'enabled' AND expiry_counted_at IS NULL ORDER BY rule_id`, tenant)
	rules, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (SuppressionRule, error) { return scanRule(row) })
	if err != nil {
		return nil, fmt.Errorf("read suppression rules: %w", err)
	}
	return rules, nil
}

const ruleColumns = `rule_id, alert_code, reason, comment, expires_at, state, scope, created_by, created_at, updated_at`

func scanRule(row pgx.Row) (SuppressionRule, error) {
	var r SuppressionRule
	err := row.Scan(&r.ID, &r.AlertCode, &r.Reason, &r.Comment, &r.ExpiresAt, &r.State, &r.Scope, &r.CreatedBy, &r.CreatedAt, &r.UpdatedAt)
	return r, err
}

// expired computes the state that a reader sees.
func (r SuppressionRule) expired(now time.Time) SuppressionRule {
	if r.State == "enabled" && r.ExpiresAt != nil && !now.Before(*r.ExpiresAt) {
		r.State = "expired"
	}
	return r
}

// storedState is the state as written: expired is only computed, so a rule written back with it is enabled
// until its expiry says otherwise. Empty is enabled.
func (r *SuppressionRule) storedState() string {
	if r.State == "disabled" {
		return "disabled"
	}
	return "enabled"
}

// changeRules runs f, which writes rules, and looks again at all open alerts in the same transaction.
func (s *Store) changeRules(ctx context.Context, tenant uuid.UUID, now time.Time, actor Actor, f func(tx pgx.Tx) error) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		if err := bumpConfig(ctx, tx, tenant); err != nil {
			return err
		}
		if err := f(tx); err != nil {
			return err
		}
		rules, err := rulesInForce(ctx, tx, tenant)
		if err != nil {
			return err
		}
		return resuppress(ctx, tx, tenant, openOfAll, "", rules, now, actor.String())
	})
}

// CreateSuppressionRule stores a rule and hides the open alerts that it fits. The id, and who and when, are
// filled in; an empty state is enabled.
func (s *Store) CreateSuppressionRule(ctx context.Context, tenant uuid.UUID, r SuppressionRule, now time.Time, actor Actor) (SuppressionRule, error) {
	ctx = withTenant(ctx, tenant)
	r.ID, r.State, r.CreatedBy, r.CreatedAt, r.UpdatedAt = newID(now), r.storedState(), actor.String(), now, now
	err := s.changeRules(ctx, tenant, now, actor, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO suppression_rules (tenant_id, `+ruleColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			tenant, r.ID, r.AlertCode, r.Reason, r.Comment, r.ExpiresAt, r.State, r.Scope, r.CreatedBy, r.CreatedAt, r.UpdatedAt); err != nil {
			return fmt.Errorf("make suppression rule: %w", err)
		}
		return audit(ctx, tx, tenant, now, actor, "suppression_rule.create", "suppression_rule:"+r.ID.String(), nil, r)
	})
	if err != nil {
		return SuppressionRule{}, err
	}
	return r.expired(now), nil
}

// UpdateSuppressionRule replaces what the rule r.ID says, and hides and shows the open alerts that it now
// fits and no longer fits. ErrNotFound.
func (s *Store) UpdateSuppressionRule(ctx context.Context, tenant uuid.UUID, r SuppressionRule, now time.Time, actor Actor) (SuppressionRule, error) {
	ctx = withTenant(ctx, tenant)
	err := s.changeRules(ctx, tenant, now, actor, func(tx pgx.Tx) error {
		was, err := scanRule(tx.QueryRow(ctx, `SELECT `+ruleColumns+` FROM suppression_rules WHERE tenant_id = $1 AND rule_id = $2 FOR UPDATE`, tenant, r.ID))
		if err != nil {
			return notFound(err, "suppression rule", r.ID)
		}
		r.State, r.CreatedBy, r.CreatedAt, r.UpdatedAt = r.storedState(), was.CreatedBy, was.CreatedAt, now
		if _, err := tx.Exec(ctx, `UPDATE suppression_rules SET alert_code = $3, reason = $4, comment = $5, expires_at = $6, state = $7, scope = $8, updated_at = $9, expiry_counted_at = NULL
			WHERE tenant_id = $1 AND rule_id = $2`, tenant, r.ID, r.AlertCode, r.Reason, r.Comment, r.ExpiresAt, r.State, r.Scope, now); err != nil {
			return fmt.Errorf("update suppression rule: %w", err)
		}
		// An alert that the rule hid until it expired, and hides again, does not change, but its incident's count does.
		if err := touchHidden(ctx, tx, tenant, []pgtype.UUID{pgUUID(r.ID)}, now); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "suppression_rule.update", "suppression_rule:"+r.ID.String(), was, r)
	})
	if err != nil {
		return SuppressionRule{}, err
	}
	return r.expired(now), nil
}

// DeleteSuppressionRule removes a rule; what it hid is shown again. ErrNotFound.
func (s *Store) DeleteSuppressionRule(ctx context.Context, tenant, id uuid.UUID, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	return s.changeRules(ctx, tenant, now, actor, func(tx pgx.Tx) error {
		was, err := scanRule(tx.QueryRow(ctx, `DELETE FROM suppression_rules WHERE tenant_id = $1 AND rule_id = $2 RETURNING `+ruleColumns, tenant, id))
		if err != nil {
			return notFound(err, "suppression rule", id)
		}
		return audit(ctx, tx, tenant, now, actor, "suppression_rule.delete", "suppression_rule:"+id.String(), was, nil)
	})
}

// GetSuppressionRule reads one rule. ErrNotFound.
func (s *Store) GetSuppressionRule(ctx context.Context, tenant, id uuid.UUID, now time.Time) (SuppressionRule, error) {
	ctx = withTenant(ctx, tenant)
	r, err := scanRule(s.pool.QueryRow(ctx, `SELECT `+ruleColumns+` FROM suppression_rules WHERE tenant_id = $1 AND rule_id = $2`, tenant, id))
	if err != nil {
		return SuppressionRule{}, notFound(err, "suppression rule", id)
	}
	return r.expired(now), nil
}

// ListSuppressionRules lists rules, newest first.
func (s *Store) ListSuppressionRules(ctx context.Context, tenant uuid.UUID, f SuppressionFilter, page Page, now time.Time) (items []SuppressionRule, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(" FROM suppression_rules WHERE tenant_id = $1 AND $2::timestamptz IS NOT NULL", tenant, now)
	q.oneOf("alert_code", f.AlertCode)
	q.oneOf("CASE WHEN state = 'enabled' AND expires_at <= $2 THEN 'expired' ELSE state END", f.State)
	items, next, err = suppressionList.page(ctx, s.pool, q, page)
	for i := range items {
		items[i] = items[i].expired(now)
	}
	return items, next, err
}

// SuppressionFilter narrows ListSuppressionRules; both may hold several values with commas between them.
type SuppressionFilter struct {
	AlertCode string
	State     string // enabled, disabled, expired
}

var suppressionList = listing[SuppressionRule]{
	name: "suppression_rules", columns: ruleColumns, scan: scanRule, initial: "-id",
	sorts: map[string][]sortKey{
		"id": ids("rule_id"), "alert_code": byText("alert_code", ids("rule_id")...), "updated_at": byTime("updated_at", ids("rule_id")...),
	},
}
