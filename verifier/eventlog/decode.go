package eventlog

import (
	"bytes"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Events decodes every record of the buffer, headers and records that extend nothing included.
// Nothing of it is proven: Covered says that each digest that can be computed is the hash of the data,
// not that the digest was ever extended. For what is proven ask Measurements.Events. A record of
// Windows that names no PCR has PCR 0 and Extended false. The events are decoded at each call, so that
// a cached Log stays small.
func (l *Log) Events() []Event {
	if len(l.segments) == 1 {
		events, _ := l.decode(&l.segments[0], nil, false)
		return events
	}
	var all []Event
	for i := range l.segments {
		events, _ := l.decode(&l.segments[i], nil, false)
		all = append(all, events...)
	}
	return all
}

// LastEvents decodes the records of the last log of the buffer alone, as Events does: those that PCR leads from.
func (l *Log) LastEvents() []Event {
	events, _ := l.decode(l.last(), nil, false)
	return events
}

// decode decodes the records of a segment. With proven it keeps only records that extended a PCR that
// it names, with the digests of the banks that it names. With registers, what the log calls PCR 1 to 4 are
// RTMR 0 to 3. contradicted lists the events whose data should be covered and is not.
func (l *Log) decode(g *segment, proven *[tpm.NumPCRs]uint16, registers bool) (events []Event, contradicted []int) {
	events = make([]Event, 0, g.records)
	digests := make([]Digest, 0, g.digests)
	d := decoder{registers: registers}
	l.walk(g, func(index int, r *record) {
		banks := ^uint16(0)
		if proven != nil {
			if !r.extends() {
				return
			}
			if registers {
				if r.pcr == 0 || r.pcr > tpm.NumRTMRs {
					return
				}
				banks = proven[r.pcr-1]
			} else {
				banks = proven[r.pcr]
			}
		}
		from := len(digests)
		for i, a := range g.algorithms {
			if r.digests[i] != nil && banks&(1<<i) != 0 {
				id := a.id
				if registers {
					id = tpm.RTMR
				}
				digests = append(digests, Digest{id, r.digests[i]})
			}
		}
		if r.digests[0] != nil && len(g.algorithms) > 0 && index == g.first && g.agile && proven == nil {
			// The header is in the old format: its digest is SHA-1 whatever the first algorithm is.
			digests = append(digests[:from], Digest{tpm.SHA1, r.digests[0]})
		}
		if proven != nil && from == len(digests) {
			return
		}
		e := Event{
			Index: index, Offset: r.offset, Type: r.typ, Data: r.data, Extended: r.extends(),
			Digests: digests[from:len(digests):len(digests)],
		}
		if r.pcr != noPCR {
			e.PCR = int(r.pcr)
		}
		if registers {
			e.PCR--
		}
		d.decode(&e)
		if e.Extended && !e.Covered && d.mustCover {
			contradicted = append(contradicted, index)
		}
		events = append(events, e)
	})
	if registers {
		confirmBootOrder(events)
	}
	return events, contradicted
}

// decoder decodes events in the order of the log. What it remembers of earlier ones only serves
// descriptions and keys; claims do not use it.
type decoder struct {
	registers bool // the events' PCR is the index of an RTMR
	mustCover bool // of the current event: its digest always is the hash of its data
	booting   bool // RTMR 1: firmware has called a boot option

	contents   bool     // an EV_S_CRTM_CONTENTS was seen
	kernelPath string   // the file that GRUB's last command "linux" named
	initrds    []string // the files that GRUB's last command "initrd" named
	stubName   string   // the UKI section whose name was just measured
	sipa       [tpm.NumPCRs]int
}

// meaning is what one kind of event says of itself.
type meaning struct {
	component       Component
	key             string
	description     string
	machineSpecific bool // counts only if the data is covered
}

// decode fills in what the event means. The type only helps where nothing better is known: data that
// explains itself is read by its structure, so that another type changes nothing.
func (d *decoder) decode(e *Event) {
	d.mustCover = false
	m, ok := d.bySelf(e)
	if !ok {
		m = d.byType(e)
	}
	e.Component, e.Key, e.Description = m.component, m.key, m.description
	if d.registers {
		d.booting = d.booting || e.PCR == 1 && callingBootOption.is(e.Digests)
		e.MachineSpecific = m.machineSpecific && e.Covered && d.ownRegister(m.component, e)
	} else {
		e.MachineSpecific = m.machineSpecific && e.Covered && ownPCR(m.component, e.PCR)
	}
	if !e.Extended {
		e.Covered = false
	}
}

// ownPCR tells whether firmware measures the machine's own things of that kind into the PCR: elsewhere
// data that looks like them is something else, dressed up to be passed over.
func ownPCR(c Component, pcr int) bool {
	switch c {
	case ComponentBootOrder:
		return pcr == 1
	case ComponentPartitionTable:
		return pcr == 5
	case ComponentWindows:
		return pcr >= 11 && pcr <= 14
	}
	return false
}

// bySelf decodes data that says what it is.
func (d *decoder) bySelf(e *Event) (meaning, bool) {
	if !e.Extended {
		return noAction(e), true
	}
	e.Covered = covers(e.Digests, e.Data)
	if v, ok := parseVariable(e.Data); ok {
		// Before separators: the boot order 0001, 0000 has the digest of a separator with an error.
		return d.variable(e, v), true
	}
	if m, ok := d.separator(e); ok {
		d.mustCover = true
		return m, true
	}
	if isGPT(e.Data) {
		d.mustCover = true
		return gptMeaning(e.Data), true
	}
	if m, ok := d.grub(e); ok {
		return m, true
	}
	if m, ok := d.utf16CommandLine(e); ok {
		return m, true
	}
	if m, ok := d.tagged(e); ok {
		return m, true
	}
	return meaning{}, false
}

// covers tells whether each digest is the hash of data, and there is at least one.
func covers(digests []Digest, data []byte) bool {
	checked := false
	for _, d := range digests {
		if !computes(d.Alg) {
			continue
		}
		if !hashIs(d.Alg, d.Bytes, data) {
			return false
		}
		checked = true
	}
	return checked
}

// coversAny is covers for the first of several candidates that matches.
func coversAny(digests []Digest, candidates ...[]byte) bool {
	for _, c := range candidates {
		if covers(digests, c) {
			return true
		}
	}
	return false
}

// constant is data that is recognised by its digest alone, whatever the log says that it is.
type constant struct{ digests []Digest }

func newConstant(data []byte) constant {
	var c constant
	for _, alg := range [...]tpm.HashAlg{tpm.SHA1, tpm.SHA256, tpm.SHA384, tpm.SHA512, tpm.SHA3_256, tpm.SHA3_384, tpm.SHA3_512, tpm.RTMR} {
		sum := make([]byte, alg.Size())
		hashInto(alg, sum, data)
		c.digests = append(c.digests, Digest{alg, sum})
	}
	return c
}

// is tells whether each of the digests is that of the constant, and there is at least one.
func (c constant) is(digests []Digest) bool {
	checked := false
	for _, d := range digests {
		for _, known := range c.digests {
			if known.Alg == d.Alg {
				if !bytes.Equal(known.Bytes, d.Bytes) {
					return false
				}
				checked = true
			}
		}
	}
	return checked
}

// The values of EV_SEPARATOR (PFP 1.06, section 10.4.1): normal, and error; Windows ends its log with
// one more.
var (
	separatorZeros = newConstant([]byte{0, 0, 0, 0})
	separatorOnes  = newConstant([]byte{0xFF, 0xFF, 0xFF, 0xFF})
	separatorError = newConstant([]byte{1, 0, 0, 0})
	separatorWBCL  = newConstant([]byte("WBCL"))
)

// isSeparator recognises a separator by digest alone: the claims depend on its place.
func isSeparator(e *Event) (found, failed bool) {
	switch {
	case separatorZeros.is(e.Digests), separatorOnes.is(e.Digests):
		return true, false
	case separatorError.is(e.Digests):
		return true, true
	}
	return false, false
}

// separator describes a separator.
func (d *decoder) separator(e *Event) (meaning, bool) {
	m := meaning{component: ComponentSeparator, key: "separator"}
	found, failed := isSeparator(e)
	switch {
	case failed:
		m.description = "separator with an error: firmware could not measure all"
	case found:
		m.description = "separator: firmware hands over to the boot loader"
	case (e.PCR >= 11 || d.in(e, 11)) && separatorWBCL.is(e.Digests):
		m.component, m.description = ComponentWindows, "end of the Windows boot log"
	case e.Type == EvSeparator:
		m.description = "separator"
	default:
		return meaning{}, false
	}
	return m, true
}
