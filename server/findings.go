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
	f := store.AssessmentFilter{Scope: callerScope(ctx), MachineID: q.MachineID, Code: joined(q.Code), Status: joined(q.Status), ScaleSet: value(q.ScaleSet), Severity: joined(q.Severity),
		Since: q.Since, Until: q.Until}
	items, next, err := s.store.ListAssessments(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListAssessments200JSONResponse{Items: each(items, assessmentDTO), NextCursor: nextCursor(next)}, nil
}

// ListRecommendations lists recommendations.
func (s *Server) ListRecommendations(ctx context.Context, req openapi.ListRecommendationsRequestObject) (openapi.ListRecommendationsResponseObject, error) {
	q := req.Params
	f := store.RecommendationFilter{Scope: callerScope(ctx), MachineID: q.MachineID, Code: joined(q.Code), Status: joined(q.Status), Severity: joined(q.Severity), ScaleSet: value(q.ScaleSet),
		Since: q.Since, Until: q.Until, ExemptionEndsBefore: q.ExemptionEndsBefore}
	items, next, err := s.store.ListRecommendations(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor, q.Sort), s.now())
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
		CreatedBy: actor.String(), CreatedAt: now,
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
	items, next, err := s.store.RecommendationHistory(ctx, principalOf(ctx).tenant, req.RecommendationID, pageOf(req.Params.Limit, req.Params.Cursor, req.Params.Sort), s.now())
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
