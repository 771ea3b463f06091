package main

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
)

// MachinesCommand holds the commands about machines.
type MachinesCommand struct {
	List    MachinesList    `cmd:"" default:"withargs" help:"List machines (also without \"list\")."`
	Show    MachinesShow    `cmd:"" help:"Show one machine: posture, assessments, open alerts, recommendations."`
	Release MachinesRelease `cmd:"" help:"Let a reinstalled or repaired machine enrol again: revoke its keys."`
}

// MachinesList lists machines.
type MachinesList struct {
	Name         string    `help:"Exact name."`
	ScaleSet     string    `help:"Exact scale set."`
	Platform     string    `help:"azure, gcp, aws, vmware, qemu, physical or other."`
	OS           string    `name:"os" help:"linux or windows."`
	SecurityType string    `help:"confidential_snp, confidential_tdx, trusted_launch, standard or physical."`
	Label        []string  `sep:"none" placeholder:"KEY[=VALUE]" help:"Machines with this label; repeated: with all of them."`
	Prefix       string    `help:"Names that begin with this."`
	Status       string    `help:"Last verdict: affirming, warning, contraindicated or none."`
	SeenBefore   time.Time `placeholder:"TIME" help:"Last evidence is older than this (RFC 3339)."`
	Stale        bool      `help:"Only machines that are silent past their deadline."`
	SilenceAlert string    `placeholder:"ID" help:"Only silent machines that this alert of many machines stands for."`
	Paging       `embed:""`
}

// Run lists machines.
func (c *MachinesList) Run(a *app) error {
	var stale *bool
	if c.Stale {
		stale = &c.Stale
	}
	var silence *uuid.UUID
	if c.SilenceAlert != "" {
		id, err := parseID("an alert", c.SilenceAlert)
		if err != nil {
			return err
		}
		silence = &id
	}
	items, all, err := fetchList[client.Machine](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListMachinesWithResponse(a.ctx, &client.ListMachinesParams{
			Limit: limit, Cursor: cursor, Name: optional(c.Name), Q: optional(c.Prefix), ScaleSet: optional(c.ScaleSet),
			Platform: several[client.Platform](c.Platform), Os: several[client.OperatingSystem](c.OS),
			SecurityType: several[client.SecurityType](c.SecurityType), Label: labelsOf(c.Label),
			Status: several[client.VerdictStatus](c.Status), SeenBefore: optionalTime(c.SeenBefore),
			Stale: stale, SilenceAlertID: silence,
		})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "No machine fits. Agents enrol with a token of `assay join-tokens create`.", a.print.machines)
}

func (p *printer) machines(list []client.Machine) {
	rows := make([][]cell, len(list))
	for i := range list {
		m := &list[i]
		rows[i] = []cell{plain(m.Name), status(machineStatus(m)), plain(dash(machineReason(m))), plain(dash(textOf(m.Assurance))),
			plain(dash(m.SecurityType)), plain(dash(m.ScaleSet)), plain(dash(m.Platform)), plain(p.agoPtr(m.LastSeenAt)), {m.ID.String(), dim}}
	}
	p.table([]string{"NAME", "STATUS", "REASON", "ASSURANCE", "SECURITY TYPE", "SCALE SET", "PLATFORM", "LAST SEEN", "ID"}, rows)
}

func labelsOf(labels []string) *[]client.FilterText {
	if len(labels) == 0 {
		return nil
	}
	return &labels
}

func machineStatus(m *client.Machine) string {
	if s := textOf(m.Status); s != "" {
		return s
	}
	return "unattested"
}

// machineReason is why the machine is not as it should be: silence comes before what the last verdict said.
func machineReason(m *client.Machine) string {
	if m.StaleSince != nil {
		return "stale"
	}
	return textOf(m.Reason)
}

func dash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// MachinesShow shows one machine.
type MachinesShow struct {
	Machine string `arg:"" help:"Id or name."`
}

// Run shows the machine; people also see what is open about it.
func (c *MachinesShow) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	id, err := a.machineID(c.Machine)
	if err != nil {
		return err
	}
	resp, err := api.GetMachineWithResponse(a.ctx, id)
	m, raw, err := answer[client.Machine](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.machine(&m)
	return a.printFindings(id)
}

// printFindings shows a machine's assessments, open alerts and recommendations.
func (a *app) printFindings(id uuid.UUID) error {
	every := Paging{All: true}
	assessments, _, err := fetchList[client.Assessment](a, every, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListAssessmentsWithResponse(a.ctx, &client.ListAssessmentsParams{Limit: limit, Cursor: cursor, MachineID: &id})
	})
	if err != nil {
		return err
	}
	hidden := true
	alerts, _, err := fetchList[client.Alert](a, every, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListAlertsWithResponse(a.ctx, &client.ListAlertsParams{Limit: limit, Cursor: cursor, MachineID: &id, IncludeSuppressed: &hidden})
	})
	if err != nil {
		return err
	}
	active := []client.RecommendationStatus{"active"}
	recommendations, _, err := fetchList[client.Recommendation](a, every, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListRecommendationsWithResponse(a.ctx, &client.ListRecommendationsParams{Limit: limit, Cursor: cursor, MachineID: &id, Status: &active})
	})
	if err != nil {
		return err
	}
	p := a.print
	if len(assessments) > 0 {
		p.heading("Assessments")
		for _, x := range assessments {
			p.line("  %s  %s  %s", p.paint(statusColor(string(x.Status)), pad(clean(string(x.Status)), 13)), clean(x.DisplayName), p.paint(dim, clean(x.Cause)))
		}
	}
	if open := openAlerts(alerts); len(open) > 0 {
		p.heading("Open alerts")
		for _, x := range open {
			p.line("  %s  %s  %s  %s", p.paint(statusColor(string(x.Severity)), pad(clean(string(x.Severity)), 6)), clean(x.DisplayName), dash(textOf(x.Reason)), p.paint(dim, x.ID.String()))
		}
	}
	if len(recommendations) > 0 {
		p.heading("Recommendations")
		for _, x := range recommendations {
			p.line("  %s  %s  %s", p.paint(statusColor(string(x.Severity)), pad(clean(string(x.Severity)), 6)), clean(x.DisplayName), p.paint(dim, x.ID.String()))
		}
	}
	return nil
}

func openAlerts(all []client.Alert) []client.Alert {
	var open []client.Alert
	for _, x := range all {
		if x.Status == "active" || x.Status == "in_progress" {
			open = append(open, x)
		}
	}
	return open
}

// instanceText names the cloud instance that an AK certificate proves.
func instanceText(instance map[string]any) string {
	var parts []string
	for _, key := range []string{"project_id", "zone", "instance_name"} {
		if v, ok := instance[key].(string); ok && v != "" {
			parts = append(parts, clean(v))
		}
	}
	return strings.Join(parts, "/")
}

func (p *printer) machine(m *client.Machine) {
	word := machineStatus(m)
	p.line("%s  %s  %s", p.paint(bold, clean(m.Name)), p.paint(statusColor(word), clean(word)), clean(textOf(m.Reason)))
	p.field("id", m.ID.String())
	p.field("external id", clean(m.ExternalID))
	p.field("state", clean(string(m.State)))
	p.field("os", clean(m.Os))
	p.field("platform", clean(m.Platform))
	p.field("security type", clean(m.SecurityType))
	p.field("hardware report", clean(textOf(m.PlatformEvidenceType)))
	p.field("vm id", clean(textOf(m.VMID)))
	if m.Instance != nil {
		p.field("instance", instanceText(*m.Instance))
	}
	p.field("scale set", clean(m.ScaleSet))
	p.field("labels", labelText(m.Labels))
	p.field("assurance", clean(textOf(m.Assurance)))
	if m.LastVerdictID != nil {
		p.field("last verdict", m.LastVerdictID.String())
	}
	p.field("last seen", p.whenPtr(m.LastSeenAt))
	p.field("next due", p.whenPtr(m.NextDueAt))
	p.field("stale since", p.whenPtr(m.StaleSince))
	if m.LastBootAt != nil {
		p.field("last boot", fmt.Sprintf("%s (%s seen)", p.when(*m.LastBootAt), count(int(m.BootCount), "boot")))
	}
	p.field("enrolled", p.when(m.CreatedAt))
	p.field("declared", postureText(m.Declared))
	p.field("observed", postureText(m.Observed))
}

func (p *printer) whenPtr(t *time.Time) string {
	if t == nil {
		return ""
	}
	return p.when(*t)
}

func postureText(x client.Posture) string {
	var parts []string
	for _, f := range []struct {
		name  string
		value *bool
	}{{"Secure Boot supported", x.SecureBootSupported}, {"Secure Boot", x.SecureBoot}, {"vTPM", x.Vtpm}, {"agent", x.AgentInstalled}} {
		if f.value != nil {
			parts = append(parts, f.name+" "+map[bool]string{true: "yes", false: "no"}[*f.value])
		}
	}
	return strings.Join(parts, ", ")
}

func labelText(labels map[string]string) string {
	parts := make([]string, 0, len(labels))
	for k, v := range labels {
		parts = append(parts, clean(k)+"="+clean(v))
	}
	sort.Strings(parts)
	return strings.Join(parts, ", ")
}

// machineID finds a machine by id or by its exact name.
func (a *app) machineID(text string) (uuid.UUID, error) {
	if id, err := uuid.Parse(text); err == nil {
		return id, nil
	}
	found, _, err := fetchList[client.Machine](a, Paging{Limit: 10}, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListMachinesWithResponse(a.ctx, &client.ListMachinesParams{Limit: limit, Cursor: cursor, Name: &text})
	})
	if err != nil {
		return uuid.Nil, err
	}
	ids := make([]string, len(found))
	for i := range found {
		ids[i] = found[i].ID.String()
	}
	if err := exactlyOne("machine", text, ids); err != nil {
		return uuid.Nil, err
	}
	return found[0].ID, nil
}

// exactlyOne refuses a name that nothing or several things have.
func exactlyOne(what, name string, ids []string) error {
	switch len(ids) {
	case 1:
		return nil
	case 0:
		return &problem{Title: fmt.Sprintf("There is no %s named %q", what, name), Code: "not_found"}
	}
	p := &problem{Title: fmt.Sprintf("Several %ss are named %q", what, name), Code: "ambiguous_name", Hint: "one of these ids"}
	for _, id := range ids {
		p.Errors = append(p.Errors, problemError{Detail: id})
	}
	return p
}

// parseID reads an id of a thing that has no name.
func parseID(what, text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.Nil, &problem{Title: "The command line cannot be used", Code: "usage", exit: exitBadCall,
			Detail: fmt.Sprintf("%q is no id of %s; its list shows them", text, what)}
	}
	return id, nil
}
