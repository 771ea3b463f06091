package server

import (
	"context"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
)

func alertDTO(a store.Alert) openapi.Alert {
	out := openapi.Alert{
		ID: a.ID, Code: a.Code, Severity: openapi.Severity(a.Severity), Status: openapi.AlertStatus(a.Status), Reason: textOrNull(a.Reason),
		MachineID: idOrNull(a.MachineID), MachineName: a.MachineName, ScaleSet: a.ScaleSet, Scope: a.Scope, VerdictID: idOrNull(a.VerdictID), DisplayName: a.DisplayName,
		Description: a.Description, RemediationSteps: orEmpty(a.RemediationSteps), FirstSeenAt: utc(a.FirstSeenAt),
		LastSeenAt: utc(a.LastSeenAt), Count: a.Count, SuppressedBy: a.SuppressedBy,
		OpenedAt: utc(a.OpenedAt), ReopenedCount: a.ReopenedCount, ClosedAt: utcOrNull(a.ClosedAt), ClosedBy: textOrNull(a.ClosedBy), Assignee: textOrNull(a.Assignee),
	}
	if a.Details != nil {
		out.Details = &a.Details
	}
	return out
}

// ListAlerts lists alerts; suppressed ones only where asked for.
func (s *Server) ListAlerts(ctx context.Context, req openapi.ListAlertsRequestObject) (openapi.ListAlertsResponseObject, error) {
	q := req.Params
	f := store.AlertFilter{
		Scope:     callerScope(ctx),
		MachineID: q.MachineID, Code: joined(q.Code), Status: joined(q.Status), Severity: joined(q.Severity), Reason: joined(q.Reason),
		ScaleSet: value(q.ScaleSet), IncludeSuppressed: value(q.IncludeSuppressed), Since: q.Since, Until: q.Until,
	}
	items, next, err := s.store.ListAlerts(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor, q.Sort), s.now())
	if err != nil {
		return nil, err
	}
	return openapi.ListAlerts200JSONResponse{Items: each(items, alertDTO), NextCursor: nextCursor(next)}, nil
}

// GetAlert answers one alert, suppressed or not.
func (s *Server) GetAlert(ctx context.Context, req openapi.GetAlertRequestObject) (openapi.GetAlertResponseObject, error) {
	a, err := s.store.GetAlert(ctx, principalOf(ctx).tenant, req.AlertID, s.now())
	if err != nil {
		return nil, err
	}
	dto, err := s.withDecisions(ctx, a)
	return openapi.GetAlert200JSONResponse(dto), err
}

// withDecisions shows an alert with what was decided about it.
func (s *Server) withDecisions(ctx context.Context, a store.Alert) (openapi.Alert, error) {
	out := alertDTO(a)
	made, err := s.store.AlertDecisions(ctx, principalOf(ctx).tenant, a.ID)
	if err != nil {
		return out, err
	}
	decisions := each(made, decisionDTO)
	out.Decisions = &decisions
	out.IncidentID, err = s.store.IncidentOf(ctx, principalOf(ctx).tenant, a.ID)
	return out, err
}

func (s *Server) setAlert(ctx context.Context, id uuid.UUID, to openapi.AlertStatus, note *openapi.AlertProgress) (openapi.Alert, error) {
	a, err := s.store.SetAlertStatus(ctx, principalOf(ctx).tenant, id, changeOf(to, note), s.now(), actorOf(ctx))
	if err != nil {
		return openapi.Alert{}, err
	}
	return alertDTO(a), nil
}

// changeOf is what a request asks of alerts; note is nil where it had no body.
func changeOf(to openapi.AlertStatus, note *openapi.AlertProgress) store.AlertChange {
	c := store.AlertChange{To: string(to)}
	if note != nil {
		c.Comment, c.Assignee = value(note.Comment), value(note.Assignee)
	}
	return c
}

// noteOf is a note without an assignee as one with.
func noteOf(n *openapi.AlertNote) *openapi.AlertProgress {
	if n == nil {
		return nil
	}
	return &openapi.AlertProgress{Comment: n.Comment}
}

// DismissAlert closes an alert that is no concern.
func (s *Server) DismissAlert(ctx context.Context, req openapi.DismissAlertRequestObject) (openapi.DismissAlertResponseObject, error) {
	a, err := s.setAlert(ctx, req.AlertID, openapi.AlertStatusDismissed, noteOf(req.Body))
	if err != nil {
		return nil, err
	}
	return openapi.DismissAlert200JSONResponse(a), nil
}

// ResolveAlert closes an alert whose cause was removed.
func (s *Server) ResolveAlert(ctx context.Context, req openapi.ResolveAlertRequestObject) (openapi.ResolveAlertResponseObject, error) {
	a, err := s.setAlert(ctx, req.AlertID, openapi.AlertStatusResolved, noteOf(req.Body))
	if err != nil {
		return nil, err
	}
	return openapi.ResolveAlert200JSONResponse(a), nil
}

// ActivateAlert makes an alert active again.
func (s *Server) ActivateAlert(ctx context.Context, req openapi.ActivateAlertRequestObject) (openapi.ActivateAlertResponseObject, error) {
	a, err := s.setAlert(ctx, req.AlertID, openapi.AlertStatusActive, noteOf(req.Body))
	if err != nil {
		return nil, err
	}
	return openapi.ActivateAlert200JSONResponse(a), nil
}

// ProgressAlert marks an alert as being worked on.
func (s *Server) ProgressAlert(ctx context.Context, req openapi.ProgressAlertRequestObject) (openapi.ProgressAlertResponseObject, error) {
	a, err := s.setAlert(ctx, req.AlertID, openapi.AlertStatusInProgress, req.Body)
	if err != nil {
		return nil, err
	}
	return openapi.ProgressAlert200JSONResponse(a), nil
}

// ListAlertOccurrences lists the verdicts behind an alert.
func (s *Server) ListAlertOccurrences(ctx context.Context, req openapi.ListAlertOccurrencesRequestObject) (openapi.ListAlertOccurrencesResponseObject, error) {
	items, next, err := s.store.AlertOccurrences(ctx, principalOf(ctx).tenant, req.AlertID, pageOf(req.Params.Limit, req.Params.Cursor, req.Params.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListAlertOccurrences200JSONResponse{NextCursor: nextCursor(next), Items: each(items, func(o store.AlertOccurrence) openapi.AlertOccurrence {
		return openapi.AlertOccurrence{VerdictID: o.VerdictID, FirstAt: utc(o.FirstAt), LastAt: utc(o.LastAt), Count: o.Count}
	})}, nil
}

func alertEventDTO(e store.AlertEvent) openapi.AlertEvent {
	return openapi.AlertEvent{ID: e.ID, At: utc(e.At), Kind: openapi.AlertEventKind(e.Kind), By: e.Actor, From: textOrNull(e.From), To: textOrNull(e.To),
		Comment: e.Comment, Assignee: textOrNull(e.Assignee)}
}

// ListAlertHistory lists what happened to an alert.
func (s *Server) ListAlertHistory(ctx context.Context, req openapi.ListAlertHistoryRequestObject) (openapi.ListAlertHistoryResponseObject, error) {
	items, next, err := s.store.AlertHistory(ctx, principalOf(ctx).tenant, req.AlertID, pageOf(req.Params.Limit, req.Params.Cursor, req.Params.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListAlertHistory200JSONResponse{Items: each(items, alertEventDTO), NextCursor: nextCursor(next)}, nil
}

// CommentAlert adds a comment to an alert's history.
func (s *Server) CommentAlert(ctx context.Context, req openapi.CommentAlertRequestObject) (openapi.CommentAlertResponseObject, error) {
	e, err := s.store.CommentAlert(ctx, principalOf(ctx).tenant, req.AlertID, req.Body.Comment, s.now(), actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return openapi.CommentAlert201JSONResponse(alertEventDTO(e)), nil
}
