package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/tee"
)

// chainHeaders are the headers in which Intel's PCS sends the chain of a signer, by kind; the first is that of its
// present version.
var chainHeaders = map[tee.Kind][]string{
	tee.KindTCBInfo:    {"TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"},
	tee.KindQEIdentity: {"SGX-Enclave-Identity-Issuer-Chain"},
	tee.KindPCKCRL:     {"SGX-PCK-CRL-Issuer-Chain"},
}

func collateralDTO(c store.StoredCollateral) openapi.Collateral {
	return openapi.Collateral{
		Kind: openapi.CollateralKind(c.Kind), Name: c.Name, NotBefore: utc(c.NotBefore), NotAfter: utc(c.NotAfter),
		Source: openapi.CollateralSource(c.Source), Sha256: hex.EncodeToString(c.SHA256[:]), CreatedBy: c.CreatedBy, CreatedAt: utc(c.CreatedAt),
	}
}

// ListCollateral lists what is held.
func (s *Server) ListCollateral(ctx context.Context, req openapi.ListCollateralRequestObject) (openapi.ListCollateralResponseObject, error) {
	q := req.Params
	f := store.CollateralFilter{Kind: tee.Kind(joined(q.Kind)), Name: text(q.Name), ExpiringBefore: q.ExpiringBefore}
	items, next, err := s.store.ListCollateral(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListCollateral200JSONResponse{Items: each(items, collateralDTO), NextCursor: nextCursor(next)}, nil
}

// putCollateral takes collateral whose signature leads to one of the tenant's anchors.
func (s *Server) putCollateral(w http.ResponseWriter, r *http.Request) {
	status, c, err := s.storeCollateral(r, tee.Kind(pathParameter(r, "kind")))
	if err == nil {
		err = (jsonAnswer{status, collateralDTO(c)}).write(w)
	}
	if err != nil {
		s.fail(w, r, err)
	}
}

func (s *Server) storeCollateral(r *http.Request, kind tee.Kind) (status int, held store.StoredCollateral, err error) {
	chain, err := issuerChainOf(r, kind)
	if err != nil {
		return 0, held, err
	}
	c, err := tee.ParseCollateral(kind, bodyOf(r), chain)
	if err != nil {
		return 0, held, refuse(codeCollateralInvalid, err.Error())
	}
	ctx := r.Context()
	tenant, now := principalOf(ctx).tenant, s.now()
	trust, err := s.store.TenantTrust(ctx, tenant)
	if err != nil {
		return 0, held, err
	}
	if err := (&tee.Trust{SNP: trust.SNP, TDX: trust.TDX}).CheckCollateral(c, now); err != nil {
		return 0, held, refuse(codeCollateralInvalid, err.Error())
	}
	stored, err := s.store.PutCollateral(ctx, tenant, c, store.CollateralUploaded, now, actorOf(ctx))
	if err != nil {
		return 0, held, err
	}
	status = http.StatusOK
	if stored {
		status = http.StatusCreated
	}
	held, err = s.store.GetCollateral(ctx, tenant, kind, c.Name)
	return status, held, err
}

// issuerChainOf reads the chain out of the header that belongs to the kind.
func issuerChainOf(r *http.Request, kind tee.Kind) ([]byte, error) {
	var chain []byte
	for of, names := range chainHeaders {
		for _, name := range names {
			given := r.Header.Get(name)
			if given == "" {
				continue
			}
			if of != kind {
				return nil, refuseParameter(codeInvalidField, name, fmt.Sprintf("it belongs to collateral of the kind %s", of))
			}
			// Intel escapes everything, "+" too: where one stands for itself it is of the base64.
			pem, err := url.PathUnescape(given)
			if err != nil {
				return nil, refuseParameter(codeInvalidField, name, "it is not URL-encoded")
			}
			if chain != nil && string(chain) != pem {
				return nil, refuseParameter(codeInvalidField, name, "another chain is given in another header")
			}
			chain = []byte(pem)
		}
	}
	return chain, nil
}

// getCollateral answers the body as it is.
func (s *Server) getCollateral(w http.ResponseWriter, r *http.Request) {
	kind := tee.Kind(pathParameter(r, "kind"))
	c, err := s.store.GetCollateral(r.Context(), principalOf(r.Context()).tenant, kind, pathParameter(r, "name"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	h := w.Header()
	switch kind {
	case tee.KindVCEK, tee.KindVLEK:
		h.Set("Content-Type", "application/pkix-cert")
	case tee.KindSNPCRL, tee.KindPCKCRL, tee.KindRootCRL:
		h.Set("Content-Type", "application/pkix-crl")
	default:
		h.Set("Content-Type", "application/json")
	}
	if names := chainHeaders[kind]; len(names) > 0 && len(c.IssuerChain) > 0 {
		h.Set(names[0], url.PathEscape(string(c.IssuerChain)))
	}
	h.Set("Content-Length", strconv.Itoa(len(c.Body)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(c.Body) //nolint:gosec // its own content type and nosniff; an error means that the client went away
}

// deleteCollateral removes collateral.
func (s *Server) deleteCollateral(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	err := s.store.DeleteCollateral(ctx, principalOf(ctx).tenant, tee.Kind(pathParameter(r, "kind")), pathParameter(r, "name"), s.now(), actorOf(ctx))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
