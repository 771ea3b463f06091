package embedded

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// process is one run of the server.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // why it ended; valid once done is closed
}

func (p *process) signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// settings of the server beside Postgres's defaults. Durability is never traded: fsync, full_page_writes and
// synchronous_commit stay on.
var settings = []string{
	"listen_addresses=",
	"unix_socket_permissions=0700",
	"shared_buffers=64MB",
	"max_connections=50",
	"synchronous_commit=on",
	"fsync=on",
	"max_wal_size=1GB",
	"random_page_cost=1.1", // data folders are on solid state disks
	"jit=off",              // statements are short; compiling them costs more than they do
	"log_timezone=UTC",
	"timezone=UTC",
	"log_line_prefix=%m [%p] ",
}

// visible turns a path inside the data folder into one that the server can reach. Folders above the data
// folder may be closed to the server's user (the data of root is below /root, mode 0700), so the server
// inherits the data folder as descriptor 3 and goes through it: permissions of the folders above do not matter
// then, and none of them is changed.
func (p *Postgres) visible(path string) string {
	if p.user == nil {
		return path
	}
	rel, err := filepath.Rel(p.paths.base, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return path
	}
	return filepath.Join("/proc/self/fd/3", rel)
}

// command prepares a server program. folder is descriptor 3 of the child; the caller closes it after the start.
func (p *Postgres) command(name string, args ...string) (cmd *exec.Cmd, folder *os.File, err error) {
	folder, err = os.Open(p.paths.base)
	if err != nil {
		return nil, nil, fmt.Errorf("open the data folder: %w", err)
	}
	cmd = exec.Command(filepath.Join(p.install.bin, name), args...) // #nosec G204 -- found by findInstallation
	cmd.Env = serverEnv(p.install.bin)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{folder}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // an interrupt at the terminal is for the service, which then stops the server in order
		Pdeathsig: syscall.SIGINT,
	}
	if p.user != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: p.user.uid, Gid: p.user.gid}
	}
	return cmd, folder, nil
}

// initialise makes the data beside its final place and renames it, so that a folder named data is always whole.
func (p *Postgres) initialise(ctx context.Context) error {
	fresh := p.paths.data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove an unfinished data folder: %w", err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	if err := p.user.own(fresh); err != nil {
		return err
	}
	cmd, folder, err := p.command("initdb", "--pgdata="+p.visible(fresh), "--username="+superuser,
		"--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C")
	if err != nil {
		return err
	}
	defer func() { _ = folder.Close() }()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	proc, err := startLocked(cmd)
	if err != nil {
		return fmt.Errorf("start initdb: %w", err)
	}
	select {
	case <-proc.done:
	case <-ctx.Done():
		proc.signal(syscall.SIGKILL)
		<-proc.done
		return fmt.Errorf("initdb: %w", ctx.Err())
	}
	if proc.err != nil {
		return fmt.Errorf("initdb: %w\n%s", proc.err, out.String())
	}
	if err := os.Rename(fresh, p.paths.data); err != nil {
		return fmt.Errorf("name the data folder: %w", err)
	}
	return nil
}

func (p *Postgres) launch() (*process, error) {
	args := []string{"-D", p.visible(p.paths.data), "-c", "unix_socket_directories=" + p.visible(p.paths.socket)}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	cmd, folder, err := p.command("postgres", args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = folder.Close() }()
	log, err := os.OpenFile(p.paths.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	cmd.Stdout, cmd.Stderr = log, log
	proc, err := startLocked(cmd)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return proc, nil
}

// startLocked starts cmd from a thread that lives as long as the child: the parent-death signal is sent
// when the thread that started the child ends, not the process (prctl(2), PR_SET_PDEATHSIG).
func startLocked(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// tail is the end of a log, for an error message.
func tail(path string) string {
	f, err := os.Open(path) // #nosec G304 -- the server's own log
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	const keep = 2000
	if info, err := f.Stat(); err == nil && info.Size() > keep {
		if _, err := f.Seek(-keep, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, keep))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}
