package server

import (
	"context"
	"time"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
)

// What a join token admits where the request does not say.
const (
	defaultJoinUses     = 1
	defaultJoinLifetime = time.Hour
)

func joinTokenDTO(t store.JoinToken) openapi.JoinToken {
	return openapi.JoinToken{
		ID: t.ID, Name: t.Name, UsesLeft: t.UsesLeft, ExpiresAt: utc(t.ExpiresAt), ScaleSet: t.ScaleSet,
		Labels: labelsDTO(t.Labels), CreatedAt: utc(t.CreatedAt),
	}
}

// ListJoinTokens lists join tokens, without the tokens themselves.
func (s *Server) ListJoinTokens(ctx context.Context, req openapi.ListJoinTokensRequestObject) (openapi.ListJoinTokensResponseObject, error) {
	q := req.Params
	f := store.TokenFilter{NamePrefix: value(q.Q), ScaleSet: value(q.ScaleSet)}
	items, next, err := s.store.ListJoinTokens(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListJoinTokens200JSONResponse{Items: each(items, joinTokenDTO), NextCursor: nextCursor(next)}, nil
}

// CreateJoinToken makes a join token and shows it, once.
func (s *Server) CreateJoinToken(ctx context.Context, req openapi.CreateJoinTokenRequestObject) (openapi.CreateJoinTokenResponseObject, error) {
	now := s.now()
	secret, hash, err := newSecret(prefixJoin, s.random)
	if err != nil {
		return nil, err
	}
	id, err := s.newID()
	if err != nil {
		return nil, err
	}
	t := store.JoinToken{
		ID: id, Name: req.Body.Name, UsesLeft: defaultJoinUses, ExpiresAt: now.Add(defaultJoinLifetime),
		ScaleSet: value(req.Body.ScaleSet), Labels: labelsOf(req.Body.Labels), CreatedAt: now,
	}
	if req.Body.Uses != nil {
		t.UsesLeft = *req.Body.Uses
	}
	if req.Body.ExpiresInSeconds != nil {
		t.ExpiresAt = now.Add(time.Duration(*req.Body.ExpiresInSeconds) * time.Second)
	}
	if err := s.store.CreateJoinToken(ctx, principalOf(ctx).tenant, t, hash, actorOf(ctx)); err != nil {
		return nil, err
	}
	d := joinTokenDTO(t)
	return openapi.CreateJoinToken201JSONResponse{
		ID: d.ID, Token: secret, Name: d.Name, UsesLeft: d.UsesLeft, ExpiresAt: d.ExpiresAt, ScaleSet: d.ScaleSet, Labels: d.Labels, CreatedAt: d.CreatedAt,
	}, nil
}

// ListAPITokens lists API tokens, without the tokens themselves.
func (s *Server) ListAPITokens(ctx context.Context, req openapi.ListAPITokensRequestObject) (openapi.ListAPITokensResponseObject, error) {
	q := req.Params
	f := store.TokenFilter{Scope: callerScope(ctx), NamePrefix: value(q.Q), Role: joined(q.Role)}
	items, next, err := s.store.ListAPITokens(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListAPITokens200JSONResponse{
		Items: each(items, func(t store.APIToken) openapi.APIToken {
			return openapi.APIToken{
				ID: t.ID, Name: t.Name, Role: openapi.Role(t.Role), Selector: scopeDTO(t.Scope), Owner: textOrNull(t.Owner), ExpiresAt: utcOrNull(t.ExpiresAt),
				CreatedAt: utc(t.CreatedAt), CreatedBy: textOrNull(t.CreatedBy), LastUsedAt: utcOrNull(t.LastUsed), CertificateSha256: hexOrAbsent(t.CertificateSHA256),
			}
		}),
		NextCursor: nextCursor(next),
	}, nil
}

// CreateAPIToken makes the token of a person or program and shows it, once. It never gives more than its maker has.
func (s *Server) CreateAPIToken(ctx context.Context, req openapi.CreateAPITokenRequestObject) (openapi.CreateAPITokenResponseObject, error) {
	now, p := s.now(), principalOf(ctx)
	t := store.APIToken{Name: req.Body.Name, Role: store.Role(req.Body.Role), CreatedAt: now}
	var err error
	if t.Scope, err = scopeFrom(req.Body.Selector); err != nil {
		return nil, err
	}
	if t.Owner, err = ownerOf(p, value(req.Body.Owner)); err != nil {
		return nil, err
	}
	if err := s.mayGive(ctx, role(t.Role), &t.Scope); err != nil {
		return nil, err
	}
	if t.ExpiresAt, err = s.tokenEnd(now, req.Body.ExpiresInSeconds); err != nil {
		return nil, err
	}
	if t.CertificateSHA256, err = s.boundTo(req.Body.CertificateSha256); err != nil {
		return nil, err
	}
	secret, hash, err := newSecret(prefixes[role(t.Role)], s.random)
	if err != nil {
		return nil, err
	}
	if t.ID, err = s.newID(); err != nil {
		return nil, err
	}
	if err := s.store.CreateAPIToken(ctx, p.tenant, t, hash, actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.CreateAPIToken201JSONResponse{
		ID: t.ID, Token: secret, Name: t.Name, Role: openapi.Role(t.Role), Selector: scopeDTO(t.Scope), Owner: textOrNull(t.Owner), ExpiresAt: utcOrNull(t.ExpiresAt), CreatedAt: utc(t.CreatedAt),
		CertificateSha256: hexOrAbsent(t.CertificateSHA256),
	}, nil
}

// RevokeJoinToken ends a join token.
func (s *Server) RevokeJoinToken(ctx context.Context, req openapi.RevokeJoinTokenRequestObject) (openapi.RevokeJoinTokenResponseObject, error) {
	if err := s.store.RevokeJoinToken(ctx, principalOf(ctx).tenant, req.TokenID, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.RevokeJoinToken204Response{}, nil
}

// RevokeAPIToken ends an API token other than the caller's own.
func (s *Server) RevokeAPIToken(ctx context.Context, req openapi.RevokeAPITokenRequestObject) (openapi.RevokeAPITokenResponseObject, error) {
	p := principalOf(ctx)
	if req.TokenID.String() == p.id {
		return nil, refuse(codeConflict, "this is the token of the call itself; revoke it with another one")
	}
	if scope := callerScope(ctx); scope != nil {
		if err := s.store.InScope(ctx, p.tenant, scope, "api_token", req.TokenID); err != nil {
			return nil, err
		}
	}
	if err := s.store.RevokeAPIToken(ctx, p.tenant, req.TokenID, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	s.tokens.forget(req.TokenID.String())
	return openapi.RevokeAPIToken204Response{}, nil
}
