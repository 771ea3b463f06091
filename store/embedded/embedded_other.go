//go:build !linux

package embedded

import (
	"context"
	"errors"
)

// Postgres is a running server. There is none on this operating system.
type Postgres struct{}

// Start fails: the embedded Postgres relies on Linux (parent-death signal, /proc).
func Start(context.Context, Config) (*Postgres, error) {
	return nil, errors.New("the embedded Postgres runs on Linux only; give a database URL")
}

// Running fails, for the same reason.
func Running(string) (string, error) { return "", ErrNotRunning }

// URL is empty.
func (*Postgres) URL() string { return "" }

// URLFor is empty.
func (*Postgres) URLFor(string) string { return "" }

// Stop does nothing.
func (*Postgres) Stop(context.Context) error { return nil }
