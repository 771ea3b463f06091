package attest

import (
	"hash/fnv"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/verifier"
)

// nextAttestation is for how long a machine that attests now waits until it attests again: half an interval at least, less
// the part of a second, and an interval at most, in whole seconds. Each machine has a moment of its own in the interval,
// given by its id, and is led to it in two steps at most. Machines that were started, or cut off, together so part again
// within two intervals, whatever their number, and while they do no part of an interval sees more than twice its share. A
// machine that keeps its moment waits an interval, and attests as often as the policy says.
func nextAttestation(machine uuid.UUID, now time.Time, p *verifier.Policy) time.Duration {
	every := interval(p)
	moment := time.Duration(hashOf(machine) % uint64(every)) //nolint:gosec // below the interval
	left := (moment - time.Duration(now.UnixNano()%int64(every)) + every) % every
	switch {
	case left <= every/20:
		// It is there, or so little early that it stays where it is: sent half an interval ahead it would attest twice.
		return every
	case left < every/2:
		// Its moment is too near. It comes by at most so long before half an interval ahead of it that it may be late and is
		// still led to it by the next step.
		return (left + every*9/20).Truncate(time.Second)
	}
	return min(every, (left + time.Second - 1).Truncate(time.Second))
}

// hashOf spreads machines: ids of machines that enrolled together share all but their random bits.
func hashOf(machine uuid.UUID) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(machine[:])
	x := h.Sum64()
	// FNV leaves the last byte's influence in the low bits; this finalizer (MurmurHash3) carries it to all of them.
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	return x ^ x>>33
}

// trigger says what evidence came after, by what it claims of its boot.
func (a *appraisal) trigger() verifier.Trigger {
	last, boot := a.inputs.LastClock, a.evidence.Agent.BootID
	known := boot != "" && a.inputs.LastBootID != ""
	switch {
	case a.stored:
		return verifier.TriggerReappraisal
	case a.inputs.Machine.LastSeenAt == nil || !a.evidence.NoTPM && last == nil:
		return verifier.TriggerFirst
	case a.resetCount != nil && last != nil && *a.resetCount != last.ResetCount, known && boot != a.inputs.LastBootID:
		return verifier.TriggerBoot
	case a.resetCount != nil && last != nil, known:
		return verifier.TriggerPeriodic
	}
	return verifier.TriggerUnknown
}
