package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// DeliveryFilter narrows ListDeliveries; an empty member lets all through.
type DeliveryFilter struct {
	ChannelID *uuid.UUID
	SubjectID *uuid.UUID
	State     string
}

const deliveryColumns = `d.delivery_id, d.channel_id, c.name, d.event_id, o.kind, d.subject_id, d.state, d.attempts, d.round_attempts, d.next_attempt_at,
	d.last_status, d.last_error, d.created_at, d.finished_at`

const deliveryTables = ` FROM deliveries d JOIN notification_channels c ON c.tenant_id = d.tenant_id AND c.channel_id = d.channel_id
	JOIN outbox o ON o.tenant_id = d.tenant_id AND o.event_id = d.event_id WHERE d.tenant_id = $1 `

func (d *Delivery) columns() []any {
	return []any{&d.ID, &d.ChannelID, &d.ChannelName, &d.EventID, &d.EventKind, &d.SubjectID, &d.State, &d.Attempts, &d.RoundAttempts, &d.NextAttemptAt,
		&d.LastStatus, &d.LastError, &d.CreatedAt, &d.FinishedAt}
}

var deliveryList = listing[Delivery]{
	name: "deliveries", columns: deliveryColumns, initial: "-id",
	sorts: map[string][]sortKey{"id": ids("d.delivery_id")},
	scan: func(row pgx.Row) (d Delivery, err error) {
		err = row.Scan(d.columns()...)
		return d, err
	},
}

// ListDeliveries lists deliveries, newest first.
func (s *Store) ListDeliveries(ctx context.Context, tenant uuid.UUID, f DeliveryFilter, page Page) (items []Delivery, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(deliveryTables, tenant)
	q.id("d.channel_id = ?", f.ChannelID)
	q.id("d.subject_id = ?", f.SubjectID)
	q.oneOf("d.state", f.State)
	return deliveryList.page(ctx, s.pool, q, page)
}

// GetDelivery reads a delivery, its event as it is told, and its attempts, oldest first (the last 100). ErrNotFound.
func (s *Store) GetDelivery(ctx context.Context, tenant, id uuid.UUID) (d Delivery, event json.RawMessage, attempts []DeliveryAttempt, err error) {
	ctx = withTenant(ctx, tenant)
	err = s.pool.QueryRow(ctx, `SELECT `+deliveryColumns+`, o.document`+deliveryTables+`AND d.delivery_id = $2`, tenant, id).Scan(append(d.columns(), &event)...)
	if err != nil {
		return d, nil, nil, notFound(err, "delivery", id)
	}
	rows, _ := s.pool.Query(ctx, `SELECT * FROM (SELECT attempt, at, duration_ms, status, error FROM delivery_attempts WHERE tenant_id = $1 AND delivery_id = $2
		ORDER BY attempt DESC LIMIT 100) last ORDER BY attempt`, tenant, id)
	attempts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (a DeliveryAttempt, err error) {
		var ms int64
		err = row.Scan(&a.Attempt, &a.At, &ms, &a.Status, &a.Error)
		a.Duration = time.Duration(ms) * time.Millisecond
		return a, err
	})
	if err != nil {
		return d, nil, nil, fmt.Errorf("read the attempts of delivery %s: %w", id, err)
	}
	return d, event, attempts, nil
}

// A replayed delivery begins a new round. Of one subject the earliest goes first, and waits for one that is under way.
const replayDeliveries = `UPDATE deliveries d SET state = 'pending', round_attempts = 0, finished_at = NULL, next_attempt_at = CASE WHEN u.place = 1
		AND NOT EXISTS (SELECT FROM deliveries p WHERE p.tenant_id = $1 AND p.channel_id = d.channel_id AND p.subject_id = d.subject_id AND p.state = 'pending') THEN $2::timestamptz END
	FROM (SELECT delivery_id, row_number() OVER (PARTITION BY subject_id ORDER BY written_at, event_id) AS place FROM deliveries
		WHERE tenant_id = $1 AND channel_id = $3 AND state = ANY ($4) AND ($5::uuid IS NULL OR delivery_id = $5)) u
	WHERE d.tenant_id = $1 AND d.delivery_id = u.delivery_id`

// ReplayDelivery delivers again what is dead or was delivered, with the same event and id. ErrNotFound; ErrConflict while it
// is pending, or its channel is disabled.
func (s *Store) ReplayDelivery(ctx context.Context, tenant, id uuid.UUID, now time.Time, actor Actor) (Delivery, error) {
	ctx = withTenant(ctx, tenant)
	d, _, _, err := s.GetDelivery(ctx, tenant, id)
	if err != nil {
		return Delivery{}, err
	}
	n, err := s.replay(ctx, tenant, d.ChannelID, &id, []string{DeliveryDead, DeliveryDelivered}, now, actor)
	if err == nil && n == 0 {
		err = fmt.Errorf("replay delivery %s: it is pending already: %w", id, ErrConflict)
	}
	if err != nil {
		return Delivery{}, err
	}
	d, _, _, err = s.GetDelivery(ctx, tenant, id)
	return d, err
}

// ReplayChannel delivers all dead deliveries of a channel again, and says how many. ErrNotFound; ErrConflict while the
// channel is disabled.
func (s *Store) ReplayChannel(ctx context.Context, tenant, channel uuid.UUID, now time.Time, actor Actor) (int64, error) {
	ctx = withTenant(ctx, tenant)
	return s.replay(ctx, tenant, channel, nil, []string{DeliveryDead}, now, actor)
}

func (s *Store) replay(ctx context.Context, tenant, channel uuid.UUID, only *uuid.UUID, states []string, now time.Time, actor Actor) (n int64, err error) {
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		c, err := readChannel(ctx, tx, tenant, channel, " FOR UPDATE OF c")
		if err != nil {
			return err
		}
		if !c.Enabled {
			return fmt.Errorf("the channel %s is disabled; enable it first: %w", c.Name, ErrConflict)
		}
		tag, err := tx.Exec(ctx, replayDeliveries, tenant, now, channel, states, only)
		if err != nil {
			return err
		}
		if n = tag.RowsAffected(); n == 0 {
			return nil
		}
		if err := s.enqueueDeliveries(ctx, tx, tenant, channel); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "delivery.replay", channelTarget(channel), nil, map[string]any{"delivery_id": only, "deliveries": n})
	})
	if err != nil {
		return 0, fmt.Errorf("replay deliveries: %w", err)
	}
	return n, nil
}
