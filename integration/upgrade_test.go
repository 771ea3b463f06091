package integration_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/assay-verifier/assay/migrations"
	"github.com/assay-verifier/assay/store/embedded"
)

// newPostgres is a server of the test's own; databases are made on it.
func newPostgres(t *testing.T) (database func(name string) string) {
	t.Helper()
	folder := filepath.Join(newFolder(t), "pg")
	postgres, err := embedded.Start(t.Context(), embedded.Config{DataDir: folder})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return func(name string) string {
		conn := connect(t, postgres.URL())
		if _, err := conn.Exec(t.Context(), `CREATE DATABASE `+name); err != nil {
			t.Fatal(err)
		}
		return "postgres://assay@/" + name + "?" + url.Values{"host": {filepath.Join(folder, "run")}, "sslmode": {"disable"}}.Encode()
	}
}

// migrator moves a database between versions of the schema.
func migrator(t *testing.T, databaseURL string) *migrate.Migrate {
	t.Helper()
	cfg, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDB(*cfg)
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
	t.Cleanup(func() { _, _ = m.Close(); _ = db.Close() })
	return m
}

// captured are the versions of the schema of which there is a dump (testdata/upgrade/README.md).
func captured(t *testing.T) []uint {
	t.Helper()
	files, err := filepath.Glob("testdata/upgrade/*.sql.gz")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var out []uint
	for _, f := range files {
		n, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(f), ".sql.gz"), 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, uint(n))
	}
	slices.Sort(out)
	return out
}

var insertInto = regexp.MustCompile(`(?m)^INSERT INTO public\.(\w+) `)

// load fills a database with what the service of a schema wrote: by the newest dump up to that schema, which then takes the steps in
// between. The first five migrations came with one service; of its rows an earlier schema gets those of the tables that it has.
func load(t *testing.T, databaseURL string, schema uint) {
	t.Helper()
	from := captured(t)[0]
	for _, n := range captured(t) {
		if n <= schema {
			from = n
		}
	}
	m := migrator(t, databaseURL)
	if err := m.Migrate(min(from, schema)); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, databaseURL)
	packed, err := os.Open(fmt.Sprintf("testdata/upgrade/%d.sql.gz", from))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	plain, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	for parent, key := range map[string]string{"verdicts": "verdict_id", "evidence": "verdict_id", "audit_events": "event_id"} {
		if _, err := conn.Exec(t.Context(), `SELECT assay_make_partitions(to_regclass($1), $2, '2026-11-15', 1) WHERE to_regclass($1) IS NOT NULL`, parent, key); err != nil {
			t.Fatal(err)
		}
	}
	var sql strings.Builder
	has := func(table string) bool {
		return one[bool](t, conn, `SELECT to_regclass('public.'||$1) IS NOT NULL`, table)
	}
	for _, part := range regexp.MustCompile(`(?m)^-- Data for Name: `).Split(string(text), -1)[1:] {
		table, _, _ := strings.Cut(part, ";")
		if !has(table) {
			continue
		}
		_, body, _ := strings.Cut(part, "\n")
		sql.WriteString(regexp.MustCompile(`(?m)^\\.*$`).ReplaceAllString(body, "") + "\n")
	}
	if !insertInto.MatchString(sql.String()) {
		t.Fatal("the dump holds nothing")
	}
	if _, err := conn.PgConn().Exec(t.Context(), sql.String()).ReadAll(); err != nil {
		t.Fatal(err)
	}
	if schema > from {
		if err := m.Migrate(schema); err != nil {
			t.Fatal(err)
		}
	}
}

// contents is the rows of each table of the service, by the columns that are named, or all; in an order of their own.
func contents(t *testing.T, conn *pgx.Conn, columns map[string][]string) map[string]string {
	t.Helper()
	rows, _ := conn.Query(t.Context(), `SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
		AND c.relname <> 'schema_migrations' ORDER BY 1`)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, table := range tables {
		expression := "x::text"
		if columns != nil {
			if len(columns[table]) == 0 {
				continue
			}
			quoted := make([]string, len(columns[table]))
			for i, c := range columns[table] {
				quoted[i] = pgx.Identifier{c}.Sanitize()
			}
			expression = "ROW(" + strings.Join(quoted, ", ") + ")::text"
		}
		out[table] = one[string](t, conn, `SELECT count(*) || ' ' || coalesce(md5(string_agg(md5(`+expression+`), '' ORDER BY md5(`+expression+`))), '') FROM `+table+` x`)
	}
	return out
}

// wantSame compares contents, but for tables that are excepted.
func wantSame(t *testing.T, what string, want, got map[string]string, but ...string) {
	t.Helper()
	for table, rows := range want {
		if !slices.Contains(but, table) && got[table] != rows {
			t.Errorf("%s: table %s was %q and is %q", what, table, rows, got[table])
		}
	}
}

// upgraded runs the service on a database that was just filled.
func upgraded(t *testing.T, databaseURL string, args ...string) *service {
	t.Helper()
	if out, err := assayd(t, "migrate", "--database-url", databaseURL); err != nil {
		t.Fatalf("migrate: %v %s", err, out)
	}
	token, err := assayd(t, "admin-token", "--database-url", databaseURL)
	if err != nil {
		t.Fatalf("admin-token: %v %s", err, token)
	}
	dataDir := filepath.Join(newFolder(t), "data")
	if err := os.Mkdir(dataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dataDir, "admin.token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	svc, err := startService(dataDir, append([]string{"--database-url", databaseURL, "--trust-bundle", "none"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := svc.terminate(); err != nil {
			t.Error(err)
		}
	})
	return svc
}

// item is what lists have in common.
type item struct {
	ID             string
	Name           string
	Version        int
	EventLogDigest string `json:"event_log_digest"`
	Code           string
}

// items reads a whole list.
func (s *service) items(t *testing.T, path string) []item {
	t.Helper()
	var all []item
	cursor := ""
	for {
		var page struct {
			Items      []item
			NextCursor *string `json:"next_cursor"`
		}
		q := "?limit=500"
		if strings.Contains(path, "?") {
			q = "&limit=500"
		}
		s.get(t, path+q+cursor, &page)
		all = append(all, page.Items...)
		if page.NextCursor == nil {
			return all
		}
		cursor = "&cursor=" + url.QueryEscape(*page.NextCursor)
	}
}

// wantReadable has the service read all that it holds, as its users would, and judge all stored evidence again.
func wantReadable(t *testing.T, svc *service, db *pgx.Conn) {
	t.Helper()
	for path, count := range map[string]string{
		"/v1/machines":                       `SELECT count(*) FROM machines`,
		"/v1/verdicts":                       `SELECT count(*) FROM verdicts`,
		"/v1/assessments":                    `SELECT count(*) FROM assessments`,
		"/v1/baselines":                      `SELECT count(*) FROM baselines`,
		"/v1/policies":                       `SELECT count(*) FROM policies`,
		"/v1/trust-anchors":                  `SELECT count(*) FROM trust_anchors`,
		"/v1/suppression-rules":              `SELECT count(*) FROM suppression_rules`,
		"/v1/join-tokens":                    `SELECT count(*) FROM join_tokens`,
		"/v1/api-tokens":                     `SELECT count(*) FROM api_tokens`,
		"/v1/reappraisals":                   `SELECT count(*) FROM reappraisals`,
		"/v1/webhooks":                       `SELECT count(*) FROM notification_channels WHERE kind = 'webhook'`,
		"/v1/deliveries":                     `SELECT count(*) FROM deliveries`,
		"/v1/alerts?include_suppressed=true": `SELECT count(*) FROM alerts`,
	} {
		if n, want := len(svc.items(t, path)), one[int](t, db, count); n != want {
			t.Errorf("%s lists %d, and there are %d", path, n, want)
		}
	}
	for _, path := range []string{"/v1/overview", "/v1/overview/series?metric=verdicts_by_status", "/v1/incidents", "/v1/recommendations", "/v1/fleet/conflicts", "/v1/collateral", "/v1/signing-keys",
		"/v1/identity-providers", "/v1/pipeline-rules", "/v1/revocations", "/v1/retention", "/.well-known/jwks.json"} {
		svc.get(t, path, nil)
	}
	for _, m := range svc.items(t, "/v1/machines") {
		svc.get(t, "/v1/machines/"+m.ID, nil)
		svc.items(t, "/v1/machines/"+m.ID+"/verdicts")
	}
	for _, v := range svc.items(t, "/v1/verdicts") {
		svc.get(t, "/v1/verdicts/"+v.ID, nil)
		if v.EventLogDigest != "" {
			svc.get(t, "/v1/verdicts/"+v.ID+"/event-log", nil)
		}
	}
	for _, a := range svc.items(t, "/v1/alerts?include_suppressed=true") {
		for _, of := range []string{"", "/occurrences", "/history"} {
			svc.get(t, "/v1/alerts/"+a.ID+of, nil)
		}
	}
	for _, i := range svc.items(t, "/v1/incidents") {
		svc.get(t, "/v1/incidents/"+i.ID, nil)
		svc.get(t, "/v1/incidents/"+i.ID+"/members", nil)
	}
	for _, b := range svc.items(t, "/v1/baselines") {
		for _, v := range svc.items(t, "/v1/baselines/"+b.ID+"/versions") {
			version := fmt.Sprintf("/v1/baselines/%s/versions/%d", b.ID, v.Version)
			svc.get(t, version, nil)
			svc.call(t, http.MethodPost, version+"/dry-run", svc.admin, nil, http.StatusOK, nil)
		}
	}
	for _, p := range svc.items(t, "/v1/policies") {
		svc.items(t, "/v1/policies/"+p.Name+"/versions")
	}
	wantJudgedAgain(t, svc, db)
}

// wantJudgedAgain has all stored evidence judged again. What cannot be is what has no evidence.
func wantJudgedAgain(t *testing.T, svc *service, db *pgx.Conn) {
	t.Helper()
	if one[int](t, db, `SELECT count(*) FROM machines WHERE last_verdict_id IS NOT NULL`) == 0 {
		return
	}
	var r struct {
		ID, State, Error         string
		Machines                 *int
		NotJudged, Worse, Better int
	}
	svc.call(t, http.MethodPost, "/v1/reappraisals", svc.admin, map[string]any{"comment": "upgrade"}, http.StatusAccepted, &r)
	for end := time.Now().Add(patience); r.State != "done"; {
		if time.Now().After(end) || r.State == "failed" || r.Error != "" {
			t.Fatalf("the reappraisal does not end: %+v\n%s", r, svc.logTail())
		}
		<-time.After(100 * time.Millisecond)
		svc.get(t, "/v1/reappraisals/"+r.ID, &r)
	}
	var outcomes struct {
		Items []struct {
			Outcome string
			Why     string `json:"not_judged_because"`
			Name    string `json:"machine_name"`
		}
	}
	svc.get(t, "/v1/reappraisals/"+r.ID+"/machines?limit=500", &outcomes)
	if *r.Machines == 0 {
		t.Error("no machine was judged again")
	}
	for _, o := range outcomes.Items { // a newer engine may say more of a machine; nothing came out worse, and nothing was unreadable
		const evidenceOf = `SELECT count(*) FROM evidence e JOIN verdicts v USING (tenant_id, verdict_id) JOIN machines m USING (tenant_id, machine_id) WHERE m.name = $1`
		if o.Outcome == "changed" || o.Why == "no_evidence" && one[int](t, db, evidenceOf, o.Name) == 0 {
			continue
		}
		t.Errorf("judged again, %s is %s %s", o.Name, o.Outcome, o.Why)
	}
}

// TestCVE20251057OldRowsReadableAfterUpgrade: a registrar could not read the rows that its version before had written (CVE-2025-1057).
// From every earlier schema, filled by the service of its time, the service of now reads everything and judges the evidence again.
func TestCVE20251057OldRowsReadableAfterUpgrade(t *testing.T) {
	database := newPostgres(t)
	key, err := filepath.Abs("testdata/upgrade/test-key-encryption.keys")
	if err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(newFolder(t), "keys") // git keeps no mode 0600
	if err := os.WriteFile(private, readFile(t, key), 0o600); err != nil {
		t.Fatal(err)
	}
	for schema := uint(1); schema < migrations.Last(); schema++ {
		if _, err := migrations.FS.ReadFile(nameOf(t, schema)); err != nil {
			continue // the number was never given out
		}
		if os.Getenv("ASSAY_TEST_LONG") == "" && schema < slices.Max(captured(t)) && !slices.Contains(captured(t), schema) {
			continue // no service of this schema was ever there: make test-long upgrades from it too
		}
		t.Run(fmt.Sprint(schema), func(t *testing.T) {
			databaseURL := database(fmt.Sprintf("from%d", schema))
			load(t, databaseURL, schema)
			db := connect(t, databaseURL)
			columns := columnsOf(t, db)
			before := contents(t, db, columns)
			if err := migrator(t, databaseURL).Up(); err != nil {
				t.Fatal(err)
			}
			wantSame(t, "after the upgrade", before, contents(t, db, common(columns, columnsOf(t, db))), changedByUpgrade...)
			svc := upgraded(t, databaseURL, "--key-file", private)
			wantReadable(t, svc, db)
			if log := svc.logTail(); strings.Contains(log, `"level":"ERROR"`) {
				t.Errorf("the service says\n%s", log)
			}
		})
	}
}

// changedByUpgrade are tables of which a migration changes columns that were there before: next_due_at of machines that never attested
// (0013), the name of a column of outbox (0015), and rows that migrations add to a table of their own (table_access).
var changedByUpgrade = []string{"machine_attestation_state", "outbox", "table_access"}

func nameOf(t *testing.T, schema uint) string {
	t.Helper()
	entries, err := migrations.FS.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), fmt.Sprintf("%04d_", schema)) && strings.HasSuffix(e.Name(), ".up.sql") {
			return e.Name()
		}
	}
	return "none"
}

// columnsOf are the columns of each table.
func columnsOf(t *testing.T, db *pgx.Conn) map[string][]string {
	t.Helper()
	rows, _ := db.Query(t.Context(), `SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attname) FROM pg_class c
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'schema_migrations' GROUP BY 1`)
	out := map[string][]string{}
	var table string
	var columns []string
	if _, err := pgx.ForEachRow(rows, []any{&table, &columns}, func() error {
		out[table] = slices.Clone(columns)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// common are the columns that both know.
func common(a, b map[string][]string) map[string][]string {
	out := map[string][]string{}
	for table, columns := range a {
		for _, c := range columns {
			if slices.Contains(b[table], c) {
				out[table] = append(out[table], c)
			}
		}
	}
	return out
}

// TestDownAndUpKeepsData: a step back and forth loses nothing that both versions know, but for what the way back says that it takes.
func TestDownAndUpKeepsData(t *testing.T) {
	database := newPostgres(t)
	for i, from := range captured(t) {
		databaseURL := database(fmt.Sprintf("down%d", from))
		load(t, databaseURL, from)
		m, db := migrator(t, databaseURL), connect(t, databaseURL)
		down := uint(1)
		if i > 0 {
			down = captured(t)[i-1]
		}
		if from == captured(t)[len(captured(t))-1] {
			if err := m.Up(); err != nil {
				t.Fatal(err)
			}
			from = migrations.Last()
		}
		if _, err := db.Exec(t.Context(), `DO $$ BEGIN IF EXISTS (SELECT FROM information_schema.columns WHERE table_name = 'service_keys' AND column_name = 'kek_id') THEN
			DELETE FROM service_keys WHERE kek_id IS NOT NULL; END IF; END $$`); err != nil { // sealed keys stand against the way back, as they should
			t.Fatal(err)
		}
		for schema := from; schema > down; schema-- {
			if nameOf(t, schema) == "none" {
				continue
			}
			above := columnsOf(t, db)
			whole := contents(t, db, above)
			if err := m.Steps(-1); err != nil {
				t.Fatalf("back from %d: %v", schema, err)
			}
			both := common(above, columnsOf(t, db))
			below := contents(t, db, both)
			if err := m.Steps(1); err != nil {
				t.Fatalf("forth to %d: %v", schema, err)
			}
			wantSame(t, fmt.Sprintf("back from %d and forth", schema), below, contents(t, db, both), changedByUpgrade...)
			for table := range both {
				if count := strings.Fields(whole[table])[0]; count != strings.Fields(below[table])[0] && !slices.Contains([]string{"outbox", "alerts", "service_keys", "table_access"}, table) {
					t.Errorf("the way back from %d takes rows of %s: %s became %s", schema, table, whole[table], below[table])
				}
			}
			if err := m.Steps(-1); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestDumpsAreOfTheirTime: a dump that names a column of a later schema would prove nothing. (The load fails then.) Each holds every kind
// that its service could write in a demonstration.
func TestDumpsAreOfTheirTime(t *testing.T) {
	for _, n := range captured(t) {
		packed := readFile(t, fmt.Sprintf("testdata/upgrade/%d.sql.gz", n))
		plain, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(plain)
		if err != nil {
			t.Fatal(err)
		}
		tables := map[string]bool{}
		for _, m := range insertInto.FindAllSubmatch(text, -1) {
			tables[string(m[1])] = true
		}
		for _, table := range []string{"machines", "attestation_keys", "verdicts_y2026m11", "evidence_y2026m11", "boot_logs", "alerts", "baselines", "baseline_versions", "reference_values", "service_keys"} {
			if !tables[table] {
				t.Errorf("the dump of schema %d has no row of %s", n, table)
			}
		}
	}
}
