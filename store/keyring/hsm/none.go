//go:build !pkcs11

package hsm

import "github.com/assay-verifier/assay/store/keyring"

// Open answers ErrNotBuilt: this build has no PKCS #11.
func Open(Config, []string) ([]keyring.Wrapper, error) { return nil, ErrNotBuilt }

// Generate answers ErrNotBuilt: this build has no PKCS #11.
func Generate(Config, string) error { return ErrNotBuilt }
