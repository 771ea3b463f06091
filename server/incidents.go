package server

import (
	"context"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
)

func incidentDTO(i store.Incident) openapi.Incident {
	return openapi.Incident{
		ID: i.ID, Code: i.Code, DisplayName: i.DisplayName, Severity: openapi.Severity(i.Severity), Reason: textOrNull(i.Reason), Title: i.Title, Summary: i.Summary(),
		Status: openapi.AlertStatus(i.Status), FirstSeenAt: utc(i.FirstSeenAt), LastJoinedAt: utc(i.LastJoinedAt), OpenedAt: utc(i.OpenedAt), ReopenedCount: i.ReopenedCount,
		ClosedAt: utcOrNull(i.ClosedAt), OpenAlerts: i.Open, SuppressedAlerts: i.Suppressed, Alerts: i.Episode, AllAlerts: i.All, ScaleSets: i.ScaleSets,
	}
}

// ListIncidents lists incidents.
func (s *Server) ListIncidents(ctx context.Context, req openapi.ListIncidentsRequestObject) (openapi.ListIncidentsResponseObject, error) {
	q := req.Params
	f := store.IncidentFilter{Scope: callerScope(ctx), Status: text(q.Status), Code: value(q.Code), Severity: text(q.Severity), Reason: text(q.Reason), Open: value(q.Open)}
	items, next, err := s.store.ListIncidents(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListIncidents200JSONResponse{Items: each(items, incidentDTO), NextCursor: nextCursor(next)}, nil
}

// GetIncident answers one incident.
func (s *Server) GetIncident(ctx context.Context, req openapi.GetIncidentRequestObject) (openapi.GetIncidentResponseObject, error) {
	i, err := s.store.GetIncident(ctx, principalOf(ctx).tenant, req.IncidentID)
	if err != nil {
		return nil, err
	}
	return openapi.GetIncident200JSONResponse(incidentDTO(i)), nil
}

// ListIncidentMembers lists the alerts of an incident.
func (s *Server) ListIncidentMembers(ctx context.Context, req openapi.ListIncidentMembersRequestObject) (openapi.ListIncidentMembersResponseObject, error) {
	items, next, err := s.store.IncidentMembers(ctx, principalOf(ctx).tenant, req.IncidentID, value(req.Params.Open), pageOf(req.Params.Limit, req.Params.Cursor, req.Params.Sort), s.now())
	if err != nil {
		return nil, err
	}
	return openapi.ListIncidentMembers200JSONResponse{NextCursor: nextCursor(next), Items: each(items, func(m store.IncidentMember) openapi.IncidentMember {
		out := openapi.IncidentMember{Alert: alertDTO(m.Alert), JoinedAt: utc(m.JoinedAt), LeftAt: utcOrNull(m.LeftAt)}
		if m.LeftAs != "" {
			as := openapi.IncidentMemberLeftAs(m.LeftAs)
			out.LeftAs = &as
		}
		return out
	})}, nil
}

// setIncident changes the open alerts of an incident and counts it anew at once, so that the caller sees what he did.
func (s *Server) setIncident(ctx context.Context, id uuid.UUID, to openapi.AlertStatus, note *openapi.AlertProgress) (openapi.IncidentChange, error) {
	tenant, now := principalOf(ctx).tenant, s.now()
	n, err := s.store.SetIncidentStatus(ctx, tenant, id, changeOf(to, note), now, actorOf(ctx))
	if err != nil {
		return openapi.IncidentChange{}, err
	}
	_, err = s.store.CountIncidents(ctx, tenant, now)
	return openapi.IncidentChange{Alerts: n}, err
}

// DismissIncident dismisses all open alerts of an incident.
func (s *Server) DismissIncident(ctx context.Context, req openapi.DismissIncidentRequestObject) (openapi.DismissIncidentResponseObject, error) {
	c, err := s.setIncident(ctx, req.IncidentID, openapi.AlertStatusDismissed, noteOf(req.Body))
	if err != nil {
		return nil, err
	}
	return openapi.DismissIncident200JSONResponse(c), nil
}

// ResolveIncident resolves all open alerts of an incident.
func (s *Server) ResolveIncident(ctx context.Context, req openapi.ResolveIncidentRequestObject) (openapi.ResolveIncidentResponseObject, error) {
	c, err := s.setIncident(ctx, req.IncidentID, openapi.AlertStatusResolved, noteOf(req.Body))
	if err != nil {
		return nil, err
	}
	return openapi.ResolveIncident200JSONResponse(c), nil
}

// ProgressIncident marks all active alerts of an incident as being worked on.
func (s *Server) ProgressIncident(ctx context.Context, req openapi.ProgressIncidentRequestObject) (openapi.ProgressIncidentResponseObject, error) {
	c, err := s.setIncident(ctx, req.IncidentID, openapi.AlertStatusInProgress, req.Body)
	if err != nil {
		return nil, err
	}
	return openapi.ProgressIncident200JSONResponse(c), nil
}

// CommentIncident comments on all open alerts of an incident.
func (s *Server) CommentIncident(ctx context.Context, req openapi.CommentIncidentRequestObject) (openapi.CommentIncidentResponseObject, error) {
	n, err := s.store.CommentIncident(ctx, principalOf(ctx).tenant, req.IncidentID, req.Body.Comment, s.now(), actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return openapi.CommentIncident200JSONResponse{Alerts: n}, nil
}
