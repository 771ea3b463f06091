package verifier

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Diff tells in plain words everything that `after` expects otherwise than `before`: registers that are judged or not any
// more, their values and events in each bank, which events are required, claims, all of IMA's rules and launch
// measurements. It is empty only where both judge every machine alike; texts, keys and components of events are for people
// and no change by themselves.
func Diff(before, after *Reference) []Deviation {
	out := []Deviation{}
	var values []valueChange
	for _, kind := range [...]*registerKind{pcrKind, rtmrKind} {
		for index := range kind.count {
			d := registerDiff{before: before.of(kind), after: after.of(kind), index: index}
			d.run()
			out = append(out, d.out...)
			values = append(values, d.values...)
		}
	}
	out = append(joinMoved(out), alongEvents(values)...)
	out = append(out, diffClaims(before, after)...)
	out = append(out, diffIMA(before.values.IMA, after.values.IMA)...)
	return append(out, diffLaunch(before.values.LaunchMeasurements, after.values.LaunchMeasurements)...)
}

func (r *expected) judges(index int) bool { return r.judged&(1<<uint(index)) != 0 }

// strongestFirst is the order in which banks are compared.
var strongestFirst = [...]tpm.HashAlg{tpm.SHA512, tpm.SHA3_512, tpm.SHA384, tpm.SHA3_384, tpm.SHA256, tpm.SHA3_256, tpm.SM3, tpm.SHA1, tpm.RTMR}

// registerDiff compares what two references expect of one register.
type registerDiff struct {
	before, after *expected
	index         int
	out           []Deviation
	values        []valueChange // of a register whose events changed too
}

func (x *registerDiff) run() {
	if main, ok := x.mainBank(); ok {
		x.events(main)
	}
	x.required()
	x.registerValues()
}

// name is the register with its meaning: "PCR 4 (boot loader)".
func (x *registerDiff) name() string {
	return fmt.Sprintf("%s %d (%s)", x.before.kind.name, x.index, x.before.kind.meaning(x.index))
}

// tell adds a change of the register as a whole or of one event; expected may be nil.
func (x *registerDiff) tell(kind DeviationKind, e *ReferenceEvent, bank tpm.HashAlg, expected []string, allows []string, text string) {
	d := Deviation{PCR: x.index, Kind: kind, Component: x.before.kind.component(x.index), Bank: x.before.kind.bank,
		Expected: expected, Allows: allows, Description: x.name() + ": " + text}
	if e != nil {
		d.Component, d.EventType = componentOf(e, x.before.kind, x.index), e.Type
	}
	if bank != 0 {
		d.Bank = bank.String()
	}
	if d.Expected == nil {
		d.Expected = []string{}
	}
	if len(allows) > 0 {
		_, d.Actual, _ = strings.Cut(allows[0], ":")
	}
	x.out = append(x.out, d)
}

// mainBank is the bank by which events are paired: the strongest in which both list events of the register, else the
// strongest in which one does.
func (x *registerDiff) mainBank() (tpm.HashAlg, bool) {
	for _, lists := range [...]func(tpm.HashAlg) bool{
		func(alg tpm.HashAlg) bool { return x.before.hasEvents(alg, x.index) && x.after.hasEvents(alg, x.index) },
		func(alg tpm.HashAlg) bool { return x.after.hasEvents(alg, x.index) },
		func(alg tpm.HashAlg) bool { return x.before.hasEvents(alg, x.index) },
	} {
		for _, alg := range strongestFirst {
			if lists(alg) {
				return alg, true
			}
		}
	}
	return 0, false
}

// digestsOf is the set of digests that any event of a register may have in a bank.
func (r *expected) digestsOf(alg tpm.HashAlg, index int) map[string]bool {
	out := map[string]bool{}
	for i := range r.events[index] {
		for _, digest := range r.events[index][i].digests[alg] {
			out[string(digest)] = true
		}
	}
	return out
}

// notIn are the digests that the set lacks, each once.
func notIn(set map[string]bool, digests [][]byte) [][]byte {
	var out [][]byte
	for _, digest := range digests {
		if !set[string(digest)] && !containsDigest(out, digest) {
			out = append(out, digest)
		}
	}
	return out
}

// inBank writes digests with their bank before them.
func inBank(alg tpm.HashAlg, digests [][]byte) []string {
	out := hexDigests(digests)
	for i := range out {
		out[i] = alg.String() + ":" + out[i]
	}
	return out
}

// events tells of events that came, went or changed in the main bank, and of what other banks say besides. An event that
// is new in the main bank allows its digests of the other banks too, which its change then names.
func (x *registerDiff) events(main tpm.HashAlg) {
	known, still := x.before.digestsOf(main, x.index), x.after.digestsOf(main, x.index)
	told := map[*ReferenceEvent]bool{}
	var strangers []observedEvent
	for i := range x.after.events[x.index] {
		e := &x.after.events[x.index][i]
		for n, digest := range notIn(known, e.digests[main]) {
			s := observedEvent{component: componentOf(e.source, x.before.kind, x.index), typ: e.source.Type, key: e.source.Key,
				description: e.source.Description, digest: digest, allows: inBank(main, [][]byte{digest})}
			if n == 0 {
				s.allows = append(s.allows, x.otherBanks(e, main)...)
			}
			strangers, told[e.source] = append(strangers, s), true
		}
	}
	var missing []*referenceEvent
	for j := range x.before.events[x.index] {
		e := &x.before.events[x.index][j]
		gone := notIn(still, e.digests[main])
		switch {
		case len(gone) == 0:
			continue
		case len(gone) == len(notIn(nil, e.digests[main])):
			missing = append(missing, e)
		default: // it stays, with fewer digests
			x.tell(Removed, e.source, main, hexDigests(gone), nil, eventText(e.source)+" may no longer have the "+main.String()+" digest "+listed(hexDigests(gone)))
		}
		told[e.source] = true
	}
	x.out = append(x.out, pairDeviations(strangers, missing, x.before.events[x.index], main, x.index)...)
	for _, alg := range strongestFirst {
		if alg != main {
			x.otherBank(alg, told)
		}
	}
}

// otherBanks are the digests that an event of `after` newly allows in the banks besides the main one.
func (x *registerDiff) otherBanks(e *referenceEvent, main tpm.HashAlg) []string {
	var out []string
	for _, alg := range strongestFirst {
		if alg != main {
			out = append(out, inBank(alg, notIn(x.before.digestsOf(alg, x.index), e.digests[alg]))...)
		}
	}
	return out
}

// otherBank tells what a bank allows otherwise for events that the main bank says nothing of.
func (x *registerDiff) otherBank(alg tpm.HashAlg, told map[*ReferenceEvent]bool) {
	was, is := x.before.digestsOf(alg, x.index), x.after.digestsOf(alg, x.index)
	for i := range x.after.events[x.index] {
		e := &x.after.events[x.index][i]
		if added := notIn(was, e.digests[alg]); len(added) > 0 && !told[e.source] {
			x.tell(Added, e.source, alg, nil, inBank(alg, added), eventText(e.source)+" may also have the "+alg.String()+" digest "+listed(hexDigests(added)))
		}
	}
	for i := range x.before.events[x.index] {
		e := &x.before.events[x.index][i]
		if gone := notIn(is, e.digests[alg]); len(gone) > 0 && !told[e.source] {
			x.tell(Removed, e.source, alg, hexDigests(gone), nil, eventText(e.source)+" may no longer have the "+alg.String()+" digest "+listed(hexDigests(gone)))
		}
	}
}

// required tells which events need not be measured any more, or have to be now.
func (x *registerDiff) required() {
	for _, e := range x.unrequired(x.before, x.after) {
		x.tell(Changed, e, 0, nil, nil, eventText(e)+" is no longer required")
	}
	for _, e := range x.unrequired(x.after, x.before) {
		x.tell(Changed, e, 0, nil, nil, eventText(e)+" is now required")
	}
}

// unrequired are the required events of a that b lets be absent. An event that b does not have at all is told of by
// itself; but where another takes its place, it must be required too.
func (x *registerDiff) unrequired(a, b *expected) []*ReferenceEvent {
	var out []*ReferenceEvent
	for i := range a.events[x.index] {
		e := &a.events[x.index][i]
		if !e.source.Required {
			continue
		}
		for _, alg := range strongestFirst {
			if len(e.digests[alg]) > 0 && !b.requires(e, alg, x.index, a.digestsOf(alg, x.index)) {
				out = append(out, e.source)
				break
			}
		}
	}
	return out
}

// requires tells whether r requires the event of another reference: one of r's required events has no digest but those of
// it, and those that the other reference does not know. Where r has none of its digests, one that took its place counts.
func (r *expected) requires(e *referenceEvent, alg tpm.HashAlg, index int, known map[string]bool) bool {
	all := r.digestsOf(alg, index)
	if len(notIn(all, e.digests[alg])) == len(notIn(nil, e.digests[alg])) {
		successor, kept := false, false
		for j := range r.events[index] {
			if o := &r.events[index][j]; sameEvent(e.source, o.source) {
				successor, kept = true, kept || o.source.Required
			}
		}
		return !successor || kept
	}
	for j := range r.events[index] {
		o := &r.events[index][j]
		shares, more := false, false
		for _, digest := range o.digests[alg] {
			own := containsDigest(e.digests[alg], digest)
			shares, more = shares || own, more || !own && known[string(digest)]
		}
		if o.source.Required && shares && !more {
			return true
		}
	}
	return false
}

// sameEvent tells whether an event stands in the place of another, as pairDeviations pairs them.
func sameEvent(a, b *ReferenceEvent) bool {
	if a.Key != "" && b.Key != "" {
		return a.Key == b.Key
	}
	return a.Component == b.Component && a.Type == b.Type
}

func eventText(e *ReferenceEvent) string {
	for _, text := range []string{e.Description, e.Key, e.Type, e.Component} {
		if text != "" {
			return text
		}
	}
	return "an event"
}

// maxShown bounds the digests that one text holds; Allows has all.
const maxShown = 8

func listed(digests []string) string {
	if len(digests) <= maxShown {
		return strings.Join(digests, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(digests[:maxShown], ", "), len(digests)-maxShown)
}

// valueChange is how the accepted values of a register differ in one bank.
type valueChange struct {
	kind           *registerKind
	index          int
	bank           tpm.HashAlg
	added, removed [][]byte
}

// registerValues tells of accepted values: a value alone admits a boot. Those of a register whose events changed too are
// kept for one entry of all such registers.
func (x *registerDiff) registerValues() {
	before, after := x.before.judges(x.index), x.after.judges(x.index)
	var changes []valueChange
	for _, alg := range strongestFirst {
		old, now := x.before.valuesOf(alg, x.index), x.after.valuesOf(alg, x.index)
		c := valueChange{x.before.kind, x.index, alg, notIn(setOf(old), now), notIn(setOf(now), old)}
		if len(c.added)+len(c.removed) > 0 {
			changes = append(changes, c)
		}
	}
	switch withEvents := len(x.out) > 0; {
	case before && !after:
		x.tell(Removed, nil, 0, x.before.expectedValues(0, x.index), nil, "is no longer judged")
	case before == after && withEvents, withEvents && len(changes) > 0:
		x.values = changes
	case !withEvents && before != after && len(changes) == 0:
		x.tell(Added, nil, 0, nil, nil, "is now judged, and no value of it is accepted")
	default:
		for _, c := range changes {
			x.value(c, valueKind(x.before, x.after, x.index, c))
		}
	}
}

func (x *registerDiff) value(c valueChange, kind DeviationKind) {
	text := "accepted " + c.bank.String() + " values changed: "
	var parts []string
	if len(c.added) > 0 {
		parts = append(parts, "added "+listed(hexDigests(c.added)))
	}
	if len(c.removed) > 0 {
		parts = append(parts, "removed "+listed(hexDigests(c.removed)))
	}
	if !x.before.judges(x.index) {
		text, parts = "is now judged; accepted "+c.bank.String()+" values: ", []string{listed(hexDigests(c.added))}
	}
	x.tell(kind, nil, c.bank, hexDigests(c.removed), inBank(c.bank, c.added), text+strings.Join(parts, "; "))
}

func valueKind(before, after *expected, index int, c valueChange) DeviationKind {
	switch {
	case !before.judges(index), len(c.removed) == 0:
		return Added
	case !after.judges(index), len(c.added) == 0:
		return Removed
	}
	return Changed
}

func (r *expected) valuesOf(alg tpm.HashAlg, index int) [][]byte {
	if table := r.values[alg]; table != nil {
		return table[index]
	}
	return nil
}

func setOf(digests [][]byte) map[string]bool {
	out := make(map[string]bool, len(digests))
	for _, digest := range digests {
		out[string(digest)] = true
	}
	return out
}

// alongEvents is one change, at the first of them, for all registers whose values changed together with their events.
func alongEvents(values []valueChange) []Deviation {
	if len(values) == 0 {
		return nil
	}
	first := &values[0]
	d := Deviation{PCR: first.index, Kind: Changed, Component: first.kind.component(first.index), Bank: first.bank.String(), Expected: []string{}}
	var parts []string
	for i := range values {
		c := &values[i]
		register := fmt.Sprintf("%s %d", c.kind.name, c.index)
		parts = append(parts, fmt.Sprintf("%s (%s: %d added, %d removed)", register, c.bank, len(c.added), len(c.removed)))
		for _, digest := range c.added {
			d.Allows = append(d.Allows, fmt.Sprintf("%s %s:%s", register, c.bank, hex.EncodeToString(digest)))
		}
		d.Expected = append(d.Expected, hexDigests(c.removed)...)
	}
	d.Description = "accepted values changed with the events: " + strings.Join(parts, ", ")
	return []Deviation{d}
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
