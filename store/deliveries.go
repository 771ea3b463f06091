package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// The states of deliveries.
const (
	DeliveryPending   = "pending"
	DeliveryDelivered = "delivered"
	DeliveryDead      = "dead" // given up, until somebody replays it
)

// Delivery is one event to be told to one channel.
type Delivery struct {
	ID            uuid.UUID
	ChannelID     uuid.UUID
	ChannelName   string
	EventID       uuid.UUID
	EventKind     string
	SubjectID     uuid.UUID
	State         string
	Attempts      int
	RoundAttempts int        // since it was made or replayed
	NextAttemptAt *time.Time // nil while it waits for an earlier event of its subject, and when it is finished
	LastStatus    *int
	LastError     string
	CreatedAt     time.Time
	FinishedAt    *time.Time
}

// DeliveryAttempt is an attempt whose result is known.
type DeliveryAttempt struct {
	Attempt  int
	At       time.Time
	Duration time.Duration
	Status   *int
	Error    string
}

// ClaimedDelivery is a delivery that one worker has for a while.
type ClaimedDelivery struct {
	Delivery
	Claim    uuid.UUID
	Document []byte // JSON of the event
}

// failingSlowly is after how many failures in a row a channel is tried by one delivery at a time.
const failingSlowly = 5

const claimDeliveries = `WITH due AS (SELECT d.delivery_id FROM deliveries d
		WHERE d.tenant_id = $1 AND d.channel_id = $2 AND d.state = 'pending' AND d.next_attempt_at <= $3 AND (d.claim IS NULL OR d.claimed_until <= $3)
		ORDER BY d.next_attempt_at LIMIT $4),
	taken AS (UPDATE deliveries d SET claim = $5, claimed_until = $6 FROM due WHERE d.tenant_id = $1 AND d.delivery_id = due.delivery_id
		RETURNING d.delivery_id, d.channel_id, d.event_id, d.subject_id, d.attempts, d.round_attempts, d.created_at, d.written_at)
	SELECT t.delivery_id, t.channel_id, t.event_id, o.kind, t.subject_id, t.attempts, t.round_attempts, t.created_at, o.document
	FROM taken t JOIN outbox o ON o.tenant_id = $1 AND o.event_id = t.event_id ORDER BY t.written_at, t.event_id`

// ClaimDeliveries takes deliveries of a channel that are due, so many that at most most of them are under way at once over
// all replicas, and one where the channel keeps failing. They are the caller's until lease has passed. Of one subject
// at most one is under way. A channel that is disabled or gone has none.
func (s *Store) ClaimDeliveries(ctx context.Context, tenant, channel uuid.UUID, now time.Time, lease time.Duration, most int) (c Channel, claimed []ClaimedDelivery, err error) {
	ctx = withTenant(ctx, tenant)
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		found, err := queryChannels(ctx, tx, `WHERE c.tenant_id = $1 AND c.channel_id = $2 AND c.enabled FOR UPDATE`, tenant, channel)
		if err != nil || len(found) == 0 {
			return err
		}
		c = found[0]
		if c.ConsecutiveFailures >= failingSlowly {
			most = 1
		}
		var under int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM deliveries WHERE tenant_id = $1 AND channel_id = $2 AND claim IS NOT NULL AND claimed_until > $3`,
			tenant, channel, now).Scan(&under); err != nil {
			return err
		}
		if under >= most {
			return nil
		}
		claim := newID(now)
		rows, _ := tx.Query(ctx, claimDeliveries, tenant, channel, now, most-under, claim, now.Add(lease))
		claimed, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (ClaimedDelivery, error) {
			d := ClaimedDelivery{Claim: claim}
			d.State, d.ChannelName = DeliveryPending, c.Name
			err := row.Scan(&d.ID, &d.ChannelID, &d.EventID, &d.EventKind, &d.SubjectID, &d.Attempts, &d.RoundAttempts, &d.CreatedAt, &d.Document)
			return d, err
		})
		return err
	})
	if err != nil {
		return Channel{}, nil, fmt.Errorf("claim deliveries: %w", err)
	}
	return c, claimed, nil
}

// AttemptResult is what came of one attempt.
type AttemptResult struct {
	DeliveryID, ChannelID, Claim uuid.UUID
	At                           time.Time // when it began
	Duration                     time.Duration
	Status                       *int   // HTTP status or SMTP reply code; nil where there was no answer
	Error                        string // without secrets; empty if it was delivered
	State                        string // what the delivery is from now on
	RetryAt                      time.Time
	Disable                      string // reason to disable the channel; empty for none
}

const recordAttempt = `UPDATE deliveries SET state = $4, attempts = attempts + 1, round_attempts = round_attempts + 1, claim = NULL, claimed_until = NULL,
		next_attempt_at = $5, finished_at = $6, last_status = $7, last_error = $8
	WHERE tenant_id = $1 AND delivery_id = $2 AND claim = $3 AND state = 'pending' RETURNING attempts, subject_id`

// The next event of the subject may go.
const wakeNext = `UPDATE deliveries SET next_attempt_at = $4 WHERE tenant_id = $1 AND delivery_id = (SELECT d.delivery_id FROM deliveries d
	WHERE d.tenant_id = $1 AND d.channel_id = $2 AND d.subject_id = $3 AND d.state = 'pending' ORDER BY d.written_at, d.event_id LIMIT 1) AND next_attempt_at IS NULL`

// RecordAttempt records what came of an attempt. It answers false, and records nothing, where the claim is no longer the
// caller's: another worker has taken the delivery over, or it was deleted. A failure on a channel that the service has
// disabled meanwhile is the last.
func (s *Store) RecordAttempt(ctx context.Context, tenant uuid.UUID, r AttemptResult) (recorded bool, err error) {
	ctx = withTenant(ctx, tenant)
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		c, err := readChannel(ctx, tx, tenant, r.ChannelID, " FOR UPDATE OF c")
		if err != nil {
			return err
		}
		end := r.At.Add(r.Duration)
		if r.State == DeliveryPending && !c.Enabled && c.DisabledReason != DisabledByOperator {
			r.State = DeliveryDead
		}
		var next, finished *time.Time
		if r.State == DeliveryPending {
			next = &r.RetryAt
		} else {
			finished = &end
		}
		rows, _ := tx.Query(ctx, recordAttempt, tenant, r.DeliveryID, r.Claim, r.State, next, finished, r.Status, r.Error)
		type numbered struct {
			Attempt int
			Subject uuid.UUID
		}
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[numbered])
		if err != nil || len(found) == 0 {
			return err
		}
		recorded = true
		if _, err := tx.Exec(ctx, `INSERT INTO delivery_attempts (tenant_id, delivery_id, attempt, at, duration_ms, status, error) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			tenant, r.DeliveryID, found[0].Attempt, r.At, r.Duration.Milliseconds(), r.Status, r.Error); err != nil {
			return err
		}
		if finished != nil {
			if _, err := tx.Exec(ctx, wakeNext, tenant, r.ChannelID, found[0].Subject, r.At); err != nil {
				return err
			}
		}
		return noteResult(ctx, tx, tenant, &c, r, end)
	})
	if err != nil {
		return false, fmt.Errorf("record an attempt: %w", err)
	}
	return recorded, nil
}

// noteResult keeps a channel's health, and disables it where the attempt asks for that.
func noteResult(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, c *Channel, r AttemptResult, end time.Time) error {
	if r.State == DeliveryDelivered {
		_, err := tx.Exec(ctx, `UPDATE notification_channels SET last_success_at = GREATEST(last_success_at, $3), last_error = '', failing_since = NULL, consecutive_failures = 0
			WHERE tenant_id = $1 AND channel_id = $2`, tenant, c.ID, end)
		return err
	}
	c.LastError = r.Error
	if _, err := tx.Exec(ctx, `UPDATE notification_channels SET last_failure_at = GREATEST(last_failure_at, $3), last_error = $4, failing_since = coalesce(failing_since, $3),
			consecutive_failures = consecutive_failures + 1 WHERE tenant_id = $1 AND channel_id = $2`, tenant, c.ID, end, r.Error); err != nil {
		return err
	}
	if r.Disable == "" || !c.Enabled {
		return nil
	}
	return disableChannel(ctx, tx, tenant, c, r.Disable, end)
}

// AddTestDelivery makes a delivery of an event that nothing caused, already claimed by the caller: it is tried once,
// whether the channel is enabled or not. ErrNotFound.
func (s *Store) AddTestDelivery(ctx context.Context, tenant, channel uuid.UUID, now time.Time, lease time.Duration, actor Actor, document func(eventID uuid.UUID, c Channel) ([]byte, error)) (c Channel, d ClaimedDelivery, err error) {
	ctx = withTenant(ctx, tenant)
	now = now.Truncate(time.Microsecond)
	event := newID(now)
	d = ClaimedDelivery{Delivery: Delivery{ID: newID(now), ChannelID: channel, EventID: event, EventKind: "test", SubjectID: event, State: DeliveryPending, CreatedAt: now}, Claim: newID(now)}
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		if c, err = readChannel(ctx, tx, tenant, channel, " FOR UPDATE OF c"); err != nil {
			return err
		}
		d.ChannelName = c.Name
		if d.Document, err = document(event, c); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at, fanned_out_at, document) VALUES ($1, $2, 'test', $2, '{}', $3, $3, $4)`,
			tenant, event, now, string(d.Document)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO deliveries (tenant_id, delivery_id, channel_id, event_id, subject_id, written_at, state, next_attempt_at, claim, claimed_until, created_at)
			SELECT $1, $2, $3, event_id, subject_id, written_at, 'pending', $5, $6, $7, $5 FROM outbox WHERE tenant_id = $1 AND event_id = $4`,
			tenant, d.ID, channel, event, now, d.Claim, now.Add(lease)); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "notification_channel.test", channelTarget(channel), nil, map[string]any{"delivery_id": d.ID})
	})
	if err != nil {
		return Channel{}, ClaimedDelivery{}, fmt.Errorf("test notification channel %s: %w", channel, err)
	}
	return c, d, nil
}

// DueChannels are the enabled channels that something is due for and nobody has, so that their workers are to be woken.
func (s *Store) DueChannels(ctx context.Context, tenant uuid.UUID, now time.Time) ([]uuid.UUID, error) {
	ctx = withTenant(ctx, tenant)
	rows, _ := s.pool.Query(ctx, `SELECT c.channel_id FROM notification_channels c WHERE c.tenant_id = $1 AND c.enabled AND EXISTS (SELECT FROM deliveries d
		WHERE d.tenant_id = c.tenant_id AND d.channel_id = c.channel_id AND d.state = 'pending' AND d.next_attempt_at <= $2 AND (d.claim IS NULL OR d.claimed_until <= $2))`, tenant, now)
	due, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("find channels with due deliveries: %w", err)
	}
	return due, nil
}

// WakeDueChannels enqueues a job for each channel of DueChannels.
func (s *Store) WakeDueChannels(ctx context.Context, tenant uuid.UUID, now time.Time) (int, error) {
	ctx = withTenant(ctx, tenant)
	due, err := s.DueChannels(ctx, tenant, now)
	if err != nil {
		return 0, err
	}
	return len(due), s.inTx(ctx, func(tx pgx.Tx) error { return s.enqueueDeliveries(ctx, tx, tenant, due...) })
}

// NotificationTenants are the tenants that have events to fan out, or channels.
func (s *Store) NotificationTenants(ctx context.Context) ([]uuid.UUID, error) {
	rows, _ := s.pool.Query(beforeTenant(ctx), `SELECT assay_notified_tenants()`)
	all, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("list tenants with notifications: %w", err)
	}
	return all, nil
}

// DeliveryStats is how deliveries of a tenant stand.
type DeliveryStats struct {
	Pending, Dead int64
	OldestPending *time.Time // when the oldest pending one was made
}

// GetDeliveryStats counts. Pending deliveries of channels that a person has disabled count as well: they wait.
func (s *Store) GetDeliveryStats(ctx context.Context, tenant uuid.UUID) (DeliveryStats, error) {
	ctx = withTenant(ctx, tenant)
	var st DeliveryStats
	err := s.pool.QueryRow(ctx, `SELECT count(*), min(created_at), (SELECT count(*) FROM deliveries WHERE tenant_id = $1 AND state = 'dead')
		FROM deliveries WHERE tenant_id = $1 AND state = 'pending'`, tenant).Scan(&st.Pending, &st.OldestPending, &st.Dead)
	if err != nil {
		return st, fmt.Errorf("count deliveries: %w", err)
	}
	return st, nil
}

// EndDeliveries deletes deliveries that were finished before the time, and events that were told before it and have no
// delivery left, at most most of each. Those of an alert or incident that is open stay: they say who has to be told of its
// end. It answers how many it deleted.
func (s *Store) EndDeliveries(ctx context.Context, tenant uuid.UUID, before time.Time, most int) (int64, error) {
	ctx = withTenant(ctx, tenant)
	var n int64
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		for _, sql := range []string{
			`DELETE FROM deliveries WHERE tenant_id = $1 AND delivery_id IN (SELECT d.delivery_id FROM deliveries d WHERE d.tenant_id = $1 AND d.finished_at < $2
				AND NOT EXISTS (SELECT FROM alerts a WHERE a.tenant_id = $1 AND a.alert_id = d.subject_id AND a.status IN ('active', 'in_progress'))
				AND NOT EXISTS (SELECT FROM incidents i WHERE i.tenant_id = $1 AND i.incident_id = d.subject_id AND i.closed_at IS NULL)
				ORDER BY d.finished_at LIMIT $3)`,
			`DELETE FROM outbox WHERE tenant_id = $1 AND event_id IN (SELECT o.event_id FROM outbox o WHERE o.tenant_id = $1 AND o.fanned_out_at IS NOT NULL AND o.created_at < $2
				AND NOT EXISTS (SELECT FROM deliveries d WHERE d.tenant_id = $1 AND d.event_id = o.event_id) ORDER BY o.created_at LIMIT $3)`,
		} {
			tag, err := tx.Exec(ctx, sql, tenant, before, most)
			if err != nil {
				return err
			}
			n += tag.RowsAffected()
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("delete old deliveries: %w", err)
	}
	return n, nil
}
