package receivertest

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
)

// Syslog takes sessions and reads frames (RFC 5425, section 4.3) until the sender ends. misbehave, if not nil, takes a session
// in place of reading it.
func Syslog(t testing.TB, secure bool, misbehave func(net.Conn)) (address string, trusted *x509.Certificate, frames <-chan string) {
	t.Helper()
	certificate := Certificate(t, "127.0.0.1")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = listener.Addr().String()
	if secure {
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})
	}
	if misbehave == nil {
		got := make(chan string, 100)
		misbehave, frames = func(conn net.Conn) { ReadFrames(conn, got) }, got
	}
	accept(t, listener, func(conn net.Conn) {
		misbehave(conn)
		_ = conn.Close()
	})
	return address, certificate.Leaf, frames
}

// ReadFrames reads a session's frames until its sender ends it.
func ReadFrames(conn net.Conn, frames chan<- string) {
	in := bufio.NewReader(conn)
	for {
		length, err := in.ReadString(' ')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSuffix(length, " "))
		if err != nil || n <= 0 || n > 1<<20 {
			frames <- "bad length " + length
			return
		}
		frame := make([]byte, n)
		if _, err := io.ReadFull(in, frame); err != nil {
			frames <- "cut frame"
			return
		}
		frames <- string(frame)
	}
}
