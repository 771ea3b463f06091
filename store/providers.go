package store

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// maxProviders and maxPipelineRules bound what a tenant may make, since each call of a pipeline reads all of its
// provider's.
const (
	maxProviders     = 100
	maxPipelineRules = 500
)

// IdentityProvider is an OpenID Connect issuer whose tokens are accepted.
type IdentityProvider struct {
	ID         uuid.UUID
	Name       string
	Issuer     string
	Audiences  []string // in the order of their text
	Algorithms []string
	// MaxTokenLifetime is the longest time from iat to exp, in whole seconds.
	MaxTokenLifetime time.Duration
	Enabled          bool
	Keys             *IssuerKeys // nil until a token needed them
	CreatedAt        time.Time
	CreatedBy        string
	UpdatedAt        time.Time // last change by an administrator
}

// IssuerKeys are an issuer's keys as they were fetched.
type IssuerKeys struct {
	JWKS                 []byte // RFC 7517
	FetchedAt, ExpiresAt time.Time
}

const providerColumns = `p.provider_id, p.name, p.issuer, p.algorithms, p.max_token_lifetime, p.enabled, p.jwks, p.jwks_fetched_at, p.jwks_expires_at,
	p.created_at, p.created_by, p.updated_at,
	ARRAY(SELECT a.audience FROM identity_provider_audiences a WHERE a.tenant_id = p.tenant_id AND a.provider_id = p.provider_id ORDER BY a.audience COLLATE "C")`

func scanProvider(row pgx.Row) (IdentityProvider, error) {
	var p IdentityProvider
	var seconds int
	var jwks []byte
	var fetched, expires *time.Time
	err := row.Scan(&p.ID, &p.Name, &p.Issuer, &p.Algorithms, &seconds, &p.Enabled, &jwks, &fetched, &expires, &p.CreatedAt, &p.CreatedBy, &p.UpdatedAt, &p.Audiences)
	p.MaxTokenLifetime = time.Duration(seconds) * time.Second
	if jwks != nil && fetched != nil && expires != nil {
		p.Keys = &IssuerKeys{JWKS: jwks, FetchedAt: *fetched, ExpiresAt: *expires}
	}
	return p, err
}

func (p *IdentityProvider) summary() map[string]any {
	return map[string]any{"name": p.Name, "issuer": p.Issuer, "audiences": p.Audiences, "algorithms": p.Algorithms,
		"max_token_lifetime_seconds": int(p.MaxTokenLifetime / time.Second), "enabled": p.Enabled}
}

func providerTarget(id uuid.UUID) string { return "identity_provider:" + id.String() }

func (p *IdentityProvider) insertAudiences(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	_, err := tx.Exec(ctx, `INSERT INTO identity_provider_audiences (tenant_id, issuer, audience, provider_id) SELECT $1, $2, unnest($3::text[]), $4`,
		tenant, p.Issuer, p.Audiences, p.ID)
	return err
}

// providerConflict names what is taken.
func providerConflict(err error) error {
	switch {
	case isViolation(err, "identity_providers_name"):
		return fmt.Errorf("an identity provider has this name: %w", ErrConflict)
	case isViolation(err, "identity_provider_audiences_pkey"):
		return fmt.Errorf("an identity provider has this issuer and audience: %w", ErrConflict)
	}
	return err
}

// CreateIdentityProvider stores a provider; the id, and who and when, are filled in. ErrConflict: name, or issuer
// and audience, are taken, or there are too many.
func (s *Store) CreateIdentityProvider(ctx context.Context, tenant uuid.UUID, p IdentityProvider, now time.Time, actor Actor) (IdentityProvider, error) {
	ctx = withTenant(ctx, tenant)
	now = now.Truncate(time.Microsecond) // as Postgres keeps it
	p.ID, p.CreatedAt, p.UpdatedAt, p.CreatedBy, p.Keys = newID(now), now, now, actor.String(), nil
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if err := lockConfig(ctx, tx, tenant); err != nil {
			return err
		}
		if err := tooMany(ctx, tx, tenant, "identity_providers", maxProviders); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO identity_providers (tenant_id, provider_id, name, issuer, algorithms, max_token_lifetime, enabled, created_by, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)`,
			tenant, p.ID, p.Name, p.Issuer, p.Algorithms, int(p.MaxTokenLifetime/time.Second), p.Enabled, p.CreatedBy, now); err != nil {
			return err
		}
		if err := p.insertAudiences(ctx, tx, tenant); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "identity_provider.create", providerTarget(p.ID), nil, p.summary())
	})
	if err != nil {
		return IdentityProvider{}, fmt.Errorf("make identity provider: %w", providerConflict(err))
	}
	return p, nil
}

// tooMany refuses one more row of a tenant whose row is locked.
func tooMany(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, table string, most int) error {
	var n int
	if err := tx.QueryRow(ctx, `SELECT count(*) FROM `+pgx.Identifier{table}.Sanitize()+` WHERE tenant_id = $1`, tenant).Scan(&n); err != nil {
		return err
	}
	if n >= most {
		return fmt.Errorf("at most %d %s: %w", most, table, ErrConflict)
	}
	return nil
}

// UpdateIdentityProvider replaces name, audiences, algorithms, lifetime and enabled, and forgets the keys, so that
// the next token fetches them. ErrNotFound, ErrConflict.
func (s *Store) UpdateIdentityProvider(ctx context.Context, tenant uuid.UUID, p IdentityProvider, now time.Time, actor Actor) (IdentityProvider, error) {
	ctx = withTenant(ctx, tenant)
	now = now.Truncate(time.Microsecond)
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		was, err := readProvider(ctx, tx, tenant, p.ID, " FOR UPDATE OF p")
		if err != nil {
			return err
		}
		p.Issuer, p.CreatedAt, p.CreatedBy, p.Keys = was.Issuer, was.CreatedAt, was.CreatedBy, nil
		// Later than the last change, also where two come in one microsecond: keys are kept by it.
		if p.UpdatedAt = now; !now.After(was.UpdatedAt) {
			p.UpdatedAt = was.UpdatedAt.Add(time.Microsecond)
		}
		if _, err := tx.Exec(ctx, `UPDATE identity_providers SET name = $3, algorithms = $4, max_token_lifetime = $5, enabled = $6, updated_at = $7,
			jwks = NULL, jwks_fetched_at = NULL, jwks_expires_at = NULL WHERE tenant_id = $1 AND provider_id = $2`,
			tenant, p.ID, p.Name, p.Algorithms, int(p.MaxTokenLifetime/time.Second), p.Enabled, p.UpdatedAt); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM identity_provider_audiences WHERE tenant_id = $1 AND provider_id = $2`, tenant, p.ID); err != nil {
			return err
		}
		if err := p.insertAudiences(ctx, tx, tenant); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "identity_provider.update", providerTarget(p.ID), was.summary(), p.summary())
	})
	if err != nil {
		return IdentityProvider{}, fmt.Errorf("change identity provider %s: %w", p.ID, providerConflict(err))
	}
	return p, nil
}

func readProvider(ctx context.Context, db querier, tenant, id uuid.UUID, lock string) (IdentityProvider, error) {
	rows, _ := db.Query(ctx, `SELECT `+providerColumns+` FROM identity_providers p WHERE p.tenant_id = $1 AND p.provider_id = $2`+lock, tenant, id)
	p, err := pgx.CollectExactlyOneRow(rows, collected(scanProvider))
	if err != nil {
		return IdentityProvider{}, notFound(err, "identity provider", id)
	}
	return p, nil
}

// GetIdentityProvider reads one. ErrNotFound.
func (s *Store) GetIdentityProvider(ctx context.Context, tenant, id uuid.UUID) (IdentityProvider, error) {
	ctx = withTenant(ctx, tenant)
	return readProvider(ctx, s.pool, tenant, id, "")
}

// ListIdentityProviders lists providers, newest first.
func (s *Store) ListIdentityProviders(ctx context.Context, tenant uuid.UUID, f ProviderFilter, page Page) (items []IdentityProvider, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(" FROM identity_providers p WHERE p.tenant_id = $1", tenant)
	q.prefix("p.name", f.NamePrefix)
	q.text("p.issuer = ?", f.Issuer)
	if f.Enabled != nil {
		q.and("p.enabled = ?", *f.Enabled)
	}
	return providerList.page(ctx, s.pool, q, page)
}

// ProviderFilter narrows ListIdentityProviders.
type ProviderFilter struct {
	NamePrefix, Issuer string
	Enabled            *bool
}

var providerList = listing[IdentityProvider]{
	name: "identity_providers", columns: providerColumns, scan: scanProvider, initial: "-id",
	sorts: map[string][]sortKey{"id": ids("p.provider_id"), "name": byText(named("p.name"), ids("p.provider_id")...)},
}

// ProvidersOf reads the tenant's enabled providers of an issuer with their keys.
func (s *Store) ProvidersOf(ctx context.Context, tenant uuid.UUID, issuer string) ([]IdentityProvider, error) {
	ctx = withTenant(ctx, tenant)
	rows, _ := s.pool.Query(ctx, `SELECT `+providerColumns+` FROM identity_providers p WHERE p.tenant_id = $1 AND p.issuer = $2 AND p.enabled ORDER BY p.provider_id`, tenant, issuer)
	all, err := pgx.CollectRows(rows, collected(scanProvider))
	if err != nil {
		return nil, fmt.Errorf("read identity providers of an issuer: %w", err)
	}
	return all, nil
}

// SaveIssuerKeys keeps keys that were fetched for the provider as it was read (UpdatedAt): where it was changed,
// disabled or deleted meanwhile they are dropped. Another set of keys than before is audited.
func (s *Store) SaveIssuerKeys(ctx context.Context, tenant uuid.UUID, p IdentityProvider, keys IssuerKeys) error {
	ctx = withTenant(ctx, tenant)
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		var was []byte
		rows, _ := tx.Query(ctx, `SELECT jwks FROM identity_providers WHERE tenant_id = $1 AND provider_id = $2 AND updated_at = $3 AND enabled
			AND (jwks_fetched_at IS NULL OR jwks_fetched_at < $4) FOR UPDATE`, tenant, p.ID, p.UpdatedAt, keys.FetchedAt)
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) { return struct{}{}, row.Scan(&was) })
		if err != nil || len(found) == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE identity_providers SET jwks = $3, jwks_fetched_at = $4, jwks_expires_at = $5 WHERE tenant_id = $1 AND provider_id = $2`,
			tenant, p.ID, keys.JWKS, keys.FetchedAt, keys.ExpiresAt); err != nil {
			return err
		}
		if bytes.Equal(was, keys.JWKS) {
			return nil
		}
		return audit(ctx, tx, tenant, keys.FetchedAt, Actor{Kind: "system", ID: "oidc"}, "identity_provider.keys", providerTarget(p.ID), keyDigest(was), keyDigest(keys.JWKS))
	})
	if err != nil {
		return fmt.Errorf("keep the keys of identity provider %s: %w", p.ID, err)
	}
	return nil
}

// DeleteIdentityProvider deletes a provider. ErrNotFound; ErrConflict while rules name it.
func (s *Store) DeleteIdentityProvider(ctx context.Context, tenant, id uuid.UUID, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		was, err := readProvider(ctx, tx, tenant, id, " FOR UPDATE OF p")
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM identity_providers WHERE tenant_id = $1 AND provider_id = $2`, tenant, id); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "identity_provider.delete", providerTarget(id), was.summary(), nil)
	})
	if isViolation(err, "pipeline_rules_tenant_id_provider_id_fkey") {
		err = fmt.Errorf("pipeline rules name it: %w", ErrConflict)
	}
	if isViolation(err, "role_bindings_tenant_id_provider_id_fkey") {
		err = fmt.Errorf("role bindings name it: %w", ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("delete identity provider %s: %w", id, err)
	}
	return nil
}
