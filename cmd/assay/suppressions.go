package main

import (
	"cmp"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/assay-verifier/assay/openapi/client"
)

// SuppressionsCommand holds the commands about suppression rules.
type SuppressionsCommand struct {
	List   SuppressionsList  `cmd:"" default:"withargs" help:"List suppression rules (also without \"list\")."`
	Create SuppressionCreate `cmd:"" help:"Hide alerts of a scope, such as machines whose Secure Boot has to stay off. Verdicts and assessments stay as they are."`
	Delete SuppressionDelete `cmd:"" help:"Delete a rule; alerts that only it hid are shown again."`

	Simulate SuppressionSimulate `cmd:"" help:"Say what a rule would have hidden. Nothing is changed."`
}

// SuppressionsList lists rules.
type SuppressionsList struct {
	Paging `embed:""`
}

// Run lists them.
func (c *SuppressionsList) Run(a *app) error {
	items, all, err := fetchList[client.SuppressionRule](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListSuppressionRulesWithResponse(a.ctx, &client.ListSuppressionRulesParams{Limit: limit, Cursor: cursor})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no suppression rule.", func(list []client.SuppressionRule) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			ends := "never"
			if x.ExpiresAt != nil {
				ends = a.print.ago(*x.ExpiresAt)
			}
			rows[i] = []cell{plain(string(x.State)), plain(x.AlertCode), plain(scopeText(x.Scope)), plain(x.Reason), plain(ends), plain(x.CreatedBy), {x.ID.String(), dim}}
		}
		a.print.table([]string{"STATE", "ALERT", "SCOPE", "REASON", "ENDS", "BY", "ID"}, rows)
	})
}

func scopeText(s client.SuppressionScope) string {
	parts := make([]string, 0, len(s.AllOf))
	for _, c := range s.AllOf {
		if c.In != nil {
			parts = append(parts, c.Field+" in "+strings.Join(*c.In, ", "))
		} else {
			parts = append(parts, c.Field+" contains "+textOf(c.Contains))
		}
	}
	if len(parts) == 0 {
		return "every machine"
	}
	return strings.Join(parts, " and ")
}

// SuppressionScope is which alerts a rule is about. What is given must all hold; several values of one flag are alternatives.
type SuppressionScope struct {
	AlertCode   string            `default:"attestation_failed" help:"Code of the alerts to hide, or * for all."`
	Machine     []string          `placeholder:"NAME" help:"Machines with one of these names."`
	ScaleSet    []string          `placeholder:"NAME" help:"Machines of one of these scale sets."`
	Label       map[string]string `placeholder:"KEY=VALUE" help:"Machines with this label."`
	AlertReason []string          `placeholder:"REASON" help:"Alerts with one of these reasons."`
	Everywhere  bool              `help:"Say that no scope is meant: the rule hides the alert of every machine."`
}

// SuppressionCreate creates a rule.
type SuppressionCreate struct {
	SuppressionScope `embed:""`
	Reason           string        `required:"" help:"Why these alerts are no concern."`
	Comment          string        `help:"More, for the auditor."`
	ExpiresIn        time.Duration `placeholder:"DURATION" help:"The rule ends after this, for example 720h; it does not end otherwise."`
}

// Run creates it.
func (c *SuppressionCreate) Run(a *app) error {
	scope, err := c.checked()
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	body := client.SuppressionRuleInput{AlertCode: c.AlertCode, Reason: c.Reason, Comment: optional(c.Comment), ExpiresAt: a.after(c.ExpiresIn), Scope: scope}
	resp, err := api.CreateSuppressionRuleWithResponse(a.ctx, &client.CreateSuppressionRuleParams{}, body)
	x, raw, err := answer[client.SuppressionRule](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("%s", x.ID)
	return nil
}

// checked is the scope; none at all has to be said.
func (c *SuppressionScope) checked() (client.SuppressionScope, error) {
	scope := c.scope()
	if (len(scope.AllOf) == 0) != c.Everywhere {
		return scope, &problem{Title: "The command line cannot be used", Code: "usage", exit: exitBadCall,
			Detail: "give a scope (--machine, --scale-set, --label, --alert-reason), or --everywhere for every machine"}
	}
	return scope, nil
}

func (c *SuppressionScope) scope() client.SuppressionScope {
	scope := client.SuppressionScope{AllOf: []client.SuppressionCondition{}}
	in := func(field string, values []string) {
		if len(values) > 0 {
			scope.AllOf = append(scope.AllOf, client.SuppressionCondition{Field: field, In: &values})
		}
	}
	in("machine.name", c.Machine)
	in("machine.scale_set", c.ScaleSet)
	keys := make([]string, 0, len(c.Label))
	for key := range c.Label {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		in("machine.labels."+key, []string{c.Label[key]})
	}
	in("alert.reason", c.AlertReason)
	return scope
}

// SuppressionSimulate simulates a rule.
type SuppressionSimulate struct {
	SuppressionScope `embed:""`
	Days             int `default:"30" help:"How many days back, 1 to 366."`
}

// Run simulates it.
func (c *SuppressionSimulate) Run(a *app) error {
	scope, err := c.checked()
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.SimulateSuppressionRuleWithResponse(a.ctx, &client.SimulateSuppressionRuleParams{}, client.SuppressionSimulationRequest{AlertCode: c.AlertCode, Scope: scope, Days: &c.Days})
	x, raw, err := answer[client.SuppressionSimulation](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("Would have hidden %d of %s since %s", x.WouldHide, count(int(x.Alerts), "alert"), p.when(x.Since))
	if !x.Complete {
		p.line("  There were more alerts; the newest of them were looked at.")
	}
	for _, f := range []struct {
		name string
		n    int64
	}{{"machines", x.Machines}, {"open", x.Open}, {"resolved by themselves", x.ResolvedByItself}, {"resolved by hand", x.ResolvedByHand}, {"dismissed by hand", x.DismissedByHand}, {"suppressed already", x.AlreadySuppressed}} {
		p.field(f.name, strconv.FormatInt(f.n, 10))
	}
	rows := make([][]cell, len(x.Items))
	for i := range x.Items {
		alert := &x.Items[i]
		rows[i] = []cell{status(string(alert.Status)), plain(cmp.Or(alert.MachineName, alert.Scope)), plain(alert.DisplayName), plain(p.ago(alert.LastSeenAt)), {alert.ID.String(), dim}}
	}
	if len(rows) > 0 {
		p.table([]string{"STATUS", "MACHINE", "ALERT", "LAST SEEN", "ID"}, rows)
	}
	return nil
}

// SuppressionDelete deletes a rule.
type SuppressionDelete struct {
	ID string `arg:"" help:"Id of the rule."`
}

// Run deletes it.
func (c *SuppressionDelete) Run(a *app) error {
	id, err := parseID("a suppression rule", c.ID)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.DeleteSuppressionRuleWithResponse(a.ctx, id, &client.DeleteSuppressionRuleParams{})
	_, _, err = answer[struct{}](a, resp, err)
	return err
}
