package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// PipelineRule is a rule about who may write which baseline. What it says is server/auth's business.
type PipelineRule struct {
	ID         uuid.UUID
	ProviderID uuid.UUID
	Name       string
	Body       json.RawMessage
	CreatedAt  time.Time
	CreatedBy  string
	UpdatedAt  time.Time
}

const pipelineRuleColumns = `rule_id, provider_id, name, body, created_at, created_by, updated_at`

func scanPipelineRule(row pgx.Row) (PipelineRule, error) {
	var r PipelineRule
	err := row.Scan(&r.ID, &r.ProviderID, &r.Name, &r.Body, &r.CreatedAt, &r.CreatedBy, &r.UpdatedAt)
	return r, err
}

func (r *PipelineRule) summary() map[string]any {
	return map[string]any{"name": r.Name, "provider_id": r.ProviderID, "rule": r.Body}
}

func pipelineRuleTarget(id uuid.UUID) string { return "pipeline_rule:" + id.String() }

// pipelineRuleConflict names what stands against a rule.
func pipelineRuleConflict(err error) error {
	switch {
	case isViolation(err, "pipeline_rules_name"):
		return fmt.Errorf("a pipeline rule has this name: %w", ErrConflict)
	case isViolation(err, "pipeline_rules_tenant_id_provider_id_fkey"):
		return fmt.Errorf("the identity provider: %w", ErrNotFound)
	}
	return err
}

// CreatePipelineRule stores a rule; the id, and who and when, are filled in. ErrNotFound: there is no such
// provider. ErrConflict: the name is taken, or there are too many.
func (s *Store) CreatePipelineRule(ctx context.Context, tenant uuid.UUID, r PipelineRule, now time.Time, actor Actor) (PipelineRule, error) {
	ctx = withTenant(ctx, tenant)
	r.ID, r.CreatedAt, r.UpdatedAt, r.CreatedBy = newID(now), now, now, actor.String()
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if err := lockConfig(ctx, tx, tenant); err != nil {
			return err
		}
		if err := tooMany(ctx, tx, tenant, "pipeline_rules", maxPipelineRules); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO pipeline_rules (tenant_id, rule_id, provider_id, name, body, created_by, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)`,
			tenant, r.ID, r.ProviderID, r.Name, r.Body, r.CreatedBy, now); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "pipeline_rule.create", pipelineRuleTarget(r.ID), nil, r.summary())
	})
	if err != nil {
		return PipelineRule{}, fmt.Errorf("make pipeline rule: %w", pipelineRuleConflict(err))
	}
	return r, nil
}

// UpdatePipelineRule replaces a rule. ErrNotFound: there is no such rule or provider. ErrConflict: the name is taken.
func (s *Store) UpdatePipelineRule(ctx context.Context, tenant uuid.UUID, r PipelineRule, now time.Time, actor Actor) (PipelineRule, error) {
	ctx = withTenant(ctx, tenant)
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		was, err := readPipelineRule(ctx, tx, tenant, r.ID, " FOR UPDATE")
		if err != nil {
			return err
		}
		r.CreatedAt, r.CreatedBy, r.UpdatedAt = was.CreatedAt, was.CreatedBy, now
		if _, err := tx.Exec(ctx, `UPDATE pipeline_rules SET provider_id = $3, name = $4, body = $5, updated_at = $6 WHERE tenant_id = $1 AND rule_id = $2`,
			tenant, r.ID, r.ProviderID, r.Name, r.Body, now); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "pipeline_rule.update", pipelineRuleTarget(r.ID), was.summary(), r.summary())
	})
	if err != nil {
		return PipelineRule{}, fmt.Errorf("change pipeline rule %s: %w", r.ID, pipelineRuleConflict(err))
	}
	return r, nil
}

func readPipelineRule(ctx context.Context, db querier, tenant, id uuid.UUID, lock string) (PipelineRule, error) {
	rows, _ := db.Query(ctx, `SELECT `+pipelineRuleColumns+` FROM pipeline_rules WHERE tenant_id = $1 AND rule_id = $2`+lock, tenant, id)
	r, err := pgx.CollectExactlyOneRow(rows, collected(scanPipelineRule))
	if err != nil {
		return PipelineRule{}, notFound(err, "pipeline rule", id)
	}
	return r, nil
}

// GetPipelineRule reads one. ErrNotFound.
func (s *Store) GetPipelineRule(ctx context.Context, tenant, id uuid.UUID) (PipelineRule, error) {
	ctx = withTenant(ctx, tenant)
	return readPipelineRule(ctx, s.pool, tenant, id, "")
}

// ListPipelineRules lists rules, newest first.
func (s *Store) ListPipelineRules(ctx context.Context, tenant uuid.UUID, f PipelineRuleFilter, page Page) (items []PipelineRule, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(" FROM pipeline_rules WHERE tenant_id = $1", tenant)
	q.prefix("name", f.NamePrefix)
	q.id("provider_id = ?", f.ProviderID)
	return pipelineRuleList.page(ctx, s.pool, q, page)
}

// PipelineRuleFilter narrows ListPipelineRules.
type PipelineRuleFilter struct {
	NamePrefix string
	ProviderID *uuid.UUID
}

var pipelineRuleList = listing[PipelineRule]{
	name: "pipeline_rules", columns: pipelineRuleColumns, scan: scanPipelineRule, initial: "-id",
	sorts: map[string][]sortKey{"id": ids("rule_id"), "name": byText(named("name"), ids("rule_id")...)},
}

// PipelineRulesOf reads all rules about a provider's identities, oldest first.
func (s *Store) PipelineRulesOf(ctx context.Context, tenant, providerID uuid.UUID) ([]PipelineRule, error) {
	ctx = withTenant(ctx, tenant)
	rows, _ := s.pool.Query(ctx, `SELECT `+pipelineRuleColumns+` FROM pipeline_rules WHERE tenant_id = $1 AND provider_id = $2 ORDER BY rule_id`, tenant, providerID)
	all, err := pgx.CollectRows(rows, collected(scanPipelineRule))
	if err != nil {
		return nil, fmt.Errorf("read the pipeline rules of identity provider %s: %w", providerID, err)
	}
	return all, nil
}

// DeletePipelineRule deletes a rule. ErrNotFound.
func (s *Store) DeletePipelineRule(ctx context.Context, tenant, id uuid.UUID, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		was, err := readPipelineRule(ctx, tx, tenant, id, " FOR UPDATE")
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM pipeline_rules WHERE tenant_id = $1 AND rule_id = $2`, tenant, id); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "pipeline_rule.delete", pipelineRuleTarget(id), was.summary(), nil)
	})
	if err != nil {
		return fmt.Errorf("delete pipeline rule %s: %w", id, err)
	}
	return nil
}

// keyDigest is what the audit record keeps of a key set; nil for none.
func keyDigest(jwks []byte) any {
	if jwks == nil {
		return nil
	}
	return map[string]any{"jwks_sha256": fmt.Sprintf("%x", sha256.Sum256(jwks))}
}

// withIdentity puts the verified identity of whoever makes a version into its provenance, as "verified", and drops
// what the document itself claims under that name: only a token that was verified can say who it was.
func withIdentity(provenance json.RawMessage, actor Actor) (json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	if len(provenance) > 0 {
		if err := json.Unmarshal(provenance, &fields); err != nil {
			return nil, fmt.Errorf("provenance: %w", err)
		}
	}
	claimed := false
	for name := range fields {
		if strings.EqualFold(name, verifiedField) { // readers of JSON that do not tell case apart are common
			claimed = true
			delete(fields, name)
		}
	}
	if !claimed && actor.Identity == nil {
		return provenance, nil
	}
	if actor.Identity != nil {
		if fields == nil { // the provenance is JSON null
			fields = map[string]json.RawMessage{}
		}
		fields[verifiedField] = actor.Identity
	}
	return json.Marshal(fields)
}

// verifiedField is the member of a provenance that only withIdentity writes.
const verifiedField = "verified"
