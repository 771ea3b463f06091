package keyring

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/google/uuid"
)

// Purpose is what a secret is for. It is authenticated with the secret, and is no secret itself.
type Purpose struct {
	Tenant uuid.UUID
	Name   string // for example result_signing
	Label  string // tells secrets of one name apart, for example a generation or the id of a row
}

// String names the purpose in errors.
func (p Purpose) String() string {
	if p.Label == "" {
		return p.Name
	}
	return p.Name + " " + p.Label
}

// context is the purpose and the KEK's id as authenticated data: each part with its length, so that no two purposes
// have the same.
func (p Purpose) context(kek string) []byte {
	out := []byte("assay-envelope-v1")
	for _, part := range []string{p.Tenant.String(), p.Name, p.Label, kek} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
		out = append(out, part...)
	}
	return out
}

// Box seals many small secrets with one key of the service, which itself is kept in an envelope: for what there are many
// of, such as the secrets of webhooks, so that a KMS need not be asked for each.
type Box struct {
	key    Secret
	tenant uuid.UUID
	name   string
}

// NewBox makes a box. key has 32 bytes and is used for nothing else.
func NewBox(key Secret, tenant uuid.UUID, name string) (*Box, error) {
	if len(key.Reveal()) != dataKeySize {
		return nil, fmt.Errorf("key of %s: %d bytes, want %d", name, len(key.Reveal()), dataKeySize)
	}
	return &Box{key: key, tenant: tenant, name: name}, nil
}

// Seal encrypts a secret; label is where it is kept, such as the id of its row.
func (b *Box) Seal(secret Secret, label string) ([]byte, error) {
	aead, err := gcm(b.key.Reveal())
	if err != nil {
		return nil, err
	}
	out := make([]byte, 12, 12+len(secret.Reveal())+16)
	if _, err := io.ReadFull(rand.Reader, out); err != nil {
		return nil, err
	}
	return aead.Seal(out, out, secret.Reveal(), b.context(label)), nil
}

// Open decrypts what Seal made for the same label; ErrDamaged for everything else.
func (b *Box) Open(sealed []byte, label string) (Secret, error) {
	aead, err := gcm(b.key.Reveal())
	if err != nil {
		return Secret{}, err
	}
	if len(sealed) < 12 {
		return Secret{}, fmt.Errorf("%s %s: %w", b.name, label, ErrDamaged)
	}
	plain, err := aead.Open(nil, sealed[:12], sealed[12:], b.context(label))
	if err != nil {
		return Secret{}, fmt.Errorf("%s %s: %w", b.name, label, ErrDamaged)
	}
	return NewSecret(plain), nil
}

func (b *Box) context(label string) []byte {
	return Purpose{Tenant: b.tenant, Name: b.name, Label: label}.context("box")
}
