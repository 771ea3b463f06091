package attest

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// A fleet in which every machine differs in its own way is counted whole, and held and listed in part.
func TestTallyIsBounded(t *testing.T) {
	y := newTally()
	const machines = 3 * maxTrialDeviations
	for i := range machines {
		j := &store.StoredJudgement{Inputs: store.AppraisalInputs{Machine: store.Machine{ID: uuid.New(), Status: verifier.Affirming}}}
		a := &verifier.Appraisal{Status: verifier.Contraindicated, Reason: verifier.BaselineDeviation,
			Checks: []verifier.Check{{Code: verifier.CheckQuoteClock, Status: verifier.Pass}, {Code: verifier.CheckBaselineMatch, Status: verifier.Fail, Detail: "why"}}}
		shared := verifier.Deviation{PCR: 4, Description: "grubx64.efi changed"}
		a.Deviations = []verifier.Deviation{shared, shared} // the same event twice is one machine
		for n := range maxTrialMachineDeviations {
			a.Deviations = append(a.Deviations, verifier.Deviation{PCR: 8, Description: fmt.Sprintf("machine %d line %d", i, n)})
		}
		y.add(j, a, "")
	}
	y.add(&store.StoredJudgement{}, nil, KeyChanged)
	r := y.result()
	if r.Covered != machines+1 || r.Judged != machines || r.Unhealthy != machines || r.BecomeUnhealthy != machines || r.NotJudged != 1 || r.NotJudgedBecause[KeyChanged] != 1 {
		t.Errorf("%+v", r)
	}
	if len(r.Machines) != maxTrialMachines || r.MoreMachines != machines-maxTrialMachines || len(y.deviations) != maxTrialDeviations {
		t.Errorf("%d machines and %d more, %d deviations held", len(r.Machines), r.MoreMachines, len(y.deviations))
	}
	first := r.Deviations[0]
	if len(r.Deviations) != shownTrialDeviations || first.Description != "grubx64.efi changed" || first.Machines != machines || len(first.Examples) != maxTrialExamples {
		t.Errorf("%d deviations, first %+v", len(r.Deviations), first)
	}
	var counted int64
	for _, d := range r.Deviations[1:] {
		counted += d.Machines
	}
	if counted+r.MoreDeviations != machines*maxTrialMachineDeviations {
		t.Errorf("%d listed and %d more of %d occurrences", counted, r.MoreDeviations, machines*maxTrialMachineDeviations)
	}
	if m := r.Machines[0]; len(m.Deviations) != maxTrialMachineDeviations || m.MoreDeviations != 2 || m.FailedCheck != verifier.CheckBaselineMatch || m.Detail != "why" {
		t.Errorf("%+v", m)
	}
	if c := r.FailedChecks; len(c) != 1 || c[0].Machines != machines {
		t.Errorf("%+v", c)
	}
}

// Better, worse and the same, against the verdict that stands.
func TestTallyOfChanges(t *testing.T) {
	y := newTally()
	for _, c := range []struct{ now, then verifier.Status }{
		{verifier.Affirming, verifier.Affirming}, {verifier.Affirming, verifier.Warning}, {verifier.Contraindicated, verifier.Affirming},
		{verifier.Contraindicated, verifier.Contraindicated}, {verifier.Affirming, verifier.None},
	} {
		y.add(&store.StoredJudgement{Inputs: store.AppraisalInputs{Machine: store.Machine{Status: c.now}}}, &verifier.Appraisal{Status: c.then}, "")
	}
	r := y.result()
	if fmt.Sprint(r.Healthy, r.Unhealthy, r.None, r.BecomeUnhealthy, r.BecomeHealthy, r.Unchanged, len(r.Machines)) != "2 2 1 2 1 2 4" {
		t.Errorf("%+v", r)
	}
}
