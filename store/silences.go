package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/finding"
)

// silences are the silent machines of a tenant that have no alert of their own, and the mass silences that last, in one
// transaction that decides about them.
type silences struct {
	store  *Store
	tx     pgx.Tx
	tenant uuid.UUID
	now    time.Time

	machines []silentMachine
	open     []openSilence
	heard    map[string]int
}

type silentMachine struct {
	id      uuid.UUID
	facts   finding.Machine
	heardAt time.Time // zero where it never attested
	silence *uuid.UUID
	finding.SilentMachine
}

type openSilence struct {
	id           uuid.UUID
	scope        string
	alert        *uuid.UUID
	since, begun time.Time
	silent, peak int
	told         int // the size that receivers were told last
}

// silenceDetails are an alert's of a mass silence.
type silenceDetails struct {
	SilenceID uuid.UUID `json:"silence_id"`
	Since     time.Time `json:"since"`
	Silent    int       `json:"silent"`
	Peak      int       `json:"peak"`
	// Examples are names of members, when it was found; the list of machines has all that are silent now.
	Examples []string `json:"examples"`
}

const maxExamples = 20

// settleSilences decides about the silent machines that have no alert of their own, and about the mass silences that last.
// The caller holds the tenant's row of deadline_watch. more tells that further machines wait for an alert.
func (s *Store) settleSilences(ctx context.Context, tenant uuid.UUID, limits finding.SilenceLimits, outages []finding.Outage, r *DeadlineRound, now time.Time, actor Actor) (more bool, err error) {
	var round DeadlineRound
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		w := &silences{store: s, tx: tx, tenant: tenant, now: now}
		if err := w.read(ctx, limits, outages); err != nil || len(w.machines) == 0 && len(w.open) == 0 {
			return err
		}
		more, err = w.settle(ctx, limits, &round, actor)
		return err
	})
	if err != nil {
		return false, err
	}
	r.Alerts, r.Begun, r.Ended = r.Alerts+round.Alerts, r.Begun+round.Begun, r.Ended+round.Ended
	return more, nil
}

func (w *silences) read(ctx context.Context, limits finding.SilenceLimits, outages []finding.Outage) error {
	rows, _ := w.tx.Query(ctx, `SELECT silence_id, scope, alert_id, since, started_at, silent, peak, told FROM silences WHERE tenant_id = $1 AND ended_at IS NULL ORDER BY silence_id`, pgUUID(w.tenant))
	var err error
	w.open, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (openSilence, error) {
		var o openSilence
		var alert pgtype.UUID
		err := row.Scan(&o.id, &o.scope, &alert, &o.since, &o.begun, &o.silent, &o.peak, &o.told)
		o.alert = uuidPtr(alert)
		return o, err
	})
	if err != nil {
		return fmt.Errorf("read mass silences: %w", err)
	}
	rows, _ = w.tx.Query(ctx, `SELECT s.machine_id, m.name, m.os, m.platform, m.scale_set, m.labels, st.heard_at, s.since, s.interval_seconds, s.alert_due_at, s.silence_id
		FROM silent_machines s JOIN machines m ON m.tenant_id = s.tenant_id AND m.machine_id = s.machine_id
		JOIN machine_attestation_state st ON st.tenant_id = s.tenant_id AND st.machine_id = s.machine_id
		WHERE s.tenant_id = $1 AND s.alerted_at IS NULL ORDER BY s.machine_id`, pgUUID(w.tenant))
	w.machines, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (silentMachine, error) {
		m := silentMachine{}
		var heard pgtype.Timestamptz
		var silence pgtype.UUID
		var interval int64
		if err := row.Scan(&m.id, &m.facts.Name, &m.facts.OS, &m.facts.Platform, &m.facts.ScaleSet, &m.facts.Labels, &heard, &m.Since, &interval, &m.AlertAt, &silence); err != nil {
			return m, err
		}
		m.heardAt, m.silence, m.Scopes = heard.Time, uuidPtr(silence), finding.Scopes(&m.facts)
		m.Interval = time.Duration(interval) * time.Second
		// An outage of ours after it was found gives it the time to come back too.
		m.AlertAt = finding.Deadline(m.AlertAt, m.Since, outages)
		m.Silence = slices.IndexFunc(w.open, func(o openSilence) bool { return m.silence != nil && o.id == *m.silence })
		return m, nil
	})
	if err != nil {
		return fmt.Errorf("read silent machines: %w", err)
	}
	return w.countHeard(ctx, limits)
}

// countHeard counts the machines that have attested since the first deadline was missed of those that are due and free, by
// scope. Where these cannot be many, nothing has to be counted.
func (w *silences) countHeard(ctx context.Context, limits finding.SilenceLimits) error {
	var since time.Time
	free := 0
	for i := range w.machines {
		m := &w.machines[i]
		if m.Silence >= 0 {
			continue
		}
		if free++; !m.AlertAt.After(w.now) && (since.IsZero() || m.Since.Before(since)) {
			since = m.Since
		}
	}
	if since.IsZero() || free < limits.Machines {
		return nil
	}
	w.heard = map[string]int{}
	rows, _ := w.tx.Query(ctx, `SELECT m.platform, m.scale_set, coalesce(m.labels ->> 'site', ''), coalesce(m.labels ->> 'region', ''), count(*)
		FROM machine_attestation_state st JOIN machines m USING (tenant_id, machine_id)
		WHERE st.tenant_id = $1 AND st.heard_at > $2 AND st.stale_at IS NULL GROUP BY 1, 2, 3, 4`, pgUUID(w.tenant), since)
	var platform, scaleSet, site, region string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&platform, &scaleSet, &site, &region, &n}, func() error {
		for _, scope := range finding.Scopes(&finding.Machine{Platform: platform, ScaleSet: scaleSet, Labels: map[string]string{"site": site, "region": region}}) {
			w.heard[scope] += n
		}
		return nil
	}); err != nil {
		return fmt.Errorf("count machines that attest: %w", err)
	}
	return nil
}

func (w *silences) settle(ctx context.Context, limits finding.SilenceLimits, r *DeadlineRound, actor Actor) (more bool, err error) {
	machines, open := make([]finding.SilentMachine, len(w.machines)), make([]finding.OpenSilence, len(w.open))
	for i := range w.machines {
		machines[i] = w.machines[i].SilentMachine
	}
	for i, o := range w.open {
		open[i] = finding.OpenSilence{Scope: o.scope, Peak: o.peak, Since: o.since, BegunAt: o.begun}
	}
	d := finding.DecideSilence(w.now, machines, w.heard, open, limits)
	if more = len(d.Alone) > deadlinePage; more {
		w.firstPage(&d)
	}
	// As appraisals do: the rules before the machines.
	if _, err := w.store.lockSuppressionRules(ctx, w.tx, w.tenant); err != nil {
		return false, err
	}
	var raised []RaisedAlert
	begun := w.begin(d.Begin, &raised)
	alone, err := w.lockSilent(ctx, d.Alone, &raised)
	if err != nil {
		return false, err
	}
	if _, err := w.store.raiseAlerts(ctx, w.tx, w.tenant, w.now, raised); err != nil {
		return false, err
	}
	if err := w.write(ctx, &d, begun, alone); err != nil {
		return false, err
	}
	r.Alerts, r.Begun, r.Ended = len(alone), len(begun), len(d.End)
	if r.Alerts+r.Begun+r.Ended == 0 {
		return false, nil
	}
	scopes := make([]string, len(begun))
	for i := range begun {
		scopes[i] = begun[i].scope
	}
	return more, audit(ctx, w.tx, w.tenant, w.now, actor, "machines.missing", "tenant:"+w.tenant.String(), nil,
		map[string]any{"machine_ids": alone, "silences_begun": scopes, "silences_ended": len(d.End)})
}

// firstPage leaves the machines beyond a page for the next look. Silences that end with some of these end with the last page:
// free machines without an alert would be taken for the next mass silence.
func (w *silences) firstPage(d *finding.SilenceDecision) {
	later := map[int]bool{}
	for _, i := range d.Alone[deadlinePage:] {
		later[w.machines[i].Silence] = true
	}
	d.Alone = d.Alone[:deadlinePage]
	d.End = slices.DeleteFunc(d.End, func(i int) bool { return later[i] })
}

// begin makes the mass silences that begin, with their alerts.
func (w *silences) begin(list []finding.BegunSilence, raised *[]RaisedAlert) []openSilence {
	out := make([]openSilence, len(list))
	for i, b := range list {
		o := openSilence{id: newID(w.now), scope: b.Scope, since: w.machines[b.Members[0]].Since, silent: len(b.Members), peak: len(b.Members)}
		details := silenceDetails{SilenceID: o.id, Silent: o.silent, Peak: o.peak}
		for _, m := range b.Members {
			if w.machines[m].Since.Before(o.since) {
				o.since = w.machines[m].Since
			}
			if len(details.Examples) < maxExamples {
				details.Examples = append(details.Examples, w.machines[m].facts.Name)
			}
		}
		details.Since = o.since
		*raised = append(*raised, RaisedAlert{Scope: b.Scope, Alert: finding.MissingTogether(b.Scope, o.silent, w.heard[b.Scope], o.since), Details: details})
		out[i] = o
	}
	return out
}

// lockSilent locks the machines that get an alert of their own, and are silent still. Who is locked attests at this moment.
func (w *silences) lockSilent(ctx context.Context, list []int, raised *[]RaisedAlert) ([]uuid.UUID, error) {
	if len(list) == 0 {
		return nil, nil
	}
	at := make(map[uuid.UUID]*silentMachine, len(list))
	ids := make([]pgtype.UUID, len(list))
	for i, j := range list {
		m := &w.machines[j]
		at[m.id], ids[i] = m, pgUUID(m.id)
	}
	rows, _ := w.tx.Query(ctx, `SELECT m.machine_id FROM machines m WHERE m.tenant_id = $1 AND m.machine_id = ANY ($2::uuid[])
		AND EXISTS (SELECT FROM silent_machines s WHERE s.tenant_id = m.tenant_id AND s.machine_id = m.machine_id)
		ORDER BY m.machine_id FOR NO KEY UPDATE OF m SKIP LOCKED`, pgUUID(w.tenant), ids)
	locked, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("lock silent machines: %w", err)
	}
	// Locked, they may have come back between the reading of the condition and the lock.
	rows, _ = w.tx.Query(ctx, `UPDATE silent_machines SET alerted_at = $3, silence_id = NULL
		WHERE tenant_id = $1 AND machine_id = ANY ($2::uuid[]) AND alerted_at IS NULL RETURNING machine_id`, pgUUID(w.tenant), locked, w.now)
	alone, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("note who has an alert: %w", err)
	}
	for _, id := range alone {
		m := at[id]
		silence := finding.Silence{HeardAt: m.heardAt, DueAt: m.Since}
		*raised = append(*raised, RaisedAlert{MachineID: &m.id, Alert: finding.Missing(m.id.String(), &m.facts, silence), Details: map[string]time.Time{"since": m.Since}})
	}
	return alone, nil
}

// write keeps what was decided: who is a member of which silence, which silences there are, and how large they are.
func (w *silences) write(ctx context.Context, d *finding.SilenceDecision, begun []openSilence, alone []uuid.UUID) error {
	var members, silences []pgtype.UUID // a silence that is nil: free again
	join := func(list []int, silence pgtype.UUID) {
		for _, i := range list {
			members, silences = append(members, pgUUID(w.machines[i].id)), append(silences, silence)
		}
	}
	var ended []pgtype.UUID
	var scopes []string
	for _, i := range d.End {
		ended, scopes = append(ended, pgUUID(w.open[i].id)), append(scopes, w.open[i].scope)
		for j := range w.machines {
			if m := &w.machines[j]; m.Silence == i && !slices.Contains(alone, m.id) {
				join([]int{j}, pgtype.UUID{})
			}
		}
	}
	for i, list := range d.Join {
		join(list, pgUUID(w.open[i].id))
	}
	for i := range begun {
		join(d.Begin[i].Members, pgUUID(begun[i].id))
	}
	if len(ended) > 0 {
		if _, err := w.tx.Exec(ctx, `UPDATE silences SET ended_at = $3, silent = 0 WHERE tenant_id = $1 AND silence_id = ANY ($2::uuid[])`, pgUUID(w.tenant), ended, w.now); err != nil {
			return fmt.Errorf("end mass silences: %w", err)
		}
		if err := w.store.endScopes(ctx, w.tx, w.tenant, w.now, finding.CodeAttestationMissing, scopes); err != nil {
			return err
		}
	}
	for i := range begun {
		if err := w.insert(ctx, &begun[i]); err != nil {
			return err
		}
	}
	if len(members) > 0 {
		if _, err := w.tx.Exec(ctx, `UPDATE silent_machines s SET silence_id = u.silence_id FROM unnest($2::uuid[], $3::uuid[]) u (machine_id, silence_id)
			WHERE s.tenant_id = $1 AND s.machine_id = u.machine_id AND s.alerted_at IS NULL`, pgUUID(w.tenant), members, silences); err != nil {
			return fmt.Errorf("note the members of mass silences: %w", err)
		}
	}
	return w.measure(ctx, d)
}

// insert keeps a silence with its alert: the one that was opened, opened again, or counted up because somebody had
// dismissed it.
func (w *silences) insert(ctx context.Context, o *openSilence) error {
	_, err := w.tx.Exec(ctx, `INSERT INTO silences (tenant_id, silence_id, scope, alert_id, silent, peak, since, started_at, told)
		SELECT $1, $2, $3, (SELECT alert_id FROM alerts WHERE tenant_id = $1 AND machine_id IS NULL AND scope = $3 AND code = $8
			ORDER BY status IN ('active', 'in_progress') DESC, alert_id DESC LIMIT 1), $4, $5, $6, $7, $5`,
		pgUUID(w.tenant), pgUUID(o.id), o.scope, o.silent, o.peak, o.since, w.now, finding.CodeAttestationMissing)
	if err != nil {
		return fmt.Errorf("begin mass silence %s: %w", o.scope, err)
	}
	return nil
}

// measure keeps how large the silences are that lasted before, where that changed, and tells their alerts.
func (w *silences) measure(ctx context.Context, d *finding.SilenceDecision) error {
	for i := range w.open {
		if slices.Contains(d.End, i) {
			continue
		}
		o := &w.open[i]
		silent := len(d.Join[i])
		for j := range w.machines {
			if w.machines[j].Silence == i {
				silent++
			}
		}
		peak := max(silent, o.peak)
		told := o.told
		if told == 0 {
			told = o.peak
		}
		grown := peak >= 2*told
		if grown {
			told = peak
		}
		if silent == o.silent && peak == o.peak && told == o.told {
			continue
		}
		if _, err := w.tx.Exec(ctx, `WITH s AS (UPDATE silences SET silent = $3, peak = $4, told = $6 WHERE tenant_id = $1 AND silence_id = $2)
			UPDATE alerts SET details = details || jsonb_build_object('silent', $3::bigint, 'peak', $4::bigint)
			WHERE tenant_id = $1 AND alert_id = $5`, pgUUID(w.tenant), pgUUID(o.id), silent, peak, pgUUIDPtr(o.alert), told); err != nil {
			return fmt.Errorf("measure mass silence %s: %w", o.scope, err)
		}
		if grown && o.alert != nil {
			if err := w.tellGrowth(ctx, o, silent); err != nil {
				return fmt.Errorf("tell of the growth of mass silence %s: %w", o.scope, err)
			}
		}
	}
	return nil
}

// tellGrowth says in the open alert of a mass silence, in its history and to receivers that it is twice as large as was told last.
func (w *silences) tellGrowth(ctx context.Context, o *openSilence, silent int) error {
	_, err := w.tx.Exec(ctx, `WITH grown AS (UPDATE alerts SET description = $4, updated_at = $5 WHERE tenant_id = $1 AND alert_id = $2 AND status IN ('active', 'in_progress')
			RETURNING alert_id, scope, code, severity, reason, status),
		told AS (INSERT INTO alert_events (tenant_id, alert_id, event_id, at, kind, actor) SELECT $1, alert_id, $3, $5, 'grown', '`+automatic+`' FROM grown)
		INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at)
		SELECT $1, $3, 'alert.grown', alert_id, jsonb_build_object('alert_id', alert_id, 'scope', scope, 'code', code, 'severity', severity, 'reason', reason, 'to', status), $5 FROM grown`,
		pgUUID(w.tenant), pgUUIDPtr(o.alert), pgUUID(newID(w.now)), finding.GrownTogether(o.scope, silent, o.since), w.now)
	return err
}
