package store

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier"
)

// lockRuns reads and locks the machines of a group, in one order, with what decides about each record.
const lockRuns = `SELECT u.ord, ` + machineColumns + `, st.last_challenge, st.verdict_id, st.fingerprint, st.run_count, st.run_last_at,
		(SELECT k.key_id FROM attestation_keys k WHERE k.tenant_id = m.tenant_id AND k.machine_id = m.machine_id AND k.state = 'active')
	FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY u (tenant_id, machine_id, ord)
	JOIN machines m ON m.tenant_id = u.tenant_id AND m.machine_id = u.machine_id
	JOIN machine_attestation_state st ON st.tenant_id = u.tenant_id AND st.machine_id = u.machine_id
	ORDER BY m.tenant_id, m.machine_id FOR NO KEY UPDATE OF m, st`

// lockedRun is a row of lockRuns.
type lockedRun struct {
	machine       Machine
	lastChallenge []byte
	verdict       pgtype.UUID
	fingerprint   []byte
	count         int64
	lastAt        pgtype.Timestamptz
	key           pgtype.UUID
}

// change is one record of a group that is being written.
type change struct {
	p        *pending
	run      *lockedRun
	findings *findingSet
}

// commitChanged writes the records that change something.
func (s *Store) commitChanged(ctx context.Context, group []*pending) {
	commitApart(ctx, group, s.writeChanges)
}

// writeChanges writes a group in one transaction of three round trips whatever its size: lock and read, write,
// commit. A record that is refused (used challenge, unknown machine, replaced key) writes nothing.
func (s *Store) writeChanges(ctx context.Context, group []*pending) error {
	return pgx.BeginFunc(ctx, s.grouped, func(tx pgx.Tx) error {
		rules, err := s.rulesOf(ctx, tx, group)
		if err != nil {
			return err
		}
		runs, err := readRuns(ctx, tx, group)
		if err != nil {
			return err
		}
		var b pgx.Batch
		var changes []*change
		for i, p := range group {
			p.result = Recorded{}
			if p.err = refusal(p.rec, runs[i]); p.err != nil {
				continue
			}
			c := &change{p: p, run: runs[i]}
			if err := c.queue(&b, rules[p.tenant]); err != nil {
				return err
			}
			changes = append(changes, c)
		}
		if len(changes) == 0 {
			return nil
		}
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return fmt.Errorf("write appraisals: %w", err)
		}
		var again []*pending
		for _, c := range changes {
			if c.findings != nil {
				c.p.result.OpenedAlerts = c.findings.opened
			} else {
				again = append(again, c.p)
			}
			if c.p.rec.LearnBaseline != nil {
				if err := learn(ctx, tx, c); err != nil {
					return err
				}
			}
		}
		return s.countAlerts(ctx, tx, again, rules)
	})
}

func tenantsWithAlerts(group []*pending) []uuid.UUID {
	var tenants []uuid.UUID
	for _, p := range group {
		if len(p.rec.Findings.Alerts) > 0 && !slices.Contains(tenants, p.tenant) {
			tenants = append(tenants, p.tenant)
		}
	}
	slices.SortFunc(tenants, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	return tenants
}

func readRuns(ctx context.Context, tx pgx.Tx, group []*pending) ([]*lockedRun, error) {
	tenants, machines := make([]pgtype.UUID, len(group)), make([]pgtype.UUID, len(group))
	for i, p := range group {
		tenants[i], machines[i] = pgUUID(p.tenant), pgUUID(p.rec.MachineID)
	}
	runs := make([]*lockedRun, len(group))
	rows, _ := tx.Query(ctx, lockRuns, tenants, machines)
	_, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		var ord int64
		var r lockedRun
		var mr machineRow
		targets := append([]any{&ord}, mr.targets()...)
		if err := row.Scan(append(targets, &r.lastChallenge, &r.verdict, &r.fingerprint, &r.count, &r.lastAt, &r.key)...); err != nil {
			return struct{}{}, err
		}
		var err error
		r.machine, err = mr.machine()
		runs[ord-1] = &r
		return struct{}{}, err
	})
	if err != nil {
		return nil, fmt.Errorf("lock machines: %w", err)
	}
	return runs, nil
}

// refusal is why a record may not be written; nil if it may.
func refusal(rec *AppraisalRecord, run *lockedRun) error {
	switch {
	case run == nil:
		return fmt.Errorf("machine %s: %w", rec.MachineID, ErrNotFound)
	case rec.ChallengeKey != nil && run.lastChallenge != nil && bytes.Compare(run.lastChallenge, rec.ChallengeKey) >= 0:
		return ErrNonceUsed
	case rec.KeyID != uuid.Nil && run.key != pgUUID(rec.KeyID):
		return fmt.Errorf("the key that judged the evidence is no longer the machine's: %w", ErrConflict)
	}
	return nil
}

// queue adds the statements that write the change.
func (c *change) queue(b *pgx.Batch, rules []SuppressionRule) error {
	rec := c.p.rec
	if c.p.prepared.log != nil {
		b.Queue(insertBootLog, pgUUID(c.p.tenant), rec.EventLogHash, len(rec.EventLog), c.p.prepared.log, rec.ReceivedAt)
	}
	h, err := hot(rec)
	if err != nil {
		return err
	}
	var t hotTable
	t.add(c.p, h)
	if bytes.Equal(c.run.fingerprint, rec.Fingerprint[:]) {
		// The same judgement after all: it only brought a log, or another replica was first to begin the run.
		c.p.result = Recorded{VerdictID: c.run.verdict.Bytes, Count: c.run.count + 1}
		c.p.unsteady = false
		b.Queue(extendLocked, t.args()...)
		return nil
	}
	id := newID(rec.ReceivedAt)
	c.p.result = Recorded{VerdictID: id, New: true, Count: 1}
	c.queueVerdict(b, id, t)
	if err := c.queueAudit(b, id); err != nil {
		return err
	}
	c.findings = &findingSet{tenant: c.p.tenant, machine: c.run.machine, result: rec.Findings, verdict: &id, at: rec.ReceivedAt, rules: rules}
	c.findings.queue(b)
	return nil
}

// The row is locked, and refusal has looked at the challenge.
const extendLocked = `UPDATE machine_attestation_state st SET run_count = st.run_count + 1,` + hotAssignments + `
	FROM ` + hotParameters + ` WHERE st.tenant_id = u.tenant_id AND st.machine_id = u.machine_id`

const beginRun = `UPDATE machine_attestation_state st SET verdict_id = $15, fingerprint = u.fingerprint, run_count = 1,
	genuine_verdict_id = CASE WHEN $16 THEN $15 ELSE st.genuine_verdict_id END,` + hotAssignments + `
	FROM ` + hotParameters + ` WHERE st.tenant_id = u.tenant_id AND st.machine_id = u.machine_id`

const endRun = `UPDATE verdicts SET last_at = $3, run_count = $4 WHERE tenant_id = $1 AND verdict_id = $2`

const insertVerdict = `INSERT INTO verdicts (tenant_id, verdict_id, machine_id, key_id, status, reason, assurance, genuine, first_at, last_at, run_count, appraisal, event_log_digest)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, 1, $10, $11)`

const insertEvidence = `INSERT INTO evidence (tenant_id, verdict_id, content_type, size, compressed, event_log_digest) VALUES ($1, $2, $3, $4, $5, $6)`

const setMachineVerdict = `UPDATE machines SET status = $3, reason = $4, assurance = $5, last_verdict_id = $6, updated_at = $7 WHERE tenant_id = $1 AND machine_id = $2`

const setMachineObserved = `UPDATE machines SET observed_secure_boot_supported = $3, observed_secure_boot = $4, observed_vtpm = $5, observed_agent_installed = $6
	WHERE tenant_id = $1 AND machine_id = $2
		AND (observed_secure_boot_supported, observed_secure_boot, observed_vtpm, observed_agent_installed) IS DISTINCT FROM ($3, $4, $5, $6)`

func (c *change) queueVerdict(b *pgx.Batch, id uuid.UUID, t hotTable) {
	rec, a, tenant, machine := c.p.rec, c.p.rec.Appraisal, pgUUID(c.p.tenant), pgUUID(c.p.rec.MachineID)
	if c.run.verdict.Valid {
		b.Queue(endRun, tenant, c.run.verdict, c.run.lastAt, c.run.count)
	}
	b.Queue(beginRun, append(t.args(), pgUUID(id), a.Genuine)...)
	b.Queue(insertVerdict, tenant, pgUUID(id), machine, pgUUID(rec.KeyID), a.Status.String(), string(a.Reason), string(a.Assurance), a.Genuine,
		rec.ReceivedAt, c.p.prepared.appraisal, rec.EventLogHash)
	if c.p.prepared.evidence != nil {
		b.Queue(insertEvidence, tenant, pgUUID(id), rec.EvidenceType, len(rec.Evidence), c.p.prepared.evidence, rec.EventLogHash)
	}
	b.Queue(setMachineVerdict, tenant, machine, a.Status.String(), string(a.Reason), string(cmp.Or(a.Assurance, c.run.machine.Assurance)), pgUUID(id), rec.ReceivedAt)
	if a.Genuine { // what was observed by other evidence says nothing about the machine
		o := rec.Observed
		b.Queue(setMachineObserved, tenant, machine, o.SecureBootSupported, o.SecureBoot, o.VTPM, o.AgentInstalled)
	}
}

// verdictSummary is what the audit record keeps of a verdict.
type verdictSummary struct {
	VerdictID *uuid.UUID      `json:"verdict_id"`
	Status    verifier.Status `json:"status"`
	Reason    verifier.Reason `json:"reason"`
}

func (c *change) queueAudit(b *pgx.Batch, id uuid.UUID) error {
	rec := c.p.rec
	var before any
	if m := c.run.machine; m.LastVerdict != nil {
		before = verdictSummary{m.LastVerdict, m.Status, m.Reason}
	}
	args, err := auditArgs(c.p.tenant, rec.ReceivedAt, rec.Actor, "verdict.change", "machine:"+rec.MachineID.String(), before,
		verdictSummary{&id, rec.Appraisal.Status, rec.Appraisal.Reason})
	if err != nil {
		return err
	}
	b.Queue(insertAudit, args...)
	return nil
}

// learn makes the machine's own baseline of its first boot, unless it has one: the machine's row is locked, so
// of two records that learn one does.
func learn(ctx context.Context, tx pgx.Tx, c *change) error {
	rec := c.p.rec
	var has bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM baseline_assignments WHERE tenant_id = $1 AND machine_id = $2 AND own)`,
		pgUUID(c.p.tenant), pgUUID(rec.MachineID)).Scan(&has); err != nil {
		return fmt.Errorf("look for the machine's own baseline: %w", err)
	}
	if has {
		return nil
	}
	// The time is in the name because names are unique and a baseline is never deleted.
	v := BaselineVersion{
		Name:      fmt.Sprintf("learned %s %s", rec.MachineID, rec.ReceivedAt.UTC().Format(time.RFC3339)),
		Selector:  verifier.Selector{MachineIDs: []string{rec.MachineID.String()}},
		Reference: *rec.LearnBaseline, Origin: "learned", State: "active",
	}
	if _, err := createBaseline(ctx, tx, c.p.tenant, v, rec.ReceivedAt, rec.Actor); err != nil {
		return fmt.Errorf("learn the machine's baseline: %w", err)
	}
	return nil
}
