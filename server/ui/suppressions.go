package ui

import (
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

type suppressionRow struct {
	store.SuppressionRule
	ScopeText string
}

type suppressionsView struct {
	Items      []suppressionRow
	Paging     paging
	Form       suppressionForm
	Simulation *store.Simulation // of the form's rule; nil where none was asked for
}

// suppressionForm is a rule as the form holds it.
type suppressionForm struct {
	Code, Reason, ScaleSet, Machine, Label, Value string
	Days                                          int // until it expires; 0 for no end
}

func (h *handler) suppressions(w http.ResponseWriter, r *http.Request, s session) error {
	return h.showSuppressions(w, r, s, suppressionForm{Code: "attestation_failed"}, nil)
}

// simulatedDays is how far back the form's simulation looks.
const simulatedDays = 30

// simulateSuppression shows what the form's rule would have hidden, with the form as it was filled in.
func (h *handler) simulateSuppression(w http.ResponseWriter, r *http.Request, s session) error {
	form, rule, err := suppressionOf(r)
	if err != nil {
		return err
	}
	now := h.now()
	x, err := h.Store.SimulateSuppression(r.Context(), s.Tenant, rule, now.AddDate(0, 0, -simulatedDays), now)
	if err != nil {
		return err
	}
	return h.showSuppressions(w, r, s, form, &x)
}

func (h *handler) makeSuppression(w http.ResponseWriter, r *http.Request, s session) error {
	form, rule, err := suppressionOf(r)
	if err != nil {
		return err
	}
	if rule.Reason == "" {
		return errBadSuppression
	}
	now := h.now()
	if form.Days > 0 {
		ends := now.AddDate(0, 0, form.Days)
		rule.ExpiresAt = &ends
	}
	if rule, err = h.Store.CreateSuppressionRule(r.Context(), s.Tenant, rule, now, s.actor(r)); err != nil {
		return err
	}
	http.Redirect(w, r, "/ui/suppressions#"+rule.ID.String(), http.StatusSeeOther) // #nosec G710 -- an id of ours
	return nil
}

var errBadSuppression = &pageError{http.StatusBadRequest, "The rule cannot be read", "It needs a code that alerts have, or *, a reason of at most 512 characters, and at least one of scale set, machine and label. Go back and fill them in."}

const maxSuppressionText = 512

// suppressionOf reads a rule from the form. Without any scope it is refused: a rule for every machine is made by the API or
// the CLI, where that has to be said.
func suppressionOf(r *http.Request) (suppressionForm, store.SuppressionRule, error) {
	get := func(name string) string { return strings.TrimSpace(r.PostForm.Get(name)) }
	f := suppressionForm{Code: get("code"), Reason: get("reason"), ScaleSet: get("scale_set"), Machine: get("machine"), Label: get("label"), Value: get("value")}
	rule := store.SuppressionRule{AlertCode: f.Code, Reason: f.Reason}
	for _, text := range []string{f.Code, f.Reason, f.ScaleSet, f.Machine, f.Label, f.Value} {
		if len(text) > maxSuppressionText || strings.IndexFunc(text, unicode.IsControl) >= 0 || !utf8.ValidString(text) {
			return f, rule, errBadSuppression
		}
	}
	days, err := formNumber(r, "days", 1, 3660)
	if err != nil {
		return f, rule, err
	}
	if days != nil {
		f.Days = *days
	}
	if f.ScaleSet != "" {
		rule.Scope.AllOf = append(rule.Scope.AllOf, store.SuppressionCondition{Field: "machine.scale_set", In: []string{f.ScaleSet}})
	}
	if f.Machine != "" {
		rule.Scope.AllOf = append(rule.Scope.AllOf, store.SuppressionCondition{Field: "machine.name", In: []string{f.Machine}})
	}
	if f.Label != "" {
		rule.Scope.AllOf = append(rule.Scope.AllOf, store.SuppressionCondition{Field: "machine.labels." + f.Label, In: []string{f.Value}})
	}
	if !finding.RaisesAlert(f.Code) || len(rule.Scope.AllOf) == 0 {
		return f, rule, errBadSuppression
	}
	return f, rule, nil
}

func (h *handler) showSuppressions(w http.ResponseWriter, r *http.Request, s session, form suppressionForm, x *store.Simulation) error {
	items, next, err := h.Store.ListSuppressionRules(r.Context(), s.Tenant, store.SuppressionFilter{}, pageOf(r), h.now())
	if err != nil {
		return err
	}
	view := suppressionsView{Paging: pagingOf(r, next), Form: form, Simulation: x}
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
