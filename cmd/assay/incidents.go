package main

import (
	"strconv"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
)

// IncidentsCommand holds the commands about incidents.
type IncidentsCommand struct {
	List       IncidentsList      `cmd:"" default:"withargs" help:"List incidents (also without \"list\")."`
	Show       IncidentShow       `cmd:"" help:"Show an incident and its alerts."`
	Dismiss    IncidentDismiss    `cmd:"" help:"Its open alerts were looked at and are no concern."`
	Resolve    IncidentResolve    `cmd:"" help:"The cause of its open alerts was removed."`
	InProgress IncidentInProgress `cmd:"" help:"Somebody is working on it."`
	Comment    IncidentComment    `cmd:"" help:"Add a comment to the history of each open alert."`
}

// IncidentsList lists incidents.
type IncidentsList struct {
	Closed   bool   `help:"Also those without open alerts."`
	Status   string `help:"active, in_progress, dismissed or resolved."`
	Code     string `help:"attestation_failed, ..."`
	Severity string `help:"low, medium or high."`
	Reason   string `help:"origin_unverified or baseline_deviation."`
	Paging   `embed:""`
}

// Run lists them.
func (c *IncidentsList) Run(a *app) error {
	open := !c.Closed && c.Status == ""
	if c.Sort == "" && !c.All { // what was opened last, for who looks; the order that does not change, for who takes all
		c.Sort = "-opened_at"
	}
	items, all, err := fetchList[client.Incident](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListIncidentsWithResponse(a.ctx, &client.ListIncidentsParams{Limit: limit, Cursor: cursor, Status: optionalAs[client.AlertStatus](c.Status),
			Open: &open, Code: optional(c.Code), Severity: optionalAs[client.Severity](c.Severity), Reason: optionalAs[client.FilterReason](c.Reason)})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "No incident fits.", func(list []client.Incident) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			rows[i] = []cell{status(string(x.Severity)), status(string(x.Status)), plain(x.Summary), plain(strconv.FormatInt(x.OpenAlerts, 10)),
				plain(a.print.ago(x.LastJoinedAt)), {x.ID.String(), dim}}
		}
		a.print.table([]string{"SEVERITY", "STATUS", "INCIDENT", "OPEN", "LAST JOINED", "ID"}, rows)
	})
}

// IncidentID names one incident.
type IncidentID struct {
	Incident string `arg:"" help:"Id of the incident."`
}

// IncidentShow shows one incident.
type IncidentShow struct {
	IncidentID `embed:""`
	Paging     `embed:""`
}

// Run shows it.
func (c *IncidentShow) Run(a *app) error {
	id, err := parseID("an incident", c.Incident)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.GetIncidentWithResponse(a.ctx, id)
	x, raw, err := answer[client.Incident](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("%s  %s  %s", p.paint(bold, clean(x.Title)), p.paint(statusColor(string(x.Severity)), clean(string(x.Severity))), p.paint(statusColor(string(x.Status)), clean(string(x.Status))))
	p.field("id", x.ID.String())
	p.field("what", clean(x.Summary))
	p.field("open alerts", strconv.FormatInt(x.OpenAlerts, 10))
	p.field("alerts", strconv.FormatInt(x.Alerts, 10))
	p.field("first seen", p.when(x.FirstSeenAt))
	p.field("last joined", p.when(x.LastJoinedAt))
	items, all, err := fetchList[client.IncidentMember](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListIncidentMembersWithResponse(a.ctx, id, &client.ListIncidentMembersParams{Limit: limit, Cursor: cursor})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "It has no alerts.", func(list []client.IncidentMember) {
		rows := make([][]cell, len(list))
		for i := range list {
			m := &list[i]
			left := ""
			if m.LeftAt != nil && m.LeftAs != nil {
				left = string(*m.LeftAs) + " " + p.ago(*m.LeftAt)
			}
			rows[i] = []cell{plain(dash(m.Alert.MachineName)), plain(dash(m.Alert.ScaleSet)), status(string(m.Alert.Status)), plain(p.ago(m.JoinedAt)), plain(dash(left)), {m.Alert.ID.String(), dim}}
		}
		p.table([]string{"MACHINE", "SCALE SET", "STATUS", "JOINED", "LEFT", "ALERT"}, rows)
	})
}

// IncidentDismiss dismisses the open alerts of one.
type IncidentDismiss struct {
	IncidentID `embed:""`
	Note       `embed:""`
}

// Run dismisses them.
func (c *IncidentDismiss) Run(a *app) error {
	return a.incident(c.IncidentID, func(api *client.ClientWithResponses, id uuid.UUID) (reply, error) {
		return api.DismissIncidentWithResponse(a.ctx, id, &client.DismissIncidentParams{}, c.note())
	})
}

// IncidentResolve resolves the open alerts of one.
type IncidentResolve struct {
	IncidentID `embed:""`
	Note       `embed:""`
}

// Run resolves them.
func (c *IncidentResolve) Run(a *app) error {
	return a.incident(c.IncidentID, func(api *client.ClientWithResponses, id uuid.UUID) (reply, error) {
		return api.ResolveIncidentWithResponse(a.ctx, id, &client.ResolveIncidentParams{}, c.note())
	})
}

// IncidentInProgress marks the active alerts of one as being worked on.
type IncidentInProgress struct {
	IncidentID `embed:""`
	Note       `embed:""`
	Assignee   string `help:"Who works on it."`
}

// Run marks them.
func (c *IncidentInProgress) Run(a *app) error {
	return a.incident(c.IncidentID, func(api *client.ClientWithResponses, id uuid.UUID) (reply, error) {
		return api.ProgressIncidentWithResponse(a.ctx, id, &client.ProgressIncidentParams{}, client.AlertProgress{Comment: optional(c.Comment), Assignee: optional(c.Assignee)})
	})
}

// IncidentComment comments on the open alerts of one.
type IncidentComment struct {
	IncidentID `embed:""`
	Comment    string `arg:"" help:"What to say."`
}

// Run comments on them.
func (c *IncidentComment) Run(a *app) error {
	return a.incident(c.IncidentID, func(api *client.ClientWithResponses, id uuid.UUID) (reply, error) {
		return api.CommentIncidentWithResponse(a.ctx, id, &client.CommentIncidentParams{}, client.CommentRequest{Comment: c.Comment})
	})
}

// incident makes one call about one incident and says how many alerts it was about.
func (a *app) incident(which IncidentID, call func(*client.ClientWithResponses, uuid.UUID) (reply, error)) error {
	id, err := parseID("an incident", which.Incident)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := call(api, id)
	x, raw, err := answer[client.IncidentChange](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("%s", count(x.Alerts, "alert"))
	return nil
}
