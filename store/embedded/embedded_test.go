package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/assay-verifier/assay/store/embedded"
)

// childDir makes this test binary a service that runs a server on that folder until it is killed.
const childDir = "ASSAY_TEST_EMBEDDED_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
	}
	goleak.VerifyTestMain(m)
}

func child(dir string) {
	p, err := embedded.Start(context.Background(), embedded.Config{DataDir: dir})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("url", p.URL())
	select {}
}

// folder is a data folder with a path as short as the tests need it, mode 0700 like one below /root.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, dir string) *embedded.Postgres {
	t.Helper()
	p, err := embedded.Start(t.Context(), embedded.Config{DataDir: dir, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, p) })
	return p
}

func stop(t *testing.T, p *embedded.Postgres) {
	t.Helper()
	if err := p.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec1(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, c *pgx.Conn) (n int) {
	t.Helper()
	if err := c.QueryRow(t.Context(), `SELECT count(*) FROM t`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestKeepsItsDataAndListensOnNothingButItsSocket(t *testing.T) {
	dir := folder(t)
	p := start(t, dir)
	c := connect(t, p.URL())
	exec1(t, c, `CREATE TABLE t (a int)`)
	exec1(t, c, `INSERT INTO t VALUES (1)`)
	for name, want := range map[string]string{"listen_addresses": "", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"} {
		var got string
		if err := c.QueryRow(t.Context(), `SELECT current_setting($1)`, name).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", name, got, err, want)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "run"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's folder has mode %v (%v), want 0700", info.Mode(), err)
	}
	_ = c.Close(t.Context())
	stop(t, p)

	p = start(t, dir)
	if n := count(t, connect(t, p.URL())); n != 1 {
		t.Errorf("%d rows after a restart, want 1", n)
	}
}

func TestSecondServiceOnTheFolderIsRefused(t *testing.T) {
	dir := folder(t)
	start(t, dir)
	_, err := embedded.Start(t.Context(), embedded.Config{DataDir: dir})
	if !errors.Is(err, embedded.ErrInUse) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("second start: %v, want ErrInUse with the holder's process id", err)
	}
}

func TestLongFolder(t *testing.T) {
	dir := filepath.Join(folder(t), strings.Repeat("long/", 30))
	p := start(t, dir)
	exec1(t, connect(t, p.URL()), `SELECT 1`)
}

func TestServerThatDiesIsStartedAgain(t *testing.T) {
	dir := folder(t)
	p := start(t, dir)
	c := connect(t, p.URL())
	exec1(t, c, `CREATE TABLE t (a int)`)
	exec1(t, c, `INSERT INTO t VALUES (1)`)
	kill(t, postmaster(t, dir))
	deadline := time.Now().Add(30 * time.Second)
	for {
		conn, err := pgx.Connect(t.Context(), p.URL())
		if err == nil {
			if n := count(t, conn); n != 1 {
				t.Errorf("%d rows after the crash, want 1", n)
			}
			_ = conn.Close(t.Context())
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not back: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestKilledServiceLeavesAUsableFolder(t *testing.T) {
	dir := folder(t)
	service := exec.Command(os.Args[0])
	service.Env = append(os.Environ(), childDir+"="+dir)
	out, err := service.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "url ") {
		t.Fatalf("the service said %q, %v", line, err)
	}
	c := connect(t, strings.TrimSpace(strings.TrimPrefix(line, "url ")))
	exec1(t, c, `CREATE TABLE t (a int)`)
	exec1(t, c, `INSERT INTO t VALUES (1)`)
	kill(t, service.Process.Pid)
	_ = service.Wait()

	p := start(t, dir)
	if n := count(t, connect(t, p.URL())); n != 1 {
		t.Errorf("%d rows after the kill, want 1", n)
	}
}

// An orphaned server (its service gone, itself still running) and a postmaster.pid that names an unrelated
// process are both cleared away.
func TestOrphanedServerIsStoppedFirst(t *testing.T) {
	dir := folder(t)
	first := start(t, dir)
	stop(t, first)
	stale := filepath.Join(dir, "data", "postmaster.pid")
	if err := os.WriteFile(stale, []byte(fmt.Sprintf("%d\n%s\n", os.Getpid(), filepath.Join(dir, "data"))), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir)
	exec1(t, connect(t, p.URL()), `SELECT 1`)
}

func TestNothingInstalledNamesTheLineThatInstallsIt(t *testing.T) {
	if !strings.Contains(embedded.ErrNotInstalled.Error(), "apt-get install -y postgresql") {
		t.Error(embedded.ErrNotInstalled)
	}
}

func TestDataOfAnotherVersionIsNamed(t *testing.T) {
	dir := folder(t)
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := embedded.Start(t.Context(), embedded.Config{DataDir: dir})
	if err == nil || !strings.Contains(err.Error(), "Postgres 9") {
		t.Errorf("start on data of version 9: %v", err)
	}
}

func postmaster(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
