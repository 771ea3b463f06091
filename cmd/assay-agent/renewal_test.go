package main

import (
	"crypto/tls"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/integration/swtpm"
)

// TestRenewedTokensAreKept takes the token that a verdict brings, for the next request of the same process and for the next
// process, in a file that nobody else can read.
func TestRenewedTokensAreKept(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{Banks: []string{"sha256"}})
	s := newServer(t, box, false)
	h := newHost(t, box, s)
	h.enroll()
	file := filepath.Join(h.dir, "machine.token")
	read := func() string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("mode %v, %v", info.Mode(), err)
		}
		return strings.TrimSpace(string(text))
	}
	first := read()
	s.mu.Lock()
	s.renew = true
	s.mu.Unlock()
	h.must(0, "attest")
	second := read()
	h.must(0, "attest") // the server takes the new token alone
	if third := read(); second != first+"x" || third != second+"x" {
		t.Errorf("tokens %q, %q, %q", first, second, third)
	}
	left, err := filepath.Glob(filepath.Join(h.dir, ".new-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("half-written files are left: %v, %v", left, err)
	}
}

// TestClientCertificate shows a certificate to a server that asks for one, and refuses a key that others can read.
func TestClientCertificate(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{Banks: []string{"sha256"}})
	s := newServer(t, box, true)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	ca := filepath.Join(dir, "ca.pem")
	clientPEM, keyPEM := clientPair(t)
	for name, text := range map[string][]byte{cert: clientPEM, key: keyPEM, ca: certificatePEM(s.Certificate().Raw)} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shown := 0
	s.mu.Lock()
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		shown += len(r.TLS.PeerCertificates)
		return false
	}
	s.mu.Unlock()
	s.TLS.ClientAuth = tls.RequireAnyClientCert
	h := newHost(t, box, s)
	h.flags = []string{"--ca", ca}
	if code, _, stderr := h.agent(t.Context(), "enroll", "--join-token", s.joinToken); code != exitError || !strings.Contains(stderr, "certificate") {
		t.Errorf("without a certificate: exit %d, %s", code, stderr)
	}
	h.flags = append(h.flags, "--client-cert", cert, "--client-key", key)
	h.enroll()
	h.must(0, "attest")
	s.mu.Lock()
	if shown == 0 {
		t.Error("no certificate was shown")
	}
	s.mu.Unlock()
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := h.agent(t.Context(), "attest"); code != exitError || !strings.Contains(stderr, "chmod 600") {
		t.Errorf("a key that others can read: exit %d, %s", code, stderr)
	}
	h.flags = []string{"--client-cert", cert}
	if code, _, stderr := h.agent(t.Context(), "attest"); code != exitError || !strings.Contains(stderr, "go together") {
		t.Errorf("a certificate without key: exit %d, %s", code, stderr)
	}
}
