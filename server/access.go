package server

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/store"
)

// ListRoles lists the roles that tokens and bindings can give.
func (s *Server) ListRoles(context.Context, openapi.ListRolesRequestObject) (openapi.ListRolesResponseObject, error) {
	return openapi.ListRoles200JSONResponse{Items: each(personal, func(r role) openapi.RoleInfo {
		return openapi.RoleInfo{Role: openapi.Role(r), Permissions: each(permissionsOf[r], func(p permission) string { return string(p) })}
	})}, nil
}

// scopeFrom reads the selector that limits a role. One that limits nothing is refused: who wants the whole tenant leaves it out.
func scopeFrom(in *openapi.Selector) (store.Scope, error) {
	if in == nil {
		return nil, nil
	}
	selector := selectorOf(in)
	if len(selector.ScaleSet)+len(selector.Labels)+len(selector.Platform)+len(selector.MachineIDs) == 0 {
		return nil, refuseField(codeInvalidField, "/selector", "it chooses every machine; leave it out for the whole tenant")
	}
	return store.Scope{selector}, nil
}

func scopeDTO(scope store.Scope) *openapi.ScopeSelector {
	if len(scope) == 0 {
		return nil
	}
	s := selectorDTO(scope[0])
	out := openapi.ScopeSelector{ScaleSet: s.ScaleSet, MachineIds: s.MachineIds}
	if s.Labels != nil {
		labels := map[string]string(*s.Labels)
		out.Labels = &labels
	}
	if s.Platform != nil {
		platforms := each(*s.Platform, func(p openapi.Platform) string { return string(p) })
		out.Platform = &platforms
	}
	return &out
}

// mayGive refuses to give a role away, or a scope, that the caller does not have whole: in one of the grants that let it
// give roles at all. A caller with a scope gives nothing for the whole tenant.
func (s *Server) mayGive(ctx context.Context, given role, scope *store.Scope) error {
	p, within := principalOf(ctx), callerScope(ctx)
	for _, g := range p.grants {
		if !g.role.covers(given) {
			continue
		}
		if g.scope == nil {
			return nil
		}
		if *scope == nil {
			continue
		}
		covered := true
		for _, selector := range *scope {
			in, err := s.store.Covers(ctx, p.tenant, g.scope, selector)
			if err != nil {
				return err
			}
			covered = covered && in
		}
		if covered {
			return nil
		}
	}
	if within != nil {
		return beyondScope("the role " + string(given) + " for these machines")
	}
	return refuse(codeForbidden, "the role "+string(given)+" may what "+p.roles()+" may not: nobody gives what they do not have")
}

// ownerOf settles whose a token is. A person's tokens are that person's, and so are those that are made by them: otherwise
// one human could be two where two are needed.
func ownerOf(p principal, asked string) (string, error) {
	self := p.owner
	if p.kind == kindPerson {
		self = p.name()
	}
	if self != "" && asked != "" && asked != self {
		return "", refuseField(codeForbidden, "/owner", "a token that you make is yours: "+self)
	}
	if self != "" {
		return self, nil
	}
	return asked, nil
}

// tokenEnd is when a new token ends; nil for never, which a service with a longest life does not allow.
func (s *Server) tokenEnd(now time.Time, asked *int) (*time.Time, error) {
	most := s.cfg.MaxTokenLifetime
	lifetime := most
	if asked != nil {
		lifetime = time.Duration(*asked) * time.Second
	}
	if most > 0 && lifetime > most {
		return nil, refuseField(codeInvalidField, "/expires_in_seconds", "tokens live for at most "+strconv.FormatInt(int64(most/time.Second), 10)+" seconds here")
	}
	if lifetime == 0 {
		return nil, nil
	}
	end := now.Add(lifetime)
	return &end, nil
}

// personGrants are what the role bindings give to an identity. They are read at each call: what is taken away is gone at once.
func (s *Server) personGrants(ctx context.Context, id *auth.Identity) ([]grant, error) {
	stored, err := s.store.RoleBindingsOf(ctx, id.Tenant, id.ProviderID)
	if err != nil {
		return nil, err
	}
	var grants []grant
	for i := range stored {
		b, err := bindingOf(&stored[i])
		if err != nil {
			return nil, err
		}
		if b.Admits(id) {
			grants = append(grants, grant{role: role(stored[i].Role), scope: stored[i].Scope})
		}
	}
	return grants, nil
}

func bindingOf(b *store.RoleBinding) (auth.Binding, error) {
	var out auth.Binding
	if err := json.Unmarshal(b.Body, &out); err != nil {
		return out, fmt.Errorf("stored role binding %s: %w", b.ID, err)
	}
	out.ID, out.Name, out.ProviderID = b.ID, b.Name, b.ProviderID
	return out, nil
}

// roleBindingOf reads a binding out of a request and makes sure that it can be used for its provider, and given away.
func (s *Server) roleBindingOf(ctx context.Context, tenant uuid.UUID, in *openapi.RoleBindingInput) (store.RoleBinding, error) {
	b := auth.Binding{Conditions: conditionsOf(value(in.Conditions))}
	if in.Subject != nil {
		m := matchOf(*in.Subject)
		b.Subject = &m
	}
	scope, err := scopeFrom(in.Selector)
	if err != nil {
		return store.RoleBinding{}, err
	}
	if err := s.mayGive(ctx, role(in.Role), &scope); err != nil {
		return store.RoleBinding{}, err
	}
	p, err := s.store.GetIdentityProvider(ctx, tenant, in.ProviderID)
	if err != nil {
		return store.RoleBinding{}, err
	}
	if err := b.Check(p.Issuer); err != nil {
		return store.RoleBinding{}, err
	}
	body, err := json.Marshal(b)
	if err != nil {
		return store.RoleBinding{}, fmt.Errorf("write role binding: %w", err)
	}
	return store.RoleBinding{Name: in.Name, ProviderID: in.ProviderID, Role: store.Role(in.Role), Scope: scope, Body: body}, nil
}

func roleBindingDTO(stored store.RoleBinding) (openapi.RoleBinding, error) {
	b, err := bindingOf(&stored)
	if err != nil {
		return openapi.RoleBinding{}, err
	}
	out := openapi.RoleBinding{ID: b.ID, Name: b.Name, ProviderID: b.ProviderID, Role: openapi.Role(stored.Role), Selector: scopeDTO(stored.Scope),
		Conditions: each(b.Conditions, claimDTO), CreatedAt: utc(stored.CreatedAt), CreatedBy: stored.CreatedBy, UpdatedAt: utc(stored.UpdatedAt)}
	if b.Subject != nil {
		m := matchDTO(*b.Subject)
		out.Subject = &m
	}
	return out, nil
}

// ListRoleBindings lists the bindings.
func (s *Server) ListRoleBindings(ctx context.Context, req openapi.ListRoleBindingsRequestObject) (openapi.ListRoleBindingsResponseObject, error) {
	q := req.Params
	f := store.RoleBindingFilter{NamePrefix: value(q.Q), ProviderID: q.ProviderID}
	items, next, err := s.store.ListRoleBindings(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	out := openapi.ListRoleBindings200JSONResponse{Items: make([]openapi.RoleBinding, len(items)), NextCursor: nextCursor(next)}
	for i := range items {
		if out.Items[i], err = roleBindingDTO(items[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// GetRoleBinding answers one binding.
func (s *Server) GetRoleBinding(ctx context.Context, req openapi.GetRoleBindingRequestObject) (openapi.GetRoleBindingResponseObject, error) {
	b, err := s.store.GetRoleBinding(ctx, principalOf(ctx).tenant, req.BindingID)
	if err != nil {
		return nil, err
	}
	dto, err := roleBindingDTO(b)
	return openapi.GetRoleBinding200JSONResponse(dto), err
}

// CreateRoleBinding gives people a role.
func (s *Server) CreateRoleBinding(ctx context.Context, req openapi.CreateRoleBindingRequestObject) (openapi.CreateRoleBindingResponseObject, error) {
	tenant := principalOf(ctx).tenant
	b, err := s.roleBindingOf(ctx, tenant, req.Body)
	if err != nil {
		return nil, err
	}
	if b, err = s.store.CreateRoleBinding(ctx, tenant, b, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	dto, err := roleBindingDTO(b)
	return openapi.CreateRoleBinding201JSONResponse(dto), err
}

// PutRoleBinding replaces a binding.
func (s *Server) PutRoleBinding(ctx context.Context, req openapi.PutRoleBindingRequestObject) (openapi.PutRoleBindingResponseObject, error) {
	tenant := principalOf(ctx).tenant
	b, err := s.roleBindingOf(ctx, tenant, req.Body)
	if err != nil {
		return nil, err
	}
	b.ID = req.BindingID
	if b, err = s.store.UpdateRoleBinding(ctx, tenant, b, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	dto, err := roleBindingDTO(b)
	return openapi.PutRoleBinding200JSONResponse(dto), err
}

// DeleteRoleBinding takes a role away.
func (s *Server) DeleteRoleBinding(ctx context.Context, req openapi.DeleteRoleBindingRequestObject) (openapi.DeleteRoleBindingResponseObject, error) {
	if err := s.store.DeleteRoleBinding(ctx, principalOf(ctx).tenant, req.BindingID, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.DeleteRoleBinding204Response{}, nil
}
