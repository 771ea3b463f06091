package ui

import (
	"cmp"
	"errors"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

type incidentsView struct {
	Items    []store.Incident
	Filter   store.IncidentFilter
	Tabs     []choice
	Filtered bool
	Paging   paging
}

// incidents lists open incidents unless another state, or "all", is asked for.
func (h *handler) incidents(w http.ResponseWriter, r *http.Request, s session) error {
	var f store.IncidentFilter
	if err := filterValues(r, map[string]*string{"status": &f.Status, "code": &f.Code}); err != nil {
		return err
	}
	tab := f.Status
	switch f.Status {
	case "", "open":
		tab, f.Status, f.Open = "open", "", true
	case "all":
		f.Status = ""
	}
	page := pageOf(r)
	page.Sort = cmp.Or(page.Sort, "-opened_at")
	items, next, err := h.Store.ListIncidents(r.Context(), s.Tenant, f, page)
	if err != nil {
		return err
	}
	h.render(w, r, s, http.StatusOK, "incidents", "Incidents", incidentsView{Items: items, Filter: f,
		Tabs: tabs(r, tab, "open", "in_progress", "dismissed", "resolved", "all"), Filtered: filtered(r) || tab != "open", Paging: pagingOf(r, next)})
	return nil
}

type incidentView struct {
	store.Incident
	Members []store.IncidentMember
	Paging  paging
	MayAct  bool // the role may, and an alert is open
	Done    string
}

func (h *handler) incident(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	view := incidentView{}
	if view.Incident, err = h.Store.GetIncident(r.Context(), s.Tenant, id); err != nil {
		return err
	}
	var next string
	if view.Members, next, err = h.Store.IncidentMembers(r.Context(), s.Tenant, id, false, pageOf(r), h.now()); err != nil {
		return err
	}
	view.Paging = pagingOf(r, next)
	view.MayAct = s.May(mayAlerts) && view.Open > 0
	view.Done = map[string]string{"in-progress": "The incident is in progress.", "resolve": "Its open alerts are resolved.", "dismiss": "Its open alerts are dismissed. The verdicts stay as they are.",
		"comments": "The comment is kept with each open alert."}[r.URL.Query().Get("done")]
	h.render(w, r, s, http.StatusOK, "incident", view.Title, &view)
	return nil
}

// changeIncident does with all open alerts of an incident what the button says.
func (h *handler) changeIncident(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	action := r.PathValue("action")
	comment, err := formComment(r, action == "comments")
	if err != nil {
		return err
	}
	to, known := map[string]string{"in-progress": "in_progress", "resolve": "resolved", "dismiss": "dismissed"}[action]
	switch {
	case known:
		_, err = h.Store.SetIncidentStatus(r.Context(), s.Tenant, id, store.AlertChange{To: to, Comment: comment}, h.now(), s.actor(r))
	case action == "comments":
		_, err = h.Store.CommentIncident(r.Context(), s.Tenant, id, comment, h.now(), s.actor(r))
	default:
		return errNoPage
	}
	if errors.Is(err, store.ErrConflict) {
		return errAlertState
	}
	if err != nil {
		return err
	}
	if _, err := h.Store.CountIncidents(r.Context(), s.Tenant, h.now()); err != nil {
		return err
	}
	http.Redirect(w, r, "/ui/incidents/"+id.String()+"?done="+action, http.StatusSeeOther) // #nosec G710 -- a parsed id and a word of the list
	return nil
}

// alertLife is what an alert's page says of its past.
type alertLife struct {
	Incident    *store.Incident // nil in the moment before it is counted
	History     []store.AlertEvent
	Occurrences []store.AlertOccurrence
}

// lifeOf reads the newest fifty of each.
func (h *handler) lifeOf(r *http.Request, s session, id uuid.UUID) (alertLife, error) {
	ctx := r.Context()
	var out alertLife
	incident, err := h.Store.IncidentOf(ctx, s.Tenant, id)
	if err != nil {
		return out, err
	}
	if incident != nil {
		i, err := h.Store.GetIncident(ctx, s.Tenant, *incident)
		if err != nil {
			return out, err
		}
		out.Incident = &i
	}
	if out.History, _, err = h.Store.AlertHistory(ctx, s.Tenant, id, store.Page{}); err != nil {
		return out, err
	}
	out.Occurrences, _, err = h.Store.AlertOccurrences(ctx, s.Tenant, id, store.Page{})
	return out, err
}

// commentAlert keeps what somebody says about an alert.
func (h *handler) commentAlert(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	comment, err := formComment(r, true)
	if err != nil {
		return err
	}
	if _, err := h.Store.CommentAlert(r.Context(), s.Tenant, id, comment, h.now(), s.actor(r)); err != nil {
		return err
	}
	http.Redirect(w, r, "/ui/alerts/"+id.String()+"?done=comments#history", http.StatusSeeOther) // #nosec G710 -- a parsed id
	return nil
}

// eventText says one entry of an alert's history in words.
func eventText(e store.AlertEvent) string {
	switch e.Kind {
	case "opened":
		return "Opened"
	case "reopened":
		return "Opened again, was " + strings.ToLower(words(e.From))
	case "commented":
		return "Comment"
	case "unsuppressed":
		return "No longer suppressed"
	case "grown":
		return "Twice as large as was told before"
	case "status_changed":
		return words(e.To)
	}
	return words(e.Kind)
}
