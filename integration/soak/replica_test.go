package soak

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/server/reach"
	"github.com/assay-verifier/assay/server/schedule"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
)

// replica is one service on the database.
type replica struct {
	name   string // of its connections
	ctx    context.Context
	cancel context.CancelFunc
	clock  func() time.Time
	store  *store.Store
	attest *attest.Service
	notify *notify.Service
	jobs   []schedule.Job
}

// start starts a replica.
func (w *world) start() *replica {
	w.t.Helper()
	w.started++
	r := &replica{name: fmt.Sprintf("replica-%d", w.started), clock: w.clock}
	r.ctx, r.cancel = context.WithCancel(w.t.Context())
	var err error
	if r.store, err = store.Open(r.ctx, w.url+"&application_name="+r.name, store.Options{MaxConns: 6}); err != nil {
		w.t.Fatal(err)
	}
	if err := r.store.EnsureTenant(r.ctx, tenantID, begin); err != nil {
		w.t.Fatal(err)
	}
	tokens, err := token.New(r.ctx, token.Config{Store: r.store, Tenant: tenantID, Now: w.clock})
	if err != nil {
		w.t.Fatal(err)
	}
	if r.attest, err = attest.New(attest.Config{Store: r.store, Token: tokens, Now: w.clock, Random: rand.Reader, Build: "soak"}); err != nil {
		w.t.Fatal(err)
	}
	keys := func(ctx context.Context, purpose string, generate func() ([]byte, error)) ([]byte, error) {
		return r.store.ServiceKey(ctx, tenantID, purpose, generate)
	}
	if r.notify, err = notify.New(r.ctx, notify.Config{Store: r.store, Keys: keys, Now: w.clock, Reach: reach.Rules{Loopback: true}, AllowHTTP: true, Timeout: attempt}); err != nil {
		w.t.Fatal(err)
	}
	r.jobs = []schedule.Job{schedule.Heartbeat(r.store, tenantID, w.clock), schedule.Deadlines(r.store, tenantID, limits, w.clock), schedule.CountIncidents(r.store, tenantID, w.clock)}
	return r
}

// do does one round of a job.
func (r *replica) do(job string) error {
	_, err := schedule.Once(r.ctx, r.jobs, job)
	return err
}

func (r *replica) end() {
	r.cancel()
	r.store.Close()
}

// strike hits replicas while they are at work, now and then: one is killed, with all that it is doing, and another starts in
// its place; or connections of any are cut. Whatever transaction they are in is lost, or is committed and nobody is told.
func (w *world) strike() (stop func()) {
	w.t.Helper()
	switch {
	case !w.plan.kills:
	case w.perHour(1.5):
		w.killed++
		i := w.chance.IntN(len(w.replicas))
		victim := w.replicas[i]
		shot := w.shoot(`application_name = $1`, victim.name)
		return func() {
			victim.cancel()
			shot()
			victim.store.Close()
			w.replicas[i] = w.start()
		}
	case w.perHour(6):
		w.struck++
		return w.shoot(`application_name LIKE $1 AND state <> 'idle' AND random() < 0.3`, "replica-%")
	}
	return func() {}
}

// shoot ends connections to the database again and again, from a moment left to chance, until stop is called.
func (w *world) shoot(which string, args ...any) (stop func()) {
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(w.t.Context())
	go func() {
		defer close(ended)
		_, _ = w.db.Exec(context.WithoutCancel(ctx), `SELECT pg_sleep(random() * 0.02)`)
		for ctx.Err() == nil {
			_, _ = w.db.Exec(context.WithoutCancel(ctx), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND `+which, args...)
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// everyReplica runs f for all replicas at once, under fire, and then for each until it has succeeded, as a supervisor that
// starts what has died.
func (w *world) everyReplica(f func(*replica) error) {
	w.t.Helper()
	stop := w.strike()
	var wg sync.WaitGroup
	failed := make([]bool, len(w.replicas))
	for i, r := range w.replicas {
		wg.Go(func() { failed[i] = f(r) != nil })
	}
	wg.Wait()
	stop()
	for i, r := range w.replicas {
		if failed[i] {
			w.untilDone(func() error { return f(r) })
		}
	}
}

// untilDone tries again and again, since connections that were killed are found out one by one.
func (w *world) untilDone(f func() error) {
	w.t.Helper()
	var err error
	for range 20 {
		if err = f(); err == nil {
			return
		}
	}
	w.t.Fatalf("seed %d: it does not recover: %v", w.plan.seed, err)
}

// look lets all replicas look at the deadlines, and the model say what they must find.
func (w *world) look() {
	w.t.Helper()
	deadlines := func(r *replica) error { return r.do(schedule.StaleName) }
	w.everyReplica(deadlines)
	if len(w.replicas) > 1 { // where one died while the others left it to it, this is the next look; else it finds nothing
		w.untilDone(func() error { return deadlines(w.replicas[0]) })
	}
	w.model.look(w.now)
}
