package mail_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	netmail "net/mail"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/assay-verifier/assay/server/notify/mail"
	"github.com/assay-verifier/assay/server/notify/receivertest"
)

const password = receivertest.MailPassword

// serve starts the server, and tells how to reach it.
func serve(t *testing.T, b *receivertest.Mailbox, security mail.Security) mail.Target {
	t.Helper()
	address, trusted := b.Serve(t, string(security))
	host, port := receivertest.Split(t, address)
	return mail.Target{Host: host, Port: port, Security: security, TLS: &tls.Config{RootCAs: receivertest.Trusting(trusted)}, Hello: "verifier.test"}
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
		b := &receivertest.Mailbox{NeedAuth: security != mail.Plain}
		to := serve(t, b, security)
		if b.NeedAuth {
			to.Username, to.Password = "assay", password
		}
		if err := mail.Send(t.Context(), dial, to, message()); err != nil {
			t.Fatalf("%s: %v", security, err)
		}
		if len(b.Mails()) != 1 || len(b.To()) != 1 || b.To()[0] != "soc@example.org" {
			t.Fatalf("%s: %d mails to %q", security, len(b.Mails()), b.To())
		}
		m, err := netmail.ReadMessage(bytes.NewReader(b.Mails()[0]))
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
	b := &receivertest.Mailbox{}
	m := message()
	m.ID = m.Thread
	if err := mail.Send(t.Context(), dial, serve(t, b, mail.StartTLS), m); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b.Mails()[0]), "In-Reply-To") {
		t.Errorf("%s", b.Mails()[0])
	}
}

func TestMailIsNotDelivered(t *testing.T) {
	refuse := func(code int) *receivertest.Mailbox {
		return &receivertest.Mailbox{Refuse: map[string]*smtp.SMTPError{"soc@example.org": {Code: code, Message: "not now"}}}
	}
	for name, c := range map[string]struct {
		box       *receivertest.Mailbox
		security  mail.Security
		change    func(*mail.Target, *mail.Message)
		permanent bool
		want      string
	}{
		"no STARTTLS":          {&receivertest.Mailbox{}, mail.Plain, func(to *mail.Target, _ *mail.Message) { to.Security = mail.StartTLS }, false, "STARTTLS"},
		"unknown certificate":  {&receivertest.Mailbox{}, mail.StartTLS, func(to *mail.Target, _ *mail.Message) { to.TLS = nil }, false, "certificate"},
		"unknown, implicit":    {&receivertest.Mailbox{}, mail.Implicit, func(to *mail.Target, _ *mail.Message) { to.TLS = nil }, false, "certificate"},
		"password in the open": {&receivertest.Mailbox{}, mail.Plain, func(to *mail.Target, _ *mail.Message) { to.Username, to.Password = "assay", password }, true, "unprotected"},
		"security":             {&receivertest.Mailbox{}, mail.Plain, func(to *mail.Target, _ *mail.Message) { to.Security = "hope" }, true, `"hope"`},
		"wrong password":       {&receivertest.Mailbox{}, mail.StartTLS, func(to *mail.Target, _ *mail.Message) { to.Username, to.Password = "assay", "wrong-secret" }, false, "[redacted]"},
		"for now":              {refuse(451), mail.StartTLS, nil, false, "not now"},
		"for good":             {refuse(550), mail.StartTLS, nil, true, "not now"},
		"nobody":               {&receivertest.Mailbox{}, mail.StartTLS, func(_ *mail.Target, m *mail.Message) { m.To = nil }, true, "recipients"},
		"too many":             {&receivertest.Mailbox{}, mail.StartTLS, func(_ *mail.Target, m *mail.Message) { m.To = make([]string, 101) }, true, "recipients"},
		"sender":               {&receivertest.Mailbox{}, mail.StartTLS, func(_ *mail.Target, m *mail.Message) { m.From = "a\r\nb@c" }, true, "address"},
		"recipient":            {&receivertest.Mailbox{}, mail.StartTLS, func(_ *mail.Target, m *mail.Message) { m.To = []string{"x@y.org>\r\nRCPT TO:<z@y.org"} }, true, "address"},
		"beyond ASCII":         {&receivertest.Mailbox{}, mail.StartTLS, func(_ *mail.Target, m *mail.Message) { m.To = []string{"ä@y.org"} }, true, "ASCII"},
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
			if len(c.box.Mails()) > 0 {
				t.Errorf("delivered: %s", c.box.Mails()[0])
			}
		})
	}
}

// A text of a machine ends no header.
func TestHeadersCannotBeForged(t *testing.T) {
	b := &receivertest.Mailbox{}
	m := message()
	m.Subject = "a\r\nBcc: evil@example.org\r\n\r\nbody\u2028x"
	m.Headers = map[string]string{"Assay-Event": "x\r\nBcc: evil@example.org"}
	if err := mail.Send(t.Context(), dial, serve(t, b, mail.StartTLS), m); err != nil {
		t.Fatal(err)
	}
	got, err := netmail.ReadMessage(bytes.NewReader(b.Mails()[0]))
	if err != nil {
		t.Fatal(err)
	}
	if got.Header.Get("Bcc") != "" || len(b.To()) != 1 || got.Header.Get("Message-ID") == "" {
		t.Errorf("headers %v, to %q", got.Header, b.To())
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
