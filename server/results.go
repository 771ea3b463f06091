package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/ear"
)

// CreateResult signs a result about a machine's standing verdict.
func (s *Server) CreateResult(ctx context.Context, req openapi.CreateResultRequestObject) (openapi.CreateResultResponseObject, error) {
	p := principalOf(ctx)
	r := attest.ResultRequest{}
	if b := req.Body; b != nil {
		r = attest.ResultRequest{Audience: value(b.Audience), Nonce: value(b.Nonce), Algorithm: text(b.Algorithm), Profile: text(b.Profile),
			AllowWarning: value(b.AllowWarning), AnyStatus: value(b.AnyStatus)}
	}
	var opts []attest.Option
	if p.kind == roleMachine {
		opts = append(opts, attest.ByKey(p.keyID))
	}
	issued, err := s.attest.IssueResult(ctx, p.tenant, req.MachineID, r, opts...)
	if err != nil {
		return nil, err
	}
	return openapi.CreateResult201JSONResponse{Token: issued.Token, VerdictID: issued.VerdictID, Status: openapi.VerdictStatus(issued.Status),
		Algorithm: openapi.ResultAlgorithm(issued.Algorithm), ExpiresAt: utc(issued.ExpiresAt)}, nil
}

// IntrospectResult tells whether a result holds.
func (s *Server) IntrospectResult(ctx context.Context, req openapi.IntrospectResultRequestObject) (openapi.IntrospectResultResponseObject, error) {
	p, scope := principalOf(ctx), callerScope(ctx)
	i, err := s.attest.Introspect(ctx, p.tenant, req.JSONBody.Token)
	if err == nil && scope != nil && i.MachineID != nil {
		err = s.store.InScope(ctx, p.tenant, scope, string(scopeMachine), *i.MachineID)
		if errors.Is(err, store.ErrNotFound) { // a result about a machine outside says nothing, like one of another tenant
			i, err = attest.Introspection{Reason: attest.InactiveUnknown}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"active": i.Active}
	if i.Active {
		if err := json.Unmarshal(i.Claims.Raw, &answer); err != nil {
			return nil, fmt.Errorf("introspect: %w", err)
		}
		machine, err := i.Claims.Machine()
		if err != nil {
			return nil, fmt.Errorf("introspect: %w", err)
		}
		// After the claims, which are ours, so that none of them can take the place of these.
		answer["active"], answer["token_type"], answer["status"] = true, relying.Type, machine.Status
	} else {
		answer["inactive_reason"] = i.Reason
		if i.Known {
			answer["current_status"] = i.CurrentStatus.String()
		}
	}
	return jsonAnswer{http.StatusOK, answer}, nil
}

// VisitIntrospectResultResponse implements openapi.IntrospectResultResponseObject.
func (a jsonAnswer) VisitIntrospectResultResponse(w http.ResponseWriter) error { return a.write(w) }

// ListSigningKeys lists the keys that sign results.
func (s *Server) ListSigningKeys(ctx context.Context, _ openapi.ListSigningKeysRequestObject) (openapi.ListSigningKeysResponseObject, error) {
	list, err := s.signingKeys(ctx)
	if err != nil {
		return nil, err
	}
	return openapi.ListSigningKeys200JSONResponse(list), nil
}

// RotateSigningKeys lets the next key sign.
func (s *Server) RotateSigningKeys(ctx context.Context, req openapi.RotateSigningKeysRequestObject) (openapi.RotateSigningKeysResponseObject, error) {
	if err := s.mayChangeKeys(ctx); err != nil {
		return nil, err
	}
	name := ""
	if req.Body != nil {
		name = text(req.Body.Algorithm)
	}
	if err := s.token.Rotate(ctx, name, actorOf(ctx)); err != nil {
		return nil, err
	}
	list, err := s.signingKeys(ctx)
	if err != nil {
		return nil, err
	}
	return openapi.RotateSigningKeys200JSONResponse(list), nil
}

// RevokeSigningKey withdraws a key at once.
func (s *Server) RevokeSigningKey(ctx context.Context, req openapi.RevokeSigningKeyRequestObject) (openapi.RevokeSigningKeyResponseObject, error) {
	if err := s.mayChangeKeys(ctx); err != nil {
		return nil, err
	}
	err := s.token.Revoke(ctx, req.KeyID, req.Body.Reason, actorOf(ctx))
	switch {
	case errors.Is(err, token.ErrUnknownKey):
		return nil, refuse(codeNotFound, "there is no signing key with this id")
	case errors.Is(err, token.ErrKeyEnded):
		return nil, refuse(codeKeyEnded, "the key is published no more, or was revoked before")
	case err != nil:
		return nil, err
	}
	list, err := s.signingKeys(ctx)
	if err != nil {
		return nil, err
	}
	return openapi.RevokeSigningKey200JSONResponse(list), nil
}

// mayChangeKeys refuses administrators of other tenants than the one whose keys they are: the keys sign for all.
func (s *Server) mayChangeKeys(ctx context.Context) error {
	if principalOf(ctx).tenant != s.token.Tenant() {
		return refuse(codeForbidden, "the keys sign for every tenant, and are changed by administrators of the service's own")
	}
	return nil
}

func (s *Server) signingKeys(ctx context.Context) (openapi.SigningKeyList, error) {
	keys, err := s.token.Keys(ctx)
	if err != nil {
		return openapi.SigningKeyList{}, err
	}
	return openapi.SigningKeyList{Items: each(keys, signingKeyDTO)}, nil
}

func signingKeyDTO(k token.KeyInfo) openapi.SigningKey {
	ends := k.EndsAt
	if ends == nil {
		ends = k.Until
	}
	return openapi.SigningKey{
		KeyID: k.ID, Algorithm: openapi.ResultAlgorithm(k.Algorithm), State: openapi.SigningKeyState(k.State), PublishedAt: utc(k.PublishedAt),
		ActivatedAt: utcOrNull(k.ActivatedAt), EndsAt: utcOrNull(ends), RevokedAt: utcOrNull(k.RevokedAt), RevokedReason: k.RevokedReason, PublicKey: jwkDTO(k.Public),
	}
}

func jwkDTO(k relying.JWK) openapi.JWK {
	out := openapi.JWK{Kty: k.Kty, Crv: k.Crv, X: k.X, Kid: k.Kid, Alg: k.Alg, Use: k.Use}
	if k.Y != "" {
		out.Y = &k.Y
	}
	return out
}

// getJWKS answers the key set. What relying parties may keep of it, and for how long, is decided by server/token.
func (s *Server) getJWKS(w http.ResponseWriter, r *http.Request) {
	set, err := s.token.JWKS(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeKept(w, r, set.Document, set.ETag, set.MaxAge)
}

// writeKept answers a document that may be kept for age, and spares who has it already the transfer (RFC 9110, section 13.1.2).
func writeKept(w http.ResponseWriter, r *http.Request, document []byte, etag string, age time.Duration) {
	h := w.Header()
	h.Set("ETag", etag)
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d, must-revalidate", int(age.Seconds())))
	for _, line := range r.Header.Values("If-None-Match") {
		for part := range strings.SplitSeq(line, ",") {
			if part = strings.TrimSpace(part); part == "*" || strings.TrimPrefix(part, "W/") == etag {
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
	}
	writeJSON(w, http.StatusOK, document)
}

// getOpenIDConfiguration answers what OpenID Connect Discovery 1.0 (section 3) asks of an issuer whose tokens are only to be
// verified: there is nothing to sign in to.
func (s *Server) getOpenIDConfiguration(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Issuer == "" {
		s.fail(w, r, refuse(codeNotFound, "this service has no public URL, and so its results name no issuer"))
		return
	}
	document, err := json.Marshal(openapi.OpenIDConfiguration{
		Issuer: s.cfg.Issuer, JwksURI: s.cfg.Issuer + "/.well-known/jwks.json",
		IDTokenSigningAlgValuesSupported: token.Algorithms(), ResponseTypesSupported: []string{"id_token"}, SubjectTypesSupported: []string{"public"},
		ClaimsSupported: ear.ClaimNames(),
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeKept(w, r, document, token.ETag(document), token.MaxAge)
}
