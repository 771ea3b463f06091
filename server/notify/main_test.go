package notify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/server/notify/event"
	"github.com/assay-verifier/assay/server/notify/receivertest"
	"github.com/assay-verifier/assay/server/reach"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
	"github.com/assay-verifier/assay/verifier/finding"
)

var (
	serverURL string
	databases atomic.Int64
	tenant    = store.DefaultTenant
	system    = store.Actor{Kind: "system", ID: "test"}
	t0        = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

func TestMain(m *testing.M) {
	if u := os.Getenv(workerVariable); u != "" {
		panic(work(u)) // until it is killed
	}
	os.Exit(run(m))
}

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

// bench is a store, a service on it, a clock and what the service logged.
type bench struct {
	t     testing.TB
	store *store.Store
	conn  *pgx.Conn
	logs  *syncBuffer
	now   time.Time
	mu    sync.Mutex
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newDatabase is a migrated database of the test's own.
func newDatabase(t testing.TB) string {
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
	return databaseURL(name)
}

func newBench(t testing.TB) *bench {
	t.Helper()
	return benchOn(t, newDatabase(t))
}

func benchOn(t testing.TB, u string) *bench {
	t.Helper()
	b := &bench{t: t, now: t0, logs: &syncBuffer{}, store: openStore(t, u)}
	if err := b.store.EnsureTenant(t.Context(), tenant, t0); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	b.conn = conn
	return b
}

func openStore(t testing.TB, u string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), u, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func (b *bench) service(change ...func(*notify.Config)) *notify.Service {
	b.t.Helper()
	return b.serviceOn(b.store, change...)
}

func (b *bench) serviceOn(st *store.Store, change ...func(*notify.Config)) *notify.Service {
	b.t.Helper()
	cfg := notify.Config{Store: st, Now: b.clock, Logger: slog.New(slog.NewJSONHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Reach: reach.Rules{Loopback: true}, Version: "1.2.3", PublicURL: "https://assay.example", Timeout: 2 * time.Second,
		Keys: func(ctx context.Context, purpose string, generate func() ([]byte, error)) ([]byte, error) {
			return st.ServiceKey(ctx, tenant, purpose, generate)
		}}
	for _, f := range change {
		f(&cfg)
	}
	s, err := notify.New(b.t.Context(), cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

var secret = bytes.Repeat([]byte{0x5a}, 32)

// webhook makes a channel to the receiver.
func (b *bench) webhook(s *notify.Service, name, url, ca string, filter store.ChannelFilter) store.Channel {
	b.t.Helper()
	return b.webhookAs(s, "assay", name, url, ca, filter)
}

func (b *bench) webhookAs(s *notify.Service, format, name, url, ca string, filter store.ChannelFilter) store.Channel {
	b.t.Helper()
	id := store.NewChannelID(b.clock())
	sealed, err := s.Seal(tenant, id, notify.Secrets{Signing: secret})
	if err != nil {
		b.t.Fatal(err)
	}
	c, err := b.store.CreateChannel(b.t.Context(), tenant, store.Channel{ID: id, Kind: store.ChannelWebhook, Name: name, Enabled: true, Format: format, Filter: filter,
		Config: store.ChannelConfig{URL: url, CAPEM: ca}, Secrets: sealed}, b.clock(), system)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// alerts opens an alert on each machine; healthy resolves them.
func (b *bench) alerts(names ...string)  { b.t.Helper(); b.derive(true, names) }
func (b *bench) healthy(names ...string) { b.t.Helper(); b.derive(false, names) }

func (b *bench) derive(failing bool, names []string) {
	b.t.Helper()
	if err := b.tryDerive(failing, names); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) tryDerive(failing bool, names []string) error {
	inputs := make([]store.MachineInput, len(names))
	for i, name := range names {
		inputs[i] = store.MachineInput{Name: name, ExternalID: "id-" + name, OS: "linux", Platform: "qemu", SecurityType: "standard", ScaleSet: "web", Labels: map[string]string{"env": "prod"}}
	}
	_, err := b.store.UpsertMachines(b.t.Context(), tenant, inputs, func(store.Machine) finding.Result {
		r := finding.Result{EvaluatedAlerts: []string{"attestation_failed"}}
		if failing {
			r.Alerts = []finding.Alert{{Code: "attestation_failed", DisplayName: "Attestation failed", Severity: finding.Medium, Reason: "baseline_deviation",
				Description: "grubx64.efi changed", RemediationSteps: []string{"Look at it."}}}
		}
		return r
	}, b.clock(), system)
	return err
}

func (b *bench) number(sql string, args ...any) (n int64) {
	b.t.Helper()
	if err := b.conn.QueryRow(b.t.Context(), sql, args...).Scan(&n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// deliver fans out and delivers what is due, by hand.
func (b *bench) deliver(s *notify.Service, c store.Channel) int {
	b.t.Helper()
	if _, err := s.FanOut(b.t.Context(), tenant); err != nil {
		b.t.Fatal(err)
	}
	n, _, err := s.Deliver(b.t.Context(), tenant, c.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

func (b *bench) channel(c store.Channel) store.Channel {
	b.t.Helper()
	c, err := b.store.GetChannel(b.t.Context(), tenant, c.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bench) deliveries(f store.DeliveryFilter) []store.Delivery {
	b.t.Helper()
	items, _, err := b.store.ListDeliveries(b.t.Context(), tenant, f, store.Page{})
	if err != nil {
		b.t.Fatal(err)
	}
	return items
}

// receiver is a webhook receiver that keeps what it accepted.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []received
	answer func(n int, w http.ResponseWriter, r *http.Request) bool // false: it has answered itself, and did not accept
}

type received struct {
	id, kind, alert, machine string
	header                   http.Header
	body                     []byte
}

func newReceiver(t testing.TB, answer func(n int, w http.ResponseWriter, r *http.Request) bool) *receiver {
	t.Helper()
	rc := &receiver{answer: answer}
	met := 0
	rc.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rc.mu.Lock()
		met++
		n := met
		rc.mu.Unlock()
		if rc.answer != nil && !rc.answer(n, w, r) {
			return
		}
		var p struct {
			Type string
			Data event.Event
		}
		_ = json.Unmarshal(body, &p)
		in := received{id: r.Header.Get("webhook-id"), kind: p.Type, header: r.Header.Clone(), body: body}
		if p.Data.Alert != nil && p.Data.Machine != nil {
			in.alert, in.machine = p.Data.Alert.ID.String(), p.Data.Machine.Name
		}
		rc.mu.Lock()
		rc.got = append(rc.got, in)
		rc.mu.Unlock()
	}))
	rc.Config.ErrorLog = log.New(io.Discard, "", 0)
	rc.StartTLS()
	t.Cleanup(rc.Close)
	return rc
}

func (r *receiver) ca() string {
	return receivertest.PEM(r.Certificate())
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.got...)
}
