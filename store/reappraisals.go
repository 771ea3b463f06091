package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier"
)

// The causes of reappraisals.
const (
	CauseBaselineVersion = "baseline_version" // a version was retired; the id is BASELINE/VERSION
	CauseTrustAnchor     = "trust_anchor"     // an anchor was disabled or deleted
	CauseCollateral      = "collateral"       // a TCB statement or CRL was replaced or deleted; the id is KIND/NAME
	CausePolicy          = "policy"           // what a policy asks of evidence, or of whom, changed; the id is NAME/VERSION
	CauseKnownBad        = "known_bad"        // a dbx or known-bad entry was added or withdrawn
	CauseRequest         = "request"          // somebody asked
)

// ReappraisalCause is why stored evidence is to be judged again.
type ReappraisalCause struct {
	Kind, ID string
	Detail   string // plain words; the comment of who asked
}

// The outcomes for a machine that ReappraisalMachine names; one whose verdict stands is only counted.
const (
	OutcomeWorse     = "worse"
	OutcomeBetter    = "better"
	OutcomeChanged   = "changed" // judged otherwise with the same status
	OutcomeNotJudged = "not_judged"
)

// Reappraisal is one row of reappraisals.
type Reappraisal struct {
	ID          uuid.UUID
	Cause       ReappraisalCause
	Scope       MachineScope
	State       string // queued, running, done, failed
	RequestedBy string
	RequestedAt time.Time
	StartedAt   *time.Time
	FinishedAt  *time.Time
	Error       string
	Machines    *int64 // in scope when it began; nil before
	// The machines that are done, by outcome; together with Unchanged they make up what was done so far.
	Unchanged, Worse, Better, Changed, NotJudged int64
	AlertsOpened                                 int64
	// Beside are other reappraisals that changed verdicts between this one's request and its end, oldest first. Evidence
	// is judged by what is in force at the moment: what this one's change made of a machine may be in their reports.
	Beside []uuid.UUID

	after    pgtype.UUID // cursor
	attempts int
}

// After is the last machine that is done; uuid.Nil before the first.
func (r *Reappraisal) After() uuid.UUID { return r.after.Bytes }

// Judged counts the machines whose evidence was judged again.
func (r *Reappraisal) Judged() int64 { return r.Unchanged + r.Worse + r.Better + r.Changed }

// ReappraisalMachine is what a reappraisal changed about one machine.
type ReappraisalMachine struct {
	MachineID                 uuid.UUID
	MachineName               string
	Outcome                   string
	Why                       string // why it was not judged
	VerdictID, SupersededID   *uuid.UUID
	StatusBefore, StatusAfter string
	ReasonAfter               string
}

const reappraisalColumns = `reappraisal_id, cause_kind, cause_id, cause_detail, scope, state, requested_by, requested_at, started_at, finished_at,
	error, machines, unchanged, worse, better, changed, not_judged, alerts_opened, after_machine, attempts, ` + besideColumn

// besideColumn has the reappraisals whose run touches the time from the request of this one to its end, up to 100.
const besideColumn = `ARRAY(SELECT b.reappraisal_id FROM reappraisals b WHERE b.tenant_id = reappraisals.tenant_id AND b.reappraisal_id <> reappraisals.reappraisal_id
		AND b.worse + b.better + b.changed > 0 AND coalesce(b.finished_at, 'infinity') >= reappraisals.requested_at
		AND b.started_at <= coalesce(reappraisals.finished_at, 'infinity') ORDER BY b.reappraisal_id LIMIT 100)`

func scanReappraisal(row pgx.Row) (Reappraisal, error) {
	var r Reappraisal
	err := row.Scan(&r.ID, &r.Cause.Kind, &r.Cause.ID, &r.Cause.Detail, &r.Scope, &r.State, &r.RequestedBy, &r.RequestedAt, &r.StartedAt, &r.FinishedAt,
		&r.Error, &r.Machines, &r.Unchanged, &r.Worse, &r.Better, &r.Changed, &r.NotJudged, &r.AlertsOpened, &r.after, &r.attempts, &r.Beside)
	return r, err
}

// EnqueueReappraisal asks, inside the transaction of a change, that the stored evidence of the machines in scope is
// judged again once the change is committed. The change itself is audited by whoever makes it.
func EnqueueReappraisal(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, cause ReappraisalCause, scope MachineScope, now time.Time, actor Actor) (Reappraisal, error) {
	if err := checkScope(scope); err != nil {
		return Reappraisal{}, err
	}
	r, err := scanReappraisal(tx.QueryRow(ctx, `INSERT INTO reappraisals (tenant_id, reappraisal_id, cause_kind, cause_id, cause_detail, scope, state, requested_by, requested_at)
		VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7, $8) `+onQueuedTwice+` RETURNING `+reappraisalColumns,
		pgUUID(tenant), pgUUID(newID(now)), cause.Kind, cause.ID, cause.Detail, scope, actor.String(), now))
	if err != nil {
		return Reappraisal{}, fmt.Errorf("ask for a reappraisal: %w", err)
	}
	return r, nil
}

// onQueuedTwice lets collateral that is replaced again before anybody looked at it be looked at once. The row is locked,
// so that no worker begins before the change is committed.
const onQueuedTwice = `ON CONFLICT (tenant_id, cause_kind, cause_id) WHERE state = 'queued' AND cause_kind = 'collateral'
	DO UPDATE SET requested_at = reappraisals.requested_at`

// RequestReappraisal asks by hand that the stored evidence of the machines that a selector chooses is judged again.
func (s *Store) RequestReappraisal(ctx context.Context, tenant uuid.UUID, selector verifier.Selector, comment string, now time.Time, actor Actor) (Reappraisal, error) {
	ctx = withTenant(ctx, tenant)
	var r Reappraisal
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		var err error
		if r, err = EnqueueReappraisal(ctx, tx, tenant, ReappraisalCause{Kind: CauseRequest, Detail: comment}, MachineScope{Selector: selector}, now, actor); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "reappraisal.request", "reappraisal:"+r.ID.String(), nil, map[string]any{"selector": selector, "comment": comment})
	})
	return r, err
}

// ListReappraisals lists reappraisals, newest first.
func (s *Store) ListReappraisals(ctx context.Context, tenant uuid.UUID, f ReappraisalFilter, page Page) (items []Reappraisal, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(" FROM reappraisals WHERE tenant_id = $1", tenant)
	q.oneOf("state", f.State)
	q.oneOf("cause_kind", f.CauseKind)
	q.at("requested_at >= ?", f.Since)
	q.at("requested_at < ?", f.Until)
	return reappraisalList.page(ctx, s.pool, q, page)
}

// ReappraisalFilter narrows ListReappraisals; State and CauseKind may hold several values with commas between them.
type ReappraisalFilter struct {
	State, CauseKind string
	Since, Until     *time.Time // of requested_at
}

var reappraisalList = listing[Reappraisal]{
	name: "reappraisals", columns: reappraisalColumns, scan: scanReappraisal, initial: "-id",
	sorts: map[string][]sortKey{"id": ids("reappraisal_id"), "state": byText("state", ids("reappraisal_id")...)},
}

// GetReappraisal reads one reappraisal. ErrNotFound.
func (s *Store) GetReappraisal(ctx context.Context, tenant, id uuid.UUID) (Reappraisal, error) {
	ctx = withTenant(ctx, tenant)
	r, err := scanReappraisal(s.pool.QueryRow(ctx, `SELECT `+reappraisalColumns+` FROM reappraisals WHERE tenant_id = $1 AND reappraisal_id = $2`, pgUUID(tenant), pgUUID(id)))
	if err != nil {
		return Reappraisal{}, notFound(err, "reappraisal", id)
	}
	return r, nil
}

var reappraisalMachineList = listing[ReappraisalMachine]{
	name: "reappraisal_machines", initial: "machine_id",
	columns: "r.machine_id, m.name, r.outcome, r.why, r.verdict_id, r.superseded_id, r.status_before, r.status_after, r.reason_after",
	scan: func(row pgx.Row) (ReappraisalMachine, error) {
		var m ReappraisalMachine
		var verdict, superseded pgtype.UUID
		err := row.Scan(&m.MachineID, &m.MachineName, &m.Outcome, &m.Why, &verdict, &superseded, &m.StatusBefore, &m.StatusAfter, &m.ReasonAfter)
		m.VerdictID, m.SupersededID = uuidPtr(verdict), uuidPtr(superseded)
		return m, err
	},
	sorts: map[string][]sortKey{
		"machine_id": ids("r.machine_id"),
		"name":       byText(named("m.name"), ids("r.machine_id")...),
		"outcome":    byText("r.outcome", ids("r.machine_id")...),
	},
}

// ListReappraisalMachines lists what a reappraisal changed, by machine id. ErrNotFound: no such reappraisal.
func (s *Store) ListReappraisalMachines(ctx context.Context, tenant, id uuid.UUID, outcome string, page Page) (items []ReappraisalMachine, next string, err error) {
	ctx = withTenant(ctx, tenant)
	if err := reappraisalMachineList.check(page); err != nil {
		return nil, "", err
	}
	if _, err := s.GetReappraisal(ctx, tenant, id); err != nil {
		return nil, "", err
	}
	q := newQuery(` FROM reappraisal_machines r JOIN machines m ON m.tenant_id = r.tenant_id AND m.machine_id = r.machine_id WHERE r.tenant_id = $1`, tenant)
	q.and("r.reappraisal_id = ?", pgUUID(id))
	q.oneOf("r.outcome", outcome)
	return reappraisalMachineList.page(ctx, s.pool, q, page)
}

// ClaimReappraisal takes the oldest reappraisal that nobody is at, for the time of the lease: one that is queued, or one
// whose worker has not been heard of. ErrNotFound: there is none.
func (s *Store) ClaimReappraisal(ctx context.Context, tenant uuid.UUID, lease time.Duration, now time.Time) (Reappraisal, error) {
	ctx = withTenant(ctx, tenant)
	r, err := scanReappraisal(s.pool.QueryRow(ctx, `UPDATE reappraisals SET state = 'running', started_at = coalesce(started_at, $2), claimed_until = $3
		WHERE tenant_id = $1 AND reappraisal_id = (SELECT reappraisal_id FROM reappraisals
			WHERE tenant_id = $1 AND (state = 'queued' OR state = 'running' AND claimed_until <= $2) ORDER BY reappraisal_id LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING `+reappraisalColumns, pgUUID(tenant), now, now.Add(lease)))
	if errors.Is(err, pgx.ErrNoRows) {
		return Reappraisal{}, ErrNotFound
	}
	if err != nil {
		return Reappraisal{}, fmt.Errorf("take a reappraisal: %w", err)
	}
	if r.Machines != nil {
		return r, nil
	}
	n, err := s.CountMachinesIn(ctx, tenant, r.Scope)
	if err != nil {
		return Reappraisal{}, err
	}
	r.Machines = &n
	if _, err := s.pool.Exec(ctx, `UPDATE reappraisals SET machines = $3 WHERE tenant_id = $1 AND reappraisal_id = $2`, pgUUID(tenant), pgUUID(r.ID), n); err != nil {
		return Reappraisal{}, fmt.Errorf("take a reappraisal: %w", err)
	}
	return r, nil
}

// FailReappraisal notes that a round failed. It is tried again from its cursor at next; after maxAttempts rounds without
// a page it is given up.
func (s *Store) FailReappraisal(ctx context.Context, tenant, id uuid.UUID, reason string, maxAttempts int, next, now time.Time) error {
	ctx = withTenant(ctx, tenant)
	if _, err := s.pool.Exec(ctx, `UPDATE reappraisals SET attempts = attempts + 1, error = $3, claimed_until = $4,
			state = CASE WHEN attempts + 1 >= $5 THEN 'failed' ELSE state END, finished_at = CASE WHEN attempts + 1 >= $5 THEN $6::timestamptz END
		WHERE tenant_id = $1 AND reappraisal_id = $2 AND state = 'running'`, pgUUID(tenant), pgUUID(id), reason, next, maxAttempts, now); err != nil {
		return fmt.Errorf("note the failure of reappraisal %s: %w", id, err)
	}
	return nil
}
