package store

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/verifier/tee"
)

var errClosed = errors.New("the store is closed")

// commitTimeout bounds one group: a database that hangs must not hold its callers for ever.
const commitTimeout = 30 * time.Second

// pending is one appraisal on its way into a commit.
type pending struct {
	tenant   uuid.UUID
	rec      *AppraisalRecord
	prepared prepared // only for the changed committer
	// What the record brings and what it lacks of collateral, where this process has not stored it already.
	collateral []tee.Collateral
	wants      []tee.Want
	result     Recorded
	err        error
	unsteady   bool // by the steady committer: this is a change (or a refusal), for the changed one to tell
	taken      bool // its group has begun; guarded by committer.mu
	done       chan struct{}
}

// machineKey names a machine of a tenant.
type machineKey struct{ tenant, machine uuid.UUID }

func (p *pending) key() machineKey { return machineKey{p.tenant, p.rec.MachineID} }

// committer gathers what concurrent callers want to write, and writes it in groups: while one group commits,
// the next gathers. A group holds a machine once; a second record of it waits for the next group.
//
// The goroutine belongs to the Store: started by startCommitter, ended by stop, which returns when all that was
// handed in is done.
type committer struct {
	size   int
	commit func(ctx context.Context, group []*pending) // sets result, err or unsteady of each
	mu     sync.Mutex
	queue  []*pending
	closed bool
	wake   chan struct{} // holds one token while there is something to look at
	ended  chan struct{}
}

func startCommitter(size int, commit func(context.Context, []*pending)) *committer {
	c := &committer{size: size, commit: commit, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go c.run()
	return c
}

func (c *committer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// do returns when p's group has committed or failed. Where ctx ends first it returns ctx's error: p is then
// taken back if its group has not begun, and else may or may not become durable, as a whole.
func (c *committer) do(ctx context.Context, p *pending) error {
	p.done = make(chan struct{})
	p.taken = false
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return errClosed
	}
	c.queue = append(c.queue, p)
	c.mu.Unlock()
	c.signal()
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.taken {
		for i, q := range c.queue {
			if q == p {
				c.queue = append(c.queue[:i], c.queue[i+1:]...)
				break
			}
		}
	}
	return ctx.Err()
}

func (c *committer) stop() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.signal()
	<-c.ended
}

func (c *committer) run() {
	defer close(c.ended)
	for range c.wake {
		for {
			group, last := c.next()
			if len(group) == 0 {
				if last {
					return
				}
				break
			}
			ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
			c.commit(ctx, group)
			cancel()
			for _, p := range group {
				close(p.done)
			}
		}
	}
}

// next takes the next group out of the queue, oldest first; last tells that none will follow an empty one.
func (c *committer) next() (group []*pending, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return nil, c.closed
	}
	seen := make(map[machineKey]struct{}, min(len(c.queue), c.size))
	left := c.queue[:0]
	for _, p := range c.queue {
		if _, twice := seen[p.key()]; twice || len(group) == c.size {
			left = append(left, p)
			continue
		}
		seen[p.key()] = struct{}{}
		p.taken = true
		group = append(group, p)
	}
	clear(c.queue[len(left):])
	c.queue = left
	return group, false
}
