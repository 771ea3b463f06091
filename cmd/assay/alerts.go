package main

import (
	"cmp"
	"fmt"
	"strconv"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
)

// AlertsCommand holds the commands about alerts.
type AlertsCommand struct {
	List       AlertsList      `cmd:"" default:"withargs" help:"List alerts (also without \"list\")."`
	Show       AlertsShow      `cmd:"" help:"Show an alert and what to do about it."`
	Dismiss    AlertDismiss    `cmd:"" help:"It was looked at and is no concern."`
	Resolve    AlertResolve    `cmd:"" help:"Its cause was removed."`
	Activate   AlertActivate   `cmd:"" help:"Make it active again."`
	InProgress AlertInProgress `cmd:"" help:"Somebody is working on it."`
	Approve    AlertApprove    `cmd:"" help:"Approve what it is about into a new version of the baseline."`
	Refuse     AlertRefuse     `cmd:"" help:"Refuse what it is about."`
	Comment    AlertComment    `cmd:"" help:"Add a comment to its history."`
	History    AlertHistory    `cmd:"" help:"What happened to it, and who did what."`
	Verdicts   AlertVerdicts   `cmd:"" help:"The verdicts behind it."`
}

// AlertsList lists alerts.
type AlertsList struct {
	Code              string `help:"attestation_failed, ..."`
	Status            string `help:"active, in_progress, dismissed or resolved."`
	Severity          string `help:"low, medium or high."`
	Reason            string `help:"origin_unverified or baseline_deviation."`
	Machine           string `placeholder:"ID|NAME" help:"Of this machine."`
	ScaleSet          string `help:"Of this scale set."`
	IncludeSuppressed bool   `help:"Also those that a suppression rule hides."`
	Paging            `embed:""`
}

// Run lists them.
func (c *AlertsList) Run(a *app) error {
	machine, err := a.optionalMachine(c.Machine)
	if err != nil {
		return err
	}
	items, all, err := fetchList[client.Alert](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		params := &client.ListAlertsParams{
			Limit: limit, Cursor: cursor, Code: optional(c.Code), Status: optionalAs[client.AlertStatus](c.Status),
			Severity: optionalAs[client.Severity](c.Severity), Reason: optionalAs[client.FilterReason](c.Reason),
			MachineID: machine, ScaleSet: optional(c.ScaleSet),
		}
		if c.IncludeSuppressed {
			params.IncludeSuppressed = &c.IncludeSuppressed
		}
		return api.ListAlertsWithResponse(a.ctx, params)
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "No alert fits.", func(list []client.Alert) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			state := status(string(x.Status))
			if x.SuppressedBy != nil {
				state = cell{string(x.Status) + " (suppressed)", dim}
			}
			rows[i] = []cell{status(string(x.Severity)), state, plain(cmp.Or(x.MachineName, x.Scope)), plain(x.DisplayName), plain(dash(textOf(x.Reason))),
				plain(strconv.FormatInt(x.Count, 10)), plain(a.print.ago(x.LastSeenAt)), {x.ID.String(), dim}}
		}
		a.print.table([]string{"SEVERITY", "STATUS", "MACHINE", "ALERT", "REASON", "TIMES", "LAST SEEN", "ID"}, rows)
	})
}

// optionalMachine finds the machine that a filter names; nil where there is no filter.
func (a *app) optionalMachine(text string) (*uuid.UUID, error) {
	if text == "" {
		return nil, nil
	}
	id, err := a.machineID(text)
	return &id, err
}

// AlertID names one alert.
type AlertID struct {
	Alert string `arg:"" help:"Id of the alert."`
}

// Note is a comment on a change.
type Note struct {
	Comment string `help:"Why. It is kept in the history."`
}

func (n *Note) note() client.AlertNote { return client.AlertNote{Comment: optional(n.Comment)} }

// AlertsShow shows one alert.
type AlertsShow struct {
	AlertID `embed:""`
}

// Run shows it.
func (c *AlertsShow) Run(a *app) error {
	return a.alert(c.AlertID, func(api *client.ClientWithResponses, id uuid.UUID) (reply, error) {
		return api.GetAlertWithResponse(a.ctx, id)
	})
}

// AlertDismiss dismisses one.
type AlertDismiss struct {
	AlertID `embed:""`
	Note    `embed:""`
}

// Run dismisses it.
func (c *AlertDismiss) Run(a *app) error {
	return a.alert(c.AlertID, func(api *client.ClientWithResponses, id uuid.UUID) (reply, error) {
		return api.DismissAlertWithResponse(a.ctx, id, &client.DismissAlertParams{}, c.note())
	})
}

// AlertResolve resolves one.
type AlertResolve struct {
	AlertID `embed:""`
	Note    `embed:""`
}

// Run resolves it.
func (c *AlertResolve) Run(a *app) error {
	return a.alert(c.AlertID, func(api *client.ClientWithResponses, id uuid.UUID) (reply, error) {
		return api.ResolveAlertWithResponse(a.ctx, id, &client.ResolveAlertParams{}, c.note())
	})
}

// AlertActivate makes one active again.
type AlertActivate struct {
	AlertID `embed:""`
	Note    `embed:""`
}

// Run activates it.
func (c *AlertActivate) Run(a *app) error {
	return a.alert(c.AlertID, func(api *client.ClientWithResponses, id uuid.UUID) (reply, error) {
		return api.ActivateAlertWithResponse(a.ctx, id, &client.ActivateAlertParams{}, c.note())
	})
}

// AlertInProgress marks one as being worked on.
type AlertInProgress struct {
	AlertID  `embed:""`
	Note     `embed:""`
	Assignee string `help:"Who works on it."`
}

// Run marks it.
func (c *AlertInProgress) Run(a *app) error {
	return a.alert(c.AlertID, func(api *client.ClientWithResponses, id uuid.UUID) (reply, error) {
		return api.ProgressAlertWithResponse(a.ctx, id, &client.ProgressAlertParams{}, client.AlertProgress{Comment: optional(c.Comment), Assignee: optional(c.Assignee)})
	})
}

// alert makes one call about one alert and shows the alert as it then is.
func (a *app) alert(which AlertID, call func(*client.ClientWithResponses, uuid.UUID) (reply, error)) error {
	id, err := parseID("an alert", which.Alert)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := call(api, id)
	x, raw, err := answer[client.Alert](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("%s  %s  %s", p.paint(bold, clean(x.DisplayName)), p.paint(statusColor(string(x.Severity)), clean(string(x.Severity))), p.paint(statusColor(string(x.Status)), clean(string(x.Status))))
	p.field("id", x.ID.String())
	if x.MachineID != nil {
		p.field("machine", clean(x.MachineName)+" "+p.paint(dim, x.MachineID.String()))
	} else {
		p.field("about", clean(x.Scope))
	}
	p.field("reason", clean(textOf(x.Reason)))
	if x.VerdictID != nil {
		p.field("verdict", x.VerdictID.String())
	}
	p.field("first seen", p.when(x.FirstSeenAt))
	p.field("last seen", fmt.Sprintf("%s, %s", p.when(x.LastSeenAt), count(int(x.Count), "time")))
	if x.ReopenedCount > 0 {
		p.field("opened again", fmt.Sprintf("%s, last %s", count(x.ReopenedCount, "time"), p.when(x.OpenedAt)))
	}
	if x.ClosedAt != nil {
		p.field("closed", clean(fmt.Sprintf("%s by %s", p.when(*x.ClosedAt), textOf(x.ClosedBy))))
	}
	if x.Assignee != nil {
		p.field("assignee", clean(*x.Assignee))
	}
	if x.IncidentID != nil {
		p.field("incident", x.IncidentID.String())
	}
	if x.SuppressedBy != nil {
		p.field("suppressed by", x.SuppressedBy.String())
	}
	if x.Decisions != nil {
		for _, d := range *x.Decisions {
			p.field(string(d.Decision), clean(fmt.Sprintf("by %s, %s: %s", d.By, p.when(d.At), d.Comment)))
		}
	}
	p.line("\n  %s", clean(x.Description))
	p.steps(x.RemediationSteps)
	return nil
}

func (p *printer) steps(steps []string) {
	if len(steps) == 0 {
		return
	}
	p.heading("What to do")
	for i, step := range steps {
		p.line("  %d. %s", i+1, clean(step))
	}
}
