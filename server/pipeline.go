package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// pipeline is a principal that proved itself by an identity token.
type pipeline struct {
	identity auth.Identity
	admitted []auth.Rule // those that are about it, set by admitPipeline
	allowed  *auth.Rule  // the one that allows what it is doing, set by mayWrite
}

// identityPrincipal verifies an identity token. What it proves is who calls, and nothing of what they may do.
func (s *Server) identityPrincipal(ctx context.Context, bearer string) (principal, error) {
	id, err := s.identity.Verify(ctx, bearer)
	var refused *auth.Error
	switch {
	case errors.As(err, &refused) && refused.Code == auth.CodeIssuerUnavailable:
		return principal{}, refuse(refused.Code, refused.Detail).with("Retry-After", strconv.Itoa(int(refused.RetryAfter.Seconds()+0.999)))
	case errors.As(err, &refused):
		return principal{}, refuse(refused.Code, refused.Detail).with("WWW-Authenticate", `Bearer realm="assay", error="invalid_token"`)
	case err != nil:
		return principal{}, fmt.Errorf("verify identity token: %w", err)
	}
	grants, err := s.personGrants(ctx, &id)
	if err != nil {
		return principal{}, err
	}
	if len(grants) > 0 {
		return principal{kind: kindPerson, tenant: id.Tenant, id: id.Name(), grants: grants}, nil
	}
	return principal{kind: rolePipeline, tenant: id.Tenant, id: id.Name(), grants: pipelineGrants, pipeline: &pipeline{identity: id}}, nil
}

// pipelineGrants are those of every pipeline, as far as its rules go.
var pipelineGrants = []grant{{role: rolePipeline}}

// admitPipeline finds the rules that are about a pipeline. Without one it may do nothing, not even read.
func (s *Server) admitPipeline(ctx context.Context, p principal) error {
	rules, err := s.pipelineRules(ctx, p.tenant, p.pipeline.identity.ProviderID)
	if err != nil {
		return err
	}
	id := &p.pipeline.identity
	if p.pipeline.admitted = auth.Admitted(rules, id); len(p.pipeline.admitted) == 0 {
		d := auth.Decide(rules, id, auth.Attempt{})
		return refuse(codeRuleDenied, "no pipeline rule admits this identity: "+d.Why())
	}
	return nil
}

// pipelineRules reads a provider's rules. Each call reads them: a rule that was changed is in force at once.
func (s *Server) pipelineRules(ctx context.Context, tenant, provider uuid.UUID) ([]auth.Rule, error) {
	stored, err := s.store.PipelineRulesOf(ctx, tenant, provider)
	if err != nil {
		return nil, err
	}
	rules := make([]auth.Rule, len(stored))
	for i, r := range stored {
		if rules[i], err = ruleOf(r); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

func ruleOf(r store.PipelineRule) (auth.Rule, error) {
	var out auth.Rule
	if err := json.Unmarshal(r.Body, &out); err != nil {
		return out, fmt.Errorf("stored pipeline rule %s: %w", r.ID, err)
	}
	out.ID, out.Name, out.ProviderID = r.ID, r.Name, r.ProviderID
	return out, nil
}

// mayWrite decides whether the caller may do it: a pipeline as far as a rule says, everybody else, whom the guard has let in,
// where the selector chooses nothing outside of their scope. Every operation that a pipeline may call calls it before it
// changes anything.
func (s *Server) mayWrite(ctx context.Context, a auth.Attempt) error {
	p := principalOf(ctx)
	if p.pipeline == nil {
		return s.mayChoose(ctx, a.Selector)
	}
	d := auth.Decide(p.pipeline.admitted, &p.pipeline.identity, a)
	if d.By == nil {
		return refuse(codeRuleDenied, "no pipeline rule allows this: "+d.Why())
	}
	p.pipeline.allowed = d.By
	return nil
}

// mayWriteTo is mayWrite for a baseline that exists.
func (s *Server) mayWriteTo(ctx context.Context, baseline uuid.UUID, action auth.Action, state string) error {
	p := principalOf(ctx)
	if p.pipeline == nil {
		return nil
	}
	name, selector, err := s.store.BaselineScope(ctx, p.tenant, baseline)
	if err != nil {
		return err
	}
	return s.mayWrite(ctx, auth.Attempt{Action: action, Baseline: name, Selector: selector, State: state})
}

// maySee tells whether the caller sees a baseline: a pipeline those that one of its rules is about.
func maySee(ctx context.Context, name string, selector verifier.Selector) bool {
	p := principalOf(ctx)
	if p.pipeline == nil {
		return true
	}
	for i := range p.pipeline.admitted {
		if p.pipeline.admitted[i].Covers(name, selector) {
			return true
		}
	}
	return false
}

// shownClaims are the claims that say which run of which pipeline of which source made something, by the names of
// GitHub, GitLab, CircleCI and Buildkite.
var shownClaims = []string{
	"repository", "repository_id", "repository_owner", "repository_owner_id", "ref", "ref_type", "ref_protected", "sha", "workflow", "workflow_ref", "workflow_sha",
	"job_workflow_ref", "run_id", "run_number", "run_attempt", "event_name", "actor", "environment", "runner_environment",
	"project_path", "project_id", "namespace_path", "ref_path", "pipeline_id", "pipeline_source", "job_id", "ci_config_ref_uri", "ci_config_sha", "user_login",
	"oidc.circleci.com/project-id", "oidc.circleci.com/vcs-origin", "oidc.circleci.com/vcs-ref", "organization_slug", "pipeline_slug", "build_number", "build_commit", "build_branch",
}

// maxShownClaim is the longest value that is kept of a claim, in bytes.
const maxShownClaim = 1024

// verifiedIdentity is what is kept with a version of the pipeline that made it, once a rule has allowed it.
func (p *pipeline) verifiedIdentity() json.RawMessage {
	id := &p.identity
	v := struct {
		Provider string            `json:"provider"`
		Issuer   string            `json:"issuer"`
		Subject  string            `json:"subject"`
		Rule     string            `json:"rule"`
		Claims   map[string]string `json:"claims"`
	}{id.ProviderName, id.Issuer, id.Subject, "", map[string]string{}}
	v.Rule = p.allowed.Name
	names := slices.Clone(shownClaims)
	for _, c := range p.allowed.Conditions {
		names = append(names, c.Claim)
	}
	for _, name := range names {
		if values := id.Claims.Values(name); len(values) == 1 && len(values[0]) <= maxShownClaim {
			v.Claims[name] = values[0]
		}
	}
	raw, err := json.Marshal(v)
	if err != nil { // cannot happen: the type holds texts
		return json.RawMessage("{}")
	}
	return raw
}
