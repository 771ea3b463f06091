package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// AlertOccurrence is one verdict behind an alert: consecutive occurrences of it are one.
type AlertOccurrence struct {
	VerdictID       *uuid.UUID // nil where none raised it
	FirstAt, LastAt time.Time
	Count           int64
}

// occurrenceRows derives the end and the count of each row from the next one, and of the last from the alert.
const occurrenceRows = ` FROM (SELECT o.tenant_id, o.seen_before, o.verdict_id, o.first_at,
			GREATEST(o.first_at, coalesce(LEAD(o.last_before_at) OVER w, a.last_seen_at)) AS last_at, coalesce(LEAD(o.seen_before) OVER w, a.seen_count) - o.seen_before AS n
		FROM alert_occurrences o JOIN alerts a ON a.tenant_id = o.tenant_id AND a.alert_id = o.alert_id
		WHERE o.tenant_id = $1 AND o.alert_id = $2 WINDOW w AS (ORDER BY o.seen_before)) x
	WHERE x.tenant_id = $1`

var occurrenceList = listing[AlertOccurrence]{
	name: "alert_occurrences", columns: "x.verdict_id, x.first_at, x.last_at, x.n", initial: "-first_at",
	sorts: map[string][]sortKey{"first_at": byNumber("x.seen_before")}, // which counts up with the time
	scan: func(row pgx.Row) (o AlertOccurrence, err error) {
		err = row.Scan(&o.VerdictID, &o.FirstAt, &o.LastAt, &o.Count)
		return o, err
	},
}

// AlertOccurrences lists the verdicts behind an alert, newest first. ErrNotFound: no such alert.
func (s *Store) AlertOccurrences(ctx context.Context, tenant, alertID uuid.UUID, page Page) (items []AlertOccurrence, next string, err error) {
	ctx = withTenant(ctx, tenant)
	if err := occurrenceList.check(page); err != nil {
		return nil, "", err
	}
	if err := s.alertExists(ctx, tenant, alertID); err != nil {
		return nil, "", err
	}
	q := newQuery(occurrenceRows, tenant, pgUUID(alertID))
	fmt.Fprintf(&q.filters, "alert %s\x00", alertID) // a cursor is of one alert
	return occurrenceList.page(ctx, s.pool, q, page)
}

func (s *Store) alertExists(ctx context.Context, tenant, id uuid.UUID) error {
	var there bool
	if err := s.pool.QueryRow(ctx, `SELECT true FROM alerts WHERE tenant_id = $1 AND alert_id = $2`, pgUUID(tenant), pgUUID(id)).Scan(&there); err != nil {
		return notFound(err, "alert", id)
	}
	return nil
}

// AlertEvent is one entry of an alert's history.
type AlertEvent struct {
	ID       uuid.UUID
	At       time.Time
	Kind     string // opened, reopened, status_changed, unsuppressed, grown, commented, approved, refused
	Actor    string // kind:id; system:alerts where it happened by itself
	From, To string // status; empty where it did not change
	Comment  string
	Assignee string
}

var alertHistoryList = listing[AlertEvent]{
	name: "alert_history", columns: "event_id, at, kind, actor, from_status, to_status, comment, assignee", initial: "-id",
	sorts: map[string][]sortKey{"id": ids("event_id")},
	scan: func(row pgx.Row) (e AlertEvent, err error) {
		err = row.Scan(&e.ID, &e.At, &e.Kind, &e.Actor, &e.From, &e.To, &e.Comment, &e.Assignee)
		return e, err
	},
}

// AlertHistory lists what happened to an alert, newest first. ErrNotFound: no such alert.
func (s *Store) AlertHistory(ctx context.Context, tenant, alertID uuid.UUID, page Page) (items []AlertEvent, next string, err error) {
	ctx = withTenant(ctx, tenant)
	if err := alertHistoryList.check(page); err != nil {
		return nil, "", err
	}
	if err := s.alertExists(ctx, tenant, alertID); err != nil {
		return nil, "", err
	}
	q := newQuery(` FROM alert_events WHERE tenant_id = $1`, tenant)
	q.and("alert_id = ?", pgUUID(alertID))
	return alertHistoryList.page(ctx, s.pool, q, page)
}

// CommentAlert adds a comment to an alert's history, whatever its status. ErrNotFound.
func (s *Store) CommentAlert(ctx context.Context, tenant, alertID uuid.UUID, comment string, now time.Time, actor Actor) (AlertEvent, error) {
	ctx = withTenant(ctx, tenant)
	e := AlertEvent{At: now, Kind: "commented", Actor: actor.String(), Comment: comment}
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		var id uuid.UUID
		if err := tx.QueryRow(ctx, `SELECT alert_id FROM alerts WHERE tenant_id = $1 AND alert_id = $2 FOR KEY SHARE`, pgUUID(tenant), pgUUID(alertID)).Scan(&id); err != nil {
			return notFound(err, "alert", alertID)
		}
		var err error
		if e.ID, err = noteAlert(ctx, tx, tenant, alertID, e.Kind, comment, now, actor); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "alert.comment", "alert:"+alertID.String(), nil, map[string]any{"comment": comment})
	})
	if err != nil {
		return AlertEvent{}, fmt.Errorf("comment an alert: %w", err)
	}
	return e, nil
}
