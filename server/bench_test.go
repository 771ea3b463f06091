package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/server/limit"
	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/server/reach"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
)

// bench is the whole service on a database of its own, behind a real listener. Every answer it gives is
// checked against the contract.
type bench struct {
	t       testing.TB
	outer   testing.TB // the test that the bench lives as long as
	store   *store.Store
	cfg     Config
	server  *Server
	http    *httptest.Server
	url     string
	router  routers.Router
	logs    *logBuffer
	admin   string
	seen    *coverage
	ci      *ci    // the pipelines of a test that has them
	result  string // a result that was signed
	secrets handedOut
}

// logBuffer collects log lines: the last of a request is written after its answer.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// coverage is which problem codes and successes the tests have seen, by operation.
type coverage struct {
	problems  map[string]map[string]bool // "METHOD /path" -> codes
	successes map[string]bool
}

func newCoverage() *coverage {
	return &coverage{problems: map[string]map[string]bool{}, successes: map[string]bool{}}
}

func newBench(t testing.TB, change func(*Config)) *bench {
	t.Helper()
	if err := startPostgres(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	name := "s" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if err := execSQL(ctx, "CREATE DATABASE "+name+" TEMPLATE "+templateDatabase); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, outer: t, url: databaseURL(name), logs: &logBuffer{}, seen: newCoverage()}
	b.serve(change)
	var err error
	if b.admin, err = BootstrapAdminToken(ctx, b.store, store.DefaultTenant, time.Now(), rand.Reader); err != nil || b.admin == "" {
		t.Fatalf("bootstrap: %q, %v", b.admin, err)
	}
	doc, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	if b.router, err = legacy.NewRouter(doc); err != nil {
		t.Fatal(err)
	}
	return b
}

// replica is one more whole service over the same database.
func (b *bench) replica() *bench {
	b.t.Helper()
	r := &bench{t: b.t, outer: b.outer, url: b.url, logs: b.logs, seen: newCoverage(), router: b.router, admin: b.admin}
	r.serve(nil)
	return r
}

// serve begins a service over the bench's database.
func (b *bench) serve(change func(*Config)) {
	t, ctx := b.outer, context.Background()
	t.Helper()
	var err error
	if b.store, err = store.Open(ctx, b.url, store.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.store.Close)
	if err := b.store.EnsureTenant(ctx, store.DefaultTenant, time.Now()); err != nil {
		t.Fatal(err)
	}
	tokens, err := token.New(ctx, token.Config{Store: b.store})
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := NewMetrics()
	if err != nil {
		t.Fatal(err)
	}
	service, err := attest.New(attest.Config{Store: b.store, Token: tokens, Now: time.Now, Random: rand.Reader, Build: "assay test", Observe: metrics.Appraisal})
	if err != nil {
		t.Fatal(err)
	}
	keys := func(ctx context.Context, purpose string, generate func() ([]byte, error)) ([]byte, error) {
		return b.store.ServiceKey(ctx, store.DefaultTenant, purpose, generate)
	}
	notifications, err := notify.New(ctx, notify.Config{Store: b.store, Keys: keys, Reach: reach.Rules{Loopback: true}, PublicURL: "https://assay.example", Observe: metrics.Delivery})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Store: b.store, Attest: service, Token: tokens, Notify: notifications, Metrics: metrics, Issuers: auth.Reach{Insecure: true}, Logger: slog.New(slog.NewJSONHandler(b.logs, nil))}
	limits := DefaultLimits()
	limits.Principal = limit.Rate{} // tests ask more than people do
	cfg.Limits = &limits
	if change != nil {
		change(&cfg)
	}
	b.cfg = cfg
	if b.server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	b.http = httptest.NewServer(b.server.Handler())
	t.Cleanup(b.http.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
}

// answer is what the service answered.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	return m
}

func (a answer) text(t testing.TB, field string) string {
	t.Helper()
	s, ok := a.json(t)[field].(string)
	if !ok {
		t.Fatalf("no text %q in %s", field, a.body)
	}
	return s
}

// code is the problem's code; empty for a success.
func (a answer) code(t testing.TB) string {
	t.Helper()
	if a.header.Get("Content-Type") != "application/problem+json" {
		return ""
	}
	return a.text(t, "code")
}

// pointers are the places of the problem's errors.
func (a answer) pointers(t testing.TB) []string {
	t.Helper()
	var p problem
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range p.Errors {
		out = append(out, e.Pointer+e.Parameter)
	}
	return out
}

// call makes a request: body is JSON text, raw bytes, a value to marshal, or nil.
func (b *bench) call(method, path, bearer string, body any, header ...string) answer {
	b.t.Helper()
	var r io.Reader
	contentType := ""
	switch v := body.(type) {
	case nil:
	case string:
		b.secrets.note([]byte(v))
		r, contentType = strings.NewReader(v), "application/json"
	case []byte:
		r, contentType = bytes.NewReader(v), "application/octet-stream"
	case io.Reader:
		r, contentType = v, "application/json"
	default:
		raw, err := json.Marshal(v)
		if err != nil {
			b.t.Fatal(err)
		}
		b.secrets.note(raw)
		r, contentType = bytes.NewReader(raw), "application/json"
	}
	req, err := http.NewRequestWithContext(context.Background(), method, b.http.URL+path, r)
	if err != nil {
		b.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return b.do(req)
}

func (b *bench) do(req *http.Request) answer {
	b.t.Helper()
	// A client that follows no redirects and does not undo encodings: what is on the wire is checked.
	client := &http.Client{Transport: http.DefaultTransport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: body}
	b.secrets.note(body)
	b.checkContract(req, a)
	return a
}

// checkContract fails where an answer is not what the contract says.
func (b *bench) checkContract(req *http.Request, a answer) {
	b.t.Helper()
	if a.header.Get("X-Request-Id") == "" || a.header.Get("X-Content-Type-Options") != "nosniff" {
		b.t.Errorf("%s %s: headers that every answer has are missing: %v", req.Method, req.URL.Path, a.header)
	}
	code := a.code(b.t)
	if code != "" {
		p := a.json(b.t)
		// A replayed refusal names the request that it was the answer to.
		sameRequest := p["instance"] == a.header.Get("X-Request-Id") || a.header.Get("Idempotency-Replayed") == "true"
		if !sameRequest || p["type"] != "/docs/problems/"+code || int(p["status"].(float64)) != a.status {
			b.t.Errorf("%s %s: the problem disagrees with its answer: %s", req.Method, req.URL.Path, a.body)
		}
	}
	// The router compares the server URL "/" too, so it gets the path alone.
	lookup := req.Clone(context.Background())
	lookup.URL.Host, lookup.URL.Scheme, lookup.Host = "", "", ""
	route, params, err := b.router.FindRoute(lookup)
	if err != nil {
		if code != codeNotFound && code != codeMethodNotAllowed && !strings.HasPrefix(req.URL.Path, "/docs") && !strings.HasPrefix(req.URL.Path, "/ui") && req.URL.Path != "/" {
			b.t.Errorf("%s %s is not in the contract: %v", req.Method, req.URL.Path, err)
		}
		return
	}
	name := route.Method + " " + route.Path
	if code != "" {
		if b.seen.problems[name] == nil {
			b.seen.problems[name] = map[string]bool{}
		}
		b.seen.problems[name][code] = true
		documented, _ := route.Operation.Extensions["x-problem-codes"].([]any)
		found := slices.Contains(documented, any(code)) || limitCode(code) || (slices.Contains(documented, any(codeUnauthenticated)) && slices.Contains(auth.TokenCodes(), code))
		if !found {
			b.t.Errorf("%s answered %s, which its x-problem-codes do not list: %s", name, code, a.body)
		}
	} else {
		b.seen.successes[name] = true
		if route.Operation.Responses.Status(a.status) == nil {
			b.t.Errorf("%s answered %d, which the contract does not have: %s", name, a.status, a.body)
		}
	}
	if strings.HasSuffix(a.header.Get("Content-Type"), "yaml") || strings.HasPrefix(a.header.Get("Content-Type"), "text/html") ||
		strings.HasPrefix(a.header.Get("Content-Type"), mediaCSV) || a.header.Get("Content-Type") == mediaNDJSON || a.header.Get("Content-Type") == "application/zip" {
		return
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: lookup, PathParams: params, Route: route},
		Status:                 a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body)),
	})
	if err != nil {
		b.t.Errorf("%s answered what the contract does not allow: %v\n%s", name, err, a.body)
	}
}

// limitCode tells of a code that any operation may answer: the contract's x-limit-problem-codes.
func limitCode(code string) bool { return code == codeRateLimited || code == codeOverloaded }

// want makes a request that has to be answered with status.
func (b *bench) want(status int, method, path, bearer string, body any, header ...string) answer {
	b.t.Helper()
	a := b.call(method, path, bearer, body, header...)
	if a.status != status {
		b.t.Fatalf("%s %s: %d, not %d: %s", method, path, a.status, status, a.body)
	}
	return a
}

// refused makes a request that has to be answered with a problem code, and a pointer if one is given.
func (b *bench) refused(code, pointer, method, path, bearer string, body any, header ...string) answer {
	b.t.Helper()
	a := b.call(method, path, bearer, body, header...)
	if got := a.code(b.t); got != code {
		b.t.Errorf("%s %s: code %q, not %q: %s", method, path, got, code, cut(a.body))
		return a
	}
	if pointer != "" && !contains(a.pointers(b.t), pointer) {
		b.t.Errorf("%s %s: no pointer %q: %s", method, path, pointer, cut(a.body))
	}
	return a
}

func cut(b []byte) []byte { return b[:min(len(b), 600)] }

// rows counts the rows of every table, so that a test can show that nothing was stored.
func (b *bench) rows() map[string]int {
	b.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	tables, err := conn.Query(ctx, `SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
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
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM "+pgx.Identifier{name}.Sanitize()).Scan(&n); err != nil {
			b.t.Fatal(err)
		}
		out[name] = n
	}
	return out
}

func (b *bench) sameRows(before map[string]int) {
	b.t.Helper()
	for name, n := range b.rows() {
		if before[name] != n {
			b.t.Errorf("table %s has %d rows, not %d: a refused request stored something", name, n, before[name])
		}
	}
}

// column is one text of the database.
func (b *bench) column(sql string) string {
	b.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var text string
	if err := conn.QueryRow(ctx, sql).Scan(&text); err != nil {
		b.t.Fatal(err)
	}
	return text
}

func hexSHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
