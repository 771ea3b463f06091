package verifier

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// ReferenceValues are what a machine is meant to measure: the wire form of API.md, "reference_values".
type ReferenceValues struct {
	// PCRs lists acceptable values: bank -> PCR index -> lower-case hex. A PCR listed here matches if its
	// value is one of those given, or if each of its events is allowed by Events. The bank "rtmr" stands for the
	// run-time measurement registers of a TDX guest, 0 to 3.
	PCRs map[string]map[string][]string `json:"pcrs,omitempty"`
	// Events are acceptable log events.
	Events []ReferenceEvent `json:"events,omitempty"`
	// Claims are expected claims by (dotted) name: a JSON literal, {"pattern": "RE2"} that must match the
	// whole text, or {"any_of": [literals]}.
	Claims map[string]json.RawMessage `json:"claims,omitempty"`
	IMA    *ReferenceIMA              `json:"ima,omitempty"`
	// LaunchMeasurements are acceptable hardware launch measurements of a confidential VM, in hex.
	LaunchMeasurements []string `json:"launch_measurements,omitempty"`
}

// ReferenceEvent allows one event. Type is for people: the event type is not covered by a digest, so
// it decides nothing.
type ReferenceEvent struct {
	PCR         int                 `json:"pcr"`
	Type        string              `json:"type,omitempty"`
	Digests     map[string][]string `json:"digests"` // bank -> lower-case hex; those of "rtmr" are of the RTMR of that index
	Description string              `json:"description,omitempty"`
	Component   string              `json:"component,omitempty"`
	// Key pairs this event with its successor when it changes (see eventlog.Event.Key).
	Key string `json:"key,omitempty"`
	// Required makes the PCR's events match only if this one is among them. A captured baseline sets it,
	// so that a missing event is a deviation too.
	Required bool `json:"required,omitempty"`
}

// ReferenceIMA allows files of the IMA measurement list.
type ReferenceIMA struct {
	Allow   []ReferenceFile `json:"allow,omitempty"`
	Exclude []string        `json:"exclude,omitempty"` // RE2, matched against the whole path
	// Keyrings are the digests ("sha256:<hex>") of the keys that may be loaded into a keyring, by its name.
	Keyrings map[string][]string `json:"keyrings,omitempty"`
	// IgnoredKeyrings are keyrings whose keys are not judged; "*" stands for all.
	IgnoredKeyrings []string `json:"ignored_keyrings,omitempty"`
	// Buffers are the digests of other measured buffers, by name: kexec-cmdline, dm_table_load, ...
	Buffers map[string][]string `json:"buffers,omitempty"`
	// VerificationKeys are public keys or certificates in PEM: a file that Allow does not name passes with a signature
	// (security.ima) of one of them.
	VerificationKeys []string `json:"verification_keys,omitempty"`
	// RequireSignatures are paths (globs) of files that need such a signature, whatever their digest.
	RequireSignatures []string `json:"require_signatures,omitempty"`
}

// ReferenceFile allows a path (glob) with any of the digests ("sha256:<hex>").
type ReferenceFile struct {
	Path    string   `json:"path"`
	Digests []string `json:"digests"`
}

// Bounds of a set of reference values.
const (
	maxReferenceValues = 4096 // PCR values in all
	maxReferenceEvents = 20000
	maxReferenceClaims = 256
	maxPatternLength   = 1024
)

// Reference is a compiled set of reference values: checked, and indexed for matching. It is
// immutable and safe for concurrent use.
type Reference struct {
	values ReferenceValues
	pcrs   expected
	rtmrs  expected
	claims []referenceClaim
	ima    *ima.CompiledPolicy
}

// expected is what a reference expects of one kind of register.
type expected struct {
	kind   *registerKind
	values map[tpm.HashAlg]*[tpm.NumPCRs][][]byte
	events [tpm.NumPCRs][]referenceEvent
	// judged has bit i set where register i is named by values or by events.
	judged uint32
}

// of is what the reference expects of the kind of register that a bank has.
func (r *Reference) of(kind *registerKind) *expected {
	if kind == rtmrKind {
		return &r.rtmrs
	}
	return &r.pcrs
}

func newExpected(kind *registerKind) expected {
	return expected{kind: kind, values: make(map[tpm.HashAlg]*[tpm.NumPCRs][][]byte)}
}

type referenceEvent struct {
	source  *ReferenceEvent
	digests map[tpm.HashAlg][][]byte
}

type referenceClaim struct {
	name    string
	literal []any // any of these; nil where pattern is set
	pattern *regexp.Regexp
	text    string // as the reference spells it, for a deviation
}

// Values returns what the reference was compiled from. The caller must not change it.
func (r *Reference) Values() ReferenceValues { return r.values }

// Judges tells whether PCR index is compared at all.
func (r *Reference) Judges(index int) bool { return r.pcrs.judged&(1<<uint(index)) != 0 }

// JudgesRTMR tells whether the run-time measurement register is compared at all.
func (r *Reference) JudgesRTMR(index int) bool { return r.rtmrs.judged&(1<<uint(index)) != 0 }

// ParseReferenceValues reads the wire form, refuses unknown fields and compiles it. The error is a
// *DecodeError or a *FieldError.
func ParseReferenceValues(b []byte) (*Reference, error) {
	var rv ReferenceValues
	if err := DecodeStrict(b, &rv); err != nil {
		return nil, err
	}
	return CompileReference(rv)
}

// CompileReference checks a set of reference values and makes it ready for matching. The error is a
// *FieldError whose pointer is relative to the reference_values object. A set that judges nothing is
// refused: it would match every machine.
func CompileReference(rv ReferenceValues) (*Reference, error) {
	r := &Reference{values: rv, pcrs: newExpected(pcrKind), rtmrs: newExpected(rtmrKind)}
	if err := r.compilePCRs(rv.PCRs); err != nil {
		return nil, err
	}
	if err := r.compileEvents(rv.Events); err != nil {
		return nil, err
	}
	if err := r.compileClaims(rv.Claims); err != nil {
		return nil, err
	}
	if rv.IMA != nil {
		if err := r.compileIMA(rv.IMA); err != nil {
			return nil, err
		}
	}
	for i, m := range rv.LaunchMeasurements {
		if b, err := hex.DecodeString(m); err != nil || len(b) != 48 {
			return nil, fieldErrorf("/launch_measurements/"+strconv.Itoa(i), "96 hex digits (SHA-384) are needed")
		}
	}
	if r.pcrs.judged == 0 && r.rtmrs.judged == 0 && len(r.claims) == 0 && r.ima == nil && len(rv.LaunchMeasurements) == 0 {
		return nil, fieldErrorf("", "the reference values judge nothing: give pcrs, events, claims, ima or launch_measurements")
	}
	return r, nil
}

func bankAlg(name string) (tpm.HashAlg, bool) {
	alg, ok := tpm.ParseHashAlg(name)
	return alg, ok && alg.Size() > 0
}

func parseDigest(alg tpm.HashAlg, text string) ([]byte, error) {
	if len(text) != 2*alg.Size() {
		return nil, fmt.Errorf("%d characters; a %s digest has %d hex digits", len(text), alg, 2*alg.Size())
	}
	b, err := hex.DecodeString(text)
	if err != nil {
		return nil, errors.New("not hex")
	}
	return b, nil
}

func (r *Reference) compilePCRs(banks map[string]map[string][]string) error {
	count := 0
	for _, bank := range sortedKeys(banks) {
		pointer := "/pcrs/" + escapePointer(bank)
		alg, ok := bankAlg(bank)
		if !ok {
			return fieldErrorf(pointer, "%q is no PCR bank", bank)
		}
		kind := kindOf(alg)
		e := r.of(kind)
		table := new([tpm.NumPCRs][][]byte)
		for _, key := range sortedKeys(banks[bank]) {
			at := pointer + "/" + escapePointer(key)
			index, err := strconv.Atoi(key)
			if err != nil || strconv.Itoa(index) != key || index < 0 || index >= kind.count {
				return fieldErrorf(at, "%q is no %s index (0 to %d)", key, kind.name, kind.count-1)
			}
			values := banks[bank][key]
			if count += len(values); count > maxReferenceValues {
				return fieldErrorf(at, "more than %d PCR values", maxReferenceValues)
			}
			for i, text := range values {
				digest, err := parseDigest(alg, text)
				if err != nil {
					return fieldErrorf(at+"/"+strconv.Itoa(i), "%s", err)
				}
				table[index] = append(table[index], digest)
			}
			e.judged |= 1 << uint(index)
		}
		e.values[alg] = table
	}
	return nil
}

func (r *Reference) compileEvents(events []ReferenceEvent) error {
	if len(events) > maxReferenceEvents {
		return fieldErrorf("/events", "%d events; at most %d are accepted", len(events), maxReferenceEvents)
	}
	for i := range events {
		e := &events[i]
		pointer := "/events/" + strconv.Itoa(i)
		if e.PCR < 0 || e.PCR >= tpm.NumPCRs {
			return fieldErrorf(pointer+"/pcr", "PCR %d is outside 0 to 23", e.PCR)
		}
		if len(e.Digests) == 0 {
			return fieldErrorf(pointer+"/digests", "at least one digest is needed")
		}
		var compiled [2]map[tpm.HashAlg][][]byte // of PCR and RTMR: digests of the one say nothing of the other
		for _, bank := range sortedKeys(e.Digests) {
			at := pointer + "/digests/" + escapePointer(bank)
			alg, ok := bankAlg(bank)
			if !ok {
				return fieldErrorf(at, "%q is no PCR bank", bank)
			}
			kind, of := kindOf(alg), 0
			if kind == rtmrKind {
				of = 1
			}
			if e.PCR >= kind.count {
				return fieldErrorf(pointer+"/pcr", "%s %d is outside 0 to %d", kind.name, e.PCR, kind.count-1)
			}
			if compiled[of] == nil {
				compiled[of] = make(map[tpm.HashAlg][][]byte, len(e.Digests))
			}
			if len(e.Digests[bank]) == 0 || len(e.Digests[bank]) > maxReferenceValues {
				return fieldErrorf(at, "1 to %d digests are needed", maxReferenceValues)
			}
			for j, text := range e.Digests[bank] {
				digest, err := parseDigest(alg, text)
				if err != nil {
					return fieldErrorf(at+"/"+strconv.Itoa(j), "%s", err)
				}
				compiled[of][alg] = append(compiled[of][alg], digest)
			}
		}
		for of, into := range [...]*expected{&r.pcrs, &r.rtmrs} {
			if compiled[of] != nil {
				into.events[e.PCR] = append(into.events[e.PCR], referenceEvent{source: e, digests: compiled[of]})
				into.judged |= 1 << uint(e.PCR)
			}
		}
	}
	return nil
}

func (r *Reference) compileClaims(claims map[string]json.RawMessage) error {
	if len(claims) > maxReferenceClaims {
		return fieldErrorf("/claims", "%d claims; at most %d are accepted", len(claims), maxReferenceClaims)
	}
	for _, name := range sortedKeys(claims) {
		pointer := "/claims/" + escapePointer(name)
		if !knownClaim(name) {
			return fieldErrorf(pointer, "%q is no claim that a verdict makes; see claims of a verdict for their names", name)
		}
		raw := claims[name]
		c := referenceClaim{name: name, text: string(raw)}
		var rule struct {
			Pattern *string `json:"pattern"`
			AnyOf   []any   `json:"any_of"`
		}
		var value any
		if err := json.Unmarshal(raw, &value); err != nil {
			return fieldErrorf(pointer, "not JSON")
		}
		if _, isObject := value.(map[string]any); !isObject {
			c.literal = []any{value}
			r.claims = append(r.claims, c)
			continue
		}
		if err := DecodeStrict(raw, &rule); err != nil {
			return fieldErrorf(pointer, `a literal, {"pattern": "..."} or {"any_of": [...]} is needed`)
		}
		switch {
		case rule.Pattern != nil && rule.AnyOf == nil:
			if len(*rule.Pattern) > maxPatternLength {
				return fieldErrorf(pointer+"/pattern", "longer than %d characters", maxPatternLength)
			}
			re, err := regexp.Compile(`^(?:` + *rule.Pattern + `)$`)
			if err != nil {
				return fieldErrorf(pointer+"/pattern", "%s", err)
			}
			c.pattern = re
		case rule.Pattern == nil && len(rule.AnyOf) > 0:
			c.literal = rule.AnyOf
		default:
			return fieldErrorf(pointer, "either pattern or any_of is needed")
		}
		r.claims = append(r.claims, c)
	}
	return nil
}

// knownClaim tells whether a verdict can make the claim: a typing error would otherwise be a claim that
// no machine ever meets.
func knownClaim(name string) bool {
	first, _, _ := strings.Cut(name, ".")
	return claimNames()[first]
}

var claimNames = sync.OnceValue(func() map[string]bool {
	names := map[string]bool{}
	all := reflect.TypeFor[Claims]()
	for _, t := range []reflect.Type{all, reflect.TypeFor[eventlog.Claims]()} {
		for i := range t.NumField() {
			if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" {
				names[name] = true
			}
		}
	}
	return names
})

func (r *Reference) compileIMA(rv *ReferenceIMA) error {
	p := ima.Policy{Exclude: rv.Exclude, Keyrings: rv.Keyrings, IgnoredKeyrings: rv.IgnoredKeyrings, Buffers: rv.Buffers,
		Keys: rv.VerificationKeys, RequireSignatures: rv.RequireSignatures, Allow: make([]ima.Allow, 0, len(rv.Allow))}
	for _, a := range rv.Allow {
		p.Allow = append(p.Allow, ima.Allow{Path: a.Path, Digests: a.Digests})
	}
	compiled, err := p.Compile()
	if err != nil {
		var at *ima.PolicyError
		if errors.As(err, &at) {
			return fieldErrorf("/ima"+at.Pointer, "%s", at.Detail)
		}
		return fieldErrorf("/ima", "%s", err)
	}
	r.ima = compiled
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
