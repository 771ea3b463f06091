// Package keyring keeps the service's keys unreadable where they are stored: envelope encryption under a key
// that is not in the database.
//
// Each secret is encrypted with AES-256-GCM under a data key of its own, which a key-encryption key (KEK) wraps. What a
// secret is for (tenant, purpose, generation) is authenticated with it, so that rows cannot be swapped. A KEK is in a file
// (ReadKeyFile), in a PKCS #11 token (package hsm), or behind a command (Command), which is how a KMS is reached; each is a Wrapper.
// A Ring holds the KEK that seals and others that can still be opened, so that one KEK replaces another without a pause.
//
// It fails closed: an envelope whose KEK is not in the ring, or that was changed, gives an error that names the KEK and the
// purpose, and no bytes.
package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
)

// Wrapper is a key-encryption key. Both methods authenticate context, which is no secret.
type Wrapper interface {
	// ID names the key in envelopes: 1 to 64 letters, digits, dots, dashes and underscores.
	ID() string
	Wrap(ctx context.Context, key, context []byte) (wrapped []byte, err error)
	Unwrap(ctx context.Context, wrapped, context []byte) (key []byte, err error)
}

// ErrNoKEK is an envelope that no key of the ring opens.
var ErrNoKEK = errors.New("the key-encryption key is not there")

// ErrDamaged is an envelope that its key does not open: it was changed, moved, or sealed by another key of that name.
var ErrDamaged = errors.New("the envelope does not open")

// idForm is what an id of a key-encryption key may be.
var idForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// ValidID tells whether a text may be the id of a key-encryption key.
func ValidID(id string) bool { return idForm.MatchString(id) }

// Ring is the key-encryption keys of a service. The zero value, and nil, seal and open nothing. It is immutable.
type Ring struct {
	current Wrapper
	byID    map[string]Wrapper
	random  io.Reader
}

// NewRing makes a ring: current seals, and all of them open.
func NewRing(current Wrapper, older ...Wrapper) (*Ring, error) {
	r := &Ring{current: current, byID: map[string]Wrapper{}, random: rand.Reader}
	for _, w := range append([]Wrapper{current}, older...) {
		if !idForm.MatchString(w.ID()) {
			return nil, fmt.Errorf("%.80q is no id of a key-encryption key: 1 to 64 letters, digits, dots, dashes and underscores", w.ID())
		}
		if r.byID[w.ID()] != nil {
			return nil, fmt.Errorf("two key-encryption keys have the id %s", w.ID())
		}
		r.byID[w.ID()] = w
	}
	return r, nil
}

// CurrentID names the key that seals; empty where there is none.
func (r *Ring) CurrentID() string {
	if r == nil || r.current == nil {
		return ""
	}
	return r.current.ID()
}

// An envelope, all of it authenticated:
//
//	0       version
//	1       length of the KEK's id, then the id
//	+2      length of the wrapped data key, big endian, then the wrapped key
//	+12     nonce
//	rest    AES-256-GCM of the secret under the data key
const (
	envelopeVersion = 1
	dataKeySize     = 32
	maxWrapped      = 8 << 10
)

// Seal encrypts a secret for its purpose.
func (r *Ring) Seal(ctx context.Context, secret Secret, purpose Purpose) ([]byte, error) {
	if r.CurrentID() == "" {
		return nil, fmt.Errorf("seal %s: %w", purpose, ErrNoKEK)
	}
	var material [dataKeySize + 12]byte
	if _, err := io.ReadFull(r.random, material[:]); err != nil {
		return nil, fmt.Errorf("seal %s: %w", purpose, err)
	}
	key, nonce := material[:dataKeySize], material[dataKeySize:]
	id := r.current.ID()
	wrapped, err := r.current.Wrap(ctx, key, purpose.context(id))
	if err != nil {
		return nil, fmt.Errorf("seal %s with key-encryption key %s: %w", purpose, id, err)
	}
	if len(wrapped) == 0 || len(wrapped) > maxWrapped {
		return nil, fmt.Errorf("seal %s with key-encryption key %s: it wrapped a key of %d bytes as %d bytes", purpose, id, dataKeySize, len(wrapped))
	}
	aead, err := gcm(key)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", purpose, err)
	}
	out := append([]byte{envelopeVersion, byte(len(id))}, id...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(wrapped)))
	out = append(append(out, wrapped...), nonce...)
	return aead.Seal(out, nonce, secret.Reveal(), purpose.context(id)), nil
}

// Open decrypts an envelope. The error is ErrNoKEK or ErrDamaged, or what the wrapper said.
func (r *Ring) Open(ctx context.Context, envelope []byte, purpose Purpose) (Secret, error) {
	e, err := parse(envelope)
	if err != nil {
		return Secret{}, fmt.Errorf("open %s: %w", purpose, err)
	}
	var w Wrapper
	if r != nil {
		w = r.byID[e.id]
	}
	if w == nil {
		return Secret{}, fmt.Errorf("open %s, which was sealed with the key-encryption key %q: %w", purpose, e.id, ErrNoKEK)
	}
	key, err := w.Unwrap(ctx, e.wrapped, purpose.context(e.id))
	if err != nil {
		return Secret{}, fmt.Errorf("open %s with the key-encryption key %s: %w", purpose, e.id, err)
	}
	if len(key) != dataKeySize {
		return Secret{}, fmt.Errorf("open %s with the key-encryption key %s: %w", purpose, e.id, ErrDamaged)
	}
	aead, err := gcm(key)
	if err != nil {
		return Secret{}, fmt.Errorf("open %s: %w", purpose, err)
	}
	plain, err := aead.Open(nil, e.nonce, e.sealed, purpose.context(e.id))
	if err != nil {
		return Secret{}, fmt.Errorf("open %s with the key-encryption key %s: %w", purpose, e.id, ErrDamaged)
	}
	return NewSecret(plain), nil
}

type envelope struct {
	id                     string
	wrapped, nonce, sealed []byte
}

// parse takes an envelope apart. Nothing in it is believed before Open has authenticated it.
func parse(b []byte) (envelope, error) {
	var e envelope
	if len(b) < 2 || b[0] != envelopeVersion {
		return e, fmt.Errorf("it is no envelope of this version: %w", ErrDamaged)
	}
	n := int(b[1])
	b = b[2:]
	if len(b) < n+2 || !idForm.Match(b[:n]) {
		return e, fmt.Errorf("its first part is cut or broken: %w", ErrDamaged)
	}
	e.id = string(b[:n])
	m := int(binary.BigEndian.Uint16(b[n:]))
	b = b[n+2:]
	if m == 0 || m > maxWrapped || len(b) < m+12+16 {
		return e, fmt.Errorf("its second part is cut or broken: %w", ErrDamaged)
	}
	e.wrapped, e.nonce, e.sealed = b[:m], b[m:m+12], b[m+12:]
	return e, nil
}

// KEKOf names the key-encryption key of an envelope, as it says itself.
func KEKOf(sealed []byte) (string, error) {
	e, err := parse(sealed)
	return e.id, err
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
