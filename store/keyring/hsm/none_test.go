//go:build !pkcs11

package hsm

import (
	"errors"
	"strings"
	"testing"
)

// Without the tag nothing is wrapped by anything else: the answer says how to build what is missing.
func TestNotBuilt(t *testing.T) {
	_, err := Open(Config{}, []string{"kek"})
	if !errors.Is(err, ErrNotBuilt) || !strings.Contains(err.Error(), "make build-pkcs11") || !errors.Is(Generate(Config{}, "kek"), ErrNotBuilt) {
		t.Error(err)
	}
}
