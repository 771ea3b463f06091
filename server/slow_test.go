package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/assay-verifier/assay/server/limit"
	"github.com/assay-verifier/assay/server/tlsfile"
)

// serving starts Serve on loopback and points the bench's calls at it.
func (b *bench) serving() (address string) {
	b.t.Helper()
	public := listen(b.outer.(*testing.T))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.server.Serve(ctx, public, nil) }()
	b.outer.Cleanup(func() {
		stop()
		http.DefaultClient.CloseIdleConnections()
		if err := <-ended; err != nil {
			b.outer.Error(err)
		}
	})
	address = public.Addr().String()
	b.http.URL = "http://" + address
	return address
}

// slowRequest has sent its header and a byte of its body.
type slowRequest struct{ conn net.Conn }

func startSlow(t testing.TB, address, path, bearer string, length int) *slowRequest {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{", path, bearer, length)
	return &slowRequest{conn}
}

func (s *slowRequest) close() { _ = s.conn.Close() }

// TestIdleConnectionsStarveNobodyCVE202338200: thousands of connections that ask nothing, that send half a header, half a
// body, or read no answer, more than there may be at once; a machine attests all the same, and the service stays
// answerable.
func TestIdleConnectionsStarveNobodyCVE202338200(t *testing.T) {
	const most = 500
	b := newBench(t, func(c *Config) {
		c.Limits.Connections = limit.Connections{Most: most}
		c.Limits.Appraisals, c.Limits.Queries, c.Limits.Changes, c.Limits.Enrolments = 2, 2, 2, 2
	})
	m := newMachine(t, "sb-on-1")
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "swtpm", "purpose": "ek", "certificates_pem": m.rootPEM()})
	b.enrol(m, "web-1", b.joinToken())
	other := b.want(201, "POST", "/v1/api-tokens", b.admin, `{"name": "other", "role": "admin"}`).text(t, "token")
	address := b.serving()
	open := func(n int, send string) {
		t.Helper()
		for range n {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			_, _ = io.WriteString(conn, send)
		}
	}
	open(1000, "")
	open(100, "GET /v1/overview HTTP/1.1\r\nHost: x\r\nX-Slow: ")
	// Answers that nobody reads, larger than what the kernels take.
	open(50, strings.Repeat("GET /docs/redoc.standalone.js HTTP/1.1\r\nHost: x\r\n\r\n", 20))
	for range 60 {
		startSlow(t, address, "/v1/machines", other, 1_000_000)
		startSlow(t, address, "/v1/enrollments/"+nobody+"/activation", "", 1000)
	}
	open(1000, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	for range 3 {
		if v := b.attest(m).json(t); v["status"] == "none" {
			t.Errorf("verdict %v", v)
		}
		b.want(200, "GET", "/healthz", "", nil)
		b.want(200, "POST", "/v1/machines", b.admin, `{"name": "late", "os": "linux"}`)
		b.want(200, "GET", "/v1/overview", b.admin, nil)
	}
	metrics := b.metrics()
	if !strings.Contains(metrics, `assay_connections_closed_total{reason="idle"} `) || strings.Contains(metrics, `assay_connections_closed_total{reason="idle"} 0`) {
		t.Error("no idle connection gave way: the test shows nothing")
	}
	if budget := b.server.cfg.BodyBudget; !b.server.budget.TryAcquire(budget - 256*minBodyWeight) {
		t.Error("bodies that were only announced count as if they had come")
	} else {
		b.server.budget.Release(budget - 256*minBodyWeight)
	}
}

// TestRapidResetCVE202344487 opens streams and resets them at once, as fast as it can: the connection is ended, and others are
// served.
func TestRapidResetCVE202344487(t *testing.T) {
	certFile, keyFile, pool := selfSigned(t, t.TempDir())
	b := newBench(t, func(c *Config) { c.TLS = loadTLS(t, tlsfile.Files{Certificate: certFile, Key: keyFile}) })
	address := b.serving()
	conn := dialTLS(t, address, pool, nil, "h2")
	defer func() { _ = conn.Close() }()
	if p := conn.ConnectionState().NegotiatedProtocol; p != "h2" {
		t.Fatalf("protocol %q", p)
	}
	_, _ = io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan http2.ErrCode, 1)
	go func() {
		defer close(ended)
		for {
			f, err := framer.ReadFrame()
			if err != nil {
				return
			}
			if g, ok := f.(*http2.GoAwayFrame); ok {
				ended <- g.ErrCode
				return
			}
		}
	}()
	var header strings.Builder
	enc := hpack.NewEncoder(&header)
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "x"}, {Name: ":path", Value: "/v1/overview"},
		{Name: "authorization", Value: "Bearer " + b.admin}} {
		if err := enc.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	for id := uint32(1); id < 200_000; id += 2 {
		if framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte(header.String()), EndStream: true, EndHeaders: true}) != nil ||
			framer.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break
		}
	}
	_ = conn.CloseWrite()
	if code := <-ended; code != http2.ErrCodeEnhanceYourCalm && code != http2.ErrCodeNo {
		t.Errorf("the connection ended with %v", code)
	}
	b.server.limits.gates[gateQuery].Stats()
	waitFor(t, func() bool { return b.server.limits.gates[gateQuery].Stats().Working == 0 })
	second := dialTLS(t, address, pool, nil, "http/1.1")
	defer func() { _ = second.Close() }()
	if status := askOn(t, second, b.admin); status != 200 {
		t.Errorf("another client is answered %d", status)
	}
}

// TestHeaderIsBounded: a header beyond the limit is refused before anything is looked up.
func TestHeaderIsBounded(t *testing.T) {
	b := newBench(t, nil)
	conn, err := net.Dial("tcp", b.serving())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	go func() { // the service may answer before all of it has come
		_, _ = fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n\r\n", strings.Repeat("a", 2*maxHeaderBytes))
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// TestOverload asks for many times what can be done at once, in closed loops. What is accepted is answered right, what is not is
// told when to come back, health and a real attestation go on, memory stays bounded, and afterwards all is as before.
func TestOverload(t *testing.T) {
	const slots, queue, rounds = 2, 8, 40
	const clients = 5 * (slots + queue)
	b := newBench(t, func(c *Config) {
		c.Limits.Appraisals, c.Limits.Queue, c.Limits.QueueWait, c.Limits.MachineShare, c.Limits.Machine = slots, queue, 50*time.Millisecond, 0, limit.Rate{}
	})
	m, loud := newMachine(t, "sb-on-1"), newMachine(t, "sb-on-1")
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "swtpm", "purpose": "ek", "certificates_pem": m.rootPEM() + loud.rootPEM()})
	b.enrol(m, "web-1", b.joinToken())
	b.enrol(loud, "web-2", b.joinToken())
	evidence := loud.evidence(b.nonce(loud))
	evidence["event_log"] = loud.log
	body := mustJSON(t, evidence)
	b.serving()
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var accepted, refused atomic.Int64
	var wg sync.WaitGroup
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range rounds {
				switch status, ok := postOnce(client, b.http.URL+"/v1/machines/"+loud.id+"/evidence", loud.token, body); {
				case ok && status == 201:
					accepted.Add(1)
				case ok:
					refused.Add(1)
				default:
					t.Errorf("an answer that is neither a verdict nor a refusal with Retry-After: %d", status)
					return
				}
			}
		}()
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	attested := false
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
			b.want(200, "GET", "/healthz", "", nil)
			if !attested {
				a := b.call("POST", "/v1/machines/"+m.id+"/challenges", m.token, nil)
				attested = a.status == 201
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%d accepted, %d refused; heap %d kB before, %d kB after", accepted.Load(), refused.Load(), before.HeapInuse>>10, after.HeapInuse>>10)
	if accepted.Load() == 0 || refused.Load() == 0 || accepted.Load()+refused.Load() != clients*rounds || !attested {
		t.Errorf("%d accepted, %d refused of %d; another machine got through: %v", accepted.Load(), refused.Load(), clients*rounds, attested)
	}
	if after.HeapInuse > before.HeapInuse+128<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before.HeapInuse, after.HeapInuse)
	}
	if s := b.server.limits.gates[gateAppraisal].Stats(); s.Working != 0 || s.Waiting != 0 {
		t.Errorf("afterwards %+v", s)
	}
	b.attest(m) // at once
	count := b.want(200, "GET", "/v1/machines/"+loud.id+"/verdicts", b.admin, nil).json(t)["items"].([]any)
	total := int64(0)
	for _, v := range count {
		total += int64(v.(map[string]any)["count"].(float64))
	}
	if total != accepted.Load() {
		t.Errorf("%d attestations are recorded, %d were accepted", total, accepted.Load())
	}
}

// postOnce answers the status, and whether the answer is one that a client can go by.
func postOnce(client *http.Client, url, bearer, body string) (status int, ok bool) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, false
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, false
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, false
	}
	switch resp.StatusCode {
	case http.StatusCreated:
		return 201, strings.Contains(string(text), `"result_token":"`)
	case http.StatusServiceUnavailable:
		n, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		return 503, err == nil && n >= minRetry && strings.Contains(string(text), codeOverloaded)
	}
	return resp.StatusCode, false
}

// TestLongWorkIsNotTakenForAClientThatLeft: what net/http takes for a client that went away, when its time to send has run out, must not
// end work on a request that has come whole.
func TestLongWorkIsNotTakenForAClientThatLeft(t *testing.T) {
	b := newBench(t, nil)
	was := b.server.limits.gates[gateQuery]
	gateway := limit.NewGate(1, 10, time.Minute)
	b.server.limits.gates[gateQuery] = gateway
	defer func() { b.server.limits.gates[gateQuery] = was }()
	held, err := gateway.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	if err := held.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	inner := b.server.Handler()
	server := &http.Server{Handler: inner, ReadTimeout: 50 * time.Millisecond, ReadHeaderTimeout: 50 * time.Millisecond}
	l := listen(t)
	go func() { _ = server.Serve(l) }()
	defer func() { _ = server.Close() }()
	b.http.URL = "http://" + l.Addr().String()
	answered := make(chan answer, 1)
	go func() { answered <- b.call("GET", "/v1/overview", b.admin, nil) }()
	waitFor(t, func() bool { return gateway.Stats().Waiting == 1 })
	// The time to send ends while the request waits; only the clock can make it.
	timeout := time.NewTimer(150 * time.Millisecond)
	<-timeout.C
	held.Leave()
	if a := <-answered; a.status != 200 {
		t.Errorf("answered %d %s", a.status, a.body)
	}
}
