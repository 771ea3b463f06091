package attest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

func mustMake(t testing.TB, m *nonceMaker, tenant, machine uuid.UUID, now, notBefore time.Time) [nonceSize]byte {
	t.Helper()
	n, err := m.make(tenant, machine, now, notBefore, 2*time.Minute, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNonceIsKnownAgain(t *testing.T) {
	m := newNonceMaker([]byte("key"))
	tenant, machine := uuid.New(), uuid.New()
	n := mustMake(t, m, tenant, machine, start, time.Time{})
	expires, err := m.check(tenant, machine, n[:], start.Add(time.Hour))
	if err != nil || !expires.Equal(start.Add(2*time.Minute)) {
		t.Fatalf("expires %v, error %v", expires, err)
	}
	if other := mustMake(t, m, tenant, machine, start, time.Time{}); other == n {
		t.Fatal("two nonces of one moment are equal")
	}
}

// A nonce of another machine, tenant or service, or one that was touched anywhere, is unknown.
func TestNonceOfAnybodyElseIsUnknown(t *testing.T) {
	m := newNonceMaker([]byte("key"))
	tenant, machine := uuid.New(), uuid.New()
	n := mustMake(t, m, tenant, machine, start, time.Time{})
	refused := func(name string, m *nonceMaker, tenant, machine uuid.UUID, nonce []byte, now time.Time) {
		t.Helper()
		if _, err := m.check(tenant, machine, nonce, now); !errors.Is(err, errUnknownNonce) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	refused("another machine", m, tenant, uuid.New(), n[:], start)
	refused("another tenant", m, uuid.New(), machine, n[:], start)
	refused("another service", newNonceMaker([]byte("other")), tenant, machine, n[:], start)
	refused("nothing", m, tenant, machine, nil, start)
	refused("too short", m, tenant, machine, n[:31], start)
	refused("too long", m, tenant, machine, append(n[:], 0), start)
	refused("made in the future", m, tenant, machine, n[:], start.Add(-time.Minute))
	for i := range n {
		changed := n
		changed[i] ^= 0x80
		refused("a changed byte", m, tenant, machine, changed[:], start)
	}
}

// Order keys only grow, also within one millisecond and when the clock is set back: otherwise a fresh
// challenge could be refused as an old one.
func TestOrderKeysGrow(t *testing.T) {
	m := newNonceMaker([]byte("key"))
	tenant, machine := uuid.New(), uuid.New()
	rapid.Check(t, func(t *rapid.T) {
		now, last := start, []byte(nil)
		for range 20 {
			now = now.Add(time.Duration(rapid.Int64Range(-2000, 2000).Draw(t, "step")) * time.Microsecond)
			n, err := m.make(tenant, machine, now, orderTime(last), time.Minute, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Compare(n[:orderKeySize], last) <= 0 {
				t.Fatalf("order key %x does not follow %x", n[:orderKeySize], last)
			}
			if _, err := m.check(tenant, machine, n[:], now); err != nil {
				t.Fatalf("a fresh nonce is unknown: %v", err)
			}
			last = n[:orderKeySize]
		}
	})
}

// The clock was ahead, a machine attested, and the clock was set back: new challenges follow the one that was redeemed, live as
// long as others by the clock that is right, and are not taken before they were made.
func TestNonceAfterTheClockWasSetBack(t *testing.T) {
	m := newNonceMaker([]byte("key"))
	tenant, machine := uuid.New(), uuid.New()
	redeemed := mustMake(t, m, tenant, machine, start.Add(48*time.Hour), time.Time{})
	n := mustMake(t, m, tenant, machine, start, orderTime(redeemed[:]))
	if bytes.Compare(n[:orderKeySize], redeemed[:orderKeySize]) <= 0 {
		t.Fatalf("order key %x does not follow %x", n[:orderKeySize], redeemed[:orderKeySize])
	}
	expires, err := m.check(tenant, machine, n[:], start)
	if err != nil || !expires.Equal(start.Add(2*time.Minute)) {
		t.Fatalf("expires %v, error %v", expires, err)
	}
	if _, err := m.check(tenant, machine, n[:], start.Add(-time.Minute)); !errors.Is(err, errUnknownNonce) {
		t.Errorf("before it was made: error %v", err)
	}
	if _, err := m.check(tenant, machine, redeemed[:], start); !errors.Is(err, errUnknownNonce) {
		t.Errorf("one that was made while the clock was ahead: error %v", err)
	}
	if next := mustMake(t, m, tenant, machine, start.Add(time.Second), orderTime(n[:])); bytes.Compare(next[:orderKeySize], n[:orderKeySize]) <= 0 {
		t.Errorf("order key %x does not follow %x", next[:orderKeySize], n[:orderKeySize])
	}
}

func TestNonceNeedsRandomness(t *testing.T) {
	m := newNonceMaker([]byte("key"))
	if _, err := m.make(uuid.New(), uuid.New(), start, time.Time{}, time.Minute, bytes.NewReader(nil)); err == nil {
		t.Fatal("a nonce was made without randomness")
	}
}

func BenchmarkNonceCheck(b *testing.B) {
	m := newNonceMaker([]byte("key"))
	tenant, machine := uuid.New(), uuid.New()
	n := mustMake(b, m, tenant, machine, start, time.Time{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.check(tenant, machine, n[:], start); err != nil {
			b.Fatal(err)
		}
	}
}

// The lifetime travels in the nonce: to the second for hours, to the minute for days.
func TestNonceLifetime(t *testing.T) {
	m := newNonceMaker([]byte("key"))
	for lifetime, want := range map[time.Duration]time.Duration{
		0:                             0,
		-time.Second:                  0,
		5 * time.Second:               5 * time.Second,
		495 * time.Second:             495 * time.Second,
		9 * time.Hour:                 9 * time.Hour,
		10*time.Hour + 30*time.Second: 10 * time.Hour,
		9 * 24 * time.Hour:            9 * 24 * time.Hour,
		365 * 24 * time.Hour:          maxLifetime * time.Minute,
	} {
		n, err := m.make(uuid.New(), uuid.New(), start, time.Time{}, lifetime, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if got := expiry(n[:]).Sub(start); got != want {
			t.Errorf("%s became %s, want %s", lifetime, got, want)
		}
	}
}
