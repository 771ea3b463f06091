package migrations_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

// Statements of the release that knows the schema up to 0011, as it sends them.
const (
	oldMachine = `INSERT INTO machines (tenant_id, machine_id, external_id, name, os, platform, security_type, scale_set, labels,
			declared_secure_boot_supported, declared_secure_boot, declared_vtpm, declared_agent_installed, state, created_at, updated_at, instance)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15, $16) ON CONFLICT DO NOTHING`
	oldState   = `INSERT INTO machine_attestation_state (tenant_id, machine_id) VALUES ($1, $2)`
	oldVerdict = `INSERT INTO verdicts (tenant_id, verdict_id, machine_id, key_id, status, reason, assurance, genuine, first_at, last_at, run_count, appraisal, event_log_digest)
	SELECT u.tenant_id, u.verdict_id, u.machine_id, u.key_id, u.status, u.reason, u.assurance, u.genuine, u.at, u.at, 1, u.appraisal::json, u.digest
	FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::boolean[], $9::timestamptz[], $10::text[], $11::bytea[])
		u (tenant_id, verdict_id, machine_id, key_id, status, reason, assurance, genuine, at, appraisal, digest)`
	oldAudit = `INSERT INTO audit_events
	(tenant_id, event_id, at, actor_kind, actor_id, remote_addr, request_id, action, target, before, after)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`
	oldSupersede = `UPDATE machine_attestation_state st SET verdict_id = u.verdict_id, fingerprint = NULL, run_count = 1, run_last_at = u.at
	FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[]) u (tenant_id, machine_id, verdict_id, at)
	WHERE st.tenant_id = u.tenant_id AND st.machine_id = u.machine_id`
	oldUpsertAlert = `WITH up AS (INSERT INTO alerts AS a
		(tenant_id, alert_id, machine_id, code, display_name, severity, reason, description, remediation_steps, status, verdict_id,
		 first_seen_at, last_seen_at, seen_count, suppressed_by, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'active', $10, $11, $11, 1, $12, $11)
		ON CONFLICT (tenant_id, machine_id, code) WHERE status IN ('active', 'in_progress') DO UPDATE SET
			display_name = EXCLUDED.display_name, severity = EXCLUDED.severity, reason = EXCLUDED.reason, description = EXCLUDED.description,
			remediation_steps = EXCLUDED.remediation_steps, verdict_id = EXCLUDED.verdict_id, suppressed_by = EXCLUDED.suppressed_by,
			last_seen_at = GREATEST(a.last_seen_at, EXCLUDED.last_seen_at), seen_count = a.seen_count + 1,
			updated_at = CASE WHEN a.reason <> EXCLUDED.reason THEN EXCLUDED.updated_at ELSE a.updated_at END
		RETURNING a.alert_id),
	told AS (INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at)
		SELECT $1, $13, 'alert.opened', up.alert_id, jsonb_build_object('alert_id', $2, 'machine_id', $3, 'code', $4::text, 'severity', $6::text,
			'reason', $7::text, 'verdict_id', $10::uuid, 'suppressed_by', $12::uuid), $11
		FROM up WHERE up.alert_id = $2)
	SELECT up.alert_id = $2 FROM up`
	oldResolveAlerts = `WITH ended AS (UPDATE alerts a SET status = 'resolved', updated_at = u.at
		FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::uuid[]) u (tenant_id, machine_id, code, at, event_id)
		WHERE a.tenant_id = u.tenant_id AND a.machine_id = u.machine_id AND a.code = u.code AND a.status IN ('active', 'in_progress')
		RETURNING a.tenant_id, a.machine_id, a.alert_id, a.code, u.event_id, u.at)
	INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at)
	SELECT tenant_id, event_id, 'alert.resolved', alert_id, jsonb_build_object('alert_id', alert_id, 'machine_id', machine_id, 'code', code), at FROM ended`
	oldAlertStatus = `UPDATE alerts SET status = $3, updated_at = $4 WHERE tenant_id = $1 AND alert_id = $2`
	oldRecommend   = `INSERT INTO recommendations AS r
	(tenant_id, recommendation_id, machine_id, code, display_name, severity, description, remediation_steps, open, first_seen_at, last_seen_at)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, true, $9, $9)
	ON CONFLICT ON CONSTRAINT recommendations_machine_code DO UPDATE SET display_name = EXCLUDED.display_name, severity = EXCLUDED.severity,
		description = EXCLUDED.description, remediation_steps = EXCLUDED.remediation_steps, open = true, resolved_at = NULL,
		first_seen_at = CASE WHEN r.open THEN r.first_seen_at ELSE EXCLUDED.first_seen_at END, last_seen_at = EXCLUDED.last_seen_at`
	oldRecommendEnd = `UPDATE recommendations r SET open = false, resolved_at = u.at
	FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[]) u (tenant_id, machine_id, code, at)
	WHERE r.tenant_id = u.tenant_id AND r.machine_id = u.machine_id AND r.code = u.code AND r.open`
	oldServiceKey = `INSERT INTO service_keys (tenant_id, key_id, purpose, generation, key, created_at)
			VALUES ($1, gen_random_uuid(), $2, 1, $3, now()) ON CONFLICT ON CONSTRAINT service_keys_generation DO NOTHING`
	oldAPIToken = `INSERT INTO api_tokens (tenant_id, token_id, name, role, token_hash, expires_at, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`
)

const (
	owner   = "00000000-0000-0000-0000-000000000001"
	machine = "01930000-0000-7000-8000-000000000001"
	verdict = "01930000-0000-7000-8000-000000000002"
	alertID = "01930000-0000-7000-8000-000000000003"
	at0     = "2026-11-23 12:00:00+00"
	at1     = "2026-11-23 12:05:00+00"
)

func send(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s\n%v", sql, err)
	}
}

func wantText(t *testing.T, conn *pgx.Conn, sql, want string) {
	t.Helper()
	if got := list(t, conn, sql); len(got) != 1 || got[0] != want {
		t.Errorf("%s\nis %q, want %q", sql, got, want)
	}
}

// While replicas are replaced one by one, those of the release before go on writing to the new schema: all that they send
// works, and what they do not know of an alert is written for them.
func TestTheReleaseBeforeGoesOnWriting(t *testing.T) {
	cfg := database(t, "upgrade")
	m, conn := migrator(t, cfg), connect(t, cfg)
	if err := m.Up(); err != nil {
		t.Fatal(err)
	}
	send(t, conn, `INSERT INTO tenants (tenant_id, name, created_at) VALUES ($1, 'default', $2) ON CONFLICT DO NOTHING`, owner, at0)
	send(t, conn, oldMachine, owner, machine, "ext-1", "web-1", "linux", "qemu", "standard", "web", "{}", nil, nil, nil, nil, "registered", at0, nil)
	send(t, conn, oldState, owner, machine)
	send(t, conn, oldServiceKey, owner, "challenge", []byte("key"))
	send(t, conn, oldAPIToken, owner, machine, "ci", "admin", make([]byte, 32), nil, at0)
	send(t, conn, oldVerdict, []string{owner}, []string{verdict}, []string{machine}, []*string{nil}, []string{"warning"}, []string{""}, []string{"ek_activated"}, []bool{true}, []string{at0}, []string{"{}"}, [][]byte{nil})
	wantText(t, conn, `SELECT concat_ws(' ', v.seq, v.hash = m.verdict_hash, m.verdicts_earlier) FROM verdicts v JOIN machines m USING (tenant_id, machine_id)`, "1 t 0")
	send(t, conn, oldAudit, owner, alertID, at0, "machine", machine, "", "", "verdict.change", "machine:"+machine, nil, "{}")
	wantText(t, conn, `SELECT concat_ws(' ', seq, event_id, octet_length(hash)) FROM audit_chain`, "1 "+alertID+" 32")
	send(t, conn, oldSupersede, []string{owner}, []string{machine}, []string{verdict}, []string{at0})
	send(t, conn, oldUpsertAlert, owner, alertID, machine, "attestation_failed", "Attestation failed", "medium", "baseline_deviation", "grubx64.efi changed", "{}", verdict, at0, nil, verdict)
	send(t, conn, oldUpsertAlert, owner, machine, machine, "attestation_failed", "Attestation failed", "medium", "baseline_deviation", "grubx64.efi changed", "{}", verdict, at0, nil, machine) // counts up
	const state = `SELECT concat_ws(' ', status, opened_at = first_seen_at, group_key = sha256('attestation_failed\000baseline_deviation\000'::bytea), closed_at IS NULL, closed_by) FROM alerts`
	const members = `SELECT concat_ws(' ', count(*), count(*) FILTER (WHERE im.left_at IS NULL), max(left_as)) FROM incident_members im JOIN alerts a USING (tenant_id, alert_id, group_key)`
	wantText(t, conn, state, "active t t t ")
	wantText(t, conn, members, "1 1 ")
	wantText(t, conn, `SELECT concat_ws(' ', count(*), min(title)) FROM incident_touches`, "1 Attestation failed")
	wantText(t, conn, `SELECT concat_ws(' ', (SELECT count(*) FROM alert_occurrences), (SELECT count(*) FROM alert_events WHERE kind = 'opened'))`, "1 1")
	send(t, conn, oldResolveAlerts, []string{owner}, []string{machine}, []string{"attestation_failed"}, []string{at1}, []string{alertID})
	wantText(t, conn, state, "resolved t t f system:alerts")
	wantText(t, conn, members, "1 0 resolved")
	send(t, conn, oldAlertStatus, owner, alertID, "active", at1)
	wantText(t, conn, state, "active f t t ")
	wantText(t, conn, members, "1 1 ")
	send(t, conn, oldAlertStatus, owner, alertID, "in_progress", at1)
	send(t, conn, oldAlertStatus, owner, alertID, "dismissed", at1)
	wantText(t, conn, members, "1 0 dismissed")
	wantText(t, conn, `SELECT concat_ws(' ', count(*), count(*) FILTER (WHERE fanned_out_at IS NULL)) FROM outbox`, "2 2")
	send(t, conn, oldRecommend, owner, machine, machine, "secure_boot_off", "Secure Boot is off", "low", "It is off.", "{}", at0)
	send(t, conn, oldRecommendEnd, []string{owner}, []string{machine}, []string{"secure_boot_off"}, []string{at1})
}
