package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
)

// VersionChangedError tells that a baseline version, or the alert that one is made of, is not as the change expects it,
// and who changed it. It is an ErrConflict.
type VersionChangedError struct{ What string }

// Error implements error.
func (e *VersionChangedError) Error() string { return e.What }

// Unwrap makes it an ErrConflict.
func (e *VersionChangedError) Unwrap() error { return ErrConflict }

// StateError tells what of the present state does not allow a change. It is an ErrConflict.
type StateError struct{ What string }

// Error implements error.
func (e *StateError) Error() string { return e.What }

// Unwrap makes it an ErrConflict.
func (e *StateError) Unwrap() error { return ErrConflict }

// SecondPersonError tells that the two-person rule is in force and the actor alone is not enough.
type SecondPersonError struct{ What string }

// Error implements error.
func (e *SecondPersonError) Error() string { return e.What }

// Promotion is how a version becomes active.
type Promotion struct {
	Grace
	Expected string // state that the version must be in; empty: the one that it is in when the call begins
	Comment  string // kept where the promotion is a second person's approval
	// NeedsSecond asks for a second person whatever the policy says: of an actor whose role is to approve what others made.
	NeedsSecond bool
}

// twoPersons tells whether the two-person rule is in force for a selector. The tenant's row is locked against changes of
// policy until the transaction ends.
func (s *Store) twoPersons(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, selector verifier.Selector) (bool, error) {
	var generation int64
	if err := tx.QueryRow(ctx, `SELECT config_generation FROM tenants WHERE tenant_id = $1 FOR SHARE`, pgUUID(tenant)).Scan(&generation); err != nil {
		return false, notFound(err, "tenant", tenant)
	}
	var cfg tenantConfig // read, and not taken from memory: this transaction may have raised the generation itself
	if err := cfg.loadPolicies(ctx, tx, tenant); err != nil {
		return false, err
	}
	policies := make([]verifier.Policy, len(cfg.policies))
	for i := range cfg.policies {
		policies[i] = cfg.policies[i].Policy
	}
	return baseline.NeedsTwoPersons(selector, policies, cfg.fallback.Policy), nil
}

// NeedsTwoPersons tells whether the two-person rule is in force for the machines that a selector chooses.
func (s *Store) NeedsTwoPersons(ctx context.Context, tenant uuid.UUID, selector verifier.Selector) (two bool, err error) {
	ctx = withTenant(ctx, tenant)
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		two, err = s.twoPersons(ctx, tx, tenant, selector)
		return err
	})
	return two, err
}

// firstState settles the state that a new version begins in; fallback is for one that asks for none.
func (s *Store) firstState(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, v *BaselineVersion, fallback string) error {
	two, err := s.twoPersons(ctx, tx, tenant, v.Selector)
	if err != nil {
		return err
	}
	if err := vouchedFor(ctx, tx, tenant, v.ImportAnchor); err != nil { // withdrawn since the signature was verified
		return err
	}
	v.NeedsSecond = two
	switch {
	case two && v.State == "active":
		return &SecondPersonError{"the two-person rule is in force for these machines: register the version as a draft; another principal approves or promotes it"}
	case v.State == "" && two:
		v.State = "draft"
	case v.State == "":
		v.State = fallback
	}
	return nil
}

// nextActivation numbers the activations of a baseline that changeBaseline has locked, or that is being made. A baseline that
// was released judges again.
func nextActivation(ctx context.Context, tx pgx.Tx, tenant, baselineID uuid.UUID) (*int, error) {
	if _, err := tx.Exec(ctx, `UPDATE baseline_versions SET last_change = 'retired' WHERE tenant_id = $1 AND baseline_id = $2 AND last_change = $3`,
		tenant, baselineID, changeReleased); err != nil {
		return nil, err
	}
	var n int
	err := tx.QueryRow(ctx, `SELECT coalesce(max(activation), 0) + 1 FROM baseline_versions WHERE tenant_id = $1 AND baseline_id = $2`, tenant, baselineID).Scan(&n)
	return &n, err
}

// stateChange is a change of a version's state.
type stateChange struct {
	state          string
	grace          Grace  // and the end of an active version
	change, action string // the words for people and for the audit record
	comment        string // for the audit record
}

// setVersionState writes and audits a version's state.
func setVersionState(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, v *BaselineVersion, c stateChange, now time.Time, actor Actor) error {
	was, wasState := versionSummary(*v), v.State
	if c.state == "active" {
		var err error
		if v.Activation, err = nextActivation(ctx, tx, tenant, v.BaselineID); err != nil {
			return err
		}
	}
	v.State, v.ActiveUntil, v.GraceMovedPercent = c.state, c.grace.Until, c.grace.MovedPercent
	v.Proposal, v.LastChange, v.ChangedBy, v.ChangedAt = nil, c.change, actor.String(), &now
	if _, err := tx.Exec(ctx, `UPDATE baseline_versions SET state = $4, active_until = $5, grace_moved_percent = $6, activation = $7,
			proposal = NULL, last_change = $8, changed_by = $9, changed_at = $10
		WHERE tenant_id = $1 AND baseline_id = $2 AND version = $3`,
		tenant, v.BaselineID, v.Version, c.state, v.ActiveUntil, v.GraceMovedPercent, v.Activation, c.change, v.ChangedBy, now); err != nil {
		return err
	}
	if c.state == "retired" && wasState != "draft" { // what was judged by it is to be judged without it
		cause := ReappraisalCause{Kind: CauseBaselineVersion, ID: fmt.Sprintf("%s/%d", v.BaselineID, v.Version), Detail: fmt.Sprintf("version %d of %s was retired", v.Version, v.Name)}
		switch c.change {
		case anchorWithdrawn:
			cause.Detail += ": the trust anchor that vouched for it was withdrawn"
		case changeReleased:
			cause.Detail = fmt.Sprintf("version %d of %s was retired, and its machines released from the baseline", v.Version, v.Name)
		}
		if _, err := EnqueueReappraisal(ctx, tx, tenant, cause, MachineScope{Selector: v.Selector}, now, actor); err != nil {
			return err
		}
	}
	after := versionSummary(*v)
	if c.comment != "" {
		after["comment"] = c.comment
	}
	return audit(ctx, tx, tenant, now, actor, c.action, baselineTarget(*v), was, after)
}

// happened says who brought a version into its state, and when.
func (v *BaselineVersion) happened() string {
	text := fmt.Sprintf("version %d is %s", v.Version, v.State)
	if v.ChangedAt == nil {
		return text + fmt.Sprintf(": made by %s at %s", v.CreatedBy, v.CreatedAt.UTC().Format(time.RFC3339))
	}
	words := map[string]string{"promoted": "promoted", "replaced": "replaced by a newer version that was promoted", "retired": "retired", changeReleased: "retired, and its machines released from the baseline,",
		"grace_ended": "its grace was ended", "ended": "its time was over, which was noted", anchorWithdrawn: "retired, since the trust anchor that vouched for it was withdrawn,"}
	return text + fmt.Sprintf(": %s by %s at %s", words[v.LastChange], v.ChangedBy, v.ChangedAt.UTC().Format(time.RFC3339))
}

// expectState refuses a version that is in another state than expected, or not in one of those that the change can
// begin in.
func expectState(v *BaselineVersion, expected string, allowed ...string) error {
	for _, state := range allowed {
		if v.State == state && (expected == "" || v.State == expected) {
			return nil
		}
	}
	return &VersionChangedError{v.happened()}
}

// stateNow is the state that a version is in as the call begins. Whoever asks for a change without saying which state he
// saw means this one: where another's change comes between, he is told and nothing is done.
func (s *Store) stateNow(ctx context.Context, tenant, baselineID uuid.UUID, n int, expected string) (string, error) {
	if expected != "" {
		return expected, nil
	}
	err := s.pool.QueryRow(ctx, `SELECT state FROM baseline_versions WHERE tenant_id = $1 AND baseline_id = $2 AND version = $3`, tenant, baselineID, n).Scan(&expected)
	if err != nil {
		return "", notFound(err, "baseline version", fmt.Sprintf("%s/%d", baselineID, n))
	}
	return expected, nil
}

// PromoteVersion makes a draft active. The version that it replaces stays valid for p.Grace, and is retired at once
// where there is none. Under the two-person rule somebody beside the author must have approved it, or be the actor,
// whose promotion is then his approval. A pipeline is never that: its promotion needs the approval of an administrator.
//
// Errors: ErrNotFound; *VersionChangedError where the version is no draft, or no longer in the state that was expected, or
// was made out of another version than the one that is active; *SecondPersonError; *UnvouchedError.
func (s *Store) PromoteVersion(ctx context.Context, tenant, baselineID uuid.UUID, n int, p Promotion, now time.Time, actor Actor) (BaselineVersion, error) {
	ctx = withTenant(ctx, tenant)
	return s.changeVersion(ctx, tenant, baselineID, n, p.Expected, "promote", now, func(tx pgx.Tx, v *BaselineVersion) error {
		if err := expectState(v, p.Expected, "draft"); err != nil {
			return err
		}
		if v.ActiveUntil != nil && !v.ActiveUntil.After(now) {
			return &VersionChangedError{fmt.Sprintf("version %d ended at %s: it cannot be judged by any more", n, v.ActiveUntil.UTC().Format(time.RFC3339))}
		}
		anchor, err := importAnchor(ctx, tx, tenant, v)
		if err != nil {
			return err
		}
		if err := vouchedFor(ctx, tx, tenant, anchor); err != nil {
			return err
		}
		if p.NeedsSecond && v.CreatedBy == actor.String() {
			return &SecondPersonError{"this principal made the version, and its role is to approve what others made: another one has to promote it"}
		}
		if v.NeedsSecond && !v.approvedByPerson() {
			if actor.Kind == kindPipeline {
				return &SecondPersonError{"the two-person rule is in force for these machines, and a pipeline is no second person: an administrator beside the author has to approve the version"}
			}
			if v.CreatedBy == actor.String() {
				return &SecondPersonError{"the two-person rule is in force for these machines, and this principal made the version: another one has to approve or promote it"}
			}
			if err := insertApproval(ctx, tx, tenant, v, p.Comment, now, actor); err != nil {
				return err
			}
		}
		return activate(ctx, tx, tenant, v, p.Grace, now, actor)
	})
}

// kindPipeline is the kind of an actor that is a run of a pipeline. What its identity is called differs by branch and
// environment, so that one pipeline could be two principals.
const kindPipeline = "pipeline"

// approvedByPerson tells whether an administrator has approved the version.
func (v *BaselineVersion) approvedByPerson() bool {
	return slices.ContainsFunc(v.Approvals, func(a Approval) bool { return !strings.HasPrefix(a.By, kindPipeline+":") })
}

// changeVersion locks a baseline and hands f one of its versions, with its approvals and whether they are needed.
// expected is settled before the lock is taken (stateNow).
func (s *Store) changeVersion(ctx context.Context, tenant, baselineID uuid.UUID, n int, expected, verb string, now time.Time, f func(tx pgx.Tx, v *BaselineVersion) error) (BaselineVersion, error) {
	expected, err := s.stateNow(ctx, tenant, baselineID, n, expected)
	if err != nil {
		return BaselineVersion{}, fmt.Errorf("%s baseline %s version %d: %w", verb, baselineID, n, err)
	}
	var v BaselineVersion
	err = s.changeBaseline(ctx, tenant, baselineID, now, func(tx pgx.Tx, _ Baseline, _ int) error {
		var err error
		if v, err = lockedVersion(ctx, tx, tenant, baselineID, n); err != nil {
			return err
		}
		if v.State != expected {
			return &VersionChangedError{v.happened()}
		}
		if v.NeedsSecond, err = s.twoPersons(ctx, tx, tenant, v.Selector); err != nil {
			return err
		}
		if v.Approvals, err = readApprovals(ctx, tx, tenant, baselineID, n); err != nil {
			return err
		}
		return f(tx, &v)
	})
	if err != nil {
		return BaselineVersion{}, fmt.Errorf("%s baseline %s version %d: %w", verb, baselineID, n, err)
	}
	return v, nil
}

// activate makes a version of a locked baseline the active one, and replaces that which is.
func activate(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, v *BaselineVersion, grace Grace, now time.Time, actor Actor) error {
	old, err := activeVersion(ctx, tx, tenant, v.BaselineID)
	if err != nil {
		return err
	}
	if v.BasedOn != nil && (old == nil || old.Version != *v.BasedOn) {
		what := fmt.Sprintf("the version was made out of version %d, which is not the active one any more: ", *v.BasedOn)
		if old != nil {
			return &VersionChangedError{what + old.happened()}
		}
		based, err := lockedVersion(ctx, tx, tenant, v.BaselineID, *v.BasedOn)
		if err != nil {
			return err
		}
		return &VersionChangedError{what + based.happened()}
	}
	if old != nil {
		c := stateChange{state: "grace", grace: grace.of(old, now), change: "replaced", action: "baseline.replace"}
		if c.grace.Until == nil || !c.grace.Until.After(now) {
			c.state, c.grace = "retired", Grace{}
		}
		if err := setVersionState(ctx, tx, tenant, old, c, now, actor); err != nil {
			return err
		}
	}
	return setVersionState(ctx, tx, tenant, v, stateChange{state: "active", grace: Grace{Until: v.ActiveUntil}, change: "promoted", action: "baseline.promote"}, now, actor)
}

// MaxGraceByShare is how long a version stays in grace at most that is to end with a share of the machines and for which no
// time is given: a share that is never reached would keep it valid for good.
const MaxGraceByShare = 90 * 24 * time.Hour

// of is the grace of a version that is replaced now: with an end by time, and never beyond the version's own.
func (g Grace) of(old *BaselineVersion, now time.Time) Grace {
	if g.Until == nil && g.MovedPercent != nil {
		until := now.Add(MaxGraceByShare)
		g.Until = &until
	}
	if g.Until != nil && old.ActiveUntil != nil && old.ActiveUntil.Before(*g.Until) {
		g.Until = old.ActiveUntil
	}
	return g
}

// activeVersion is the active version of a locked baseline; nil if there is none.
func activeVersion(ctx context.Context, tx pgx.Tx, tenant, baselineID uuid.UUID) (*BaselineVersion, error) {
	var n *int
	if err := tx.QueryRow(ctx, `SELECT max(version) FROM baseline_versions WHERE tenant_id = $1 AND baseline_id = $2 AND state = 'active'`, tenant, baselineID).Scan(&n); err != nil || n == nil {
		return nil, err
	}
	v, err := lockedVersion(ctx, tx, tenant, baselineID, *n)
	return &v, err
}

// ApproveVersion records that the actor, who must not be its author, stands up for a draft. Where the author has
// proposed its activation that follows at once. Errors as of PromoteVersion.
func (s *Store) ApproveVersion(ctx context.Context, tenant, baselineID uuid.UUID, n int, expected, comment string, now time.Time, actor Actor) (BaselineVersion, error) {
	ctx = withTenant(ctx, tenant)
	return s.changeVersion(ctx, tenant, baselineID, n, expected, "approve", now, func(tx pgx.Tx, v *BaselineVersion) error {
		if err := expectState(v, expected, "draft"); err != nil {
			return err
		}
		if v.CreatedBy == actor.String() {
			return &SecondPersonError{"this principal made the version: another one has to approve it"}
		}
		for _, a := range v.Approvals {
			if a.By == actor.String() {
				return &VersionChangedError{fmt.Sprintf("version %d was approved by %s at %s", n, a.By, a.At.UTC().Format(time.RFC3339))}
			}
		}
		if len(v.Approvals) > 0 && v.Proposal == nil {
			a := v.Approvals[0]
			return &VersionChangedError{fmt.Sprintf("version %d was approved by %s at %s already; promote it", n, a.By, a.At.UTC().Format(time.RFC3339))}
		}
		if err := insertApproval(ctx, tx, tenant, v, comment, now, actor); err != nil {
			return err
		}
		if v.Proposal != nil && v.Proposal.Activate {
			return activate(ctx, tx, tenant, v, v.Proposal.Grace, now, actor)
		}
		return nil
	})
}

func insertApproval(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, v *BaselineVersion, comment string, now time.Time, actor Actor) error {
	a := Approval{By: actor.String(), At: now, Comment: comment}
	if _, err := tx.Exec(ctx, `INSERT INTO baseline_approvals (tenant_id, baseline_id, version, approved_by, approved_at, comment) VALUES ($1, $2, $3, $4, $5, $6)`,
		tenant, v.BaselineID, v.Version, a.By, now, comment); err != nil {
		return err
	}
	v.Approvals = append(v.Approvals, a)
	return audit(ctx, tx, tenant, now, actor, "baseline.approve", baselineTarget(*v), nil, map[string]any{"comment": comment, "author": v.CreatedBy})
}

func readApprovals(ctx context.Context, db querier, tenant, baselineID uuid.UUID, n int) ([]Approval, error) {
	rows, err := db.Query(ctx, `SELECT approved_by, approved_at, comment FROM baseline_approvals
		WHERE tenant_id = $1 AND baseline_id = $2 AND version = $3 ORDER BY approved_at, approved_by`, tenant, baselineID, n)
	if err != nil {
		return nil, fmt.Errorf("read approvals: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Approval])
	if err != nil {
		return nil, fmt.Errorf("read approvals: %w", err)
	}
	return out, nil
}

// readApproval fills in who approved a version, and whether somebody has to.
func (s *Store) readApproval(ctx context.Context, tenant uuid.UUID, v *BaselineVersion) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		var err error
		if v.NeedsSecond, err = s.twoPersons(ctx, tx, tenant, v.Selector); err != nil {
			return err
		}
		v.Approvals, err = readApprovals(ctx, tx, tenant, v.BaselineID, v.Version)
		return err
	})
}
