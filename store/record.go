package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/finding"
)

// RecordAppraisal writes what one appraisal changes, and returns when that is on disk. Concurrent calls share
// a commit; none fails because of another.
//
// A judgement with the fingerprint of the machine's current run extends the run: one update of one row,
// and the count of its open alerts. Any other begins a new run: verdict, evidence, event log, the machine's
// status, assessments, recommendations, alerts, outbox and audit, all or nothing.
//
// Errors: ErrNonceUsed, and nothing is stored, where rec.ChallengeKey is not above the machine's last; of calls
// that redeem one challenge exactly one succeeds. ErrNotFound: no such machine. ErrConflict: rec.KeyID is no
// longer the machine's active key. Where ctx ends first, the record may or may not have become durable, as a
// whole; trying again with the same challenge tells (ErrNonceUsed).
func (s *Store) RecordAppraisal(ctx context.Context, tenant uuid.UUID, rec AppraisalRecord) (Recorded, error) {
	if rec.Appraisal == nil {
		return Recorded{}, errors.New("record appraisal: the record holds no appraisal")
	}
	p := &pending{tenant: tenant, rec: &rec}
	p.collateral, p.wants = s.newCollateral(tenant, &rec), s.newWants(tenant, &rec)
	// What is to be stored once, a baseline to be learned, and a conflict never belong to an unchanged judgement.
	if rec.EventLog == nil && rec.LearnBaseline == nil && rec.PlatformEvidence == nil && len(p.collateral) == 0 && len(p.wants) == 0 && rec.Sighting == nil {
		if err := s.steady.do(ctx, p); err != nil {
			return Recorded{}, fmt.Errorf("record appraisal: %w", err)
		}
		if !p.unsteady {
			return p.result, nil
		}
	}
	// Marshalling and compression are done here, by each caller for itself, and not by the committer for all.
	var err error
	if p.prepared, err = prepare(&rec); err != nil {
		return Recorded{}, fmt.Errorf("record appraisal: %w", err)
	}
	if err := s.changed.do(ctx, p); err != nil {
		return Recorded{}, fmt.Errorf("record appraisal: %w", err)
	}
	s.noteCollateral(tenant, p)
	return p.result, nil
}

// prepared is a record's content in the form of its columns.
type prepared struct {
	appraisal, evidence, log, platform, imaFrom []byte

	traits []MachineTrait // nil where nothing is proved
	boot   *BootPoint
}

func prepare(rec *AppraisalRecord) (prepared, error) {
	var p prepared
	var err error
	if p.appraisal, err = rec.Appraisal.AppendJSON(nil); err != nil {
		return prepared{}, fmt.Errorf("marshal the appraisal: %w", err)
	}
	if len(rec.Evidence) > 0 {
		p.evidence = compress(rec.Evidence)
	}
	if rec.EventLog != nil {
		p.log = compress(rec.EventLog)
	}
	if rec.PlatformEvidence != nil {
		p.platform = compress(rec.PlatformEvidence)
	}
	if rec.IMAFrom != nil {
		if p.imaFrom, err = json.Marshal(rec.IMAFrom); err != nil {
			return prepared{}, fmt.Errorf("marshal what the IMA list continues: %w", err)
		}
	}
	if rec.Identity != nil && rec.Appraisal.Genuine {
		p.traits, p.boot = rec.Identity()
	}
	return p, nil
}

// hotColumns are what a record writes into machine_attestation_state, as parameters.
type hotColumns struct {
	challenge                       []byte
	clock, reset, restart, firmware pgtype.Int8
	safe                            pgtype.Bool
	clockKey                        pgtype.UUID
	log, platform                   []byte
	ima                             []byte
}

func hot(rec *AppraisalRecord) (hotColumns, error) {
	h := hotColumns{challenge: rec.ChallengeKey}
	if rec.Clock != nil && rec.Appraisal.Genuine {
		h.clock = pgtype.Int8{Int64: int64(rec.Clock.Clock), Valid: true} // #nosec G115 -- the same bits
		h.reset = pgtype.Int8{Int64: int64(rec.Clock.ResetCount), Valid: true}
		h.restart = pgtype.Int8{Int64: int64(rec.Clock.RestartCount), Valid: true}
		h.firmware = pgtype.Int8{Int64: int64(rec.Clock.FirmwareVersion), Valid: true} // #nosec G115 -- the same bits
		h.safe = pgtype.Bool{Bool: rec.Clock.Safe, Valid: true}
		h.clockKey = pgUUID(rec.KeyID)
	}
	if rec.Appraisal.Genuine {
		h.log, h.platform = rec.EventLogHash, rec.PlatformDigest
	}
	if rec.IMAState != nil {
		var err error
		if h.ima, err = json.Marshal(rec.IMAState); err != nil {
			return h, fmt.Errorf("marshal the IMA state: %w", err)
		}
	}
	return h, nil
}

// What genuine evidence leaves in the hot row; of other evidence nothing is remembered. A guest without a TPM has no
// clock. The IMA state is of one boot: it is kept where the record brings none and the boot is the same.
const hotAssignments = `
	last_challenge = coalesce(u.challenge, st.last_challenge), run_last_at = GREATEST(st.run_last_at, u.at), next_due_at = u.due,
	heard_at = GREATEST(st.heard_at, u.at), stale_at = NULL,
	last_seen_at = CASE WHEN u.genuine THEN GREATEST(st.last_seen_at, u.at) ELSE st.last_seen_at END,
	clock_key_id = CASE WHEN u.clock IS NULL THEN st.clock_key_id ELSE u.clock_key END,
	clock = coalesce(u.clock, st.clock), reset_count = coalesce(u.reset, st.reset_count), restart_count = coalesce(u.restart, st.restart_count),
	clock_safe = coalesce(u.safe, st.clock_safe), firmware_version = coalesce(u.firmware, st.firmware_version),
	last_log = CASE WHEN u.genuine THEN u.log ELSE st.last_log END,
	last_platform = CASE WHEN u.genuine THEN u.platform ELSE st.last_platform END,
	ima_state = CASE WHEN NOT u.genuine THEN st.ima_state WHEN u.ima IS NOT NULL THEN u.ima::json
		WHEN u.reset = st.reset_count AND u.clock_key = st.clock_key_id THEN st.ima_state END`

// hotParameters is the table of parameters that hotAssignments reads, from $1 on, one row a record.
const hotParameters = `unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bytea[], $5::timestamptz[], $6::timestamptz[],
		$7::bigint[], $8::bigint[], $9::bigint[], $10::boolean[], $11::bigint[], $12::uuid[], $13::bytea[], $14::text[],
		$15::bytea[], $16::boolean[])
	WITH ORDINALITY u (tenant_id, machine_id, fingerprint, challenge, at, due, clock, reset, restart, safe, firmware, clock_key, log, ima, platform, genuine, ord)`

// The planner must not see the machines' rows but through their key (see Open): every row of u finds its row by
// primary key. The row is updated only where nothing has changed, the challenge is new and the machine was not silent, so
// what is not returned is a change or a refusal.
const extendRuns = `UPDATE machine_attestation_state st SET run_count = st.run_count + 1,` + hotAssignments + `
	FROM ` + hotParameters + `
	WHERE st.tenant_id = u.tenant_id AND st.machine_id = u.machine_id AND st.fingerprint = u.fingerprint
		AND (u.challenge IS NULL OR st.last_challenge IS NULL OR st.last_challenge < u.challenge) AND st.stale_at IS NULL
	RETURNING u.ord, st.verdict_id, st.run_count`

// hotTable is hotParameters column by column.
type hotTable struct {
	tenants, machines               []pgtype.UUID
	fingerprints, challenges        [][]byte
	ats, dues                       []pgtype.Timestamptz
	clock, reset, restart, firmware []pgtype.Int8
	safe                            []pgtype.Bool
	clockKeys                       []pgtype.UUID
	logs, platforms                 [][]byte
	imas                            []pgtype.Text
	genuine                         []bool
}

func (t *hotTable) add(p *pending, h hotColumns) {
	t.tenants = append(t.tenants, pgUUID(p.tenant))
	t.machines = append(t.machines, pgUUID(p.rec.MachineID))
	t.fingerprints = append(t.fingerprints, p.rec.Fingerprint[:])
	t.challenges = append(t.challenges, h.challenge)
	t.ats = append(t.ats, pgtype.Timestamptz{Time: p.rec.ReceivedAt, Valid: true})
	t.dues = append(t.dues, pgtype.Timestamptz{Time: p.rec.NextDueAt, Valid: !p.rec.NextDueAt.IsZero()})
	t.clock, t.reset, t.restart, t.firmware = append(t.clock, h.clock), append(t.reset, h.reset), append(t.restart, h.restart), append(t.firmware, h.firmware)
	t.safe = append(t.safe, h.safe)
	t.clockKeys = append(t.clockKeys, h.clockKey)
	t.logs, t.platforms = append(t.logs, h.log), append(t.platforms, h.platform)
	t.genuine = append(t.genuine, p.rec.Appraisal.Genuine)
	t.imas = append(t.imas, pgtype.Text{String: string(h.ima), Valid: h.ima != nil})
}

func (t *hotTable) args() []any {
	return []any{t.tenants, t.machines, t.fingerprints, t.challenges, t.ats, t.dues, t.clock, t.reset, t.restart, t.safe, t.firmware, t.clockKeys, t.logs, t.imas, t.platforms, t.genuine}
}

// commitSteady extends the runs of the records that changed nothing, and marks the others unsteady.
func (s *Store) commitSteady(ctx context.Context, group []*pending) {
	commitApart(ctx, group, s.extend)
}

// commitApart commits a group at once, or, where Postgres refuses it for one record's sake, each record by
// itself, so that none fails because of another. A lost connection fails the whole group: whether the commit
// happened is then unknown, and trying again would find the challenges used.
func commitApart(ctx context.Context, group []*pending, commit func(context.Context, []*pending) error) {
	err := commit(ctx, group)
	if err == nil || !isRefusal(err) {
		finish(group, err)
		return
	}
	for _, p := range group {
		one := []*pending{p}
		for range 3 {
			if err = commit(ctx, one); err == nil || !isRefusal(err) {
				break
			}
		}
		finish(one, err)
	}
}

// isRefusal tells that Postgres rolled the transaction back because of what was in it: data exceptions,
// constraints, deadlocks and failed serialization (SQLSTATE classes 22, 23 and 40).
func isRefusal(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || len(pg.Code) != 5 {
		return false
	}
	class := pg.Code[:2]
	return class == "22" || class == "23" || class == "40"
}

func finish(group []*pending, err error) {
	if err == nil {
		return
	}
	for _, p := range group {
		p.err = err
	}
}

func (s *Store) extend(ctx context.Context, group []*pending) error {
	var t hotTable
	alerting := false
	for _, p := range group {
		h, err := hot(p.rec)
		if err != nil {
			return err
		}
		t.add(p, h)
		p.unsteady = true
		alerting = alerting || len(p.rec.Findings.Alerts) > 0
	}
	if !alerting {
		return s.runExtend(ctx, s.grouped, t.args(), group) // one statement is one transaction
	}
	return pgx.BeginFunc(ctx, s.grouped, func(tx pgx.Tx) error {
		rules, err := s.rulesOf(ctx, tx, group)
		if err != nil {
			return err
		}
		if err := s.runExtend(ctx, tx, t.args(), group); err != nil {
			return err
		}
		return s.countAlerts(ctx, tx, group, rules)
	})
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func (s *Store) runExtend(ctx context.Context, db querier, args []any, group []*pending) error {
	rows, err := db.Query(ctx, extendRuns, args...)
	if err != nil {
		return fmt.Errorf("extend runs: %w", err)
	}
	var ord, count int64
	var verdict pgtype.UUID
	for rows.Next() {
		if err := rows.Scan(&ord, &verdict, &count); err != nil {
			rows.Close()
			return fmt.Errorf("extend runs: %w", err)
		}
		p := group[ord-1]
		p.unsteady = false
		p.result = Recorded{VerdictID: verdict.Bytes, Count: count}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("extend runs: %w", err)
	}
	return nil
}

// rulesOf locks the suppression rules of the group's tenants that raise alerts, and the configuration of those that
// bring collateral, in one order of tenants.
func (s *Store) rulesOf(ctx context.Context, tx pgx.Tx, group []*pending) (map[uuid.UUID][]SuppressionRule, error) {
	rules := map[uuid.UUID][]SuppressionRule{}
	for _, tenant := range tenantsToLock(group) {
		if changesTrust(group, tenant) {
			if err := lockConfig(ctx, tx, tenant); err != nil {
				return nil, err
			}
		}
		r, err := s.lockSuppressionRules(ctx, tx, tenant)
		if err != nil {
			return nil, err
		}
		rules[tenant] = r
	}
	return rules, nil
}

// A repetition counts up the open alert, or the one that was dismissed during this very run. Where somebody
// resolved it by hand although the cause is still there, nothing is updated and it is opened again (raiseStatement).
const countUpAlerts = `UPDATE alerts a SET seen_count = a.seen_count + 1, last_seen_at = GREATEST(a.last_seen_at, u.at)
	FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::uuid[]) WITH ORDINALITY u (tenant_id, machine_id, code, at, verdict_id, ord)
	WHERE a.tenant_id = u.tenant_id AND ` + ofMachine + `
		AND (a.status IN ('active', 'in_progress') OR a.status = 'dismissed' AND a.verdict_id = u.verdict_id AND a.over_at IS NULL)
	RETURNING u.ord`

// countAlerts counts the alerts of the group's extended runs.
func (s *Store) countAlerts(ctx context.Context, tx pgx.Tx, group []*pending, rules map[uuid.UUID][]SuppressionRule) error {
	type occurrence struct {
		p     *pending
		alert finding.Alert
	}
	var all []occurrence
	var tenants, machines, verdicts []pgtype.UUID
	var codes []string
	var ats []pgtype.Timestamptz
	for _, p := range group {
		if p.unsteady {
			continue
		}
		for _, a := range p.rec.Findings.Alerts {
			all = append(all, occurrence{p, a})
			tenants, machines, verdicts = append(tenants, pgUUID(p.tenant)), append(machines, pgUUID(p.rec.MachineID)), append(verdicts, pgUUID(p.result.VerdictID))
			codes, ats = append(codes, a.Code), append(ats, pgtype.Timestamptz{Time: p.rec.ReceivedAt, Valid: true})
		}
	}
	if len(all) == 0 {
		return nil
	}
	rows, _ := tx.Query(ctx, countUpAlerts, tenants, machines, codes, ats, verdicts)
	counted, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return fmt.Errorf("count alerts: %w", err)
	}
	done := make([]bool, len(all))
	for _, ord := range counted {
		done[ord-1] = true
	}
	for i, o := range all {
		if done[i] {
			continue
		}
		m, err := lockMachine(ctx, tx, o.p.tenant, `m.machine_id = $2`, o.p.rec.MachineID)
		if err != nil {
			return notFound(err, "machine", o.p.rec.MachineID)
		}
		set := findingSet{tenant: o.p.tenant, machine: m, result: finding.Result{Alerts: []finding.Alert{o.alert}},
			verdict: &o.p.result.VerdictID, at: o.p.rec.ReceivedAt, rules: rules[o.p.tenant]}
		if err := set.apply(ctx, tx); err != nil {
			return err
		}
		o.p.result.OpenedAlerts = append(o.p.result.OpenedAlerts, set.opened...)
	}
	return nil
}
