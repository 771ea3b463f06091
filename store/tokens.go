package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// CreateAPIToken stores a token by its SHA-256. t.ID is kept where it is set, else made from t.CreatedAt.
func (s *Store) CreateAPIToken(ctx context.Context, tenant uuid.UUID, t APIToken, hash []byte, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	if t.ID == uuid.Nil {
		t.ID = newID(t.CreatedAt)
	}
	return s.inTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO api_tokens (tenant_id, token_id, name, role, token_hash, expires_at, created_at, scope, owner, created_by, certificate_sha256) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			tenant, t.ID, t.Name, storedRole(t), hash, t.ExpiresAt, t.CreatedAt, t.Scope, t.Owner, actor.String(), t.CertificateSHA256)
		if isViolation(err, "") {
			return fmt.Errorf("API token %s: %w", t.ID, ErrConflict)
		}
		if err != nil {
			return fmt.Errorf("make API token: %w", err)
		}
		after := map[string]any{"name": t.Name, "role": t.Role, "scope": t.Scope, "owner": t.Owner, "expires_at": t.ExpiresAt}
		if t.CertificateSHA256 != nil {
			after["certificate_sha256"] = hex.EncodeToString(t.CertificateSHA256)
		}
		if err := audit(ctx, tx, tenant, t.CreatedAt, actor, "api_token.create", "api_token:"+t.ID.String(), nil, after); err != nil {
			return err
		}
		return s.withinQuota(ctx, tx, tenant, QuotaAPITokens, t.CreatedAt)
	})
}

// A token with a scope is stored with another word for its role, which versions of the service that know of no scopes refuse.
const (
	scopedRole   = "scoped:"
	apiTokenRole = `replace(role, '` + scopedRole + `', '')`
)

func storedRole(t APIToken) string {
	if t.Scope != nil {
		return scopedRole + string(t.Role)
	}
	return string(t.Role)
}

const apiTokenColumns = `token_id, name, ` + apiTokenRole + `, scope, owner, expires_at, created_at, created_by, last_used_at, certificate_sha256` //nolint:gosec // names of columns

func scanAPIToken(row pgx.Row, first ...any) (APIToken, error) {
	var t APIToken
	err := row.Scan(append(first, &t.ID, &t.Name, &t.Role, &t.Scope, &t.Owner, &t.ExpiresAt, &t.CreatedAt, &t.CreatedBy, &t.LastUsed, &t.CertificateSHA256)...)
	return t, err
}

// LookupAPIToken finds the valid token with that SHA-256, and notes its use to the minute. ErrTokenInvalid
// if there is none or it has expired.
func (s *Store) LookupAPIToken(ctx context.Context, hash []byte, now time.Time) (tenant uuid.UUID, t APIToken, err error) {
	t, err = scanAPIToken(s.pool.QueryRow(beforeTenant(ctx), `SELECT tenant_id, `+apiTokenColumns+` FROM assay_find_api_token($1)
		WHERE (expires_at IS NULL OR expires_at > $2)`, hash, now), &tenant)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, APIToken{}, ErrTokenInvalid
	}
	if err != nil {
		return uuid.Nil, APIToken{}, fmt.Errorf("look up API token: %w", err)
	}
	if t.LastUsed == nil || now.Sub(*t.LastUsed) >= time.Minute {
		if _, err := s.pool.Exec(withTenant(ctx, tenant), `UPDATE api_tokens SET last_used_at = $3 WHERE tenant_id = $1 AND token_id = $2`, tenant, t.ID, now); err != nil {
			return uuid.Nil, APIToken{}, fmt.Errorf("note the use of API token %s: %w", t.ID, err)
		}
		t.LastUsed = &now
	}
	return tenant, t, nil
}

// ListAPITokens lists tokens, newest first, expired ones included.
func (s *Store) ListAPITokens(ctx context.Context, tenant uuid.UUID, f TokenFilter, page Page) (items []APIToken, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(" FROM api_tokens WHERE tenant_id = $1", tenant)
	q.prefix("name", f.NamePrefix)
	q.oneOf(apiTokenRole, f.Role)
	return apiTokenList.page(ctx, s.pool, q.within(f.Scope), page)
}

// TokenFilter narrows ListAPITokens and ListJoinTokens; Role and Scope are of API tokens, ScaleSet of join tokens.
type TokenFilter struct {
	NamePrefix, Role, ScaleSet string
	Scope                      Scope
}

var apiTokenList = listing[APIToken]{
	name: "api_tokens", columns: apiTokenColumns, initial: "-id",
	scan:  func(row pgx.Row) (APIToken, error) { return scanAPIToken(row) },
	sorts: map[string][]sortKey{"id": ids("token_id"), "name": byText(named("name"), ids("token_id")...), "role": byText(apiTokenRole, ids("token_id")...)},
}

// CreateJoinToken stores a join token by its SHA-256. t.ID is kept where it is set, else made from t.CreatedAt.
func (s *Store) CreateJoinToken(ctx context.Context, tenant uuid.UUID, t JoinToken, hash []byte, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	if t.ID == uuid.Nil {
		t.ID = newID(t.CreatedAt)
	}
	return s.inTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO join_tokens (tenant_id, token_id, name, token_hash, uses_left, expires_at, scale_set, labels, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			tenant, t.ID, t.Name, hash, t.UsesLeft, t.ExpiresAt, t.ScaleSet, labelsOrEmpty(t.Labels), t.CreatedAt)
		if isViolation(err, "") {
			return fmt.Errorf("join token %s: %w", t.ID, ErrConflict)
		}
		if err != nil {
			return fmt.Errorf("make join token: %w", err)
		}
		err = audit(ctx, tx, tenant, t.CreatedAt, actor, "join_token.create", "join_token:"+t.ID.String(), nil,
			map[string]any{"name": t.Name, "uses": t.UsesLeft, "expires_at": t.ExpiresAt, "scale_set": t.ScaleSet, "labels": t.Labels})
		if err != nil {
			return err
		}
		return s.withinQuota(ctx, tx, tenant, QuotaJoinTokens, t.CreatedAt)
	})
}

func labelsOrEmpty(l map[string]string) map[string]string {
	if l == nil {
		return map[string]string{}
	}
	return l
}

const joinTokenColumns = `token_id, name, uses_left, expires_at, scale_set, labels, created_at` //nolint:gosec // names of columns

func scanJoinToken(row pgx.Row, first ...any) (JoinToken, error) {
	var t JoinToken
	err := row.Scan(append(first, &t.ID, &t.Name, &t.UsesLeft, &t.ExpiresAt, &t.ScaleSet, &t.Labels, &t.CreatedAt)...)
	return t, err
}

// LookupJoinToken finds the usable token with that SHA-256 without taking a use. ErrTokenInvalid if there is
// none, it has expired, or its uses are taken.
func (s *Store) LookupJoinToken(ctx context.Context, hash []byte, now time.Time) (tenant uuid.UUID, t JoinToken, err error) {
	t, err = scanJoinToken(s.pool.QueryRow(beforeTenant(ctx), `SELECT tenant_id, `+joinTokenColumns+` FROM assay_find_join_token($1)
		WHERE expires_at > $2 AND uses_left > 0`, hash, now), &tenant)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, JoinToken{}, ErrTokenInvalid
	}
	if err != nil {
		return uuid.Nil, JoinToken{}, fmt.Errorf("look up join token: %w", err)
	}
	return tenant, t, nil
}

// ListJoinTokens lists tokens, newest first, expired and used ones included.
func (s *Store) ListJoinTokens(ctx context.Context, tenant uuid.UUID, f TokenFilter, page Page) (items []JoinToken, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(" FROM join_tokens WHERE tenant_id = $1", tenant)
	q.prefix("name", f.NamePrefix)
	q.text("scale_set = ?", f.ScaleSet)
	return joinTokenList.page(ctx, s.pool, q, page)
}

var joinTokenList = listing[JoinToken]{
	name: "join_tokens", columns: joinTokenColumns, initial: "-id",
	scan: func(row pgx.Row) (JoinToken, error) { return scanJoinToken(row) },
	sorts: map[string][]sortKey{
		"id": ids("token_id"), "name": byText(named("name"), ids("token_id")...), "expires_at": byTime("expires_at", ids("token_id")...),
	},
}
