package keyring

import (
	"bytes"
	"fmt"
	"log/slog"
)

// redacted is what a Secret shows of itself.
const redacted = "[redacted]"

// Secret holds bytes that must not be read anywhere but where they are used. However it is printed, logged or marshalled,
// alone or inside another value, it shows a fixed word. The zero value holds nothing.
//
// The bytes are behind a function, because fmt follows pointers, also into fields whose methods it may not call.
type Secret struct{ reveal func() []byte }

// NewSecret takes b, which the caller must not keep.
func NewSecret(b []byte) Secret { return Secret{reveal: func() []byte { return b }} }

// Reveal gives the bytes themselves. The caller must neither change nor print them.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// Empty tells whether it holds nothing.
func (s Secret) Empty() bool { return len(s.Reveal()) == 0 }

// Format implements fmt.Formatter for every verb, so that none of them, %#v and %x included, shows more.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return redacted }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, which encoding/json and others follow.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalBinary implements encoding.BinaryMarshaler, which encoding/gob follows.
func (s Secret) MarshalBinary() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText implements encoding.TextUnmarshaler, so that settings are read straight into a Secret.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(bytes.Clone(text))
	return nil
}
