package server

import (
	"encoding/base64"
	"encoding/hex"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/keyring"
)

// dump is all that pg_dump says of the bench's database.
func (b *bench) dump() string {
	b.t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_dump")
	sort.Strings(found)
	program := "pg_dump"
	if len(found) > 0 {
		program = found[len(found)-1]
	}
	out, err := exec.Command(program, "--no-owner", "--dbname", b.url).Output()
	if err != nil {
		b.t.Fatalf("pg_dump: %v", err)
	}
	return string(out)
}

// TestNoSecretIsInADump: with a key file, whoever reads a copy of the database finds none of the secrets that the service holds: keys
// that sign results, keys of MACs and seals, secrets of webhooks, passwords of receivers, and tokens that it has given out, also those
// in answers that are kept for repetitions.
func TestNoSecretIsInADump(t *testing.T) {
	b := newBench(t, nil)
	ctx := t.Context()
	purposes := []string{token.PurposeResultSigning, token.PurposeResultSigningES256, token.PurposeMachineToken}
	rows, err := pgx.Connect(ctx, b.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close(ctx) }()
	all, err := rows.Query(ctx, `SELECT DISTINCT purpose FROM service_keys`)
	if err != nil {
		t.Fatal(err)
	}
	known, err := pgx.CollectRows(all, pgx.RowTo[string])
	if err != nil || len(known) < 6 {
		t.Fatalf("purposes of keys: %v, %v", known, err)
	}
	purposes = append(purposes, known...)
	secrets := map[string][]byte{}
	for _, purpose := range purposes {
		keys, err := b.store.ServiceKeys(ctx, store.DefaultTenant, purpose)
		if err != nil || len(keys) == 0 {
			t.Fatalf("%s: %v", purpose, err)
		}
		for _, k := range keys {
			secrets["key "+purpose+" "+k.ID.String()] = k.Key.Reveal()
		}
	}
	plain := b.dump()
	for name, secret := range secrets { // the test can see what it looks for
		if !strings.Contains(plain, hex.EncodeToString(secret)) {
			t.Fatalf("%s is not where it is expected before it is sealed", name)
		}
	}

	path := filepath.Join(t.TempDir(), "keys")
	if _, err := keyring.CreateKeyFile(path); err != nil {
		t.Fatal(err)
	}
	keks, err := keyring.ReadKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.NewRing(keks[0])
	if err != nil {
		t.Fatal(err)
	}
	b.store.UseKeys(ring)
	if _, err := b.store.ReencryptServiceKeys(ctx, store.SealPlain); err != nil {
		t.Fatal(err)
	}
	if err := b.server.token.Rotate(ctx, "", store.Actor{Kind: "system", ID: "test"}); err != nil { // and keys that are sealed from the first moment
		t.Fatal(err)
	}
	for _, purpose := range purposes {
		keys, err := b.store.ServiceKeys(ctx, store.DefaultTenant, purpose)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			secrets["key "+purpose+" "+k.ID.String()] = k.Key.Reveal()
		}
	}
	keep := func(name, text string) {
		t.Helper()
		if len(text) < 12 {
			t.Fatalf("%s is %q", name, text)
		}
		secrets[name] = []byte(text)
	}
	keep("admin token", b.admin)
	once := func(path, body, field string) string {
		t.Helper()
		return b.want(201, "POST", path, b.admin, body, "Idempotency-Key", "once-"+uuid.NewString()).text(t, field)
	}
	keep("join token", once("/v1/join-tokens", `{"name": "fleet", "uses": 50, "expires_in_seconds": 3600}`, "token"))
	keep("API token", once("/v1/api-tokens", `{"name": "reader", "role": "reader"}`, "token"))
	webhook := once("/v1/webhooks", `{"name": "siem", "url": "https://siem.example/assay"}`, "secret")
	keep("webhook secret", webhook)
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(webhook, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	secrets["webhook secret, decoded"] = raw
	m := newMachine(t, "sb-on-1")
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "swtpm", "purpose": "ek", "certificates_pem": m.rootPEM()})
	b.enrol(m, "web-1", b.joinToken())
	keep("machine token", m.token)
	b.attest(m)
	keep("result", b.newResult(m, nil))

	dumped := b.dump()
	if !strings.Contains(dumped, "siem.example") || !strings.Contains(dumped, "web-1") {
		t.Fatal("the dump is not of this database")
	}
	logs := b.logs.String()
	for name, secret := range secrets {
		for form, text := range map[string]string{"itself": string(secret), "hex": hex.EncodeToString(secret), "base64": base64.StdEncoding.EncodeToString(secret),
			"base64url": base64.RawURLEncoding.EncodeToString(secret), "hex of its base64": hex.EncodeToString([]byte(base64.StdEncoding.EncodeToString(secret)))} {
			if strings.Contains(dumped, text) {
				t.Errorf("%s is in the dump (%s)", name, form)
			}
			if strings.Contains(logs, text) {
				t.Errorf("%s is in the logs (%s)", name, form)
			}
		}
	}
}
