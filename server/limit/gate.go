package limit

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// ErrOverloaded is work that would have had to wait too long.
var ErrOverloaded = errors.New("too much of this work is waiting")

// Gate bounds one kind of work: how much of it is done at once, and how much more may wait, and for how long. Who waits is let
// in in the order of coming.
//
// Work takes its place first (Reserve), before anything is read or allocated for it, and a slot (Enter) once all that it
// needs is there: so a client that sends slowly holds a place, of which there are many, and never a slot.
type Gate struct {
	slots   *semaphore.Weighted
	size    int64
	places  int64
	wait    time.Duration
	held    atomic.Int64
	working atomic.Int64
	refused atomic.Int64
}

// NewGate makes a gate for size at once and queue more that wait at most wait.
func NewGate(size, queue int, wait time.Duration) *Gate {
	return &Gate{slots: semaphore.NewWeighted(int64(size)), size: int64(size), places: int64(size) + int64(queue), wait: wait}
}

// Pass is a place in a gate, and maybe a slot. The zero value is neither, and Enter and Leave do nothing. It is for one
// goroutine.
type Pass struct {
	gate   *Gate
	inside bool
}

// Reserve takes a place; of a nil gate the zero Pass. ErrOverloaded where all are taken.
func (g *Gate) Reserve() (Pass, error) {
	if g == nil {
		return Pass{}, nil
	}
	if g.held.Add(1) > g.places {
		g.held.Add(-1)
		g.refused.Add(1)
		return Pass{}, ErrOverloaded
	}
	return Pass{gate: g}, nil
}

// Enter waits for a slot. ErrOverloaded where none came free in time; ctx's error where that ended first.
func (p *Pass) Enter(ctx context.Context) error {
	g := p.gate
	if g == nil || p.inside {
		return nil
	}
	if !g.slots.TryAcquire(1) {
		bounded, cancel := context.WithTimeout(ctx, g.wait)
		defer cancel()
		if err := g.slots.Acquire(bounded, 1); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			g.refused.Add(1)
			return ErrOverloaded
		}
	}
	p.inside = true
	g.working.Add(1)
	return nil
}

// Leave gives back the slot and the place. More than one call is as one.
func (p *Pass) Leave() {
	g := p.gate
	if g == nil {
		return
	}
	if p.inside {
		g.working.Add(-1)
		g.slots.Release(1)
	}
	g.held.Add(-1)
	*p = Pass{}
}

// GateStats is how a gate stands.
type GateStats struct {
	Size    int64 // slots
	Working int64 // slots that are taken
	Waiting int64 // places taken without a slot: waiting, or still sending
	Refused int64 // since the start
}

// Stats reads the numbers, each for itself.
func (g *Gate) Stats() GateStats {
	working := g.working.Load()
	return GateStats{Size: g.size, Working: working, Waiting: max(g.held.Load()-working, 0), Refused: g.refused.Load()}
}
