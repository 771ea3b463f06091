package token

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/store"
)

// State is where a signing key is in its life. It follows from the times in its row and the clock, so that replicas agree
// without telling each other, and nothing has to be done at the moment when it changes.
type State string

// The states, in their order.
const (
	Next     State = "next"     // published, so that relying parties have it before it signs
	Active   State = "active"   // signs
	Retiring State = "retiring" // signs no more; published until all that it signed has ended
	Gone     State = "gone"     // published no more; its secret half is erased
	Revoked  State = "revoked"  // withdrawn at once; what it signed is not accepted
)

// The times that let a consumer that caches the key set never meet a key that it does not know:
//
//	publishLead ≥ MaxAge + refreshEvery + the clocks' difference, where some libraries keep a set for ten minutes whatever is said
//	retireAfter ≥ MaxLifetime + staleAfter + the clocks' difference
//
// (TestCachedKeySetsVerify holds them against drawn histories.)
const (
	// MaxAge is for how long relying parties may keep the key set.
	MaxAge = 5 * time.Minute
	// MaxLifetime is the longest that a result may be valid, whatever is configured.
	MaxLifetime = 24 * time.Hour

	refreshEvery = 30 * time.Second // the key set is published from rows that are no older
	staleAfter   = 5 * time.Minute  // nothing is signed with keys that were read longer ago
	publishLead  = 15 * time.Minute
	retireAfter  = MaxLifetime + 15*time.Minute
)

// Errors of changes that cannot be made.
var (
	ErrUnknownKey = errors.New("there is no signing key with this id")
	ErrKeyEnded   = errors.New("the signing key has ended already")
)

// stateAt tells the state of keys[i] (newest first) at a time, and when it ends by itself: the zero time where it does not.
func stateAt(keys []store.ServiceKeyRow, i int, now time.Time) (state State, ends time.Time) {
	k := &keys[i]
	if k.RevokedAt != nil {
		return Revoked, time.Time{}
	}
	if k.ActivatedAt == nil {
		return Next, time.Time{}
	}
	if k.ActivatedAt.After(now) {
		return Next, *k.ActivatedAt
	}
	for j := i - 1; j >= 0; j-- { // its successor is the first newer key that signed, also where that was revoked since
		if s := keys[j].ActivatedAt; s != nil && !s.After(now) {
			if ends = s.Add(retireAfter); now.Before(ends) {
				return Retiring, ends
			}
			return Gone, time.Time{}
		}
	}
	return Active, time.Time{}
}

// find is the place of the first key in a state, -1 for none.
func find(keys []store.ServiceKeyRow, now time.Time, want State) int {
	for i := range keys {
		if s, _ := stateAt(keys, i, now); s == want {
			return i
		}
	}
	return -1
}

// standby is the key that will sign after the active one: the oldest that is published for that, so that keys sign in the
// order of their generations; -1 for none. scheduled tells whether it is decided already when.
func standby(keys []store.ServiceKeyRow, now time.Time) (i int, scheduled bool) {
	for i := len(keys) - 1; i >= 0; i-- {
		if s, _ := stateAt(keys, i, now); s == Next {
			return i, keys[i].ActivatedAt != nil
		}
	}
	return -1, false
}

// spares counts the keys that would sign after keys[but] had gone or begun to sign.
func spares(keys []store.ServiceKeyRow, now time.Time, but ...int) (n int) {
	for i := range keys {
		if s, _ := stateAt(keys, i, now); s == Next && !slices.Contains(but, i) {
			n++
		}
	}
	return n
}

// maker makes a key of a purpose.
type maker func() (*store.NewSigningKey, error)

// keep is what has to be done with keys as they stand: publish the one that comes next, replace the active one that has
// signed for rotateEvery (0: never), and erase what has ended.
func keep(keys []store.ServiceKeyRow, now time.Time, rotateEvery time.Duration, public func(*store.ServiceKeyRow) ([]byte, error), add maker) (c store.SigningChange, err error) {
	c.Action = "signing_key.keep"
	if a := find(keys, now, Active); a >= 0 && rotateEvery > 0 && !now.Before(keys[a].ActivatedAt.Add(rotateEvery)) {
		if c, err = rotate(keys, now, add); err != nil {
			return c, err
		}
	}
	if next, _ := standby(keys, now); next < 0 && c.Add == nil {
		if c.Add, err = add(); err != nil {
			return c, err
		}
	}
	for i := range keys {
		k := &keys[i]
		if s, _ := stateAt(keys, i, now); s == Gone && !k.Erased {
			c.Erase = append(c.Erase, k.ID)
		}
		if k.Public == nil {
			if c.Public == nil {
				c.Public = map[uuid.UUID][]byte{}
			}
			if c.Public[k.ID], err = public(k); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// rotate lets the next key sign, at once where it has been published for long enough, else as soon as it has. Where that is
// decided already nothing changes: rotating twice in a moment is rotating once.
func rotate(keys []store.ServiceKeyRow, now time.Time, add maker) (c store.SigningChange, err error) {
	c.Action = "signing_key.rotate"
	next, scheduled := standby(keys, now)
	if scheduled {
		return c, nil
	}
	if next < 0 { // none is published yet: this one is, and a later call lets it sign
		c.Add, err = add()
		return c, err
	}
	c.Activate, c.ActivateAt = &keys[next].ID, keys[next].CreatedAt.Add(publishLead)
	if c.ActivateAt.Before(now) {
		c.ActivateAt = now
	}
	if spares(keys, now, next) == 0 {
		c.Add, err = add()
	}
	return c, err
}

// revoke ends a key at once. Where it signs, the next one does from now on, however long it has been published: a relying
// party that has not seen it yet asks for the key set again.
func revoke(keys []store.ServiceKeyRow, now time.Time, keyID, reason string, add maker) (c store.SigningChange, err error) {
	c.Action = "signing_key.revoke"
	i := -1
	for j := range keys {
		if id, err := keyIDOf(keys[j].Public); err == nil && id == keyID {
			i = j
		}
	}
	if i < 0 {
		return c, ErrUnknownKey
	}
	state, _ := stateAt(keys, i, now)
	switch state {
	case Gone, Revoked:
		return c, fmt.Errorf("%s: %w", state, ErrKeyEnded)
	case Active:
		next, _ := standby(keys, now)
		if next < 0 {
			return c, errors.New("no key is published that could sign in its place")
		}
		c.Activate, c.ActivateAt = &keys[next].ID, now
		if spares(keys, now, next) == 0 {
			c.Add, err = add()
		}
	case Next:
		if spares(keys, now, i) == 0 {
			c.Add, err = add()
		}
	case Retiring:
	}
	c.Revoke, c.Reason = &keys[i].ID, reason
	return c, err
}

// keyIDOf is the key id of a public key in PKIX DER.
func keyIDOf(der []byte) (string, error) {
	public, err := parsePublic(der)
	if err != nil {
		return "", err
	}
	k, err := relying.JWKOf(public)
	return k.Kid, err
}
