package notify_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/store"
)

// start runs a service's workers, and stops them when the test ends or stop is called.
func start(t *testing.T, s *notify.Service) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// waitFor polls until the condition holds; the test's own deadline ends it.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("not yet: %s", what)
		case <-tick.C:
		}
	}
}

func (r *receiver) distinct() (ids map[string]int, machines map[string][]string) {
	ids, machines = map[string]int{}, map[string][]string{}
	for _, in := range r.all() {
		if ids[in.id]++; ids[in.id] == 1 {
			machines[in.machine] = append(machines[in.machine], in.kind)
		}
	}
	return ids, machines
}

// inOrder holds that of each machine the alert opened and was resolved, and that no more came again than what may be under way.
func (r *receiver) inOrder(t *testing.T) {
	t.Helper()
	ids, told := r.distinct()
	for machine, kinds := range told {
		if len(kinds) != 2 || kinds[0] != "alert.opened" || kinds[1] != "alert.resolved" {
			t.Errorf("%s: %v", machine, kinds)
		}
	}
	twice := 0
	for _, n := range ids {
		twice += n - 1
	}
	if twice > 4 {
		t.Errorf("%d deliveries came again; at most those under way may", twice)
	}
}

// Two replicas with River, one of them behind a proxy that cuts its database off in the middle, and stopped afterwards; a dead
// and a hanging receiver beside the good one. Everything arrives, in order for each alert, and nothing twice but what
// was under way at the cut.
func TestTwoReplicasAndADatabaseThatGoesAway(t *testing.T) {
	u := newDatabase(t)
	g := newGate(t, u)
	b := &bench{t: t, logs: &syncBuffer{}, store: openStore(t, u)}
	if err := b.store.EnsureTenant(t.Context(), tenant, t0); err != nil {
		t.Fatal(err)
	}
	real := func(c *notify.Config) { c.Now = time.Now }
	b.now = time.Now()
	one := b.service(real)
	two := b.serviceOn(openStore(t, g.url), real)

	rc := newReceiver(t, nil)
	hung := newReceiver(t, func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return false
	})
	b.webhook(one, "good", rc.URL, rc.ca(), store.ChannelFilter{})
	b.webhook(one, "down", "https://127.0.0.1:1", rc.ca(), store.ChannelFilter{})
	b.webhook(one, "hangs", hung.URL, hung.ca(), store.ChannelFilter{})
	start(t, one)
	stopTwo := start(t, two)

	const machines = 60
	name := func(i int) string { return fmt.Sprintf("m%02d", i) }
	for i := range machines {
		b.now = time.Now()
		b.alerts(name(i))
		if i == 20 {
			g.shut()
		}
		if i == 40 {
			g.open()
		}
		b.healthy(name(i))
	}
	waitFor(t, "all events of the good receiver", func() bool { ids, _ := rc.distinct(); return len(ids) == 2*machines })
	stopTwo()
	rc.inOrder(t)
	// What nobody takes waits, for each of its own channel.
	items, _, err := b.store.ListDeliveries(t.Context(), tenant, store.DeliveryFilter{State: store.DeliveryPending}, store.Page{Limit: 500})
	waiting := map[string]int{}
	for _, d := range items {
		waiting[d.ChannelName]++
	}
	if err != nil || waiting["down"] != 2*machines || waiting["hangs"] != 2*machines {
		t.Errorf("pending: %v, %v", waiting, err)
	}
}

// gate stands before Postgres, and can be shut: connections are cut, and new ones closed at once.
type gate struct {
	url   string
	mu    sync.Mutex
	isOff bool
	conns map[net.Conn]struct{}
}

func newGate(t *testing.T, database string) *gate {
	t.Helper()
	config, err := pgx.ParseConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	network, socket := pgconn.NetworkAddress(config.Host, config.Port)
	g := &gate{conns: map[net.Conn]struct{}{}}
	g.url = fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", url.User(config.User), listener.Addr(), config.Database)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial(network, socket)
			if err != nil || !g.keep(in, out) {
				_ = in.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
					_ = pair[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		g.shut()
		wg.Wait()
	})
	return g
}

// keep notes the connections, or closes them where the gate is shut.
func (g *gate) keep(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range conns {
		if g.isOff {
			_ = c.Close()
			continue
		}
		g.conns[c] = struct{}{}
	}
	return !g.isOff
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isOff = true
	for c := range g.conns {
		_ = c.Close()
	}
	clear(g.conns)
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isOff = false
}
