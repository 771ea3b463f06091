package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// The bounds of a log. Nothing of a log is allocated by a number that the log states.
const (
	// maxAlgorithms is the most PCR banks that a header may announce (HASH_COUNT of the TPM 2.0
	// reference code is 16).
	maxAlgorithms = 16
	// maxLogs is the most logs that one buffer may hold one after the other.
	maxLogs = 8
	// Digest sizes that a header may announce for an algorithm that we do not know.
	minDigest, maxDigest = 20, 128
)

// noPCR is the index of a record that belongs to no PCR: Windows writes its trust point so, always as
// EV_NO_ACTION.
const noPCR = 0xFFFFFFFF

// ParseError says where a log is not well formed.
type ParseError struct {
	Offset int    // bytes from the start of the buffer
	Record int    // number of the record, from 0
	Detail string // plain words
}

// Error implements error.
func (e *ParseError) Error() string {
	return fmt.Sprintf("event log: record %d at byte %d: %s", e.Record, e.Offset, e.Detail)
}

// algorithm is one entry of the header's list of digest sizes.
type algorithm struct {
	id   tpm.HashAlg
	size int
}

// legacyAlgorithms is the one bank of a TCG 1.2 log.
var legacyAlgorithms = []algorithm{{tpm.SHA1, 20}}

// record is one record of the log as it stands there. The slices alias the log.
type record struct {
	offset, end int // byte range of the whole record
	pcr         uint32
	typ         EventType
	data        []byte
	// digests[i] is the digest of the log's i-th algorithm, nil where the record has none.
	digests [maxAlgorithms][]byte
}

// extends tells whether the record extended a PCR: every record did but EV_NO_ACTION
// (PFP 1.06, section 10.4.1).
func (r *record) extends() bool { return r.typ != EvNoAction }

// scanner reads records one after the other without allocating. After the header of a crypto-agile
// log, agile is true and algorithms are those of the header.
type scanner struct {
	raw        []byte
	offset     int
	record     int
	agile      bool
	algorithms []algorithm
}

func (s *scanner) fail(offset int, format string, args ...any) error {
	return &ParseError{Offset: offset, Record: s.record, Detail: fmt.Sprintf(format, args...)}
}

// next reads the record at the current offset into r; more is false at the end of the log, padding
// included.
func (s *scanner) next(r *record) (more bool, err error) {
	rest := s.raw[s.offset:]
	if len(rest) == 0 {
		return false, nil
	}
	if s.endOfLog(rest) {
		if at := notPadding(rest); at >= 0 {
			return false, s.fail(s.offset+at, "data after the end of the log")
		}
		return false, nil
	}
	if s.agile {
		err = s.readAgile(r)
	} else {
		err = s.readLegacy(r)
	}
	if err != nil {
		return false, err
	}
	if r.pcr >= tpm.NumPCRs && (r.pcr != noPCR || r.typ != EvNoAction) {
		return false, s.fail(r.offset, "PCR index %d is not below %d", r.pcr, tpm.NumPCRs)
	}
	s.offset = r.end
	s.record++
	return true, nil
}

// endOfLog tells whether padding starts here: what stands here cannot be a record. Windows pads with
// zeros, several servers and CC event logs with 0xFF.
func (s *scanner) endOfLog(rest []byte) bool {
	shortest := 32 // TCG_PCR_EVENT without data
	if s.agile {
		shortest = 12 // PCR, type and a digest count of 0, which no record has
	}
	if len(rest) < shortest {
		return notPadding(rest) < 0
	}
	if rest[0] == 0xFF {
		return binary.LittleEndian.Uint64(rest) == 0xFFFFFFFFFFFFFFFF
	}
	for _, b := range rest[:shortest] {
		if b != 0 {
			return false
		}
	}
	return true
}

// notPadding is the index of the first byte that is neither 0x00 nor 0xFF, or -1.
func notPadding(b []byte) int {
	for i, c := range b {
		if c != 0x00 && c != 0xFF {
			return i
		}
	}
	return -1
}

// readLegacy reads a TCG_PCR_EVENT: PCR, type, SHA-1 digest, size and data (PFP 1.06, section 10.2.1).
func (s *scanner) readLegacy(r *record) error {
	rest := s.raw[s.offset:]
	if len(rest) < 32 {
		return s.fail(s.offset, "%d bytes are too few for a record of 32", len(rest))
	}
	r.offset = s.offset
	r.pcr = binary.LittleEndian.Uint32(rest)
	r.typ = EventType(binary.LittleEndian.Uint32(rest[4:]))
	r.digests = [maxAlgorithms][]byte{rest[8:28]}
	return s.readData(r, s.offset+28)
}

// readAgile reads a TCG_PCR_EVENT2: PCR, type, TPML_DIGEST_VALUES, size and data (PFP 1.06, section
// 10.2.2). A record may have fewer digests than the header has algorithms (Windows extends its
// events in one bank only), but never none, and never an algorithm that the header does not have.
func (s *scanner) readAgile(r *record) error {
	rest := s.raw[s.offset:]
	if len(rest) < 12 {
		return s.fail(s.offset, "%d bytes are too few for a record", len(rest))
	}
	r.offset = s.offset
	r.pcr = binary.LittleEndian.Uint32(rest)
	r.typ = EventType(binary.LittleEndian.Uint32(rest[4:]))
	r.digests = [maxAlgorithms][]byte{}
	count := binary.LittleEndian.Uint32(rest[8:])
	if count == 0 || uint64(count) > uint64(len(s.algorithms)) {
		return s.fail(s.offset+8, "%d digests in a log of %d algorithms", count, len(s.algorithms))
	}
	at := 12
	for range count {
		if len(rest)-at < 2 {
			return s.fail(s.offset+at, "the log ends within a list of digests")
		}
		id := tpm.HashAlg(binary.LittleEndian.Uint16(rest[at:]))
		i := indexOf(s.algorithms, id)
		if i < 0 {
			return s.fail(s.offset+at, "digest algorithm 0x%04x is not in the header", uint16(id))
		}
		if r.digests[i] != nil {
			return s.fail(s.offset+at, "two digests of algorithm %v", id)
		}
		at += 2
		size := s.algorithms[i].size
		if len(rest)-at < size {
			return s.fail(s.offset+at, "the log ends within a digest")
		}
		r.digests[i] = rest[at : at+size : at+size]
		at += size
	}
	return s.readData(r, s.offset+at)
}

// readData reads the 32-bit size at offset and the data after it, and sets the record's end.
func (s *scanner) readData(r *record, offset int) error {
	if len(s.raw)-offset < 4 {
		return s.fail(offset, "the log ends before the size of the data")
	}
	size := binary.LittleEndian.Uint32(s.raw[offset:])
	offset += 4
	if uint64(size) > uint64(len(s.raw)-offset) {
		return s.fail(offset-4, "data of %d bytes, but only %d are left", size, len(s.raw)-offset)
	}
	r.end = offset + int(size)
	r.data = s.raw[offset:r.end:r.end]
	return nil
}

func indexOf(algorithms []algorithm, id tpm.HashAlg) int {
	for i := range algorithms {
		if algorithms[i].id == id {
			return i
		}
	}
	return -1
}

var specIDSignature = []byte("Spec ID Event03\x00")

// atHeader tells whether a crypto-agile log starts at the current offset: a record in the old format,
// EV_NO_ACTION, with a zero digest and the signature. In a crypto-agile log no record can look like it,
// since its digest count would be 0.
func (s *scanner) atHeader() bool {
	rest := s.raw[s.offset:]
	if len(rest) < 32+len(specIDSignature) || EventType(binary.LittleEndian.Uint32(rest[4:])) != EvNoAction {
		return false
	}
	for _, b := range rest[8:28] {
		if b != 0 {
			return false
		}
	}
	return bytes.HasPrefix(rest[32:], specIDSignature)
}

// readHeader reads the record at the current offset as a TCG_EfiSpecIDEvent (PFP 1.06, section
// 10.4.5.1) and turns to the crypto-agile format.
func (s *scanner) readHeader(r *record) error {
	if err := s.readLegacy(r); err != nil {
		return err
	}
	// Signature 16, platform class 4, version 3, size of UINTN 1, number of algorithms 4.
	const fixed = 28
	data, base := r.data, r.offset+32
	if len(data) < fixed {
		return s.fail(base, "the header of %d bytes is too short", len(data))
	}
	count := binary.LittleEndian.Uint32(data[24:])
	if count == 0 || count > maxAlgorithms {
		return s.fail(base+24, "the header announces %d algorithms; 1 to %d are possible", count, maxAlgorithms)
	}
	if len(data) < fixed+4*int(count) {
		return s.fail(base+fixed, "the header is too short for %d algorithms", count)
	}
	s.algorithms = make([]algorithm, count)
	for i := range s.algorithms {
		at := fixed + 4*i
		id := tpm.HashAlg(binary.LittleEndian.Uint16(data[at:]))
		size := int(binary.LittleEndian.Uint16(data[at+2:]))
		if id == tpm.RTMR {
			return s.fail(base+at, "algorithm 0x%04x is no hash of a log", uint16(id))
		}
		if known := id.Size(); known != 0 && known != size {
			return s.fail(base+at, "%v digests of %d bytes; they have %d", id, size, known)
		}
		if size < minDigest || size > maxDigest {
			return s.fail(base+at, "digests of %d bytes; %d to %d are possible", size, minDigest, maxDigest)
		}
		if indexOf(s.algorithms[:i], id) >= 0 {
			return s.fail(base+at, "algorithm %v twice in the header", id)
		}
		s.algorithms[i] = algorithm{id, size}
	}
	// Some firmware does not count the vendor information in the size of the record; the next record
	// follows it all the same.
	if vendor := base + fixed + 4*int(count); vendor < len(s.raw) && vendor <= r.end {
		if end := vendor + 1 + int(s.raw[vendor]); vendor < r.end && end > r.end {
			if end > len(s.raw) {
				return s.fail(vendor, "vendor information of %d bytes is longer than the log", s.raw[vendor])
			}
			r.end = end
		}
	}
	if r.pcr >= tpm.NumPCRs {
		return s.fail(r.offset, "PCR index %d is not below %d", r.pcr, tpm.NumPCRs)
	}
	s.agile = true
	s.offset = r.end
	s.record++
	return nil
}
