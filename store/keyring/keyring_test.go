package keyring

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
)

var purpose = Purpose{Tenant: uuid.MustParse("01900000-0000-7000-8000-000000000001"), Name: "result_signing", Label: "1"}

// keyFile writes a key file and reads it.
func keyFile(t testing.TB, lines ...string) []Wrapper {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := ReadKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func newLine(t testing.TB) string {
	t.Helper()
	line, err := NewKeyLine(rand32{})
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// rand32 is randomness for tests that differs at each call.
type rand32 struct{}

func (rand32) Read(b []byte) (int, error) {
	id := uuid.New()
	for i := range b {
		b[i] = id[i%16] ^ byte(i)
	}
	return len(b), nil
}

func newRing(t testing.TB, current Wrapper, older ...Wrapper) *Ring {
	t.Helper()
	r, err := NewRing(current, older...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSealAndOpen(t *testing.T) {
	ctx := t.Context()
	keys := keyFile(t, "# comment\n\n", newLine(t), newLine(t))
	ring := newRing(t, keys[0], keys[1])
	secret := []byte("thirty-two bytes of a secret key")
	sealed, err := ring.Seal(ctx, NewSecret(bytes.Clone(secret)), purpose)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, secret) {
		t.Fatal("the secret can be read in its envelope")
	}
	if id, err := KEKOf(sealed); err != nil || id != keys[0].ID() {
		t.Errorf("sealed with %q, %v", id, err)
	}
	opened, err := ring.Open(ctx, sealed, purpose)
	if err != nil || !bytes.Equal(opened.Reveal(), secret) {
		t.Fatalf("opened %x, %v", opened.Reveal(), err)
	}
	again, err := ring.Seal(ctx, NewSecret(bytes.Clone(secret)), purpose)
	if err != nil || bytes.Equal(again, sealed) {
		t.Errorf("two envelopes of one secret are the same: %v", err)
	}
	// An older key still opens, and a ring without it does not.
	if _, err := newRing(t, keys[1], keys[0]).Open(ctx, sealed, purpose); err != nil {
		t.Error(err)
	}
	for story, r := range map[string]*Ring{"another key": newRing(t, keys[1]), "no key": nil} {
		if _, err := r.Open(ctx, sealed, purpose); !errors.Is(err, ErrNoKEK) || !strings.Contains(err.Error(), keys[0].ID()) {
			t.Errorf("%s: %v", story, err)
		}
	}
	impostor := keyFile(t, keys[0].ID()+" "+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n")
	if _, err := newRing(t, impostor[0]).Open(ctx, sealed, purpose); !errors.Is(err, ErrDamaged) {
		t.Errorf("another key of the same id: %v", err)
	}
	if _, err := (*Ring)(nil).Seal(ctx, NewSecret(secret), purpose); !errors.Is(err, ErrNoKEK) {
		t.Errorf("sealed without a key: %v", err)
	}
}

// Every bit of an envelope is authenticated, and so is what it is for.
func TestEnvelopeIsBound(t *testing.T) {
	ctx := t.Context()
	ring := newRing(t, keyFile(t, newLine(t))[0])
	sealed, err := ring.Seal(ctx, NewSecret([]byte("secret")), purpose)
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		for bit := range 8 {
			changed := bytes.Clone(sealed)
			changed[i] ^= 1 << bit
			if _, err := ring.Open(ctx, changed, purpose); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoKEK) {
				t.Fatalf("byte %d bit %d changed: %v", i, bit, err)
			}
		}
	}
	for i := range sealed {
		if _, err := ring.Open(ctx, sealed[:i], purpose); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoKEK) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
	for story, change := range map[string]func(*Purpose){
		"another tenant":     func(p *Purpose) { p.Tenant = uuid.Max },
		"another purpose":    func(p *Purpose) { p.Name = "machine_token" },
		"another generation": func(p *Purpose) { p.Label = "2" },
		"parts moved":        func(p *Purpose) { p.Name, p.Label = "result_signing1", "" },
	} {
		other := purpose
		change(&other)
		if _, err := ring.Open(ctx, sealed, other); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", story, err)
		}
	}
}

func TestBox(t *testing.T) {
	box, err := NewBox(NewSecret(bytes.Repeat([]byte{1}, 32)), purpose.Tenant, "webhook_secrets")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := box.Seal(NewSecret([]byte("whsec_x")), "row 1")
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := box.Open(sealed, "row 1"); err != nil || string(opened.Reveal()) != "whsec_x" {
		t.Errorf("%q, %v", opened.Reveal(), err)
	}
	for _, b := range [][]byte{nil, sealed[:11], sealed[:len(sealed)-1], append([]byte{1}, sealed...)} {
		if _, err := box.Open(b, "row 1"); !errors.Is(err, ErrDamaged) {
			t.Errorf("%x: %v", b, err)
		}
	}
	if _, err := box.Open(sealed, "row 2"); !errors.Is(err, ErrDamaged) {
		t.Errorf("a row's secret in another row: %v", err)
	}
	if _, err := NewBox(NewSecret([]byte("short")), purpose.Tenant, "x"); err == nil {
		t.Error("a short key was taken")
	}
}

// A secret cannot be printed, logged or marshalled, also inside of other values.
func TestSecretShowsNothing(t *testing.T) {
	const text = "correct horse battery staple 1234"
	s := NewSecret([]byte(text))
	type holder struct {
		Public Secret
		hidden Secret
		Ptr    *Secret
		Map    map[string]Secret
	}
	h := holder{s, s, &s, map[string]Secret{"k": s}}
	var logged bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewJSONHandler(&logged, nil), slog.NewTextHandler(&logged, nil)} {
		slog.New(handler).Info("key", "secret", s, "holder", h, "pointer", &s, "key", keyFile(t, newLine(t))[0])
	}
	var shown []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%t", "%c", "%08.3f"} {
		shown = append(shown, fmt.Sprintf(verb, s), fmt.Sprintf(verb, h), fmt.Sprintf(verb, &h), fmt.Sprintf(verb, &s), fmt.Sprintf(verb, []Secret{s}))
	}
	asJSON, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var asGob bytes.Buffer
	if err := gob.NewEncoder(&asGob).Encode(s); err != nil {
		t.Fatal(err)
	}
	shown = append(shown, logged.String(), string(asJSON), asGob.String(), fmt.Sprint(s), fmt.Sprintln(h), s.String(), s.GoString())
	for _, out := range shown {
		for _, form := range []string{text, hex.EncodeToString([]byte(text)), strings.ToUpper(hex.EncodeToString([]byte(text))), base64.StdEncoding.EncodeToString([]byte(text)), "99 111 114 114", "0x63, 0x6f"} {
			if strings.Contains(out, form) {
				t.Errorf("the secret is readable in %q", out)
			}
		}
	}
	if !strings.Contains(string(asJSON), redacted) || !strings.Contains(logged.String(), redacted) {
		t.Errorf("%s %s", asJSON, logged.String())
	}
}

func TestKeyFileRefused(t *testing.T) {
	dir := t.TempDir()
	good := newLine(t)
	key := strings.TrimSpace(strings.SplitN(good, " ", 2)[1])
	for story, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"readable by the group":  {good, 0o640, "chmod 600"},
		"readable by all":        {good, 0o604, "chmod 600"},
		"writable by the group":  {good, 0o620, "chmod 600"},
		"empty":                  {"# nothing\n", 0o600, "holds no key"},
		"no id":                  {key + "\n", 0o600, "line 1"},
		"a short key":            {good + "k2 " + base64.StdEncoding.EncodeToString([]byte("short")) + "\n", 0o600, "line 2"},
		"not base64":             {"k1 " + strings.Repeat("!", 44) + "\n", 0o600, "line 1"},
		"all zero":               {"k1 " + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n", 0o600, "zero"},
		"larger than a key file": {strings.Repeat("#", maxKeyFile+1), 0o600, "more than"},
	} {
		path := filepath.Join(dir, strings.ReplaceAll(story, " ", "-"))
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := ReadKeyFile(path)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", story, err)
		}
		if err != nil && strings.Contains(err.Error(), key) {
			t.Errorf("%s: the error repeats the key: %v", story, err)
		}
	}
	if _, err := ReadKeyFile(filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := ReadKeyFile(dir); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a folder: %v", err)
	}
	one := keyFile(t, good)[0]
	if _, err := NewRing(one, one); err == nil {
		t.Error("one id twice was taken")
	}
	if _, err := NewRing(&fileKey{id: "not an id"}); err == nil {
		t.Error("an id with spaces was taken")
	}
}

// Of several processes that make a key file, one does, and its key stays.
func TestCreateKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	made := make(chan bool, 8)
	for range cap(made) {
		go func() {
			m, err := CreateKeyFile(path)
			if err != nil {
				t.Error(err)
			}
			made <- m
		}()
	}
	n := 0
	for range cap(made) {
		if <-made {
			n++
		}
	}
	info, err := os.Stat(path)
	if n != 1 || err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("made %d times, %v, %v", n, info, err)
	}
	if keys, err := ReadKeyFile(path); err != nil || len(keys) != 1 {
		t.Fatalf("%v, %v", keys, err)
	}
	if left, _ := filepath.Glob(path + ".new*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// kms is a small KMS in a file of its own: what it wraps is AES-256-GCM by openssl's counterpart in this binary.
const kmsVariable = "KEYRING_TEST_KMS"

func TestMain(m *testing.M) {
	if mode := os.Getenv(kmsVariable); mode != "" {
		os.Exit(actAsKMS(mode))
	}
	os.Exit(m.Run())
}

// actAsKMS is the program that Command starts: it reads a request on standard input and answers on standard output.
func actAsKMS(mode string) int {
	var r struct {
		Operation string `json:"operation"`
		KeyID     string `json:"key_id"`
		Data      []byte `json:"data"`
		Context   []byte `json:"context"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&r); err != nil {
		return 2
	}
	key := &fileKey{id: r.KeyID, key: NewSecret(bytes.Repeat([]byte(r.KeyID[:1]), 32))}
	call := map[string]func() ([]byte, error){
		"wrap":   func() ([]byte, error) { return key.Wrap(nil, r.Data, r.Context) },   //nolint:staticcheck // it is not used
		"unwrap": func() ([]byte, error) { return key.Unwrap(nil, r.Data, r.Context) }, //nolint:staticcheck // it is not used
	}[r.Operation]
	switch mode {
	case "denied":
		fmt.Fprintln(os.Stderr, "access denied\n by policy")
		return 1
	case "garbage":
		fmt.Println("this is no JSON")
		return 0
	case "flood":
		_, _ = os.Stdout.Write(make([]byte, 10<<20))
		return 0
	}
	data, err := call()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"data": data})
	return 0
}

func TestCommand(t *testing.T) {
	ctx := t.Context()
	t.Setenv(kmsVariable, "yes")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	kms := func(id string) Wrapper {
		c, err := NewCommand(id, []string{program})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ring := newRing(t, kms("new"), kms("old"))
	sealed, err := newRing(t, kms("old")).Seal(ctx, NewSecret([]byte("secret")), purpose)
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := ring.Open(ctx, sealed, purpose); err != nil || string(opened.Reveal()) != "secret" {
		t.Errorf("%q, %v", opened.Reveal(), err)
	}
	for mode, want := range map[string]string{"denied": "access denied by policy", "garbage": "no JSON object", "flood": "no JSON object"} {
		t.Setenv(kmsVariable, mode)
		if _, err := ring.Seal(ctx, NewSecret([]byte("x")), purpose); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", mode, err)
		}
		if _, err := ring.Open(ctx, sealed, purpose); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", mode, err)
		}
	}
	missing, err := NewCommand("kms", []string{filepath.Join(t.TempDir(), "nothing")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newRing(t, missing).Seal(ctx, NewSecret([]byte("x")), purpose); err == nil {
		t.Error("a program that is not there sealed something")
	}
	if _, err := NewCommand("kms", nil); err == nil {
		t.Error("no program was taken")
	}
}

func FuzzOpen(f *testing.F) {
	keys := keyFile(f, newLine(f))
	ring := newRing(f, keys[0])
	sealed, err := ring.Seal(f.Context(), NewSecret([]byte("secret")), purpose)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte{envelopeVersion, 1, 'a', 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ring.Open(t.Context(), b, purpose); err == nil && !bytes.Equal(b, sealed) {
			t.Fatalf("%x opens and was never sealed", b)
		}
	})
}
