// Package importtest is what the tests of import formats share. Nothing but tests may import it.
package importtest

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
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

// Refused fails unless err is a refusal of a kind that names an element.
func Refused(t *testing.T, err error, kind, element string) {
	t.Helper()
	var e *baseline.ImportError
	if !errors.As(err, &e) || e.Kind != kind || e.Element != element {
		t.Errorf("%v, not %s at %q", err, kind, element)
	}
}

// Usable fails unless what was imported can be judged by, or was refused with a reason. It tells whether it was imported.
func Usable(t *testing.T, out *baseline.Imported, err error) bool {
	t.Helper()
	var e *baseline.ImportError
	if err != nil {
		if !errors.As(err, &e) || e.Kind == "" {
			t.Fatalf("%v", err)
		}
		return false
	}
	if _, err := verifier.CompileReference(out.Values); err != nil {
		t.Fatal(err)
	}
	return true
}

// TrustKey trusts a public key in PEM, by a name.
func TrustKey(t testing.TB, name string, text []byte) *baseline.ImportTrust {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &baseline.ImportTrust{Keys: []baseline.ImportKey{{Name: name, Key: key}}}
}
