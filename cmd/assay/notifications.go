package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/assay-verifier/assay/openapi/client"
)

// NotificationsCommand holds the commands about channels, and about what was told to them.
type NotificationsCommand struct {
	List         ChannelsList     `cmd:"" default:"withargs" help:"List channels (also without \"list\")."`
	Create       ChannelCreate    `cmd:"" help:"Tell a webhook, a syslog receiver or people by mail what happens."`
	Show         ChannelShow      `cmd:"" help:"Show a channel, and what came of its last deliveries."`
	Test         ChannelTest      `cmd:"" help:"Send a test event now, and say what came of it."`
	Enable       ChannelEnable    `cmd:"" help:"Deliver to it again."`
	Disable      ChannelDisable   `cmd:"" help:"Deliver to it no more. What waits for it goes on waiting."`
	RotateSecret ChannelRotate    `cmd:"" help:"Make a new secret of a webhook and print it, once. The old one signs as well until the overlap ends."`
	Delete       ChannelDelete    `cmd:"" help:"Delete a channel with its deliveries."`
	Deliveries   DeliveriesList   `cmd:"" help:"List what was told to whom and what could not be, newest first."`
	Delivery     DeliveryShow     `cmd:"" help:"Show a delivery with its attempts."`
	Replay       DeliveriesReplay `cmd:"" help:"Deliver again: one delivery, or all dead ones of a channel."`
}

// ChannelsList lists channels.
type ChannelsList struct {
	Paging `embed:""`
	Kind   string `enum:",webhook,syslog,smtp" default:"" help:"webhook, syslog or smtp."`
}

// Run lists them.
func (c *ChannelsList) Run(a *app) error {
	items, all, err := a.channels(c.Paging, c.Kind)
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no channel. `assay notifications create webhook --name siem --url https://siem.example/assay` makes one.", func(list []client.NotificationChannel) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			rows[i] = []cell{plain(x.Name), plain(string(x.Kind)), plain(channelState(x)), plain(x.Address), plain(string(x.Format)), plain(a.print.agoPtr(x.LastSuccessAt)), {x.ID.String(), dim}}
		}
		a.print.table([]string{"NAME", "KIND", "STATE", "RECEIVER", "FORMAT", "DELIVERED", "ID"}, rows)
	})
}

func channelState(x *client.NotificationChannel) string {
	switch {
	case x.DisabledReason != nil:
		return "disabled (" + *x.DisabledReason + ")"
	case x.FailingSince != nil:
		return fmt.Sprintf("failing (%d times)", x.ConsecutiveFailures)
	}
	return enabledText(x.Enabled)
}

func (a *app) channels(p Paging, kind string) ([]client.NotificationChannel, page, error) {
	var of *client.ChannelKind
	if kind != "" {
		k := client.ChannelKind(kind)
		of = &k
	}
	return fetchList[client.NotificationChannel](a, p, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListNotificationChannelsWithResponse(a.ctx, &client.ListNotificationChannelsParams{Limit: limit, Cursor: cursor, Kind: of})
	})
}

// withChannel finds a channel by id or name. Names are unique.
func (a *app) withChannel(text string, f func(*client.ClientWithResponses, client.NotificationChannel) error) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	list, _, err := a.channels(Paging{All: true}, "")
	if err != nil {
		return err
	}
	for i := range list {
		if list[i].ID.String() == strings.ToLower(text) || list[i].Name == text {
			return f(api, list[i])
		}
	}
	return exactlyOne("notification channel", text, nil)
}

// showChannel prints the channel that a call answered.
func (a *app) showChannel(resp reply, err error) error {
	x, raw, err := answer[client.NotificationChannel](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("%s  %s, %s", p.paint(bold, clean(x.Name)), x.Kind, clean(channelState(&x)))
	p.field("id", x.ID.String())
	p.field("receiver", clean(x.Address))
	p.field("security", string(x.Security))
	if len(x.To) > 0 {
		p.field("to", clean(strings.Join(x.To, ", ")))
	}
	p.field("format", string(x.Format))
	p.field("delivered", p.whenPtr(x.LastSuccessAt))
	p.field("failed", p.whenPtr(x.LastFailureAt))
	if x.LastError != nil {
		p.field("last error", clean(*x.LastError))
	}
	return nil
}

// showWebhook prints the webhook that a call answered, with its secret where the answer has it.
func (a *app) showWebhook(resp reply, err error) error {
	x, raw, err := answer[client.Webhook](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("%s  webhook, %s", p.paint(bold, clean(x.Name)), enabledText(x.Enabled))
	p.field("id", x.ID.String())
	p.field("receiver", clean(x.URL))
	if x.Secret != nil {
		p.field("secret", *x.Secret)
		p.line("The secret is shown this once. Give it to the receiver, which verifies signatures with it (Standard Webhooks).")
	}
	return nil
}

// NamedChannel is the argument of commands about one channel.
type NamedChannel struct {
	Channel string `arg:"" help:"Id or name."`
}

// ChannelShow shows a channel.
type ChannelShow struct {
	NamedChannel `embed:""`
}

// Run shows it.
func (c *ChannelShow) Run(a *app) error {
	return a.withChannel(c.Channel, func(api *client.ClientWithResponses, x client.NotificationChannel) error {
		resp, err := api.GetNotificationChannelWithResponse(a.ctx, x.ID)
		return a.showChannel(resp, err)
	})
}

// ChannelTest sends a test event.
type ChannelTest struct {
	NamedChannel `embed:""`
}

// Run sends it. Not delivered is an error.
func (c *ChannelTest) Run(a *app) error {
	return a.withChannel(c.Channel, func(api *client.ClientWithResponses, x client.NotificationChannel) error {
		resp, err := api.TestNotificationChannelWithResponse(a.ctx, x.ID, &client.TestNotificationChannelParams{})
		result, raw, err := answer[client.TestResult](a, resp, err)
		if err != nil {
			return err
		}
		if a.json {
			if err := a.printJSON(raw); err != nil || result.Delivered {
				return err
			}
			return quietExit(exitFailed)
		}
		if !result.Delivered {
			return fmt.Errorf("not delivered: %s", clean(*result.Error))
		}
		a.print.line("delivered in %d ms", result.DurationMs)
		return nil
	})
}

func (a *app) switchChannel(text string, enabled bool) error {
	return a.withChannel(text, func(api *client.ClientWithResponses, x client.NotificationChannel) error {
		if x.Kind == client.ChannelKindWebhook {
			resp, err := api.PutWebhookWithResponse(a.ctx, x.ID, &client.PutWebhookParams{}, client.WebhookInput{
				Name: x.Name, URL: x.Address, Format: &x.Format, Filter: &x.Filter, CaPem: x.CaPem, Enabled: &enabled,
			})
			return a.showWebhook(resp, err)
		}
		body := client.NotificationChannelInput{Kind: x.Kind, Name: x.Name, Address: x.Address, Format: &x.Format, Filter: &x.Filter, Security: &x.Security,
			CaPem: x.CaPem, Username: x.Username, From: x.From, Enabled: &enabled}
		if len(x.To) > 0 {
			body.To = &x.To
		}
		resp, err := api.PutNotificationChannelWithResponse(a.ctx, x.ID, &client.PutNotificationChannelParams{}, body)
		return a.showChannel(resp, err)
	})
}

// ChannelEnable enables a channel.
type ChannelEnable struct {
	NamedChannel `embed:""`
}

// Run enables it.
func (c *ChannelEnable) Run(a *app) error { return a.switchChannel(c.Channel, true) }

// ChannelDisable disables a channel.
type ChannelDisable struct {
	NamedChannel `embed:""`
}

// Run disables it.
func (c *ChannelDisable) Run(a *app) error { return a.switchChannel(c.Channel, false) }

// ChannelRotate makes a new secret.
type ChannelRotate struct {
	NamedChannel `embed:""`
	Overlap      time.Duration `default:"24h" help:"How long the old secret signs as well."`
}

// Run makes it.
func (c *ChannelRotate) Run(a *app) error {
	return a.withChannel(c.Channel, func(api *client.ClientWithResponses, x client.NotificationChannel) error {
		seconds := int(c.Overlap.Seconds())
		resp, err := api.RotateWebhookSecretWithResponse(a.ctx, x.ID, &client.RotateWebhookSecretParams{}, client.RotateSecret{OverlapSeconds: &seconds})
		return a.showWebhook(resp, err)
	})
}

// ChannelDelete deletes a channel.
type ChannelDelete struct {
	NamedChannel `embed:""`
}

// Run deletes it.
func (c *ChannelDelete) Run(a *app) error {
	return a.withChannel(c.Channel, func(api *client.ClientWithResponses, x client.NotificationChannel) error {
		resp, err := api.DeleteNotificationChannelWithResponse(a.ctx, x.ID, &client.DeleteNotificationChannelParams{})
		_, _, err = answer[struct{}](a, resp, err)
		return err
	})
}
