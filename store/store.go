package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"go.opentelemetry.io/otel/trace"

	"github.com/assay-verifier/assay/store/keyring"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/revocations"
	"github.com/assay-verifier/assay/verifier/tee"
)

// Options tunes Open. The zero value is fit for use.
type Options struct {
	// MaxConns bounds the connections to Postgres; 0 means 16.
	MaxConns int32
	// GroupSize is the most appraisals that one commit may hold; 0 means 100.
	GroupSize int
	// TracerProvider, where given, gets a span for each statement (otelpgx; no statement parameters).
	TracerProvider trace.TracerProvider
	// Keys seal and open the service's keys; nil leaves new ones as they are, and opens none that is sealed.
	Keys *keyring.Ring
	// Role is what the connections act as; empty means DefaultRole. It owns nothing, so that row-level security binds it.
	Role string
	// ConnectTimeout bounds the wait for a database that is still starting; 0 means 10 s.
	ConnectTimeout time.Duration
	// Quotas are what a tenant may have where an operator has set nothing else for it; kinds that are not named have the
	// defaults of quotaKinds.
	Quotas map[QuotaKind]int64
}

// Store is the service's database. All its methods may be called at once from many goroutines.
type Store struct {
	pool    *pgxpool.Pool
	grouped *pgxpool.Pool // of the committers and gatherers, with a planner that goes by index
	configs configCache
	// Versions of baselines that name machines, without their reference values, and those by content.
	versions   *lru[versionKey, BaselineVersion]
	references *lru[refKey, verifier.ReferenceValues]
	// Endorsement keys, and what this process has offered to the database already and noted as wanted.
	byName  *lru[collateralName, tee.Collateral]
	offered *lru[collateralMark, struct{}]
	wanted  *lru[collateralName, time.Time]
	// Compiled sets of what is known to be bad, by the digest of what they were made of.
	revocationSets *lru[[32]byte, *revocations.Set]
	inputs         *gatherer[machineKey, *inputsRow]
	bootLogs       *gatherer[tenantLog, struct{}]
	steady         *committer            // appraisals that changed nothing
	changed        *committer            // appraisals that did
	jobs           *river.Client[pgx.Tx] // inserts only
	keys           *keyring.Ring
	quotas         map[QuotaKind]int64
	evidence       sync.Map // *storedToday by tenant
	opened         sync.Map // keys of the service that were decrypted: openedKey by id
	close          sync.Once
}

// Bounds of what is kept in memory: the count of machine-bound baseline versions, and the bytes (as stored)
// of their reference values.
const (
	cachedVersions       = 20_000
	cachedReferenceBytes = 16 << 20
)

// Open connects to the Postgres at url and checks that it answers, waiting up to ConnectTimeout for one that
// is starting. It does not migrate: see Migrate. Close must be called at the end.
func Open(ctx context.Context, url string, o Options) (*Store, error) {
	maxConns := int32(16)
	if o.MaxConns > 0 {
		maxConns = o.MaxConns
	}
	pool, err := newPool(ctx, url, o, maxConns, "")
	if err != nil {
		return nil, err
	}
	wait := o.ConnectTimeout
	if wait <= 0 {
		wait = 10 * time.Second
	}
	if err := waitReady(ctx, pool, wait); err != nil {
		pool.Close()
		return nil, err
	}
	// Grouped statements join a handful of given rows with large tables. Planned for any number of rows the planner
	// may read a whole table instead of its index; it is told not to. One plan then fits every group, so that none
	// is planned again: planning would cost more than a group of a few.
	grouped, err := newPool(ctx, url, o, groupedConns, `SET enable_seqscan = off; SET enable_hashjoin = off;
		SET enable_mergejoin = off; SET plan_cache_mode = force_generic_plan`)
	if err != nil {
		pool.Close()
		return nil, err
	}
	s := &Store{
		pool: pool, grouped: grouped, keys: o.Keys, quotas: o.Quotas,
		versions:   newLRU[versionKey, BaselineVersion](cachedVersions),
		references: newLRU[refKey, verifier.ReferenceValues](cachedReferenceBytes),
		byName:     newLRU[collateralName, tee.Collateral](cachedCollateralBytes),
		offered:    newLRU[collateralMark, struct{}](cachedCollateralMarks),
		wanted:     newLRU[collateralName, time.Time](cachedCollateralMarks),

		revocationSets: newLRU[[32]byte, *revocations.Set](revocationSets),
	}
	if s.jobs, err = newJobs(pool); err != nil {
		grouped.Close()
		pool.Close()
		return nil, err
	}
	size := o.GroupSize
	if size <= 0 {
		size = 100
	}
	s.inputs = startGatherer(size, func(ctx context.Context, group []machineKey) ([]*inputsRow, error) {
		ctx = withTenants(ctx, group, func(k machineKey) uuid.UUID { return k.tenant })
		return retryUnsent(ctx, s.grouped, func() ([]*inputsRow, error) { return s.readInputs(ctx, s.grouped, group) })
	})
	s.bootLogs = startGatherer(size, s.putBootLogs)
	s.steady = startCommitter(size, s.commitSteady)
	s.changed = startCommitter(size, s.commitChanged)
	return s, nil
}

// retryUnsent repeats once what never left because its connection had died, as all have after Postgres was restarted:
// the pool is rid of its idle connections first.
func retryUnsent[T any](ctx context.Context, pool *pgxpool.Pool, f func() (T, error)) (T, error) {
	out, err := f()
	if err == nil || ctx.Err() != nil || !pgconn.SafeToRetry(err) {
		return out, err
	}
	pool.Reset()
	return f()
}

// groupedConns is one connection for each committer and gatherer.
const groupedConns = 4

func newPool(ctx context.Context, url string, o Options, maxConns int32, onConnect string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	cfg.MaxConns = maxConns
	boundWaits(cfg)
	if o.TracerProvider != nil {
		cfg.ConnConfig.Tracer = otelpgx.NewTracer(otelpgx.WithTracerProvider(o.TracerProvider))
	}
	role := cmp.Or(o.Role, DefaultRole)
	cfg.PrepareConn = tellTenants
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if err := takeRole(ctx, conn, role); err != nil {
			return err
		}
		conn.TypeMap().RegisterType(&pgtype.Type{Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC}})
		if onConnect == "" {
			return nil
		}
		_, err := conn.Exec(ctx, onConnect)
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	return pool, nil
}

func waitReady(ctx context.Context, pool *pgxpool.Pool, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		err := pool.Ping(ctx)
		var role *roleError
		if err == nil || errors.As(err, &role) {
			return err
		}
		if isCode(err, "28000") { // invalid_authorization_specification: there is no such login
			return fmt.Errorf("the database refuses the service's login: %w; assayd migrate makes it where it is of the embedded Postgres", err)
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
		s.inputs.stop()
		s.bootLogs.stop()
		s.steady.stop()
		s.changed.stop()
		s.grouped.Close()
		s.pool.Close()
	})
}

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.pool.Ping(beforeTenant(ctx)); err != nil {
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
