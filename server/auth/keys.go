package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// Algorithms are the JWS algorithms that a provider may allow. HMAC and none are not among them: an issuer's
// public key must never serve as a secret.
func Algorithms() []string { return []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"} }

// Bounds on what an issuer publishes.
const (
	maxKeys    = 100
	minRSABits = 2048
	maxRSABits = 8192
)

// issuerKey is one key that tokens may be signed with.
type issuerKey struct {
	id        string
	algorithm string // the only one it is for; empty if the issuer does not say
	public    crypto.PublicKey
}

// keySet are the usable keys of an issuer.
type keySet []issuerKey

// parseKeys reads a JSON Web Key Set (RFC 7517). Keys of unknown kinds, for encryption, or of sizes that are not
// accepted are left out, as section 5 asks; a set without a usable key is an error.
func parseKeys(raw []byte) (keySet, error) {
	var doc struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, errors.New("the key set is no JSON object with keys")
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("the key set has more than %d keys", maxKeys)
	}
	var out keySet
	for _, one := range doc.Keys {
		if k, ok := parseKey(one); ok {
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the key set has no key that can be used")
	}
	return out, nil
}

func parseKey(raw []byte) (issuerKey, bool) {
	parsed, err := jwk.ParseKey(raw)
	if err != nil {
		return issuerKey{}, false
	}
	if use := parsed.KeyUsage(); use != "" && use != string(jwk.ForSignature) {
		return issuerKey{}, false
	}
	if ops := parsed.KeyOps(); len(ops) > 0 && !slices.Contains(ops, jwk.KeyOpVerify) {
		return issuerKey{}, false
	}
	k := issuerKey{id: parsed.KeyID(), algorithm: parsed.Algorithm().String()}
	var material any
	if err := parsed.Raw(&material); err != nil {
		return issuerKey{}, false
	}
	switch key := material.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return issuerKey{}, false
		}
		k.public = key
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return issuerKey{}, false
		}
		if _, err := key.ECDH(); err != nil { // not a point of the curve
			return issuerKey{}, false
		}
		k.public = key
	case ed25519.PublicKey:
		k.public = key
	default: // a secret, a private key, a key for key agreement
		return issuerKey{}, false
	}
	return k, true
}

// fits tells whether an algorithm may be used with the key: its type decides, and what the issuer says of it.
func (k *issuerKey) fits(algorithm string) bool {
	if k.algorithm != "" && k.algorithm != algorithm {
		return false
	}
	switch key := k.public.(type) {
	case *rsa.PublicKey:
		return algorithm == "RS256" || algorithm == "PS256"
	case *ecdsa.PublicKey:
		return (algorithm == "ES256" && key.Curve == elliptic.P256()) || (algorithm == "ES384" && key.Curve == elliptic.P384())
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}

// choose finds the key for a token: by its kid, or, where the token names none, the only key that fits.
func (s keySet) choose(keyID, algorithm string) (*issuerKey, bool) {
	var found *issuerKey
	for i := range s {
		k := &s[i]
		if !k.fits(algorithm) || (keyID != "" && k.id != keyID) {
			continue
		}
		if found != nil {
			return nil, false // two keys of one name: neither can be told to be meant
		}
		found = k
	}
	return found, found != nil
}

// holds tells whether the signature over the token's bytes is this key's.
func (k *issuerKey) holds(t *unverified) bool {
	if !k.fits(t.algorithm) {
		return false
	}
	if key, ok := k.public.(*ecdsa.PublicKey); ok && len(t.signature) != 2*((key.Params().BitSize+7)/8) {
		return false // RFC 7518, section 3.4: r and s at full length
	}
	verifier, err := jws.NewVerifier(jwa.SignatureAlgorithm(t.algorithm))
	return err == nil && verifier.Verify([]byte(t.signed), t.signature, k.public) == nil
}
