package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// lockRuns reads and locks the machines of a group, in one order, with what decides about each record.
const lockRuns = `SELECT u.ord, ` + machineColumns + `, st.last_challenge, st.verdict_id, st.fingerprint, st.run_count, st.run_last_at,
		(SELECT k.key_id FROM attestation_keys k WHERE k.tenant_id = m.tenant_id AND k.machine_id = m.machine_id AND k.state = 'active'),
		m.verdict_seq, m.verdict_hash, m.verdicts_earlier,
		CASE WHEN m.verdict_seq = 0 THEN (SELECT count(*) FROM verdicts v WHERE v.tenant_id = m.tenant_id AND v.machine_id = m.machine_id) END
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

	chainSeq  int64 // place of the machine's last verdict in its chain; 0 for none
	chainHash []byte
	earlier   pgtype.Int8 // verdicts from before the chain
}

// change is one record of a group that is being written.
type change struct {
	p        *pending
	run      *lockedRun
	findings *findingSet
	// Of a verdict that judged stored evidence again; nil otherwise.
	supersedes, evidence, reappraisal uuid.UUID
}

// commitChanged writes the records that change something.
func (s *Store) commitChanged(ctx context.Context, group []*pending) {
	commitApart(ctx, group, s.writeChanges)
}

// writeChanges writes a group in one transaction of three round trips whatever its size, and one more for each
// large piece of evidence: lock and read, write, commit. A record that is refused (used challenge, unknown machine,
// replaced key) writes nothing.
func (s *Store) writeChanges(ctx context.Context, group []*pending) error {
	ctx = withTenants(ctx, group, func(p *pending) uuid.UUID { return p.tenant })
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
		var begun newRuns
		var changes []*change
		for i, p := range group {
			p.result = Recorded{}
			if p.err = refusal(p.rec, runs[i]); p.err != nil {
				continue
			}
			c := &change{p: p, run: runs[i]}
			if err := c.queue(&b, &begun, rules[p.tenant]); err != nil {
				return err
			}
			changes = append(changes, c)
		}
		if len(changes) == 0 {
			return nil
		}
		begun.queue(&b)
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return fmt.Errorf("write appraisals: %w", err)
		}
		if err := begun.writeLarge(ctx, tx); err != nil {
			return err
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
		if err := s.countAlerts(ctx, tx, again, rules); err != nil {
			return err
		}
		return lockAuditHeads(ctx, tx, begun.audit.tenants)
	})
}

// tenantsToLock are the tenants of which the group raises alerts or brings collateral that all appraisals share.
func tenantsToLock(group []*pending) []uuid.UUID {
	var tenants []uuid.UUID
	for _, p := range group {
		if (len(p.rec.Findings.Alerts) > 0 || slices.ContainsFunc(p.collateral, shared)) && !slices.Contains(tenants, p.tenant) {
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
		var counted pgtype.Int8
		if err := row.Scan(append(targets, &r.lastChallenge, &r.verdict, &r.fingerprint, &r.count, &r.lastAt, &r.key,
			&r.chainSeq, &r.chainHash, &r.earlier, &counted)...); err != nil {
			return struct{}{}, err
		}
		if counted.Valid {
			r.earlier = counted
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

// queue adds the change to what is written for the whole group, or the statements that it has of its own.
func (c *change) queue(b *pgx.Batch, begun *newRuns, rules []SuppressionRule) error {
	rec := c.p.rec
	if c.p.prepared.log != nil {
		begun.logs.add(c.p.tenant, bootLog{digest: rec.EventLogHash, size: len(rec.EventLog), compressed: c.p.prepared.log, at: rec.ReceivedAt})
	}
	if c.p.prepared.platform != nil {
		begun.platforms.add(c.p)
	}
	begun.collateral.add(c.p)
	if c.run.machine.StaleSince != nil {
		begun.returned.add(c.p)
	}
	if err := queueSighting(b, c.p); err != nil {
		return err
	}
	h, err := hot(rec)
	if err != nil {
		return err
	}
	if bytes.Equal(c.run.fingerprint, rec.Fingerprint[:]) {
		// The same judgement after all: it only brought a log, or another replica was first to begin the run.
		c.p.result = Recorded{VerdictID: c.run.verdict.Bytes, Count: c.run.count + 1}
		c.p.unsteady = false
		var t hotTable
		t.add(c.p, h)
		b.Queue(extendLocked, t.args()...)
		if c.run.machine.StaleSince != nil {
			begun.findings = append(begun.findings, c.back())
		}
		return nil
	}
	id := newID(rec.ReceivedAt)
	c.p.result = Recorded{VerdictID: id, New: true, Count: 1}
	c.findings = &findingSet{tenant: c.p.tenant, machine: c.run.machine, result: rec.Findings, verdict: &id, at: rec.ReceivedAt, rules: rules}
	if c.run.machine.StaleSince != nil {
		c.findings.result.EvaluatedAlerts = append(slices.Clone(rec.Findings.EvaluatedAlerts), finding.CodeAttestationMissing)
	}
	return begun.add(c, id, h)
}

// The row is locked, and refusal has looked at the challenge.
const extendLocked = `UPDATE machine_attestation_state st SET run_count = st.run_count + 1,` + hotAssignments + `
	FROM ` + hotParameters + ` WHERE st.tenant_id = u.tenant_id AND st.machine_id = u.machine_id`

// LearnedName is the name of the baseline that a machine's first boot becomes.
func LearnedName(machine uuid.UUID, at time.Time) string {
	return fmt.Sprintf("learned %s %s", machine, at.UTC().Format(time.RFC3339))
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
		Name:      LearnedName(rec.MachineID, rec.ReceivedAt),
		Selector:  verifier.Selector{MachineIDs: []string{rec.MachineID.String()}},
		Reference: *rec.LearnBaseline, Origin: "learned", State: "active",
	}
	if _, err := createBaseline(ctx, tx, c.p.tenant, v, rec.ReceivedAt, rec.Actor); err != nil {
		return fmt.Errorf("learn the machine's baseline: %w", err)
	}
	return nil
}
