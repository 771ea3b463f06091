package notify

import (
	"math/rand/v2"
	"time"
)

// retries is how long after a failure the next attempt comes: thirteen attempts in about three days, as Standard Webhooks
// 1.0.0 recommends ("Deliverability and reliability"). After the last the delivery is dead.
var retries = []time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour,
	2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 12 * time.Hour, 20 * time.Hour, 24 * time.Hour,
}

// longestRetryAfter bounds what a receiver can ask for by Retry-After.
const longestRetryAfter = 24 * time.Hour

// giveUpAfter is how long a channel may fail, with not one delivery, before it is disabled.
const giveUpAfter = 5 * 24 * time.Hour

// nextAttempt is when to try again after a failure of the given number (from 1) of a round; false after the last. share
// is from 0 to 1, by chance: a tenth sooner to a tenth later, so that what failed together does not come together.
// A receiver's Retry-After (RFC 9110, section 10.2.3) is never undercut.
func nextAttempt(failed int, now time.Time, retryAfter time.Duration, share float64) (time.Time, bool) {
	if failed > len(retries) {
		return time.Time{}, false
	}
	pause := retries[max(failed, 1)-1]
	pause = time.Duration(float64(pause) * (0.9 + 0.2*share))
	return now.Add(max(pause, min(retryAfter, longestRetryAfter))), true
}

// chance only spreads load, and need not be unpredictable.
func chance() float64 { return rand.Float64() } //nolint:gosec // it only spreads load
