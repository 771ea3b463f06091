package store_test

import (
	"testing"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// BenchmarkOverdue is one look at the deadlines of 100,000 machines that all attest in time: what finding the overdue costs
// where there is no index of deadlines.
func BenchmarkOverdue(b *testing.B) {
	s, conn := newStore(b)
	for _, sql := range []string{
		`INSERT INTO machines (tenant_id, machine_id, name, state, created_at, updated_at) SELECT $1, gen_random_uuid(), 'm' || i, 'active', $2, $2 FROM generate_series(1, 100000) i`,
		`INSERT INTO machine_attestation_state (tenant_id, machine_id, last_challenge, verdict_id, fingerprint, run_count, run_last_at, last_seen_at, next_due_at,
				clock_key_id, clock, reset_count, restart_count, clock_safe, firmware_version, last_log, ima_state, genuine_verdict_id)
			SELECT tenant_id, machine_id, sha256('c'), machine_id, sha256('f'), 7, created_at, created_at, created_at + interval '5 minutes', machine_id, 1, 2, 3, true, 4, sha256('l'),
				'{"entries": 12, "pcrs": {"sha256": "0000000000000000000000000000000000000000000000000000000000000000"}}', machine_id FROM machines WHERE tenant_id = $1 AND $2::timestamptz IS NOT NULL`,
	} {
		if _, err := conn.Exec(b.Context(), sql, tenant, t0); err != nil {
			b.Fatal(err)
		}
	}
	must0(b, s.Beat(b.Context(), tenant, t0))
	for b.Loop() {
		if r, err := s.CheckDeadlines(b.Context(), tenant, finding.DefaultSilenceLimits(), t0, system); err != nil || r != (store.DeadlineRound{}) {
			b.Fatal(r, err)
		}
	}
}
