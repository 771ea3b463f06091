//go:build pkcs11

package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/miekg/pkcs11"

	"github.com/assay-verifier/assay/store/keyring"
)

const (
	tokenLabel = "assay"
	userPIN    = "83104729"
)

// The module is initialised once for the process, so that all tests work in tokens of one folder.
var softHSM string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	found, _ := filepath.Glob("/usr/lib/*/softhsm/libsofthsm2.so")
	if len(found) == 0 {
		fmt.Fprintln(os.Stderr, "keys are tested in SoftHSM; this installs it:\n  apt-get install -y softhsm2")
		return 1
	}
	softHSM = found[0]
	dir, err := os.MkdirTemp("", "softhsm")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "tokens"), 0o700),
		os.WriteFile(conf, []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600),
		os.Setenv("SOFTHSM2_CONF", conf)); err != nil {
		panic(err)
	}
	for _, label := range []string{tokenLabel, "wrong-pin", "twin", "twin"} {
		if out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", label, "--pin", userPIN, "--so-pin", "99999999").CombinedOutput(); err != nil {
			panic(string(out))
		}
	}
	return m.Run()
}

func config() Config {
	return Config{Module: softHSM, Token: tokenLabel, PIN: keyring.NewSecret([]byte(userPIN))}
}

// generated makes keys with fresh labels and opens them.
func generated(t *testing.T, n int) (labels []string, keys []keyring.Wrapper) {
	t.Helper()
	for range n {
		label := "kek-" + uuid.NewString()[:8]
		if err := Generate(config(), label); err != nil {
			t.Fatal(err)
		}
		labels = append(labels, label)
	}
	keys, err := Open(config(), labels)
	if err != nil {
		t.Fatal(err)
	}
	return labels, keys
}

var purpose = keyring.Purpose{Tenant: uuid.UUID{1}, Name: "result_signing", Label: "1"}

// An envelope that a key of the token sealed opens with that key, for its purpose, unchanged, and otherwise not.
func TestSealInTheToken(t *testing.T) {
	ctx := t.Context()
	labels, keys := generated(t, 2)
	ring, err := keyring.NewRing(keys[0], keys[1])
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("thirty-two bytes of a secret key")
	sealed, err := ring.Seal(ctx, keyring.NewSecret(bytes.Clone(secret)), purpose)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := keyring.KEKOf(sealed); err != nil || id != labels[0] {
		t.Errorf("sealed with %q, %v", id, err)
	}
	if opened, err := ring.Open(ctx, sealed, purpose); err != nil || !bytes.Equal(opened.Reveal(), secret) {
		t.Fatal(err)
	}
	// Another opening of the same token, as at the next start, and the other key as the one that seals.
	again, err := Open(config(), []string{labels[1], labels[0]})
	if err != nil {
		t.Fatal(err)
	}
	other, err := keyring.NewRing(again[0], again[1])
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := other.Open(ctx, sealed, purpose); err != nil || !bytes.Equal(opened.Reveal(), secret) {
		t.Error(err)
	}
	for i := range sealed { // each byte is authenticated
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := ring.Open(ctx, changed, purpose); !errors.Is(err, keyring.ErrDamaged) && !errors.Is(err, keyring.ErrNoKEK) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	wrapped, err := keys[0].Wrap(ctx, secret, []byte("context"))
	if err != nil || bytes.Contains(wrapped, secret) {
		t.Fatalf("%x, %v", wrapped, err)
	}
	twice, err := keys[0].Wrap(ctx, secret, []byte("context"))
	if err != nil || bytes.Equal(wrapped[:nonceSize], twice[:nonceSize]) {
		t.Errorf("a nonce was used twice: %v", err)
	}
	for story, unwrap := range map[string]func() ([]byte, error){
		"another context": func() ([]byte, error) { return keys[0].Unwrap(ctx, wrapped, []byte("another")) },
		"another key":     func() ([]byte, error) { return keys[1].Unwrap(ctx, wrapped, []byte("context")) },
		"cut":             func() ([]byte, error) { return keys[0].Unwrap(ctx, wrapped[:len(wrapped)-1], []byte("context")) },
		"empty":           func() ([]byte, error) { return keys[0].Unwrap(ctx, nil, nil) },
	} {
		if data, err := unwrap(); !errors.Is(err, keyring.ErrDamaged) || data != nil {
			t.Errorf("%s: %x, %v", story, data, err)
		}
	}
	if data, err := keys[0].Unwrap(ctx, wrapped, []byte("context")); err != nil || !bytes.Equal(data, secret) {
		t.Errorf("after the failures: %v", err)
	}
}

// A session that ended, as when an HSM was restarted, is replaced; callers wait for each other.
func TestSessionsThatEnd(t *testing.T) {
	_, keys := generated(t, 1)
	k := keys[0].(*key)
	wrapped, err := k.Wrap(t.Context(), make([]byte, keySize), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := k.token.module.CloseAllSessions(k.token.slot); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if data, err := k.Unwrap(t.Context(), wrapped, nil); err != nil || len(data) != keySize {
					t.Errorf("%d bytes, %v", len(data), err)
				}
			})
		}
		all.Wait()
	}
}

// A token that hangs refuses those who wait as soon as they have waited long enough, and works for them afterwards.
func TestTokenThatIsBusy(t *testing.T) {
	_, keys := generated(t, 1)
	k := keys[0].(*key)
	release, begun := make(chan struct{}), make(chan struct{})
	hung := make(chan error, 1)
	go func() {
		_, err := k.token.do(t.Context(), func() ([]byte, error) { close(begun); <-release; return nil, nil })
		hung <- err
	}()
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Wrap(ctx, make([]byte, keySize), nil); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Error(err)
	}
	close(release)
	if err := <-hung; err != nil {
		t.Error(err)
	}
	if _, err := k.Wrap(t.Context(), make([]byte, keySize), nil); err != nil {
		t.Error(err)
	}
}

// Keys that could leave the token, or that are something else, are refused by name.
func TestKeysThatCannotBeUsed(t *testing.T) {
	tok, err := newToken(config())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tok.do(t.Context(), func() ([]byte, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	for label, change := range map[string]*pkcs11.Attribute{
		"extractable":     pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
		"sensitive":       pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false),
		"256 bits":        pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 16),
		"kept in":         pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		"for encryption":  pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false),
		"for decryption":  pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		"several secrets": nil,
	} {
		name := strings.ReplaceAll(label, " ", "-")
		template := append(wanted(), pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, name))
		for i := range template {
			if change != nil && template[i].Type == change.Type {
				template[i] = change
			}
		}
		n, want := 1, label
		if change == nil {
			n, want = 2, "several secret keys"
		}
		for range n {
			if _, err := tok.module.GenerateKey(tok.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, template); err != nil {
				t.Fatalf("%s: %v", label, err)
			}
		}
		if _, err := Open(config(), []string{name}); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", label, err)
		}
	}
	if _, err := Open(config(), []string{"nothing"}); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "no secret key") {
		t.Error(err)
	}
	if _, err := Open(config(), nil); err == nil {
		t.Error("no label was taken")
	}
	labels, _ := generated(t, 1)
	if err := Generate(config(), labels[0]); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "already") {
		t.Errorf("a key was made over another: %v", err)
	}
	if err := Generate(config(), "two words"); err == nil {
		t.Error("a label that is no id was taken")
	}
}

// What is wrong with the module, the token or the PIN is said, and the PIN is not. A refused PIN is not tried again: after some,
// tokens lock themselves.
func TestTokensThatCannotBeUsed(t *testing.T) {
	for story, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no such module":  {func(c *Config) { c.Module = "/nonexistent.so" }, "cannot be loaded"},
		"no such token":   {func(c *Config) { c.Token = "elsewhere" }, `no token has the label "elsewhere"; there are: `},
		"two such tokens": {func(c *Config) { c.Token = "twin" }, "2 tokens"},
		"no PIN":          {func(c *Config) { c.PIN = keyring.Secret{} }, "are needed"},
	} {
		cfg := config()
		c.change(&cfg)
		if _, err := Open(cfg, []string{"kek"}); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), userPIN) {
			t.Errorf("%s: %v", story, err)
		}
	}
	cfg := config()
	cfg.Token, cfg.PIN = "wrong-pin", keyring.NewSecret([]byte("11112222"))
	tok, err := newToken(cfg)
	if err != nil {
		t.Fatal(err)
	}
	nothing := func() ([]byte, error) { return nil, nil }
	if _, err := tok.do(t.Context(), nothing); !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "11112222") {
		t.Error(err)
	}
	tok.cfg.PIN = keyring.NewSecret([]byte(userPIN)) // also the right one would not be tried
	if _, err := tok.do(t.Context(), nothing); !errors.Is(err, ErrRefused) {
		t.Errorf("the PIN was tried again: %v", err)
	}
}
