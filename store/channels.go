package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// The kinds of channels.
const (
	ChannelWebhook = "webhook"
	ChannelSyslog  = "syslog"
	ChannelSMTP    = "smtp"
)

// Why a channel is disabled.
const (
	DisabledByOperator = "operator"
	DisabledGone       = "gone"    // the receiver answered 410
	DisabledFailing    = "failing" // for days
)

// Channel is where notifications go.
type Channel struct {
	ID             uuid.UUID
	Kind           string
	Name           string // unique in the tenant
	Enabled        bool
	DisabledReason string // empty while enabled
	Format         string
	Filter         ChannelFilter
	Config         ChannelConfig
	// Secrets are the signing secrets or the password, sealed by the caller; nil for none.
	Secrets []byte
	// PreviousSecretUntil is until when the secret before the last rotation signs as well.
	PreviousSecretUntil *time.Time
	LastSuccessAt       *time.Time
	LastFailureAt       *time.Time
	LastError           string
	FailingSince        *time.Time
	ConsecutiveFailures int64
	CreatedBy           string
	CreatedAt           time.Time
	UpdatedAt           time.Time
}

// ChannelFilter says which events a channel is told. An empty member lets all through.
type ChannelFilter struct {
	Kinds             []string          `json:"kinds,omitempty"`
	AlertCodes        []string          `json:"alert_codes,omitempty"`
	MinSeverity       string            `json:"min_severity,omitempty"` // low, medium or high
	ScaleSets         []string          `json:"scale_sets,omitempty"`
	Labels            map[string]string `json:"labels,omitempty"` // all must hold
	IncludeSuppressed bool              `json:"include_suppressed,omitempty"`
	IncidentsOnly     bool              `json:"incidents_only,omitempty"`
}

// ChannelConfig is the receiver; which members count depends on the kind. Nothing in it is secret but, as some receivers will
// have it, the query of a URL: what readers and the audit record are shown is Shown.
type ChannelConfig struct {
	URL      string   `json:"url,omitempty"`      // webhook
	Address  string   `json:"address,omitempty"`  // syslog and smtp: host:port
	Security string   `json:"security,omitempty"` // syslog and smtp: tls, starttls (smtp) or none
	CAPEM    string   `json:"ca_pem,omitempty"`   // roots in the place of the system's
	Username string   `json:"username,omitempty"`
	From     string   `json:"from,omitempty"`
	To       []string `json:"to,omitempty"`
}

// HiddenQuery is what is shown in the place of a URL's query.
const HiddenQuery = "?…"

// Shown is the receiver without what may be secret.
func (c ChannelConfig) Shown() ChannelConfig {
	if address, _, has := strings.Cut(c.URL, "?"); has {
		c.URL = address + HiddenQuery
	}
	return c
}

const channelColumns = `c.channel_id, c.kind, c.name, c.enabled, c.disabled_reason, c.format, c.filter, c.config, c.secrets, c.previous_secret_until,
	c.last_success_at, c.last_failure_at, c.last_error, c.failing_since, c.consecutive_failures, c.created_by, c.created_at, c.updated_at`

func scanChannel(row pgx.Row) (Channel, error) {
	var c Channel
	err := row.Scan(&c.ID, &c.Kind, &c.Name, &c.Enabled, &c.DisabledReason, &c.Format, &c.Filter, &c.Config, &c.Secrets, &c.PreviousSecretUntil,
		&c.LastSuccessAt, &c.LastFailureAt, &c.LastError, &c.FailingSince, &c.ConsecutiveFailures, &c.CreatedBy, &c.CreatedAt, &c.UpdatedAt)
	return c, err
}

func queryChannels(ctx context.Context, db querier, where string, args ...any) ([]Channel, error) {
	rows, _ := db.Query(ctx, `SELECT `+channelColumns+` FROM notification_channels c `+where, args...)
	return pgx.CollectRows(rows, collected(scanChannel))
}

func readChannel(ctx context.Context, db querier, tenant, id uuid.UUID, lock string) (Channel, error) {
	rows, _ := db.Query(ctx, `SELECT `+channelColumns+` FROM notification_channels c WHERE c.tenant_id = $1 AND c.channel_id = $2`+lock, tenant, id)
	c, err := pgx.CollectExactlyOneRow(rows, collected(scanChannel))
	if err != nil {
		return Channel{}, notFound(err, "notification channel", id)
	}
	return c, nil
}

// summary is a channel in the audit record; its secrets are never there.
func (c *Channel) summary() map[string]any {
	return map[string]any{"kind": c.Kind, "name": c.Name, "enabled": c.Enabled, "disabled_reason": c.DisabledReason, "format": c.Format, "filter": c.Filter, "config": c.Config.Shown()}
}

func channelTarget(id uuid.UUID) string { return "notification_channel:" + id.String() }

func channelConflict(err error) error {
	if isViolation(err, "notification_channels_name") {
		return fmt.Errorf("a notification channel has this name: %w", ErrConflict)
	}
	return err
}

// CreateChannel stores a channel; who and when are filled in. The id is the caller's, who seals the secrets for it
// (NewChannelID). ErrConflict: the name is taken. *QuotaError.
func (s *Store) CreateChannel(ctx context.Context, tenant uuid.UUID, c Channel, now time.Time, actor Actor) (Channel, error) {
	ctx = withTenant(ctx, tenant)
	now = now.Truncate(time.Microsecond)
	c.CreatedAt, c.UpdatedAt, c.CreatedBy = now, now, actor.String()
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if err := lockConfig(ctx, tx, tenant); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO notification_channels (tenant_id, channel_id, kind, name, enabled, disabled_reason, format, filter, config, secrets, created_by, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)`,
			tenant, c.ID, c.Kind, c.Name, c.Enabled, c.DisabledReason, c.Format, c.Filter, c.Config, c.Secrets, c.CreatedBy, now); err != nil {
			return err
		}
		if err := audit(ctx, tx, tenant, now, actor, "notification_channel.create", channelTarget(c.ID), nil, c.summary()); err != nil {
			return err
		}
		return s.withinQuota(ctx, tx, tenant, QuotaChannels, now)
	})
	if err != nil {
		return Channel{}, fmt.Errorf("make notification channel: %w", channelConflict(err))
	}
	return c, nil
}

// NewChannelID makes the id of a channel.
func NewChannelID(now time.Time) uuid.UUID { return newID(now) }

// ChangeChannel changes a channel by change, which is given it as it is and must not keep it. The audit record's action
// is notification_channel.<action>. A channel that is enabled again begins without failures, and what waited
// for it is due. ErrNotFound, ErrConflict, or change's error.
func (s *Store) ChangeChannel(ctx context.Context, tenant, id uuid.UUID, action string, now time.Time, actor Actor, change func(*Channel) error) (Channel, error) {
	ctx = withTenant(ctx, tenant)
	now = now.Truncate(time.Microsecond)
	var c Channel
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		was, err := readChannel(ctx, tx, tenant, id, " FOR UPDATE OF c")
		if err != nil {
			return err
		}
		c = was
		if err := change(&c); err != nil {
			return err
		}
		c.UpdatedAt = now
		if c.Enabled && !was.Enabled {
			c.FailingSince, c.ConsecutiveFailures, c.LastError = nil, 0, ""
		}
		if _, err := tx.Exec(ctx, `UPDATE notification_channels SET name = $3, enabled = $4, disabled_reason = $5, format = $6, filter = $7, config = $8, secrets = $9,
				previous_secret_until = $10, failing_since = $11, consecutive_failures = $12, last_error = $13, updated_at = $14 WHERE tenant_id = $1 AND channel_id = $2`,
			tenant, id, c.Name, c.Enabled, c.DisabledReason, c.Format, c.Filter, c.Config, c.Secrets, c.PreviousSecretUntil, c.FailingSince, c.ConsecutiveFailures, c.LastError, now); err != nil {
			return err
		}
		if c.Enabled {
			if err := s.enqueueDeliveries(ctx, tx, tenant, id); err != nil {
				return err
			}
		}
		return audit(ctx, tx, tenant, now, actor, "notification_channel."+action, channelTarget(id), was.summary(), c.summary())
	})
	if err != nil {
		return Channel{}, fmt.Errorf("change notification channel %s: %w", id, channelConflict(err))
	}
	return c, nil
}

// GetChannel reads one. ErrNotFound.
func (s *Store) GetChannel(ctx context.Context, tenant, id uuid.UUID) (Channel, error) {
	ctx = withTenant(ctx, tenant)
	return readChannel(ctx, s.pool, tenant, id, "")
}

var channelList = listing[Channel]{
	name: "notification_channels", columns: channelColumns, initial: "-id", scan: scanChannel,
	sorts: map[string][]sortKey{"id": ids("c.channel_id"), "name": byText(named("c.name"), ids("c.channel_id")...)},
}

// ListChannels lists channels of a kind, or of all for the empty text, newest first.
func (s *Store) ListChannels(ctx context.Context, tenant uuid.UUID, kind string, page Page) (items []Channel, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(` FROM notification_channels c WHERE c.tenant_id = $1`, tenant)
	q.oneOf("c.kind", kind)
	return channelList.page(ctx, s.pool, q, page)
}

// DeleteChannel deletes a channel with its deliveries. ErrNotFound; a channel of another kind than the given one is
// not found either (empty: of any).
func (s *Store) DeleteChannel(ctx context.Context, tenant, id uuid.UUID, kind string, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		was, err := readChannel(ctx, tx, tenant, id, " FOR UPDATE OF c")
		if err != nil {
			return err
		}
		if kind != "" && was.Kind != kind {
			return fmt.Errorf("%s %s: %w", kind, id, ErrNotFound)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM notification_channels WHERE tenant_id = $1 AND channel_id = $2`, tenant, id); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "notification_channel.delete", channelTarget(id), was.summary(), nil)
	})
	if err != nil {
		return fmt.Errorf("delete notification channel %s: %w", id, err)
	}
	return nil
}

// disableChannel ends a channel whose row is locked, for a reason that the service found itself. What waits for it is
// dead, but for attempts that are under way, and the other channels are told.
func disableChannel(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, c *Channel, reason string, now time.Time) error {
	was := c.summary()
	c.Enabled, c.DisabledReason, c.UpdatedAt = false, reason, now
	if _, err := tx.Exec(ctx, `UPDATE notification_channels SET enabled = false, disabled_reason = $3, updated_at = $4 WHERE tenant_id = $1 AND channel_id = $2`,
		tenant, c.ID, reason, now); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE deliveries SET state = 'dead', next_attempt_at = NULL, finished_at = $3,
			last_error = CASE WHEN last_error = '' THEN 'the channel was disabled before an attempt' ELSE last_error END
		WHERE tenant_id = $1 AND channel_id = $2 AND state = 'pending' AND (claim IS NULL OR claimed_until <= $3)`, tenant, c.ID, now); err != nil {
		return err
	}
	detail := "its receiver answered 410 Gone"
	if reason == DisabledFailing {
		detail = "every attempt failed for days: " + c.LastError
	}
	if err := tell(ctx, tx, tenant, now, "channel.disabled", c.ID, map[string]any{"id": c.ID, "name": c.Name, "kind": c.Kind, "detail": detail}); err != nil {
		return err
	}
	return audit(ctx, tx, tenant, now, Actor{Kind: "system", ID: "notify"}, "notification_channel.disable", channelTarget(c.ID), was, c.summary())
}
