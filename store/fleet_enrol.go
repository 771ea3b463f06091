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

	"github.com/assay-verifier/assay/verifier/finding"
)

// claimant is who asked for an identity that is not his to have: the keys he brought and what he calls himself.
type claimant struct {
	machine            *uuid.UUID // that he already is; nil for none
	externalID, name   string
	ekPublic, akName   []byte
	proved, akVouchFor bool
}

func (c *claimant) called() string {
	if c.name != "" {
		return c.name
	}
	return c.externalID
}

// NoteRefusedEnrollment records an enrolment that ErrIdentityConflict refused: who asked for what goes into the audit
// record, and the machine whose identity it is gets a sighting for DetectFleet. It answers whether there is one.
//
// Nothing of the refused enrolment is left, and so it is looked up anew whose identity it is. The same TPM that asks for its
// own name with another AK is no conflict: it lost its state.
func (s *Store) NoteRefusedEnrollment(ctx context.Context, tenant uuid.UUID, in EnrollmentInput, now time.Time, actor Actor) (bool, error) {
	ctx = withTenant(ctx, tenant)
	return s.noteRefused(ctx, tenant, claimant{externalID: in.Machine.ExternalID, name: in.Machine.Name, ekPublic: in.EKPublic, akName: in.AKName, proved: in.Proved}, now, actor)
}

// NoteRefusedActivation is NoteRefusedEnrollment for an activation whose secret was right: the TPM has the EK and the AK.
func (s *Store) NoteRefusedActivation(ctx context.Context, tenant, enrollment uuid.UUID, now time.Time, actor Actor) (bool, error) {
	ctx = withTenant(ctx, tenant)
	c := claimant{proved: true}
	var machine uuid.UUID
	err := s.pool.QueryRow(ctx, `SELECT e.machine_id, e.ek_public, e.ak_name, coalesce(e.inventory ->> 'external_id', ''), coalesce(e.inventory ->> 'name', '')
		FROM enrollments e WHERE e.tenant_id = $1 AND e.enrollment_id = $2`, pgUUID(tenant), pgUUID(enrollment)).Scan(&machine, &c.ekPublic, &c.akName, &c.externalID, &c.name)
	if err != nil {
		return false, notFound(err, "enrolment", enrollment)
	}
	c.machine = &machine
	return s.noteRefused(ctx, tenant, c, now, actor)
}

// NoteRefusedKey is NoteRefusedEnrollment for an AK that an administrator wanted to vouch for.
func (s *Store) NoteRefusedKey(ctx context.Context, tenant, machine uuid.UUID, akName []byte, now time.Time, actor Actor) (bool, error) {
	ctx = withTenant(ctx, tenant)
	return s.noteRefused(ctx, tenant, claimant{machine: &machine, akName: akName, akVouchFor: true}, now, actor)
}

func (s *Store) noteRefused(ctx context.Context, tenant uuid.UUID, c claimant, now time.Time, actor Actor) (noted bool, err error) {
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		owner, seen, err := c.ownerOf(ctx, tx, tenant)
		if err != nil {
			return err
		}
		target := "tenant:" + tenant.String()
		if owner != uuid.Nil {
			target = "machine:" + owner.String()
			noted = true
			if !c.akVouchFor {
				seen.Observed.Proved = &c.proved
			}
			seen.Observed.RemoteAddr = actor.RemoteAddr
			body, err := json.Marshal(seen)
			if err != nil {
				return fmt.Errorf("marshal a sighting: %w", err)
			}
			if _, err := tx.Exec(ctx, insertSighting, pgUUID(tenant), pgUUID(newID(now)), pgUUID(owner), now, body); err != nil {
				return err
			}
		}
		ek := ""
		if c.ekPublic != nil {
			ek = fmt.Sprintf("%x", sha256.Sum256(c.ekPublic))
		}
		return audit(ctx, tx, tenant, now, actor, "enrollment.refuse", target, nil, map[string]any{
			"name": c.name, "external_id": c.externalID, "ek_sha256": ek, "ak_name": fmt.Sprintf("%x", c.akName), "kind": seen.Kind, "proved": c.proved})
	})
	if err != nil {
		return false, fmt.Errorf("record a refused enrolment: %w", err)
	}
	return noted, nil
}

// ownerOf finds the machine of the tenant that the claimant conflicts with; uuid.Nil where there is none.
func (c *claimant) ownerOf(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) (owner uuid.UUID, seen Sighting, err error) {
	var fingerprint []byte
	if c.ekPublic != nil {
		sum := sha256.Sum256(c.ekPublic)
		fingerprint = sum[:]
	}
	look := func(kind finding.ConflictKind, what string, digest []byte, sql string, args ...any) error {
		if owner != uuid.Nil {
			return nil
		}
		err := tx.QueryRow(ctx, sql, append([]any{pgUUID(tenant)}, args...)...).Scan(&owner)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		seen.Kind, seen.Observed = kind, finding.ConflictObserved{What: what, SHA256: fmt.Sprintf("%x", digest)}
		return err
	}
	// Whoever already is the owner, by name or by id, does not ask for a second name.
	const other = ` AND m.machine_id IS DISTINCT FROM $3 AND CASE WHEN $4 = '' THEN m.name <> $5 ELSE m.external_id <> $4 END LIMIT 1`
	self := pgUUIDPtr(c.machine)
	err = errors.Join(
		look(finding.EKShared, "ek", fingerprint, `SELECT m.machine_id FROM machines m WHERE m.tenant_id = $1 AND m.ek_fingerprint = $2 AND m.state = 'active'`+other,
			fingerprint, self, c.externalID, c.name),
		look(finding.AKShared, "ak", c.akName, `SELECT m.machine_id FROM attestation_keys k JOIN machines m ON m.tenant_id = k.tenant_id AND m.machine_id = k.machine_id
			WHERE k.tenant_id = $1 AND k.ak_name = $2 AND k.state = 'active'`+other, c.akName, self, c.externalID, c.name),
		look(finding.NameClaimed, "ek", fingerprint, `SELECT m.machine_id FROM machines m WHERE m.tenant_id = $1 AND m.ek_fingerprint <> $2 AND m.state = 'active'
			AND (m.machine_id = $3 OR CASE WHEN $4 = '' THEN m.name = $5 ELSE m.external_id = $4 END) LIMIT 1`, fingerprint, self, c.externalID, c.name))
	if err != nil {
		return uuid.Nil, seen, fmt.Errorf("look whose identity it is: %w", err)
	}
	seen.Name = c.called()
	if owner == uuid.Nil || seen.Kind == finding.NameClaimed {
		return owner, seen, nil
	}
	// The name that he gave himself may be another machine's.
	var known uuid.UUID
	err = tx.QueryRow(ctx, `SELECT m.machine_id FROM machines m WHERE m.tenant_id = $1 AND m.machine_id <> $2
		AND (m.machine_id = $3 OR CASE WHEN $4 = '' THEN m.name = $5 AND $5 <> '' ELSE m.external_id = $4 END) ORDER BY m.machine_id LIMIT 1`,
		pgUUID(tenant), pgUUID(owner), self, c.externalID, c.name).Scan(&known)
	switch {
	case err == nil:
		seen.Other = &known
	case !errors.Is(err, pgx.ErrNoRows):
		return uuid.Nil, seen, fmt.Errorf("look whose identity it is: %w", err)
	}
	return owner, seen, nil
}
