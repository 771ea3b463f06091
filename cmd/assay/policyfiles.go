package main

import (
	"fmt"
	"strconv"

	"github.com/assay-verifier/assay/verifier/rules"
)

// PolicyTemplate prints a template.
type PolicyTemplate struct {
	Name string `arg:"" optional:"" help:"Name of the template; without it the templates are listed."`
}

// templateHead is a template in a list.
type templateHead struct {
	Name        string `json:"name"`
	Title       string `json:"title"`
	Description string `json:"description"`
	Rules       int    `json:"rules"`
}

// Run prints it, ready for set --file.
func (c *PolicyTemplate) Run(a *app) error {
	all, err := rules.Templates()
	if err != nil {
		return err
	}
	heads := make([]templateHead, len(all))
	rows := make([][]cell, len(all))
	for i, t := range all {
		if t.Name == c.Name {
			fmt.Fprintf(a.stderr, "%s: %s\n", t.Title, t.Description)
			return a.printJSON(t.Policy)
		}
		heads[i] = templateHead{t.Name, t.Title, t.Description, len(t.Policy.Rules)}
		rows[i] = []cell{plain(t.Name), plain(t.Title), plain(strconv.Itoa(len(t.Policy.Rules)))}
	}
	if c.Name != "" {
		return &problem{Title: fmt.Sprintf("There is no template %q", c.Name), Code: "not_found", Hint: "assay policy template"}
	}
	if a.json {
		return a.printJSON(map[string]any{"items": heads})
	}
	a.print.table([]string{"NAME", "FOR", "RULES"}, rows)
	return nil
}

// PolicyLint checks a policy.
type PolicyLint struct {
	File string `arg:"" placeholder:"FILE" help:"The policy as JSON; - is standard input."`
}

// Help explains the exit code.
func (c *PolicyLint) Help() string {
	return "Exit code: 0 it can be stored and judges, 2 it cannot; each fault is told with its place, of a rule with line and column."
}

// Run checks it.
func (c *PolicyLint) Run(a *app) error {
	policy, _, err := readPolicy(c.File, a.stdin)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(policy)
	}
	a.print.line("%s: a policy with %d rules, which all compile", clean(c.File), len(policy.Rules))
	return nil
}
