package integration_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// relay takes TCP, which toxiproxy speaks, to the unix socket of the Postgres of the moment, as an address that moves with
// a failover does.
type relay struct {
	listener net.Listener

	mu     sync.Mutex
	socket string // empty while nobody is there
	open   map[*carried]struct{}
}

// carried is one connection on its way through.
type carried struct {
	client, server net.Conn
	stranded       atomic.Bool
	once           sync.Once
}

func newRelay(t *testing.T) *relay {
	t.Helper()
	r := &relay{open: map[*carried]struct{}{}}
	var err error
	if r.listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := r.listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { r.carry(client) })
		}
	})
	t.Cleanup(func() {
		_ = r.listener.Close()
		r.to("")
		running.Wait()
	})
	return r
}

// to lets new connections go there. Those that are open end, as where their server is gone.
func (r *relay) to(socket string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.socket = socket
	for c := range r.open {
		c.end()
	}
}

// strand leaves the clients of all open connections with a peer that takes what they send and never answers: what a
// firewall leaves behind that has forgotten them. The server sees them end.
func (r *relay) strand() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		c.stranded.Store(true)
		_ = c.server.Close()
	}
}

func (c *carried) end() {
	c.once.Do(func() {
		_ = c.client.Close()
		_ = c.server.Close()
	})
}

func (r *relay) carry(client net.Conn) {
	r.mu.Lock()
	server, err := net.Dial("unix", r.socket) //nolint:noctx // a local socket answers at once or is not there
	if err != nil {
		r.mu.Unlock()
		_ = client.Close()
		return
	}
	c := &carried{client: client, server: server}
	r.open[c] = struct{}{}
	r.mu.Unlock()
	back := make(chan struct{})
	go func() {
		defer close(back)
		if _, _ = io.Copy(client, server); !c.stranded.Load() {
			c.end()
		}
	}()
	_, _ = io.Copy(server, client)
	if c.stranded.Load() {
		_, _ = io.Copy(io.Discard, client) // until the client gives up
	}
	c.end()
	<-back
	r.mu.Lock()
	delete(r.open, c)
	r.mu.Unlock()
}

// line is the connection of one replica to the relay, which toxics spoil.
type line struct {
	*toxiproxy.Proxy
	t *testing.T
}

func newLine(t *testing.T, name string, r *relay) *line {
	t.Helper()
	zerolog.SetGlobalLevel(zerolog.Disabled) // toxics write to a logger of their own
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &line{t: t, Proxy: toxiproxy.NewProxy(server, name, "127.0.0.1:0", r.listener.Addr().String())}
	if err := l.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	return l
}

// url is the database as the replica sees it.
func (l *line) url() string {
	return fmt.Sprintf("postgres://assay@%s/assay?sslmode=disable", l.Listen)
}

// spoil adds a toxic in both directions, or in the one that is named: upstream, to the server, or downstream. Toxicity is the
// share of connections that have it.
func (l *line) spoil(kind, direction string, toxicity float64, attributes string) {
	l.t.Helper()
	for _, stream := range []string{"upstream", "downstream"} {
		if direction != "" && direction != stream {
			continue
		}
		body := fmt.Sprintf(`{"type": %q, "stream": %q, "toxicity": %g, "attributes": %s}`, kind, stream, toxicity, attributes)
		if _, err := l.Toxics.AddToxicJson(strings.NewReader(body)); err != nil {
			l.t.Errorf("toxic %s: %v", body, err)
		}
	}
}

// heal takes all toxics away. Connections that were held or cut by one end with it.
func (l *line) heal() { l.Toxics.ResetToxics(context.Background()) }
