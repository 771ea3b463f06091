package server

import (
	"context"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/store"
)

func graceOf(until *openapi.PromoteRequest) store.Grace {
	if until == nil {
		return store.Grace{}
	}
	return store.Grace{Until: until.GraceUntil, MovedPercent: until.GraceUntilMovedPercent}
}

// approvalDTO tells of the two-person rule, as far as it concerns a version.
func approvalDTO(v *store.BaselineVersion) openapi.VersionApproval {
	out := openapi.VersionApproval{Required: v.NeedsSecond, Status: openapi.VersionApprovalStatusNotRequired, Approvals: each(v.Approvals, func(a store.Approval) openapi.Approval {
		return openapi.Approval{By: a.By, At: utc(a.At), Comment: a.Comment}
	})}
	switch {
	case len(v.Approvals) > 0:
		out.Status = openapi.VersionApprovalStatusApproved
	case v.NeedsSecond && v.State == string(openapi.BaselineStateDraft):
		out.Status = openapi.VersionApprovalStatusPending
	}
	if p := v.Proposal; p != nil {
		out.Proposal = &openapi.Proposal{Activate: p.Activate, GraceUntil: utcOrNull(p.Until), GraceUntilMovedPercent: p.MovedPercent, AlertID: p.AlertID,
			Retire: trueOrNull(p.Retire), Release: trueOrNull(p.Release), By: textOrNull(p.By), Comment: textOrNull(p.Comment)}
	}
	return out
}

// PromoteBaselineVersion makes a draft the active version.
func (s *Server) PromoteBaselineVersion(ctx context.Context, req openapi.PromoteBaselineVersionRequestObject) (openapi.PromoteBaselineVersionResponseObject, error) {
	now, body := s.now(), value(req.Body)
	if err := inFuture("/grace_until", body.GraceUntil, now); err != nil {
		return nil, err
	}
	if err := s.mayWriteTo(ctx, req.BaselineID, auth.ActionPromote, ""); err != nil {
		return nil, err
	}
	p := store.Promotion{Grace: graceOf(req.Body), Expected: text(body.ExpectedState), Comment: value(body.Comment)}
	who := principalOf(ctx)
	p.NeedsSecond = who.pipeline == nil && !who.is(roleAdmin)
	v, err := s.store.PromoteVersion(ctx, who.tenant, req.BaselineID, req.Version, p, now, actorOf(ctx))
	if err != nil {
		return nil, err
	}
	dto, err := versionDTO(v, true)
	return openapi.PromoteBaselineVersion200JSONResponse(dto), err
}

// RetireBaselineVersion ends a version.
func (s *Server) RetireBaselineVersion(ctx context.Context, req openapi.RetireBaselineVersionRequestObject) (openapi.RetireBaselineVersionResponseObject, error) {
	body := value(req.Body)
	r := store.Retirement{Expected: text(body.ExpectedState), Release: value(body.Release), Propose: value(body.Propose), Comment: value(body.Comment)}
	v, err := s.store.RetireVersion(ctx, principalOf(ctx).tenant, req.BaselineID, req.Version, r, s.now(), actorOf(ctx))
	if err != nil {
		return nil, err
	}
	dto, err := versionDTO(v, true)
	return openapi.RetireBaselineVersion200JSONResponse(dto), err
}

// ApproveBaselineVersion is the second person's word for a draft.
func (s *Server) ApproveBaselineVersion(ctx context.Context, req openapi.ApproveBaselineVersionRequestObject) (openapi.ApproveBaselineVersionResponseObject, error) {
	body := value(req.Body)
	v, err := s.store.ApproveVersion(ctx, principalOf(ctx).tenant, req.BaselineID, req.Version, text(body.ExpectedState), value(body.Comment), s.now(), actorOf(ctx))
	if err != nil {
		return nil, err
	}
	dto, err := versionDTO(v, true)
	return openapi.ApproveBaselineVersion200JSONResponse(dto), err
}

// DiffBaselineVersion tells what a version changes.
func (s *Server) DiffBaselineVersion(ctx context.Context, req openapi.DiffBaselineVersionRequestObject) (openapi.DiffBaselineVersionResponseObject, error) {
	d, err := s.attest.DiffVersion(ctx, principalOf(ctx).tenant, req.BaselineID, req.Version, value(req.Params.From))
	if err != nil {
		return nil, err
	}
	return openapi.DiffBaselineVersion200JSONResponse{From: d.From, To: d.To, Changes: each(d.Changes, deviationDTO), More: d.More}, nil
}

// GetBaselineRollout counts who has moved, and lists who has not.
func (s *Server) GetBaselineRollout(ctx context.Context, req openapi.GetBaselineRolloutRequestObject) (openapi.GetBaselineRolloutResponseObject, error) {
	tenant, now := principalOf(ctx).tenant, s.now()
	machines, next, err := s.store.ListUnmoved(ctx, tenant, req.BaselineID, pageOf[string](req.Params.Limit, req.Params.Cursor, nil), now)
	if err != nil {
		return nil, err
	}
	r, err := s.store.GetRollout(ctx, tenant, req.BaselineID, now)
	if err != nil {
		return nil, err
	}
	return openapi.GetBaselineRollout200JSONResponse{
		BaselineID: r.BaselineID, Name: r.Name, ActiveVersion: r.Active, Covered: r.Covered, Attesting: r.Attesting, Moved: r.Moved,
		MovedPercent: r.Percent(r.Moved), Behind: r.Behind, None: r.None, RolledBack: r.RolledBack,
		Versions: each(r.Versions, func(v store.VersionCount) openapi.RolloutVersion {
			return openapi.RolloutVersion{Version: v.Version, State: openapi.BaselineState(v.State), Machines: v.Machines}
		}),
		Grace: each(r.Grace, func(g store.GraceState) openapi.RolloutGrace {
			return openapi.RolloutGrace{Version: g.Version, Until: utcOrNull(g.Until), UntilMovedPercent: g.MovedPercent, Moved: g.Moved, MovedPercent: r.Percent(g.Moved)}
		}),
		NotMoved: openapi.RolloutMachineList{NextCursor: nextCursor(next), Items: each(machines, func(m store.RolloutMachine) openapi.RolloutMachine {
			return openapi.RolloutMachine{MachineID: m.ID, MachineName: m.Name, ScaleSet: m.ScaleSet, Status: openapi.VerdictStatus(m.Status),
				Version: m.Version, RolledBack: m.RolledBack, LastSeenAt: utcOrNull(m.LastSeenAt)}
		})},
	}, nil
}
