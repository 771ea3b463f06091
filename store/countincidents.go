package store

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// IncidentsCounted is what a round of CountIncidents did.
type IncidentsCounted struct{ Opened, Grown, Closed, Counted int }

// touchesAtOnce bounds one transaction of CountIncidents.
const touchesAtOnce = 2000

// CountIncidents brings the incidents up to what their alerts are: it takes out the touches that commits have left, makes
// the incidents that are missing, counts their members, and puts into the outbox which were opened, have grown to ten,
// a hundred, a thousand and so on, and are over. Commits never wait for it, nor it for them; several may run at once.
// What fails is done again by the next call.
func (s *Store) CountIncidents(ctx context.Context, tenant uuid.UUID, now time.Time) (IncidentsCounted, error) {
	ctx = withTenant(ctx, tenant)
	var total IncidentsCounted
	if err := s.expireRules(ctx, tenant, now); err != nil {
		return total, err
	}
	for {
		var taken int
		err := s.inTx(ctx, func(tx pgx.Tx) error {
			c := incidentCount{tenant: tenant, now: now}
			var err error
			if taken, err = c.run(ctx, tx); err != nil {
				return err
			}
			total.Opened, total.Grown, total.Closed, total.Counted = total.Opened+c.done.Opened, total.Grown+c.done.Grown, total.Closed+c.done.Closed, total.Counted+c.done.Counted
			return nil
		})
		if err != nil {
			return total, fmt.Errorf("count incidents: %w", err)
		}
		if taken < touchesAtOnce {
			return total, nil
		}
	}
}

// incidentCount is one transaction of CountIncidents.
type incidentCount struct {
	tenant uuid.UUID
	now    time.Time
	batch  pgx.Batch
	told   int // events that were told: their ids go by their order
	done   IncidentsCounted
}

// touchHidden leaves a touch for each incident with open alerts that one of the rules hides, or hid until it expired.
func touchHidden(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, rules []pgtype.UUID, now time.Time) error {
	rows, _ := tx.Query(ctx, `SELECT DISTINCT ON (group_key) group_key, code, display_name, severity, reason FROM alerts
		WHERE tenant_id = $1 AND suppressed_by = ANY ($2) AND status IN ('active', 'in_progress') ORDER BY group_key, alert_id`, pgUUID(tenant), rules)
	touches, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (touch, error) {
		var t touch
		err := row.Scan(&t.key, &t.code, &t.displayName, &t.severity, &t.reason)
		return t, err
	})
	if err != nil {
		return fmt.Errorf("find what rules hid: %w", err)
	}
	var b pgx.Batch
	for _, t := range touches {
		b.Queue(`INSERT INTO incident_touches (tenant_id, touch_id, group_key, code, display_name, severity, reason, title) VALUES ($1, $2, $3, $4, $5, $6, $7, '')`,
			pgUUID(tenant), pgUUID(newID(now)), t.key, t.code, t.displayName, t.severity, t.reason)
	}
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("touch incidents: %w", err)
	}
	return nil
}

// touch is a cause whose members changed.
type touch struct {
	key                                        []byte
	code, displayName, severity, reason, title string
}

const takeTouches = `DELETE FROM incident_touches t USING (SELECT touch_id FROM incident_touches WHERE tenant_id = $1 ORDER BY touch_id LIMIT $2 FOR UPDATE SKIP LOCKED) x
	WHERE t.tenant_id = $1 AND t.touch_id = x.touch_id RETURNING t.group_key, t.code, t.display_name, t.severity, t.reason, t.title`

func (c *incidentCount) run(ctx context.Context, tx pgx.Tx) (taken int, err error) {
	rows, _ := tx.Query(ctx, takeTouches, pgUUID(c.tenant), touchesAtOnce)
	touches, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (touch, error) {
		var t touch
		err := row.Scan(&t.key, &t.code, &t.displayName, &t.severity, &t.reason, &t.title)
		return t, err
	})
	if err != nil || len(touches) == 0 {
		return 0, err
	}
	byKey := map[string]touch{}
	for _, t := range touches {
		if was, twice := byKey[string(t.key)]; !twice || was.title == "" {
			byKey[string(t.key)] = t
		}
	}
	distinct := slices.SortedFunc(maps.Values(byKey), func(a, b touch) int { return bytes.Compare(a.key, b.key) })
	if err := c.make(ctx, tx, distinct); err != nil {
		return 0, err
	}
	keys := make([][]byte, len(distinct))
	for i := range distinct {
		keys[i] = distinct[i].key
	}
	counts, err := c.count(ctx, tx, keys)
	if err != nil {
		return 0, err
	}
	for i := range counts {
		c.settle(&counts[i])
	}
	if err := tx.SendBatch(ctx, &c.batch).Close(); err != nil {
		return 0, err
	}
	return len(touches), nil
}

// make inserts the incidents that are missing, closed and without members; counting opens them.
func (c *incidentCount) make(ctx context.Context, tx pgx.Tx, touches []touch) error {
	for _, t := range touches {
		c.batch.Queue(`INSERT INTO incidents (tenant_id, incident_id, group_key, code, display_name, severity, reason, title, status, first_seen_at, last_joined_at,
				opened_at, closed_at, open_members, suppressed_members, episode_members, all_members, told_members, scale_sets, of_scope, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'resolved', $9, $9, $9, to_timestamp(0), 0, 0, 0, 0, 0, '{}', false, $9)
			ON CONFLICT ON CONSTRAINT incidents_group DO NOTHING`,
			pgUUID(c.tenant), pgUUID(newID(c.now)), t.key, t.code, t.displayName, t.severity, t.reason, cmp.Or(t.title, t.displayName), c.now)
	}
	err := tx.SendBatch(ctx, &c.batch).Close()
	c.batch = pgx.Batch{}
	return err
}

// memberCount is what the members of an incident are now, beside what the incident's row says. What began is the members
// that joined after the row was closed, and those that are open.
type memberCount struct {
	Incident
	told                 int64
	open, active, hidden int64
	all                  int64
	ofScope              bool
	first, lastJoined    *time.Time
	lastLeft             *time.Time
	began                *time.Time // when the first of what began joined
	beganCount           int64
	beganUndismissed     int64
	sameCount            int64 // members since the row's opened_at
	sameUndismissed      int64
	sets                 map[string]int64
}

// openMembers counts the open members of incident i, by an index that holds no others; n.first_open is when the first joined.
const openMembers = `SELECT count(*) AS open, count(*) FILTER (WHERE a.status = 'active') AS active, count(*) FILTER (WHERE ` + isSuppressed + `) AS hidden,
		min(im.joined_at) AS first_open
	FROM incident_members im JOIN alerts a ON a.tenant_id = im.tenant_id AND a.alert_id = im.alert_id
	LEFT JOIN suppression_rules sr ON sr.tenant_id = a.tenant_id AND sr.rule_id = a.suppressed_by
	WHERE im.tenant_id = i.tenant_id AND im.group_key = i.group_key AND im.left_at IS NULL`

const openScaleSets = `(SELECT coalesce(jsonb_object_agg(x.scale_set, x.n), '{}') FROM (SELECT coalesce(m.scale_set, '') AS scale_set, count(*) AS n
		FROM incident_members o JOIN alerts b ON b.tenant_id = o.tenant_id AND b.alert_id = o.alert_id
		LEFT JOIN machines m ON m.tenant_id = b.tenant_id AND m.machine_id = b.machine_id
		WHERE o.tenant_id = i.tenant_id AND o.group_key = i.group_key AND o.left_at IS NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20) x)`

// Both statements take the time as $2 and the keys as $3, and take the changes of these incidents out in the snapshot in which
// they count. The rows are locked before, so that of two counts at once the later one sees all that the earlier did.
const takeMemberChanges = `WITH taken AS (DELETE FROM incident_changes WHERE tenant_id = $1 AND group_key = ANY ($3)
	RETURNING group_key, is_new, was_joined_at, was_left_at, was_left_as, joined_at, left_at, left_as)
	SELECT ` + incidentColumns + `, told_members, n.open, n.active, n.hidden, `

// countChanges adds up what changed since the last count: members that have left cost nothing, however many they are. A change
// takes what the member was out of each sum, and adds what it is; where it was or is no part of a sum, its condition is not met.
const countChanges = takeMemberChanges + `i.ever_members + c.fresh, i.of_scope, i.first_seen_at, GREATEST(i.last_joined_at, c.last_joined), GREATEST(i.last_left_at, c.last_left),
		LEAST(n.first_open, c.began), n.open + c.began_left, c.began_undismissed, n.open + i.left_members + c.same_left, i.left_undismissed + c.same_undismissed, ` + openScaleSets + `
	FROM incidents i CROSS JOIN LATERAL (` + openMembers + `) n CROSS JOIN LATERAL (
		SELECT count(*) FILTER (WHERE is_new) AS fresh, max(joined_at) AS last_joined, max(left_at) AS last_left, min(joined_at) FILTER (WHERE joined_at > i.closed_at) AS began,
			count(*) FILTER (WHERE left_at IS NOT NULL AND joined_at > i.closed_at) - count(*) FILTER (WHERE was_left_at IS NOT NULL AND was_joined_at > i.closed_at) AS began_left,
			count(*) FILTER (WHERE left_at IS NOT NULL AND joined_at > i.closed_at AND left_as <> 'dismissed')
				- count(*) FILTER (WHERE was_left_at IS NOT NULL AND was_joined_at > i.closed_at AND was_left_as <> 'dismissed') AS began_undismissed,
			count(*) FILTER (WHERE left_at >= i.opened_at) - count(*) FILTER (WHERE was_left_at >= i.opened_at) AS same_left,
			count(*) FILTER (WHERE left_at >= i.opened_at AND left_as <> 'dismissed') - count(*) FILTER (WHERE was_left_at >= i.opened_at AND was_left_as <> 'dismissed') AS same_undismissed
		FROM taken WHERE taken.group_key = i.group_key) c
	WHERE i.tenant_id = $1 AND i.group_key = ANY ($3)`

// countMembers reads all members: of an incident that was never counted, or was counted by a replica that knows no changes.
const countMembers = takeMemberChanges + `GREATEST(i.ever_members, e.n), e.scoped, e.first_joined, e.last_joined, e.last_left,
		e.began, e.began_n, e.began_undismissed, e.same_n, e.same_undismissed, ` + openScaleSets + `
	FROM incidents i CROSS JOIN LATERAL (` + openMembers + `) n CROSS JOIN LATERAL (
		SELECT count(*) AS n, bool_and(a.machine_id IS NULL) IS TRUE AS scoped, min(im.joined_at) AS first_joined, max(im.joined_at) AS last_joined, max(im.left_at) AS last_left,
			min(im.joined_at) FILTER (WHERE im.left_at IS NULL OR im.joined_at > i.closed_at) AS began, count(*) FILTER (WHERE im.left_at IS NULL OR im.joined_at > i.closed_at) AS began_n,
			count(*) FILTER (WHERE im.joined_at > i.closed_at AND im.left_at IS NOT NULL AND im.left_as <> 'dismissed') AS began_undismissed,
			count(*) FILTER (WHERE im.left_at IS NULL OR im.left_at >= i.opened_at) AS same_n, count(*) FILTER (WHERE im.left_at >= i.opened_at AND im.left_as <> 'dismissed') AS same_undismissed
		FROM incident_members im JOIN alerts a ON a.tenant_id = im.tenant_id AND a.alert_id = im.alert_id
		WHERE im.tenant_id = i.tenant_id AND im.group_key = i.group_key) e
	WHERE i.tenant_id = $1 AND i.group_key = ANY ($3)`

func (c *incidentCount) count(ctx context.Context, tx pgx.Tx, keys [][]byte) ([]memberCount, error) {
	rows, _ := tx.Query(ctx, `SELECT group_key, (opened_at = counted_opened_at) IS TRUE FROM incidents WHERE tenant_id = $1 AND group_key = ANY ($2) ORDER BY group_key FOR UPDATE`, pgUUID(c.tenant), keys)
	var known, others [][]byte
	var key []byte
	var counted bool
	if _, err := pgx.ForEachRow(rows, []any{&key, &counted}, func() error {
		if counted {
			known = append(known, bytes.Clone(key))
		} else {
			others = append(others, bytes.Clone(key))
		}
		return nil
	}); err != nil {
		return nil, err
	}
	counts, err := c.countBy(ctx, tx, countChanges, known)
	if err != nil {
		return nil, err
	}
	more, err := c.countBy(ctx, tx, countMembers, others)
	return append(counts, more...), err
}

func (c *incidentCount) countBy(ctx context.Context, tx pgx.Tx, statement string, keys [][]byte) ([]memberCount, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	rows, _ := tx.Query(ctx, statement, pgUUID(c.tenant), c.now, keys)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (memberCount, error) {
		var m memberCount
		i := &m.Incident
		err := row.Scan(&i.ID, &i.Code, &i.DisplayName, &i.Severity, &i.Reason, &i.Title, &i.Status, &i.FirstSeenAt, &i.LastJoinedAt, &i.OpenedAt, &i.ReopenedCount,
			&i.ClosedAt, &i.Open, &i.Suppressed, &i.Episode, &i.All, &i.ScaleSets, &i.OfScope, &i.UpdatedAt, &m.told,
			&m.open, &m.active, &m.hidden, &m.all, &m.ofScope, &m.first, &m.lastJoined, &m.lastLeft, &m.began, &m.beganCount, &m.beganUndismissed, &m.sameCount, &m.sameUndismissed, &m.sets)
		return m, err
	})
}

// settle writes what the members make of the incident, and tells receivers of it.
func (c *incidentCount) settle(m *memberCount) {
	i := &m.Incident
	if m.all == 0 || m.first == nil { // its alerts were deleted
		return
	}
	c.done.Counted++
	fresh, wasClosed := i.All == 0, i.ClosedAt != nil
	wasHidden := i.Open > 0 && i.Open == i.Suppressed
	opens := wasClosed && m.began != nil
	i.Open, i.Suppressed, i.All, i.ScaleSets, i.OfScope, i.UpdatedAt = m.open, m.hidden, m.all, m.sets, m.ofScope, c.now
	i.LastJoinedAt, i.Episode = *m.lastJoined, m.sameCount
	if fresh {
		i.FirstSeenAt = *m.first
	}
	undismissed := m.sameUndismissed
	if opens {
		i.OpenedAt, i.Episode, undismissed = *m.began, m.beganCount, m.beganUndismissed
		if !fresh {
			i.ReopenedCount++
		}
		m.told = 0
	}
	closes := m.open == 0 && (!wasClosed || opens)
	switch {
	case m.active > 0:
		i.Status = "active"
	case m.open > 0:
		i.Status = "in_progress"
	case closes && undismissed == 0:
		i.Status = "dismissed"
	case closes:
		i.Status = "resolved"
	}
	switch {
	case m.open > 0:
		i.ClosedAt = nil
	case closes:
		i.ClosedAt = cmp.Or(m.lastLeft, &c.now) // nobody left whose alert was deleted
	}
	grown := powerOfTen(i.Episode)
	hidden := i.Open > 0 && i.Open == i.Suppressed
	if opens {
		c.done.Opened++
		c.tell("incident.opened", i, hidden)
	}
	if !opens && wasHidden && m.open > 0 && !hidden {
		c.tell("incident.unsuppressed", i, false)
	}
	if !opens && grown > m.told && m.open > 0 {
		c.done.Grown++
		c.tell("incident.grown", i, hidden)
	}
	if closes {
		c.done.Closed++
		c.tell("incident.resolved", i, wasHidden && !opens)
	}
	c.batch.Queue(`UPDATE incidents SET status = $3, first_seen_at = $4, last_joined_at = $5, opened_at = $6, reopened_count = $7, closed_at = $8, open_members = $9,
			suppressed_members = $10, episode_members = $11, all_members = $12, told_members = $13, scale_sets = $14, of_scope = $15, updated_at = $16,
			counted_opened_at = $6, ever_members = $12, left_members = $17, left_undismissed = $18, last_left_at = $19
		WHERE tenant_id = $1 AND incident_id = $2`,
		pgUUID(c.tenant), pgUUID(i.ID), i.Status, i.FirstSeenAt, i.LastJoinedAt, i.OpenedAt, i.ReopenedCount, i.ClosedAt, i.Open, i.Suppressed, i.Episode, i.All,
		max(m.told, grown), i.ScaleSets, i.OfScope, i.UpdatedAt, i.Episode-i.Open, undismissed, m.lastLeft)
}

// tell puts into the outbox what the incident is now; hidden: all that was open of it was suppressed.
func (c *incidentCount) tell(kind string, i *Incident, hidden bool) {
	payload := map[string]any{"incident_id": i.ID, "code": i.Code, "reason": i.Reason, "severity": i.Severity, "title": i.Title, "summary": i.Summary(), "status": i.Status,
		"open_alerts": i.Open, "suppressed_alerts": i.Suppressed, "alerts": i.Episode, "suppressed": hidden,
		"scale_sets": i.ScaleSets, "opened_at": i.OpenedAt.UTC().Format(time.RFC3339Nano), "reopened_count": i.ReopenedCount}
	c.batch.Queue(`INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		pgUUID(c.tenant), pgUUID(newID(c.now.Add(time.Duration(c.told)*time.Microsecond))), kind, pgUUID(i.ID), payload, c.now)
	c.told++
}

// powerOfTen is the largest power of ten that is not above n; 0 for none.
func powerOfTen(n int64) int64 {
	p := int64(1)
	for p <= n/10 {
		p *= 10
	}
	return min(p, n)
}

// Summary says in a sentence what happened, where and since when: "grubx64.efi changed on 312 machines of scale set web
// since 2026-11-23 14:02 UTC".
func (i *Incident) Summary() string {
	if i.OfScope {
		return fmt.Sprintf("%s since %s", i.Title, sinceText(i.OpenedAt))
	}
	n, of := i.Open, ""
	if n == 0 {
		n = i.Episode
	}
	machines := fmt.Sprintf("%d machines", n)
	if n == 1 {
		machines = "1 machine"
	}
	if len(i.ScaleSets) == 1 {
		for name := range i.ScaleSets {
			if name != "" {
				of = " of scale set " + name
			}
		}
	} else if len(i.ScaleSets) > 1 {
		of = fmt.Sprintf(" of %d scale sets", len(i.ScaleSets))
	}
	return fmt.Sprintf("%s on %s%s since %s", i.Title, machines, of, sinceText(i.OpenedAt))
}

func sinceText(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
