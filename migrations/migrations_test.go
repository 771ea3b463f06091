package migrations_test

import (
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/assay-verifier/assay/migrations"
	"github.com/assay-verifier/assay/store/embedded"
)

var serverURL string

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
	defer func() { _ = pg.Stop(context.Background()) }()
	serverURL = pg.URL()
	return m.Run()
}

func database(t *testing.T, name string) *pgx.ConnConfig {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), serverURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), `CREATE DATABASE `+name); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	cfg, err := pgx.ParseConfig(u.String())
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func migrator(t *testing.T, cfg *pgx.ConnConfig) *migrate.Migrate {
	t.Helper()
	db := stdlib.OpenDB(*cfg)
	t.Cleanup(func() { _ = db.Close() })
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	if err != nil {
		t.Fatal(err)
	}
	source, err := iofs.New(migrations.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	m, err := migrate.NewWithInstance("iofs", source, "pgx5", driver)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = m.Close() })
	return m
}

func connect(t *testing.T, cfg *pgx.ConnConfig) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// list runs a query of one text column.
func list(t *testing.T, conn *pgx.Conn, sql string) []string {
	t.Helper()
	rows, _ := conn.Query(t.Context(), sql)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// schema describes everything in the public schema but golang-migrate's own table.
func schema(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	return strings.Join(list(t, conn, `
		SELECT format('column %s.%s %s null=%s default=%s comment=%s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
			pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum))
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'schema_migrations'
		UNION ALL SELECT format('table %s options=%s comment=%s', relname, reloptions, obj_description(oid, 'pg_class')) FROM pg_class
		WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'schema_migrations'
		UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'schema_migrations'
		UNION ALL SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid <> 0
			AND conrelid <> to_regclass('schema_migrations')
		UNION ALL SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
		UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger
		WHERE NOT tgisinternal
		ORDER BY 1`), "\n")
}

func TestEachMigrationGoesUpDownAndUpAgain(t *testing.T) {
	cfg := database(t, "steps")
	m, conn := migrator(t, cfg), connect(t, cfg)
	files, err := fs.Glob(migrations.FS, "*.up.sql")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	empty := schema(t, conn)
	before := empty
	last := 0
	for _, file := range files {
		if err := m.Steps(1); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		up := schema(t, conn)
		if up == before {
			t.Errorf("%s changes nothing", file)
		}
		if err := m.Steps(-1); err != nil {
			t.Fatalf("%s, down: %v", file, err)
		}
		if down := schema(t, conn); down != before {
			t.Errorf("%s, down, leaves\n%s\nwhere there was\n%s", file, down, before)
		}
		if err := m.Steps(1); err != nil {
			t.Fatalf("%s, up again: %v", file, err)
		}
		if again := schema(t, conn); again != up {
			t.Errorf("%s makes\n%s\nand at the second time\n%s", file, up, again)
		}
		// Branches take their numbers ahead, so that there may be gaps for a while; two of one number there may not.
		if n, err := strconv.Atoi(file[:4]); err != nil || n <= last || file[4] != '_' {
			t.Errorf("%s should begin with a number above %04d", file, last)
		} else {
			last = n
		}
		before = up
	}
	if err := m.Down(); err != nil {
		t.Fatal(err)
	}
	if left := schema(t, conn); left != empty {
		t.Errorf("after all the way down there is\n%s", left)
	}
	if err := m.Up(); err != nil {
		t.Fatal(err)
	}
	if again := schema(t, conn); again != before {
		t.Error("up, down and up again is another schema")
	}
}

// Of our tables only table_access is of no tenant.
func TestRulesOfTheSchema(t *testing.T) {
	cfg := database(t, "rules")
	if err := migrator(t, cfg).Up(); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, cfg)
	const tables = ` FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'schema_migrations' `
	if n := len(list(t, conn, `SELECT c.relname`+tables)); n < 20 {
		t.Fatalf("only %d tables found", n)
	}
	for rule, sql := range map[string]string{
		"table without a comment": `SELECT c.relname` + tables + `AND obj_description(c.oid, 'pg_class') IS NULL`,
		"column without a comment": `SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
			WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'schema_migrations' AND col_description(c.oid, a.attnum) IS NULL`,
		"primary key that does not begin with tenant_id": `SELECT c.relname` + tables + `AND c.relname <> 'table_access' AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
			WHERE i.indrelid = c.oid AND i.indisprimary AND a.attname = 'tenant_id')`,
		"foreign key without the tenant":               `SELECT conname FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace AND pg_get_constraintdef(oid) NOT LIKE 'FOREIGN KEY (tenant_id%'`,
		"unique index without the tenant":              `SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename NOT IN ('schema_migrations', 'table_access') AND indexdef LIKE 'CREATE UNIQUE%' AND indexdef NOT LIKE '%(tenant_id%'`,
		"sequence":                                     `SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace`,
		"indexed column of the hot row beside its key": `SELECT indexdef FROM pg_indexes WHERE tablename = 'machine_attestation_state' AND indexname <> 'machine_attestation_state_pkey'`,
	} {
		for _, bad := range list(t, conn, sql) {
			t.Errorf("%s: %s", rule, bad)
		}
	}
}

func TestAuditIsAppendOnly(t *testing.T) {
	cfg := database(t, "audit")
	if err := migrator(t, cfg).Up(); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, cfg)
	for _, month := range []string{"2026-11-05", "2031-01-01"} {
		if _, err := conn.Exec(t.Context(), `INSERT INTO audit_events (tenant_id, event_id, at, actor_kind, actor_id, action, target)
			VALUES (gen_random_uuid(), assay_uuid7_floor($1::text::timestamptz), $1::text::timestamptz, 'system', '', 'a', 'b')`, month); err != nil {
			t.Fatal(err)
		}
		for _, change := range []string{`UPDATE audit_events SET action = 'x'`, `DELETE FROM audit_events`} {
			if _, err := conn.Exec(t.Context(), change); err == nil || !strings.Contains(err.Error(), "append-only") {
				t.Errorf("%s: %v", change, err)
			}
		}
		// Rows that came before their partition are moved into it, whole, and are protected there.
		if _, err := conn.Exec(t.Context(), `SELECT assay_make_partitions('audit_events', 'event_id', $1::text::timestamptz, 2)`, month); err != nil {
			t.Fatal(err)
		}
	}
	got := list(t, conn, `SELECT tableoid::regclass::text FROM audit_events ORDER BY 1`)
	if want := regexp.MustCompile(`^\[audit_events_y2026m11 audit_events_y2031m01\]$`); !want.MatchString(fmt.Sprint(got)) {
		t.Errorf("rows are in %v", got)
	}
	if _, err := conn.Exec(t.Context(), `DELETE FROM audit_events`); err == nil {
		t.Error("rows of a partition can be deleted")
	}
	if n := list(t, conn, `SELECT assay_make_partitions('audit_events', 'event_id', '2026-11-30', 2)::text`); n[0] != "0" {
		t.Errorf("made %s partitions a second time", n[0])
	}
}
