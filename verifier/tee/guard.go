package tee

import (
	"encoding/hex"
	"fmt"
)

// The bounds of what the libraries are given. A report has 1184 bytes, a TD quote about 5 KB, or 8 KB padded; a
// PCS answer has a few KB.
const (
	maxQuote       = 64 << 10
	maxCertificate = 16 << 10
	maxCRL         = 4 << 20
	maxSignedJSON  = 512 << 10
	maxIssuerChain = 32 << 10
	maxSent        = 32 // certificates, and pieces of collateral: each may cost several signatures to verify
)

// guarded runs a library's decoder of untrusted input. go-sev-guest and go-tdx-guest slice by sizes that the input
// states; a panic of theirs says that the input is malformed, and must not end the service.
func guarded(doing string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: malformed: %v", doing, r)
		}
	}()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// lowerHex is text in lower case if it is hex, else as it is.
func lowerHex(text string) string {
	b, err := hex.DecodeString(text)
	if err != nil {
		return text
	}
	return hex.EncodeToString(b)
}
