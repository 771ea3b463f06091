package token

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/store"
)

// KeyInfo is what may be told of a signing key.
type KeyInfo struct {
	ID            string // kid
	Algorithm     string
	State         State
	Public        relying.JWK
	PublishedAt   time.Time
	ActivatedAt   *time.Time // may lie ahead
	EndsAt        *time.Time // of a retiring key: when it leaves the key set
	RevokedAt     *time.Time
	RevokedReason string
	// Until is when the active key is replaced by the clock; nil where it is not.
	Until *time.Time
}

// Keys lists all signing keys as the database has them now, of each algorithm the newest first, those that have ended included:
// documents that they signed can still be verified.
func (s *Service) Keys(ctx context.Context) ([]KeyInfo, error) {
	if err := s.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("list signing keys: %w", err)
	}
	k, now := s.keys.Load(), s.cfg.Now()
	var out []KeyInfo
	for i := range k.rings {
		for j := range k.rings[i].rows {
			row, sg := &k.rings[i].rows[j], &k.rings[i].signers[j]
			info := KeyInfo{ID: sg.jwk.Kid, Algorithm: sg.jwk.Alg, Public: sg.jwk, PublishedAt: row.CreatedAt, ActivatedAt: row.ActivatedAt,
				RevokedAt: row.RevokedAt, RevokedReason: row.RevokedReason}
			var ends time.Time
			info.State, ends = stateAt(k.rings[i].rows, j, now)
			switch {
			case info.State == Retiring:
				info.EndsAt = &ends
			case info.State == Active && s.cfg.RotateEvery > 0:
				until := row.ActivatedAt.Add(s.cfg.RotateEvery)
				info.Until = &until
			}
			out = append(out, info)
		}
	}
	return out, nil
}

// keeper is who keeps the keys, for the audit record.
var keeper = store.Actor{Kind: "system", ID: "signing-keys"}

// Keep does what the clock asks for: it publishes the keys that come next, lets them sign when RotateEvery is over, erases the
// secret halves of those that have ended, and reads again what other replicas have changed. It may be called at any time, by
// several replicas at once, and says in words what it did.
func (s *Service) Keep(ctx context.Context) (report string, err error) {
	return s.change(ctx, "", keeper, func(a *algorithm, rows []store.ServiceKeyRow, now time.Time) (store.SigningChange, error) {
		public := func(k *store.ServiceKeyRow) ([]byte, error) { return a.publicOf(k.Key.Reveal()) }
		return keep(rows, now, s.cfg.RotateEvery, public, func() (*store.NewSigningKey, error) { return a.add(s.cfg.Random) })
	})
}

// Rotate lets the next key of an algorithm sign ("": of each), at once or as soon as relying parties have it.
func (s *Service) Rotate(ctx context.Context, name string, actor store.Actor) error {
	_, err := s.change(ctx, name, actor, func(a *algorithm, rows []store.ServiceKeyRow, now time.Time) (store.SigningChange, error) {
		return rotate(rows, now, func() (*store.NewSigningKey, error) { return a.add(s.cfg.Random) })
	})
	return err
}

// Revoke withdraws a key at once: it is published no more, and what it signed is not accepted by this service any more.
// Relying parties that have kept the key set believe it until that has ended, at most MaxAge. ErrUnknownKey, ErrKeyEnded.
func (s *Service) Revoke(ctx context.Context, keyID, reason string, actor store.Actor) error {
	if err := s.Refresh(ctx); err != nil {
		return fmt.Errorf("revoke signing key: %w", err)
	}
	key, _ := s.keys.Load().byID(keyID, s.cfg.Now())
	if key == nil {
		return ErrUnknownKey
	}
	_, err := s.change(ctx, key.jwk.Alg, actor, func(a *algorithm, rows []store.ServiceKeyRow, now time.Time) (store.SigningChange, error) {
		return revoke(rows, now, keyID, reason, func() (*store.NewSigningKey, error) { return a.add(s.cfg.Random) })
	})
	return err
}

// change decides and applies, algorithm by algorithm, and then reads the keys.
func (s *Service) change(ctx context.Context, name string, actor store.Actor, decide func(*algorithm, []store.ServiceKeyRow, time.Time) (store.SigningChange, error)) (string, error) {
	now := s.cfg.Now()
	var said []string
	for i := range algorithms {
		a := &algorithms[i]
		if name != "" && a.name != name {
			continue
		}
		_, err := s.cfg.Store.ChangeSigningKeys(ctx, s.cfg.Tenant, a.purpose, now, actor, func(rows []store.ServiceKeyRow) (store.SigningChange, error) {
			c, err := decide(a, rows, now)
			if err == nil {
				said = append(said, describe(a.name, &c)...)
			}
			return c, err
		})
		if err != nil {
			return "", err
		}
	}
	return strings.Join(said, "; "), s.Refresh(ctx)
}

// describe is a change in words.
func describe(name string, c *store.SigningChange) (said []string) {
	if c.Activate != nil {
		said = append(said, name+": the next key signs from "+c.ActivateAt.UTC().Format(time.RFC3339))
	}
	if c.Add != nil {
		said = append(said, name+": a key was published")
	}
	if len(c.Erase) > 0 {
		said = append(said, fmt.Sprintf("%s: %d ended keys erased", name, len(c.Erase)))
	}
	return said
}
