package ui

import (
	"net/http"
	"strings"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// catalogRule is a rule with the number of findings that are open under it.
type catalogRule struct {
	*finding.Rule
	Open store.OpenFindings
}

type catalogView struct {
	Items      []catalogRule
	Kinds      []choice
	Severities []choice
	Areas      []choice
	Platforms  []choice
	Filtered   bool
}

// platformChoices are the systems and platforms that the catalogue tells apart.
var platformChoices = []string{"linux", "windows", "azure", "gcp", "aws", "vmware", "qemu", "physical"}

// catalog lists the rules that findings follow from.
func (h *handler) catalog(w http.ResponseWriter, r *http.Request, s session) error {
	var kind, severity, platform string
	var f finding.Filter
	if err := filterValues(r, map[string]*string{"kind": &kind, "severity": &severity, "area": &f.Area, "platform": &platform}); err != nil {
		return err
	}
	f.Kind, f.Severity = finding.Kind(kind), finding.Severity(severity)
	if platform == "linux" || platform == "windows" {
		f.System = platform
	} else {
		f.Platform = platform
	}
	open, err := h.Store.CountOpenFindings(r.Context(), s.Tenant, nil, h.now())
	if err != nil {
		return err
	}
	view := catalogView{
		Kinds:      choices("Any kind", kind, anyText(words), "assessment", "recommendation", "alert"),
		Severities: choices("Any severity", severity, anyText(words), "high", "medium", "low"),
		Areas:      choices("Any area", f.Area, areaName, finding.Areas...),
		Platforms:  choices("Any system", platform, stepsFor, platformChoices...),
		Filtered:   filtered(r),
	}
	for _, rule := range finding.Catalog(f) {
		view.Items = append(view.Items, catalogRule{rule, open[rule.Code]})
	}
	h.render(w, r, s, http.StatusOK, "catalog", "Catalogue", view)
	return nil
}

// catalogSteps are the steps for one system or platform.
type catalogSteps struct {
	For   string
	Steps []string
}

type catalogEntryView struct {
	catalogRule
	All     []string
	Steps   []catalogSteps
	IsAlert bool
	IsAsked bool // it makes recommendations
}

// catalogEntry shows one rule.
func (h *handler) catalogEntry(w http.ResponseWriter, r *http.Request, s session) error {
	rule := finding.By(r.PathValue("code"))
	if rule == nil {
		return errNoPage
	}
	open, err := h.Store.CountOpenFindings(r.Context(), s.Tenant, nil, h.now())
	if err != nil {
		return err
	}
	view := catalogEntryView{catalogRule: catalogRule{rule, open[rule.Code]}, All: rule.Steps[""]}
	for _, k := range rule.Kinds {
		view.IsAlert = view.IsAlert || k == finding.KindAlert
		view.IsAsked = view.IsAsked || k == finding.KindRecommendation
	}
	for _, key := range platformChoices {
		if steps := rule.Steps[key]; len(steps) > 0 {
			view.Steps = append(view.Steps, catalogSteps{stepsFor(key), steps})
		}
	}
	h.render(w, r, s, http.StatusOK, "catalog-entry", rule.Title, view)
	return nil
}

// stepsFor names a system or platform.
func stepsFor(key string) string {
	switch key {
	case "linux":
		return "Linux"
	case "windows":
		return "Windows"
	}
	return platformName(key)
}

// areaName is what a rule is about, in words.
func areaName(area string) string {
	switch area {
	case "tee":
		return "Confidential VMs"
	case "tpm", "ima":
		return strings.ToUpper(area)
	case "secure_boot":
		return "Secure Boot"
	case "kernel":
		return "Linux kernel"
	}
	return words(area)
}
