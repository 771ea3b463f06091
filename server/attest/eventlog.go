package attest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// PutEventLog keeps a log ahead of the evidence that names it. It is content-addressed, so putting it
// twice changes nothing. That it can be read as a log is not asked here: evidence that names a log
// which cannot is a finding about the machine.
func (s *Service) PutEventLog(ctx context.Context, tenant, machineID uuid.UUID, digest [32]byte, raw []byte, opts ...Option) error {
	if sha256.Sum256(raw) != digest {
		return errorf(CodeDigestMismatch, "the body does not hash to sha256:%x", digest)
	}
	if o := collect(opts); o.keyID != nil {
		in, err := s.store.AppraisalInputs(ctx, tenant, machineID, s.now())
		if err != nil {
			return fromStore("keep event log", err)
		}
		if err := o.admits(in.Key); err != nil {
			return err
		}
	}
	if _, held := s.logs.get(logKey{tenant, digest}); held {
		return nil
	}
	if err := s.store.PutBootLog(ctx, tenant, digest[:], raw, s.now()); err != nil {
		return fromStore("keep event log", err)
	}
	// The evidence that names it is on its way: parsed now, it need not be read from the store again.
	s.keepLog(tenant, digest, parseLog(raw))
	return nil
}

// DecodedEvent is one record of a boot log, decoded for people. Verified says that the quote behind the
// verdict proves it: its PCR replayed, and its digest covers its data. What is not verified is what the
// machine says, no more.
type DecodedEvent struct {
	Index       int                `json:"index"`
	PCR         int                `json:"pcr"`
	Type        string             `json:"type"`
	Digests     map[string]string  `json:"digests"` // bank -> lower-case hex
	Description string             `json:"description"`
	Component   eventlog.Component `json:"component"`
	Verified    bool               `json:"verified"`
}

// DecodedLog decodes the log of a verdict; no events where the machine has no log. A log that cannot be
// read is an *Error with code invalid_field.
func (s *Service) DecodedLog(ctx context.Context, tenant, verdictID uuid.UUID) ([]DecodedEvent, error) {
	verdict, err := s.store.GetVerdict(ctx, tenant, verdictID)
	if err != nil {
		return nil, fromStore("read verdict", err)
	}
	var log parsedLog
	var again *judgedAgain
	if len(verdict.EventLogHash) == sha256.Size {
		if log, err = s.heldLog(ctx, tenant, [32]byte(verdict.EventLogHash)); err != nil {
			return nil, fromStore("read event log", err)
		}
		again, err = s.judgeAgain(ctx, tenant, &verdict, log.log)
	} else if again, err = s.judgeAgain(ctx, tenant, &verdict, nil); again != nil {
		log = again.ccLog // of a machine that has no TPM, or whose TPM has no log
	}
	if err != nil {
		return nil, err
	}
	switch {
	case log.fault != "":
		return nil, errorf(CodeInvalidField, "the log that the machine sent cannot be read: %s", log.fault)
	case log.log == nil:
		return []DecodedEvent{}, nil
	}
	proven := again.proven(&verdict.Appraisal)
	events := log.log.Events()
	out := make([]DecodedEvent, 0, len(events))
	for i := range events {
		e := &events[i]
		d := DecodedEvent{Index: e.Index, PCR: e.PCR, Type: e.Type.String(), Digests: make(map[string]string, len(e.Digests)),
			Description: e.Description, Component: e.Component, Verified: proven[e.Offset]}
		for _, digest := range e.Digests {
			d.Digests[digest.Alg.String()] = hex.EncodeToString(digest.Bytes)
		}
		out = append(out, d)
	}
	return out, nil
}

// judgedAgain is a stored verdict's evidence, appraised anew.
type judgedAgain struct {
	appraisal *verifier.Appraisal
	policy    verifier.Policy
	ccLog     parsedLog // of its hardware evidence
	// evidence and in are what was appraised, and stored what the store knows of the machine: for another appraisal
	// with baselines, of which this one has none.
	evidence *verifier.Evidence
	in       verifier.Inputs
	stored   store.AppraisalInputs
}

// against appraises the same evidence once more, by reference values.
func (j *judgedAgain) against(candidates []verifier.Candidate) *verifier.Appraisal {
	in := j.in
	in.Candidates = candidates
	return verifier.Appraise(j.evidence, in)
}

// proven are the offsets of the events that the verdict's own quote or report proves. These are verified again
// rather than believed; where the verdict failed at its origin, or the key that signed is no longer the machine's,
// nothing is proven.
func (j *judgedAgain) proven(verdict *verifier.Appraisal) map[int]bool {
	if j == nil || !passed(verdict, verifier.CheckEventLogReplay) {
		return nil
	}
	measurements := j.appraisal.Measurements
	if measurements == nil {
		measurements = j.appraisal.RTMRMeasurements
	}
	if measurements == nil {
		return nil
	}
	proven := make(map[int]bool)
	for _, e := range measurements.Events() {
		if e.Covered && e.Extended {
			proven[e.Offset] = true
		}
	}
	return proven
}

// judgeAgain appraises the stored evidence of a verdict for its origin: key, quote and log. The nonce has
// to be one of ours for this machine; when it was made does not matter any more. The result is nil
// where the evidence is not kept, or the key that signed is no longer the machine's. The policy is the
// one that judged: the machine's of today.
func (s *Service) judgeAgain(ctx context.Context, tenant uuid.UUID, verdict *store.Verdict, log *eventlog.Log) (*judgedAgain, error) {
	return s.judgeOrigin(ctx, tenant, verdict, log, false)
}

// judgeOrigin is judgeAgain, which takes the IMA list into account on demand.
func (s *Service) judgeOrigin(ctx context.Context, tenant uuid.UUID, verdict *store.Verdict, log *eventlog.Log, withIMA bool) (*judgedAgain, error) {
	stored, err := s.store.GetEvidence(ctx, tenant, verdict.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read evidence: %w", err)
	}
	now := s.now()
	inputs, err := s.store.AppraisalInputs(ctx, tenant, verdict.MachineID, now)
	if err != nil {
		return nil, fromStore("judge stored evidence", err)
	}
	if inputs.Key == nil || inputs.Key.ID != verdict.KeyID {
		return nil, nil
	}
	ev, err := verifier.Decode(stored.ContentType, stored.Body)
	if err != nil {
		return nil, fmt.Errorf("read stored evidence of verdict %s: %w", verdict.ID, err)
	}
	// A list that continues an earlier one cannot be replayed alone, and no baseline is taken from it.
	if !withIMA || ev.IMALogOffset != 0 {
		ev.IMALog, ev.IMALogOffset = nil, 0
	}
	key := s.attestationKey(inputs.Key, inputs.Trust)
	set, err := s.compiledRules(ctx, inputs.Policy.Rules, inputs.PolicyRef)
	if err != nil {
		return nil, err
	}
	in := verifier.Inputs{
		Now:       now,
		AK:        verifier.AttestationKey{Public: key.public, NoTPM: key.noTPM, Launched: key.launched, Fault: key.fault, Assurance: inputs.Key.Assurance},
		Policy:    inputs.Policy,
		PolicyRef: inputs.PolicyRef,
		Rules:     set,
		Machine:   ruleFacts(&inputs.Machine),
		Log:       log,
	}
	if len(ev.IMALog) > 0 {
		if in.IMA, err = ima.Parse(ev.IMALog); err != nil {
			in.IMAFault = err.Error()
		}
	}
	again := &appraisal{tenant: tenant, machineID: verdict.MachineID, now: now, evidence: ev, inputs: inputs}
	var refused *Error
	if err := s.findPlatform(ctx, again); err != nil && !errors.As(err, &refused) {
		return nil, err
	}
	in.Platform, in.CCLog, in.CCLogFault = again.platform.result, again.platform.ccLog.log, again.platform.ccLog.fault
	if nonce, err := again.peekNonce(); err == nil {
		if _, err := s.nonces.check(tenant, verdict.MachineID, nonce, now); err == nil {
			in.Freshness = tpm.Freshness{Nonce: nonce}
		}
	}
	return &judgedAgain{appraisal: verifier.Appraise(ev, in), policy: inputs.Policy, ccLog: again.platform.ccLog, evidence: ev, in: in, stored: inputs}, nil
}
