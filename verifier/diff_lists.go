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

// imaDiff collects what IMA's rules say otherwise.
type imaDiff struct{ out []Deviation }

// tell adds a change; allows are digests that it newly allows.
func (x *imaDiff) tell(kind DeviationKind, expected, allows []string, actual, format string, args ...any) {
	if expected == nil {
		expected = []string{}
	}
	x.out = append(x.out, Deviation{PCR: ima.PCR, Kind: kind, Component: eventlog.ComponentIMA, Expected: expected, Actual: actual, Allows: allows,
		Description: fmt.Sprintf(format, args...)})
}

// diffIMA tells what is allowed of IMA's list otherwise: files, keyrings, other buffers and signatures.
func diffIMA(before, after *ReferenceIMA) []Deviation {
	var x imaDiff
	switch {
	case before == nil && after == nil:
		return nil
	case before == nil:
		x.tell(Added, nil, nil, "", "files are now judged, by %d rules", len(after.Allow))
		before = &ReferenceIMA{}
	case after == nil:
		x.tell(Removed, nil, nil, "", "files are no longer judged")
		return x.out
	}
	x.tables("file %s", filesOf(before), filesOf(after), "is now allowed", "is no longer allowed")
	x.lists(before.Exclude, after.Exclude, "files that match %s are no longer judged", "files that match %s are judged again")
	x.tables("keyring %s", lowerTable(before.Keyrings), lowerTable(after.Keyrings), "may hold the keys that are listed", "has no list of keys any more")
	x.lists(before.IgnoredKeyrings, after.IgnoredKeyrings, "keys of keyring %s are no longer judged (\"*\" is all keyrings)", "keys of keyring %s are judged again")
	x.tables("measured buffer %s", lowerTable(before.Buffers), lowerTable(after.Buffers), "may have the contents that are listed", "has no list of contents any more")
	x.lists(keyNames(before.VerificationKeys), keyNames(after.VerificationKeys), "files signed by %s are now allowed", "files signed by %s are no longer allowed for it")
	x.lists(before.RequireSignatures, after.RequireSignatures, "files that match %s now need a trusted signature", "files that match %s no longer need a signature")
	return x.out
}

// tables compares the digests that are listed by name.
func (x *imaDiff) tables(subject string, old, now map[string][]string, isNew, isGone string) {
	for _, name := range sortedKeys(now) {
		was, had := old[name]
		digests := now[name]
		what := fmt.Sprintf(subject, name)
		switch {
		case !had:
			x.tell(Added, nil, digests, strings.Join(digests, " "), "%s %s", what, isNew)
		case !slices.Equal(was, digests):
			added, removed := wordDifference(digests, was), wordDifference(was, digests)
			x.tell(Changed, was, added, strings.Join(digests, " "), "%s: %s", what, digestsText(added, removed))
		}
	}
	for _, name := range sortedKeys(old) {
		if _, still := now[name]; !still {
			x.tell(Removed, old[name], nil, "", "%s %s", fmt.Sprintf(subject, name), isGone)
		}
	}
}

// lists compares lists whose order says nothing.
func (x *imaDiff) lists(old, now []string, added, removed string) {
	old, now = sortedSet(old), sortedSet(now)
	for _, entry := range wordDifference(now, old) {
		x.tell(Added, nil, nil, entry, added, entry)
	}
	for _, entry := range wordDifference(old, now) {
		x.tell(Removed, []string{entry}, nil, "", removed, entry)
	}
}

func sortedSet(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// lowerTable is a table of digests as filesOf makes it.
func lowerTable(table map[string][]string) map[string][]string {
	out := make(map[string][]string, len(table))
	for name, digests := range table {
		out[name] = sortedSet(lowerCase(digests))
	}
	return out
}

func lowerCase(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.ToLower(s)
	}
	return out
}

func keyNames(keys []string) []string {
	out := make([]string, len(keys))
	for i, key := range keys {
		out[i] = ima.KeyName(key)
	}
	return out
}

// filesOf are the digests that each path may have, in order.
func filesOf(r *ReferenceIMA) map[string][]string {
	out := make(map[string][]string, len(r.Allow))
	for _, f := range r.Allow {
		out[f.Path] = append(out[f.Path], f.Digests...)
	}
	return lowerTable(out)
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
	before, after = sortedSet(lowerCase(before)), sortedSet(lowerCase(after))
	for _, m := range wordDifference(after, before) {
		out = append(out, Deviation{PCR: -1, Kind: Added, Component: ComponentLaunch, Expected: []string{}, Actual: m, Allows: []string{"sha384:" + m},
			Description: "launch measurement " + m + " is now allowed"})
	}
	for _, m := range wordDifference(before, after) {
		out = append(out, Deviation{PCR: -1, Kind: Removed, Component: ComponentLaunch, Expected: []string{m},
			Description: "launch measurement " + m + " is no longer allowed"})
	}
	return out
}
