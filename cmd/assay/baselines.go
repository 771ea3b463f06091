package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/verifier"
)

// BaselinesCommand holds the commands about baselines.
type BaselinesCommand struct {
	List     BaselinesList    `cmd:"" default:"withargs" help:"List baselines (also without \"list\")."`
	Show     BaselineShow     `cmd:"" help:"Show a baseline's versions, or one version with its reference values."`
	Register BaselineRegister `cmd:"" help:"Register reference values as a new baseline, or as a version of one."`
	Predict  BaselinePredict  `cmd:"" help:"Compute reference values from the files of a build, before anything boots them."`
	Capture  BaselineCapture  `cmd:"" help:"Make a baseline of a machine's last genuine verdict."`
	Promote  BaselinePromote  `cmd:"" help:"Make a version the active one."`
	Retire   BaselineRetire   `cmd:"" help:"Retire a version."`
	DryRun   BaselineDryRun   `cmd:"" help:"What would become of the fleet under a version, or under values that are not registered."`
	Import   BaselineImport   `cmd:"" help:"Import reference values of another format: TCG RIM, CoRIM, in-toto, Keylime, systemd, launch endorsements, evidence."`
	Export   BaselineExport   `cmd:"" help:"Write a version as a document."`
	Approve  BaselineApprove  `cmd:"" help:"Approve a draft as its second person."`
	Rollout  BaselineRollout  `cmd:"" help:"How many machines have moved to the active version, and which have not."`
	Diff     BaselineDiff     `cmd:"" help:"What changed from one set of reference values to another."`
}

// BaselinesList lists baselines.
type BaselinesList struct {
	Paging `embed:""`
}

// Run lists them.
func (c *BaselinesList) Run(a *app) error {
	items, all, err := fetchList[client.Baseline](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListBaselinesWithResponse(a.ctx, &client.ListBaselinesParams{Limit: limit, Cursor: cursor})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no baseline. `assay baselines capture --machine NAME` makes one of a machine that is known to be good.", func(list []client.Baseline) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			rows[i] = []cell{plain(x.Name), plain(versionsText(x.Versions)), plain(selectorText(x.Selector)), plain(a.print.ago(x.UpdatedAt)), {x.ID.String(), dim}}
		}
		a.print.table([]string{"NAME", "VERSIONS", "MACHINES", "CHANGED", "ID"}, rows)
	})
}

// versionsText names the versions that count: "3 active, 2 grace".
func versionsText(versions []client.BaselineVersion) string {
	var parts []string
	retired := 0
	for _, v := range versions {
		if v.State == baseline.StateRetired {
			retired++
			continue
		}
		parts = append(parts, fmt.Sprintf("%d %s", v.Version, v.State))
	}
	if retired > 0 {
		parts = append(parts, fmt.Sprintf("%d retired", retired))
	}
	return dash(strings.Join(parts, ", "))
}

func selectorText(s client.Selector) string {
	var parts []string
	if s.ScaleSet != nil && len(*s.ScaleSet) > 0 {
		parts = append(parts, "scale set "+strings.Join(*s.ScaleSet, ", "))
	}
	if s.Labels != nil && len(*s.Labels) > 0 {
		parts = append(parts, labelText(*s.Labels))
	}
	if s.Platform != nil && len(*s.Platform) > 0 {
		names := make([]string, len(*s.Platform))
		for i, p := range *s.Platform {
			names[i] = string(p)
		}
		parts = append(parts, "platform "+strings.Join(names, ", "))
	}
	if s.MachineIds != nil && len(*s.MachineIds) > 0 {
		parts = append(parts, count(len(*s.MachineIds), "machine"))
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, "; ")
}

// BaselineShow shows a baseline or one version.
type BaselineShow struct {
	Baseline string `arg:"" help:"Id or name; NAME@3 is version 3 with its reference values."`
	Version  int    `arg:"" optional:"" help:"The version, where it is not in the name."`
}

// Run shows it.
func (c *BaselineShow) Run(a *app) error {
	which := VersionName(*c)
	name, version, err := which.split()
	if err != nil {
		return err
	}
	id, err := a.baselineID(name)
	if version > 0 {
		id, version, err = which.find(a)
	}
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	if version > 0 {
		resp, err := api.GetBaselineVersionWithResponse(a.ctx, id, version)
		v, raw, err := answer[client.BaselineVersion](a, resp, err)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(raw)
		}
		return a.printVersion(&v)
	}
	resp, err := api.GetBaselineWithResponse(a.ctx, id)
	x, raw, err := answer[client.Baseline](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("%s", p.paint(bold, clean(x.Name)))
	p.field("id", x.ID.String())
	p.field("machines", clean(selectorText(x.Selector)))
	p.line("")
	rows := make([][]cell, len(x.Versions))
	for i := range x.Versions {
		v := &x.Versions[i]
		rows[i] = []cell{plain(strconv.Itoa(v.Version)), status(string(v.State)), plain(string(v.Origin)), plain(p.ago(v.CreatedAt)), plain(v.CreatedBy), plain(untilText(p, v.ActiveUntil)), plain(provenanceText(v.Provenance))}
		if v.State == baseline.StateActive {
			rows[i][1].color = green
		}
	}
	p.table([]string{"VERSION", "STATE", "ORIGIN", "CREATED", "BY", "UNTIL", "PROVENANCE"}, rows)
	return nil
}

func untilText(p *printer, t *time.Time) string {
	if t == nil {
		return "–"
	}
	return p.ago(*t)
}

func provenanceText(x client.StoredProvenance) string {
	return dash(strings.TrimSpace(textOf(x.Repository) + " " + textOf(x.Commit) + " " + textOf(x.BuildURL)))
}

// verified shows what the identity token of the pipeline said that made a version.
func (p *printer) verified(v *client.VerifiedIdentity) {
	if v == nil {
		return
	}
	p.heading("Made by a pipeline, verified")
	said := map[string]any{"issuer": clean(v.Issuer), "subject": clean(v.Subject), "identity provider": clean(v.Provider), "pipeline rule": clean(v.Rule)}
	for name, text := range v.Claims {
		said[clean(name)] = clean(text)
	}
	p.sorted(said)
}

func (a *app) printVersion(v *client.BaselineVersion) error {
	p := a.print
	p.line("%s version %d  %s", p.paint(bold, clean(v.Name)), v.Version, clean(string(v.State)))
	p.field("id", v.ID.String())
	p.field("machines", clean(selectorText(v.Selector)))
	p.field("origin", clean(string(v.Origin)))
	p.field("created", p.when(v.CreatedAt)+" by "+clean(v.CreatedBy))
	p.field("until", p.whenPtr(v.ActiveUntil))
	if v.GraceUntilMovedPercent != nil {
		p.field("or until moved", fmt.Sprintf("%d %%", *v.GraceUntilMovedPercent))
	}
	if x := v.Approval; x != nil {
		p.field("second person", map[client.VersionApprovalStatus]string{client.VersionApprovalStatusPending: "has to approve"}[x.Status])
		for _, by := range x.Approvals {
			p.field("approved", clean(fmt.Sprintf("by %s, %s: %s", by.By, p.when(by.At), by.Comment)))
		}
	}
	p.retirement(v)
	if text := provenanceText(v.Provenance); text != "–" {
		p.field("provenance", clean(text))
	}
	p.imported(v.Imported)
	p.verified(v.Provenance.Verified)
	if v.ReferenceValues == nil {
		return nil
	}
	var rv verifier.ReferenceValues
	if err := json.Unmarshal(*v.ReferenceValues, &rv); err != nil {
		return fmt.Errorf("the reference values cannot be read: %w", err)
	}
	p.reference(rv)
	return nil
}

// retirement says that the version's machines were released, or that somebody wants it retired.
func (p *printer) retirement(v *client.BaselineVersion) {
	if v.Released != nil {
		p.field("released", "its machines are judged without the baseline")
	}
	if v.Approval == nil || v.Approval.Proposal == nil || v.Approval.Proposal.Retire == nil {
		return
	}
	proposal := v.Approval.Proposal
	what := "to retire it"
	if proposal.Release != nil {
		what = "to retire it and to release its machines"
	}
	by := ""
	if proposal.By != nil {
		by = *proposal.By
	}
	p.field("proposed", clean(what+", by "+by))
}

func (p *printer) reference(rv verifier.ReferenceValues) {
	if len(rv.Events) > 0 {
		p.heading("Events (%d)", len(rv.Events))
		rows := make([][]cell, len(rv.Events))
		for i := range rv.Events {
			e := &rv.Events[i]
			rows[i] = []cell{plain("  " + strconv.Itoa(e.PCR)), plain(dash(e.Component)), plain(dash(e.Description)), {e.Type, dim}}
		}
		p.table([]string{"  PCR", "COMPONENT", "DESCRIPTION", "TYPE"}, rows)
	}
	if len(rv.Claims) > 0 {
		p.heading("Claims")
		claims := map[string]any{}
		for name, raw := range rv.Claims {
			claims[name] = string(raw)
		}
		p.sorted(claims)
	}
	banks := map[string]any{}
	for bank, values := range rv.PCRs {
		banks[bank] = count(len(values), "PCR")
	}
	if len(banks) > 0 {
		p.heading("PCR values")
		p.sorted(banks)
	}
}

// splitVersion reads NAME@3; the version is 0 where none is named.
func splitVersion(text string) (name string, version int, err error) {
	i := strings.LastIndexByte(text, '@')
	if i < 0 {
		return text, 0, nil
	}
	version, err = strconv.Atoi(text[i+1:])
	if err != nil || version < 1 {
		return "", 0, &problem{Title: "The command line cannot be used", Code: "usage", Detail: fmt.Sprintf("%q is no version; versions count from 1", text[i+1:]), exit: exitBadCall}
	}
	return text[:i], version, nil
}

// baseline finds a baseline by id or name. Names are unique.
func (a *app) baseline(text string) (*client.Baseline, error) {
	if id, err := uuid.Parse(text); err == nil {
		api, err := a.api()
		if err != nil {
			return nil, err
		}
		resp, err := api.GetBaselineWithResponse(a.ctx, id)
		b, _, err := answer[client.Baseline](a, resp, err)
		return &b, err
	}
	list, _, err := fetchList[client.Baseline](a, Paging{All: true}, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListBaselinesWithResponse(a.ctx, &client.ListBaselinesParams{Limit: limit, Cursor: cursor})
	})
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].Name == text {
			return &list[i], nil
		}
	}
	return nil, exactlyOne("baseline", text, nil)
}

// baselineID is the id of a baseline; one that is given as such is not looked for.
func (a *app) baselineID(text string) (uuid.UUID, error) {
	if id, err := uuid.Parse(text); err == nil {
		return id, nil
	}
	b, err := a.baseline(text)
	if err != nil {
		return uuid.Nil, err
	}
	return b.ID, nil
}
