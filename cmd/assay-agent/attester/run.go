package attester

import (
	"context"
	"errors"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/platform"
)

// Hooks let the caller of Run tell people what happens. Nil hooks are not called.
type Hooks struct {
	Verdict func(v *client.Verdict, next time.Duration)
	Error   func(err error, next time.Duration)
}

// Timing of Run.
const (
	defaultInterval = 5 * time.Minute // when the server says none
	intervalJitter  = 0.10            // of that interval, either way
	minBackOff      = time.Second
	maxBackOff      = 10 * time.Minute
)

// Run attests now and then at the interval that the server answers, until ctx ends. No error ends it: a
// server that is away, or that refuses this machine today, may be back tomorrow; it is asked again
// after a time that doubles up to ten minutes. It returns nil when ctx ends, and ErrNotEnrolled.
func (a *Attester) Run(ctx context.Context, h Hooks) error {
	if !a.state.Enrolled() {
		return ErrNotEnrolled
	}
	failures := 0
	for {
		verdict, err := a.Attest(ctx)
		if verdict == nil && ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to stop
		}
		var wait time.Duration
		if verdict != nil { // err may still say that the state could not be written
			failures = 0
			wait = nextInterval(verdict.NextAttestationAfterSeconds, a.random())
			if h.Verdict != nil {
				h.Verdict(verdict, wait)
			}
		} else {
			failures++
			wait = backOff(failures, err, a.random())
		}
		if err != nil && h.Error != nil {
			h.Error(err, wait)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// nextInterval is the time that the server says, as it says it: the server leads each machine to a moment of its own, and
// has a deadline at the end of the interval. Where it says none, machines that booted together drift apart by chance; random
// is in [0, 1).
func nextInterval(seconds int, random float64) time.Duration {
	if seconds > 0 {
		return time.Duration(min(seconds, 7*24*3600)) * time.Second
	}
	const interval = defaultInterval
	return interval + time.Duration((2*random-1)*intervalJitter*float64(interval))
}

// backOff is the time to wait after so many failures in a row (from 1): doubling from a second to ten
// minutes, half of it by chance, and never less than the Retry-After of the server, or of the cloud's
// metadata service.
func backOff(failures int, err error, random float64) time.Duration {
	wait := maxBackOff
	if failures <= 10 {
		wait = min(minBackOff<<(failures-1), maxBackOff)
	}
	wait = wait/2 + time.Duration(random*float64(wait/2))
	var p *client.Problem
	if errors.As(err, &p) {
		wait = max(wait, p.RetryAfter)
	}
	var refused *platform.RefusedError
	if errors.As(err, &refused) {
		wait = max(wait, refused.RetryAfter)
	}
	return wait
}
