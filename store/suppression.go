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

// resuppress looks again at the open alerts of one machine (nil: of all) after rules or the machine changed.
func resuppress(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, machineID *uuid.UUID, rules []SuppressionRule, now time.Time) error {
	rows, _ := tx.Query(ctx, `SELECT a.alert_id, a.code, a.reason, a.suppressed_by, coalesce(m.name, ''), coalesce(m.scale_set, ''), coalesce(m.labels, '{}')
		FROM alerts a LEFT JOIN machines m ON m.tenant_id = a.tenant_id AND m.machine_id = a.machine_id
		WHERE a.tenant_id = $1 AND ($2::uuid IS NULL OR a.machine_id = $2) AND a.status IN ('active', 'in_progress')
		ORDER BY a.alert_id FOR UPDATE OF a`, tenant, pgUUIDPtr(machineID))
	var ids []uuid.UUID
	var by []*uuid.UUID
	var id uuid.UUID
	var code, reason string
	var was *uuid.UUID
	var m Machine
	_, err := pgx.ForEachRow(rows, []any{&id, &code, &reason, &was, &m.Name, &m.ScaleSet, &m.Labels}, func() error {
		now := suppressor(rules, code, verifier.Reason(reason), &m, now)
		if (was == nil) != (now == nil) || was != nil && *was != *now {
			ids, by = append(ids, id), append(by, now)
		}
		m.Labels = nil
		return nil
	})
	if err != nil {
		return fmt.Errorf("look again at open alerts: %w", err)
	}
	if len(ids) == 0 {
		return nil
	}
	touches := make([]uuid.UUID, len(ids))
	for i := range touches {
		touches[i] = newID(now)
	}
	_, err = tx.Exec(ctx, `WITH u AS (SELECT * FROM unnest($2::uuid[], $3::uuid[], $5::uuid[]) u (alert_id, rule_id, touch_id)),
			hidden AS (UPDATE alerts a SET suppressed_by = u.rule_id, updated_at = $4 FROM u WHERE a.tenant_id = $1 AND a.alert_id = u.alert_id
				RETURNING a.group_key, u.touch_id, a.code, a.display_name, a.severity, a.reason)
		INSERT INTO incident_touches (tenant_id, touch_id, group_key, code, display_name, severity, reason, title)
		SELECT DISTINCT ON (group_key) $1, touch_id, group_key, code, display_name, severity, reason, '' FROM hidden ORDER BY group_key, touch_id`,
		pgUUID(tenant), ids, by, now, touches)
	if err != nil {
		return fmt.Errorf("suppress alerts: %w", err)
	}
	return nil
}

const ruleColumns = `rule_id, alert_code, reason, comment, expires_at, state, scope, created_by, created_at, updated_at`

func readRules(ctx context.Context, tx pgx.Tx, sql string, args ...any) ([]SuppressionRule, error) {
	rows, _ := tx.Query(ctx, sql, args...)
	rules, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (SuppressionRule, error) { return scanRule(row) })
	if err != nil {
		return nil, fmt.Errorf("read suppression rules: %w", err)
	}
	return rules, nil
}

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
func (s *Store) changeRules(ctx context.Context, tenant uuid.UUID, now time.Time, f func(tx pgx.Tx) error) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		if err := bumpConfig(ctx, tx, tenant); err != nil {
			return err
		}
		if err := f(tx); err != nil {
			return err
		}
		rules, err := readRules(ctx, tx, `SELECT `+ruleColumns+` FROM suppression_rules WHERE tenant_id = $1 AND state = 'enabled' ORDER BY rule_id`, tenant)
		if err != nil {
			return err
		}
		return resuppress(ctx, tx, tenant, nil, rules, now)
	})
}

// CreateSuppressionRule stores a rule and hides the open alerts that it fits. The id, and who and when, are
// filled in; an empty state is enabled.
func (s *Store) CreateSuppressionRule(ctx context.Context, tenant uuid.UUID, r SuppressionRule, now time.Time, actor Actor) (SuppressionRule, error) {
	ctx = withTenant(ctx, tenant)
	r.ID, r.State, r.CreatedBy, r.CreatedAt, r.UpdatedAt = newID(now), r.storedState(), actor.String(), now, now
	err := s.changeRules(ctx, tenant, now, func(tx pgx.Tx) error {
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
	err := s.changeRules(ctx, tenant, now, func(tx pgx.Tx) error {
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
	return s.changeRules(ctx, tenant, now, func(tx pgx.Tx) error {
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
