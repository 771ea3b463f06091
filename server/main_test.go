package server

import (
	"context"
	"fmt"
	"log"
	"net/url"
	"os"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
)

// postgres is one real server for all tests of this package, started by the first that needs it (a
// fuzzing worker does not); each bench has a database of its own, copied from a migrated template.
var (
	postgres      *embedded.Postgres
	postgresDir   string
	startPostgres = sync.OnceValue(start)
)

const templateDatabase = "server_template"

func TestMain(m *testing.M) {
	code := m.Run()
	if postgres != nil {
		if err := postgres.Stop(context.Background()); err != nil {
			log.Print(err)
			code = 1
		}
	}
	if postgresDir != "" {
		_ = os.RemoveAll(postgresDir)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			log.Print(err)
			code = 1
		}
	}
	os.Exit(code)
}

func start() error {
	var err error
	if postgresDir, err = os.MkdirTemp("", "server"); err != nil {
		return err
	}
	ctx := context.Background()
	if postgres, err = embedded.Start(ctx, embedded.Config{DataDir: postgresDir}); err != nil {
		return fmt.Errorf("start Postgres: %w", err)
	}
	if err := execSQL(ctx, "CREATE DATABASE "+templateDatabase); err != nil {
		return err
	}
	if err := store.Migrate(ctx, databaseURL(templateDatabase)); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
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
