package store_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"

	"github.com/assay-verifier/assay/store"
)

// Connections to Postgres have the bounds that let a service recover by itself from peers that have gone without a word.
// What the URL says goes first.
func TestConnectionsAreNotBelievedInForEver(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	cfg, err := pgxpool.ParseConfig("postgres://" + listener.Addr().String() + "/assay")
	if err != nil {
		t.Fatal(err)
	}
	store.BoundWaits(cfg)
	if cfg.ConnConfig.ConnectTimeout != 10*time.Second || cfg.PingTimeout != 5*time.Second {
		t.Errorf("connect within %s, ping within %s", cfg.ConnConfig.ConnectTimeout, cfg.PingTimeout)
	}
	conn, err := cfg.ConnConfig.DialFunc(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		for option, want := range map[int]int{unix.TCP_USER_TIMEOUT: 20_000, unix.TCP_KEEPIDLE: 10, unix.TCP_KEEPCNT: 3} {
			if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); err != nil || got != want {
				t.Errorf("TCP option %d is %d (%v), want %d", option, got, err, want)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}

	cfg, err = pgxpool.ParseConfig("postgres:///assay?host=/tmp&connect_timeout=3&pool_ping_timeout=1s")
	if err != nil {
		t.Fatal(err)
	}
	store.BoundWaits(cfg)
	if cfg.ConnConfig.ConnectTimeout != 3*time.Second || cfg.PingTimeout != time.Second {
		t.Errorf("the URL's bounds are not kept: %s, %s", cfg.ConnConfig.ConnectTimeout, cfg.PingTimeout)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cfg.ConnConfig.DialFunc(ctx, "unix", "/nonexistent"); err == nil {
		t.Error("a socket that is not there was dialled")
	}
}
