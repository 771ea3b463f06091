package corim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-verifier/assay/baseline"
)

// Bounds of a document. A set of reference values with 20,000 events has some 6 MiB.
const (
	maxDocument = 16 << 20
	maxNesting  = 24
	maxElements = 32768 // of an array
	maxPairs    = 4096  // of a map
)

// decoding is what is read: definite lengths, within bounds. Duplicate keys and invalid text are refused by value.
var decoding = func() cbor.DecMode {
	mode, err := cbor.DecOptions{MaxNestedLevels: maxNesting, MaxArrayElements: maxElements, MaxMapPairs: maxPairs,
		IndefLength: cbor.IndefLengthForbidden, DupMapKey: cbor.DupMapKeyEnforcedAPF}.DecMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
}()

// The major types of CBOR (RFC 8949, section 3.1).
const (
	majorUnsigned = iota
	majorNegative
	majorBytes
	majorText
	majorArray
	majorMap
	majorTag
	majorSimple
)

// value is one data item, seen where it stands in the document: nothing is copied or built until it is asked for, so
// that a document cannot make more of itself in memory. Whole documents are well-formed before a value is made of them.
type value struct {
	parent *value
	step   string // its place in its parent
	major  byte
	arg    uint64
	body   []byte // what follows the head: a string's bytes, or the items of an array, a map or a tag
	raw    []byte // the item whole
}

// open checks that b is one well-formed item within bounds, and reads it. parent and step are its place.
func open(b []byte, parent *value, step string) (*value, error) {
	v := &value{parent: parent, step: step}
	if len(b) > maxDocument {
		return nil, v.tooLarge("%d bytes; at most %d are read", len(b), maxDocument)
	}
	if err := decoding.Wellformed(b); err != nil {
		var nested *cbor.MaxNestedLevelError
		var elements *cbor.MaxArrayElementsError
		var pairs *cbor.MaxMapPairsError
		var indefinite *cbor.IndefiniteLengthError
		switch {
		case errors.As(err, &nested), errors.As(err, &elements), errors.As(err, &pairs):
			return nil, v.tooLarge("%s", err)
		case errors.As(err, &indefinite):
			return nil, v.unsupported("%s", err)
		}
		return nil, v.malformed("%s", err)
	}
	item := whole(b)
	item.parent, item.step = parent, step
	return &item, nil
}

// whole reads well-formed CBOR that is one item.
func whole(b []byte) value {
	major, arg, head := headOf(b)
	return value{major: major, arg: arg, body: b[head:], raw: b}
}

// take reads the first item of well-formed CBOR.
func take(b []byte) (v value, rest []byte) {
	size := sizeOf(b)
	return whole(b[:size]), b[size:]
}

func headOf(b []byte) (major byte, arg uint64, size int) {
	major = b[0] >> 5
	switch info := b[0] & 0x1f; info {
	case 24:
		return major, uint64(b[1]), 2
	case 25:
		return major, uint64(binary.BigEndian.Uint16(b[1:])), 3
	case 26:
		return major, uint64(binary.BigEndian.Uint32(b[1:])), 5
	case 27:
		return major, binary.BigEndian.Uint64(b[1:]), 9
	default:
		return major, uint64(info), 1
	}
}

// sizeOf is the size of the first item. Its depth is bounded by maxNesting.
func sizeOf(b []byte) int {
	major, arg, at := headOf(b)
	items := uint64(0)
	switch major {
	case majorBytes, majorText:
		return at + int(arg)
	case majorArray:
		items = arg
	case majorMap:
		items = 2 * arg
	case majorTag:
		items = 1
	}
	for range items {
		at += sizeOf(b[at:])
	}
	return at
}

// pointer is the place of a value: /tags/0/triples/reference-triples/2/measurements/0/digests.
func (v *value) pointer() string {
	var steps []string
	for ; v != nil && v.step != ""; v = v.parent {
		steps = append(steps, v.step)
	}
	var b strings.Builder
	for i := len(steps) - 1; i >= 0; i-- {
		b.WriteString("/" + steps[i])
	}
	return b.String()
}

// refuse makes an error at the value's place. Texts of the document are in it, so it is cut.
func (v *value) refuse(kind, format string, args []any) error {
	return baseline.ImportErrorf(kind, v.pointer(), "%s", baseline.Shown(fmt.Sprintf(format, args...), 500))
}

func (v *value) malformed(format string, args ...any) error {
	return v.refuse(baseline.ImportMalformed, format, args)
}

func (v *value) untrusted(format string, args ...any) error {
	return v.refuse(baseline.ImportUntrusted, format, args)
}

func (v *value) unsupported(format string, args ...any) error {
	return v.refuse(baseline.ImportUnsupported, format, args)
}

func (v *value) tooLarge(format string, args ...any) error {
	return v.refuse(baseline.ImportTooLarge, format, args)
}

// kind is what a value is, for errors.
func (v *value) kind() string {
	switch v.major {
	case majorUnsigned, majorNegative:
		return "an integer"
	case majorBytes:
		return "a byte string"
	case majorText:
		return "a text"
	case majorArray:
		return "an array"
	case majorMap:
		return "a map"
	case majorTag:
		return fmt.Sprintf("tag %d", v.arg)
	}
	return "a simple value"
}

// elements are those of an array.
func (v *value) elements() ([]value, error) {
	if v.major != majorArray {
		return nil, v.malformed("an array is needed; this is %s", v.kind())
	}
	out := make([]value, 0, v.arg)
	for rest := v.body; len(rest) > 0; {
		var item value
		item, rest = take(rest)
		item.parent, item.step = v, strconv.Itoa(len(out))
		out = append(out, item)
	}
	return out, nil
}

// oneOrMore are the elements of an array that must not be empty.
func (v *value) oneOrMore() ([]value, error) {
	out, err := v.elements()
	if err == nil && len(out) == 0 {
		return nil, v.malformed("an array of at least one element is needed")
	}
	return out, err
}

// mapKey is an integer or a text. They differ even where they look the same.
type mapKey struct {
	text   string
	number int64
	isText bool
}

func (k mapKey) String() string {
	if k.isText {
		return shown(k.text)
	}
	return strconv.FormatInt(k.number, 10)
}

// fewPairs are as many as are compared with each other; more are remembered in a table.
const fewPairs = 16

type entry struct {
	key   mapKey
	value value
}

// entries are those of a map, in their order. names give the steps of known keys. A key that is there twice is refused,
// however it is encoded.
func (v *value) entries(names map[int64]string) ([]entry, error) {
	if v.major != majorMap {
		return nil, v.malformed("a map is needed; this is %s", v.kind())
	}
	out := make([]entry, 0, v.arg)
	var seen map[mapKey]bool
	if v.arg > fewPairs {
		seen = make(map[mapKey]bool, v.arg)
	}
	for rest := v.body; len(rest) > 0; {
		var k, item value
		k, rest = take(rest)
		item, rest = take(rest)
		k.parent = v
		var key mapKey
		switch k.major {
		case majorText:
			text, err := k.text()
			if err != nil {
				return nil, err
			}
			key = mapKey{text: text, isText: true}
		default:
			number, err := k.integer()
			if err != nil {
				return nil, v.malformed("a key of the map is neither an integer nor a text")
			}
			key = mapKey{number: number}
		}
		if seen[key] || seen == nil && slices.ContainsFunc(out, func(e entry) bool { return e.key == key }) {
			return nil, v.malformed("the key %s is there twice", key)
		}
		if seen != nil {
			seen[key] = true
		}
		item.parent, item.step = v, key.String()
		if name := names[key.number]; !key.isText && name != "" {
			item.step = name
		}
		out = append(out, entry{key, item})
	}
	return out, nil
}

// fields is a map whose keys are known by number; what is not known stays in rest.
type fields struct {
	known, rest []entry
}

func (v *value) fields(names map[int64]string) (*fields, error) {
	entries, err := v.entries(names)
	if err != nil {
		return nil, err
	}
	unknown := func(e entry) bool { return e.key.isText || names[e.key.number] == "" }
	f := &fields{known: entries}
	if slices.ContainsFunc(entries, unknown) {
		f.known = nil
		for _, e := range entries {
			if unknown(e) {
				f.rest = append(f.rest, e)
			} else {
				f.known = append(f.known, e)
			}
		}
	}
	return f, nil
}

// get is the value of a known key, or nil.
func (f *fields) get(key int64) *value {
	for i := range f.known {
		if f.known[i].key.number == key {
			return &f.known[i].value
		}
	}
	return nil
}

func (v *value) text() (string, error) {
	if v.major != majorText {
		return "", v.malformed("a text is needed; this is %s", v.kind())
	}
	if !utf8.Valid(v.body) {
		return "", v.malformed("the text is not UTF-8")
	}
	return string(v.body), nil
}

func (v *value) bytes() ([]byte, error) {
	if v.major != majorBytes {
		return nil, v.malformed("a byte string is needed; this is %s", v.kind())
	}
	return v.body, nil
}

func (v *value) integer() (int64, error) {
	switch {
	case v.arg > math.MaxInt64 && v.major <= majorNegative:
		return 0, v.malformed("the integer has more than 63 bits")
	case v.major == majorUnsigned:
		return int64(v.arg), nil
	case v.major == majorNegative:
		return -1 - int64(v.arg), nil
	}
	return 0, v.malformed("an integer is needed; this is %s", v.kind())
}

func (v *value) boolean() (bool, error) {
	if v.major != majorSimple || v.raw[0] != 0xf4 && v.raw[0] != 0xf5 {
		return false, v.malformed("true or false is needed; this is %s", v.kind())
	}
	return v.raw[0] == 0xf5, nil
}

// tagged is the content of a tag; ok is false where the value has not this tag.
func (v *value) tagged(tag uint64) (content *value, ok bool) {
	if v.major != majorTag || v.arg != tag {
		return nil, false
	}
	return v.content(), true
}

// content is what a tag is upon. Its place is the tag's.
func (v *value) content() *value {
	item := whole(v.body)
	item.parent, item.step = v.parent, v.step
	return &item
}

// untagged is the value without its tag, if it has that one: some writers leave it out.
func (v *value) untagged(tag uint64) *value {
	if content, ok := v.tagged(tag); ok {
		return content
	}
	return v
}

// embedded is the document inside of a byte string.
func (v *value) embedded() (*value, error) {
	b, err := v.bytes()
	if err != nil {
		return nil, err
	}
	return open(b, v.parent, v.step)
}

// shown is text of a document, short enough for an error or a note.
func shown(text string) string { return baseline.Shown(text, 120) }
