//go:build pkcs11

package hsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/miekg/pkcs11"

	"github.com/assay-verifier/assay/store/keyring"
)

// Sizes in bytes. What is wrapped is a nonce, the encrypted data key and its tag.
const (
	keySize   = 32
	nonceSize = 12
	tagSize   = 16
)

// key is a key-encryption key in a token. Its label is its id.
type key struct {
	token *token
	label string
}

// Open signs in to the token and gives the key of each label, in that order. A key that could leave its token, or that is no AES-256
// key for encryption, is refused with ErrKey, a PIN with ErrRefused.
func Open(cfg Config, labels []string) ([]keyring.Wrapper, error) {
	t, err := newToken(cfg)
	if err != nil {
		return nil, err
	}
	var out []keyring.Wrapper
	for _, label := range labels {
		if _, err := t.do(context.Background(), func() ([]byte, error) { return nil, t.check(label) }); err != nil {
			return nil, err
		}
		out = append(out, &key{t, label})
	}
	if len(out) == 0 {
		return nil, errors.New("the label of a key is needed")
	}
	return out, nil
}

// wanted are the attributes that a key-encryption key has to have (PKCS #11 v3.0, Base Specification, sections 4.7 and 4.10).
func wanted() []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, keySize),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
	}
}

// attributeNames says what an attribute means, in the order of wanted.
var attributeNames = []string{"an AES key", "of 256 bits", "kept in the token", "sensitive", "not extractable", "for encryption", "for decryption"}

// check refuses a key that is not what wanted says.
func (t *token) check(label string) error {
	handle, err := t.object(label)
	if err != nil {
		return err
	}
	for i, want := range wanted() {
		got, err := t.module.GetAttributeValue(t.session, handle, []*pkcs11.Attribute{pkcs11.NewAttribute(want.Type, nil)})
		if err != nil {
			return fmt.Errorf("read what the key %q is: %w", label, err)
		}
		if len(got) != 1 || !bytes.Equal(got[0].Value, want.Value) {
			return fmt.Errorf("%w: the key %q is not %s", ErrKey, label, attributeNames[i])
		}
	}
	return nil
}

// Generate makes a key with a label that no secret key of the token has yet. It never leaves the token.
func Generate(cfg Config, label string) error {
	if !keyring.ValidID(label) {
		return fmt.Errorf("%.80q is no label: 1 to 64 letters, digits, dots, dashes and underscores", label)
	}
	t, err := newToken(cfg)
	if err != nil {
		return err
	}
	_, err = t.do(context.Background(), func() ([]byte, error) {
		if _, err := t.object(label); err == nil {
			return nil, fmt.Errorf("%w: the token %q has a key %q already", ErrKey, cfg.Token, label)
		} else if !errors.Is(err, ErrKey) {
			return nil, err
		}
		template := append(wanted(), pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
		if _, err := t.module.GenerateKey(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, template); err != nil {
			return nil, fmt.Errorf("make the key %q: %w", label, err)
		}
		return nil, t.check(label)
	})
	return err
}

// ID implements keyring.Wrapper.
func (k *key) ID() string { return k.label }

// Wrap implements keyring.Wrapper. Some tokens choose the nonce themselves, so it is read back.
func (k *key) Wrap(ctx context.Context, data, aad []byte) ([]byte, error) {
	nonce := make([]byte, nonceSize)
	if _, err := io.ReadFull(rand.Reader, nonce); err != nil {
		return nil, err
	}
	return k.token.do(ctx, func() ([]byte, error) {
		handle, err := k.token.object(k.label)
		if err != nil {
			return nil, err
		}
		p := pkcs11.NewGCMParams(nonce, aad, 8*tagSize)
		defer p.Free()
		if err := k.token.module.EncryptInit(k.token.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}, handle); err != nil {
			return nil, fmt.Errorf("the token %q does not encrypt with AES-GCM: %w", k.token.cfg.Token, err)
		}
		sealed, err := k.token.module.Encrypt(k.token.session, data)
		if err != nil {
			return nil, fmt.Errorf("encrypt: %w", err)
		}
		used := p.IV()
		if len(used) != nonceSize || len(sealed) != len(data)+tagSize {
			return nil, fmt.Errorf("the token %q answered a nonce of %d and a text of %d bytes", k.token.cfg.Token, len(used), len(sealed))
		}
		return append(bytes.Clone(used), sealed...), nil
	})
}

// Unwrap implements keyring.Wrapper. What was changed, or wrapped for something else, is keyring.ErrDamaged.
func (k *key) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if len(wrapped) != nonceSize+keySize+tagSize {
		return nil, keyring.ErrDamaged
	}
	return k.token.do(ctx, func() ([]byte, error) {
		handle, err := k.token.object(k.label)
		if err != nil {
			return nil, err
		}
		p := pkcs11.NewGCMParams(wrapped[:nonceSize], aad, 8*tagSize)
		defer p.Free()
		if err := k.token.module.DecryptInit(k.token.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}, handle); err != nil {
			return nil, fmt.Errorf("the token %q does not decrypt with AES-GCM: %w", k.token.cfg.Token, err)
		}
		data, err := k.token.module.Decrypt(k.token.session, wrapped[nonceSize:])
		switch {
		case err == nil:
			return data, nil
		case lost(err):
			return nil, fmt.Errorf("decrypt: %w", err)
		case is(err, pkcs11.CKR_ENCRYPTED_DATA_INVALID), is(err, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE), is(err, pkcs11.CKR_GENERAL_ERROR): // SoftHSM says the last
			return nil, fmt.Errorf("%w (%w)", keyring.ErrDamaged, err)
		}
		return nil, fmt.Errorf("decrypt: %w", err)
	})
}
