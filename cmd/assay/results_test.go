package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/ear"
)

// TestTokenVerify: what holds of a result is said in plain words, and the exit code says it to programs.
func TestTokenVerify(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	private := ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))
	jwk, err := relying.JWKOf(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	file := func(name string, content any) string {
		t.Helper()
		text, isText := content.(string)
		if !isText {
			raw, err := json.Marshal(content)
			if err != nil {
				t.Fatal(err)
			}
			text = string(raw)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	signed := func(name string, claims any) string {
		t.Helper()
		payload, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		text := enc([]byte(fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"eat+jwt"}`, jwk.Kid))) + "." + enc(payload)
		return file(name, text+"."+enc(ed25519.Sign(private, []byte(text)))+"\n")
	}
	claims := func(status verifier.Status, issued time.Time) ear.Claims {
		return ear.From(&verifier.Appraisal{Status: status}, ear.Context{TokenID: "t", VerdictID: "v", MachineID: "m", Issuer: "https://assay.example",
			Audience: "https://relying.example", RelyingNonce: "AAAAAAAAAAA", Build: "x", IssuedAt: issued, Lifetime: 5 * time.Minute})
	}
	good := claims(verifier.Affirming, now)
	nobodys := good
	nobodys.Audience = ""
	result := signed("good.jwt", good)
	set := file("keys.json", map[string]any{"keys": []relying.JWK{jwk}})
	published := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("a token was sent where a key set is fetched")
		}
		http.ServeFile(w, r, set)
	}))
	defer published.Close()
	text, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	body := strings.TrimSpace(string(text))
	for _, c := range []struct {
		story string
		code  int
		says  string
		args  []string
	}{
		{"good", 0, "This result holds: the machine's status is affirming", []string{result, "--jwks", set}},
		{"good, all asked", 0, "pass       nonce", []string{result, "--jwks", set, "--issuer", "https://assay.example", "--audience", "https://relying.example", "--nonce", "AAAAAAAAAAA"}},
		{"for somebody else, perhaps", 1, "it is for [\"https://relying.example\"]", []string{result, "--jwks", set, "--audience", ""}},
		{"for nobody", 0, "This result holds", []string{signed("nobody.jwt", nobodys), "--jwks", set, "--audience", ""}},
		{"online", 0, "holds", []string{result, "--jwks", published.URL + "/keys"}},
		{"in the other form", 0, "holds", []string{signed("ietf.jwt", good.IETF()), "--jwks", set}},
		{"another issuer", 1, "not by \"https://other.example\"", []string{result, "--jwks", set, "--issuer", "https://other.example"}},
		{"another audience", 1, "does not hold", []string{result, "--jwks", set, "--audience", "x"}},
		{"another nonce", 1, "nonce that was asked for", []string{result, "--jwks", set, "--nonce", "BBBBBBBBBBB"}},
		{"expired", 1, "it ended at", []string{signed("old.jwt", claims(verifier.Affirming, now.Add(-time.Hour))), "--jwks", set}},
		{"expired by now, not then", 0, "holds", []string{signed("then.jwt", claims(verifier.Affirming, now.Add(-time.Hour))), "--jwks", set, "--at", now.Add(-58 * time.Minute).UTC().Format(time.RFC3339)}},
		{"not yet", 1, "it begins only at", []string{signed("early.jwt", claims(verifier.Affirming, now.Add(10*time.Minute))), "--jwks", set}},
		{"a machine that fails", 1, "This result holds: the machine's status is contraindicated", []string{signed("bad.jwt", claims(verifier.Contraindicated, now)), "--jwks", set}},
		{"no result", 1, "eat_profile", []string{signed("id.jwt", map[string]any{"sub": "x", "exp": now.Unix() + 60}), "--jwks", set}},
		{"tampered with", 1, "does not cover", []string{file("forged.jwt", body[:len(body)-4]+"AAAA"), "--jwks", set}},
		{"another key set", 1, "not in the key set", []string{result, "--jwks", file("none.json", `{"keys":[]}`)}},
		{"no JWT", 2, "cannot be read as a result", []string{file("text.jwt", "text"), "--jwks", set}},
		{"two tokens", 2, "one token and nothing else", []string{file("two.jwt", body+"\n"+body), "--jwks", set}},
		{"no file", 2, "cannot be opened", []string{filepath.Join(dir, "nothing"), "--jwks", set}},
		{"no key set", 2, "cannot be read as a key set", []string{result, "--jwks", file("page.json", "<html>")}},
		{"a key set in the clear", 2, "use https", []string{result, "--jwks", "http://assay.example/.well-known/jwks.json"}},
		{"a leeway of days", 2, "--leeway", []string{result, "--jwks", set, "--leeway", "48h"}},
		{"nobody answers", 1, "cannot be fetched", []string{result, "--jwks", "http://127.0.0.1:1/keys"}},
	} {
		if !slices.Contains(c.args, "--audience") {
			c.args = append(c.args, "--audience", good.Audience)
		}
		r := assay(t, nil, append([]string{"token", "verify"}, c.args...)...)
		if r.code != c.code || !strings.Contains(r.stdout+r.stderr, c.says) {
			t.Errorf("%s: exit %d, want %d and %q:\n%s%s", c.story, r.code, c.code, c.says, r.stdout, r.stderr)
		}
	}
	var out verifiedResult
	r := assay(t, nil, "token", "verify", result, "--jwks", set, "--audience", good.Audience, "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || !out.Valid || out.Status != "affirming" || len(out.Checks) != 7 || out.Claims == nil {
		t.Errorf("%v: %s", err, r.stdout)
	}
}
