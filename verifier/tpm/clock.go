package tpm

import "fmt"

// checkClock guards against quotes of several boots put together, and against a TPM whose state was
// rolled back (a restored snapshot of a virtual TPM).
//
// resetCount counts TPM resets and restartCount the resumes since the last one; Clock counts
// milliseconds while powered, and is written to NV only now and then, so after a power loss it may
// resume at a value below one that was already reported. The TPM then says Safe = NO until it has
// caught up (Part 1, section 36). Hence a lower Clock is an attack when the counters did not move
// (no power was lost) or when the TPM calls it safe, and worth no more than a warning otherwise.
func (v *verification) checkClock() StepResult {
	first := &v.attests[0].Clock
	for i := range v.quotes {
		c := &v.attests[i].Clock
		if c.ResetCount != first.ResetCount || c.RestartCount != first.RestartCount || c.FirmwareVersion != first.FirmwareVersion {
			return StepResult{StepClock, Fail, "the quotes were made in different boots of the machine"}
		}
	}
	if then := v.expect.ClockThen; then != nil {
		return StepResult{StepClock, then.Outcome, then.Detail}
	}
	if v.expect.Last == nil {
		return StepResult{StepClock, Pass, "the first quote of this key; its clock and reset counter are remembered"}
	}
	worst := compareClock(v.expect.Last, first)
	for i := range v.quotes {
		// Each quote, not only the newest: an old one must not ride along with a new one.
		if r := compareClock(v.expect.Last, &v.attests[i].Clock); r.Outcome > worst.Outcome {
			worst = r
		}
	}
	return worst
}

// compareClock judges one clock against the last one seen of the same AK.
func compareClock(last, now *ClockState) StepResult {
	sameStart := now.ResetCount == last.ResetCount && now.RestartCount == last.RestartCount
	switch {
	case now.ResetCount < last.ResetCount:
		return StepResult{StepClock, Fail, fmt.Sprintf("the reset counter went back from %d to %d: the TPM's state was rolled back, or the TPM was cleared", last.ResetCount, now.ResetCount)}
	case now.ResetCount == last.ResetCount && now.RestartCount < last.RestartCount:
		return StepResult{StepClock, Fail, fmt.Sprintf("the restart counter went back from %d to %d within one boot: the TPM's state was rolled back", last.RestartCount, now.RestartCount)}
	case now.Clock < last.Clock && sameStart:
		return StepResult{StepClock, Fail, fmt.Sprintf("the clock went back from %d to %d ms within one boot: the TPM's state was rolled back, or the quote is older than the last one", last.Clock, now.Clock)}
	case now.Clock < last.Clock && now.Safe:
		return StepResult{StepClock, Fail, fmt.Sprintf("the clock went back from %d to %d ms though the TPM calls it safe: the TPM's state was rolled back", last.Clock, now.Clock)}
	case now.Clock < last.Clock:
		return StepResult{StepClock, Warn, fmt.Sprintf("the clock went back from %d to %d ms, as after a power loss; the TPM says so itself", last.Clock, now.Clock)}
	case now.FirmwareVersion != last.FirmwareVersion:
		return StepResult{StepClock, Warn, fmt.Sprintf("the TPM's firmware version changed from 0x%016x to 0x%016x", last.FirmwareVersion, now.FirmwareVersion)}
	}
	return StepResult{StepClock, Pass, "clock and reset counter went forward"}
}
