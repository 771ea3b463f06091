//go:build pkcs11

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/store/embedded"
)

func init() { buildTags, buildCGO = "pkcs11", "1" }

// TestKeysInAToken is the life of the keys under a key of SoftHSM: made in the token, taken over from a key file, opened at the next
// start, and refused without the token, with another PIN, or with a key that is not there.
func TestKeysInAToken(t *testing.T) {
	modules, _ := filepath.Glob("/usr/lib/*/softhsm/libsofthsm2.so")
	if len(modules) == 0 {
		t.Fatal("keys are tested in SoftHSM; this installs it:\n  apt-get install -y softhsm2")
	}
	dir := t.TempDir()
	conf, tokens, pin := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "tokens"), filepath.Join(dir, "pin")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, conf, "directories.tokendir = "+tokens+"\nlog.level = ERROR\n", 0o600)
	write(t, pin, "83104729\n", 0o600)
	init := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "assay", "--pin", "83104729", "--so-pin", "99999999")
	init.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	postgres, err := embedded.Start(t.Context(), embedded.Config{DataDir: dataFolder(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Stop(t.Context()); err != nil {
			t.Log(err)
		}
	})
	env := []string{"SOFTHSM2_CONF=" + conf, "ASSAY_DATABASE_URL=" + postgres.URL(), "ASSAY_DATA_DIR=" + filepath.Join(dir, "data"), "ASSAY_ADMIN_TOKEN_FILE=" + filepath.Join(dir, "admin.token")}
	token := []string{"--key-pkcs11-module", modules[0], "--key-pkcs11-token", "assay", "--key-pkcs11-pin-file", pin}
	with := func(args ...string) []string { return append(args, token...) }
	served := func(args ...string) (keys, log string) {
		t.Helper()
		d := start(t, env, append([]string{"serve"}, args...)...)
		_, keys = d.get(d.url+"/.well-known/jwks.json", "")
		d.stop()
		return keys, d.output.String()
	}
	file := filepath.Join(dir, "keys")
	if code, out := once(t, nil, "keys", "generate", file); code != 0 {
		t.Fatalf("generate: %d %s", code, out)
	}
	before, _ := served("--key-file", file)
	if code, out := once(t, env, with("keys", "generate-pkcs11", "kek-2026")...); code != 0 || out != "" {
		t.Fatalf("generate in the token: %d %s", code, out)
	}
	if code, out := once(t, env, with("keys", "generate-pkcs11", "kek-2026")...); code != 2 || !strings.Contains(out, "already") {
		t.Errorf("generate again: %d %s", code, out)
	}
	both := with("--key-pkcs11-label", "kek-2026", "--key-file", file)
	if keys, _ := served(both...); keys != before {
		t.Errorf("with both: %s", keys)
	}
	if code, out := once(t, env, append([]string{"keys", "rewrap"}, both...)...); code != 0 || !strings.HasSuffix(strings.TrimSpace(out), "keys changed") || strings.HasPrefix(out, "0") {
		t.Errorf("rewrap: %d %s", code, out)
	}
	keys, log := served(with("--key-pkcs11-label", "kek-2026")...)
	if keys != before || strings.Contains(log, "83104729") {
		t.Errorf("with the token alone: %s\n%s", keys, log)
	}
	wrong := filepath.Join(dir, "wrong-pin")
	write(t, wrong, "55556666\n", 0o600)
	open := filepath.Join(dir, "open-pin")
	write(t, open, "83104729\n", 0o644)
	for story, c := range map[string]struct {
		says string
		args []string
	}{
		"no token":            {"are sealed with kek-2026", nil},
		"another PIN":         {"refuses the PIN", []string{"--key-pkcs11-module", modules[0], "--key-pkcs11-token", "assay", "--key-pkcs11-pin-file", wrong, "--key-pkcs11-label", "kek-2026"}},
		"a PIN of everybody":  {"chmod 600", []string{"--key-pkcs11-module", modules[0], "--key-pkcs11-token", "assay", "--key-pkcs11-pin-file", open, "--key-pkcs11-label", "kek-2026"}},
		"no label":            {"--key-pkcs11-label", with()},
		"a key that is not":   {"no secret key", with("--key-pkcs11-label", "kek-2027")},
		"one id of two kinds": {"two key-encryption keys have the id kek-2026", with("--key-pkcs11-label", "kek-2026", "--key-command", "true", "--key-id", "kek-2026")},
	} {
		code, out := once(t, env, append([]string{"serve", "--listen", freeAddress(t), "--admin-listen", ""}, c.args...)...)
		if code != 2 || !strings.Contains(out, c.says) || strings.Contains(out, "83104729") || strings.Contains(out, "55556666") {
			t.Errorf("%s: %d %s", story, code, out)
		}
	}
}
