package notify

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Secrets are what a channel proves itself with. They are sealed before they reach the store, and shown once.
type Secrets struct {
	Signing  []byte `json:"signing,omitempty"`  // of a webhook
	Previous []byte `json:"previous,omitempty"` // before the last rotation; signs as well until Channel.PreviousSecretUntil
	Password string `json:"password,omitempty"` // of a mail server
}

// Format implements fmt.Formatter: no verb shows any of them.
func (Secrets) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// LogValue implements slog.LogValuer.
func (Secrets) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// secretBytes is the length of a signing secret (Standard Webhooks 1.0.0, "Signature scheme": 24 to 64 bytes).
const secretBytes = 32

// secretPrefix marks a signing secret in configurations and leaks (Standard Webhooks 1.0.0, "Signature scheme").
const secretPrefix = "whsec_"

// NewSigningSecret makes one.
func NewSigningSecret(random io.Reader) ([]byte, error) {
	secret := make([]byte, secretBytes)
	if _, err := io.ReadFull(random, secret); err != nil {
		return nil, fmt.Errorf("make a signing secret: %w", err)
	}
	return secret, nil
}

// ShowSecret is a signing secret as its receiver is told it.
func ShowSecret(secret []byte) string {
	return secretPrefix + base64.StdEncoding.EncodeToString(secret)
}

// sign is the header webhook-signature: one signature a secret, so that a receiver finds that of the one it has
// (Standard Webhooks 1.0.0, "Webhook headers").
func sign(id string, at time.Time, body []byte, secrets ...[]byte) string {
	out := make([]string, len(secrets))
	for i, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		mac.Write(body)
		out[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return strings.Join(out, " ")
}

// purposeSeal is the service key that secrets of channels are sealed with.
const purposeSeal = "notification_seal"

// KeySource gives the service key of a purpose; generate makes it where there is none. It is store.ServiceKey.
type KeySource func(ctx context.Context, purpose string, generate func() ([]byte, error)) ([]byte, error)

// sealer encrypts secrets of channels with AES-256-GCM. Tenant and channel are bound in, so that rows cannot be swapped.
type sealer struct {
	aead   cipher.AEAD
	random io.Reader
}

func newSealer(ctx context.Context, keys KeySource, random io.Reader) (*sealer, error) {
	key, err := keys(ctx, purposeSeal, func() ([]byte, error) {
		b := make([]byte, 32)
		_, err := io.ReadFull(random, b)
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("key of notification secrets: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key of notification secrets: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("key of notification secrets: %w", err)
	}
	return &sealer{aead, random}, nil
}

func label(tenant, channel uuid.UUID) []byte {
	return []byte("notification channel\x00" + tenant.String() + "\x00" + channel.String())
}

func (s *sealer) seal(tenant, channel uuid.UUID, secrets Secrets) ([]byte, error) {
	text, err := json.Marshal(secrets) //nolint:gosec // it is sealed below
	if err != nil {
		return nil, fmt.Errorf("seal the secrets of a channel: %w", err)
	}
	nonce := make([]byte, s.aead.NonceSize())
	if _, err := io.ReadFull(s.random, nonce); err != nil {
		return nil, fmt.Errorf("seal the secrets of a channel: %w", err)
	}
	return s.aead.Seal(nonce, nonce, text, label(tenant, channel)), nil
}

// open says nothing of what it found: a secret is in no error.
func (s *sealer) open(tenant, channel uuid.UUID, sealed []byte) (Secrets, error) {
	var out Secrets
	if len(sealed) == 0 {
		return out, nil
	}
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return out, errors.New("the channel's secrets cannot be read: they are cut")
	}
	text, err := s.aead.Open(nil, sealed[:n], sealed[n:], label(tenant, channel))
	if err != nil || json.Unmarshal(text, &out) != nil {
		return Secrets{}, errors.New("the channel's secrets cannot be read: they were sealed by another key or for another channel")
	}
	return out, nil
}
