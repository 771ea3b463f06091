package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// EndedGrace is a version that was ended.
type EndedGrace struct {
	BaselineID uuid.UUID
	Name       string
	Version    int
	Why        string
}

// EndGrace retires the versions, active or in grace, whose time is over, and those in grace from which enough machines have
// moved. Each is decided with its baseline locked, so that of several callers one ends it, and is told.
func (s *Store) EndGrace(ctx context.Context, tenant uuid.UUID, now time.Time, actor Actor) (ended []EndedGrace, err error) {
	ctx = withTenant(ctx, tenant)
	rows, _ := s.pool.Query(ctx, `SELECT DISTINCT baseline_id FROM baseline_versions WHERE tenant_id = $1
		AND (state = 'grace' OR state = 'active' AND active_until <= $2)`, pgUUID(tenant), now)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("look for versions that end: %w", err)
	}
	for _, id := range ids {
		r, err := s.GetRollout(ctx, tenant, id, now)
		if err != nil {
			return ended, err
		}
		if len(r.overdue(now)) == 0 {
			continue // nothing is locked for a look
		}
		err = s.changeBaseline(ctx, tenant, id, now, func(tx pgx.Tx, _ Baseline, _ int) error {
			// Counted again under the lock: versions and their ends may be others by now.
			r, _, err := readRollout(ctx, tx, tenant, id, now)
			if err != nil {
				return err
			}
			var done []EndedGrace
			for _, g := range r.overdue(now) {
				v, err := lockedVersion(ctx, tx, tenant, id, g.Version)
				if err != nil {
					return err
				}
				c := stateChange{state: "retired", change: "grace_ended", action: "baseline.end_grace"}
				if !v.validAt(now) {
					c = v.ended()
				}
				if err := setVersionState(ctx, tx, tenant, &v, c, now, actor); err != nil {
					return err
				}
				done = append(done, EndedGrace{id, r.Name, g.Version, g.why(r.Attesting, now)})
			}
			ended = append(ended, done...)
			return nil
		})
		if err != nil {
			return ended, fmt.Errorf("end grace of baseline %s: %w", id, err)
		}
	}
	return ended, nil
}

func (r *Rollout) overdue(now time.Time) []GraceState {
	var out []GraceState
	if r.activeUntil != nil && !now.Before(*r.activeUntil) {
		out = append(out, GraceState{Version: *r.Active, Grace: Grace{Until: r.activeUntil}})
	}
	for _, g := range r.Grace {
		if g.over(r.Attesting, now) {
			out = append(out, g)
		}
	}
	return out
}

func (g *GraceState) why(attesting int64, now time.Time) string {
	if g.Until != nil && !now.Before(*g.Until) {
		return "its time was over"
	}
	return fmt.Sprintf("%d of %d machines have moved", g.Moved, attesting)
}
