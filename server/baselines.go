package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// originRegistered is the origin of a version that a pipeline or person registered.
const originRegistered = "registered"

// referenceOf reads reference values and makes sure that an appraisal can use them. Its errors point
// into the request body.
func referenceOf(raw json.RawMessage) (verifier.ReferenceValues, error) {
	var rv verifier.ReferenceValues
	err := verifier.DecodeStrict(raw, &rv)
	if err == nil {
		_, err = verifier.CompileReference(rv)
	}
	if err == nil {
		return rv, nil
	}
	return rv, within("/reference_values", err)
}

// within moves what a decoder of the verifier says of a value to the value's place in the body.
func within(place string, err error) error {
	var decode *verifier.DecodeError
	var field *verifier.FieldError
	switch {
	case errors.As(err, &decode):
		return located(decode.Code, place+decode.Pointer, decode.Detail)
	case errors.As(err, &field):
		return located(codeInvalidField, place+field.Pointer, field.Detail)
	}
	return fmt.Errorf("read %s: %w", place, err)
}

func provenanceOf(p *openapi.Provenance) (json.RawMessage, error) {
	if p == nil {
		return json.RawMessage("{}"), nil
	}
	return json.Marshal(p)
}

// versionDTO shows a version. Without values it is an entry of a list, which leaves them out.
func versionDTO(v store.BaselineVersion, withValues bool) (openapi.BaselineVersion, error) {
	out := openapi.BaselineVersion{
		ID: v.BaselineID, Name: v.Name, Version: v.Version, State: openapi.BaselineState(v.State), ActiveUntil: utcOrNull(v.ActiveUntil),
		GraceUntilMovedPercent: v.GraceMovedPercent, Released: trueOrNull(v.Released()), BasedOn: v.BasedOn, ChangedBy: textOrNull(v.ChangedBy), ChangedAt: utcOrNull(v.ChangedAt),
		Selector: selectorDTO(v.Selector), Origin: openapi.BaselineVersionOrigin(v.Origin), CreatedAt: utc(v.CreatedAt), CreatedBy: v.CreatedBy,
	}
	if len(v.Provenance) > 0 {
		stored := struct {
			*openapi.StoredProvenance
			Imported *openapi.ImportedDocument `json:"imported"`
		}{StoredProvenance: &out.Provenance}
		if err := json.Unmarshal(v.Provenance, &stored); err != nil {
			return out, fmt.Errorf("provenance of baseline %s version %d: %w", v.BaselineID, v.Version, err)
		}
		out.Imported = stored.Imported
	}
	if withValues {
		approval := approvalDTO(&v)
		out.Approval = &approval
		raw, err := json.Marshal(v.Reference)
		if err != nil {
			return out, fmt.Errorf("reference values of baseline %s version %d: %w", v.BaselineID, v.Version, err)
		}
		values := openapi.ReferenceValues(raw)
		out.ReferenceValues = &values
	}
	return out, nil
}

func baselineDTO(b store.Baseline) (openapi.Baseline, error) {
	out := openapi.Baseline{ID: b.ID, Name: b.Name, Selector: selectorDTO(b.Selector), CreatedAt: utc(b.CreatedAt), UpdatedAt: utc(b.UpdatedAt), Versions: []openapi.BaselineVersion{}}
	for _, v := range b.Versions {
		v.BaselineID, v.Name, v.Selector = b.ID, b.Name, b.Selector
		dto, err := versionDTO(v, false)
		if err != nil {
			return out, err
		}
		out.Versions = append(out.Versions, dto)
	}
	return out, nil
}

// CreateBaseline registers a baseline with its first version.
func (s *Server) CreateBaseline(ctx context.Context, req openapi.CreateBaselineRequestObject) (openapi.CreateBaselineResponseObject, error) {
	values, err := referenceOf(req.Body.ReferenceValues)
	if err != nil {
		return nil, err
	}
	provenance, err := provenanceOf(req.Body.Provenance)
	if err != nil {
		return nil, err
	}
	p, selector := principalOf(ctx), selectorOf(req.Body.Selector)
	state, asked, err := firstState(ctx, text(req.Body.State), string(openapi.BaselineStateActive))
	if err != nil {
		return nil, err
	}
	if err := s.mayWrite(ctx, auth.Attempt{Action: auth.ActionCreate, Baseline: req.Body.Name, Selector: selector, State: asked}); err != nil {
		return nil, err
	}
	v := store.BaselineVersion{State: state, Reference: values, Provenance: provenance, Origin: originRegistered}
	if v, err = s.store.CreateBaseline(ctx, p.tenant, req.Body.Name, selector, v, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	dto, err := versionDTO(v, true)
	return openapi.CreateBaseline201JSONResponse(dto), err
}

// CreateBaselineVersion adds a version, which never changes again.
func (s *Server) CreateBaselineVersion(ctx context.Context, req openapi.CreateBaselineVersionRequestObject) (openapi.CreateBaselineVersionResponseObject, error) {
	now := s.now()
	values, err := referenceOf(req.Body.ReferenceValues)
	if err != nil {
		return nil, err
	}
	if err := inFuture("/active_until", req.Body.ActiveUntil, now); err != nil {
		return nil, err
	}
	provenance, err := provenanceOf(req.Body.Provenance)
	if err != nil {
		return nil, err
	}
	_, state, err := firstState(ctx, text(req.Body.State), string(openapi.BaselineStateDraft))
	if err != nil {
		return nil, err
	}
	if err := s.mayWriteTo(ctx, req.BaselineID, auth.ActionAddVersion, state); err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	v := store.BaselineVersion{
		BaselineID: req.BaselineID, State: state, ActiveUntil: req.Body.ActiveUntil, Reference: values,
		Provenance: provenance, Origin: originRegistered,
	}
	if v, err = s.store.AddBaselineVersion(ctx, p.tenant, req.BaselineID, v, now, actorOf(ctx)); err != nil {
		return nil, err
	}
	dto, err := versionDTO(v, true)
	return openapi.CreateBaselineVersion201JSONResponse(dto), err
}

// CaptureBaseline makes the machine's last genuine measurements a baseline: for this machine alone,
// named after it, where the request does not say otherwise.
func (s *Server) CaptureBaseline(ctx context.Context, req openapi.CaptureBaselineRequestObject) (openapi.CaptureBaselineResponseObject, error) {
	p := principalOf(ctx)
	var o attest.CaptureOptions
	if req.Body != nil {
		o.Name, o.IncludeIMA = value(req.Body.Name), value(req.Body.IncludeIma)
		if req.Body.Selector != nil {
			chosen := selectorOf(req.Body.Selector)
			o.Selector = &chosen
			if err := s.mayChoose(ctx, chosen); err != nil {
				return nil, err
			}
		}
	}
	if !p.may(permApprove) {
		o.State = string(openapi.BaselineStateDraft)
	}
	v, err := s.attest.CaptureGolden(ctx, p.tenant, req.MachineID, o, actorOf(ctx))
	if err != nil {
		return nil, err
	}
	dto, err := versionDTO(v, true)
	return openapi.CaptureBaseline201JSONResponse(dto), err
}

// ListBaselines lists baselines with the states of their versions.
func (s *Server) ListBaselines(ctx context.Context, req openapi.ListBaselinesRequestObject) (openapi.ListBaselinesResponseObject, error) {
	q := req.Params
	items, next, err := s.store.ListBaselines(ctx, principalOf(ctx).tenant, store.BaselineFilter{Scope: callerScope(ctx), NamePrefix: value(q.Q), State: joined(q.State)}, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	out := openapi.ListBaselines200JSONResponse{Items: []openapi.Baseline{}, NextCursor: nextCursor(next)}
	for _, b := range items {
		if !maySee(ctx, b.Name, b.Selector) {
			continue
		}
		dto, err := baselineDTO(b)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, dto)
	}
	return out, nil
}

// visibleBaseline reads a baseline that the caller may see. What it may not see does not exist for it.
func (s *Server) visibleBaseline(ctx context.Context, id uuid.UUID) (openapi.Baseline, error) {
	b, err := s.store.GetBaseline(ctx, principalOf(ctx).tenant, id)
	if err == nil && !maySee(ctx, b.Name, b.Selector) {
		err = store.ErrNotFound
	}
	if err != nil {
		return openapi.Baseline{}, err
	}
	return baselineDTO(b)
}

// GetBaseline answers one baseline.
func (s *Server) GetBaseline(ctx context.Context, req openapi.GetBaselineRequestObject) (openapi.GetBaselineResponseObject, error) {
	dto, err := s.visibleBaseline(ctx, req.BaselineID)
	return openapi.GetBaseline200JSONResponse(dto), err
}

// ListBaselineVersions lists the versions of a baseline, newest first.
func (s *Server) ListBaselineVersions(ctx context.Context, req openapi.ListBaselineVersionsRequestObject) (openapi.ListBaselineVersionsResponseObject, error) {
	q := req.Params
	items, next, err := s.store.ListBaselineVersions(ctx, principalOf(ctx).tenant, req.BaselineID, joined(q.State), pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	if _, err := s.visibleBaseline(ctx, req.BaselineID); err != nil { // what the caller may not see does not exist for it
		return nil, err
	}
	out := openapi.ListBaselineVersions200JSONResponse{Items: make([]openapi.BaselineVersion, len(items)), NextCursor: nextCursor(next)}
	for i, v := range items {
		if out.Items[i], err = versionDTO(v, false); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// GetBaselineVersion answers one version with its reference values.
func (s *Server) GetBaselineVersion(ctx context.Context, req openapi.GetBaselineVersionRequestObject) (openapi.GetBaselineVersionResponseObject, error) {
	v, err := s.store.GetBaselineVersion(ctx, principalOf(ctx).tenant, req.BaselineID, req.Version)
	if err == nil && !maySee(ctx, v.Name, v.Selector) {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	dto, err := versionDTO(v, true)
	return openapi.GetBaselineVersion200JSONResponse(dto), err
}
