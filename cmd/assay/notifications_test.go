package main

import (
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// notificationCommands is what people do about channels of all kinds: a webhook that is there, and others that are not.
func notificationCommands(t *testing.T, s *liveService) {
	var body []byte
	var header http.Header
	rc := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		header = r.Header.Clone()
	}))
	defer rc.Close()
	ca := writeFile(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rc.Certificate().Raw}))
	nobody := freeAddress(t)

	s.wants(0, []string{`"items": []`}, "notifications", "-o", "json")
	var made struct{ ID, Secret, URL string }
	s.json(&made, "notifications", "create", "webhook", "--name", "siem", "--url", rc.URL+"/in?key=hidden", "--receiver-ca", ca, "--kind", "assessment.changed", "--min-severity", "high")
	if !strings.HasPrefix(made.Secret, "whsec_") || made.URL != rc.URL+"/in?…" {
		t.Errorf("made %+v", made)
	}
	s.wants(0, []string{"delivered in"}, "notifications", "test", "siem")
	verify := func(secret string) {
		t.Helper()
		hook, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := hook.Verify(body, header); err != nil {
			t.Error(err)
		}
	}
	verify(made.Secret)
	if out := s.run(0, "notifications", "show", "siem", "-o", "json"); strings.Contains(out, made.Secret) || strings.Contains(out, "hidden") {
		t.Errorf("a secret is shown again: %s", out)
	}
	s.wants(0, []string{"disabled"}, "notifications", "disable", "siem")
	s.wants(0, []string{"disabled (operator)", "?…"}, "notifications", "list", "--kind", "webhook")
	s.wants(0, []string{"enabled"}, "notifications", "enable", made.ID)
	s.json(&made, "notifications", "rotate-secret", "siem", "--overlap", "0s")
	s.run(0, "notifications", "test", "siem")
	verify(made.Secret)

	password := writeFile(t, []byte("open sesame\n"))
	s.wants(0, []string{"smtp", nobody, "ops@example.org"}, "notifications", "create", "mail", "--name", "people", "--address", nobody, "--from", "assay@example.org", "--to", "ops@example.org",
		"--username", "assay", "--password-file", password)
	s.wants(2, []string{"password"}, "notifications", "create", "mail", "--name", "x", "--address", nobody, "--from", "a@example.org", "--to", "b@example.org", "--password", "open sesame")
	s.wants(1, []string{"empty"}, "notifications", "create", "mail", "--name", "x", "--address", nobody, "--from", "a@example.org", "--to", "b@example.org", "--password-file", writeFile(t, []byte("\n")))
	s.wants(0, []string{"syslog", nobody, "cef"}, "notifications", "create", "syslog", "--name", "log", "--address", nobody)
	for _, name := range []string{"people", "log"} {
		s.run(0, "notifications", "disable", name)
		s.run(0, "notifications", "enable", name)
		s.wants(1, []string{"not delivered", "refused"}, "notifications", "test", name)
		s.wants(1, []string{`"delivered": false`}, "notifications", "test", name, "-o", "json")
	}
	var channel struct {
		HasPassword bool `json:"has_password"`
	}
	if s.json(&channel, "notifications", "show", "people"); !channel.HasPassword {
		t.Error("the password is lost when the channel is disabled and enabled")
	}
	var dead struct{ Items []struct{ ID string } }
	s.json(&dead, "notifications", "deliveries", "--state", "dead", "--channel", "log")
	if len(dead.Items) != 2 {
		t.Fatalf("dead: %+v", dead)
	}
	s.wants(0, []string{"dead", "to log", "refused"}, "notifications", "delivery", dead.Items[0].ID)
	s.wants(0, []string{"again"}, "notifications", "replay", dead.Items[0].ID)
	s.wants(0, []string{"2 are delivered again"}, "notifications", "replay", "--channel", "people")
	s.wants(2, []string{"UUID"}, "notifications", "replay", "nothing")
	s.wants(1, []string{"either"}, "notifications", "replay")
	s.wants(1, []string{"notification channel"}, "notifications", "show", "nobody")
	for _, name := range []string{"siem", "people", "log"} {
		s.run(0, "notifications", "delete", name)
	}
	s.wants(0, []string{`"items": []`}, "notifications", "list", "-o", "json")

	// The keys that sign results, the catalogue and the fleet.
	s.wants(0, []string{"active"}, "signing-keys")
	s.wants(0, []string{"secure_boot_enabled"}, "catalog")
	s.wants(0, []string{"UEFI"}, "catalog", "show", "secure_boot_enabled")
	s.wants(1, []string{"not_found"}, "catalog", "show", "nothing")
	s.run(0, "fleet", "check")
}
