package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-verifier/assay/integration/swtpm"
)

// waitFor polls a condition on the server; the test's own deadline ends it.
func (s *verifierServer) waitFor(what string, condition func() bool) {
	s.t.Helper()
	for {
		s.mu.Lock()
		ok := condition()
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-s.t.Context().Done():
			s.t.Fatalf("never: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Run keeps one connection, needs one request an attestation, gets over a server in trouble, and ends
// when it is told to.
func TestRun(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	s := newServer(t, box, false)
	h := newHost(t, box, s)
	write(t, h.eventLog, specimen(t, "sb-on-1/evidence/binary_bios_measurements"))
	h.enroll()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close() //nolint:errcheck // the test's own
	t.Setenv("NOTIFY_SOCKET", notify.LocalAddr().String())

	s.mu.Lock()
	s.interval, s.connections = 1, 0
	s.mu.Unlock()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	type result struct {
		code           int
		stdout, stderr string
	}
	done := make(chan result, 1)
	go func() {
		code, out, errOut := h.agent(ctx, "run")
		done <- result{code, out, errOut}
	}()
	message := make([]byte, 64)
	if n, err := notify.Read(message); err != nil || string(message[:n]) != "READY=1" {
		t.Errorf("%q, %v", message[:n], err)
	}
	s.waitFor("three verdicts", func() bool { return len(s.verdicts) >= 3 })
	s.mu.Lock()
	if s.connections != 1 || s.calls["POST challenges"] != 1 || s.calls["PUT event-log"] != 1 {
		t.Errorf("%d connections, %v", s.connections, s.calls)
	}
	// The server loses its logs, then its challenges, then is overloaded.
	s.logs = map[string][]byte{}
	before := len(s.verdicts)
	s.mu.Unlock()
	s.waitFor("a verdict with the log in the evidence", func() bool { return len(s.verdicts) > before })
	s.mu.Lock()
	if s.lastBody["event_log"] == nil {
		t.Error("event_log_required is answered with the log")
	}
	for _, m := range s.machines {
		m.nonces = map[string]bool{}
	}
	before = len(s.verdicts)
	s.mu.Unlock()
	s.waitFor("a verdict over a new challenge", func() bool { return len(s.verdicts) > before && s.calls["POST challenges"] == 2 })
	s.mu.Lock()
	refused := 0
	s.before = func(w http.ResponseWriter, _ *http.Request) bool {
		if refused == 2 {
			return false
		}
		refused++
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, "overloaded", "try later")
		return true
	}
	before = len(s.verdicts)
	s.mu.Unlock()
	s.waitFor("a verdict after the overload", func() bool { return len(s.verdicts) > before && refused == 2 })
	stop()
	r := <-done // the answer to the last of six posts may be cut off by the stop
	if r.code != 0 || strings.Count(r.stdout, "affirming") < 5 || !strings.Contains(r.stderr, "503 overloaded: Refused: try later; next try in 1") {
		t.Errorf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if n, err := notify.Read(message); err != nil || string(message[:n]) != "STOPPING=1" {
		t.Errorf("%q, %v", message[:n], err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, v := range s.verdicts {
		if v != "affirming" {
			t.Errorf("verdict %d is %s", i, v)
		}
	}
}

// A challenge that ran out is not used: an expired nonce would be an alert.
func TestExpiredChallengeIsNotUsed(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	s := newServer(t, box, false)
	s.lifetime, s.interval = 5*time.Second, 1 // within the margin of the agent
	h := newHost(t, box, s)
	h.enroll()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan int, 1)
	go func() {
		code, _, _ := h.agent(ctx, "run")
		done <- code
	}()
	s.waitFor("two verdicts", func() bool { return len(s.verdicts) >= 2 && s.calls["POST challenges"] >= 2 })
	stop()
	if code := <-done; code != 0 {
		t.Errorf("exit %d", code)
	}
}

// maxBinary is what the agent may weigh, stripped.
const maxBinary = 11 << 20

// The program as it is shipped: static, small, and ended by SIGTERM.
func TestBinary(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay-agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=v9.8.7", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("assay-agent: %d bytes (%.1f MiB)", info.Size(), float64(info.Size())/(1<<20))
	if info.Size() > maxBinary {
		t.Errorf("assay-agent has %d bytes, more than %d", info.Size(), maxBinary)
	}
	if out, err := exec.CommandContext(t.Context(), path, "version").Output(); err != nil || string(out) != "assay-agent v9.8.7\n" {
		t.Errorf("%q, %v", out, err)
	}
	for _, forbidden := range []string{"github.com/jackc/pgx", "assay/store\n", "assay/server", "assay/verifier/tee", "go-sev-guest", "go-tdx-guest"} {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
		if err != nil || strings.Contains(string(out), forbidden) {
			t.Errorf("the agent depends on %s (%v)", forbidden, err)
		}
	}

	box := swtpm.New(t, swtpm.Options{})
	s := newServer(t, box, false)
	h := newHost(t, box, s)
	h.enroll()
	cmd := exec.CommandContext(t.Context(), path, "run")
	cmd.Env = append(os.Environ(), "ASSAY_TPM="+box.Socket, "ASSAY_STATE_DIR="+h.dir, "ASSAY_EVENT_LOG="+h.eventLog, "ASSAY_IMA_LOG="+h.imaLog)
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.waitFor("a verdict", func() bool { return len(s.verdicts) == 1 })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}
