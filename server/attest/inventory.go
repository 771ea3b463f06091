package attest

import (
	"log/slog"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// InventoryFindings are the findings that follow from the inventory alone, for a machine that was
// written without new evidence. It is handed to store.UpsertMachines. What only its key could tell is left open.
func InventoryFindings(m store.Machine, policy verifier.Policy) finding.Result {
	machine := findingMachine(&m, nil)
	machine.Enrolled = m.State == "active"
	// What an active machine shows not to have, its key cannot be in.
	machine.NoTPM = machine.Enrolled && m.Observed.VTPM != nil && !*m.Observed.VTPM
	return finding.Derive(finding.Input{Machine: machine, Policy: policy, Now: m.UpdatedAt})
}

// findingMachine is what the rules see of a machine; key is nil where none is enrolled.
func findingMachine(m *store.Machine, key *store.AttestationKey) finding.Machine {
	out := finding.Machine{
		Name:             m.Name,
		OS:               m.OS,
		Platform:         m.Platform,
		SecurityType:     m.SecurityType,
		ScaleSet:         m.ScaleSet,
		Labels:           m.Labels,
		Declared:         m.Declared,
		Observed:         m.Observed,
		Enrolled:         key != nil,
		NoTPM:            withoutTPM(key),
		PlatformEvidence: m.PlatformEvidenceType,
		InstanceProven:   len(m.Instance) > 0,
	}
	// Of other keys it is the end of an EK certificate or of a hardware report's proof: neither is asked for again.
	if key != nil && key.Assurance == verifier.AKCertified {
		out.KeyExpiresAt = key.CertificateNotAfter
	}
	return out
}

// withoutTPM tells whether a machine enrolled by its hardware report alone.
func withoutTPM(key *store.AttestationKey) bool { return key != nil && key.Kind == store.KeyTEE }

// observe is the posture that an appraisal shows. Evidence that is not genuine shows nothing of the
// machine but that an agent sent it; what was observed before then stands. Genuine evidence replaces
// it, also where it leaves open what was known before: the machine has booted since. Key is nil where none is enrolled.
func observe(before finding.Posture, a *verifier.Appraisal, key *store.AttestationKey) finding.Posture {
	yes := true
	after := before
	if key != nil {
		tpm := !withoutTPM(key)
		after.VTPM, after.AgentInstalled = &tpm, &yes
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
// the firmware's part is known, off is off, and on is not yet known to be effective. Of a machine without a log, a
// paravisor's word counts, if its report is bound to the machine: there is nothing else that could tell.
func secureBoot(a *verifier.Appraisal) *bool {
	c := a.Claims.Claims
	switch {
	case c == nil:
		return nil
	case c.SecureBootEffective != nil:
		return c.SecureBootEffective
	case c.SecureBoot == nil && a.Claims.Relying != nil:
		return a.Claims.Relying.SecureBoot
	case c.SecureBoot != nil && !*c.SecureBoot:
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
