// Package mail sends a message by SMTP (RFC 5321), with STARTTLS (RFC 3207) or TLS from the first byte (RFC 8314).
package mail

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	netmail "net/mail"
	"strings"
	"time"
	"unicode"

	gomail "github.com/wneessen/go-mail"
)

// Security is how the connection is protected.
type Security string

// The ways; the zero value is StartTLS.
const (
	StartTLS Security = "starttls" // required: a server that does not offer it gets no message
	Implicit Security = "tls"      // port 465
	Plain    Security = "none"     // for a server on the same machine; no password is sent
)

// DialFunc connects to an address "host:port" and refuses those that may not be asked.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Target is a mail server.
type Target struct {
	Host               string
	Port               int
	Security           Security
	TLS                *tls.Config // roots beside the system's; nil for those
	Username, Password string      // empty: no authentication
	Hello              string      // what the sender calls itself (EHLO); empty for the machine's name
}

// Format implements fmt.Formatter: no verb shows the password.
func (t Target) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "mail server "+t.Host) }

// Message is one mail.
type Message struct {
	From    string   // RFC 5322 address, with or without a name
	To      []string // each of them gets it
	Subject string   // one line; control characters become spaces
	Text    string   // plain text
	At      time.Time
	// ID and Thread are the left sides of the Message-ID of this mail, and of the mail that began its thread. The same ID
	// at each retry lets a reader's program show one mail.
	ID, Thread string
	Headers    map[string]string // more, such as "Assay-Event"; names and values are of ours
}

// MaxRecipients bounds Message.To.
const MaxRecipients = 100

// Error is a mail that was not delivered. Its text holds what the server said, and never a password.
type Error struct {
	Permanent bool // the server refuses the message or the login for good (RFC 5321, section 4.2.1: 5yz)
	text      string
}

func (e *Error) Error() string { return e.text }

// CheckAddress tells why a text is no mail address; nil if it is one.
func CheckAddress(address string) error {
	a, err := netmail.ParseAddress(address)
	if err != nil {
		return fmt.Errorf("%q is no mail address (RFC 5322, section 3.4)", address)
	}
	if !ascii(a.Address) {
		return fmt.Errorf("%q: an address with letters beyond ASCII cannot be delivered everywhere", address)
	}
	return nil
}

// Send delivers the message to all recipients. A server that takes it for some of them alone is an error: at the next
// try those get it again.
func Send(ctx context.Context, dial DialFunc, to Target, m Message) error {
	msg, err := compose(&m)
	if err != nil {
		return &Error{Permanent: true, text: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	client, err := newClient(closing(ctx, dial), &to)
	if err != nil {
		return &Error{Permanent: true, text: redact(err.Error(), to.Password)}
	}
	if err := client.DialAndSendWithContext(ctx, msg); err != nil {
		return &Error{Permanent: permanent(err), text: redact(err.Error(), to.Password)}
	}
	return nil
}

const (
	wholeTimeout = 2 * time.Minute
	stepTimeout  = 15 * time.Second // a connection, a greeting, a command
)

// closing is dial with connections that end with ctx: the library hands over a context that ends once it has connected, and
// waits for a silent server without one.
func closing(ctx context.Context, dial DialFunc) DialFunc {
	return func(dialCtx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(dialCtx, network, address)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		return conn, conn.SetDeadline(time.Now().Add(stepTimeout))
	}
}

func newClient(dial DialFunc, to *Target) (*gomail.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if to.TLS != nil {
		config = to.TLS.Clone()
		config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	}
	config.ServerName = to.Host
	options := []gomail.Option{gomail.WithPort(to.Port), gomail.WithTLSConfig(config), gomail.WithoutNoop(), gomail.WithTimeout(stepTimeout)}
	if to.Hello != "" {
		options = append(options, gomail.WithHELO(to.Hello))
	}
	login := gomail.SMTPAuthAutoDiscover
	switch to.Security {
	case StartTLS, "":
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory), gomail.WithDialContextFunc(gomail.DialContextFunc(dial)))
	case Implicit:
		// The library does not see that a connection it did not make is protected, and would find no way to log in. PLAIN over
		// TLS is what every server has (RFC 4954, section 4).
		login = gomail.SMTPAuthPlain
		options = append(options, gomail.WithSSL(), gomail.WithDialContextFunc(implicit(dial, config)))
	case Plain:
		if to.Username != "" || to.Password != "" {
			return nil, errors.New("a password is not sent over an unprotected connection")
		}
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS), gomail.WithDialContextFunc(gomail.DialContextFunc(dial)))
	default:
		return nil, fmt.Errorf("there is no connection security %q", to.Security)
	}
	if to.Username != "" {
		options = append(options, gomail.WithSMTPAuth(login), gomail.WithUsername(to.Username), gomail.WithPassword(to.Password))
	}
	return gomail.NewClient(to.Host, options...)
}

// implicit dials, and begins with TLS.
func implicit(dial DialFunc, config *tls.Config) gomail.DialContextFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		session := tls.Client(conn, config)
		if err := session.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return session, nil
	}
}

func compose(m *Message) (*gomail.Msg, error) {
	if len(m.To) == 0 || len(m.To) > MaxRecipients {
		return nil, fmt.Errorf("a mail has 1 to %d recipients, not %d", MaxRecipients, len(m.To))
	}
	for _, a := range append([]string{m.From}, m.To...) {
		if err := CheckAddress(a); err != nil {
			return nil, err
		}
	}
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	if err := msg.From(m.From); err != nil {
		return nil, err
	}
	if err := msg.To(m.To...); err != nil {
		return nil, err
	}
	from, _ := netmail.ParseAddress(m.From)
	domain := from.Address[strings.LastIndexByte(from.Address, '@')+1:]
	msg.Subject(line(m.Subject))
	msg.SetDateWithValue(m.At.UTC())
	msg.SetMessageIDWithValue(m.ID + "@" + domain)
	if m.Thread != "" && m.Thread != m.ID {
		reference := "<" + m.Thread + "@" + domain + ">"
		msg.SetGenHeader(gomail.HeaderInReplyTo, reference)
		msg.SetGenHeader(gomail.HeaderReferences, reference)
	}
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834, section 5: nobody's absence notice answers
	for name, value := range m.Headers {
		msg.SetGenHeader(gomail.Header(name), line(value))
	}
	msg.SetBodyString(gomail.TypeTextPlain, m.Text)
	return msg, nil
}

// line is a text without control characters: a header cannot be ended by what a machine calls itself.
func line(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s))
}

// permanent tells that trying again is of no use, by what the server answered.
func permanent(err error) bool {
	var e *gomail.SendError
	if errors.As(err, &e) {
		return !e.IsTemp() && e.ErrorCode() >= 500
	}
	return false
}

const redacted = "[redacted]"

func redact(text, password string) string {
	if password != "" {
		text = strings.ReplaceAll(text, password, redacted)
	}
	const limit = 500
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return text
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
