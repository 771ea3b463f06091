package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier"
)

const keyColumns = `k.key_id, k.machine_id, k.ak_public, k.ak_name, k.assurance, k.state, k.evidence, k.created_at,
	k.kind, k.anchor_fingerprint, k.certificate_not_after`

func scanKey(row pgx.Row) (AttestationKey, error) {
	var k AttestationKey
	err := row.Scan(&k.ID, &k.MachineID, &k.Public, &k.Name, &k.Assurance, &k.State, &k.Evidence, &k.CreatedAt,
		&k.Kind, zeroNull(&k.AnchorFingerprint), &k.CertificateNotAfter)
	return k, err
}

// kindOr is the kind of a key; one that says nothing is a TPM's.
func kindOr(kind string) string { return cmp.Or(kind, KeyTPM) }

// textOrNull stores the empty text as NULL.
func textOrNull(s string) pgtype.Text { return pgtype.Text{String: s, Valid: s != ""} }

// zeroNull scans NULL as the empty text.
func zeroNull(to *string) any { return (*nullText)(to) }

type nullText string

// ScanText implements pgtype.TextScanner.
func (t *nullText) ScanText(v pgtype.Text) error {
	*t = nullText(v.String)
	return nil
}

// activeKey reads the machine's active key, nil if it has none.
func activeKey(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID) (*AttestationKey, error) {
	k, err := scanKey(tx.QueryRow(ctx, `SELECT `+keyColumns+` FROM attestation_keys k WHERE k.tenant_id = $1 AND k.machine_id = $2 AND k.state = 'active'`, tenant, machineID))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the active key: %w", err)
	}
	return &k, nil
}

// assuranceOrder is strongest first.
var assuranceOrder = []verifier.Assurance{verifier.TEEBound, verifier.EKActivated, verifier.AKCertified, verifier.FirstUse}

// activateKey makes key the active one of its machine, which the caller has locked. A key that is active
// already stays, with its id, and takes the better proof of the two, or the later of two that are as good: a renewed
// certificate counts. Another active key is replaced.
func activateKey(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, key AttestationKey, ekPublic, ekCertificate []byte, now time.Time) (AttestationKey, error) {
	old, err := activeKey(ctx, tx, tenant, key.MachineID)
	if err != nil {
		return AttestationKey{}, err
	}
	switch {
	case old != nil && bytes.Equal(old.Name, key.Name):
		better := slices.Index(assuranceOrder, key.Assurance) < slices.Index(assuranceOrder, old.Assurance)
		renewed := key.Assurance == old.Assurance && (key.AnchorFingerprint != "" && key.AnchorFingerprint != old.AnchorFingerprint ||
			key.CertificateNotAfter != nil && !sameTime(key.CertificateNotAfter, old.CertificateNotAfter))
		if better || renewed {
			old.Assurance, old.Evidence = key.Assurance, key.Evidence
			old.AnchorFingerprint, old.CertificateNotAfter = key.AnchorFingerprint, key.CertificateNotAfter
			if _, err := tx.Exec(ctx, `UPDATE attestation_keys SET assurance = $3, evidence = $4, ek_public = $5, ek_certificate = $6,
					anchor_fingerprint = $7, certificate_not_after = $8 WHERE tenant_id = $1 AND key_id = $2`,
				tenant, old.ID, string(old.Assurance), old.Evidence, ekPublic, ekCertificate, textOrNull(old.AnchorFingerprint), old.CertificateNotAfter); err != nil {
				return AttestationKey{}, fmt.Errorf("note the key's better proof: %w", err)
			}
		}
		key = *old
	default:
		if old != nil {
			if _, err := tx.Exec(ctx, `UPDATE attestation_keys SET state = 'replaced', ended_at = $3 WHERE tenant_id = $1 AND key_id = $2`, tenant, old.ID, now); err != nil {
				return AttestationKey{}, fmt.Errorf("replace the active key: %w", err)
			}
		}
		key.ID, key.State, key.CreatedAt, key.Kind = newID(now), "active", now, kindOr(key.Kind)
		if key.Public == nil {
			key.Public = []byte{}
		}
		if _, err := tx.Exec(ctx, `INSERT INTO attestation_keys (tenant_id, key_id, machine_id, ak_public, ak_name, ek_public, ek_certificate, assurance, state, evidence, created_at,
				kind, anchor_fingerprint, certificate_not_after)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'active', $9, $10, $11, $12, $13)`,
			tenant, key.ID, key.MachineID, key.Public, key.Name, ekPublic, ekCertificate, string(key.Assurance), key.Evidence, now,
			key.Kind, textOrNull(key.AnchorFingerprint), key.CertificateNotAfter); err != nil {
			return AttestationKey{}, fmt.Errorf("activate the key: %w", err)
		}
		// What was remembered of the old key's quotes says nothing about the new key's, and a judgement by
		// the new key is a new run.
		if _, err := tx.Exec(ctx, `UPDATE machine_attestation_state SET fingerprint = NULL, next_due_at = NULL, clock_key_id = NULL, last_log = NULL, last_platform = NULL, ima_state = NULL
			WHERE tenant_id = $1 AND machine_id = $2`, tenant, key.MachineID); err != nil {
			return AttestationKey{}, fmt.Errorf("activate the key: %w", err)
		}
	}
	_, err = tx.Exec(ctx, `UPDATE machines SET state = 'active', assurance = $3, updated_at = $4 WHERE tenant_id = $1 AND machine_id = $2`,
		tenant, key.MachineID, string(key.Assurance), now)
	if err != nil {
		return AttestationKey{}, fmt.Errorf("activate the machine: %w", err)
	}
	return key, nil
}

func sameTime(a, b *time.Time) bool { return a == b || a != nil && b != nil && a.Equal(*b) }

// AddAttestationKey makes a key active that an administrator vouches for; key.Public, Name, Assurance and
// Evidence are given. It replaces an active key only where that one was vouched for too (first_use); the same
// key again changes nothing. ErrIdentityConflict: the machine has a proved key, or the AK is another
// machine's. ErrNotFound: no such machine.
func (s *Store) AddAttestationKey(ctx context.Context, tenant, machineID uuid.UUID, key AttestationKey, now time.Time, actor Actor) (AttestationKey, error) {
	ctx = withTenant(ctx, tenant)
	key.MachineID = machineID
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := lockMachine(ctx, tx, tenant, `m.machine_id = $2`, machineID); err != nil {
			return notFound(err, "machine", machineID)
		}
		old, err := activeKey(ctx, tx, tenant, machineID)
		if err != nil {
			return err
		}
		if old != nil && !bytes.Equal(old.Name, key.Name) && old.Assurance != verifier.FirstUse {
			return fmt.Errorf("machine %s has a proved AK: %w", machineID, ErrIdentityConflict)
		}
		if err := refuseForeignAK(ctx, tx, tenant, machineID, key.Name, now); err != nil {
			return err
		}
		// An administrator's word ends an activation that is under way.
		if _, err := tx.Exec(ctx, `UPDATE enrollments SET status = 'expired', secret_hash = NULL, updated_at = $3
			WHERE tenant_id = $1 AND machine_id = $2 AND status = 'activation_required'`, tenant, machineID, now); err != nil {
			return fmt.Errorf("end pending enrolments: %w", err)
		}
		if key, err = activateKey(ctx, tx, tenant, key, nil, nil, now); err != nil {
			return err
		}
		if err := s.expectFirst(ctx, tx, tenant, machineID, now); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "attestation_key.add", "machine:"+machineID.String(), nil,
			map[string]any{"key_id": key.ID, "ak_name": fmt.Sprintf("%x", key.Name), "assurance": key.Assurance, "evidence": key.Evidence})
	})
	if isViolation(err, "attestation_keys_active_name") {
		err = ErrIdentityConflict
	}
	if err != nil {
		return AttestationKey{}, fmt.Errorf("add attestation key: %w", err)
	}
	return key, nil
}
