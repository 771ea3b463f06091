package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/finding"
)

// DeadlineRound is what one look at the deadlines found.
type DeadlineRound struct {
	NotServing bool // no replica serves the tenant: nobody could have heard a machine, so that nothing was looked at
	Busy       bool // another replica was looking at them
	Stale      int  // machines that are stale from now on
	Alerts     int  // machines that got an alert of their own
	Begun      int  // mass silences that began
	Ended      int  // and that ended
}

// deadlinePage bounds the machines of one transaction.
const deadlinePage = 200

// CheckDeadlines finds the machines that are silent past their deadline and what their policy leaves after it, and says so
// in their assessments; and it raises, in due time, the alert that attestation is missing: for a machine, or for many that
// went silent together. Rows decide, so that of several callers at once, or one after the other, each thing is done once.
// The clock of all callers is now; the zero time stands for the database's clock, as in Beat, whose beats are compared with it.
//
// The overdue are found by reading the whole hot table (60 MB at 100,000 machines, see BenchmarkOverdue): an index of deadlines
// would have to be written by each attestation, which then is no heap-only update and writes 2.6 times the WAL.
func (s *Store) CheckDeadlines(ctx context.Context, tenant uuid.UUID, limits finding.SilenceLimits, now time.Time, actor Actor) (DeadlineRound, error) {
	ctx = withTenant(ctx, tenant)
	var r DeadlineRound
	// One look at a time: whoever holds this row decides on all that is silent, and not on what another has found so far. The
	// lock goes with the connection, so that one who dies holds up nobody.
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if err := databaseTime(ctx, tx, &now); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO deadline_watch (tenant_id, checked_at) VALUES ($1, $2) ON CONFLICT DO NOTHING`, pgUUID(tenant), now); err != nil {
			return err
		}
		var checked time.Time
		err := tx.QueryRow(ctx, `SELECT checked_at FROM deadline_watch WHERE tenant_id = $1 FOR UPDATE SKIP LOCKED`, pgUUID(tenant)).Scan(&checked)
		if errors.Is(err, pgx.ErrNoRows) {
			r.Busy = true
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.checkDeadlines(ctx, tenant, limits, &r, now, actor); err != nil || r.NotServing {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE deadline_watch SET checked_at = GREATEST(checked_at, $2) WHERE tenant_id = $1`, pgUUID(tenant), now)
		return err
	})
	if err != nil {
		return r, fmt.Errorf("look at deadlines: %w", err)
	}
	return r, nil
}

func (s *Store) checkDeadlines(ctx context.Context, tenant uuid.UUID, limits finding.SilenceLimits, r *DeadlineRound, now time.Time, actor Actor) error {
	overdue, outages, err := s.overdue(ctx, tenant, r, now)
	if err != nil || r.NotServing {
		return err
	}
	for page := range slices.Chunk(overdue, deadlinePage) {
		n, err := s.markStale(ctx, tenant, page, outages, now, actor)
		if err != nil {
			return fmt.Errorf("mark stale machines: %w", err)
		}
		r.Stale += n
	}
	for more := true; more; {
		if more, err = s.settleSilences(ctx, tenant, limits, outages, r, now, actor); err != nil {
			return fmt.Errorf("tell of silent machines: %w", err)
		}
	}
	return nil
}

// selectOverdue reads without locks; what it finds is looked at again with the machine's lock held. $2 is the latest deadline
// that can have been missed under any policy.
const selectOverdue = `SELECT machine_id FROM machine_attestation_state WHERE tenant_id = $1 AND next_due_at <= $2 AND stale_at IS NULL`

func (s *Store) overdue(ctx context.Context, tenant uuid.UUID, r *DeadlineRound, now time.Time) (ids []pgtype.UUID, outages []finding.Outage, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var serving bool
		if serving, outages, err = served(ctx, tx, tenant, now); err != nil || !serving {
			r.NotServing = !serving
			return err
		}
		cfg, err := s.configIn(ctx, tx, tenant)
		if err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, selectOverdue, pgUUID(tenant), now.Add(-cfg.leastGrace()))
		if ids, err = pgx.CollectRows(rows, pgx.RowTo[pgtype.UUID]); err != nil {
			return fmt.Errorf("find overdue machines: %w", err)
		}
		slices.SortFunc(ids, func(a, b pgtype.UUID) int { return bytes.Compare(a.Bytes[:], b.Bytes[:]) })
		return nil
	})
	return ids, outages, err
}

// configIn is the tenant's configuration now, in the caller's transaction.
func (s *Store) configIn(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) (*tenantConfig, error) {
	var generation int64
	if err := tx.QueryRow(ctx, `SELECT config_generation FROM tenants WHERE tenant_id = $1`, pgUUID(tenant)).Scan(&generation); err != nil {
		return nil, notFound(err, "tenant", tenant)
	}
	return s.configAt(ctx, tx, tenant, generation)
}

// leastGrace is the least time that a policy leaves after a deadline.
func (cfg *tenantConfig) leastGrace() time.Duration {
	least := cfg.fallback.Policy.StaleAfterSeconds
	for i := range cfg.policies {
		least = min(least, cfg.policies[i].Policy.StaleAfterSeconds)
	}
	return time.Duration(least) * time.Second
}

// Who is locked attests at this moment, or is marked by another replica.
const lockOverdue = `SELECT ` + machineColumns + `, st.heard_at` + machineTables + `
	WHERE m.tenant_id = $1 AND m.machine_id = ANY ($2::uuid[]) AND st.next_due_at <= $3 AND st.stale_at IS NULL
	ORDER BY m.machine_id FOR NO KEY UPDATE OF m, st SKIP LOCKED`

// silentTable is a page of machines that become stale, column by column.
type silentTable struct {
	machines       []pgtype.UUID
	since, alertAt []time.Time
	intervals      []int64 // in seconds
	findings       []*findingSet
}

const insertSilent = `WITH marked AS (UPDATE machine_attestation_state SET stale_at = $3 WHERE tenant_id = $1 AND machine_id = ANY ($2::uuid[]))
	INSERT INTO silent_machines (tenant_id, machine_id, since, stale_at, alert_due_at, interval_seconds)
	SELECT $1, u.machine_id, u.since, $3, u.alert_due_at, u.seconds FROM unnest($2::uuid[], $4::timestamptz[], $5::timestamptz[], $6::bigint[]) u (machine_id, since, alert_due_at, seconds)`

// markStale marks those of a page that are stale under their own policies.
func (s *Store) markStale(ctx context.Context, tenant uuid.UUID, ids []pgtype.UUID, outages []finding.Outage, now time.Time, actor Actor) (n int, err error) {
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		cfg, err := s.configIn(ctx, tx, tenant)
		if err != nil {
			return err
		}
		t, err := findStale(ctx, tx, tenant, ids, cfg, outages, now)
		if n = len(t.machines); err != nil || n == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, insertSilent, pgUUID(tenant), t.machines, now, t.since, t.alertAt, t.intervals); err != nil {
			return err
		}
		var b pgx.Batch
		queueFindings(&b, t.findings)
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "machines.stale", "tenant:"+tenant.String(), nil, map[string]any{"machine_ids": t.machines})
	})
	return n, err
}

func findStale(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, ids []pgtype.UUID, cfg *tenantConfig, outages []finding.Outage, now time.Time) (t silentTable, err error) {
	rows, _ := tx.Query(ctx, lockOverdue, pgUUID(tenant), ids, now)
	defer rows.Close()
	for rows.Next() {
		var mr machineRow
		var heard pgtype.Timestamptz
		if err := rows.Scan(append(mr.targets(), &heard)...); err != nil {
			return t, err
		}
		m, err := mr.machine()
		if err != nil {
			return t, err
		}
		policy, _ := cfg.policyFor(factsOf(&m))
		due, last := *m.NextDueAt, heard.Time
		if !heard.Valid { // it enrolled an interval before its first deadline
			last = due.Add(-time.Duration(policy.AttestationIntervalSeconds) * time.Second)
		}
		staleAt := finding.Deadline(due.Add(time.Duration(policy.StaleAfterSeconds)*time.Second), last, outages)
		if now.Before(staleAt) {
			continue
		}
		facts := silentFacts(&m)
		t.machines, t.since = append(t.machines, pgUUID(m.ID)), append(t.since, due)
		t.alertAt = append(t.alertAt, staleAt.Add(time.Duration(policy.AttestationMissingDelaySeconds)*time.Second))
		t.intervals = append(t.intervals, int64(policy.AttestationIntervalSeconds))
		t.findings = append(t.findings, &findingSet{tenant: tenant, machine: m, at: now, result: finding.Result{
			Assessments: []finding.Assessment{finding.Stale(&facts, finding.Silence{HeardAt: heard.Time, DueAt: due})}}})
	}
	return t, rows.Err()
}

// silentFacts is what the rules of silence know of a machine.
func silentFacts(m *Machine) finding.Machine {
	return finding.Machine{Name: m.Name, OS: m.OS, Platform: m.Platform, ScaleSet: m.ScaleSet, Labels: m.Labels}
}

// expectFirst sets the deadline of a machine that has a new key.
func (s *Store) expectFirst(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, now time.Time) error {
	cfg, err := s.configIn(ctx, tx, tenant)
	if err != nil {
		return err
	}
	m, err := lockMachine(ctx, tx, tenant, `m.machine_id = $2`, machineID)
	if err != nil {
		return notFound(err, "machine", machineID)
	}
	policy, _ := cfg.policyFor(factsOf(&m))
	due := now.Add(time.Duration(policy.AttestationIntervalSeconds) * time.Second)
	if _, err := tx.Exec(ctx, `UPDATE machine_attestation_state SET next_due_at = $3 WHERE tenant_id = $1 AND machine_id = $2 AND next_due_at IS NULL`,
		pgUUID(tenant), pgUUID(machineID), due); err != nil {
		return fmt.Errorf("set the first deadline: %w", err)
	}
	return nil
}

// expectNothing ends the deadline and the silence of a machine that is released. Its assessment stays: what it says of the
// last evidence is still so.
func (s *Store) expectNothing(ctx context.Context, tx pgx.Tx, tenant, machineID uuid.UUID, now time.Time) error {
	if _, err := tx.Exec(ctx, `UPDATE machine_attestation_state SET next_due_at = NULL, stale_at = NULL WHERE tenant_id = $1 AND machine_id = $2`,
		pgUUID(tenant), pgUUID(machineID)); err != nil {
		return fmt.Errorf("end the deadline: %w", err)
	}
	if _, err := tx.Exec(ctx, `DELETE FROM silent_machines WHERE tenant_id = $1 AND machine_id = $2`, pgUUID(tenant), pgUUID(machineID)); err != nil {
		return fmt.Errorf("end the silence: %w", err)
	}
	return s.endAlerts(ctx, tx, tenant, now, finding.CodeAttestationMissing, []uuid.UUID{machineID})
}

// returnedTable is the machines of a group that were silent and are not any more, column by column.
type returnedTable struct{ tenants, machines []pgtype.UUID }

func (t *returnedTable) add(p *pending) {
	t.tenants, t.machines = append(t.tenants, pgUUID(p.tenant)), append(t.machines, pgUUID(p.rec.MachineID))
}

func (t *returnedTable) queue(b *pgx.Batch) {
	if len(t.tenants) > 0 {
		b.Queue(`DELETE FROM silent_machines s USING unnest($1::uuid[], $2::uuid[]) u (tenant_id, machine_id)
			WHERE s.tenant_id = u.tenant_id AND s.machine_id = u.machine_id`, t.tenants, t.machines)
	}
}

// back is what follows where a silent machine comes back with the judgement that it had: its assessments are what that
// judgement says, and its alert ends. Its other alerts are counted with those of all extended runs.
func (c *change) back() *findingSet {
	return &findingSet{tenant: c.p.tenant, machine: c.run.machine, at: c.p.rec.ReceivedAt, result: finding.Result{
		Assessments: c.p.rec.Findings.Assessments, EvaluatedAlerts: []string{finding.CodeAttestationMissing}}}
}

// unlessSilent leaves out of what stored evidence shows what only new evidence can: that a silent machine is heard.
func unlessSilent(r finding.Result, m *Machine) finding.Result {
	if m.StaleSince == nil {
		return r
	}
	r.Assessments = slices.DeleteFunc(slices.Clone(r.Assessments), func(a finding.Assessment) bool { return a.Code == finding.CodeGuestAttestationHealthy })
	r.EvaluatedAlerts = slices.DeleteFunc(slices.Clone(r.EvaluatedAlerts), func(code string) bool { return code == finding.CodeAttestationMissing })
	return r
}
