package relying

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
)

// MaxToken is the longest token that is looked at, in bytes.
const MaxToken = 64 << 10

// Type is the type that a result's header states (RFC 9782, section 5, application/eat+jwt).
const Type = "eat+jwt"

// The ways in which a token is refused before its claims are read. Each error that Verify answers is one of them.
var (
	ErrMalformed  = errors.New("this is no signed JWT in compact form")
	ErrAlgorithm  = errors.New("the token names an algorithm that its key does not have")
	ErrUnknownKey = errors.New("the token's key is not in the key set")
	ErrSignature  = errors.New("the signature does not cover this token")
)

// Header is the part of a JOSE header that is read (RFC 7515, section 4).
type Header struct {
	Algorithm string          `json:"alg"`
	KeyID     string          `json:"kid"`
	Type      string          `json:"typ"`
	Critical  json.RawMessage `json:"crit"`
}

// Token is a token whose signature holds.
type Token struct {
	Header Header
	// Payload is the JSON of the claims, byte for byte as it was signed; no object in it has a member twice.
	Payload []byte
}

// Parts are the parts of a token in compact form, before anything of it is believed.
type Parts struct {
	Header    Header
	signed    string // header and payload, as they are covered by the signature
	payload   []byte
	signature []byte
}

// Split takes a token apart. The only error is ErrMalformed.
func Split(token string) (Parts, error) {
	var p Parts
	if len(token) > MaxToken {
		return p, fmt.Errorf("it has more than %d bytes: %w", MaxToken, ErrMalformed)
	}
	first, rest, ok := strings.Cut(token, ".")
	second, third, more := strings.Cut(rest, ".")
	if !ok || !more || strings.Contains(third, ".") {
		return p, fmt.Errorf("it has not three parts: %w", ErrMalformed)
	}
	header, err := base64url(first)
	if err == nil {
		p.payload, err = base64url(second)
	}
	if err == nil {
		p.signature, err = base64url(third)
	}
	if err != nil {
		return p, fmt.Errorf("a part is not base64url: %w", ErrMalformed)
	}
	if err := jsonv2.Unmarshal(header, &p.Header); err != nil {
		return p, fmt.Errorf("its header is no JSON object with single members: %w", ErrMalformed)
	}
	if p.Header.Critical != nil {
		return p, fmt.Errorf("its header has critical extensions: %w", ErrMalformed)
	}
	p.signed = token[:len(first)+1+len(second)]
	return p, nil
}

// base64url is strict: one text for the same bytes, and no line breaks, which the standard library passes over.
func base64url(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, ErrMalformed
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// Verify checks a token's signature with the key of the set that it names. It says nothing of the claims: Check does.
func Verify(token string, keys []Key) (Token, error) {
	p, err := Split(token)
	if err != nil {
		return Token{}, err
	}
	for i := range keys {
		if keys[i].ID == p.Header.KeyID && p.Header.KeyID != "" {
			return p.verify(&keys[i])
		}
	}
	return Token{}, ErrUnknownKey
}

func (p *Parts) verify(key *Key) (Token, error) {
	if p.Header.Algorithm != key.Algorithm {
		return Token{}, ErrAlgorithm
	}
	holds := false
	switch public := key.Public.(type) {
	case ed25519.PublicKey:
		holds = len(p.signature) == ed25519.SignatureSize && ed25519.Verify(public, []byte(p.signed), p.signature)
	case *ecdsa.PublicKey:
		if len(p.signature) == 64 { // r and s, RFC 7518 section 3.4
			sum := sha256.Sum256([]byte(p.signed))
			holds = ecdsa.Verify(public, sum[:], new(big.Int).SetBytes(p.signature[:32]), new(big.Int).SetBytes(p.signature[32:]))
		}
	}
	if !holds {
		return Token{}, ErrSignature
	}
	// Members twice, or text that is no UTF-8, could be read in two ways, also where they were signed.
	var object map[string]any
	if err := jsonv2.Unmarshal(p.payload, &object); err != nil {
		return Token{}, fmt.Errorf("its payload is no JSON object with single members: %w", ErrMalformed)
	}
	return Token{Header: p.Header, Payload: p.payload}, nil
}
