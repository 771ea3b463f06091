package attest

import (
	"log/slog"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// InventoryFindings are the findings that follow from the inventory alone, for a machine that was
// written without new evidence. It is handed to store.UpsertMachines.
func InventoryFindings(m store.Machine, policy verifier.Policy) finding.Result {
	return finding.Derive(finding.Input{Machine: findingMachine(&m, m.State == "active"), Policy: policy, Now: m.UpdatedAt})
}

// findingMachine is what the rules see of a machine.
func findingMachine(m *store.Machine, enrolled bool) finding.Machine {
	return finding.Machine{
		Name:         m.Name,
		OS:           m.OS,
		Platform:     m.Platform,
		SecurityType: m.SecurityType,
		ScaleSet:     m.ScaleSet,
		Labels:       m.Labels,
		Declared:     m.Declared,
		Observed:     m.Observed,
		Enrolled:     enrolled,
	}
}

// observe is the posture that an appraisal shows. Evidence that is not genuine shows nothing of the
// machine but that an agent sent it; what was observed before then stands. Genuine evidence replaces
// it, also where it leaves open what was known before: the machine has booted since.
func observe(before finding.Posture, a *verifier.Appraisal, enrolled bool) finding.Posture {
	yes := true
	after := before
	if enrolled {
		after.VTPM, after.AgentInstalled = &yes, &yes
	}
	if !a.Genuine {
		return after
	}
	after.SecureBoot = secureBoot(a)
	if after.SecureBoot != nil {
		after.SecureBootSupported = &yes // a machine that measures the variable has it
	}
	return after
}

// secureBoot is whether Secure Boot was effective: on in the firmware, and shim validating. Where only
// the firmware's part is known, off is off, and on is not yet known to be effective.
func secureBoot(a *verifier.Appraisal) *bool {
	c := a.Claims.Claims
	if c == nil {
		return nil
	}
	if c.SecureBootEffective != nil {
		return c.SecureBootEffective
	}
	if c.SecureBoot != nil && !*c.SecureBoot {
		return c.SecureBoot
	}
	return nil
}

// levelOf is the log level of a new verdict.
func levelOf(status verifier.Status) slog.Level {
	if status == verifier.Contraindicated {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// verdictAttrs names a verdict in the log, without anything that the machine has written.
func verdictAttrs(a *appraisal, judged *verifier.Appraisal, recorded store.Recorded) []slog.Attr {
	return []slog.Attr{
		slog.String("machine_id", a.machineID.String()),
		slog.String("verdict_id", recorded.VerdictID.String()),
		slog.String("status", judged.Status.String()),
		slog.String("reason", string(judged.Reason)),
		slog.String("request_id", a.actor.RequestID),
		slog.Int("deviations", len(judged.Deviations)),
	}
}
