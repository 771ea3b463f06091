package keyring

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// fileKey is a key-encryption key in memory: AES-256-GCM with a random nonce.
type fileKey struct {
	id  string
	key Secret
}

// ID implements Wrapper.
func (k *fileKey) ID() string { return k.id }

// Wrap implements Wrapper.
func (k *fileKey) Wrap(_ context.Context, key, context []byte) ([]byte, error) {
	aead, err := gcm(k.key.Reveal())
	if err != nil {
		return nil, err
	}
	out := make([]byte, 12, 12+len(key)+16)
	if _, err := io.ReadFull(rand.Reader, out); err != nil {
		return nil, err
	}
	return aead.Seal(out, out, key, context), nil
}

// Unwrap implements Wrapper.
func (k *fileKey) Unwrap(_ context.Context, wrapped, context []byte) ([]byte, error) {
	aead, err := gcm(k.key.Reveal())
	if err != nil {
		return nil, err
	}
	if len(wrapped) < 12 {
		return nil, ErrDamaged
	}
	key, err := aead.Open(nil, wrapped[:12], wrapped[12:], context)
	if err != nil {
		return nil, ErrDamaged
	}
	return key, nil
}

// maxKeyFile bounds a key file.
const maxKeyFile = 64 << 10

// ReadKeyFile reads key-encryption keys from a file that only its owner may read. Each line is an id and 32 bytes in
// base64 with a space between; empty lines and those that begin with # are passed over. The first key seals, all open:
// a new key goes on top, and an old one may leave once nothing is sealed with it.
func ReadKeyFile(path string) ([]Wrapper, error) {
	text, err := ReadPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	var keys []Wrapper
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, encoded, _ := strings.Cut(line, " ")
		key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(encoded))
		if !idForm.MatchString(id) || err != nil || len(key) != dataKeySize { // the line itself may be the key: it is not repeated
			return nil, fmt.Errorf("key file: %s: line %d is no id followed by 32 bytes in base64", path, i+1)
		}
		if bytes.Equal(key, make([]byte, dataKeySize)) {
			return nil, fmt.Errorf("key file: %s: line %d: the key is all zero", path, i+1)
		}
		keys = append(keys, &fileKey{id: id, key: NewSecret(key)})
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("key file: %s holds no key; assayd keys generate makes one", path)
	}
	return keys, nil
}

// ReadPrivate reads a regular file of at most 64 KiB that no group and no other user may touch.
func ReadPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := checkPrivate(f); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxKeyFile))
}

// CheckPrivate refuses what ReadPrivate would, and reads nothing.
func CheckPrivate(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return checkPrivate(f)
}

// CheckNotPublic refuses a file that all users of the machine may read, or that others than its owner may write. A group may read it: so
// are TLS keys given out that several services use.
func CheckNotPublic(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o027 != 0 {
		return fmt.Errorf("%s can be read by all users, or written by others (mode %04o): chmod 640 %s", path, info.Mode().Perm(), path)
	}
	return nil
}

func checkPrivate(f *os.File) error {
	info, err := f.Stat() // of what was opened, so that it cannot be another file by now
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", f.Name())
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s can be read or written by other users (mode %04o): chmod 600 %s", f.Name(), info.Mode().Perm(), f.Name())
	case info.Size() > maxKeyFile:
		return fmt.Errorf("%s has more than %d bytes", f.Name(), maxKeyFile)
	}
	return nil
}

// NewKeyLine is a line for a key file: a fresh key with an id of its own.
func NewKeyLine(random io.Reader) (string, error) {
	var b [4 + dataKeySize]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("make a key-encryption key: %w", err)
	}
	return "kek-" + hex.EncodeToString(b[:4]) + " " + base64.StdEncoding.EncodeToString(b[4:]) + "\n", nil
}

// CreateKeyFile makes a key file with one fresh key, mode 0600. Where there is one already it does nothing and answers
// false: of two processes that do so at once, one makes it.
func CreateKeyFile(path string) (made bool, err error) {
	line, err := NewKeyLine(rand.Reader)
	if err != nil {
		return false, err
	}
	// Written whole under another name first: a crash leaves no half of a key behind, and link does not replace.
	temp := path + ".new-" + line[4:12]
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false, fmt.Errorf("make the key file: %w", err)
	}
	defer func() { _ = os.Remove(temp) }()
	_, err = f.WriteString("# Key-encryption keys of Assay: the first seals, all open. Keep a copy apart from the database's.\n" + line)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return false, fmt.Errorf("make the key file: %w", err)
	}
	switch err := os.Link(temp, path); {
	case errors.Is(err, os.ErrExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("make the key file: %w", err)
	}
	return true, nil
}
