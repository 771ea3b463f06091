package main

import (
	"errors"
	"os"
	"strings"

	"github.com/assay-verifier/assay/openapi/client"
)

// ChannelCreate holds the commands that make channels.
type ChannelCreate struct {
	Webhook WebhookCreate `cmd:"" help:"Tell a URL. Prints the secret that deliveries are signed with, once."`
	Syslog  SyslogCreate  `cmd:"" help:"Tell a syslog receiver (RFC 5424), over TLS."`
	Mail    MailCreate    `cmd:"" help:"Tell people by mail."`
}

// Told is what all channels have.
type Told struct {
	Name        string   `required:"" help:"Name for people, unique."`
	CA          string   `name:"receiver-ca" type:"existingfile" placeholder:"PEM" help:"Certificates that the receiver's must chain to, in the place of the system's."`
	Kind        []string `placeholder:"KIND" help:"Only these kinds of events, such as alert.opened. assessment.changed, recommendation.opened and recommendation.resolved are told only where they are named."`
	Code        []string `placeholder:"CODE" help:"Only findings of these codes."`
	MinSeverity string   `enum:",low,medium,high" default:"" help:"Only what is at least this severe: low, medium or high."`
	ScaleSet    []string `placeholder:"NAME" help:"Only machines of these scale sets."`
	Suppressed  bool     `help:"Also alerts that a suppression rule hides."`
	Incidents   bool     `help:"Only incidents, and not each alert of theirs."`
}

func (t *Told) filter() *client.NotificationFilter {
	filter := client.NotificationFilter{IncludeSuppressed: &t.Suppressed, IncidentsOnly: &t.Incidents}
	if len(t.Kind) > 0 {
		kinds := make([]client.NotificationKind, len(t.Kind))
		for i, k := range t.Kind {
			kinds[i] = client.NotificationKind(k)
		}
		filter.Kinds = &kinds
	}
	if len(t.Code) > 0 {
		filter.AlertCodes = &t.Code
	}
	if len(t.ScaleSet) > 0 {
		filter.ScaleSets = &t.ScaleSet
	}
	if t.MinSeverity != "" {
		severity := client.Severity(t.MinSeverity)
		filter.MinSeverity = &severity
	}
	return &filter
}

// roots are the certificates of --receiver-ca; nil for none.
func (t *Told) roots() (*string, error) {
	if t.CA == "" {
		return nil, nil //nolint:nilnil // there is nothing to read
	}
	pem, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, err
	}
	text := string(pem)
	return &text, nil
}

// WebhookCreate makes a webhook.
type WebhookCreate struct {
	Told   `embed:""`
	URL    string `required:"" help:"https address of the receiver. Its query, if any, is not shown again."`
	Format string `enum:"assay,cloudevents,ocsf,cef" default:"assay" help:"assay, cloudevents, ocsf or cef."`
}

// Run makes it.
func (c *WebhookCreate) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	roots, err := c.roots()
	if err != nil {
		return err
	}
	format := client.NotificationFormat(c.Format)
	resp, err := api.CreateWebhookWithResponse(a.ctx, &client.CreateWebhookParams{}, client.WebhookInput{Name: c.Name, URL: c.URL, Format: &format, Filter: c.filter(), CaPem: roots})
	return a.showWebhook(resp, err)
}

// SyslogCreate makes a channel to syslog.
type SyslogCreate struct {
	Told    `embed:""`
	Address string `required:"" placeholder:"HOST:PORT" help:"The receiver, such as syslog.example:6514."`
	Format  string `enum:"assay,cloudevents,ocsf,cef" default:"cef" help:"assay, cloudevents, ocsf or cef."`
	Plain   bool   `help:"Without TLS: whoever is on the way can read and change it."`
}

// Run makes it.
func (c *SyslogCreate) Run(a *app) error {
	security := client.SecurityTLS
	if c.Plain {
		security = client.SecurityNone
	}
	format := client.NotificationFormat(c.Format)
	return a.createChannel(&c.Told, client.NotificationChannelInput{Kind: client.ChannelKindSyslog, Address: c.Address, Format: &format, Security: &security})
}

// MailCreate makes a channel by mail.
type MailCreate struct {
	Told         `embed:""`
	Address      string   `required:"" placeholder:"HOST:PORT" help:"The mail server, such as mail.example:465."`
	Security     string   `enum:"tls,starttls,none" default:"tls" help:"tls, starttls or none; without a protected connection no password is sent."`
	From         string   `required:"" help:"Address of the sender."`
	To           []string `required:"" help:"Addresses of the recipients."`
	Username     string   `help:"Login at the mail server."`
	PasswordFile string   `placeholder:"FILE" help:"File with the password; - reads standard input. There is no flag for the password, since other users can read command lines."`
}

// Run makes it.
func (c *MailCreate) Run(a *app) error {
	security := client.ChannelSecurity(c.Security)
	body := client.NotificationChannelInput{Kind: client.ChannelKindSMTP, Address: c.Address, Security: &security, From: &c.From, To: &c.To, Username: optional(c.Username)}
	if c.PasswordFile != "" {
		password, err := a.secretFrom(c.PasswordFile)
		if err != nil {
			return err
		}
		body.Password = &password
	}
	return a.createChannel(&c.Told, body)
}

func (a *app) createChannel(t *Told, body client.NotificationChannelInput) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	body.Name, body.Filter = t.Name, t.filter()
	if body.CaPem, err = t.roots(); err != nil {
		return err
	}
	resp, err := api.CreateNotificationChannelWithResponse(a.ctx, &client.CreateNotificationChannelParams{}, body)
	return a.showChannel(resp, err)
}

// maxSecret bounds what is read as a secret, in bytes.
const maxSecret = 4096

// secretFrom reads a secret from a file, or from standard input for "-", without the line end.
func (a *app) secretFrom(file string) (string, error) {
	body, err := readFile(file, maxSecret, a.stdin)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(body), "\r\n")
	if secret == "" {
		return "", errors.New("the password is empty")
	}
	return secret, nil
}
