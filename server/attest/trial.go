package attest

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/rules"
)

// Progress is told how many machines of a trial are done, of how many.
type Progress func(done, total int64)

// trialPage is how many machines are read and judged at a time: all that a trial or a reappraisal holds of the fleet.
const trialPage = 100

// DryRunVersion judges the stored evidence of the machines that a baseline covers as if the version were its active and
// only one. Nothing is recorded. The error is an *Error: not_found, or trial_running where the tenant has a trial under
// way; or ctx's.
func (s *Service) DryRunVersion(ctx context.Context, tenant, baselineID uuid.UUID, version int, progress Progress) (*Trial, error) {
	v, err := s.store.GetBaselineVersion(ctx, tenant, baselineID, version)
	if err != nil {
		return nil, fromStore("dry run", err)
	}
	compiled, err := verifier.CompileReference(v.Reference)
	if err != nil {
		return nil, fmt.Errorf("baseline %s version %d: %w", baselineID, version, err)
	}
	return s.dryRun(ctx, tenant, baselineID.String(), version, v.Selector, compiled, progress)
}

// DryRunValues does the same for reference values that are not registered (yet): as a baseline of their own, or, where
// baselineID is given, as the next version of that baseline, for the machines that it covers.
func (s *Service) DryRunValues(ctx context.Context, tenant uuid.UUID, baselineID *uuid.UUID, selector verifier.Selector, values verifier.ReferenceValues, progress Progress) (*Trial, error) {
	compiled, err := verifier.CompileReference(values)
	if err != nil {
		return nil, fmt.Errorf("dry run: %w", err)
	}
	id, version := proposedBaseline, 0
	if baselineID != nil {
		b, err := s.store.GetBaseline(ctx, tenant, *baselineID)
		if err != nil {
			return nil, fromStore("dry run", err)
		}
		id, selector, version = b.ID.String(), b.Selector, b.Versions[0].Version+1
	}
	return s.dryRun(ctx, tenant, id, version, selector, compiled, progress)
}

// proposedBaseline stands for a baseline that does not exist: newer than all that do.
const proposedBaseline = "ffffffff-ffff-ffff-ffff-ffffffffffff"

func (s *Service) dryRun(ctx context.Context, tenant uuid.UUID, id string, version int, selector verifier.Selector, reference *verifier.Reference, progress Progress) (*Trial, error) {
	layer := &baseline.Layer{ID: id, Version: version, State: baseline.StateActive, Selector: selector, Reference: reference}
	return s.try(ctx, tenant, selector, assumption{version: layer}, progress)
}

// TestPolicy judges the stored evidence of the machines that a selector chooses (nil: those that the policy's own does) as
// if the policy were the one that judges them. Nothing is recorded. The error is an *Error, trial_running; or ctx's.
func (s *Service) TestPolicy(ctx context.Context, tenant uuid.UUID, policy verifier.Policy, selector *verifier.Selector, progress Progress) (*Trial, error) {
	if selector == nil {
		selector = &policy.Selector
	}
	as := assumption{policy: &store.PolicyVersion{Policy: policy}}
	if len(policy.Rules) > 0 {
		set, err := rules.Compile(policy.Rules)
		if err != nil {
			return nil, fmt.Errorf("policy test: %w", err)
		}
		as.rules = set
	}
	return s.try(ctx, tenant, *selector, as, progress)
}

// try judges page by page. A tenant has one trial at a time, since one may judge all of a fleet.
func (s *Service) try(ctx context.Context, tenant uuid.UUID, selector verifier.Selector, as assumption, progress Progress) (*Trial, error) {
	if _, running := s.trials.LoadOrStore(tenant, true); running {
		return nil, errorf(CodeTrialRunning, "a trial of this tenant is under way: its stored evidence is judged by one at a time")
	}
	defer s.trials.Delete(tenant)
	scope := store.MachineScope{Selector: selector}
	total, err := s.store.CountMachinesIn(ctx, tenant, scope)
	if err != nil {
		return nil, fmt.Errorf("trial: %w", err)
	}
	now := s.now()
	t := newTally()
	var done int64
	for after := uuid.Nil; ; {
		progress(done, max(done, total))
		page, err := s.store.StoredJudgements(ctx, tenant, scope, after, trialPage, false, now)
		if err != nil {
			return nil, fmt.Errorf("trial: %w", err)
		}
		judged, err := s.judgePage(ctx, tenant, page, as, now)
		if err != nil {
			return nil, fmt.Errorf("trial: %w", err)
		}
		for i := range page {
			t.add(&page[i], judged[i].appraisal, judged[i].why)
		}
		done += int64(len(page))
		if len(page) < trialPage {
			progress(done, done)
			return t.result(), nil
		}
		after = page[len(page)-1].Inputs.Machine.ID
	}
}

// rejudged is what came of one machine of a page.
type rejudged struct {
	request   *appraisal
	appraisal *verifier.Appraisal
	why       NotJudged
	err       error
}

// judgePage judges the machines of a page, on half of the processors: the other half is for those that attest.
func (s *Service) judgePage(ctx context.Context, tenant uuid.UUID, page []store.StoredJudgement, as assumption, now time.Time) ([]rejudged, error) {
	out := make([]rejudged, len(page))
	next := make(chan int)
	var workers sync.WaitGroup
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		workers.Go(func() {
			for i := range next {
				r := &out[i]
				if r.err = ctx.Err(); r.err == nil {
					r.request, r.appraisal, r.why, r.err = s.judgeStored(ctx, tenant, &page[i], as, now)
				}
			}
		})
	}
	for i := range page {
		next <- i
	}
	close(next)
	workers.Wait()
	for i := range out {
		if out[i].err != nil {
			return nil, out[i].err
		}
	}
	return out, nil
}
