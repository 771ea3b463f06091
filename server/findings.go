package server

import (
	"context"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
)

func assessmentDTO(a store.Assessment) openapi.Assessment {
	return openapi.Assessment{
		MachineID: a.MachineID, MachineName: a.MachineName, Code: a.Code, DisplayName: a.DisplayName,
		Severity: openapi.Severity(a.Severity), Status: openapi.AssessmentStatus(a.Status), Cause: a.Cause, Description: a.Description,
		FirstEvaluatedAt: utc(a.FirstEvaluatedAt), StatusChangedAt: utc(a.StatusChangedAt), EvaluatedAt: utc(a.EvaluatedAt),
	}
}

func recommendationDTO(r store.Recommendation) openapi.Recommendation {
	out := openapi.Recommendation{
		ID: r.ID, Code: r.Code, Severity: openapi.Severity(r.Severity), Status: openapi.RecommendationStatus(r.Status),
		MachineID: r.MachineID, MachineName: r.MachineName, DisplayName: r.DisplayName, Description: r.Description,
		RemediationSteps: orEmpty(r.RemediationSteps), FirstSeenAt: utc(r.FirstSeenAt), LastSeenAt: utc(r.LastSeenAt),
	}
	if e := r.Exemption; e != nil {
		out.Exemption = &openapi.Exemption{
			Reason: openapi.ExemptionReason(e.Reason), Comment: e.Comment, ExpiresAt: utcOrNull(e.ExpiresAt),
			CreatedBy: e.CreatedBy, CreatedAt: utc(e.CreatedAt),
		}
	}
	return out
}

// ListAssessments lists the current state of each code for each machine.
func (s *Server) ListAssessments(ctx context.Context, req openapi.ListAssessmentsRequestObject) (openapi.ListAssessmentsResponseObject, error) {
	q := req.Params
	f := store.AssessmentFilter{MachineID: q.MachineID, Code: value(q.Code), Status: text(q.Status), ScaleSet: value(q.ScaleSet), Severity: text(q.Severity)}
	items, next, err := s.store.ListAssessments(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor))
	if err != nil {
		return nil, err
	}
	return openapi.ListAssessments200JSONResponse{Items: each(items, assessmentDTO), NextCursor: nextCursor(next)}, nil
}

// ListRecommendations lists recommendations.
func (s *Server) ListRecommendations(ctx context.Context, req openapi.ListRecommendationsRequestObject) (openapi.ListRecommendationsResponseObject, error) {
	q := req.Params
	f := store.RecommendationFilter{MachineID: q.MachineID, Code: value(q.Code), Status: text(q.Status), Severity: text(q.Severity), ScaleSet: value(q.ScaleSet),
		ExemptionEndsBefore: q.ExemptionEndsBefore}
	items, next, err := s.store.ListRecommendations(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor), s.now())
	if err != nil {
		return nil, err
	}
	return openapi.ListRecommendations200JSONResponse{Items: each(items, recommendationDTO), NextCursor: nextCursor(next)}, nil
}

// GetRecommendation answers one recommendation.
func (s *Server) GetRecommendation(ctx context.Context, req openapi.GetRecommendationRequestObject) (openapi.GetRecommendationResponseObject, error) {
	r, err := s.store.GetRecommendation(ctx, principalOf(ctx).tenant, req.RecommendationID, s.now())
	if err != nil {
		return nil, err
	}
	return openapi.GetRecommendation200JSONResponse(recommendationDTO(r)), nil
}

// ExemptRecommendation says why a recommendation does not count, for ever or until a time.
func (s *Server) ExemptRecommendation(ctx context.Context, req openapi.ExemptRecommendationRequestObject) (openapi.ExemptRecommendationResponseObject, error) {
	now, actor := s.now(), actorOf(ctx)
	if err := inFuture("/expires_at", req.Body.ExpiresAt, now); err != nil {
		return nil, err
	}
	e := store.Exemption{
		Reason: string(req.Body.Reason), Comment: value(req.Body.Comment), ExpiresAt: req.Body.ExpiresAt,
		CreatedBy: principalOf(ctx).name(), CreatedAt: now,
	}
	r, err := s.store.ExemptRecommendation(ctx, principalOf(ctx).tenant, req.RecommendationID, e, now, actor)
	if err != nil {
		return nil, err
	}
	return openapi.ExemptRecommendation200JSONResponse(recommendationDTO(r)), nil
}

// UnexemptRecommendation ends an exemption by hand.
func (s *Server) UnexemptRecommendation(ctx context.Context, req openapi.UnexemptRecommendationRequestObject) (openapi.UnexemptRecommendationResponseObject, error) {
	comment := ""
	if req.Body != nil {
		comment = value(req.Body.Comment)
	}
	r, err := s.store.UnexemptRecommendation(ctx, principalOf(ctx).tenant, req.RecommendationID, comment, s.now(), actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return openapi.UnexemptRecommendation200JSONResponse(recommendationDTO(r)), nil
}

// ListRecommendationHistory lists the exemptions of a recommendation, past ones included.
func (s *Server) ListRecommendationHistory(ctx context.Context, req openapi.ListRecommendationHistoryRequestObject) (openapi.ListRecommendationHistoryResponseObject, error) {
	items, next, err := s.store.RecommendationHistory(ctx, principalOf(ctx).tenant, req.RecommendationID, pageOf(req.Params.Limit, req.Params.Cursor), s.now())
	if err != nil {
		return nil, err
	}
	return openapi.ListRecommendationHistory200JSONResponse{NextCursor: nextCursor(next), Items: each(items, func(e store.RecommendationEvent) openapi.RecommendationEvent {
		out := openapi.RecommendationEvent{ID: e.ID, At: utc(e.At), Kind: openapi.RecommendationEventKind(e.Kind), By: e.Actor, Comment: e.Comment, ExpiresAt: utcOrNull(e.ExpiresAt)}
		if e.Reason != "" {
			reason := openapi.RecommendationEventReason(e.Reason)
			out.Reason = &reason
		}
		return out
	})}, nil
}

// GetOverview answers the fleet in numbers.
func (s *Server) GetOverview(ctx context.Context, _ openapi.GetOverviewRequestObject) (openapi.GetOverviewResponseObject, error) {
	o, err := s.store.Overview(ctx, principalOf(ctx).tenant, s.now())
	if err != nil {
		return nil, err
	}
	counts := func(m map[string]int64) openapi.Counts {
		if m == nil {
			return openapi.Counts{}
		}
		return m
	}
	return openapi.GetOverview200JSONResponse{
		Machines: o.Machines, MachinesByStatus: counts(o.MachinesByStatus), MachinesByPlatform: counts(o.MachinesByPlatform),
		OpenAlertsBySeverity: counts(o.OpenAlertsBySeverity), OpenAlertsByReason: counts(o.OpenAlertsByReason), SuppressedAlerts: o.SuppressedAlerts,
		RecommendationsByCode: counts(o.RecommendationsByCode), RecommendationsBySeverity: counts(o.RecommendationsBySev),
		AssessmentsByStatus: counts(o.AssessmentsByStatus), OldestAttestationAt: utcOrNull(o.OldestAttestation), OldestAttestationMachineID: o.OldestAttestationOwner,
	}, nil
}
