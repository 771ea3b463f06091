package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/finding"
)

// Firmware is what genuine evidence showed of a machine's firmware, where it can be compared with that of others.
type Firmware struct {
	Family, Version string
}

// maxFleetVersions bounds the versions of one family that are counted: those that most machines have.
const maxFleetVersions = 256

// FleetFirmware counts the machines of a tenant by the version of a firmware family that they showed last.
func (s *Store) FleetFirmware(ctx context.Context, tenant uuid.UUID, family string) ([]finding.FleetFirmware, error) {
	ctx = withTenant(ctx, tenant)
	rows, _ := s.pool.Query(ctx, `SELECT version, count(*)::integer FROM machine_firmware WHERE tenant_id = $1 AND family = $2
		GROUP BY version ORDER BY 2 DESC, 1 LIMIT $3`, pgUUID(tenant), family, maxFleetVersions)
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (v finding.FleetFirmware, err error) {
		err = row.Scan(&v.Version, &v.Machines)
		return v, err
	})
	if err != nil {
		return nil, fmt.Errorf("count the firmware versions of %s: %w", family, err)
	}
	return out, nil
}

// firmwareTable is what the records of a group showed of firmware.
type firmwareTable struct {
	tenants, machines  []pgtype.UUID
	families, versions []string
	ats                []time.Time
}

func (t *firmwareTable) add(p *pending) {
	if f := p.rec.Firmware; f != nil {
		t.tenants, t.machines = append(t.tenants, pgUUID(p.tenant)), append(t.machines, pgUUID(p.rec.MachineID))
		t.families, t.versions = append(t.families, f.Family), append(t.versions, f.Version)
		t.ats = append(t.ats, p.rec.ReceivedAt)
	}
}

const upsertFirmware = `INSERT INTO machine_firmware AS x (tenant_id, machine_id, family, version, since)
	SELECT u.tenant_id, u.machine_id, u.family, u.version, u.at
	FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[]) u (tenant_id, machine_id, family, version, at)
	ON CONFLICT (tenant_id, machine_id) DO UPDATE SET family = EXCLUDED.family, version = EXCLUDED.version, since = EXCLUDED.since
	WHERE x.family <> EXCLUDED.family OR x.version <> EXCLUDED.version`

func (t *firmwareTable) queue(b *pgx.Batch) {
	if len(t.machines) > 0 {
		b.Queue(upsertFirmware, t.tenants, t.machines, t.families, t.versions, t.ats)
	}
}

// KeyEndorsement reads the endorsement key that an attestation key was proved against (DER SubjectPublicKeyInfo), and its
// certificate (DER); nil where there is none.
func (s *Store) KeyEndorsement(ctx context.Context, tenant, keyID uuid.UUID) (public, certificate []byte, err error) {
	ctx = withTenant(ctx, tenant)
	err = s.pool.QueryRow(ctx, `SELECT ek_public, ek_certificate FROM attestation_keys WHERE tenant_id = $1 AND key_id = $2`,
		pgUUID(tenant), pgUUID(keyID)).Scan(&public, &certificate)
	if err != nil {
		return nil, nil, fmt.Errorf("read the endorsement of key %s: %w", keyID, err)
	}
	return public, certificate, nil
}
