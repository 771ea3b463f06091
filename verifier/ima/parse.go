package ima

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
)

// List is a parsed measurement list. It aliases the bytes it was parsed from, which must not change.
// A List may be read by several goroutines at once.
type List struct {
	raw      []byte
	recs     []record
	order    binary.ByteOrder
	hashSize int // bytes of the stated template hash; 20 unless the list is a _sha256, … one
}

// record is where an entry lies in raw. It is small because the shortest entry is 33 bytes, and a
// request must not make the process allocate a multiple of itself.
type record struct {
	off      uint32 // of the template hash
	nameOff  uint32
	dataOff  uint32
	dataLen  uint32
	nameLen  uint8
	pcr      uint8
	template uint8
	flags    uint8
}

const (
	flagViolation uint8 = 1 << iota
	flagOpaque          // ASCII entry of an unknown template: the data is its text, not what was hashed
)

const (
	oldDigestSize  = 20      // of the "ima" template
	oldNameSize    = 255 + 1 // IMA_EVENT_NAME_LEN_MAX + 1
	maxTemplateLen = 255     // bytes of a template's name or format
	maxPCR         = 23
)

// Parse reads ascii_runtime_measurements or binary_runtime_measurements; which of the two it is shows in
// the first bytes. Empty input is a list without entries. Memory is at most four times the input.
// The error is a *ParseError.
func Parse(raw []byte) (*List, error) {
	if len(raw) > math.MaxUint32/4 {
		return nil, &ParseError{Detail: fmt.Sprintf("%d bytes are more than a measurement list can be", len(raw))}
	}
	if len(raw) == 0 {
		return &List{order: binary.LittleEndian, hashSize: 20}, nil
	}
	// A binary list begins with a PCR index of 32 bits, 0 to 23: its first byte is below any character
	// that can begin a text line.
	if raw[0] >= ' ' {
		return parseASCII(raw)
	}
	order, hashSize, ok := detect(raw)
	if !ok {
		return nil, &ParseError{Detail: "the first entry has no PCR index and template name: this is no IMA list"}
	}
	return parseBinary(raw, order, hashSize)
}

// detect finds the byte order and the size of the template hash from the first entry, whose template
// name must be where they say.
func detect(raw []byte) (order binary.ByteOrder, hashSize int, ok bool) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if len(raw) < 4 || order.Uint32(raw) > maxPCR {
			continue
		}
		for _, size := range []int{20, 32, 48, 64} {
			if _, ok := readName(raw, 4+size, order); ok {
				return order, size, true
			}
		}
	}
	return nil, 0, false
}

// readName reads a length and a template name at off.
func readName(raw []byte, off int, order binary.ByteOrder) (name []byte, ok bool) {
	if len(raw)-off < 4 {
		return nil, false
	}
	n := order.Uint32(raw[off:])
	if n == 0 || n > maxTemplateLen || int(n) > len(raw)-off-4 {
		return nil, false
	}
	name = raw[off+4 : off+4+int(n)]
	for _, c := range name {
		if c <= ' ' || c > '~' {
			return nil, false
		}
	}
	return name, true
}

// parseBinary reads the list twice: to count, so that the records are allocated once, and to keep.
func parseBinary(raw []byte, order binary.ByteOrder, hashSize int) (*List, error) {
	count := 0
	for off := 0; off < len(raw); count++ {
		_, next, err := readEntry(raw, off, count, order, hashSize)
		if err != nil {
			return nil, err
		}
		off = next
	}
	l := &List{raw: raw, recs: make([]record, 0, count), order: order, hashSize: hashSize}
	for off := 0; off < len(raw); {
		rec, next, err := readEntry(raw, off, len(l.recs), order, hashSize)
		if err != nil {
			return nil, err
		}
		l.recs = append(l.recs, rec)
		off = next
	}
	return l, nil
}

func readEntry(raw []byte, off, index int, order binary.ByteOrder, hashSize int) (rec record, next int, err error) {
	fail := func(at int, format string, args ...any) (record, int, error) {
		return record{}, 0, &ParseError{Offset: at, Entry: index, Detail: fmt.Sprintf(format, args...)}
	}
	if len(raw)-off < 4+hashSize {
		return fail(off, "the list ends within an entry")
	}
	pcr := order.Uint32(raw[off:])
	if pcr > maxPCR {
		return fail(off, "PCR %d is outside 0 to %d", pcr, maxPCR)
	}
	rec.pcr = uint8(pcr)
	rec.off = uint32(off + 4)
	if isZero(raw[off+4 : off+4+hashSize]) {
		rec.flags |= flagViolation
	}
	off += 4 + hashSize
	name, ok := readName(raw, off, order)
	if !ok {
		return fail(off, "no template name")
	}
	rec.nameOff, rec.nameLen = uint32(off+4), uint8(len(name))
	rec.template = templateNumber(name)
	off += 4 + len(name)

	size := 0
	if rec.template == templateIMA {
		// No length: a digest, then a name with its length (without NUL).
		if len(raw)-off < oldDigestSize+4 {
			return fail(off, "the list ends within an entry")
		}
		n := order.Uint32(raw[off+oldDigestSize:])
		if n >= oldNameSize {
			return fail(off+oldDigestSize, "a name of %d bytes is longer than the %d of template ima", n, oldNameSize-1)
		}
		size = oldDigestSize + 4 + int(n)
	} else {
		if len(raw)-off < 4 {
			return fail(off, "the list ends within an entry")
		}
		n := order.Uint32(raw[off:])
		if n > math.MaxInt32 {
			return fail(off, "template data of %d bytes", n)
		}
		off += 4
		size = int(n)
	}
	if size > len(raw)-off {
		return fail(off, "template data of %d bytes, but %d are left", size, len(raw)-off)
	}
	rec.dataOff, rec.dataLen = uint32(off), uint32(size)
	return rec, off + size, nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Len is the number of entries.
func (l *List) Len() int { return len(l.recs) }

// Entry takes entry i apart; i is from 0 to Len()-1.
func (l *List) Entry(i int) Entry {
	rec := &l.recs[i]
	v := l.view(rec)
	e := Entry{
		Index:         i,
		PCR:           int(rec.pcr),
		TemplateName:  string(l.name(rec)),
		TemplateHash:  l.hash(rec),
		DigestType:    string(v.digestType),
		FileDigestAlg: string(v.alg),
		FileDigest:    v.digest,
		Path:          string(v.path),
		Signature:     v.signature,
		Buffer:        v.buffer,
		hasBuffer:     v.isBuffer,
		ModsigAlg:     string(v.modAlg),
		ModsigDigest:  v.modDigest,
		Modsig:        v.modsig,
		Violation:     rec.flags&flagViolation != 0,
		Fault:         cmp.Or(v.fault, v.signatureFault),
	}
	if rec.flags&flagOpaque == 0 {
		e.TemplateData = l.data(rec)
	}
	return e
}

func (l *List) name(rec *record) []byte {
	return l.raw[rec.nameOff : rec.nameOff+uint32(rec.nameLen)]
}

func (l *List) hash(rec *record) []byte {
	return l.raw[rec.off : rec.off+uint32(l.hashSize)]
}

func (l *List) data(rec *record) []byte {
	return l.raw[rec.dataOff : rec.dataOff+rec.dataLen]
}

func (l *List) view(rec *record) view {
	if rec.flags&flagOpaque != 0 {
		return view{fault: "its template is not known"}
	}
	fields := templates[rec.template].fields
	if rec.template == templateUnknown {
		if fields = customFields(string(l.name(rec))); fields == nil {
			return view{fault: "its template is not known"}
		}
	}
	return decode(fields, l.data(rec), l.order, rec.template == templateIMA)
}
