package eventlog

import (
	"bytes"
	"crypto/sha1" // #nosec G505 -- SHA-1 PCR banks exist; whether they count is the policy's decision
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"sync/atomic"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Log is a parsed event log with the PCR values that it replays to. It is immutable and safe for
// concurrent use. It keeps the bytes it was parsed from: they must not be changed.
type Log struct {
	raw      []byte
	segments []segment
	records  int

	// proven keeps the decoded events and claims of the last combination of proven PCRs, which for
	// an unchanged machine is always the same one.
	proven atomic.Pointer[view]
}

// segment is one log of the buffer: from a header, or the start, to the next header or the end.
type segment struct {
	start, end int // byte range of its records
	first      int // number of its first record
	records    int
	digests    int // digests in all records
	agile      bool
	algorithms []algorithm
	locality   byte   // the reset value of PCR 0 (StartupLocality, H-CRTM)
	banks      []bank // one an algorithm, in the same order
}

// bank holds the replayed PCRs of one algorithm.
type bank struct {
	computed bool   // false: an algorithm that we do not compute (SM3, unknown ones)
	extended uint32 // bit i: PCR i has an event
	values   []byte // NumPCRs values of the digest's size; nil where not computed
}

func (b *bank) value(size, pcr int) []byte { return b.values[pcr*size : (pcr+1)*size] }

// Parse reads a boot log. Nil or padding alone is a log with no events. Errors are *ParseError.
//
// Parse makes one pass and computes the PCR values of each bank that it can compute. It allocates a
// few kilobytes for them, whatever the log holds.
func Parse(raw []byte) (*Log, error) {
	log := &Log{raw: raw}
	s := scanner{raw: raw, algorithms: legacyAlgorithms}
	var r record
	var current *segment
	for {
		header := s.atHeader()
		if header || current == nil {
			if len(log.segments) == maxLogs {
				return nil, s.fail(s.offset, "more than %d logs in one buffer", maxLogs)
			}
			start, first := s.offset, s.record
			if header {
				if err := s.readHeader(&r); err != nil {
					return nil, err
				}
			}
			log.segments = append(log.segments, segment{start: start, end: s.offset, first: first, agile: s.agile, algorithms: s.algorithms})
			current = &log.segments[len(log.segments)-1]
			current.reset()
			if header {
				current.records++
				current.digests++
				continue
			}
		}
		more, err := s.next(&r)
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
		current.add(&r)
	}
	log.records = s.record
	return log, nil
}

// reset sets the PCRs to what they are after a TPM reset (PC Client Platform TPM Profile 1.06, section
// 4.6.2: 17 to 22 all ones, the others zero).
func (g *segment) reset() {
	g.banks = make([]bank, len(g.algorithms))
	for i, a := range g.algorithms {
		if !computes(a.id) {
			continue
		}
		g.banks[i] = bank{computed: true, values: make([]byte, a.size*tpm.NumPCRs)}
		for pcr := range tpm.NumPCRs {
			resetValue(g.banks[i].value(a.size, pcr), pcr, 0)
		}
	}
}

// resetValue writes the value of a PCR that no event extended.
func resetValue(value []byte, pcr int, locality byte) {
	var fill byte
	if pcr >= 17 && pcr <= 22 {
		fill = 0xFF
	}
	for i := range value {
		value[i] = fill
	}
	if pcr == 0 {
		value[len(value)-1] = locality
	}
}

var startupLocality = []byte("StartupLocality\x00")

// add replays one record.
func (g *segment) add(r *record) {
	g.end = r.end
	g.records++
	for i := range g.banks {
		if r.digests[i] != nil {
			g.digests++
		}
	}
	if !r.extends() {
		// PFP 1.06, section 10.4.5.3: the locality that the TPM was started from is in the last byte
		// of PCR 0 before its first extend.
		if r.pcr == 0 && len(r.data) == len(startupLocality)+1 && bytes.HasPrefix(r.data, startupLocality) {
			g.startAt(r.data[len(startupLocality)])
		}
		return
	}
	if r.pcr == 0 && r.typ == EvEFIHCRTMEvent {
		// PFP 1.06, section 2.3.2: an H-CRTM sequence starts PCR 0 at locality 4.
		g.startAt(4)
	}
	for i := range g.banks {
		b := &g.banks[i]
		if d := r.digests[i]; d != nil && b.computed {
			extend(g.algorithms[i].id, b.value(g.algorithms[i].size, int(r.pcr)), d)
			b.extended |= 1 << r.pcr
		}
	}
}

// startAt sets the reset value of PCR 0, unless it was set or the PCR was extended before.
func (g *segment) startAt(locality byte) {
	if g.locality != 0 {
		return
	}
	for i := range g.banks {
		if g.banks[i].extended&1 != 0 {
			return
		}
	}
	g.locality = locality
	for i, a := range g.algorithms {
		if g.banks[i].computed {
			g.banks[i].values[a.size-1] = locality
		}
	}
}

func computes(alg tpm.HashAlg) bool {
	switch alg {
	case tpm.SHA1, tpm.SHA256, tpm.SHA384, tpm.SHA512, tpm.SHA3_256, tpm.SHA3_384, tpm.SHA3_512, tpm.RTMR:
		return true
	}
	return false
}

// maxComputed is the size of the largest digest that extend computes.
const maxComputed = 64

// extend sets value to hash(value || digest), without allocating.
func extend(alg tpm.HashAlg, value, digest []byte) {
	var buffer [2 * maxComputed]byte
	n := copy(buffer[:], value)
	n += copy(buffer[n:], digest)
	hashInto(alg, value, buffer[:n])
}

// hashInto writes the hash of data to sum, which has the digest's size.
func hashInto(alg tpm.HashAlg, sum, data []byte) {
	switch alg {
	case tpm.SHA1:
		h := sha1.Sum(data) // #nosec G401 -- a SHA-1 bank is hashed with SHA-1
		copy(sum, h[:])
	case tpm.SHA256:
		h := sha256.Sum256(data)
		copy(sum, h[:])
	case tpm.SHA384, tpm.RTMR:
		h := sha512.Sum384(data)
		copy(sum, h[:])
	case tpm.SHA512:
		h := sha512.Sum512(data)
		copy(sum, h[:])
	case tpm.SHA3_256:
		h := sha3.Sum256(data)
		copy(sum, h[:])
	case tpm.SHA3_384:
		h := sha3.Sum384(data)
		copy(sum, h[:])
	case tpm.SHA3_512:
		h := sha3.Sum512(data)
		copy(sum, h[:])
	}
}

// hashIs tells whether digest is the hash of data.
func hashIs(alg tpm.HashAlg, digest, data []byte) bool {
	if !computes(alg) || len(digest) != alg.Size() {
		return false
	}
	var sum [maxComputed]byte
	hashInto(alg, sum[:len(digest)], data)
	return bytes.Equal(sum[:len(digest)], digest)
}

// Len is the number of records, headers included.
func (l *Log) Len() int { return l.records }

// Empty tells whether the log has no record at all: it explains nothing and contradicts nothing.
func (l *Log) Empty() bool { return l.records == 0 }

// last is the segment that a machine with several logs booted last.
func (l *Log) last() *segment { return &l.segments[len(l.segments)-1] }

// Banks lists the algorithms of the (last) log, in the order of its header.
func (l *Log) Banks() []tpm.HashAlg {
	out := make([]tpm.HashAlg, 0, len(l.last().algorithms))
	for _, a := range l.last().algorithms {
		out = append(out, a.id)
	}
	return out
}

// PCR is the value that the (last) log replays to, and whether an event extended it; ok is false where
// the log does not have the bank or its algorithm is not computed here. The value aliases the Log and
// must not be changed. It is what the log says: only Replay proves it.
func (l *Log) PCR(alg tpm.HashAlg, index int) (value []byte, extended, ok bool) {
	g := l.last()
	i := indexOf(g.algorithms, alg)
	if i < 0 || index < 0 || index >= tpm.NumPCRs || !g.banks[i].computed {
		return nil, false, false
	}
	return g.banks[i].value(g.algorithms[i].size, index), g.banks[i].extended&(1<<uint(index)) != 0, true
}

// walk calls visit with each record of a segment, the header first. The log was parsed before, so no
// record can fail. The record is reused.
func (l *Log) walk(g *segment, visit func(index int, r *record)) {
	s := scanner{raw: l.raw[:g.end], offset: g.start, record: g.first, algorithms: g.algorithms}
	var r record
	if g.agile {
		if s.readHeader(&r) != nil {
			return
		}
		visit(g.first, &r)
	}
	for {
		index := s.record
		if more, err := s.next(&r); err != nil || !more {
			return
		}
		visit(index, &r)
	}
}
