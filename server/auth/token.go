package auth

import (
	"encoding/base64"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

// MaxTokenSize is the longest token that is looked at, in bytes.
const MaxTokenSize = 16 << 10

// LooksLikeToken tells whether a bearer token has the form of a JWS in compact serialization (RFC 7515,
// section 7.1): three parts, of which the first is a JSON object in base64url. It may be no valid one.
func LooksLikeToken(bearer string) bool {
	return strings.HasPrefix(bearer, "eyJ") && strings.Count(bearer, ".") == 2
}

// unverified is a token that was read and whose signature has not been checked: untrusted.
type unverified struct {
	algorithm string
	keyID     string // empty if the header names none

	issuer    string
	audiences []string
	subject   string
	issuedAt  time.Time // zero if absent
	notBefore time.Time // zero if absent
	expires   time.Time // zero if absent
	claims    Claims

	signed    string // header and payload as they were sent: what the signature covers
	signature []byte
}

// header is what is read of the JOSE header (RFC 7515, section 4). Extensions that change what a signature
// covers are read in order to refuse them.
type header struct {
	Algorithm   string `json:"alg"`
	KeyID       string `json:"kid"`
	Type        string `json:"typ"`
	Critical    any    `json:"crit"`
	Base64      any    `json:"b64"`
	Encryption  any    `json:"enc"`
	Compression any    `json:"zip"`
}

// maxKeyID and maxSubject bound texts that a token chooses, in bytes. OpenID Connect Core, section 2, gives sub
// at most 255; GitLab's subjects of deep groups are longer.
const (
	maxKeyID     = 512
	maxSubject   = 1024
	maxAudiences = 32
)

// read decodes a token strictly: one token has one form.
func read(raw string) (*unverified, error) {
	if len(raw) > MaxTokenSize {
		return nil, refuse(CodeMalformed, "the token is longer than 16 KiB")
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil, refuse(CodeMalformed, "the token does not have three parts")
	}
	var decoded [3][]byte
	for i, name := range []string{"header", "payload", "signature"} {
		var err error
		// The decoder passes over line breaks; a token has none.
		if decoded[i], err = base64.RawURLEncoding.Strict().DecodeString(parts[i]); err != nil || strings.ContainsAny(parts[i], "\r\n") {
			return nil, refuse(CodeMalformed, "the token's "+name+" is not base64url without padding")
		}
	}
	t := &unverified{signed: raw[:len(parts[0])+1+len(parts[1])], signature: decoded[2]}
	if err := t.readHeader(decoded[0]); err != nil {
		return nil, err
	}
	return t, t.readClaims(decoded[1])
}

func (t *unverified) readHeader(raw []byte) error {
	var h header
	if err := json.Unmarshal(raw, &h); err != nil {
		return refuse(CodeMalformed, "the token's header is no JSON object as RFC 7515 has it")
	}
	if h.Critical != nil || h.Base64 != nil || h.Encryption != nil || h.Compression != nil {
		return refuse(CodeMalformed, "the token's header asks for an extension (crit, b64, enc or zip)")
	}
	switch strings.ToLower(h.Type) {
	case "", "jwt", "at+jwt": // other types, such as logout tokens, prove nothing here
	default:
		return refuse(CodeMalformed, "the token's typ is neither JWT nor at+jwt")
	}
	if len(h.KeyID) > maxKeyID {
		return refuse(CodeMalformed, "the token's kid is too long")
	}
	t.algorithm, t.keyID = h.Algorithm, h.KeyID
	return nil
}

func (t *unverified) readClaims(raw []byte) error {
	if err := json.Unmarshal(raw, &t.claims); err != nil || t.claims == nil {
		return refuse(CodeMalformed, "the token's payload is no JSON object, or a claim is given twice")
	}
	var err error
	if t.issuer, err = t.claims.text("iss"); err != nil {
		return err
	}
	if t.subject, err = t.claims.text("sub"); err != nil {
		return err
	}
	for _, c := range []struct {
		name string
		to   *time.Time
	}{{"exp", &t.expires}, {"iat", &t.issuedAt}, {"nbf", &t.notBefore}} {
		if *c.to, err = t.claims.time(c.name); err != nil {
			return err
		}
	}
	t.audiences, err = t.claims.audiences()
	return err
}

// TenantOf tells which tenant an audience belongs to: the one whose id ends it, after a slash or a colon
// (https://assay.example/01900000-0000-7000-8000-000000000002), else the default tenant.
func TenantOf(audience string) uuid.UUID {
	last := audience[strings.LastIndexAny(audience, "/:")+1:]
	if len(last) == 36 {
		if id, err := uuid.Parse(last); err == nil {
			return id
		}
	}
	return store.DefaultTenant
}
