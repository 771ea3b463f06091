package main

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
)

// DeliveriesCommand holds the commands about deliveries.
type DeliveriesCommand struct {
	List   DeliveriesList   `cmd:"" default:"withargs" help:"List deliveries, newest first (also without \"list\")."`
	Show   DeliveryShow     `cmd:"" help:"Show a delivery with its attempts."`
	Replay DeliveriesReplay `cmd:"" help:"Deliver again: one delivery, or all dead ones of a channel."`
}

// DeliveriesList lists deliveries.
type DeliveriesList struct {
	Paging  `embed:""`
	State   string `enum:",pending,delivered,dead" default:"" help:"pending, delivered or dead."`
	Channel string `placeholder:"ID" help:"Only of this channel."`
}

// Run lists them.
func (c *DeliveriesList) Run(a *app) error {
	params := client.ListDeliveriesParams{}
	if c.State != "" {
		state := client.DeliveryState(c.State)
		params.State = &state
	}
	if c.Channel != "" {
		id, err := uuid.Parse(c.Channel)
		if err != nil {
			return fmt.Errorf("--channel: %q is no id", c.Channel)
		}
		params.Channel = &id
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
	Delivery string `arg:"" optional:"" help:"Id of a delivery."`
	Channel  string `placeholder:"ID" help:"All dead deliveries of this channel."`
}

// Run delivers again.
func (c *DeliveriesReplay) Run(a *app) error {
	if (c.Delivery == "") == (c.Channel == "") {
		return errors.New("give either the id of a delivery or --channel")
	}
	id, err := uuid.Parse(c.Delivery + c.Channel)
	if err != nil {
		return fmt.Errorf("%q is no id", c.Delivery+c.Channel)
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	if c.Delivery != "" {
		resp, err := api.ReplayDeliveryWithResponse(a.ctx, id, &client.ReplayDeliveryParams{})
		_, raw, err := answer[client.Delivery](a, resp, err)
		if err == nil && a.json {
			err = a.printJSON(raw)
		}
		return err
	}
	resp, err := api.ReplayNotificationChannelWithResponse(a.ctx, id, &client.ReplayNotificationChannelParams{})
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
