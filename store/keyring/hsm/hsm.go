// Package hsm keeps key-encryption keys in a PKCS #11 token: an HSM, a smart card, SoftHSM. A key never leaves its token, which
// encrypts data keys with AES-256-GCM under it (CKM_AES_GCM; PKCS #11 v3.0, Current Mechanisms, section 2.12).
//
// PKCS #11 modules are C libraries, so the package does its work only where it is built with the tag pkcs11, with cgo and a C compiler
// (make build-pkcs11). Without it Open answers ErrNotBuilt. Other libraries behind a program are for keyring.Command.
package hsm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/store/keyring"
)

// ErrNotBuilt is what a build without the tag pkcs11 answers.
var ErrNotBuilt = errors.New("this assayd was built without PKCS #11: build it with make build-pkcs11, or with CGO_ENABLED=1 go build -tags pkcs11 ./cmd/assayd")

// ErrRefused is a token that does not take the PIN. It is not asked again, since tokens lock themselves after some wrong ones.
var ErrRefused = errors.New("the token refuses the PIN")

// ErrKey is a key of a token that cannot be used as a key-encryption key.
var ErrKey = errors.New("the token's key cannot be used")

// Config says which token is used.
type Config struct {
	Module string         // path of the PKCS #11 library
	Token  string         // label of the token
	PIN    keyring.Secret // of its user
}

// maxPIN bounds a PIN, in bytes.
const maxPIN = 256

// ReadPIN reads the PIN of a token's user from a file that only its owner may read: one line, whose end is not part of it.
func ReadPIN(path string) (keyring.Secret, error) {
	text, err := keyring.ReadPrivate(path)
	if err != nil {
		return keyring.Secret{}, err
	}
	pin := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if pin == "" || len(pin) > maxPIN || strings.ContainsAny(pin, "\r\n\x00") { // the PIN is not repeated
		return keyring.Secret{}, fmt.Errorf("%s does not hold one line of 1 to %d bytes, the PIN", path, maxPIN)
	}
	return keyring.NewSecret([]byte(pin)), nil
}
