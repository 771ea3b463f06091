// Package syslog sends messages to a syslog receiver: the format of RFC 5424, over TLS as RFC 5425 says.
//
// Syslog has no acknowledgement. What comes nearest is how RFC 5425, section 4.4 ends a session: the sender says
// close_notify, and the receiver answers it once it has read all that came before. Send waits for that answer, so that a
// message which a receiver accepted and lost when it died is sent again. Hence one session a call.
package syslog

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
	"unicode/utf8"
)

// Severity of a message (RFC 5424, section 6.2.1, table 2).
type Severity int

// The severities that are in use here.
const (
	Critical Severity = 2
	Warning  Severity = 4
	Notice   Severity = 5
	Info     Severity = 6
)

// Facilities (RFC 5424, section 6.2.1, table 1).
const (
	FacilityAuthPriv = 10 // security and authorization messages; the default of Assay
	maxFacility      = 23
)

// The lengths of the header's fields (RFC 5424, section 6).
const (
	maxHost  = 255
	maxApp   = 48
	maxProc  = 128
	maxMsgID = 32
)

// MaxBody bounds the text of one message, in bytes. Receivers cut longer ones silently; RFC 5425, section 4.3.1 asks them to
// take 8192 bytes and allows more.
const MaxBody = 64 << 10

// DialFunc connects to an address "host:port" and refuses those that may not be asked.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Target is where messages go.
type Target struct {
	Address string // host:port; 6514 is the port of syslog over TLS (RFC 5425, section 4.1)
	// TLS is how the receiver proves itself; nil for plain TCP with the octet counting of RFC 6587, for a receiver on the
	// same machine only.
	TLS *tls.Config
}

// Message is one message.
type Message struct {
	Facility int
	Severity Severity
	At       time.Time
	Host     string // of the sender
	App      string
	Version  string // of the software, for the structured data "origin" (RFC 5424, section 7.2)
	ProcID   string
	MsgID    string // the kind of message
	Body     []byte // UTF-8
}

// Send sends the messages in one session, in order, and returns once the receiver has ended it in answer. An error means
// that the receiver may have some of them, all, or none.
func Send(ctx context.Context, dial DialFunc, to Target, messages ...Message) error {
	var frames bytes.Buffer
	for i := range messages {
		text, err := messages[i].encode()
		if err != nil {
			return fmt.Errorf("syslog message %d: %w", i+1, err)
		}
		frames.WriteString(strconv.Itoa(len(text)))
		frames.WriteByte(' ')
		frames.Write(text)
	}
	conn, err := dial(ctx, "tcp", to.Address)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	session, err := secure(ctx, conn, to)
	if err != nil {
		return err
	}
	if err := deliver(session, frames.Bytes()); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return err
	}
	return nil
}

// halfCloser is a connection whose sending side can be ended alone.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

func secure(ctx context.Context, conn net.Conn, to Target) (halfCloser, error) {
	if to.TLS == nil {
		plain, ok := conn.(halfCloser)
		if !ok {
			return nil, errors.New("the connection cannot be ended from one side")
		}
		return plain, nil
	}
	config := to.TLS.Clone()
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(to.Address)
		if err != nil {
			return nil, fmt.Errorf("address: %w", err)
		}
		config.ServerName = host
	}
	session := tls.Client(conn, config)
	if err := session.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return session, nil
}

// maxAnswer is what a receiver may say before it ends the session. There is nothing that it could have to say.
const maxAnswer = 4 << 10

func deliver(session halfCloser, frames []byte) error {
	if _, err := session.Write(frames); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := session.CloseWrite(); err != nil {
		return fmt.Errorf("end the session: %w", err)
	}
	n, err := io.Copy(io.Discard, io.LimitReader(session, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("the receiver did not end the session, so it may not have read the message: %w", err)
	case n > maxAnswer:
		return errors.New("the receiver talks instead of ending the session")
	}
	return nil
}

var byteOrderMark = []byte{0xEF, 0xBB, 0xBF}

// encode is the message as RFC 5424, section 6 writes it.
func (m *Message) encode() ([]byte, error) {
	if m.Facility < 0 || m.Facility > maxFacility || m.Severity < 0 || m.Severity > 7 {
		return nil, fmt.Errorf("there is no facility %d with severity %d", m.Facility, m.Severity)
	}
	if len(m.Body) > MaxBody {
		return nil, fmt.Errorf("its %d bytes are more than %d", len(m.Body), MaxBody)
	}
	if !utf8.Valid(m.Body) {
		return nil, errors.New("it is not UTF-8")
	}
	out := fmt.Appendf(nil, "<%d>1 %s %s %s %s %s [origin software=\"%s\" swVersion=\"%s\"] ", m.Facility*8+int(m.Severity),
		m.At.UTC().Format("2006-01-02T15:04:05.000000Z"), name(m.Host, maxHost), name(m.App, maxApp), name(m.ProcID, maxProc), name(m.MsgID, maxMsgID),
		param(m.App, maxApp), param(m.Version, 32))
	if !ascii(m.Body) {
		out = append(out, byteOrderMark...) // section 6.4: what is UTF-8 begins with it
	}
	return append(out, m.Body...), nil
}

// name is a field of the header: printable ASCII without spaces, within its length, "-" for none.
func name(s string, limit int) string {
	out := make([]byte, 0, min(len(s), limit))
	for i := 0; i < len(s) && len(out) < limit; i++ {
		if s[i] > ' ' && s[i] < 0x7f {
			out = append(out, s[i])
		}
	}
	if len(out) == 0 {
		return "-"
	}
	return string(out)
}

// param is a value of structured data: what would end it is escaped (section 6.3.3). The limit is in characters
// (section 7.2).
func param(s string, limit int) string {
	var out []byte
	n := 0
	for _, r := range s {
		if n == limit {
			break
		}
		n++
		switch {
		case r == '"' || r == '\\' || r == ']':
			out = append(out, '\\', byte(r))
		case r >= ' ' && r != 0x7f && r != utf8.RuneError:
			out = utf8.AppendRune(out, r)
		}
	}
	return string(out)
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}
