package attest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"
)

// A nonce is 32 bytes:
//
//	0-7    time, milliseconds since 1970, big endian
//	8-9    lifetime: seconds, or minutes with the top bit set; the next bit says what bytes 10-15 are
//	10-15  random, or the time that it was made at, where that is not the one in front
//	16-31  the first half of HMAC-SHA256(key, version, tenant, machine, bytes 0-15)
//
// The first 16 bytes are its order key: the store lets a machine's last redeemed order key only grow,
// so each nonce counts once. The MAC is checked first and in constant time: a nonce that we did not
// make for this machine says nothing at all, its time included. 128 bits of MAC cannot be guessed, and
// the random part, or else the MAC, keeps a nonce unpredictable for whoever knows the time. The lifetime is in the nonce
// because the challenge that an answer carries must live until the next attestation, which is later
// than one that was asked for.
//
// A clock that was ahead and was set back leaves last redeemed nonces behind that lie in the future. Order keys have to follow
// them all the same, or their machines could not attest until the clock has caught up; such a nonce says when it was made.
const (
	nonceVersion  = 2
	nonceSize     = 32
	orderKeySize  = 16
	nonceMACStart = 16
)

// nonceSkew is how far in the future a nonce of ours may be made: replicas' clocks differ a little. What is
// beyond was made by a clock that has been set back since; it cannot be aged, so it counts as unknown.
const nonceSkew = 10 * time.Second

// errUnknownNonce is a nonce that was not made by this service for this machine.
var errUnknownNonce = errors.New("not a challenge of this service for this machine")

type nonceMaker struct{ macs sync.Pool }

func newNonceMaker(key []byte) *nonceMaker {
	return &nonceMaker{macs: sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

// make builds a nonce. notBefore, the time of the last redeemed nonce, keeps order keys growing where
// two challenges fall into one millisecond, or the clock has been set back a little.
func (m *nonceMaker) make(tenant, machine uuid.UUID, now, notBefore time.Time, lifetime time.Duration, random io.Reader) ([nonceSize]byte, error) {
	var n [nonceSize]byte
	made := now.UnixMilli()
	order := max(made, notBefore.UnixMilli()+1)
	code := encodeLifetime(lifetime)
	if order-made > nonceSkew.Milliseconds() {
		code |= lifetimeMade
		binary.BigEndian.PutUint64(n[8:16], uint64(made)) //nolint:gosec // later than 1970, and of 48 bits until the year 10889
	} else if _, err := io.ReadFull(random, n[10:16]); err != nil {
		return n, fmt.Errorf("make challenge: %w", err)
	}
	binary.BigEndian.PutUint64(n[:8], uint64(order)) //nolint:gosec // as above
	binary.BigEndian.PutUint16(n[8:10], code)
	var sum [sha256.Size]byte
	m.mac(&sum, tenant, machine, n[:orderKeySize])
	copy(n[nonceMACStart:], sum[:])
	return n, nil
}

// check tells whether nonce is ours for this machine, and when it expires. Whether it is still to be
// accepted is for the caller: its age, and its order.
func (m *nonceMaker) check(tenant, machine uuid.UUID, nonce []byte, now time.Time) (expires time.Time, err error) {
	if len(nonce) != nonceSize {
		return time.Time{}, errUnknownNonce
	}
	var sum [sha256.Size]byte
	m.mac(&sum, tenant, machine, nonce[:orderKeySize])
	if !hmac.Equal(nonce[nonceMACStart:], sum[:nonceSize-nonceMACStart]) {
		return time.Time{}, errUnknownNonce
	}
	if madeAt(nonce).After(now.Add(nonceSkew)) {
		return time.Time{}, errUnknownNonce
	}
	return expiry(nonce), nil
}

// madeAt is when a nonce of ours was made.
func madeAt(nonce []byte) time.Time {
	if binary.BigEndian.Uint16(nonce[8:10])&lifetimeMade == 0 {
		return orderTime(nonce)
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(nonce[8:16]) & (1<<48 - 1))) //nolint:gosec // 48 bits
}

// expiry is when a nonce of ours stops counting: the time that it was made at, plus its lifetime.
func expiry(nonce []byte) time.Time {
	lifetime := binary.BigEndian.Uint16(nonce[8:10])
	unit := time.Second
	if lifetime&lifetimeMinutes != 0 {
		unit = time.Minute
	}
	return madeAt(nonce).Add(time.Duration(lifetime&maxLifetime) * unit)
}

const (
	lifetimeMinutes = 0x8000 // the lifetime counts minutes
	lifetimeMade    = 0x4000 // bytes 10-15 are the time that the nonce was made at
	maxLifetime     = 0x3fff
)

// encodeLifetime rounds to seconds up to four and a half hours and down to minutes from there, at most eleven days: the
// longest that a policy gives is nine.
func encodeLifetime(d time.Duration) uint16 {
	if seconds := d / time.Second; seconds <= maxLifetime {
		return uint16(max(seconds, 0)) //nolint:gosec // in range
	}
	return lifetimeMinutes | uint16(min(d/time.Minute, maxLifetime)) //nolint:gosec // in range
}

func (m *nonceMaker) mac(sum *[sha256.Size]byte, tenant, machine uuid.UUID, order []byte) {
	h := m.macs.Get().(hash.Hash)
	defer m.macs.Put(h)
	h.Reset()
	h.Write([]byte{nonceVersion})
	h.Write(tenant[:])
	h.Write(machine[:])
	h.Write(order)
	h.Sum(sum[:0])
}

// orderTime is the time in an order key or nonce; the zero Unix time for one that is too short.
func orderTime(order []byte) time.Time {
	if len(order) < 8 {
		return time.UnixMilli(0)
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(order))) //nolint:gosec // ours: the MAC was checked, or the store kept it
}
