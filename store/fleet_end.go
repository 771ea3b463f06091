package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/finding"
)

// endGone ends the conflicts that are gone, and locks their machines' conflicts against a second caller by ending them:
//
//   - a machine of the pair has another key by now, or none: it was released, reinstalled, given a TPM of its own
//   - a state that the present evidence of the two does not show any more
//   - an event of which somebody has closed all alerts: it does not last, so nothing else can end it. A state stays
//     noted, so that what was dismissed is not raised again by each boot; what was resolved is, while it holds.
const endGone = `UPDATE fleet_conflicts c SET ended_at = $2, ended_why = g.why
	FROM (SELECT x.conflict_id, CASE
			WHEN x.key_id IS NOT NULL AND NOT EXISTS (SELECT FROM attestation_keys k WHERE k.tenant_id = x.tenant_id AND k.key_id = x.key_id AND k.state = 'active')
				OR x.other_key_id IS NOT NULL AND NOT EXISTS (SELECT FROM attestation_keys k WHERE k.tenant_id = x.tenant_id AND k.key_id = x.other_key_id AND k.state = 'active')
				THEN 'key_ended'
			WHEN x.kind IN ('ak_shared', 'vm_shared', 'log_of_other') AND x.details #> '{observed,machines_sharing}' IS NOT NULL
				AND NOT EXISTS (SELECT FROM machine_traits a JOIN machine_traits b ON b.tenant_id = a.tenant_id AND b.kind = a.kind AND b.digest = a.digest
					WHERE a.tenant_id = x.tenant_id AND a.machine_id = x.machine_id AND b.machine_id = x.other_id AND a.strong AND b.strong
						AND a.kind = x.details #>> '{observed,what}')
				THEN 'no_longer_shared'
			WHEN x.kind IN ('ek_shared', 'name_claimed', 'quote_relayed', 'clock_back', 'reset_back', 'history_forked')
					OR x.kind = 'ak_shared' AND x.details #> '{observed,machines_sharing}' IS NULL
				THEN CASE WHEN NOT EXISTS (SELECT FROM alerts a WHERE a.tenant_id = x.tenant_id AND a.machine_id IN (x.machine_id, x.other_id)
					AND a.code = x.code AND a.status IN ('active', 'in_progress')) THEN 'closed_by_hand' END
			END AS why
		FROM fleet_conflicts x WHERE x.tenant_id = $1 AND x.ended_at IS NULL) g
	WHERE c.tenant_id = $1 AND c.conflict_id = g.conflict_id AND c.ended_at IS NULL AND g.why IS NOT NULL
	RETURNING c.code, c.machine_id, c.other_id`

// A machine's alert is over when no conflict of the code is left that it is part of. The machines are locked before that
// is asked, so that a conflict which is written meanwhile raises its alert afterwards.
const stillInConflict = `SELECT m.machine_id FROM unnest($3::uuid[]) m (machine_id) WHERE NOT EXISTS (SELECT FROM fleet_conflicts c
	WHERE c.tenant_id = $1 AND c.code = $2 AND c.ended_at IS NULL AND m.machine_id IN (c.machine_id, c.other_id))`

func (s *Store) endConflicts(ctx context.Context, tenant uuid.UUID, now time.Time) (ended int, err error) {
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		over := map[string][]pgtype.UUID{}
		var all []pgtype.UUID
		rows, _ := tx.Query(ctx, endGone, pgUUID(tenant), now)
		var code string
		var machine, other pgtype.UUID
		if _, err := pgx.ForEachRow(rows, []any{&code, &machine, &other}, func() error {
			ended++
			for _, id := range []pgtype.UUID{machine, other} {
				if id.Valid {
					over[code], all = append(over[code], id), append(all, id)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if len(all) == 0 {
			return nil
		}
		if _, err := tx.Exec(ctx, `SELECT FROM machines WHERE tenant_id = $1 AND machine_id = ANY ($2::uuid[]) ORDER BY machine_id FOR NO KEY UPDATE`,
			pgUUID(tenant), all); err != nil {
			return fmt.Errorf("lock machines: %w", err)
		}
		for code, machines := range over {
			rows, _ := tx.Query(ctx, stillInConflict, pgUUID(tenant), code, machines)
			free, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
			if err != nil {
				return err
			}
			if err := s.endAlerts(ctx, tx, tenant, now, code, free); err != nil {
				return err
			}
		}
		return nil
	})
	return ended, err
}

// FleetConflict is one row of fleet_conflicts.
type FleetConflict struct {
	ID                      uuid.UUID
	Code                    string
	Details                 finding.Conflict
	FirstSeenAt, LastSeenAt time.Time
	Count                   int64
	EndedAt                 *time.Time
	EndedWhy                string
}

// FleetConflictFilter narrows ListFleetConflicts. Those that have ended are left out unless IncludeEnded.
type FleetConflictFilter struct {
	MachineID    *uuid.UUID
	Kind, Code   string
	IncludeEnded bool
	Scope        Scope
}

var conflictList = listing[FleetConflict]{
	name: "fleet_conflicts", columns: "c.conflict_id, c.code, c.details, c.first_seen_at, c.last_seen_at, c.seen_count, c.ended_at, c.ended_why", initial: "-id",
	sorts: map[string][]sortKey{"id": ids("c.conflict_id")},
	scan: func(row pgx.Row) (c FleetConflict, err error) {
		var details []byte
		if err := row.Scan(&c.ID, &c.Code, &details, &c.FirstSeenAt, &c.LastSeenAt, &c.Count, &c.EndedAt, &c.EndedWhy); err != nil {
			return c, err
		}
		return c, json.Unmarshal(details, &c.Details)
	},
}

// ListFleetConflicts lists conflicts, newest first, and the cursor of the next page; empty after the last.
func (s *Store) ListFleetConflicts(ctx context.Context, tenant uuid.UUID, f FleetConflictFilter, page Page) (items []FleetConflict, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(` FROM fleet_conflicts c WHERE c.tenant_id = $1`, tenant)
	if !f.IncludeEnded {
		q.plain(`c.ended_at IS NULL`)
	}
	q.id(`? IN (c.machine_id, c.other_id)`, f.MachineID)
	q.oneOf(`c.kind`, f.Kind)
	q.oneOf(`c.code`, f.Code)
	return conflictList.page(ctx, s.pool, q.within(f.Scope), page)
}
