// Package relying is what a relying party does with a result: read a published key set, verify a token's signature, and
// compare its claims with what was asked for. The command assay and the service use it. It needs neither database nor
// network, and reads no clock.
//
// A token is data of a stranger until Verify has answered: nothing but the names of its key and algorithm is looked at
// before, and those only choose among the keys that are given. An algorithm belongs to a key, so that a token cannot choose
// another one; none, and everything symmetric, does not exist here.
package relying

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	jsonv2 "github.com/go-json-experiment/json"
)

// The algorithms of results (RFC 8037, section 3.1; RFC 7518, section 3.4).
const (
	EdDSA = "EdDSA"
	ES256 = "ES256"
)

// Key is one public key of a set.
type Key struct {
	ID        string // kid
	Algorithm string // EdDSA or ES256
	Public    crypto.PublicKey
}

// JWK is a key in JSON (RFC 7517), as far as it is used here.
type JWK struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y,omitempty"`
	Kid string `json:"kid"`
	Alg string `json:"alg"`
	Use string `json:"use"`
}

const (
	maxKeySet = 256 << 10
	maxKeys   = 100
)

// JWKOf describes a public key; its id is the RFC 7638 thumbprint.
func JWKOf(public crypto.PublicKey) (JWK, error) {
	enc := base64.RawURLEncoding
	var k JWK
	var required any // the members of the thumbprint, in lexical order
	switch p := public.(type) {
	case ed25519.PublicKey:
		k = JWK{Kty: "OKP", Crv: "Ed25519", X: enc.EncodeToString(p), Alg: EdDSA, Use: "sig"}
		required = struct {
			Crv string `json:"crv"`
			Kty string `json:"kty"`
			X   string `json:"x"`
		}{k.Crv, k.Kty, k.X}
	case *ecdsa.PublicKey:
		point, err := p.ECDH()
		if err != nil || p.Curve != elliptic.P256() {
			return JWK{}, errors.New("the key is not on the curve P-256")
		}
		raw := point.Bytes() // 4, then x and y of 32 bytes each
		k = JWK{Kty: "EC", Crv: "P-256", X: enc.EncodeToString(raw[1:33]), Y: enc.EncodeToString(raw[33:]), Alg: ES256, Use: "sig"}
		required = struct {
			Crv string `json:"crv"`
			Kty string `json:"kty"`
			X   string `json:"x"`
			Y   string `json:"y"`
		}{k.Crv, k.Kty, k.X, k.Y}
	default:
		return JWK{}, fmt.Errorf("results are not signed with keys of type %T", public)
	}
	text, err := json.Marshal(required)
	if err != nil {
		return JWK{}, err
	}
	sum := sha256.Sum256(text)
	k.Kid = enc.EncodeToString(sum[:])
	return k, nil
}

// ParseKeySet reads a JWK set. Keys of other kinds, and for other uses, are passed over, as RFC 7517 (section 5) asks; a set
// that is none, or in which one id stands for two keys, is an error.
func ParseKeySet(document []byte) ([]Key, error) {
	if len(document) > maxKeySet {
		return nil, fmt.Errorf("the key set has more than %d bytes", maxKeySet)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := jsonv2.Unmarshal(document, &set); err != nil || set.Keys == nil {
		return nil, errors.New("this is no JWK set: a JSON object with a list \"keys\" is needed")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("the key set has more than %d keys", maxKeys)
	}
	var keys []Key
	seen := map[string]bool{}
	for i, raw := range set.Keys {
		var k JWK
		if err := jsonv2.Unmarshal(raw, &k); err != nil {
			return nil, fmt.Errorf("key %d of the set is no JWK", i+1)
		}
		key, ok := k.key()
		if !ok {
			continue
		}
		if seen[key.ID] {
			return nil, fmt.Errorf("two keys of the set have the same id")
		}
		seen[key.ID] = true
		keys = append(keys, key)
	}
	return keys, nil
}

// key is the public key of a JWK that results may be signed with.
func (k *JWK) key() (Key, bool) {
	if k.Kid == "" || (k.Use != "" && k.Use != "sig") {
		return Key{}, false
	}
	x, err := base64.RawURLEncoding.Strict().DecodeString(k.X)
	if err != nil || len(x) != 32 {
		return Key{}, false
	}
	switch {
	case k.Kty == "OKP" && k.Crv == "Ed25519" && (k.Alg == "" || k.Alg == EdDSA || k.Alg == "Ed25519"):
		return Key{ID: k.Kid, Algorithm: EdDSA, Public: ed25519.PublicKey(x)}, true
	case k.Kty == "EC" && k.Crv == "P-256" && (k.Alg == "" || k.Alg == ES256):
		y, err := base64.RawURLEncoding.Strict().DecodeString(k.Y)
		if err != nil || len(y) != 32 {
			return Key{}, false
		}
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
		if err != nil { // not on the curve
			return Key{}, false
		}
		return Key{ID: k.Kid, Algorithm: ES256, Public: public}, true
	}
	return Key{}, false
}
