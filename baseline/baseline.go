// Package baseline keeps reference values over time: which baselines apply to a machine and how they
// combine (Effective), how one is captured from a machine that is known to be good (Capture), and what
// changed between two (Diff). Matching evidence against them is the verifier's part. The package is
// pure.
package baseline

import (
	"slices"
	"sort"

	"github.com/assay-verifier/assay/verifier"
)

// The states of a baseline version.
const (
	StateDraft   = "draft"   // stored, judges nothing
	StateActive  = "active"  // judges
	StateGrace   = "grace"   // still accepted beside the active version
	StateRetired = "retired" // accepted no longer
)

// MachineFacts is what a selector can ask of a machine.
type MachineFacts struct {
	ID       string
	Platform string
	ScaleSet string
	Labels   map[string]string
}

// Matches tells whether a selector chooses the machine. The empty selector chooses every machine.
func Matches(s verifier.Selector, m MachineFacts) bool {
	if len(s.MachineIDs) > 0 && !contains(s.MachineIDs, m.ID) {
		return false
	}
	if len(s.ScaleSet) > 0 && !contains(s.ScaleSet, m.ScaleSet) {
		return false
	}
	if len(s.Platform) > 0 && !contains(s.Platform, m.Platform) {
		return false
	}
	for key, value := range s.Labels {
		if have, ok := m.Labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}

func contains(list []string, s string) bool {
	for _, item := range list {
		if item == s {
			return true
		}
	}
	return false
}

// Specificity orders selectors: one that names machines beats one that names labels, which beats one
// that names scale sets, then platforms, then the one that chooses all.
func Specificity(s verifier.Selector) int {
	rank := 0
	if len(s.Platform) > 0 {
		rank |= 1
	}
	if len(s.ScaleSet) > 0 {
		rank |= 2
	}
	if len(s.Labels) > 0 {
		rank |= 4
	}
	if len(s.MachineIDs) > 0 {
		rank |= 8
	}
	return rank
}

// Layer is one valid version of a baseline that applies to the machine.
type Layer struct {
	ID        string
	Version   int
	State     string // active or grace; others are passed over
	Selector  verifier.Selector
	Reference *verifier.Reference
}

// maxCandidates bounds the combinations of versions that are valid at once.
const maxCandidates = 16

// Effective combines the layers that apply to one machine into the candidates that its evidence may
// match, the preferred one first.
//
// Versions of one baseline that are valid at once are alternatives, the active one before those in
// grace. A more specific baseline lies over a less specific one: what it names (a PCR, a claim, the file
// list) replaces what the other says of it. Baselines of equal specificity are alternatives in what both
// judge, and add up in what only one does.
func Effective(layers []Layer) []verifier.Candidate {
	var out []verifier.Candidate
	for _, tier := range tiers(layers) {
		var next []verifier.Candidate
		for _, group := range tier {
			next = combine(next, group, true)
		}
		if out == nil {
			out = next
			continue
		}
		out = combine(out, next, false)
	}
	return bounded(out)
}

// tiers sorts the valid layers by specificity, most specific first; within a tier, each group holds the
// versions of one baseline, active first, newest first.
func tiers(layers []Layer) [][][]verifier.Candidate {
	valid := make([]Layer, 0, len(layers))
	for _, l := range layers {
		if (l.State == StateActive || l.State == StateGrace) && l.Reference != nil {
			valid = append(valid, l)
		}
	}
	sort.SliceStable(valid, func(i, j int) bool {
		a, b := valid[i], valid[j]
		if ra, rb := Specificity(a.Selector), Specificity(b.Selector); ra != rb {
			return ra > rb
		}
		if a.ID != b.ID {
			return a.ID > b.ID // ids are UUIDv7: newer first
		}
		if a.State != b.State {
			return a.State == StateActive
		}
		return a.Version > b.Version
	})
	var out [][][]verifier.Candidate
	for i, l := range valid {
		c := verifier.Candidate{Baseline: verifier.VersionRef{ID: l.ID, Version: l.Version}, Reference: l.Reference}
		switch {
		case i == 0 || Specificity(valid[i-1].Selector) != Specificity(l.Selector):
			out = append(out, [][]verifier.Candidate{{c}})
		case valid[i-1].ID != l.ID:
			out[len(out)-1] = append(out[len(out)-1], []verifier.Candidate{c})
		default:
			tier := out[len(out)-1]
			tier[len(tier)-1] = append(tier[len(tier)-1], c)
		}
	}
	return out
}

// combine lays each candidate of `over` upon each of `under`. With alternatives set, a candidate of
// under that judges what one of over judges is one more choice instead.
func combine(over, under []verifier.Candidate, alternatives bool) []verifier.Candidate {
	if len(over) == 0 {
		return under
	}
	if len(under) == 0 {
		return over
	}
	if alternatives && over[0].Reference.Overlaps(under[0].Reference) {
		// Each choice is completed by the other, so that a baseline that judges little does not switch off
		// one that judges more.
		return bounded(append(complete(over, under[0].Reference), complete(under, over[0].Reference)...))
	}
	out := make([]verifier.Candidate, 0, len(over)*len(under))
	for _, a := range over {
		for _, b := range under {
			out = append(out, verifier.Candidate{Baseline: a.Baseline, Layers: append(layersOf(a), layersOf(b)...), Reference: verifier.Merge(a.Reference, b.Reference)})
		}
	}
	return bounded(out)
}

// layersOf are the versions that a candidate is made of. A choice among equals that another completes
// (complete) is not of the other: it was not asked whether all of that one holds.
func layersOf(c verifier.Candidate) []verifier.VersionRef {
	if c.Layers == nil {
		return []verifier.VersionRef{c.Baseline}
	}
	return slices.Clone(c.Layers)
}

func complete(choices []verifier.Candidate, with *verifier.Reference) []verifier.Candidate {
	out := make([]verifier.Candidate, len(choices))
	for i, c := range choices {
		out[i] = verifier.Candidate{Baseline: c.Baseline, Layers: c.Layers, Reference: verifier.Merge(c.Reference, with)}
	}
	return out
}

func bounded(c []verifier.Candidate) []verifier.Candidate {
	if len(c) > maxCandidates {
		return c[:maxCandidates]
	}
	return c
}

// Diff tells what changed between two sets of reference values, in plain words.
func Diff(before, after *verifier.Reference) []verifier.Deviation {
	return verifier.Diff(before, after)
}
