package server

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"
)

// parameters are the path, query and header parameters of an operation, with their rules.
type parameters struct {
	path   map[string]*rule
	query  map[string]*rule
	header map[string]*rule
	repeat map[string]bool // query parameters whose values come one by one, and not with commas between them
}

func compileParameters(where string, op *openapi3.Operation) (parameters, error) {
	p := parameters{path: map[string]*rule{}, query: map[string]*rule{}, header: map[string]*rule{}, repeat: map[string]bool{}}
	for _, ref := range op.Parameters {
		v := ref.Value
		r, err := compileRule(where+" "+v.Name, v.Schema)
		if err != nil {
			return p, err
		}
		switch v.In {
		case "path":
			p.path[v.Name] = r
		case "query":
			p.query[v.Name] = r
			p.repeat[v.Name] = r.kind == kindArray && (v.Explode == nil || *v.Explode)
		case "header":
			p.header[v.Name] = r
		}
	}
	return p, nil
}

// check refuses parameters that do not fit, that are repeated, or that the operation does not have.
func (p *parameters) check(r *http.Request) error {
	for name, rule := range p.path {
		if why := rule.refusesParameter(pathParameter(r, name)); why != "" {
			return refuseParameter(codeInvalidField, name, why)
		}
	}
	for name, rule := range p.header {
		values := r.Header.Values(name)
		if len(values) > 1 {
			return refuseParameter(codeInvalidField, name, "it is given more than once")
		}
		if len(values) == 1 {
			if why := rule.refusesParameter(values[0]); why != "" {
				return refuseParameter(codeInvalidField, name, why)
			}
		}
	}
	if r.URL.RawQuery == "" {
		return nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return refuseParameter(codeInvalidField, "query", "the query string cannot be read")
	}
	for _, name := range sortedKeys(query) {
		rule, known := p.query[name]
		if !known {
			return refuseParameter(codeUnknownField, strings.ToValidUTF8(quoted(name), "?"), "there is no such parameter")
		}
		values := query[name]
		if rule.kind == kindArray {
			if why := rule.refusesList(values, p.repeat[name]); why != "" {
				return refuseParameter(codeInvalidField, name, why)
			}
			continue
		}
		if len(values) > 1 {
			return refuseParameter(codeInvalidField, name, "it is given more than once")
		}
		if why := rule.refusesParameter(values[0]); why != "" {
			return refuseParameter(codeInvalidField, name, why)
		}
	}
	return nil
}

// refusesList says why the values of a parameter do not fit that takes several: repeated, or with commas between them.
func (r *rule) refusesList(values []string, repeat bool) string {
	if !repeat {
		if len(values) > 1 {
			return "it is given more than once; several values have commas between them"
		}
		values = strings.Split(values[0], ",")
	}
	if r.maxCount >= 0 && len(values) > r.maxCount {
		return fmt.Sprintf("it has more than %d values", r.maxCount)
	}
	for _, v := range values {
		if why := r.items.refusesParameter(v); why != "" {
			return why
		}
	}
	return ""
}

// pathParameter is a parameter of the path as it was meant. chi routes by the escaped path where the client has
// escaped what need not be (a "/" within a parameter), and then gives its parameters escaped.
func pathParameter(r *http.Request, name string) string {
	text := chi.URLParam(r, name)
	if r.URL.RawPath == "" {
		return text
	}
	plain, err := url.PathUnescape(text)
	if err != nil { // net/http has parsed the path, so this is not reached
		return text
	}
	return plain
}

// refusesParameter says why the text of a parameter does not fit; empty if it does.
func (r *rule) refusesParameter(text string) string {
	if strings.ToValidUTF8(text, "") != text {
		return "it is not UTF-8"
	}
	switch r.kind {
	case kindString:
		return r.refusesText(text)
	case kindInteger, kindNumber:
		return r.refusesNumber(text)
	case kindBoolean:
		if text != "true" && text != "false" {
			return quoted(text) + " is neither true nor false"
		}
	}
	return ""
}
