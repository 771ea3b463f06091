package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/assay-verifier/assay/openapi/client"
)

// PoliciesCommand holds the commands about policies.
type PoliciesCommand struct {
	List PoliciesList `cmd:"" default:"withargs" help:"List policies (also without \"list\")."`
	Show PolicyShow   `cmd:"" help:"Print a policy as JSON, ready for set --file and verify --policy."`
	Set  PolicySet    `cmd:"" help:"Create a policy, or a further version of it."`

	Versions PolicyVersions `cmd:"" help:"List the versions of a policy."`
	Template PolicyTemplate `cmd:"" help:"Print a policy to begin with, or list them. Needs no service."`
	Lint     PolicyLint     `cmd:"" help:"Check a policy and its rules. Needs no service."`
	Test     PolicyTest     `cmd:"" help:"What would become of the fleet under a policy."`
}

// policyHead is the identity of a policy version, which the policy object itself does not have.
type policyHead struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Version   int       `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
}

var policyHeadFields = []string{"id", "name", "version", "created_at", "created_by"}

// PoliciesList lists policies.
type PoliciesList struct {
	Paging `embed:""`
}

// Run lists them.
func (c *PoliciesList) Run(a *app) error {
	return listPolicies(a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListPoliciesWithResponse(a.ctx, &client.ListPoliciesParams{Limit: limit, Cursor: cursor})
	})
}

// listPolicies prints heads of policies, or of versions of one.
func listPolicies(a *app, paging Paging, ask func(*client.ClientWithResponses, *int, *string) (reply, error)) error {
	items, all, err := fetchList[policyHead](a, paging, ask)
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no policy.", func(list []policyHead) {
		rows := make([][]cell, len(list))
		for i, x := range list {
			rows[i] = []cell{plain(x.Name), plain(strconv.Itoa(x.Version)), plain(a.print.ago(x.CreatedAt)), plain(x.CreatedBy)}
		}
		a.print.table([]string{"NAME", "VERSION", "CHANGED", "BY"}, rows)
	})
}

// PolicyVersions lists the versions of a policy.
type PolicyVersions struct {
	Name   string `arg:"" default:"default" help:"Name of the policy."`
	Paging `embed:""`
}

// Run lists them.
func (c *PolicyVersions) Run(a *app) error {
	return listPolicies(a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListPolicyVersionsWithResponse(a.ctx, c.Name, &client.ListPolicyVersionsParams{Limit: limit, Cursor: cursor})
	})
}

// PolicyShow shows a policy.
type PolicyShow struct {
	Name string `arg:"" default:"default" help:"Name of the policy."`
}

// Run shows it.
func (c *PolicyShow) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.GetPolicyWithResponse(a.ctx, c.Name)
	head, raw, err := answer[policyHead](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	fmt.Fprintf(a.stderr, "%s, version %d, changed %s by %s\n", clean(head.Name), head.Version, a.print.ago(head.CreatedAt), clean(head.CreatedBy))
	policy, err := withoutHead(raw)
	if err != nil {
		return err
	}
	return a.printJSON(policy)
}

// withoutHead leaves the policy object of a policy version.
func withoutHead(raw []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	for _, name := range policyHeadFields {
		delete(fields, name)
	}
	return json.Marshal(fields)
}

// readPolicyObject reads a policy, with or without the identity that show prints.
func readPolicyObject(file string, a *app) ([]byte, error) {
	body, err := readFile(file, maxSmallFile, a.stdin)
	if err != nil {
		return nil, unreadable(file, "a policy", err)
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) == nil {
		if body, err = withoutHead(body); err != nil {
			return nil, err
		}
	}
	if _, _, err := parsePolicy(file, body); err != nil {
		return nil, err
	}
	return body, nil
}

// PolicySet sets a policy.
type PolicySet struct {
	Name string `arg:"" default:"default" help:"Name of the policy."`
	File string `required:"" placeholder:"FILE" help:"The policy as JSON, for example what show printed, changed; absent fields take their default; - is standard input."`
}

// Run sets it.
func (c *PolicySet) Run(a *app) error {
	body, err := readPolicyObject(c.File, a)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.PutPolicyWithBodyWithResponse(a.ctx, c.Name, &client.PutPolicyParams{}, "application/json", bytes.NewReader(body))
	head, raw, err := answer[policyHead](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("%s is now at version %d", clean(head.Name), head.Version)
	return nil
}
