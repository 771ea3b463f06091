package ui

import (
	"net/http"
	"strings"

	"github.com/assay-verifier/assay/store"
)

type suppressionRow struct {
	store.SuppressionRule
	ScopeText string
}

type suppressionsView struct {
	Items  []suppressionRow
	Paging paging
}

func (h *handler) suppressions(w http.ResponseWriter, r *http.Request, s session) error {
	items, next, err := h.Store.ListSuppressionRules(r.Context(), s.Tenant, store.SuppressionFilter{}, pageOf(r), h.now())
	if err != nil {
		return err
	}
	view := suppressionsView{Paging: pagingOf(r, next)}
	view.Paging.Export = h.exportLink("suppression-rules", "sort", pageOf(r).Sort)
	for _, rule := range items {
		view.Items = append(view.Items, suppressionRow{rule, conditionsOf(rule.Scope)})
	}
	h.render(w, r, s, http.StatusOK, "suppressions", "Suppression rules", view)
	return nil
}

// conditionsOf says a rule's scope in words.
func conditionsOf(scope store.SuppressionScope) string {
	if len(scope.AllOf) == 0 {
		return "every machine"
	}
	parts := make([]string, 0, len(scope.AllOf))
	for _, c := range scope.AllOf {
		field := strings.TrimPrefix(strings.TrimPrefix(c.Field, "machine.labels."), "machine.")
		field = strings.ReplaceAll(field, "_", " ")
		if c.Contains != "" {
			parts = append(parts, field+" contains “"+c.Contains+"”")
		} else {
			parts = append(parts, field+" is "+strings.Join(c.In, " or "))
		}
	}
	return strings.Join(parts, ", and ")
}
