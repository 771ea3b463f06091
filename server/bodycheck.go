package server

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
)

// maxFieldProblems is how many faults of one body are reported.
const maxFieldProblems = 20

// maxFreeDepth bounds the nesting below a place where the contract leaves the shape open.
const maxFreeDepth = 16

// checkBody reads a JSON body against its rule and reports what does not fit, each with its RFC 6901
// pointer: syntax, invalid UTF-8, repeated fields, data after the value and NUL are refused everywhere;
// types, bounds and unknown fields by the rule. The descent follows the rule and not the body, so the
// body cannot choose a depth.
func checkBody(body []byte, r *rule) error {
	w := walker{dec: jsontext.NewDecoder(bytes.NewReader(body))}
	err := w.value(r)
	if err == nil {
		_, err = w.dec.ReadToken()
		if errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = refuseField(codeMalformedJSON, "", "more data follows the JSON value")
		}
	}
	var stop *stopWalk
	if errors.As(err, &stop) {
		err = nil
	}
	if err != nil {
		return w.syntax(err)
	}
	if len(w.problems) == 0 {
		return nil
	}
	e := &requestError{code: codeInvalidField, errors: w.problems}
	if w.allUnknown {
		e.code = codeUnknownField
	}
	e.detail = e.summary()
	return e
}

type walker struct {
	dec        *jsontext.Decoder
	problems   []fieldProblem
	allUnknown bool // every problem so far is an unknown field
}

// stopWalk ends the walk: enough problems are known.
type stopWalk struct{}

func (*stopWalk) Error() string { return "enough problems" }

// add notes a problem at the decoder's place (or at pointer, if given).
func (w *walker) add(unknown bool, pointer, format string, args ...any) error {
	w.allUnknown = unknown && (w.allUnknown || len(w.problems) == 0)
	w.problems = append(w.problems, fieldProblem{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
	if len(w.problems) >= maxFieldProblems {
		return &stopWalk{}
	}
	return nil
}

func (w *walker) here() string { return string(w.dec.StackPointer()) }

// syntax turns the decoder's refusal into a request error with its place.
func (w *walker) syntax(err error) error {
	var own *requestError
	if errors.As(err, &own) {
		return own
	}
	var s *jsontext.SyntacticError
	if !errors.As(err, &s) {
		return refuseField(codeMalformedJSON, "", "the JSON ends too early")
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return refuseField(codeMalformedJSON, string(s.JSONPointer), "this field is given twice")
	}
	cause := "it ends too early"
	if s.Err != nil && !errors.Is(s.Err, io.ErrUnexpectedEOF) {
		cause = strings.TrimPrefix(s.Err.Error(), "jsontext: ")
	}
	return refuseField(codeMalformedJSON, string(s.JSONPointer), fmt.Sprintf("not JSON at byte %d: %s", s.ByteOffset, cause))
}

func (w *walker) value(r *rule) error {
	kind := w.dec.PeekKind()
	if kind == 'n' && r.nullable {
		_, err := w.dec.ReadToken()
		return err
	}
	switch {
	case kind == 0: // a syntax error or the end: let ReadToken say which
		_, err := w.dec.ReadToken()
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	case r.kind == kindAny && kind != 'n':
		return w.free()
	case !fits(r.kind, kind):
		if err := w.dec.SkipValue(); err != nil {
			return err
		}
		return w.add(false, w.here(), "a JSON %s does not fit here; it is %s", jsonKindName(kind), r.kindName())
	}
	switch r.kind {
	case kindObject:
		return w.object(r)
	case kindArray:
		return w.array(r)
	case kindString:
		return w.text(r)
	case kindInteger, kindNumber:
		return w.number(r)
	default:
		_, err := w.dec.ReadToken()
		return err
	}
}

func (w *walker) object(r *rule) error {
	if _, err := w.dec.ReadToken(); err != nil {
		return err
	}
	place := w.here()
	var seen []string // only what is required; the decoder itself refuses repeated names
	count := 0
	for w.dec.PeekKind() != '}' {
		token, err := w.dec.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		count++
		if r.maxCount >= 0 && count > r.maxCount {
			// The rest is not read: its size is the client's choice.
			_ = w.add(false, place, "at most %d entries are accepted", r.maxCount)
			return &stopWalk{}
		}
		sub, named := r.properties[name]
		if named {
			seen = append(seen, name)
		} else {
			sub = r.rest
		}
		switch {
		case sub == nil:
			if err := w.dec.SkipValue(); err != nil {
				return err
			}
			err = w.add(true, w.here(), "there is no such field")
		case !named && !goodKey(name, r):
			if err := w.dec.SkipValue(); err != nil {
				return err
			}
			err = w.add(false, w.here(), "this is no acceptable key here")
		default:
			err = w.value(sub)
		}
		if err != nil {
			return err
		}
	}
	if _, err := w.dec.ReadToken(); err != nil {
		return err
	}
	for _, name := range r.required {
		if !contains(seen, name) {
			if err := w.add(false, place+"/"+escapePointer(name), "it is needed"); err != nil {
				return err
			}
		}
	}
	if count < r.minCount {
		return w.add(false, place, "at least %d entries are needed", r.minCount)
	}
	return nil
}

func (w *walker) array(r *rule) error {
	if _, err := w.dec.ReadToken(); err != nil {
		return err
	}
	place := w.here()
	count := 0
	for w.dec.PeekKind() != ']' {
		count++
		if r.maxCount >= 0 && count > r.maxCount {
			_ = w.add(false, place, "at most %d entries are accepted", r.maxCount)
			return &stopWalk{}
		}
		if err := w.value(r.items); err != nil {
			return err
		}
	}
	if _, err := w.dec.ReadToken(); err != nil {
		return err
	}
	if count < r.minCount {
		return w.add(false, place, "at least %d entries are needed", r.minCount)
	}
	return nil
}

func (w *walker) text(r *rule) error {
	token, err := w.dec.ReadToken()
	if err != nil {
		return err
	}
	if why := r.refusesText(token.String()); why != "" {
		return w.add(false, w.here(), "%s", why)
	}
	return nil
}

func (w *walker) number(r *rule) error {
	token, err := w.dec.ReadToken()
	if err != nil {
		return err
	}
	if why := r.refusesNumber(token.String()); why != "" {
		return w.add(false, w.here(), "%s", why)
	}
	return nil
}

// free passes over a value whose shape the contract leaves open, with bounded depth and without NUL.
func (w *walker) free() error {
	start := w.dec.StackDepth()
	for {
		token, err := w.dec.ReadToken()
		if err != nil {
			return err
		}
		depth := w.dec.StackDepth()
		if depth-start > maxFreeDepth {
			return refuseField(codeMalformedJSON, w.here(), "it is nested too deep")
		}
		if token.Kind() == '"' && strings.ContainsRune(token.String(), 0) {
			return w.add(false, w.here(), "NUL is not accepted")
		}
		if depth == start {
			return nil
		}
	}
}

// refusesText says in plain words why a text does not fit; empty if it does.
func (r *rule) refusesText(s string) string {
	n := utf8.RuneCountInString(s)
	switch {
	case strings.ContainsRune(s, 0):
		return "NUL is not accepted"
	case r.enum != nil && !r.enum[s]:
		return quoted(s) + " is none of " + strings.Join(sortedKeys(r.enum), ", ")
	case n < r.minLen && r.minLen == 1:
		return "it must not be empty"
	case n < r.minLen:
		return fmt.Sprintf("%d characters; at least %d are needed", n, r.minLen)
	case r.maxLen >= 0 && n > r.maxLen:
		return fmt.Sprintf("%d characters; at most %d are accepted", n, r.maxLen)
	case r.pattern != nil && !r.pattern.MatchString(s):
		if strings.ContainsFunc(s, isControl) {
			return "control characters are not accepted"
		}
		return quoted(s) + " does not match " + r.pattern.String()
	}
	switch r.format {
	case "uuid":
		if len(s) != 36 || uuid.Validate(s) != nil {
			return quoted(s) + " is no UUID"
		}
	case "date-time":
		if _, err := time.Parse(time.RFC3339, s); err != nil {
			return quoted(s) + " is no RFC 3339 time"
		}
	case "byte":
		if !isBase64(s) {
			return "not standard base64 with padding"
		}
	}
	return ""
}

// refusesNumber is refusesText for a JSON number.
func (r *rule) refusesNumber(s string) string {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return quoted(s) + " is out of range"
	}
	if r.kind == kindInteger {
		if _, err := strconv.ParseInt(s, 10, 64); err != nil {
			return quoted(s) + " is no integer"
		}
	}
	if (r.hasMin && f < r.min) || (r.hasMax && f > r.max) {
		switch {
		case !r.hasMax:
			return fmt.Sprintf("%s is below %v", s, number(r.min))
		case !r.hasMin:
			return fmt.Sprintf("%s is above %v", s, number(r.max))
		}
		return fmt.Sprintf("%s is outside %s to %s", s, number(r.min), number(r.max))
	}
	return ""
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// isBase64 checks standard base64 with padding without decoding into memory of its own.
func isBase64(s string) bool {
	if len(s)%4 != 0 {
		return false
	}
	body := strings.TrimRight(s, "=")
	if len(s)-len(body) > 2 {
		return false
	}
	for i := 0; i < len(body); i++ {
		c := body[i]
		if !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/') {
			return false
		}
	}
	if len(s) == 0 {
		return true
	}
	// The last quantum decides about padding and about bits that must be zero.
	var last [3]byte
	_, err := base64.StdEncoding.Strict().Decode(last[:], []byte(s[len(s)-4:]))
	return err == nil
}

func goodKey(name string, r *rule) bool {
	return !strings.ContainsRune(name, 0) && (r.keyPattern == nil || r.keyPattern.MatchString(name))
}

func fits(want ruleKind, got jsontext.Kind) bool {
	switch want {
	case kindString:
		return got == '"'
	case kindInteger, kindNumber:
		return got == '0'
	case kindBoolean:
		return got == 't' || got == 'f'
	case kindArray:
		return got == '['
	case kindObject:
		return got == '{'
	case kindAny:
		return got != 'n' // a schema that says nothing does not say nullable either
	}
	return false
}

func (r *rule) kindName() string {
	return [...]string{"anything but null", "a string", "an integer", "a number", "a boolean", "an array", "an object"}[r.kind]
}

func jsonKindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "boolean"
	case '"':
		return "string"
	case '0':
		return "number"
	case '{':
		return "object"
	case '[':
		return "array"
	}
	return "value"
}
