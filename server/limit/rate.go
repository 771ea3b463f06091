package limit

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Rate is how often something may happen: PerSecond in the long run, Burst at once. The zero value is no limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// None tells whether there is no limit.
func (r Rate) None() bool { return r.PerSecond == 0 }

// String is the form that UnmarshalText reads.
func (r Rate) String() string {
	if r.None() {
		return "off"
	}
	return strconv.FormatFloat(r.PerSecond, 'g', -1, 64) + ":" + strconv.Itoa(r.Burst)
}

// UnmarshalText reads "50:500", which is 50 a second and 500 at once, or "off".
func (r *Rate) UnmarshalText(text []byte) error {
	if string(text) == "off" {
		*r = Rate{}
		return nil
	}
	per, burst, both := strings.Cut(string(text), ":")
	n, err := strconv.ParseFloat(per, 64)
	b, burstErr := strconv.Atoi(burst)
	if !both || err != nil || burstErr != nil || !(n >= 0.001 && n <= 1e6) || b < 1 || b > 1e7 {
		return fmt.Errorf("%q is no rate: give the number a second (0.001 to 1000000) and the number at once, such as 50:500, or off", text)
	}
	*r = Rate{PerSecond: n, Burst: b}
	return nil
}

// Buckets are token buckets by key. A bucket that is full is the same as none, so that only keys that were seen lately cost
// memory; of more than the size, those that were used longest ago are forgotten, which is in their favour. All methods may be
// called of a nil *Buckets, which limits nothing.
type Buckets[K comparable] struct {
	start time.Time
	every time.Duration // that one event takes to come back
	depth time.Duration // that an empty bucket takes to be full
	size  int

	mu         sync.Mutex
	young, old map[K]time.Duration // since start, when the bucket is full again (the "theoretical arrival time" of GCRA)
}

// NewBuckets makes buckets for about size keys, all full. Times that are given later count from start; where both have a
// monotonic reading, a clock that is set changes nothing.
func NewBuckets[K comparable](r Rate, size int, start time.Time) *Buckets[K] {
	if r.None() {
		return nil
	}
	every := max(time.Duration(float64(time.Second)/r.PerSecond), 1)
	depth := time.Duration(math.Min(float64(every)*float64(r.Burst), float64(365*24*time.Hour)))
	return &Buckets[K]{start: start, every: every, depth: depth, size: max(size/2, 1), young: map[K]time.Duration{}}
}

// Take takes n from a key's bucket. Where there are not as many it takes nothing, and says how long it takes until there are.
func (b *Buckets[K]) Take(key K, n int, now time.Time) (wait time.Duration, ok bool) {
	if b == nil {
		return 0, true
	}
	at := now.Sub(b.start)
	b.mu.Lock()
	defer b.mu.Unlock()
	full := b.fullAt(key, at) + time.Duration(n)*b.every
	if over := full - at - b.depth; over > 0 {
		return over, false
	}
	b.put(key, full)
	return 0, true
}

// Charge takes n, or all that is left, whether or not there are as many.
func (b *Buckets[K]) Charge(key K, n int, now time.Time) {
	if b == nil {
		return
	}
	at := now.Sub(b.start)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.put(key, min(b.fullAt(key, at)+time.Duration(n)*b.every, at+b.depth))
}

// Has tells whether Take of one would succeed, and else in how long; it takes nothing.
func (b *Buckets[K]) Has(key K, now time.Time) (wait time.Duration, ok bool) {
	if b == nil {
		return 0, true
	}
	at := now.Sub(b.start)
	b.mu.Lock()
	defer b.mu.Unlock()
	over := b.fullAt(key, at) + b.every - at - b.depth
	return over, over <= 0
}

// fullAt is when the bucket is full again, at itself for one that is full. A clock that was set back makes a bucket empty at
// worst.
func (b *Buckets[K]) fullAt(key K, at time.Duration) time.Duration {
	full, known := b.young[key]
	if !known {
		full = b.old[key]
	}
	return min(max(full, at), at+b.depth)
}

// put begins a new generation when the young one has its size; the one before the last is forgotten.
func (b *Buckets[K]) put(key K, full time.Duration) {
	if _, known := b.young[key]; !known && len(b.young) >= b.size {
		b.old, b.young = b.young, make(map[K]time.Duration, len(b.young)/4)
	}
	b.young[key] = full
}

// Len is how many keys are remembered.
func (b *Buckets[K]) Len() int {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.young) + len(b.old)
}

// Shares count what is in work of each key. A nil *Shares limits nothing.
type Shares[K comparable] struct {
	most int
	mu   sync.Mutex
	held map[K]int
}

// NewShares lets each key have most in work at once; 0 is no limit.
func NewShares[K comparable](most int) *Shares[K] {
	if most == 0 {
		return nil
	}
	return &Shares[K]{most: most, held: map[K]int{}}
}

// Enter counts one more, unless the key has its share already. Leave must be called after it answered true.
func (s *Shares[K]) Enter(key K) bool {
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[key] >= s.most {
		return false
	}
	s.held[key]++
	return true
}

// Leave counts one less.
func (s *Shares[K]) Leave(key K) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[key]--; s.held[key] <= 0 {
		delete(s.held, key)
	}
}
