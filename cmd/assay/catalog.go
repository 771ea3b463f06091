package main

import (
	"slices"
	"strings"

	"github.com/assay-verifier/assay/openapi/client"
)

// CatalogCommand holds the commands about the catalogue.
type CatalogCommand struct {
	List CatalogList `cmd:"" default:"withargs" help:"List the rules (also without \"list\")."`
	Show CatalogShow `cmd:"" help:"Show a rule: when, why, what to do and what it rests on."`
}

// CatalogList lists the rules.
type CatalogList struct {
	Kind     string `help:"assessment, recommendation or alert."`
	Severity string `help:"low, medium or high."`
	Area     string `help:"secure_boot, firmware, tpm, tee, kernel, ..."`
	OS       string `name:"os" help:"Without the rules that are not about it: linux or windows."`
	Platform string `help:"The same: azure, gcp, aws, vmware, qemu or physical."`
	Counts   bool   `help:"Also count what is open."`
}

// Run lists them.
func (c *CatalogList) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.ListCatalogWithResponse(a.ctx, &client.ListCatalogParams{
		Kind: optionalAs[client.CatalogKind](c.Kind), Severity: optionalAs[client.Severity](c.Severity), Area: optionalAs[client.CatalogArea](c.Area),
		Os: optionalAs[client.ListCatalogParamsOs](c.OS), Platform: optionalAs[client.ListCatalogParamsPlatform](c.Platform), Counts: &c.Counts,
	})
	list, raw, err := answer[client.CatalogList](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	if len(list.Items) == 0 {
		a.print.line("No rule fits.")
		return nil
	}
	header := []string{"SEVERITY", "CODE", "KINDS", "RULE"}
	if c.Counts {
		header = append(header, "OPEN")
	}
	rows := make([][]cell, len(list.Items))
	for i := range list.Items {
		x := &list.Items[i]
		rows[i] = []cell{status(string(x.Severity)), plain(x.Code), plain(kindsOf(x)), plain(x.DisplayName)}
		if x.Open != nil {
			rows[i] = append(rows[i], plain(openText(x.Open)))
		}
	}
	a.print.table(header, rows)
	return nil
}

func kindsOf(x *client.CatalogEntry) string {
	words := make([]string, len(x.Kinds))
	for i, k := range x.Kinds {
		words[i] = string(k)
	}
	return strings.Join(words, ", ")
}

// openText says how much is open under a rule.
func openText(o *client.CatalogOpen) string {
	var parts []string
	for _, c := range []struct {
		n    int64
		noun string
	}{{o.Alerts, "alert"}, {o.Recommendations, "recommendation"}, {o.Assessments, "unhealthy machine"}} {
		if c.n > 0 {
			parts = append(parts, count(int(c.n), c.noun))
		}
	}
	return strings.Join(parts, ", ")
}

// CatalogShow shows one rule.
type CatalogShow struct {
	Code string `arg:"" help:"Code of the rule, for example secure_boot_enabled."`
}

// Run shows it.
func (c *CatalogShow) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	counts := true
	resp, err := api.GetCatalogEntryWithResponse(a.ctx, c.Code, &client.GetCatalogEntryParams{Counts: &counts})
	x, raw, err := answer[client.CatalogEntry](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("%s  %s", p.paint(bold, clean(x.DisplayName)), p.paint(statusColor(string(x.Severity)), clean(string(x.Severity))))
	p.field("code", clean(x.Code))
	p.field("kinds", clean(kindsOf(&x)))
	p.field("area", clean(string(x.Area)))
	p.field("needs", clean(strings.Join(x.Needs, ", ")))
	p.field("found by", clean(textOf(x.FoundBy)))
	if x.Open != nil {
		p.field("open", openText(x.Open))
	}
	p.line("\n  When: %s", clean(x.Condition))
	p.line("\n  Why: %s", clean(x.Why))
	p.steps(x.RemediationSteps["all"])
	var rest []string
	for key := range x.RemediationSteps {
		if key != "all" {
			rest = append(rest, key)
		}
	}
	slices.Sort(rest)
	for _, key := range rest {
		for _, step := range x.RemediationSteps[key] {
			p.line("  %s: %s", clean(key), clean(step))
		}
	}
	p.heading("Rests on")
	for _, cite := range x.Citations {
		p.line("  %s, %s  %s", clean(cite.Document), clean(cite.Section), p.paint(dim, clean(cite.URL)))
	}
	return nil
}
