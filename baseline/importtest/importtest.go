// Package importtest holds what the tests of all imported formats ask. Nothing but tests may import it.
package importtest

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
)

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
