package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/store/embedded"
)

// TestKeysOfAnExternalDatabase is the life of the keys in a database of somebody else's: not sealed, sealed, a key-encryption
// key that is missing or wrong, another one, and back. The keys that sign results stay the same throughout.
func TestKeysOfAnExternalDatabase(t *testing.T) {
	t.Parallel()
	postgres, err := embedded.Start(context.Background(), embedded.Config{DataDir: dataFolder(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	env := []string{"ASSAY_DATABASE_URL=" + postgres.URL(), "ASSAY_ADMIN_TOKEN_FILE=" + filepath.Join(dir, "admin.token"), "ASSAY_DATA_DIR=" + filepath.Join(dir, "data")}
	file := filepath.Join(dir, "keys")
	served := func(args ...string) (keys, log string) {
		t.Helper()
		d := start(t, env, append([]string{"serve"}, args...)...)
		_, keys = d.get(d.url+"/.well-known/jwks.json", "")
		d.stop()
		return keys, d.output.String()
	}
	refused := func(story, says string, code int, args ...string) {
		t.Helper()
		args = append([]string{"serve", "--listen", freeAddress(t), "--admin-listen", ""}, args...)
		if got, out := once(t, env, args...); got != code || !strings.Contains(out, says) {
			t.Errorf("%s: exit %d, want %d and %q:\n%s", story, got, code, says, out)
		}
	}
	plain, log := served()
	if !strings.Contains(log, "as they are") || strings.Count(plain, `"kid"`) != 4 {
		t.Errorf("without a key-encryption key:\n%s\n%s", plain, log)
	}
	if code, out := once(t, nil, "keys", "generate", file); code != 0 {
		t.Fatalf("generate: %d %s", code, out)
	}
	if code, out := once(t, nil, "keys", "generate", file); code != 2 || !strings.Contains(out, "is there already") {
		t.Errorf("generate over a file that is there: %d %s", code, out)
	}
	if sealed, log := served("--key-file", file); sealed != plain || !strings.Contains(log, "sealed the service's keys") {
		t.Errorf("sealed at start: %s\n%s", sealed, log)
	}
	if again, log := served("--key-file", file); again != plain || strings.Contains(log, "sealed the service's keys") {
		t.Errorf("at the next start: %s\n%s", again, log)
	}

	refused("no key", "are sealed with kek-", 2)
	other := filepath.Join(dir, "other")
	if code, out := once(t, nil, "keys", "generate", other); code != 0 {
		t.Fatalf("generate: %d %s", code, out)
	}
	refused("another key", "--key-file, --key-pkcs11-module or --key-command has to give the key that sealed it", 1, "--key-file", other)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	replaced, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	impostor := filepath.Join(dir, "impostor")
	write(t, impostor, strings.Fields(lastLine(text))[0]+" "+strings.Fields(lastLine(replaced))[1]+"\n", 0o600)
	refused("another key of the same id", "does not open", 1, "--key-file", impostor)
	write(t, impostor, string(text), 0o640)
	refused("a file that others can read", "chmod 600", 2, "--key-file", impostor)
	refused("a file that is not there", "--key-file", 2, "--key-file", filepath.Join(dir, "nothing"))
	refused("a program that is not there", "key command", 1, "--key-command", filepath.Join(dir, "nothing"), "--key-id", strings.Fields(lastLine(text))[0])

	// The key-encryption key is replaced: a new line on top, rewrapped, and the old line taken out.
	code, line := once(t, nil, "keys", "generate", "-")
	if code != 0 || len(strings.Fields(line)) != 2 {
		t.Fatalf("generate: %d", code)
	}
	both := filepath.Join(dir, "both")
	write(t, both, line+string(text), 0o600)
	if keys, _ := served("--key-file", both); keys != plain {
		t.Errorf("with both keys: %s", keys)
	}
	// Two for results of each algorithm, and those of machine tokens, challenges, stored answers and secrets of channels.
	if code, out := once(t, env, "keys", "rewrap", "--key-file", both); code != 0 || strings.TrimSpace(out) != "8 keys changed" {
		t.Errorf("rewrap: %d %s", code, out)
	}
	write(t, file, line, 0o600)
	if keys, _ := served("--key-file", file); keys != plain {
		t.Errorf("with the new key alone: %s", keys)
	}
	if code, out := once(t, env, "keys", "rotate", "--key-file", file); code != 0 || strings.Count(out, "signs from") != 2 || strings.Count(out, " active ") != 2 {
		t.Errorf("rotate: %d %s", code, out)
	}
	if code, out := once(t, env, "keys", "list", "-o", "json", "--key-file", file); code != 0 || strings.Count(out, `"state":"next"`) != 4 {
		t.Errorf("list: %d %s", code, out)
	}
	if code, out := once(t, env, "job", "run", "signing-keys", "--key-file", file); code != 0 || strings.TrimSpace(out) != "nothing to do" {
		t.Errorf("the job: %d %s", code, out)
	}
	if code, out := once(t, env, "keys", "rewrap", "--plain", "--key-file", file); code != 0 || !strings.Contains(out, "10 keys changed") {
		t.Errorf("and back: %d %s", code, out)
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// TestKeysOfTheEmbeddedDatabase: the key file is made at the first start, and not once more when it is lost.
func TestKeysOfTheEmbeddedDatabase(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	d := start(t, nil, "dev", "--data-dir", data)
	if _, body := d.get(d.url+"/.well-known/openid-configuration", ""); !strings.Contains(body, `"issuer":"`+d.url+`"`) {
		t.Errorf("a service for trying out names its address as issuer: %s", body)
	}
	_, keys := d.get(d.url+"/.well-known/jwks.json", "")
	d.stop()
	file := filepath.Join(data, "key-encryption.keys")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if err := os.Rename(file, file+".copy"); err != nil {
		t.Fatal(err)
	}
	if code, out := once(t, nil, "serve", "--data-dir", data, "--listen", freeAddress(t), "--admin-listen", ""); code != 2 || !strings.Contains(out, "is missing") {
		t.Errorf("without its key file: %d %s", code, out)
	}
	if err := os.Rename(file+".copy", file); err != nil {
		t.Fatal(err)
	}
	d = start(t, nil, "serve", "--data-dir", data)
	if _, again := d.get(d.url+"/.well-known/jwks.json", ""); again != keys {
		t.Errorf("after the file was put back: %s, then %s", keys, again)
	}
	if status, _ := d.get(d.url+"/.well-known/openid-configuration", ""); status != 404 {
		t.Errorf("a service without a public URL has an issuer: %d", status)
	}
	d.stop()
}
