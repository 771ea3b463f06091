package main

import (
	"strconv"

	"github.com/assay-verifier/assay/openapi/client"
)

// AlertComment comments on an alert.
type AlertComment struct {
	AlertID `embed:""`
	Comment string `arg:"" help:"What to say."`
}

// Run comments on it.
func (c *AlertComment) Run(a *app) error {
	id, err := parseID("an alert", c.Alert)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.CommentAlertWithResponse(a.ctx, id, &client.CommentAlertParams{}, client.CommentRequest{Comment: c.Comment})
	x, raw, err := answer[client.AlertEvent](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("%s", x.ID)
	return nil
}

// AlertHistory lists what happened to an alert.
type AlertHistory struct {
	AlertID `embed:""`
	Paging  `embed:""`
}

// Run lists it.
func (c *AlertHistory) Run(a *app) error {
	id, err := parseID("an alert", c.Alert)
	if err != nil {
		return err
	}
	items, all, err := fetchList[client.AlertEvent](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListAlertHistoryWithResponse(a.ctx, id, &client.ListAlertHistoryParams{Limit: limit, Cursor: cursor})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "Nothing happened to it.", func(list []client.AlertEvent) {
		rows := make([][]cell, len(list))
		for i := range list {
			e := &list[i]
			rows[i] = []cell{plain(a.print.when(e.At)), plain(string(e.Kind)), plain(dash(textOf(e.From))), plain(dash(textOf(e.To))), plain(e.By), plain(dash(e.Comment))}
		}
		a.print.table([]string{"AT", "WHAT", "FROM", "TO", "BY", "COMMENT"}, rows)
	})
}

// AlertVerdicts lists the verdicts behind an alert.
type AlertVerdicts struct {
	AlertID `embed:""`
	Paging  `embed:""`
}

// Run lists them.
func (c *AlertVerdicts) Run(a *app) error {
	id, err := parseID("an alert", c.Alert)
	if err != nil {
		return err
	}
	items, all, err := fetchList[client.AlertOccurrence](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListAlertOccurrencesWithResponse(a.ctx, id, &client.ListAlertOccurrencesParams{Limit: limit, Cursor: cursor})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "No verdict is behind it.", func(list []client.AlertOccurrence) {
		rows := make([][]cell, len(list))
		for i := range list {
			o := &list[i]
			verdict := "–"
			if o.VerdictID != nil {
				verdict = o.VerdictID.String()
			}
			rows[i] = []cell{plain(a.print.when(o.FirstAt)), plain(a.print.when(o.LastAt)), plain(strconv.FormatInt(o.Count, 10)), plain(verdict)}
		}
		a.print.table([]string{"FIRST", "LAST", "TIMES", "VERDICT"}, rows)
	})
}
