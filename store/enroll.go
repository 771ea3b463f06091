package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// CreateEnrollment admits a machine: it takes one use of the join token, finds or makes the machine, and
// records what activation has to prove; with in.Proved the key is active at once. All in one transaction:
// any error leaves everything as it was, the token's use included.
//
// A machine is found by its external id, else by its EK, else by its name. It keeps the EK and AK that it
// first came with: while it has an active key, or an activation is pending and not expired, another EK or
// AK is ErrIdentityConflict, and so is an EK or AK of another machine. The same EK and AK enrol again at
// will (an agent that lost its state). ErrTokenInvalid: the join token is not usable.
func (s *Store) CreateEnrollment(ctx context.Context, tenant uuid.UUID, in EnrollmentInput, now time.Time, actor Actor) (Enrollment, error) {
	var e Enrollment
	var err error
	// Of two first enrolments of one identity both may find no machine; the database lets one make it, and
	// the other begins again and finds it.
	for range 5 {
		err = s.inTx(ctx, func(tx pgx.Tx) error {
			e, err = createEnrollment(ctx, tx, tenant, in, now, actor)
			return err
		})
		if !errors.Is(err, errLostRace) && !isViolation(err, "") && !isCode(err, "40P01") { // deadlock_detected
			break
		}
	}
	if errors.Is(err, errLostRace) || isViolation(err, "") {
		err = ErrIdentityConflict
	}
	if err != nil {
		return Enrollment{}, fmt.Errorf("enrol: %w", err)
	}
	return e, nil
}

var errLostRace = errors.New("another enrolment came first")

func createEnrollment(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, in EnrollmentInput, now time.Time, actor Actor) (Enrollment, error) {
	var forcedScaleSet string
	var forced map[string]string
	var tokenID uuid.UUID
	err := tx.QueryRow(ctx, `UPDATE join_tokens SET uses_left = uses_left - 1
		WHERE tenant_id = $1 AND token_hash = $2 AND expires_at > $3 AND uses_left > 0 RETURNING token_id, scale_set, labels`,
		tenant, in.JoinTokenHash, now).Scan(&tokenID, &forcedScaleSet, &forced)
	if errors.Is(err, pgx.ErrNoRows) {
		return Enrollment{}, ErrTokenInvalid
	}
	if err != nil {
		return Enrollment{}, fmt.Errorf("take a use of the join token: %w", err)
	}
	if forcedScaleSet != "" {
		in.Machine.ScaleSet = forcedScaleSet
	}
	if len(forced) > 0 {
		labels := maps.Clone(labelsOrEmpty(in.Machine.Labels))
		maps.Copy(labels, forced)
		in.Machine.Labels = labels
	}

	m, found, err := findEnrolling(ctx, tx, tenant, in, now)
	if err != nil {
		return Enrollment{}, err
	}
	if found {
		if m, err = mergeMachine(ctx, tx, tenant, m, in.Machine, now, actor); err != nil {
			return Enrollment{}, err
		}
	} else {
		var inserted bool
		if m, inserted, err = insertMachine(ctx, tx, tenant, in.Machine, "enrolling", now, actor); err != nil {
			return Enrollment{}, err
		}
		if !inserted {
			return Enrollment{}, errLostRace
		}
	}
	if err := refuseForeignAK(ctx, tx, tenant, m.ID, in.AKName, now); err != nil {
		return Enrollment{}, err
	}
	if in.EKPublic != nil {
		fingerprint := sha256.Sum256(in.EKPublic)
		if err := releaseEK(ctx, tx, tenant, m.ID, fingerprint[:], now); err != nil {
			return Enrollment{}, err
		}
		if _, err := tx.Exec(ctx, `UPDATE machines SET ek_public = $3, ek_fingerprint = $4, updated_at = $5
			WHERE tenant_id = $1 AND machine_id = $2 AND ek_fingerprint IS DISTINCT FROM $4`, tenant, m.ID, in.EKPublic, fingerprint[:], now); err != nil {
			return Enrollment{}, fmt.Errorf("claim the EK: %w", err)
		}
	}
	if _, err := tx.Exec(ctx, `UPDATE enrollments SET status = 'expired', secret_hash = NULL, updated_at = $3
		WHERE tenant_id = $1 AND machine_id = $2 AND status = 'activation_required'`, tenant, m.ID, now); err != nil {
		return Enrollment{}, fmt.Errorf("end earlier enrolments: %w", err)
	}

	e := Enrollment{ID: newID(now), MachineID: m.ID, Status: "activation_required", AKPublic: in.AKPublic, AKName: in.AKName, Assurance: in.Assurance, ExpiresAt: in.ExpiresAt}
	if in.Proved {
		e.Status = "active"
		in.SecretHash = nil
	}
	if _, err := tx.Exec(ctx, `INSERT INTO enrollments (tenant_id, enrollment_id, machine_id, status, ak_public, ak_name, ek_public, ek_certificate,
			secret_hash, assurance, evidence, expires_at, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)`,
		tenant, e.ID, m.ID, e.Status, in.AKPublic, in.AKName, in.EKPublic, in.EKCertificate, in.SecretHash, string(in.Assurance), in.Evidence, in.ExpiresAt, now); err != nil {
		return Enrollment{}, fmt.Errorf("record the enrolment: %w", err)
	}
	if in.Proved {
		key := AttestationKey{MachineID: m.ID, Public: in.AKPublic, Name: in.AKName, Assurance: in.Assurance, Evidence: in.Evidence}
		if key, err = activateKey(ctx, tx, tenant, key, in.EKPublic, in.EKCertificate, now); err != nil {
			return Enrollment{}, err
		}
		e.KeyID = key.ID
		if _, err := tx.Exec(ctx, `UPDATE enrollments SET key_id = $3 WHERE tenant_id = $1 AND enrollment_id = $2`, tenant, e.ID, key.ID); err != nil {
			return Enrollment{}, fmt.Errorf("record the enrolment: %w", err)
		}
	} else if _, err := tx.Exec(ctx, `UPDATE machines SET state = 'enrolling' WHERE tenant_id = $1 AND machine_id = $2 AND state = 'registered'`, tenant, m.ID); err != nil {
		return Enrollment{}, fmt.Errorf("record the enrolment: %w", err)
	}
	return e, audit(ctx, tx, tenant, now, actor, "enrollment.create", "machine:"+m.ID.String(), nil,
		map[string]any{"enrollment_id": e.ID, "join_token_id": tokenID, "status": e.Status, "ak_name": fmt.Sprintf("%x", in.AKName), "assurance": in.Assurance})
}

// findEnrolling finds and locks the machine that in is of, and refuses another identity.
func findEnrolling(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, in EnrollmentInput, now time.Time) (m Machine, found bool, err error) {
	type lookup struct {
		cond string
		arg  any
	}
	var lookups []lookup
	if in.Machine.ExternalID != "" {
		lookups = append(lookups, lookup{`m.external_id = $2`, in.Machine.ExternalID})
	}
	if in.EKPublic != nil {
		fingerprint := sha256.Sum256(in.EKPublic)
		lookups = append(lookups, lookup{`m.ek_fingerprint = $2`, fingerprint[:]})
	}
	if in.Machine.Name != "" && in.Machine.ExternalID == "" {
		lookups = append(lookups, lookup{`m.name = $2`, in.Machine.Name})
	} else if in.Machine.Name != "" {
		lookups = append(lookups, lookup{`m.name = $2 AND m.external_id = ''`, in.Machine.Name})
	}
	for _, l := range lookups {
		rows, _ := tx.Query(ctx, `SELECT `+machineColumns+machineTables+`WHERE m.tenant_id = $1 AND `+l.cond+` ORDER BY m.machine_id LIMIT 2 FOR NO KEY UPDATE OF m`, tenant, l.arg)
		ms, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Machine, error) { return scanMachine(row) })
		if err != nil {
			return Machine{}, false, fmt.Errorf("find the machine: %w", err)
		}
		if len(ms) == 0 {
			continue
		}
		if len(ms) > 1 {
			return Machine{}, false, fmt.Errorf("several machines have the name %q, so an external id is needed: %w", in.Machine.Name, ErrIdentityConflict)
		}
		if err := checkIdentity(ctx, tx, tenant, ms[0], in, now); err != nil {
			return Machine{}, false, err
		}
		return ms[0], true, nil
	}
	return Machine{}, false, nil
}

// checkIdentity refuses an EK or AK that is not the locked machine's. The identity is claimed by an active
// key, or by a pending activation until it expires.
func checkIdentity(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, m Machine, in EnrollmentInput, now time.Time) error {
	if m.ExternalID != "" && in.Machine.ExternalID != "" && m.ExternalID != in.Machine.ExternalID {
		return fmt.Errorf("the EK is that of the machine with external id %q: %w", m.ExternalID, ErrIdentityConflict)
	}
	if err := releaseIdentity(ctx, tx, tenant, m.ID, now); err != nil {
		return err
	}
	var ek []byte
	var claimedAKs [][]byte
	err := tx.QueryRow(ctx, `SELECT m.ek_public, ARRAY(
			SELECT ak_name FROM attestation_keys k WHERE k.tenant_id = $1 AND k.machine_id = $2 AND k.state = 'active'
			UNION ALL SELECT ak_name FROM enrollments e WHERE e.tenant_id = $1 AND e.machine_id = $2 AND e.status = 'activation_required' AND e.expires_at > $3)
		FROM machines m WHERE m.tenant_id = $1 AND m.machine_id = $2`, tenant, m.ID, now).Scan(&ek, &claimedAKs)
	if err != nil {
		return fmt.Errorf("read the machine's identity: %w", err)
	}
	if ek != nil && in.EKPublic != nil && !bytes.Equal(ek, in.EKPublic) {
		return fmt.Errorf("machine %s has another EK: %w", m.ID, ErrIdentityConflict)
	}
	for _, name := range claimedAKs {
		if !bytes.Equal(name, in.AKName) {
			return fmt.Errorf("machine %s has another AK: %w", m.ID, ErrIdentityConflict)
		}
	}
	return nil
}

// releaseIdentity frees the EK of a machine that has no active key and no activation that could still
// succeed: somebody began to enrol and did not prove anything.
func releaseIdentity(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, now time.Time) error {
	_, err := tx.Exec(ctx, `UPDATE machines m SET ek_public = NULL, ek_fingerprint = NULL, state = 'registered', updated_at = $3
		WHERE m.tenant_id = $1 AND m.machine_id = $2 AND m.state <> 'registered'
		AND NOT EXISTS (SELECT FROM attestation_keys k WHERE k.tenant_id = $1 AND k.machine_id = $2 AND k.state = 'active')
		AND NOT EXISTS (SELECT FROM enrollments e WHERE e.tenant_id = $1 AND e.machine_id = $2 AND e.status = 'activation_required' AND e.expires_at > $3)`,
		tenant, machineID, now)
	if err != nil {
		return fmt.Errorf("release the machine's identity: %w", err)
	}
	return nil
}

// releaseEK frees an EK that another machine claimed without proving it. Where that machine has proved it, or
// still can, the claim that follows violates machines_ek.
func releaseEK(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, fingerprint []byte, now time.Time) error {
	var other uuid.UUID
	err := tx.QueryRow(ctx, `SELECT machine_id FROM machines WHERE tenant_id = $1 AND ek_fingerprint = $2 AND machine_id <> $3 FOR UPDATE`,
		tenant, fingerprint, machineID).Scan(&other)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the EK at other machines: %w", err)
	}
	return releaseIdentity(ctx, tx, tenant, other, now)
}

// refuseForeignAK refuses an AK that answers, or is about to answer, for another machine.
func refuseForeignAK(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, akName []byte, now time.Time) error {
	var taken bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM attestation_keys WHERE tenant_id = $1 AND ak_name = $3 AND machine_id <> $2 AND state = 'active')
		OR EXISTS (SELECT FROM enrollments WHERE tenant_id = $1 AND ak_name = $3 AND machine_id <> $2 AND status = 'activation_required' AND expires_at > $4)`,
		tenant, machineID, akName, now).Scan(&taken)
	if err != nil {
		return fmt.Errorf("look for the AK at other machines: %w", err)
	}
	if taken {
		return fmt.Errorf("the AK is that of another machine: %w", ErrIdentityConflict)
	}
	return nil
}

const enrollmentColumns = `enrollment_id, machine_id, status, ak_public, ak_name, assurance, key_id, expires_at`

func scanEnrollment(row pgx.Row, more ...any) (Enrollment, error) {
	var e Enrollment
	var key *uuid.UUID
	err := row.Scan(append([]any{&e.ID, &e.MachineID, &e.Status, &e.AKPublic, &e.AKName, &e.Assurance, &key, &e.ExpiresAt}, more...)...)
	if key != nil {
		e.KeyID = *key
	}
	return e, err
}

// GetEnrollment reads one enrolment. ErrNotFound.
func (s *Store) GetEnrollment(ctx context.Context, tenant, id uuid.UUID) (Enrollment, error) {
	e, err := scanEnrollment(s.pool.QueryRow(ctx, `SELECT `+enrollmentColumns+` FROM enrollments WHERE tenant_id = $1 AND enrollment_id = $2`, tenant, id))
	if err != nil {
		return Enrollment{}, notFound(err, "enrolment", id)
	}
	return e, nil
}

// ActivateEnrollment uses the enrolment's one try: secretHash is the SHA-256 of the secret that the machine's
// TPM released. The try is burnt in the same transaction, right or wrong. Right: the attestation key becomes
// active. Wrong or too late: ErrTokenInvalid. Used before: ErrAttemptUsed. Unknown: ErrNotFound. The AK became
// another machine's meanwhile: ErrIdentityConflict.
func (s *Store) ActivateEnrollment(ctx context.Context, tenant, id uuid.UUID, secretHash []byte, now time.Time, actor Actor) (Enrollment, error) {
	known, err := s.GetEnrollment(ctx, tenant, id)
	if err != nil {
		return Enrollment{}, err
	}
	var e Enrollment
	var refused error // answered after the commit that burns the try
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		// The machine first, as CreateEnrollment does, so that the two cannot wait for each other.
		if _, err := lockMachine(ctx, tx, tenant, `m.machine_id = $2`, known.MachineID); err != nil {
			return notFound(err, "machine", known.MachineID)
		}
		var want, ekPublic, ekCertificate, evidence []byte
		e, err = scanEnrollment(tx.QueryRow(ctx, `SELECT `+enrollmentColumns+`, secret_hash, ek_public, ek_certificate, evidence
			FROM enrollments WHERE tenant_id = $1 AND enrollment_id = $2 FOR UPDATE`, tenant, id), &want, &ekPublic, &ekCertificate, &evidence)
		if err != nil {
			return notFound(err, "enrolment", id)
		}
		switch {
		case e.Status == "active" || e.Status == "failed":
			return ErrAttemptUsed
		case e.Status == "expired" || !now.Before(e.ExpiresAt):
			e.Status, refused = "expired", fmt.Errorf("the enrolment has expired: %w", ErrTokenInvalid)
		case want == nil || subtle.ConstantTimeCompare(want, secretHash) != 1:
			e.Status, refused = "failed", fmt.Errorf("the secret is wrong: %w", ErrTokenInvalid)
		default:
			e.Status = "active"
			key := AttestationKey{MachineID: e.MachineID, Public: e.AKPublic, Name: e.AKName, Assurance: e.Assurance, Evidence: evidence}
			if key, err = activateKey(ctx, tx, tenant, key, ekPublic, ekCertificate, now); err != nil {
				return err
			}
			e.KeyID = key.ID
		}
		if _, err := tx.Exec(ctx, `UPDATE enrollments SET status = $3, secret_hash = NULL, key_id = $4, updated_at = $5 WHERE tenant_id = $1 AND enrollment_id = $2`,
			tenant, id, e.Status, pgUUID(e.KeyID), now); err != nil {
			return fmt.Errorf("burn the try: %w", err)
		}
		if refused != nil {
			if err := releaseIdentity(ctx, tx, tenant, e.MachineID, now); err != nil {
				return err
			}
		}
		return audit(ctx, tx, tenant, now, actor, "enrollment.activate", "machine:"+e.MachineID.String(), nil,
			map[string]any{"enrollment_id": id, "status": e.Status})
	})
	if isViolation(err, "attestation_keys_active_name") {
		err = ErrIdentityConflict
	}
	if err = errors.Join(err, refused); err != nil {
		return Enrollment{}, fmt.Errorf("activate enrolment %s: %w", id, err)
	}
	return e, nil
}
