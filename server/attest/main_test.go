package attest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
	"github.com/assay-verifier/assay/verifier"
)

// postgres is one real server for all tests of this package; each test has a database of its own,
// copied from a migrated template.
var postgres *embedded.Postgres

const templateDatabase = "attest_template"

func TestMain(m *testing.M) {
	flag.Parse()
	if worker := flag.Lookup("test.fuzzworker"); worker != nil && worker.Value.String() == "true" {
		os.Exit(m.Run()) // the workers of a fuzz run parse only
	}
	code, err := runWithPostgres(m)
	if err != nil {
		log.Print(err)
		code = 1
	}
	os.Exit(code)
}

func runWithPostgres(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "attest")
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
	defer pool.stop()
	pool.dir = dir
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

// start is where each test's clock begins: after the EK certificates of its TPMs were made.
var start = time.Now().UTC().Truncate(time.Second).Add(time.Hour)

var admin = store.Actor{Kind: "admin", ID: "test"}

// bench is a service on a database of its own, with a clock that the test moves.
type bench struct {
	*Service
	t      testing.TB
	ctx    context.Context
	store  *store.Store
	url    string
	tenant uuid.UUID
	join   []byte // hash of a join token with many uses

	mu    sync.Mutex
	clock time.Time
}

// keyOf is the attestation key that a machine token names.
func (b *bench) keyOf(token string) (uuid.UUID, error) {
	m, err := b.token.VerifyMachineToken(token, b.now())
	return m.KeyID, err
}

func newBench(t testing.TB) *bench {
	t.Helper()
	ctx := context.Background()
	name := "t" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if err := execSQL(ctx, "CREATE DATABASE "+name+" TEMPLATE "+templateDatabase); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, ctx: ctx, url: databaseURL(name), tenant: store.DefaultTenant, clock: start}
	var err error
	if b.store, err = store.Open(ctx, b.url, store.Options{MaxConns: 6}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.store.Close)
	if err := b.store.EnsureTenant(ctx, b.tenant, start); err != nil {
		t.Fatal(err)
	}
	b.Service = b.service()
	b.join = b.joinToken("", nil)
	t.Cleanup(b.agrees)
	return b
}

// service makes one more replica on the same database.
func (b *bench) service() *Service {
	b.t.Helper()
	tokens, err := token.New(b.ctx, token.Config{Store: b.store, Tenant: b.tenant, Now: b.now})
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := New(Config{Store: b.store, Token: tokens, Now: b.now, Random: rand.Reader, Build: "assay test", Issuer: "https://assay.test"})
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clock
}

func (b *bench) wait(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = b.clock.Add(d)
}

func (b *bench) joinToken(scaleSet string, labels map[string]string) []byte {
	b.t.Helper()
	hash := sha256.Sum256([]byte(uuid.NewString()))
	err := b.store.CreateJoinToken(b.ctx, b.tenant, store.JoinToken{
		ID: uuid.Must(uuid.NewV7()), Name: "test " + uuid.NewString(), UsesLeft: 100, ExpiresAt: start.Add(24 * time.Hour), CreatedAt: start,
		ScaleSet: scaleSet, Labels: labels,
	}, hash[:], admin)
	if err != nil {
		b.t.Fatal(err)
	}
	return hash[:]
}

// policy changes the default policy.
func (b *bench) policy(change func(*verifier.Policy)) {
	b.t.Helper()
	p := verifier.DefaultPolicy()
	change(&p)
	if _, err := b.store.PutPolicy(b.ctx, b.tenant, "default", p, b.now(), admin); err != nil {
		b.t.Fatal(err)
	}
}

// rows counts the rows of every table, so that a test can show that nothing was stored.
func (b *bench) rows() map[string]int {
	b.t.Helper()
	conn, err := pgx.Connect(b.ctx, b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close(b.ctx) }()
	tables, err := conn.Query(b.ctx, `SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'audit_chain' ORDER BY 1`) // which has a row for each of audit_events
	if err != nil {
		b.t.Fatal(err)
	}
	names, err := pgx.CollectRows(tables, pgx.RowTo[string])
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[string]int{}
	for _, name := range names {
		var n int
		if err := conn.QueryRow(b.ctx, "SELECT count(*) FROM "+pgx.Identifier{name}.Sanitize()).Scan(&n); err != nil {
			b.t.Fatal(err)
		}
		out[name] = n
	}
	return out
}

// sameRows fails unless the row counts are those given, but for some tables.
func (b *bench) sameRows(before map[string]int, except ...string) {
	b.t.Helper()
	after := b.rows()
	for _, table := range except {
		delete(before, table)
		delete(after, table)
	}
	if fmt.Sprint(before) != fmt.Sprint(after) {
		b.t.Errorf("rows were stored: before %v, after %v", before, after)
	}
}

// code is the code of an *Error; empty for anything else.
func code(err error) Code {
	if e, ok := err.(*Error); ok {
		return e.Code
	}
	return ""
}
