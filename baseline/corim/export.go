package corim

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Meta is what an exported document says of itself.
type Meta struct {
	ID         string // of the CoRIM; needed, and unique for each document
	TagID      string // of the CoMID in it; empty is ID
	TagVersion uint64 // of the CoMID: counts up when values of the same TagID change
	// Creator is who makes the document, with a URI if there is one; empty leaves both out.
	Creator, CreatorURI string
	// NotBefore and NotAfter bound the time in which the document is valid; zero has no bound. A NotBefore needs a NotAfter.
	NotBefore, NotAfter time.Time
}

// encoding is deterministic (RFC 8949, section 4.2.1).
var encoding = func() cbor.EncMode {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
}()

func uri(text string) cbor.Tag { return cbor.Tag{Number: tagURI, Content: text} }

// Export writes reference values as an unsigned CoRIM of our profile (see the package documentation). Import gives back
// the same values, with digests in lower case and without empty banks and lists. Values that CompileReference refuses
// are an error.
func Export(v verifier.ReferenceValues, meta Meta) ([]byte, error) {
	if _, err := verifier.CompileReference(v); err != nil {
		return nil, err
	}
	if meta.ID == "" {
		return nil, errors.New("a CoRIM needs an id")
	}
	triples, err := exportTriples(&v)
	if err != nil {
		return nil, err
	}
	tagID := meta.TagID
	if tagID == "" {
		tagID = meta.ID
	}
	comid := map[int]any{1: map[int]any{0: tagID, 1: meta.TagVersion}, 4: map[int]any{0: triples}}
	corim := map[int]any{0: meta.ID, 3: uri(Profile)}
	if meta.Creator != "" {
		entity := func(role int) []any {
			e := map[int]any{0: meta.Creator, 2: []int{role}}
			if meta.CreatorURI != "" {
				e[1] = uri(meta.CreatorURI)
			}
			return []any{e}
		}
		comid[2], corim[5] = entity(0), entity(1) // tag-creator, manifest-creator
	}
	validity, err := exportValidity(meta.NotBefore, meta.NotAfter)
	if err != nil {
		return nil, err
	}
	if validity != nil {
		corim[4] = validity
	}
	inner, err := encoding.Marshal(comid)
	if err != nil {
		return nil, err
	}
	corim[1] = []any{cbor.Tag{Number: tagCoMID, Content: inner}}
	out, err := encoding.Marshal(cbor.Tag{Number: tagUnsigned, Content: corim})
	if err == nil && len(out) > maxDocument-maxHeader {
		return nil, fmt.Errorf("the CoRIM would have %d bytes; Import reads %d with a signature", len(out), maxDocument)
	}
	return out, err
}

// exportValidity makes a validity-map; nil where there are no bounds.
func exportValidity(from, until time.Time) (map[int]any, error) {
	epoch := func(t time.Time) cbor.Tag { return cbor.Tag{Number: tagEpochTime, Content: t.Unix()} }
	switch {
	case from.IsZero() && until.IsZero():
		return nil, nil
	case until.IsZero():
		return nil, errors.New("a time before which it is not valid needs one after which it is not")
	case from.IsZero():
		return map[int]any{1: epoch(until)}, nil
	}
	return map[int]any{0: epoch(from), 1: epoch(until)}, nil
}

// exportTriples makes the reference triples, one an environment.
func exportTriples(v *verifier.ReferenceValues) ([]any, error) {
	measurements := map[string][]any{}
	registers, err := exportRegisters(v.PCRs)
	if err != nil {
		return nil, err
	}
	for model, values := range registers {
		measurements[model] = append(measurements[model], map[int]any{1: values})
	}
	for i := range v.Events {
		model, event, err := exportEvent(i, &v.Events[i])
		if err != nil {
			return nil, err
		}
		measurements[model] = append(measurements[model], event)
	}
	if len(v.LaunchMeasurements) > maxValues {
		return nil, fmt.Errorf("%d launch measurements; at most %d are read", len(v.LaunchMeasurements), maxValues)
	}
	if len(v.LaunchMeasurements) > 0 {
		digests, err := exportDigests(tpm.SHA384, v.LaunchMeasurements)
		if err != nil {
			return nil, err
		}
		measurements[modelTEE] = append(measurements[modelTEE], map[int]any{1: map[int]any{2: digests}})
	}
	for _, name := range slices.Sorted(maps.Keys(v.Claims)) {
		measurements[modelClaims] = append(measurements[modelClaims], map[int]any{0: name, 1: map[int]any{keyClaim: string(v.Claims[name])}})
	}
	if v.IMA != nil {
		text, err := json.Marshal(v.IMA)
		if err != nil {
			return nil, err
		}
		measurements[modelIMA] = append(measurements[modelIMA], map[int]any{1: map[int]any{keyIMA: string(text)}})
	}
	var triples []any
	for _, model := range []string{modelTPM, modelTDX, modelTEE, modelClaims, modelIMA} {
		if len(measurements[model]) > 0 {
			environment := map[int]any{0: map[int]any{1: ourVendor, 2: model}}
			triples = append(triples, []any{environment, measurements[model]})
		}
	}
	return triples, nil
}

// exportRegisters makes the values of one measurement an environment: integrity registers, and those without a value.
func exportRegisters(pcrs map[string]map[string][]string) (map[string]map[int]any, error) {
	out := map[string]map[int]any{}
	for _, bank := range slices.Sorted(maps.Keys(pcrs)) {
		alg, ok := tpm.ParseHashAlg(bank)
		if !ok {
			return nil, fmt.Errorf("%q is no PCR bank", bank)
		}
		model := modelTPM
		if alg == tpm.RTMR {
			model, alg = modelTDX, tpm.SHA384
		}
		for _, key := range slices.Sorted(maps.Keys(pcrs[bank])) {
			index, err := strconv.Atoi(key)
			if err != nil {
				return nil, err
			}
			if out[model] == nil {
				out[model] = map[int]any{}
			}
			values := out[model]
			if len(pcrs[bank][key]) == 0 {
				list, _ := values[keyEmpty].([]any)
				values[keyEmpty] = append(list, []any{bank, index})
				continue
			}
			digests, err := exportDigests(alg, pcrs[bank][key])
			if err != nil {
				return nil, err
			}
			registers, ok := values[14].(map[int][]any)
			if !ok {
				registers = map[int][]any{}
				values[14] = registers
			}
			registers[index] = append(registers[index], digests...)
		}
	}
	return out, nil
}

// exportDigests makes a digests-type.
func exportDigests(alg tpm.HashAlg, values []string) ([]any, error) {
	name := exportedHash(alg)
	out := make([]any, 0, len(values))
	for _, value := range values {
		b, err := hex.DecodeString(value)
		if err != nil {
			return nil, err
		}
		out = append(out, []any{name, b})
	}
	return out, nil
}

// exportEvent makes the measurement of an event, and tells its environment.
func exportEvent(position int, e *verifier.ReferenceEvent) (model string, measurement map[int]any, err error) {
	values := map[int]any{keyRegister: e.PCR}
	var digests, registers []any
	for _, bank := range slices.Sorted(maps.Keys(e.Digests)) {
		alg, ok := tpm.ParseHashAlg(bank)
		if !ok {
			return "", nil, fmt.Errorf("%q is no PCR bank", bank)
		}
		to := &digests
		if alg == tpm.RTMR {
			to, alg = &registers, tpm.SHA384
		}
		list, err := exportDigests(alg, e.Digests[bank])
		if err != nil {
			return "", nil, err
		}
		*to = append(*to, list...)
	}
	model = modelTPM
	switch {
	case len(digests) == 0:
		model, values[2] = modelTDX, registers
	default:
		values[2] = digests
		if len(registers) > 0 {
			values[keyRTMRDigests] = registers
		}
	}
	for key, text := range map[int]string{11: e.Description, keyType: e.Type, keyComponent: e.Component, keyKey: e.Key} {
		if text != "" {
			values[key] = text
		}
	}
	if e.Required {
		values[keyRequired] = true
	}
	return model, map[int]any{0: eventPrefix + strconv.Itoa(position), 1: values}, nil
}
