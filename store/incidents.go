package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/verifier"
)

// Incident is one cause and the alerts that it raised, on however many machines. Its counts are those of the last
// CountIncidents.
type Incident struct {
	ID            uuid.UUID
	Code          string
	DisplayName   string
	Severity      string
	Reason        verifier.Reason
	Title         string // what its alerts share, without the number of machines
	Status        string // active, in_progress, dismissed, resolved
	FirstSeenAt   time.Time
	LastJoinedAt  time.Time
	OpenedAt      time.Time // the last time
	ReopenedCount int
	ClosedAt      *time.Time
	Open          int64            // open alerts
	Suppressed    int64            // those of them that a rule hides
	Episode       int64            // alerts since OpenedAt
	All           int64            // alerts ever
	ScaleSets     map[string]int64 // open alerts by scale set, the largest twenty
	OfScope       bool             // its alerts are of many machines each
	UpdatedAt     time.Time
}

// IncidentFilter narrows ListIncidents. Open chooses active and in_progress.
type IncidentFilter struct {
	Status, Code, Severity, Reason string
	Open                           bool
	Scope                          Scope
}

const incidentColumns = `incident_id, code, display_name, severity, reason, title, status, first_seen_at, last_joined_at, opened_at, reopened_count, closed_at,
	open_members, suppressed_members, episode_members, all_members, scale_sets, of_scope, updated_at`

func scanIncident(row pgx.Row) (i Incident, err error) {
	err = row.Scan(&i.ID, &i.Code, &i.DisplayName, &i.Severity, &i.Reason, &i.Title, &i.Status, &i.FirstSeenAt, &i.LastJoinedAt, &i.OpenedAt, &i.ReopenedCount, &i.ClosedAt,
		&i.Open, &i.Suppressed, &i.Episode, &i.All, &i.ScaleSets, &i.OfScope, &i.UpdatedAt)
	return i, err
}

var incidentList = listing[Incident]{
	name: "incidents", columns: incidentColumns, initial: "-id", scan: scanIncident,
	sorts: map[string][]sortKey{
		"id":        ids("incident_id"),
		"opened_at": byTime("opened_at", ids("incident_id")...),
		"severity":  byNumber(severityRank("severity"), ids("incident_id")...),
		"open":      byNumber("open_members", ids("incident_id")...),
	},
}

// ListIncidents lists incidents, the newest first: in the order in which they were made, which does not change. One that is opened
// again while somebody walks the list by opened_at goes to another place, and may be missed.
func (s *Store) ListIncidents(ctx context.Context, tenant uuid.UUID, f IncidentFilter, page Page) (items []Incident, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(` FROM incidents WHERE tenant_id = $1`, tenant)
	q.oneOf("status", f.Status)
	q.oneOf("code", f.Code)
	q.oneOf("severity", f.Severity)
	q.oneOf("reason", f.Reason)
	if f.Open {
		q.plain("closed_at IS NULL")
	}
	return incidentList.page(ctx, s.pool, q.within(f.Scope), page)
}

// GetIncident reads one incident. ErrNotFound.
func (s *Store) GetIncident(ctx context.Context, tenant, id uuid.UUID) (Incident, error) {
	ctx = withTenant(ctx, tenant)
	rows, _ := s.pool.Query(ctx, `SELECT `+incidentColumns+` FROM incidents WHERE tenant_id = $1 AND incident_id = $2`, pgUUID(tenant), pgUUID(id))
	i, err := pgx.CollectExactlyOneRow(rows, collected(scanIncident))
	if err != nil {
		return Incident{}, notFound(err, "incident", id)
	}
	return i, nil
}

// IncidentMember is one alert of an incident.
type IncidentMember struct {
	Alert
	JoinedAt time.Time // the last time
	LeftAt   *time.Time
	LeftAs   string // dismissed, resolved, or changed to another cause; empty while it is a member
}

var memberList = listing[IncidentMember]{
	name: "incident_members", columns: alertColumns + ", im.joined_at, im.left_at, im.left_as", initial: "-id",
	sorts: map[string][]sortKey{"id": ids("im.alert_id")},
	scan: func(row pgx.Row) (m IncidentMember, err error) {
		m.Alert, err = scanAlert(row, &m.JoinedAt, &m.LeftAt, &m.LeftAs)
		return m, err
	},
}

// IncidentMembers lists the alerts of an incident, newest alert first; with open, those that are open members only.
// ErrNotFound: no such incident.
func (s *Store) IncidentMembers(ctx context.Context, tenant, id uuid.UUID, open bool, page Page, now time.Time) (items []IncidentMember, next string, err error) {
	ctx = withTenant(ctx, tenant)
	if err := memberList.check(page); err != nil {
		return nil, "", err
	}
	if _, err := s.GetIncident(ctx, tenant, id); err != nil {
		return nil, "", err
	}
	q := newQuery(` FROM incidents i
		JOIN incident_members im ON im.tenant_id = i.tenant_id AND im.group_key = i.group_key
		JOIN alerts a ON a.tenant_id = im.tenant_id AND a.alert_id = im.alert_id
		LEFT JOIN machines m ON m.tenant_id = a.tenant_id AND m.machine_id = a.machine_id
		LEFT JOIN suppression_rules sr ON sr.tenant_id = a.tenant_id AND sr.rule_id = a.suppressed_by
		WHERE i.tenant_id = $1`, tenant, now)
	q.and("i.incident_id = ?", pgUUID(id))
	if open {
		q.plain("im.left_at IS NULL")
	}
	return memberList.page(ctx, s.pool, q, page)
}

// SetIncidentStatus changes the status of all open alerts of an incident that can become that one, by hand and in one
// transaction, and answers how many those were. ErrNotFound; *StateError where there is none.
func (s *Store) SetIncidentStatus(ctx context.Context, tenant, id uuid.UUID, c AlertChange, now time.Time, actor Actor) (changed int, err error) {
	ctx = withTenant(ctx, tenant)
	err = s.inTxAgain(ctx, func(tx pgx.Tx) error {
		ids, err := lockMembers(ctx, tx, tenant, id, fromOpen(c.To))
		if err != nil {
			return err
		}
		if changed = len(ids); changed == 0 {
			return &StateError{fmt.Sprintf("no open alert of the incident can become %s", c.To)}
		}
		if err := setAlerts(ctx, tx, tenant, ids, c, now, actor); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "incident.set_status", "incident:"+id.String(), nil,
			map[string]any{"status": c.To, "alerts": changed, "comment": c.Comment, "assignee": c.Assignee})
	})
	if err != nil {
		return 0, fmt.Errorf("set the status of an incident: %w", err)
	}
	return changed, nil
}

// CommentIncident adds a comment to the history of each open alert of an incident, and answers how many those were.
// ErrNotFound; *StateError where there is none.
func (s *Store) CommentIncident(ctx context.Context, tenant, id uuid.UUID, comment string, now time.Time, actor Actor) (commented int, err error) {
	ctx = withTenant(ctx, tenant)
	err = s.inTxAgain(ctx, func(tx pgx.Tx) error {
		ids, err := lockMembers(ctx, tx, tenant, id, []string{"active", "in_progress"})
		if err != nil {
			return err
		}
		if commented = len(ids); commented == 0 {
			return &StateError{"the incident has no open alert"}
		}
		events := make([]uuid.UUID, len(ids))
		for i := range events {
			events[i] = newID(now)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO alert_events (tenant_id, alert_id, event_id, at, kind, actor, comment)
			SELECT $1, u.alert_id, u.event_id, $4, 'commented', $5, $6 FROM unnest($2::uuid[], $3::uuid[]) u (alert_id, event_id)`,
			pgUUID(tenant), ids, events, now, actor.String(), comment); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "incident.comment", "incident:"+id.String(), nil, map[string]any{"comment": comment, "alerts": commented})
	})
	if err != nil {
		return 0, fmt.Errorf("comment an incident: %w", err)
	}
	return commented, nil
}

// inTxAgain is inTx for a change of many alerts: where Postgres breaks a deadlock with a group of appraisals at its cost, it
// is done again.
func (s *Store) inTxAgain(ctx context.Context, f func(pgx.Tx) error) error {
	var err error
	for range 3 {
		if err = s.inTx(ctx, f); !isCode(err, "40P01") {
			break
		}
	}
	return err
}

// fromOpen are the open statuses from which an alert can become that one.
func fromOpen(to string) []string {
	var out []string
	for _, from := range []string{"active", "in_progress"} {
		if slices.Contains(alertTransitions[from], to) {
			out = append(out, from)
		}
	}
	return out
}

// lockMembers locks the open alerts of an incident that have one of the statuses, in one order. ErrNotFound.
func lockMembers(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID, statuses []string) ([]uuid.UUID, error) {
	var key []byte
	if err := tx.QueryRow(ctx, `SELECT group_key FROM incidents WHERE tenant_id = $1 AND incident_id = $2`, pgUUID(tenant), pgUUID(id)).Scan(&key); err != nil {
		return nil, notFound(err, "incident", id)
	}
	rows, _ := tx.Query(ctx, `SELECT a.alert_id FROM incident_members im JOIN alerts a ON a.tenant_id = im.tenant_id AND a.alert_id = im.alert_id
		WHERE im.tenant_id = $1 AND im.group_key = $2 AND im.left_at IS NULL AND a.group_key = $2 AND a.status = ANY ($3)
		ORDER BY a.machine_id, a.alert_id FOR UPDATE OF a`, pgUUID(tenant), key, statuses)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("lock the alerts of incident %s: %w", id, err)
	}
	return ids, nil
}

// IncidentOf is the incident that an alert belongs to; nil in the moment before it is counted. ErrNotFound: no such alert.
func (s *Store) IncidentOf(ctx context.Context, tenant, alertID uuid.UUID) (*uuid.UUID, error) {
	ctx = withTenant(ctx, tenant)
	var id *uuid.UUID
	err := s.pool.QueryRow(ctx, `SELECT i.incident_id FROM alerts a LEFT JOIN incidents i ON i.tenant_id = a.tenant_id AND i.group_key = a.group_key
		WHERE a.tenant_id = $1 AND a.alert_id = $2`, pgUUID(tenant), pgUUID(alertID)).Scan(&id)
	if err != nil {
		return nil, notFound(err, "alert", alertID)
	}
	return id, nil
}
