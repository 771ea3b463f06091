package server

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/rules"
)

// policyVersion is the contract's PolicyVersion: the policy's own fields beside its identity.
type policyVersion struct {
	ID        uuid.UUID `json:"id"`
	Name      string    `json:"name"`
	Version   int       `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
	verifier.Policy
}

func policyDTO(v store.PolicyVersion) policyVersion {
	out := policyVersion{ID: v.ID, Name: v.Name, Version: v.Version, CreatedAt: utc(v.CreatedAt), CreatedBy: v.CreatedBy, Policy: v.Policy}
	out.BaselinePCRs = orEmpty(out.BaselinePCRs)
	return out
}

type policyList struct {
	Items      []policyVersion `json:"items"`
	NextCursor *string         `json:"next_cursor"`
}

// ListPolicies lists the newest version of each policy.
func (s *Server) ListPolicies(ctx context.Context, req openapi.ListPoliciesRequestObject) (openapi.ListPoliciesResponseObject, error) {
	items, next, err := s.store.ListPolicies(ctx, principalOf(ctx).tenant, value(req.Params.Q), pageOf(req.Params.Limit, req.Params.Cursor, req.Params.Sort))
	if err != nil {
		return nil, err
	}
	return jsonAnswer{http.StatusOK, policyList{Items: each(items, policyDTO), NextCursor: nextCursor(next)}}, nil
}

// GetPolicy answers the newest version of a policy.
func (s *Server) GetPolicy(ctx context.Context, req openapi.GetPolicyRequestObject) (openapi.GetPolicyResponseObject, error) {
	v, err := s.store.GetPolicy(ctx, principalOf(ctx).tenant, req.Name)
	if err != nil {
		return nil, err
	}
	return jsonAnswer{http.StatusOK, policyDTO(v)}, nil
}

// policyOf reads a policy whose rules compile.
func policyOf(body []byte) (verifier.Policy, error) {
	policy, err := verifier.ParsePolicy(body)
	if err != nil {
		return verifier.Policy{}, err
	}
	_, err = rules.Compile(policy.Rules)
	return policy, err
}

// PutPolicy stores a further version of a policy.
func (s *Server) PutPolicy(ctx context.Context, req openapi.PutPolicyRequestObject) (openapi.PutPolicyResponseObject, error) {
	policy, err := policyOf(*req.Body)
	if err != nil {
		return nil, err
	}
	v, err := s.store.PutPolicy(ctx, principalOf(ctx).tenant, req.Name, policy, s.now(), actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return jsonAnswer{http.StatusOK, policyDTO(v)}, nil
}

// ListPolicyVersions lists all versions of a policy.
func (s *Server) ListPolicyVersions(ctx context.Context, req openapi.ListPolicyVersionsRequestObject) (openapi.ListPolicyVersionsResponseObject, error) {
	items, next, err := s.store.ListPolicyVersions(ctx, principalOf(ctx).tenant, req.Name, pageOf(req.Params.Limit, req.Params.Cursor, req.Params.Sort))
	if err != nil {
		return nil, err
	}
	return jsonAnswer{http.StatusOK, policyList{Items: each(items, policyDTO), NextCursor: nextCursor(next)}}, nil
}

// policyTemplate is the contract's PolicyTemplate.
type policyTemplate struct {
	Name        string          `json:"name"`
	Title       string          `json:"title"`
	Description string          `json:"description"`
	Policy      verifier.Policy `json:"policy"`
}

// ListPolicyTemplates lists the policies that come with the service.
func (s *Server) ListPolicyTemplates(context.Context, openapi.ListPolicyTemplatesRequestObject) (openapi.ListPolicyTemplatesResponseObject, error) {
	all, err := rules.Templates()
	if err != nil {
		return nil, err
	}
	list := struct {
		Items []policyTemplate `json:"items"`
	}{each(all, func(t rules.Template) policyTemplate { return policyTemplate(t) })}
	return jsonAnswer{http.StatusOK, list}, nil
}
