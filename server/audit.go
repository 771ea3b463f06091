package server

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
)

func auditEventDTO(tenant uuid.UUID, e store.AuditEvent) openapi.AuditEvent {
	out := openapi.AuditEvent{ID: e.ID, TenantID: tenant, At: utc(e.At), Seq: e.Seq, ActorKind: e.Actor.Kind, ActorID: e.Actor.ID, Action: e.Action, Target: e.Target,
		RemoteAddr: e.Actor.RemoteAddr, RequestID: e.Actor.RequestID, Before: e.Before, After: e.After}
	if e.Hash != nil {
		previous, hash := hex.EncodeToString(e.PrevHash), hex.EncodeToString(e.Hash)
		out.PrevHash, out.Hash = &previous, &hash
	}
	return out
}

// ListAuditEvents lists the record of changes.
func (s *Server) ListAuditEvents(ctx context.Context, req openapi.ListAuditEventsRequestObject) (openapi.ListAuditEventsResponseObject, error) {
	q := req.Params
	f := store.AuditFilter{ActorKind: joined(q.ActorKind), ActorID: text(q.ActorID), Action: joined(q.Action), Target: text(q.Target), TargetKind: text(q.TargetKind),
		RequestID: text(q.RequestID), Since: q.Since, Until: q.Until}
	tenant := principalOf(ctx).tenant
	items, next, err := s.store.ListAuditEvents(ctx, tenant, f, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	dto := func(e store.AuditEvent) openapi.AuditEvent { return auditEventDTO(tenant, e) }
	return openapi.ListAuditEvents200JSONResponse{Items: each(items, dto), NextCursor: nextCursor(next)}, nil
}

// GetAuditEvent answers one event.
func (s *Server) GetAuditEvent(ctx context.Context, req openapi.GetAuditEventRequestObject) (openapi.GetAuditEventResponseObject, error) {
	e, err := s.store.GetAuditEvent(ctx, principalOf(ctx).tenant, req.EventID)
	if err != nil {
		return nil, err
	}
	return openapi.GetAuditEvent200JSONResponse(auditEventDTO(principalOf(ctx).tenant, e)), nil
}

func checkpointDTO(c store.AuditCheckpoint) openapi.AuditCheckpoint {
	return openapi.AuditCheckpoint{ID: c.ID, Number: c.Number, At: utc(c.At), AuditSeq: c.AuditSeq, AuditHash: hex.EncodeToString(c.AuditHash), Machines: c.Machines,
		Verdicts: c.Verdicts, VerdictRoot: hex.EncodeToString(c.VerdictRoot), KeyID: c.KeyID, Statement: c.Statement}
}

// ListAuditCheckpoints lists checkpoints.
func (s *Server) ListAuditCheckpoints(ctx context.Context, req openapi.ListAuditCheckpointsRequestObject) (openapi.ListAuditCheckpointsResponseObject, error) {
	q := req.Params
	items, next, err := s.store.ListAuditCheckpoints(ctx, principalOf(ctx).tenant, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListAuditCheckpoints200JSONResponse{Items: each(items, checkpointDTO), NextCursor: nextCursor(next)}, nil
}

// CreateAuditCheckpoint makes one now.
func (s *Server) CreateAuditCheckpoint(ctx context.Context, _ openapi.CreateAuditCheckpointRequestObject) (openapi.CreateAuditCheckpointResponseObject, error) {
	c, err := s.attest.Checkpoint(ctx, principalOf(ctx).tenant, 0, actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return openapi.CreateAuditCheckpoint201JSONResponse(checkpointDTO(c)), nil
}

// GetAuditCheckpoint answers one with its key.
func (s *Server) GetAuditCheckpoint(ctx context.Context, req openapi.GetAuditCheckpointRequestObject) (openapi.GetAuditCheckpointResponseObject, error) {
	c, err := s.store.GetAuditCheckpoint(ctx, principalOf(ctx).tenant, req.CheckpointID)
	if err != nil {
		return nil, err
	}
	key, known, err := s.token.PublicKey(ctx, c.KeyID)
	if err != nil {
		return nil, err
	}
	one := checkpointDTO(c)
	out := openapi.GetAuditCheckpoint200JSONResponse{ID: one.ID, Number: one.Number, At: one.At, AuditSeq: one.AuditSeq, AuditHash: one.AuditHash, Machines: one.Machines,
		Verdicts: one.Verdicts, VerdictRoot: one.VerdictRoot, KeyID: one.KeyID, Statement: one.Statement}
	if known {
		jwk := jwkDTO(key)
		out.Jwk = &jwk
	}
	return out, nil
}

// getAuditBundle answers an archive of verdicts. What fails before the first byte is a problem document; afterwards the connection is cut,
// and what was sent is no archive.
func (s *Server) getAuditBundle(w http.ResponseWriter, r *http.Request) {
	select {
	case s.exports <- struct{}{}:
		defer func() { <-s.exports }()
	default:
		s.fail(w, r, refuse(codeExportRunning, fmt.Sprintf("%d exports are under way", maxExports)).with("Retry-After", exportRetry))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), exportTime)
	defer cancel()
	b, err := s.prepareBundle(ctx, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/zip")
	h.Set("Content-Disposition", `attachment; filename="assay-bundle.zip"`)
	h.Set("Cache-Control", "no-store")
	if err := b.Write(ctx, &patientWriter{w: w, c: http.NewResponseController(w)}); err != nil {
		s.log.Warn("a bundle ended early", "request_id", requestID(r.Context()), "error", err.Error())
		panic(http.ErrAbortHandler) // net/http's way to end an answer without its end
	}
}

// prepareBundle reads the parameters, which the guard has checked, and writes down who takes evidence away.
func (s *Server) prepareBundle(ctx context.Context, r *http.Request) (*attest.Bundle, error) {
	var req attest.BundleRequest
	q := r.URL.Query()
	target := "tenant:" + principalOf(ctx).tenant.String()
	if v := q.Get("machine_id"); v != "" {
		id, err := uuid.Parse(v)
		if err != nil {
			return nil, refuseParameter(codeInvalidField, "machine_id", "it is no id")
		}
		req.Machine, target = &id, "machine:"+id.String()
	}
	for _, p := range []struct {
		name string
		into **time.Time
	}{{"since", &req.Since}, {"until", &req.Until}} {
		if v := q.Get(p.name); v != "" {
			at, err := time.Parse(time.RFC3339Nano, v)
			if err != nil {
				return nil, refuseParameter(codeInvalidField, p.name, "it is no time of RFC 3339")
			}
			*p.into = &at
		}
	}
	b, err := s.attest.PrepareBundle(ctx, principalOf(ctx).tenant, req)
	var large *attest.BundleTooLargeError
	if errors.As(err, &large) {
		return nil, refuseParameter(codeInvalidField, "machine_id", large.Error())
	}
	if err != nil {
		return nil, err
	}
	detail, err := json.Marshal(map[string]any{"verdicts": b.Verdicts, "since": req.Since, "until": req.Until})
	if err != nil {
		return nil, err
	}
	return b, s.store.RecordAudit(ctx, principalOf(ctx).tenant, "verdicts.export", target, detail, s.now(), actorOf(ctx))
}

// patientWriter lets a client take its time, as long as it takes something.
type patientWriter struct {
	w http.ResponseWriter
	c *http.ResponseController
}

// Write implements io.Writer.
func (p *patientWriter) Write(b []byte) (int, error) {
	_ = p.c.SetWriteDeadline(time.Now().Add(exportStall)) // where it is not supported there is none to move
	return p.w.Write(b)                                   //nolint:gosec // an archive with its own content type and nosniff
}
