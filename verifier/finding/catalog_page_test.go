package finding

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var writePage = flag.Bool("write", false, "write CATALOG.md anew")

// CATALOG.md is the catalogue as the rules are now.
func TestCatalogPage(t *testing.T) {
	const path = "CATALOG.md"
	want := catalogPage()
	if *writePage {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil { //nolint:gosec // a page of the documentation
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s is not what the rules say (%v): run `go generate ./verifier/finding`", path, err)
	}
}

// areaTitles are the headings of the page.
var areaTitles = map[string]string{"attestation": "Attestation", "baseline": "Baselines", "secure_boot": "Secure Boot", "firmware": "Firmware", "tpm": "TPM",
	"tee": "Confidential VMs", "kernel": "Linux kernel", "ima": "IMA", "windows": "Windows", "agent": "Agent", "fleet": "Fleet"}

var stepTitles = map[string]string{"": "All", "linux": "Linux", "windows": "Windows", "azure": "Azure", "gcp": "Google Cloud", "aws": "AWS", "vmware": "VMware", "qemu": "QEMU", "physical": "Hardware"}

func catalogPage() string {
	var b strings.Builder
	b.WriteString("# Catalogue of assessments, recommendations and alerts\n\nMade by `go generate ./verifier/finding` out of the rules; do not edit. " +
		"The service answers it at `GET /v1/catalog`, the page is `/ui/catalog`, the command `assay catalog list`.\n\n")
	list := Catalog(Filter{})
	b.WriteString("| Code | Kinds | Severity | Title |\n|---|---|---|---|\n")
	for _, r := range list {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s | %s | %s |\n", r.Code, r.Code, kindWords(r), r.Severity, r.Title)
	}
	area := ""
	for _, r := range list {
		if r.Area != area {
			area = r.Area
			fmt.Fprintf(&b, "\n## %s\n", areaTitles[area])
		}
		writeEntry(&b, r)
	}
	return b.String()
}

func kindWords(r *Rule) string {
	words := make([]string, len(r.Kinds))
	for i, k := range r.Kinds {
		words[i] = string(k)
	}
	return strings.Join(words, ", ")
}

func writeEntry(b *strings.Builder, r *Rule) {
	fmt.Fprintf(b, "\n### %s\n\n**%s** (%s; %s)\n\n", r.Code, r.Title, kindWords(r), r.Severity)
	fmt.Fprintf(b, "*When:* %s\n\n*Why:* %s\n\n*Needs:* `%s`\n\n", r.Condition, r.Why, strings.Join(r.Needs, "`, `"))
	if r.FoundBy != "" {
		fmt.Fprintf(b, "*Found by:* %s\n\n", r.FoundBy)
	}
	b.WriteString("*What to do:*\n\n")
	for _, key := range append(append([]string{""}, systems...), platforms...) {
		for _, step := range r.Steps[key] {
			fmt.Fprintf(b, "- %s: %s\n", stepTitles[key], step)
		}
	}
	b.WriteString("\n*Rests on:*\n\n")
	for _, c := range r.Citations {
		fmt.Fprintf(b, "- [%s](%s), %s\n", c.Document, c.URL, c.Section)
	}
}

// Every area and every kind of step has a title on the page.
func TestTitlesOfThePage(t *testing.T) {
	for _, area := range Areas {
		if areaTitles[area] == "" {
			t.Errorf("area %s has no title", area)
		}
	}
	for _, key := range append(append([]string{""}, systems...), platforms...) {
		if stepTitles[key] == "" {
			t.Errorf("steps of %q have no title", key)
		}
	}
}

// A filter leaves out rules that are about something else, and steps of others.
func TestCatalogFilter(t *testing.T) {
	codes := func(f Filter) string {
		var out []string
		for _, r := range Catalog(f) {
			out = append(out, r.Code)
		}
		return " " + strings.Join(out, " ") + " "
	}
	for _, c := range []struct {
		filter    Filter
		has, lack string
	}{
		{Filter{}, "secure_boot_enabled", "nonsense"},
		{Filter{Kind: KindAlert}, "attestation_failed", "dbx_outdated"},
		{Filter{Severity: High}, "tee_debug_enabled", "dbx_outdated"},
		{Filter{Area: "tee"}, "tee_debug_enabled", "dbx_outdated"},
		{Filter{System: "linux"}, "kernel_module_refused", "nonsense"},
		{Filter{System: "windows"}, "dbx_outdated", "kernel_module_refused"},
		{Filter{Platform: "azure"}, "kernel_module_refused", "nonsense"},
		{Filter{Kind: KindAlert, Severity: High, Area: "tee"}, "", "tee_debug_enabled"},
	} {
		if got := codes(c.filter); !strings.Contains(got, " "+c.has) || strings.Contains(got, " "+c.lack+" ") {
			t.Errorf("%+v: %s", c.filter, got)
		}
	}
	if list := Catalog(Filter{}); len(list) != len(Rules) || list[0].Area != "attestation" {
		t.Errorf("%d of %d rules, first of area %s", len(list), len(Rules), list[0].Area)
	}
	steps := secureBootEnabled.StepsFor("linux", "azure")
	if steps[""] == nil || steps["linux"] == nil || steps["azure"] == nil || steps["windows"] != nil || steps["gcp"] != nil {
		t.Errorf("steps: %v", steps)
	}
	if steps = secureBootEnabled.StepsFor("", ""); len(steps) != len(secureBootEnabled.Steps) {
		t.Errorf("all steps: %v", steps)
	}
}
