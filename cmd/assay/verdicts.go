package main

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
)

// VerdictsCommand holds the commands about verdicts.
type VerdictsCommand struct {
	List VerdictsList `cmd:"" help:"List a machine's verdicts: one row for each change of judgement."`
	Show VerdictsShow `cmd:"" help:"Show a verdict: its checks, what deviates, what is claimed."`
}

// VerdictsList lists verdicts.
type VerdictsList struct {
	Machine  string    `placeholder:"ID|NAME" help:"Of this machine; without it the fleet's."`
	ScaleSet string    `help:"Of the machines of this scale set."`
	Status   string    `help:"affirming, warning, contraindicated or none."`
	Reason   string    `help:"origin_unverified or baseline_deviation."`
	Since    time.Time `placeholder:"TIME" help:"Not older than this (RFC 3339)."`
	Until    time.Time `placeholder:"TIME" help:"Older than this (RFC 3339)."`
	Paging   `embed:""`
}

// Run lists them.
func (c *VerdictsList) Run(a *app) error {
	machine, err := a.optionalMachine(c.Machine)
	if err != nil {
		return err
	}
	items, all, err := fetchList[verdictView](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListVerdictsWithResponse(a.ctx, &client.ListVerdictsParams{
			Limit: limit, Cursor: cursor, MachineID: machine, ScaleSet: optional(c.ScaleSet), Status: several[client.VerdictStatus](c.Status),
			Reason: several[client.FilterReason](c.Reason), Since: optionalTime(c.Since), Until: optionalTime(c.Until),
		})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "No verdict fits.", func(list []verdictView) {
		rows := make([][]cell, len(list))
		for i := range list {
			v := &list[i]
			last := v.ReceivedAt
			if v.LastAt != nil {
				last = *v.LastAt
			}
			rows[i] = []cell{plain(v.ReceivedAt.UTC().Format(time.RFC3339)), status(v.Status), plain(dash(v.Reason)), plain(dash(v.Trigger)),
				plain(strconv.FormatInt(max(v.Count, 1), 10)), plain(a.print.ago(last)), plain(strconv.Itoa(len(v.Deviations))), plain(v.MachineName), {v.ID, dim}}
		}
		a.print.table([]string{"FROM", "STATUS", "REASON", "AFTER", "TIMES", "LAST", "DEVIATIONS", "MACHINE", "ID"}, rows)
	})
}

// VerdictsShow shows one verdict.
type VerdictsShow struct {
	Verdict  string `arg:"" help:"Id of a verdict, or the id or name of a machine for its last one."`
	EventLog bool   `help:"Show the decoded event log behind it instead."`
}

// Run shows it.
func (c *VerdictsShow) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	id, err := a.verdictID(c.Verdict)
	if err != nil {
		return err
	}
	if c.EventLog {
		return a.showEventLog(id)
	}
	resp, err := api.GetVerdictWithResponse(a.ctx, id)
	_, raw, err := answer[client.Verdict](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	v, err := parseVerdict(raw)
	if err != nil {
		return err
	}
	a.print.verdict(v)
	return nil
}

// verdictID takes the id of a verdict, or a machine for its last verdict. An id that is no verdict's may
// be a machine's.
func (a *app) verdictID(text string) (uuid.UUID, error) {
	api, err := a.api()
	if err != nil {
		return uuid.Nil, err
	}
	id, err := uuid.Parse(text)
	if err == nil {
		resp, err := api.GetVerdictWithResponse(a.ctx, id)
		_, _, err = answer[client.Verdict](a, resp, err)
		var p *problem
		if err == nil || !errors.As(err, &p) || p.Status != http.StatusNotFound {
			return id, err
		}
	} else if id, err = a.machineID(text); err != nil {
		return uuid.Nil, err
	}
	resp, err := api.GetMachineWithResponse(a.ctx, id)
	m, _, err := answer[client.Machine](a, resp, err)
	var p *problem
	switch {
	case errors.As(err, &p) && p.Status == http.StatusNotFound:
		return uuid.Nil, &problem{Title: fmt.Sprintf("%q is neither a verdict nor a machine", text), Code: "not_found"}
	case err != nil:
		return uuid.Nil, err
	case m.LastVerdictID == nil:
		return uuid.Nil, &problem{Title: fmt.Sprintf("%s has no verdict yet", m.Name), Code: "not_found"}
	}
	return *m.LastVerdictID, nil
}

func (a *app) showEventLog(id uuid.UUID) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.GetVerdictEventLogWithResponse(a.ctx, id)
	events, raw, err := answer[[]client.DecodedEvent](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	rows := make([][]cell, len(events))
	for i, e := range events {
		mark := cell{"–", dim}
		if e.Verified {
			mark = cell{"✓", green}
		}
		rows[i] = []cell{plain(strconv.Itoa(e.Index)), plain(strconv.Itoa(e.Pcr)), mark, plain(e.Component), plain(e.Description), {e.Type, dim}}
	}
	a.print.table([]string{"#", "PCR", "✓", "COMPONENT", "DESCRIPTION", "TYPE"}, rows)
	return nil
}
