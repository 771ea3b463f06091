package token

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/assay-verifier/assay/verifier/ear"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// keyring keeps keys as the database does: made once, the same ever after.
type keyring map[string][]byte

func (k keyring) get(_ context.Context, purpose string, generate func() ([]byte, error)) ([]byte, error) {
	if key, ok := k[purpose]; ok {
		return key, nil
	}
	key, err := generate()
	if err == nil {
		k[purpose] = key
	}
	return key, err
}

func newService(t testing.TB, keys keyring, now func() time.Time) *Service {
	t.Helper()
	s, err := New(context.Background(), keys.get, rand.Reader, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(now time.Time) func() time.Time { return func() time.Time { return now } }

func claims(issued time.Time) ear.Claims {
	return ear.From(nil, ear.Context{VerdictID: "v", MachineID: "m", Build: "assay test", IssuedAt: issued, Lifetime: 5 * time.Minute})
}

// A relying party that knows nothing but the published keys accepts a result.
func TestResultVerifiesWithPublishedKeys(t *testing.T) {
	s := newService(t, keyring{}, at(t0))
	result, err := s.Sign(claims(t0))
	if err != nil {
		t.Fatal(err)
	}
	set, err := jwk.Parse(s.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	payload, err := jws.Verify([]byte(result), jws.WithKeySet(set, jws.WithRequireKid(true)))
	if err != nil {
		t.Fatal(err)
	}
	var got ear.Claims
	if err := json.Unmarshal(payload, &got); err != nil || got.ID != "v" || got.Subject != "m" {
		t.Fatalf("claims %+v, error %v", got, err)
	}
	message, err := jws.Parse([]byte(result))
	if err != nil {
		t.Fatal(err)
	}
	header := message.Signatures()[0].ProtectedHeaders()
	key, _ := set.Key(0)
	thumbprint, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if want := base64.RawURLEncoding.EncodeToString(thumbprint); header.KeyID() != want || header.Type() != "eat+jwt" || header.Algorithm() != "EdDSA" {
		t.Fatalf("header kid %q typ %q alg %q, want the RFC 7638 thumbprint %q", header.KeyID(), header.Type(), header.Algorithm(), want)
	}
}

// The key set shows the public half and nothing else.
func TestKeySetHoldsNoPrivateKey(t *testing.T) {
	s := newService(t, keyring{}, at(t0))
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(s.JWKS(), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("%s: %v", s.JWKS(), err)
	}
	if _, private := set.Keys[0]["d"]; private || set.Keys[0]["kty"] != "OKP" || set.Keys[0]["crv"] != "Ed25519" || set.Keys[0]["use"] != "sig" {
		t.Fatalf("key set %s", s.JWKS())
	}
}

// Every replica and every restart signs with the same key.
func TestKeysAreMadeOnce(t *testing.T) {
	keys := keyring{}
	first, second := newService(t, keys, at(t0)), newService(t, keys, at(t0))
	if string(first.JWKS()) != string(second.JWKS()) {
		t.Fatal("two replicas publish different keys")
	}
	result, err := first.Sign(claims(t0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Verify(result); err != nil {
		t.Fatal(err)
	}
	machine := first.MachineToken(uuid.New(), uuid.New(), uuid.New(), t0)
	if _, _, _, err := second.VerifyMachineToken(machine, t0); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyRefusesWhatIsNotOurs(t *testing.T) {
	s := newService(t, keyring{}, at(t0))
	good, err := s.Sign(claims(t0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(good); err != nil {
		t.Fatal(err)
	}
	other := newService(t, keyring{}, at(t0))
	foreign, err := other.Sign(claims(t0))
	if err != nil {
		t.Fatal(err)
	}
	expired, err := s.Sign(claims(t0.Add(-5 * time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	profile := claims(t0)
	profile.Profile = "tag:example.com,2026:other"
	otherProfile, err := s.Sign(profile)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	for name, result := range map[string]string{
		"signed by another service": foreign, "expired": expired, "of another profile": otherProfile,
		"alg none": none, "no signature": parts[0] + "." + parts[1] + ".", "empty": "", "garbage": "a.b.c",
	} {
		if _, err := s.Verify(result); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", name, err)
		}
	}
	for i := range []byte(parts[1]) { // every byte of the payload is covered by the signature
		changed := []byte(parts[1])
		changed[i] ^= 1
		if _, err := s.Verify(parts[0] + "." + string(changed) + "." + parts[2]); !errors.Is(err, ErrInvalid) {
			t.Fatalf("payload byte %d changed: error %v", i, err)
		}
	}
}

func TestMachineTokenNamesItsMachine(t *testing.T) {
	s := newService(t, keyring{}, at(t0))
	tenant, machine, key := uuid.New(), uuid.New(), uuid.New()
	token := s.MachineToken(tenant, machine, key, t0)
	if !strings.HasPrefix(token, MachinePrefix) {
		t.Fatalf("token %q lacks its prefix", token)
	}
	gotTenant, gotMachine, gotKey, err := s.VerifyMachineToken(token, t0.Add(time.Hour))
	if err != nil || gotTenant != tenant || gotMachine != machine || gotKey != key {
		t.Fatalf("%v %v %v %v", gotTenant, gotMachine, gotKey, err)
	}
}

func TestMachineTokenRefusals(t *testing.T) {
	s := newService(t, keyring{}, at(t0))
	good := s.MachineToken(uuid.New(), uuid.New(), uuid.New(), t0)
	for name, c := range map[string]struct {
		token string
		now   time.Time
	}{
		"after a year":             {good, t0.Add(MachineTokenLifetime)},
		"from the future":          {good, t0.Add(-time.Hour)},
		"of another service":       {newService(t, keyring{}, at(t0)).MachineToken(uuid.New(), uuid.New(), uuid.New(), t0), t0},
		"without prefix":           {strings.TrimPrefix(good, MachinePrefix), t0},
		"of another kind":          {"assay_adm_" + strings.TrimPrefix(good, MachinePrefix), t0},
		"shortened":                {good[:len(good)-1], t0},
		"lengthened":               {good + "A", t0},
		"empty":                    {"", t0},
		"prefix only":              {MachinePrefix, t0},
		"line break in the base64": {good[:20] + "\n" + good[20:len(good)-1], t0},
	} {
		if _, _, _, err := s.VerifyMachineToken(c.token, c.now); !errors.Is(err, ErrInvalid) {
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
			if _, _, _, err := s.VerifyMachineToken(MachinePrefix+base64.RawURLEncoding.EncodeToString(changed), t0); !errors.Is(err, ErrInvalid) {
				t.Fatalf("byte %d bit %d changed: error %v", i, bit, err)
			}
		}
	}
}

// A key of the wrong length in the database stops the service rather than weakens it.
func TestNewRefusesBadKeys(t *testing.T) {
	for _, purpose := range []string{PurposeResultSigning, PurposeMachineToken} {
		if _, err := New(context.Background(), keyring{purpose: []byte("short")}.get, rand.Reader, at(t0)); err == nil {
			t.Errorf("%s: a short key was accepted", purpose)
		}
	}
	failing := func(context.Context, string, func() ([]byte, error)) ([]byte, error) { return nil, errors.New("down") }
	if _, err := New(context.Background(), failing, rand.Reader, at(t0)); err == nil {
		t.Error("a store that fails was accepted")
	}
}

func FuzzVerifyMachineToken(f *testing.F) {
	s := newService(f, keyring{PurposeMachineToken: make([]byte, 32), PurposeResultSigning: make([]byte, 32)}, at(t0))
	f.Add(s.MachineToken(uuid.Nil, uuid.Nil, uuid.Nil, t0))
	f.Add(MachinePrefix)
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		tenant, machine, key, err := s.VerifyMachineToken(token, t0)
		if err != nil {
			return
		}
		// What is accepted is byte for byte what was issued for some time: there is one encoding.
		raw, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, MachinePrefix))
		issued := time.UnixMilli(int64(binary.BigEndian.Uint64(raw[49:57])))
		if s.MachineToken(tenant, machine, key, issued) != token {
			t.Fatalf("%q is accepted and was never issued", token)
		}
	})
}

// The fast path makes what the library makes: the same signature over the same bytes.
func TestSignIsPlainEd25519(t *testing.T) {
	s := newService(t, keyring{}, at(t0))
	result, err := s.Sign(claims(t0))
	if err != nil {
		t.Fatal(err)
	}
	dot := strings.LastIndexByte(result, '.')
	signature, err := base64.RawURLEncoding.DecodeString(result[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	public := s.signingKey.Public().(ed25519.PublicKey)
	if !ed25519.Verify(public, []byte(result[:dot]), signature) {
		t.Fatal("the signature does not cover header and payload")
	}
}

func BenchmarkSign(b *testing.B) {
	s := newService(b, keyring{}, at(t0))
	c := claims(t0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Sign(c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSignByLibrary is what Sign would cost without its fast path.
func BenchmarkSignByLibrary(b *testing.B) {
	s := newService(b, keyring{}, at(t0))
	c := claims(t0)
	b.ReportAllocs()
	for b.Loop() {
		payload, err := json.Marshal(c)
		if err != nil {
			b.Fatal(err)
		}
		headers := jws.NewHeaders()
		if err := errors.Join(headers.Set(jws.KeyIDKey, s.public.KeyID()), headers.Set(jws.TypeKey, "eat+jwt")); err != nil {
			b.Fatal(err)
		}
		if _, err := jws.Sign(payload, jws.WithKey(jwa.EdDSA, s.signingKey, jws.WithProtectedHeaders(headers))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyMachineToken(b *testing.B) {
	s := newService(b, keyring{}, at(t0))
	token := s.MachineToken(uuid.New(), uuid.New(), uuid.New(), t0)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, _, err := s.VerifyMachineToken(token, t0); err != nil {
			b.Fatal(err)
		}
	}
}
