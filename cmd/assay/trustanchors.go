package main

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
)

// TrustAnchorsCommand holds the commands about trust anchors.
type TrustAnchorsCommand struct {
	List      TrustAnchorsList     `cmd:"" default:"withargs" help:"List trust anchors (also without \"list\")."`
	Add       TrustAnchorAdd       `cmd:"" help:"Trust the certificates (or, for reference values, public keys) of a PEM file for a purpose."`
	Disable   TrustAnchorDisable   `cmd:"" help:"Withdraw an anchor, retire the baselines that it vouched for, and say what rested on it."`
	Enable    TrustAnchorEnable    `cmd:"" help:"Trust an anchor again."`
	Machines  TrustAnchorMachines  `cmd:"" help:"List the machines that rest on an anchor."`
	Baselines TrustAnchorBaselines `cmd:"" help:"List the baseline versions that rest on an anchor."`
	Delete    TrustAnchorDelete    `cmd:"" help:"Delete an anchor of one's own; one that is shipped with the service is disabled instead."`
}

// TrustAnchorsList lists anchors.
type TrustAnchorsList struct {
	Purpose      string `help:"ek, ak, snp, tdx or reference_values."`
	State        string `enum:",enabled,disabled" default:"" help:"Only those that are enabled, or disabled."`
	Certificates bool   `help:"A line for each certificate."`
	Paging       `embed:""`
}

func (a *app) trustAnchors(c TrustAnchorsList) ([]client.TrustAnchor, page, error) {
	var enabled *bool
	if c.State != "" {
		on := c.State == "enabled"
		enabled = &on
	}
	return fetchList[client.TrustAnchor](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListTrustAnchorsWithResponse(a.ctx, &client.ListTrustAnchorsParams{Limit: limit, Cursor: cursor, Enabled: enabled,
			Purpose: several[client.TrustPurpose](c.Purpose)})
	})
}

// Run lists them.
func (c *TrustAnchorsList) Run(a *app) error {
	items, all, err := a.trustAnchors(*c)
	if err != nil {
		return err
	}
	return printList(a, items, all, "No trust anchor fits. Without one agents can only enrol where the policy does without EK certificates.", func(list []client.TrustAnchor) {
		var rows [][]cell
		for i := range list {
			x := &list[i]
			state := cell{"enabled", green}
			if !x.Enabled {
				state = cell{"disabled", dim}
			}
			if !c.Certificates {
				rows = append(rows, []cell{plain(x.Name), plain(string(x.Purpose)), state, plain(string(x.Origin)), plain(fmt.Sprint(len(x.Certificates))), {x.ID.String(), dim}})
				continue
			}
			for _, cert := range x.Certificates {
				rows = append(rows, []cell{plain(x.Name), plain(string(x.Purpose)), state, plain(cert.Subject), plain(untilText(a.print, cert.NotAfter)), plain(cert.Fingerprint[:min(16, len(cert.Fingerprint))]), {x.ID.String(), dim}})
			}
		}
		headings := []string{"NAME", "PURPOSE", "STATE", "ORIGIN", "CERTIFICATES", "ID"}
		if c.Certificates {
			headings = []string{"NAME", "PURPOSE", "STATE", "SUBJECT", "EXPIRES", "SHA-256", "ID"}
		}
		a.print.table(headings, rows)
	})
}

// TrustAnchorAdd adds an anchor.
type TrustAnchorAdd struct {
	Name    string `required:"" help:"Name of the anchor."`
	Purpose string `required:"" enum:"ek,ak,snp,tdx,reference_values" help:"ek (endorsement keys), ak (attestation keys), snp, tdx (hardware reports) or reference_values (signed baselines)."`
	File    string `arg:"" placeholder:"PEM" help:"Certificates, and for reference_values public keys; - is standard input."`
}

// Run adds it.
func (c *TrustAnchorAdd) Run(a *app) error {
	body, err := readFile(c.File, maxSmallFile, a.stdin)
	if err != nil {
		return unreadable(c.File, "PEM certificates", err)
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.CreateTrustAnchorWithResponse(a.ctx, &client.CreateTrustAnchorParams{},
		client.TrustAnchorInput{Name: c.Name, Purpose: client.TrustPurpose(c.Purpose), CertificatesPem: string(body)})
	x, raw, err := answer[client.TrustAnchor](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("%s: %s trusted for %s  %s", clean(x.Name), anchorText(x.Certificates), clean(string(x.Purpose)), a.print.paint(dim, x.ID.String()))
	return nil
}

// TrustAnchorDelete deletes an anchor.
type TrustAnchorDelete struct {
	Anchor string `arg:"" help:"Id or name."`
}

// Run deletes it.
func (c *TrustAnchorDelete) Run(a *app) error {
	id, name, err := a.anchor(c.Anchor)
	if err != nil {
		return err
	}
	resting, all, err := a.restingMachines(id, Paging{All: true})
	if err != nil {
		return err
	}
	versions, err := a.validRestingVersions(id)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.DeleteTrustAnchorWithResponse(a.ctx, id, &client.DeleteTrustAnchorParams{})
	if _, _, err = answer[struct{}](a, resp, err); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"id": id, "deleted": true, "resting_versions": versions, "resting_machines": map[string]any{"count": machinesOf(resting), "items": all.Items}})
	}
	a.print.line("%s: deleted  %s", clean(name), a.print.paint(dim, id.String()))
	a.showResting(int64(machinesOf(resting)), resting, "rested on it")
	if len(versions) > 0 {
		a.print.line("%s rested on it, and is retired where nothing else vouches for it: assay baselines show", count(len(versions), "valid baseline version"))
		a.print.restingVersions(versions)
	}
	return nil
}

// validRestingVersions are the valid baseline versions that rest on an anchor.
func (a *app) validRestingVersions(id uuid.UUID) ([]client.RestingVersion, error) {
	items, _, err := a.versionsRestingOn(id, Paging{All: true})
	return slices.DeleteFunc(items, func(v client.RestingVersion) bool {
		return v.State != client.BaselineStateActive && v.State != client.BaselineStateGrace
	}), err
}

// TrustAnchorDisable withdraws an anchor.
type TrustAnchorDisable struct {
	Anchor string `arg:"" help:"Id or name."`
}

// Run withdraws it and says which machines rested on it.
func (c *TrustAnchorDisable) Run(a *app) error {
	return a.switchAnchor(c.Anchor, "disabled", "rested on it", func(api *client.ClientWithResponses, id uuid.UUID) (reply, error) {
		return api.DisableTrustAnchorWithResponse(a.ctx, id, &client.DisableTrustAnchorParams{})
	})
}

// TrustAnchorEnable trusts an anchor again.
type TrustAnchorEnable struct {
	Anchor string `arg:"" help:"Id or name."`
}

// Run enables it.
func (c *TrustAnchorEnable) Run(a *app) error {
	return a.switchAnchor(c.Anchor, "enabled", "rest on it", func(api *client.ClientWithResponses, id uuid.UUID) (reply, error) {
		return api.EnableTrustAnchorWithResponse(a.ctx, id, &client.EnableTrustAnchorParams{})
	})
}

func (a *app) switchAnchor(anchor, done, rest string, ask func(*client.ClientWithResponses, uuid.UUID) (reply, error)) error {
	id, _, err := a.anchor(anchor)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := ask(api, id)
	x, raw, err := answer[client.SwitchedTrustAnchor](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("%s: %s  %s", clean(x.Name), done, a.print.paint(dim, x.ID.String()))
	a.showResting(x.RestingMachines.Count, x.RestingMachines.Items, rest)
	a.showRetired(x.RetiredVersions)
	return nil
}

// TrustAnchorMachines lists the machines that rest on an anchor.
type TrustAnchorMachines struct {
	Anchor string `arg:"" help:"Id or name."`
	Paging `embed:""`
}

// Run lists them.
func (c *TrustAnchorMachines) Run(a *app) error {
	id, _, err := a.anchor(c.Anchor)
	if err != nil {
		return err
	}
	items, all, err := a.restingMachines(id, c.Paging)
	if err != nil {
		return err
	}
	return printList(a, items, all, "No machine rests on this anchor.", a.restingTable)
}

func (a *app) restingMachines(id uuid.UUID, paging Paging) ([]client.RestingMachine, page, error) {
	return fetchList[client.RestingMachine](a, paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListTrustAnchorMachinesWithResponse(a.ctx, id, &client.ListTrustAnchorMachinesParams{Limit: limit, Cursor: cursor})
	})
}

// machinesOf counts the machines, of which some are listed twice.
func machinesOf(items []client.RestingMachine) int {
	ids := map[uuid.UUID]bool{}
	for i := range items {
		ids[items[i].MachineID] = true
	}
	return len(ids)
}

func (a *app) showResting(all int64, items []client.RestingMachine, rest string) {
	a.print.line("%s %s", count(int(all), "machine"), rest)
	if len(items) > 0 {
		a.restingTable(items)
	}
	if int64(machinesOf(items)) < all {
		a.print.line("… and more: assay trust-anchors machines --all")
	}
}

// showRetired says which baseline versions went with an anchor.
func (a *app) showRetired(items client.RetiredVersions) {
	if len(items) == 0 {
		return
	}
	a.print.line("%s retired with it, and their machines are judged again: assay reappraisals", count(len(items), "baseline version"))
	a.print.restingVersions(items)
}

func (a *app) restingTable(items []client.RestingMachine) {
	rows := make([][]cell, len(items))
	for i := range items {
		how := "attestation key"
		if items[i].How == client.RestingHowPlatformReport {
			how = "hardware evidence"
		}
		rows[i] = []cell{plain(items[i].Name), plain(how), {items[i].MachineID.String(), dim}}
	}
	a.print.table([]string{"MACHINE", "BY ITS", "ID"}, rows)
}

// anchor finds an anchor by id or name.
func (a *app) anchor(text string) (id uuid.UUID, name string, err error) {
	if id, err = uuid.Parse(text); err == nil {
		return id, text, nil
	}
	list, _, err := a.trustAnchors(TrustAnchorsList{Paging: Paging{All: true}})
	if err != nil {
		return uuid.Nil, "", err
	}
	var ids []string
	for i := range list {
		if list[i].Name == text {
			id = list[i].ID
			ids = append(ids, id.String())
		}
	}
	return id, text, exactlyOne("trust anchor", text, ids)
}

// anchorText counts what an anchor holds.
func anchorText(list []client.TrustCertificate) string {
	keys := 0
	for _, c := range list {
		if c.Kind == client.TrustCertificateKindPublicKey {
			keys++
		}
	}
	switch {
	case keys == len(list):
		return count(keys, "public key")
	case keys > 0:
		return count(len(list)-keys, "certificate") + " and " + count(keys, "public key")
	}
	return count(len(list), "certificate")
}
