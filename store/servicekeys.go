package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/store/keyring"
)

// ServiceKeyRow is one key of the service, newest first in ServiceKeys. The times say what of its life a key that signs has
// behind it; what follows from them is for server/token to tell.
type ServiceKeyRow struct {
	ID         uuid.UUID
	Purpose    string
	Generation int
	Key        keyring.Secret // empty once it was erased
	Public     []byte         // PKIX DER of a key that signs; nil where it was not stored
	CreatedAt  time.Time

	ActivatedAt   *time.Time // signs from then on; nil: only published
	RevokedAt     *time.Time
	RevokedReason string
	Erased        bool

	kek    string // seals the key; empty: none does
	sealed []byte // as it is stored; nil once the key was opened
}

const serviceKeyColumns = `key_id, purpose, generation, key, kek_id, public_key, created_at,
	coalesce(activated_at, CASE WHEN generation = 1 THEN created_at END), revoked_at, revoked_reason, erased_at IS NOT NULL`

// scanServiceKey reads a row without opening its key.
func scanServiceKey(row pgx.CollectableRow) (k ServiceKeyRow, err error) {
	var kek pgtype.Text
	err = row.Scan(&k.ID, &k.Purpose, &k.Generation, &k.sealed, &kek, &k.Public, &k.CreatedAt, &k.ActivatedAt, &k.RevokedAt, &k.RevokedReason, &k.Erased)
	k.kek = kek.String
	return k, err
}

// purposeOf is what the key of a generation is sealed for.
func purposeOf(tenant uuid.UUID, purpose string, generation int) keyring.Purpose {
	return keyring.Purpose{Tenant: tenant, Name: purpose, Label: strconv.Itoa(generation)}
}

// openedKey is a key that was decrypted, so that a KMS is asked once for each envelope.
type openedKey struct {
	envelope [sha256.Size]byte
	key      keyring.Secret
}

// open decrypts the key of a row.
func (s *Store) open(ctx context.Context, tenant uuid.UUID, k *ServiceKeyRow) (err error) {
	stored := k.sealed
	k.sealed = nil
	switch {
	case stored == nil: // it is open
		return nil
	case k.Erased:
		s.opened.Delete(k.ID)
		return nil
	case k.kek == "":
		k.Key = keyring.NewSecret(stored)
		return nil
	}
	sum := sha256.Sum256(stored)
	if o, ok := s.opened.Load(k.ID); ok && o.(openedKey).envelope == sum {
		k.Key = o.(openedKey).key
		return nil
	}
	if k.Key, err = s.keys.Open(ctx, stored, purposeOf(tenant, k.Purpose, k.Generation)); err != nil {
		return err
	}
	s.opened.Store(k.ID, openedKey{sum, k.Key})
	return nil
}

// sealed is a key in the form that it is stored in: an envelope, and the id of what seals it, where there is such a key.
func (s *Store) sealed(ctx context.Context, tenant uuid.UUID, purpose string, generation int, key keyring.Secret) (stored []byte, kek pgtype.Text, err error) {
	id := s.keys.CurrentID()
	if id == "" {
		return key.Reveal(), kek, nil
	}
	stored, err = s.keys.Seal(ctx, key, purposeOf(tenant, purpose, generation))
	return stored, pgtype.Text{String: id, Valid: true}, err
}

// ServiceKey returns the newest key of a purpose. Where there is none it makes the first with generate; of
// replicas that do so at once one wins, and all get its key.
func (s *Store) ServiceKey(ctx context.Context, tenant uuid.UUID, purpose string, generate func() ([]byte, error)) ([]byte, error) {
	ctx = withTenant(ctx, tenant)
	keys, err := s.ServiceKeys(ctx, tenant, purpose)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		key, err := generate()
		if err != nil {
			return nil, fmt.Errorf("generate service key %s: %w", purpose, err)
		}
		stored, kek, err := s.sealed(ctx, tenant, purpose, 1, keyring.NewSecret(key))
		if err != nil {
			return nil, fmt.Errorf("store service key %s: %w", purpose, err)
		}
		// The id needs a time, and this method is given none: the database's serves.
		_, err = s.pool.Exec(ctx, `INSERT INTO service_keys (tenant_id, key_id, purpose, generation, key, kek_id, created_at)
			VALUES ($1, gen_random_uuid(), $2, 1, $3, $4, now()) ON CONFLICT ON CONSTRAINT service_keys_generation DO NOTHING`, tenant, purpose, stored, kek)
		if err != nil {
			return nil, fmt.Errorf("store service key %s: %w", purpose, err)
		}
		if keys, err = s.ServiceKeys(ctx, tenant, purpose); err != nil {
			return nil, err
		}
		if len(keys) == 0 {
			return nil, fmt.Errorf("service key %s: %w", purpose, ErrNotFound)
		}
	}
	return keys[0].Key.Reveal(), nil
}

// ServiceKeys lists the keys of a purpose, newest first, opened.
func (s *Store) ServiceKeys(ctx context.Context, tenant uuid.UUID, purpose string) ([]ServiceKeyRow, error) {
	ctx = withTenant(ctx, tenant)
	keys, err := s.serviceKeys(ctx, s.pool, tenant, purpose)
	if err != nil {
		return nil, err
	}
	for i := range keys {
		if err := s.open(ctx, tenant, &keys[i]); err != nil {
			return nil, fmt.Errorf("read service keys: %w", err)
		}
	}
	return keys, nil
}

func (s *Store) serviceKeys(ctx context.Context, db querier, tenant uuid.UUID, purpose string) ([]ServiceKeyRow, error) {
	rows, err := db.Query(ctx, `SELECT `+serviceKeyColumns+` FROM service_keys WHERE tenant_id = $1 AND purpose = $2 ORDER BY generation DESC`, tenant, purpose)
	if err != nil {
		return nil, fmt.Errorf("read service keys %s: %w", purpose, err)
	}
	keys, err := pgx.CollectRows(rows, scanServiceKey)
	if err != nil {
		return nil, fmt.Errorf("read service keys %s: %w", purpose, err)
	}
	return keys, nil
}

// SecretBox is a box for many small secrets of a purpose, such as those of webhooks: its key is a service key, made at the
// first call.
func (s *Store) SecretBox(ctx context.Context, tenant uuid.UUID, purpose string, generate func() ([]byte, error)) (*keyring.Box, error) {
	ctx = withTenant(ctx, tenant)
	key, err := s.ServiceKey(ctx, tenant, purpose, generate)
	if err != nil {
		return nil, err
	}
	return keyring.NewBox(keyring.NewSecret(key), tenant, purpose)
}

// Rewrap names which service keys ReencryptServiceKeys takes.
type Rewrap string

// What is to become of the service keys.
const (
	SealPlain  Rewrap = "seal_plain" // those that are not sealed are
	SealAll    Rewrap = "seal_all"   // all are sealed with the ring's current key
	UnsealKeys Rewrap = "unseal"     // none is sealed any more: before a return to a version that cannot open them
)

// ReencryptServiceKeys changes how the service keys of all tenants are stored, and says how many it changed. The keys
// themselves stay, so that a running service notices nothing, as long as its ring opens the new envelopes. Replicas may do
// so at once, and again: a row that somebody else has changed meanwhile is left to him.
func (s *Store) ReencryptServiceKeys(ctx context.Context, what Rewrap) (changed int, err error) {
	current := s.keys.CurrentID()
	if current == "" && what != UnsealKeys {
		return 0, fmt.Errorf("seal service keys: %w", keyring.ErrNoKEK)
	}
	tenants, err := s.Tenants(ctx)
	if err != nil {
		return 0, err
	}
	for _, tenant := range tenants {
		n, err := s.reencrypt(withTenant(ctx, tenant), tenant, what, current)
		if changed += n; err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// reencrypt does so for the keys of one tenant.
func (s *Store) reencrypt(ctx context.Context, tenant uuid.UUID, what Rewrap, current string) (changed int, err error) {
	rows, _ := s.pool.Query(ctx, `SELECT `+serviceKeyColumns+` FROM service_keys WHERE tenant_id = $1 AND erased_at IS NULL AND CASE $2
		WHEN 'seal_plain' THEN kek_id IS NULL WHEN 'seal_all' THEN kek_id IS DISTINCT FROM $3 ELSE kek_id IS NOT NULL END ORDER BY purpose, generation`, tenant, string(what), current)
	keys, err := pgx.CollectRows(rows, scanServiceKey)
	if err != nil {
		return 0, fmt.Errorf("read service keys: %w", err)
	}
	for i := range keys {
		k := &keys[i]
		if err := s.open(ctx, tenant, k); err != nil {
			return changed, fmt.Errorf("seal service keys: %w", err)
		}
		body, kek := k.Key.Reveal(), pgtype.Text{}
		if what != UnsealKeys {
			if body, kek, err = s.sealed(ctx, tenant, k.Purpose, k.Generation, k.Key); err != nil {
				return changed, err
			}
		}
		tag, err := s.pool.Exec(ctx, `UPDATE service_keys SET key = $3, kek_id = $4
			WHERE tenant_id = $1 AND key_id = $2 AND kek_id IS NOT DISTINCT FROM $5 AND erased_at IS NULL`, tenant, k.ID, body, kek, textOrNull(k.kek))
		if err != nil {
			return changed, fmt.Errorf("seal service key %s: %w", k.Purpose, err)
		}
		changed += int(tag.RowsAffected())
	}
	return changed, nil
}

// SigningChange is what is to be done with the signing keys of a purpose, in one transaction.
type SigningChange struct {
	Action string // for the audit record
	// Activate begins to sign at ActivateAt.
	Activate   *uuid.UUID
	ActivateAt time.Time
	// Revoke ends a key at once, for Reason.
	Revoke *uuid.UUID
	Reason string
	// Add publishes one more key, of the generation after the newest.
	Add *NewSigningKey
	// Erase overwrites secret keys that nothing needs any more.
	Erase []uuid.UUID
	// Public fills in the public halves of keys that were stored without.
	Public map[uuid.UUID][]byte
}

func (c *SigningChange) empty() bool {
	return c.Activate == nil && c.Revoke == nil && c.Add == nil && len(c.Erase) == 0 && len(c.Public) == 0
}

// NewSigningKey is a key to be published.
type NewSigningKey struct {
	Key    keyring.Secret
	Public []byte // PKIX DER
}

// ChangeSigningKeys changes the signing keys of a purpose: decide sees them as they stand, newest first, while nobody else can
// change them, and says what is to be done. So of replicas that rotate at once one does, and the others see that it is
// done. The keys as they are afterwards are returned. There has to be a first one (ServiceKey).
func (s *Store) ChangeSigningKeys(ctx context.Context, tenant uuid.UUID, purpose string, now time.Time, actor Actor,
	decide func(keys []ServiceKeyRow) (SigningChange, error)) (keys []ServiceKeyRow, err error) {
	ctx = withTenant(ctx, tenant)
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		// The first generation stands for all: rows that others add meanwhile are then seen by the statement after it.
		if _, err := tx.Exec(ctx, `SELECT 1 FROM service_keys WHERE tenant_id = $1 AND purpose = $2 AND generation = 1 FOR UPDATE`, tenant, purpose); err != nil {
			return fmt.Errorf("lock signing keys: %w", err)
		}
		if keys, err = s.serviceKeys(ctx, tx, tenant, purpose); err != nil {
			return err
		}
		if len(keys) == 0 {
			return fmt.Errorf("signing key %s: %w", purpose, ErrNotFound)
		}
		for i := range keys {
			if err := s.open(ctx, tenant, &keys[i]); err != nil {
				return err
			}
		}
		change, err := decide(keys)
		if err != nil || change.empty() {
			return err
		}
		if err := s.applySigning(ctx, tx, tenant, purpose, keys[0].Generation+1, now, change); err != nil {
			return err
		}
		if keys, err = s.serviceKeys(ctx, tx, tenant, purpose); err != nil {
			return err
		}
		return auditSigning(ctx, tx, tenant, purpose, now, actor, change, keys[0])
	})
	if err != nil {
		return nil, fmt.Errorf("change signing keys: %w", err)
	}
	for i := range keys {
		if err := s.open(ctx, tenant, &keys[i]); err != nil {
			return nil, fmt.Errorf("change signing keys: %w", err)
		}
	}
	return keys, nil
}

func (s *Store) applySigning(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, purpose string, next int, now time.Time, c SigningChange) error {
	batch := &pgx.Batch{}
	for id, public := range c.Public {
		batch.Queue(`UPDATE service_keys SET public_key = $3 WHERE tenant_id = $1 AND key_id = $2 AND public_key IS NULL`, tenant, id, public)
	}
	if c.Activate != nil {
		batch.Queue(`UPDATE service_keys SET activated_at = $3 WHERE tenant_id = $1 AND key_id = $2`, tenant, *c.Activate, c.ActivateAt)
	}
	if c.Revoke != nil {
		batch.Queue(`UPDATE service_keys SET revoked_at = $3, revoked_reason = $4, erased_at = $3, key = ''::bytea, kek_id = NULL
			WHERE tenant_id = $1 AND key_id = $2`, tenant, *c.Revoke, now, c.Reason)
	}
	for _, id := range c.Erase {
		batch.Queue(`UPDATE service_keys SET erased_at = $3, key = ''::bytea, kek_id = NULL WHERE tenant_id = $1 AND key_id = $2`, tenant, id, now)
	}
	if c.Add != nil {
		stored, kek, err := s.sealed(ctx, tenant, purpose, next, c.Add.Key)
		if err != nil {
			return err
		}
		batch.Queue(`INSERT INTO service_keys (tenant_id, key_id, purpose, generation, key, kek_id, public_key, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`, tenant, newID(now), purpose, next, stored, kek, c.Add.Public, now)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("change signing keys %s: %w", purpose, err)
	}
	return nil
}

// auditSigning records what was changed; the halves that are filled in change nothing.
func auditSigning(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, purpose string, now time.Time, actor Actor, c SigningChange, newest ServiceKeyRow) error {
	after := map[string]any{"purpose": purpose}
	if c.Activate != nil {
		after["activated"], after["activated_at"] = *c.Activate, c.ActivateAt
	}
	if c.Revoke != nil {
		after["revoked"], after["reason"] = *c.Revoke, c.Reason
	}
	if c.Add != nil {
		after["published"] = newest.ID
	}
	if len(c.Erase) > 0 {
		after["erased"] = c.Erase
	}
	if len(after) == 1 {
		return nil
	}
	return audit(ctx, tx, tenant, now, actor, c.Action, "signing_keys:"+purpose, nil, after)
}

// KeyProblem tells whether err says that a key-encryption key is missing, or is another one than was used.
func KeyProblem(err error) bool {
	return errors.Is(err, keyring.ErrNoKEK) || errors.Is(err, keyring.ErrDamaged)
}

// KEKsInUse names the key-encryption keys that seal keys in the database, without opening any.
func (s *Store) KEKsInUse(ctx context.Context) ([]string, error) {
	tenants, err := s.Tenants(ctx)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, tenant := range tenants {
		rows, _ := s.pool.Query(withTenant(ctx, tenant), `SELECT DISTINCT kek_id FROM service_keys WHERE tenant_id = $1 AND kek_id IS NOT NULL`, tenant)
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, fmt.Errorf("ask for the keys in use: %w", err)
		}
		all = append(all, ids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// UseKeys gives the key-encryption keys to a store that was opened without, before it is used by anybody else.
func (s *Store) UseKeys(ring *keyring.Ring) { s.keys = ring }
