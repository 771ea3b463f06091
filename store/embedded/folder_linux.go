package embedded

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// dropTo is the unprivileged user that the server runs as; nil where this process is not root.
type dropTo struct{ uid, gid uint32 }

func lookupUser() (*dropTo, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, errors.New("Postgres does not run as root, and there is no user postgres or nobody to run it as: start the service as an ordinary user")
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil || uid == 0 || uid == math.MaxUint32 {
		return nil, fmt.Errorf("user %s has the unusable id %s", u.Username, u.Uid)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s has the unusable group %s", u.Username, u.Gid)
	}
	return &dropTo{uint32(uid), uint32(gid)}, nil
}

// own gives a folder and all that is in it to the server's user, unless it has it already. Links are not followed.
func (u *dropTo) own(dir string) error {
	if u == nil {
		return nil
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("folder of the server: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid == u.uid {
		return nil
	}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(u.uid), int(u.gid)) //nolint:gosec // Lchown follows no link, and the folder is ours alone
	})
	if err != nil {
		return fmt.Errorf("give %s to the server's user: %w", dir, err)
	}
	return nil
}

// socketDir is the folder of the socket. Where the data folder's path is too long for a socket, it is a folder below
// /tmp whose name follows from that path.
func socketDir(base string) string {
	dir := filepath.Join(base, "run")
	if len(dir) > maxSocketDir {
		sum := sha256.Sum256([]byte(base))
		dir = filepath.Join("/tmp", "assay-postgres-"+hex.EncodeToString(sum[:8]))
	}
	return dir
}

// makeSocketDir makes the folder of the socket, which only the server's user (and root) can enter.
func (p *Postgres) makeSocketDir() (string, error) {
	dir := socketDir(p.paths.base)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make the socket folder: %w", err)
	}
	if err := p.checkSocketDir(dir); err != nil {
		return "", err
	}
	return dir, p.user.own(dir)
}

// checkSocketDir refuses a folder of somebody else.
func (p *Postgres) checkSocketDir(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("socket folder: %w", err)
	}
	// Below /tmp anybody could have made it first, to be in the middle of our connections.
	st, ok := info.Sys().(*syscall.Stat_t)
	ours := ok && (int(st.Uid) == os.Geteuid() || p.user != nil && st.Uid == p.user.uid)
	if !info.IsDir() || !ours || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("%s should be a folder of ours with mode 0700: remove it", dir)
	}
	return nil
}

// takeLock makes sure that one process uses the folder. The kernel frees the lock with the process.
func takeLock(base string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(base, "lock"), os.O_CREATE|os.O_RDWR, 0o600) // #nosec G304 -- the configured folder
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0)
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w (process %s)", base, ErrInUse, strings.TrimSpace(string(holder[:n])))
		}
		return nil, fmt.Errorf("lock %s: %w", base, err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", base, err)
		}
	}
	return f, nil
}

// stopLeftovers ends server processes that an earlier, killed run left on the data folder, and removes its
// lock files, which may name a process that is none of them (ids are used again, above all in containers).
// The caller holds the lock, so nobody else starts one meanwhile. A server process is known by its working
// directory: Postgres changes into its data folder and stays there.
func (p *Postgres) stopLeftovers(ctx context.Context) error {
	signalled := map[int]bool{}
	begin := time.Now()
	for {
		left, err := processesIn(p.paths.data)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			break
		}
		for _, pid := range left {
			sig := syscall.SIGINT // to the postmaster: fast shutdown; to an orphaned backend: cancel
			if time.Since(begin) > 10*time.Second {
				sig = syscall.SIGQUIT
			} else if signalled[pid] {
				continue
			}
			if !signalled[pid] {
				p.logf("process %d of an earlier run is still using %s; it is stopped", pid, p.paths.data)
			}
			signalled[pid] = true
			_ = syscall.Kill(pid, sig)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v of an earlier run still use %s: %w", left, p.paths.data, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	// Both name a process id, and Postgres refuses to start while a process has it: the killed server, as
	// long as nobody has waited for it, or after a reboot just any process.
	for _, stale := range []string{filepath.Join(p.paths.data, "postmaster.pid"), filepath.Join(p.paths.socket, ".s.PGSQL.5432.lock")} {
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove a stale %s: %w", filepath.Base(stale), err)
		}
	}
	return nil
}

// processesIn lists the processes whose working directory is dir.
func processesIn(dir string) ([]int, error) {
	target, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// Processes of others cannot be looked into, and cannot be ours either.
		cwd, err := os.Stat(filepath.Join("/proc", e.Name(), "cwd"))
		if err == nil && os.SameFile(cwd, target) {
			if exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe")); err == nil && strings.HasPrefix(filepath.Base(exe), "postgres") {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}
