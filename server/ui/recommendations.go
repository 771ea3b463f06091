package ui

import (
	"net/http"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

type recommendationsView struct {
	Items      []store.Recommendation
	Filter     store.RecommendationFilter
	Tabs       []choice
	Severities []choice
	Codes      []choice
	Filtered   bool
	Paging     paging
	Sort       []choice
	SortName   string
}

// recommendations lists active ones unless another state, or "all", is asked for.
func (h *handler) recommendations(w http.ResponseWriter, r *http.Request, s session) error {
	var f store.RecommendationFilter
	err := filterValues(r, map[string]*string{"code": &f.Code, "status": &f.Status, "severity": &f.Severity, "scale_set": &f.ScaleSet})
	if err != nil {
		return err
	}
	if f.MachineID, err = queryID(r, "machine"); err != nil {
		return err
	}
	tab := f.Status
	switch f.Status {
	case "":
		tab, f.Status = "active", "active"
	case "all":
		f.Status = ""
	}
	items, next, err := h.Store.ListRecommendations(r.Context(), s.Tenant, f, pageOf(r), h.now())
	if err != nil {
		return err
	}
	page := pagingOf(r, next)
	page.Export = h.exportLink("recommendations", "status", f.Status, "severity", f.Severity, "code", f.Code, "scale_set", f.ScaleSet,
		"machine_id", idText(f.MachineID), "sort", pageOf(r).Sort)
	h.render(w, r, s, http.StatusOK, "recommendations", "Recommendations", recommendationsView{
		Items: items, Filter: f,
		Tabs:       tabs(r, tab, "active", "exempt", "resolved", "all"),
		Severities: choices("Any severity", f.Severity, anyText(words), "high", "medium", "low"),
		Codes:      choices("Any recommendation", f.Code, recommendationName, recommendationCodes()...),
		Filtered:   filtered(r) || tab != "active",
		Paging:     page,
		Sort: choices("Newest first", pageOf(r).Sort, func(s string) string {
			return map[string]string{"-severity": "Most severe first", "code": "By recommendation", "first_seen_at": "Longest open first"}[s]
		}, "-severity", "code", "first_seen_at"),
	})
	return nil
}

// recommendationCodes are the rules of the catalogue that recommend something, in its order.
func recommendationCodes() []string {
	var out []string
	for _, r := range finding.Catalog(finding.Filter{Kind: finding.KindRecommendation}) {
		out = append(out, r.Code)
	}
	return out
}
