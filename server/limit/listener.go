package limit

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Connections bounds the connections of a Listener. Zero is no limit.
type Connections struct {
	Most       int  // open at once
	PerSource  int  // open at once from one address
	SourceRate Rate // new ones from one address
	// Exempt tells of addresses that stand for many clients, such as those of a proxy: only Most bounds them.
	Exempt func(netip.Addr) bool
	Now    func() time.Time // nil means time.Now
}

// maxSources bounds how many addresses' rates are remembered.
const maxSources = 1 << 16

// Listener bounds the connections of the listener that it wraps. Where there are as many as may be, one that nothing is
// asked on gives way to the new one, first of the address that has the most: connections that idle, or that have not sent
// a whole header yet, keep nobody out (CVE-2023-38200). Only where all are busy is the new one closed at once.
//
// State has to be the ConnState of the http.Server, or idle connections are not known.
type Listener struct {
	net.Listener
	c     Connections
	rates *Buckets[netip.Addr]

	mu      sync.Mutex
	open    int
	retired int // calls of Retire
	sources map[netip.Addr]*source
	resting map[*conn]struct{} // that nothing is asked on
	stats   ConnectionStats
}

// source is what is open from one address.
type source struct {
	open    int
	resting map[*conn]struct{}
}

// ConnectionStats are numbers of connections; but for Open and Resting they are since the start.
type ConnectionStats struct {
	Open, Resting int
	Accepted      int64
	Evicted       int64 // closed while idle, for a new one
	RefusedTotal  int64 // too many in all, and none idle
	RefusedSource int64 // too many from one address, and none idle
	RefusedRate   int64 // too many new ones from one address
}

// NewListener wraps l.
func NewListener(l net.Listener, c Connections) *Listener {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Listener{Listener: l, c: c, rates: NewBuckets[netip.Addr](c.SourceRate, maxSources, c.Now()),
		sources: map[netip.Addr]*source{}, resting: map[*conn]struct{}{}}
}

// conn is one connection. What is not of net.Conn is guarded by the listener's mutex.
type conn struct {
	net.Conn
	l       *Listener
	address netip.Addr
	since   time.Time // of its present state
	before  int       // the Retire calls that it has seen
	gone    bool      // not counted any more
}

// Accept waits for a connection that may stay.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: raw, l: l, address: addressOf(raw.RemoteAddr())}
		evicted, ok := l.admit(c)
		if evicted != nil {
			_ = evicted.Conn.Close()
		}
		if ok {
			return c, nil
		}
		_ = raw.Close()
	}
}

// admit decides whether a connection stays, and which one goes for it.
func (l *Listener) admit(c *conn) (evicted *conn, ok bool) {
	now := l.c.Now()
	exempt := l.c.Exempt != nil && l.c.Exempt(c.address)
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sources[c.address]
	if !exempt {
		if _, ok := l.rates.Take(c.address, 1, now); !ok {
			l.stats.RefusedRate++
			return nil, false
		}
		if l.c.PerSource > 0 && s != nil && s.open >= l.c.PerSource {
			if evicted = l.choose(s.resting); evicted == nil {
				l.stats.RefusedSource++
				return nil, false
			}
		}
	}
	if evicted == nil && l.c.Most > 0 && l.open >= l.c.Most {
		if evicted = l.choose(l.resting); evicted == nil {
			l.stats.RefusedTotal++
			return nil, false
		}
	}
	if evicted != nil {
		l.forget(evicted)
		l.stats.Evicted++
	}
	if s = l.sources[c.address]; s == nil {
		s = &source{resting: map[*conn]struct{}{}}
		l.sources[c.address] = s
	}
	s.open++
	l.open++
	l.stats.Accepted++
	c.since, c.before = now, l.retired
	l.rest(c)
	return evicted, true
}

// choices is how many connections are compared: as many as tell an address with many from those with few.
const choices = 16

// choose picks the connection to close out of a sample: of the address with the most, that which has rested longest. The
// order of a map's iteration is random enough, and nobody outside can know it.
func (l *Listener) choose(of map[*conn]struct{}) (best *conn) {
	n := 0
	for c := range of {
		if best == nil || l.sources[c.address].open > l.sources[best.address].open ||
			l.sources[c.address].open == l.sources[best.address].open && c.since.Before(best.since) {
			best = c
		}
		if n++; n == choices {
			break
		}
	}
	return best
}

func (l *Listener) rest(c *conn) {
	l.resting[c] = struct{}{}
	l.sources[c.address].resting[c] = struct{}{}
}

// forget takes a connection out of the count, once.
func (l *Listener) forget(c *conn) {
	if c.gone {
		return
	}
	c.gone = true
	delete(l.resting, c)
	s := l.sources[c.address]
	delete(s.resting, c)
	l.open--
	if s.open--; s.open == 0 {
		delete(l.sources, c.address)
	}
}

// State is the http.Server's ConnState.
func (l *Listener) State(nc net.Conn, state http.ConnState) {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		nc = t.NetConn()
	}
	c, ok := nc.(*conn)
	if !ok || (state != http.StateActive && state != http.StateIdle) {
		return
	}
	l.mu.Lock()
	closing := false
	if !c.gone {
		c.since = l.c.Now()
		if state == http.StateIdle {
			l.rest(c)
			closing = c.before < l.retired
		} else {
			delete(l.resting, c)
			delete(l.sources[c.address].resting, c)
		}
	}
	l.mu.Unlock()
	if closing {
		_ = c.Close()
	}
}

// Retire closes all connections that are open now: at once those that nothing is asked on, the others after their answer.
func (l *Listener) Retire() {
	l.mu.Lock()
	l.retired++
	idle := make([]*conn, 0, len(l.resting))
	for c := range l.resting {
		idle = append(idle, c)
	}
	l.mu.Unlock()
	for _, c := range idle {
		_ = c.Close()
	}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.l.mu.Lock()
	c.l.forget(c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// Stats reads the numbers.
func (l *Listener) Stats() ConnectionStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.stats
	out.Open, out.Resting = l.open, len(l.resting)
	return out
}

// Source is what counts as one address: of IPv6 the /64, which is what one customer gets at least.
func Source(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if !a.Is6() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil { // an IPv6 address has one
		return a
	}
	return p.Addr()
}

// addressOf is the Source of a connection's peer; the zero address for what has none, as a unix socket.
func addressOf(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return Source(tcp.AddrPort().Addr())
}
