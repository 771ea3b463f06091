// Package embedded runs a private Postgres for one process: the default database of assayd, and the real
// Postgres of the tests.
//
// It uses server binaries that are installed already (see Start for where it looks) and ships none. The
// server listens on a unix socket in a folder that only it and this process can enter, keeps its data in
// that folder with fsync on, and stops with the process: orderly by Stop, and by the kernel's parent-death
// signal when the process is killed. A server that dies by itself is started again.
//
// The folder holds:
//
//	lock          held (flock) while a process uses the folder
//	data/         PGDATA, owned by the user that Postgres runs as
//	run/          the socket
//	postgres.log  what the server says
package embedded

import (
	"errors"
	"time"
)

// ErrNotInstalled is returned where no Postgres server binaries are found. Its text holds the line that
// installs them.
var ErrNotInstalled = errors.New("no Postgres server is installed; this installs it:\n  apt-get install -y postgresql")

// ErrInUse is returned where another process runs a server on the same folder.
var ErrInUse = errors.New("the data folder is in use by another process")

// ErrNotRunning is returned where no process runs a server on the folder.
var ErrNotRunning = errors.New("no server runs on the data folder")

// Config says where a server lives.
type Config struct {
	// DataDir is a folder for this server alone; it is made if missing.
	DataDir string
	// Logf is told what happens (start, stop, recovery); nil for silence.
	Logf func(format string, args ...any)
	// StartTimeout bounds the wait until the server answers, crash recovery included; 0 means 60 s.
	StartTimeout time.Duration
}

const (
	superuser = "assay"
	database  = "assay"
	// A unix socket's path has room for 107 bytes (unix(7), sun_path); Postgres appends "/.s.PGSQL.5432".
	maxSocketDir = 107 - len("/.s.PGSQL.5432")
)
