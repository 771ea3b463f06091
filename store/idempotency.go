package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// How long an answer is kept, and how long a request that never finished (the service was killed) blocks its key.
const (
	idempotencyLifetime = 24 * time.Hour
	idempotencyStuck    = 2 * time.Minute
)

// BeginIdempotent reserves a principal's Idempotency-Key for a request. Answer nil, nil: go ahead, then
// call FinishIdempotent or AbandonIdempotent. Answer not nil: the stored answer of the same request.
// ErrConflict: the key stands for another request, or the first is still running.
func (s *Store) BeginIdempotent(ctx context.Context, tenant uuid.UUID, principal, key string, requestHash []byte, now time.Time) (*IdempotentResponse, error) {
	ctx = withTenant(ctx, tenant)
	var found *IdempotentResponse
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		// One statement takes a free key, an expired one, or one whose request never finished.
		tag, err := tx.Exec(ctx, `INSERT INTO idempotency_keys AS k (tenant_id, principal, key, request_hash, created_at, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (tenant_id, principal, key) DO UPDATE SET request_hash = EXCLUDED.request_hash, status = NULL,
				content_type = '', body = NULL, created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at
			WHERE k.expires_at <= $5 OR (k.status IS NULL AND k.created_at <= $7 AND k.request_hash = EXCLUDED.request_hash)`,
			tenant, principal, key, requestHash, now, now.Add(idempotencyLifetime), now.Add(-idempotencyStuck))
		if err != nil {
			return fmt.Errorf("reserve idempotency key: %w", err)
		}
		if tag.RowsAffected() == 1 {
			return nil
		}
		var hash []byte
		var status *int
		var r IdempotentResponse
		err = tx.QueryRow(ctx, `SELECT request_hash, status, content_type, body FROM idempotency_keys
			WHERE tenant_id = $1 AND principal = $2 AND key = $3`, tenant, principal, key).Scan(&hash, &status, &r.ContentType, &r.Body)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("the request with this idempotency key has just ended: %w", ErrConflict)
		}
		if err != nil {
			return fmt.Errorf("read idempotency key: %w", err)
		}
		if !bytes.Equal(hash, requestHash) {
			return fmt.Errorf("the idempotency key stands for another request: %w", ErrConflict)
		}
		if status == nil {
			return fmt.Errorf("the request with this idempotency key is still running: %w", ErrConflict)
		}
		r.Status = *status
		found = &r
		return nil
	})
	return found, err
}

// FinishIdempotent stores the answer of a reserved key. r.Body is stored as it is: the caller seals it.
func (s *Store) FinishIdempotent(ctx context.Context, tenant uuid.UUID, principal, key string, r IdempotentResponse, now time.Time) error {
	ctx = withTenant(ctx, tenant)
	tag, err := s.pool.Exec(ctx, `UPDATE idempotency_keys SET status = $4, content_type = $5, body = $6, expires_at = $7
		WHERE tenant_id = $1 AND principal = $2 AND key = $3 AND status IS NULL`,
		tenant, principal, key, r.Status, r.ContentType, r.Body, now.Add(idempotencyLifetime))
	if err != nil {
		return fmt.Errorf("store the answer of an idempotency key: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("idempotency key: %w", ErrNotFound)
	}
	return nil
}

// AbandonIdempotent frees a reserved key whose request failed without an answer worth keeping.
func (s *Store) AbandonIdempotent(ctx context.Context, tenant uuid.UUID, principal, key string) error {
	ctx = withTenant(ctx, tenant)
	_, err := s.pool.Exec(ctx, `DELETE FROM idempotency_keys WHERE tenant_id = $1 AND principal = $2 AND key = $3 AND status IS NULL`, tenant, principal, key)
	if err != nil {
		return fmt.Errorf("free an idempotency key: %w", err)
	}
	return nil
}
