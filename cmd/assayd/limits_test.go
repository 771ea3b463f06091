package main

import (
	"crypto/tls"
	"encoding/hex"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReloadOnHangup: SIGHUP makes the service serve the certificate that was put in place of the one before, without a restart.
func TestReloadOnHangup(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	next, nextKey := certificate(t)
	d := launch(t, nil, "serve", "--data-dir", dataFolder(t), "--tls-cert", cert, "--tls-key", key)
	address := strings.TrimPrefix(d.url, "http://")
	shown := func() string {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // which certificate is shown is what is tested
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		return hex.EncodeToString(conn.ConnectionState().PeerCertificates[0].SerialNumber.Bytes()) + hex.EncodeToString(conn.ConnectionState().PeerCertificates[0].Signature)
	}
	await := func(what string, done func() bool) {
		t.Helper()
		for range 600 {
			if done() {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatalf("%s did not happen\n%s", what, d.output.String())
	}
	await("the start", func() bool { return strings.Contains(d.output.String(), `"ready"`) })
	before := shown()
	for from, to := range map[string]string{next: cert, nextKey: key} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await("the new certificate", func() bool { now := shown(); return now != before && !strings.Contains(now, " ") })
	d.stop()
}

// TestQuotasCommand sets a tenant's quotas and shows them.
func TestQuotasCommand(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	d := start(t, nil, "serve", "--data-dir", data)
	d.stop()
	const tenant = "01900000-0000-7000-8000-000000000001"
	if code, out := once(t, nil, "quotas", "set", tenant, "machines=3", "api_tokens=unlimited", "--data-dir", data); code != 0 {
		t.Fatalf("%d %s", code, out)
	}
	code, out := once(t, nil, "quotas", "show", tenant, "--output", "json", "--data-dir", data)
	for _, want := range []string{`{"kind":"machines","limit":3,"used":0,"own":true}`, `{"kind":"api_tokens","limit":null,"used":1,"own":true}`, `{"kind":"notification_channels","limit":50,"used":0,"own":false}`} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("%d: no %s in %s", code, want, out)
		}
	}
	if code, out := once(t, nil, "quotas", "set", "01900000-0000-7000-8000-0000000000ff", "machines=3", "--data-dir", data); code != 1 || !strings.Contains(out, "not found") {
		t.Errorf("a tenant that is not there: %d %s", code, out)
	}
}
