package server

import (
	"context"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
)

func alertDTO(a store.Alert) openapi.Alert {
	return openapi.Alert{
		ID: a.ID, Code: a.Code, Severity: openapi.Severity(a.Severity), Status: openapi.AlertStatus(a.Status), Reason: textOrNull(a.Reason),
		MachineID: a.MachineID, MachineName: a.MachineName, ScaleSet: a.ScaleSet, VerdictID: a.VerdictID, DisplayName: a.DisplayName,
		Description: a.Description, RemediationSteps: orEmpty(a.RemediationSteps), FirstSeenAt: utc(a.FirstSeenAt),
		LastSeenAt: utc(a.LastSeenAt), Count: a.Count, SuppressedBy: a.SuppressedBy,
	}
}

// ListAlerts lists alerts; suppressed ones only where asked for.
func (s *Server) ListAlerts(ctx context.Context, req openapi.ListAlertsRequestObject) (openapi.ListAlertsResponseObject, error) {
	q := req.Params
	f := store.AlertFilter{
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
	return out, nil
}

func (s *Server) setAlert(ctx context.Context, id uuid.UUID, to openapi.AlertStatus) (openapi.Alert, error) {
	a, err := s.store.SetAlertStatus(ctx, principalOf(ctx).tenant, id, string(to), s.now(), actorOf(ctx))
	if err != nil {
		return openapi.Alert{}, err
	}
	return alertDTO(a), nil
}

// DismissAlert closes an alert that is no concern.
func (s *Server) DismissAlert(ctx context.Context, req openapi.DismissAlertRequestObject) (openapi.DismissAlertResponseObject, error) {
	a, err := s.setAlert(ctx, req.AlertID, openapi.AlertStatusDismissed)
	if err != nil {
		return nil, err
	}
	return openapi.DismissAlert200JSONResponse(a), nil
}

// ResolveAlert closes an alert whose cause was removed.
func (s *Server) ResolveAlert(ctx context.Context, req openapi.ResolveAlertRequestObject) (openapi.ResolveAlertResponseObject, error) {
	a, err := s.setAlert(ctx, req.AlertID, openapi.AlertStatusResolved)
	if err != nil {
		return nil, err
	}
	return openapi.ResolveAlert200JSONResponse(a), nil
}

// ActivateAlert makes an alert active again.
func (s *Server) ActivateAlert(ctx context.Context, req openapi.ActivateAlertRequestObject) (openapi.ActivateAlertResponseObject, error) {
	a, err := s.setAlert(ctx, req.AlertID, openapi.AlertStatusActive)
	if err != nil {
		return nil, err
	}
	return openapi.ActivateAlert200JSONResponse(a), nil
}

// ProgressAlert marks an alert as being worked on.
func (s *Server) ProgressAlert(ctx context.Context, req openapi.ProgressAlertRequestObject) (openapi.ProgressAlertResponseObject, error) {
	a, err := s.setAlert(ctx, req.AlertID, openapi.AlertStatusInProgress)
	if err != nil {
		return nil, err
	}
	return openapi.ProgressAlert200JSONResponse(a), nil
}
