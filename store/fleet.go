package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// The kinds of traits that are no single fact of a boot log.
const (
	TraitAK          = "ak"           // public key of the AK, DER SubjectPublicKeyInfo
	TraitSigner      = "signer"       // qualified name of the signer in the quotes
	TraitVM          = "vm"           // the cloud's id of the VM
	TraitInstance    = "instance"     // resource name of the instance in the AK's certificate
	TraitGuest       = "guest"        // REPORT_ID of an SEV-SNP report
	TraitLogIdentity = "log_identity" // strong traits and disks of the boot log, together
)

// MachineTrait is what genuine evidence proves of which machine it is (see table machine_traits).
type MachineTrait struct {
	Kind   string
	Digest [sha256.Size]byte
	Strong bool
}

// NewTrait hashes a value for its tenant: equal values of two tenants are not equal.
func NewTrait(tenant uuid.UUID, kind string, value []byte, strong bool) MachineTrait {
	h := sha256.New()
	h.Write(tenant[:])
	h.Write([]byte(kind))
	h.Write([]byte{0})
	h.Write(value)
	return MachineTrait{Kind: kind, Digest: [sha256.Size]byte(h.Sum(nil)), Strong: strong}
}

// BootPoint is what a genuine quote tells of the life of its TPM.
type BootPoint struct {
	Clock     tpm.ClockState
	Selection string            // bank and PCRs that Boot is made of
	Boot      [sha256.Size]byte // over the values of PCR 0 to 7
	Logged    bool              // a boot log explained the quote
}

// Sighting is a conflict as it was just seen; DetectFleet makes of it what people see.
type Sighting struct {
	Kind  finding.ConflictKind `json:"kind"`
	Other *uuid.UUID           `json:"other,omitempty"` // the other machine of the pair
	Name  string               `json:"name,omitempty"`  // what the other is called where no machine is
	// Observed, First and Second are as in finding.Conflict.
	Observed finding.ConflictObserved `json:"observed"`
	First    *finding.ConflictState   `json:"first,omitempty"`
	Second   *finding.ConflictState   `json:"second,omitempty"`
}

// fleetTable is what a group's records tell of which machines they are, column by column.
type fleetTable struct {
	traitTenants, traitMachines []pgtype.UUID
	traitKinds                  []string
	traitDigests                [][]byte
	traitStrong                 []bool
	traitAts                    []time.Time

	// One row a machine with genuine evidence: its traits are replaced.
	tenants, machines, changes []pgtype.UUID
	ats                        []time.Time

	pointTenants, pointKeys, pointMachines, pointChanges []pgtype.UUID
	resets, restarts, firmware, clocks                   []int64
	selections                                           []string
	boots                                                [][]byte
	logged                                               []bool
	pointAts                                             []time.Time
}

// add notes what a record that begins a run with that verdict tells.
func (t *fleetTable) add(p *pending, verdict uuid.UUID) {
	rec := p.rec
	if p.prepared.traits == nil {
		return
	}
	tenant, machine, change := pgUUID(p.tenant), pgUUID(rec.MachineID), pgUUID(verdict)
	t.tenants, t.machines, t.changes, t.ats = append(t.tenants, tenant), append(t.machines, machine), append(t.changes, change), append(t.ats, rec.ReceivedAt)
	for i := range p.prepared.traits {
		x := &p.prepared.traits[i]
		t.traitTenants, t.traitMachines = append(t.traitTenants, tenant), append(t.traitMachines, machine)
		t.traitKinds, t.traitDigests = append(t.traitKinds, x.Kind), append(t.traitDigests, x.Digest[:])
		t.traitStrong, t.traitAts = append(t.traitStrong, x.Strong), append(t.traitAts, rec.ReceivedAt)
	}
	b := p.prepared.boot
	if b == nil || rec.KeyID == uuid.Nil {
		return
	}
	t.pointTenants, t.pointKeys = append(t.pointTenants, tenant), append(t.pointKeys, pgUUID(rec.KeyID))
	t.pointMachines, t.pointChanges = append(t.pointMachines, machine), append(t.pointChanges, change)
	t.resets, t.restarts = append(t.resets, int64(b.Clock.ResetCount)), append(t.restarts, int64(b.Clock.RestartCount))
	t.firmware = append(t.firmware, int64(b.Clock.FirmwareVersion)) // #nosec G115 -- the same bits
	t.clocks = append(t.clocks, int64(b.Clock.Clock))               // #nosec G115 -- the same bits
	t.selections, t.boots = append(t.selections, b.Selection), append(t.boots, b.Boot[:])
	t.logged, t.pointAts = append(t.logged, b.Logged), append(t.pointAts, rec.ReceivedAt)
}

// Traits that the machine does not show any more go, new ones come, and only those count as a change: most runs begin with
// the traits that are there.
const replaceTraits = `WITH now AS (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::boolean[], $6::timestamptz[])
			u (tenant_id, machine_id, kind, digest, strong, at)),
	gone AS (DELETE FROM machine_traits t USING unnest($7::uuid[], $8::uuid[]) m (tenant_id, machine_id)
		WHERE t.tenant_id = m.tenant_id AND t.machine_id = m.machine_id
			AND NOT EXISTS (SELECT FROM now n WHERE n.tenant_id = t.tenant_id AND n.machine_id = t.machine_id AND n.kind = t.kind AND n.digest = t.digest)),
	come AS (INSERT INTO machine_traits (tenant_id, machine_id, kind, digest, strong, seen_at)
		SELECT n.tenant_id, n.machine_id, n.kind, n.digest, n.strong, n.at FROM now n
		WHERE NOT EXISTS (SELECT FROM machine_traits t WHERE t.tenant_id = n.tenant_id AND t.machine_id = n.machine_id AND t.kind = n.kind AND t.digest = n.digest)
		ON CONFLICT DO NOTHING RETURNING tenant_id, machine_id)
	INSERT INTO fleet_changes (tenant_id, change_id, machine_id, noted_at)
	SELECT m.tenant_id, m.change_id, m.machine_id, m.at FROM unnest($7::uuid[], $8::uuid[], $9::uuid[], $10::timestamptz[]) m (tenant_id, machine_id, change_id, at)
	WHERE EXISTS (SELECT FROM come c WHERE c.tenant_id = m.tenant_id AND c.machine_id = m.machine_id)
	ON CONFLICT DO NOTHING`

const notePoints = `WITH p AS (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
			$9::text[], $10::bytea[], $11::boolean[], $12::timestamptz[])
			u (tenant_id, key_id, machine_id, change_id, reset_count, restart_count, firmware_version, clock, selection, boot, logged, at)),
	noted AS (INSERT INTO tpm_history AS h (tenant_id, key_id, reset_count, restart_count, selection, boot, machine_id, logged, firmware_version,
			clock, first_at, last_clock, last_at)
		SELECT tenant_id, key_id, reset_count, restart_count, selection, boot, machine_id, logged, firmware_version, clock, at, clock, at FROM p
		ON CONFLICT (tenant_id, key_id, reset_count, restart_count, selection, boot)
		DO UPDATE SET last_clock = EXCLUDED.clock, last_at = EXCLUDED.last_at, logged = h.logged OR EXCLUDED.logged)
	INSERT INTO fleet_changes (tenant_id, change_id, machine_id, noted_at)
	SELECT tenant_id, change_id, machine_id, at FROM p ON CONFLICT DO NOTHING`

func (t *fleetTable) queue(b *pgx.Batch) {
	if len(t.machines) > 0 {
		b.Queue(replaceTraits, t.traitTenants, t.traitMachines, t.traitKinds, t.traitDigests, t.traitStrong, t.traitAts, t.tenants, t.machines, t.changes, t.ats)
	}
	if len(t.pointKeys) > 0 {
		b.Queue(notePoints, t.pointTenants, t.pointKeys, t.pointMachines, t.pointChanges, t.resets, t.restarts, t.firmware, t.clocks,
			t.selections, t.boots, t.logged, t.pointAts)
	}
}

// insertSighting only adds a row, so that whoever records waits for nobody who looks at the fleet.
const insertSighting = `INSERT INTO fleet_changes (tenant_id, change_id, machine_id, noted_at, sighting) VALUES ($1, $2, $3, $4, $5)`

// queueSighting notes a conflict that evidence shows.
func queueSighting(b *pgx.Batch, p *pending) error {
	if p.rec.Sighting == nil {
		return nil
	}
	body, err := json.Marshal(p.rec.Sighting)
	if err != nil {
		return fmt.Errorf("marshal a sighting: %w", err)
	}
	b.Queue(insertSighting, pgUUID(p.tenant), pgUUID(newID(p.rec.ReceivedAt)), pgUUID(p.rec.MachineID), p.rec.ReceivedAt, body)
	return nil
}

// NoteSighting notes a conflict that no record shows, since the request was refused.
func (s *Store) NoteSighting(ctx context.Context, tenant, machine uuid.UUID, seen Sighting, now time.Time) error {
	ctx = withTenant(ctx, tenant)
	body, err := json.Marshal(seen)
	if err != nil {
		return fmt.Errorf("marshal a sighting: %w", err)
	}
	if _, err := s.pool.Exec(ctx, insertSighting, pgUUID(tenant), pgUUID(newID(now)), pgUUID(machine), now, body); err != nil {
		return fmt.Errorf("note a sighting: %w", err)
	}
	return nil
}

// MachineBySigner finds the machine whose own quotes are signed by the qualified name that trait is of, and its active key.
// Nil where there is none.
func (s *Store) MachineBySigner(ctx context.Context, tenant uuid.UUID, trait MachineTrait) (*AttestationKey, error) {
	ctx = withTenant(ctx, tenant)
	k, err := scanKey(s.pool.QueryRow(ctx, `SELECT `+keyColumns+` FROM machine_traits t
		JOIN attestation_keys k ON k.tenant_id = t.tenant_id AND k.machine_id = t.machine_id AND k.state = 'active'
		WHERE t.tenant_id = $1 AND t.kind = $2 AND t.digest = $3 ORDER BY t.machine_id LIMIT 1`, pgUUID(tenant), trait.Kind, trait.Digest[:]))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the machine whose TPM signed: %w", err)
	}
	return &k, nil
}
