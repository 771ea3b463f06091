package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/store/embedded"
)

func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "assay"}, DNSNames: []string{"assay.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestUnusableSettings: each is refused before anything is started, with the words that help; a password
// is never repeated.
func TestUnusableSettings(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(folder, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	cert, key := certificate(t)
	pin := filepath.Join(folder, "pin")
	write(t, pin, "hunter2\n", 0o600)
	for _, c := range []struct {
		name string
		code int
		says string
		args []string
	}{
		{"no command", 2, "expected one of", nil},
		{"unknown flag", 2, "--help", []string{"serve", "--force"}},
		{"address", 2, "127.0.0.1:8440", []string{"serve", "--listen", "nonsense"}},
		{"admin address", 2, "--admin-listen", []string{"serve", "--admin-listen", "8441"}},
		{"certificate without key", 2, "go together", []string{"serve", "--tls-cert", cert}},
		{"issuers' CA that is none", 2, "--issuer-ca", []string{"serve", "--issuer-ca", file}},
		{"issuers' CA that is not there", 2, "--issuer-ca", []string{"serve", "--issuer-ca", file + "x"}},
		{"certificate that is none", 2, "--tls-cert", []string{"serve", "--tls-cert", file, "--tls-key", file}},
		{"client CA without TLS", 2, "--tls-client-ca", []string{"serve", "--tls-client-ca", cert}},
		{"bound tokens without a client CA", 2, "needs --tls-client-ca", []string{"serve", "--tls-cert", cert, "--tls-key", key, "--bind-machine-tokens"}},
		{"client CA that is none", 2, "holds no certificate", []string{"serve", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", file}},
		{"machine tokens of a moment", 2, "--machine-token-lifetime", []string{"serve", "--machine-token-lifetime", "1m"}},
		{"rate", 2, "50:500", []string{"serve", "--rate-machine", "fast"}},
		{"no slots", 2, "--max-appraisals", []string{"serve", "--max-appraisals", "0"}},
		{"a queue for ever", 2, "--queue-wait", []string{"serve", "--queue-wait", "1h"}},
		{"proxies", 2, "--trusted-proxies", []string{"serve", "--trusted-proxies", "10.0.0.1/8"}},
		{"quota of nothing", 2, "there is no quota", []string{"serve", "--quota", "cats=1"}},
		{"quota that is no number", 2, "is no quota", []string{"quotas", "set", "01900000-0000-7000-8000-000000000001", "machines=many"}},
		{"log level", 2, "--log-level", []string{"serve", "--log-level", "loud"}},
		{"trust bundle", 2, "--trust-bundle", []string{"serve", "--trust-bundle", "some"}},
		{"source of collateral", 2, "--amd-kds-url", []string{"serve", "--amd-kds-url", "kds"}},
		{"source of collateral, by hand", 2, "--intel-pcs-url", []string{"job", "run", "collateral-fetch", "--intel-pcs-url", "pcs"}},
		{"mass silence, machines", 2, "--silence-machines", []string{"serve", "--silence-machines", "0"}},
		{"mass silence, share", 2, "--silence-percent", []string{"serve", "--silence-percent", "101"}},
		{"mass silence, end", 2, "--silence-end-percent", []string{"job", "run", "stale", "--silence-end-percent", "0"}},
		{"checkpoints", 2, "--audit-checkpoint-interval", []string{"serve", "--audit-checkpoint-interval", "1s"}},
		{"mass silence, age", 2, "--silence-max-age", []string{"serve", "--silence-max-age", "1m"}},
		{"job", 2, "assayd job list", []string{"job", "run", "tidy"}},
		{"result that lives for days", 2, "--result-lifetime", []string{"serve", "--result-lifetime", "48h"}},
		{"rotation at each moment", 2, "--signing-key-rotation", []string{"serve", "--signing-key-rotation", "1m"}},
		{"a token without its module", 2, "need --key-pkcs11-module", []string{"keys", "generate-pkcs11", "kek", "--key-pkcs11-token", "assay"}},
		{"a module without a token", 2, "needs --key-pkcs11-token", []string{"keys", "generate-pkcs11", "kek", "--key-pkcs11-module", file}},
		{"a PIN that is not there", 2, "--key-pkcs11-pin-file", []string{"keys", "generate-pkcs11", "kek", "--key-pkcs11-module", file, "--key-pkcs11-token", "assay", "--key-pkcs11-pin-file", file + "x"}},
		{"no token at all", 2, "--key-pkcs11-module is needed", []string{"keys", "generate-pkcs11", "kek"}},
		{"a build without PKCS #11", 2, "make build-pkcs11", []string{"keys", "generate-pkcs11", "kek", "--key-pkcs11-module", file, "--key-pkcs11-token", "assay", "--key-pkcs11-pin-file", pin}},
		{"ratio", 2, "outside 0 to 1", []string{"serve", "--trace-ratio", "2"}},
		{"endpoint", 2, "--otlp-endpoint", []string{"serve", "--otlp-endpoint", "collector"}},
		{"public URL with a password", 2, "--public-url", []string{"serve", "--public-url", "https://u:hunter2@assay.example"}},
		{"connections", 2, "--database-connections", []string{"serve", "--database-connections", "1"}},
		{"shutdown", 2, "--shutdown-timeout", []string{"serve", "--shutdown-timeout", "0s"}},
		{"folder that is a file", 2, "is no folder", []string{"serve", "--data-dir", file}},
		{"folder below a file", 2, "--data-dir", []string{"serve", "--data-dir", filepath.Join(file, "x")}},
		{"folder of everybody", 2, "chmod", []string{"serve", "--data-dir", open}},
		{"database URL, port", 2, "--database-url", []string{"serve", "--database-url", "postgres://u:hunter2@localhost:port/db"}},
		{"database URL, words", 2, "--database-url", []string{"serve", "--database-url", "host=localhost password=hunter2 sslmode=perhaps"}},
		{"database URL, nonsense", 2, "--database-url", []string{"migrate", "--database-url", "postgres://u:hunter2@%zz/db"}},
		{"database that is not there", 1, "does not answer", []string{"serve", "--database-url", "postgres://u:hunter2@127.0.0.1:1/db"}},
		{"migrate a database that is not there", 1, "does not answer", []string{"migrate", "--database-url", "postgres://u:hunter2@127.0.0.1:1/db"}},
	} {
		if len(c.args) > 0 && c.args[0] == "serve" {
			if !strings.Contains(c.name, "address") {
				c.args = append(c.args, "--listen", freeAddress(t), "--admin-listen", "")
			}
			if !strings.Contains(c.name, "folder") {
				c.args = append(c.args, "--data-dir", filepath.Join(folder, "never made"))
			}
		}
		code, out := once(t, nil, c.args...)
		if code != c.code || !strings.Contains(out, c.says) || strings.Contains(out, "hunter2") {
			t.Errorf("%s: exit %d, want %d and %q:\n%s", c.name, code, c.code, c.says, out)
		}
	}
	if _, err := os.Stat(filepath.Join(folder, "never made")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was started: %v", err)
	}
}

// TestNoPostgres: without server binaries the one line that installs them is printed.
func TestNoPostgres(t *testing.T) {
	message, code := explain(fmt.Errorf("start: %w", embedded.ErrNotInstalled))
	if code != 1 || !strings.Contains(message, "apt-get install -y postgresql") || !strings.Contains(message, "--database-url") {
		t.Errorf("%d %s", code, message)
	}
}

// TestVersion prints what the linker set.
func TestVersion(t *testing.T) {
	if code, out := once(t, nil, "version"); code != 0 || !strings.HasPrefix(out, "assayd 1.2.3-test") {
		t.Errorf("%d %s", code, out)
	}
	if code, out := once(t, nil, "version", "--output", "json"); code != 0 || !strings.Contains(out, `"version":"1.2.3-test"`) {
		t.Errorf("%d %s", code, out)
	}
}
