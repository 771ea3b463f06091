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
)

// isSuppressed holds for an alert a whose rule sr is in force at $2: a rule expires by itself, and what it hid
// is shown again from then on.
const isSuppressed = `(a.suppressed_by IS NOT NULL AND sr.state = 'enabled' AND (sr.expires_at IS NULL OR sr.expires_at > $2)) IS TRUE`

const alertTables = ` FROM alerts a
	JOIN machines m ON m.tenant_id = a.tenant_id AND m.machine_id = a.machine_id
	LEFT JOIN suppression_rules sr ON sr.tenant_id = a.tenant_id AND sr.rule_id = a.suppressed_by
	WHERE a.tenant_id = $1 `

const openAlerts = alertTables + `AND a.status IN ('active', 'in_progress') `

// alertColumns takes the time as $2.
const alertColumns = `a.alert_id, a.machine_id, m.name, m.scale_set, a.code, a.display_name, a.severity, a.reason, a.description, a.remediation_steps,
	a.status, a.verdict_id, a.first_seen_at, a.last_seen_at, a.seen_count, CASE WHEN ` + isSuppressed + ` THEN a.suppressed_by END, a.updated_at`

func scanAlert(row pgx.Row) (Alert, error) {
	var a Alert
	var verdict, hiddenBy pgtype.UUID
	err := row.Scan(&a.ID, &a.MachineID, &a.MachineName, &a.ScaleSet, &a.Code, &a.DisplayName, &a.Severity, &a.Reason, &a.Description, &a.RemediationSteps,
		&a.Status, &verdict, &a.FirstSeenAt, &a.LastSeenAt, &a.Count, &hiddenBy, &a.UpdatedAt)
	a.VerdictID, a.SuppressedBy = verdict.Bytes, uuidPtr(hiddenBy)
	return a, err
}

var alertList = listing[Alert]{
	name: "alerts", columns: alertColumns, scan: scanAlert, initial: "-id",
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
	return q
}

const selectAlert = `SELECT ` + alertColumns + alertTables + `AND a.alert_id = $3`

// GetAlert reads one alert, suppressed or not. ErrNotFound.
func (s *Store) GetAlert(ctx context.Context, tenant, id uuid.UUID, now time.Time) (Alert, error) {
	a, err := scanAlert(s.pool.QueryRow(ctx, selectAlert, pgUUID(tenant), now, pgUUID(id)))
	if err != nil {
		return Alert{}, notFound(err, "alert", id)
	}
	return a, nil
}

// alertTransitions says what an alert's status may become by hand.
var alertTransitions = map[string][]string{
	"active":      {"in_progress", "dismissed", "resolved"},
	"in_progress": {"active", "dismissed", "resolved"},
	"dismissed":   {"active"},
	"resolved":    {"active"},
}

// SetAlertStatus changes an alert's status by hand. ErrNotFound; ErrConflict where the status cannot become that
// one (dismissed and resolved alerts can only become active), or where another alert of the machine and code is
// open already.
func (s *Store) SetAlertStatus(ctx context.Context, tenant, id uuid.UUID, to string, now time.Time, actor Actor) (Alert, error) {
	var a Alert
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		var err error
		if a, err = scanAlert(tx.QueryRow(ctx, selectAlert+` FOR UPDATE OF a`, pgUUID(tenant), now, pgUUID(id))); err != nil {
			return notFound(err, "alert", id)
		}
		from := a.Status
		if !slices.Contains(alertTransitions[from], to) {
			return fmt.Errorf("alert %s is %s and cannot become %q: %w", id, from, to, ErrConflict)
		}
		a.Status, a.UpdatedAt = to, now
		if _, err := tx.Exec(ctx, `UPDATE alerts SET status = $3, updated_at = $4 WHERE tenant_id = $1 AND alert_id = $2`, tenant, id, to, now); err != nil {
			return err
		}
		kind := "alert.status_changed"
		if to == "resolved" {
			kind = "alert.resolved"
		}
		payload := map[string]any{"alert_id": id, "machine_id": a.MachineID, "code": a.Code, "from": from, "to": to}
		if _, err := tx.Exec(ctx, `INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			tenant, newID(now), kind, id, payload, now); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "alert.set_status", "alert:"+id.String(), map[string]any{"status": from}, map[string]any{"status": to})
	})
	if isViolation(err, "alerts_open") {
		err = fmt.Errorf("another alert of the machine and code is open: %w", ErrConflict)
	}
	if err != nil {
		return Alert{}, fmt.Errorf("set the status of an alert: %w", err)
	}
	return a, nil
}
