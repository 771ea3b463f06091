package receivertest

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// MailPassword is that of the account "assay".
const MailPassword = "correct horse battery staple"

// Mailbox is a mail server that keeps what it gets.
type Mailbox struct {
	Refuse   map[string]*smtp.SMTPError // by recipient
	NeedAuth bool

	mu    sync.Mutex
	mails [][]byte
	to    []string
}

// Mails are those that were taken.
func (b *Mailbox) Mails() [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.mails)
}

// To are their recipients.
func (b *Mailbox) To() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.to)
}

type session struct {
	b    *Mailbox
	auth bool
	to   []string
}

func (b *Mailbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{b: b}, nil }
func (s *session) Reset()                                      { s.to = nil }
func (s *session) Logout() error                               { return nil }
func (s *session) AuthMechanisms() []string                    { return []string{sasl.Plain} }
func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, pass string) error {
		if user != "assay" || pass != MailPassword {
			return &smtp.SMTPError{Code: 535, Message: "no: " + pass} // servers have echoed worse
		}
		s.auth = true
		return nil
	}), nil
}

func (s *session) Mail(string, *smtp.MailOptions) error {
	if s.b.NeedAuth && !s.auth {
		return smtp.ErrAuthRequired
	}
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if err := s.b.Refuse[to]; err != nil {
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

// Serve starts the server: security is tls (from the first byte), starttls or none.
func (b *Mailbox) Serve(t testing.TB, security string) (address string, trusted *x509.Certificate) {
	t.Helper()
	certificate := Certificate(t, "127.0.0.1")
	s := smtp.NewServer(b)
	s.Domain, s.AllowInsecureAuth, s.ReadTimeout, s.ErrorLog = "mail.test", false, time.Minute, log.New(io.Discard, "", 0)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	switch security {
	case "starttls":
		s.TLSConfig = config
	case "tls":
		listener = tls.NewListener(listener, config)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(listener) }()
	t.Cleanup(func() { _, _ = s.Close(), listener.Close(); <-done }) // a server that was closed before it served does not close it
	return listener.Addr().String(), certificate.Leaf
}
