package store

import (
	"context"
	"sync"
	"time"
)

// gatherTimeout bounds one group's statement: a database that hangs must not hold its callers for ever.
const gatherTimeout = 30 * time.Second

// gatherer answers the questions of concurrent callers by one statement for all that have asked: while one
// group is answered, the next gathers. With the reads of appraisals gathered so, Postgres spends 60 µs on an
// unchanged attestation where it spent 240.
//
// The goroutine belongs to the Store: started by startGatherer, ended by stop, which returns when all that
// was asked is answered.
type gatherer[Q, A any] struct {
	size   int
	answer func(ctx context.Context, group []Q) ([]A, error) // one answer a question, in their order
	mu     sync.RWMutex                                      // held for reading while a question is put into the queue
	closed bool
	queue  chan *question[Q, A]
	ended  chan struct{}
}

type question[Q, A any] struct {
	q    Q
	a    A
	err  error
	done chan struct{}
}

func startGatherer[Q, A any](size int, answer func(context.Context, []Q) ([]A, error)) *gatherer[Q, A] {
	g := &gatherer[Q, A]{size: size, answer: answer, queue: make(chan *question[Q, A], size), ended: make(chan struct{})}
	go g.run()
	return g
}

// do asks q. The answer is of a statement that began after the call.
func (g *gatherer[Q, A]) do(ctx context.Context, q Q) (A, error) {
	p := &question[Q, A]{q: q, done: make(chan struct{})}
	var none A
	if err := g.put(ctx, p); err != nil {
		return none, err
	}
	select {
	case <-p.done:
		return p.a, p.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

func (g *gatherer[Q, A]) put(ctx context.Context, p *question[Q, A]) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return errClosed
	}
	select {
	case g.queue <- p:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gatherer[Q, A]) stop() {
	g.mu.Lock()
	g.closed = true
	close(g.queue)
	g.mu.Unlock()
	<-g.ended
}

func (g *gatherer[Q, A]) run() {
	defer close(g.ended)
	for first := range g.queue {
		group := []*question[Q, A]{first}
		for len(group) < g.size && len(g.queue) > 0 { // this goroutine alone takes out of the queue
			group = append(group, <-g.queue)
		}
		g.settle(group)
	}
}

func (g *gatherer[Q, A]) settle(group []*question[Q, A]) {
	ctx, cancel := context.WithTimeout(context.Background(), gatherTimeout)
	defer cancel()
	questions := make([]Q, len(group))
	for i, p := range group {
		questions[i] = p.q
	}
	answers, err := g.answer(ctx, questions)
	for i, p := range group {
		if p.err = err; err == nil {
			p.a = answers[i]
		}
		close(p.done)
	}
}
