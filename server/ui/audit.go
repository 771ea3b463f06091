package ui

import (
	"net/http"
	"strings"

	"github.com/assay-verifier/assay/store"
)

type auditView struct {
	Items        []auditRow
	Filter       store.AuditFilter
	Since, Until string
	Checkpoint   *store.AuditCheckpoint // the newest; nil for none
	Filtered     bool
	Paging       paging
}

// auditRow is an event, and the page about what was changed.
type auditRow struct {
	store.AuditEvent
	Link string // empty where there is no page
}

// auditPages are the pages about what changes, by the kind of target.
var auditPages = map[string]string{"machine": "/ui/machines/", "alert": "/ui/alerts/", "incident": "/ui/incidents/"}

// audit lists who changed what, newest first.
func (h *handler) audit(w http.ResponseWriter, r *http.Request, s session) error {
	v := auditView{Filtered: filtered(r)}
	f := &v.Filter
	if err := filterValues(r, map[string]*string{"action": &f.Action, "actor_kind": &f.ActorKind, "actor_id": &f.ActorID, "target": &f.Target, "request_id": &f.RequestID}); err != nil {
		return err
	}
	var err error
	if f.Since, v.Since, err = queryDay(r, "since"); err != nil {
		return err
	}
	if f.Until, v.Until, err = queryDay(r, "until"); err != nil {
		return err
	}
	items, next, err := h.Store.ListAuditEvents(r.Context(), s.Tenant, *f, store.Page{Limit: pageSize, Cursor: r.URL.Query().Get("cursor")})
	if err != nil {
		return err
	}
	for _, e := range items {
		row := auditRow{AuditEvent: e}
		if kind, id, ok := strings.Cut(e.Target, ":"); ok && auditPages[kind] != "" {
			row.Link = auditPages[kind] + id
		}
		v.Items = append(v.Items, row)
	}
	newest, _, err := h.Store.ListAuditCheckpoints(r.Context(), s.Tenant, store.Page{Limit: 1})
	if err != nil {
		return err
	}
	if len(newest) > 0 {
		v.Checkpoint = &newest[0]
	}
	v.Paging = pagingOf(r, next)
	v.Paging.Export = h.exportLink("audit-events", "action", f.Action, "actor_kind", f.ActorKind, "actor_id", f.ActorID, "target", f.Target, "request_id", f.RequestID,
		"since", dayText(f.Since), "until", dayText(f.Until))
	h.render(w, r, s, http.StatusOK, "audit", "Audit", v)
	return nil
}
