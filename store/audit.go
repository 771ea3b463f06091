package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const insertAudit = `INSERT INTO audit_events
	(tenant_id, event_id, at, actor_kind, actor_id, remote_addr, request_id, action, target, before, after)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`

// audit records a change inside its transaction. before and after are marshalled; nil stays NULL.
func audit(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, now time.Time, a Actor, action, target string, before, after any) error {
	args, err := auditArgs(tenant, now, a, action, target, before, after)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, insertAudit, args...); err != nil {
		return fmt.Errorf("record %s of %s: %w", action, target, err)
	}
	return nil
}

func auditArgs(tenant uuid.UUID, now time.Time, a Actor, action, target string, before, after any) ([]any, error) {
	b, err := marshalOrNull(before)
	if err != nil {
		return nil, fmt.Errorf("record %s of %s: %w", action, target, err)
	}
	f, err := marshalOrNull(after)
	if err != nil {
		return nil, fmt.Errorf("record %s of %s: %w", action, target, err)
	}
	return []any{pgUUID(tenant), pgUUID(newID(now)), now, a.Kind, a.ID, a.RemoteAddr, a.RequestID, action, target, b, f}, nil
}

// marshalOrNull is v as JSON text, or nil for nil.
func marshalOrNull(v any) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	if raw, ok := v.(json.RawMessage); ok {
		if len(raw) == 0 {
			return nil, nil
		}
		return raw, nil
	}
	return json.Marshal(v)
}

// RecordAudit records something that changed nothing in the store but that an auditor must see. target is kind:id.
func (s *Store) RecordAudit(ctx context.Context, tenant uuid.UUID, action, target string, detail json.RawMessage, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	return s.inTx(ctx, func(tx pgx.Tx) error {
		return audit(ctx, tx, tenant, now, actor, action, target, nil, detail)
	})
}

// RecordUnknownChallenge records that a machine's evidence quoted a nonce that this service never made.
func (s *Store) RecordUnknownChallenge(ctx context.Context, tenant, machineID uuid.UUID, detail json.RawMessage, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	return s.RecordAudit(ctx, tenant, "evidence.unknown_challenge", "machine:"+machineID.String(), detail, now, actor)
}
