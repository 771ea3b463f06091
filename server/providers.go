package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/store"
)

// defaultTokenLifetime is the longest life of an identity token where the provider does not say.
const defaultTokenLifetime = time.Hour

// defaultAlgorithms are what a provider's tokens may be signed with where it does not say.
var defaultAlgorithms = []string{"RS256", "ES256"}

func providerDTO(p store.IdentityProvider) openapi.IdentityProvider {
	out := openapi.IdentityProvider{
		ID: p.ID, Name: p.Name, Issuer: p.Issuer, Audiences: p.Audiences, Enabled: p.Enabled, MaxTokenLifetimeSeconds: int(p.MaxTokenLifetime / time.Second),
		Algorithms: each(p.Algorithms, func(a string) openapi.TokenAlgorithm { return openapi.TokenAlgorithm(a) }),
		CreatedAt:  utc(p.CreatedAt), CreatedBy: p.CreatedBy, UpdatedAt: utc(p.UpdatedAt),
	}
	if p.Keys != nil {
		out.KeysFetchedAt, out.KeysExpireAt = utcOrNull(&p.Keys.FetchedAt), utcOrNull(&p.Keys.ExpiresAt)
	}
	return out
}

// providerOf reads a provider out of a request.
func (s *Server) providerOf(in *openapi.IdentityProviderInput, tenant uuid.UUID) (store.IdentityProvider, error) {
	if err := s.cfg.Issuers.CheckIssuer(in.Issuer); err != nil {
		return store.IdentityProvider{}, refuseField(codeInvalidField, "/issuer", err.Error())
	}
	p := store.IdentityProvider{Name: in.Name, Issuer: in.Issuer, Algorithms: defaultAlgorithms, MaxTokenLifetime: defaultTokenLifetime, Enabled: in.Enabled == nil || *in.Enabled}
	for i, audience := range in.Audiences {
		if slices.Contains(p.Audiences, audience) {
			return p, refuseField(codeInvalidField, fmt.Sprintf("/audiences/%d", i), "it is given twice")
		}
		if auth.TenantOf(audience) != tenant {
			return p, refuseField(codeInvalidField, fmt.Sprintf("/audiences/%d", i), "it belongs to another tenant; an audience of this one ends in /"+tenant.String())
		}
		p.Audiences = append(p.Audiences, audience)
	}
	slices.Sort(p.Audiences)
	if in.Algorithms != nil {
		p.Algorithms = nil
		for _, a := range *in.Algorithms {
			p.Algorithms = append(p.Algorithms, string(a))
		}
		slices.Sort(p.Algorithms)
		p.Algorithms = slices.Compact(p.Algorithms)
	}
	if in.MaxTokenLifetimeSeconds != nil {
		p.MaxTokenLifetime = time.Duration(*in.MaxTokenLifetimeSeconds) * time.Second
	}
	return p, nil
}

// ListIdentityProviders lists the providers.
func (s *Server) ListIdentityProviders(ctx context.Context, req openapi.ListIdentityProvidersRequestObject) (openapi.ListIdentityProvidersResponseObject, error) {
	q := req.Params
	items, next, err := s.store.ListIdentityProviders(ctx, principalOf(ctx).tenant,
		store.ProviderFilter{NamePrefix: value(q.Q), Issuer: value(q.Issuer), Enabled: q.Enabled}, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListIdentityProviders200JSONResponse{Items: each(items, providerDTO), NextCursor: nextCursor(next)}, nil
}

// GetIdentityProvider answers one.
func (s *Server) GetIdentityProvider(ctx context.Context, req openapi.GetIdentityProviderRequestObject) (openapi.GetIdentityProviderResponseObject, error) {
	p, err := s.store.GetIdentityProvider(ctx, principalOf(ctx).tenant, req.ProviderID)
	if err != nil {
		return nil, err
	}
	return openapi.GetIdentityProvider200JSONResponse(providerDTO(p)), nil
}

// CreateIdentityProvider accepts the tokens of an issuer.
func (s *Server) CreateIdentityProvider(ctx context.Context, req openapi.CreateIdentityProviderRequestObject) (openapi.CreateIdentityProviderResponseObject, error) {
	tenant := principalOf(ctx).tenant
	p, err := s.providerOf(req.Body, tenant)
	if err != nil {
		return nil, err
	}
	if p, err = s.store.CreateIdentityProvider(ctx, tenant, p, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.CreateIdentityProvider201JSONResponse(providerDTO(p)), nil
}

// PutIdentityProvider changes a provider, but not its issuer.
func (s *Server) PutIdentityProvider(ctx context.Context, req openapi.PutIdentityProviderRequestObject) (openapi.PutIdentityProviderResponseObject, error) {
	tenant := principalOf(ctx).tenant
	was, err := s.store.GetIdentityProvider(ctx, tenant, req.ProviderID)
	if err != nil {
		return nil, err
	}
	p, err := s.providerOf(req.Body, tenant)
	if err != nil {
		return nil, err
	}
	if p.Issuer != was.Issuer {
		return nil, refuseField(codeInvalidField, "/issuer", "it stays "+quoted(was.Issuer)+", since rules rest on it; make another identity provider")
	}
	p.ID = was.ID
	if p, err = s.store.UpdateIdentityProvider(ctx, tenant, p, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.PutIdentityProvider200JSONResponse(providerDTO(p)), nil
}

// DeleteIdentityProvider ends the trust in an issuer.
func (s *Server) DeleteIdentityProvider(ctx context.Context, req openapi.DeleteIdentityProviderRequestObject) (openapi.DeleteIdentityProviderResponseObject, error) {
	if err := s.store.DeleteIdentityProvider(ctx, principalOf(ctx).tenant, req.ProviderID, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.DeleteIdentityProvider204Response{}, nil
}
