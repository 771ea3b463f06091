package schedule

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
)

var (
	serverURL string
	databases atomic.Int64
	tenant    = store.DefaultTenant
	system    = store.Actor{Kind: "system", ID: "test"}
	t0        = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	pg, err := embedded.Start(context.Background(), embedded.Config{DataDir: dir})
	if err != nil {
		panic(err)
	}
	serverURL = pg.URL()
	code := m.Run()
	if err := pg.Stop(context.Background()); err != nil {
		panic(err)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return code
}

func exec(t testing.TB, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), serverURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Fatal(err)
	}
}

// newStore is a store on a database of the test's own.
func newStore(t testing.TB) *store.Store {
	t.Helper()
	name := fmt.Sprintf("t%d", databases.Add(1))
	exec(t, `CREATE DATABASE `+name)
	t.Cleanup(func() { exec(t, `DROP DATABASE `+name+` WITH (FORCE)`) })
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	if err := store.Migrate(t.Context(), u.String()); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), u.String(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.EnsureTenant(t.Context(), tenant, t0); err != nil {
		t.Fatal(err)
	}
	return s
}
