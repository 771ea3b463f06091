package ui

import (
	"errors"
	"net/http"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

type alertsView struct {
	Items      []store.Alert
	Filter     store.AlertFilter
	Tabs       []choice
	Severities []choice
	Reasons    []choice
	Filtered   bool
	Paging     paging
	Sort       map[string]sortLink
	SortName   string

	Since, Until string
}

// alerts lists active alerts unless another state, or "all", is asked for.
func (h *handler) alerts(w http.ResponseWriter, r *http.Request, s session) error {
	var f store.AlertFilter
	var suppressed string
	err := filterValues(r, map[string]*string{
		"code": &f.Code, "status": &f.Status, "severity": &f.Severity, "reason": &f.Reason, "scale_set": &f.ScaleSet,
		"suppressed": &suppressed,
	})
	if err != nil {
		return err
	}
	if f.MachineID, err = queryID(r, "machine"); err != nil {
		return err
	}
	f.IncludeSuppressed = suppressed != ""
	var since, until string
	if f.Since, since, err = queryDay(r, "since"); err != nil {
		return err
	}
	if f.Until, until, err = queryDay(r, "until"); err != nil {
		return err
	}
	tab := f.Status
	switch f.Status {
	case "":
		tab, f.Status = "active", "active"
	case "all":
		f.Status = ""
	}
	items, next, err := h.Store.ListAlerts(r.Context(), s.Tenant, f, pageOf(r), h.now())
	if err != nil {
		return err
	}
	page := pagingOf(r, next)
	hidden := ""
	if f.IncludeSuppressed {
		hidden = "true"
	}
	page.Export = h.exportLink("alerts", "status", f.Status, "severity", f.Severity, "reason", f.Reason, "code", f.Code, "scale_set", f.ScaleSet,
		"machine_id", idText(f.MachineID), "include_suppressed", hidden, "since", dayText(f.Since), "until", dayText(f.Until), "sort", pageOf(r).Sort)
	h.render(w, r, s, http.StatusOK, "alerts", "Alerts", alertsView{
		Items: items, Filter: f, Since: since, Until: until, SortName: pageOf(r).Sort,
		Sort:       sortLinks(r, "-id", "severity", "Severity", "code", "Alert", "status", "State", "id", "First seen"),
		Tabs:       tabs(r, tab, "active", "in_progress", "dismissed", "resolved", "all"),
		Severities: choices("Any severity", f.Severity, anyText(words), "high", "medium", "low"),
		Reasons:    choices("Any reason", f.Reason, anyText(reasonWord), string(verifier.OriginUnverified), string(verifier.BaselineDeviation)),
		Filtered:   filtered(r) || tab != "active",
		Paging:     page,
	})
	return nil
}

// tabs are the states of a list as links that keep its other filters.
func tabs(r *http.Request, selected string, values ...string) []choice {
	out := make([]choice, 0, len(values))
	for _, v := range values {
		out = append(out, choice{Value: v, Label: words(v), Selected: v == selected, Link: withQuery(r, "status", v, "cursor", "")})
	}
	return out
}

// alertAction is one step of an alert's life: the last part of its address and the state it leads to.
type alertAction struct {
	Path   string
	Label  string
	To     string
	Done   string // what the page says afterwards
	Danger bool
}

var alertActions = []alertAction{
	{"in-progress", "Start work", "in_progress", "The alert is in progress.", false},
	{"resolve", "Resolve", "resolved", "The alert is resolved. If it happens again, it is opened again.", false},
	{"dismiss", "Dismiss", "dismissed", "The alert is dismissed. The verdict stays as it is.", true},
	{"activate", "Reopen", "active", "The alert is active again.", false},
}

// nextActions are the steps that an alert can take from a state.
func nextActions(status string) []alertAction {
	var out []alertAction
	for _, a := range alertActions {
		if a.To == status {
			continue
		}
		if (status == "active" || status == "in_progress") || a.Path == "activate" {
			out = append(out, a)
		}
	}
	return out
}

type alertView struct {
	store.Alert
	Verdict *store.Verdict // nil where its retention has ended
	Machine store.Machine
	Rule    *store.SuppressionRule
	Actions []alertAction
	Done    string

	alertLife
	Decisions []store.AlertDecision
	Approval  *approvalView // nil where the alert is closed or not about a baseline
	Conflict  *conflictView // the pair; nil where the alert is about something else
}

// HasVerdict tells whether a verdict raised it.
func (v *alertView) HasVerdict() bool { return v.VerdictID != uuid.Nil }

func (h *handler) alert(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	ctx, now := r.Context(), h.now()
	view := alertView{}
	if view.Alert, err = h.Store.GetAlert(ctx, s.Tenant, id, now); err != nil {
		return err
	}
	if view.MachineID != uuid.Nil {
		if view.Machine, err = h.Store.GetMachine(ctx, s.Tenant, view.MachineID); err != nil {
			return err
		}
	}
	switch verdict, err := h.Store.GetVerdict(ctx, s.Tenant, view.VerdictID); {
	case err == nil:
		view.Verdict = &verdict
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	if view.SuppressedBy != nil {
		switch rule, err := h.Store.GetSuppressionRule(ctx, s.Tenant, *view.SuppressedBy, now); {
		case err == nil:
			view.Rule = &rule
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
	}
	view.Conflict = conflictOf(&view.Alert, now)
	if s.May(mayAlerts) {
		view.Actions = nextActions(view.Status)
	}
	if view.alertLife, err = h.lifeOf(r, s, id); err != nil {
		return err
	}
	if r.URL.Query().Get("done") == "comments" {
		view.Done = "The comment is kept."
	}
	if view.Decisions, err = h.Store.AlertDecisions(ctx, s.Tenant, id); err != nil {
		return err
	}
	if view.Approval, err = h.approvalOf(r, s, &view.Alert); err != nil {
		return err
	}
	for _, d := range view.Decisions {
		if done := r.URL.Query().Get("done"); done == d.Decision {
			view.Done = map[string]string{store.DecisionApproved: "The deviations are approved.", store.DecisionRefused: "The deviations are refused. The alert stays as it is."}[done]
		}
	}
	for _, a := range alertActions {
		if a.Path == r.URL.Query().Get("done") && a.To == view.Status {
			view.Done = a.Done
		}
	}
	h.render(w, r, s, http.StatusOK, "alert", view.DisplayName, &view)
	return nil
}

func (h *handler) changeAlert(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	for _, a := range alertActions {
		if a.Path != r.PathValue("action") {
			continue
		}
		comment, err := formComment(r, false)
		if err != nil {
			return err
		}
		_, err = h.Store.SetAlertStatus(r.Context(), s.Tenant, id, store.AlertChange{To: a.To, Comment: comment}, h.now(), s.actor(r))
		if errors.Is(err, store.ErrConflict) {
			return errAlertState
		}
		if err != nil {
			return err
		}
		http.Redirect(w, r, "/ui/alerts/"+id.String()+"?done="+a.Path, http.StatusSeeOther) // #nosec G710 -- a parsed id and a path of the table
		return nil
	}
	return errNoPage
}
