package store

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/verifier/tee"
)

// TenantTrust is what a tenant trusts, as of one generation of its configuration: the enabled anchors, and the
// collateral that all appraisals share. It is immutable and shared by all who ask.
type TenantTrust struct {
	Generation int64 // two of the same generation are the same
	// The certificates of the enabled anchors, by purpose.
	EK, AK, SNP, TDX []*x509.Certificate
	// AnchorFingerprints has the SHA-256, in lower-case hex, of every certificate of every enabled anchor.
	AnchorFingerprints map[string]bool
	// Collateral is what is held but for VCEKs, whether still valid or not. Those, one a chip and TCB, are
	// too many: see Store.Collateral.
	Collateral []tee.Collateral
}

// shared tells whether collateral of that kind is part of TenantTrust.
func shared(c tee.Collateral) bool { return c.Kind != tee.KindVCEK }

// TenantTrust reads what the tenant trusts, from memory unless it has changed. ErrNotFound: no such tenant.
func (s *Store) TenantTrust(ctx context.Context, tenant uuid.UUID) (*TenantTrust, error) {
	ctx = withTenant(ctx, tenant)
	cfg, err := s.currentConfig(ctx, tenant)
	if err != nil {
		return nil, fmt.Errorf("read what the tenant trusts: %w", err)
	}
	return cfg.trust, nil
}

// currentConfig is what the tenant has configured, from memory unless it has changed. ErrNotFound: no such tenant.
func (s *Store) currentConfig(ctx context.Context, tenant uuid.UUID) (*tenantConfig, error) {
	const generationOf = `SELECT config_generation FROM tenants WHERE tenant_id = $1`
	var generation int64
	if err := s.pool.QueryRow(ctx, generationOf, pgUUID(tenant)).Scan(&generation); err != nil {
		return nil, notFound(err, "tenant", tenant)
	}
	cfg := s.configs.get(tenant, generation)
	if cfg != nil {
		return cfg, nil
	}
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, generationOf, pgUUID(tenant)).Scan(&generation)
		if err != nil {
			return notFound(err, "tenant", tenant)
		}
		cfg, err = s.configAt(ctx, tx, tenant, generation)
		return err
	})
	return cfg, err
}

func loadTrust(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, generation int64) (*TenantTrust, error) {
	t := &TenantTrust{Generation: generation, AnchorFingerprints: map[string]bool{}}
	byPurpose := map[string]*[]*x509.Certificate{"ek": &t.EK, "ak": &t.AK, "snp": &t.SNP, "tdx": &t.TDX}
	rows, _ := tx.Query(ctx, `SELECT a.purpose, c.fingerprint, c.der FROM trust_anchors a JOIN trust_anchor_certificates c USING (tenant_id, anchor_id)
		WHERE a.tenant_id = $1 AND a.enabled ORDER BY a.anchor_id, c.position`, tenant)
	var purpose, fingerprint string
	var der []byte
	_, err := pgx.ForEachRow(rows, []any{&purpose, &fingerprint, &der}, func() error {
		t.AnchorFingerprints[fingerprint] = true
		to, judged := byPurpose[purpose]
		if !judged {
			return nil
		}
		// What cannot be parsed (any more) is trusted for nothing, and is no reason to judge nobody.
		if c, err := x509.ParseCertificate(der); err == nil {
			*to = append(*to, c)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read trust anchors: %w", err)
	}
	rows, _ = tx.Query(ctx, `SELECT kind, name, body, issuer_chain, not_before, not_after FROM collateral
		WHERE tenant_id = $1 AND kind <> 'vcek' ORDER BY kind, name`, tenant)
	t.Collateral, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (tee.Collateral, error) {
		var c tee.Collateral
		err := row.Scan(&c.Kind, &c.Name, &c.Body, &c.IssuerChain, &c.NotBefore, &c.NotAfter)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("read collateral: %w", err)
	}
	return t, nil
}

// lockConfig locks the tenant's row before what tenantConfig holds is changed (see bumpConfig).
func lockConfig(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	var one int
	if err := tx.QueryRow(ctx, `SELECT 1 FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE`, pgUUID(tenant)).Scan(&one); err != nil {
		return notFound(err, "tenant", tenant)
	}
	return nil
}
