package store

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/verifier"
)

// changeReleased is the last change of a version with which a baseline was ended on purpose: its machines are judged
// without it. The next activation of a version takes it back (nextActivation).
const changeReleased = "released"

// Released tells whether the baseline was ended on purpose with this version.
func (v *BaselineVersion) Released() bool { return v.LastChange == changeReleased }

// withdrawnBaselines are the baselines of the fleet that judge nothing any more and were not released, each with the
// version that was valid last.
const withdrawnBaselines = `SELECT DISTINCT ON (b.baseline_id) ` + versionColumns + ` ` + versionTables + `
	WHERE b.tenant_id = $1 AND NOT b.machine_bound AND v.activation IS NOT NULL
		AND NOT EXISTS (SELECT FROM baseline_versions y WHERE y.tenant_id = b.tenant_id AND y.baseline_id = b.baseline_id
			AND (y.state IN ('active', 'grace') OR y.last_change = '` + changeReleased + `'))
	ORDER BY b.baseline_id, v.changed_at DESC NULLS LAST, v.activation DESC`

// validAt tells whether machines are judged by the version at a time. One in grace without an end by time has one by the
// share of machines that have moved (EndGrace).
func (v *BaselineVersion) validAt(now time.Time) bool {
	return (v.State == "active" || v.State == "grace") && (v.ActiveUntil == nil || now.Before(*v.ActiveUntil))
}

// boundEnded are the last versions of the baselines that name the machine and have no valid version any more.
func (r *inputsRow) boundEnded() ([]BaselineVersion, error) {
	if r.ended == nil {
		return nil, nil
	}
	var list []*BaselineVersion // null for a baseline that has only drafts, or was released
	if err := json.Unmarshal(r.ended, &list); err != nil {
		return nil, fmt.Errorf("withdrawn baselines: %w", err)
	}
	var out []BaselineVersion
	for _, v := range list {
		if v != nil {
			out = append(out, *v)
		}
	}
	return out, nil
}

// withdrawnOf are the baselines of versions that have ended which have no valid version, by id.
func withdrawnOf(ended []*BaselineVersion, valid []BaselineVersion) []verifier.Withdrawn {
	if len(ended) == 0 {
		return nil
	}
	slices.SortStableFunc(ended, func(a, b *BaselineVersion) int {
		return cmp.Or(cmp.Compare(a.BaselineID.String(), b.BaselineID.String()), cmp.Compare(value(b.Activation), value(a.Activation)))
	})
	var out []verifier.Withdrawn
	last := uuid.Nil
	for _, v := range ended {
		if v.BaselineID == last || slices.ContainsFunc(valid, func(o BaselineVersion) bool { return o.BaselineID == v.BaselineID }) {
			continue
		}
		last = v.BaselineID
		w := verifier.Withdrawn{Baseline: verifier.VersionRef{ID: v.BaselineID.String(), Version: v.Version}, Name: v.Name}
		if v.ActiveUntil != nil {
			w.Ended = *v.ActiveUntil
		}
		out = append(out, w)
	}
	return out
}

func value(n *int) int {
	if n == nil {
		return 0
	}
	return *n
}
