package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store/embedded"
)

// patient is a database that a doctor looks at.
type patient struct {
	t         *testing.T
	url, data string
	key       string
	conn      *pgx.Conn
}

// examine runs the doctor, and answers the worst status of each check.
func (p *patient) examine(code int, args ...string) map[string]doctorCheck {
	p.t.Helper()
	got, out := once(p.t, []string{"ASSAY_DATABASE_URL=" + p.url}, append([]string{"doctor", "--output", "json", "--data-dir", p.data, "--listen", freeAddress(p.t), "--admin-listen", freeAddress(p.t), "--key-file", p.key}, args...)...)
	var r doctorReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || got != code {
		p.t.Fatalf("doctor: code %d, want %d: %v\n%s", got, code, err, out)
	}
	checks := map[string]doctorCheck{}
	rank := map[string]int{doctorWarning: 1, doctorFailure: 2}
	for _, c := range r.Checks {
		if c.Detail == "" || (rank[c.Status] > 0) != (c.Advice != "") {
			p.t.Errorf("what is not well has advice, and nothing else: %+v", c)
		}
		if old, ok := checks[c.Code]; !ok || rank[c.Status] >= rank[old.Status] {
			checks[c.Code] = c
		}
	}
	if strings.Contains(out, "hunter2") {
		p.t.Errorf("a password is shown: %s", out)
	}
	return checks
}

// expect wants a status of one check, and all others well.
func (p *patient) expect(code, status string, args ...string) doctorCheck {
	p.t.Helper()
	exit := map[string]int{doctorOK: 0, doctorWarning: 1, doctorFailure: 2}[status]
	checks := p.examine(exit, args...)
	for name, c := range checks {
		if want := map[bool]string{true: status, false: doctorOK}[name == code]; c.Status != want && c.Status != doctorSkipped {
			p.t.Errorf("%s is %s and should be %s: %s", name, c.Status, want, c.Detail)
		}
	}
	return checks[code]
}

// during makes a change, has f look, and takes the change back.
func (p *patient) during(change, back string, f func()) {
	p.t.Helper()
	for i, sql := range []string{change, back} {
		if _, err := p.conn.Exec(p.t.Context(), sql); err != nil {
			p.t.Fatalf("%s: %v", sql, err)
		}
		if i == 0 {
			f()
		}
	}
}

// newPatient is a healthy database that a service has just left.
func newPatient(t *testing.T) *patient {
	t.Helper()
	folder := dataFolder(t)
	postgres, err := embedded.Start(t.Context(), embedded.Config{DataDir: folder})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = postgres.Stop(context.Background()) })
	p := &patient{t: t, data: filepath.Join(t.TempDir(), "data"), key: filepath.Join(t.TempDir(), "keys")}
	p.url = "postgres://assay:hunter2@/assay?" + url.Values{"host": {filepath.Join(folder, "run")}, "sslmode": {"disable"}}.Encode()
	if code, out := once(t, nil, "keys", "generate", p.key); code != 0 {
		t.Fatal(out)
	}
	start(t, []string{"ASSAY_DATABASE_URL=" + p.url}, "serve", "--data-dir", p.data, "--key-file", p.key, "--trust-bundle", "none").stop()
	if p.conn, err = pgx.Connect(t.Context(), p.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.conn.Close(context.Background()) })
	if _, err := p.conn.Exec(t.Context(), `CREATE ROLE doctor LOGIN NOINHERIT; GRANT assay_app TO doctor`); err != nil {
		t.Fatal(err)
	}
	p.url = strings.Replace(p.url, "assay:", "doctor:", 1) // as the service comes
	p.beat("now()")
	return p
}

// beat lets it look as if a service beat its heart at that time.
func (p *patient) beat(at string) {
	p.t.Helper()
	if _, err := p.conn.Exec(p.t.Context(), `UPDATE service_heartbeats SET beat_at = `+at+` + interval '1 hour'; DELETE FROM rollup_deltas; UPDATE outbox SET fanned_out_at = now();
		DELETE FROM river.river_job; UPDATE service_heartbeats SET beat_at = `+at); err != nil {
		p.t.Fatal(err)
	}
}

// TestDoctor: a healthy service has nothing to complain of, and each thing that can be wrong is told, by its code, with advice.
func TestDoctor(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	beat := func(at string) { p.beat(at) }
	fresh := func() { beat("now() + interval '10 minutes'") } // for as long as the test takes
	fresh()
	p.expect("", doctorOK)

	beat("now() - interval '2 minutes'")
	p.expect("service", doctorWarning)
	fresh()
	now := time.Now().UTC()
	month := now.Format("2006m01")
	next := time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC).Format("2006m01")
	tenant := `(SELECT tenant_id FROM tenants)`
	for _, c := range []struct{ code, status, change, back, has string }{
		{"partitions", doctorFailure, `ALTER TABLE verdicts_y` + month + ` RENAME TO hidden`, `ALTER TABLE hidden RENAME TO verdicts_y` + month, "this month"},
		{"partitions", doctorWarning, `ALTER TABLE evidence_y` + next + ` RENAME TO hidden`, `ALTER TABLE hidden RENAME TO evidence_y` + next, "next month"},
		{"default_partitions", doctorWarning, `INSERT INTO evidence (tenant_id, verdict_id, content_type, size, compressed) SELECT tenant_id, assay_uuid7_floor('2012-01-01'), '', 0, '' FROM tenants`, `DELETE FROM evidence_default`, "evidence"},
		{"deliveries", doctorWarning, `INSERT INTO notification_channels (tenant_id, channel_id, kind, name, enabled, disabled_reason, format, filter, config, created_by, created_at, updated_at)
			SELECT tenant_id, gen_random_uuid(), 'webhook', 'siem', false, 'failing', 'json', '{}', '{}', '', now(), now() FROM tenants`, `DELETE FROM notification_channels`, "siem"},
		{"trust_anchors", doctorWarning, anchorUntil(tenant, "now() - interval '1 day'"), `DELETE FROM trust_anchors WHERE name = 'old root'`, "ended"},
		{"trust_anchors", doctorWarning, anchorUntil(tenant, "now() + interval '20 days'"), `DELETE FROM trust_anchors WHERE name = 'old root'`, "ends on"},
		{"collateral", doctorWarning, `INSERT INTO collateral (tenant_id, kind, name, body, not_before, not_after, source, created_at, created_by)
			SELECT tenant_id, 'snp_crl', 'milan', '', now(), now() - interval '1 day', 'uploaded', now(), '' FROM tenants`, `DELETE FROM collateral`, "milan"},
		{"jobs", doctorWarning, jobDue("10 minutes"), `DELETE FROM river.river_job`, "queue"},
		{"jobs", doctorFailure, jobDue("3 hours"), `DELETE FROM river.river_job`, "queue"},
		{"keys_sealed", doctorWarning, `INSERT INTO service_keys (tenant_id, key_id, purpose, generation, key, created_at) SELECT tenant_id, gen_random_uuid(), 'plain', 1, 'x', now() FROM tenants`, `DELETE FROM service_keys WHERE purpose = 'plain'`, "as they are"},
		{"key_rotation", doctorWarning, `UPDATE service_keys SET activated_at = activated_at - interval '40 days', created_at = created_at - interval '40 days' WHERE purpose = 'result_signing'`,
			`UPDATE service_keys SET activated_at = activated_at + interval '40 days', created_at = created_at + interval '40 days' WHERE purpose = 'result_signing'`, "followed"},
		{"role", doctorWarning, `ALTER ROLE doctor BYPASSRLS`, `ALTER ROLE doctor NOBYPASSRLS`, "BYPASSRLS"},
		{"durability", doctorFailure, `ALTER ROLE doctor SET synchronous_commit = off`, `ALTER ROLE doctor RESET synchronous_commit`, "synchronous_commit"},
	} {
		p.during(c.change, c.back, func() {
			if got := p.expect(c.code, c.status); !strings.Contains(got.Detail, c.has) {
				t.Errorf("%s says %q, and not %q", c.code, got.Detail, c.has)
			}
		})
	}

	// What is not well with the host and the settings.
	cert, key := certificate(t) // an hour from its end
	p.expect("tls_certificate", doctorWarning, "--tls-cert", cert, "--tls-key", key)
	if err := os.Chmod(p.key, 0o644); err != nil {
		t.Fatal(err)
	}
	checks := p.examine(2)
	if c := checks["file_modes"]; c.Status != doctorFailure || !strings.Contains(c.Advice, "chmod 600 "+p.key) || checks["keys_open"].Status != doctorFailure {
		t.Errorf("%+v", checks)
	}
	if err := os.Chmod(p.key, 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if code, out := once(t, nil, "keys", "generate", other); code != 0 {
		t.Fatal(out)
	}
	p.expect("keys_open", doctorFailure, "--key-file", other)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	p.expect("listen", doctorFailure, "--listen", l.Addr().String())
	_ = l.Close()
	p.expect("tls", doctorWarning, "--listen", "0.0.0.0:0")
	p.expect("admin_exposed", doctorWarning, "--admin-listen", "0.0.0.0:0")

	// The schema, and a database that is not there: the rest is done all the same.
	p.during(`UPDATE schema_migrations SET dirty = true`, `UPDATE schema_migrations SET dirty = false`, func() { p.expect("migrations", doctorFailure) })
	p.during(`UPDATE schema_migrations SET version = version - 1`, `UPDATE schema_migrations SET version = version + 1`, func() { p.expect("migrations", doctorFailure) })
	p.url = "postgres://assay:hunter2@127.0.0.1:1/assay?connect_timeout=1"
	down := p.expect("database", doctorFailure)
	if !strings.Contains(down.Detail, "does not answer") {
		t.Errorf("%+v", down)
	}
	if code, out := once(t, nil, "doctor", "--data-dir", filepath.Join(t.TempDir(), "none"), "--listen", freeAddress(t), "--admin-listen", ""); code != 1 || !strings.Contains(out, "there is none yet") {
		t.Errorf("without any database: %d %s", code, out)
	}
}

func anchorUntil(tenant, at string) string {
	return fmt.Sprintf(`WITH a AS (INSERT INTO trust_anchors (tenant_id, anchor_id, name, purpose, created_by, created_at) VALUES (%s, gen_random_uuid(), 'old root', 'ek', '', now()) RETURNING *)
		INSERT INTO trust_anchor_certificates (tenant_id, anchor_id, position, der, subject, fingerprint, not_after) SELECT tenant_id, anchor_id, 0, '', '', '', %s FROM a`, tenant, at)
}

func jobDue(since string) string {
	return `INSERT INTO river.river_job (kind, args, queue, max_attempts, state, scheduled_at) VALUES ('test', '{}', 'none', 1, 'available', now() - interval '` + since + `')`
}

// TestDoctorOfARunningService: the embedded database is looked at while the service uses it, and its addresses are known as its own.
func TestDoctorOfARunningService(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	d := start(t, nil, "serve", "--data-dir", data)
	code, out := once(t, nil, "doctor", "--data-dir", data, "--listen", strings.TrimPrefix(d.url, "http://"), "--admin-listen", strings.TrimPrefix(d.admin, "http://"))
	for _, has := range []string{"a service answers at", "it answers, Postgres", "one works on this database", "keys, all sealed"} {
		if !strings.Contains(out, has) {
			t.Errorf("doctor (%d) does not say %q:\n%s", code, has, out)
		}
	}
	if strings.Contains(out, doctorFailure+" ") {
		t.Errorf("a running service fails:\n%s", out)
	}
	d.stop()
}

// TestClockAndDisk: the bounds of what cannot be provoked on a host that tests share.
func TestClockAndDisk(t *testing.T) {
	t.Parallel()
	r := &doctorReport{}
	examineDisk(r, filepath.Join(t.TempDir(), "not", "there"))
	if len(r.Checks) != 1 || r.Checks[0].Code != "disk_space" {
		t.Errorf("%+v", r)
	}
}
