package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/finding"
)

// automatic is who opens and closes alerts by what was found.
const automatic = "system:alerts"

// How alerts are raised and ended. All writers but people's hands hold the machine's lock (machines, or
// machine_attestation_state where a run is extended), so that of one machine and code two never open at once; the unique
// indexes alerts_open and alerts_open_scope are the second fence.
//
//	newest alert of machine and code   what an occurrence does
//	none                               opens one
//	active, in_progress                counts it up; the last occurrence's words, verdict and cause replace the earlier
//	resolved within seven days         opens it again, whoever resolved it: same alert, one more reopening
//	resolved longer ago                opens a new one
//	dismissed, the same cause          counts it up, still dismissed, by whatever verdict, until the cause was found gone
//	dismissed, another cause           opens a new one: what was dismissed is not what happens now
//
// The cause is the alert's group key.
//
// And when the cause is found gone: active and in_progress become resolved; a dismissed one stays dismissed and notes it.

// raiseStatement takes one row an occurrence, each machine (or scope) and code once. {of} is the condition that finds
// the alerts of a row. It answers which alerts became active.
const raiseStatement = `WITH u AS (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
			$9::text[], $10::uuid[], $11::timestamptz[], $12::uuid[], $13::uuid[], $14::uuid[], $15::text[], $16::bytea[], $17::text[])
		WITH ORDINALITY u (tenant_id, machine_id, scope, code, display_name, severity, reason, description, steps, verdict_id, at, hidden_by,
			new_id, event_id, details, group_key, title, ord)),
	cur AS MATERIALIZED (SELECT u.ord, x.* FROM u CROSS JOIN LATERAL (SELECT a.alert_id, a.status, a.verdict_id AS was_verdict, a.seen_count, a.last_seen_at,
			a.closed_at, a.over_at, a.group_key AS was_key
		FROM alerts a WHERE a.tenant_id = u.tenant_id AND {of}
		ORDER BY a.status IN ('active', 'in_progress') DESC, a.alert_id DESC LIMIT 1 FOR NO KEY UPDATE) x),
	p AS MATERIALIZED (SELECT u.*, cur.status AS was, cur.was_verdict, cur.seen_count, cur.last_seen_at, cur.was_key, w.what,
			CASE WHEN w.what = 'open' THEN u.new_id ELSE cur.alert_id END AS alert_id
		FROM u LEFT JOIN cur USING (ord) CROSS JOIN LATERAL (SELECT CASE
			WHEN cur.status IN ('active', 'in_progress') THEN 'count'
			WHEN cur.status = 'dismissed' AND cur.over_at IS NULL AND cur.was_key = u.group_key THEN 'quiet'
			WHEN cur.status = 'resolved' AND cur.closed_at > u.at - interval '7 days' THEN 'reopen'
			ELSE 'open' END AS what) w),
	opened AS (INSERT INTO alerts (tenant_id, alert_id, machine_id, scope, code, display_name, severity, reason, description, remediation_steps, status,
			verdict_id, first_seen_at, last_seen_at, seen_count, suppressed_by, updated_at, opened_at, details, group_key)
		SELECT tenant_id, alert_id, machine_id, scope, code, display_name, severity, reason, description, ARRAY(SELECT json_array_elements_text(steps::json)), 'active',
			verdict_id, at, at, 1, hidden_by, at, at, details::jsonb, group_key
		FROM p WHERE what = 'open'),
	counted AS (UPDATE alerts a SET display_name = p.display_name, severity = p.severity, reason = p.reason, description = p.description,
			remediation_steps = ARRAY(SELECT json_array_elements_text(p.steps::json)), verdict_id = p.verdict_id, suppressed_by = p.hidden_by,
			details = p.details::jsonb, group_key = p.group_key, last_seen_at = GREATEST(a.last_seen_at, p.at), seen_count = a.seen_count + 1,
			updated_at = CASE WHEN p.what = 'reopen' OR a.reason <> p.reason THEN p.at ELSE a.updated_at END,
			status = CASE p.what WHEN 'reopen' THEN 'active' ELSE a.status END,
			opened_at = CASE p.what WHEN 'reopen' THEN p.at ELSE a.opened_at END,
			reopened_count = a.reopened_count + CASE p.what WHEN 'reopen' THEN 1 ELSE 0 END,
			closed_at = NULL, closed_by = '', assignee = CASE p.what WHEN 'reopen' THEN '' ELSE a.assignee END
		FROM p WHERE a.tenant_id = p.tenant_id AND a.alert_id = p.alert_id AND p.what IN ('count', 'reopen')),
	quiet AS (UPDATE alerts a SET verdict_id = p.verdict_id, last_seen_at = GREATEST(a.last_seen_at, p.at), seen_count = a.seen_count + 1
		FROM p WHERE a.tenant_id = p.tenant_id AND a.alert_id = p.alert_id AND p.what = 'quiet'),
	occurred AS (INSERT INTO alert_occurrences (tenant_id, alert_id, seen_before, verdict_id, first_at, last_before_at)
		SELECT tenant_id, alert_id, CASE what WHEN 'open' THEN 0 ELSE seen_count END, verdict_id, at, CASE what WHEN 'open' THEN NULL ELSE last_seen_at END
		FROM p WHERE what IN ('open', 'reopen') OR was_verdict IS DISTINCT FROM verdict_id),
	told AS (INSERT INTO alert_events (tenant_id, alert_id, event_id, at, kind, actor, from_status, to_status)
		SELECT tenant_id, alert_id, event_id, at, what || 'ed', '` + automatic + `', CASE what WHEN 'open' THEN '' ELSE was END, 'active'
		FROM p WHERE what IN ('open', 'reopen')),
	sent AS (INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at)
		SELECT tenant_id, event_id, 'alert.' || what || 'ed', alert_id, jsonb_build_object('alert_id', alert_id, 'machine_id', machine_id, 'scope', scope,
			'code', code, 'severity', severity, 'reason', reason, 'verdict_id', verdict_id, 'suppressed_by', hidden_by), at
		FROM p WHERE what IN ('open', 'reopen')),
	moved AS (UPDATE incident_members m SET left_at = p.at, left_as = 'changed'
		FROM p WHERE m.tenant_id = p.tenant_id AND m.group_key = p.was_key AND m.alert_id = p.alert_id AND p.what = 'count' AND p.was_key <> p.group_key),
	joined AS (INSERT INTO incident_members AS m (tenant_id, group_key, alert_id, joined_at)
		SELECT tenant_id, group_key, alert_id, at FROM p WHERE what IN ('open', 'reopen') OR what = 'count' AND was_key <> group_key
		ON CONFLICT (tenant_id, group_key, alert_id) DO UPDATE SET joined_at = EXCLUDED.joined_at, left_at = NULL, left_as = ''),
	touched AS (INSERT INTO incident_touches (tenant_id, touch_id, group_key, code, display_name, severity, reason, title)
		SELECT DISTINCT ON (tenant_id, group_key) tenant_id, event_id, group_key, code, display_name, severity, reason, title
		FROM p WHERE what IN ('open', 'reopen') OR what = 'count' AND was_key <> group_key ORDER BY tenant_id, group_key, ord),
	untouched AS (INSERT INTO incident_touches (tenant_id, touch_id, group_key, code, display_name, severity, reason, title)
		SELECT DISTINCT ON (tenant_id, was_key) tenant_id, new_id, was_key, code, display_name, severity, reason, ''
		FROM p WHERE what = 'count' AND was_key <> group_key ORDER BY tenant_id, was_key, ord)
	SELECT ord, alert_id FROM p WHERE what IN ('open', 'reopen')`

// endStatement takes one row a machine (or scope) and code of which the cause is gone.
const endStatement = `WITH u AS ({rows}),
	was AS MATERIALIZED (SELECT u.at, u.event_id, a.tenant_id, a.machine_id, a.scope, a.alert_id, a.code, a.status, a.group_key, a.display_name, a.severity, a.reason
		FROM u JOIN alerts a ON a.tenant_id = u.tenant_id AND {of} AND (a.status IN ('active', 'in_progress') OR a.status = 'dismissed' AND a.over_at IS NULL)
		FOR NO KEY UPDATE OF a),
	ended AS (UPDATE alerts a SET status = 'resolved', updated_at = w.at, closed_at = w.at, closed_by = '` + automatic + `'
		FROM was w WHERE a.tenant_id = w.tenant_id AND a.alert_id = w.alert_id AND w.status <> 'dismissed'),
	noted AS (UPDATE alerts a SET over_at = w.at FROM was w WHERE a.tenant_id = w.tenant_id AND a.alert_id = w.alert_id AND w.status = 'dismissed'),
	told AS (INSERT INTO alert_events (tenant_id, alert_id, event_id, at, kind, actor, from_status, to_status)
		SELECT tenant_id, alert_id, event_id, at, 'status_changed', '` + automatic + `', status, 'resolved' FROM was WHERE status <> 'dismissed'),
	parted AS (UPDATE incident_members m SET left_at = w.at, left_as = 'resolved'
		FROM was w WHERE m.tenant_id = w.tenant_id AND m.group_key = w.group_key AND m.alert_id = w.alert_id AND w.status <> 'dismissed'),
	touched AS (INSERT INTO incident_touches (tenant_id, touch_id, group_key, code, display_name, severity, reason, title)
		SELECT DISTINCT ON (tenant_id, group_key) tenant_id, event_id, group_key, code, display_name, severity, reason, ''
		FROM was WHERE status <> 'dismissed' ORDER BY tenant_id, group_key, alert_id)
	INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at)
	SELECT tenant_id, event_id, 'alert.resolved', alert_id, jsonb_build_object('alert_id', alert_id, 'machine_id', machine_id, 'scope', scope, 'code', code), at
	FROM was WHERE status <> 'dismissed'`

// A machine has a handful of alerts, and in a storm very many machines have one of the same code: the empty text keeps the
// planner, who may not know of the storm yet, from finding them by the code.
const (
	ofMachine = `a.machine_id = u.machine_id AND a.code || '' = u.code`
	ofScope   = `a.machine_id IS NULL AND a.scope = u.scope AND a.code = u.code`
)

var (
	raiseMachineAlerts = strings.ReplaceAll(raiseStatement, "{of}", ofMachine)
	raiseScopeAlerts   = strings.ReplaceAll(raiseStatement, "{of}", ofScope)
	endMachineAlerts   = strings.NewReplacer("{of}", ofMachine,
		"{rows}", `SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::uuid[]) u (tenant_id, machine_id, code, at, event_id)`).Replace(endStatement)
	endScopeAlerts = strings.NewReplacer("{of}", ofScope,
		"{rows}", `SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::uuid[]) u (tenant_id, scope, code, at, event_id)`).Replace(endStatement)
)

// alertRow is one occurrence.
type alertRow struct {
	tenant   uuid.UUID
	machine  *uuid.UUID // nil for an alert of a scope
	scope    string
	alert    *finding.Alert
	verdict  *uuid.UUID
	at       time.Time
	hiddenBy *uuid.UUID
	details  []byte                  // JSON; nil for none
	opened   func(alertID uuid.UUID) // called where an alert became active; nil for nobody to tell
}

// alertTable is the parameters of raiseStatement, column by column. Of several rows for one machine (or scope) and code the
// last one counts.
type alertTable struct {
	rows []alertRow
	at   map[alertKey]int
}

type alertKey struct {
	tenant, machine uuid.UUID
	scope, code     string
}

func (t *alertTable) add(r alertRow) {
	k := alertKey{tenant: r.tenant, scope: r.scope, code: r.alert.Code}
	if r.machine != nil {
		k.machine = *r.machine
	}
	if t.at == nil {
		t.at = map[alertKey]int{}
	}
	if i, twice := t.at[k]; twice {
		t.rows[i] = r
		return
	}
	t.at[k] = len(t.rows)
	t.rows = append(t.rows, r)
}

// queue adds at most two statements: one for alerts of machines, one for those of scopes.
func (t *alertTable) queue(b *pgx.Batch) {
	queueRaised(b, raiseMachineAlerts, slices.DeleteFunc(slices.Clone(t.rows), func(r alertRow) bool { return r.machine == nil }))
	queueRaised(b, raiseScopeAlerts, slices.DeleteFunc(slices.Clone(t.rows), func(r alertRow) bool { return r.machine != nil }))
}

func queueRaised(b *pgx.Batch, statement string, rows []alertRow) {
	if len(rows) == 0 {
		return
	}
	// In the order in which people's changes of many alerts lock them (lockMembers).
	slices.SortStableFunc(rows, func(a, b alertRow) int {
		if c := bytes.Compare(a.tenant[:], b.tenant[:]); c != 0 || a.machine == nil {
			return c
		}
		return bytes.Compare(a.machine[:], b.machine[:])
	})
	n := len(rows)
	tenants, machines, verdicts, hidden := make([]pgtype.UUID, n), make([]pgtype.UUID, n), make([]pgtype.UUID, n), make([]pgtype.UUID, n)
	ids, events := make([]pgtype.UUID, n), make([]pgtype.UUID, n)
	scopes, codes, names, severities, reasons := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	descriptions, steps, titles, details := make([]string, n), make([]string, n), make([]string, n), make([]pgtype.Text, n)
	ats, keys := make([]time.Time, n), make([][]byte, n)
	for i := range rows {
		r := &rows[i]
		tenants[i], machines[i], verdicts[i], hidden[i] = pgUUID(r.tenant), pgUUIDPtr(r.machine), pgUUIDPtr(r.verdict), pgUUIDPtr(r.hiddenBy)
		ids[i], events[i] = pgUUID(newID(r.at)), pgUUID(newID(r.at))
		a := r.alert
		scopes[i], codes[i], names[i], severities[i], reasons[i] = r.scope, a.Code, a.DisplayName, string(a.Severity), string(a.Reason)
		list, _ := json.Marshal(notNil(a.RemediationSteps)) // strings always marshal
		descriptions[i], steps[i], titles[i] = a.Description, string(list), a.GroupTitle()
		details[i], ats[i] = pgtype.Text{String: string(r.details), Valid: r.details != nil}, r.at
		key := a.GroupKey()
		keys[i] = key[:]
	}
	b.Queue(statement, tenants, machines, scopes, codes, names, severities, reasons, descriptions, steps, verdicts, ats, hidden, ids, events, details, keys, titles).
		Query(func(found pgx.Rows) error {
			var ord int64
			var id uuid.UUID
			_, err := pgx.ForEachRow(found, []any{&ord, &id}, func() error {
				if tell := rows[ord-1].opened; tell != nil {
					tell(id)
				}
				return nil
			})
			return err
		})
}

// RaisedAlert is an occurrence that was found outside an appraisal: of one machine, or of many at once under a scope.
// Exactly one of MachineID and Scope is given.
type RaisedAlert struct {
	MachineID *uuid.UUID
	Scope     string // a stable word; machines are in Details
	Alert     finding.Alert
	// VerdictID is the verdict that it was found by; nil for none. Each call is one more occurrence of the alert's cause
	// until endAlerts says that it is over.
	VerdictID *uuid.UUID
	Details   any // marshalled as JSON; nil for none
}

// raiseAlerts opens, opens again or counts up alerts in the caller's transaction, hides those that a suppression rule fits,
// and puts what became active into the outbox: a few statements however many there are. It answers the alerts that became
// active. Machines that are not there any more are passed over.
//
// It locks the tenant's rules and then the machines, in the order of appraisals: call it before the transaction locks
// anything else of these.
func (s *Store) raiseAlerts(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, now time.Time, raised []RaisedAlert) (opened []uuid.UUID, err error) {
	if len(raised) == 0 {
		return nil, nil
	}
	rules, err := s.lockSuppressionRules(ctx, tx, tenant)
	if err != nil {
		return nil, err
	}
	machines, err := lockAlerted(ctx, tx, tenant, raised)
	if err != nil {
		return nil, err
	}
	var t alertTable
	for i := range raised {
		r := &raised[i]
		row := alertRow{tenant: tenant, machine: r.MachineID, scope: r.Scope, alert: &r.Alert, verdict: r.VerdictID, at: now,
			opened: func(id uuid.UUID) { opened = append(opened, id) }}
		var m Machine
		switch {
		case (r.MachineID == nil) == (r.Scope == ""):
			return nil, fmt.Errorf("raise %s: exactly one of machine and scope is needed", r.Alert.Code)
		case r.MachineID != nil:
			var there bool
			if m, there = machines[*r.MachineID]; !there {
				continue
			}
		}
		if r.MachineID == nil {
			own := r.Alert
			own.Group.Cause = append(slices.Clone(own.Group.Cause), r.Scope)
			row.alert = &own
		}
		row.hiddenBy = suppressor(rules, r.Alert.Code, r.Alert.Reason, &m, now)
		if row.details, err = marshalOrNull(r.Details); err != nil {
			return nil, fmt.Errorf("raise %s: %w", r.Alert.Code, err)
		}
		t.add(row)
	}
	var b pgx.Batch
	t.queue(&b)
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return nil, fmt.Errorf("raise alerts: %w", err)
	}
	return opened, nil
}

// lockAlerted locks the machines of the alerts, in one order, and reads of them what suppression rules ask for.
func lockAlerted(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, raised []RaisedAlert) (map[uuid.UUID]Machine, error) {
	var ids []pgtype.UUID
	for i := range raised {
		if id := raised[i].MachineID; id != nil {
			ids = append(ids, pgUUID(*id))
		}
	}
	out := make(map[uuid.UUID]Machine, len(ids))
	if len(ids) == 0 {
		return out, nil
	}
	rows, _ := tx.Query(ctx, `SELECT machine_id, name, scale_set, labels FROM machines WHERE tenant_id = $1 AND machine_id = ANY ($2::uuid[])
		ORDER BY machine_id FOR NO KEY UPDATE`, pgUUID(tenant), ids)
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Machine, error) {
		var m Machine
		err := row.Scan(&m.ID, &m.Name, &m.ScaleSet, &m.Labels)
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("lock machines: %w", err)
	}
	for i := range found {
		out[found[i].ID] = found[i]
	}
	return out, nil
}

// endAlerts resolves the open alerts of the code of these machines, in the caller's transaction: what they report is over.
// Of dismissed ones it is noted. Machines without an alert of the code are passed over.
func (s *Store) endAlerts(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, now time.Time, code string, machines []uuid.UUID) error {
	t := endedTable{}
	for _, id := range machines {
		t.machines = append(t.machines, pgUUID(id))
	}
	t.fill(tenant, now, code, len(machines))
	return execEnd(ctx, tx, endMachineAlerts, code, t.tenants, t.machines, t.codes, t.ats, t.events)
}

// endScopes is endAlerts for alerts of scopes.
func (s *Store) endScopes(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, now time.Time, code string, scopes []string) error {
	if slices.Contains(scopes, "") {
		return errors.New("end alerts: an empty scope")
	}
	t := endedTable{}
	t.fill(tenant, now, code, len(scopes))
	return execEnd(ctx, tx, endScopeAlerts, code, t.tenants, scopes, t.codes, t.ats, t.events)
}

// fill sets what is the same in n rows.
func (t *endedTable) fill(tenant uuid.UUID, now time.Time, code string, n int) {
	for range n {
		t.tenants, t.codes = append(t.tenants, pgUUID(tenant)), append(t.codes, code)
		t.ats, t.events = append(t.ats, now), append(t.events, pgUUID(newID(now)))
	}
}

func execEnd(ctx context.Context, tx pgx.Tx, statement, code string, args ...any) error {
	if _, err := tx.Exec(ctx, statement, args...); err != nil {
		return fmt.Errorf("end alerts of %s: %w", code, err)
	}
	return nil
}
