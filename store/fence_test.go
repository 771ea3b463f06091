package store_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
)

// withoutTenant are the tables that hold nothing of a tenant.
var withoutTenant = map[string]string{
	"schema_migrations": "the schema's version (golang-migrate)",
	"table_access":      "what the service may do with each table",
}

func texts(t testing.TB, c *pgx.Conn, sql string, args ...any) []string {
	t.Helper()
	rows, _ := c.Query(t.Context(), sql, args...)
	return must[[]string](t)(pgx.CollectRows(rows, pgx.RowTo[string]))
}

const ofTenants = `c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
	AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)`

// TestEachTableOfTenantsIsFenced reads the catalogue: it holds for tables that are yet to come.
func TestEachTableOfTenantsIsFenced(t *testing.T) {
	_, c := newStore(t)
	if n := number(t, c, `SELECT count(*) FROM pg_class c WHERE `+ofTenants); n < 60 {
		t.Fatalf("only %d tables of tenants", n)
	}
	for what, sql := range map[string]string{
		"has no row-level security": `SELECT c.relname FROM pg_class c WHERE ` + ofTenants + ` AND NOT c.relrowsecurity`,
		"has not exactly the one policy, for all commands and everybody": `SELECT c.relname FROM pg_class c WHERE ` + ofTenants + ` AND (SELECT string_agg(
			format('%s %s %s %s %s', polname, polcmd, polpermissive, polroles, pg_get_expr(polqual, polrelid) = pg_get_expr(polwithcheck, polrelid)), ',') FROM pg_policy WHERE polrelid = c.oid)
			IS DISTINCT FROM 'tenant * t {0} t'`,
		"has a policy that is not that of the others": `SELECT c.relname FROM pg_class c JOIN pg_policy p ON p.polrelid = c.oid WHERE ` + ofTenants + ` AND pg_get_expr(polqual, polrelid) <>
			(SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = 'machines'::regclass)`,
		"is not the service's to read": `SELECT c.relname FROM pg_class c WHERE ` + ofTenants + ` AND NOT has_table_privilege('assay_app', c.oid, 'SELECT')`,
		"is the service's to empty":    `SELECT c.relname FROM pg_class c WHERE ` + ofTenants + ` AND has_table_privilege('assay_app', c.oid, 'TRUNCATE, REFERENCES, TRIGGER')`,
		"is a partition that the service may use directly": `SELECT c.relname FROM pg_class c WHERE c.relispartition AND c.relnamespace = 'public'::regnamespace
			AND has_table_privilege('assay_app', c.oid, 'SELECT, INSERT, UPDATE, DELETE')`,
		"has a key that does not begin with the tenant, so that a refusal could tell of another's row": `SELECT c.relname || ' ' || i.indexrelid::regclass FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid
			WHERE ` + ofTenants + ` AND i.indisunique AND (SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum = i.indkey[0]) IS DISTINCT FROM 'tenant_id'`,
		"has a reference that could lead to another tenant": `SELECT c.relname || ' ' || k.conname FROM pg_class c JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'f'
			WHERE ` + ofTenants + ` AND NOT EXISTS (SELECT FROM unnest(k.conkey, k.confkey) x (a, b)
				JOIN pg_attribute o ON o.attrelid = k.conrelid AND o.attnum = x.a JOIN pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = x.b
				WHERE o.attname = 'tenant_id' AND p.attname = 'tenant_id')`,
		"is a view, which would be read with its owner's eyes": `SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm')`,
	} {
		for _, name := range texts(t, c, sql) {
			t.Errorf("%s %s", name, what)
		}
	}
	for _, name := range texts(t, c, `SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND NOT (`+ofTenants+`)`) {
		if withoutTenant[name] == "" {
			t.Errorf("table %s has no tenant_id, and withoutTenant does not say why", name)
		}
	}
	for _, name := range texts(t, c, `SELECT table_name FROM table_access WHERE to_regclass(table_name) IS NULL`) {
		t.Errorf("table_access lists %s, which there is not", name)
	}
}

// TestTheServiceOwnsNothing: the role is bound by policies, has no rights over the cluster, and none but those that are listed here.
func TestTheServiceOwnsNothing(t *testing.T) {
	s, c := newStore(t)
	if n := number(t, c, `SELECT count(*) FROM pg_roles WHERE rolname = 'assay_app' AND NOT (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication OR rolcanlogin)`); n != 1 {
		t.Error("the service's role has rights over the cluster, or can log in")
	}
	for what, sql := range map[string]string{
		"is owned by the service":                    `SELECT c.oid::regclass::text FROM pg_class c WHERE pg_has_role('assay_app', c.relowner, 'MEMBER')`,
		"is a function that the service owns":        `SELECT p.oid::regprocedure::text FROM pg_proc p WHERE pg_has_role('assay_app', p.proowner, 'MEMBER')`,
		"is a schema that the service may make in":   `SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%' AND has_schema_privilege('assay_app', oid, 'CREATE')`,
		"is a role that the service may take":        `SELECT rolname FROM pg_roles WHERE rolname <> 'assay_app' AND pg_has_role('assay_app', oid, 'MEMBER')`,
		"is a setting that the service may override": `SELECT parname FROM pg_parameter_acl p, aclexplode(p.paracl) x WHERE x.grantee = 'assay_app'::regrole`,
		"runs as its owner with an open search path": `SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.prosecdef AND p.pronamespace = 'public'::regnamespace AND NOT coalesce(p.proconfig, '{}') @> '{"search_path=public, pg_temp"}'`,
		"runs as its owner for everybody":            `SELECT p.oid::regprocedure::text FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x WHERE p.prosecdef AND p.pronamespace = 'public'::regnamespace AND x.grantee = 0`,
	} {
		for _, name := range texts(t, c, sql) {
			t.Errorf("%s %s", name, what)
		}
	}
	got := texts(t, c, `SELECT p.proname::text FROM pg_proc p WHERE p.prosecdef AND p.pronamespace = 'public'::regnamespace ORDER BY 1`)
	want := []string{"assay_drop_empty_partitions", "assay_enrollment_tenant", "assay_find_api_token", "assay_find_join_token", "assay_make_partitions", "assay_notified_tenants",
		"assay_prune_audit", "assay_prune_boot_logs", "assay_prune_evidence", "assay_prune_verdicts", "assay_stray_rows", "assay_tenant_ids"}
	if !slices.Equal(got, want) {
		t.Errorf("functions that run as their owner: %v, not %v; each is a door in the fence", got, want)
	}
	if f, err := s.Fence(t.Context()); err != nil || f.Role != store.DefaultRole || !f.LoginOwns {
		t.Errorf("on a superuser's login: %+v, %v", f, err)
	}
	for _, role := range []string{"assay_bypass", "assay_owner"} {
		admin(t.Context(), `DO $$ BEGIN CREATE ROLE `+role+`; EXCEPTION WHEN duplicate_object THEN NULL; END $$`)
	}
	admin(t.Context(), `ALTER ROLE assay_bypass BYPASSRLS`)
	must[any](t)(c.Exec(t.Context(), `ALTER TABLE machines OWNER TO assay_owner`))
	for role, want := range map[string]string{"assay": "superuser", "assay_bypass": "BYPASSRLS", "assay_owner": "owns tables"} {
		other := open(t, c.Config().ConnString(), store.Options{Role: role})
		if _, err := other.Fence(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("role %s: %v", role, err)
		}
	}
}

// What the tables of records are granted is said twice, here and in table_access, so that neither can be loosened alone.
func TestRecordsAreWrittenOnce(t *testing.T) {
	_, c := newStore(t)
	for _, table := range []string{"audit_events", "evidence", "boot_logs", "policy_versions", "reference_values", "recommendation_events", "baseline_approvals", "alert_decisions"} {
		if n := number(t, c, `SELECT count(*) FROM (VALUES ('UPDATE'), ('DELETE')) p (name) WHERE has_any_column_privilege('assay_app', $1, 'UPDATE') OR has_table_privilege('assay_app', $1, 'DELETE')`, table); n != 0 {
			t.Errorf("the service may change or delete what is in %s", table)
		}
	}
	got := texts(t, c, `SELECT attname::text FROM pg_attribute WHERE attrelid = 'verdicts'::regclass AND attnum > 0 AND has_column_privilege('assay_app', attrelid, attnum, 'UPDATE') ORDER BY 1`)
	for _, column := range []string{"tenant_id", "verdict_id", "machine_id", "status", "reason", "assurance", "genuine", "first_at", "appraisal"} {
		if slices.Contains(got, column) {
			t.Errorf("the service may change verdicts.%s", column)
		}
	}
	if number(t, c, `SELECT has_table_privilege('assay_app', 'verdicts', 'DELETE')::int`) != 0 {
		t.Error("the service may delete verdicts")
	}
}

// TestRightsAreThoseThatStatementsNeed: what the service is granted on each table is what statements of this package, and triggers
// that run as the service, do with it, and nothing more.
func TestRightsAreThoseThatStatementsNeed(t *testing.T) {
	_, c := newStore(t)
	sql := store.Statements(t)
	for i, body := range texts(t, c, `SELECT prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND NOT prosecdef AND prorettype = 'trigger'::regtype`) {
		sql[fmt.Sprint("trigger ", i)] = body
	}
	for _, table := range texts(t, c, `SELECT c.relname FROM pg_class c WHERE `+ofTenants+` ORDER BY 1`) {
		uses := map[string]bool{"SELECT": true}
		insert := regexp.MustCompile(`INSERT INTO\s+` + table + `\b`)
		upsert := regexp.MustCompile(`(?s)INSERT INTO\s+` + table + `\b(.*?)(?:INSERT INTO|$)`)
		update := regexp.MustCompile(`\bUPDATE\s+` + table + `\b`)
		lock := regexp.MustCompile(`FROM\s+` + table + `\b[^()]*\bFOR (NO KEY UPDATE|UPDATE|SHARE|KEY SHARE)`)
		remove := regexp.MustCompile(`DELETE FROM\s+` + table + `\b`)
		for _, text := range sql {
			uses["INSERT"] = uses["INSERT"] || insert.MatchString(text)
			uses["UPDATE"] = uses["UPDATE"] || update.MatchString(text) || lock.MatchString(text)
			uses["DELETE"] = uses["DELETE"] || remove.MatchString(text)
			for _, m := range upsert.FindAllStringSubmatch(text, -1) {
				uses["UPDATE"] = uses["UPDATE"] || strings.Contains(m[1], "DO UPDATE")
			}
		}
		var need, has []string
		for _, right := range []string{"SELECT", "INSERT", "UPDATE", "DELETE"} {
			granted := number(t, c, `SELECT CASE WHEN $2 = 'UPDATE' THEN has_any_column_privilege('assay_app', $1, $2) ELSE has_table_privilege('assay_app', $1, $2) END::int`, table, right) == 1
			if uses[right] {
				need = append(need, right)
			}
			if granted {
				has = append(has, right)
			}
		}
		if !slices.Equal(need, has) {
			t.Errorf("table %s: statements need %v, the service may %v: say so in table_access, by a migration", table, need, has)
		}
	}
}

// TestMigrationsMakeTheRole: many databases of one cluster at once; a login that may not make roles is told what to do; a role of the
// operator's own name; a service's login of its own, which has nothing but the role.
func TestMigrationsMakeTheRole(t *testing.T) {
	ctx := t.Context()
	suffix := strings.ToLower(rand.Text()[:8])
	app, owner, login := "app_"+suffix, "owner_"+suffix, "login_"+suffix
	t.Cleanup(func() {
		for _, role := range []string{login, owner, app} {
			admin(context.Background(), `DROP ROLE IF EXISTS `+role)
		}
	})
	urls := make([]string, 3)
	for i := range urls {
		urls[i] = emptyDatabase(t, "")
	}
	var wg sync.WaitGroup
	for _, u := range append(slices.Clone(urls), urls[0]) {
		wg.Go(func() {
			if err := store.MigrateWith(ctx, u, store.Roles{App: app, Login: login}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()

	as := func(base, user string) string {
		u := must[*url.URL](t)(url.Parse(base))
		u.User = url.User(user)
		return u.String()
	}
	service := open(t, as(urls[1], login), store.Options{Role: app})
	must0(t, service.CheckMigrations(ctx))
	must0(t, service.EnsureTenant(ctx, tenant, t0))
	if f, err := service.Fence(ctx); err != nil || f.Login != login || f.Role != app || f.LoginOwns {
		t.Errorf("%+v, %v", f, err)
	}
	conn := must[*pgx.Conn](t)(pgx.Connect(ctx, as(urls[1], login)))
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(ctx, `SELECT FROM machines`); err == nil {
		t.Error("the service's login can do something without its role")
	}
	if _, err := conn.Exec(ctx, `SET ROLE `+app+`; RESET ROLE; SELECT FROM machines`); err == nil {
		t.Error("a RESET ROLE leads to more than the role")
	}

	// A login that owns its database and may not make roles.
	name := "o" + suffix
	admin(ctx, `CREATE ROLE `+owner+` LOGIN`)
	admin(ctx, `CREATE DATABASE `+name+` OWNER `+owner)
	t.Cleanup(func() { admin(context.Background(), `DROP DATABASE `+name+` WITH (FORCE)`) })
	mine := as(databaseURL(name), owner)
	missing := "missing_" + suffix
	err := store.MigrateWith(ctx, mine, store.Roles{App: missing})
	if err == nil || !strings.Contains(err.Error(), "CREATE ROLE "+missing) || !strings.Contains(err.Error(), "--database-app-role") {
		t.Errorf("a role that cannot be made: %v", err)
	}
	if _, err := store.Open(ctx, mine, store.Options{Role: missing}); err == nil || !strings.Contains(err.Error(), "assayd migrate") {
		t.Errorf("a role that is not there: %v", err)
	}
	if _, err := store.Open(ctx, mine, store.Options{Role: app}); err == nil || !strings.Contains(err.Error(), "GRANT "+app) {
		t.Errorf("a role that may not be taken: %v", err)
	}
	admin(ctx, `GRANT `+app+` TO `+owner)
	must0(t, store.MigrateWith(ctx, mine, store.Roles{App: app}))
	plain := open(t, mine, store.Options{Role: app})
	must0(t, plain.EnsureTenant(ctx, tenant, t0))
	if f, err := plain.Fence(ctx); err != nil || !f.LoginOwns {
		t.Errorf("%+v, %v", f, err)
	}
	// Again, nothing is changed: a replica that starts disturbs nobody.
	before := texts(t, must[*pgx.Conn](t)(pgx.Connect(ctx, databaseURL(name))), `SELECT relname || xmin::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1`)
	must0(t, store.MigrateWith(ctx, mine, store.Roles{App: app}))
	if after := texts(t, must[*pgx.Conn](t)(pgx.Connect(ctx, databaseURL(name))), `SELECT relname || xmin::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1`); !slices.Equal(before, after) {
		t.Error("a second migration changed the catalogue")
	}
}

// TestScramVerifier compares with what Postgres makes of the same password and salt.
func TestScramVerifier(t *testing.T) {
	_, c := newStore(t)
	role := "scram_" + strings.ToLower(rand.Text()[:8])
	verifier := must[string](t)(store.ScramVerifier(`it's a "secret"`))
	admin(t.Context(), `CREATE ROLE `+role+` PASSWORD '`+verifier+`'`)
	t.Cleanup(func() { admin(context.Background(), `DROP ROLE `+role) })
	if got := texts(t, c, `SELECT rolpassword FROM pg_authid WHERE rolname = $1`, role); got[0] != verifier {
		t.Errorf("Postgres did not take it as it is: %s", got[0])
	}
	// What the server itself makes of that salt has to be the same.
	parts := strings.FieldsFunc(verifier, func(r rune) bool { return r == '$' || r == ':' })
	if again := must[string](t)(store.ScramOf(`it's a "secret"`, parts[2])); again != verifier {
		t.Errorf("%s and %s", again, verifier)
	}
	// RFC 7677, section 3: password "pencil". Its server signature proves the server key.
	const auth = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	pencil := must[string](t)(store.ScramOf("pencil", "W22ZaJ0SNY7soEsUEjb6gQ=="))
	key := must[[]byte](t)(base64.StdEncoding.DecodeString(pencil[strings.LastIndex(pencil, ":")+1:]))
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(auth))
	if got := base64.StdEncoding.EncodeToString(mac.Sum(nil)); got != "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=" {
		t.Errorf("the server key of RFC 7677 signs %s", got)
	}
	for _, bad := range []string{"", "a\nb", "ümlaut"} {
		if _, err := store.ScramVerifier(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestAStatementThatForgetsItsTenant sees nothing of another, whichever connection it gets.
func TestAStatementThatForgetsItsTenant(t *testing.T) {
	s, c := newStore(t)
	other := uuid.MustParse("01900000-0000-7000-8000-0000000000aa")
	must0(t, s.EnsureTenant(t.Context(), other, t0))
	active(t, s, joinToken(t, s, "a", 5), "mine")
	pool := store.PoolOf(s)
	seen := func(ctx context.Context) int {
		t.Helper()
		var n int
		must0(t, pool.QueryRow(ctx, `SELECT count(*) FROM machines`).Scan(&n))
		return n
	}
	for range 3 {
		for name, want := range map[string]struct {
			ctx context.Context
			n   int
		}{"its own": {store.WithTenant(t.Context(), tenant), 1}, "another's": {store.WithTenant(t.Context(), other), 0}, "none": {t.Context(), 0},
			"both": {store.WithTenants(t.Context(), tenant, other), 1}} {
			if n := seen(want.ctx); n != want.n {
				t.Errorf("told of %s, a statement without a condition sees %d machines", name, n)
			}
		}
	}
	if n := number(t, c, `SELECT count(*) FROM machines`); n != 1 {
		t.Errorf("%d machines", n)
	}
	if _, err := s.GetMachine(store.WithTenant(t.Context(), other), tenant, uuid.New()); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

// TestAConnectionIsToldOnce: for the tenant that it was told last, nothing is sent.
func TestAConnectionIsToldOnce(t *testing.T) {
	u := emptyDatabase(t, "template_assay")
	s := open(t, u, store.Options{MaxConns: 1})
	must0(t, s.EnsureTenant(t.Context(), tenant, t0))
	pool := store.PoolOf(s)
	mine := store.WithTenant(t.Context(), tenant)
	setting := func(ctx context.Context) (v string) {
		t.Helper()
		must0(t, pool.QueryRow(ctx, `SELECT coalesce(current_setting('assay.tenants', true), '')`).Scan(&v))
		return v
	}
	want := fmt.Sprintf("{%s}", tenant)
	if v := setting(mine); v != want {
		t.Errorf("told %q, not %q", v, want)
	}
	must[any](t)(pool.Exec(mine, `SET assay.tenants = '{}'`)) // behind its back
	if v := setting(mine); v != "{}" {
		t.Errorf("the connection was told again: %q", v)
	}
	if v := setting(t.Context()); v != "" {
		t.Errorf("a call without a tenant is told %q", v)
	}
	if v := setting(mine); v != want {
		t.Errorf("told %q, not %q", v, want)
	}
	if _, _, err := s.LookupAPIToken(t.Context(), hash("none"), t0); !errors.Is(err, store.ErrTokenInvalid) {
		t.Error(err)
	}
	must[any](t)(pool.Exec(mine, `SET assay.tenants = '{}'`))
	must0(t, s.Ping(t.Context()))
	if v := setting(mine); v != "{}" {
		t.Errorf("what comes before the tenant made the connection be told again: %q", v)
	}
}
