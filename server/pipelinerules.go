package server

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/store"
)

func matchOf(m openapi.Match) auth.Match {
	return auth.Match{In: value(m.In), Pattern: value(m.Pattern)}
}

func matchDTO(m auth.Match) openapi.Match {
	out := openapi.Match{Pattern: textOrNull(m.Pattern)}
	if len(m.In) > 0 {
		out.In = &m.In
	}
	return out
}

func conditionsOf(in []openapi.ClaimCondition) []auth.Condition {
	var out []auth.Condition
	for _, c := range in {
		out = append(out, auth.Condition{Claim: c.Claim, Match: auth.Match{In: value(c.In), Pattern: value(c.Pattern)}})
	}
	return out
}

func claimDTO(c auth.Condition) openapi.ClaimCondition {
	m := matchDTO(c.Match)
	return openapi.ClaimCondition{Claim: c.Claim, In: m.In, Pattern: m.Pattern}
}

// pipelineRuleOf reads a rule out of a request and makes sure that it can be used for its provider.
func (s *Server) pipelineRuleOf(ctx context.Context, tenant uuid.UUID, in *openapi.PipelineRuleInput) (store.PipelineRule, error) {
	r := auth.Rule{Baselines: matchOf(in.Baselines), Selector: selectorOf(in.Selector), WholeFleet: value(in.WholeFleet)}
	if in.Subject != nil {
		m := matchOf(*in.Subject)
		r.Subject = &m
	}
	r.Conditions = conditionsOf(value(in.Conditions))
	for _, a := range in.Actions {
		r.Actions = append(r.Actions, auth.Action(a))
	}
	for _, state := range value(in.States) {
		r.States = append(r.States, string(state))
	}
	p, err := s.store.GetIdentityProvider(ctx, tenant, in.ProviderID)
	if err != nil {
		return store.PipelineRule{}, err
	}
	if err := r.Check(p.Issuer); err != nil {
		return store.PipelineRule{}, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return store.PipelineRule{}, fmt.Errorf("write pipeline rule: %w", err)
	}
	return store.PipelineRule{Name: in.Name, ProviderID: in.ProviderID, Body: body}, nil
}

func pipelineRuleDTO(stored store.PipelineRule) (openapi.PipelineRule, error) {
	r, err := ruleOf(stored)
	if err != nil {
		return openapi.PipelineRule{}, err
	}
	out := openapi.PipelineRule{
		ID: r.ID, Name: r.Name, ProviderID: r.ProviderID, Baselines: matchDTO(r.Baselines), Selector: selectorDTO(r.Selector), WholeFleet: r.WholeFleet,
		Conditions: each(r.Conditions, claimDTO),
		Actions:    each(r.Actions, func(a auth.Action) openapi.PipelineAction { return openapi.PipelineAction(a) }),
		States:     each(r.States, func(state string) openapi.PipelineRuleStates { return openapi.PipelineRuleStates(state) }),
		CreatedAt:  utc(stored.CreatedAt), CreatedBy: stored.CreatedBy, UpdatedAt: utc(stored.UpdatedAt),
	}
	if r.Subject != nil {
		m := matchDTO(*r.Subject)
		out.Subject = &m
	}
	return out, nil
}

// ListPipelineRules lists the rules.
func (s *Server) ListPipelineRules(ctx context.Context, req openapi.ListPipelineRulesRequestObject) (openapi.ListPipelineRulesResponseObject, error) {
	q := req.Params
	items, next, err := s.store.ListPipelineRules(ctx, principalOf(ctx).tenant, store.PipelineRuleFilter{NamePrefix: value(q.Q), ProviderID: q.ProviderID}, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	out := openapi.ListPipelineRules200JSONResponse{Items: make([]openapi.PipelineRule, len(items)), NextCursor: nextCursor(next)}
	for i, r := range items {
		if out.Items[i], err = pipelineRuleDTO(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// GetPipelineRule answers one rule.
func (s *Server) GetPipelineRule(ctx context.Context, req openapi.GetPipelineRuleRequestObject) (openapi.GetPipelineRuleResponseObject, error) {
	r, err := s.store.GetPipelineRule(ctx, principalOf(ctx).tenant, req.RuleID)
	if err != nil {
		return nil, err
	}
	dto, err := pipelineRuleDTO(r)
	return openapi.GetPipelineRule200JSONResponse(dto), err
}

// CreatePipelineRule lets pipelines write baselines.
func (s *Server) CreatePipelineRule(ctx context.Context, req openapi.CreatePipelineRuleRequestObject) (openapi.CreatePipelineRuleResponseObject, error) {
	tenant := principalOf(ctx).tenant
	r, err := s.pipelineRuleOf(ctx, tenant, req.Body)
	if err != nil {
		return nil, err
	}
	if r, err = s.store.CreatePipelineRule(ctx, tenant, r, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	dto, err := pipelineRuleDTO(r)
	return openapi.CreatePipelineRule201JSONResponse(dto), err
}

// PutPipelineRule replaces a rule.
func (s *Server) PutPipelineRule(ctx context.Context, req openapi.PutPipelineRuleRequestObject) (openapi.PutPipelineRuleResponseObject, error) {
	tenant := principalOf(ctx).tenant
	r, err := s.pipelineRuleOf(ctx, tenant, req.Body)
	if err != nil {
		return nil, err
	}
	r.ID = req.RuleID
	if r, err = s.store.UpdatePipelineRule(ctx, tenant, r, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	dto, err := pipelineRuleDTO(r)
	return openapi.PutPipelineRule200JSONResponse(dto), err
}

// DeletePipelineRule ends what a rule allows.
func (s *Server) DeletePipelineRule(ctx context.Context, req openapi.DeletePipelineRuleRequestObject) (openapi.DeletePipelineRuleResponseObject, error) {
	if err := s.store.DeletePipelineRule(ctx, principalOf(ctx).tenant, req.RuleID, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.DeletePipelineRule204Response{}, nil
}

// TestPipelineRules says what the rules make of claims that nobody has verified.
func (s *Server) TestPipelineRules(ctx context.Context, req openapi.TestPipelineRulesRequestObject) (openapi.TestPipelineRulesResponseObject, error) {
	tenant := principalOf(ctx).tenant
	p, err := s.store.GetIdentityProvider(ctx, tenant, req.Body.ProviderID)
	if err != nil {
		return nil, err
	}
	claims, err := auth.ParseClaims(req.Body.Claims)
	if err != nil {
		return nil, refuseField(codeInvalidField, "/claims", "it cannot be read as claims")
	}
	id := auth.Identity{Tenant: tenant, ProviderID: p.ID, ProviderName: p.Name, Issuer: p.Issuer, Claims: claims}
	if values := claims.Values("sub"); len(values) == 1 {
		id.Subject = values[0]
	}
	rules, err := s.pipelineRules(ctx, tenant, p.ID)
	if err != nil {
		return nil, err
	}
	var attempt auth.Attempt
	if a := req.Body.Attempt; a != nil {
		attempt = auth.Attempt{Action: auth.Action(a.Action), Baseline: a.Baseline, Selector: selectorOf(a.Selector), State: text(a.State)}
		if attempt.State == "" {
			attempt.State = auth.StateActive
		}
	}
	out := openapi.TestPipelineRules200JSONResponse{Rules: []openapi.PipelineRuleOutcome{}}
	d := auth.Decide(rules, &id, attempt)
	for _, o := range d.Outcomes {
		one := openapi.PipelineRuleOutcome{ID: o.Rule.ID, Name: o.Rule.Name, Admits: o.Admits, Reasons: orEmpty(o.Reasons)}
		out.Admitted = out.Admitted || o.Admits
		if req.Body.Attempt != nil {
			one.Allows = &o.Allows
		} else if o.Admits {
			one.Reasons = []string{}
		}
		out.Rules = append(out.Rules, one)
	}
	if req.Body.Attempt != nil {
		allowed := d.By != nil
		out.Allowed = &allowed
	}
	return out, nil
}
