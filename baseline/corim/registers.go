package corim

import (
	"encoding/hex"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/verifier/tpm"
)

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
	if len(r.out.Values.LaunchMeasurements) == maxValues {
		return at.tooLarge("more than %d launch measurements", maxValues)
	}
	if text := hex.EncodeToString(d.bytes); !slices.Contains(r.out.Values.LaunchMeasurements, text) {
		r.out.Values.LaunchMeasurements = append(r.out.Values.LaunchMeasurements, text)
	}
	return nil
}
