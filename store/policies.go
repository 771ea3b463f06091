package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/verifier"
)

// GetPolicy reads the current version of a named policy. ErrNotFound.
func (s *Store) GetPolicy(ctx context.Context, tenant uuid.UUID, name string) (PolicyVersion, error) {
	p, err := scanPolicy(s.pool.QueryRow(ctx, `SELECT `+policyColumns+currentPolicies+`WHERE p.tenant_id = $1 AND p.name = $2`, tenant, name))
	if err != nil {
		return PolicyVersion{}, notFound(err, "policy", name)
	}
	return p, nil
}

// ListPolicies lists the current versions of policies by name.
func (s *Store) ListPolicies(ctx context.Context, tenant uuid.UUID, page Page) (items []PolicyVersion, next string, err error) {
	key, err := decodeCursor("policies", page.Cursor, 1)
	if err != nil {
		return nil, "", err
	}
	q := newQuery(`SELECT `+policyColumns+currentPolicies+`WHERE p.tenant_id = $1`, tenant)
	if key != nil {
		if !utf8.ValidString(key[0]) {
			return nil, "", ErrInvalidCursor
		}
		q.and("p.name > ?", key[0])
	}
	q.sql.WriteString(" ORDER BY p.name")
	q.limit(page)
	rows, _ := s.pool.Query(ctx, q.sql.String(), q.args...)
	items, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (PolicyVersion, error) { return scanPolicy(row) })
	if err != nil {
		return nil, "", fmt.Errorf("list policies: %w", err)
	}
	items, next = cut(items, page, "policies", func(p PolicyVersion) []string { return []string{p.Name} })
	return items, next, nil
}

// ListPolicyVersions lists the versions of a named policy, newest first. ErrNotFound.
func (s *Store) ListPolicyVersions(ctx context.Context, tenant uuid.UUID, name string, page Page) (items []PolicyVersion, next string, err error) {
	key, err := decodeCursor("policy-versions", page.Cursor, 1)
	if err != nil {
		return nil, "", err
	}
	q := newQuery(`SELECT `+policyColumns+` FROM policies p JOIN policy_versions v ON v.tenant_id = p.tenant_id AND v.policy_id = p.policy_id
		WHERE p.tenant_id = $1`, tenant)
	q.and("p.name = ?", name)
	if key != nil {
		before, err := strconv.ParseInt(key[0], 10, 32)
		if err != nil {
			return nil, "", ErrInvalidCursor
		}
		q.and("v.version < ?", before)
	}
	q.sql.WriteString(" ORDER BY v.version DESC")
	q.limit(page)
	rows, _ := s.pool.Query(ctx, q.sql.String(), q.args...)
	items, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (PolicyVersion, error) { return scanPolicy(row) })
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("list versions of policy %s: %w", name, err)
	case len(items) == 0 && key == nil:
		return nil, "", notFound(pgx.ErrNoRows, "policy", name)
	}
	items, next = cut(items, page, "policy-versions", func(p PolicyVersion) []string { return []string{strconv.Itoa(p.Version)} })
	return items, next, nil
}

// PutPolicy makes the next version of a named policy, or the policy with version 1.
func (s *Store) PutPolicy(ctx context.Context, tenant uuid.UUID, name string, p verifier.Policy, now time.Time, actor Actor) (PolicyVersion, error) {
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
