package relying

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/ear"
)

var (
	seed    = ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))
	scalar  = must(ecdsa.ParseRawPrivateKey(elliptic.P256(), []byte("0123456789abcdef0123456789abcdef")))
	noon    = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	keySet  = []byte(fmt.Sprintf(`{"keys": [%s, %s]}`, jwk(seed.Public()), jwk(scalar.Public())))
	edKey   = must(JWKOf(seed.Public())).Kid
	ecKey   = must(JWKOf(scalar.Public())).Kid
	enc     = base64.RawURLEncoding.EncodeToString
	payload = string(must(json.Marshal(ear.From(nil, ear.Context{TokenID: "t", VerdictID: "v", MachineID: "m", Issuer: "https://assay.example", Audience: "https://relying.example",
		Build: "x", RelyingNonce: "AAAAAAAAAAA", IssuedAt: noon, Lifetime: time.Hour}))))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func jwk(public any) string { return string(must(json.Marshal(must(JWKOf(public))))) }

// signed makes a token; without randomness Go signs ECDSA by RFC 6979.
func signed(header, payload string) string {
	text := enc([]byte(header)) + "." + enc([]byte(payload))
	var signature []byte
	if strings.Contains(header, ES256) {
		sum := sha256.Sum256([]byte(text))
		r, s, err := ecdsa.Sign(nil, scalar, sum[:])
		if err != nil {
			panic(err)
		}
		signature = make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
	} else {
		signature = ed25519.Sign(seed, []byte(text))
	}
	return text + "." + enc(signature)
}

func header(alg, kid string) string {
	return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"eat+jwt"}`, alg, kid)
}

func TestVerify(t *testing.T) {
	keys, err := ParseKeySet(keySet)
	if err != nil || len(keys) != 2 {
		t.Fatalf("%v, %v", keys, err)
	}
	for story, c := range map[string]struct {
		token string
		want  error
	}{
		"Ed25519":                     {signed(header(EdDSA, edKey), payload), nil},
		"ES256":                       {signed(header(ES256, ecKey), payload), nil},
		"another key":                 {signed(header(EdDSA, "nobody"), payload), ErrUnknownKey},
		"no key":                      {signed(`{"alg":"EdDSA"}`, payload), ErrUnknownKey},
		"a key's other algorithm":     {signed(header(ES256, edKey), payload), ErrAlgorithm},
		"alg none":                    {enc([]byte(header("none", edKey))) + "." + enc([]byte(payload)) + ".", ErrAlgorithm},
		"HMAC with the public key":    {signed(header("HS256", edKey), payload), ErrAlgorithm},
		"no signature":                {enc([]byte(header(EdDSA, edKey))) + "." + enc([]byte(payload)) + ".", ErrSignature},
		"a critical extension":        {signed(fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"crit":["b64"],"b64":false}`, edKey), payload), ErrMalformed},
		"a member twice in header":    {signed(fmt.Sprintf(`{"alg":"none","alg":"EdDSA","kid":%q}`, edKey), payload), ErrMalformed},
		"a claim twice":               {signed(header(EdDSA, edKey), `{"sub":"a","sub":"b"}`), ErrMalformed},
		"a payload that is no object": {signed(header(EdDSA, edKey), `[]`), ErrMalformed},
		"two parts":                   {"a.b", ErrMalformed},
		"five parts":                  {"a.b.c.d.e", ErrMalformed},
		"not base64url":               {"a+b.c.d", ErrMalformed},
		"too long":                    {strings.Repeat("A", MaxToken+1), ErrMalformed},
		"a line break":                {signed(header(EdDSA, edKey), payload) + "\n", ErrMalformed},
	} {
		if _, err := Verify(c.token, keys); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", story, err, c.want)
		}
	}
	// r and s swapped, and a signature of another length.
	good := signed(header(ES256, ecKey), payload)
	cut := strings.LastIndexByte(good, '.') + 1
	raw := must(base64.RawURLEncoding.DecodeString(good[cut:]))
	for _, s := range [][]byte{append(append([]byte{}, raw[32:]...), raw[:32]...), raw[:63], append(raw, 0), make([]byte, 64)} {
		if _, err := Verify(good[:cut]+enc(s), keys); !errors.Is(err, ErrSignature) {
			t.Errorf("signature %x: %v", s, err)
		}
	}
}

func TestParseKeySet(t *testing.T) {
	ed, ec := jwk(seed.Public()), jwk(scalar.Public())
	for story, c := range map[string]struct {
		set  string
		keys int // -1: refused
	}{
		"both":                {`{"keys":[` + ed + `,` + ec + `]}`, 2},
		"empty":               {`{"keys":[]}`, 0},
		"other kinds":         {`{"keys":[{"kty":"RSA","kid":"a","n":"AA","e":"AQAB"},{"kty":"oct","kid":"b","k":"AA"},` + ed + `]}`, 1},
		"for encryption":      {`{"keys":[` + strings.Replace(ed, `"sig"`, `"enc"`, 1) + `]}`, 0},
		"without an id":       {`{"keys":[` + strings.Replace(ed, `"kid"`, `"id"`, 1) + `]}`, 0},
		"cut":                 {`{"keys":[` + strings.Replace(ed, `"x":"`, `"x":"A`, 1) + `]}`, 0},
		"not on the curve":    {`{"keys":[` + strings.Replace(ec, `"y":"`, `"y":"A`, 1) + `]}`, 0},
		"another algorithm":   {`{"keys":[` + strings.Replace(ec, ES256, "ES384", 1) + `]}`, 0},
		"one id twice":        {`{"keys":[` + ed + `,` + ed + `]}`, -1},
		"a member twice":      {`{"keys":[],"keys":[]}`, -1},
		"no set":              {`{}`, -1},
		"a list":              {`[]`, -1},
		"keys that are null":  {`{"keys":null}`, -1},
		"a key that is text":  {`{"keys":["x"]}`, -1},
		"too many":            {`{"keys":[` + strings.Repeat(`{},`, maxKeys) + `{}]}`, -1},
		"too large":           {`{"keys":[]` + strings.Repeat(" ", maxKeySet) + `}`, -1},
		"nothing":             {``, -1},
		"a web page":          {`<!doctype html>`, -1},
		"off the curve, well": {`{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"` + enc(make([]byte, 32)) + `","y":"` + enc(make([]byte, 32)) + `"}]}`, 0},
	} {
		keys, err := ParseKeySet([]byte(c.set))
		if (err != nil) != (c.keys < 0) || (err == nil && len(keys) != c.keys) {
			t.Errorf("%s: %d keys, %v", story, len(keys), err)
		}
	}
	if _, err := JWKOf("text"); err == nil {
		t.Error("a text was described as a key")
	}
}

func TestCheck(t *testing.T) {
	token := Token{Payload: []byte(payload)}
	claims, err := ReadClaims(token)
	if err != nil {
		t.Fatal(err)
	}
	good := Expect{Now: noon.Add(time.Minute), Issuer: "https://assay.example", Audience: "https://relying.example", Nonce: "AAAAAAAAAAA"}
	if checks := claims.Check(good); !Holds(checks) {
		t.Errorf("%+v", checks)
	}
	for name, change := range map[string]func(*Expect){
		"expiry":   func(e *Expect) { e.Now = noon.Add(time.Hour) },
		"start":    func(e *Expect) { e.Now = noon.Add(-time.Second) },
		"issuer":   func(e *Expect) { e.Issuer += "/" },
		"audience": func(e *Expect) { e.Audience = "https://relying.exampl" },
		"nonce":    func(e *Expect) { e.Nonce = "AAAAAAAAAAB" },
	} {
		e := good
		change(&e)
		for _, c := range claims.Check(e) {
			if (c.Status == "fail") != (c.Name == name) {
				t.Errorf("with another %s: %+v", name, c)
			}
		}
	}
	late := good
	late.Now, late.Leeway = noon.Add(time.Hour+29*time.Second), 30*time.Second
	if !Holds(claims.Check(late)) {
		t.Error("clocks may differ, and do not")
	}
	for _, c := range claims.Check(Expect{Now: noon}) { // made out to somebody, and nobody says that he is that
		if (c.Status == "fail") != (c.Name == "audience") || (c.Name == "audience" && !strings.Contains(c.Detail, "https://relying.example")) {
			t.Errorf("no audience named: %+v", c)
		}
	}
	claims.Audience = nil
	if checks := claims.Check(Expect{Now: noon}); !Holds(checks) || checks[len(checks)-1].Status != "skipped" {
		t.Errorf("nothing asked: %+v", checks)
	}
	bare := Claims{}
	if Holds(bare.Check(Expect{Now: noon})) {
		t.Error("claims without anything hold")
	}
	if m, err := claims.Machine(); err != nil || m.Status != "none" {
		t.Errorf("%+v, %v", m, err)
	}
}

// What is no result is refused, also where it was signed.
func TestReadClaims(t *testing.T) {
	for story, text := range map[string]string{
		"another profile":       `{"eat_profile":"tag:example.com,2026:x"}`,
		"no profile":            `{}`,
		"floating point":        `{"eat_profile":"` + ear.Profile + `","exp":1.5}`,
		"a number for a text":   `{"eat_profile":"` + ear.Profile + `","sub":1}`,
		"audience of numbers":   `{"eat_profile":"` + ear.Profile + `","aud":[1]}`,
		"times beyond integers": `{"eat_profile":"` + ear.Profile + `","iat":1e400}`,
	} {
		if c, err := ReadClaims(Token{Payload: []byte(text)}); err == nil {
			t.Errorf("%s: %+v", story, c)
		}
	}
	for story, text := range map[string]string{
		"no submodule":   `{}`,
		"two submodules": `{"machine":{"ear.status":"affirming"},"x":{}}`,
		"another status": `{"machine":{"ear.status":"splendid"}}`,
		"the other form": `{"machine":{"ear_status":"affirming"}}`,
		"no object":      `{"machine":[]}`,
	} {
		c, err := ReadClaims(Token{Payload: []byte(`{"eat_profile":"` + ear.Profile + `","submods":` + text + `}`)})
		if err != nil {
			t.Fatal(story, err)
		}
		if m, err := c.Machine(); err == nil {
			t.Errorf("%s: %+v", story, m)
		}
	}
}

// Whatever is sent, nothing panics, and what is accepted was signed.
func FuzzVerify(f *testing.F) {
	keys := must(ParseKeySet(keySet))
	good := map[string]bool{}
	for _, token := range []string{signed(header(EdDSA, edKey), payload), signed(header(ES256, ecKey), payload)} {
		good[token] = true
		f.Add(token)
	}
	f.Add("..")
	f.Add(enc([]byte(`{"alg":"none"}`)) + "." + enc([]byte(`{}`)) + ".")
	f.Fuzz(func(t *testing.T, token string) {
		v, err := Verify(token, keys)
		if err != nil {
			return
		}
		if string(v.Payload) != payload && !good[token] {
			t.Fatalf("%q is accepted and was never signed", token)
		}
		if c, err := ReadClaims(v); err == nil {
			c.Check(Expect{Now: noon, Issuer: "x", Audience: "x", Nonce: "x"})
			_, _ = c.Machine()
		}
	})
}

func FuzzParseKeySet(f *testing.F) {
	f.Add(keySet)
	f.Add([]byte(`{"keys":[]}`))
	f.Fuzz(func(t *testing.T, set []byte) {
		keys, err := ParseKeySet(set)
		if err != nil {
			return
		}
		for _, k := range keys { // what is read can be described again, and means the same key
			again, err := JWKOf(k.Public)
			if err != nil || again.Alg != k.Algorithm {
				t.Fatalf("%+v: %+v, %v", k, again, err)
			}
		}
	})
}

func FuzzReadClaims(f *testing.F) {
	f.Add([]byte(payload))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ReadClaims(Token{Payload: text})
		if err != nil {
			return
		}
		c.Check(Expect{Now: noon, Issuer: "x", Audience: "x", Nonce: "x"})
		if m, err := c.Machine(); err == nil && m.Status == "" {
			t.Fatal("a machine without a status")
		}
	})
}
