package notify

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"

	"github.com/assay-verifier/assay/store"
)

// Workers of one replica. A tenant has at most 50 channels, so that receivers that hang keep no other waiting. Those of the
// fan-out wait for one another, and only take jobs off the queue.
const (
	deliverWorkers = 64
	fanOutWorkers  = 20
)

const (
	pollInterval  = 500 * time.Millisecond // how long an event waits at most before its fan-out, and a delivery before its attempt
	fetchCooldown = 100 * time.Millisecond
	sweepInterval = 5 * time.Second // the first retry comes after 5 s
	jobTimeout    = 2 * time.Minute
	stopTimeout   = attemptTimeout + 5*time.Second
)

// Run works until ctx ends, and returns when what was under way is finished. Replicas may run at once.
func (s *Service) Run(ctx context.Context) error {
	workers := river.NewWorkers()
	river.AddWorker(workers, &fanOutWorker{s: s})
	river.AddWorker(workers, &deliverWorker{s: s})
	client, closeJobs, err := s.store.JobClient(ctx, river.Config{
		Queues: map[string]river.QueueConfig{
			store.QueueFanOut:  {MaxWorkers: fanOutWorkers},
			store.QueueDeliver: {MaxWorkers: deliverWorkers},
		},
		Workers: workers, FetchCooldown: fetchCooldown, FetchPollInterval: pollInterval, JobTimeout: jobTimeout, RescueStuckJobsAfter: 2 * jobTimeout,
		CompletedJobRetentionPeriod: 10 * time.Minute, DiscardedJobRetentionPeriod: 24 * time.Hour, // the sweep does not need them
		Logger: slog.New(quiet{s.cfg.Logger.Handler()}),
	})
	if err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	defer closeJobs()
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.sweepUntil(ctx) })
	<-ctx.Done()
	s.stopping.Store(true)
	wg.Wait()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := client.Stop(stop); err != nil {
		s.cfg.Logger.Warn("notifications that were under way were cut off; they are delivered again", "error", err.Error())
		end, cancelEnd := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancelEnd()
		_ = client.StopAndCancel(end) // what does not end now ends with the process, and its claims run out
	}
	return nil
}

func (s *Service) sweepUntil(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepInterval - rand.N(sweepInterval/5)): //nolint:gosec // it only spreads load
		}
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.Error("the sweep of notifications failed; the next comes in seconds", "error", err.Error())
		}
	}
}

type fanOutWorker struct {
	river.WorkerDefaults[store.FanOutJob]
	s *Service
}

// Work implements river.Worker. Of the jobs that wait while one runs, the first does the work of all.
func (w *fanOutWorker) Work(ctx context.Context, job *river.Job[store.FanOutJob]) error {
	return w.s.fanOutOnce(ctx, job.Args.TenantID)
}

func (s *Service) fanOutOnce(ctx context.Context, tenant uuid.UUID) error {
	came := s.fanOuts.Load()
	s.fanOutMu.Lock()
	defer s.fanOutMu.Unlock()
	if s.lastTenant == tenant && s.fanOuts.Load() > came { // a whole one began and ended after the event was committed
		return nil
	}
	s.fanOuts.Add(1)
	s.lastTenant = tenant
	_, err := s.FanOut(ctx, tenant)
	if err != nil {
		s.lastTenant = uuid.Nil
	}
	return err
}

type deliverWorker struct {
	river.WorkerDefaults[store.DeliverJob]
	s *Service
}

// Work implements river.Worker.
func (w *deliverWorker) Work(ctx context.Context, job *river.Job[store.DeliverJob]) error {
	_, more, err := w.s.Deliver(ctx, job.Args.TenantID, job.Args.ChannelID)
	if err == nil && more && !w.s.stopping.Load() {
		return river.JobSnooze(0) // to the end of the queue
	}
	return err
}

// quiet is the service's log without what River says in the course of its work.
type quiet struct{ slog.Handler }

// Enabled implements slog.Handler.
func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && q.Handler.Enabled(ctx, level)
}
