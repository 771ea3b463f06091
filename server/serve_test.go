package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/assay-verifier/assay/server/tlsfile"
	"github.com/assay-verifier/assay/store"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestShutdownLosesNothing ends the service while a request's body is still on its way: the request is
// finished, answered and stored; nothing new is accepted.
func TestShutdownLosesNothing(t *testing.T) {
	b := newBench(t, nil)
	public, admin := listen(t), listen(t)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- b.server.Serve(ctx, public, admin) }()

	body := `{"name": "late", "os": "linux"}`
	conn, err := net.Dial("tcp", public.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = fmt.Fprintf(conn, "POST /v1/machines HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", b.admin, len(body), body[:5])
	waitFor(t, func() bool { return !b.server.budget.TryAcquire(b.server.cfg.BodyBudget) || release(b) })
	stop()
	waitFor(t, func() bool { return b.server.draining.Load() })
	waitFor(t, func() bool {
		late, err := net.Dial("tcp", public.Addr().String())
		if err == nil {
			_ = late.Close()
		}
		return err != nil
	})
	if _, err := io.WriteString(conn, body[5:]); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if err := <-ended; err != nil || resp.StatusCode != 200 {
		t.Errorf("status %d, Serve: %v", resp.StatusCode, err)
	}
	items, _, err := b.store.ListMachines(context.Background(), store.DefaultTenant, store.MachineFilter{Name: "late"}, store.Page{})
	if err != nil || len(items) != 1 {
		t.Errorf("stored: %v, %v", items, err)
	}
	if a := b.call("GET", "/readyz", "", nil); a.code(t) != codeNotReady {
		t.Errorf("readyz while shutting down: %s", a.body)
	}
}

// release gives back what a probe of the budget took; it is false, for use in waitFor.
func release(b *bench) bool {
	b.server.budget.Release(b.server.cfg.BodyBudget)
	return false
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 2000 {
		if done() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("it did not happen")
}

func TestServeTLSAndAdmin(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile, pool := selfSigned(t, dir)
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	defer func() { _ = provider.Shutdown(context.Background()) }()
	b := newBench(t, func(c *Config) {
		c.TLS = loadTLS(t, tlsfile.Files{Certificate: certFile, Key: keyFile})
		c.TracerProvider = provider
		c.UI = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "pages of "+r.URL.Path) })
	})
	public, admin := listen(t), listen(t)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.server.Serve(ctx, public, admin) }()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}
	client := &http.Client{Transport: transport}
	get := func(url string) (string, http.Header) {
		t.Helper()
		resp, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body), resp.Header
	}
	base := "https://" + public.Addr().String()
	if _, h := get(base + "/healthz"); h.Get("Strict-Transport-Security") == "" {
		t.Errorf("no HSTS: %v", h)
	}
	if body, h := get(base + "/ui/fleet"); body != "pages of /ui/fleet" || h.Get("Content-Security-Policy") != "" {
		t.Errorf("ui: %q %v", body, h)
	}
	get(base + "/v1/machines/secret-path")
	get(base + "/anything/at/all")
	metrics, _ := get("http://" + admin.Addr().String() + "/metrics")
	for _, want := range []string{`assay_http_requests_total{method="GET",route="/healthz",status="200"} 1`,
		`route="/v1/machines/{machine_id}",status="401"`, `route="none",status="404"`, "assay_http_request_duration_seconds_bucket", "go_goroutines"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if strings.Contains(metrics, "secret-path") || strings.Contains(metrics, "anything") {
		t.Error("a path is in the metrics")
	}
	if body, _ := get("http://" + admin.Addr().String() + "/debug/pprof/cmdline"); body == "" {
		t.Error("no pprof")
	}
	stop()
	transport.CloseIdleConnections()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	names := map[string]bool{}
	for _, span := range exporter.GetSpans() {
		names[span.Name] = true
		for _, a := range span.Attributes {
			if strings.Contains(a.Value.String(), public.Addr().String()) {
				t.Errorf("the client's Host is in a span: %s", a.Key)
			}
		}
	}
	if !names["GET /v1/machines/{machine_id}"] {
		t.Errorf("spans: %v", names)
	}
}

func loadTLS(t *testing.T, files tlsfile.Files) *tlsfile.Source {
	t.Helper()
	source, err := tlsfile.Load(files, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func selfSigned(t *testing.T, dir string) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return certFile, keyFile, pool
}

// TestPanicIsAnswered lets a page panic: the client gets a problem, the log the stack, and a request with
// an Idempotency-Key may be tried again.
func TestPanicIsAnswered(t *testing.T) {
	b := newBench(t, func(c *Config) {
		c.UI = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a secret reason") })
	})
	a := b.call("GET", "/ui/", "", nil)
	if a.code(t) != codeInternal || strings.Contains(string(a.body), "secret") {
		t.Errorf("answer: %s", a.body)
	}
	if !strings.Contains(b.logs.String(), "a secret reason") {
		t.Error("the panic is not in the log")
	}
}

func TestBootstrapHappensOnce(t *testing.T) {
	b := newBench(t, nil)
	again, err := BootstrapAdminToken(context.Background(), b.store, store.DefaultTenant, time.Now(), rand.Reader)
	if err != nil || again != "" {
		t.Errorf("a second bootstrap: %q, %v", again, err)
	}
}

// TestBodyThatEndsEarly sends less than it declared.
func TestBodyThatEndsEarly(t *testing.T) {
	b := newBench(t, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.http.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = fmt.Fprintf(conn, "POST /v1/machines HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", b.admin)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 400 || !strings.Contains(string(body), codeMalformedJSON) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}
