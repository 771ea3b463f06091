package store

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier"
)

// Rejudged is one machine of a page of a reappraisal: what came of judging its stored evidence again.
type Rejudged struct {
	Judgement *StoredJudgement
	// NotJudged is why it could not be judged, as a stable word; empty if it was.
	NotJudged string
	// Record is the new judgement; nil where it was not judged, or says what the standing verdict says. Its time is when
	// it was judged again. It redeems no challenge and brings no clock, log or evidence.
	Record *AppraisalRecord
}

// attestedSince is why a machine is not judged that sent evidence while its stored evidence was being judged.
const attestedSince = "attested_since"

// RecordReappraisals writes one page of a reappraisal in one transaction: verdicts that supersede the standing ones,
// findings, alerts, audit, what changed for each machine, the counts and the cursor. done tells that no page follows.
//
// A superseding verdict is no attestation: the machine's last sight, challenges, clock, log, IMA state and due time
// stay as they are, and no later attestation extends its run.
//
// ErrConflict, and nothing is written: another worker has written this page, or has the reappraisal.
func (s *Store) RecordReappraisals(ctx context.Context, tenant uuid.UUID, job *Reappraisal, page []Rejudged, done bool, lease time.Duration, now time.Time, actor Actor) (Reappraisal, error) {
	ctx = withTenant(ctx, tenant)
	var r Reappraisal
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		var err error
		if r, err = scanReappraisal(tx.QueryRow(ctx, `SELECT `+reappraisalColumns+` FROM reappraisals WHERE tenant_id = $1 AND reappraisal_id = $2 FOR UPDATE`,
			pgUUID(tenant), pgUUID(job.ID))); err != nil {
			return notFound(err, "reappraisal", job.ID)
		}
		if r.State != "running" || r.after != job.after {
			return fmt.Errorf("another worker goes on with reappraisal %s: %w", job.ID, ErrConflict)
		}
		w := superseding{store: s, tenant: tenant, job: &r, now: now}
		if err := w.write(ctx, tx, page); err != nil {
			return err
		}
		if len(page) > 0 {
			r.after = pgUUID(page[len(page)-1].Judgement.Inputs.Machine.ID)
		}
		if done {
			r.State, r.FinishedAt = "done", &now
			if err := audit(ctx, tx, tenant, now, actor, "reappraisal.finish", "reappraisal:"+r.ID.String(), nil, map[string]any{"cause": r.Cause.Kind + ":" + r.Cause.ID,
				"unchanged": r.Unchanged, "worse": r.Worse, "better": r.Better, "changed": r.Changed, "not_judged": r.NotJudged, "alerts_opened": r.AlertsOpened}); err != nil {
				return err
			}
		}
		r.Error, r.attempts = "", 0
		_, err = tx.Exec(ctx, `UPDATE reappraisals SET state = $3, finished_at = $4, claimed_until = $5, after_machine = $6, attempts = 0, error = '',
				unchanged = $7, worse = $8, better = $9, changed = $10, not_judged = $11, alerts_opened = $12
			WHERE tenant_id = $1 AND reappraisal_id = $2`, pgUUID(tenant), pgUUID(r.ID), r.State, r.FinishedAt, now.Add(lease), r.after,
			r.Unchanged, r.Worse, r.Better, r.Changed, r.NotJudged, r.AlertsOpened)
		return err
	})
	if err != nil {
		return Reappraisal{}, fmt.Errorf("record a page of reappraisal %s: %w", job.ID, err)
	}
	return r, nil
}

// The row is locked, and its verdict is the one that was judged again. Without a fingerprint no attestation extends the
// run: the next one begins its own.
const supersedeRuns = `UPDATE machine_attestation_state st SET verdict_id = u.verdict_id, fingerprint = NULL, run_count = 1, run_last_at = u.at
	FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[]) u (tenant_id, machine_id, verdict_id, at)
	WHERE st.tenant_id = u.tenant_id AND st.machine_id = u.machine_id`

const markSuperseding = `UPDATE verdicts v SET supersedes = u.supersedes, evidence_id = u.evidence_id, reappraisal_id = $2, fingerprint = u.fingerprint
	FROM unnest($3::uuid[], $4::uuid[], $5::uuid[], $6::bytea[]) u (verdict_id, supersedes, evidence_id, fingerprint)
	WHERE v.tenant_id = $1 AND v.verdict_id = u.verdict_id`

const markSuperseded = `UPDATE verdicts v SET superseded_by = u.verdict_id
	FROM unnest($2::uuid[], $3::uuid[]) u (verdict_id, supersedes) WHERE v.tenant_id = $1 AND v.verdict_id = u.supersedes`

const insertReappraisalMachines = `INSERT INTO reappraisal_machines
		(tenant_id, reappraisal_id, machine_id, outcome, why, verdict_id, superseded_id, status_before, status_after, reason_after)
	SELECT $1, $2, * FROM unnest($3::uuid[], $4::text[], $5::text[], $6::uuid[], $7::uuid[], $8::text[], $9::text[], $10::text[])`

// superseding writes the verdicts of one page.
type superseding struct {
	store  *Store
	tenant uuid.UUID
	job    *Reappraisal
	now    time.Time

	machines, verdicts, superseded []pgtype.UUID
	outcomes, whys                 []string
	before, after, reasons         []string

	newIDs, oldIDs, evidence []pgtype.UUID
	fingerprints             [][]byte
}

func (w *superseding) write(ctx context.Context, tx pgx.Tx, page []Rejudged) error {
	var group []*pending
	var of []*Rejudged
	for i := range page {
		m := &page[i]
		switch {
		case m.NotJudged != "":
			w.note(m, OutcomeNotJudged, m.NotJudged, uuid.Nil)
		case m.Record == nil:
			w.job.Unchanged++
		default:
			p := &pending{tenant: w.tenant, rec: m.Record}
			var err error
			if p.prepared, err = prepare(m.Record); err != nil {
				return err
			}
			group, of = append(group, p), append(of, m)
		}
	}
	if err := w.supersede(ctx, tx, group, of); err != nil {
		return err
	}
	if len(w.machines) == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, insertReappraisalMachines, pgUUID(w.tenant), pgUUID(w.job.ID), w.machines, w.outcomes, w.whys,
		w.verdicts, w.superseded, w.before, w.after, w.reasons); err != nil {
		return fmt.Errorf("note what changed: %w", err)
	}
	return nil
}

// supersede writes the verdicts of the group, of which the machines are those of the page. It locks what
// RecordAppraisal locks, in its order.
func (w *superseding) supersede(ctx context.Context, tx pgx.Tx, group []*pending, of []*Rejudged) error {
	if len(group) == 0 {
		return nil
	}
	rules, err := w.store.rulesOf(ctx, tx, group)
	if err != nil {
		return err
	}
	runs, err := readRuns(ctx, tx, group)
	if err != nil {
		return err
	}
	begun := newRuns{superseding: true}
	for i, p := range group {
		m, run := of[i], runs[i]
		if run == nil || run.verdict != pgUUID(m.Judgement.VerdictID) || run.key != pgUUID(m.Judgement.KeyID) {
			w.note(m, OutcomeNotJudged, attestedSince, uuid.Nil)
			continue
		}
		id := newID(p.rec.ReceivedAt)
		c := &change{p: p, run: run, supersedes: m.Judgement.VerdictID, evidence: m.Judgement.EvidenceID, reappraisal: w.job.ID}
		c.findings = &findingSet{tenant: w.tenant, machine: run.machine, result: unlessSilent(p.rec.Findings, &run.machine), verdict: &id, at: p.rec.ReceivedAt, rules: rules[w.tenant]}
		if err := begun.add(c, id, hotColumns{}); err != nil {
			return err
		}
		w.note(m, outcomeOf(run.machine.Status, p.rec.Appraisal.Status), "", id)
		w.newIDs, w.oldIDs = append(w.newIDs, pgUUID(id)), append(w.oldIDs, run.verdict)
		w.evidence = append(w.evidence, pgUUID(m.Judgement.EvidenceID))
		w.fingerprints = append(w.fingerprints, bytes.Clone(p.rec.Fingerprint[:]))
	}
	var b pgx.Batch
	begun.queue(&b)
	if len(w.newIDs) > 0 {
		b.Queue(markSuperseding, pgUUID(w.tenant), pgUUID(w.job.ID), w.newIDs, w.oldIDs, w.evidence, w.fingerprints)
		b.Queue(markSuperseded, pgUUID(w.tenant), w.newIDs, w.oldIDs)
	}
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("write superseding verdicts: %w", err)
	}
	for _, f := range begun.findings {
		w.job.AlertsOpened += int64(len(f.opened))
	}
	return nil
}

// note counts a machine that is not unchanged, and lists it.
func (w *superseding) note(m *Rejudged, outcome, why string, verdict uuid.UUID) {
	switch outcome {
	case OutcomeWorse:
		w.job.Worse++
	case OutcomeBetter:
		w.job.Better++
	case OutcomeChanged:
		w.job.Changed++
	case OutcomeNotJudged:
		w.job.NotJudged++
	}
	machine := &m.Judgement.Inputs.Machine
	w.machines, w.outcomes, w.whys = append(w.machines, pgUUID(machine.ID)), append(w.outcomes, outcome), append(w.whys, why)
	w.verdicts, w.before = append(w.verdicts, pgUUID(verdict)), append(w.before, machine.Status.String())
	w.superseded = append(w.superseded, pgUUID(m.Judgement.VerdictID))
	after, reason := "", ""
	if verdict != uuid.Nil {
		after, reason = m.Record.Appraisal.Status.String(), string(m.Record.Appraisal.Reason)
	}
	w.after, w.reasons = append(w.after, after), append(w.reasons, reason)
}

// goodness orders statuses.
var goodness = map[verifier.Status]int{verifier.Contraindicated: 0, verifier.None: 1, verifier.Warning: 2, verifier.Affirming: 3}

func outcomeOf(before, after verifier.Status) string {
	switch b, a := goodness[before], goodness[after]; {
	case a < b:
		return OutcomeWorse
	case a > b:
		return OutcomeBetter
	}
	return OutcomeChanged
}
