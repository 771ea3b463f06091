package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
)

// PipelineRulesCommand holds the commands about pipeline rules.
type PipelineRulesCommand struct {
	List   PipelineRulesList  `cmd:"" default:"withargs" help:"List pipeline rules (also without \"list\")."`
	Add    PipelineRuleAdd    `cmd:"" help:"Let pipelines write baselines. What no rule allows is refused."`
	Show   PipelineRuleShow   `cmd:"" help:"Show a rule as JSON."`
	Remove PipelineRuleRemove `cmd:"" help:"Delete a rule."`
	Test   PipelineRuleTest   `cmd:"" help:"Say which rules admit a token's claims, which do not, and why."`
}

// PipelineRulesList lists rules.
type PipelineRulesList struct {
	Paging `embed:""`
}

// Run lists them.
func (c *PipelineRulesList) Run(a *app) error {
	items, all, err := a.pipelineRules(c.Paging)
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no pipeline rule: no pipeline may write anything.", func(list []client.PipelineRule) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			machines := selectorText(x.Selector)
			if x.WholeFleet {
				machines = "whole fleet"
			}
			rows[i] = []cell{plain(x.Name), plain(admitsText(x.Subject, x.Conditions)), plain(matchText(x.Baselines)), plain(machines), plain(allowsText(x)), {x.ID.String(), dim}}
		}
		a.print.table([]string{"NAME", "ADMITS", "BASELINES", "MACHINES", "ALLOWS", "ID"}, rows)
	})
}

func (a *app) pipelineRules(p Paging) ([]client.PipelineRule, page, error) {
	return fetchList[client.PipelineRule](a, p, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListPipelineRulesWithResponse(a.ctx, &client.ListPipelineRulesParams{Limit: limit, Cursor: cursor})
	})
}

func matchText(m client.Match) string {
	if m.In != nil {
		return strings.Join(*m.In, ", ")
	}
	return "/" + textOf(m.Pattern) + "/"
}

func admitsText(subject *client.Match, conditions []client.ClaimCondition) string {
	var parts []string
	if subject != nil {
		parts = append(parts, "sub "+matchText(*subject))
	}
	for _, c := range conditions {
		parts = append(parts, c.Claim+" "+matchText(client.Match{In: c.In, Pattern: c.Pattern}))
	}
	return strings.Join(parts, "; ")
}

func allowsText(x *client.PipelineRule) string {
	var parts []string
	for _, action := range x.Actions {
		parts = append(parts, string(action))
	}
	if len(x.States) > 0 {
		var states []string
		for _, state := range x.States {
			states = append(states, string(state))
		}
		parts = append(parts, "("+strings.Join(states, ", ")+")")
	}
	return strings.Join(parts, " ")
}

// PipelineRuleAdd adds a rule. Several values of one claim are alternatives; several claims must all hold.
type PipelineRuleAdd struct {
	Name            string `required:"" help:"Name of the rule."`
	Provider        string `required:"" placeholder:"ID|NAME" help:"Identity provider whose tokens it is about."`
	IdentityFlags   `embed:""`
	Baseline        []string `placeholder:"NAME" sep:"none" help:"Baselines of these names."`
	BaselinePattern string   `placeholder:"RE2" help:"Baselines whose name matches this, whole."`
	SelectorFlags   `embed:""`
	WholeFleet      bool     `help:"The baselines may be for every machine."`
	Allow           []string `default:"create,add_version,dry_run" help:"create, add_version, promote, dry_run."`
	State           []string `default:"draft" help:"What new versions may begin as: draft, active."`
}

// Run adds it.
func (c *PipelineRuleAdd) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	p, err := a.providerByName(c.Provider)
	if err != nil {
		return err
	}
	body := client.PipelineRuleInput{Name: c.Name, ProviderID: p.ID, Baselines: matchOf(c.Baseline, c.BaselinePattern), WholeFleet: &c.WholeFleet}
	if body.Subject, body.Conditions, err = c.who(); err != nil {
		return err
	}
	if body.Selector, err = c.selector(a); err != nil {
		return err
	}
	makes := false
	for _, action := range c.Allow {
		body.Actions = append(body.Actions, client.PipelineAction(action))
		makes = makes || action == "create" || action == "add_version"
	}
	if makes {
		states := make([]client.PipelineRuleInputStates, len(c.State))
		for i, state := range c.State {
			states[i] = client.PipelineRuleInputStates(state)
		}
		body.States = &states
	}
	resp, err := api.CreatePipelineRuleWithResponse(a.ctx, &client.CreatePipelineRuleParams{}, body)
	x, raw, err := answer[client.PipelineRule](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("%s  %s", clean(x.Name), a.print.paint(dim, x.ID.String()))
	return nil
}

func matchOf(in []string, pattern string) client.Match {
	m := client.Match{Pattern: optional(pattern)}
	if len(in) > 0 {
		m.In = &in
	}
	return m
}

// IdentityFlags say whose identity tokens are meant.
type IdentityFlags struct {
	Subject        []string `placeholder:"TEXT" sep:"none" help:"The claim sub is one of these."`
	SubjectPattern string   `placeholder:"RE2" help:"The claim sub matches this, whole."`
	Claim          []string `placeholder:"NAME=TEXT" sep:"none" help:"The claim has this value, for example repository=example/images. Several values of one claim are alternatives."`
	ClaimPattern   []string `placeholder:"NAME=RE2" sep:"none" help:"The claim matches this, whole, for example ref=refs/tags/v.*"`
}

// who is what the flags say.
func (c *IdentityFlags) who() (*client.Match, *[]client.ClaimCondition, error) {
	conditions, err := c.conditions()
	if len(c.Subject) == 0 && c.SubjectPattern == "" {
		return nil, &conditions, err
	}
	m := matchOf(c.Subject, c.SubjectPattern)
	return &m, &conditions, err
}

func (c *IdentityFlags) conditions() ([]client.ClaimCondition, error) {
	out := []client.ClaimCondition{}
	at := map[string]int{}
	for _, text := range c.Claim {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, badClaim("--claim", text)
		}
		i, seen := at[name]
		if !seen {
			i, at[name] = len(out), len(out)
			out = append(out, client.ClaimCondition{Claim: name, In: &[]string{}})
		}
		*out[i].In = append(*out[i].In, value)
	}
	for _, text := range c.ClaimPattern {
		name, pattern, ok := strings.Cut(text, "=")
		if !ok || name == "" || pattern == "" {
			return nil, badClaim("--claim-pattern", text)
		}
		out = append(out, client.ClaimCondition{Claim: name, Pattern: &pattern})
	}
	return out, nil
}

func badClaim(flag, text string) error {
	return &problem{Title: "The command line cannot be used", Code: "usage", Detail: fmt.Sprintf("%s takes NAME=VALUE, not %q", flag, text), exit: exitBadCall}
}

// PipelineRuleShow shows a rule.
type PipelineRuleShow struct {
	Rule string `arg:"" help:"Id or name."`
}

// Run shows it.
func (c *PipelineRuleShow) Run(a *app) error {
	return a.withRule(c.Rule, func(api *client.ClientWithResponses, id uuid.UUID) error {
		resp, err := api.GetPipelineRuleWithResponse(a.ctx, id)
		_, raw, err := answer[client.PipelineRule](a, resp, err)
		if err != nil {
			return err
		}
		return a.printJSON(raw)
	})
}

func (a *app) withRule(text string, f func(*client.ClientWithResponses, uuid.UUID) error) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	id, err := a.ruleByName(text)
	if err != nil {
		return err
	}
	return f(api, id)
}

// PipelineRuleRemove deletes a rule.
type PipelineRuleRemove struct {
	Rule string `arg:"" help:"Id or name."`
}

// Run deletes it.
func (c *PipelineRuleRemove) Run(a *app) error {
	return a.withRule(c.Rule, func(api *client.ClientWithResponses, id uuid.UUID) error {
		resp, err := api.DeletePipelineRuleWithResponse(a.ctx, id, &client.DeletePipelineRuleParams{})
		_, _, err = answer[struct{}](a, resp, err)
		return err
	})
}

// PipelineRuleTest asks what the rules make of claims.
type PipelineRuleTest struct {
	Provider      string `required:"" placeholder:"ID|NAME" help:"Identity provider that the token would be of."`
	Claims        string `required:"" placeholder:"FILE" help:"The token's claims as JSON, or a token, of which only the claims are sent; - is standard input."`
	Action        string `placeholder:"ACTION" help:"Also say whether this is allowed: create, add_version, promote, dry_run."`
	Baseline      string `placeholder:"NAME" help:"Name of the baseline, for --action."`
	State         string `default:"active" enum:"draft,active" help:"State of the new version, for --action."`
	SelectorFlags `embed:""`
}

// Run asks. It ends with 1 where no rule admits the claims, or allows the action.
func (c *PipelineRuleTest) Run(a *app) error {
	text, err := readFile(c.Claims, maxIDToken, a.stdin)
	if err != nil {
		return unreadable(c.Claims, "claims", err)
	}
	claims, err := claimsOf(text)
	if err != nil {
		return unreadable(c.Claims, "claims", err)
	}
	return a.withProvider(c.Provider, func(api *client.ClientWithResponses, p client.IdentityProvider) error {
		body := client.PipelineRuleTest{ProviderID: p.ID, Claims: claims}
		if c.Action != "" {
			selector, err := c.selector(a)
			if err != nil {
				return err
			}
			state := client.PipelineAttemptState(c.State)
			body.Attempt = &client.PipelineAttempt{Action: client.PipelineAction(c.Action), Baseline: c.Baseline, Selector: selector, State: &state}
		}
		resp, err := api.TestPipelineRulesWithResponse(a.ctx, &client.TestPipelineRulesParams{}, body)
		x, raw, err := answer[client.PipelineRuleOutcomes](a, resp, err)
		if err != nil {
			return err
		}
		if a.json {
			err = a.printJSON(raw)
		} else {
			a.printOutcomes(&x)
		}
		if err == nil && (!x.Admitted || (x.Allowed != nil && !*x.Allowed)) {
			return quietExit(exitFailed)
		}
		return err
	})
}

// claimsOf gives the claims of a text that is JSON or a token. A token's signature and header are left out.
func claimsOf(text []byte) (json.RawMessage, error) {
	trimmed := strings.TrimSpace(string(text))
	if parts := strings.Split(trimmed, "."); len(parts) == 3 && strings.HasPrefix(trimmed, "eyJ") {
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			return nil, fmt.Errorf("the token's payload is not base64url")
		}
		trimmed = string(payload)
	}
	var claims map[string]json.RawMessage
	if err := json.Unmarshal([]byte(trimmed), &claims); err != nil {
		return nil, fmt.Errorf("neither a JSON object nor a token")
	}
	return json.RawMessage(trimmed), nil
}

func (a *app) printOutcomes(x *client.PipelineRuleOutcomes) {
	p := a.print
	if len(x.Rules) == 0 {
		p.line("There is no rule about this identity provider.")
	}
	for _, r := range x.Rules {
		word, color := "does not admit", red
		switch {
		case r.Allows != nil && *r.Allows:
			word, color = "allows", green
		case r.Admits && r.Allows != nil:
			word = "admits, and does not allow"
		case r.Admits:
			word, color = "admits", green
		}
		p.line("%s  %s", clean(r.Name), p.paint(color, word))
		for _, why := range r.Reasons {
			p.line("  %s", clean(why))
		}
	}
}
