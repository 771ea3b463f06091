package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
)

// ReappraisalsCommand holds the commands about evidence that is judged again.
type ReappraisalsCommand struct {
	List  ReappraisalsList  `cmd:"" default:"withargs" help:"List what was judged again and why (also without \"list\")."`
	Show  ReappraisalShow   `cmd:"" help:"Show a reappraisal and the machines that it changed."`
	Start ReappraisalsStart `cmd:"" help:"Have stored evidence judged again by what is in force now."`
}

// ReappraisalsList lists reappraisals.
type ReappraisalsList struct {
	State  string `enum:"queued,running,done,failed," default:"" help:"Of this state: queued, running, done, failed."`
	Paging `embed:""`
}

// Run lists them.
func (c *ReappraisalsList) Run(a *app) error {
	items, all, err := fetchList[client.Reappraisal](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListReappraisalsWithResponse(a.ctx, &client.ListReappraisalsParams{Limit: limit, Cursor: cursor, State: several[client.ReappraisalState](c.State)})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "Nothing was judged again.", func(list []client.Reappraisal) {
		rows := make([][]cell, len(list))
		for i := range list {
			r := &list[i]
			rows[i] = []cell{plain(string(r.State)), plain(a.print.ago(r.RequestedAt)), plain(causeText(r)), plain(strconv.FormatInt(r.Judged, 10)),
				plain(strconv.FormatInt(r.Worse, 10)), plain(strconv.FormatInt(r.Better, 10)), plain(strconv.FormatInt(r.Changed, 10)), plain(strconv.FormatInt(r.NotJudged, 10)), {r.ID.String(), dim}}
		}
		a.print.table([]string{"STATE", "ASKED", "CAUSE", "JUDGED", "WORSE", "BETTER", "OTHERWISE", "NOT JUDGED", "ID"}, rows)
	})
}

func causeText(r *client.Reappraisal) string {
	if r.Cause.Detail == "" {
		return r.Cause.Kind + " " + r.Cause.ID
	}
	return r.Cause.Detail
}

// ReappraisalShow shows one.
type ReappraisalShow struct {
	ID      uuid.UUID `arg:"" help:"Id of the reappraisal."`
	Outcome string    `enum:"worse,better,changed,not_judged," default:"" help:"Only machines of this outcome: worse, better, changed, not_judged."`
	Paging  `embed:""`
}

// Run shows it.
func (c *ReappraisalShow) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.GetReappraisalWithResponse(a.ctx, c.ID)
	r, raw, err := answer[client.Reappraisal](a, resp, err)
	if err != nil {
		return err
	}
	items, all, err := fetchList[client.ReappraisalMachine](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListReappraisalMachinesWithResponse(a.ctx, c.ID, &client.ListReappraisalMachinesParams{Limit: limit, Cursor: cursor, Outcome: several[client.ReappraisalOutcome](c.Outcome)})
	})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"reappraisal": json.RawMessage(raw), "machines": all})
	}
	a.print.reappraisal(&r)
	return printList(a, items, all, "No machine is judged otherwise.", func(list []client.ReappraisalMachine) {
		rows := make([][]cell, len(list))
		for i := range list {
			m := &list[i]
			after, reason := plain("–"), dash(textOf(m.ReasonAfter))
			if text := textOf(m.StatusAfter); text != "" {
				after = status(text)
			} else {
				reason = notJudgedText(m.NotJudgedBecause)
			}
			rows[i] = []cell{plain(m.MachineName), plain(strings.ReplaceAll(string(m.Outcome), "_", " ")), status(string(m.StatusBefore)), after, plain(reason), {idText(m.VerdictID), dim}}
		}
		a.print.table([]string{"MACHINE", "OUTCOME", "BEFORE", "AFTER", "REASON", "VERDICT"}, rows)
	})
}

// notJudgedText says why a machine was not judged again; a word that is not known stands for itself.
func notJudgedText(why string) string {
	words := map[string]string{
		"no_evidence": "it never attested, or its evidence is not kept", "key_changed": "its key was replaced since",
		"evidence_unreadable": "its stored evidence cannot be read", "challenge_unknown": "the challenge is not kept",
		"event_log_missing": "the event log is not kept", "platform_evidence_missing": "the hardware evidence is not kept",
		"ima_increment": "of its IMA list only a part is kept", "attested_since": "it sent evidence meanwhile",
	}
	if text := words[why]; text != "" {
		return text
	}
	return dash(why)
}

func idText(id *uuid.UUID) string {
	if id == nil {
		return "–"
	}
	return id.String()
}

// reappraisal writes one for people.
func (p *printer) reappraisal(r *client.Reappraisal) {
	p.line("%s  %s", p.paint(bold, clean(string(r.State))), clean(causeText(r)))
	p.field("id", r.ID.String())
	p.field("asked", p.when(r.RequestedAt)+" by "+clean(r.RequestedBy))
	p.field("finished", p.whenPtr(r.FinishedAt))
	if r.Machines != nil {
		p.field("machines", strconv.FormatInt(*r.Machines, 10))
	}
	p.field("judged again", fmt.Sprintf("%d: %d as before, %d worse, %d better, %d otherwise", r.Judged, r.Unchanged, r.Worse, r.Better, r.Changed))
	p.field("not judged", strconv.FormatInt(r.NotJudged, 10))
	p.field("alerts opened", strconv.FormatInt(r.AlertsOpened, 10))
	for _, id := range r.JudgedBeside {
		p.field("see also", id.String()+" (it judged at the same time; what this change made of a machine may be in its report)")
	}
	if r.Error != "" {
		p.field("last error", clean(r.Error))
	}
	p.line("")
}

// ReappraisalsStart asks for one.
type ReappraisalsStart struct {
	Comment       string `required:"" help:"Why; it is in the audit record."`
	SelectorFlags `embed:""`
	Everywhere    bool `help:"For all machines, where no flag chooses any."`
}

// Run asks.
func (c *ReappraisalsStart) Run(a *app) error {
	if !c.given() && !c.Everywhere {
		return &problem{Title: "The command line cannot be used", Code: "usage", exit: exitBadCall,
			Detail: "choose machines by --scale-set, --label, --platform or --for, or all of them by --everywhere"}
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	selector, err := c.selector(a)
	if err != nil {
		return err
	}
	resp, err := api.CreateReappraisalWithResponse(a.ctx, &client.CreateReappraisalParams{}, client.ReappraisalInput{Comment: c.Comment, Selector: selector})
	r, raw, err := answer[client.Reappraisal](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	fmt.Fprintln(a.stderr, "It is queued; assay reappraisals show follows it.")
	a.print.line("%s", r.ID)
	return nil
}
