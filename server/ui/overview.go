package ui

import (
	"net/http"
	"net/url"
	"sort"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// unattested is the key under which machines without any verdict are counted.
const unattested = "unattested"

// slice is one part of a chart, in the order it is drawn.
type slice struct {
	Key    string // status, platform or code: chooses the colour
	Label  string
	Count  int64
	Share  float64 // percent of the whole
	Offset float64 // percent of the whole that comes before
	Link   string
}

type overviewView struct {
	store.Overview
	Statuses        []slice
	Platforms       []slice
	Severities      []slice
	Reasons         []slice
	Recommendations []slice
	Assessments     []slice
	OpenAlerts      int64
	Alerts          []store.Alert
	Oldest          *store.Machine
	ScaleSets       []slice
	Charts          []chart
	Ranges          []choice
	Assets          chartAssets
}

// chartAssets are the files that charts need.
type chartAssets struct{ Library, Style, Script string }

func (h *handler) overview(w http.ResponseWriter, r *http.Request, s session) error {
	now := h.now()
	since, ranges, err := rangeOf(r)
	if err != nil {
		return err
	}
	o, err := h.Store.Overview(r.Context(), s.Tenant, nil, now)
	if err != nil {
		return err
	}
	view := overviewView{
		Overview:        o,
		Statuses:        slices(o.MachinesByStatus, []string{"affirming", "warning", "contraindicated", "none", unattested}, anyText(statusWord), "/ui/machines?status="),
		Platforms:       slices(o.MachinesByPlatform, nil, platformName, "/ui/machines?platform="),
		Severities:      slices(o.OpenAlertsBySeverity, []string{"high", "medium", "low"}, anyText(words), "/ui/alerts?severity="),
		Reasons:         slices(o.OpenAlertsByReason, []string{"origin_unverified", "baseline_deviation"}, anyText(reasonWord), "/ui/alerts?reason="),
		Recommendations: slices(o.RecommendationsByCode, nil, recommendationName, "/ui/recommendations?code="),
		ScaleSets:       slices(o.FailingScaleSets, nil, func(s string) string { return s }, ""),
		Ranges:          ranges,
		Assets:          chartAssets{assetURL("uplot.js"), assetURL("uplot.css"), assetURL("charts.js")},
		Assessments:     slices(o.AssessmentsByStatus, []string{"Healthy", "Unhealthy", "NotApplicable"}, assessmentWord, ""),
	}
	for i, part := range view.Statuses {
		if part.Key == unattested { // the store lists them with those that have no verdict to tell
			view.Statuses[i].Link = "/ui/machines?status=none"
		}
	}
	for i := range view.ScaleSets {
		view.ScaleSets[i].Link = "/ui/machines?" + url.Values{"status": {"contraindicated"}, "scale_set": {view.ScaleSets[i].Key}}.Encode()
		view.ScaleSets[i].Key = "contraindicated" // the colour
	}
	if view.Charts, err = h.charts(r.Context(), s.Tenant, since, now); err != nil {
		return err
	}
	for _, part := range view.Severities {
		view.OpenAlerts += part.Count
	}
	if view.Alerts, _, err = h.Store.ListAlerts(r.Context(), s.Tenant, store.AlertFilter{Status: "active"}, store.Page{Limit: 6}, now); err != nil {
		return err
	}
	if o.OldestAttestationOwner != nil {
		m, err := h.Store.GetMachine(r.Context(), s.Tenant, *o.OldestAttestationOwner)
		if err != nil {
			return err
		}
		view.Oldest = &m
	}
	h.render(w, r, s, http.StatusOK, "overview", "Overview", view)
	return nil
}

// slices turns counts into the parts of a chart: the known keys first and in their order, then the
// others by count. Parts of nothing are left out.
func slices(counts map[string]int64, order []string, label func(string) string, link string) []slice {
	known := make(map[string]int, len(order))
	for i, key := range order {
		known[key] = i + 1
	}
	var total int64
	out := make([]slice, 0, len(counts))
	for key, n := range counts {
		if n <= 0 {
			continue
		}
		total += n
		text := label(key)
		if text == "" {
			text = "Not stated"
		}
		part := slice{Key: key, Label: text, Count: n}
		if link != "" && key != "" {
			part.Link = link + key
		}
		out = append(out, part)
	}
	sort.Slice(out, func(i, j int) bool {
		a, b := known[out[i].Key], known[out[j].Key]
		switch {
		case a != b && a != 0 && b != 0:
			return a < b
		case (a != 0) != (b != 0):
			return a != 0
		case out[i].Count != out[j].Count:
			return out[i].Count > out[j].Count
		}
		return out[i].Key < out[j].Key
	})
	var before float64
	for i := range out {
		out[i].Share = 100 * float64(out[i].Count) / float64(total)
		out[i].Offset = before
		before += out[i].Share
	}
	return out
}

// anyText narrows a function of templates to text.
func anyText(f func(any) string) func(string) string { return func(s string) string { return f(s) } }

func assessmentWord(s string) string {
	if s == "NotApplicable" {
		return "Not applicable"
	}
	return s
}

func recommendationName(code string) string {
	switch code {
	case "secure_boot_enabled":
		return "Secure Boot should be enabled"
	case "guest_attestation_installed":
		return "Guest attestation agent should be installed"
	case "vtpm_enabled":
		return "vTPM should be enabled"
	case "trusted_boot_components":
		return "Only signed and trusted boot components"
	case "kernel_module_signatures":
		return "Kernel module signatures should be enforced"
	case "evidence_weaker_than_platform":
		return "Evidence should be the strongest of the platform"
	case "tee_tcb_out_of_date":
		return "Processor firmware (TCB) should be up to date"
	case "tee_collateral_expiring":
		return "Collateral should be renewed"
	case "tee_debug_enabled":
		return "Debugging of confidential VMs should be off"
	case "tee_console_enabled":
		return "Serial console should be off where not needed"
	case "ak_certificate_expiring":
		return "Certificate of the attestation key should be renewed"
	case "revoked_boot_component":
		return "Nothing that was revoked should boot"
	case "dbx_outdated":
		return "Forbidden signatures (dbx) should be up to date"
	case "secure_boot_certificates_2011":
		return "Secure Boot should hold Microsoft's certificates of 2023"
	case "sbat_level_outdated":
		return "Shim's revocation level (SBAT) should be up to date"
	}
	if rule := finding.By(code); rule != nil {
		return rule.Title
	}
	return words(code)
}
