//go:build !linux

package store

import (
	"syscall"
	"time"
)

// boundSilence has no equal elsewhere: the system's own patience holds.
func boundSilence(syscall.RawConn, time.Duration) error { return nil }
