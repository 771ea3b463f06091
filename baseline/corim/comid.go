package corim

import (
	"encoding/hex"
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/assay-verifier/assay/verifier"
)

// comid reads a concise-mid-tag (section 5.1).
func (r *reading) comid(v *value) error {
	f, err := v.fields(comidNames)
	if err != nil {
		return err
	}
	if f.get(1) == nil || f.get(4) == nil {
		return v.malformed("a CoMID has an identity (1) and triples (4)")
	}
	identity, err := f.get(1).fields(identityNames)
	if err != nil {
		return err
	}
	if identity.get(0) == nil {
		return f.get(1).malformed("an identity has a tag-id (0)")
	}
	if err := r.factOf("tag_id", identity.get(0)); err != nil {
		return err
	}
	if err := r.factOf("tag_version", identity.get(1)); err != nil {
		return err
	}
	if err := r.entities(f.get(2), ""); err != nil {
		return err
	}
	if f.get(3) != nil {
		r.note(f.get(3), "links to other tags are not followed")
	}
	r.noteRest(f.rest)
	triples, err := f.get(4).entries(tripleNames)
	if err != nil {
		return err
	}
	for i := range triples {
		t := &triples[i]
		if t.key.isText || t.key.number != 0 {
			r.note(&t.value, "not reference values, so not judged by")
			continue
		}
		records, err := t.value.oneOrMore()
		if err != nil {
			return err
		}
		for j := range records {
			if err := r.record(&records[j]); err != nil {
				return err
			}
		}
	}
	return nil
}

// record reads a reference-triple-record (section 5.1.5): an environment and its measurements.
func (r *reading) record(v *value) error {
	pair, err := v.elements()
	if err != nil {
		return err
	}
	if len(pair) != 2 {
		return v.malformed("a triple has an environment and measurements; this has %d elements", len(pair))
	}
	pair[0].step, pair[1].step = "environment", "measurements"
	e, err := r.environment(&pair[0])
	if err != nil {
		return err
	}
	measurements := pair[1:]
	if pair[1].major == majorArray {
		if measurements, err = pair[1].oneOrMore(); err != nil {
			return err
		}
	}
	for i := range measurements {
		if err := r.measurement(&measurements[i], e); err != nil {
			return err
		}
	}
	return nil
}

// environment is what is measured, as far as it decides how values are read.
type environment struct {
	kind  string // modelTPM, modelTDX, modelTEE, and in our profile modelClaims and modelIMA
	snp   bool
	named string // for notes
}

// What says of an environment, in its vendor or model, which technology it is.
var (
	wordSNP = regexp.MustCompile(`(?i)\bsev[-_ ]?snp\b`)
	wordTDX = regexp.MustCompile(`(?i)\btdx\b`)
)

func (r *reading) environment(v *value) (*environment, error) {
	f, err := v.fields(environmentNames)
	if err != nil {
		return nil, err
	}
	r.noteRest(f.rest)
	if f.get(2) != nil {
		r.note(f.get(2), "the group is not compared")
	}
	if f.get(1) != nil {
		if err := r.oneInstance(f.get(1)); err != nil {
			return nil, err
		}
	}
	e := &environment{kind: modelTPM, named: "an environment without class"}
	if f.get(0) == nil {
		return e, nil
	}
	class, err := f.get(0).fields(classNames)
	if err != nil {
		return nil, err
	}
	var text [3]string // class-id, vendor, model
	for key := range text {
		if v := class.get(int64(key)); v != nil {
			if text[key], err = identifier(v); err != nil {
				return nil, err
			}
		}
	}
	r.noteRest(class.rest)
	words := text[1] + " " + text[2]
	e.named = shown(strings.TrimSpace(text[1] + " " + text[2] + " " + text[0]))
	switch {
	case r.ours && text[1] == ourVendor:
		e.kind = text[2]
		return e, nil
	case text[0] == oidSNP || wordSNP.MatchString(words):
		e.kind, e.snp = modelTEE, true
	case wordTDX.MatchString(words):
		e.kind = modelTDX
	}
	r.fact("class_id", text[0])
	r.fact("vendor", text[1])
	r.fact("model", text[2])
	return e, nil
}

// oneInstance notes that values are of one machine. Those of several cannot be told apart in one set.
func (r *reading) oneInstance(v *value) error {
	instance := hex.EncodeToString(v.raw)
	if named, err := identifier(v); err == nil {
		instance = named
	}
	switch r.instance {
	case instance:
		return nil
	case "":
		r.instance = instance
		r.fact("instance", instance)
		r.note(v, "the values are of the machine %s: give the baseline to that machine alone", shown(instance))
		return nil
	}
	return v.unsupported("the document has values of several machines; a baseline can hold those of one")
}

// measurement reads a measurement-map (section 5.1.4.5).
func (r *reading) measurement(v *value, e *environment) error {
	f, err := v.fields(measurementNames)
	if err != nil {
		return err
	}
	if f.get(1) == nil {
		return v.malformed("a measurement has values (1)")
	}
	m := &measured{environment: e}
	if key := f.get(0); key != nil {
		if m.key, err = identifier(key); err != nil {
			return err
		}
	}
	if f.get(2) != nil {
		r.note(f.get(2), "who may measure this is not compared")
	}
	r.noteRest(f.rest)
	names := valueNames
	if r.ours {
		names = ourValueNames
	}
	if m.values, err = f.get(1).fields(names); err != nil {
		return err
	}
	if len(m.values.known)+len(m.values.rest) == 0 {
		return f.get(1).malformed("the measurement has no value")
	}
	m.at = f.get(1)
	return r.measuredValues(m)
}

// ourValueNames are the keys of measurement values in our profile.
var ourValueNames = func() map[int64]string {
	out := map[int64]string{}
	for _, names := range []map[int64]string{valueNames, ourNames} {
		for key, name := range names {
			out[key] = name
		}
	}
	return out
}()

// measured is one measurement.
type measured struct {
	environment *environment
	key         string // the measurement key as text; empty where there is none
	at          *value
	values      *fields
	used        []int64 // keys that became reference values
}

// take is the value of a key, which the caller makes something of.
func (m *measured) take(key int64) *value {
	v := m.values.get(key)
	if v != nil {
		m.used = append(m.used, key)
	}
	return v
}

func (r *reading) measuredValues(m *measured) error {
	var err error
	switch {
	case r.ours && m.environment.kind == modelClaims:
		err = r.claim(m)
	case r.ours && m.environment.kind == modelIMA:
		err = r.ima(m)
	case r.ours && strings.HasPrefix(m.key, eventPrefix):
		err = r.event(m)
	default:
		err = r.registersAndDigests(m)
	}
	if err != nil {
		return err
	}
	// What is left is noted, in the order of the keys.
	for key := int64(keyIMA); key <= 15; key++ {
		v := m.values.get(key)
		if v == nil || slices.Contains(m.used, key) {
			continue
		}
		switch {
		case key == 2 || key == 4:
			r.note(v, "a value of %s; it says neither which register it is in nor that it is a launch measurement", m.environment.named)
		case len(m.used) > 0:
			r.note(v, "not compared: the values beside it are accepted whatever this is")
		default:
			r.note(v, "not compared")
		}
	}
	r.noteRest(m.values.rest)
	return nil
}

// claim reads an expected claim of our profile.
func (r *reading) claim(m *measured) error {
	v := m.take(keyClaim)
	if v == nil || m.key == "" {
		return m.at.malformed("a claim has its name as measurement key and its JSON text (%d)", keyClaim)
	}
	text, err := v.text()
	if err != nil {
		return err
	}
	if r.out.Values.Claims == nil {
		r.out.Values.Claims = map[string]json.RawMessage{}
	}
	if r.out.Values.Claims[m.key] != nil {
		return v.malformed("the claim %s is there twice", shown(m.key))
	}
	r.out.Values.Claims[m.key] = json.RawMessage(text)
	return nil
}

// ima reads the file list of our profile.
func (r *reading) ima(m *measured) error {
	v := m.take(keyIMA)
	if v == nil {
		return m.at.malformed("the list of files has a JSON text (%d)", keyIMA)
	}
	text, err := v.text()
	if err != nil {
		return err
	}
	if r.out.Values.IMA != nil {
		return v.malformed("the list of files is there twice")
	}
	list := new(verifier.ReferenceIMA)
	if err := verifier.DecodeStrict([]byte(text), list); err != nil {
		return v.malformed("not a list of files: %s", err)
	}
	r.out.Values.IMA = list
	return nil
}
