// Package authtest runs real OpenID Connect issuers for tests: keys, discovery and tokens that are signed like
// those of GitHub or GitLab. Nothing but tests may import it.
package authtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// Issuer is an OpenID Connect issuer on loopback. Its fields may be changed between requests, under Change.
type Issuer struct {
	t      testing.TB
	server *httptest.Server
	mu     sync.Mutex

	// Name is what discovery says the issuer is; its address, if empty.
	Name string
	// KeysURL is what discovery says; the address of its keys, if empty.
	KeysURL string
	// CacheControl is sent with the keys.
	CacheControl string
	// Serve answers in place of everything else, if set.
	Serve http.HandlerFunc
	keys  []Key
	asked int // requests so far
}

// Key is a key of an issuer.
type Key struct {
	ID        string
	Algorithm string // published with it, if not empty
	Private   crypto.Signer
}

// Start runs an issuer until the test ends; over TLS if secure. It has the RSA key "rsa-1".
func Start(t testing.TB, secure bool) *Issuer {
	t.Helper()
	i := &Issuer{t: t, CacheControl: "public, max-age=600"}
	if secure {
		i.server = httptest.NewTLSServer(i)
	} else {
		i.server = httptest.NewServer(i)
	}
	t.Cleanup(i.server.Close)
	i.Add(Key{ID: "rsa-1", Algorithm: "RS256", Private: RSA(t)})
	return i
}

// URL is the issuer.
func (i *Issuer) URL() string { return i.server.URL }

// Roots are the certificates that its own chains to.
func (i *Issuer) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(i.server.Certificate())
	return pool
}

// Stop ends it: connections are refused from now on.
func (i *Issuer) Stop() { i.server.Close() }

// Change changes what it answers.
func (i *Issuer) Change(f func(*Issuer)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f(i)
}

// Add publishes a key.
func (i *Issuer) Add(k Key) { i.Change(func(i *Issuer) { i.keys = append(i.keys, k) }) }

// Rotate publishes this key and no other.
func (i *Issuer) Rotate(k Key) { i.Change(func(i *Issuer) { i.keys = []Key{k} }) }

// Asked is how many requests it got.
func (i *Issuer) Asked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked
}

// ServeHTTP answers discovery and keys.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.asked++
	serve, name, keysURL, cache, keys := i.Serve, i.Name, i.KeysURL, i.CacheControl, i.keys
	i.mu.Unlock()
	if serve != nil {
		serve(w, r)
		return
	}
	if name == "" {
		name = i.server.URL
	}
	if keysURL == "" {
		keysURL = i.server.URL + "/keys"
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		i.write(w, map[string]any{"issuer": name, "jwks_uri": keysURL, "id_token_signing_alg_values_supported": []string{"RS256"}})
	case "/keys":
		if cache != "" {
			w.Header().Set("Cache-Control", cache)
		}
		set := jwk.NewSet()
		for _, k := range keys {
			public, err := jwk.FromRaw(k.Private.Public())
			if err == nil {
				err = public.Set(jwk.KeyIDKey, k.ID)
			}
			if err == nil && k.Algorithm != "" {
				err = public.Set(jwk.AlgorithmKey, k.Algorithm)
			}
			if err == nil {
				err = set.AddKey(public)
			}
			if err != nil {
				i.t.Error(err)
			}
		}
		i.write(w, set)
	default:
		http.NotFound(w, r)
	}
}

func (i *Issuer) write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		i.t.Error(err)
	}
}

// Claims are those of a GitHub Actions run that began now and lives five minutes, with changes; nil removes one.
func (i *Issuer) Claims(audience any, now time.Time, changes map[string]any) map[string]any {
	c := map[string]any{
		"iss": i.URL(), "aud": audience, "sub": "repo:example/images:ref:refs/heads/main", "jti": "d8a3", "iat": now.Unix(), "nbf": now.Unix() - 5, "exp": now.Unix() + 300,
		"repository": "example/images", "repository_id": "74", "repository_owner": "example", "ref": "refs/heads/main", "ref_type": "branch", "sha": "9fceb02d0ae598e95dc970b74767f19372d61af8",
		"workflow": "images", "run_id": "4711", "run_attempt": "1", "event_name": "push", "actor": "octocat", "runner_environment": "github-hosted",
	}
	for name, v := range changes {
		if c[name] = v; v == nil {
			delete(c, name)
		}
	}
	return c
}

// Token signs claims with the newest key as RS256, or as the key's algorithm says.
func (i *Issuer) Token(claims map[string]any) string {
	i.mu.Lock()
	k := i.keys[len(i.keys)-1]
	i.mu.Unlock()
	return Sign(i.t, k, nil, claims)
}

// Sign signs claims with a key. header is added to, or replaces, what the JOSE header says.
func Sign(t testing.TB, k Key, header, claims map[string]any) string {
	t.Helper()
	algorithm := k.Algorithm
	if algorithm == "" {
		algorithm = "RS256"
	}
	h := map[string]any{"alg": algorithm, "kid": k.ID, "typ": "JWT"}
	for name, v := range header {
		if h[name] = v; v == nil {
			delete(h, name)
		}
	}
	signed := Part(t, h) + "." + Part(t, claims)
	signer, err := jws.NewSigner(jwa.SignatureAlgorithm(algorithm))
	if err != nil {
		t.Fatal(err)
	}
	signature, err := signer.Sign([]byte(signed), k.Private)
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// Unsigned is a token with alg none.
func Unsigned(t testing.TB, claims map[string]any) string {
	return Part(t, map[string]any{"alg": "none", "typ": "JWT"}) + "." + Part(t, claims) + "."
}

// Confused is a token with HMAC over the PEM of a public key: what a verifier accepts that lets the token choose how
// the key is used.
func Confused(t testing.TB, k Key, claims map[string]any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	signed := Part(t, map[string]any{"alg": "HS256", "kid": k.ID, "typ": "JWT"}) + "." + Part(t, claims)
	mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Part is JSON in base64url; raw bytes and texts are taken as they are.
func Part(t testing.TB, v any) string {
	t.Helper()
	raw, isRaw := v.([]byte)
	if text, ok := v.(string); ok {
		raw, isRaw = []byte(text), true
	}
	if !isRaw {
		var err error
		if raw, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// RSA makes a key of 2048 bits.
func RSA(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// EC makes a key of a curve.
func EC(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Ed makes an Ed25519 key.
func Ed(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(fmt.Errorf("make key: %w", err))
	}
	return k
}
