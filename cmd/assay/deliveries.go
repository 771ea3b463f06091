package main

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
)

// DeliveriesList lists deliveries.
type DeliveriesList struct {
	Paging  `embed:""`
	State   string `enum:",pending,delivered,dead" default:"" help:"pending, delivered or dead."`
	Channel string `placeholder:"CHANNEL" help:"Only of this channel: its id or name."`
}

// Run lists them.
func (c *DeliveriesList) Run(a *app) error {
	params := client.ListDeliveriesParams{}
	if c.State != "" {
		state := client.DeliveryState(c.State)
		params.State = &state
	}
	if c.Channel != "" {
		if err := a.withChannel(c.Channel, func(_ *client.ClientWithResponses, x client.NotificationChannel) error {
			params.Channel = &x.ID
			return nil
		}); err != nil {
			return err
		}
	}
	items, all, err := fetchList[client.Delivery](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		params.Limit, params.Cursor = limit, cursor
		return api.ListDeliveriesWithResponse(a.ctx, &params)
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no such delivery.", func(list []client.Delivery) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			failed := ""
			if x.LastError != nil {
				failed = *x.LastError
			}
			rows[i] = []cell{plain(string(x.State)), plain(string(x.Kind)), plain(x.ChannelName), plain(fmt.Sprint(x.Attempts)), plain(a.print.agoPtr(&x.CreatedAt)), plain(failed), {x.ID.String(), dim}}
		}
		a.print.table([]string{"STATE", "EVENT", "CHANNEL", "ATTEMPTS", "MADE", "LAST ERROR", "ID"}, rows)
	})
}

// DeliveryShow shows a delivery.
type DeliveryShow struct {
	Delivery uuid.UUID `arg:"" help:"Id."`
}

// Run shows it.
func (c *DeliveryShow) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.GetDeliveryWithResponse(a.ctx, c.Delivery)
	x, raw, err := answer[client.DeliveryDetail](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("%s  %s to %s", p.paint(bold, string(x.State)), clean(string(x.Kind)), clean(x.ChannelName))
	p.field("id", x.ID.String())
	p.field("event", x.EventID.String())
	p.field("made", p.when(x.CreatedAt))
	p.field("next", p.whenPtr(x.NextAttemptAt))
	for _, t := range x.AttemptList {
		what := "delivered"
		if t.Error != nil {
			what = clean(*t.Error)
		}
		p.line("  %d. %s, %d ms: %s", t.Attempt, p.when(t.At), t.DurationMs, what)
	}
	return nil
}

// DeliveriesReplay delivers again.
type DeliveriesReplay struct {
	Delivery *uuid.UUID `arg:"" optional:"" help:"Id of a delivery."`
	Channel  string     `placeholder:"CHANNEL" help:"All dead deliveries of this channel: its id or name."`
}

// Run delivers again.
func (c *DeliveriesReplay) Run(a *app) error {
	if (c.Delivery == nil) == (c.Channel == "") {
		return errors.New("give either the id of a delivery or --channel")
	}
	if c.Delivery == nil {
		return a.withChannel(c.Channel, a.replayChannel)
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.ReplayDeliveryWithResponse(a.ctx, *c.Delivery, &client.ReplayDeliveryParams{})
	_, raw, err := answer[client.Delivery](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("it is delivered again")
	return nil
}

func (a *app) replayChannel(api *client.ClientWithResponses, x client.NotificationChannel) error {
	resp, err := api.ReplayNotificationChannelWithResponse(a.ctx, x.ID, &client.ReplayNotificationChannelParams{})
	n, raw, err := answer[client.Replayed](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("%d are delivered again", n.Deliveries)
	return nil
}
