// Package importtest is what the tests of import formats share. Nothing but tests may import it.
package importtest

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/baseline"
)

// Read is the content of a file.
func Read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// WantError checks that err is a *baseline.ImportError of the kind, and that its text has a part.
func WantError(t testing.TB, err error, kind, contains string) {
	t.Helper()
	var at *baseline.ImportError
	if !errors.As(err, &at) {
		t.Fatalf("got %v, want an ImportError %s", err, kind)
	}
	if at.Kind != kind || !strings.Contains(at.Error(), contains) {
		t.Fatalf("got %s: %s\nwant %s: …%s…", at.Kind, at, kind, contains)
	}
}
