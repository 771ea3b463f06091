package verifier

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// NoReference judges nothing. It is what the first version of a baseline is compared with.
func NoReference() *Reference {
	return &Reference{pcrs: newExpected(pcrKind), rtmrs: newExpected(rtmrKind)}
}

// Merge lays upper over lower: for each PCR, RTMR, claim, the file list and the launch measurements, what
// upper names replaces what lower names, and what only lower names stays.
func Merge(upper, lower *Reference) *Reference {
	out := &Reference{
		values: mergeValues(upper, lower),
		pcrs:   upper.pcrs.over(&lower.pcrs),
		rtmrs:  upper.rtmrs.over(&lower.rtmrs),
		ima:    upper.ima,
	}
	if out.ima == nil {
		out.ima = lower.ima
	}
	named := make(map[string]bool, len(upper.claims))
	for _, c := range upper.claims {
		named[c.name] = true
	}
	out.claims = append(out.claims, upper.claims...)
	for _, c := range lower.claims {
		if !named[c.name] {
			out.claims = append(out.claims, c)
		}
	}
	return out
}

// over is what r expects, and of the registers that r does not judge what lower does.
func (r *expected) over(lower *expected) expected {
	out := newExpected(r.kind)
	out.judged = r.judged | lower.judged
	for index := range r.kind.count {
		from := lower
		if r.judges(index) {
			from = r
		}
		out.events[index] = from.events[index]
		for alg, table := range from.values {
			if len(table[index]) == 0 {
				continue
			}
			if out.values[alg] == nil {
				out.values[alg] = new([tpm.NumPCRs][][]byte)
			}
			out.values[alg][index] = table[index]
		}
	}
	return out
}

// Overlaps tells whether both judge some PCR or RTMR, or the same claim.
func (r *Reference) Overlaps(other *Reference) bool {
	if r.pcrs.judged&other.pcrs.judged != 0 || r.rtmrs.judged&other.rtmrs.judged != 0 {
		return true
	}
	for _, a := range r.claims {
		for _, b := range other.claims {
			if a.name == b.name {
				return true
			}
		}
	}
	return r.ima != nil && other.ima != nil
}

func mergeValues(upper, lower *Reference) ReferenceValues {
	out := ReferenceValues{PCRs: map[string]map[string][]string{}, Claims: map[string]json.RawMessage{},
		IMA: upper.values.IMA, LaunchMeasurements: upper.values.LaunchMeasurements}
	if out.IMA == nil {
		out.IMA = lower.values.IMA
	}
	if len(out.LaunchMeasurements) == 0 {
		out.LaunchMeasurements = lower.values.LaunchMeasurements
	}
	for _, from := range []*Reference{lower, upper} {
		for bank, values := range from.values.PCRs {
			for key, list := range values {
				if from == lower && upper.judgesKey(bank, key) {
					continue
				}
				if out.PCRs[bank] == nil {
					out.PCRs[bank] = map[string][]string{}
				}
				out.PCRs[bank][key] = list
			}
		}
		for _, e := range from.values.Events {
			if from == lower {
				e.Digests = upper.unjudged(&e)
			}
			if len(e.Digests) > 0 {
				out.Events = append(out.Events, e)
			}
		}
		for name, claim := range from.values.Claims {
			out.Claims[name] = claim
		}
	}
	return out
}

// judgesKey tells whether r judges a register, of the kind that the bank has.
func (r *Reference) judgesKey(bank, key string) bool {
	for index, name := range pcrKeys {
		if name == key && r.judges(bank, index) {
			return true
		}
	}
	return false
}

func (r *Reference) judges(bank string, index int) bool {
	alg, _ := tpm.ParseHashAlg(bank)
	return r.of(kindOf(alg)).judges(index)
}

// unjudged are the digests of an event that are of a register which r does not judge.
func (r *Reference) unjudged(e *ReferenceEvent) map[string][]string {
	out := make(map[string][]string, len(e.Digests))
	for bank, digests := range e.Digests {
		if !r.judges(bank, e.PCR) {
			out[bank] = digests
		}
	}
	return out
}

// pcrKeys are the PCR indices as JSON spells them.
var pcrKeys = [tpm.NumPCRs]string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12",
	"13", "14", "15", "16", "17", "18", "19", "20", "21", "22", "23"}

// Diff tells in plain words what `after` expects otherwise than `before`: events that are new, gone or
// changed or moved to another register, PCR and RTMR values, claims, files of IMA's list and launch measurements.
func Diff(before, after *Reference) []Deviation {
	out := []Deviation{}
	for _, kind := range [...]*registerKind{pcrKind, rtmrKind} {
		for index := range kind.count {
			out = append(out, diffRegister(before.of(kind), after.of(kind), index)...)
		}
	}
	out = append(joinMoved(out), diffClaims(before, after)...)
	out = append(out, diffFiles(before.values.IMA, after.values.IMA)...)
	return append(out, diffLaunch(before.values.LaunchMeasurements, after.values.LaunchMeasurements)...)
}

func (r *expected) judges(index int) bool { return r.judged&(1<<uint(index)) != 0 }

func diffRegister(before, after *expected, pcr int) []Deviation {
	alg, ok := sharedBank(before, after, pcr)
	if !ok {
		alg, ok = onlyBank(before, after, pcr)
	}
	if !ok {
		if before.judges(pcr) == after.judges(pcr) && sameValues(before, after, pcr) {
			return nil
		}
		kind := before.kind
		return []Deviation{{PCR: pcr, Kind: valueKind(before, after, pcr), Component: kind.component(pcr), Bank: kind.bank,
			Expected: before.expectedValues(0, pcr), Actual: firstOf(after.expectedValues(0, pcr)),
			Description: kind.name + " values differ (" + kind.meaning(pcr) + ")"}}
	}
	var strangers []observedEvent
	present := make([]bool, len(before.events[pcr]))
	for i := range after.events[pcr] {
		e := &after.events[pcr][i]
		for _, digest := range e.digests[alg] {
			known := false
			for j := range before.events[pcr] {
				if containsDigest(before.events[pcr][j].digests[alg], digest) {
					known, present[j] = true, true
				}
			}
			if !known {
				strangers = append(strangers, observedEvent{component: componentOf(e.source, before.kind, pcr), typ: e.source.Type,
					key: e.source.Key, description: e.source.Description, digest: digest})
			}
		}
	}
	var missing []*referenceEvent
	for j := range before.events[pcr] {
		if !present[j] {
			missing = append(missing, &before.events[pcr][j])
		}
	}
	if len(strangers)+len(missing) == 0 {
		return diffValues(before, after, pcr)
	}
	return pairDeviations(strangers, missing, before.events[pcr], alg, pcr)
}

// diffValues tells of values that are allowed besides the same events as before, or not any more. Values that
// differ altogether are those of two machines whose own events differ: no change of what is expected.
func diffValues(before, after *expected, pcr int) []Deviation {
	old, now := before.expectedValues(0, pcr), after.expectedValues(0, pcr)
	added, removed := wordDifference(now, old), wordDifference(old, now)
	d := Deviation{PCR: pcr, Component: before.kind.component(pcr), Bank: before.kind.bank}
	text := fmt.Sprintf("%s %d (%s): ", before.kind.name, pcr, before.kind.meaning(pcr))
	switch {
	case len(added) > 0 && len(removed) == 0 && len(old) > 0:
		d.Kind, d.Expected, d.Actual, d.Description = Added, []string{}, added[0], text+"value also allowed: "+strings.Join(added, ", ")
	case len(removed) > 0 && len(added) == 0 && len(now) > 0:
		d.Kind, d.Expected, d.Description = Removed, removed, text+"value no longer allowed: "+strings.Join(removed, ", ")
	default:
		return nil
	}
	return []Deviation{d}
}

// onlyBank is the strongest bank in which one lists events of a PCR that the other does not judge at all.
func onlyBank(a, b *expected, pcr int) (tpm.HashAlg, bool) {
	switch {
	case a.judges(pcr) == b.judges(pcr):
		return 0, false
	case a.judges(pcr):
		return sharedBank(a, a, pcr)
	}
	return sharedBank(b, b, pcr)
}

// sharedBank is the strongest bank in which both list events of the PCR.
func sharedBank(a, b *expected, pcr int) (tpm.HashAlg, bool) {
	for _, alg := range [...]tpm.HashAlg{tpm.SHA512, tpm.SHA384, tpm.SHA256, tpm.SHA1, tpm.RTMR} {
		if a.hasEvents(alg, pcr) && b.hasEvents(alg, pcr) {
			return alg, true
		}
	}
	return 0, false
}

func sameValues(a, b *expected, pcr int) bool {
	have, want := a.expectedValues(0, pcr), b.expectedValues(0, pcr)
	if len(have) != len(want) {
		return false
	}
	for i := range have {
		if have[i] != want[i] {
			return false
		}
	}
	return true
}

func valueKind(before, after *expected, pcr int) DeviationKind {
	switch {
	case !before.judges(pcr):
		return Added
	case !after.judges(pcr):
		return Removed
	}
	return Changed
}

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func componentOf(e *ReferenceEvent, kind *registerKind, index int) eventlog.Component {
	if e.Component != "" {
		return eventlog.Component(e.Component)
	}
	return kind.component(index)
}

func diffClaims(before, after *Reference) []Deviation {
	var out []Deviation
	old := make(map[string]string, len(before.claims))
	for _, c := range before.claims {
		old[c.name] = c.text
	}
	for _, c := range after.claims {
		was, had := old[c.name]
		delete(old, c.name)
		if had && was == c.text {
			continue
		}
		component, pcr := claimHome(c.name)
		d := Deviation{PCR: pcr, Kind: Added, Component: component, Expected: []string{}, Actual: c.text,
			Description: "claim " + c.name + " is now expected to be " + c.text}
		if had {
			d.Kind, d.Expected = Changed, []string{was}
			d.Description += "; before: " + was
		}
		out = append(out, d)
	}
	for _, name := range sortedKeys(old) {
		component, pcr := claimHome(name)
		out = append(out, Deviation{PCR: pcr, Kind: Removed, Component: component, Expected: []string{old[name]},
			Description: "claim " + name + " is no longer judged"})
	}
	return out
}
