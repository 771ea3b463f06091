package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/verifier"
)

// GetPolicy reads the current version of a named policy. ErrNotFound.
func (s *Store) GetPolicy(ctx context.Context, tenant uuid.UUID, name string) (PolicyVersion, error) {
	ctx = withTenant(ctx, tenant)
	p, err := scanPolicy(s.pool.QueryRow(ctx, `SELECT `+policyColumns+currentPolicies+`WHERE p.tenant_id = $1 AND p.name = $2`, tenant, name))
	if err != nil {
		return PolicyVersion{}, notFound(err, "policy", name)
	}
	return p, nil
}

var policyList = listing[PolicyVersion]{
	name: "policies", columns: policyColumns, scan: scanPolicy, initial: "name",
	sorts: map[string][]sortKey{
		"name":       byText("p.name"), // unique in the tenant
		"created_at": byTime("v.created_at", ids("p.policy_id")...),
	},
}

// ListPolicies lists the current versions of policies by name. prefix, where it is not empty, is how the name begins.
func (s *Store) ListPolicies(ctx context.Context, tenant uuid.UUID, prefix string, page Page) (items []PolicyVersion, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(currentPolicies+`WHERE p.tenant_id = $1`, tenant)
	q.prefix("p.name", prefix)
	return policyList.page(ctx, s.pool, q, page)
}

var policyVersionList = listing[PolicyVersion]{
	name: "policy-versions", columns: policyColumns, scan: scanPolicy, initial: "-version",
	sorts: map[string][]sortKey{"version": byNumber("v.version")},
}

// ListPolicyVersions lists the versions of a named policy, newest first. ErrNotFound.
func (s *Store) ListPolicyVersions(ctx context.Context, tenant uuid.UUID, name string, page Page) (items []PolicyVersion, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(` FROM policies p JOIN policy_versions v ON v.tenant_id = p.tenant_id AND v.policy_id = p.policy_id
		WHERE p.tenant_id = $1`, tenant)
	q.and("p.name = ?", name)
	if items, next, err = policyVersionList.page(ctx, s.pool, q, page); err == nil && len(items) == 0 && page.Cursor == "" {
		return nil, "", notFound(pgx.ErrNoRows, "policy", name)
	}
	return items, next, err
}

// PutPolicy makes the next version of a named policy, or the policy with version 1.
func (s *Store) PutPolicy(ctx context.Context, tenant uuid.UUID, name string, p verifier.Policy, now time.Time, actor Actor) (PolicyVersion, error) {
	ctx = withTenant(ctx, tenant)
	out := PolicyVersion{Name: name, Policy: p, CreatedAt: now, CreatedBy: actor.String()}
	body, err := json.Marshal(p)
	if err != nil {
		return PolicyVersion{}, fmt.Errorf("policy %s: %w", name, err)
	}
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		if err := bumpConfig(ctx, tx, tenant); err != nil { // locks the tenant: writers of policies come one after the other
			return err
		}
		was, err := scanPolicy(tx.QueryRow(ctx, `SELECT `+policyColumns+currentPolicies+`WHERE p.tenant_id = $1 AND p.name = $2`, tenant, name))
		var before any
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			out.ID, out.Version = newID(now), 1
			_, err = tx.Exec(ctx, `INSERT INTO policies (tenant_id, policy_id, name, current_version, created_at) VALUES ($1, $2, $3, 1, $4)`, tenant, out.ID, name, now)
		case err == nil:
			before = was.Policy
			out.ID, out.Version = was.ID, was.Version+1
			_, err = tx.Exec(ctx, `UPDATE policies SET current_version = $3 WHERE tenant_id = $1 AND policy_id = $2`, tenant, out.ID, out.Version)
		}
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO policy_versions (tenant_id, policy_id, version, body, created_by, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			tenant, out.ID, out.Version, body, out.CreatedBy, now); err != nil {
			return err
		}
		if err := policyChanged(ctx, tx, tenant, &was.Policy, &out, now, actor); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "policy.put", fmt.Sprintf("policy:%s/%d", name, out.Version), before, p)
	})
	if err != nil {
		return PolicyVersion{}, fmt.Errorf("put policy %s: %w", name, err)
	}
	return out, nil
}

// judging is what of a policy decides about evidence, in one form.
func judging(p verifier.Policy) ([]byte, error) {
	p.BaselinePCRs, p.LearnFirstBoot, p.TwoPersonApproval, p.RecommendSecureBootEverywhere = nil, false, false, false // of baselines to come, and of configuration
	p.AttestationIntervalSeconds, p.ChallengeLifetimeSeconds, p.StaleAfterSeconds, p.AttestationMissingDelaySeconds = 0, 0, 0, 0
	return json.Marshal(p)
}

// policyChanged asks that stored evidence is judged by the new version of a policy, where it judges otherwise or other
// machines than before: what it requires is required of what was shown before too. was is zero for a new policy.
func policyChanged(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, was *verifier.Policy, is *PolicyVersion, now time.Time, actor Actor) error {
	before, err := judging(*was)
	if err != nil {
		return err
	}
	after, err := judging(is.Policy)
	if err != nil || bytes.Equal(before, after) {
		return err
	}
	scope := MachineScope{Selector: is.Policy.Selector}
	if is.Version > 1 && !reflect.DeepEqual(was.Selector, is.Policy.Selector) {
		scope = MachineScope{} // those that it judged before, and those that it judges now
	}
	cause := ReappraisalCause{Kind: CausePolicy, ID: fmt.Sprintf("%s/%d", is.Name, is.Version), Detail: "what policy " + is.Name + " asks of evidence was changed"}
	_, err = EnqueueReappraisal(ctx, tx, tenant, cause, scope, now, actor)
	return err
}

// PolicyFor is the policy that a machine is judged by: the most specific named policy whose selector fits
// it, else the one named default.
func (s *Store) PolicyFor(ctx context.Context, tenant uuid.UUID, m Machine) (verifier.Policy, verifier.VersionRef, error) {
	ctx = withTenant(ctx, tenant)
	var policy verifier.Policy
	var ref verifier.VersionRef
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		var generation int64
		if err := tx.QueryRow(ctx, `SELECT config_generation FROM tenants WHERE tenant_id = $1`, pgUUID(tenant)).Scan(&generation); err != nil {
			return notFound(err, "tenant", tenant)
		}
		cfg, err := s.configAt(ctx, tx, tenant, generation)
		if err != nil {
			return err
		}
		policy, ref = cfg.policyFor(factsOf(&m))
		return nil
	})
	return policy, ref, err
}
