package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// Standing is what a machine was judged to be last, and what has to be known to tell whether that still says something.
type Standing struct {
	VerdictID *uuid.UUID // nil before the first
	NextDueAt *time.Time // when the next evidence is due
	KeyID     *uuid.UUID // the active attestation key; nil where there is none
}

// Standing reads a machine's standing. ErrNotFound: no such machine.
func (s *Store) Standing(ctx context.Context, tenant, machineID uuid.UUID) (Standing, error) {
	ctx = withTenant(ctx, tenant)
	var verdict, key pgtype.UUID
	var due *time.Time
	err := s.pool.QueryRow(ctx, `SELECT st.verdict_id, st.next_due_at, k.key_id FROM machines m
		LEFT JOIN machine_attestation_state st ON st.tenant_id = m.tenant_id AND st.machine_id = m.machine_id
		LEFT JOIN attestation_keys k ON k.tenant_id = m.tenant_id AND k.machine_id = m.machine_id AND k.state = 'active'
		WHERE m.tenant_id = $1 AND m.machine_id = $2`, pgUUID(tenant), pgUUID(machineID)).Scan(&verdict, &due, &key)
	if err != nil {
		return Standing{}, fmt.Errorf("standing: %w", notFound(err, "machine", machineID))
	}
	return Standing{VerdictID: uuidPtr(verdict), NextDueAt: due, KeyID: uuidPtr(key)}, nil
}
