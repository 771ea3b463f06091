package server

import (
	"context"
	"strconv"
	"time"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// scopeOf checks what a schema cannot say: each condition compares in exactly one way.
func scopeOf(in openapi.SuppressionScope) (store.SuppressionScope, error) {
	out := store.SuppressionScope{AllOf: make([]store.SuppressionCondition, len(in.AllOf))}
	for i, c := range in.AllOf {
		if (c.In == nil) == (c.Contains == nil) {
			return out, refuseField(codeInvalidField, "/scope/all_of/"+strconv.Itoa(i), "exactly one of in and contains is needed")
		}
		out.AllOf[i] = store.SuppressionCondition{Field: c.Field, In: value(c.In), Contains: value(c.Contains)}
	}
	return out, nil
}

// knownAlertCode refuses a code that no alert has: a rule with a typing error would hide nothing, and nobody would see why.
func knownAlertCode(code string) error {
	if !finding.RaisesAlert(code) {
		return refuseField(codeInvalidField, "/alert_code", "no alert has this code; GET /v1/catalog?kind=alert lists them, and * is for all")
	}
	return nil
}

func conditionDTO(c store.SuppressionCondition) openapi.SuppressionCondition {
	out := openapi.SuppressionCondition{Field: c.Field, Contains: textOrNull(c.Contains)}
	if len(c.In) > 0 {
		out.In = &c.In
	}
	return out
}

func ruleDTO(r store.SuppressionRule) openapi.SuppressionRule {
	return openapi.SuppressionRule{
		ID: r.ID, AlertCode: r.AlertCode, Reason: r.Reason, Comment: r.Comment, ExpiresAt: utcOrNull(r.ExpiresAt),
		State: openapi.SuppressionRuleState(r.State), Scope: openapi.SuppressionScope{AllOf: each(r.Scope.AllOf, conditionDTO)},
		CreatedBy: r.CreatedBy, CreatedAt: utc(r.CreatedAt), UpdatedAt: utc(r.UpdatedAt),
	}
}

// ListSuppressionRules lists the rules.
func (s *Server) ListSuppressionRules(ctx context.Context, req openapi.ListSuppressionRulesRequestObject) (openapi.ListSuppressionRulesResponseObject, error) {
	q := req.Params
	f := store.SuppressionFilter{AlertCode: joined(q.AlertCode), State: joined(q.State)}
	items, next, err := s.store.ListSuppressionRules(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor, q.Sort), s.now())
	if err != nil {
		return nil, err
	}
	return openapi.ListSuppressionRules200JSONResponse{Items: each(items, ruleDTO), NextCursor: nextCursor(next)}, nil
}

// GetSuppressionRule answers one rule.
func (s *Server) GetSuppressionRule(ctx context.Context, req openapi.GetSuppressionRuleRequestObject) (openapi.GetSuppressionRuleResponseObject, error) {
	r, err := s.store.GetSuppressionRule(ctx, principalOf(ctx).tenant, req.RuleID, s.now())
	if err != nil {
		return nil, err
	}
	return openapi.GetSuppressionRule200JSONResponse(ruleDTO(r)), nil
}

// CreateSuppressionRule hides the alerts of a scope.
func (s *Server) CreateSuppressionRule(ctx context.Context, req openapi.CreateSuppressionRuleRequestObject) (openapi.CreateSuppressionRuleResponseObject, error) {
	now := s.now()
	scope, err := scopeOf(req.Body.Scope)
	if err != nil {
		return nil, err
	}
	if err := knownAlertCode(req.Body.AlertCode); err != nil {
		return nil, err
	}
	if err := inFuture("/expires_at", req.Body.ExpiresAt, now); err != nil {
		return nil, err
	}
	state := text(req.Body.State)
	if state == "" {
		state = string(openapi.SuppressionRuleInputStateEnabled)
	}
	r := store.SuppressionRule{
		AlertCode: req.Body.AlertCode, Reason: req.Body.Reason, Comment: value(req.Body.Comment),
		ExpiresAt: req.Body.ExpiresAt, State: state, Scope: scope, CreatedBy: actorOf(ctx).String(),
	}
	if r, err = s.store.CreateSuppressionRule(ctx, principalOf(ctx).tenant, r, now, actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.CreateSuppressionRule201JSONResponse(ruleDTO(r)), nil
}

// UpdateSuppressionRule changes the fields that are given. Two changes at once of different fields may
// overwrite each other: the rule as answered is the rule as stored.
func (s *Server) UpdateSuppressionRule(ctx context.Context, req openapi.UpdateSuppressionRuleRequestObject) (openapi.UpdateSuppressionRuleResponseObject, error) {
	now, tenant := s.now(), principalOf(ctx).tenant
	r, err := s.store.GetSuppressionRule(ctx, tenant, req.RuleID, now)
	if err != nil {
		return nil, err
	}
	if err := patchRule(&r, req.Body, now); err != nil {
		return nil, err
	}
	if r, err = s.store.UpdateSuppressionRule(ctx, tenant, r, now, actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.UpdateSuppressionRule200JSONResponse(ruleDTO(r)), nil
}

func patchRule(r *store.SuppressionRule, patch *openapi.SuppressionRulePatch, now time.Time) error {
	if patch.AlertCode != nil {
		if err := knownAlertCode(*patch.AlertCode); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		to   *string
		from *string
	}{{&r.AlertCode, patch.AlertCode}, {&r.Reason, patch.Reason}, {&r.Comment, patch.Comment}, {&r.State, (*string)(patch.State)}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	switch raw := string(patch.ExpiresAt); raw {
	case "": // absent
	case "null":
		r.ExpiresAt = nil
	default:
		var t time.Time
		if err := t.UnmarshalJSON(patch.ExpiresAt); err != nil {
			return refuseField(codeInvalidField, "/expires_at", "it is no RFC 3339 time")
		}
		if err := inFuture("/expires_at", &t, now); err != nil {
			return err
		}
		r.ExpiresAt = &t
	}
	// Expired is not a state that can be set: it follows from the time.
	if r.State == string(openapi.SuppressionRuleStateExpired) {
		r.State = string(openapi.SuppressionRuleStateEnabled)
	}
	if patch.Scope != nil {
		scope, err := scopeOf(*patch.Scope)
		if err != nil {
			return err
		}
		r.Scope = scope
	}
	return nil
}

// DeleteSuppressionRule shows again the alerts that only this rule hid.
func (s *Server) DeleteSuppressionRule(ctx context.Context, req openapi.DeleteSuppressionRuleRequestObject) (openapi.DeleteSuppressionRuleResponseObject, error) {
	if err := s.store.DeleteSuppressionRule(ctx, principalOf(ctx).tenant, req.RuleID, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.DeleteSuppressionRule204Response{}, nil
}

// defaultSimulatedDays is how far back a simulation looks where the request does not say.
const defaultSimulatedDays = 30

// SimulateSuppressionRule says what a rule would have hidden.
func (s *Server) SimulateSuppressionRule(ctx context.Context, req openapi.SimulateSuppressionRuleRequestObject) (openapi.SimulateSuppressionRuleResponseObject, error) {
	scope, err := scopeOf(req.Body.Scope)
	if err != nil {
		return nil, err
	}
	if err := knownAlertCode(req.Body.AlertCode); err != nil {
		return nil, err
	}
	days := value(req.Body.Days)
	if days == 0 {
		days = defaultSimulatedDays
	}
	now := s.now()
	x, err := s.store.SimulateSuppression(ctx, principalOf(ctx).tenant, store.SuppressionRule{AlertCode: req.Body.AlertCode, Scope: scope}, now.AddDate(0, 0, -days), now)
	if err != nil {
		return nil, err
	}
	return openapi.SimulateSuppressionRule200JSONResponse{Since: utc(x.Since), Alerts: x.Alerts, Complete: x.Complete, WouldHide: x.WouldHide, Machines: x.Machines, Open: x.Open,
		ResolvedByItself: x.ByItself, ResolvedByHand: x.ByHand, DismissedByHand: x.Dismissed, AlreadySuppressed: x.AlreadyHid, Items: each(x.Items, alertDTO)}, nil
}
