package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/revocations"
)

// tenantConfig is what a tenant has configured, as of one generation. It is immutable once made, so that
// an appraisal reads it without parsing or locking.
type tenantConfig struct {
	generation int64
	fallback   PolicyVersion   // the policy named default
	policies   []PolicyVersion // the others, most specific selector first
	// Fleet baselines (those that name no machine ids) by the scale sets that their selector names; those
	// that name none are under "any". Only active versions and those in grace; and of a baseline that has neither any more,
	// and was not released, the version that was valid last, without its reference values.
	byScaleSet map[string][]BaselineVersion
	any        []BaselineVersion
	rules      []SuppressionRule // enabled ones
	trust      *TenantTrust
	// revocations is what is known to be bad.
	revocations *revocations.Set
}

type configCache struct {
	mu       sync.RWMutex
	byTenant map[uuid.UUID]*tenantConfig
}

func (c *configCache) get(tenant uuid.UUID, generation int64) *tenantConfig {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if cfg := c.byTenant[tenant]; cfg != nil && cfg.generation == generation {
		return cfg
	}
	return nil
}

func (c *configCache) put(tenant uuid.UUID, cfg *tenantConfig) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byTenant == nil {
		c.byTenant = map[uuid.UUID]*tenantConfig{}
	}
	if old := c.byTenant[tenant]; old == nil || old.generation < cfg.generation {
		c.byTenant[tenant] = cfg
	}
}

// configAt returns the configuration of a generation, from memory or by tx. Read within the snapshot that
// gave the generation it is exactly that generation's.
func (s *Store) configAt(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, generation int64) (*tenantConfig, error) {
	if cfg := s.configs.get(tenant, generation); cfg != nil {
		return cfg, nil
	}
	cfg := &tenantConfig{generation: generation, byScaleSet: map[string][]BaselineVersion{}}
	if err := cfg.loadPolicies(ctx, tx, tenant); err != nil {
		return nil, err
	}
	if err := cfg.loadBaselines(ctx, tx, tenant); err != nil {
		return nil, err
	}
	rules, err := rulesInForce(ctx, tx, tenant)
	if err != nil {
		return nil, err
	}
	cfg.rules = rules
	if cfg.trust, err = loadTrust(ctx, tx, tenant, generation); err != nil {
		return nil, err
	}
	bad, err := readRevocations(ctx, tx, tenant)
	if err != nil {
		return nil, err
	}
	if cfg.revocations, err = s.revocationSet(bad); err != nil {
		return nil, err
	}
	s.configs.put(tenant, cfg)
	return cfg, nil
}

// bumpConfig marks a change of what tenantConfig holds. It locks the tenant's row, which puts such changes,
// and the appraisals that raise alerts (lockSuppressionRules), in one order.
func bumpConfig(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	tag, err := tx.Exec(ctx, `UPDATE tenants SET config_generation = config_generation + 1 WHERE tenant_id = $1`, tenant)
	if err != nil {
		return fmt.Errorf("mark the change of configuration: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("tenant %s: %w", tenant, ErrNotFound)
	}
	return nil
}

const policyColumns = `p.policy_id, p.name, v.version, v.body, v.created_at, v.created_by`

const currentPolicies = ` FROM policies p JOIN policy_versions v ON v.tenant_id = p.tenant_id AND v.policy_id = p.policy_id AND v.version = p.current_version `

func scanPolicy(row pgx.Row) (PolicyVersion, error) {
	var p PolicyVersion
	var body []byte
	if err := row.Scan(&p.ID, &p.Name, &p.Version, &body, &p.CreatedAt, &p.CreatedBy); err != nil {
		return PolicyVersion{}, err
	}
	var err error
	if p.Policy, err = verifier.ParsePolicy(body); err != nil {
		return PolicyVersion{}, fmt.Errorf("stored policy %s version %d: %w", p.Name, p.Version, err)
	}
	return p, nil
}

func (cfg *tenantConfig) loadPolicies(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	rows, _ := tx.Query(ctx, `SELECT `+policyColumns+currentPolicies+`WHERE p.tenant_id = $1 ORDER BY p.name`, tenant)
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (PolicyVersion, error) { return scanPolicy(row) })
	if err != nil {
		return fmt.Errorf("read policies: %w", err)
	}
	for _, p := range all {
		if p.Name == defaultPolicy {
			cfg.fallback = p
		} else {
			cfg.policies = append(cfg.policies, p)
		}
	}
	slices.SortStableFunc(cfg.policies, func(a, b PolicyVersion) int {
		return cmp.Compare(specificity(b.Policy.Selector), specificity(a.Policy.Selector))
	})
	return nil
}

func (cfg *tenantConfig) loadBaselines(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	rows, _ := tx.Query(ctx, `SELECT `+versionColumns+`, r.body `+versionTables+`JOIN reference_values r ON r.tenant_id = v.tenant_id AND r.digest = v.reference_digest
		WHERE b.tenant_id = $1 AND NOT b.machine_bound AND v.state IN ('active', 'grace') ORDER BY b.baseline_id, v.version DESC`, tenant)
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (BaselineVersion, error) { return scanVersionWithReference(row) })
	if err != nil {
		return fmt.Errorf("read baselines: %w", err)
	}
	rows, _ = tx.Query(ctx, withdrawnBaselines, tenant)
	ended, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (BaselineVersion, error) { return scanVersion(row) })
	if err != nil {
		return fmt.Errorf("read withdrawn baselines: %w", err)
	}
	for _, v := range append(all, ended...) {
		if len(v.Selector.ScaleSet) == 0 {
			cfg.any = append(cfg.any, v)
		}
		for _, set := range v.Selector.ScaleSet {
			cfg.byScaleSet[set] = append(cfg.byScaleSet[set], v)
		}
	}
	return nil
}

const defaultPolicy = "default"

// specificity orders selectors: one that names machine ids before one that does not, then by how many
// conditions there are.
func specificity(s verifier.Selector) int {
	n := len(s.Labels)
	if len(s.ScaleSet) > 0 {
		n++
	}
	if len(s.Platform) > 0 {
		n++
	}
	if len(s.MachineIDs) > 0 {
		n += 1000
	}
	return n
}

func factsOf(m *Machine) baseline.MachineFacts {
	return baseline.MachineFacts{ID: m.ID.String(), Platform: m.Platform, ScaleSet: m.ScaleSet, Labels: m.Labels}
}

// policyFor is the most specific named policy whose selector fits, else the one named default. An empty
// selector fits every machine.
func (cfg *tenantConfig) policyFor(facts baseline.MachineFacts) (verifier.Policy, verifier.VersionRef) {
	p := &cfg.fallback
	for i := range cfg.policies {
		if baseline.Matches(cfg.policies[i].Policy.Selector, facts) {
			p = &cfg.policies[i]
			break
		}
	}
	return p.Policy, verifier.VersionRef{ID: p.ID.String(), Version: p.Version}
}
