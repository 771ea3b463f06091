package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
)

// manifest is what assayd backup and restore print.
type manifest struct {
	SchemaVersion     uint     `json:"schema_version"`
	JobsVersion       int      `json:"jobs_version"`
	KeyEncryptionKeys []string `json:"key_encryption_keys"`
	PlainKeys         int      `json:"plain_keys"`
	Rows              int64    `json:"rows"`
	SHA256            string   `json:"sha256"`
	Contents          []struct {
		Name string `json:"name"`
		Rows int64  `json:"rows"`
	} `json:"contents"`
}

// operate runs a command of assayd that answers with a manifest.
func operate(t *testing.T, args ...string) (m manifest, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program("assayd"), append(args, "--output", "json")...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + workDir}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return m, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return m, json.Unmarshal(out, &m)
}

// wantRefused expects a command to end with a code and words.
func wantRefused(t *testing.T, code int, says string, args ...string) {
	t.Helper()
	out, err := assayd(t, args...)
	exit, _ := err.(*exec.ExitError)
	if exit == nil || exit.ExitCode() != code || !strings.Contains(out, says) {
		t.Errorf("assayd %s: %v %q, want code %d and %q", args[0], err, out, code, says)
	}
}

// attestSoft attests once with a machine in software.
func attestSoft(t *testing.T, svc *service, m *softMachine, whole bool) *verdict {
	t.Helper()
	var c client.Challenge
	svc.call(t, http.MethodPost, "/v1/machines/"+m.id+"/challenges", m.token, nil, http.StatusCreated, &c)
	body, err := m.Evidence(&c, whole)
	if err != nil {
		t.Fatal(err)
	}
	got, err := svc.send(t.Context(), http.MethodPost, "/v1/machines/"+m.id+"/evidence", m.token, "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	return parseVerdict(t, got.body)
}

// TestBackupAndRestore: a service with everything that a demonstration made, and some more, is backed up while it works, and another
// database is made of the file. Every row is there, the service starts on it with its key file and no other, and tokens, results and
// verdicts from before hold.
func TestBackupAndRestore(t *testing.T) {
	database := newPostgres(t)
	private := filepath.Join(newFolder(t), "keys")
	if err := os.WriteFile(private, readFile(t, "testdata/upgrade/test-key-encryption.keys"), 0o600); err != nil {
		t.Fatal(err)
	}
	from, file := database("source"), filepath.Join(newFolder(t), "assay.backup")
	all := captured(t)
	load(t, from, all[len(all)-1])
	svc := upgraded(t, from, "--key-file", private)
	m := newSoftMachine(t, svc, "restored")
	if err := m.Boot(readFile(t, bootLog(t, "sb-on-1"))); err != nil {
		t.Fatal(err)
	}
	v := attestSoft(t, svc, m, true).must(t, "affirming", "")
	db := connect(t, from)
	if _, err := db.Exec(t.Context(), `INSERT INTO river.river_job (kind, args, queue, max_attempts, state, scheduled_at) VALUES ('notify_sweep', '{}', 'notify_sweep', 5, 'scheduled', now() + interval '10 years')`); err != nil {
		t.Fatal(err)
	}

	// While somebody writes pairs of rows, a file holds both of a pair or none.
	write(t, from, func(stop func()) {
		f, to := file+".under-way", database("pairs")
		if _, err := operate(t, "backup", f, "--database-url", from); err != nil {
			t.Fatal(err)
		}
		stop()
		if _, err := operate(t, "restore", f, "--database-url", to); err != nil {
			t.Fatal(err)
		}
		restored := connect(t, to)
		pairs, halves := one[int](t, restored, `SELECT count(*) FROM suppression_rules WHERE comment = 'pair'`), one[int](t, restored, `SELECT count(*) FROM join_tokens WHERE name = 'pair'`)
		if pairs != halves || pairs == 0 {
			t.Errorf("a file written under way holds %d of one row and %d of the other", pairs, halves)
		}
	})

	// At rest the file is the database, row for row.
	if err := svc.terminate(); err != nil {
		t.Fatal(err)
	}
	saved, err := operate(t, "backup", file, "--database-url", from)
	if err != nil {
		t.Fatal(err)
	}
	want := contents(t, db, nil)
	filled := 0
	for _, c := range saved.Contents {
		if c.Rows > 0 {
			filled++
		}
	}
	if filled < 30 || saved.PlainKeys != 0 || len(saved.KeyEncryptionKeys) != 1 || saved.JobsVersion == 0 {
		t.Errorf("%d tables with rows, %+v", filled, saved)
	}
	if text := readFile(t, file); bytes.Contains(text, bytes.Fields(readFile(t, private))[len(bytes.Fields(readFile(t, private)))-1]) {
		t.Error("the key-encryption key is in the file")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode: %v %v", info.Mode(), err)
	}
	wantRefused(t, 2, "is there already", "backup", file, "--database-url", from)

	to := database("target")
	restored, err := operate(t, "restore", file, "--database-url", to)
	if err != nil {
		t.Fatal(err)
	}
	if restored.SHA256 != saved.SHA256 || restored.Rows != saved.Rows {
		t.Errorf("saved %+v, restored %+v", saved, restored)
	}
	copied := connect(t, to)
	wantSame(t, "restored", want, contents(t, copied, nil), "audit_events", "audit_chain")
	const audited = `SELECT count(*) FROM audit_events`
	if a, b := one[int](t, db, audited), one[int](t, copied, audited); b != a+1 {
		t.Errorf("%d audit events became %d: the restore should be one more", a, b)
	}
	if n := one[int](t, copied, `SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgenabled = 'D'`); n != 0 {
		t.Errorf("%d triggers are off after the restore", n)
	}
	if n := one[int](t, copied, `SELECT count(*) FROM verdicts_default`); n != 0 {
		t.Errorf("%d verdicts are in the default partition", n)
	}
	if one[int](t, copied, `SELECT count(*) FROM river.river_job WHERE kind = 'notify_sweep' AND scheduled_at > now() + interval '9 years'`) != 1 {
		t.Error("the job that waits is not there")
	}
	if _, err := copied.Exec(t.Context(), `INSERT INTO river.river_job (kind, args, queue, max_attempts) VALUES ('notify_sweep', '{}', 'notify_sweep', 5)`); err != nil {
		t.Errorf("the job queue does not count on: %v", err)
	}

	// What is there is not replaced unless it is said, and not while somebody uses it.
	wantRefused(t, 1, "in use", "restore", file, "--database-url", to, "--replace")
	if err := copied.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, 2, "--replace", "restore", file, "--database-url", to)
	if _, err := operate(t, "restore", file, "--database-url", to, "--replace"); err != nil {
		t.Fatal(err)
	}

	// Only the key that sealed the service's keys opens them.
	wantRefused(t, 2, saved.KeyEncryptionKeys[0], "serve", "--database-url", to, "--data-dir", newFolder(t), "--listen", "127.0.0.1:0", "--admin-listen", "")
	again, err := startService(svc.dataDir, "--database-url", to, "--key-file", private, "--trust-bundle", "none")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := again.terminate(); err != nil {
			t.Error(err)
		}
	})
	again.get(t, "/v1/verdicts/"+v.ID, nil)                 // with the old token of an administrator
	attestSoft(t, again, m, false).must(t, "affirming", "") // with the old token of a machine
	var active struct{ Active bool }
	again.call(t, http.MethodPost, "/v1/results/introspect", again.admin, map[string]string{"token": v.Token}, http.StatusOK, &active)
	if !active.Active {
		t.Error("a result that was signed before does not hold")
	}
	wantReadable(t, again, connect(t, to))
}

// write writes pairs of rows, each pair in a transaction, until during calls stop.
func write(t *testing.T, databaseURL string, during func(stop func())) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	begun, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ctx.Err() == nil; i++ {
			_ = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `INSERT INTO suppression_rules (tenant_id, rule_id, alert_code, reason, comment, state, scope, created_by, created_at, updated_at)
					SELECT tenant_id, gen_random_uuid(), '*', 'pair', 'pair', 'disabled', '{"all_of": []}', 'system:', now(), now() FROM tenants`); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, `INSERT INTO join_tokens (tenant_id, token_id, name, token_hash, uses_left, expires_at, created_at)
					SELECT tenant_id, gen_random_uuid(), 'pair', sha256(gen_random_uuid()::text::bytea), 0, now(), now() FROM tenants`)
				return err
			})
			if i == 10 {
				close(begun)
			}
		}
	}()
	<-begun
	during(func() { cancel(); <-ended })
	cancel()
	<-ended
	_ = conn.Close(context.Background())
}

// TestBackupOfTheEmbeddedDatabase: it is written while the service runs, and needs its key file to be of use.
func TestBackupOfTheEmbeddedDatabase(t *testing.T) {
	svc := newService(t)
	file := filepath.Join(newFolder(t), "assay.backup")
	saved, err := operate(t, "backup", file, "--data-dir", svc.dataDir)
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, 1, "stop the service first", "restore", file, "--data-dir", svc.dataDir, "--replace")
	dataDir := filepath.Join(newFolder(t), "data")
	if _, err := operate(t, "restore", file, "--data-dir", dataDir); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, 2, saved.KeyEncryptionKeys[0], "serve", "--data-dir", dataDir, "--listen", "127.0.0.1:0", "--admin-listen", "")
	for _, name := range []string{"key-encryption.keys", "admin.token"} {
		if err := os.WriteFile(filepath.Join(dataDir, name), readFile(t, filepath.Join(svc.dataDir, name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := startService(dataDir)
	if err != nil {
		t.Fatal(err)
	}
	again.get(t, "/v1/machines", nil)
	if err := again.terminate(); err != nil {
		t.Fatal(err)
	}
	// Of a service that does not run too.
	if _, err := operate(t, "backup", file+".2", "--data-dir", dataDir); err != nil {
		t.Error(err)
	}
}

// TestDamagedBackup: what was cut off or changed is refused before anything is touched, and so is what is none.
func TestDamagedBackup(t *testing.T) {
	database := newPostgres(t)
	from, folder := database("small"), newFolder(t)
	load(t, from, captured(t)[0])
	file := filepath.Join(folder, "whole")
	if _, err := operate(t, "backup", file, "--database-url", from); err != nil {
		t.Fatal(err)
	}
	whole := readFile(t, file)
	flip := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 1
		return b
	}
	to := database("untouched")
	for story, content := range map[string][]byte{
		"cut off in the middle": whole[:len(whole)/2], "without its last byte": whole[:len(whole)-1], "empty": nil, "something more": append(bytes.Clone(whole), 0),
		"the first byte": flip(0), "in the header": flip(100), "in the rows": flip(len(whole) / 2), "the digest": flip(len(whole) - 1), "another file": []byte("PGDMP..."),
	} {
		broken := filepath.Join(folder, "broken")
		if err := os.WriteFile(broken, content, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := assayd(t, "restore", broken, "--database-url", to)
		if err == nil || !strings.Contains(out, "damaged") {
			t.Errorf("%s: %v %q", story, err, out)
		}
		if out, err := assayd(t, "restore", broken, "--check"); err == nil || !strings.Contains(out, "damaged") {
			t.Errorf("%s, checked: %v %q", story, err, out)
		}
	}
	if one[bool](t, connect(t, to), `SELECT to_regclass('tenants') IS NOT NULL`) {
		t.Error("a damaged file made tables")
	}
	// The file of an old schema is restored by the service of now.
	old := database("old")
	if m, err := operate(t, "restore", file, "--database-url", old); err != nil || m.SchemaVersion != captured(t)[0] {
		t.Errorf("%+v %v", m, err)
	}
	if out, err := assayd(t, "migrate", "--database-url", old); err != nil || !strings.Contains(out, "schema version") {
		t.Errorf("%v %s", err, out)
	}
	const password = "hunter2-in-the-url"
	for _, args := range [][]string{{"backup", filepath.Join(folder, "none")}, {"restore", file}} {
		for _, host := range []string{"127.0.0.1:1", "%zz"} {
			out, err := assayd(t, append(args, "--database-url", "postgres://assay:"+password+"@"+host+"/assay")...)
			if err == nil || strings.Contains(out, password) {
				t.Errorf("%s: %v %s", args[0], err, out)
			}
		}
	}
}
