package mail_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	netmail "net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/assay-verifier/assay/server/notify/mail"
	"github.com/assay-verifier/assay/server/notify/receivertest"
)

const password = "correct horse battery staple"

// box is a mail server that keeps what it gets.
type box struct {
	mu       sync.Mutex
	mails    [][]byte
	to       []string
	refuse   map[string]*smtp.SMTPError // by recipient
	needAuth bool
}

type session struct {
	b    *box
	auth bool
	to   []string
}

func (b *box) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{b: b}, nil }
func (s *session) Reset()                                  { s.to = nil }
func (s *session) Logout() error                           { return nil }
func (s *session) AuthMechanisms() []string                { return []string{sasl.Plain} }
func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, pass string) error {
		if user != "assay" || pass != password {
			return &smtp.SMTPError{Code: 535, Message: "no: " + pass} // servers have echoed worse
		}
		s.auth = true
		return nil
	}), nil
}

func (s *session) Mail(string, *smtp.MailOptions) error {
	if s.b.needAuth && !s.auth {
		return smtp.ErrAuthRequired
	}
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if err := s.b.refuse[to]; err != nil {
		return err
	}
	s.to = append(s.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	body, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.mails, s.b.to = append(s.b.mails, body), append(s.b.to, s.to...)
	return nil
}

// serve starts the server, and tells how to reach it.
func serve(t *testing.T, b *box, security mail.Security) mail.Target {
	t.Helper()
	certificate, roots := receivertest.Certificate(t, "127.0.0.1")
	s := smtp.NewServer(b)
	s.Domain, s.AllowInsecureAuth, s.ReadTimeout = "mail.test", false, time.Minute
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}}
	switch security {
	case mail.StartTLS:
		s.TLSConfig = config
	case mail.Implicit:
		listener = tls.NewListener(listener, config)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(listener) }()
	t.Cleanup(func() { _, _ = s.Close(), listener.Close(); <-done }) // a server that was closed before it served does not close it
	return mail.Target{Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port, Security: security, TLS: &tls.Config{RootCAs: roots}, Hello: "verifier.test"}
}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, address)
}

func message() mail.Message {
	return mail.Message{From: "Assay <assay@example.org>", To: []string{"soc@example.org"}, Subject: "grubx64.efi änderte sich", Text: "Zeile 1\n.\nZeile 3 é\n",
		At: time.Date(2026, 3, 1, 14, 2, 0, 0, time.UTC), ID: "event-1", Thread: "alert-1", Headers: map[string]string{"Assay-Event": "alert.opened"}}
}

func TestMailIsDelivered(t *testing.T) {
	for _, security := range []mail.Security{mail.StartTLS, mail.Implicit, mail.Plain} {
		b := &box{needAuth: security != mail.Plain}
		to := serve(t, b, security)
		if b.needAuth {
			to.Username, to.Password = "assay", password
		}
		if err := mail.Send(t.Context(), dial, to, message()); err != nil {
			t.Fatalf("%s: %v", security, err)
		}
		if len(b.mails) != 1 || len(b.to) != 1 || b.to[0] != "soc@example.org" {
			t.Fatalf("%s: %d mails to %q", security, len(b.mails), b.to)
		}
		m, err := netmail.ReadMessage(bytes.NewReader(b.mails[0]))
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"Message-ID": "<event-1@example.org>", "In-Reply-To": "<alert-1@example.org>", "References": "<alert-1@example.org>",
			"Auto-Submitted": "auto-generated", "Assay-Event": "alert.opened", "Date": "Sun, 01 Mar 2026 14:02:00 +0000"} {
			if got := m.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", security, name, got, want)
			}
		}
	}
}

// A mail that begins a thread refers to no other.
func TestFirstOfAThread(t *testing.T) {
	b := &box{}
	m := message()
	m.ID = m.Thread
	if err := mail.Send(t.Context(), dial, serve(t, b, mail.StartTLS), m); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b.mails[0]), "In-Reply-To") {
		t.Errorf("%s", b.mails[0])
	}
}

func TestMailIsNotDelivered(t *testing.T) {
	refuse := func(code int) *box {
		return &box{refuse: map[string]*smtp.SMTPError{"soc@example.org": {Code: code, Message: "not now"}}}
	}
	for name, c := range map[string]struct {
		box       *box
		security  mail.Security
		change    func(*mail.Target, *mail.Message)
		permanent bool
		want      string
	}{
		"no STARTTLS":          {&box{}, mail.Plain, func(to *mail.Target, _ *mail.Message) { to.Security = mail.StartTLS }, false, "STARTTLS"},
		"unknown certificate":  {&box{}, mail.StartTLS, func(to *mail.Target, _ *mail.Message) { to.TLS = nil }, false, "certificate"},
		"unknown, implicit":    {&box{}, mail.Implicit, func(to *mail.Target, _ *mail.Message) { to.TLS = nil }, false, "certificate"},
		"password in the open": {&box{}, mail.Plain, func(to *mail.Target, _ *mail.Message) { to.Username, to.Password = "assay", password }, true, "unprotected"},
		"security":             {&box{}, mail.Plain, func(to *mail.Target, _ *mail.Message) { to.Security = "hope" }, true, `"hope"`},
		"wrong password":       {&box{}, mail.StartTLS, func(to *mail.Target, _ *mail.Message) { to.Username, to.Password = "assay", "wrong-secret" }, false, "[redacted]"},
		"for now":              {refuse(451), mail.StartTLS, nil, false, "not now"},
		"for good":             {refuse(550), mail.StartTLS, nil, true, "not now"},
		"nobody":               {&box{}, mail.StartTLS, func(_ *mail.Target, m *mail.Message) { m.To = nil }, true, "recipients"},
		"too many":             {&box{}, mail.StartTLS, func(_ *mail.Target, m *mail.Message) { m.To = make([]string, 101) }, true, "recipients"},
		"sender":               {&box{}, mail.StartTLS, func(_ *mail.Target, m *mail.Message) { m.From = "a\r\nb@c" }, true, "address"},
		"recipient":            {&box{}, mail.StartTLS, func(_ *mail.Target, m *mail.Message) { m.To = []string{"x@y.org>\r\nRCPT TO:<z@y.org"} }, true, "address"},
		"beyond ASCII":         {&box{}, mail.StartTLS, func(_ *mail.Target, m *mail.Message) { m.To = []string{"ä@y.org"} }, true, "ASCII"},
	} {
		t.Run(name, func(t *testing.T) {
			to, m := serve(t, c.box, c.security), message()
			if c.change != nil {
				c.change(&to, &m)
			}
			err := mail.Send(t.Context(), dial, to, m)
			var e *mail.Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v", err)
			}
			if e.Permanent != c.permanent || !strings.Contains(e.Error(), c.want) {
				t.Errorf("permanent %v, %q; want %v, %q", e.Permanent, e, c.permanent, c.want)
			}
			if to.Password != "" && strings.Contains(e.Error(), to.Password) {
				t.Errorf("the password is told: %v", e)
			}
			if len(c.box.mails) > 0 {
				t.Errorf("delivered: %s", c.box.mails[0])
			}
		})
	}
}

// A text of a machine ends no header.
func TestHeadersCannotBeForged(t *testing.T) {
	b := &box{}
	m := message()
	m.Subject = "a\r\nBcc: evil@example.org\r\n\r\nbody\u2028x"
	m.Headers = map[string]string{"Assay-Event": "x\r\nBcc: evil@example.org"}
	if err := mail.Send(t.Context(), dial, serve(t, b, mail.StartTLS), m); err != nil {
		t.Fatal(err)
	}
	got, err := netmail.ReadMessage(bytes.NewReader(b.mails[0]))
	if err != nil {
		t.Fatal(err)
	}
	if got.Header.Get("Bcc") != "" || len(b.to) != 1 || got.Header.Get("Message-ID") == "" {
		t.Errorf("headers %v, to %q", got.Header, b.to)
	}
}

// A server that says nothing is left when the context ends, and so is one that speaks no TLS.
func TestSilentServer(t *testing.T) {
	for _, security := range []mail.Security{mail.StartTLS, mail.Implicit} {
		address, met := receivertest.Silent(t)
		host, port := receivertest.Split(t, address)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-met; cancel() }()
		if err := mail.Send(ctx, dial, mail.Target{Host: host, Port: port, Security: security}, message()); err == nil {
			t.Errorf("%s: no error", security)
		}
		cancel()
	}
}

func TestDialRefuses(t *testing.T) {
	refuse := func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("this address may not be asked")
	}
	for _, security := range []mail.Security{mail.StartTLS, mail.Implicit, mail.Plain} {
		err := mail.Send(t.Context(), refuse, mail.Target{Host: "127.0.0.1", Port: 25, Security: security}, message())
		if err == nil || !strings.Contains(err.Error(), "may not be asked") {
			t.Errorf("%s: %v", security, err)
		}
	}
}
