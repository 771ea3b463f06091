package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/assay-verifier/assay/migrations"
)

// schemaVersion is the last migration that this code knows and needs.
var schemaVersion = migrations.Last()

// Migrate brings the schema at url to the version of this code, with the service's role named DefaultRole: see MigrateWith.
func Migrate(ctx context.Context, url string) error { return MigrateWith(ctx, url, Roles{}) }

// MigrateWith brings the schema at url, whose login has to own it, to the version of this code, and prepares the roles that the
// service connects and acts as. Replicas may do so at once: one works, the others wait (advisory locks). A schema that
// is newer is left as it is. The tables of the job queue come after ours, and the fence between tenants after those.
func MigrateWith(ctx context.Context, url string, roles Roles) error {
	err := withMigrator(ctx, url, func(m *migrate.Migrate) error {
		if v, dirty, err := m.Version(); err == nil && !dirty && v > schemaVersion {
			return nil
		}
		return m.Up()
	})
	if err != nil {
		return err
	}
	return migrateJobs(ctx, url, roles)
}

// MigrateTo brings the schema to a version, also back, and the job queue's tables to theirs (0: as they are). It is for a
// backup that is restored; the way back fails where data stands against it.
func MigrateTo(ctx context.Context, url string, version uint, jobs int) error {
	if err := withMigrator(ctx, url, func(m *migrate.Migrate) error { return m.Migrate(version) }); err != nil {
		return err
	}
	if jobs == 0 {
		return nil
	}
	return migrateJobsTo(ctx, url, jobs)
}

// withMigrator gives f a migrator on url; migrate.ErrNoChange is no error.
func withMigrator(ctx context.Context, url string, f func(*migrate.Migrate) error) error {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("database URL: %w", err)
	}
	db := stdlib.OpenDB(*cfg)
	defer func() { _ = db.Close() }()
	if err := pingSQL(ctx, db); err != nil {
		return err
	}
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	if err != nil {
		return fmt.Errorf("prepare migration: %w", err)
	}
	source, err := iofs.New(migrations.FS, ".")
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	m, err := migrate.NewWithInstance("iofs", source, "pgx5", driver)
	if err != nil {
		return fmt.Errorf("prepare migration: %w", err)
	}
	defer func() { _, _ = m.Close() }()
	if err := f(m); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return fmt.Errorf("migrate the database: %w", err)
	}
	return nil
}

func pingSQL(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := db.PingContext(ctx); err != nil {
		return fmt.Errorf("the database does not answer: %w", err)
	}
	return nil
}

// MigrationVersion is the schema's version; 0 before the first migration. dirty: a migration failed halfway.
func (s *Store) MigrationVersion(ctx context.Context) (version uint, dirty bool, err error) {
	var v int64
	err = s.pool.QueryRow(beforeTenant(ctx), `SELECT version, dirty FROM schema_migrations LIMIT 1`).Scan(&v, &dirty)
	if errors.Is(err, pgx.ErrNoRows) || isCode(err, "42P01") { // undefined_table
		return 0, false, nil
	}
	if isCode(err, "42501") { // insufficient_privilege: migrated by a version that knew no role of the service's own
		return 0, false, errors.New("the schema is not prepared for the service's database role: run assayd migrate")
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the schema's version: %w", err)
	}
	return uint(v), dirty, nil // #nosec G115 -- golang-migrate stores no negative version here
}

// CheckMigrations fails unless the schema is whole and at least what this code needs.
func (s *Store) CheckMigrations(ctx context.Context) error {
	v, dirty, err := s.MigrationVersion(ctx)
	switch {
	case err != nil:
		return err
	case dirty:
		return fmt.Errorf("migration %d failed halfway", v)
	case v < schemaVersion:
		return fmt.Errorf("the schema is at version %d, this service needs %d: run assayd migrate", v, schemaVersion)
	}
	return nil
}

// MakePartitions makes the monthly partitions of verdicts, evidence and audit_events for the month of now
// and so many months ahead, where they are missing. Without it rows go to the default partitions; nothing
// is refused. It answers how many it made.
func (s *Store) MakePartitions(ctx context.Context, now time.Time, months int) (int, error) {
	made := 0
	err := s.inTx(beforeTenant(ctx), func(tx pgx.Tx) error {
		// Attaching a partition locks the default one: behind a reader that takes long (a backup) everybody would wait.
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '5s'`); err != nil {
			return fmt.Errorf("make partitions: %w", err)
		}
		for table, key := range map[string]string{"verdicts": "verdict_id", "evidence": "verdict_id", "audit_events": "event_id"} {
			var n int
			if err := tx.QueryRow(ctx, `SELECT assay_make_partitions($1::text::regclass, $2, $3, $4)`, table, key, now, months).Scan(&n); err != nil {
				return fmt.Errorf("make partitions of %s: %w", table, err)
			}
			made += n
		}
		return nil
	})
	return made, err
}
