// Package schedule does the work that time drives: named jobs, each of which can also be called by hand
// (assayd job run NAME). A job does one round and returns; what it has to remember from one round to the next is in the
// database, so that a restart loses nothing, and several replicas may run the same jobs.
package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"
)

// Job is work that is done again and again.
type Job struct {
	Name  string
	About string        // what it does, in a sentence
	Every time.Duration // between the end of one round and the begin of the next, give or take a tenth
	// Limit ends a round that takes longer; 0 means ten times Every, and at least five minutes.
	Limit time.Duration
	// Run does one round, and says in words what it did; empty for nothing worth saying.
	Run func(ctx context.Context) (report string, err error)
}

// Scheduler runs jobs at their intervals.
type Scheduler struct {
	jobs []Job
	log  *slog.Logger
	// wait is time.After, but for tests.
	wait func(time.Duration) <-chan time.Time
}

// New makes a scheduler; nothing runs before Run.
func New(log *slog.Logger, jobs ...Job) (*Scheduler, error) {
	seen := map[string]bool{}
	for _, j := range jobs {
		if j.Name == "" || j.Run == nil || j.Every <= 0 || seen[j.Name] {
			return nil, fmt.Errorf("schedule: job %q has no name of its own, no interval or nothing to do", j.Name)
		}
		seen[j.Name] = true
	}
	return &Scheduler{jobs: jobs, log: log, wait: time.After}, nil
}

// Run runs each job at its interval until ctx ends, and returns when the rounds that were under way have. The first round
// comes within a tenth of the interval, at a moment left to chance, so that replicas that start together do not do
// the same at once. A round that fails is logged, and the next comes in its time.
func (s *Scheduler) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, j := range s.jobs {
		wg.Go(func() {
			pause := chance(j.Every / 10)
			for {
				select {
				case <-ctx.Done():
					return
				case <-s.wait(pause):
				}
				if ctx.Err() != nil { // both came at once
					return
				}
				s.round(ctx, j)
				pause = j.Every - j.Every/10 + chance(j.Every/5)
			}
		})
	}
	wg.Wait()
}

func (s *Scheduler) round(ctx context.Context, j Job) {
	switch report, err := once(ctx, j); {
	case err != nil && ctx.Err() != nil: // it was ended
	case err != nil:
		s.log.Error("job failed", "job", j.Name, "error", err.Error())
	case report != "":
		s.log.Info("job done", "job", j.Name, "report", report)
	}
}

// chance is a duration below limit. It only spreads load, and need not be unpredictable.
func chance(limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	return rand.N(limit) //nolint:gosec // it only spreads load
}

// ErrNoJob is a name that no job has.
var ErrNoJob = errors.New("there is no such job")

// Once runs one round of the job of that name.
func Once(ctx context.Context, jobs []Job, name string) (report string, err error) {
	for _, j := range jobs {
		if j.Name == name {
			return once(ctx, j)
		}
	}
	return "", fmt.Errorf("%q: %w", name, ErrNoJob)
}

// shortestLimit is the least that a round may take where nothing else is said.
const shortestLimit = 5 * time.Minute

func (j *Job) limit() time.Duration {
	if j.Limit > 0 {
		return j.Limit
	}
	return max(10*j.Every, shortestLimit)
}

// once does one round. A panic ends the round, and not the service; a round that hangs is ended, so that the next can come.
func once(ctx context.Context, j Job) (report string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("job %s panicked: %v\n%s", j.Name, r, debug.Stack())
		}
	}()
	bounded, cancel := context.WithTimeout(ctx, j.limit())
	defer cancel()
	report, err = j.Run(bounded)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		err = fmt.Errorf("it was ended after %s: %w", j.limit(), err)
	}
	return report, err
}
