package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// AlertOccurrence is one verdict behind an alert: consecutive occurrences of it are one.
type AlertOccurrence struct {
	VerdictID       *uuid.UUID // nil where none raised it
	FirstAt, LastAt time.Time
	Count           int64
}

// selectOccurrences derives the end and the count of each row from the next one, and of the last from the alert.
const selectOccurrences = `SELECT seen_before, verdict_id, first_at, last_at, n FROM (SELECT o.seen_before, o.verdict_id, o.first_at,
			GREATEST(o.first_at, coalesce(LEAD(o.last_before_at) OVER w, a.last_seen_at)) AS last_at, coalesce(LEAD(o.seen_before) OVER w, a.seen_count) - o.seen_before AS n
		FROM alert_occurrences o JOIN alerts a ON a.tenant_id = o.tenant_id AND a.alert_id = o.alert_id
		WHERE o.tenant_id = $1 AND o.alert_id = $2 WINDOW w AS (ORDER BY o.seen_before)) x
	WHERE $3::bigint IS NULL OR seen_before < $3 ORDER BY seen_before DESC LIMIT $4`

// AlertOccurrences lists the verdicts behind an alert, newest first. ErrNotFound: no such alert.
func (s *Store) AlertOccurrences(ctx context.Context, tenant, alertID uuid.UUID, page Page) (items []AlertOccurrence, next string, err error) {
	key, err := decodeCursor("alert_occurrences", page.Cursor, 1)
	if err != nil {
		return nil, "", err
	}
	var before pgtype.Int8
	if key != nil {
		if _, err := fmt.Sscan(key[0], &before.Int64); err != nil {
			return nil, "", ErrInvalidCursor
		}
		before.Valid = true
	}
	if err := s.alertExists(ctx, tenant, alertID); err != nil {
		return nil, "", err
	}
	type row struct {
		AlertOccurrence
		before int64
	}
	rows, _ := s.pool.Query(ctx, selectOccurrences, pgUUID(tenant), pgUUID(alertID), before, page.limit()+1)
	found, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (row, error) {
		var o row
		err := r.Scan(&o.before, &o.VerdictID, &o.FirstAt, &o.LastAt, &o.Count)
		return o, err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list the occurrences of alert %s: %w", alertID, err)
	}
	found, next = cut(found, page, "alert_occurrences", func(o row) []string { return []string{fmt.Sprint(o.before)} })
	for _, o := range found {
		items = append(items, o.AlertOccurrence)
	}
	return items, next, nil
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
	Kind     string // opened, reopened, status_changed, commented, approved, refused
	Actor    string // kind:id; system:alerts where it happened by itself
	From, To string // status; empty where it did not change
	Comment  string
	Assignee string
}

// AlertHistory lists what happened to an alert, newest first. ErrNotFound: no such alert.
func (s *Store) AlertHistory(ctx context.Context, tenant, alertID uuid.UUID, page Page) (items []AlertEvent, next string, err error) {
	before, err := page.beforeID("alert_history")
	if err != nil {
		return nil, "", err
	}
	if err := s.alertExists(ctx, tenant, alertID); err != nil {
		return nil, "", err
	}
	q := newQuery(`SELECT event_id, at, kind, actor, from_status, to_status, comment, assignee FROM alert_events WHERE tenant_id = $1`, tenant)
	q.and("alert_id = ?", pgUUID(alertID))
	q.page("event_id", before, page)
	rows, _ := s.pool.Query(ctx, q.sql.String(), q.args...)
	items, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AlertEvent])
	if err != nil {
		return nil, "", fmt.Errorf("list the history of alert %s: %w", alertID, err)
	}
	items, next = cut(items, page, "alert_history", func(e AlertEvent) []string { return []string{e.ID.String()} })
	return items, next, nil
}

// CommentAlert adds a comment to an alert's history, whatever its status. ErrNotFound.
func (s *Store) CommentAlert(ctx context.Context, tenant, alertID uuid.UUID, comment string, now time.Time, actor Actor) (AlertEvent, error) {
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
