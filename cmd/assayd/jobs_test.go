package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/server/schedule"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
)

// The jobs that are a tenant's are done for every tenant: each finds in both what is to be done. The heartbeat is noted for both
// before anything else begins.
func TestJobsAreDoneForEveryTenant(t *testing.T) {
	t.Parallel()
	pg, err := embedded.Start(t.Context(), embedded.Config{DataDir: dataFolder(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Stop(context.Background()) })
	if err := store.Migrate(t.Context(), pg.URL()); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), pg.URL(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	conn, err := pgx.Connect(t.Context(), pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	tenants := []uuid.UUID{store.DefaultTenant, uuid.MustParse("ffffffff-0000-4000-8000-0000000000ff")}
	for _, tenant := range tenants {
		if err := st.EnsureTenant(t.Context(), tenant, time.Now()); err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{
			`INSERT INTO machines (tenant_id, machine_id, name, state, created_at, updated_at) VALUES ($1, $1, 'm', 'active', now(), now())`,
			`INSERT INTO machine_attestation_state (tenant_id, machine_id, next_due_at) VALUES ($1, $1, now() - interval '2 hours')`,
			`INSERT INTO recommendations (tenant_id, recommendation_id, machine_id, code, display_name, severity, description, remediation_steps, open, first_seen_at, last_seen_at,
					exemption_reason, exemption_comment, exemption_by, exemption_at, exemption_expires_at)
				VALUES ($1, $1, $1, 'secure_boot_enabled', 'x', 'low', '', '{}', true, now(), now(), 'waiver', '', 'x', now(), now() - interval '1 hour')`,
			`INSERT INTO incident_touches (tenant_id, touch_id, group_key, code, display_name, severity, reason, title) VALUES ($1, $1, sha256('x'), 'x', 'x', 'low', '', '')`,
			`INSERT INTO fleet_changes (tenant_id, change_id, machine_id, noted_at) VALUES ($1, $1, $1, now())`,
			`INSERT INTO silences (tenant_id, silence_id, scope, silent, peak, since, started_at, ended_at) SELECT $1, $1, 'fleet', 0, 5, x, x, x FROM (SELECT now() - interval '2 years') x (x)`,
		} {
			if _, err := conn.Exec(t.Context(), sql, tenant); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
	}
	w := &worker{st: st, fetch: &FetchConfig{}, silence: &SilenceConfig{SilenceMachines: 5, SilencePercent: 50, SilenceEndPercent: 20, SilenceMaxAge: time.Hour},
		retention: &RetentionConfig{RetentionAlerts: int(schedule.LeastAlertRetention / (24 * time.Hour)), RetentionEvidence: 90, RetentionVerdicts: 400, RetentionAudit: 2557}, audit: &AuditConfig{}}
	both := func(story, sql string, want int64) {
		t.Helper()
		var n int64
		if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil || n != want {
			t.Errorf("%s: %d %v, want %d", story, n, err, want)
		}
	}
	beats, err := schedule.Once(t.Context(), []schedule.Job{w.heartbeat()}, schedule.HeartbeatName)
	if err != nil || beats != "" {
		t.Fatal(beats, err)
	}
	both("heartbeats", `SELECT count(*) FROM service_heartbeats`, 2)
	for _, c := range []struct {
		job, left string // what is left to do is counted
		want      int64
	}{
		{schedule.StaleName, `SELECT 2 - count(*) FROM deadline_watch`, 0},
		{"incidents", `SELECT count(*) FROM incident_touches`, 0},
		{"exemptions", `SELECT count(*) FROM recommendations WHERE exemption_reason IS NOT NULL`, 0},
		{"fleet-detection", `SELECT count(*) FROM fleet_changes`, 0},
		{"alerts-retention", `SELECT count(*) FROM silences`, 0},
	} {
		if _, err := schedule.Once(t.Context(), w.jobs(), c.job); err != nil {
			t.Errorf("%s: %v", c.job, err)
		}
		both(c.job, c.left, c.want)
	}
	// The others need more than rows: that they ask for every tenant shows where each tenant's part fails.
	if _, err := conn.Exec(t.Context(), `ALTER TABLE baseline_versions RENAME TO hidden_versions; ALTER TABLE collateral_wants RENAME TO hidden_wants`); err != nil {
		t.Fatal(err)
	}
	for _, job := range []string{"baseline-grace", collateralFetch} {
		_, err := schedule.Once(t.Context(), w.jobs(), job)
		for _, tenant := range tenants {
			if err == nil || !strings.Contains(err.Error(), "tenant "+tenant.String()+":") {
				t.Errorf("%s was not done for %s: %v", job, tenant, err)
			}
		}
	}
}
