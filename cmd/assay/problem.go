package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/assay-verifier/assay/verifier"
)

// problem is an RFC 9457 problem document: what the service answers where it refuses, and what this
// command prints on standard error for whatever else goes wrong.
type problem struct {
	Type     string         `json:"type,omitempty"`
	Title    string         `json:"title"`
	Status   int            `json:"status,omitempty"`
	Detail   string         `json:"detail,omitempty"`
	Code     string         `json:"code,omitempty"`
	Instance string         `json:"instance,omitempty"` // the request id
	Errors   []problemError `json:"errors,omitempty"`
	// Hint is one thing to try, for people only.
	Hint string `json:"-"`
	exit int
}

type problemError struct {
	Pointer string `json:"pointer"` // RFC 6901
	Detail  string `json:"detail"`
}

// Error implements error.
func (p *problem) Error() string { return strings.TrimSpace(p.text(&printer{})) }

func (p *problem) exitCode() int {
	if p.exit != 0 {
		return p.exit
	}
	return exitFailed
}

// text is the problem for people: one line of what is wrong, then a line for each place and a hint.
func (p *problem) text(out *printer) string {
	var b strings.Builder
	line := clean(p.Title)
	if p.Detail != "" {
		line += ": " + clean(p.Detail)
	}
	if len(p.Errors) == 1 {
		// The detail of a service often is its only error, with the place or the parameter before it.
		at := place(p.Errors[0])
		switch said := clean(p.Detail); {
		case strings.Contains(at, said):
			line = clean(p.Title) + ": " + at
		case !strings.HasSuffix(said, at):
			line = clean(p.Title) + ": " + at + " (" + said + ")"
		}
	}
	fmt.Fprintf(&b, "%s %s\n", out.paint(red, "assay:"), line)
	if len(p.Errors) > 1 {
		for _, e := range p.Errors {
			fmt.Fprintf(&b, "  %s\n", place(e))
		}
	}
	var notes []string
	if p.Code != "" && p.Status != 0 {
		notes = append(notes, fmt.Sprintf("%d %s", p.Status, clean(p.Code)))
	}
	if p.Instance != "" {
		notes = append(notes, "request "+clean(p.Instance))
	}
	if len(notes) > 0 {
		fmt.Fprintf(&b, "  %s\n", out.paint(dim, strings.Join(notes, ", ")))
	}
	if p.Hint != "" {
		fmt.Fprintf(&b, "  try: %s\n", p.Hint)
	}
	return b.String()
}

func place(e problemError) string {
	if e.Pointer == "" {
		return clean(e.Detail)
	}
	return clean(e.Pointer) + ": " + clean(e.Detail)
}

// problemOf makes any error a problem document.
func problemOf(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	return &problem{Title: "This did not work", Code: "failed", Detail: err.Error()}
}

// badUsage is a command line that cannot be used.
func badUsage(detail string) *problem {
	return &problem{Title: "The command line cannot be used", Code: "usage", Detail: detail, exit: exitBadCall}
}

// unreadable is a file that cannot be used as input: exit code 2. Where the error knows its place, the
// document points at it.
func unreadable(file, what string, err error) *problem {
	p := &problem{Title: fmt.Sprintf("%s cannot be read as %s", file, what), Code: "unreadable_input", Detail: err.Error(), exit: exitBadCall}
	var path *fs.PathError
	if errors.As(err, &path) {
		p.Title, p.Detail = "The file cannot be opened", err.Error()
	}
	var decode *verifier.DecodeError
	var field *verifier.FieldError
	switch {
	case errors.As(err, &decode):
		p.Code, p.Detail = decode.Code, decode.Detail
		p.Errors = []problemError{{Pointer: decode.Pointer, Detail: decode.Detail}}
	case errors.As(err, &field):
		p.Code, p.Detail = verifier.CodeInvalidField, field.Detail
		p.Errors = []problemError{{Pointer: field.Pointer, Detail: field.Detail}}
	}
	return p
}
