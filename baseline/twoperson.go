package baseline

import (
	"slices"

	"github.com/assay-verifier/assay/verifier"
)

// NeedsTwoPersons tells whether the two-person rule is in force for a baseline: whether a machine that the
// selector chooses can be one that is judged by a policy with the rule. Policies are those with a selector of their own, in the
// order in which the first that fits a machine is taken; fallback is for all other machines. Where it cannot be told
// from the selectors alone that no such machine exists, the rule is in force.
func NeedsTwoPersons(s verifier.Selector, policies []verifier.Policy, fallback verifier.Policy) bool {
	for i := range policies {
		p := &policies[i]
		if p.TwoPersonApproval && !disjoint(p.Selector, s) {
			return true
		}
		if covers(p.Selector, s) {
			return false // every machine of the baseline is judged by this policy, or one that was asked before
		}
	}
	return fallback.TwoPersonApproval
}

// disjoint tells whether no machine can be chosen by both.
func disjoint(a, b verifier.Selector) bool {
	apart := func(x, y []string) bool {
		return len(x) > 0 && len(y) > 0 && !slices.ContainsFunc(x, func(s string) bool { return slices.Contains(y, s) })
	}
	if apart(a.ScaleSet, b.ScaleSet) || apart(a.Platform, b.Platform) || apart(a.MachineIDs, b.MachineIDs) {
		return true
	}
	for key, value := range a.Labels {
		if other, named := b.Labels[key]; named && other != value {
			return true
		}
	}
	return false
}

// covers tells whether every machine that inner chooses is chosen by outer too.
func covers(outer, inner verifier.Selector) bool {
	within := func(outer, inner []string) bool {
		return len(outer) == 0 || len(inner) > 0 && !slices.ContainsFunc(inner, func(s string) bool { return !slices.Contains(outer, s) })
	}
	if !within(outer.ScaleSet, inner.ScaleSet) || !within(outer.Platform, inner.Platform) || !within(outer.MachineIDs, inner.MachineIDs) {
		return false
	}
	for key, value := range outer.Labels {
		if have, named := inner.Labels[key]; !named || have != value {
			return false
		}
	}
	return true
}
