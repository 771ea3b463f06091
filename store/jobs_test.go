package store_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/assay-verifier/assay/store"
)

// The job queue's tables go up, down and up again, and stay in their schema.
func TestTheJobQueueMigrates(t *testing.T) {
	u := emptyDatabase(t, "")
	must0(t, store.Migrate(t.Context(), u))
	must0(t, store.Migrate(t.Context(), u)) // nothing to do
	pool, err := pgxpool.New(t.Context(), u)
	must0(t, err)
	defer pool.Close()
	count := func() (n int) {
		must0(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_class WHERE relnamespace = 'river'::regnamespace AND relkind = 'r'`).Scan(&n))
		return n
	}
	made := count()
	if made < 4 {
		t.Errorf("%d tables", made)
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: "river", Logger: slog.New(slog.DiscardHandler)})
	must0(t, err)
	if _, err := migrator.Migrate(t.Context(), rivermigrate.DirectionDown, &rivermigrate.MigrateOpts{TargetVersion: -1}); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 0 {
		t.Errorf("%d tables are left", n)
	}
	must0(t, store.Migrate(t.Context(), u))
	if n := count(); n != made {
		t.Errorf("%d tables the second time, %d the first", n, made)
	}
	var strays int
	must0(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_class WHERE relname LIKE 'river%' AND relnamespace = 'public'::regnamespace`).Scan(&strays))
	if strays != 0 {
		t.Errorf("%d of River's relations are in our schema", strays)
	}
}

// Events reach the outbox by inserts alone, which the trigger sees: COPY would pass it as well, but no statement may
// disable triggers or claim that an event was fanned out but those of the fan-out and the test button.
func TestOnlyTheFanOutMarksEvents(t *testing.T) {
	marks := regexp.MustCompile(`(?i)fanned_out_at\s*=|DISABLE TRIGGER|session_replication_role|INTO outbox[^)]*fanned_out_at`)
	files, err := filepath.Glob("*.go")
	must0(t, err)
	others := []string{"outbox.go", "deliveries.go", "jobs_test.go", "auditchain_test.go", "retention_test.go"} // the tests as the owner, on the record of changes
	for _, file := range files {
		text, err := os.ReadFile(file)
		must0(t, err)
		if !slices.Contains(others, file) && marks.Match(text) {
			t.Errorf("%s passes the fan-out by", file)
		}
	}
}
