package server

import (
	"context"
	"fmt"
	"log"
	"net/url"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
)

// postgres is one real server for all tests of this package; each bench has a database of its own,
// copied from a migrated template.
var postgres *embedded.Postgres

const templateDatabase = "server_template"

func TestMain(m *testing.M) {
	code, err := runWithPostgres(m)
	if err == nil && code == 0 {
		err = goleak.Find()
	}
	if err != nil {
		log.Print(err)
		code = 1
	}
	os.Exit(code)
}

func runWithPostgres(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "server")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx := context.Background()
	if postgres, err = embedded.Start(ctx, embedded.Config{DataDir: dir}); err != nil {
		return 1, fmt.Errorf("start Postgres: %w", err)
	}
	defer func() { _ = postgres.Stop(ctx) }()
	if err := execSQL(ctx, "CREATE DATABASE "+templateDatabase); err != nil {
		return 1, err
	}
	if err := store.Migrate(ctx, databaseURL(templateDatabase)); err != nil {
		return 1, fmt.Errorf("migrate: %w", err)
	}
	return m.Run(), nil
}

func execSQL(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, postgres.URL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, sql)
	return err
}

func databaseURL(name string) string {
	u, err := url.Parse(postgres.URL())
	if err != nil {
		panic(err)
	}
	u.Path = "/" + name
	return u.String()
}
