package store

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/verifier/revocations"
)

// ErrNotNewer is data that brings nothing beyond what is held. It is wrapped with what is held.
var ErrNotNewer = errors.New("nothing newer than what is held")

// maxRevocations is the most signed updates that a tenant may have beside those that are shipped.
const maxRevocations = 64

// StoredRevocations is one piece of data of a tenant's set, shipped or imported.
type StoredRevocations struct {
	revocations.Source
	CreatedAt *time.Time // nil of what is shipped
	CreatedBy string
}

// revocationSets bounds the sets that are kept compiled: each is about half a megabyte.
const revocationSets = 32

// revocationRow is an imported piece of data.
type revocationRow struct {
	addition  revocations.Addition
	digest    [32]byte
	version   string
	entries   int
	createdAt time.Time
	createdBy string
}

func readRevocations(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) ([]revocationRow, error) {
	rows, _ := tx.Query(ctx, `SELECT kind, digest, version, entries, body, created_at, created_by FROM revocations
		WHERE tenant_id = $1 ORDER BY created_at, kind, digest`, pgUUID(tenant))
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (revocationRow, error) {
		var r revocationRow
		var digest []byte
		err := row.Scan(&r.addition.Kind, &digest, &r.version, &r.entries, &r.addition.Body, &r.createdAt, &r.createdBy)
		copy(r.digest[:], digest)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("read revocations: %w", err)
	}
	return out, nil
}

// revocationSet is the set that the rows make with what is shipped. Tenants that imported the same share one.
func (s *Store) revocationSet(rows []revocationRow) (*revocations.Set, error) {
	if len(rows) == 0 {
		return revocations.Shipped()
	}
	h := sha256.New()
	additions := make([]revocations.Addition, len(rows))
	for i := range rows {
		additions[i] = rows[i].addition
		fmt.Fprintf(h, "%s %x\n", rows[i].addition.Kind, rows[i].digest)
	}
	key := [32]byte(h.Sum(nil))
	if set, known := s.revocationSets.get(key); known {
		return set, nil
	}
	set, err := revocations.With(additions)
	if err != nil {
		return nil, fmt.Errorf("stored revocations: %w", err)
	}
	s.revocationSets.put(key, set, 1)
	return set, nil
}

// Revocations is what is known to be bad for a tenant, from memory unless its configuration has changed. ErrNotFound:
// no such tenant.
func (s *Store) Revocations(ctx context.Context, tenant uuid.UUID) (*revocations.Set, error) {
	ctx = withTenant(ctx, tenant)
	cfg, err := s.currentConfig(ctx, tenant)
	if err != nil {
		return nil, fmt.Errorf("read revocations: %w", err)
	}
	return cfg.revocations, nil
}

// ListRevocations lists what the tenant's set is made of: what is shipped, then what was imported, oldest first.
func (s *Store) ListRevocations(ctx context.Context, tenant uuid.UUID) ([]StoredRevocations, error) {
	ctx = withTenant(ctx, tenant)
	shipped, err := revocations.Shipped()
	if err != nil {
		return nil, err
	}
	var out []StoredRevocations
	for _, source := range shipped.Sources() {
		out = append(out, StoredRevocations{Source: source})
	}
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		rows, err := readRevocations(ctx, tx, tenant)
		for i := range rows {
			out = append(out, rows[i].stored())
		}
		return err
	})
	return out, err
}

func (r *revocationRow) stored() StoredRevocations {
	return StoredRevocations{CreatedAt: &r.createdAt, CreatedBy: r.createdBy, Source: revocations.Source{Kind: r.addition.Kind,
		Name: hex.EncodeToString(r.digest[:]), Version: r.version, Entries: r.entries, SHA256: r.digest}}
}

// PutRevocations adds to what is known to be bad. The caller has verified the signature of an update. What is held
// already is answered as it is, with stored false. ErrNotNewer: it is older than what is held, or each of its entries
// is known. ErrConflict: the tenant has too many updates.
func (s *Store) PutRevocations(ctx context.Context, tenant uuid.UUID, addition revocations.Addition, now time.Time, actor Actor) (held StoredRevocations, stored bool, err error) {
	ctx = withTenant(ctx, tenant)
	alone, err := revocations.With([]revocations.Addition{addition})
	if err != nil {
		return held, false, fmt.Errorf("put revocations: %w", err)
	}
	source := alone.Sources()[len(alone.Sources())-1]
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		if err := lockConfig(ctx, tx, tenant); err != nil { // importers come one after the other
			return err
		}
		rows, err := readRevocations(ctx, tx, tenant)
		if err != nil {
			return err
		}
		before, err := s.revocationSet(rows)
		if err != nil {
			return err
		}
		if held = heldAlready(before, rows, source); held.Kind != "" {
			return nil
		}
		after, err := s.revocationSet(append(rows[:len(rows):len(rows)], revocationRow{addition: addition, digest: source.SHA256}))
		if err != nil {
			return err
		}
		if err := newer(before, after, rows, source); err != nil {
			return err
		}
		held, stored = StoredRevocations{Source: source, CreatedAt: &now, CreatedBy: actor.String()}, true
		return insertRevocations(ctx, tx, tenant, &held, addition.Body, now, actor)
	})
	if err != nil {
		return StoredRevocations{}, false, fmt.Errorf("put revocations: %w", err)
	}
	return held, stored, nil
}

// KeyExchangeKeys are the certificates that a signed update of the tenant's may lead to: Microsoft's, and those of the
// enabled anchors of the purpose reference_values.
func (s *Store) KeyExchangeKeys(ctx context.Context, tenant uuid.UUID) ([]*x509.Certificate, error) {
	ctx = withTenant(ctx, tenant)
	shipped, err := revocations.KeyExchangeKeys()
	if err != nil {
		return nil, err
	}
	rows, _ := s.pool.Query(ctx, `SELECT c.der FROM trust_anchors a JOIN trust_anchor_certificates c USING (tenant_id, anchor_id)
		WHERE a.tenant_id = $1 AND a.enabled AND a.purpose = 'reference_values' ORDER BY a.anchor_id, c.position`, tenant)
	own, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, fmt.Errorf("read trust anchors: %w", err)
	}
	out := slices.Clone(shipped)
	for _, der := range own {
		// What cannot be parsed (any more) is trusted for nothing.
		if c, err := x509.ParseCertificate(der); err == nil {
			out = append(out, c)
		}
	}
	return out, nil
}

// heldAlready finds exactly this data among what is shipped or imported.
func heldAlready(before *revocations.Set, rows []revocationRow, source revocations.Source) StoredRevocations {
	for i := range rows {
		if rows[i].addition.Kind == source.Kind && rows[i].digest == source.SHA256 {
			return rows[i].stored()
		}
	}
	for _, known := range before.Sources() {
		if known.Kind == source.Kind && known.SHA256 == source.SHA256 {
			return StoredRevocations{Source: known}
		}
	}
	return StoredRevocations{}
}

// newer refuses what would be a step back, or none.
func newer(before, after *revocations.Set, rows []revocationRow, source revocations.Source) error {
	if source.Kind == revocations.KindDBX {
		updates := 0
		for i := range rows {
			if rows[i].addition.Kind == revocations.KindDBX {
				updates++
			}
		}
		switch {
		case after.Covers(before) && before.Covers(after):
			return fmt.Errorf("each entry of the update is known: %w", ErrNotNewer)
		case updates >= maxRevocations:
			return fmt.Errorf("there are %d updates: %w", updates, ErrConflict)
		}
		return nil
	}
	for _, held := range before.Sources() {
		if held.Kind == source.Kind && held.Version >= source.Version {
			return fmt.Errorf("it is of %s, and one of %s is held: %w", source.Version, held.Version, ErrNotNewer)
		}
	}
	return nil
}

// insertRevocations stores data, and removes what it takes the place of.
func insertRevocations(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, held *StoredRevocations, body []byte, now time.Time, actor Actor) error {
	if held.Kind != revocations.KindDBX {
		if _, err := tx.Exec(ctx, `DELETE FROM revocations WHERE tenant_id = $1 AND kind = $2`, pgUUID(tenant), held.Kind); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, `INSERT INTO revocations (tenant_id, kind, digest, version, entries, body, created_at, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		pgUUID(tenant), held.Kind, held.SHA256[:], held.Version, held.Entries, body, now, held.CreatedBy); err != nil {
		return err
	}
	if err := revocationsChanged(ctx, tx, tenant, held, now, actor); err != nil {
		return err
	}
	return audit(ctx, tx, tenant, now, actor, "revocations.import", "revocations:"+string(held.Kind), nil,
		map[string]any{"sha256": held.Name, "version": held.Version, "entries": held.Entries})
}

// revocationsChanged is called in the transaction that changes what is known to be bad: from its commit on, every
// attestation is looked at by the new set, and what is stored of the fleet is looked at again.
func revocationsChanged(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, held *StoredRevocations, now time.Time, actor Actor) error {
	if err := bumpConfig(ctx, tx, tenant); err != nil {
		return err
	}
	_, err := EnqueueReappraisal(ctx, tx, tenant, ReappraisalCause{Kind: CauseKnownBad, ID: held.Name,
		Detail: fmt.Sprintf("%s of %s was imported", held.Kind, held.Version)}, MachineScope{}, now, actor)
	return err
}
