package verifier

import (
	"fmt"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tee"
)

// replayCC judges the CC event log of a TDX guest with the registers of its report, which must be proven and bound
// to this machine. Status and detail are those of check eventlog.replay for a machine without a TPM.
//
// It keeps the report, so that its registers are judged even where no log explains them; of a machine without a TPM
// the claims are what the log proves. Of one that has a TPM they stay those of the TPM's log, which tells more.
func (a *appraiser) replayCC(report *tee.Report) (status CheckStatus, detail string) {
	if report == nil || report.Technology() != tee.TDX {
		return Skipped, "there is no TDX report to compare a CC event log with"
	}
	a.out.RTMRs = report
	plain := a.out.Quote == nil
	switch {
	case a.in.CCLogFault != "":
		return Fail, "the CC event log cannot be read: " + a.in.CCLogFault
	case a.in.CCLog == nil || a.in.CCLog.Empty():
		switch {
		case plain && a.in.HadLog:
			return Fail, "no CC event log was sent, though this very boot has shown one before"
		case plain && a.in.Policy.RequireEventLog:
			return Fail, "the policy requires an event log, and no CC event log was sent"
		}
		return Skipped, "the machine has no CC event log: only the values of its RTMRs can be judged, and what a log would tell is unknown"
	}
	measurements, replay := eventlog.ReplayRTMR(report, a.in.CCLog)
	if replay.Outcome != eventlog.Replayed {
		return Fail, replay.Detail
	}
	a.out.RTMRMeasurements = measurements
	if plain {
		a.out.Claims.Claims = measurements.Claims()
	}
	if len(replay.Contradicted) > 0 {
		return Warn, fmt.Sprintf("%s; but the data of event %d is not what its digest covers, so the log was altered after it was measured or its firmware is faulty",
			replay.Detail, replay.Contradicted[0])
	}
	return Pass, replay.Detail
}
