package token

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/keyring"
	"github.com/assay-verifier/assay/verifier/ear"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// newRow makes a key of an algorithm as the database would hold it.
func newRow(t testing.TB, a *algorithm, generation int, created time.Time, activated *time.Time) store.ServiceKeyRow {
	t.Helper()
	k, err := a.add(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return store.ServiceKeyRow{ID: uuid.New(), Purpose: a.purpose, Generation: generation, Key: k.Key, Public: k.Public, CreatedAt: created, ActivatedAt: activated}
}

// newService is a service whose keys have just been read: of each algorithm one that signs, and one that is next.
func newService(t testing.TB, now func() time.Time) *Service {
	t.Helper()
	s := &Service{cfg: Config{Now: now, Random: rand.Reader, Lifetime: DefaultLifetime}, machineKey: make([]byte, 32), machineLifetime: MachineTokenLifetime}
	if _, err := rand.Read(s.machineKey); err != nil {
		t.Fatal(err)
	}
	k := &snapshot{readAt: now()}
	for i := range algorithms {
		a, begin := &algorithms[i], t0.Add(-time.Hour)
		r, err := newRing(a, []store.ServiceKeyRow{newRow(t, a, 2, begin, nil), newRow(t, a, 1, begin, &begin)})
		if err != nil {
			t.Fatal(err)
		}
		k.rings = append(k.rings, r)
	}
	s.keys.Store(k)
	return s
}

// verify is Verify with the keys that were read last.
func (s *Service) verify(result string) (relying.Claims, error) {
	p, err := relying.Split(result)
	if err != nil {
		return relying.Claims{}, ErrInvalid
	}
	return s.keys.Load().verify(result, p.Header.KeyID, s.cfg.Now())
}

func sign(t testing.TB, s *Service, name string, claims any) string {
	t.Helper()
	result, err := s.Sign(context.Background(), name, claims)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func keySet(t testing.TB, s *Service) []byte {
	t.Helper()
	set, err := s.JWKS(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return set.Document
}

func at(now time.Time) func() time.Time { return func() time.Time { return now } }

func claims(issued time.Time) ear.Claims {
	return ear.From(nil, ear.Context{TokenID: "t", VerdictID: "v", MachineID: "m", Build: "assay test", IssuedAt: issued, Lifetime: 5 * time.Minute})
}

// A relying party that knows nothing but the published keys accepts a result, in both algorithms, by a library that is not ours.
func TestResultVerifiesWithPublishedKeys(t *testing.T) {
	s := newService(t, at(t0))
	set, err := jwk.Parse(keySet(t, s))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Algorithms() {
		result := sign(t, s, name, claims(t0))
		payload, err := jws.Verify([]byte(result), jws.WithKeySet(set, jws.WithRequireKid(true)))
		if err != nil {
			t.Fatal(name, err)
		}
		var got ear.Claims
		if err := json.Unmarshal(payload, &got); err != nil || got.VerdictID != "v" || got.Subject != "m" || got.ID != "t" {
			t.Fatalf("claims %+v, error %v", got, err)
		}
		message, err := jws.Parse([]byte(result))
		if err != nil {
			t.Fatal(err)
		}
		header := message.Signatures()[0].ProtectedHeaders()
		key, found := set.LookupKeyID(header.KeyID())
		if !found {
			t.Fatal("the key is not published")
		}
		thumbprint, err := key.Thumbprint(crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if want := base64.RawURLEncoding.EncodeToString(thumbprint); header.KeyID() != want || header.Type() != "eat+jwt" || header.Algorithm().String() != name {
			t.Fatalf("header kid %q typ %q alg %q, want the RFC 7638 thumbprint %q", header.KeyID(), header.Type(), header.Algorithm(), want)
		}
		if _, err := s.verify(result); err != nil {
			t.Fatal(name, err)
		}
	}
	for _, name := range []string{"none", "HS256", "RS256"} {
		if _, err := s.Sign(context.Background(), name, claims(t0)); err == nil {
			t.Errorf("a result was signed with %s", name)
		}
	}
}

// The key set shows the public halves and nothing else, the one that comes next included.
func TestKeySetHoldsNoPrivateKey(t *testing.T) {
	s := newService(t, at(t0))
	var set struct{ Keys []map[string]any }
	document := keySet(t, s)
	if err := json.Unmarshal(document, &set); err != nil || len(set.Keys) != 4 {
		t.Fatalf("%s: %v", document, err)
	}
	for _, k := range set.Keys {
		if _, private := k["d"]; private || k["use"] != "sig" || (k["crv"] != "Ed25519" && k["crv"] != "P-256") {
			t.Fatalf("key set %s", document)
		}
	}
}

func TestVerifyRefusesWhatIsNotOurs(t *testing.T) {
	for _, name := range Algorithms() {
		s := newService(t, at(t0))
		good := sign(t, s, name, claims(t0))
		if _, err := s.verify(good); err != nil {
			t.Fatal(err)
		}
		foreign := sign(t, newService(t, at(t0)), name, claims(t0))
		profile := claims(t0)
		profile.Profile = "tag:example.com,2026:other"
		parts := strings.Split(good, ".")
		none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
		for story, result := range map[string]string{
			"signed by another service": foreign, "of another profile": sign(t, s, name, profile),
			"alg none": none, "no signature": parts[0] + "." + parts[1] + ".", "empty": "", "garbage": "a.b.c", "line break": good[:len(good)-1] + "\n" + good[len(good)-1:],
			"four parts": good + ".AAAA",
		} {
			if _, err := s.verify(result); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: error %v, want ErrInvalid", story, err)
			}
		}
		if _, err := s.verify(sign(t, s, name, claims(t0.Add(-5*time.Minute)))); !errors.Is(err, ErrExpired) {
			t.Errorf("expired: %v", err)
		}
		for i := range []byte(parts[1]) { // every byte of the payload is covered by the signature
			changed := []byte(parts[1])
			changed[i] ^= 1
			if _, err := s.verify(parts[0] + "." + string(changed) + "." + parts[2]); !errors.Is(err, ErrInvalid) {
				t.Fatalf("payload byte %d changed: error %v", i, err)
			}
		}
	}
}

func TestMachineTokenNamesItsMachine(t *testing.T) {
	s := newService(t, at(t0))
	for _, certificate := range [][]byte{nil, bytes.Repeat([]byte{7}, 32)} {
		want := Machine{Tenant: uuid.New(), MachineID: uuid.New(), KeyID: uuid.New(), Issued: t0.Truncate(time.Millisecond), Certificate: certificate}
		token := s.MachineToken(want)
		if !strings.HasPrefix(token, MachinePrefix) {
			t.Fatalf("token %q lacks its prefix", token)
		}
		got, err := s.VerifyMachineToken(token, t0.Add(time.Hour))
		if err != nil || got.Tenant != want.Tenant || got.MachineID != want.MachineID || got.KeyID != want.KeyID || !got.Issued.Equal(want.Issued) || !bytes.Equal(got.Certificate, certificate) {
			t.Fatalf("%+v %v", got, err)
		}
	}
}

func TestMachineTokenRefusals(t *testing.T) {
	s := newService(t, at(t0))
	some := func() Machine {
		return Machine{Tenant: uuid.New(), MachineID: uuid.New(), KeyID: uuid.New(), Issued: t0}
	}
	bound := some()
	bound.Certificate = bytes.Repeat([]byte{7}, 32)
	for _, m := range []Machine{some(), bound} {
		refusesMachineTokens(t, s, s.MachineToken(m), newService(t, at(t0)).MachineToken(some()))
	}
}

func refusesMachineTokens(t *testing.T, s *Service, good, foreign string) {
	for name, c := range map[string]struct {
		token string
		now   time.Time
	}{
		"after a year":             {good, t0.Add(MachineTokenLifetime)},
		"from the future":          {good, t0.Add(-time.Hour)},
		"of another service":       {foreign, t0},
		"without prefix":           {strings.TrimPrefix(good, MachinePrefix), t0},
		"of another kind":          {"assay_adm_" + strings.TrimPrefix(good, MachinePrefix), t0},
		"shortened":                {good[:len(good)-1], t0},
		"lengthened":               {good + "A", t0},
		"empty":                    {"", t0},
		"prefix only":              {MachinePrefix, t0},
		"line break in the base64": {good[:20] + "\n" + good[20:len(good)-1], t0},
	} {
		if _, err := s.VerifyMachineToken(c.token, c.now); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", name, err)
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(good, MachinePrefix))
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw { // every bit is covered by the MAC
		for bit := range 8 {
			changed := append([]byte{}, raw...)
			changed[i] ^= 1 << bit
			if _, err := s.VerifyMachineToken(MachinePrefix+base64.RawURLEncoding.EncodeToString(changed), t0); !errors.Is(err, ErrInvalid) {
				t.Fatalf("byte %d bit %d changed: error %v", i, bit, err)
			}
		}
	}
}

// A key of the wrong length in the database stops the service rather than weakens it.
func TestBadKeysAreRefused(t *testing.T) {
	for i := range algorithms {
		row := newRow(t, &algorithms[i], 1, t0, &t0)
		row.Key = keyring.NewSecret([]byte("short"))
		if _, err := newRing(&algorithms[i], []store.ServiceKeyRow{row}); err == nil {
			t.Errorf("%s: a short key was accepted", algorithms[i].purpose)
		}
		row.Public = []byte("no key")
		if _, err := newRing(&algorithms[i], []store.ServiceKeyRow{row}); err == nil {
			t.Errorf("%s: a broken public half was accepted", algorithms[i].purpose)
		}
	}
}

// Whatever somebody sends, it is refused, or it is byte for byte what was signed.
func FuzzVerifyResult(f *testing.F) {
	s := newService(f, at(t0))
	signed := map[string]bool{}
	for _, name := range Algorithms() {
		result := sign(f, s, name, claims(t0))
		signed[result] = true
		f.Add(result)
	}
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, result string) {
		if claims, err := s.verify(result); err == nil && !signed[result] {
			// ECDSA signatures have two forms; the signed bytes are the same in both.
			if parts, _ := relying.Split(result); parts.Header.Algorithm != relying.ES256 || claims.VerdictID != "v" {
				t.Fatalf("%q is accepted and was never signed", result)
			}
		}
	})
}

func FuzzVerifyMachineToken(f *testing.F) {
	s := newService(f, at(t0))
	f.Add(s.MachineToken(Machine{Issued: t0}))
	f.Add(s.MachineToken(Machine{Issued: t0, Certificate: make([]byte, 32)}))
	f.Add(MachinePrefix)
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		m, err := s.VerifyMachineToken(token, t0)
		if err != nil {
			return
		}
		// What is accepted is byte for byte what was issued for some time: there is one encoding.
		if s.MachineToken(m) != token {
			t.Fatalf("%q is accepted and was never issued", token)
		}
	})
}

// The fast path makes what the library makes: the same signature over the same bytes.
func TestSignIsPlainEd25519(t *testing.T) {
	s := newService(t, at(t0))
	result := sign(t, s, "", claims(t0))
	dot := strings.LastIndexByte(result, '.')
	signature, err := base64.RawURLEncoding.DecodeString(result[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	signer, _, err := s.DocumentSigner()
	if err != nil {
		t.Fatal(err)
	}
	public := signer.Public().(ed25519.PublicKey)
	if !ed25519.Verify(public, []byte(result[:dot]), signature) {
		t.Fatal("the signature does not cover header and payload")
	}
}

func BenchmarkSign(b *testing.B) {
	s := newService(b, at(t0))
	c := claims(t0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Sign(context.Background(), "", c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSignByLibrary is what Sign would cost without its fast path.
func BenchmarkSignByLibrary(b *testing.B) {
	s := newService(b, at(t0))
	signer, keyID, err := s.DocumentSigner()
	if err != nil {
		b.Fatal(err)
	}
	c := claims(t0)
	b.ReportAllocs()
	for b.Loop() {
		payload, err := json.Marshal(c)
		if err != nil {
			b.Fatal(err)
		}
		headers := jws.NewHeaders()
		if err := errors.Join(headers.Set(jws.KeyIDKey, keyID), headers.Set(jws.TypeKey, "eat+jwt")); err != nil {
			b.Fatal(err)
		}
		if _, err := jws.Sign(payload, jws.WithKey(jwa.EdDSA, signer, jws.WithProtectedHeaders(headers))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyMachineToken(b *testing.B) {
	s := newService(b, at(t0))
	token := s.MachineToken(Machine{Tenant: uuid.New(), MachineID: uuid.New(), KeyID: uuid.New(), Issued: t0})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.VerifyMachineToken(token, t0); err != nil {
			b.Fatal(err)
		}
	}
}

// A token is renewed a day after it was made, or after a third of a life that is shorter; never later than it ends.
func TestMachineTokensAreRenewedInTime(t *testing.T) {
	s := newService(t, at(t0))
	for _, c := range []struct {
		lifetime, age time.Duration
		renews        bool
	}{
		{MachineTokenLifetime, 23 * time.Hour, false}, {MachineTokenLifetime, 24 * time.Hour, true},
		{3 * time.Hour, time.Hour - 1, false}, {3 * time.Hour, time.Hour, true},
	} {
		s.machineLifetime = c.lifetime
		if got := s.Renews(t0, t0.Add(c.age)); got != c.renews {
			t.Errorf("lifetime %s, age %s: renews %v", c.lifetime, c.age, got)
		}
		token := s.MachineToken(Machine{Issued: t0})
		if _, err := s.VerifyMachineToken(token, t0.Add(c.lifetime-time.Millisecond)); err != nil {
			t.Errorf("lifetime %s: %v", c.lifetime, err)
		}
		if _, err := s.VerifyMachineToken(token, t0.Add(c.lifetime)); !errors.Is(err, ErrInvalid) {
			t.Errorf("lifetime %s: it outlives it: %v", c.lifetime, err)
		}
	}
}
