package attest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
)

// CaptureBaseline makes an active baseline of what a machine's last genuine evidence shows, or a draft where the two-person
// rule is in force. The stored
// evidence is judged again, so that nothing is taken from a verdict that would not stand today. A nil
// selector chooses this machine alone; an empty name becomes one that says where it came from.
//
// The error is an *Error: not_found, no_genuine_verdict, conflict for a name that is taken, or
// invalid_field.
func (s *Service) CaptureBaseline(ctx context.Context, tenant, machineID uuid.UUID, name string, selector *verifier.Selector, actor store.Actor) (store.BaselineVersion, error) {
	return s.CaptureGolden(ctx, tenant, machineID, CaptureOptions{Name: name, Selector: selector}, actor)
}

// CaptureOptions are what may be chosen of a capture.
type CaptureOptions struct {
	Name     string
	Selector *verifier.Selector
	// State is that of the version; empty for active, or draft where the two-person rule is in force.
	State string
	// IncludeIMA also takes the files, keys and buffers that the machine's IMA list proves.
	IncludeIMA bool
}

// CaptureGolden is CaptureBaseline with all its options.
func (s *Service) CaptureGolden(ctx context.Context, tenant, machineID uuid.UUID, o CaptureOptions, actor store.Actor) (store.BaselineVersion, error) {
	var none store.BaselineVersion
	name, selector := o.Name, o.Selector
	if err := checkText("/name", name, maxNameLength); err != nil {
		return none, err
	}
	now := s.now()
	machine, err := s.store.GetMachine(ctx, tenant, machineID)
	if err != nil {
		return none, fromStore("capture baseline", err)
	}
	verdict, _, err := s.store.LastGenuineVerdict(ctx, tenant, machineID)
	if errors.Is(err, store.ErrNotFound) {
		return none, errorf(CodeNoGenuineVerdict, "the machine has no genuine verdict yet to capture a baseline from")
	}
	if err != nil {
		return none, fmt.Errorf("capture baseline: %w", err)
	}
	reference, err := s.captureReference(ctx, tenant, &verdict, o.IncludeIMA)
	if err != nil {
		return none, err
	}
	if selector == nil {
		selector = &verifier.Selector{MachineIDs: []string{machineID.String()}}
	}
	if name == "" {
		name = fmt.Sprintf("captured from %s, verdict %s", machine.Name, verdict.ID)
	}
	provenance, err := json.Marshal(map[string]string{"machine_id": machineID.String(), "verdict_id": verdict.ID.String()})
	if err != nil {
		return none, fmt.Errorf("capture baseline: %w", err)
	}
	version, err := s.store.CreateBaseline(ctx, tenant, name, *selector, store.BaselineVersion{
		State: o.State, Reference: reference, Provenance: provenance, Origin: "captured",
	}, now, actor)
	if errors.Is(err, store.ErrConflict) {
		return none, &Error{Code: CodeConflict, Pointer: "/name", Detail: "a baseline of this name exists"}
	}
	return version, fromStore("capture baseline", err)
}

func (s *Service) captureReference(ctx context.Context, tenant uuid.UUID, verdict *store.Verdict, includeIMA bool) (verifier.ReferenceValues, error) {
	var none verifier.ReferenceValues
	again, err := s.judgeVerdict(ctx, tenant, verdict, includeIMA)
	if err != nil {
		return none, err
	}
	if again == nil {
		return none, errorf(CodeNoGenuineVerdict, "the evidence of the last genuine verdict is not kept, or its key is no longer the machine's")
	}
	reference, err := baseline.Capture(again.appraisal, again.policy)
	switch {
	case errors.Is(err, baseline.ErrNotGenuine):
		return none, errorf(CodeNoGenuineVerdict, "judged again, the last genuine evidence does not stand: %s", firstFailure(again.appraisal))
	case errors.Is(err, baseline.ErrNothingToCapture):
		return none, errorf(CodeNoGenuineVerdict, "%s", err)
	case err != nil:
		return none, fmt.Errorf("capture baseline: %w", err)
	}
	if includeIMA {
		files, _, err := baseline.CaptureIMA(again.appraisal)
		if err != nil { // genuine it is, since Capture says so
			return none, &Error{Code: CodeNoGenuineVerdict, Pointer: "/include_ima", Detail: err.Error() + "; the evidence that is kept holds it whole only where the machine's first evidence of a boot does"}
		}
		reference.IMA = files
	}
	return reference, nil
}

// judgeVerdict is judgeOrigin with the log that the verdict was judged by.
func (s *Service) judgeVerdict(ctx context.Context, tenant uuid.UUID, verdict *store.Verdict, withIMA bool) (*judgedAgain, error) {
	var log *eventlog.Log
	if len(verdict.EventLogHash) == sha256.Size {
		held, err := s.heldLog(ctx, tenant, [32]byte(verdict.EventLogHash))
		if err != nil {
			return nil, fromStore("judge stored evidence", err)
		}
		log = held.log
	}
	return s.judgeOrigin(ctx, tenant, verdict, log, withIMA)
}

func firstFailure(a *verifier.Appraisal) string {
	for i := range a.Checks {
		if c := &a.Checks[i]; c.Status == verifier.Fail {
			return string(c.Code) + ": " + c.Detail
		}
	}
	return "nothing in it could be verified"
}
