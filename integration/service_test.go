package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/integration/swtpm"
)

// patience bounds every wait for a condition. It is no measure of speed: a slow machine takes its time.
const patience = 2 * time.Minute

// service is a running assayd.
type service struct {
	dataDir string
	args    []string
	url     string
	admin   string // token

	cmd    *exec.Cmd
	exited chan struct{}
	err    error // of the process; read after exited

	mu  sync.Mutex
	log bytes.Buffer

	trusted sync.Once
	http    *http.Client
}

// startService runs `assayd serve` in a data folder on free ports and waits until it is ready.
func startService(dataDir string, args ...string) (*service, error) {
	s := &service{dataDir: dataDir, args: args, http: &http.Client{Timeout: patience}}
	return s, s.start()
}

// newService is a service for one test.
func newService(t *testing.T, args ...string) *service {
	t.Helper()
	s, err := startService(filepath.Join(newFolder(t), "data"), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.terminate(); err != nil {
			t.Errorf("%v\n%s", err, s.logTail())
		}
	})
	return s
}

// start starts it, or starts it again on the same data.
func (s *service) start() error {
	args := append([]string{"serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
		"--data-dir", s.dataDir, "--log-format", "json", "--shutdown-timeout", "60s"}, s.args...)
	s.cmd = exec.Command(program("assayd"), args...)
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.Getenv("TMPDIR")}
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	ready, exited, cmd := make(chan string, 1), make(chan struct{}), s.cmd
	s.exited = exited
	go func() {
		s.readLog(stderr, ready)
		s.err = cmd.Wait()
		close(exited)
	}()
	select {
	case address := <-ready:
		s.url = "http://" + address
	case <-exited:
		return fmt.Errorf("assayd ended at once: %w\n%s", s.err, s.logTail())
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("assayd is not ready\n%s", s.logTail()), s.cmd.Process.Kill())
	}
	token, err := os.ReadFile(filepath.Join(s.dataDir, "admin.token"))
	s.admin = strings.TrimSpace(string(token))
	return err
}

// readyText is the line "ready" in the format text.
var readyText = regexp.MustCompile(` msg=ready .*\blisten=(\S+)`)

// readLog keeps the log and tells the address that the line "ready" names.
func (s *service) readLog(r io.Reader, ready chan<- string) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		s.mu.Lock()
		s.log.Write(line)
		s.mu.Unlock()
		var entry struct{ Msg, Listen string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "ready" {
			ready <- entry.Listen
		} else if m := readyText.FindSubmatch(line); m != nil {
			ready <- string(m[1])
		}
		if err != nil {
			return
		}
	}
}

func (s *service) logTail() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.log.Bytes()
	return string(b[max(0, len(b)-6000):])
}

// kill ends the process at once, and leaves its Postgres behind.
func (s *service) kill() error {
	err := s.cmd.Process.Kill()
	<-s.exited
	return err
}

// killAll ends the service and its Postgres as a power cut would.
func (s *service) killAll() error {
	file, err := os.ReadFile(filepath.Join(s.dataDir, "postgres", "data", "postmaster.pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.SplitN(string(file), "\n", 2)[0])
	if err != nil {
		return err
	}
	return errors.Join(s.kill(), syscall.Kill(pid, syscall.SIGKILL))
}

// terminate sends SIGTERM and expects an orderly end. A service that has ended already is no error.
func (s *service) terminate() error {
	select {
	case <-s.exited:
		return nil
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.exited:
	case <-time.After(patience):
		return errors.Join(errors.New("assayd does not end"), s.cmd.Process.Kill())
	}
	if s.err != nil {
		return fmt.Errorf("assayd did not end in order: %w", s.err)
	}
	return nil
}

// sql connects to the service's own Postgres.
func (s *service) sql(t *testing.T) *pgx.Conn {
	t.Helper()
	socket := filepath.Join(s.dataDir, "postgres", "run")
	return connect(t, "postgres://assay@/assay?"+url.Values{"host": {socket}, "sslmode": {"disable"}}.Encode())
}

func connect(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// one reads one value.
func one[T any](t testing.TB, db *pgx.Conn, query string, args ...any) T {
	t.Helper()
	var v T
	if err := db.QueryRow(t.Context(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// answer is what the service answered to one request.
type answer struct {
	status int
	body   []byte
}

// send makes a request with a raw body. The error is of the connection.
func (s *service) send(ctx context.Context, method, path, token, contentType string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	rsp, err := s.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = rsp.Body.Close() }()
	raw, err := io.ReadAll(rsp.Body)
	return answer{rsp.StatusCode, raw}, err
}

// call makes a JSON request and decodes the answer, which must have the status want, into out.
func (s *service) call(t *testing.T, method, path, token string, body any, want int, out any) {
	t.Helper()
	var raw []byte
	contentType := ""
	switch b := body.(type) {
	case nil:
	case string:
		raw, contentType = []byte(b), "application/json"
	default:
		var err error
		if raw, err = json.Marshal(b); err != nil {
			t.Fatal(err)
		}
		contentType = "application/json"
	}
	got, err := s.send(t.Context(), method, path, token, contentType, raw)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if got.status != want {
		if got.status >= http.StatusInternalServerError {
			t.Log(s.logTail())
		}
		t.Fatalf("%s %s: %d, want %d: %s", method, path, got.status, want, got.body)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(got.body, out); err != nil {
		t.Fatalf("%s %s: %v: %s", method, path, err, got.body)
	}
}

func (s *service) get(t *testing.T, path string, out any) {
	t.Helper()
	s.call(t, http.MethodGet, path, s.admin, nil, http.StatusOK, out)
}

// post calls as an administrator and expects 201.
func (s *service) post(t *testing.T, path string, body, out any) {
	t.Helper()
	s.call(t, http.MethodPost, path, s.admin, body, http.StatusCreated, out)
}

// trust makes the service trust the TPMs' vendor, once.
func (s *service) trust(t *testing.T, box *swtpm.TPM) {
	t.Helper()
	s.trusted.Do(func() {
		s.post(t, "/v1/trust-anchors", map[string]string{"name": "test TPM vendor", "purpose": "ek", "certificates_pem": vendorPEM(t, box)}, nil)
	})
}

// joinToken makes a join token.
func (s *service) joinToken(t *testing.T) string {
	t.Helper()
	var token struct{ Token string }
	s.post(t, "/v1/join-tokens", map[string]any{"name": t.Name(), "uses": 50}, &token)
	return token.Token
}

// policy writes a policy for one scale set; what fields does not name has its default.
func (s *service) policy(t *testing.T, scaleSet string, fields map[string]any) {
	t.Helper()
	body := map[string]any{"selector": map[string]any{"scale_set": []string{scaleSet}}}
	for k, v := range fields {
		body[k] = v
	}
	s.call(t, http.MethodPut, "/v1/policies/"+scaleSet, s.admin, body, http.StatusOK, nil)
}

// problemCode is the code of a problem document.
func problemCode(t *testing.T, a answer) string {
	t.Helper()
	var p struct{ Code string }
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatalf("no problem document: %s", a.body)
	}
	return p.Code
}

// cli runs the CLI as an administrator and returns what it printed.
func cli(t *testing.T, s *service, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program("assay"), args...)
	cmd.Env = []string{"HOME=" + s.dataDir, "ASSAY_SERVER=" + s.url, "ASSAY_TOKEN=" + s.admin}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("assay %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

// wholeLog is all that the service has written.
func (s *service) wholeLog() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}
