package corim

import (
	"encoding/hex"
	"sort"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// eventPrefix begins the measurement key of an event in our profile; its position in the list of events follows.
const eventPrefix = "event/"

// event is a reference event at its position.
type event struct {
	position int
	at       verifier.ReferenceEvent
}

// event reads an event of our profile: standard digests and name, and the keys that the profile adds.
func (r *reading) event(m *measured) error {
	position, err := strconv.Atoi(strings.TrimPrefix(m.key, eventPrefix))
	if err != nil || position < 0 || position >= maxEvents {
		return m.at.malformed("%s is no position of an event (0 to %d)", shown(m.key), maxEvents-1)
	}
	if len(r.events) == maxEvents {
		return m.at.tooLarge("more than %d events", maxEvents)
	}
	e := verifier.ReferenceEvent{Digests: map[string][]string{}}
	if e.PCR, err = m.register(); err != nil {
		return err
	}
	for _, field := range []struct {
		key int64
		to  *string
	}{{11, &e.Description}, {keyType, &e.Type}, {keyComponent, &e.Component}, {keyKey, &e.Key}} {
		if v := m.take(field.key); v != nil {
			if *field.to, err = v.text(); err != nil {
				return err
			}
		}
	}
	if v := m.take(keyRequired); v != nil {
		if e.Required, err = v.boolean(); err != nil {
			return err
		}
	}
	own := tpm.HashAlg(0) // the digests' own algorithm is the bank
	if m.environment.kind == modelTDX {
		own = tpm.RTMR
	}
	if v := m.take(2); v != nil {
		if err := eventDigests(&e, v, own); err != nil {
			return err
		}
	}
	if v := m.take(keyRTMRDigests); v != nil {
		if err := eventDigests(&e, v, tpm.RTMR); err != nil {
			return err
		}
	}
	r.events = append(r.events, event{position, e})
	return nil
}

func (m *measured) register() (int, error) {
	v := m.take(keyRegister)
	if v == nil {
		return 0, m.at.malformed("an event has the number of its register (%d)", keyRegister)
	}
	n, err := v.integer()
	if err == nil && (n < 0 || n >= tpm.NumPCRs) {
		return 0, v.malformed("register %d is outside 0 to %d", n, tpm.NumPCRs-1)
	}
	return int(n), err
}

// eventDigests adds digests of a bank; of zero, each is of the bank of its algorithm.
func eventDigests(e *verifier.ReferenceEvent, v *value, bank tpm.HashAlg) error {
	digests, err := digestsOf(v)
	if err != nil {
		return err
	}
	for _, d := range digests {
		to := bank
		switch {
		case d.alg == 0:
			return v.malformed("the algorithm %s is none of a PCR bank", shown(d.named))
		case bank == tpm.RTMR && d.alg != tpm.SHA384:
			return v.malformed("RTMRs are extended with SHA-384, not with %s", d.alg)
		case bank == 0:
			to = d.alg
		}
		e.Digests[to.String()] = append(e.Digests[to.String()], hex.EncodeToString(d.bytes))
	}
	return nil
}

// placeEvents puts the events in the order of their positions.
func (r *reading) placeEvents() {
	sort.SliceStable(r.events, func(i, j int) bool { return r.events[i].position < r.events[j].position })
	for _, e := range r.events {
		r.out.Values.Events = append(r.out.Values.Events, e.at)
	}
}

// emptyRegisters reads the registers of our profile that are judged by events alone.
func (r *reading) emptyRegisters(v *value) error {
	list, err := v.elements()
	if err != nil {
		return err
	}
	for i := range list {
		pair, err := list[i].elements()
		if err != nil {
			return err
		}
		if len(pair) != 2 {
			return list[i].malformed("a bank and an index are needed")
		}
		name, err := pair[0].text()
		if err != nil {
			return err
		}
		index, err := pair[1].integer()
		if err != nil {
			return err
		}
		bank, ok := tpm.ParseHashAlg(name)
		if !ok || index < 0 || index >= tpm.NumPCRs {
			return list[i].malformed("%s %d is no register", shown(name), index)
		}
		if r.registerValues(bank, int(index)) == nil {
			r.setRegister(bank, int(index), []string{})
		}
	}
	return nil
}
