package server

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/server/notify/mail"
	"github.com/assay-verifier/assay/store"
)

// defaultOverlap is how long a rotated secret signs as well where the request does not say.
const defaultOverlap = 24 * time.Hour

func filterDTO(f store.ChannelFilter) openapi.NotificationFilter {
	var out openapi.NotificationFilter
	if len(f.Kinds) > 0 {
		kinds := each(f.Kinds, func(k string) openapi.NotificationKind { return openapi.NotificationKind(k) })
		out.Kinds = &kinds
	}
	if len(f.AlertCodes) > 0 {
		out.AlertCodes = &f.AlertCodes
	}
	if f.MinSeverity != "" {
		severity := openapi.Severity(f.MinSeverity)
		out.MinSeverity = &severity
	}
	if len(f.ScaleSets) > 0 {
		out.ScaleSets = &f.ScaleSets
	}
	if len(f.Labels) > 0 {
		labels := openapi.Labels(f.Labels)
		out.Labels = &labels
	}
	out.IncludeSuppressed, out.IncidentsOnly = trueOrNull(f.IncludeSuppressed), trueOrNull(f.IncidentsOnly)
	return out
}

func filterOf(in *openapi.NotificationFilter) store.ChannelFilter {
	if in == nil {
		return store.ChannelFilter{}
	}
	f := store.ChannelFilter{AlertCodes: value(in.AlertCodes), MinSeverity: text(in.MinSeverity), ScaleSets: value(in.ScaleSets), Labels: labelsOf(in.Labels),
		IncludeSuppressed: value(in.IncludeSuppressed), IncidentsOnly: value(in.IncidentsOnly)}
	for _, k := range value(in.Kinds) {
		f.Kinds = append(f.Kinds, string(k))
	}
	return f
}

func webhookDTO(c store.Channel) openapi.Webhook {
	return openapi.Webhook{ID: c.ID, Name: c.Name, URL: c.Config.Shown().URL, Enabled: c.Enabled, Format: openapi.NotificationFormat(c.Format), Filter: filterDTO(c.Filter),
		CaPem: textOrNull(c.Config.CAPEM), PreviousSecretExpiresAt: utcOrNull(c.PreviousSecretUntil), DisabledReason: textOrNull(c.DisabledReason),
		LastSuccessAt: utcOrNull(c.LastSuccessAt), LastFailureAt: utcOrNull(c.LastFailureAt), LastError: textOrNull(c.LastError), FailingSince: utcOrNull(c.FailingSince),
		ConsecutiveFailures: c.ConsecutiveFailures, CreatedAt: utc(c.CreatedAt), CreatedBy: c.CreatedBy, UpdatedAt: utc(c.UpdatedAt)}
}

func channelDTO(c store.Channel) openapi.NotificationChannel {
	address, security := c.Config.Address, c.Config.Security
	if c.Kind == store.ChannelWebhook {
		address, security = c.Config.Shown().URL, string(openapi.SecurityTLS)
		if strings.HasPrefix(address, "http://") {
			security = string(openapi.SecurityNone)
		}
	}
	return openapi.NotificationChannel{ID: c.ID, Kind: openapi.ChannelKind(c.Kind), Name: c.Name, Address: address, Enabled: c.Enabled,
		Format: openapi.NotificationFormat(c.Format), Filter: filterDTO(c.Filter), Security: openapi.ChannelSecurity(security), CaPem: textOrNull(c.Config.CAPEM),
		Username: textOrNull(c.Config.Username), HasPassword: c.Kind == store.ChannelSMTP && len(c.Secrets) > 0, From: textOrNull(c.Config.From), To: orEmpty(c.Config.To),
		DisabledReason: textOrNull(c.DisabledReason), LastSuccessAt: utcOrNull(c.LastSuccessAt), LastFailureAt: utcOrNull(c.LastFailureAt), LastError: textOrNull(c.LastError),
		FailingSince: utcOrNull(c.FailingSince), ConsecutiveFailures: c.ConsecutiveFailures, CreatedAt: utc(c.CreatedAt), CreatedBy: c.CreatedBy, UpdatedAt: utc(c.UpdatedAt)}
}

// enable sets the switch that a person may set; what the service found stays while it is off.
func enable(c *store.Channel, on *bool) {
	switch enabled := on == nil || *on; {
	case enabled:
		c.Enabled, c.DisabledReason = true, ""
	case c.Enabled || c.DisabledReason == "":
		c.Enabled, c.DisabledReason = false, store.DisabledByOperator
	}
}

// setWebhook reads a webhook out of a request, over what it was.
func (s *Server) setWebhook(c *store.Channel, in *openapi.WebhookInput) error {
	url := in.URL
	switch {
	case url == c.Config.Shown().URL:
		url = c.Config.URL // as it was read, so it stays
	case strings.HasSuffix(url, store.HiddenQuery):
		return refuseField(codeInvalidField, "/url", "its query is not the one that is not shown: give it whole")
	}
	if err := s.cfg.Notify.CheckURL(url); err != nil {
		return refuseField(codeInvalidField, "/url", err.Error())
	}
	if err := notify.CheckRoots(value(in.CaPem)); err != nil {
		return refuseField(codeInvalidField, "/ca_pem", err.Error())
	}
	c.Kind, c.Name, c.Format, c.Filter = store.ChannelWebhook, in.Name, formatOf(in.Format), filterOf(in.Filter)
	c.Config = store.ChannelConfig{URL: url, CAPEM: value(in.CaPem)}
	enable(c, in.Enabled)
	return nil
}

func formatOf(f *openapi.NotificationFormat) string {
	if f == nil {
		return string(openapi.FormatAssay)
	}
	return string(*f)
}

// newSecret gives a channel a signing secret, beside the one that it has, if any.
func (s *Server) newSecret(tenant uuid.UUID, c *store.Channel, previous []byte) (shown string, err error) {
	secret, err := notify.NewSigningSecret(s.random)
	if err != nil {
		return "", err
	}
	c.Secrets, err = s.cfg.Notify.Seal(tenant, c.ID, notify.Secrets{Signing: secret, Previous: previous})
	return notify.ShowSecret(secret), err
}

// ListWebhooks lists webhooks.
func (s *Server) ListWebhooks(ctx context.Context, req openapi.ListWebhooksRequestObject) (openapi.ListWebhooksResponseObject, error) {
	items, next, err := s.store.ListChannels(ctx, principalOf(ctx).tenant, store.ChannelWebhook, pageOf(req.Params.Limit, req.Params.Cursor, req.Params.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListWebhooks200JSONResponse{Items: each(items, webhookDTO), NextCursor: nextCursor(next)}, nil
}

// CreateWebhook makes a webhook with a secret of its own.
func (s *Server) CreateWebhook(ctx context.Context, req openapi.CreateWebhookRequestObject) (openapi.CreateWebhookResponseObject, error) {
	tenant := principalOf(ctx).tenant
	c := store.Channel{ID: store.NewChannelID(s.now())}
	if err := s.setWebhook(&c, req.Body); err != nil {
		return nil, err
	}
	secret, err := s.newSecret(tenant, &c, nil)
	if err != nil {
		return nil, err
	}
	if c, err = s.store.CreateChannel(ctx, tenant, c, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	out := webhookDTO(c)
	out.Secret = &secret
	return openapi.CreateWebhook201JSONResponse(out), nil
}

// webhook reads one; a channel of another kind is none.
func (s *Server) webhook(ctx context.Context, id uuid.UUID) (store.Channel, error) {
	c, err := s.store.GetChannel(ctx, principalOf(ctx).tenant, id)
	if err == nil && c.Kind != store.ChannelWebhook {
		err = fmt.Errorf("webhook %s: %w", id, store.ErrNotFound)
	}
	return c, err
}

// GetWebhook answers one.
func (s *Server) GetWebhook(ctx context.Context, req openapi.GetWebhookRequestObject) (openapi.GetWebhookResponseObject, error) {
	c, err := s.webhook(ctx, req.WebhookID)
	if err != nil {
		return nil, err
	}
	return openapi.GetWebhook200JSONResponse(webhookDTO(c)), nil
}

// PutWebhook changes one, but not its secret.
func (s *Server) PutWebhook(ctx context.Context, req openapi.PutWebhookRequestObject) (openapi.PutWebhookResponseObject, error) {
	if _, err := s.webhook(ctx, req.WebhookID); err != nil {
		return nil, err
	}
	c, err := s.store.ChangeChannel(ctx, principalOf(ctx).tenant, req.WebhookID, "update", s.now(), actorOf(ctx), func(c *store.Channel) error { return s.setWebhook(c, req.Body) })
	if err != nil {
		return nil, err
	}
	return openapi.PutWebhook200JSONResponse(webhookDTO(c)), nil
}

// DeleteWebhook deletes one.
func (s *Server) DeleteWebhook(ctx context.Context, req openapi.DeleteWebhookRequestObject) (openapi.DeleteWebhookResponseObject, error) {
	if err := s.store.DeleteChannel(ctx, principalOf(ctx).tenant, req.WebhookID, store.ChannelWebhook, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.DeleteWebhook204Response{}, nil
}

// RotateWebhookSecret makes a new secret; the old one signs as well for a while.
func (s *Server) RotateWebhookSecret(ctx context.Context, req openapi.RotateWebhookSecretRequestObject) (openapi.RotateWebhookSecretResponseObject, error) {
	if _, err := s.webhook(ctx, req.WebhookID); err != nil {
		return nil, err
	}
	tenant, now, overlap := principalOf(ctx).tenant, s.now(), defaultOverlap
	if req.Body.OverlapSeconds != nil {
		overlap = time.Duration(*req.Body.OverlapSeconds) * time.Second
	}
	var secret string
	c, err := s.store.ChangeChannel(ctx, tenant, req.WebhookID, "rotate_secret", now, actorOf(ctx), func(c *store.Channel) error {
		had, err := s.cfg.Notify.Open(tenant, c)
		if err != nil {
			return err
		}
		until := now.Add(overlap)
		if c.PreviousSecretUntil = &until; overlap == 0 {
			c.PreviousSecretUntil, had.Signing = nil, nil
		}
		secret, err = s.newSecret(tenant, c, had.Signing)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := webhookDTO(c)
	out.Secret = &secret
	return openapi.RotateWebhookSecret200JSONResponse(out), nil
}

// TestWebhook sends a test event now.
func (s *Server) TestWebhook(ctx context.Context, req openapi.TestWebhookRequestObject) (openapi.TestWebhookResponseObject, error) {
	if _, err := s.webhook(ctx, req.WebhookID); err != nil {
		return nil, err
	}
	out, err := s.testChannel(ctx, req.WebhookID)
	return openapi.TestWebhook200JSONResponse(out), err
}

func (s *Server) testChannel(ctx context.Context, id uuid.UUID) (openapi.TestResult, error) {
	d, r, err := s.cfg.Notify.Test(ctx, principalOf(ctx).tenant, id, actorOf(ctx))
	if err != nil {
		return openapi.TestResult{}, err
	}
	return openapi.TestResult{DeliveryID: d.ID, Delivered: r.State == store.DeliveryDelivered, StatusCode: r.Status, Error: textOrNull(r.Error), DurationMs: r.Duration.Milliseconds()}, nil
}

// ListNotificationChannels lists channels of every kind.
func (s *Server) ListNotificationChannels(ctx context.Context, req openapi.ListNotificationChannelsRequestObject) (openapi.ListNotificationChannelsResponseObject, error) {
	items, next, err := s.store.ListChannels(ctx, principalOf(ctx).tenant, text(req.Params.Kind), pageOf(req.Params.Limit, req.Params.Cursor, req.Params.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListNotificationChannels200JSONResponse{Items: each(items, channelDTO), NextCursor: nextCursor(next)}, nil
}

// setChannel reads a channel of another kind than webhook out of a request, over what it was.
func (s *Server) setChannel(tenant uuid.UUID, c *store.Channel, in *openapi.NotificationChannelInput) error {
	config := store.ChannelConfig{Address: in.Address, Security: string(openapi.SecurityTLS), CAPEM: value(in.CaPem), Username: value(in.Username), From: value(in.From), To: value(in.To)}
	if in.Security != nil {
		config.Security = string(*in.Security)
	}
	if err := checkChannel(in, &config); err != nil {
		return err
	}
	c.Kind, c.Name, c.Format, c.Filter, c.Config = string(in.Kind), in.Name, formatOf(in.Format), filterOf(in.Filter), config
	enable(c, in.Enabled)
	if in.Password == nil {
		return nil
	}
	c.Secrets = nil
	if *in.Password == "" {
		return nil
	}
	var err error
	c.Secrets, err = s.cfg.Notify.Seal(tenant, c.ID, notify.Secrets{Password: *in.Password})
	return err
}

func checkChannel(in *openapi.NotificationChannelInput, config *store.ChannelConfig) error {
	if _, port, err := net.SplitHostPort(in.Address); err != nil || !isPort(port) {
		return refuseField(codeInvalidField, "/address", "it is no host and port such as syslog.example:6514")
	}
	if err := notify.CheckRoots(config.CAPEM); err != nil {
		return refuseField(codeInvalidField, "/ca_pem", err.Error())
	}
	if in.Kind == openapi.ChannelKindWebhook {
		return refuseField(codeInvalidField, "/kind", "webhooks are made at /v1/webhooks")
	}
	if in.Kind == openapi.ChannelKindSyslog {
		return checkSyslog(in, config)
	}
	if config.Security == string(openapi.SecurityNone) && (config.Username != "" || value(in.Password) != "") {
		return refuseField(codeInvalidField, "/security", "a password is not sent over an unprotected connection")
	}
	if err := mail.CheckAddress(config.From); err != nil {
		return refuseField(codeInvalidField, "/from", err.Error())
	}
	if len(config.To) == 0 {
		return refuseField(codeInvalidField, "/to", "a mail needs a recipient")
	}
	for i, to := range config.To {
		if err := mail.CheckAddress(to); err != nil {
			return refuseField(codeInvalidField, fmt.Sprintf("/to/%d", i), err.Error())
		}
	}
	return nil
}

func checkSyslog(in *openapi.NotificationChannelInput, config *store.ChannelConfig) error {
	for pointer, given := range map[string]bool{"/username": config.Username != "", "/password": in.Password != nil, "/from": config.From != "", "/to": len(config.To) > 0} {
		if given {
			return refuseField(codeInvalidField, pointer, "it is for mail")
		}
	}
	if config.Security == string(openapi.SecurityStartTLS) {
		return refuseField(codeInvalidField, "/security", "starttls is for mail")
	}
	return nil
}

func isPort(text string) bool {
	port, err := strconv.Atoi(text)
	return err == nil && port > 0 && port < 1<<16
}

// CreateNotificationChannel makes a channel to syslog or by mail.
func (s *Server) CreateNotificationChannel(ctx context.Context, req openapi.CreateNotificationChannelRequestObject) (openapi.CreateNotificationChannelResponseObject, error) {
	tenant := principalOf(ctx).tenant
	c := store.Channel{ID: store.NewChannelID(s.now())}
	if err := s.setChannel(tenant, &c, req.Body); err != nil {
		return nil, err
	}
	c, err := s.store.CreateChannel(ctx, tenant, c, s.now(), actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return openapi.CreateNotificationChannel201JSONResponse(channelDTO(c)), nil
}

// GetNotificationChannel answers one.
func (s *Server) GetNotificationChannel(ctx context.Context, req openapi.GetNotificationChannelRequestObject) (openapi.GetNotificationChannelResponseObject, error) {
	c, err := s.store.GetChannel(ctx, principalOf(ctx).tenant, req.ChannelID)
	if err != nil {
		return nil, err
	}
	return openapi.GetNotificationChannel200JSONResponse(channelDTO(c)), nil
}

// PutNotificationChannel changes one, but not its kind.
func (s *Server) PutNotificationChannel(ctx context.Context, req openapi.PutNotificationChannelRequestObject) (openapi.PutNotificationChannelResponseObject, error) {
	tenant := principalOf(ctx).tenant
	c, err := s.store.ChangeChannel(ctx, tenant, req.ChannelID, "update", s.now(), actorOf(ctx), func(c *store.Channel) error {
		if string(req.Body.Kind) != c.Kind || c.Kind == store.ChannelWebhook {
			return refuseField(codeInvalidField, "/kind", "it stays "+c.Kind+"; webhooks are changed at /v1/webhooks")
		}
		return s.setChannel(tenant, c, req.Body)
	})
	if err != nil {
		return nil, err
	}
	return openapi.PutNotificationChannel200JSONResponse(channelDTO(c)), nil
}

// DeleteNotificationChannel deletes one of any kind.
func (s *Server) DeleteNotificationChannel(ctx context.Context, req openapi.DeleteNotificationChannelRequestObject) (openapi.DeleteNotificationChannelResponseObject, error) {
	if err := s.store.DeleteChannel(ctx, principalOf(ctx).tenant, req.ChannelID, "", s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.DeleteNotificationChannel204Response{}, nil
}

// TestNotificationChannel sends a test event now.
func (s *Server) TestNotificationChannel(ctx context.Context, req openapi.TestNotificationChannelRequestObject) (openapi.TestNotificationChannelResponseObject, error) {
	out, err := s.testChannel(ctx, req.ChannelID)
	return openapi.TestNotificationChannel200JSONResponse(out), err
}

// ReplayNotificationChannel delivers all that is dead again.
func (s *Server) ReplayNotificationChannel(ctx context.Context, req openapi.ReplayNotificationChannelRequestObject) (openapi.ReplayNotificationChannelResponseObject, error) {
	n, err := s.store.ReplayChannel(ctx, principalOf(ctx).tenant, req.ChannelID, s.now(), actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return openapi.ReplayNotificationChannel200JSONResponse{Deliveries: n}, nil
}
