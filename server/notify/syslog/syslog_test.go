package syslog_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/server/notify/receivertest"
	"github.com/assay-verifier/assay/server/notify/syslog"
)

// receiver is one, and how it is known.
type receiver struct {
	address string
	roots   *tls.Config
	frames  <-chan string
}

// listen starts one; misbehave, if not nil, takes a session in place of reading it.
func listen(t *testing.T, secure bool, misbehave func(net.Conn)) *receiver {
	t.Helper()
	address, trusted, frames := receivertest.Syslog(t, secure, misbehave)
	return &receiver{address, &tls.Config{RootCAs: receivertest.Trusting(trusted)}, frames}
}

func (r *receiver) target(secure bool) syslog.Target {
	if secure {
		return syslog.Target{Address: r.address, TLS: r.roots}
	}
	return syslog.Target{Address: r.address}
}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, address)
}

func message(body string) syslog.Message {
	return syslog.Message{Facility: syslog.FacilityAuthPriv, Severity: syslog.Warning, At: time.Date(2026, 3, 1, 14, 2, 3, 450e6, time.FixedZone("", 3600)),
		Host: "verifier-1", App: "assay", Version: "1.2.3", ProcID: "77", MsgID: "alert.opened", Body: []byte(body)}
}

func TestMessagesArriveInOrder(t *testing.T) {
	for _, secure := range []bool{true, false} {
		r := listen(t, secure, nil)
		if err := syslog.Send(t.Context(), dial, r.target(secure), message("one"), message("zwölf"), message("a\nb")); err != nil {
			t.Fatal(err)
		}
		const head = `<84>1 2026-03-01T13:02:03.450000Z verifier-1 assay 77 alert.opened [origin software="assay" swVersion="1.2.3"] `
		for _, want := range []string{head + "one", head + "\uFEFFzwölf", head + "a\nb"} {
			if got := <-r.frames; got != want {
				t.Errorf("secure %v: got %q, want %q", secure, got, want)
			}
		}
	}
}

// A message that a receiver may not have read is an error.
func TestNotDelivered(t *testing.T) {
	read := func(conn net.Conn) { // one message, and then nothing more
		_, _ = io.ReadFull(conn, make([]byte, 10))
	}
	for name, c := range map[string]struct {
		misbehave func(net.Conn)
		plain     bool
		want      string
	}{
		"closes early": {func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)); reset(conn) }, true, ""},
		"resets after reading": {func(conn net.Conn) {
			read(conn)
			reset(conn)
		}, true, ""},
		"talks": {func(conn net.Conn) { _, _ = conn.Write(make([]byte, 10000)); _, _ = io.Copy(io.Discard, conn) }, false, "talks"},
	} {
		t.Run(name, func(t *testing.T) {
			r := listen(t, !c.plain, c.misbehave)
			err := syslog.Send(t.Context(), dial, r.target(!c.plain), message(strings.Repeat("x", 60000)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// A receiver that keeps the session open has not said that it read everything: the sender leaves when its time is over.
func TestReceiverThatNeverEnds(t *testing.T) {
	for _, secure := range []bool{true, false} {
		got, leave := make(chan struct{}), make(chan struct{})
		r := listen(t, secure, func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1000))
			close(got)
			<-leave
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-got; cancel() }()
		err := syslog.Send(ctx, dial, r.target(secure), message("one"))
		close(leave)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("secure %v: %v", secure, err)
		}
	}
}

func TestReceiverIsNotTrusted(t *testing.T) {
	r := listen(t, true, nil)
	other := listen(t, true, nil)
	for name, config := range map[string]*tls.Config{"unknown root": {}, "another's root": other.roots, "another name": {RootCAs: r.roots.RootCAs, ServerName: "elsewhere.test"}} {
		err := syslog.Send(t.Context(), dial, syslog.Target{Address: r.address, TLS: config}, message("one"))
		if err == nil || !strings.Contains(err.Error(), "TLS") {
			t.Errorf("%s: %v", name, err)
		}
	}
	old := r.roots.Clone()
	old.MaxVersion = tls.VersionTLS11
	if err := syslog.Send(t.Context(), dial, syslog.Target{Address: r.address, TLS: old}, message("one")); err == nil {
		t.Error("TLS 1.1 was spoken")
	}
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("may not be asked") }
	if err := syslog.Send(t.Context(), refuse, r.target(true), message("one")); err == nil || !strings.Contains(err.Error(), "may not be asked") {
		t.Errorf("dial: %v", err)
	}
	if len(r.frames) > 0 {
		t.Errorf("delivered: %s", <-r.frames)
	}
}

func TestBadMessages(t *testing.T) {
	r := listen(t, false, nil)
	for name, change := range map[string]func(*syslog.Message){
		"facility": func(m *syslog.Message) { m.Facility = 24 }, "below": func(m *syslog.Message) { m.Facility = -1 },
		"severity": func(m *syslog.Message) { m.Severity = 8 }, "negative": func(m *syslog.Message) { m.Severity = -1 },
		"long": func(m *syslog.Message) { m.Body = make([]byte, syslog.MaxBody+1) }, "not UTF-8": func(m *syslog.Message) { m.Body = []byte{0xff} },
	} {
		m := message("x")
		change(&m)
		if err := syslog.Send(t.Context(), dial, r.target(false), message("fine"), m); err == nil || !strings.Contains(err.Error(), "message 2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(r.frames) > 0 {
		t.Errorf("sent all the same: %s", <-r.frames)
	}
}

// header is the grammar of RFC 5424, section 6, for what this package writes.
var header = regexp.MustCompile(`^<\d{1,3}>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]{1,255} [!-~]{1,48} [!-~]{1,128} [!-~]{1,32} ` +
	`\[origin software="((?:[^"\\\]]|\\["\\\]])*)" swVersion="((?:[^"\\\]]|\\["\\\]])*)"\] `)

// Whatever the fields hold, the message is one of RFC 5424.
func TestHeaderKeepsItsForm(t *testing.T) {
	r := listen(t, false, nil)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringOfN(rapid.RuneFrom([]rune("a]\"\\ \n\x00é")), 0, 300, -1))
		m := message(text.Draw(t, "body"))
		m.Host, m.App, m.Version, m.ProcID, m.MsgID = text.Draw(t, "host"), text.Draw(t, "app"), text.Draw(t, "version"), text.Draw(t, "proc"), text.Draw(t, "id")
		if err := syslog.Send(context.Background(), dial, r.target(false), m); err != nil {
			t.Fatal(err)
		}
		got := <-r.frames
		place := header.FindStringIndex(got)
		if place == nil {
			t.Fatalf("%q", got)
		}
		body := strings.TrimPrefix(got[place[1]:], "\uFEFF")
		if body != string(m.Body) || !utf8.ValidString(got) {
			t.Fatalf("body %q, want %q", body, m.Body)
		}
	})
}

func BenchmarkSend(b *testing.B) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}()
	defer func() { _ = listener.Close() }()
	m := message(fmt.Sprintf("%0500d", 1))
	for b.Loop() {
		if err := syslog.Send(context.Background(), dial, syslog.Target{Address: listener.Addr().String()}, m); err != nil {
			b.Fatal(err)
		}
	}
}
