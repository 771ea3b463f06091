package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Bounds of a simulation: the alerts that are looked at, newest first, and those that are listed.
const (
	maxSimulated = 100_000
	maxListed    = 100
)

// Simulation is what a suppression rule would have hidden of the alerts that were seen since a time.
type Simulation struct {
	Since      time.Time
	Alerts     int64 // that were looked at
	Complete   bool  // all were; false where there were more than 100,000, of which the newest count
	WouldHide  int64
	Machines   int64 // of those, distinct ones
	Open       int64 // of those, open now
	ByItself   int64 // of those, resolved because the cause was found gone
	ByHand     int64 // of those, resolved by somebody: hiding them would have hidden what was worth work
	Dismissed  int64 // of those, dismissed by somebody: the rule would have saved that
	AlreadyHid int64 // of those, hidden by a rule that is in force
	Items      []Alert
}

// SimulateSuppression tells what a rule would have hidden of the alerts that were seen since a time, by what their machines are
// called and labelled now. Nothing is changed. The rule counts as enabled and without an end.
func (s *Store) SimulateSuppression(ctx context.Context, tenant uuid.UUID, r SuppressionRule, since, now time.Time) (Simulation, error) {
	ctx = withTenant(ctx, tenant)
	r.State, r.ExpiresAt = "enabled", nil
	out := Simulation{Since: since, Complete: true}
	rows, err := s.pool.Query(ctx, `SELECT `+alertColumns+`, coalesce(m.labels, '{}')`+alertTables+`AND a.last_seen_at >= $3 AND ($4 = '*' OR a.code = $4)
		ORDER BY a.alert_id DESC LIMIT $5`, pgUUID(tenant), now, since, r.AlertCode, maxSimulated+1)
	if err != nil {
		return Simulation{}, fmt.Errorf("simulate a suppression rule: %w", err)
	}
	defer rows.Close()
	machines := map[uuid.UUID]struct{}{}
	for rows.Next() {
		if out.Alerts == maxSimulated {
			out.Complete = false
			break
		}
		var m Machine
		a, err := scanAlert(rows, &m.Labels)
		if err != nil {
			return Simulation{}, fmt.Errorf("simulate a suppression rule: %w", err)
		}
		out.Alerts++
		m.Name, m.ScaleSet = a.MachineName, a.ScaleSet
		if r.hides(a.Code, a.Reason, &m, now) {
			out.add(a)
			machines[a.MachineID] = struct{}{}
		}
	}
	delete(machines, uuid.Nil)
	out.Machines = int64(len(machines))
	rows.Close()
	if err := rows.Err(); err != nil {
		return Simulation{}, fmt.Errorf("simulate a suppression rule: %w", err)
	}
	return out, nil
}

func (s *Simulation) add(a Alert) {
	s.WouldHide++
	switch {
	case a.ClosedAt == nil:
		s.Open++
	case a.Status == "dismissed":
		s.Dismissed++
	case a.ClosedBy == automatic || a.ClosedBy == "": // of who closed alerts before that was kept nothing is known
		s.ByItself++
	default:
		s.ByHand++
	}
	if a.SuppressedBy != nil {
		s.AlreadyHid++
	}
	if len(s.Items) < maxListed {
		s.Items = append(s.Items, a)
	}
}
