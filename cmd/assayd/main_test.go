package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-verifier/assay/store/embedded"
)

// TestDev is the life of a service on its embedded Postgres: a fresh start that shows a token, what it
// answers, an orderly end, a second start with the same token, a kill, and a third.
func TestDev(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	file := filepath.Join(data, "admin.token")
	d := start(t, nil, "dev", "--data-dir", data)
	token := readToken(t, file)
	if !strings.HasPrefix(token, "assay_adm_") || !strings.Contains(d.output.String(), token) || !strings.Contains(d.output.String(), file) {
		t.Errorf("a fresh dev shows the token and its file:\n%s", d.output.String())
	}
	if info, err := os.Stat(data); err != nil || info.Mode().Perm()&0o066 != 0 {
		t.Errorf("data folder: %v, %v", info.Mode(), err)
	}
	for _, c := range []struct {
		url, token string
		status     int
		has        string
	}{
		{d.url + "/v1/overview", token, 200, `"machines":0`},
		{d.url + "/v1/overview", "", 401, "unauthenticated"},
		{d.url + "/healthz", "", 200, "ok"},
		{d.url + "/.well-known/jwks.json", "", 200, "Ed25519"},
		{d.url + "/ui/sign-in", "", 200, "<html"},
		{d.url + "/docs", "", 200, "<html"},
		{d.url + "/metrics", "", 404, ""},
		{d.admin + "/metrics", "", 200, "assay_http_request_duration_seconds"},
		{d.admin + "/debug/pprof/cmdline", "", 200, "assayd"},
	} {
		if status, body := d.get(c.url, c.token); status != c.status || !strings.Contains(body, c.has) {
			t.Errorf("%s: %d %.200s; want %d and %q", c.url, status, body, c.status, c.has)
		}
	}
	if code, out := once(t, nil, "healthcheck", "--listen", strings.TrimPrefix(d.url, "http://")); code != 0 {
		t.Errorf("healthcheck: %d %s", code, out)
	}

	// A second service must leave the first one alone.
	if code, out := once(t, nil, "serve", "--data-dir", data, "--listen", freeAddress(t), "--admin-listen", ""); code != 1 || !strings.Contains(out, "in use by another process") {
		t.Errorf("a second service on the same folder: %d %s", code, out)
	}
	if code, out := once(t, nil, "serve", "--data-dir", dataFolder(t), "--listen", strings.TrimPrefix(d.url, "http://"), "--admin-listen", ""); code != 1 || !strings.Contains(out, "in use, perhaps by another assayd") {
		t.Errorf("a second service on the same address: %d %s", code, out)
	}
	if code, out := once(t, nil, "migrate", "--data-dir", data); code != 1 || !strings.Contains(out, "in use by another process") {
		t.Errorf("migrate beside a running service: %d %s", code, out)
	}

	d.stop()
	if code, _ := once(t, nil, "healthcheck", "--listen", strings.TrimPrefix(d.url, "http://")); code != 1 {
		t.Errorf("healthcheck of a stopped service: exit %d", code)
	}
	if _, err := os.Stat(filepath.Join(data, "postgres", "data", "postmaster.pid")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Postgres still runs: %v", err)
	}

	d = start(t, []string{"ASSAY_DATA_DIR=" + data}, "dev")
	if again := readToken(t, file); again != token || strings.Contains(d.output.String(), token) {
		t.Errorf("the second start has a new token, or shows the old one:\n%s", d.output.String())
	}
	if status, _ := d.get(d.url+"/v1/overview", token); status != 200 {
		t.Errorf("the token no longer works: %d", status)
	}
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-d.ended

	d = start(t, nil, "serve", "--data-dir", data)
	if status, _ := d.get(d.url+"/v1/overview", token); status != 200 {
		t.Errorf("after a kill: %d", status)
	}
	if !strings.Contains(d.output.String(), `"msg":"ready"`) {
		t.Errorf("serve logs JSON:\n%s", d.output.String())
	}
	d.stop()
}

// TestTrustBundle: what is shipped begins as it is set, and what is there keeps its switch.
func TestTrustBundle(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	run := func(setting string) (enabled, disabled int) {
		d := start(t, []string{"ASSAY_TRUST_BUNDLE=" + setting}, "serve", "--data-dir", data, "--log-level", "warn")
		defer d.stop()
		status, body := d.get(d.url+"/v1/trust-anchors?limit=500", readToken(t, filepath.Join(data, "admin.token")))
		if status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		return strings.Count(body, `"enabled":true`), strings.Count(body, `"enabled":false`)
	}
	for _, c := range []struct {
		setting           string
		enabled, disabled int
	}{{"none", 0, 0}, {"disabled", 0, 13}, {"enabled", 0, 13}} {
		if on, off := run(c.setting); on != c.enabled || off != c.disabled {
			t.Errorf("%s: %d anchors are enabled and %d are not, want %d and %d", c.setting, on, off, c.enabled, c.disabled)
		}
	}
}

// TestJobs: listed, done by hand, and nothing is fetched unless somebody says so.
func TestJobs(t *testing.T) {
	t.Parallel()
	if code, out := once(t, nil, "job", "list"); code != 0 || !strings.Contains(out, "partitions") || !strings.Contains(out, "collateral-fetch   off") {
		t.Errorf("%d %s", code, out)
	}
	if code, out := once(t, []string{"ASSAY_COLLATERAL_FETCH=true"}, "job", "list", "-o", "json"); code != 0 || !strings.Contains(out, `"name":"collateral-fetch","interval_seconds":300,"enabled":true`) {
		t.Errorf("%d %s", code, out)
	}
	data := dataFolder(t)
	if code, out := once(t, nil, "migrate", "--data-dir", data); code != 0 {
		t.Fatalf("%d %s", code, out)
	}
	for _, want := range []string{"12 partitions made", "nothing to do"} {
		if code, out := once(t, nil, "job", "run", "partitions", "--data-dir", data); code != 0 || strings.TrimSpace(out) != want {
			t.Errorf("%d %s, want %q", code, out, want)
		}
	}
	if code, out := once(t, nil, "job", "run", "reappraise", "--data-dir", data); code != 0 || strings.TrimSpace(out) != "nothing to do" {
		t.Errorf("%d %s", code, out)
	}
	nowhere := "http://" + freeAddress(t)
	if code, out := once(t, nil, "job", "run", "collateral-fetch", "--data-dir", data, "--amd-kds-url", nowhere, "--intel-pcs-url", nowhere, "--intel-root-crl-url", nowhere); code != 0 || strings.TrimSpace(out) != "nothing to do" {
		t.Errorf("%d %s", code, out)
	}
}

// TestGracefulShutdown: a request that is being sent when SIGTERM comes is answered, and then the service
// ends.
func TestGracefulShutdown(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	d := start(t, nil, "serve", "--data-dir", data, "--log-level", "warn")
	token := readToken(t, filepath.Join(data, "admin.token"))
	address := strings.TrimPrefix(d.url, "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"name":"in flight","uses":1}`
	fmt.Fprintf(conn, "POST /v1/join-tokens HTTP/1.1\r\nHost: assay\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", token, len(body))
	reader := bufio.NewReader(conn)
	// "100 Continue" is sent by the handler's first read of the body: the request is in flight.
	if line, err := reader.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := reader.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, body[:10])
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for { // until it has stopped accepting
		probe, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		_ = probe.Close()
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Fprint(conn, body[10:])
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatalf("the request in flight was not answered: %v\n%s", err, d.output.String())
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusCreated {
		t.Errorf("%s: %s", resp.Status, answer)
	}
	<-d.ended
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d: %s", code, d.output.String())
	}

	d = start(t, nil, "serve", "--data-dir", data)
	if _, body := d.get(d.url+"/v1/join-tokens", token); !strings.Contains(body, "in flight") {
		t.Errorf("what was answered is not there: %s", body)
	}
	d.stop()
}

// TestExternalDatabase: a Postgres that is given is used and left running; migrate and --no-migrate.
func TestExternalDatabase(t *testing.T) {
	t.Parallel()
	postgres, err := embedded.Start(context.Background(), embedded.Config{DataDir: dataFolder(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	env := []string{"ASSAY_DATABASE_URL=" + postgres.URL()}
	tokens := filepath.Join(t.TempDir(), "secrets", "first.token")
	if code, out := once(t, env, "serve", "--no-migrate", "--listen", freeAddress(t), "--admin-listen", ""); code != 1 || !strings.Contains(out, "run assayd migrate") {
		t.Errorf("an empty database that may not be migrated: %d %s", code, out)
	}
	for range 2 {
		if code, out := once(t, env, "migrate"); code != 0 || !strings.HasPrefix(out, "schema version ") {
			t.Errorf("migrate: %d %s", code, out)
		}
	}
	d := start(t, env, "serve", "--no-migrate", "--admin-token-file", tokens)
	if status, _ := d.get(d.url+"/v1/overview", readToken(t, tokens)); status != 200 {
		t.Errorf("overview: %d", status)
	}
	d.stop()
	d = start(t, env, "serve", "--admin-token-file", filepath.Join(t.TempDir(), "other"))
	if status, _ := d.get(d.url+"/v1/overview", readToken(t, tokens)); status != 200 {
		t.Errorf("after a restart: %d", status)
	}
	// An operator who has lost every token makes a new one beside the running service.
	code, out := once(t, env, "admin-token", "--name", "recovery")
	if status, body := d.get(d.url+"/v1/api-tokens", strings.TrimSpace(out)); code != 0 || status != 200 || !strings.Contains(body, "recovery") {
		t.Errorf("a new admin token: exit %d, %d %s", code, status, body)
	}
	d.stop()
}

// TestTokenFolderNotWritable: where the first token cannot be written, none is made, and the next start
// makes it.
func TestTokenFolderNotWritable(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	file := filepath.Join(t.TempDir(), "a file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	code, out := once(t, nil, "serve", "--data-dir", data, "--admin-token-file", filepath.Join(file, "admin.token"), "--listen", freeAddress(t), "--admin-listen", "")
	if code != 2 || !strings.Contains(out, "--admin-token-file") {
		t.Errorf("%d %s", code, out)
	}
	d := start(t, nil, "serve", "--data-dir", data)
	readToken(t, filepath.Join(data, "admin.token"))
	d.stop()
}

// TestTLS: the public address speaks TLS, and the health check accepts its certificate alone.
func TestTLS(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	other, otherKey := certificate(t)
	data := dataFolder(t)
	d := launch(t, nil, "serve", "--data-dir", data, "--tls-cert", cert, "--tls-key", key)
	address := strings.TrimPrefix(d.url, "http://")
	check := func(cert, key string) (int, string) {
		return once(t, []string{"ASSAY_TLS_CERT=" + cert, "ASSAY_TLS_KEY=" + key}, "healthcheck", "--listen", address)
	}
	for range 600 {
		if code, _ := check(cert, key); code == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if code, out := check(cert, key); code != 0 {
		t.Fatalf("healthcheck: %d %s\n%s", code, out, d.output.String())
	}
	if code, out := check(other, otherKey); code != 1 || !strings.Contains(out, "not ours") {
		t.Errorf("healthcheck with another certificate: %d %s", code, out)
	}
	old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11} //nolint:gosec // that it is refused is what is tested
	if conn, err := tls.Dial("tcp", address, old); err == nil {
		_ = conn.Close()
		t.Error("TLS 1.1 was accepted")
	}
	d.stop()
}

// TestTraces: with an endpoint, spans of requests and statements arrive there; what is held is sent at
// the end.
func TestTraces(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var received lockedBuffer
	collector := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/traces" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.Copy(&received, r.Body)
	})}
	go func() { _ = collector.Serve(l) }()
	defer collector.Close()
	d := start(t, nil, "serve", "--data-dir", dataFolder(t), "--otlp-endpoint", "http://"+l.Addr().String(), "--trace-ratio", "1")
	d.get(d.url+"/v1/overview", "")
	d.stop()
	for _, want := range []string{"assayd", "1.2.3-test", "GET /v1/overview"} {
		if !strings.Contains(received.String(), want) {
			t.Errorf("no %q in what the collector received (%d bytes)\n%s", want, len(received.String()), d.output.String())
		}
	}
}
