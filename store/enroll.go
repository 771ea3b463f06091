package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// CreateEnrollment admits a machine: it takes one use of the join token, finds or makes the machine, and
// records what activation has to prove; with in.Proved the key is active at once. All in one transaction:
// any error leaves everything as it was, the token's use included.
//
// A machine is found by its external id, else by its EK, else by its name. Of a machine that was there before,
// nothing changes until the key is proved: what the request says of it is kept with the enrolment, and
// ActivateEnrollment applies it. Several enrolments of such a machine may be pending; the first to be activated
// wins. A machine that is made here has only its name, external id and EK, and is released of the EK when the
// activation fails or expires; until then another EK or AK for it is ErrIdentityConflict.
//
// A machine with an active key keeps its EK and AK: others are ErrIdentityConflict, and so is an EK or AK that
// another machine proved. The same EK and AK enrol again at will (an agent that lost its state).
// ErrTokenInvalid: the join token is not usable.
func (s *Store) CreateEnrollment(ctx context.Context, tenant uuid.UUID, in EnrollmentInput, now time.Time, actor Actor) (Enrollment, error) {
	ctx = withTenant(ctx, tenant)
	var e Enrollment
	var err error
	// Of two first enrolments of one identity both may find no machine; the database lets one make it, and
	// the other begins again and finds it.
	for range 5 {
		err = s.inTx(ctx, func(tx pgx.Tx) error {
			if e, err = createEnrollment(ctx, tx, tenant, in, now, actor); err != nil {
				return err
			}
			if e.Status == "active" {
				if err := s.expectFirst(ctx, tx, tenant, e.MachineID, now); err != nil {
					return err
				}
			}
			if !e.madeMachine {
				return nil
			}
			return s.withinQuota(ctx, tx, tenant, QuotaMachines, now)
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
	claim := claimOf(in.Machine, forcedScaleSet, forced)
	m, found, err := findEnrolling(ctx, tx, tenant, in, now)
	if err != nil {
		return Enrollment{}, err
	}
	if !found {
		var inserted bool
		m, inserted, err = insertMachine(ctx, tx, tenant, MachineInput{ExternalID: in.Machine.ExternalID, Name: in.Machine.Name}, "enrolling", now, actor)
		if err != nil {
			return Enrollment{}, err
		}
		if !inserted {
			return Enrollment{}, errLostRace
		}
	}
	// A machine that enrolments made and none has proved yet belongs to the first of them until that expires.
	unproved := m.State == "enrolling"
	if err := refuseAK(ctx, tx, tenant, m.ID, in.AKName, unproved, now); err != nil {
		return Enrollment{}, err
	}
	if in.EKPublic != nil {
		if err := refuseForeignEK(ctx, tx, tenant, m.ID, in.EKPublic); err != nil {
			return Enrollment{}, err
		}
		if unproved {
			if err := releaseEK(ctx, tx, tenant, m.ID, in.EKPublic, now); err != nil {
				return Enrollment{}, err
			}
			if err := claimEK(ctx, tx, tenant, m.ID, in.EKPublic, now); err != nil {
				return Enrollment{}, err
			}
		}
	}
	// At a machine that was there before, a stranger's enrolment must not end that of the machine itself.
	if _, err := tx.Exec(ctx, `UPDATE enrollments SET status = 'expired', secret_hash = NULL, updated_at = $3
		WHERE tenant_id = $1 AND machine_id = $2 AND status = 'activation_required' AND ($4 OR expires_at <= $3)`, tenant, m.ID, now, unproved); err != nil {
		return Enrollment{}, fmt.Errorf("end earlier enrolments: %w", err)
	}

	if in.AKPublic == nil {
		in.AKPublic = []byte{} // a guest without a vTPM
	}
	e := Enrollment{madeMachine: !found, ID: newID(now), MachineID: m.ID, Status: "activation_required", AKPublic: in.AKPublic, AKName: in.AKName, Assurance: in.Assurance, ExpiresAt: in.ExpiresAt}
	if in.Proved {
		e.Status = "active"
		in.SecretHash = nil
	}
	if _, err := tx.Exec(ctx, `INSERT INTO enrollments (tenant_id, enrollment_id, machine_id, status, ak_public, ak_name, ek_public, ek_certificate,
			inventory, made_machine, secret_hash, assurance, evidence, expires_at, created_at, updated_at,
			kind, anchor_fingerprint, certificate_not_after)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15, $16, $17, $18)`,
		tenant, e.ID, m.ID, e.Status, in.AKPublic, in.AKName, in.EKPublic, in.EKCertificate, claim, !found, in.SecretHash, string(in.Assurance), in.Evidence,
		in.ExpiresAt, now, kindOr(in.Kind), textOrNull(in.AnchorFingerprint), in.CertificateNotAfter); err != nil {
		return Enrollment{}, fmt.Errorf("record the enrolment: %w", err)
	}
	if in.Proved {
		key := AttestationKey{MachineID: m.ID, Public: in.AKPublic, Name: in.AKName, Assurance: in.Assurance, Evidence: in.Evidence,
			Kind: in.Kind, AnchorFingerprint: in.AnchorFingerprint, CertificateNotAfter: in.CertificateNotAfter}
		p := proof{enrollment: e.ID, key: key, ekPublic: in.EKPublic, ekCertificate: in.EKCertificate, claim: claim}
		if key, err = applyProof(ctx, tx, tenant, m, p, now, actor); err != nil {
			return Enrollment{}, err
		}
		e.KeyID = key.ID
		if _, err := tx.Exec(ctx, `UPDATE enrollments SET key_id = $3 WHERE tenant_id = $1 AND enrollment_id = $2`, tenant, e.ID, key.ID); err != nil {
			return Enrollment{}, fmt.Errorf("record the enrolment: %w", err)
		}
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
	var fingerprint [sha256.Size]byte
	if in.Machine.ExternalID != "" {
		lookups = append(lookups, lookup{`m.external_id = $2`, in.Machine.ExternalID})
	}
	if in.EKPublic != nil {
		fingerprint = sha256.Sum256(in.EKPublic)
		lookups = append(lookups, lookup{`m.ek_fingerprint = $2 AND m.state <> 'enrolling'`, fingerprint[:]})
	}
	if in.Machine.Name != "" && in.Machine.ExternalID == "" {
		lookups = append(lookups, lookup{`m.name = $2`, in.Machine.Name})
	} else if in.Machine.Name != "" {
		lookups = append(lookups, lookup{`m.name = $2 AND m.external_id = ''`, in.Machine.Name})
	}
	if in.EKPublic != nil { // last, since nobody has proved that claim
		lookups = append(lookups, lookup{`m.ek_fingerprint = $2 AND m.state = 'enrolling'`, fingerprint[:]})
	}
	for i, l := range lookups {
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
		m := ms[0]
		if m.State == "enrolling" {
			released, err := releaseIdentity(ctx, tx, tenant, m.ID, now)
			if err != nil {
				return Machine{}, false, err
			}
			if released {
				m.State = "registered"
				if in.EKPublic != nil && i == len(lookups)-1 {
					continue // nothing but the EK, which it has no more, made it this machine
				}
			}
		}
		if m.ExternalID != "" && in.Machine.ExternalID != "" && m.ExternalID != in.Machine.ExternalID {
			return Machine{}, false, fmt.Errorf("the EK is that of the machine with external id %q: %w", m.ExternalID, ErrIdentityConflict)
		}
		if err := refuseOtherKeys(ctx, tx, tenant, m.ID, in.EKPublic, in.AKName, m.State == "enrolling", now); err != nil {
			return Machine{}, false, err
		}
		return m, true, nil
	}
	return Machine{}, false, nil
}

// refuseOtherKeys refuses an EK or AK that is not the locked machine's: that of its active key, and with pending
// also that of an activation that may still succeed.
func refuseOtherKeys(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, ekPublic, akName []byte, pending bool, now time.Time) error {
	var ek []byte
	var claimedAKs [][]byte
	err := tx.QueryRow(ctx, `SELECT m.ek_public, ARRAY(
			SELECT ak_name FROM attestation_keys k WHERE k.tenant_id = $1 AND k.machine_id = $2 AND k.state = 'active'
			UNION ALL SELECT ak_name FROM enrollments e WHERE $4 AND e.tenant_id = $1 AND e.machine_id = $2 AND e.status = 'activation_required' AND e.expires_at > $3)
		FROM machines m WHERE m.tenant_id = $1 AND m.machine_id = $2`, tenant, machineID, now, pending).Scan(&ek, &claimedAKs)
	if err != nil {
		return fmt.Errorf("read the machine's identity: %w", err)
	}
	if ek != nil && ekPublic != nil && !bytes.Equal(ek, ekPublic) {
		return fmt.Errorf("machine %s has another EK: %w", machineID, ErrIdentityConflict)
	}
	for _, name := range claimedAKs {
		if !bytes.Equal(name, akName) {
			return fmt.Errorf("machine %s has another AK: %w", machineID, ErrIdentityConflict)
		}
	}
	return nil
}

// releaseIdentity frees the EK of a machine that an enrolment made, and that has no activation that could still
// succeed: somebody began to enrol and did not prove anything.
func releaseIdentity(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, now time.Time) (released bool, err error) {
	tag, err := tx.Exec(ctx, `UPDATE machines m SET ek_public = NULL, ek_fingerprint = NULL, state = 'registered', updated_at = $3
		WHERE m.tenant_id = $1 AND m.machine_id = $2 AND m.state = 'enrolling'
		AND NOT EXISTS (SELECT FROM enrollments e WHERE e.tenant_id = $1 AND e.machine_id = $2 AND e.status = 'activation_required' AND e.expires_at > $3)`,
		tenant, machineID, now)
	if err != nil {
		return false, fmt.Errorf("release the machine's identity: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// releaseEK frees an EK that another machine claimed without proving it. Where that machine still can, the claim
// that follows violates machines_ek.
func releaseEK(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, ekPublic []byte, now time.Time) error {
	fingerprint := sha256.Sum256(ekPublic)
	var other uuid.UUID
	err := tx.QueryRow(ctx, `SELECT machine_id FROM machines WHERE tenant_id = $1 AND ek_fingerprint = $2 AND machine_id <> $3 FOR UPDATE`,
		tenant, fingerprint[:], machineID).Scan(&other)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the EK at other machines: %w", err)
	}
	_, err = releaseIdentity(ctx, tx, tenant, other, now)
	return err
}

// refuseForeignAK refuses an AK that answers for another machine, or is about to for one that an enrolment made.
func refuseForeignAK(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, akName []byte, now time.Time) error {
	return refuseAK(ctx, tx, tenant, machineID, akName, true, now)
}

// refuseAK refuses an AK that answers for another machine, and with pending also one whose activation makes
// another machine.
func refuseAK(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, akName []byte, pending bool, now time.Time) error {
	var taken bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM attestation_keys WHERE tenant_id = $1 AND ak_name = $3 AND machine_id <> $2 AND state = 'active')
		OR $5 AND EXISTS (SELECT FROM enrollments e JOIN machines m USING (tenant_id, machine_id)
			WHERE e.tenant_id = $1 AND e.ak_name = $3 AND e.machine_id <> $2 AND e.status = 'activation_required' AND e.expires_at > $4 AND m.state = 'enrolling')`,
		tenant, machineID, akName, now, pending).Scan(&taken)
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
	ctx = withTenant(ctx, tenant)
	e, err := scanEnrollment(s.pool.QueryRow(ctx, `SELECT `+enrollmentColumns+` FROM enrollments WHERE tenant_id = $1 AND enrollment_id = $2`, tenant, id))
	if err != nil {
		return Enrollment{}, notFound(err, "enrolment", id)
	}
	return e, nil
}

// ActivateEnrollment uses the enrolment's one try: secretHash is the SHA-256 of the secret that the machine's
// TPM released. The try is burnt in the same transaction, right or wrong. Right: the attestation key becomes
// active, the EK is the machine's, and what the enrolment said of the machine is written: what the join token
// forces replaces, what the machine claims fills what is empty. Wrong or too late: ErrTokenInvalid. Used before:
// ErrAttemptUsed. Unknown: ErrNotFound. The machine has another EK or AK meanwhile, or they are another
// machine's: ErrIdentityConflict, and nothing changes.
func (s *Store) ActivateEnrollment(ctx context.Context, tenant, id uuid.UUID, secretHash []byte, now time.Time, actor Actor) (Enrollment, error) {
	ctx = withTenant(ctx, tenant)
	known, err := s.GetEnrollment(ctx, tenant, id)
	if err != nil {
		return Enrollment{}, err
	}
	var e Enrollment
	var refused error // answered after the commit that burns the try
	for range 5 {
		err = s.inTx(ctx, func(tx pgx.Tx) error {
			if e, refused, err = activateEnrollment(ctx, tx, tenant, known, secretHash, now, actor); err != nil || e.Status != "active" {
				return err
			}
			return s.expectFirst(ctx, tx, tenant, e.MachineID, now)
		})
		if !isCode(err, "40P01") { // deadlock_detected: with another machine that claims the EK
			break
		}
	}
	if isViolation(err, "attestation_keys_active_name") || isViolation(err, "machines_ek") {
		err = ErrIdentityConflict
	}
	if err != nil {
		refused = nil // nothing of it was committed
	}
	if err = errors.Join(err, refused); err != nil {
		return Enrollment{}, fmt.Errorf("activate enrolment %s: %w", id, err)
	}
	return e, nil
}

func activateEnrollment(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, known Enrollment, secretHash []byte, now time.Time, actor Actor) (e Enrollment, refused, err error) {
	// The machine first, as CreateEnrollment does, so that the two cannot wait for each other.
	m, err := lockMachine(ctx, tx, tenant, `m.machine_id = $2`, known.MachineID)
	if err != nil {
		return e, nil, notFound(err, "machine", known.MachineID)
	}
	var want, evidence []byte
	p := proof{enrollment: known.ID, ekOpened: true}
	e, err = scanEnrollment(tx.QueryRow(ctx, `SELECT `+enrollmentColumns+`, secret_hash, ek_public, ek_certificate, evidence, inventory,
			kind, anchor_fingerprint, certificate_not_after
		FROM enrollments WHERE tenant_id = $1 AND enrollment_id = $2 FOR UPDATE`, tenant, known.ID), &want, &p.ekPublic, &p.ekCertificate, &evidence, &p.claim,
		&p.key.Kind, zeroNull(&p.key.AnchorFingerprint), &p.key.CertificateNotAfter)
	if err != nil {
		return e, nil, notFound(err, "enrolment", known.ID)
	}
	switch {
	case e.Status == "active" || e.Status == "failed":
		return e, nil, ErrAttemptUsed
	case e.Status == "expired" || !now.Before(e.ExpiresAt):
		e.Status, refused = "expired", fmt.Errorf("the enrolment has expired: %w", ErrTokenInvalid)
	case want == nil || subtle.ConstantTimeCompare(want, secretHash) != 1:
		e.Status, refused = "failed", fmt.Errorf("the secret is wrong: %w", ErrTokenInvalid)
	default:
		e.Status = "active"
		p.key.MachineID, p.key.Public, p.key.Name, p.key.Assurance, p.key.Evidence = e.MachineID, e.AKPublic, e.AKName, e.Assurance, evidence
		key, err := applyProof(ctx, tx, tenant, m, p, now, actor)
		if err != nil {
			return e, nil, err
		}
		e.KeyID = key.ID
	}
	if _, err := tx.Exec(ctx, `UPDATE enrollments SET status = $3, secret_hash = NULL, key_id = $4, updated_at = $5 WHERE tenant_id = $1 AND enrollment_id = $2`,
		tenant, e.ID, e.Status, pgUUID(e.KeyID), now); err != nil {
		return e, nil, fmt.Errorf("burn the try: %w", err)
	}
	if refused != nil {
		if _, err := releaseIdentity(ctx, tx, tenant, e.MachineID, now); err != nil {
			return e, nil, err
		}
	}
	return e, refused, audit(ctx, tx, tenant, now, actor, "enrollment.activate", "machine:"+e.MachineID.String(), nil,
		map[string]any{"enrollment_id": e.ID, "status": e.Status})
}
