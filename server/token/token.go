// Package token makes and checks the two tokens that this service issues, and is the only place that
// knows the JOSE library.
//
//   - Attestation results: EAR claims as a JWT, signed with Ed25519 (RFC 8037). The key is made once
//     and kept in the database, so that every replica signs with the same; its key id is the RFC 7638
//     thumbprint, and the public half is what JWKS publishes.
//   - Machine tokens: what an enrolled agent authenticates with. They are a MAC over (tenant, machine,
//     attestation key, time), checked without a read, so that the steady state costs no look-up. They
//     end after MachineTokenLifetime, and with the attestation key they name: server/attest refuses a
//     token whose key is no longer the machine's active one.
//
// Neither kind of token is ever logged.
package token

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/assay-verifier/assay/verifier/ear"
)

// Purposes of the service keys that this package keeps in the database.
const (
	PurposeResultSigning = "result_signing" // 32 bytes, Ed25519 seed
	PurposeMachineToken  = "machine_token"  // 32 bytes, HMAC-SHA256 key
)

// ErrInvalid is any token that this service did not issue, or that has expired. It says no more, since
// its text reaches whoever sent the token.
var ErrInvalid = errors.New("the token is not valid")

// KeyFunc gives the service key of a purpose, made by generate on the very first call and the same for
// every replica ever after (store.ServiceKey).
type KeyFunc func(ctx context.Context, purpose string, generate func() ([]byte, error)) ([]byte, error)

// Service signs and checks tokens. It is immutable and safe for concurrent use.
type Service struct {
	now        func() time.Time
	signingKey ed25519.PrivateKey
	header     string // base64url of the JOSE header, with its dot
	public     jwk.Key
	jwks       []byte
	machineKey []byte
}

// New fetches, or makes, the service's keys. random is read only when a key is made.
func New(ctx context.Context, keys KeyFunc, random io.Reader, now func() time.Time) (*Service, error) {
	generate := func() ([]byte, error) {
		key := make([]byte, 32)
		_, err := io.ReadFull(random, key)
		return key, err
	}
	seed, err := keys(ctx, PurposeResultSigning, generate)
	if err != nil {
		return nil, fmt.Errorf("result signing key: %w", err)
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("result signing key: %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	machineKey, err := keys(ctx, PurposeMachineToken, generate)
	if err != nil {
		return nil, fmt.Errorf("machine token key: %w", err)
	}
	if len(machineKey) != 32 {
		return nil, fmt.Errorf("machine token key: %d bytes, want 32", len(machineKey))
	}
	s := &Service{now: now, signingKey: ed25519.NewKeyFromSeed(seed), machineKey: machineKey}
	if err := s.publish(); err != nil {
		return nil, fmt.Errorf("result signing key: %w", err)
	}
	return s, nil
}

// publish derives the key id, the key set and the constant JOSE header from the signing key.
func (s *Service) publish() error {
	key, err := jwk.FromRaw(s.signingKey.Public())
	if err != nil {
		return err
	}
	if err := jwk.AssignKeyID(key); err != nil { // RFC 7638, SHA-256
		return err
	}
	if err := key.Set(jwk.AlgorithmKey, jwa.EdDSA); err != nil {
		return err
	}
	if err := key.Set(jwk.KeyUsageKey, jwk.ForSignature); err != nil {
		return err
	}
	set := jwk.NewSet()
	if err := set.AddKey(key); err != nil {
		return err
	}
	if s.jwks, err = json.Marshal(set); err != nil {
		return err
	}
	header, err := json.Marshal(map[string]string{"alg": "EdDSA", "kid": key.KeyID(), "typ": "eat+jwt"})
	if err != nil {
		return err
	}
	s.public = key
	s.header = base64.RawURLEncoding.EncodeToString(header) + "."
	return nil
}

// DocumentSigner is the key that signs results, for documents in another envelope than a JWT's, and its id in the key set.
// What is signed with it must begin otherwise than a token (COSE's Sig_structure does).
func (s *Service) DocumentSigner() (signer crypto.Signer, keyID string) {
	return s.signingKey, s.public.KeyID()
}

// Sign makes the compact JWT (RFC 7515, section 7.1) of a result. It writes the constant header and
// signs by crypto/ed25519 itself: 40 % of the time and a tenth of the allocations of the library's
// general path (BenchmarkSignByLibrary), one result for every attestation.
func (s *Service) Sign(claims ear.Claims) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("sign result: %w", err)
	}
	enc := base64.RawURLEncoding
	out := make([]byte, 0, len(s.header)+enc.EncodedLen(len(payload))+1+enc.EncodedLen(ed25519.SignatureSize))
	out = append(out, s.header...)
	out = enc.AppendEncode(out, payload)
	signature := ed25519.Sign(s.signingKey, out)
	out = append(out, '.')
	out = enc.AppendEncode(out, signature)
	return string(out), nil
}

// JWKS is the JSON Web Key Set (RFC 7517) of the keys that results may be signed with. The caller must
// not change it.
func (s *Service) JWKS() []byte { return s.jwks }

// Verify checks a result that this service signed: signature, profile and expiry. The error is
// ErrInvalid.
func (s *Service) Verify(result string) (ear.Claims, error) {
	payload, err := jws.Verify([]byte(result), jws.WithKey(jwa.EdDSA, s.public))
	if err != nil {
		return ear.Claims{}, ErrInvalid
	}
	// The library decodes base64 leniently; one result has one encoding.
	if !strings.HasPrefix(result[min(len(result), len(s.header)):], base64.RawURLEncoding.EncodeToString(payload)+".") {
		return ear.Claims{}, ErrInvalid
	}
	var claims ear.Claims
	if err := json.Unmarshal(payload, &claims); err != nil {
		return ear.Claims{}, ErrInvalid
	}
	if claims.Profile != ear.Profile || !s.now().Before(time.Unix(claims.Expires, 0)) {
		return ear.Claims{}, ErrInvalid
	}
	return claims, nil
}
