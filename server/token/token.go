// Package token makes and checks the two tokens that this service issues.
//
//   - Attestation results: EAR claims as a JWT, signed with Ed25519 (RFC 8037), or with ES256 where that is asked for. The keys
//     are in the database, so that every replica signs with the same; a key id is the RFC 7638 thumbprint. Keys rotate with
//     an overlap (lifecycle.go): one is always published that will sign next, and one that has signed stays published until
//     all that it signed has ended.
//   - Machine tokens: what an enrolled agent authenticates with. They are a MAC over (tenant, machine,
//     attestation key, time), checked without a read, so that the steady state costs no look-up. They
//     end after MachineTokenLifetime, and with the attestation key they name: server/attest refuses a
//     token whose key is no longer the machine's active one.
//
// Neither kind of token is ever logged. What a relying party does with a result is in package relying.
package token

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/store"
)

// Purposes of the service keys that this package keeps in the database.
const (
	PurposeResultSigning      = "result_signing"       // Ed25519
	PurposeResultSigningES256 = "result_signing_es256" // ECDSA on P-256
	PurposeMachineToken       = "machine_token"        // 32 bytes, HMAC-SHA256 key
)

// DefaultLifetime is the longest that a result is valid where nothing else is configured.
const DefaultLifetime = time.Hour

// ErrInvalid is any token that this service did not issue, or that has expired. It says no more, since
// its text reaches whoever sent the token.
var ErrInvalid = errors.New("the token is not valid")

// Of results that this service signed, and that do not hold any more.
var (
	ErrExpired = errors.New("the result has expired")
	ErrRevoked = errors.New("the key that signed the result was revoked")
)

// Config is what a Service is made of. Store is needed.
type Config struct {
	Store  *store.Store
	Tenant uuid.UUID        // whose keys they are; zero means store.DefaultTenant
	Random io.Reader        // nil means crypto/rand
	Now    func() time.Time // nil means time.Now
	// RotateEvery is how long a key signs before the next one does; 0 means until somebody says so.
	RotateEvery time.Duration
	// Lifetime bounds how long a result is valid, at most MaxLifetime; 0 means DefaultLifetime.
	Lifetime time.Duration
	// MachineLifetime is how long a machine token is valid; 0 means MachineTokenLifetime.
	MachineLifetime time.Duration
}

// Service signs and checks tokens. It is safe for concurrent use.
type Service struct {
	cfg        Config
	machineKey []byte
	// machineLifetime is Config.MachineLifetime with its default.
	machineLifetime time.Duration
	keys            atomic.Pointer[snapshot]
	refreshing      sync.Mutex
}

// snapshot is the signing keys as they were read. It is immutable.
type snapshot struct {
	readAt time.Time
	rings  []ring // of each algorithm
}

// ring is the keys of one algorithm, newest first.
type ring struct {
	algorithm *algorithm
	rows      []store.ServiceKeyRow
	signers   []signer
}

// New fetches, or makes, the service's keys, and publishes those that will sign next.
func New(ctx context.Context, cfg Config) (*Service, error) {
	if cfg.Store == nil {
		return nil, errors.New("token: Store is needed")
	}
	if cfg.Tenant == uuid.Nil {
		cfg.Tenant = store.DefaultTenant
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Lifetime <= 0 {
		cfg.Lifetime = DefaultLifetime
	}
	cfg.Lifetime = min(cfg.Lifetime, MaxLifetime)
	machineKey, err := cfg.Store.ServiceKey(ctx, cfg.Tenant, PurposeMachineToken, func() ([]byte, error) {
		key := make([]byte, 32)
		_, err := io.ReadFull(cfg.Random, key)
		return key, err
	})
	if err != nil {
		return nil, fmt.Errorf("machine token key: %w", err)
	}
	if len(machineKey) != 32 {
		return nil, fmt.Errorf("machine token key: %d bytes, want 32", len(machineKey))
	}
	if cfg.MachineLifetime <= 0 {
		cfg.MachineLifetime = MachineTokenLifetime
	}
	s := &Service{cfg: cfg, machineKey: machineKey, machineLifetime: cfg.MachineLifetime}
	for i := range algorithms {
		a := &algorithms[i]
		if _, err := cfg.Store.ServiceKey(ctx, cfg.Tenant, a.purpose, func() ([]byte, error) { return a.secret(cfg.Random) }); err != nil {
			return nil, fmt.Errorf("result signing key: %w", err)
		}
	}
	if _, err := s.Keep(ctx); err != nil {
		return nil, fmt.Errorf("result signing key: %w", err)
	}
	return s, nil
}

// Tenant is whose keys they are. Only its administrators may change them, since they sign for all.
func (s *Service) Tenant() uuid.UUID { return s.cfg.Tenant }

// Refresh reads the keys again, so that this replica knows what another has changed.
func (s *Service) Refresh(ctx context.Context) error {
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	return s.refresh(ctx)
}

func (s *Service) refresh(ctx context.Context) error {
	next := &snapshot{readAt: s.cfg.Now()}
	for i := range algorithms {
		rows, err := s.cfg.Store.ServiceKeys(ctx, s.cfg.Tenant, algorithms[i].purpose)
		if err != nil {
			return err
		}
		r, err := newRing(&algorithms[i], rows)
		if err != nil {
			return err
		}
		next.rings = append(next.rings, r)
	}
	s.keys.Store(next)
	return nil
}

func newRing(a *algorithm, rows []store.ServiceKeyRow) (ring, error) {
	r := ring{algorithm: a, rows: rows, signers: make([]signer, len(rows))}
	for i := range rows {
		var err error
		if r.signers[i], err = a.load(&rows[i]); err != nil {
			return ring{}, err
		}
	}
	return r, nil
}

// fresh gives keys that were read at most age ago, reading them where they are older.
func (s *Service) fresh(ctx context.Context, age time.Duration) (*snapshot, error) {
	if k := s.keys.Load(); s.cfg.Now().Sub(k.readAt) < age {
		return k, nil
	}
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	if k := s.keys.Load(); s.cfg.Now().Sub(k.readAt) < age { // somebody else has
		return k, nil
	}
	if err := s.refresh(ctx); err != nil {
		return s.keys.Load(), err
	}
	return s.keys.Load(), nil
}

// active is the key that signs with an algorithm.
func (k *snapshot) active(name string, now time.Time) (*signer, error) {
	for i := range k.rings {
		if k.rings[i].algorithm.name != name {
			continue
		}
		if j := find(k.rings[i].rows, now, Active); j >= 0 {
			return &k.rings[i].signers[j], nil
		}
		return nil, fmt.Errorf("no key signs with %s", name)
	}
	return nil, fmt.Errorf("results are not signed with %.20q", name)
}

// Algorithms are those that results can be signed with, the default first.
func Algorithms() []string {
	out := make([]string, len(algorithms))
	for i := range algorithms {
		out[i] = algorithms[i].name
	}
	return out
}

// DocumentSigner is the key that signs results, for documents in another envelope than a JWT's, and its id in the key set.
// What is signed with it must begin otherwise than a token (COSE's Sig_structure does). Documents outlive the key: its
// public half stays in Keys after it has left the key set.
func (s *Service) DocumentSigner() (signer crypto.Signer, keyID string, err error) {
	a, err := s.keys.Load().active(relying.EdDSA, s.cfg.Now())
	if err != nil {
		return nil, "", err
	}
	return a.private, a.jwk.Kid, nil
}

// Lifetime is how long a result that could be valid for d is.
func (s *Service) Lifetime(d time.Duration) time.Duration { return min(d, s.cfg.Lifetime) }

// Sign makes the compact JWT (RFC 7515, section 7.1) of a result, whose claims are ear.Claims or ear.IETFClaims. An empty
// algorithm is the default.
func (s *Service) Sign(ctx context.Context, name string, claims any) (string, error) {
	if name == "" {
		name = relying.EdDSA
	}
	k, err := s.fresh(ctx, staleAfter)
	if err != nil {
		return "", fmt.Errorf("sign result: %w", err)
	}
	key, err := k.active(name, s.cfg.Now())
	if err != nil {
		return "", fmt.Errorf("sign result: %w", err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("sign result: %w", err)
	}
	enc := base64.RawURLEncoding
	out := make([]byte, 0, len(key.header)+enc.EncodedLen(len(payload))+1+enc.EncodedLen(64))
	out = enc.AppendEncode(append(out, key.header...), payload)
	if out, err = key.sign(out, s.cfg.Random); err != nil {
		return "", fmt.Errorf("sign result: %w", err)
	}
	return string(out), nil
}

// KeySet is a published key set (RFC 7517).
type KeySet struct {
	Document []byte
	ETag     string
	// MaxAge is for how long it may be kept: 0 where the database could not be asked whether it is the newest.
	MaxAge time.Duration
}

// JWKS is the JSON Web Key Set of the keys that verify results: the next, the active and the retiring ones.
func (s *Service) JWKS(ctx context.Context) (KeySet, error) {
	k, stale := s.fresh(ctx, refreshEvery)
	set := struct {
		Keys []relying.JWK `json:"keys"`
	}{k.published(s.cfg.Now())}
	document, err := json.Marshal(set)
	if err != nil {
		return KeySet{}, fmt.Errorf("publish keys: %w", err)
	}
	out := KeySet{Document: document, ETag: ETag(document), MaxAge: MaxAge}
	if stale != nil {
		out.MaxAge = 0
	}
	return out, nil
}

// ETag is the entity tag of a published document (RFC 9110, section 8.8.3), the same at every replica.
func ETag(document []byte) string {
	sum := sha256.Sum256(document)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

func (k *snapshot) published(now time.Time) []relying.JWK {
	keys := []relying.JWK{}
	for i := range k.rings {
		for j := range k.rings[i].rows {
			switch state, _ := stateAt(k.rings[i].rows, j, now); state {
			case Next, Active, Retiring:
				keys = append(keys, k.rings[i].signers[j].jwk)
			case Gone, Revoked:
			}
		}
	}
	return keys
}

// Verify checks a result that this service signed: that its key is not revoked, as the database says now; its signature,
// its profile and its times. The error is ErrInvalid, ErrExpired or ErrRevoked, or a failure of ours.
func (s *Service) Verify(ctx context.Context, result string) (relying.Claims, error) {
	parts, err := relying.Split(result)
	if err != nil { // before the database is asked
		return relying.Claims{}, ErrInvalid
	}
	if err := s.Refresh(ctx); err != nil {
		return relying.Claims{}, fmt.Errorf("verify result: %w", err)
	}
	return s.keys.Load().verify(result, parts.Header.KeyID, s.cfg.Now())
}

func (k *snapshot) verify(result, keyID string, now time.Time) (relying.Claims, error) {
	key, state := k.byID(keyID, now)
	if key == nil || !strings.HasPrefix(result, key.header) { // one result has one encoding
		return relying.Claims{}, ErrInvalid
	}
	t, err := relying.Verify(result, []relying.Key{key.key})
	if err != nil {
		return relying.Claims{}, ErrInvalid
	}
	claims, err := relying.ReadClaims(t)
	switch {
	case err != nil || claims.Expires == nil:
		return relying.Claims{}, ErrInvalid
	case state == Revoked:
		return claims, ErrRevoked
	case state == Gone || !now.Before(time.Unix(*claims.Expires, 0)):
		return claims, ErrExpired
	}
	return claims, nil
}

// byID is the key with an id; nil for none.
func (k *snapshot) byID(id string, now time.Time) (*signer, State) {
	for i := range k.rings {
		for j := range k.rings[i].signers {
			if k.rings[i].signers[j].jwk.Kid == id {
				state, _ := stateAt(k.rings[i].rows, j, now)
				return &k.rings[i].signers[j], state
			}
		}
	}
	return nil, ""
}
