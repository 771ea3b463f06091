package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/finding"
)

// findingSet is what one evaluation found of one machine, ready to be written. The caller has locked the machine's row.
type findingSet struct {
	tenant  uuid.UUID
	machine Machine // for suppression: name, scale set, labels
	result  finding.Result
	verdict *uuid.UUID // that raised the alerts; nil where only the inventory changed
	at      time.Time
	rules   []SuppressionRule
	opened  []uuid.UUID // alerts that were opened, or opened again; filled when the batch has run
}

// apply writes the set in one round trip.
func (f *findingSet) apply(ctx context.Context, tx pgx.Tx) error {
	var b pgx.Batch
	queueFindings(&b, []*findingSet{f})
	if b.Len() == 0 {
		return nil
	}
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("record findings: %w", err)
	}
	return nil
}

// queueFindings adds the statements that write the sets of different machines: one for each kind of row.
func queueFindings(b *pgx.Batch, sets []*findingSet) {
	var assessments assessmentTable
	var recommendations recommendationTable
	var heeded heededTable
	var ended endedTable
	var raised alertTable
	for _, f := range sets {
		assessments.add(f)
		heeded.add(f, recommendations.add(f))
		ended.add(f, f.queueAlerts(&raised))
	}
	if t := &assessments; len(t.codes) > 0 {
		b.Queue(upsertAssessments, t.tenants, t.machines, t.codes, t.names, t.severities, t.statuses, t.causes, t.descriptions, t.ats, t.verdicts, t.events)
	}
	if t := &recommendations; len(t.codes) > 0 {
		b.Queue(upsertRecommendations, t.tenants, t.ids, t.machines, t.codes, t.names, t.severities, t.descriptions, t.steps, t.ats, t.verdicts, t.events)
	}
	if t := &heeded; len(t.codes) > 0 {
		b.Queue(resolveRecommendations, t.tenants, t.machines, t.codes, t.events, t.ats)
	}
	raised.queue(b)
	if len(ended.codes) > 0 {
		b.Queue(endMachineAlerts, ended.tenants, ended.machines, ended.codes, ended.ats, ended.events)
	}
}

// someoneAsksFor is the condition that an enabled channel of tenant x.tenant_id names the kind of event. Other than alerts,
// assessments and recommendations are told to nobody who does not ask for them by name: an enrolment has a dozen,
// and ten thousand of them would be rows that nobody reads. A channel that is made, or enabled, meanwhile is told from
// the next change on.
const someoneAsksFor = `EXISTS (SELECT FROM notification_channels c WHERE c.tenant_id = x.tenant_id AND c.enabled
		AND c.filter -> 'kinds' ? '{kind}' AND NOT c.filter @> '{"incidents_only": true}')`

func asked(kind string) string { return strings.ReplaceAll(someoneAsksFor, "{kind}", kind) }

// Only what changed is written: first_evaluated_at never changes, status_changed_at only with the status. What
// did not change is left out before the insert, which would lock, and so write, every row that it meets. The first
// evaluation of a code is an event only where it is bad.
var upsertAssessments = `WITH x AS MATERIALIZED (SELECT u.*, coalesce(was.status, '') AS was, coalesce(was.first_evaluated_at, u.at) AS first_at
		FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[], $10::uuid[], $11::uuid[])
			u (tenant_id, machine_id, code, display_name, severity, status, cause, description, at, verdict_id, event_id)
		LEFT JOIN assessments was ON was.tenant_id = u.tenant_id AND was.machine_id = u.machine_id AND was.code = u.code
		WHERE was.tenant_id IS NULL OR (was.display_name, was.severity, was.status, was.cause, was.description)
			IS DISTINCT FROM (u.display_name, u.severity, u.status, u.cause, u.description)),
	told AS (INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at)
		SELECT tenant_id, event_id, 'assessment.changed', machine_id, jsonb_build_object('machine_id', machine_id, 'code', code, 'title', display_name,
			'severity', severity, 'from', was, 'to', status, 'cause', cause, 'description', description, 'first_seen_at', first_at, 'verdict_id', verdict_id), at
		FROM x WHERE (was = 'Unhealthy') <> (status = 'Unhealthy') AND ` + asked("assessment.changed") + `)
	INSERT INTO assessments AS a
	(tenant_id, machine_id, code, display_name, severity, status, cause, description, first_evaluated_at, status_changed_at, evaluated_at)
	SELECT tenant_id, machine_id, code, display_name, severity, status, cause, description, at, at, at FROM x
	ON CONFLICT (tenant_id, machine_id, code) DO UPDATE SET display_name = EXCLUDED.display_name, severity = EXCLUDED.severity,
		status = EXCLUDED.status, cause = EXCLUDED.cause, description = EXCLUDED.description, evaluated_at = EXCLUDED.evaluated_at,
		status_changed_at = CASE WHEN a.status <> EXCLUDED.status THEN EXCLUDED.status_changed_at ELSE a.status_changed_at END`

// assessmentTable is the parameters of upsertAssessments, column by column.
type assessmentTable struct {
	tenants, machines, verdicts, events                      []pgtype.UUID
	codes, names, severities, statuses, causes, descriptions []string
	ats                                                      []time.Time
}

func (t *assessmentTable) add(f *findingSet) {
	for _, a := range f.result.Assessments {
		t.tenants, t.machines = append(t.tenants, pgUUID(f.tenant)), append(t.machines, pgUUID(f.machine.ID))
		t.codes, t.names, t.severities = append(t.codes, a.Code), append(t.names, a.DisplayName), append(t.severities, string(a.Severity))
		t.statuses, t.causes = append(t.statuses, string(a.Status)), append(t.causes, a.Cause)
		t.descriptions, t.ats = append(t.descriptions, a.Description), append(t.ats, f.at)
		t.verdicts, t.events = append(t.verdicts, pgUUIDPtr(f.verdict)), append(t.events, pgUUID(newID(f.at)))
	}
}

// endedTable is the parameters of endMachineAlerts, column by column.
type endedTable struct {
	tenants, machines, events []pgtype.UUID
	codes                     []string
	ats                       []time.Time
}

func (t *endedTable) add(f *findingSet, codes []string) {
	for _, code := range codes {
		t.tenants, t.machines = append(t.tenants, pgUUID(f.tenant)), append(t.machines, pgUUID(f.machine.ID))
		t.codes, t.ats, t.events = append(t.codes, code), append(t.ats, f.at), append(t.events, pgUUID(newID(f.at)))
	}
}

// The machines' locks are held, so that what was open is so until the insert.
var upsertRecommendations = `WITH u AS (SELECT u.*, ARRAY(SELECT json_array_elements_text(u.list::json)) AS steps
		FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[], $10::uuid[], $11::uuid[])
			u (tenant_id, new_id, machine_id, code, display_name, severity, description, list, at, verdict_id, event_id)),
	x AS MATERIALIZED (SELECT u.*, coalesce(was.recommendation_id, u.new_id) AS recommendation_id, was.recommendation_id IS NOT NULL AS known, was.open IS TRUE AS was_open,
			(was.exemption_reason IS NOT NULL AND (was.exemption_expires_at IS NULL OR was.exemption_expires_at > u.at)) IS TRUE AS exempt
		FROM u LEFT JOIN recommendations was ON was.tenant_id = u.tenant_id AND was.machine_id = u.machine_id AND was.code = u.code),
	told AS (INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at)
		SELECT tenant_id, event_id, 'recommendation.opened', recommendation_id, jsonb_build_object('machine_id', machine_id, 'code', code, 'title', display_name,
			'severity', severity, 'from', CASE WHEN known THEN 'resolved' ELSE '' END, 'to', CASE WHEN exempt THEN 'exempt' ELSE 'active' END,
			'description', description, 'remediation_steps', steps, 'first_seen_at', at, 'verdict_id', verdict_id), at
		FROM x WHERE NOT was_open AND ` + asked("recommendation.opened") + `)
	INSERT INTO recommendations AS r
	(tenant_id, recommendation_id, machine_id, code, display_name, severity, description, remediation_steps, open, first_seen_at, last_seen_at)
	SELECT tenant_id, new_id, machine_id, code, display_name, severity, description, steps, true, at, at FROM x
	ON CONFLICT ON CONSTRAINT recommendations_machine_code DO UPDATE SET display_name = EXCLUDED.display_name, severity = EXCLUDED.severity,
		description = EXCLUDED.description, remediation_steps = EXCLUDED.remediation_steps, open = true, resolved_at = NULL,
		first_seen_at = CASE WHEN r.open THEN r.first_seen_at ELSE EXCLUDED.first_seen_at END, last_seen_at = EXCLUDED.last_seen_at`

// A machine has a handful that are open, and there are dozens of codes: its rows are found by the machine, and the codes only
// sort out. The empty text keeps the planner from finding them by the code, which very many machines have open.
var resolveRecommendations = `WITH x AS (UPDATE recommendations r SET open = false, resolved_at = u.at
		FROM (SELECT tenant_id, machine_id, at, string_to_array(codes, ',') AS codes, string_to_array(events, ',') AS events
			FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[]) u (tenant_id, machine_id, codes, events, at)) u
		WHERE r.tenant_id = u.tenant_id AND r.machine_id = u.machine_id AND r.code || '' = ANY (u.codes) AND r.open
		RETURNING r.*, u.at, u.events[array_position(u.codes, r.code)]::uuid AS event_id)
	INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at)
	SELECT tenant_id, event_id, 'recommendation.resolved', recommendation_id, jsonb_build_object('machine_id', machine_id, 'code', code, 'title', display_name, 'severity', severity,
		'from', CASE WHEN exemption_reason IS NOT NULL AND (exemption_expires_at IS NULL OR exemption_expires_at > at) THEN 'exempt' ELSE 'active' END, 'to', 'resolved',
		'description', description, 'remediation_steps', remediation_steps, 'first_seen_at', first_seen_at), at
	FROM x WHERE ` + asked("recommendation.resolved")

// heededTable is the parameters of resolveRecommendations, column by column. A row is a machine: the codes that were evaluated
// and are not open, and the id of the event of each, in lists with commas.
type heededTable struct {
	tenants, machines []pgtype.UUID
	codes, events     []string
	ats               []time.Time
}

func (t *heededTable) add(f *findingSet, codes []string) {
	if len(codes) == 0 {
		return
	}
	events := make([]byte, 0, 37*len(codes))
	for i := range codes {
		if i > 0 {
			events = append(events, ',')
		}
		events = append(events, newID(f.at).String()...)
	}
	t.tenants, t.machines = append(t.tenants, pgUUID(f.tenant)), append(t.machines, pgUUID(f.machine.ID))
	t.codes, t.events, t.ats = append(t.codes, strings.Join(codes, ",")), append(t.events, string(events)), append(t.ats, f.at)
}

// recommendationTable is the parameters of upsertRecommendations, column by column.
type recommendationTable struct {
	tenants, ids, machines, verdicts, events      []pgtype.UUID
	codes, names, severities, descriptions, steps []string // steps: JSON arrays
	ats                                           []time.Time
}

// add takes those of the set that are open, and tells which have ended.
func (t *recommendationTable) add(f *findingSet) (ended []string) {
	var present []string
	for _, r := range f.result.Recommendations {
		present = append(present, r.Code)
		list, _ := json.Marshal(notNil(r.RemediationSteps)) // strings always marshal
		t.tenants, t.ids, t.machines = append(t.tenants, pgUUID(f.tenant)), append(t.ids, pgUUID(newID(f.at))), append(t.machines, pgUUID(f.machine.ID))
		t.codes, t.names, t.severities = append(t.codes, r.Code), append(t.names, r.DisplayName), append(t.severities, string(r.Severity))
		t.descriptions, t.steps, t.ats = append(t.descriptions, r.Description), append(t.steps, string(list)), append(t.ats, f.at)
		t.verdicts, t.events = append(t.verdicts, pgUUIDPtr(f.verdict)), append(t.events, pgUUID(newID(f.at)))
	}
	return without(f.result.EvaluatedRecommendations, present)
}

// queueAlerts adds those that are open, and tells which have ended.
func (f *findingSet) queueAlerts(t *alertTable) (ended []string) {
	var present []string
	for i := range f.result.Alerts {
		a := &f.result.Alerts[i]
		present = append(present, a.Code)
		t.add(alertRow{tenant: f.tenant, machine: &f.machine.ID, alert: a, verdict: f.verdict, at: f.at,
			hiddenBy: suppressor(f.rules, a.Code, a.Reason, &f.machine, f.at), opened: func(id uuid.UUID) { f.opened = append(f.opened, id) }})
	}
	return without(f.result.EvaluatedAlerts, present)
}

// without is the codes that are not present, in order, each once.
func without(codes, present []string) []string {
	var out []string
	for _, c := range codes {
		if !slices.Contains(present, c) && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
