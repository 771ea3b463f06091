package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/notify/event"
	"github.com/assay-verifier/assay/server/notify/format"
	"github.com/assay-verifier/assay/server/notify/mail"
	"github.com/assay-verifier/assay/server/notify/syslog"
	"github.com/assay-verifier/assay/store"
)

// attemptTimeout bounds one attempt where the configuration does not.
const attemptTimeout = 15 * time.Second

// message is an event as a channel's receiver reads it.
type message struct {
	event       *event.Event
	contentType string
	body        []byte
}

// outcome is what came of an attempt; err is nil where the receiver has it. Its text is kept and shown.
type outcome struct {
	status     *int
	err        error
	gone       bool // the receiver wants no more, ever
	retryAfter time.Duration
}

// send makes one attempt.
func (s *Service) send(ctx context.Context, tenant uuid.UUID, c *store.Channel, document []byte) outcome {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	e, err := event.Read(document)
	if err != nil {
		return outcome{err: err}
	}
	secrets, err := s.seal.open(tenant, c.ID, c.Secrets)
	if err != nil {
		return outcome{err: err}
	}
	roots, err := rootsOf(c.Config.CAPEM)
	if err != nil {
		return outcome{err: err}
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if c.Kind == store.ChannelSMTP {
		return s.sendMail(ctx, c, &secrets, e, config)
	}
	m := message{event: e}
	if m.contentType, m.body, err = format.Encode(format.Format(c.Format), e, s.origin); err != nil {
		return outcome{err: err}
	}
	if c.Kind == store.ChannelSyslog {
		return s.sendSyslog(ctx, c, &m, config)
	}
	return s.sendWebhook(ctx, c, &secrets, &m, config)
}

func (s *Service) sendSyslog(ctx context.Context, c *store.Channel, m *message, config *tls.Config) outcome {
	to := syslog.Target{Address: c.Config.Address, TLS: config}
	if c.Config.Security == string(mail.Plain) {
		to.TLS = nil
	}
	err := syslog.Send(ctx, s.dial, to, syslog.Message{Facility: syslog.FacilityAuthPriv, Severity: syslog.Severity(format.SyslogSeverity(m.event)),
		At: m.event.Time, Host: s.origin.Host, App: "assay", Version: s.cfg.Version, ProcID: "-", MsgID: string(m.event.Kind), Body: m.body})
	if err != nil {
		return outcome{err: s.plainError(ctx, err)}
	}
	return outcome{}
}

func (s *Service) sendMail(ctx context.Context, c *store.Channel, secrets *Secrets, e *event.Event, config *tls.Config) outcome {
	host, portText, err := net.SplitHostPort(c.Config.Address)
	port, err2 := strconv.Atoi(portText)
	if err = errors.Join(err, err2); err != nil {
		return outcome{err: fmt.Errorf("%q is no address such as mail.example:587", c.Config.Address)}
	}
	subject, text := format.Mail(e)
	err = mail.Send(ctx, s.dial, mail.Target{Host: host, Port: port, Security: mail.Security(c.Config.Security), TLS: config,
		Username: c.Config.Username, Password: secrets.Password}, mail.Message{From: c.Config.From, To: c.Config.To, Subject: subject, Text: text, At: e.Time,
		ID: e.ID.String(), Thread: e.Subject().String(), Headers: map[string]string{"Assay-Event": string(e.Kind)}})
	if err != nil {
		return outcome{err: s.plainError(ctx, err)}
	}
	return outcome{}
}
