package baseline

import (
	"encoding/hex"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Extension says how reference values take up what was measured against them.
type Extension struct {
	// Replace puts what was measured in the place of what was expected; otherwise both are allowed. With a rollout window
	// it is what tells the machines that have moved from those that have not.
	Replace bool
}

// Extend makes reference values of rv that allow what genuine evidence shows where it deviates from them, and of
// nothing else: in each register that a deviation is in the quoted value and the events that were strange; the
// claims that a deviation is about; the launch measurement; the files, keys and buffers of IMA's list that were not
// allowed (Approvable). Deviations are
// those of the appraisal against rv, with those of files, which need not be in it. What no evidence shows (a
// violation, a claim that nothing proves) is left as it is. ErrNotGenuine.
func (x Extension) Extend(rv verifier.ReferenceValues, a *verifier.Appraisal, deviations []verifier.Deviation) (verifier.ReferenceValues, error) {
	if a == nil || !a.Genuine {
		return verifier.ReferenceValues{}, ErrNotGenuine
	}
	if _, err := verifier.CompileReference(rv); err != nil {
		return verifier.ReferenceValues{}, err
	}
	out := clone(rv)
	for i := range deviations {
		d := &deviations[i]
		switch {
		case d.EventType == imaEvent:
			allowEntry(&out, d)
		case d.Component == verifier.ComponentLaunch:
			if a.Platform != nil {
				out.LaunchMeasurements = x.values(out.LaunchMeasurements, hex.EncodeToString(a.Platform.Measurement()))
			}
		case d.PCR >= 0 && d.Bank != "":
			if x.Replace && d.EventType == "" && d.Kind == verifier.Changed {
				dropEvents(&out, d) // no event is known of what takes their place
			}
			x.event(&out, a, d)
			x.value(&out, a, d)
		}
		for _, c := range d.Claims {
			if string(rv.Claims[c.Name]) == c.Expected { // otherwise other reference values are what it was judged by
				x.claim(&out, c.Name, json.RawMessage(c.Actual))
			}
		}
	}
	return out, nil
}

// imaEvent is the event type of deviations that are files of IMA's list.
const imaEvent = "IMA"

// clone copies all of rv that Extend changes.
func clone(rv verifier.ReferenceValues) verifier.ReferenceValues {
	out := rv
	out.PCRs = make(map[string]map[string][]string, len(rv.PCRs))
	for bank, values := range rv.PCRs {
		out.PCRs[bank] = make(map[string][]string, len(values))
		for index, list := range values {
			out.PCRs[bank][index] = slices.Clone(list)
		}
	}
	out.Events = make([]verifier.ReferenceEvent, len(rv.Events))
	for i, e := range rv.Events {
		digests := make(map[string][]string, len(e.Digests))
		for bank, list := range e.Digests {
			digests[bank] = slices.Clone(list)
		}
		e.Digests = digests
		out.Events[i] = e
	}
	out.Claims = make(map[string]json.RawMessage, len(rv.Claims))
	for name, raw := range rv.Claims {
		out.Claims[name] = raw
	}
	out.LaunchMeasurements = slices.Clone(rv.LaunchMeasurements)
	if rv.IMA != nil {
		files := *rv.IMA
		files.Allow = slices.Clone(files.Allow)
		files.Keyrings, files.Buffers = cloneTable(files.Keyrings), cloneTable(files.Buffers)
		out.IMA = &files
	}
	return out
}

func cloneTable(table map[string][]string) map[string][]string {
	out := maps.Clone(table)
	for name, list := range out {
		out[name] = slices.Clone(list)
	}
	return out
}

// values adds a value to those that are allowed, or makes it the only one.
func (x Extension) values(list []string, value string) []string {
	if x.Replace {
		return []string{value}
	}
	if slices.Contains(list, value) {
		return list
	}
	return append(list, value)
}

// dropEvents takes the events of a deviation's register out.
func dropEvents(out *verifier.ReferenceValues, d *verifier.Deviation) {
	rtmr := tpm.RTMR.String()
	out.Events = slices.DeleteFunc(out.Events, func(e verifier.ReferenceEvent) bool {
		for bank := range e.Digests {
			if e.PCR == d.PCR && (bank == rtmr) == (d.Bank == rtmr) {
				delete(e.Digests, bank)
			}
		}
		return len(e.Digests) == 0
	})
}

// value allows the value that a register has, in each bank that rv has a value of it for, and in that of the deviation
// where it has none in any.
func (x Extension) value(out *verifier.ReferenceValues, a *verifier.Appraisal, d *verifier.Deviation) {
	index := strconv.Itoa(d.PCR)
	if d.Bank == tpm.RTMR.String() {
		if value, shown := a.RTMRs.RTMR(d.PCR); shown && len(out.PCRs[d.Bank][index]) > 0 {
			out.PCRs[d.Bank][index] = x.values(out.PCRs[d.Bank][index], hex.EncodeToString(value))
		}
		return
	}
	if a.Quote == nil {
		return
	}
	judgedByEvents := slices.ContainsFunc(out.Events, func(e verifier.ReferenceEvent) bool { return e.PCR == d.PCR && len(e.Digests[d.Bank]) > 0 })
	for _, alg := range a.Quote.Banks() {
		value, quoted := a.Quote.PCR(alg, d.PCR)
		bank := alg.String()
		if !quoted || len(out.PCRs[bank][index]) == 0 && (bank != d.Bank || judgedByEvents) {
			continue
		}
		if out.PCRs[bank] == nil {
			out.PCRs[bank] = map[string][]string{}
		}
		out.PCRs[bank][index] = x.values(out.PCRs[bank][index], hex.EncodeToString(value))
	}
}

// event allows the event that a deviation is about, or its absence.
func (x Extension) event(out *verifier.ReferenceValues, a *verifier.Appraisal, d *verifier.Deviation) {
	if d.EventType == "" && d.Kind != verifier.Removed {
		return // the register as a whole
	}
	listed := -1 // the event that was expected in its place
	for i := range out.Events {
		if e := &out.Events[i]; e.PCR == d.PCR && slices.ContainsFunc(e.Digests[d.Bank], func(s string) bool { return slices.Contains(d.Expected, s) }) {
			listed = i
			break
		}
	}
	if d.Kind == verifier.Removed {
		switch {
		case listed < 0:
		case x.Replace:
			out.Events = slices.Delete(out.Events, listed, listed+1)
		default:
			out.Events[listed].Required = false
		}
		return
	}
	e, ok := measured(a, d)
	if !ok {
		return
	}
	if d.Kind == verifier.Added || listed < 0 {
		e.Required = x.Replace && slices.ContainsFunc(out.Events, func(o verifier.ReferenceEvent) bool { return o.PCR == d.PCR && o.Required })
		out.Events = append(out.Events, e)
		return
	}
	was := &out.Events[listed]
	e.Required = was.Required
	if x.Replace {
		*was = e
		return
	}
	for bank, digests := range e.Digests {
		was.Digests[bank] = x.values(was.Digests[bank], digests[0])
	}
	if was.Description != e.Description {
		was.Description = e.Description + "; or " + was.Description
	}
}

// measured is the event that a deviation shows, as reference values list it.
func measured(a *verifier.Appraisal, d *verifier.Deviation) (verifier.ReferenceEvent, bool) {
	log, banks := a.Measurements, []tpm.HashAlg{tpm.RTMR}
	if d.Bank == tpm.RTMR.String() {
		log = a.RTMRMeasurements
	} else if a.Quote != nil {
		banks = a.Quote.Banks()
	}
	if log == nil {
		return verifier.ReferenceEvent{}, false
	}
	events := log.Events()
	for i := range events {
		e := &events[i]
		if e.PCR != d.PCR || !e.Extended || !hasDigest(e, d) {
			continue
		}
		ref := referenceEvent(e, banks)
		return ref, len(ref.Digests) > 0
	}
	return verifier.ReferenceEvent{}, false
}

func hasDigest(e *eventlog.Event, d *verifier.Deviation) bool {
	return slices.ContainsFunc(e.Digests, func(x eventlog.Digest) bool {
		return x.Alg.String() == d.Bank && hex.EncodeToString(x.Bytes) == d.Actual
	})
}

// claim allows the value that a claim has.
func (x Extension) claim(out *verifier.ReferenceValues, name string, actual json.RawMessage) {
	var rule struct {
		Pattern *string           `json:"pattern"`
		AnyOf   []json.RawMessage `json:"any_of"`
	}
	was := out.Claims[name]
	isRule := len(was) > 0 && was[0] == '{' && json.Unmarshal(was, &rule) == nil
	var combined any
	switch text := ""; {
	case x.Replace:
		out.Claims[name] = actual
		return
	case isRule && rule.Pattern != nil:
		if json.Unmarshal(actual, &text) != nil {
			return // a pattern matches texts only
		}
		combined = map[string]string{"pattern": "(?:" + *rule.Pattern + ")|" + regexp.QuoteMeta(text)}
	case isRule:
		combined = map[string]any{"any_of": append(rule.AnyOf, actual)}
	default:
		combined = map[string]any{"any_of": []json.RawMessage{was, actual}}
	}
	// Text and JSON that was read before: it cannot fail.
	out.Claims[name], _ = json.Marshal(combined)
}

// Approvable tells whether reference values can take up what a deviation shows: not a violation, and no file that needs a
// signature, whatever its digest.
func Approvable(d *verifier.Deviation) bool {
	if d.EventType != imaEvent {
		return true
	}
	switch d.IMAKind {
	case ima.KindFile, ima.KindKeyring, ima.KindBuffer:
		return d.Now != "" && d.Actual != ""
	}
	return false
}

// allowEntry allows an entry of IMA's list with the digest that it has, among those of its kind.
func allowEntry(out *verifier.ReferenceValues, d *verifier.Deviation) {
	if out.IMA == nil || !Approvable(d) {
		return
	}
	if d.IMAKind == ima.KindFile {
		allowFile(out.IMA, d)
		return
	}
	// A name is that of a keyring or of another buffer: where it is listed already, the digest goes there.
	table := &out.IMA.Buffers
	if _, other := out.IMA.Buffers[d.Now]; d.IMAKind == ima.KindKeyring && !other || out.IMA.Keyrings[d.Now] != nil {
		table = &out.IMA.Keyrings
	}
	if *table == nil {
		*table = map[string][]string{}
	}
	if list := (*table)[d.Now]; !slices.Contains(list, d.Actual) {
		(*table)[d.Now] = append(list, d.Actual)
	}
}

// allowFile allows a file by its path and digest.
func allowFile(rules *verifier.ReferenceIMA, d *verifier.Deviation) {
	path := ima.EscapeGlob(d.Now)
	for i := range rules.Allow {
		if f := &rules.Allow[i]; f.Path == path {
			if !slices.Contains(f.Digests, d.Actual) {
				f.Digests = append(slices.Clone(f.Digests), d.Actual)
			}
			return
		}
	}
	rules.Allow = append(rules.Allow, verifier.ReferenceFile{Path: path, Digests: []string{d.Actual}})
}

// Restrict keeps of rv what the deviations are about: the registers that they are in, the claims that they name, the
// files, the launch measurement. Laid over rv by a layer of one machine, it changes nothing but these.
func Restrict(rv verifier.ReferenceValues, deviations []verifier.Deviation) (verifier.ReferenceValues, error) {
	if _, err := verifier.CompileReference(rv); err != nil {
		return verifier.ReferenceValues{}, err
	}
	out := verifier.ReferenceValues{PCRs: map[string]map[string][]string{}, Claims: map[string]json.RawMessage{}}
	rtmr := tpm.RTMR.String()
	about := func(bank string, index int) bool {
		return slices.ContainsFunc(deviations, func(d verifier.Deviation) bool {
			return d.PCR == index && d.EventType != imaEvent && d.Bank != "" && (d.Bank == rtmr) == (bank == rtmr)
		})
	}
	for bank, values := range rv.PCRs {
		for key, list := range values {
			if index, err := strconv.Atoi(key); err != nil || !about(bank, index) {
				continue
			}
			if out.PCRs[bank] == nil {
				out.PCRs[bank] = map[string][]string{}
			}
			out.PCRs[bank][key] = list
		}
	}
	for _, e := range rv.Events {
		digests := map[string][]string{}
		for bank, list := range e.Digests {
			if about(bank, e.PCR) {
				digests[bank] = list
			}
		}
		if e.Digests = digests; len(digests) > 0 {
			out.Events = append(out.Events, e)
		}
	}
	for i := range deviations {
		for _, c := range deviations[i].Claims {
			if raw, named := rv.Claims[c.Name]; named {
				out.Claims[c.Name] = raw
			}
		}
		switch d := &deviations[i]; {
		case d.EventType == imaEvent:
			out.IMA = rv.IMA
		case d.Component == verifier.ComponentLaunch:
			out.LaunchMeasurements = rv.LaunchMeasurements
		}
	}
	return out, nil
}
