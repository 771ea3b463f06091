package attest

import (
	"cmp"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// Trial is what would become of a fleet: the result of a dry run of a baseline version, or of a test of a policy. All
// machines are counted; what is listed is bounded.
type Trial struct {
	Covered   int64 `json:"covered"`    // machines that it would be for
	Judged    int64 `json:"judged"`     // of them, those whose stored evidence could be judged
	Healthy   int64 `json:"healthy"`    // that would affirm
	Unhealthy int64 `json:"unhealthy"`  // that would warn or be contraindicated
	None      int64 `json:"none"`       // of which nothing could be appraised
	NotJudged int64 `json:"not_judged"` // not_judged_because says why

	// Against the verdicts that stand.
	BecomeUnhealthy int64 `json:"become_unhealthy"` // that affirm now and would not
	BecomeHealthy   int64 `json:"become_healthy"`   // that would affirm and do not now
	Unchanged       int64 `json:"unchanged"`        // whose status would be the same

	NotJudgedBecause map[NotJudged]int64 `json:"not_judged_because"`
	// Deviations are the differences between what was measured and what would be expected, each with how many machines
	// show exactly that one, most first. Beyond the bound, MoreDeviations occurrences are only counted.
	Deviations     []TrialDeviation `json:"deviations"`
	MoreDeviations int64            `json:"more_deviations"`
	// FailedChecks are the checks that fail, with how many machines each fails on, most first.
	FailedChecks []TrialCheck `json:"failed_checks"`
	// Machines are those that would not be healthy, or whose status would change, by id. MoreMachines were left out.
	Machines     []TrialMachine `json:"machines"`
	MoreMachines int64          `json:"more_machines"`
}

// TrialDeviation is one difference, and the machines that show it.
type TrialDeviation struct {
	verifier.Deviation
	Machines int64       `json:"machines"`
	Examples []uuid.UUID `json:"example_machine_ids"` // some of them
}

// TrialCheck is a check that fails.
type TrialCheck struct {
	Code     verifier.CheckCode `json:"code"`
	Machines int64              `json:"machines"`
	Detail   string             `json:"detail"` // on the first of them
}

// TrialMachine is one machine of a trial.
type TrialMachine struct {
	MachineID   uuid.UUID            `json:"machine_id"`
	MachineName string               `json:"machine_name"`
	ScaleSet    string               `json:"scale_set"`
	StatusNow   verifier.Status      `json:"status_now"`
	StatusThen  verifier.Status      `json:"status_then"`
	ReasonThen  verifier.Reason      `json:"reason_then"`
	FailedCheck verifier.CheckCode   `json:"failed_check"` // the first; empty if none failed
	Detail      string               `json:"detail"`       // of it
	Deviations  []verifier.Deviation `json:"deviations"`
	// MoreDeviations were left out.
	MoreDeviations int `json:"more_deviations"`
}

// The bounds of what a trial lists.
const (
	maxTrialMachines          = 100
	maxTrialMachineDeviations = 20
	maxTrialDeviations        = 500 // kept apart while counting
	shownTrialDeviations      = 100
	maxTrialExamples          = 5
)

// deviationKey is what makes two machines' deviations the same one.
type deviationKey struct {
	pcr                                             int
	kind                                            verifier.DeviationKind
	bank, component, description, eventType, actual string
}

func keyOf(d *verifier.Deviation) deviationKey {
	return deviationKey{d.PCR, d.Kind, d.Bank, string(d.Component), d.Description, d.EventType, d.Actual}
}

// tally counts a trial in bounded memory.
type tally struct {
	t          Trial
	deviations map[deviationKey]*TrialDeviation
	checks     map[verifier.CheckCode]*TrialCheck
}

func newTally() *tally {
	return &tally{
		t:          Trial{NotJudgedBecause: map[NotJudged]int64{}, Machines: []TrialMachine{}},
		deviations: map[deviationKey]*TrialDeviation{}, checks: map[verifier.CheckCode]*TrialCheck{},
	}
}

func (y *tally) add(j *store.StoredJudgement, a *verifier.Appraisal, why NotJudged) {
	y.t.Covered++
	if a == nil {
		y.t.NotJudged++
		y.t.NotJudgedBecause[why]++
		return
	}
	y.t.Judged++
	m := &j.Inputs.Machine
	switch a.Status {
	case verifier.Affirming:
		y.t.Healthy++
	case verifier.None:
		y.t.None++
	default:
		y.t.Unhealthy++
	}
	switch {
	case m.Status == a.Status:
		y.t.Unchanged++
	case m.Status == verifier.Affirming:
		y.t.BecomeUnhealthy++
	case a.Status == verifier.Affirming:
		y.t.BecomeHealthy++
	}
	if a.Status == verifier.Affirming && m.Status == a.Status {
		return
	}
	y.countDeviations(m.ID, a)
	first := y.countChecks(a)
	if len(y.t.Machines) == maxTrialMachines {
		y.t.MoreMachines++
		return
	}
	shown := a.Deviations[:min(len(a.Deviations), maxTrialMachineDeviations)]
	y.t.Machines = append(y.t.Machines, TrialMachine{
		MachineID: m.ID, MachineName: m.Name, ScaleSet: m.ScaleSet, StatusNow: m.Status, StatusThen: a.Status, ReasonThen: a.Reason,
		FailedCheck: first.Code, Detail: first.Detail, Deviations: listed(shown), MoreDeviations: len(a.Deviations) - len(shown),
	})
}

// listed copies deviations so that no list in them is null on the wire.
func listed(in []verifier.Deviation) []verifier.Deviation {
	out := make([]verifier.Deviation, len(in))
	for i, d := range in {
		if d.Expected == nil {
			d.Expected = []string{}
		}
		out[i] = d
	}
	return out
}

func (y *tally) countDeviations(machine uuid.UUID, a *verifier.Appraisal) {
	seen := make(map[deviationKey]bool, len(a.Deviations))
	for i := range a.Deviations {
		key := keyOf(&a.Deviations[i])
		if seen[key] {
			continue // the same event twice in one log is one machine
		}
		seen[key] = true
		d := y.deviations[key]
		if d == nil {
			if len(y.deviations) == maxTrialDeviations {
				y.t.MoreDeviations++
				continue
			}
			d = &TrialDeviation{Deviation: listed(a.Deviations[i : i+1])[0]}
			y.deviations[key] = d
		}
		d.Machines++
		if len(d.Examples) < maxTrialExamples {
			d.Examples = append(d.Examples, machine)
		}
	}
}

// countChecks counts the checks that fail, and gives the first.
func (y *tally) countChecks(a *verifier.Appraisal) (first verifier.Check) {
	for i := range a.Checks {
		c := &a.Checks[i]
		if c.Status != verifier.Fail {
			continue
		}
		if first.Code == "" {
			first = *c
		}
		if y.checks[c.Code] == nil {
			y.checks[c.Code] = &TrialCheck{Code: c.Code, Detail: c.Detail}
		}
		y.checks[c.Code].Machines++
	}
	return first
}

func (y *tally) result() *Trial {
	all := slices.SortedFunc(maps.Values(y.deviations), func(a, b *TrialDeviation) int {
		return cmp.Or(cmp.Compare(b.Machines, a.Machines), cmp.Compare(a.PCR, b.PCR), cmp.Compare(a.Description, b.Description), cmp.Compare(a.Actual, b.Actual))
	})
	y.t.Deviations = make([]TrialDeviation, 0, min(len(all), shownTrialDeviations))
	for i, d := range all {
		if i >= shownTrialDeviations {
			y.t.MoreDeviations += d.Machines
			continue
		}
		y.t.Deviations = append(y.t.Deviations, *d)
	}
	y.t.FailedChecks = []TrialCheck{}
	for _, c := range slices.SortedFunc(maps.Values(y.checks), func(a, b *TrialCheck) int {
		return cmp.Or(cmp.Compare(b.Machines, a.Machines), cmp.Compare(a.Code, b.Code))
	}) {
		y.t.FailedChecks = append(y.t.FailedChecks, *c)
	}
	return &y.t
}
