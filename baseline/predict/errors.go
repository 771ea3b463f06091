package predict

import "fmt"

// The kinds of *Error. They are stable and are the codes that the command line prints.
const (
	CodeMalformedPE        = "malformed_pe"
	CodeMalformedSignature = "malformed_signature"
	CodeMalformedDatabase  = "malformed_signature_database"
	CodeMalformedGRUB      = "malformed_grub_config"
	CodeMalformedManifest  = "malformed_manifest"
	CodeTooLarge           = "input_too_large"
	CodeMissingInput       = "missing_input"
	CodeContradiction      = "contradictory_input"
)

// Error is why a file cannot be used.
type Error struct {
	Code string
	File string
	// Place is where in the file: a section name, an offset, a line, a JSON pointer.
	Place  string
	Detail string
}

// Error implements error.
func (e *Error) Error() string {
	text := e.Detail
	if e.Place != "" {
		text = e.Place + ": " + text
	}
	if e.File != "" {
		text = e.File + ": " + text
	}
	return text
}

func errorf(code, file, place, format string, args ...any) *Error {
	return &Error{Code: code, File: file, Place: place, Detail: fmt.Sprintf(format, args...)}
}
