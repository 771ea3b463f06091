package notify_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	command "os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/server/reach"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
)

// workerVariable makes this program a worker on the database that it names, and no test.
const workerVariable = "ASSAY_TEST_NOTIFY_WORKER"

// work delivers until the process ends.
func work(database string) error {
	ctx := context.Background()
	st, err := store.Open(ctx, database, store.Options{})
	if err != nil {
		return err
	}
	s, err := notify.New(ctx, notify.Config{Store: st, Reach: reach.Rules{Loopback: true},
		Keys: func(ctx context.Context, purpose string, generate func() ([]byte, error)) ([]byte, error) {
			return st.ServiceKey(ctx, tenant, purpose, generate)
		}})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// A process that is killed after the receiver has taken a delivery and before it is recorded: another delivers it again, once
// the claim has run out, with the same id and content.
func TestProcessKilledBetweenSendingAndRecording(t *testing.T) {
	u := newDatabase(t)
	b := benchOn(t, u)
	b.now = time.Now()
	worker := command.Command(os.Args[0])
	worker.Env = append(os.Environ(), workerVariable+"="+u)
	killed := make(chan error, 1)
	rc := newReceiver(t, func(n int, _ http.ResponseWriter, _ *http.Request) bool {
		if n == 1 {
			killed <- worker.Process.Kill()
			_ = worker.Wait()
		}
		return true
	})
	heir := b.service(func(c *notify.Config) { c.Now = func() time.Time { return time.Now().Add(2 * time.Minute) } }) // who waits no minute for the claim
	b.webhook(heir, "siem", rc.URL, rc.ca(), store.ChannelFilter{})
	b.alerts("a")
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the first receipt", func() bool { return len(rc.all()) == 1 })
	if d := b.deliveries(store.DeliveryFilter{})[0]; d.State != store.DeliveryPending || d.Attempts != 0 {
		t.Fatalf("the killed process recorded: %+v", d)
	}
	start(t, heir)
	waitFor(t, "delivered", func() bool { return b.deliveries(store.DeliveryFilter{})[0].State == store.DeliveryDelivered })
	got := rc.all()
	if d := b.deliveries(store.DeliveryFilter{})[0]; len(got) != 2 || got[0].id != got[1].id || !bytes.Equal(got[0].body, got[1].body) || d.Attempts != 1 {
		t.Errorf("%d receipts, %+v", len(got), d)
	}
}

// The database ends in the middle for all, while deliveries are under way, and comes back: what was committed is delivered,
// in order, and no more often than its attempts had no end. With ASSAY_TEST_LONG it is away for a minute.
func TestDatabaseDownForAll(t *testing.T) {
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	launch := func() *embedded.Postgres {
		t.Helper()
		pg, err := embedded.Start(context.Background(), embedded.Config{DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return pg
	}
	pg := launch()
	t.Cleanup(func() { _ = pg.Stop(context.Background()) })
	if err := store.Migrate(t.Context(), pg.URL()); err != nil {
		t.Fatal(err)
	}
	b := benchOn(t, pg.URL())
	var later atomic.Int64 // by how much the replicas' clock is ahead
	real := func(c *notify.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	}
	other := &bench{t: t, logs: &syncBuffer{}, store: openStore(t, pg.URL())}
	replicas := []*bench{b, other}
	b.now = time.Now()

	hold, held := make(chan struct{}), make(chan struct{}, 100)
	rc := newReceiver(t, func(n int, _ http.ResponseWriter, _ *http.Request) bool {
		if n > 20 && n <= 24 { // as many as may be under way
			held <- struct{}{}
			<-hold
		}
		return true
	})
	one, two := b.service(real), other.service(real)
	b.webhook(one, "siem", rc.URL, rc.ca(), store.ChannelFilter{})
	start(t, one)
	start(t, two)
	const machines = 40
	var names []string
	for i := range machines {
		names = append(names, fmt.Sprintf("m%02d", i))
	}
	b.alerts(names...)
	for range 4 {
		<-held
	}
	for _, name := range names[:machines/2] { // committed, and told to nobody yet
		b.healthy(name)
	}
	if err := pg.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(hold) // what is under way arrives, and cannot be recorded
	if _, err := b.store.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: names[0]}}, nil, b.clock(), system); err == nil {
		t.Error("a change was taken without a database")
	}
	for _, r := range replicas {
		waitFor(t, "each replica has found out", func() bool { return strings.Contains(r.logs.String(), "the sweep of notifications failed") })
	}
	if os.Getenv("ASSAY_TEST_LONG") != "" {
		<-time.After(time.Minute)
	}
	pg = launch()
	later.Store(int64(2 * time.Minute)) // the claims of what could not be recorded have run out
	for _, name := range names[machines/2:] {
		waitFor(t, "the store is back", func() bool { return b.tryDerive(false, []string{name}) == nil })
	}
	waitFor(t, "all is told", func() bool { ids, _ := rc.distinct(); return len(ids) == 2*machines })
	rc.inOrder(t)
	waitFor(t, "all is recorded", func() bool {
		items, _, err := b.store.ListDeliveries(t.Context(), tenant, store.DeliveryFilter{State: store.DeliveryDelivered}, store.Page{Limit: 500})
		return err == nil && len(items) == 2*machines
	})
}
