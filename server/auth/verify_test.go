package auth

import (
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/auth/authtest"
	"github.com/assay-verifier/assay/store"
)

const audience = "https://assay.example"

// scene is an issuer, a provider that trusts it, and the clock. The provider is what a database would hold; tests of
// package server have a real one.
type scene struct {
	t        *testing.T
	issuer   *authtest.Issuer
	verifier *Verifier
	mu       sync.Mutex
	now      time.Time
	provider store.IdentityProvider
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, issuer: authtest.Start(t, true), now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	s.provider = store.IdentityProvider{ID: uuid.New(), Name: "github", Issuer: s.issuer.URL(), Audiences: []string{audience},
		Algorithms: Algorithms(), MaxTokenLifetime: time.Hour, Enabled: true, UpdatedAt: s.now}
	s.restart()
	return s
}

// restart forgets what is in memory alone.
func (s *scene) restart() {
	s.verifier = New(Config{
		Providers: func(_ context.Context, _ uuid.UUID, issuer string) ([]store.IdentityProvider, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if issuer != s.provider.Issuer || !s.provider.Enabled {
				return nil, nil
			}
			return []store.IdentityProvider{s.provider}, nil
		},
		SaveKeys: func(_ context.Context, _ uuid.UUID, p store.IdentityProvider, keys store.IssuerKeys) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if p.UpdatedAt.Equal(s.provider.UpdatedAt) {
				s.provider.Keys = &keys
			}
			return nil
		},
		Now: func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now }, Reach: Reach{Private: true}, Roots: s.issuer.Roots(),
	})
}

func (s *scene) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// token is one of now with changed claims.
func (s *scene) token(changes map[string]any) string {
	return s.issuer.Token(s.issuer.Claims(audience, s.now, changes))
}

func (s *scene) accepts(raw string) Identity {
	s.t.Helper()
	id, err := s.verifier.Verify(s.t.Context(), raw)
	if err != nil {
		s.t.Fatalf("refused: %v", err)
	}
	return id
}

func (s *scene) refuses(code, raw string) *Error {
	s.t.Helper()
	_, err := s.verifier.Verify(s.t.Context(), raw)
	var e *Error
	if !errors.As(err, &e) || e.Code != code {
		s.t.Errorf("%v, not %s", err, code)
		return &Error{}
	}
	if len(raw) > 40 && strings.Contains(e.Detail, raw[20:40]) {
		s.t.Errorf("the refusal repeats the token: %v", e)
	}
	return e
}

func TestVerifyAcceptsWhatTheIssuerSigned(t *testing.T) {
	s := newScene(t)
	id := s.accepts(s.token(nil))
	if id.Issuer != s.issuer.URL() || id.Subject != "repo:example/images:ref:refs/heads/main" || id.Tenant != store.DefaultTenant || id.ProviderID != s.provider.ID {
		t.Errorf("%+v", id)
	}
	if got := id.Claims.Values("repository"); len(got) != 1 || got[0] != "example/images" {
		t.Errorf("repository: %v", got)
	}
	s.accepts(s.token(map[string]any{"aud": []string{"somebody", audience}}))
	s.accepts(s.token(map[string]any{"nbf": nil, "iat": s.now.Unix() + 59}))
	for _, k := range []authtest.Key{
		{ID: "pss", Algorithm: "PS256", Private: authtest.RSA(t)}, {ID: "p256", Algorithm: "ES256", Private: authtest.EC(t, elliptic.P256())},
		{ID: "p384", Algorithm: "ES384", Private: authtest.EC(t, elliptic.P384())}, {ID: "ed", Algorithm: "EdDSA", Private: authtest.Ed(t)},
	} {
		s.issuer.Add(k)
		s.pass(2 * time.Minute) // a new key is looked for once a minute
		s.accepts(s.token(nil))
	}
}

func TestVerifyRefuses(t *testing.T) {
	s := newScene(t)
	key := authtest.Key{ID: "rsa-2", Private: authtest.RSA(t)}
	s.issuer.Add(key)
	good := s.token(nil)
	s.accepts(good)
	claims := func(changes map[string]any) map[string]any { return s.issuer.Claims(audience, s.now, changes) }
	parts := strings.Split(good, ".")
	ec := authtest.Key{ID: "ec", Algorithm: "ES256", Private: authtest.EC(t, elliptic.P256())}
	for name, c := range map[string]struct{ code, token string }{
		"expired":                    {CodeExpired, s.token(map[string]any{"exp": s.now.Unix() - 1})},
		"expires now":                {CodeExpired, s.token(map[string]any{"exp": s.now.Unix()})},
		"no exp":                     {CodeClaims, s.token(map[string]any{"exp": nil})},
		"no iat":                     {CodeClaims, s.token(map[string]any{"iat": nil})},
		"issued in the future":       {CodeNotYetValid, s.token(map[string]any{"iat": s.now.Unix() + 61})},
		"valid in the future":        {CodeNotYetValid, s.token(map[string]any{"nbf": s.now.Unix() + 61})},
		"lives too long":             {CodeLifetime, s.token(map[string]any{"exp": s.now.Unix() + 3601})},
		"time as text":               {CodeMalformed, s.token(map[string]any{"exp": "9999999999"})},
		"negative time":              {CodeMalformed, s.token(map[string]any{"iat": -5})},
		"time without end":           {CodeMalformed, s.token(map[string]any{"exp": 1e300})},
		"no subject":                 {CodeClaims, s.token(map[string]any{"sub": nil})},
		"empty subject":              {CodeClaims, s.token(map[string]any{"sub": ""})},
		"subject with a line break":  {CodeClaims, s.token(map[string]any{"sub": "a\nb"})},
		"long subject":               {CodeClaims, s.token(map[string]any{"sub": strings.Repeat("x", 1025)})},
		"subject is a number":        {CodeMalformed, s.token(map[string]any{"sub": 5})},
		"wrong audience":             {CodeAudience, s.token(map[string]any{"aud": "https://other.example"})},
		"audience by prefix":         {CodeAudience, s.token(map[string]any{"aud": audience + "/"})},
		"no audience":                {CodeAudience, s.token(map[string]any{"aud": nil})},
		"empty list of audiences":    {CodeAudience, s.token(map[string]any{"aud": []string{}})},
		"audience is an object":      {CodeMalformed, s.token(map[string]any{"aud": map[string]any{}})},
		"many audiences":             {CodeMalformed, s.token(map[string]any{"aud": strings.Split(strings.Repeat("a,", 33), ",")})},
		"wrong issuer":               {CodeIssuer, s.token(map[string]any{"iss": "https://evil.example"})},
		"issuer with a slash":        {CodeIssuer, s.token(map[string]any{"iss": s.issuer.URL() + "/"})},
		"no issuer":                  {CodeIssuer, s.token(map[string]any{"iss": nil})},
		"alg none":                   {CodeAlgorithm, authtest.Unsigned(t, claims(nil))},
		"alg None":                   {CodeAlgorithm, authtest.Part(t, map[string]any{"alg": "None", "kid": "rsa-2"}) + "." + parts[1] + "." + parts[2]},
		"no alg":                     {CodeAlgorithm, authtest.Sign(t, key, map[string]any{"alg": nil}, claims(nil))},
		"the public key as a secret": {CodeAlgorithm, authtest.Confused(t, key, claims(nil))},
		"RS512":                      {CodeAlgorithm, authtest.Sign(t, key, map[string]any{"alg": "RS512"}, claims(nil))},
		"RSA key as ES256":           {CodeKeyUnknown, authtest.Sign(t, key, map[string]any{"alg": "ES256"}, claims(nil))},
		"EC key under the RSA kid":   {CodeSignature, authtest.Sign(t, ec, map[string]any{"alg": "RS256", "kid": "rsa-2"}, claims(nil))},
		"PSS by an RS256 signature":  {CodeSignature, authtest.Sign(t, key, map[string]any{"alg": "PS256"}, claims(nil))},
		"another key of this kid":    {CodeSignature, authtest.Sign(t, authtest.Key{ID: "rsa-2", Private: authtest.RSA(t)}, nil, claims(nil))},
		"unknown kid":                {CodeKeyUnknown, authtest.Sign(t, key, map[string]any{"kid": "other"}, claims(nil))},
		"no kid of two keys":         {CodeKeyUnknown, authtest.Sign(t, key, map[string]any{"kid": nil}, claims(nil))},
		"kid of another key":         {CodeSignature, authtest.Sign(t, key, map[string]any{"kid": "rsa-1"}, claims(nil))},
		"other claims":               {CodeSignature, parts[0] + "." + authtest.Part(t, claims(map[string]any{"repository": "evil/images"})) + "." + parts[2]},
		"no signature":               {CodeSignature, parts[0] + "." + parts[1] + "."},
		"crit":                       {CodeMalformed, authtest.Sign(t, key, map[string]any{"crit": []string{"exp"}}, claims(nil))},
		"b64":                        {CodeMalformed, authtest.Sign(t, key, map[string]any{"b64": false}, claims(nil))},
		"zip":                        {CodeMalformed, authtest.Sign(t, key, map[string]any{"zip": "DEF"}, claims(nil))},
		"logout token":               {CodeMalformed, authtest.Sign(t, key, map[string]any{"typ": "logout+jwt"}, claims(nil))},
		"kid too long":               {CodeMalformed, authtest.Sign(t, key, map[string]any{"kid": strings.Repeat("k", 513)}, claims(nil))},
		"claim twice":                {CodeMalformed, parts[0] + "." + authtest.Part(t, `{"iss":"a","iss":"b"}`) + "." + parts[2]},
		"header member twice":        {CodeMalformed, authtest.Part(t, `{"alg":"RS256","alg":"none"}`) + "." + parts[1] + "." + parts[2]},
		"payload is a list":          {CodeMalformed, parts[0] + "." + authtest.Part(t, `[]`) + "." + parts[2]},
		"payload is null":            {CodeMalformed, parts[0] + "." + authtest.Part(t, `null`) + "." + parts[2]},
		"padding":                    {CodeMalformed, good + "="},
		"line break":                 {CodeMalformed, parts[0] + "." + parts[1][:8] + "\n" + parts[1][8:] + "." + parts[2]},
		"standard base64":            {CodeMalformed, parts[0] + "." + parts[1] + ".++//"},
		"four parts":                 {CodeMalformed, good + "."},
		"too long":                   {CodeMalformed, s.token(map[string]any{"x": strings.Repeat("x", MaxTokenSize)})},
	} {
		t.Run(name, func(t *testing.T) { s.t = t; s.refuses(c.code, c.token) })
	}
	s.t = t
	s.accepts(good)
}

func TestOneTokenHasOneForm(t *testing.T) {
	s := newScene(t)
	good := s.token(nil)
	s.accepts(good)
	// The last character of 256 bytes of signature carries four bits that no byte needs.
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, good[len(good)-1])
	s.refuses(CodeMalformed, good[:len(good)-1]+string(alphabet[last|1]))
}

func TestProviderMayNarrowTheAlgorithms(t *testing.T) {
	s := newScene(t)
	s.provider.Algorithms = []string{"ES256"}
	s.refuses(CodeAlgorithm, s.token(nil))
	if s.issuer.Asked() != 0 {
		t.Error("the issuer was asked for a token that is refused in any case")
	}
}

func TestNothingIsFetchedForAnUnknownIssuer(t *testing.T) {
	s := newScene(t)
	other := authtest.Start(t, true)
	s.refuses(CodeIssuer, other.Token(other.Claims(audience, s.now, nil)))
	if other.Asked() != 0 {
		t.Errorf("it was asked %d times", other.Asked())
	}
}

func TestKeysAreFetchedOnceAndKept(t *testing.T) {
	s := newScene(t)
	var all sync.WaitGroup
	token := s.token(nil)
	for range 20 {
		all.Go(func() { s.accepts(token) })
	}
	all.Wait()
	if n := s.issuer.Asked(); n != 2 { // discovery and keys
		t.Errorf("%d requests", n)
	}
	s.restart()
	s.accepts(token)
	if n := s.issuer.Asked(); n != 2 {
		t.Errorf("%d requests after a restart", n)
	}
}

func TestRotation(t *testing.T) {
	s := newScene(t)
	old := s.token(nil)
	s.accepts(old)
	s.issuer.Rotate(authtest.Key{ID: "rsa-2", Algorithm: "RS256", Private: authtest.RSA(t)})
	s.refuses(CodeKeyUnknown, s.token(nil)) // asked less than a minute ago
	s.pass(unknownKeyGap)
	s.accepts(s.token(nil))
	s.refuses(CodeKeyUnknown, old) // withdrawn
	n := s.issuer.Asked()
	for range 50 {
		s.refuses(CodeKeyUnknown, authtest.Sign(t, authtest.Key{ID: "made-up", Private: authtest.RSA(t)}, nil, s.issuer.Claims(audience, s.now, nil)))
	}
	if s.issuer.Asked() != n {
		t.Error("key ids that do not exist made the service ask the issuer")
	}
}

func TestKeysOutliveTheIssuerAndThenEnd(t *testing.T) {
	s := newScene(t)
	s.accepts(s.token(nil)) // max-age=600
	s.issuer.Stop()
	s.pass(4 * time.Minute)
	s.accepts(s.token(nil))
	s.pass(5 * time.Minute) // beyond half of their life: a fetch is tried, and fails
	s.accepts(s.token(nil))
	s.restart()
	s.accepts(s.token(nil))
	s.pass(time.Minute) // ten minutes in all
	e := s.refuses(CodeIssuerUnavailable, s.token(nil))
	if e.RetryAfter < time.Second || !strings.Contains(e.Detail, "cannot be reached") || strings.Contains(e.Detail, "127.0.0.1") {
		t.Errorf("%+v", e)
	}
	s.restart()
	s.refuses(CodeIssuerUnavailable, s.token(nil))
}

func TestBackOff(t *testing.T) {
	s := newScene(t)
	s.issuer.Change(func(i *authtest.Issuer) {
		i.Serve = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusBadGateway) }
	})
	var waits []time.Duration
	for range 12 {
		n := s.issuer.Asked()
		e := s.refuses(CodeIssuerUnavailable, s.token(nil))
		if s.issuer.Asked() != n+1 || !strings.Contains(e.Detail, "answers 502") {
			t.Fatalf("asked %d times: %v", s.issuer.Asked()-n, e)
		}
		s.refuses(CodeIssuerUnavailable, s.token(nil))
		if s.issuer.Asked() != n+1 {
			t.Fatal("asked again before the time")
		}
		waits = append(waits, e.RetryAfter)
		s.pass(e.RetryAfter)
	}
	if waits[0] != firstBackOff || waits[3] != 8*firstBackOff || waits[11] != longestBack {
		t.Errorf("waits %v", waits)
	}
	s.issuer.Change(func(i *authtest.Issuer) { i.Serve = nil })
	s.accepts(s.token(nil))
}

func TestKeysOfAnEarlierStateOfTheProviderDoNotCount(t *testing.T) {
	s := newScene(t)
	token := s.token(nil)
	s.accepts(token)
	s.issuer.Rotate(authtest.Key{ID: "rsa-2", Algorithm: "RS256", Private: authtest.RSA(t)})
	s.provider.Keys, s.provider.UpdatedAt = nil, s.now.Add(time.Second) // as an administrator's change leaves it
	s.refuses(CodeKeyUnknown, token)
	s.provider.Enabled = false
	s.refuses(CodeIssuer, s.token(nil))
}

func TestTenantOf(t *testing.T) {
	other := uuid.MustParse("01900000-0000-7000-8000-000000000002")
	for text, want := range map[string]uuid.UUID{
		"": store.DefaultTenant, "https://assay.example": store.DefaultTenant, "assay:" + other.String(): other, "https://assay.example/" + other.String(): other,
		other.String(): other, "https://assay.example/" + other.String() + "/": store.DefaultTenant, "https://assay.example/x" + other.String()[1:]: store.DefaultTenant,
		"https://assay.example/{" + other.String() + "}": store.DefaultTenant, "a/" + strings.ReplaceAll(other.String(), "-", ""): store.DefaultTenant,
	} {
		if got := TenantOf(text); got != want {
			t.Errorf("%q is of %s", text, got)
		}
	}
}

func TestAudiencesOfTwoProvidersAreRefused(t *testing.T) {
	s := newScene(t)
	other := uuid.New()
	second := s.provider
	second.ID, second.Audiences = uuid.New(), []string{"b/" + other.String()}
	first := s.verifier.providers
	s.verifier.providers = func(ctx context.Context, tenant uuid.UUID, issuer string) ([]store.IdentityProvider, error) {
		if tenant == other {
			return []store.IdentityProvider{second}, nil
		}
		return first(ctx, tenant, issuer)
	}
	s.refuses(CodeAudience, s.token(map[string]any{"aud": []string{audience, second.Audiences[0]}}))
	if id := s.accepts(s.token(map[string]any{"aud": second.Audiences[0]})); id.Tenant != other || id.ProviderID != second.ID {
		t.Errorf("%+v", id)
	}
	// A provider of one tenant that names an audience of another is never asked: the text decides.
	second.Audiences = []string{audience}
	if id := s.accepts(s.token(nil)); id.Tenant != store.DefaultTenant {
		t.Errorf("%+v", id)
	}
}

func TestWeakAndForeignKeysAreLeftOut(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	s := newScene(t)
	s.issuer.Add(authtest.Key{ID: "weak", Algorithm: "RS256", Private: weak})
	s.refuses(CodeKeyUnknown, s.token(nil))
	for name, set := range map[string]string{
		"a secret":       `{"keys":[{"kty":"oct","kid":"a","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}`,
		"for encryption": `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","use":"enc","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`,
		"key agreement":  `{"keys":[{"kty":"OKP","crv":"X25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`,
		"not for verify": `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","key_ops":["sign"],"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`,
		"off the curve":  `{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}]}`,
		"a private key":  `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`,
		"unknown kind":   `{"keys":[{"kty":"new","kid":"a"}]}`, "empty": `{"keys":[]}`, "no set": `[]`, "no JSON": `x`,
		"too many": `{"keys":[` + strings.TrimSuffix(strings.Repeat(`{},`, maxKeys+1), ",") + `]}`,
	} {
		if got, err := parseKeys([]byte(set)); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got, err := parseKeys([]byte(`{"keys":[{"kty":"new"},5,{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}
