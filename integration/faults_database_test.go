package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store/embedded"
)

// cluster is a Postgres and its synchronous standby, behind a relay: what is committed is on both before anybody is told.
type cluster struct {
	t       *testing.T
	relay   *relay
	primary *member
	standby *member
	made    int
}

// member is one server, on a disk of its own.
type member struct {
	*embedded.Postgres
	dir, socket string
	disk        *disk
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, relay: newRelay(t)}
	c.primary = c.member()
	c.primary.start(t)
	c.relay.to(c.primary.socket)
	return c
}

// member makes the place of one more server.
func (c *cluster) member() *member {
	c.t.Helper()
	c.made++
	dir := newFolder(c.t)
	return &member{dir: dir, disk: newDisk(c.t, dir)}
}

func (m *member) start(t *testing.T) {
	t.Helper()
	var err error
	if m.Postgres, err = embedded.Start(t.Context(), embedded.Config{DataDir: m.dir}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Stop(context.Background()) })
	u, err := url.Parse(m.URL())
	if err != nil {
		t.Fatal(err)
	}
	m.socket = filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432")
}

// postmaster is the process that all others of the server are children of; 0 while there is none.
func (m *member) postmaster() int {
	file, err := os.ReadFile(filepath.Join(m.dir, "data", "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(file), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return 0
	}
	return pid
}

// signal sends the server a signal. Where it is just starting again there is nobody to send it to.
func (m *member) signal(s syscall.Signal) {
	if pid := m.postmaster(); pid > 0 {
		_ = syscall.Kill(pid, s)
	}
}

// backend is the process of one of the connections of services.
func (c *cluster) backend() (pid int, err error) {
	err = c.query(`SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1`, &pid)
	return pid, err
}

// query asks the primary, past the relay.
func (c *cluster) query(sql string, into ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.primary.URL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if len(into) == 0 {
		_, err = conn.Exec(ctx, sql)
		return err
	}
	return conn.QueryRow(ctx, sql).Scan(into...)
}

// until waits for a condition of the cluster.
func (c *cluster) until(what string, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not in %s", what, patience)
		}
	}
}

// addStandby makes a standby out of a base backup, and lets commits wait for it.
func (c *cluster) addStandby() {
	c.t.Helper()
	if c.standby != nil {
		return
	}
	// What the backup takes along: a standby that has lost its primary tries again at once.
	for _, sql := range []string{`ALTER SYSTEM SET wal_retrieve_retry_interval = '200ms'`, `ALTER SYSTEM RESET synchronous_standby_names`, `SELECT pg_reload_conf()`} {
		c.until(sql, func() bool { return c.query(sql) == nil })
	}
	m := c.member()
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.primary.postmaster()))
	if err != nil {
		c.t.Fatal(err)
	}
	owner := c.owner()
	if owner != nil {
		if err := os.Chown(m.dir, int(owner.Uid), int(owner.Gid)); err != nil {
			c.t.Fatal(err)
		}
	}
	backup := exec.CommandContext(c.t.Context(), filepath.Join(filepath.Dir(exe), "pg_basebackup"), "--pgdata="+filepath.Join(m.dir, "data"), //nolint:gosec // beside the server that runs
		"--dbname="+c.primary.URL(), "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
	backup.Dir, backup.SysProcAttr = "/", &syscall.SysProcAttr{Credential: owner}
	if out, err := backup.CombinedOutput(); err != nil {
		c.t.Fatalf("base backup: %v\n%s", err, out)
	}
	m.start(c.t)
	for _, sql := range []string{`ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`} {
		if err := c.query(sql); err != nil {
			c.t.Fatal(err)
		}
	}
	c.until("the standby follows", func() bool {
		var n int
		return c.query(`SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'`, &n) == nil && n == 1
	})
	c.standby = m
}

// owner is the user that the server runs as; nil for this one.
func (c *cluster) owner() *syscall.Credential {
	c.t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Stat(filepath.Join(c.primary.dir, "data"), &stat); err != nil {
		c.t.Fatal(err)
	}
	if int(stat.Uid) == os.Geteuid() {
		return nil
	}
	return &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}
}

// failOver lets the primary die with its disk, in the middle of what it does, and promotes the standby.
func (c *cluster) failOver() {
	c.t.Helper()
	old := c.primary
	c.relay.to("") // nobody reaches the old primary from here on, also where its supervisor is quick
	old.signal(syscall.SIGKILL)
	_ = old.Stop(context.Background())
	old.disk.release(c.t)
	c.primary, c.standby = c.standby, nil
	c.until("the standby is promoted", func() bool {
		var done bool
		return c.query(`SELECT NOT pg_is_in_recovery() OR pg_promote()`, &done) == nil && done
	})
	c.relay.to(c.primary.socket)
}

// disk is where one server keeps its data, and can be full.
type disk struct {
	dir      string
	tmpfs    bool
	released sync.Once
}

// newDisk is a file system of its own where this process may mount one: then a full disk is one. Elsewhere the server's
// processes are kept from writing files any longer than a few pages (RLIMIT_FSIZE), which fails at the same places of
// Postgres, with EFBIG in place of ENOSPC.
func newDisk(t *testing.T, dir string) *disk {
	t.Helper()
	d := &disk{dir: dir}
	switch err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size=512m,mode=0711"); {
	case err == nil:
		d.tmpfs = true
		t.Cleanup(func() { d.release(t) })
	case !errors.Is(err, syscall.EPERM):
		t.Fatal(err)
	}
	return d
}

// release gives its memory back.
func (d *disk) release(t *testing.T) {
	t.Helper()
	if !d.tmpfs {
		return
	}
	d.released.Do(func() {
		if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill fills the disk of a server up.
func (m *member) fill(t *testing.T) {
	t.Helper()
	if !m.disk.tmpfs {
		m.limit(t, "16384:")
		return
	}
	f, err := os.Create(filepath.Join(m.dir, "ballast"))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = f.Close() }()
	for block := make([]byte, 64<<10); ; {
		if n, err := f.Write(block); err != nil || n < len(block) {
			return
		}
	}
}

// free takes away what fill has brought.
func (m *member) free(t *testing.T) {
	t.Helper()
	if !m.disk.tmpfs {
		m.limit(t, "unlimited:")
		return
	}
	if err := os.Remove(filepath.Join(m.dir, "ballast")); err != nil {
		t.Error(err)
	}
}

// limit sets the longest file that processes of the server may write, as their user.
func (m *member) limit(t *testing.T, limit string) {
	t.Helper()
	parent := m.postmaster()
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	for _, pid := range append(strings.Fields(string(children)), strconv.Itoa(parent)) {
		cmd := exec.CommandContext(t.Context(), "prlimit", "--pid", pid, "--fsize="+limit)
		if owner, err := os.Stat("/proc/" + pid); err == nil {
			if stat, ok := owner.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}}
			}
		}
		_ = cmd.Run() // a process that has ended meanwhile has no limit
	}
}
