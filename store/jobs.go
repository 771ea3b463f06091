package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// jobSchema is where River keeps its tables (migration 0015).
const jobSchema = "river"

// The queues: what is slow in one does not hold up the others.
const (
	QueueFanOut  = "notify_fan_out"
	QueueDeliver = "notify_deliver"
	QueueSweep   = "notify_sweep"
)

// FanOutJob makes deliveries of a tenant's new events. The trigger of table outbox enqueues it.
type FanOutJob struct {
	TenantID uuid.UUID `json:"tenant_id"`
}

// Kind implements river.JobArgs; migration 0015 names it too.
func (FanOutJob) Kind() string { return "notify_fan_out" }

// DeliverJob delivers what is due for a channel.
type DeliverJob struct {
	TenantID  uuid.UUID `json:"tenant_id"`
	ChannelID uuid.UUID `json:"channel_id"`
}

// Kind implements river.JobArgs.
func (DeliverJob) Kind() string { return "notify_deliver" }

// InsertOpts implements river.JobArgsWithInsertOpts.
func (DeliverJob) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueDeliver, MaxAttempts: 5}
}

// jobConnections is how many connections the job queue has to itself, so that it takes none from requests.
const jobConnections = 4

// newJobs makes the client that only inserts. It is polled for (PollOnly): NOTIFY takes a lock over the whole database
// at each commit, which the commits of appraisals would queue at.
func newJobs(pool *pgxpool.Pool) (*river.Client[pgx.Tx], error) {
	jobs, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: jobSchema, PollOnly: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("open the job queue: %w", err)
	}
	return jobs, nil
}

// JobClient makes a client that works on jobs. The schema and the connections are the store's; the rest is the caller's.
// stop closes the connections, and is called when the client has stopped.
func (s *Store) JobClient(ctx context.Context, config river.Config) (client *river.Client[pgx.Tx], stop func(), err error) {
	pool, err := pgxpool.NewWithConfig(ctx, jobPool(s.pool.Config()))
	if err != nil {
		return nil, nil, fmt.Errorf("open the connections of the job queue: %w", err)
	}
	config.Schema, config.PollOnly = jobSchema, true
	config.ReindexerIndexNames = []string{} // only an index's owner may rebuild it, and the service owns none
	client, err = river.NewClient(riverpgxv5.New(pool), &config)
	if err != nil {
		pool.Close()
		return nil, nil, fmt.Errorf("open the job queue: %w", err)
	}
	return client, pool.Close, nil
}

func jobPool(config *pgxpool.Config) *pgxpool.Config {
	config.MaxConns = jobConnections
	config.ConnConfig.Tracer = nil // it polls: its spans would say nothing
	return config
}

// enqueueDeliveries wakes the workers of the channels up, when tx commits.
func (s *Store) enqueueDeliveries(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, channels ...uuid.UUID) error {
	if len(channels) == 0 {
		return nil
	}
	params := make([]river.InsertManyParams, len(channels))
	for i, channel := range channels {
		params[i].Args = DeliverJob{TenantID: tenant, ChannelID: channel}
	}
	if _, err := s.jobs.InsertManyFastTx(ctx, tx, params); err != nil {
		return fmt.Errorf("enqueue deliveries: %w", err)
	}
	return nil
}

// jobLock is the key of the advisory lock that migrations of the job queue are done under: River takes none.
const jobLock = 0x61737361795f6a62

// migrateJobs brings River's tables to the version of this code, and then puts up the fence between tenants.
func migrateJobs(ctx context.Context, url string, roles Roles) error {
	return withJobLock(ctx, url, func(pool *pgxpool.Pool, conn *pgx.Conn) error {
		if err := migrateRiver(ctx, pool, 0); err != nil {
			return fmt.Errorf("migrate the job queue: %w", err)
		}
		return secure(ctx, conn, roles)
	})
}

// migrateJobsTo brings River's tables to a version, also back.
func migrateJobsTo(ctx context.Context, url string, version int) error {
	return withJobLock(ctx, url, func(pool *pgxpool.Pool, _ *pgx.Conn) error {
		if err := migrateRiver(ctx, pool, version); err != nil {
			return fmt.Errorf("migrate the job queue: %w", err)
		}
		return nil
	})
}

// withJobLock calls f while nobody else migrates the job queue. The lock is held by conn.
func withJobLock(ctx context.Context, url string, f func(pool *pgxpool.Pool, conn *pgx.Conn) error) (err error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return fmt.Errorf("database URL: %w", err)
	}
	defer pool.Close()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("migrate the job queue: %w", err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, jobLock); err != nil {
		return fmt.Errorf("migrate the job queue: %w", err)
	}
	defer func() {
		_, unlock := conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, jobLock)
		err = errors.Join(err, unlock)
	}()
	return f(pool, conn.Conn())
}

// migrateRiver brings River's tables to a version, also back; 0 is that of this code.
func migrateRiver(ctx context.Context, pool *pgxpool.Pool, version int) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: jobSchema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, &rivermigrate.MigrateOpts{TargetVersion: version}); err != nil {
		return err
	}
	applied, err := migrator.ExistingVersions(ctx)
	if err != nil {
		return err
	}
	if version == 0 || len(applied) == 0 || applied[len(applied)-1].Version <= version {
		return nil
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionDown, &rivermigrate.MigrateOpts{TargetVersion: version})
	return err
}
