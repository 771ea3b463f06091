package store

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// boundSilence ends a connection whose peer acknowledges nothing for that long (tcp(7), TCP_USER_TIMEOUT).
func boundSilence(c syscall.RawConn, limit time.Duration) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
	return errors.Join(err, set)
}
