package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"

	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/keyring"
)

// algorithm is one way to sign results, with the purpose of its keys. A secret key is 32 bytes: the seed of Ed25519
// (RFC 8032), or the scalar of P-256.
type algorithm struct {
	name    string
	purpose string
	private func(secret []byte) (crypto.Signer, error)
}

// algorithms, the default first.
var algorithms = []algorithm{
	{relying.EdDSA, PurposeResultSigning, func(secret []byte) (crypto.Signer, error) {
		if len(secret) != ed25519.SeedSize {
			return nil, fmt.Errorf("%d bytes, want %d", len(secret), ed25519.SeedSize)
		}
		return ed25519.NewKeyFromSeed(secret), nil
	}},
	{relying.ES256, PurposeResultSigningES256, func(secret []byte) (crypto.Signer, error) {
		return ecdsa.ParseRawPrivateKey(elliptic.P256(), secret)
	}},
}

// parsePublic reads the stored half of a key.
func parsePublic(der []byte) (crypto.PublicKey, error) {
	if len(der) == 0 {
		return nil, fmt.Errorf("the public half of the signing key is not stored")
	}
	return x509.ParsePKIXPublicKey(der)
}

// secret makes a fresh secret key. Nearly every 32 bytes are a scalar of P-256; those that are not are drawn again.
func (a *algorithm) secret(random io.Reader) ([]byte, error) {
	for {
		b := make([]byte, 32)
		if _, err := io.ReadFull(random, b); err != nil {
			return nil, err
		}
		if _, err := a.private(b); err == nil {
			return b, nil
		}
	}
}

// add makes a key to be published.
func (a *algorithm) add(random io.Reader) (*store.NewSigningKey, error) {
	secret, err := a.secret(random)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	public, err := a.publicOf(secret)
	if err != nil {
		return nil, err
	}
	return &store.NewSigningKey{Key: keyring.NewSecret(secret), Public: public}, nil
}

// publicOf is the public half of a secret key in PKIX DER.
func (a *algorithm) publicOf(secret []byte) ([]byte, error) {
	private, err := a.private(secret)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", a.purpose, err)
	}
	return x509.MarshalPKIXPublicKey(private.Public())
}

// signer is a loaded key.
type signer struct {
	jwk     relying.JWK
	key     relying.Key
	private crypto.Signer // nil of a key that was erased
	header  string        // base64url of the JOSE header, with its dot
}

// load makes the signer of a row.
func (a *algorithm) load(row *store.ServiceKeyRow) (signer, error) {
	der := row.Public
	if der == nil { // of a version that did not store it
		var err error
		if der, err = a.publicOf(row.Key.Reveal()); err != nil {
			return signer{}, err
		}
	}
	public, err := parsePublic(der)
	if err != nil {
		return signer{}, fmt.Errorf("signing key %s: %w", a.purpose, err)
	}
	s := signer{}
	if s.jwk, err = relying.JWKOf(public); err != nil {
		return signer{}, fmt.Errorf("signing key %s: %w", a.purpose, err)
	}
	s.key = relying.Key{ID: s.jwk.Kid, Algorithm: a.name, Public: public}
	if !row.Key.Empty() {
		if s.private, err = a.private(row.Key.Reveal()); err != nil {
			return signer{}, fmt.Errorf("signing key %s: %w", a.purpose, err)
		}
	}
	header, err := json.Marshal(map[string]string{"alg": a.name, "kid": s.jwk.Kid, "typ": relying.Type})
	if err != nil {
		return signer{}, err
	}
	s.header = base64.RawURLEncoding.EncodeToString(header) + "."
	return s, nil
}

// sign appends the signature of what is in out, base64url, with its dot. It signs with crypto/ed25519 itself: a result is signed
// for every attestation, and a general path costs more than the signature (BenchmarkSignByLibrary).
func (s *signer) sign(out []byte, random io.Reader) ([]byte, error) {
	var signature []byte
	switch private := s.private.(type) {
	case ed25519.PrivateKey:
		signature = ed25519.Sign(private, out)
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(out)
		r, v, err := ecdsa.Sign(random, private, sum[:])
		if err != nil {
			return nil, err
		}
		signature = concat(r, v)
	default:
		return nil, fmt.Errorf("the signing key %s is erased", s.jwk.Kid)
	}
	return base64.RawURLEncoding.AppendEncode(append(out, '.'), signature), nil
}

// concat is an ECDSA signature in the form of RFC 7518, section 3.4.
func concat(r, s *big.Int) []byte {
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out
}
