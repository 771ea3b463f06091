package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier"
)

// AttestingWithin is how recent a machine's last genuine evidence has to be for it to count in a rollout: the longest
// interval that a policy can ask for. A machine that was switched off for good does not hold a rollout up.
const AttestingWithin = 7 * 24 * time.Hour

// Rollout is how far the machines that a baseline covers have moved to its active version.
type Rollout struct {
	BaselineID uuid.UUID
	Name       string
	Active     *int // the active version; nil if there is none
	// Covered machines are those with an attestation key that the selector chooses; of them Attesting have sent genuine
	// evidence within AttestingWithin. All other figures are of these.
	Covered, Attesting int64
	// Moved machines were affirmed last by the active version, and their standing verdict still affirms or warns. Behind ones
	// were affirmed last by an older one, or are not affirmed any more; of them RolledBack had been affirmed by a newer one
	// before. None has been affirmed by any.
	Moved, Behind, RolledBack, None int64
	Versions                        []VersionCount // that affirmed a machine last, newest activation first
	Grace                           []GraceState   // the versions in grace, likewise
	activeUntil                     *time.Time     // end of the active version; nil for none
}

// VersionCount is how many machines a version affirmed last.
type VersionCount struct {
	Version    int
	State      string
	Machines   int64
	activation int
}

// GraceState is when the grace of a version ends.
type GraceState struct {
	Version int
	Grace
	Moved int64 // machines that were affirmed last by a version that was activated later, and still are
}

// over tells whether grace has ended at that time, given how many of the attesting machines have moved. Of no machine at
// all no share has.
func (g *GraceState) over(attesting int64, now time.Time) bool {
	if g.Until != nil && !now.Before(*g.Until) {
		return true
	}
	return g.MovedPercent != nil && attesting > 0 && g.Moved*100 >= int64(*g.MovedPercent)*attesting
}

// covered chooses the machines with an attestation key that a selector chooses, with what they have matched of the
// baseline. Columns and what follows may ask m, st, x (baseline_matches, which may be absent) and $3: a machine whose last
// genuine evidence is later attests. Columns is the SELECT before FROM, or empty for a list.
func covered(columns string, tenant, baselineID uuid.UUID, s verifier.Selector, now time.Time) *query {
	q := newQuery(columns+` FROM machines m
		JOIN machine_attestation_state st ON st.tenant_id = m.tenant_id AND st.machine_id = m.machine_id
		LEFT JOIN baseline_matches x ON x.tenant_id = m.tenant_id AND x.machine_id = m.machine_id AND x.baseline_id = $2
		WHERE m.tenant_id = $1 AND m.state = 'active'`, tenant, pgUUID(baselineID), now.Add(-AttestingWithin))
	if len(s.ScaleSet) > 0 {
		q.and("m.scale_set = ANY(?)", s.ScaleSet)
	}
	if len(s.Platform) > 0 {
		q.and("m.platform = ANY(?)", s.Platform)
	}
	if len(s.Labels) > 0 {
		q.and("m.labels @> ?", s.Labels)
	}
	if len(s.MachineIDs) > 0 {
		q.and("m.machine_id = ANY(?::uuid[])", s.MachineIDs)
	}
	return q
}

// stillAffirmed tells of a machine that covered chooses whether its standing verdict is genuine and affirms or warns; no
// other status is of such evidence alone.
const stillAffirmed = `(m.status IN ('affirming', 'warning'))`

const rolloutVersions = `SELECT b.name, b.selector, v.version, v.state, v.active_until, v.grace_moved_percent, coalesce(v.activation, 0)
	FROM baselines b JOIN baseline_versions v ON v.tenant_id = b.tenant_id AND v.baseline_id = b.baseline_id
	WHERE b.tenant_id = $1 AND b.baseline_id = $2 ORDER BY coalesce(v.activation, 0) DESC, v.version DESC`

// GetRollout counts the machines of a baseline by the version that affirmed them last. ErrNotFound.
func (s *Store) GetRollout(ctx context.Context, tenant, baselineID uuid.UUID, now time.Time) (Rollout, error) {
	ctx = withTenant(ctx, tenant)
	var r Rollout
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var err error
		r, _, err = readRollout(ctx, tx, tenant, baselineID, now)
		return err
	})
	if err != nil {
		return Rollout{}, fmt.Errorf("count the rollout of baseline %s: %w", baselineID, err)
	}
	return r, nil
}

func readRollout(ctx context.Context, tx pgx.Tx, tenant, baselineID uuid.UUID, now time.Time) (Rollout, verifier.Selector, error) {
	r := Rollout{BaselineID: baselineID}
	var selector verifier.Selector
	byActivation := map[int]*VersionCount{}
	graces := []int{} // activations
	active := 0
	rows, _ := tx.Query(ctx, rolloutVersions, pgUUID(tenant), pgUUID(baselineID))
	versions, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*VersionCount, error) {
		v := &VersionCount{}
		var g GraceState
		if err := row.Scan(&r.Name, &selector, &v.Version, &v.State, &g.Until, &g.MovedPercent, &v.activation); err != nil {
			return nil, err
		}
		switch v.State {
		case "active":
			n := v.Version
			r.Active, r.activeUntil, active = &n, g.Until, v.activation
		case "grace":
			g.Version = v.Version
			r.Grace, graces = append(r.Grace, g), append(graces, v.activation)
		}
		return v, nil
	})
	if err != nil {
		return r, selector, err
	}
	if len(versions) == 0 {
		return r, selector, fmt.Errorf("baseline %s: %w", baselineID, ErrNotFound)
	}
	for _, v := range versions {
		if v.activation > 0 {
			byActivation[v.activation] = v
		}
	}
	q := covered(`SELECT x.activation, coalesce(x.highest_activation > x.activation, false) AS back,
		coalesce(st.last_seen_at > $3, false) AS attesting, `+stillAffirmed+` AS affirmed, count(*)`, tenant, baselineID, selector, now)
	q.sql.WriteString(" GROUP BY 1, 2, 3, 4")
	rows, _ = tx.Query(ctx, q.sql.String(), q.args...)
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		var activation pgtype.Int4
		var back, attesting, affirmed bool
		var n int64
		if err := row.Scan(&activation, &back, &attesting, &affirmed, &n); err != nil {
			return struct{}{}, err
		}
		r.Covered += n
		if !attesting {
			return struct{}{}, nil
		}
		r.Attesting += n
		at := int(activation.Int32)
		if v := byActivation[at]; v != nil {
			v.Machines += n
		}
		for i, g := range graces {
			if activation.Valid && affirmed && at > g {
				r.Grace[i].Moved += n
			}
		}
		switch {
		case !activation.Valid:
			r.None += n
		case r.Active != nil && affirmed && at >= active:
			r.Moved += n
		default:
			r.Behind += n
		}
		if back {
			r.RolledBack += n
		}
		return struct{}{}, nil
	})
	for _, v := range versions {
		if v.Machines > 0 || v.State == "active" || v.State == "grace" {
			r.Versions = append(r.Versions, *v)
		}
	}
	return r, selector, err
}

// RolloutMachine is a machine that has not moved to the active version.
type RolloutMachine struct {
	ID         uuid.UUID
	Name       string
	ScaleSet   string
	Status     string // of its last verdict
	Version    *int   // that affirmed it last; nil if none did
	RolledBack bool   // a newer one had affirmed it before
	LastSeenAt *time.Time
}

var unmovedList = listing[RolloutMachine]{
	name: "rollout", initial: "-id",
	columns: `m.machine_id, m.name, m.scale_set, m.status, x.version, coalesce(x.highest_activation > x.activation, false), st.last_seen_at`,
	scan: func(row pgx.Row) (RolloutMachine, error) {
		var m RolloutMachine
		err := row.Scan(&m.ID, &m.Name, &m.ScaleSet, &m.Status, &m.Version, &m.RolledBack, &m.LastSeenAt)
		return m, err
	},
	sorts: map[string][]sortKey{"id": ids("m.machine_id")},
}

// ListUnmoved lists the covered, attesting machines that the active version has not affirmed last, or that are not affirmed
// any more, by machine id, newest first. ErrNotFound.
func (s *Store) ListUnmoved(ctx context.Context, tenant, baselineID uuid.UUID, page Page, now time.Time) (items []RolloutMachine, next string, err error) {
	ctx = withTenant(ctx, tenant)
	if err := unmovedList.check(page); err != nil {
		return nil, "", err
	}
	var selector verifier.Selector
	var active int
	err = s.pool.QueryRow(ctx, `SELECT b.selector, coalesce((SELECT v.activation FROM baseline_versions v
			WHERE v.tenant_id = b.tenant_id AND v.baseline_id = b.baseline_id AND v.state = 'active'), 2147483647)
		FROM baselines b WHERE b.tenant_id = $1 AND b.baseline_id = $2`, pgUUID(tenant), pgUUID(baselineID)).Scan(&selector, &active)
	if err != nil {
		return nil, "", notFound(err, "baseline", baselineID)
	}
	q := covered("", tenant, baselineID, selector, now)
	q.plain("st.last_seen_at > $3")
	q.and("(coalesce(x.activation, 0) < ? OR NOT "+stillAffirmed+")", active)
	return unmovedList.page(ctx, s.pool, q, page)
}

// Percent is the share of n in the attesting machines, rounded down to a tenth; 0 where there is none.
func (r *Rollout) Percent(n int64) float64 {
	if r.Attesting == 0 {
		return 0
	}
	return float64(n*1000/r.Attesting) / 10
}
