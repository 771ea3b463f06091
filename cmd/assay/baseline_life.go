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
)

// VersionName names one version.
type VersionName struct {
	Baseline string `arg:"" help:"NAME@VERSION, or the baseline's id or name with the version after it."`
	Version  int    `arg:"" optional:"" help:"The version, where it is not in the name."`
}

// split is the baseline and the version; 0 where none is named.
func (v *VersionName) split() (name string, version int, err error) {
	name, version, err = splitVersion(v.Baseline)
	switch {
	case err != nil || v.Version == 0:
		return name, version, err
	case version > 0:
		return "", 0, badUsage(fmt.Sprintf("%s names its version, and %d follows it", v.Baseline, v.Version))
	case v.Version < 0:
		return "", 0, badUsage(fmt.Sprintf("\"%d\" is no version; versions count from 1", v.Version))
	}
	return name, v.Version, nil
}

// find asks the service for the version, and says which there are where it is not there.
func (v *VersionName) find(a *app) (uuid.UUID, int, error) {
	name, version, err := v.split()
	if err != nil {
		return uuid.Nil, 0, err
	}
	b, err := a.baseline(name)
	if err != nil {
		return uuid.Nil, 0, err
	}
	if version == 0 {
		p := badUsage("name the version too: " + b.Name + " has " + versionsText(b.Versions))
		if n := candidate(b.Versions); n > 0 {
			p.Hint = fmt.Sprintf("%s@%d", clean(name), n)
		}
		return uuid.Nil, 0, p
	}
	for i := range b.Versions {
		if b.Versions[i].Version == version {
			return b.ID, version, nil
		}
	}
	return uuid.Nil, 0, &problem{Title: fmt.Sprintf("%s has no version %d", clean(b.Name), version), Code: "not_found", Detail: "it has " + versionsText(b.Versions)}
}

// candidate is the version that is most likely meant where none is named: the newest draft, else the newest.
func candidate(versions []client.BaselineVersion) int {
	newest := 0
	for i := range versions { // newest first
		if versions[i].State == baseline.StateDraft {
			return versions[i].Version
		}
		newest = max(newest, versions[i].Version)
	}
	return newest
}

// GraceFlags are for how long a version that is replaced stays valid.
type GraceFlags struct {
	GraceFor   time.Duration `placeholder:"DURATION" help:"The version that is replaced stays valid this long, for example 72h."`
	GraceUntil string        `placeholder:"TIME" help:"It stays valid until then (RFC 3339)."`
	UntilMoved string        `placeholder:"PERCENT" help:"It stays valid until this share of the machines has moved, for example 95%. With a time, whichever is first."`
}

// window is what the flags say; both nil where none is given.
func (f *GraceFlags) window(a *app) (until *time.Time, percent *int, err error) {
	bad := func(detail string) error {
		return &problem{Title: "The command line cannot be used", Code: "usage", Detail: detail, exit: exitBadCall}
	}
	until = a.after(f.GraceFor)
	if f.GraceUntil != "" {
		if until != nil {
			return nil, nil, bad("give --grace-for or --grace-until, not both")
		}
		t, err := time.Parse(time.RFC3339, f.GraceUntil)
		if err != nil {
			return nil, nil, bad(fmt.Sprintf("--grace-until %q is no time such as 2026-12-01T18:00:00Z", f.GraceUntil))
		}
		until = &t
	}
	if f.UntilMoved != "" {
		n, err := strconv.Atoi(strings.TrimSuffix(f.UntilMoved, "%"))
		if err != nil || n < 1 || n > 100 {
			return nil, nil, bad(fmt.Sprintf("--until-moved %q is no share from 1%% to 100%%", f.UntilMoved))
		}
		percent = &n
	}
	return until, percent, nil
}

// BaselinePromote promotes a version.
type BaselinePromote struct {
	VersionName   `embed:""`
	GraceFlags    `embed:""`
	Comment       string `help:"Kept with the version where the promotion is the second person's approval."`
	ExpectedState string `placeholder:"STATE" help:"Only if the version is in this state."`
}

// Help says what becomes of the version before.
func (c *BaselinePromote) Help() string {
	return "Without --grace-for, --grace-until and --until-moved the version that is replaced is retired at once."
}

// Run promotes it.
func (c *BaselinePromote) Run(a *app) error {
	until, percent, err := c.window(a)
	if err != nil {
		return err
	}
	return a.changeVersion(&c.VersionName, func(api *client.ClientWithResponses, id uuid.UUID, version int) (reply, error) {
		return api.PromoteBaselineVersionWithResponse(a.ctx, id, version, &client.PromoteBaselineVersionParams{}, client.PromoteRequest{
			GraceUntil: until, GraceUntilMovedPercent: percent, ExpectedState: optionalAs[client.BaselineState](c.ExpectedState), Comment: optional(c.Comment)})
	})
}

// changeVersion makes one call about one version and shows what became of it.
func (a *app) changeVersion(which *VersionName, call func(*client.ClientWithResponses, uuid.UUID, int) (reply, error)) error {
	id, version, err := which.find(a)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := call(api, id, version)
	return a.showVersion(resp, err)
}

// BaselineRetire retires a version.
type BaselineRetire struct {
	VersionName   `embed:""`
	ExpectedState string `placeholder:"STATE" help:"Only if the version is in this state."`
	Release       bool   `help:"Machines are judged without the baseline from now on."`
	Propose       bool   `help:"Change nothing: let another principal do it, as the two-person rule asks."`
	Comment       string `help:"Kept in the audit record."`
}

// Help says what becomes of the machines.
func (c *BaselineRetire) Help() string {
	return "Where no other version of the baseline is valid, the machines that it covers fail until one is promoted. With --release they are judged without it, and the baseline is over; a version that is retired already can be released too."
}

// Run retires it.
func (c *BaselineRetire) Run(a *app) error {
	return a.changeVersion(&c.VersionName, func(api *client.ClientWithResponses, id uuid.UUID, version int) (reply, error) {
		return api.RetireBaselineVersionWithResponse(a.ctx, id, version, &client.RetireBaselineVersionParams{},
			client.RetireRequest{ExpectedState: optionalAs[client.BaselineState](c.ExpectedState), Release: &c.Release, Propose: &c.Propose, Comment: optional(c.Comment)})
	})
}

// BaselineApprove approves a draft.
type BaselineApprove struct {
	VersionName   `embed:""`
	Comment       string `help:"Kept with the version."`
	ExpectedState string `placeholder:"STATE" help:"Only if the version is in this state."`
}

// Help says who may.
func (c *BaselineApprove) Help() string {
	return "Nobody approves a version of his own: people are told apart by their API tokens. A version that came from an approved alert becomes active with it."
}

// Run approves it.
func (c *BaselineApprove) Run(a *app) error {
	return a.changeVersion(&c.VersionName, func(api *client.ClientWithResponses, id uuid.UUID, version int) (reply, error) {
		return api.ApproveBaselineVersionWithResponse(a.ctx, id, version, &client.ApproveBaselineVersionParams{},
			client.ApproveVersionRequest{Comment: optional(c.Comment), ExpectedState: optionalAs[client.BaselineState](c.ExpectedState)})
	})
}

// BaselineRollout shows a rollout.
type BaselineRollout struct {
	Baseline string `arg:"" help:"Id or name of the baseline."`
	Paging   `embed:""`
}

// Run shows it.
func (c *BaselineRollout) Run(a *app) error {
	id, err := a.baselineID(c.Baseline)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	var r client.Rollout
	limit, cursor := min(max(c.Limit, 1), maxPage), optional(c.Cursor)
	if c.All {
		limit = maxPage
	}
	for {
		resp, err := api.GetBaselineRolloutWithResponse(a.ctx, id, &client.GetBaselineRolloutParams{Limit: &limit, Cursor: cursor})
		part, _, err := answer[client.Rollout](a, resp, err)
		if err != nil {
			return err
		}
		part.NotMoved.Items = append(r.NotMoved.Items, part.NotMoved.Items...)
		r = part
		if cursor = r.NotMoved.NextCursor; cursor == nil || !c.Paging.All {
			break
		}
	}
	if a.json {
		raw, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("write the rollout: %w", err)
		}
		return a.printJSON(json.RawMessage(raw))
	}
	a.print.rollout(&r)
	return nil
}

// rolloutWidth is the width of the bar in characters.
const rolloutWidth = 40

func (p *printer) rollout(r *client.Rollout) {
	active := "no active version"
	if r.ActiveVersion != nil {
		active = fmt.Sprintf("version %d active", *r.ActiveVersion)
	}
	p.line("%s  %s", p.paint(bold, clean(r.Name)), active)
	done := int(r.MovedPercent * rolloutWidth / 100)
	p.line("  %s%s  %.1f %% moved", p.paint(green, strings.Repeat("█", done)), p.paint(dim, strings.Repeat("░", rolloutWidth-done)), r.MovedPercent)
	p.field("moved", fmt.Sprintf("%d of %d attesting machines (%d covered)", r.Moved, r.Attesting, r.Covered))
	p.field("behind", strconv.FormatInt(r.Behind, 10))
	if r.RolledBack > 0 {
		p.field("went back", p.paint(red, strconv.FormatInt(r.RolledBack, 10)))
	}
	p.field("never affirmed", strconv.FormatInt(r.None, 10))
	for _, g := range r.Grace {
		var ends []string
		if g.Until != nil {
			ends = append(ends, p.when(*g.Until))
		}
		if g.UntilMovedPercent != nil {
			ends = append(ends, fmt.Sprintf("%d %% moved (%.1f %% so far)", *g.UntilMovedPercent, g.MovedPercent))
		}
		p.field(fmt.Sprintf("grace of %d ends", g.Version), strings.Join(ends, ", or "))
	}
	p.heading("Versions")
	rows := make([][]cell, len(r.Versions))
	for i, v := range r.Versions {
		rows[i] = []cell{plain(strconv.Itoa(v.Version)), status(string(v.State)), plain(strconv.FormatInt(v.Machines, 10))}
	}
	p.table([]string{"VERSION", "STATE", "MACHINES"}, rows)
	if len(r.NotMoved.Items) == 0 {
		return
	}
	p.heading("Not moved")
	rows = make([][]cell, len(r.NotMoved.Items))
	for i := range r.NotMoved.Items {
		m := &r.NotMoved.Items[i]
		version := "–"
		if m.Version != nil {
			version = strconv.Itoa(*m.Version)
		}
		if m.RolledBack {
			version += " (went back)"
		}
		rows[i] = []cell{plain(m.MachineName), plain(dash(m.ScaleSet)), status(string(m.Status)), plain(version), plain(p.agoPtr(m.LastSeenAt)), {m.MachineID.String(), dim}}
	}
	p.table([]string{"MACHINE", "SCALE SET", "STATUS", "VERSION", "LAST SEEN", "ID"}, rows)
	if r.NotMoved.NextCursor != nil {
		p.line("  %s", p.paint(dim, "There are more; --all lists every one."))
	}
}
