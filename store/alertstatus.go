package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// alertTransitions says what an alert's status may become by hand. What happens by itself is beside raiseStatement.
//
//	from         to active   in_progress   dismissed   resolved
//	active       –           takes it up   closes it   closes it
//	in_progress  puts back   –             closes it   closes it
//	dismissed    reopens it  –             –           –
//	resolved     reopens it  –             –           –
//
// Closing sets who and when and leaves the incident; reopening counts, and joins it again. Of one machine (or scope) and
// code one alert is open at most: reopening is refused where another is.
var alertTransitions = map[string][]string{
	"active":      {"in_progress", "dismissed", "resolved"},
	"in_progress": {"active", "dismissed", "resolved"},
	"dismissed":   {"active"},
	"resolved":    {"active"},
}

// AlertChange is what a person does to alerts.
type AlertChange struct {
	To       string // the new status
	Comment  string // kept in the history
	Assignee string // who works on it; only with in_progress
}

// setStatuses changes the status of locked alerts by hand: $1 tenant, $2 alerts, $3 new status, $4 time, $5 actor, $6 comment,
// $7 assignee, $8 event ids in the order of $2, $9 touch ids likewise. was is the status before.
const setStatuses = `WITH was AS MATERIALIZED (SELECT a.alert_id, a.machine_id, a.scope, a.code, a.status, a.group_key, a.display_name, a.severity, a.reason, u.event_id, u.touch_id,
			a.status IN ('dismissed', 'resolved') AS closed
		FROM unnest($2::uuid[], $8::uuid[], $9::uuid[]) u (alert_id, event_id, touch_id) JOIN alerts a ON a.tenant_id = $1 AND a.alert_id = u.alert_id),
	changed AS (UPDATE alerts a SET status = $3, updated_at = $4,
			closed_at = CASE WHEN $3 IN ('dismissed', 'resolved') THEN $4::timestamptz END, closed_by = CASE WHEN $3 IN ('dismissed', 'resolved') THEN $5 ELSE '' END,
			opened_at = CASE WHEN w.closed THEN $4 ELSE a.opened_at END, reopened_count = a.reopened_count + CASE WHEN w.closed THEN 1 ELSE 0 END,
			over_at = NULL, assignee = CASE WHEN $3 = 'active' THEN '' WHEN $7 <> '' THEN $7 ELSE a.assignee END
		FROM was w WHERE a.tenant_id = $1 AND a.alert_id = w.alert_id),
	told AS (INSERT INTO alert_events (tenant_id, alert_id, event_id, at, kind, actor, from_status, to_status, comment, assignee)
		SELECT $1, alert_id, event_id, $4, CASE WHEN closed THEN 'reopened' ELSE 'status_changed' END, $5, status, $3, $6, $7 FROM was),
	left_now AS (UPDATE incident_members m SET left_at = $4, left_as = $3
		FROM was w WHERE m.tenant_id = $1 AND m.group_key = w.group_key AND m.alert_id = w.alert_id AND $3 IN ('dismissed', 'resolved')),
	joined AS (INSERT INTO incident_members (tenant_id, group_key, alert_id, joined_at) SELECT $1, group_key, alert_id, $4 FROM was WHERE closed
		ON CONFLICT (tenant_id, group_key, alert_id) DO UPDATE SET joined_at = EXCLUDED.joined_at, left_at = NULL, left_as = ''),
	touched AS (INSERT INTO incident_touches (tenant_id, touch_id, group_key, code, display_name, severity, reason, title)
		SELECT DISTINCT ON (group_key) $1, touch_id, group_key, code, display_name, severity, reason, '' FROM was ORDER BY group_key, alert_id)
	INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at)
	SELECT $1, event_id, CASE WHEN closed THEN 'alert.reopened' WHEN $3 = 'resolved' THEN 'alert.resolved' ELSE 'alert.status_changed' END, alert_id,
		jsonb_build_object('alert_id', alert_id, 'machine_id', machine_id, 'scope', scope, 'code', code, 'from', status, 'to', $3::text), $4 FROM was`

// setAlerts writes the change of alerts that the transaction has locked and found fit for it.
func setAlerts(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, ids []uuid.UUID, c AlertChange, now time.Time, actor Actor) error {
	alerts, events, touches := make([]pgtype.UUID, len(ids)), make([]pgtype.UUID, len(ids)), make([]pgtype.UUID, len(ids))
	for i, id := range ids {
		alerts[i], events[i], touches[i] = pgUUID(id), pgUUID(newID(now)), pgUUID(newID(now))
	}
	_, err := tx.Exec(ctx, setStatuses, pgUUID(tenant), alerts, c.To, now, actor.String(), c.Comment, c.Assignee, events, touches)
	return err
}

// SetAlertStatus changes an alert's status by hand. ErrNotFound; *StateError (which is ErrConflict) where the status cannot
// become that one (dismissed and resolved alerts can only become active), or where another alert of the machine and code is
// open already.
func (s *Store) SetAlertStatus(ctx context.Context, tenant, id uuid.UUID, c AlertChange, now time.Time, actor Actor) (Alert, error) {
	ctx = withTenant(ctx, tenant)
	var a Alert
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		rules, err := s.lockSuppressionRules(ctx, tx, tenant)
		if err != nil {
			return err
		}
		if a, err = scanAlert(tx.QueryRow(ctx, selectAlert+` FOR UPDATE OF a`, pgUUID(tenant), now, pgUUID(id))); err != nil {
			return notFound(err, "alert", id)
		}
		from := a.Status
		if !slices.Contains(alertTransitions[from], c.To) {
			return &StateError{fmt.Sprintf("the alert is %s and cannot become %s", from, c.To)}
		}
		if from == "dismissed" || from == "resolved" {
			if err := hideReopened(ctx, tx, tenant, id, rules, now); err != nil {
				return err
			}
		}
		if err := setAlerts(ctx, tx, tenant, []uuid.UUID{id}, c, now, actor); err != nil {
			return err
		}
		if a, err = scanAlert(tx.QueryRow(ctx, selectAlert, pgUUID(tenant), now, pgUUID(id))); err != nil {
			return notFound(err, "alert", id)
		}
		after := map[string]any{"status": c.To}
		if c.Comment != "" {
			after["comment"] = c.Comment
		}
		if c.Assignee != "" {
			after["assignee"] = c.Assignee
		}
		return audit(ctx, tx, tenant, now, actor, "alert.set_status", "alert:"+id.String(), map[string]any{"status": from}, after)
	})
	if isViolation(err, "alerts_open") || isViolation(err, "alerts_open_scope") {
		err = &StateError{"another alert of the machine and code is open"}
	}
	if err != nil {
		return Alert{}, fmt.Errorf("set the status of an alert: %w", err)
	}
	return a, nil
}

// noteAlert adds to the history of an alert what changed no status.
func noteAlert(ctx context.Context, tx pgx.Tx, tenant, alert uuid.UUID, kind, comment string, now time.Time, actor Actor) (uuid.UUID, error) {
	id := newID(now)
	_, err := tx.Exec(ctx, `INSERT INTO alert_events (tenant_id, alert_id, event_id, at, kind, actor, comment) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		pgUUID(tenant), pgUUID(alert), pgUUID(id), now, kind, actor.String(), comment)
	return id, err
}
