package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/openapi/client"
)

// FleetCommand holds the commands about the fleet as a whole.
type FleetCommand struct {
	Check FleetCheck `cmd:"" default:"withargs" help:"Show machines that cannot both be what they say, and TPMs with two histories. Exits with 1 where there are any."`
}

// FleetCheck shows the conflicts that stand.
type FleetCheck struct {
	Machine      string `placeholder:"ID|NAME" help:"Of this machine, on either side."`
	Kind         string `enum:"ek_shared,ak_shared,vm_shared,name_claimed,quote_relayed,log_of_other,series_shared,clock_back,reset_back,history_forked," default:"" help:"Of this kind alone."`
	IncludeEnded bool   `help:"Also those that are gone; they do not count for the exit code."`
	Paging       `embed:""`
}

// Help explains the exit code.
func (c *FleetCheck) Help() string {
	return "The service looks for conflicts by itself (assayd job run fleet-detection does it at once). The exit code is 0 where none stands, 1 where one does, and 2 where the command line cannot be read."
}

// Run shows them.
func (c *FleetCheck) Run(a *app) error {
	machine, err := a.optionalMachine(c.Machine)
	if err != nil {
		return err
	}
	items, all, err := fetchList[client.FleetConflict](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		params := &client.ListFleetConflictsParams{Limit: limit, Cursor: cursor, MachineID: machine, Kind: optionalAs[client.FleetConflictKind](c.Kind)}
		if c.IncludeEnded {
			params.IncludeEnded = &c.IncludeEnded
		}
		return api.ListFleetConflictsWithResponse(a.ctx, params)
	})
	if err != nil {
		return err
	}
	err = printList(a, items, all, "No machine conflicts with another, and no TPM has two histories.", func(list []client.FleetConflict) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			state := status("active")
			if x.EndedAt != nil {
				state = cell{"ended (" + x.EndedBecause + ")", dim}
			}
			rows[i] = []cell{state, plain(string(x.Details.Kind)), plain(namesOf(&x.Details)), plain(strconv.FormatInt(x.Count, 10)), plain(a.print.ago(x.LastSeenAt)), {x.ID.String(), dim}}
		}
		a.print.table([]string{"STATE", "KIND", "MACHINES", "TIMES", "LAST SEEN", "ID"}, rows)
	})
	if err != nil {
		return err
	}
	for i := range items {
		if items[i].EndedAt == nil {
			return quietExit(exitFailed)
		}
	}
	return nil
}

func namesOf(d *client.FleetConflictDetails) string {
	names := make([]string, len(d.Machines))
	for i, m := range d.Machines {
		names[i] = m.Name
		if m.ID == nil {
			names[i] += " (no machine)"
		}
	}
	return strings.Join(names, " / ")
}

// conflictDetails shows the pair of an alert about two machines, or about two states of one TPM; of others nothing.
func (p *printer) conflictDetails(code string, raw json.RawMessage) {
	if code != "identity_conflict" && code != "rollback_detected" {
		return
	}
	var d client.FleetConflictDetails
	if json.Unmarshal(raw, &d) != nil {
		return // of another version of the service: the description says it in words
	}
	p.heading("The pair")
	p.field("kind", clean(string(d.Kind)))
	for _, m := range d.Machines {
		id := "no machine"
		if m.ID != nil {
			id = m.ID.String()
		}
		p.field("machine", clean(m.Name)+" "+p.paint(dim, id))
	}
	for _, s := range []struct {
		name  string
		state *client.FleetConflictState
	}{{"first", d.First}, {"second", d.Second}} {
		if s.state != nil {
			p.field(s.name, fmt.Sprintf("reset counter %d, restart counter %d, clock %d ms, %s", s.state.ResetCount, s.state.RestartCount, s.state.ClockMs, p.when(s.state.At)))
		}
	}
	o := &d.Observed
	p.field("both have", clean(strings.TrimSpace(textOf(o.What)+" "+textOf(o.Sha256))))
	if o.Proved != nil {
		p.field("proved", strconv.FormatBool(*o.Proved))
	}
	p.field("came from", clean(textOf(o.RemoteAddr)))
	if o.MayBe != nil {
		p.field("it may be", clean(strings.Join(*o.MayBe, ", ")))
	}
}
