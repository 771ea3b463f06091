package server

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

func decisionDTO(d store.AlertDecision) openapi.AlertDecision {
	out := openapi.AlertDecision{Decision: openapi.AlertDecisionDecision(d.Decision), VerdictID: d.VerdictID, Comment: d.Comment, By: d.By, At: utc(d.At)}
	if d.BaselineID != nil {
		out.Baseline = &openapi.VersionLink{ID: *d.BaselineID, Name: value(d.Baseline), Version: value(d.Version), State: openapi.BaselineState(value(d.State))}
	}
	return out
}

func deviationDTO(d verifier.Deviation) openapi.Deviation {
	out := openapi.Deviation{Pcr: d.PCR, Kind: openapi.DeviationKind(d.Kind), Component: string(d.Component), Description: d.Description, EventType: d.EventType,
		Expected: orEmpty(d.Expected), Actual: d.Actual, Bank: textOrNull(d.Bank), Now: textOrNull(d.Now), Before: textOrNull(d.Before), KnownFrom: textOrNull(d.Known)}
	if d.IMAKind != "" {
		kind := openapi.DeviationImaKind(d.IMAKind)
		out.ImaKind = &kind
	}
	if len(d.Allows) > 0 {
		out.Allows = &d.Allows
	}
	return out
}

// PreviewApproval shows what approving an alert would allow.
func (s *Server) PreviewApproval(ctx context.Context, req openapi.PreviewApprovalRequestObject) (openapi.PreviewApprovalResponseObject, error) {
	q := req.Params
	p, err := s.attest.PreviewApproval(ctx, principalOf(ctx).tenant, req.AlertID,
		attest.ApprovalChoice{Scope: text(q.Scope), BaselineID: q.BaselineID, Replace: value(q.Replace)})
	if err != nil {
		return nil, err
	}
	values, err := json.Marshal(p.Reference)
	if err != nil {
		return nil, fmt.Errorf("reference values of an approval: %w", err)
	}
	out := openapi.PreviewApproval200JSONResponse{
		AlertID: p.Alert.ID, VerdictID: p.VerdictID, BaselineID: p.BaselineID, Name: p.Name, BasedOn: p.BasedOn, Selector: selectorDTO(p.Selector),
		Deviations: each(p.Deviations, deviationDTO), Changes: each(p.Changes, deviationDTO), Remaining: orEmpty(p.Remaining),
		SecondPersonRequired: p.NeedsSecond, ReferenceValues: values,
	}
	if p.Refused != nil {
		before := decisionDTO(*p.Refused)
		out.RefusedBefore = &before
	}
	return out, nil
}

// ApproveAlert makes a version that allows what an alert is about.
func (s *Server) ApproveAlert(ctx context.Context, req openapi.ApproveAlertRequestObject) (openapi.ApproveAlertResponseObject, error) {
	body := req.Body
	if err := inFuture("/grace_until", body.GraceUntil, s.now()); err != nil {
		return nil, err
	}
	choice := attest.ApprovalChoice{Scope: text(body.Scope), BaselineID: body.BaselineID, Replace: value(body.Replace)}
	if err := s.mayApprove(ctx, req.AlertID, choice); err != nil {
		return nil, err
	}
	p, v, err := s.attest.ApproveAlert(ctx, principalOf(ctx).tenant, req.AlertID, attest.ApprovalRequest{
		ApprovalChoice: choice,
		Comment:        body.Comment, VerdictID: body.VerdictID, BasedOn: body.BasedOn, Force: value(body.Force),
		Activate: text(body.State) != string(openapi.BaselineStateDraft),
		Grace:    store.Grace{Until: body.GraceUntil, MovedPercent: body.GraceUntilMovedPercent},
	}, actorOf(ctx))
	if err != nil {
		return nil, err
	}
	dto, err := versionDTO(v, true)
	return openapi.ApproveAlert201JSONResponse{Version: dto, Changes: each(p.Changes, deviationDTO), Remaining: orEmpty(p.Remaining)}, err
}

// RefuseAlert records that what an alert is about is not to be allowed.
func (s *Server) RefuseAlert(ctx context.Context, req openapi.RefuseAlertRequestObject) (openapi.RefuseAlertResponseObject, error) {
	tenant := principalOf(ctx).tenant
	if err := s.attest.RefuseAlert(ctx, tenant, req.AlertID, req.Body.Comment, req.Body.VerdictID, actorOf(ctx)); err != nil {
		return nil, err
	}
	a, err := s.store.GetAlert(ctx, tenant, req.AlertID, s.now())
	if err != nil {
		return nil, err
	}
	dto, err := s.withDecisions(ctx, a)
	return openapi.RefuseAlert200JSONResponse(dto), err
}
