package store

import (
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// How long connections are believed in that say nothing. A firewall that has forgotten them, or a server that was cut off,
// sends no word: without bounds, Linux would try for a quarter of an hour.
const (
	connectTimeout = 10 * time.Second // to a server that does not answer, unless the URL says otherwise
	pingTimeout    = 5 * time.Second  // of a connection that was idle, before it is used again
	silentTimeout  = 20 * time.Second // what was sent is not acknowledged, or nobody answers the keep-alives
)

// boundWaits sets these bounds, where the URL does not.
func boundWaits(cfg *pgxpool.Config) {
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = connectTimeout
	}
	if cfg.PingTimeout == 0 {
		cfg.PingTimeout = pingTimeout
	}
	dialer := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silentTimeout / 2, Interval: silentTimeout / 6, Count: 3},
		Control: func(network, _ string, c syscall.RawConn) error {
			if network == "unix" {
				return nil
			}
			return boundSilence(c, silentTimeout)
		},
	}
	cfg.ConnConfig.DialFunc = dialer.DialContext
}
