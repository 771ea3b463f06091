package verifier

import (
	"encoding/json"

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
