package server

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
)

func retentionDTO(p store.RetentionPolicy) openapi.Retention {
	out := openapi.Retention{EvidenceDays: p.EvidenceDays, VerdictDays: p.VerdictDays, AuditDays: p.AuditDays, UpdatedBy: textOrNull(p.UpdatedBy)}
	if !p.UpdatedAt.IsZero() {
		at := utc(p.UpdatedAt)
		out.UpdatedAt = &at
	}
	return out
}

// GetRetention answers how long the tenant keeps what was judged.
func (s *Server) GetRetention(ctx context.Context, _ openapi.GetRetentionRequestObject) (openapi.GetRetentionResponseObject, error) {
	p, err := s.store.GetRetention(ctx, principalOf(ctx).tenant, s.cfg.Retention)
	if err != nil {
		return nil, err
	}
	return openapi.GetRetention200JSONResponse(retentionDTO(p)), nil
}

// PutRetention sets it.
func (s *Server) PutRetention(ctx context.Context, req openapi.PutRetentionRequestObject) (openapi.PutRetentionResponseObject, error) {
	r := store.Retention{EvidenceDays: req.Body.EvidenceDays, VerdictDays: req.Body.VerdictDays, AuditDays: req.Body.AuditDays}
	if err := r.Check(); err != nil { // the contract has the bounds, but not what they are to each other
		return nil, refuseField(codeInvalidField, "/evidence_days", err.Error())
	}
	p, err := s.store.PutRetention(ctx, principalOf(ctx).tenant, r, s.cfg.Retention, s.now(), actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return openapi.PutRetention200JSONResponse(retentionDTO(p)), nil
}

// orPruned says of what is not there that it may have been pruned: by the age of the id and what the tenant itself has
// pruned, so that an id of another tenant is answered as one that never was.
func (s *Server) orPruned(ctx context.Context, kind string, id uuid.UUID, err error) error {
	var judged *attest.Error
	if !errors.Is(err, store.ErrNotFound) && !(errors.As(err, &judged) && judged.Code == attest.CodeNotFound) {
		return err
	}
	pruned, failed := s.store.WasPruned(ctx, principalOf(ctx).tenant, kind, id)
	if failed != nil {
		return failed
	}
	if !pruned {
		return err
	}
	return refuse(codeNotFound, "nothing with this id exists; what is as old was taken out, as GET /v1/retention says")
}
