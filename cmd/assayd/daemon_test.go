package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is assayd as it is deployed: built once, statically, or with what the tests' own build tags add (buildTags, buildCGO).
var binary string

var buildTags, buildCGO = "", "0"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "assayd-test")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "assayd")
	build := exec.Command("go", "build", "-tags", buildTags, "-ldflags", "-X main.version=1.2.3-test", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED="+buildCGO)
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// dataFolder is a folder with a short path, since a unix socket is below it, that does not exist yet.
func dataFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "assayd")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres runs as another user where the test runs as root
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "d")
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// daemon is one running assayd.
type daemon struct {
	t          *testing.T
	cmd        *exec.Cmd
	url, admin string
	output     lockedBuffer
	ended      chan struct{}
}

// lockedBuffer is written by the process and read by the test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func environ(extra ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}, extra...)
}

// start runs assayd and waits until it is ready.
func start(t *testing.T, env []string, args ...string) *daemon {
	t.Helper()
	d := launch(t, env, args...)
	for range 1200 {
		select {
		case <-d.ended:
			t.Fatalf("assayd ended: %s", d.output.String())
		default:
		}
		if resp, err := http.Get(d.url + "/readyz"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return d
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("assayd did not get ready: %s", d.output.String())
	return nil
}

func launch(t *testing.T, env []string, args ...string) *daemon {
	t.Helper()
	public, admin := freeAddress(t), freeAddress(t)
	d := &daemon{t: t, url: "http://" + public, admin: "http://" + admin, ended: make(chan struct{})}
	d.cmd = exec.Command(binary, append(args, "--listen", public, "--admin-listen", admin)...)
	d.cmd.Env = environ(env...)
	d.cmd.Stdout, d.cmd.Stderr = &d.output, &d.output
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.ended)
	}()
	t.Cleanup(func() {
		select {
		case <-d.ended:
		default:
			_ = d.cmd.Process.Kill()
			<-d.ended
		}
	})
	return d
}

// stop ends the service in order and wants exit code 0.
func (d *daemon) stop() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	<-d.ended
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		d.t.Errorf("exit code %d: %s", code, d.output.String())
	}
}

func (d *daemon) get(url, token string) (int, string) {
	d.t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func readToken(t *testing.T, file string) string {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %o", file, info.Mode().Perm())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// once runs assayd to its end.
func once(t *testing.T, env []string, args ...string) (code int, output string) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = environ(env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}
