package verifier

import (
	"fmt"
	"slices"
	"strings"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
)

// joinMoved makes one change of an event that is gone from one register and new in another.
func joinMoved(changes []Deviation) []Deviation {
	gone := map[string]int{} // digest, in its bank -> where in changes
	for i := range changes {
		if d := &changes[i]; d.Kind == Removed && d.Bank != "" {
			for _, digest := range d.Expected {
				gone[d.Bank+digest] = i
			}
		}
	}
	dropped := make([]bool, len(changes))
	for i := range changes {
		d := &changes[i]
		from, found := gone[d.Bank+d.Actual]
		if d.Kind != Added || !found || dropped[from] || changes[from].PCR == d.PCR {
			continue
		}
		dropped[from] = true
		d.Kind, d.Expected, d.Before = Moved, changes[from].Expected, changes[from].Before
		d.Description = fmt.Sprintf("%s moved from %s to %s: %s", componentName(d.Component), changes[from].Register(), d.Register(), withoutComponent(d.Component, d.Now))
	}
	out := changes[:0]
	for i := range changes {
		if !dropped[i] {
			out = append(out, changes[i])
		}
	}
	return out
}

// diffFiles tells which files of IMA's list are allowed otherwise.
func diffFiles(before, after *ReferenceIMA) []Deviation {
	var out []Deviation
	tell := func(kind DeviationKind, expected []string, actual, format string, args ...any) {
		if expected == nil {
			expected = []string{}
		}
		out = append(out, Deviation{PCR: ima.PCR, Kind: kind, Component: eventlog.ComponentIMA, Expected: expected, Actual: actual,
			Description: fmt.Sprintf(format, args...)})
	}
	switch {
	case before == nil && after == nil:
		return nil
	case before == nil:
		tell(Added, nil, "", "files are now judged, by %d rules", len(after.Allow))
		before = &ReferenceIMA{}
	case after == nil:
		tell(Removed, nil, "", "files are no longer judged")
		return out
	}
	old, now := filesOf(before), filesOf(after)
	for _, path := range sortedKeys(now) {
		was, had := old[path]
		digests := now[path]
		switch {
		case !had:
			tell(Added, nil, strings.Join(digests, " "), "file %s is now allowed", path)
		case !slices.Equal(was, digests):
			tell(Changed, was, strings.Join(digests, " "), "file %s: %s", path, digestsText(wordDifference(digests, was), wordDifference(was, digests)))
		}
	}
	for _, path := range sortedKeys(old) {
		if _, still := now[path]; !still {
			tell(Removed, old[path], "", "file %s is no longer allowed", path)
		}
	}
	for _, pattern := range wordDifference(after.Exclude, before.Exclude) {
		tell(Added, nil, pattern, "files that match %s are no longer judged", pattern)
	}
	for _, pattern := range wordDifference(before.Exclude, after.Exclude) {
		tell(Removed, []string{pattern}, "", "files that match %s are judged again", pattern)
	}
	return out
}

// filesOf are the digests that each path may have, in order.
func filesOf(r *ReferenceIMA) map[string][]string {
	out := make(map[string][]string, len(r.Allow))
	for _, f := range r.Allow {
		out[f.Path] = append(out[f.Path], f.Digests...)
	}
	for path, digests := range out {
		slices.Sort(digests)
		out[path] = slices.Compact(digests)
	}
	return out
}

func digestsText(added, removed []string) string {
	var parts []string
	if len(added) > 0 {
		parts = append(parts, "now also "+strings.Join(added, ", "))
	}
	if len(removed) > 0 {
		parts = append(parts, "no longer "+strings.Join(removed, ", "))
	}
	return strings.Join(parts, "; ")
}

// diffLaunch tells which launch measurements are allowed otherwise.
func diffLaunch(before, after []string) []Deviation {
	var out []Deviation
	lower := func(list []string) []string {
		low := make([]string, len(list))
		for i, s := range list {
			low[i] = strings.ToLower(s)
		}
		return low
	}
	before, after = lower(before), lower(after)
	for _, m := range wordDifference(after, before) {
		out = append(out, Deviation{PCR: -1, Kind: Added, Component: ComponentLaunch, Expected: []string{}, Actual: m,
			Description: "launch measurement " + m + " is now allowed"})
	}
	for _, m := range wordDifference(before, after) {
		out = append(out, Deviation{PCR: -1, Kind: Removed, Component: ComponentLaunch, Expected: []string{m},
			Description: "launch measurement " + m + " is no longer allowed"})
	}
	return out
}
