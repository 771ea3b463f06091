package ima

import (
	"bytes"
	"crypto/sha1" // #nosec G505 -- the kernel's template hash; nothing is trusted because of it
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
)

// parseASCII writes the binary list that an ASCII list stands for and reads that, so that there is one
// meaning for both. The byte order of the hashed lengths is not visible in the text: it is found by the
// first template hash that is given.
func parseASCII(raw []byte) (*List, error) {
	l, err := buildASCII(raw, binary.LittleEndian)
	if err != nil {
		return nil, err
	}
	if l.firstHashFits() {
		return l, nil
	}
	if big, err := buildASCII(raw, binary.BigEndian); err == nil && big.firstHashFits() {
		return big, nil
	}
	return l, nil
}

// firstHashFits tells whether the first entry that has a template hash and data has the right one.
func (l *List) firstHashFits() bool {
	for i := range l.recs {
		if rec := &l.recs[i]; rec.flags == 0 {
			return l.statedHashFits(rec)
		}
	}
	return true
}

func buildASCII(raw []byte, order binary.ByteOrder) (*List, error) {
	b := asciiBuilder{order: order, out: make([]byte, 0, len(raw))}
	b.recs = make([]record, 0, bytes.Count(raw, []byte{'\n'})+1)
	for len(raw) > 0 {
		b.line++
		line := raw
		if i := bytes.IndexByte(raw, '\n'); i >= 0 {
			line, raw = raw[:i], raw[i+1:]
		} else {
			raw = nil
		}
		if err := b.entry(line); err != nil {
			return nil, err
		}
	}
	if len(b.out) > math.MaxUint32 {
		return nil, &ParseError{Line: b.line, Detail: "the list is too long"}
	}
	return &List{raw: b.out, recs: b.recs, order: order, hashSize: b.hashSize}, nil
}

type asciiBuilder struct {
	order    binary.ByteOrder
	out      []byte
	recs     []record
	line     int
	hashSize int
}

func (b *asciiBuilder) errorf(format string, args ...any) error {
	return &ParseError{Line: b.line, Entry: len(b.recs), Detail: fmt.Sprintf(format, args...)}
}

// entry reads "PCR template-hash template-name field field …". The PCR is padded to two characters with
// a space.
func (b *asciiBuilder) entry(line []byte) error {
	pcrText, rest, _ := bytes.Cut(bytes.TrimLeft(line, " "), []byte{' '})
	hashText, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return b.errorf("a line is: PCR, template hash, template name, fields")
	}
	name, rest, _ := bytes.Cut(rest, []byte{' '})
	pcr, err := strconv.ParseUint(string(pcrText), 10, 8)
	if err != nil || pcr > maxPCR {
		return b.errorf("%q is no PCR index from 0 to %d", clip(pcrText), maxPCR)
	}
	switch n := len(hashText) / 2; {
	case n != 20 && n != 32 && n != 48 && n != 64 || len(hashText)%2 != 0:
		return b.errorf("a template hash of %d characters", len(hashText))
	case b.hashSize == 0:
		b.hashSize = n
	case b.hashSize != n:
		return b.errorf("a template hash of %d bytes, but the lines before have %d", n, b.hashSize)
	}
	if len(name) == 0 || len(name) > maxTemplateLen {
		return b.errorf("a template name of %d characters", len(name))
	}
	for _, c := range name {
		if c < ' ' || c > '~' {
			return b.errorf("the template name holds byte 0x%02x", c)
		}
	}

	b.putUint32(uint32(pcr))
	rec := record{pcr: uint8(pcr), off: uint32(len(b.out)), nameLen: uint8(len(name)), template: templateNumber(name)}
	if err := b.putHex(hashText); err != nil {
		return err
	}
	if isZero(b.out[rec.off:]) {
		rec.flags |= flagViolation
	}
	b.putUint32(uint32(len(name)))
	rec.nameOff = uint32(len(b.out))
	b.out = append(b.out, name...)

	fields := templates[rec.template].fields
	if rec.template == templateUnknown {
		fields = customFields(string(name))
	}
	rec.dataOff = uint32(len(b.out))
	if fields == nil {
		rec.flags |= flagOpaque
		b.out = append(b.out, rest...)
	} else if err := b.fields(fields, rest, rec.template == templateIMA); err != nil {
		return err
	}
	rec.dataLen = uint32(len(b.out)) - rec.dataOff
	b.recs = append(b.recs, rec)
	return nil
}

// fields writes the template data. Fields are separated by one space; an empty field leaves two spaces
// or, at the end, a trailing space, which some tools strip: missing fields at the end are empty.
func (b *asciiBuilder) fields(fields []field, rest []byte, old bool) error {
	for i, f := range fields {
		var text []byte
		if i == len(fields)-1 && (f == fieldName || f == fieldNameNG) {
			text, rest = rest, nil // kernels before 3.14 left spaces in names
		} else {
			text, rest, _ = bytes.Cut(rest, []byte{' '})
		}
		if old && f == fieldDigest {
			if len(text) != 2*oldDigestSize {
				return b.errorf("template ima has a digest of %d bytes, not of %d characters", oldDigestSize, len(text))
			}
			if err := b.putHex(text); err != nil {
				return err
			}
			continue
		}
		at := len(b.out)
		b.putUint32(0)
		if err := b.field(f, text, old); err != nil {
			return err
		}
		n := len(b.out) - at - 4
		if old && n >= oldNameSize {
			return b.errorf("a name of %d bytes is longer than the %d of template ima", n, oldNameSize-1)
		}
		b.order.PutUint32(b.out[at:], uint32(n))
	}
	if len(rest) != 0 {
		return b.errorf("%q follows the last field of the template", clip(rest))
	}
	return nil
}

func (b *asciiBuilder) field(f field, text []byte, old bool) error {
	switch f {
	case fieldName, fieldNameNG:
		if bytes.IndexByte(text, 0) >= 0 {
			return b.errorf("the name holds a NUL")
		}
		b.out = append(b.out, text...)
		if !old {
			b.out = append(b.out, 0)
		}
		return nil
	case fieldXattrNames:
		if len(text) > 0 {
			b.out = append(append(b.out, text...), 0)
		}
		return nil
	case fieldDigestNG, fieldDigestNGv2, fieldModDigest:
		if len(text) == 0 {
			return nil
		}
		i := bytes.LastIndexByte(text, ':')
		if i < 0 { // a violation of some kernels: no algorithm
			b.out = append(b.out, ':', 0)
			return b.putHex(text)
		}
		b.out = append(append(b.out, text[:i+1]...), 0)
		return b.putHex(text[i+1:])
	case fieldUID, fieldGID, fieldMode:
		return b.number(f, text)
	default:
		return b.putHex(text)
	}
}

// number writes an owner (32 bits) or a mode (16 bits).
func (b *asciiBuilder) number(f field, text []byte) error {
	if len(text) == 0 {
		return nil
	}
	bits := 32
	if f == fieldMode {
		bits = 16
	}
	n, err := strconv.ParseUint(string(text), 10, bits)
	if err != nil {
		return b.errorf("%q is no number of %d bits", clip(text), bits)
	}
	if f == fieldMode {
		var two [2]byte
		b.order.PutUint16(two[:], uint16(n))
		b.out = append(b.out, two[:]...)
		return nil
	}
	b.putUint32(uint32(n))
	return nil
}

func (b *asciiBuilder) putUint32(n uint32) {
	var four [4]byte
	b.order.PutUint32(four[:], n)
	b.out = append(b.out, four[:]...)
}

func (b *asciiBuilder) putHex(text []byte) error {
	at := len(b.out)
	if len(text)%2 != 0 {
		return b.errorf("%q has an odd number of hex digits", clip(text))
	}
	b.out = append(b.out, text[:len(text)/2]...)
	if _, err := hex.Decode(b.out[at:], text); err != nil {
		return b.errorf("%q is not hex", clip(text))
	}
	return nil
}

// clip bounds what an error quotes.
func clip(b []byte) []byte {
	if len(b) > 64 {
		return b[:64]
	}
	return b
}

// statedHashFits compares the stated template hash with the hash of the template data. The algorithm
// follows from the size: the kernel writes SHA-1 unless the list is one of the _sha256, … files.
func (l *List) statedHashFits(rec *record) bool {
	var scratch [oldDigestSize + oldNameSize]byte
	data := l.hashed(rec, &scratch)
	if l.hashSize == sha1.Size {
		sum := sha1.Sum(data) // #nosec G401 -- the template hash of these lists is SHA-1
		return bytes.Equal(sum[:], l.hash(rec))
	}
	var sum digest
	n := sum.of(algOfSize(l.hashSize), data)
	return bytes.Equal(sum[:n], l.hash(rec))
}
