package store_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/keyring"
)

// kek makes a key-encryption key in a file of its own.
func kek(t *testing.T) keyring.Wrapper {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	if _, err := keyring.CreateKeyFile(path); err != nil {
		t.Fatal(err)
	}
	return must[[]keyring.Wrapper](t)(keyring.ReadKeyFile(path))[0]
}

func ring(t *testing.T, current keyring.Wrapper, older ...keyring.Wrapper) *keyring.Ring {
	t.Helper()
	return must[*keyring.Ring](t)(keyring.NewRing(current, older...))
}

func stored(t *testing.T, url string) (bodies []string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	rows, _ := conn.Query(t.Context(), `SELECT encode(key, 'escape') FROM service_keys`)
	return must[[]string](t)(pgx.CollectRows(rows, pgx.RowTo[string]))
}

// A database with keys that are not sealed gets a key-encryption key, then another one, and gives both back; services go on.
func TestKeysAreSealed(t *testing.T) {
	ctx := t.Context()
	url := emptyDatabase(t, "template_assay")
	plain := open(t, url, store.Options{})
	if err := plain.EnsureTenant(ctx, tenant, t0); err != nil {
		t.Fatal(err)
	}
	secret := []byte("thirty-two bytes of a secret key")
	make1 := func() ([]byte, error) { return bytes.Clone(secret), nil }
	for _, purpose := range []string{"result_signing", "machine_token"} {
		must[[]byte](t)(plain.ServiceKey(ctx, tenant, purpose, make1))
	}
	first, second := kek(t), kek(t)

	// Two replicas seal at once: each key is sealed once, and both read it.
	a, b := open(t, url, store.Options{Keys: ring(t, first)}), open(t, url, store.Options{Keys: ring(t, first)})
	var wg sync.WaitGroup
	var sealed [2]int
	for i, s := range []*store.Store{a, b} {
		wg.Go(func() {
			n, err := s.ReencryptServiceKeys(ctx, store.SealPlain)
			if err != nil {
				t.Error(err)
			}
			sealed[i] = n
		})
	}
	wg.Wait()
	if sealed[0]+sealed[1] != 2 {
		t.Errorf("sealed %v", sealed)
	}
	if ids := must[[]string](t)(plain.KEKsInUse(ctx)); len(ids) != 1 || ids[0] != first.ID() {
		t.Errorf("keys in use: %v", ids)
	}
	for _, body := range stored(t, url) {
		if bytes.Contains([]byte(body), secret) {
			t.Error("a key can be read in the database")
		}
	}
	reads := func(story string, s *store.Store, want error) {
		t.Helper()
		key, err := s.ServiceKey(ctx, tenant, "result_signing", make1)
		if !errors.Is(err, want) || (want == nil && !bytes.Equal(key, secret)) {
			t.Errorf("%s: %q, %v", story, key, err)
		}
	}
	reads("a replica", b, nil)
	reads("no key", plain, keyring.ErrNoKEK)
	reads("another key", open(t, url, store.Options{Keys: ring(t, second)}), keyring.ErrNoKEK)
	if !store.KeyProblem(second3(plain.ServiceKey(ctx, tenant, "result_signing", make1))) {
		t.Error("a missing key-encryption key is not told from other failures")
	}

	// The key-encryption key is replaced: services with both read throughout.
	both := open(t, url, store.Options{Keys: ring(t, second, first)})
	reads("before", both, nil)
	if n := must[int](t)(both.ReencryptServiceKeys(ctx, store.SealAll)); n != 2 {
		t.Errorf("%d rewrapped", n)
	}
	if n := must[int](t)(both.ReencryptServiceKeys(ctx, store.SealAll)); n != 0 {
		t.Errorf("%d rewrapped again", n)
	}
	reads("after", both, nil)
	reads("with the new key alone", open(t, url, store.Options{Keys: ring(t, second)}), nil)
	reads("with the old key alone", open(t, url, store.Options{Keys: ring(t, first)}), keyring.ErrNoKEK)
	must[[]byte](t)(both.ServiceKey(ctx, tenant, "challenge_nonce", make1)) // a new one is sealed at once
	if n := must[int](t)(both.ReencryptServiceKeys(ctx, store.UnsealKeys)); n != 3 {
		t.Errorf("%d unsealed", n)
	}
	reads("and back", plain, nil)
	if _, err := plain.ReencryptServiceKeys(ctx, store.SealAll); !errors.Is(err, keyring.ErrNoKEK) {
		t.Errorf("sealed without a key: %v", err)
	}
}

func second3[A any](_ A, err error) error { return err }

// A key cannot be moved to another purpose in the database.
func TestSealedKeyIsBoundToItsRow(t *testing.T) {
	ctx := t.Context()
	url := emptyDatabase(t, "template_assay")
	keys := ring(t, kek(t))
	s := open(t, url, store.Options{Keys: keys})
	if err := s.EnsureTenant(ctx, tenant, t0); err != nil {
		t.Fatal(err)
	}
	must[[]byte](t)(s.ServiceKey(ctx, tenant, "machine_token", func() ([]byte, error) { return make([]byte, 32), nil }))
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, `UPDATE service_keys SET purpose = 'result_signing'`); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, url, store.Options{Keys: keys}).ServiceKey(ctx, tenant, "result_signing", nil); !errors.Is(err, keyring.ErrDamaged) {
		t.Errorf("%v", err)
	}
}

// Of replicas that change signing keys at once, each sees what the other has done.
func TestConcurrentSigningChanges(t *testing.T) {
	ctx := t.Context()
	url := emptyDatabase(t, "template_assay")
	keys := ring(t, kek(t))
	replicas := []*store.Store{open(t, url, store.Options{Keys: keys}), open(t, url, store.Options{Keys: keys})}
	if err := replicas[0].EnsureTenant(ctx, tenant, t0); err != nil {
		t.Fatal(err)
	}
	newKey := func() *store.NewSigningKey {
		return &store.NewSigningKey{Key: keyring.NewSecret(bytes.Repeat([]byte{3}, 32)), Public: []byte("public")}
	}
	if _, err := replicas[0].ChangeSigningKeys(ctx, tenant, "s", t0, system, nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no first key: %v", err)
	}
	must[[]byte](t)(replicas[0].ServiceKey(ctx, tenant, "s", func() ([]byte, error) { return make([]byte, 32), nil }))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			// Publishes one where the newest signs; else lets the newest sign.
			_, err := replicas[i%2].ChangeSigningKeys(ctx, tenant, "s", t0.Add(time.Duration(i)*time.Second), system, func(rows []store.ServiceKeyRow) (store.SigningChange, error) {
				if rows[0].ActivatedAt != nil {
					return store.SigningChange{Action: "signing_key.keep", Add: newKey()}, nil
				}
				return store.SigningChange{Action: "signing_key.rotate", Activate: &rows[0].ID, ActivateAt: t0}, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	rows := must[[]store.ServiceKeyRow](t)(replicas[0].ServiceKeys(ctx, tenant, "s"))
	if len(rows) != 11 {
		t.Fatalf("%d keys, want the first and ten that were published", len(rows))
	}
	for i := range rows {
		if rows[i].Generation != len(rows)-i || rows[i].ActivatedAt == nil || rows[i].Key.Empty() {
			t.Errorf("key %d: generation %d, signs from %v", i, rows[i].Generation, rows[i].ActivatedAt)
		}
	}
	revoked := must[[]store.ServiceKeyRow](t)(replicas[1].ChangeSigningKeys(ctx, tenant, "s", t0, system, func(rows []store.ServiceKeyRow) (store.SigningChange, error) {
		return store.SigningChange{Action: "signing_key.revoke", Revoke: &rows[0].ID, Reason: "stolen", Erase: []uuid.UUID{rows[1].ID}}, nil
	}))
	if revoked[0].RevokedAt == nil || !revoked[0].Key.Empty() || !revoked[1].Erased || !revoked[1].Key.Empty() || revoked[2].Key.Empty() || revoked[0].RevokedReason != "stolen" {
		t.Errorf("%+v", revoked[:3])
	}
	unchanged := must[[]store.ServiceKeyRow](t)(replicas[1].ChangeSigningKeys(ctx, tenant, "s", t0, system, func([]store.ServiceKeyRow) (store.SigningChange, error) {
		return store.SigningChange{Action: "signing_key.keep"}, nil
	}))
	if len(unchanged) != len(revoked) || unchanged[2].Key.Empty() {
		t.Errorf("after a change of nothing: %+v", unchanged)
	}
	other := must[[]store.ServiceKeyRow](t)(replicas[0].ServiceKeys(ctx, tenant, "s"))
	if !other[0].Key.Empty() || !other[1].Key.Empty() {
		t.Error("another replica remembers an erased key")
	}
}
