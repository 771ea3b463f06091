package main

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
)

// AlertApprove approves what an alert is about.
type AlertApprove struct {
	AlertID    `embed:""`
	Comment    string `help:"Why. It is kept, and needed unless --preview is given."`
	Scope      string `enum:"baseline,machine" default:"baseline" help:"baseline: for all machines that it covers. machine: for this machine alone."`
	Baseline   string `placeholder:"ID|NAME" help:"Of several baselines that were deviated from, the one that is meant."`
	Replace    bool   `help:"What was measured takes the place of what was expected; otherwise both are allowed."`
	Draft      bool   `help:"Make the version without using it; promote makes it active."`
	Force      bool   `help:"Also where the same deviations were refused before."`
	Preview    bool   `help:"Only show what would be allowed."`
	GraceFlags `embed:""`
}

// Run approves it.
func (c *AlertApprove) Run(a *app) error {
	id, err := parseID("an alert", c.Alert)
	if err != nil {
		return err
	}
	until, percent, err := c.window(a)
	if err != nil {
		return err
	}
	if c.Comment == "" && !c.Preview {
		return &problem{Title: "The command line cannot be used", Code: "usage", Detail: "say why with --comment; --preview only shows what would be allowed", exit: exitBadCall}
	}
	var base *uuid.UUID
	if c.Baseline != "" {
		found, err := a.baselineID(c.Baseline)
		if err != nil {
			return err
		}
		base = &found
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	scope := client.ApprovalScope(c.Scope)
	if c.Preview {
		resp, err := api.PreviewApprovalWithResponse(a.ctx, id, &client.PreviewApprovalParams{Scope: &scope, BaselineID: base, Replace: &c.Replace})
		return a.showApproval(resp, err)
	}
	state := client.ApproveRequestState("active")
	if c.Draft {
		state = "draft"
	}
	resp, err := api.ApproveAlertWithResponse(a.ctx, id, &client.ApproveAlertParams{}, client.ApproveRequest{
		Comment: c.Comment, Scope: &scope, BaselineID: base, Replace: &c.Replace, State: &state, Force: &c.Force,
		GraceUntil: until, GraceUntilMovedPercent: percent})
	x, raw, err := answer[client.ApprovalResult](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("%s version %d is %s  %s", clean(x.Version.Name), x.Version.Version, clean(string(x.Version.State)), a.print.paint(dim, x.Version.ID.String()))
	if x.Version.Approval != nil && x.Version.Approval.Status == client.VersionApprovalStatusPending {
		a.print.line("  A second person has to approve it: assay baselines approve %s %d", x.Version.ID, x.Version.Version)
	}
	a.print.approval(x.Changes, x.Remaining)
	return nil
}

// showApproval shows a preview.
func (a *app) showApproval(resp reply, err error) error {
	x, raw, err := answer[client.ApprovalPreview](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	if x.BaselineID == nil {
		p.line("A baseline of the machine's own would be made: %s", clean(x.Name))
	} else {
		p.line("%s would get a version, made out of version %d", clean(x.Name), x.BasedOn)
	}
	p.field("machines", clean(selectorText(x.Selector)))
	if x.SecondPersonRequired {
		p.field("approval", "a second person has to approve it")
	}
	if r := x.RefusedBefore; r != nil {
		p.field("refused before", p.paint(red, clean(fmt.Sprintf("by %s, %s: %s", r.By, p.when(r.At), r.Comment))))
	}
	p.approval(x.Changes, x.Remaining)
	return nil
}

func (p *printer) approval(changes []client.Deviation, remaining []string) {
	p.heading("Changes (%d)", len(changes))
	for i := range changes {
		d := &changes[i]
		at := verifier.Deviation{PCR: d.Pcr, Bank: textOf(d.Bank), Component: eventlog.Component(d.Component)}
		p.line("  %s  %s", pad(placeOf(&at), 6), clean(d.Description))
		if d.Allows != nil {
			p.allows(*d.Allows)
		}
	}
	if len(remaining) > 0 {
		p.heading("The same evidence would still fail by")
		for _, text := range remaining {
			p.line("  %s", clean(text))
		}
	}
}

// maxAllowed bounds the digests that are shown of one change; the JSON form has all.
const maxAllowed = 8

// allows shows digests that become allowed, shortened; the JSON form has them whole.
func (p *printer) allows(digests []string) {
	for i, digest := range digests {
		if i == maxAllowed {
			p.line("          %s %d more", p.paint(dim, "allows"), len(digests)-i)
			return
		}
		p.line("          %s %s", p.paint(dim, "allows"), clean(verifier.ShortDigest(digest)))
	}
}

// placeOf is the register that a deviation is in, or what it is about where that is none.
func placeOf(d *verifier.Deviation) string {
	switch {
	case d.PCR >= 0:
		return d.Register()
	case d.Component == verifier.ComponentLaunch:
		return "launch"
	}
	return "claim"
}

// AlertRefuse refuses what an alert is about.
type AlertRefuse struct {
	AlertID `embed:""`
	Comment string `required:"" help:"Why. It is kept."`
}

// Run refuses it.
func (c *AlertRefuse) Run(a *app) error {
	return a.alert(c.AlertID, func(api *client.ClientWithResponses, id uuid.UUID) (reply, error) {
		return api.RefuseAlertWithResponse(a.ctx, id, &client.RefuseAlertParams{}, client.RefuseRequest{Comment: c.Comment})
	})
}
