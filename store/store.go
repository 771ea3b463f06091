package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/trace"
)

// Options tunes Open. The zero value is fit for use.
type Options struct {
	// MaxConns bounds the connections to Postgres; 0 means 16.
	MaxConns int32
	// GroupSize is the most appraisals that one commit may hold; 0 means 100.
	GroupSize int
	// TracerProvider, where given, gets a span for each statement (otelpgx; no statement parameters).
	TracerProvider trace.TracerProvider
	// ConnectTimeout bounds the wait for a database that is still starting; 0 means 10 s.
	ConnectTimeout time.Duration
}

// Store is the service's database. All its methods may be called at once from many goroutines.
type Store struct {
	pool    *pgxpool.Pool
	configs configCache
	group   committer
	close   sync.Once
}

// Open connects to the Postgres at url and checks that it answers, waiting up to ConnectTimeout for one that
// is starting. It does not migrate: see Migrate. Close must be called at the end.
func Open(ctx context.Context, url string, o Options) (*Store, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	cfg.MaxConns = 16
	if o.MaxConns > 0 {
		cfg.MaxConns = o.MaxConns
	}
	if o.TracerProvider != nil {
		cfg.ConnConfig.Tracer = otelpgx.NewTracer(otelpgx.WithTracerProvider(o.TracerProvider))
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	wait := o.ConnectTimeout
	if wait <= 0 {
		wait = 10 * time.Second
	}
	if err := waitReady(ctx, pool, wait); err != nil {
		pool.Close()
		return nil, err
	}
	s := &Store{pool: pool}
	size := o.GroupSize
	if size <= 0 {
		size = 100
	}
	s.group.start(s, size)
	return s, nil
}

func waitReady(ctx context.Context, pool *pgxpool.Pool, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		err := pool.Ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the database does not answer: %w", err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// Close waits until every appraisal handed to RecordAppraisal is committed or refused, then closes the
// connections. Calls of RecordAppraisal that come later fail.
func (s *Store) Close() {
	s.close.Do(func() {
		s.group.stop()
		s.pool.Close()
	})
}

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("ping the database: %w", err)
	}
	return nil
}

// inTx runs f in one transaction (read committed) and commits it; any error rolls all of it back.
func (s *Store) inTx(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.pool, f)
}

// isViolation tells whether err is the violation of the named constraint or unique index; an empty name
// stands for any unique violation.
func isViolation(err error, constraint string) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	if constraint == "" {
		return pg.Code == "23505"
	}
	return pg.ConstraintName == constraint
}

// isCode tells whether err is a Postgres error of that SQLSTATE.
func isCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}

// notFound turns pgx's empty answer into ErrNotFound, saying what was looked for.
func notFound(err error, what string, id any) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%s %v: %w", what, id, ErrNotFound)
	}
	return fmt.Errorf("read %s %v: %w", what, id, err)
}
