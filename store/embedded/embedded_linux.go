package embedded

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a running server.
type Postgres struct {
	paths   paths
	install installation
	user    *dropTo
	logf    func(string, ...any)
	lock    *os.File

	mu       sync.Mutex
	current  *process
	stopping bool
	idle     chan struct{} // closed when the server has stopped for good
	wake     chan struct{} // closed by Stop, ends a wait before a restart
}

// paths are the places inside the data folder.
type paths struct {
	base, data, log, socket string
}

// Start runs a server on c.DataDir and returns once it answers. It makes the data on first use, and
// recovers a folder whose last user was killed: a server that still runs on it is stopped first.
//
// Started as root it runs the server as the user postgres, or nobody, since Postgres refuses to run as root.
//
// Errors: ErrNotInstalled, ErrInUse, and failures of the server with the end of its log.
func Start(ctx context.Context, c Config) (*Postgres, error) {
	logf := c.Logf
	if logf == nil {
		logf = func(string, ...any) {}
	}
	base, err := filepath.Abs(c.DataDir)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	timeout := c.StartTimeout
	if timeout <= 0 {
		timeout = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	if err := os.MkdirAll(base, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	lock, err := takeLock(base)
	if err != nil {
		return nil, err
	}
	p := &Postgres{logf: logf, lock: lock, idle: make(chan struct{}), wake: make(chan struct{})}
	if err := p.start(ctx, base); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return p, nil
}

func (p *Postgres) start(ctx context.Context, base string) error {
	var err error
	p.paths = paths{base: base, data: filepath.Join(base, "data"), log: filepath.Join(base, "postgres.log")}
	version, err := dataVersion(p.paths.data)
	if err != nil {
		return err
	}
	if p.install, err = findInstallation(base, version); err != nil {
		return err
	}
	if p.user, err = lookupUser(); err != nil {
		return err
	}
	if p.user != nil {
		// The server's user must be able to pass through, not to look around.
		if err := os.Chmod(base, 0o711); err != nil { // #nosec G302 -- what is inside is 0600 and 0700
			return fmt.Errorf("open the data folder to the server's user: %w", err)
		}
	}
	if p.paths.socket, err = p.makeSocketDir(); err != nil {
		return err
	}
	if err := p.stopLeftovers(ctx); err != nil {
		return err
	}
	if version == 0 {
		if err := p.initialise(ctx); err != nil {
			return err
		}
	}
	if err := p.user.own(p.paths.data); err != nil {
		return err
	}
	if p.current, err = p.launch(); err != nil {
		return err
	}
	if err := p.waitReady(ctx, p.current); err != nil {
		p.current.signal(syscall.SIGQUIT)
		<-p.current.done
		return err
	}
	p.logf("embedded Postgres %d runs on %s", p.install.major, p.paths.base)
	go p.supervise(p.current)
	return nil
}

// Running is the connection URL of the server that another process runs on a data folder. The server may end at any time.
// Errors: ErrNotRunning, and a folder that is not ours.
func Running(dataDir string) (string, error) {
	base, err := filepath.Abs(dataDir)
	if err != nil {
		return "", fmt.Errorf("data folder: %w", err)
	}
	lock, err := takeLock(base)
	switch {
	case err == nil:
		return "", errors.Join(fmt.Errorf("%s: %w", base, ErrNotRunning), lock.Close())
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("%s: %w", base, ErrNotRunning)
	case !errors.Is(err, ErrInUse):
		return "", err
	}
	p := &Postgres{paths: paths{base: base, socket: socketDir(base)}}
	if p.user, err = lookupUser(); err != nil {
		return "", err
	}
	return p.URL(), p.checkSocketDir(p.paths.socket)
}

// URL is the connection URL of the server's database: a unix socket, no password.
func (p *Postgres) URL() string { return p.urlOf(superuser, database) }

// URLFor is the same for another login, which has to be made first. The server trusts whoever reaches its socket.
func (p *Postgres) URLFor(login string) string { return p.urlOf(login, database) }

func (p *Postgres) urlOf(login, db string) string {
	q := url.Values{"host": {p.paths.socket}, "sslmode": {"disable"}}
	u := url.URL{Scheme: "postgres", User: url.User(login), Path: "/" + db, RawQuery: q.Encode()}
	return u.String()
}

// Stop ends the server in order (fast shutdown: open transactions are rolled back, all else is on disk) and
// frees the folder. Where ctx ends first the server is stopped at once; its data recovers at the next Start.
func (p *Postgres) Stop(ctx context.Context) error {
	p.mu.Lock()
	if !p.stopping {
		p.stopping = true
		close(p.wake)
	}
	current := p.current
	p.mu.Unlock()

	current.signal(syscall.SIGINT)
	var err error
	select {
	case <-p.idle:
	case <-ctx.Done():
		err = fmt.Errorf("embedded Postgres did not stop in time and was ended at once: %w", ctx.Err())
		current.signal(syscall.SIGQUIT)
		select {
		case <-p.idle:
		case <-time.After(5 * time.Second):
			current.signal(syscall.SIGKILL)
			<-p.idle
		}
	}
	if closeErr := p.lock.Close(); closeErr != nil && !errors.Is(closeErr, os.ErrClosed) {
		err = errors.Join(err, closeErr)
	}
	return err
}

// supervise starts the server again when it ends without Stop, for example when the kernel's out-of-memory
// killer took it. Connections of the service are made anew by its pool.
func (p *Postgres) supervise(current *process) {
	defer close(p.idle)
	for {
		<-current.done
		if p.isStopping() {
			return
		}
		p.logf("embedded Postgres ended by itself (%v); it is started again", current.err)
		for {
			next, err := p.restart()
			if p.isStopping() {
				if next != nil {
					next.signal(syscall.SIGINT)
					<-next.done
				}
				return
			}
			if err == nil {
				current = next
				break
			}
			p.logf("embedded Postgres does not start: %v", err)
			select {
			case <-p.wake:
			case <-time.After(time.Second):
			}
		}
	}
}

func (p *Postgres) restart() (*process, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.stopLeftovers(ctx); err != nil {
		return nil, err
	}
	next, err := p.launch()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.current = next
	p.mu.Unlock()
	return next, nil
}

func (p *Postgres) isStopping() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopping
}

// waitReady returns once the server accepts connections and the database exists.
func (p *Postgres) waitReady(ctx context.Context, proc *process) error {
	for {
		err := p.ensureDatabase(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-proc.done:
			return fmt.Errorf("embedded Postgres ended at once (%w); its log %s ends with:\n%s", proc.err, p.paths.log, tail(p.paths.log))
		case <-ctx.Done():
			return fmt.Errorf("embedded Postgres does not answer: %w; its log %s ends with:\n%s", err, p.paths.log, tail(p.paths.log))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *Postgres) ensureDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.urlOf(superuser, "postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, database).Scan(&exists); err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, `CREATE DATABASE `+database)
	return err
}
