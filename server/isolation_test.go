package server

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/tee"
)

// mark is in all names, comments and labels of the tenant that nothing may be learned of.
const mark = "zqm7marker"

// nowhere is a name that nothing has.
const nowhere = "xkw4absent"

// story is what fills the tenant that nothing may be learned of: steps of TestContract, which know every resource there is.
var story = []func(*bench, *machine){enrolment, enrolmentRefused, evidenceAccepted, evidenceRefused, fleetConflicts, results, inventory, baselines, trials, reappraisals, approvals, pipelines,
	notifications, findings, suppression, administration, anchors, imports, collateral, policies, knownBad, idempotency, lastTraces}

// lastTraces are resources that the steps before have taken away again, or that only hardware makes.
func lastTraces(b *bench, m *machine) {
	b.want(201, "POST", "/v1/suppression-rules", b.admin, `{"alert_code": "*", "reason": "lab", "comment": "theirs", "scope": {"all_of": [{"field": "machine.name", "in": ["none"]}]}}`)
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	hook := b.want(201, "POST", "/v1/webhooks", b.admin, map[string]any{"name": "theirs", "url": strings.Replace(closed.URL, "http:", "https:", 1)}).text(b.t, "id")
	b.want(200, "POST", "/v1/webhooks/"+hook+"/test", b.admin, nil)
	b.want(201, "POST", "/v1/notification-channels", b.admin, `{"name": "theirs too", "kind": "syslog", "address": "127.0.0.1:6514"}`)
	if err := b.store.WantCollateral(context.Background(), store.DefaultTenant, []tee.Want{{Kind: tee.KindVCEK, Name: "milan/" + strings.Repeat("cd", 64)}}, time.Now()); err != nil {
		b.t.Fatal(err)
	}
	b.exec(`INSERT INTO platform_evidence (tenant_id, digest, type, size, body, created_at) VALUES ($1, sha256('theirs'), 'sev_snp', 1, 'x', now())`, store.DefaultTenant)
	b.exec(`INSERT INTO machine_firmware (tenant_id, machine_id, family, version, since) VALUES ($1, $2, 'theirs', '1', now())`, store.DefaultTenant, m.id)
	b.want(200, "PUT", "/v1/retention", b.admin, `{"evidence_days": 31, "verdict_days": 61, "audit_days": 366}`)
	for _, name := range []string{"theirs", "theirs too"} {
		b.want(201, "POST", "/v1/role-bindings", b.admin, bindingBody(b.ci.provider, map[string]any{"name": name, "subject": map[string]any{"in": []string{name}}}))
		b.want(201, "POST", "/v1/audit-checkpoints", b.admin, nil)
	}
	// Up to where jobs have taken out: behind nobody's id, and before the ids that the tenant has, so that it would be told of the one and not of the others.
	b.exec(`INSERT INTO retention_marks (tenant_id, kind, subject_id, pruned_id, pruned_count, pruned_at) SELECT $1, kind, $2, '01950000-0000-7000-8000-000000000001', 1, now()
		FROM unnest(ARRAY['verdicts', 'evidence', 'audit_events']) kind`, store.DefaultTenant, m.id)
	b.exec(`INSERT INTO alert_retention (tenant_id, kind, updated_at, last_id) VALUES ($1, 'alerts', now(), $2)`, store.DefaultTenant, m.id)
}

// withoutRows are the tables of tenants that the story leaves empty, and why that is no gap.
var withoutRows = map[string]string{
	"deadline_watch":     "a row a tenant, made by the job that looks at deadlines; no operation reads it",
	"notification_state": "a row a tenant, made by the fan-out; no operation reads it",
	"service_heartbeats": "a row a tenant, made by a job; no operation reads it",
	"service_outages":    "of the service itself; no operation reads it",
	"rollup_hours":       "the job moves rows of rollup_deltas there, which the same statements read",
	"rollup_days":        "the job moves rows of rollup_deltas there, which the same statements read",
	"silences":           "needs a fleet that falls silent; alerts, its face in the API, are there",
	"silent_machines":    "needs a deadline to pass; the machines, its face in the API, are there",
}

// TestTenantsAreApart drives every operation of the contract as one tenant with what belongs to another: ids in paths, filters and
// bodies, names, digests, cursors and idempotency keys. Each answer has to be, byte by byte but for ids and times of its own, what
// the same request gets with something that exists nowhere; nothing of the other may be in it, and nothing of the other may change.
// What the tenant sees of itself is the same as before the other was there. Then the same is tried straight at the
// database, behind the service's back.
func TestTenantsAreApart(t *testing.T) {
	b := newBench(t, nil)
	m := newMachine(t, "sb-on-1")
	a := newStranger(b)
	before := a.views()
	for _, step := range story {
		step(b, m)
		if t.Failed() {
			t.Fatal("the story that fills the other tenant does not work; see TestContract")
		}
	}
	v := newVictim(b, m)
	v.complete()
	a.noneOf = v.secrets(before)

	for name, view := range a.views() {
		if view != before[name] {
			t.Errorf("%s differs once the other tenant is there:\n%s\n%s", name, cut([]byte(before[name])), cut([]byte(view)))
		}
	}
	a.ownRecord()
	a.cursors(v)
	untouched := v.digests()
	all := operations(t, m)
	slices.SortStableFunc(all, func(x, y operation) int { // a policy of a name that the other tenant has comes last: from then on the name is its own, too
		return cmp.Compare(strings.Count(x.op.OperationID, "putPolicy"), strings.Count(y.op.OperationID, "putPolicy"))
	})
	for _, o := range all {
		if why, spared := sparedOperations[o.op.OperationID]; spared {
			if why == "" {
				t.Errorf("%s is spared without a reason", o.name)
			}
			continue
		}
		a.drive(v, o)
		if now := v.digests(); now != untouched {
			t.Errorf("%s changed what is of the other tenant:\n%s", o.name, difference(untouched, now))
			untouched = now
		}
	}
	a.noneOf = nil // by now its record tells what it has asked for
	a.ownRecord()
	straightAtTheDatabase(b, v, a.tenant)
	if now := v.digests(); now != untouched {
		t.Errorf("straight at the database something of the other tenant was changed:\n%s", difference(untouched, now))
	}
}

// sparedOperations are not driven, with the reason.
var sparedOperations = map[string]string{
	"activateEnrollment": "no tenant asks it: who knows the id of an enrolment, which its agent alone was told, may try to activate it once",
	"listSigningKeys":    "the keys, and why one ended, are the service's and the same for every tenant",
	"getJWKS":            "public, and of the service", "getOpenIDConfiguration": "public, and of the service", "getHealth": "public, and of the service",
	"getReadiness": "public, and of the service", "getOpenAPI": "public, and of the service", "getDocs": "public, and of the service",
}

// stranger is the tenant that asks.
type stranger struct {
	*bench
	tenant uuid.UUID
	bearer map[role]string
	own    string // its machine
	ci     string // its identity provider
	made   time.Time
	noneOf []string // what may be in no answer
	names  int      // how many names it has used
}

func newStranger(b *bench) *stranger {
	b.t.Helper()
	ctx, now := context.Background(), time.Now()
	a := &stranger{bench: b, tenant: store.NewTenantID(now)}
	if _, err := b.store.CreateTenant(ctx, a.tenant, "stranger", now, store.Actor{Kind: "system"}); err != nil {
		b.t.Fatal(err)
	}
	admin, err := NewAdminToken(ctx, b.store, a.tenant, "stranger", now, rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	token := func(path, body string) string { return b.want(201, "POST", path, admin, body).text(b.t, "token") }
	a.own = b.want(200, "POST", "/v1/machines", admin, `{"name": "own", "os": "linux"}`).text(b.t, "id")
	key := newMachine(b.t, "sb-on-1").akPub
	machine := b.want(201, "POST", "/v1/machines/"+a.own+"/attestation-keys", admin, map[string]any{"ak_public": key}).text(b.t, "machine_token")
	a.bearer = map[role]string{roleAdmin: admin, roleMachine: machine, roleReader: token("/v1/api-tokens", `{"name": "r", "role": "reader"}`),
		roleRelyingParty: token("/v1/api-tokens", `{"name": "rp", "role": "relying_party"}`), roleJoin: token("/v1/join-tokens", `{"name": "j", "uses": 100}`)}
	a.ci = b.want(201, "POST", "/v1/identity-providers", admin, `{"name": "own", "issuer": "https://issuer.example", "audiences": ["own/`+a.tenant.String()+`"], "enabled": false}`).text(b.t, "id")
	b.want(201, "POST", "/v1/audit-checkpoints", admin, nil)
	a.made = time.Now()
	return a
}

// views are all that the tenant can read without naming anything, each in every form.
func (a *stranger) views() map[string]string {
	a.t.Helper()
	out := map[string]string{}
	for _, o := range operations(a.t, &machine{id: a.own}) {
		if _, spared := sparedOperations[o.op.OperationID]; spared || o.write() {
			continue
		}
		for _, accept := range []string{"", mediaCSV, mediaNDJSON} {
			if accept != "" && !isList(o.op) {
				continue
			}
			path := o.path
			if o.op.OperationID == "getSeries" {
				path += "?metric=verdicts_by_status&step=day&since=2026-01-01T00:00:00Z&until=2026-01-03T00:00:00Z"
			}
			if o.op.OperationID == "listAuditEvents" { // the views write to the record themselves, since a bundle that is taken is in it; see ownRecord
				path += "?until=" + url.QueryEscape(a.made.UTC().Format(time.RFC3339Nano))
			}
			out[o.name+" "+accept] = shown(a.call(o.method, path, bearerFor(a.bearer, o.needs), nil, "Accept", accept))
		}
	}
	return out
}

// ownRecord reads the whole record of the asking tenant: all of it is the tenant's own, and a chain without a gap, so that nothing that another
// did is in it, or counted in it.
func (a *stranger) ownRecord() {
	a.t.Helper()
	x := a.call(http.MethodGet, "/v1/audit-events?sort=seq", a.bearer[roleAdmin], nil, "Accept", mediaNDJSON)
	a.silent("the record", x)
	events, previous := 0, strings.Repeat("0", 64)
	for _, line := range strings.Split(strings.TrimSpace(string(x.body)), "\n") {
		var e struct {
			TenantID uuid.UUID `json:"tenant_id"`
			Seq      int       `json:"seq"`
			PrevHash string    `json:"prev_hash"`
			Hash     string    `json:"hash"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			a.t.Fatal(err)
		}
		if e.Hash == "" { // the last line, which counts
			continue
		}
		if events++; e.TenantID != a.tenant || e.Seq != events || e.PrevHash != previous {
			a.t.Errorf("event %d of the tenant's own record: %s", events, line)
		}
		previous = e.Hash
	}
	if events < 8 {
		a.t.Errorf("%d events are in the record: %s", events, cut(x.body))
	}
}

// What differs between two answers to the same question: ids and times that the answer itself made, tokens, and the request's id.
var ofItsOwn = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z|(assay_[a-z]+|whsec)_[A-Za-z0-9_+/=-]+|"(nonce|credential_blob|encrypted_secret)":"[^"]*"`)

// shown is an answer without what differs between two answers to the same question.
func shown(x answer) string {
	var b strings.Builder
	fmt.Fprintln(&b, x.status)
	for _, name := range sortedKeys(x.header) {
		switch name {
		case "Date", "X-Request-Id", "Content-Length", "Etag":
		default:
			fmt.Fprintln(&b, name, ofItsOwn.ReplaceAllString(strings.Join(x.header[name], ", "), "…"))
		}
	}
	body := strings.ReplaceAll(string(x.body), x.header.Get("X-Request-Id"), "…")
	b.WriteString(ofItsOwn.ReplaceAllString(body, "…"))
	return b.String()
}

// Between two checkpoints of a tenant its own record grows by an event, which tells of the first of them: how far each goes differs, and with it the statement,
// which says so and is signed. All else of the statement is compared. The key is the service's, the same for every tenant.
var ofItsOwnCheckpoint = regexp.MustCompile(`"(audit_hash|hash|previous|statement)":"[^"]*"|"previous":null|"(audit_seq|seq|number)":\d+`)

var compactJWS = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+`)

// opened is what an answer says under signatures, and in an archive.
func opened(x answer) string {
	body := x.body
	if archive, err := zip.NewReader(bytes.NewReader(x.body), int64(len(x.body))); err == nil {
		for _, f := range archive.File {
			body = append(slices.Clip(body), "\n"+f.Name+" "...)
			if r, err := f.Open(); err == nil {
				raw, _ := io.ReadAll(r) // what can be read of it
				body = append(body, raw...)
			}
		}
	}
	var b strings.Builder
	for _, m := range compactJWS.FindAllSubmatch(body, -1) {
		payload, _ := base64.RawURLEncoding.DecodeString(string(m[1]))
		b.WriteString("\n" + string(payload))
	}
	return string(body[len(x.body):]) + b.String()
}

// victim is the tenant that is asked about.
type victim struct {
	*bench
	conn   *pgx.Conn // as the owner of the tables
	tables []string
	kind   string // of some collateral that it has
}

func newVictim(b *bench, _ *machine) *victim {
	b.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	b.outer.Cleanup(func() { _ = conn.Close(ctx) })
	v := &victim{bench: b, conn: conn}
	v.tables = v.texts(`SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
		AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped) ORDER BY 1`)
	kinds := v.texts(`SELECT kind FROM collateral WHERE tenant_id = $1 ORDER BY 1 LIMIT 1`, store.DefaultTenant)
	if len(kinds) == 0 {
		b.t.Fatal("the other tenant has no collateral")
	}
	v.kind = kinds[0]
	closed["kind"] = v.kind
	return v
}

func (v *victim) texts(sql string, args ...any) []string {
	v.t.Helper()
	rows, _ := v.conn.Query(context.Background(), sql, args...)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		v.t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// complete puts the mark into all texts that people chose, and fails where a table has no row of the tenant and no reason for it.
func (v *victim) complete() {
	v.t.Helper()
	ctx := context.Background()
	for _, table := range v.tables {
		for _, column := range []string{"name", "comment", "scale_set", "external_id", "title", "detail"} {
			if _, err := v.conn.Exec(ctx, fmt.Sprintf(`UPDATE %s SET %s = %s || '-%s' WHERE tenant_id = $1 AND %s <> '' AND %[2]s <> 'default'`, table, column, column, mark, column), store.DefaultTenant); err != nil {
				continue // there is no such column, its values are a closed set, or the table is append-only
			}
		}
		var n int
		if err := v.conn.QueryRow(ctx, `SELECT count(*) FROM `+table+` WHERE tenant_id = $1`, store.DefaultTenant).Scan(&n); err != nil {
			v.t.Fatal(err)
		}
		if why := withoutRows[table]; (n == 0) != (why != "") {
			v.t.Errorf("table %s has %d rows of the other tenant; withoutRows says %q", table, n, why)
		}
	}
	if _, err := v.conn.Exec(ctx, `UPDATE machines SET labels = labels || jsonb_build_object('team', $2::text) WHERE tenant_id = $1`, store.DefaultTenant, mark); err != nil {
		v.t.Fatal(err)
	}
	if len(v.texts(`SELECT name FROM machines WHERE tenant_id = $1 AND name LIKE '%' || $2`, store.DefaultTenant, mark)) == 0 {
		v.t.Fatal("the mark is in no name")
	}
}

// secrets are all texts, ids and digests of the tenant that the asking one does not know: none was in any answer to it before.
func (v *victim) secrets(before map[string]string) []string {
	v.t.Helper()
	// The keys that the service publishes sign for every tenant: one that the other has a checkpoint by is no secret of it.
	published := string(v.want(http.StatusOK, http.MethodGet, "/.well-known/jwks.json", "", nil).body)
	known := strings.Join([]string{strings.Join(values(before), "\n"), nobody, store.DefaultTenant.String(), published}, "\n")
	found := map[string]bool{mark: true}
	var collect func(x any)
	collect = func(x any) {
		switch x := x.(type) {
		case map[string]any:
			for k, y := range x {
				collect(k)
				collect(y)
			}
		case []any:
			for _, y := range x {
				collect(y)
			}
		case string:
			if digest, bytea := strings.CutPrefix(x, `\x`); bytea {
				if raw, err := hex.DecodeString(digest); err == nil && len(raw) >= 16 && len(raw) <= 64 {
					found[digest], found[base64.StdEncoding.EncodeToString(raw)] = true, true
				}
				return
			}
			if len(x) >= 10 && !timeText.MatchString(x) {
				found[x] = true
			}
		}
	}
	for _, table := range v.tables {
		for _, row := range v.texts(`SELECT to_jsonb(x)::text FROM `+table+` x WHERE tenant_id = $1`, store.DefaultTenant) {
			var x map[string]any
			if err := json.Unmarshal([]byte(row), &x); err != nil {
				v.t.Fatal(err)
			}
			collect(x)
		}
	}
	var out []string
	service := words(v.t)
	for text := range found {
		// Words of the service (titles, codes, columns) are everybody's.
		if strings.Contains(text, mark) || !strings.Contains(known, text) && !strings.Contains(service, text) {
			out = append(out, text)
		}
	}
	sort.Strings(out)
	if len(out) < 200 {
		v.t.Fatalf("only %d texts of the other tenant are known", len(out))
	}
	return out
}

var timeText = regexp.MustCompile(`^\d{4}-\d\d-\d\d([T ]\d\d:\d\d|$)`)

// words are the texts that the service itself brings along.
func words(t testing.TB) string {
	t.Helper()
	doc, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	text, err := doc.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func values(m map[string]string) []string {
	var out []string
	for _, k := range sortedKeys(m) {
		out = append(out, m[k])
	}
	return out
}

// digests is a line a table: what the tenant's rows are. When a token was used last is not asked.
func (v *victim) digests() string {
	v.t.Helper()
	var b strings.Builder
	for _, table := range v.tables {
		if table == "idempotency_keys" { // the test itself adds used ones
			continue
		}
		sum := v.texts(`SELECT coalesce(md5(string_agg(md5((to_jsonb(x) - 'last_used_at')::text), '' ORDER BY md5((to_jsonb(x) - 'last_used_at')::text))), '') FROM `+table+` x WHERE tenant_id = $1`, store.DefaultTenant)
		fmt.Fprintln(&b, table, sum[0])
	}
	return b.String()
}

func difference(a, b string) string {
	var out []string
	old := strings.Split(a, "\n")
	for i, line := range strings.Split(b, "\n") {
		if i >= len(old) || old[i] != line {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// named is something of the tenant, and the same kind of thing that exists nowhere.
type named struct{ theirs, nowhere string }

// ids are what a parameter of that name, in that path, can be given of the tenant: by SQL, as text.
func (v *victim) ids(path, parameter string) []named {
	v.t.Helper()
	of := func(table, column, more string) []named {
		var out []named
		for _, x := range v.texts(fmt.Sprintf(`SELECT %s::text FROM %s WHERE tenant_id = $1 %s ORDER BY 1 LIMIT 4`, column, table, more), store.DefaultTenant) {
			out = append(out, named{x, nobody})
		}
		return out
	}
	digests := func(list []named) []named {
		for i := range list {
			list[i].nowhere = strings.Repeat("ab", 32)
		}
		return list
	}
	switch parameter {
	case "machine_id":
		return of("machines", "machine_id", "")
	case "verdict_id":
		return of("verdicts", "verdict_id", "")
	case "recommendation_id":
		return of("recommendations", "recommendation_id", "")
	case "alert_id", "silence_alert_id", "subject":
		return of("alerts", "alert_id", "")
	case "incident_id":
		return of("incidents", "incident_id", "")
	case "baseline_id":
		return of("baselines", "baseline_id", "")
	case "reappraisal_id":
		return of("reappraisals", "reappraisal_id", "")
	case "anchor_id":
		return of("trust_anchors", "anchor_id", "")
	case "provider_id":
		return of("identity_providers", "provider_id", "")
	case "webhook_id":
		return of("notification_channels", "channel_id", "AND kind = 'webhook'")
	case "channel_id", "channel":
		return of("notification_channels", "channel_id", "")
	case "checkpoint_id":
		return of("audit_checkpoints", "checkpoint_id", "")
	case "event_id":
		return of("audit_events", "event_id", "")
	case "binding_id":
		return of("role_bindings", "binding_id", "")
	case "target", "actor_id", "request_id":
		if !strings.Contains(path, "audit-events") {
			return nil
		}
		return of("audit_events", "DISTINCT "+parameter, "AND target LIKE 'machine:%' AND length("+parameter+") >= 10")
	case "delivery_id":
		return of("deliveries", "delivery_id", "")
	case "token_id":
		if strings.Contains(path, "join") {
			return of("join_tokens", "token_id", "")
		}
		return of("api_tokens", "token_id", "")
	case "rule_id":
		if strings.Contains(path, "pipeline") {
			return of("pipeline_rules", "rule_id", "")
		}
		return of("suppression_rules", "rule_id", "")
	case "name":
		if !strings.Contains(path, "{name}") {
			return nil
		}
		if strings.Contains(path, "policies") {
			return []named{{v.texts(`SELECT name FROM policies WHERE tenant_id = $1 AND name <> 'default' LIMIT 1`, store.DefaultTenant)[0], nowhere}}
		}
		return []named{{v.texts(`SELECT name FROM collateral WHERE tenant_id = $1 AND kind = $2 LIMIT 1`, store.DefaultTenant, v.kind)[0], nowhere}}
	case "sha256":
		if strings.Contains(path, "event-logs") {
			return digests(of("boot_logs", "encode(digest, 'hex')", ""))
		}
		return []named{{v.texts(`SELECT encode(event_digest, 'hex') FROM reference_events WHERE tenant_id = $1 AND octet_length(event_digest) = 32 LIMIT 1`, store.DefaultTenant)[0], strings.Repeat("ab", 32)}}
	}
	return nil
}

// closed are parameters of paths that name nothing of a tenant.
var closed = map[string]string{"version": "1", "kind": "vcek", "code": "vtpm_enabled", "key_id": strings.Repeat("A", 43), "enrollment_id": nobody}

// request is one request, and its twin that names what exists nowhere instead.
type request struct {
	path, twin string
	body       any
	twinBody   any
	header     [2]string // an idempotency key
}

// drive sends an operation all that can be said of the other tenant.
func (a *stranger) drive(v *victim, o operation) {
	a.t.Helper()
	o.path = "" // filled in below
	method, template, _ := strings.Cut(o.name, " ")
	bearer := bearerFor(a.bearer, o.needs)
	requests := a.paths(v, template, o.op)
	base := request{path: a.filled(template), twin: a.filled(template), body: o.body, twinBody: o.body}
	for _, p := range o.op.Parameters {
		if p.Value.In == "query" {
			requests = append(requests, a.queries(v, base, template, p.Value)...)
		}
	}
	requests = append(requests, a.bodies(v, base, o)...)
	if o.write() {
		r := base
		r.header = [2]string{v.usedKey(o.op.OperationID), "fresh-" + uuid.NewString()}
		requests = append(requests, r)
	}
	for i := range requests {
		r := &requests[i]
		if r.body == nil && o.body != nil {
			r.body, r.twinBody = o.body, o.body
			if text, ok := o.body.(string); ok { // what the body names is its own: that the path names the other's is what is looked at
				text = strings.Replace(text, nobody, a.ci, 1)
				r.body, r.twinBody = text, text
			}
		}
		for _, accept := range []string{"", mediaCSV, mediaNDJSON} {
			if accept != "" && (o.write() || !isList(o.op)) {
				continue
			}
			a.compare(method, bearer, accept, r)
		}
	}
	if len(requests) == 0 { // it names nothing: what it says is its own
		a.silent(o.name, a.call(method, base.path, bearer, o.body), base.path)
	}
}

// compare sends a request and its twin.
func (a *stranger) compare(method, bearer, accept string, r *request) {
	a.t.Helper()
	send := func(path string, body any, key string) answer {
		header := []string{"Accept", accept}
		if key != "" {
			header = append(header, "Idempotency-Key", key)
		}
		return a.call(method, path, bearer, body, header...)
	}
	r.body, r.twinBody = a.unique(r.body), a.unique(r.twinBody)
	if method == http.MethodPut { // what is put is there from then on
		r.path, r.twin = strings.Replace(r.path, nowhere, a.name(), 1), strings.Replace(r.twin, nowhere, a.name(), 1)
	}
	theirs := send(r.path, r.body, r.header[0])
	nowhere := send(r.twin, r.twinBody, r.header[1])
	what := fmt.Sprintf("%s %s %s %v", method, r.path, accept, r.body)
	a.silent(what, theirs, r.path, fmt.Sprint(r.body))
	one, other := shown(theirs), shown(nowhere)
	if method == http.MethodPost && r.path == "/v1/audit-checkpoints" {
		one, other = one+ofItsOwn.ReplaceAllString(opened(theirs), "…"), other+ofItsOwn.ReplaceAllString(opened(nowhere), "…")
		one, other = ofItsOwnCheckpoint.ReplaceAllString(one, "…"), ofItsOwnCheckpoint.ReplaceAllString(other, "…")
	}
	for _, pair := range differing(r) {
		one, other = strings.ReplaceAll(one, pair.theirs, "…"), strings.ReplaceAll(other, pair.nowhere, "…")
	}
	if one != other {
		a.t.Errorf("%s tells of the other tenant:\n%s\nand of what exists nowhere:\n%s", what, cut([]byte(one)), cut([]byte(other)))
	}
}

var separators = regexp.MustCompile(`[/?&="{}:, \[\]]+`)

// unique gives a body a name of its own, since names are used once.
func (a *stranger) unique(body any) any {
	text, ok := body.(string)
	if !ok {
		return body
	}
	return ownName.ReplaceAllString(text, `"name": "`+a.name()+`"`)
}

func (a *stranger) name() string {
	a.names++
	return fmt.Sprintf("stranger-%04d", a.names)
}

var ownName = regexp.MustCompile(`"name": "[a-z]"`)

// usedKey is an idempotency key that the other tenant has used, and nobody else.
func (v *victim) usedKey(operation string) string {
	v.t.Helper()
	key := mark + "-" + operation
	if _, err := v.conn.Exec(context.Background(), `INSERT INTO idempotency_keys (tenant_id, principal, key, request_hash, status, content_type, body, created_at, expires_at)
		SELECT tenant_id, principal, $2, request_hash, status, content_type, body, created_at, expires_at FROM idempotency_keys WHERE tenant_id = $1 AND status IS NOT NULL LIMIT 1`, store.DefaultTenant, key); err != nil {
		v.t.Fatal(err)
	}
	return key
}

// differing are the words by which a request and its twin differ, since an answer may repeat what it was asked.
func differing(r *request) (out []named) {
	one, other := separators.Split(r.path+" "+fmt.Sprint(r.body), -1), separators.Split(r.twin+" "+fmt.Sprint(r.twinBody), -1)
	for i := range min(len(one), len(other)) {
		if one[i] != other[i] && len(one[i]) > 3 {
			out = append(out, named{one[i], other[i]})
		}
	}
	return out
}

// silent fails where something of the other tenant is in an answer, beyond what it was asked with.
func (a *stranger) silent(what string, x answer, asked ...string) {
	a.t.Helper()
	text := fmt.Sprint(x.header) + string(x.body) + opened(x)
	question, _ := url.QueryUnescape(strings.Join(asked, " "))
	for _, secret := range a.noneOf {
		if strings.Contains(text, secret) && !strings.Contains(question, secret) {
			a.t.Errorf("%s answers %q, which is of the other tenant: %s", what, secret, cut(x.body))
			return
		}
	}
	if x.header.Get("Idempotency-Replayed") != "" {
		a.t.Errorf("%s replays an answer: %v", what, x.header)
	}
}

// filled is a path that names what exists nowhere.
func (a *stranger) filled(template string) string {
	return parameterName.ReplaceAllStringFunc(template, func(p string) string {
		name := strings.Trim(p, "{}")
		switch {
		case name == "kind" && strings.Contains(template, "revocations"):
			return "sbat_level"
		case name == "name" && strings.Contains(template, "policies"):
			return nowhere
		case closed[name] != "":
			return closed[name]
		case name == "sha256" || name == "name":
			return strings.Repeat("ab", 32)
		}
		return nobody
	})
}

var parameterName = regexp.MustCompile(`\{[a-z0-9_]+\}`)

// paths name the other tenant's in each parameter of the path.
func (a *stranger) paths(v *victim, template string, op *openapi3.Operation) (out []request) {
	a.t.Helper()
	for _, p := range parameterName.FindAllString(template, -1) {
		name := strings.Trim(p, "{}")
		ids := v.ids(template, name)
		if _, is := closed[name]; is {
			continue
		}
		if len(ids) == 0 {
			a.t.Errorf("%s: nothing of the other tenant is known for the parameter %s: extend victim.ids, or the story", op.OperationID, name)
		}
		for _, id := range ids {
			named := strings.Replace(template, p, url.PathEscape(id.theirs), 1)
			out = append(out, request{path: a.filled(named), twin: a.filled(strings.Replace(template, p, url.PathEscape(id.nowhere), 1))})
		}
	}
	return out
}

// queries name the other tenant's in a filter.
func (a *stranger) queries(v *victim, base request, template string, p *openapi3.Parameter) (out []request) {
	schema := p.Schema.Value
	if schema.Items != nil {
		schema = schema.Items.Value
	}
	if len(schema.Enum) > 0 || !schema.Type.Is("string") || schema.Format == "date-time" || p.Name == "cursor" || p.Name == "sort" {
		return nil
	}
	ids := v.ids(template, p.Name)
	if schema.Format != "uuid" || len(ids) == 0 {
		ids = append(ids, named{mark, nowhere}, named{"web_" + mark, "web_" + nowhere})
		if schema.Format == "uuid" {
			a.t.Errorf("%s: nothing of the other tenant is known for the filter %s: extend victim.ids", template, p.Name)
			return nil
		}
	}
	for _, id := range ids {
		r := base
		r.path += "?" + p.Name + "=" + url.QueryEscape(id.theirs)
		r.twin += "?" + p.Name + "=" + url.QueryEscape(id.nowhere)
		out = append(out, r)
	}
	return out
}

// namingBodies are bodies that name something, by operation: what is in braces is a parameter of victim.ids.
var namingBodies = map[string][]string{
	"createBaseline":          {`{"name": "q", "selector": {"machine_ids": ["{machine_id}"]}, "reference_values": {"claims": {"secure_boot": true}}}`},
	"dryRunReferenceValues":   {`{"reference_values": {"claims": {"secure_boot": true}}, "selector": {"machine_ids": ["{machine_id}"]}}`},
	"testPolicy":              {`{"policy": {"selector": {"machine_ids": ["{machine_id}"]}}}`, `{"policy": {}, "selector": {"machine_ids": ["{machine_id}"]}}`},
	"putPolicy":               {`{"selector": {"machine_ids": ["{machine_id}"]}}`},
	"createReappraisal":       {`{"comment": "x", "selector": {"machine_ids": ["{machine_id}"]}}`},
	"createPipelineRule":      {`{"name": "q", "provider_id": "{provider_id}", "baselines": {"in": ["x"]}, "actions": ["promote"]}`},
	"testPipelineRules":       {`{"provider_id": "{provider_id}", "claims": {"sub": "x"}}`},
	"simulateSuppressionRule": {`{"alert_code": "*", "scope": {"all_of": [{"field": "machine.name", "contains": "` + mark + `"}]}}`},
	"introspectResult":        {`{"token": "{result}"}`},
}

// bodies name the other tenant's in the body.
func (a *stranger) bodies(v *victim, base request, o operation) (out []request) {
	a.t.Helper()
	text, _ := o.body.(string)
	templates := namingBodies[o.op.OperationID]
	if strings.Contains(text, nobody) && len(templates) == 0 {
		templates = []string{strings.Replace(text, nobody, "{provider_id}", 1)}
	}
	for _, template := range templates {
		place := parameterName.FindString(template)
		ids := v.ids("", strings.Trim(place, "{}"))
		switch {
		case place == "{result}":
			ids = []named{{a.result, a.result[:len(a.result)-4] + "AAAA"}}
		case place == "":
			place, ids = mark, []named{{mark, nowhere}}
		}
		if len(ids) == 0 {
			a.t.Errorf("%s: nothing of the other tenant is known for %s of its body", o.op.OperationID, place)
		}
		for _, id := range ids {
			r := base
			r.body, r.twinBody = strings.Replace(template, place, id.theirs, 1), strings.Replace(template, place, id.nowhere, 1)
			out = append(out, r)
		}
	}
	return out
}

// cursors asks every list with a cursor that the other tenant was given.
func (a *stranger) cursors(v *victim) {
	a.t.Helper()
	tried := 0
	for _, o := range operations(a.t, &machine{id: a.own}) {
		if !isList(o.op) {
			continue
		}
		_, template, _ := strings.Cut(o.name, " ")
		theirs := a.filled(template)
		if rs := a.paths(v, template, o.op); len(rs) > 0 {
			theirs = rs[0].path
		}
		page := v.call(http.MethodGet, theirs+"?limit=1", v.admin, nil)
		if page.status != http.StatusOK {
			continue
		}
		cursor, _ := page.json(a.t)["next_cursor"].(string)
		if cursor == "" {
			continue
		}
		tried++
		for _, path := range []string{theirs, o.path} {
			for _, accept := range []string{"", mediaCSV, mediaNDJSON} {
				asked := path + "?limit=1&cursor=" + url.QueryEscape(cursor)
				inside, _ := base64.RawURLEncoding.DecodeString(cursor)
				a.silent(asked, a.call(http.MethodGet, asked, bearerFor(a.bearer, o.needs), nil, "Accept", accept), asked, string(inside))
			}
		}
	}
	if tried < 12 {
		a.t.Errorf("only %d lists of the other tenant have a second page", tried)
	}
}

// straightAtTheDatabase is the second fence alone: a connection as the service has them, told of the asking tenant or of none, tries
// to read and to change each row of the other tenant.
func straightAtTheDatabase(b *bench, v *victim, asking uuid.UUID) {
	b.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "SET ROLE "+store.DefaultRole); err != nil {
		b.t.Fatal(err)
	}
	for _, told := range []string{"never", "", "{}", "{" + asking.String() + "}"} {
		if told != "never" {
			if _, err := conn.Exec(ctx, "SET assay.tenants = '"+told+"'"); err != nil {
				b.t.Fatal(err)
			}
		}
		for _, table := range v.tables {
			f := &fenced{t: b.t, conn: conn, table: table, told: told}
			f.cannotSee(v)
			f.cannotChange(v)
			if told == "{"+asking.String()+"}" {
				f.cannotGive(asking)
			}
		}
	}
}

// fenced is one table, looked at from behind the fence.
type fenced struct {
	t           testing.TB
	conn        *pgx.Conn
	table, told string
}

// run does a statement and takes it back; it answers how many rows it was about, and the SQLSTATE where it was refused.
func (f *fenced) run(sql string, args ...any) (rows int64, state string) {
	f.t.Helper()
	ctx := context.Background()
	tx, err := f.conn.Begin(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	tag, err := tx.Exec(ctx, sql, args...)
	if err != nil {
		return 0, sqlState(err)
	}
	return tag.RowsAffected(), ""
}

func (f *fenced) cannotSee(v *victim) {
	f.t.Helper()
	other := "tenant_id = '" + store.DefaultTenant.String() + "'"
	for _, sql := range []string{`SELECT * FROM ` + f.table + ` WHERE ` + other, `SELECT * FROM ` + f.table + ` WHERE ` + other + ` FOR UPDATE`,
		`SELECT * FROM ` + f.table + ` WHERE NOT (tenant_id = ANY (coalesce(NULLIF(current_setting('assay.tenants', true), ''), '{}')::uuid[]))`} {
		n, state := f.run(sql)
		if n != 0 || state != "" && !(state == "42501" && strings.HasSuffix(sql, "UPDATE")) {
			f.t.Errorf("told %q, %s: %d rows, %s", f.told, sql, n, state)
		}
	}
	for _, part := range v.texts(`SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::regclass`, f.table) {
		if n, state := f.run(`SELECT * FROM ` + part); n != 0 || state != "42501" {
			f.t.Errorf("told %q, partition %s: %d rows, %s", f.told, part, n, state)
		}
	}
}

// cannotChange: no row is touched, and none of the other tenant's can be written, whether or not it is there.
func (f *fenced) cannotChange(v *victim) {
	f.t.Helper()
	other := "tenant_id = '" + store.DefaultTenant.String() + "'"
	for _, sql := range []string{`UPDATE ` + f.table + ` SET tenant_id = tenant_id WHERE ` + other, `DELETE FROM ` + f.table + ` WHERE ` + other} {
		if n, state := f.run(sql); n != 0 || state != "" && state != "42501" {
			f.t.Errorf("told %q, %s: %d rows, %s", f.told, sql, n, state)
		}
	}
	row := v.texts(`SELECT to_jsonb(x)::text FROM `+f.table+` x WHERE tenant_id = $1 LIMIT 1`, store.DefaultTenant)
	if len(row) == 0 {
		row = []string{`{"tenant_id": "` + store.DefaultTenant.String() + `"}`}
	}
	for _, sql := range []string{
		`INSERT INTO %[1]s SELECT (jsonb_populate_record(NULL::%[1]s, $1::jsonb)).*`,
		`INSERT INTO %[1]s SELECT (jsonb_populate_record(NULL::%[1]s, $1::jsonb)).* ON CONFLICT DO NOTHING`,
	} {
		if n, state := f.run(fmt.Sprintf(sql, f.table), row[0]); n != 0 || state != "42501" {
			f.t.Errorf("told %q, a row of the other tenant was written to %s: %d rows, %s", f.told, f.table, n, state)
		}
	}
}

// cannotGive: a row of its own cannot become the other tenant's.
func (f *fenced) cannotGive(asking uuid.UUID) {
	f.t.Helper()
	n, state := f.run(`UPDATE `+f.table+` SET tenant_id = $1 WHERE tenant_id = $2`, store.DefaultTenant, asking)
	if n != 0 || !slices.Contains([]string{"", "42501"}, state) {
		f.t.Errorf("%d rows of %s were given to the other tenant, %s", n, f.table, state)
	}
}

func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return err.Error()
}
