package auth

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/server/auth/authtest"
)

// FuzzBearer reads whatever may come as an identity token. What is read has one form: its parts encoded again are
// the token.
func FuzzBearer(f *testing.F) {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for _, token := range []string{
		part(`{"alg":"RS256","kid":"a","typ":"JWT"}`) + "." + part(`{"iss":"https://a.example","sub":"s","aud":["a","b"],"exp":1e9,"iat":1,"nbf":1.5}`) + ".AAAA",
		part(`{"alg":"none"}`) + "." + part(`{}`) + ".", part(`{"alg":"HS256","crit":["b64"],"b64":false}`) + "." + part(`{"aud":null}`) + ".AAAA",
		"eyJ..", "...", "eyJhbGciOiJSUzI1NiJ9.e30.AA==", part(`{"alg":1}`) + "." + part(`[]`) + ".", part(`{"a":{"a":{"a":[]}}}`) + "." + part(`{"exp":-1}`) + ".",
	} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		_ = LooksLikeToken(token)
		u, err := read(token)
		if err != nil {
			e, known := err.(*Error)
			if !known || e.Code != CodeMalformed {
				t.Fatalf("%v", err)
			}
			return
		}
		if u.signed+"."+base64.RawURLEncoding.EncodeToString(u.signature) != token {
			t.Fatal("two forms of one token")
		}
		if len(token) > MaxTokenSize || len(u.audiences) > maxAudiences {
			t.Fatal("a bound does not hold")
		}
		_ = u.checkTimes(time.Unix(1e9, 0), time.Hour)
		for name := range u.claims {
			_ = u.claims.Values(name)
		}
		for _, a := range u.audiences {
			_ = TenantOf(a)
		}
	})
}

// FuzzKeys reads whatever an issuer may publish: no key that is read can be used with an algorithm of another kind.
func FuzzKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","alg":"RS256","use":"sig","kid":"a","e":"AQAB","n":"` + strings.Repeat("v", 342) + `"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"},null,5]}`))
	token := &unverified{algorithm: "HS256", signed: "a.b", signature: []byte("x")}
	f.Fuzz(func(t *testing.T, raw []byte) {
		set, err := parseKeys(raw)
		if err != nil {
			return
		}
		if len(set) == 0 || len(set) > maxKeys {
			t.Fatalf("%d keys", len(set))
		}
		for i := range set {
			if set[i].fits("none") || set[i].fits("HS256") || set[i].fits("") || set[i].holds(token) {
				t.Fatal("a public key is used as a secret")
			}
			kinds := 0
			for _, algorithms := range [][]string{{"RS256", "PS256"}, {"ES256"}, {"ES384"}, {"EdDSA"}} {
				if set[i].fits(algorithms[0]) || set[i].fits(algorithms[len(algorithms)-1]) {
					kinds++
				}
			}
			if kinds > 1 {
				t.Fatal("a key fits algorithms of two kinds")
			}
		}
	})
}

// BenchmarkVerify is what a pipeline's call costs before its rules are read, without the database.
func BenchmarkVerify(b *testing.B) {
	k := authtest.Key{ID: "a", Algorithm: "RS256", Private: authtest.RSA(b)}
	now := time.Unix(1_700_000_000, 0)
	token := authtest.Sign(b, k, nil, map[string]any{"iss": "https://a.example", "sub": "s", "aud": "a", "iat": now.Unix(), "exp": now.Unix() + 300})
	key := issuerKey{id: "a", public: k.Private.Public()}
	for b.Loop() {
		t, err := read(token)
		if err != nil || t.checkTimes(now, time.Hour) != nil || !key.holds(t) {
			b.Fatal(err)
		}
	}
}
