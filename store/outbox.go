package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Events that others may want to be told are rows of table outbox, written by the statement that makes the change. The
// trigger outbox_fan_out enqueues one River job for each transaction that wrote some, whichever statements did, so that
// no writer can forget it, and one that writes none pays nothing. What a lost job has left behind is found by the sweep.

// tell writes an event that no statement of a change writes.
func tell(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, now time.Time, kind string, subject uuid.UUID, payload any) error {
	if _, err := tx.Exec(ctx, `INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		tenant, newID(now), kind, subject, payload, now); err != nil {
		return fmt.Errorf("write the event %s: %w", kind, err)
	}
	return nil
}

// OutboxEvent is an event that has not been fanned out. Subject is what it is about as it is now, in the members of the
// API's NotificationEvent: alert, incident, compliance, machine, verdict_id; each null where there is none.
type OutboxEvent struct {
	ID        uuid.UUID
	Kind      string
	SubjectID uuid.UUID
	Payload   json.RawMessage // the facts of that moment
	Subject   json.RawMessage
	CreatedAt time.Time
	ToldOpen  []uuid.UUID // channels that were told of the subject before, and not of its end; empty unless this may be its end
}

// Telling is one event and who is told it.
type Telling struct {
	EventID  uuid.UUID
	Document []byte // JSON, as every receiver is told it
	Channels []uuid.UUID
}

// closingEvent is the condition that an event, an alias of outbox, is the end of its subject.
func closingEvent(alias string) string {
	return `(` + alias + `.kind IN ('alert.resolved', 'incident.resolved') OR ` + alias + `.kind = 'alert.status_changed' AND ` + alias + `.payload->>'to' = 'dismissed')`
}

// toldOpen are the channels of an event o that were told of its subject last, and not that it ended.
var toldOpen = `CASE WHEN ` + closingEvent("o") + ` THEN ARRAY(SELECT x.channel_id FROM (
		SELECT DISTINCT ON (d.channel_id) d.channel_id, ` + closingEvent("w") + ` AS closed
		FROM deliveries d JOIN outbox w ON w.tenant_id = d.tenant_id AND w.event_id = d.event_id
		WHERE d.tenant_id = o.tenant_id AND d.subject_id = o.subject_id ORDER BY d.channel_id, d.written_at DESC, d.event_id DESC) x
	WHERE NOT x.closed) END`

// The history of an alert (alert_events) has the id of the event that reports it: who did it, and what was said.
var selectOutbox = `SELECT o.event_id, o.kind, o.subject_id, o.payload, jsonb_build_object(
		'alert', CASE WHEN a.alert_id IS NOT NULL THEN jsonb_build_object('id', a.alert_id, 'code', a.code, 'title', a.display_name, 'description', a.description,
			'severity', a.severity, 'status', a.status, 'reason', a.reason, 'remediation_steps', a.remediation_steps, 'count', a.seen_count, 'scope', a.scope,
			'first_seen_at', a.first_seen_at, 'last_seen_at', a.last_seen_at, 'comment', coalesce(e.comment, ''), 'changed_by', coalesce(e.actor, ''),
			'suppressed', (a.suppressed_by IS NOT NULL AND sr.state = 'enabled' AND (sr.expires_at IS NULL OR sr.expires_at > o.created_at)) IS TRUE) END,
		'incident', CASE WHEN i.incident_id IS NOT NULL THEN jsonb_build_object('id', i.incident_id, 'code', i.code, 'title', i.title, 'severity', i.severity,
			'status', i.status, 'machines', i.open_members, 'first_seen_at', i.opened_at, 'last_seen_at', i.last_joined_at) END,
		'compliance', CASE WHEN r.recommendation_id IS NOT NULL THEN jsonb_build_object('id', r.recommendation_id, 'code', r.code, 'title', r.display_name,
			'description', r.description, 'severity', r.severity, 'remediation_steps', r.remediation_steps, 'status', CASE WHEN r.open THEN 'active' ELSE 'resolved' END,
			'first_seen_at', r.first_seen_at) END,
		'machine', CASE WHEN m.machine_id IS NOT NULL THEN jsonb_build_object('id', m.machine_id, 'name', m.name, 'external_id', m.external_id, 'platform', m.platform,
			'os', m.os, 'security_type', m.security_type, 'scale_set', m.scale_set, 'labels', m.labels) END,
		'verdict_id', a.verdict_id), o.created_at, ` + toldOpen + `
	FROM outbox o
	LEFT JOIN alerts a ON a.tenant_id = o.tenant_id AND a.alert_id = o.subject_id
	LEFT JOIN alert_events e ON e.tenant_id = o.tenant_id AND e.alert_id = o.subject_id AND e.event_id = o.event_id
	LEFT JOIN suppression_rules sr ON sr.tenant_id = a.tenant_id AND sr.rule_id = a.suppressed_by
	LEFT JOIN incidents i ON i.tenant_id = o.tenant_id AND i.incident_id = o.subject_id
	LEFT JOIN recommendations r ON r.tenant_id = o.tenant_id AND r.recommendation_id = o.subject_id
	LEFT JOIN machines m ON m.tenant_id = o.tenant_id AND m.machine_id = coalesce(a.machine_id, r.machine_id,
		CASE o.kind WHEN 'assessment.changed' THEN o.subject_id END)
	WHERE o.tenant_id = $1 AND o.fanned_out_at IS NULL
	ORDER BY o.written_at, o.event_id LIMIT $2`

// FanOut makes deliveries of the oldest events that have none, at most limit of them, in one transaction, and wakes
// the workers of their channels. choose says who is told what; it is given the enabled channels. It answers how
// many events it took, 0 when all is done, and how many deliveries it made.
//
// One fan-out of a tenant runs at a time, and it holds the channels' rows: a delivery that ends meanwhile does
// not miss what comes after it.
func (s *Store) FanOut(ctx context.Context, tenant uuid.UUID, now time.Time, limit int, choose func([]OutboxEvent, []Channel) ([]Telling, error)) (events, deliveries int, err error) {
	ctx = withTenant(ctx, tenant)
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO notification_state (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING`, tenant); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT FROM notification_state WHERE tenant_id = $1 FOR UPDATE`, tenant); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, selectOutbox, tenant, limit)
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e OutboxEvent, err error) {
			err = row.Scan(&e.ID, &e.Kind, &e.SubjectID, &e.Payload, &e.Subject, &e.CreatedAt, &e.ToldOpen)
			return e, err
		})
		if err != nil || len(found) == 0 {
			return err
		}
		channels, err := queryChannels(ctx, tx, `WHERE c.tenant_id = $1 AND c.enabled ORDER BY c.channel_id FOR UPDATE`, tenant)
		if err != nil {
			return err
		}
		told, err := choose(found, channels)
		if err != nil {
			return err
		}
		events = len(found)
		deliveries, err = s.insertDeliveries(ctx, tx, tenant, now, found, told)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("fan out: %w", err)
	}
	return events, deliveries, nil
}

const markFannedOut = `UPDATE outbox o SET fanned_out_at = $2, document = u.document::json
	FROM unnest($3::uuid[], $4::text[]) u (event_id, document) WHERE o.tenant_id = $1 AND o.event_id = u.event_id`

// A delivery is due at once unless an earlier event of its subject is still to be delivered to the channel.
const insertDeliveries = `INSERT INTO deliveries (tenant_id, delivery_id, channel_id, event_id, subject_id, written_at, state, next_attempt_at, created_at)
	SELECT $1, u.delivery_id, u.channel_id, o.event_id, o.subject_id, o.written_at, 'pending',
		CASE WHEN row_number() OVER (PARTITION BY u.channel_id, o.subject_id ORDER BY o.written_at, o.event_id) = 1
			AND NOT EXISTS (SELECT FROM deliveries d WHERE d.tenant_id = $1 AND d.channel_id = u.channel_id AND d.subject_id = o.subject_id AND d.state = 'pending')
			THEN $2::timestamptz END, $2
	FROM unnest($3::uuid[], $4::uuid[], $5::uuid[]) u (delivery_id, channel_id, event_id)
	JOIN outbox o ON o.tenant_id = $1 AND o.event_id = u.event_id
	ON CONFLICT ON CONSTRAINT deliveries_once DO NOTHING`

func (s *Store) insertDeliveries(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, now time.Time, found []OutboxEvent, told []Telling) (int, error) {
	documents := map[uuid.UUID]pgtype.Text{}
	var ids, channels, events []pgtype.UUID
	woken := map[uuid.UUID]struct{}{}
	for _, t := range told {
		if len(t.Channels) > 0 {
			documents[t.EventID] = pgtype.Text{String: string(t.Document), Valid: true}
		}
		for _, c := range t.Channels {
			ids, channels, events = append(ids, pgUUID(newID(now))), append(channels, pgUUID(c)), append(events, pgUUID(t.EventID))
			woken[c] = struct{}{}
		}
	}
	var taken []pgtype.UUID
	var texts []pgtype.Text
	for _, e := range found {
		taken, texts = append(taken, pgUUID(e.ID)), append(texts, documents[e.ID])
	}
	if _, err := tx.Exec(ctx, markFannedOut, tenant, now, taken, texts); err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, `UPDATE notification_state SET fanned_out_at = $2 WHERE tenant_id = $1`, tenant, now); err != nil {
		return 0, err
	}
	if len(ids) == 0 {
		return 0, nil
	}
	if _, err := tx.Exec(ctx, insertDeliveries, tenant, now, ids, channels, events); err != nil {
		return 0, err
	}
	return len(ids), s.enqueueDeliveries(ctx, tx, tenant, keysOf(woken)...)
}

func keysOf(set map[uuid.UUID]struct{}) []uuid.UUID {
	out := make([]uuid.UUID, 0, len(set))
	for id := range set {
		out = append(out, id)
	}
	return out
}
