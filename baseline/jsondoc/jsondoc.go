// Package jsondoc reads JSON documents that somebody else made: as a stream, strictly, and within bounds. A name that is
// given twice, a value of another kind, invalid UTF-8 and anything after the document are errors, each with its place as
// an RFC 6901 pointer. The number of elements is counted while they are read, so that a few bytes of JSON cannot cost a
// hundred of memory each.
package jsondoc

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/assay-verifier/assay/baseline"
)

// MaxElements bounds the members and elements of all objects and arrays of one document together.
const MaxElements = 500_000

// maxPointer bounds the place in an error, in bytes.
const maxPointer = 1024

// Reader reads one document. The first error stays and ends every loop; what is read after it is zero.
type Reader struct {
	dec  *jsontext.Decoder
	at   string // pointer to the document, where it lies inside another one
	left int
	err  error
}

// New reads b, which lies at a pointer of an outer document ("" for a document of its own). b must not change.
func New(b []byte, at string) *Reader {
	return &Reader{dec: jsontext.NewDecoder(bytes.NewBuffer(b)), at: at, left: MaxElements}
}

// Err is the first error, a *baseline.ImportError.
func (r *Reader) Err() error { return r.err }

// Pointer is the place of the value, or of the member's name, that was read last.
func (r *Reader) Pointer() string { return r.at + string(r.dec.StackPointer()) }

// Fail refuses the document because of the value that was read last.
func (r *Reader) Fail(kind, format string, args ...any) {
	r.FailAt(kind, r.Pointer(), format, args...)
}

// FailAt refuses the document because of another place.
func (r *Reader) FailAt(kind, pointer, format string, args ...any) {
	if len(pointer) > maxPointer { // of a document that is nothing but depth
		pointer = pointer[:maxPointer]
	}
	if r.err == nil {
		r.err = baseline.ImportErrorf(kind, pointer, format, args...)
	}
}

// Unknown refuses a member whose name is not known.
func (r *Reader) Unknown() {
	r.Fail(baseline.ImportMalformed, "there is no such field")
}

// Object calls each after the name of every member, which must read the value.
func (r *Reader) Object(each func(name string)) {
	if !r.open('{') {
		return
	}
	for r.err == nil && r.dec.PeekKind() != '}' {
		name := r.token().String()
		if r.count(); r.err == nil {
			each(name)
		}
	}
	r.token()
}

// Array calls each for every element, which must read it.
func (r *Reader) Array(each func()) {
	if !r.open('[') {
		return
	}
	for r.err == nil && r.dec.PeekKind() != ']' {
		if r.count(); r.err == nil {
			each()
		}
	}
	r.token()
}

func (r *Reader) count() {
	if r.left--; r.left < 0 {
		r.Fail(baseline.ImportTooLarge, "the document has more than %d elements", MaxElements)
	}
}

func (r *Reader) open(kind jsontext.Kind) bool {
	tok := r.token()
	if r.err == nil && tok.Kind() != kind {
		r.Fail(baseline.ImportMalformed, "%s is needed here", kindName(kind))
	}
	return r.err == nil
}

// Text reads a string.
func (r *Reader) Text() string {
	tok := r.token()
	if r.err == nil && tok.Kind() != '"' {
		r.Fail(baseline.ImportMalformed, "a string is needed here")
	}
	if r.err != nil {
		return ""
	}
	return tok.String()
}

// Int reads a whole number from 0 to max.
func (r *Reader) Int(limit int64) int64 {
	tok := r.token()
	if r.err == nil && tok.Kind() != '0' {
		r.Fail(baseline.ImportMalformed, "a number is needed here")
	}
	if r.err != nil {
		return 0
	}
	n, err := tok.Int()
	if err != nil || n < 0 || n > limit {
		r.Fail(baseline.ImportMalformed, "%s is no whole number from 0 to %d", clip(tok.String()), limit)
		return 0
	}
	return n
}

// Bool reads true or false.
func (r *Reader) Bool() bool {
	tok := r.token()
	if r.err == nil && tok.Kind() != 't' && tok.Kind() != 'f' {
		r.Fail(baseline.ImportMalformed, "true or false is needed here")
	}
	return r.err == nil && tok.Bool()
}

// Null reads null, where it stands here.
func (r *Reader) Null() bool {
	if r.err != nil || r.dec.PeekKind() != 'n' {
		return false
	}
	r.token()
	return true
}

// IsText tells whether a string stands here.
func (r *Reader) IsText() bool { return r.err == nil && r.dec.PeekKind() == '"' }

// FirstOf is the name of the document's first member that is wanted; empty if it is no object or has none. What follows
// it is not read, so that telling formats apart costs little.
func FirstOf(b []byte, wanted func(name string) bool) string {
	r := New(b, "")
	if !r.open('{') {
		return ""
	}
	for r.err == nil && r.dec.PeekKind() == '"' {
		if name := r.token().String(); r.err == nil && wanted(name) {
			return name
		}
		r.Skip()
	}
	return ""
}

// Raw reads any value and returns its bytes and its place, with its elements counted.
func (r *Reader) Raw() (raw []byte, at string) {
	if r.err != nil {
		return nil, ""
	}
	value, err := r.dec.ReadValue()
	if err != nil {
		r.syntax(err)
		return nil, ""
	}
	raw, at = bytes.Clone(value), r.Pointer()
	inner := New(raw, at)
	inner.left = r.left
	inner.walk()
	r.left = inner.left
	if inner.err != nil {
		r.err = inner.err
	}
	return raw, at
}

// Skip reads any value and forgets it.
func (r *Reader) Skip() {
	if r.err != nil {
		return
	}
	if err := r.dec.SkipValue(); err != nil {
		r.syntax(err)
	}
}

// walk counts the elements of a value that is known to be JSON.
func (r *Reader) walk() {
	for r.err == nil {
		tok, err := r.dec.ReadToken()
		if err != nil {
			return
		}
		if k := tok.Kind(); k != '}' && k != ']' && k != '{' && k != '[' || r.dec.StackDepth() > 1 {
			r.count()
		}
	}
}

// End makes sure that nothing follows the document.
func (r *Reader) End() {
	if r.err != nil {
		return
	}
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) {
		r.FailAt(baseline.ImportMalformed, r.at, "something follows the document at byte %d", r.dec.InputOffset())
	}
}

func (r *Reader) token() jsontext.Token {
	if r.err != nil {
		return jsontext.Null
	}
	tok, err := r.dec.ReadToken()
	if err != nil {
		r.syntax(err)
		return jsontext.Null
	}
	return tok
}

// syntax keeps what is wrong with the JSON itself.
func (r *Reader) syntax(err error) {
	place, detail := r.Pointer(), strings.TrimPrefix(err.Error(), "jsontext: ")
	var e *jsontext.SyntacticError
	if errors.As(err, &e) {
		place = r.at + string(e.JSONPointer)
		detail = "not JSON"
		if e.Err != nil {
			detail += ": " + strings.TrimPrefix(e.Err.Error(), "jsontext: ")
		}
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		detail = "this field is given twice"
	}
	r.FailAt(baseline.ImportMalformed, place, "%s", detail)
}

func kindName(k jsontext.Kind) string {
	if k == '{' {
		return "an object"
	}
	return "an array"
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64]
	}
	return s
}
