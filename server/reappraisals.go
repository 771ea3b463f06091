package server

import (
	"context"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
)

func reappraisalDTO(r store.Reappraisal) openapi.Reappraisal {
	out := openapi.Reappraisal{
		ID: r.ID, State: openapi.ReappraisalState(r.State), RequestedBy: r.RequestedBy, RequestedAt: utc(r.RequestedAt), StartedAt: utcOrNull(r.StartedAt),
		FinishedAt: utcOrNull(r.FinishedAt), Error: r.Error, Machines: r.Machines, Judged: r.Judged(), Unchanged: r.Unchanged, Worse: r.Worse,
		Better: r.Better, Changed: r.Changed, NotJudged: r.NotJudged, AlertsOpened: r.AlertsOpened, JudgedBeside: r.Beside,
	}
	out.Cause.Kind, out.Cause.ID, out.Cause.Detail = r.Cause.Kind, r.Cause.ID, r.Cause.Detail
	return out
}

func reappraisalMachineDTO(m store.ReappraisalMachine) openapi.ReappraisalMachine {
	return openapi.ReappraisalMachine{
		MachineID: m.MachineID, MachineName: m.MachineName, Outcome: openapi.ReappraisalOutcome(m.Outcome), NotJudgedBecause: m.Why,
		VerdictID: m.VerdictID, SupersededVerdictID: m.SupersededID, StatusBefore: openapi.VerdictStatus(m.StatusBefore),
		StatusAfter: textOrNull(m.StatusAfter), ReasonAfter: textOrNull(m.ReasonAfter),
	}
}

// ListReappraisals lists reappraisals.
func (s *Server) ListReappraisals(ctx context.Context, req openapi.ListReappraisalsRequestObject) (openapi.ListReappraisalsResponseObject, error) {
	q := req.Params
	items, next, err := s.store.ListReappraisals(ctx, principalOf(ctx).tenant,
		store.ReappraisalFilter{State: joined(q.State), CauseKind: joined(q.CauseKind), Since: q.Since, Until: q.Until}, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListReappraisals200JSONResponse{Items: each(items, reappraisalDTO), NextCursor: nextCursor(next)}, nil
}

// CreateReappraisal queues one by hand.
func (s *Server) CreateReappraisal(ctx context.Context, req openapi.CreateReappraisalRequestObject) (openapi.CreateReappraisalResponseObject, error) {
	r, err := s.store.RequestReappraisal(ctx, principalOf(ctx).tenant, selectorOf(req.Body.Selector), req.Body.Comment, s.now(), actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return openapi.CreateReappraisal202JSONResponse(reappraisalDTO(r)), nil
}

// GetReappraisal answers one.
func (s *Server) GetReappraisal(ctx context.Context, req openapi.GetReappraisalRequestObject) (openapi.GetReappraisalResponseObject, error) {
	r, err := s.store.GetReappraisal(ctx, principalOf(ctx).tenant, req.ReappraisalID)
	if err != nil {
		return nil, err
	}
	return openapi.GetReappraisal200JSONResponse(reappraisalDTO(r)), nil
}

// ListReappraisalMachines lists what one changed.
func (s *Server) ListReappraisalMachines(ctx context.Context, req openapi.ListReappraisalMachinesRequestObject) (openapi.ListReappraisalMachinesResponseObject, error) {
	q := req.Params
	items, next, err := s.store.ListReappraisalMachines(ctx, principalOf(ctx).tenant, req.ReappraisalID, joined(q.Outcome), pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListReappraisalMachines200JSONResponse{Items: each(items, reappraisalMachineDTO), NextCursor: nextCursor(next)}, nil
}
