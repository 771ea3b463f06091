package store

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// isSuppressed holds for an alert a whose rule sr is in force at $2: a rule expires by itself, and what it hid
// is shown again from then on.
const isSuppressed = `(a.suppressed_by IS NOT NULL AND sr.state = 'enabled' AND (sr.expires_at IS NULL OR sr.expires_at > $2)) IS TRUE`

const alertTables = ` FROM alerts a
	LEFT JOIN machines m ON m.tenant_id = a.tenant_id AND m.machine_id = a.machine_id
	LEFT JOIN suppression_rules sr ON sr.tenant_id = a.tenant_id AND sr.rule_id = a.suppressed_by
	WHERE a.tenant_id = $1 `

const openAlerts = alertTables + `AND a.status IN ('active', 'in_progress') `

// alertColumns takes the time as $2.
const alertColumns = `a.alert_id, a.machine_id, coalesce(m.name, ''), coalesce(m.scale_set, ''), a.scope, a.details, a.code, a.display_name, a.severity, a.reason, a.description, a.remediation_steps,
	a.status, a.verdict_id, a.first_seen_at, a.last_seen_at, a.seen_count, CASE WHEN ` + isSuppressed + ` THEN a.suppressed_by END, a.updated_at,
	a.opened_at, a.reopened_count, a.closed_at, a.closed_by, a.assignee`

// scanAlert reads alertColumns, and what follows them into more.
func scanAlert(row pgx.Row, more ...any) (Alert, error) {
	var a Alert
	var machine, verdict, hiddenBy pgtype.UUID
	err := row.Scan(append([]any{&a.ID, &machine, &a.MachineName, &a.ScaleSet, &a.Scope, &a.Details, &a.Code, &a.DisplayName, &a.Severity, &a.Reason, &a.Description, &a.RemediationSteps,
		&a.Status, &verdict, &a.FirstSeenAt, &a.LastSeenAt, &a.Count, &hiddenBy, &a.UpdatedAt,
		&a.OpenedAt, &a.ReopenedCount, &a.ClosedAt, &a.ClosedBy, &a.Assignee}, more...)...)
	a.MachineID, a.VerdictID, a.SuppressedBy = machine.Bytes, verdict.Bytes, uuidPtr(hiddenBy)
	return a, err
}

var alertList = listing[Alert]{
	name: "alerts", columns: alertColumns, scan: func(row pgx.Row) (Alert, error) { return scanAlert(row) }, initial: "-id",
	sorts: map[string][]sortKey{
		"id":         ids("a.alert_id"),
		"severity":   byNumber(severityRank("a.severity"), ids("a.alert_id")...),
		"status":     byText("a.status", ids("a.alert_id")...),
		"code":       byText("a.code", ids("a.alert_id")...),
		"updated_at": byTime("a.updated_at", ids("a.alert_id")...),
	},
}

// ListAlerts lists alerts, newest first.
func (s *Store) ListAlerts(ctx context.Context, tenant uuid.UUID, f AlertFilter, page Page, now time.Time) (items []Alert, next string, err error) {
	ctx = withTenant(ctx, tenant)
	return alertList.page(ctx, s.pool, alertQuery(tenant, f, now), page)
}

func alertQuery(tenant uuid.UUID, f AlertFilter, now time.Time) *query {
	q := newQuery(alertTables, tenant, now)
	q.id("a.machine_id = ?", f.MachineID)
	q.oneOf("a.code", f.Code)
	q.oneOf("a.status", f.Status)
	if f.Status != "" && !strings.Contains(f.Status, "dismissed") && !strings.Contains(f.Status, "resolved") {
		q.plain("a.status IN ('active', 'in_progress')") // the condition of the partial indexes
	}
	q.oneOf("a.severity", f.Severity)
	q.oneOf("a.reason", f.Reason)
	q.text("m.scale_set = ?", f.ScaleSet)
	q.at("a.first_seen_at >= ?", f.Since)
	q.at("a.first_seen_at < ?", f.Until)
	if !f.IncludeSuppressed {
		q.plain("NOT " + isSuppressed)
	}
	return q.within(f.Scope)
}

const selectAlert = `SELECT ` + alertColumns + alertTables + `AND a.alert_id = $3`

// GetAlert reads one alert, suppressed or not. ErrNotFound.
func (s *Store) GetAlert(ctx context.Context, tenant, id uuid.UUID, now time.Time) (Alert, error) {
	ctx = withTenant(ctx, tenant)
	a, err := scanAlert(s.pool.QueryRow(ctx, selectAlert, pgUUID(tenant), now, pgUUID(id)))
	if err != nil {
		return Alert{}, notFound(err, "alert", id)
	}
	return a, nil
}
