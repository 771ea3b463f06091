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
	if err := exec(`CREATE DATABASE template_assay`); err != nil {
		panic(err)
	}
	if err := store.Migrate(context.Background(), databaseURL("template_assay")); err != nil {
		panic(err)
	}
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

func exec(sql string) error {
	conn, err := pgx.Connect(context.Background(), serverURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(context.Background(), sql)
	return err
}

func databaseURL(name string) string {
	u, err := url.Parse(serverURL)
	if err != nil {
		panic(err)
	}
	u.Path = "/" + name
	return u.String()
}

// newStore is a store on a database of the test's own.
func newStore(t testing.TB) *store.Store {
	t.Helper()
	name := fmt.Sprintf("t%d", databases.Add(1))
	if err := exec(`CREATE DATABASE ` + name + ` TEMPLATE template_assay`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := exec(`DROP DATABASE ` + name + ` WITH (FORCE)`); err != nil {
			t.Error(err)
		}
	})
	s, err := store.Open(t.Context(), databaseURL(name), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.EnsureTenant(t.Context(), tenant, t0); err != nil {
		t.Fatal(err)
	}
	return s
}
