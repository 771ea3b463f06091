package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Retirement is how a version ends.
type Retirement struct {
	Expected string // state that the version must be in; empty: the one that it is in when the call begins
	// Release ends the baseline with its last version: machines are judged without it from then on. Without it they fail
	// until another version is promoted. A version that is retired already can be released too.
	Release bool
	Propose bool   // changes nothing, and lets another principal do it where the two-person rule is in force
	Comment string // for the audit record
}

// RetireVersion ends a version: no machine is affirmed by it any more. Under the two-person rule the last valid version of a
// baseline ends, and a baseline is released, only where another principal has proposed it.
//
// Errors: ErrNotFound; *VersionChangedError where the version is retired already, is in another state than expected, or
// cannot be released, because another one is valid or it never was active; *SecondPersonError.
func (s *Store) RetireVersion(ctx context.Context, tenant, baselineID uuid.UUID, n int, r Retirement, now time.Time, actor Actor) (BaselineVersion, error) {
	ctx = withTenant(ctx, tenant)
	return s.changeVersion(ctx, tenant, baselineID, n, r.Expected, "retire", now, func(tx pgx.Tx, v *BaselineVersion) error {
		if err := expectState(v, r.Expected, r.beginsIn()...); err != nil {
			return err
		}
		others, err := otherVersions(ctx, tx, tenant, v)
		if err != nil {
			return err
		}
		last := true
		for i := range others {
			last = last && !others[i].validAt(now)
		}
		switch {
		case r.Release && !last:
			return &VersionChangedError{fmt.Sprintf("another version of the baseline is valid: only the last one is released; %s", others[0].happened())}
		case r.Release && (v.Activation == nil || v.Released()):
			return &VersionChangedError{"no machine is judged by the baseline because of this version: " + v.happened()}
		case r.Propose:
			return propose(ctx, tx, tenant, v, &r, now, actor)
		case v.NeedsSecond && last && (r.Release || v.validAt(now)) && !proposedByAnother(v, &r, actor):
			return &SecondPersonError{"the two-person rule is in force for these machines, and this is the last version that they are judged by: another principal has to propose the same first"}
		}
		c := stateChange{state: "retired", change: "retired", action: "baseline.retire", comment: r.Comment}
		if r.Release {
			c.change, c.action = changeReleased, "baseline.release"
			for i := range others { // their time is over, and nobody has noted it yet
				if err := setVersionState(ctx, tx, tenant, &others[i], others[i].ended(), now, actor); err != nil {
					return err
				}
			}
		}
		return setVersionState(ctx, tx, tenant, v, c, now, actor)
	})
}

// beginsIn are the states that the version may be in.
func (r *Retirement) beginsIn() []string {
	states := []string{"active", "grace"}
	if r.Release {
		states = append(states, "retired")
	}
	if !r.Propose && !r.Release {
		states = append(states, "draft")
	}
	return states
}

// otherVersions are the versions of a locked baseline, beside v, that are active or in grace; also those whose time is over.
func otherVersions(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, v *BaselineVersion) ([]BaselineVersion, error) {
	rows, _ := tx.Query(ctx, `SELECT `+versionColumns+` `+versionTables+`WHERE b.tenant_id = $1 AND b.baseline_id = $2 AND v.version <> $3
		AND v.state IN ('active', 'grace') ORDER BY v.active_until DESC NULLS FIRST`, tenant, v.BaselineID, v.Version)
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (BaselineVersion, error) { return scanVersion(row) })
	if err != nil {
		return nil, fmt.Errorf("read the other versions: %w", err)
	}
	return out, nil
}

// ended is the change of a version whose time is over. The time stays with it.
func (v *BaselineVersion) ended() stateChange {
	c := stateChange{state: "retired", grace: Grace{Until: v.ActiveUntil}, change: "ended", action: "baseline.end"}
	if v.State == "grace" {
		c.change, c.action = "grace_ended", "baseline.end_grace"
	}
	return c
}

// proposedByAnother tells whether another principal than the actor has proposed as much.
func proposedByAnother(v *BaselineVersion, r *Retirement, actor Actor) bool {
	p := v.Proposal
	return p != nil && p.Retire && (p.Release || !r.Release) && p.By != actor.String()
}

// propose notes that the actor wants the version retired.
func propose(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, v *BaselineVersion, r *Retirement, now time.Time, actor Actor) error {
	was := versionSummary(*v)
	v.Proposal = &Proposal{Retire: true, Release: r.Release, By: actor.String(), Comment: r.Comment}
	if _, err := tx.Exec(ctx, `UPDATE baseline_versions SET proposal = $4 WHERE tenant_id = $1 AND baseline_id = $2 AND version = $3`,
		tenant, v.BaselineID, v.Version, v.Proposal); err != nil {
		return fmt.Errorf("note a proposal: %w", err)
	}
	return audit(ctx, tx, tenant, now, actor, "baseline.propose_retirement", baselineTarget(*v), was, versionSummary(*v))
}
