package server

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/revocations"
)

func revocationsDTO(r store.StoredRevocations) openapi.Revocations {
	out := openapi.Revocations{Kind: openapi.RevocationsKind(r.Kind), Name: r.Name, Origin: openapi.RevocationsOriginShipped, Entries: r.Entries, Sha256: hex.EncodeToString(r.SHA256[:])}
	if r.Version != "" {
		out.Version = &r.Version
	}
	if r.Origin != "" {
		out.Source = &r.Origin
		return out
	}
	at := utc(*r.CreatedAt)
	out.Origin, out.CreatedAt, out.CreatedBy = openapi.RevocationsOriginImported, &at, &r.CreatedBy
	return out
}

// ListRevocations lists the data.
func (s *Server) ListRevocations(ctx context.Context, _ openapi.ListRevocationsRequestObject) (openapi.ListRevocationsResponseObject, error) {
	items, err := s.store.ListRevocations(ctx, principalOf(ctx).tenant)
	if err != nil {
		return nil, err
	}
	return openapi.ListRevocations200JSONResponse{Items: each(items, revocationsDTO)}, nil
}

// GetRevokedEntry looks a digest up.
func (s *Server) GetRevokedEntry(ctx context.Context, req openapi.GetRevokedEntryRequestObject) (openapi.GetRevokedEntryResponseObject, error) {
	set, err := s.store.Revocations(ctx, principalOf(ctx).tenant)
	if err != nil {
		return nil, err
	}
	digest, err := hex.DecodeString(req.Sha256)
	if err != nil || len(digest) != 32 { // the guard has checked it
		return nil, fmt.Errorf("digest %q: %w", req.Sha256, err)
	}
	e, revoked := set.Lookup([32]byte(digest))
	if !revoked {
		return nil, refuse(codeNotFound, "this digest is not known to be revoked")
	}
	kind := openapi.RevokedEntryKindImage
	if e.Certificate() {
		kind = openapi.RevokedEntryKindCertificate
	}
	return openapi.GetRevokedEntry200JSONResponse{Sha256: req.Sha256, Kind: kind, Signed: e.Signed, Optional: e.Optional, Cves: orEmpty(e.CVEs),
		Architecture: orNil(e.Architecture), File: orNil(e.File), Company: orNil(e.Company), Description: orNil(e.Description),
		SignedBy: orNil(e.SignedBy), Added: orNil(e.Added)}, nil
}

// orNil leaves an empty text out.
func orNil(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// putRevocations adds data whose signature holds, or that its caller vouches for.
func (s *Server) putRevocations(w http.ResponseWriter, r *http.Request) {
	status, held, err := s.storeRevocations(r, revocations.Addition{Kind: revocations.Kind(pathParameter(r, "kind")), Body: bodyOf(r)})
	if err == nil {
		err = (jsonAnswer{status, revocationsDTO(held)}).write(w)
	}
	if err != nil {
		s.fail(w, r, err)
	}
}

func (s *Server) storeRevocations(r *http.Request, addition revocations.Addition) (status int, held store.StoredRevocations, err error) {
	ctx := r.Context()
	tenant := principalOf(ctx).tenant
	if _, err := revocations.With([]revocations.Addition{addition}); err != nil {
		return 0, held, refuse(codeRevocationsInvalid, err.Error())
	}
	if addition.Kind == revocations.KindDBX {
		if err := s.checkUpdate(ctx, addition.Body); err != nil {
			return 0, held, err
		}
	}
	held, stored, err := s.store.PutRevocations(ctx, tenant, addition, s.now(), actorOf(ctx))
	switch {
	case errors.Is(err, store.ErrNotNewer):
		return 0, held, refuse(codeRevocationsNotNewer, err.Error())
	case err != nil:
		return 0, held, err
	case stored:
		return http.StatusCreated, held, nil
	}
	return http.StatusOK, held, nil
}

// checkUpdate verifies the signature of an update of dbx.
func (s *Server) checkUpdate(ctx context.Context, body []byte) error {
	update, err := revocations.ParseUpdate(body)
	if err != nil {
		return refuse(codeRevocationsInvalid, err.Error())
	}
	keys, err := s.store.KeyExchangeKeys(ctx, principalOf(ctx).tenant)
	if err != nil {
		return err
	}
	if err := update.Verify(keys); err != nil {
		return refuse(codeRevocationsInvalid, err.Error())
	}
	return nil
}
