package baseline

import (
	"errors"

	"github.com/assay-verifier/assay/verifier"
)

// CheckValues makes sure that an appraisal can use imported reference values. place turns a pointer into them to the
// element of the document that they were read from. The error is an *ImportError.
func CheckValues(values verifier.ReferenceValues, place func(pointer string) string) error {
	_, err := verifier.CompileReference(values)
	var field *verifier.FieldError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &field):
		return ImportErrorf(ImportMalformed, "", "%s", err)
	case field.Pointer == "":
		return ImportErrorf(ImportNothingFound, place(""), "%s", field.Detail)
	}
	return ImportErrorf(ImportMalformed, place(field.Pointer), "%s", field.Detail)
}
