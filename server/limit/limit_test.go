package limit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestRateText(t *testing.T) {
	for text, want := range map[string]Rate{"50:500": {50, 500}, "0.5:1": {0.5, 1}, "off": {}} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err != nil || r != want || r.String() != text {
			t.Errorf("%s: %v %v, written %s", text, r, err, r)
		}
	}
	for _, text := range []string{"", "50", "50:", ":5", "0:5", "-1:5", "5:0", "NaN:5", "Inf:5", "1e9:1", "5:1e3", "5:5:5"} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for %v", text, r)
		}
	}
}

// Whatever comes when, a key gets its burst and its rate and no more, and what was refused can be had after the time that was
// said.
func TestBucketsGiveTheRateAndNoMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{PerSecond: float64(rapid.IntRange(1, 100).Draw(t, "rate")), Burst: rapid.IntRange(1, 50).Draw(t, "burst")}
		b := NewBuckets[string](r, 100, t0)
		now, taken := t0, 0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "ms")) * time.Millisecond)
			n := rapid.IntRange(1, 3).Draw(t, "n")
			wait, ok := b.Take("k", n, now)
			if ok {
				taken += n
			} else if _, again := b.Take("k", n, now.Add(wait)); !again && n <= r.Burst {
				t.Fatalf("%d were refused, and again after the %s that were said", n, wait)
			} else if again {
				now, taken = now.Add(wait), taken+n
			}
			if most := float64(r.Burst) + now.Sub(t0).Seconds()*r.PerSecond; float64(taken) > most+1e-6 {
				t.Fatalf("%d were taken within %s, more than %g", taken, now.Sub(t0), most)
			}
		}
		if _, ok := b.Take("other", 1, now); !ok {
			t.Fatal("another key pays for it")
		}
	})
}

func TestBucketsForgetWhoWasLongAgo(t *testing.T) {
	b := NewBuckets[int](Rate{PerSecond: 0.001, Burst: 1}, 100, t0)
	for i := range 100_000 {
		b.Take(i, 1, t0)
		if b.Len() > 100 {
			t.Fatalf("%d keys are remembered of 100", b.Len())
		}
		if _, ok := b.Take(i, 1, t0); ok {
			t.Fatal("the last key is forgotten")
		}
	}
}

func TestBucketsOutliveAClockThatIsSetBack(t *testing.T) {
	b := NewBuckets[int](Rate{PerSecond: 1, Burst: 2}, 10, t0)
	b.Take(1, 2, t0.Add(24*time.Hour))
	if wait, ok := b.Take(1, 1, t0); ok || wait > time.Second {
		t.Errorf("after the clock went back a day: %v, wait %s", ok, wait)
	}
	b.Charge(1, 1000, t0)
	if wait, ok := b.Has(1, t0); ok || wait > time.Second {
		t.Errorf("a charge leaves a debt: %v, wait %s", ok, wait)
	}
}

func TestNoLimit(t *testing.T) {
	b := NewBuckets[int](Rate{}, 10, t0)
	s := NewShares[int](0)
	for range 1000 {
		if _, ok := b.Take(1, 1, t0); !ok || !s.Enter(1) {
			t.Fatal("none is a limit")
		}
	}
	b.Charge(1, 1, t0)
	s.Leave(1)
}

func TestShares(t *testing.T) {
	s := NewShares[string](2)
	for i, c := range []struct {
		who  string
		fits bool
	}{{"a", true}, {"a", true}, {"a", false}, {"b", true}} {
		if s.Enter(c.who) != c.fits {
			t.Errorf("the share of a is two, and b has its own: entry %d", i)
		}
	}
	s.Leave("a")
	if !s.Enter("a") {
		t.Error("what was left is not given again")
	}
	s.Leave("a")
	s.Leave("a")
	s.Leave("b")
	if len(s.held) != 0 {
		t.Errorf("%d keys are held that have nothing in work", len(s.held))
	}
}

// A gate never does more at once than it has slots, whatever comes, and gives all of them back.
func TestGateBoundsWork(t *testing.T) {
	g := NewGate(3, 1000, time.Minute)
	var mu sync.Mutex
	var wg sync.WaitGroup
	most, inside := 0, 0
	for range 200 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			p, err := g.Reserve()
			if err == nil {
				err = p.Enter(t.Context())
			}
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			inside++
			most = max(most, inside)
			mu.Unlock()
			mu.Lock()
			inside--
			mu.Unlock()
			p.Leave()
			p.Leave()
		}()
	}
	wg.Wait()
	if s := g.Stats(); most > 3 || s.Working != 0 || s.Waiting != 0 || s.Refused != 0 {
		t.Errorf("at most %d at once, then %+v", most, s)
	}
}

func TestGateRefusesWhatWouldWaitTooLong(t *testing.T) {
	g := NewGate(1, 1, time.Millisecond)
	first, _ := g.Reserve()
	if err := first.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	second, err := g.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Reserve(); !errors.Is(err, ErrOverloaded) {
		t.Errorf("a third has a place: %v", err)
	}
	if err := second.Enter(t.Context()); !errors.Is(err, ErrOverloaded) {
		t.Errorf("the second does not wait for ever: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := second.Enter(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("who went away: %v", err)
	}
	second.Leave()
	first.Leave()
	if s := g.Stats(); s.Refused != 2 || s.Working+s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
	var none *Gate
	if p, err := none.Reserve(); err != nil || p.Enter(gone) != nil {
		t.Error("no gate is no limit")
	}
}

func TestSource(t *testing.T) {
	for text, want := range map[string]string{"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "fe80::1%eth0": "fe80::"} {
		if got := Source(netip.MustParseAddr(text)).String(); got != want {
			t.Errorf("%s counts as %s, not %s", text, got, want)
		}
	}
}

// fakeListener hands out connections with chosen addresses; there are no others than loopback's on a test machine.
type fakeListener struct {
	net.Listener
	next chan net.Conn
}

func (f *fakeListener) Accept() (net.Conn, error) {
	c, ok := <-f.next
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

type fakeConn struct {
	net.Conn
	from   string
	closed bool
}

func (f *fakeConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(f.from), 1))
}

func (f *fakeConn) Close() error { f.closed = true; return nil }

type connections struct {
	t    *testing.T
	l    *Listener
	fake *fakeListener
}

func (c *connections) open(from string) (net.Conn, *fakeConn) {
	c.t.Helper()
	raw := &fakeConn{from: from}
	c.fake.next <- raw
	got, err := c.l.Accept()
	if err != nil {
		c.t.Fatal(err)
	}
	if got.(*conn).Conn != raw {
		c.t.Fatalf("%s was refused", from)
	}
	return got, raw
}

// refused opens a connection that is closed at once; Accept goes on with the one after it.
func (c *connections) refused(from, after string) (next net.Conn) {
	c.t.Helper()
	raw, second := &fakeConn{from: from}, &fakeConn{from: after}
	c.fake.next <- raw
	c.fake.next <- second
	got, err := c.l.Accept()
	if err != nil || got.(*conn).Conn != second || !raw.closed {
		c.t.Fatalf("%s was let in (%v)", from, err)
	}
	return got
}

func newConnections(t *testing.T, limits Connections) *connections {
	fake := &fakeListener{next: make(chan net.Conn, 4)}
	return &connections{t: t, fake: fake, l: NewListener(fake, limits)}
}

// TestIdleConnectionsGiveWay: of the address that has the most, and never a busy one.
func TestIdleConnectionsGiveWay(t *testing.T) {
	c := newConnections(t, Connections{Most: 10})
	lone, loneRaw := c.open("192.0.2.1")
	c.l.State(lone, http.StateActive)
	c.l.State(lone, http.StateIdle)
	var many []*fakeConn
	for range 9 {
		_, raw := c.open("198.51.100.7")
		many = append(many, raw)
	}
	_, newcomer := c.open("203.0.113.1")
	evicted := 0
	for _, raw := range many {
		if raw.closed {
			evicted++
		}
	}
	if loneRaw.closed || newcomer.closed || evicted != 1 {
		t.Errorf("the address with many lost %d, the lone one was closed: %v", evicted, loneRaw.closed)
	}
	if s := c.l.Stats(); s.Open != 10 || s.Evicted != 1 {
		t.Errorf("%+v", s)
	}
}

func TestBusyConnectionsStay(t *testing.T) {
	c := newConnections(t, Connections{Most: 2, PerSource: 1})
	a, _ := c.open("192.0.2.1")
	c.l.State(a, http.StateActive)
	b := c.refused("192.0.2.1", "192.0.2.2") // its own is busy
	c.l.State(b, http.StateActive)
	raw := &fakeConn{from: "192.0.2.3"}
	c.fake.next <- raw
	close(c.fake.next)
	if _, err := c.l.Accept(); !errors.Is(err, net.ErrClosed) || !raw.closed {
		t.Errorf("a third was let in: %v", err)
	}
	if s := c.l.Stats(); s.RefusedSource != 1 || s.RefusedTotal != 1 || s.Open != 2 {
		t.Errorf("%+v", s)
	}
	_, _ = a.Close(), a.Close()
	_ = b.Close()
	if s := c.l.Stats(); s.Open != 0 || s.Resting != 0 || len(c.l.sources) != 0 {
		t.Errorf("after all have closed: %+v, %d addresses", s, len(c.l.sources))
	}
}

func TestConnectionRateAndProxies(t *testing.T) {
	proxy := netip.MustParseAddr("192.0.2.9")
	c := newConnections(t, Connections{PerSource: 2, SourceRate: Rate{PerSecond: 0.001, Burst: 3}, Exempt: func(a netip.Addr) bool { return a == proxy }})
	for i := range 3 {
		n, _ := c.open("192.0.2.1")
		if i < 2 {
			_ = n.Close()
		}
	}
	c.refused("192.0.2.1", proxy.String())
	for range 10 {
		c.open(proxy.String())
	}
	if s := c.l.Stats(); s.RefusedRate != 1 || s.Open != 12 {
		t.Errorf("%+v", s)
	}
}

// TestRetire closes what is idle at once, what is busy after its answer, and nothing that came later.
func TestRetire(t *testing.T) {
	c := newConnections(t, Connections{})
	_, idle := c.open("192.0.2.1")
	busy, busyRaw := c.open("192.0.2.1")
	c.l.State(busy, http.StateActive)
	c.l.Retire()
	later, laterRaw := c.open("192.0.2.1")
	if !idle.closed || busyRaw.closed {
		t.Errorf("idle closed: %v, busy closed: %v", idle.closed, busyRaw.closed)
	}
	c.l.State(busy, http.StateIdle)
	c.l.State(later, http.StateActive)
	c.l.State(later, http.StateIdle)
	if !busyRaw.closed || laterRaw.closed {
		t.Errorf("busy closed after its answer: %v, later closed: %v", busyRaw.closed, laterRaw.closed)
	}
}

func BenchmarkTake(b *testing.B) {
	buckets := NewBuckets[string](Rate{PerSecond: 1e6, Burst: 1e6}, 1<<18, t0)
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprintf("01900000-0000-7000-8000-%012d", i)
	}
	now := t0
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		buckets.Take(keys[i%len(keys)], 1, now)
	}
}
