package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// RevokeAttestationKey releases a machine from its keys: its active AK is revoked, its EK is no longer claimed,
// what is remembered of the key's quotes is forgotten, no evidence is expected any more, and pending enrolments end, so that it may enrol again with
// any keys. What the machine was judged to be stays, and so does the order of its challenges: the same AK may come
// back, and a challenge that it has answered must not be good a second time. ErrNotFound: no such machine.
// ErrConflict: it has no active key.
func (s *Store) RevokeAttestationKey(ctx context.Context, tenant, machineID uuid.UUID, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		m, err := lockMachine(ctx, tx, tenant, `m.machine_id = $2`, machineID)
		if err != nil {
			return notFound(err, "machine", machineID)
		}
		key, err := activeKey(ctx, tx, tenant, machineID)
		if err != nil {
			return err
		}
		if key == nil {
			return fmt.Errorf("machine %s has no active key: %w", machineID, ErrConflict)
		}
		var ekFingerprint []byte
		if err := tx.QueryRow(ctx, `SELECT ek_fingerprint FROM machines WHERE tenant_id = $1 AND machine_id = $2`, tenant, machineID).Scan(&ekFingerprint); err != nil {
			return fmt.Errorf("read the EK: %w", err)
		}
		for _, step := range []struct{ what, sql string }{
			{"revoke the key", `UPDATE attestation_keys SET state = 'revoked', ended_at = $3 WHERE tenant_id = $1 AND machine_id = $2 AND state = 'active'`},
			{"end pending enrolments", `UPDATE enrollments SET status = 'expired', secret_hash = NULL, updated_at = $3
				WHERE tenant_id = $1 AND machine_id = $2 AND status = 'activation_required'`},
			{"release the machine", `UPDATE machines SET ek_public = NULL, ek_fingerprint = NULL, state = 'registered', assurance = '', updated_at = $3
				WHERE tenant_id = $1 AND machine_id = $2`},
		} {
			if _, err := tx.Exec(ctx, step.sql, tenant, machineID, now); err != nil {
				return fmt.Errorf("%s: %w", step.what, err)
			}
		}
		// Without a fingerprint no judgement that is under way can extend the run: it has to look at the key.
		if err := s.expectNothing(ctx, tx, tenant, machineID, now); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE machine_attestation_state SET fingerprint = NULL, clock_key_id = NULL, clock = NULL, reset_count = NULL,
				restart_count = NULL, clock_safe = NULL, firmware_version = NULL, last_log = NULL, last_platform = NULL,
				ima_state = NULL
			WHERE tenant_id = $1 AND machine_id = $2`, tenant, machineID); err != nil {
			return fmt.Errorf("forget the key's quotes: %w", err)
		}
		return audit(ctx, tx, tenant, now, actor, "attestation_key.revoke", "machine:"+machineID.String(),
			map[string]any{"key_id": key.ID, "ak_name": fmt.Sprintf("%x", key.Name), "assurance": key.Assurance,
				"ek_sha256": fmt.Sprintf("%x", ekFingerprint), "state": m.State}, nil)
	})
	if err != nil {
		return fmt.Errorf("revoke attestation key: %w", err)
	}
	return nil
}

// RevokeJoinToken removes a join token: it admits nobody from then on. ErrNotFound.
func (s *Store) RevokeJoinToken(ctx context.Context, tenant, id uuid.UUID, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	return s.inTx(ctx, func(tx pgx.Tx) error {
		t, err := scanJoinToken(tx.QueryRow(ctx, `DELETE FROM join_tokens WHERE tenant_id = $1 AND token_id = $2 RETURNING `+joinTokenColumns, tenant, id))
		if err != nil {
			return notFound(err, "join token", id)
		}
		return audit(ctx, tx, tenant, now, actor, "join_token.revoke", "join_token:"+id.String(),
			map[string]any{"name": t.Name, "uses_left": t.UsesLeft, "expires_at": t.ExpiresAt, "scale_set": t.ScaleSet, "labels": t.Labels}, nil)
	})
}

// RevokeAPIToken removes an API token: it is refused from then on. ErrNotFound.
func (s *Store) RevokeAPIToken(ctx context.Context, tenant, id uuid.UUID, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	return s.inTx(ctx, func(tx pgx.Tx) error {
		t, err := scanAPIToken(tx.QueryRow(ctx, `DELETE FROM api_tokens WHERE tenant_id = $1 AND token_id = $2 RETURNING `+apiTokenColumns, tenant, id))
		if err != nil {
			return notFound(err, "API token", id)
		}
		return audit(ctx, tx, tenant, now, actor, "api_token.revoke", "api_token:"+id.String(),
			map[string]any{"name": t.Name, "role": t.Role, "expires_at": t.ExpiresAt}, nil)
	})
}
