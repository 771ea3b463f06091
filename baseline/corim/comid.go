package corim

import (
	"encoding/hex"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
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

// registersAndDigests reads what the standard has a place for.
func (r *reading) registersAndDigests(m *measured) error {
	if v := m.take(14); v != nil {
		if err := r.registers(v, m.environment); err != nil {
			return err
		}
	}
	if r.ours {
		if v := m.take(keyEmpty); v != nil {
			if err := r.emptyRegisters(v); err != nil {
				return err
			}
		}
	}
	bank, index, isRegister := registerNamed(m.key)
	launch := m.isLaunch()
	if !isRegister && !launch {
		return nil
	}
	if v := m.take(2); v != nil {
		digests, err := digestsOf(v)
		if err != nil {
			return err
		}
		for _, d := range digests {
			if isRegister {
				err = r.register(v, d, bank, index)
			} else {
				err = r.launchMeasurement(v, d)
			}
			if err != nil {
				return err
			}
		}
	}
	if v := m.values.get(4); v != nil && launch {
		content, ok := v.tagged(tagBytes)
		if !ok {
			return nil // a masked value is noted
		}
		m.take(4)
		b, err := content.bytes()
		if err != nil {
			return err
		}
		return r.launchMeasurement(v, digest{alg: tpm.SHA384, bytes: b})
	}
	return nil
}

// launchKeys are the measurement keys of launch measurements: MEASUREMENT of an SEV-SNP report (its number in the AMD
// profile is the bit at which it begins), MRTD of a TDX report.
var launchKeys = map[string]bool{"": true, "641": true, "measurement": true, "launch_measurement": true, "launch-measurement": true, "mrtd": true}

func (m *measured) isLaunch() bool {
	confidential := m.environment.kind == modelTEE || m.environment.kind == modelTDX
	return confidential && launchKeys[strings.ToLower(m.key)]
}

var registerName = regexp.MustCompile(`^(?i:(pcr|rtmr))[-_ ]?\[?([0-9]{1,2})\]?$`)

// registerNamed reads a register's name: "pcr4", "RTMR[1]".
func registerNamed(name string) (kind string, index int, ok bool) {
	match := registerName.FindStringSubmatch(name)
	if match == nil {
		return "", 0, false
	}
	index, err := strconv.Atoi(match[2])
	return strings.ToLower(match[1]), index, err == nil
}

// registers reads integrity-registers (section 5.1.4.7). A number is a PCR's, or in a TDX guest's environment an RTMR's.
func (r *reading) registers(v *value, e *environment) error {
	entries, err := v.entries(nil)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return v.malformed("a map of at least one register is needed")
	}
	for i := range entries {
		key, at := entries[i].key, &entries[i].value
		kind, index, known := registerNamed(key.text)
		launch := false
		switch {
		case !key.isText:
			kind, index, known = "pcr", int(min(key.number, 1<<20)), e.kind == modelTPM || e.kind == modelTDX
			if e.kind == modelTDX {
				kind = "rtmr"
			}
			if key.number < 0 {
				return at.malformed("a register's number is not negative")
			}
		case strings.EqualFold(key.text, "mrtd"):
			launch = e.kind == modelTDX
		}
		digests, err := digestsOf(at)
		if err != nil {
			return err
		}
		if !known && !launch {
			r.note(at, "not the name of a PCR or RTMR")
			continue
		}
		for _, d := range digests {
			if launch {
				err = r.launchMeasurement(at, d)
			} else {
				err = r.register(at, d, kind, index)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// digest is an acceptable value; alg is zero where the algorithm is not known.
type digest struct {
	alg   tpm.HashAlg
	named string
	bytes []byte
}

// digestsOf reads a digests-type (section 7.7): pairs of algorithm and value.
func digestsOf(v *value) ([]digest, error) {
	list, err := v.oneOrMore()
	if err != nil {
		return nil, err
	}
	out := make([]digest, 0, len(list))
	for i := range list {
		pair, err := list[i].elements()
		if err != nil {
			return nil, err
		}
		if len(pair) != 2 {
			return nil, list[i].malformed("a digest has an algorithm and a value; this has %d elements", len(pair))
		}
		var d digest
		if d.named, err = identifier(&pair[0]); err != nil {
			return nil, err
		}
		if pair[0].major == majorText {
			d.alg = hashNames[strings.ToLower(d.named)]
		} else if number, err := pair[0].integer(); err == nil {
			d.alg = hashNumbers[number]
		}
		if d.bytes, err = pair[1].bytes(); err != nil {
			return nil, err
		}
		if d.alg != 0 && len(d.bytes) != d.alg.Size() {
			return nil, list[i].malformed("a %s digest has %d bytes; this has %d", d.alg, d.alg.Size(), len(d.bytes))
		}
		out = append(out, d)
	}
	return out, nil
}

// register adds an acceptable value of a register.
func (r *reading) register(at *value, d digest, kind string, index int) error {
	bank, count := d.alg, tpm.NumPCRs
	switch {
	case d.alg == 0:
		r.note(at, "the algorithm %s is none of a PCR bank", shown(d.named))
		return nil
	case kind == "rtmr" && d.alg != tpm.SHA384:
		r.note(at, "RTMRs are extended with SHA-384, so a digest by %s says nothing of one", d.alg)
		return nil
	case kind == "rtmr":
		bank, count = tpm.RTMR, tpm.NumRTMRs
	}
	if index < 0 || index >= count {
		return at.malformed("%s %d: there are 0 to %d", strings.ToUpper(kind), index, count-1)
	}
	if r.values++; r.values > maxValues {
		return at.tooLarge("more than %d register values", maxValues)
	}
	list := r.registerValues(bank, index)
	if text := hex.EncodeToString(d.bytes); !slices.Contains(list, text) {
		r.setRegister(bank, index, append(list, text))
	}
	return nil
}

func (r *reading) registerValues(bank tpm.HashAlg, index int) []string {
	return r.out.Values.PCRs[bank.String()][strconv.Itoa(index)]
}

func (r *reading) setRegister(bank tpm.HashAlg, index int, list []string) {
	pcrs := &r.out.Values.PCRs
	if *pcrs == nil {
		*pcrs = map[string]map[string][]string{}
	}
	if (*pcrs)[bank.String()] == nil {
		(*pcrs)[bank.String()] = map[string][]string{}
	}
	(*pcrs)[bank.String()][strconv.Itoa(index)] = list
}

func (r *reading) launchMeasurement(at *value, d digest) error {
	if d.alg != tpm.SHA384 || len(d.bytes) != tpm.SHA384.Size() {
		r.note(at, "a launch measurement is a SHA-384 digest of 48 bytes; this is none")
		return nil
	}
	if r.values++; r.values > maxValues {
		return at.tooLarge("more than %d launch measurements", maxValues)
	}
	if text := hex.EncodeToString(d.bytes); !slices.Contains(r.out.Values.LaunchMeasurements, text) {
		r.out.Values.LaunchMeasurements = append(r.out.Values.LaunchMeasurements, text)
	}
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
