package server

import (
	"fmt"
	"regexp"
	"sort"

	"github.com/getkin/kin-openapi/openapi3"
)

// rule is a schema of the contract, compiled for checking request bodies as they are read: no tree of
// values is built, so a body of n bytes costs no multiple of n (kin-openapi's own validator needs the
// decoded tree, which for an array of small numbers is more than ten times the body). A test compares
// the two on the same inputs.
type rule struct {
	kind     ruleKind
	nullable bool

	// strings
	minLen, maxLen int // in characters; maxLen < 0 is no bound
	pattern        *regexp.Regexp
	enum           map[string]bool
	format         string

	// numbers
	min, max       float64
	hasMin, hasMax bool

	// arrays (items) and objects (properties, required, rest)
	items              *rule
	minCount, maxCount int // of items or properties; maxCount < 0 is no bound
	properties         map[string]*rule
	required           []string
	rest               *rule // of properties that are not named; nil refuses them
	keyPattern         *regexp.Regexp
}

type ruleKind uint8

const (
	kindAny ruleKind = iota
	kindString
	kindInteger
	kindNumber
	kindBoolean
	kindArray
	kindObject
)

// compileRule makes the rule of a request schema. It refuses keywords that it does not know how to
// check, so that the contract cannot promise what is not enforced.
func compileRule(where string, ref *openapi3.SchemaRef) (*rule, error) {
	s := ref.Value
	if len(s.AllOf)+len(s.AnyOf)+len(s.OneOf) > 0 || s.Not != nil || s.UniqueItems || s.MultipleOf != nil || s.Discriminator != nil {
		return nil, fmt.Errorf("%s: uses a schema keyword that request checking does not know", where)
	}
	r := &rule{nullable: s.Nullable, maxLen: -1, maxCount: -1, format: s.Format}
	var err error
	switch {
	case s.Type == nil || len(*s.Type) == 0:
		r.kind = kindAny
	case s.Type.Is("string"):
		r.kind = kindString
		err = r.compileString(s)
	case s.Type.Is("integer"), s.Type.Is("number"):
		r.kind = kindInteger
		if s.Type.Is("number") {
			r.kind = kindNumber
		}
		if s.Min != nil {
			r.min, r.hasMin = *s.Min, true
		}
		if s.Max != nil {
			r.max, r.hasMax = *s.Max, true
		}
	case s.Type.Is("boolean"):
		r.kind = kindBoolean
	case s.Type.Is("array"):
		r.kind = kindArray
		r.minCount = int(s.MinItems) //nolint:gosec // small constants of the contract
		if s.MaxItems != nil {
			r.maxCount = int(*s.MaxItems) //nolint:gosec // as above
		}
		r.items, err = compileRule(where+"/items", s.Items)
	case s.Type.Is("object"):
		r.kind = kindObject
		err = r.compileObject(where, s)
	default:
		err = fmt.Errorf("unknown type %v", *s.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return r, nil
}

func (r *rule) compileString(s *openapi3.Schema) error {
	r.minLen = int(s.MinLength) //nolint:gosec // small constants of the contract
	if s.MaxLength != nil {
		r.maxLen = int(*s.MaxLength) //nolint:gosec // as above
	}
	for _, v := range s.Enum {
		text, ok := v.(string)
		if !ok {
			return fmt.Errorf("enum value %v is no string", v)
		}
		if r.enum == nil {
			r.enum = map[string]bool{}
		}
		r.enum[text] = true
	}
	switch s.Format {
	case "", "uuid", "date-time", "byte":
	default:
		return fmt.Errorf("unknown string format %q", s.Format)
	}
	var err error
	r.pattern, err = compilePattern(s.Pattern)
	return err
}

func (r *rule) compileObject(where string, s *openapi3.Schema) error {
	r.minCount = int(s.MinProps) //nolint:gosec // small constants of the contract
	if s.MaxProps != nil {
		r.maxCount = int(*s.MaxProps) //nolint:gosec // as above
	}
	r.properties = make(map[string]*rule, len(s.Properties))
	for name, p := range s.Properties {
		sub, err := compileRule(where+"/"+name, p)
		if err != nil {
			return err
		}
		r.properties[name] = sub
	}
	r.required = append(r.required, s.Required...)
	sort.Strings(r.required)
	if extra := s.AdditionalProperties.Schema; extra != nil {
		sub, err := compileRule(where+"/*", extra)
		if err != nil {
			return err
		}
		r.rest = sub
	}
	if r.rest == nil && (s.AdditionalProperties.Has == nil || *s.AdditionalProperties.Has) {
		return fmt.Errorf("a request object must name its additionalProperties")
	}
	if p, ok := s.Extensions["x-key-pattern"].(string); ok {
		var err error
		if r.keyPattern, err = compilePattern(p); err != nil {
			return err
		}
	}
	return nil
}

func compilePattern(p string) (*regexp.Regexp, error) {
	if p == "" {
		return nil, nil //nolint:nilnil // no pattern is a valid absence
	}
	return regexp.Compile(p)
}
