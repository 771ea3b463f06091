package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/verifier/finding"
)

// maxMachineLabels is how many labels a machine may have for a claim to add one: enrolling again and again
// must not let the row grow without bound. What a join token forces is not counted.
const maxMachineLabels = 64

// claimedInventory is what an enrolment says of its machine, kept with the enrolment until it is proved.
type claimedInventory struct {
	ExternalID     string            `json:"external_id,omitempty"`
	Name           string            `json:"name,omitempty"`
	OS             string            `json:"os,omitempty"`
	Platform       string            `json:"platform,omitempty"`
	SecurityType   string            `json:"security_type,omitempty"`
	ScaleSet       string            `json:"scale_set,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Declared       finding.Posture   `json:"declared"`
	Instance       json.RawMessage   `json:"instance,omitempty"`         // proven by the AK certificate
	ForcedScaleSet string            `json:"forced_scale_set,omitempty"` // by the join token
	ForcedLabels   map[string]string `json:"forced_labels,omitempty"`    // by the join token
}

func claimOf(in MachineInput, forcedScaleSet string, forcedLabels map[string]string) claimedInventory {
	return claimedInventory{ExternalID: in.ExternalID, Name: in.Name, OS: in.OS, Platform: in.Platform, SecurityType: in.SecurityType,
		ScaleSet: in.ScaleSet, Labels: in.Labels, Declared: in.Declared, Instance: in.Instance, ForcedScaleSet: forcedScaleSet, ForcedLabels: forcedLabels}
}

// over is the update of m by the claim: the machine's word fills what is empty or absent, and never replaces
// what is there; the join token's word replaces, and so does an instance, which is proven.
func (c claimedInventory) over(m Machine) MachineInput {
	fill := func(is, claim string) string {
		if is != "" {
			return ""
		}
		return claim
	}
	in := MachineInput{ExternalID: fill(m.ExternalID, c.ExternalID), Name: fill(m.Name, c.Name), OS: fill(m.OS, c.OS), Platform: fill(m.Platform, c.Platform),
		SecurityType: fill(m.SecurityType, c.SecurityType), ScaleSet: fill(m.ScaleSet, c.ScaleSet), Declared: mergePosture(c.Declared, m.Declared), Instance: c.Instance}
	if c.ForcedScaleSet != "" {
		in.ScaleSet = c.ForcedScaleSet
	}
	in.Labels = maps.Clone(labelsOrEmpty(m.Labels))
	for _, key := range slices.Sorted(maps.Keys(c.Labels)) {
		if _, there := in.Labels[key]; !there && len(in.Labels) < maxMachineLabels {
			in.Labels[key] = c.Labels[key]
		}
	}
	maps.Copy(in.Labels, c.ForcedLabels)
	return in
}

// proof is an enrolment whose AK is proved, and what it may now say of its machine.
type proof struct {
	enrollment              uuid.UUID
	key                     AttestationKey
	ekPublic, ekCertificate []byte
	claim                   claimedInventory
	ekOpened                bool // the machine's TPM showed that it has the EK
}

// applyProof makes the key of the locked machine m active, gives m its EK, and writes what the enrolment
// claims: all that an enrolment changes of a machine that existed before it. ErrIdentityConflict: m has another
// EK or AK by now, or the EK, external id or name is another machine's.
func applyProof(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, m Machine, p proof, now time.Time, actor Actor) (AttestationKey, error) {
	if err := refuseOtherKeys(ctx, tx, tenant, m.ID, p.ekPublic, p.key.Name, false, now); err != nil {
		return AttestationKey{}, err
	}
	update := p.claim.over(m)
	unproved, err := nameIsUnproved(ctx, tx, tenant, m)
	if err != nil {
		return AttestationKey{}, err
	}
	if unproved {
		update.Name = p.claim.Name
	}
	if _, err := mergeMachine(ctx, tx, tenant, m, update, now, actor); errors.Is(err, ErrConflict) {
		return AttestationKey{}, fmt.Errorf("%w: %w", err, ErrIdentityConflict)
	} else if err != nil {
		return AttestationKey{}, err
	}
	if p.ekPublic != nil {
		free := releaseEK
		if p.ekOpened {
			free = takeEK
		}
		if err := free(ctx, tx, tenant, m.ID, p.ekPublic, now); err != nil {
			return AttestationKey{}, err
		}
		if err := claimEK(ctx, tx, tenant, m.ID, p.ekPublic, now); err != nil {
			return AttestationKey{}, err
		}
	}
	key, err := activateKey(ctx, tx, tenant, p.key, p.ekPublic, p.ekCertificate, now)
	if err != nil {
		return AttestationKey{}, err
	}
	// Those of other keys are left to their expiry: whoever tries one is told of the conflict.
	if _, err := tx.Exec(ctx, `UPDATE enrollments SET status = 'expired', secret_hash = NULL, updated_at = $5
		WHERE tenant_id = $1 AND machine_id = $2 AND status = 'activation_required' AND enrollment_id <> $3 AND (ak_name = $4 OR expires_at <= $5)`,
		tenant, m.ID, p.enrollment, key.Name, now); err != nil {
		return AttestationKey{}, fmt.Errorf("end earlier enrolments: %w", err)
	}
	return key, nil
}

// nameIsUnproved tells whether the machine has its name from an enrolment that made the machine and that
// nobody proved: the word of somebody who had a join token, which the machine's own word replaces.
func nameIsUnproved(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, m Machine) (bool, error) {
	if m.State == "active" {
		return false, nil
	}
	var unproved bool
	err := tx.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM attestation_keys WHERE tenant_id = $1 AND machine_id = $2)
		AND EXISTS (SELECT FROM enrollments WHERE tenant_id = $1 AND machine_id = $2 AND made_machine AND inventory ->> 'name' = $3)`,
		tenant, m.ID, m.Name).Scan(&unproved)
	if err != nil {
		return false, fmt.Errorf("look who named the machine: %w", err)
	}
	return unproved, nil
}

// claimEK writes the EK to the machine's row. It violates machines_ek where another machine has it.
func claimEK(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, ekPublic []byte, now time.Time) error {
	fingerprint := sha256.Sum256(ekPublic)
	if _, err := tx.Exec(ctx, `UPDATE machines SET ek_public = $3, ek_fingerprint = $4, updated_at = $5
		WHERE tenant_id = $1 AND machine_id = $2 AND ek_fingerprint IS DISTINCT FROM $4`, tenant, machineID, ekPublic, fingerprint[:], now); err != nil {
		return fmt.Errorf("claim the EK: %w", err)
	}
	return nil
}

// takeEK frees an EK that another machine claims and has not proved: who opened a credential with it has it.
func takeEK(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, ekPublic []byte, now time.Time) error {
	fingerprint := sha256.Sum256(ekPublic)
	if _, err := tx.Exec(ctx, `UPDATE machines SET ek_public = NULL, ek_fingerprint = NULL, state = 'registered', updated_at = $4
		WHERE tenant_id = $1 AND ek_fingerprint = $3 AND machine_id <> $2 AND state = 'enrolling'`, tenant, machineID, fingerprint[:], now); err != nil {
		return fmt.Errorf("take the EK: %w", err)
	}
	return nil
}

// refuseForeignEK refuses an EK that another machine proved.
func refuseForeignEK(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, ekPublic []byte) error {
	fingerprint := sha256.Sum256(ekPublic)
	var taken bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM machines WHERE tenant_id = $1 AND ek_fingerprint = $3 AND machine_id <> $2 AND state <> 'enrolling')`,
		tenant, machineID, fingerprint[:]).Scan(&taken)
	if err != nil {
		return fmt.Errorf("look for the EK at other machines: %w", err)
	}
	if taken {
		return fmt.Errorf("the EK is that of another machine: %w", ErrIdentityConflict)
	}
	return nil
}
