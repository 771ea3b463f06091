package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
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

// queueFindings adds the statements that write the sets of different machines: a few, however many sets there are.
func queueFindings(b *pgx.Batch, sets []*findingSet) {
	var assessments assessmentTable
	var open recommendationTable
	var recommendations, ended endedTable
	var raised alertTable
	for _, f := range sets {
		assessments.add(f)
		recommendations.add(f, open.add(f))
		ended.add(f, f.queueAlerts(&raised))
	}
	if len(assessments.codes) > 0 {
		b.Queue(upsertAssessments, assessments.tenants, assessments.machines, assessments.codes, assessments.names, assessments.severities,
			assessments.statuses, assessments.causes, assessments.descriptions, assessments.ats)
	}
	if len(open.codes) > 0 {
		b.Queue(upsertRecommendations, open.tenants, open.ids, open.machines, open.codes, open.names, open.severities, open.descriptions, open.steps, open.ats)
	}
	if len(recommendations.codes) > 0 {
		b.Queue(resolveRecommendations, recommendations.tenants, recommendations.machines, recommendations.codes, recommendations.ats)
	}
	raised.queue(b)
	if len(ended.codes) > 0 {
		b.Queue(endMachineAlerts, ended.tenants, ended.machines, ended.codes, ended.ats, ended.events)
	}
}

// Only what changed is written: first_evaluated_at never changes, status_changed_at only with the status. What
// did not change is left out before the insert, which would lock, and so write, every row that it meets.
const upsertAssessments = `INSERT INTO assessments AS a
	(tenant_id, machine_id, code, display_name, severity, status, cause, description, first_evaluated_at, status_changed_at, evaluated_at)
	SELECT u.tenant_id, u.machine_id, u.code, u.display_name, u.severity, u.status, u.cause, u.description, u.at, u.at, u.at
	FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[])
		u (tenant_id, machine_id, code, display_name, severity, status, cause, description, at)
	WHERE NOT EXISTS (SELECT FROM assessments x WHERE x.tenant_id = u.tenant_id AND x.machine_id = u.machine_id AND x.code = u.code
		AND (x.display_name, x.severity, x.status, x.cause, x.description)
			IS NOT DISTINCT FROM (u.display_name, u.severity, u.status, u.cause, u.description))
	ON CONFLICT (tenant_id, machine_id, code) DO UPDATE SET display_name = EXCLUDED.display_name, severity = EXCLUDED.severity,
		status = EXCLUDED.status, cause = EXCLUDED.cause, description = EXCLUDED.description, evaluated_at = EXCLUDED.evaluated_at,
		status_changed_at = CASE WHEN a.status <> EXCLUDED.status THEN EXCLUDED.status_changed_at ELSE a.status_changed_at END`

// assessmentTable is the parameters of upsertAssessments, column by column.
type assessmentTable struct {
	tenants, machines                                        []pgtype.UUID
	codes, names, severities, statuses, causes, descriptions []string
	ats                                                      []time.Time
}

func (t *assessmentTable) add(f *findingSet) {
	for _, a := range f.result.Assessments {
		t.tenants, t.machines = append(t.tenants, pgUUID(f.tenant)), append(t.machines, pgUUID(f.machine.ID))
		t.codes, t.names, t.severities = append(t.codes, a.Code), append(t.names, a.DisplayName), append(t.severities, string(a.Severity))
		t.statuses, t.causes = append(t.statuses, string(a.Status)), append(t.causes, a.Cause)
		t.descriptions, t.ats = append(t.descriptions, a.Description), append(t.ats, f.at)
	}
}

// endedTable is the parameters of resolveRecommendations and endMachineAlerts, column by column.
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

const upsertRecommendations = `INSERT INTO recommendations AS r
	(tenant_id, recommendation_id, machine_id, code, display_name, severity, description, remediation_steps, open, first_seen_at, last_seen_at)
	SELECT u.tenant_id, u.id, u.machine_id, u.code, u.display_name, u.severity, u.description, ARRAY(SELECT json_array_elements_text(u.steps::json)), true, u.at, u.at
	FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[])
		u (tenant_id, id, machine_id, code, display_name, severity, description, steps, at)
	ON CONFLICT ON CONSTRAINT recommendations_machine_code DO UPDATE SET display_name = EXCLUDED.display_name, severity = EXCLUDED.severity,
		description = EXCLUDED.description, remediation_steps = EXCLUDED.remediation_steps, open = true, resolved_at = NULL,
		first_seen_at = CASE WHEN r.open THEN r.first_seen_at ELSE EXCLUDED.first_seen_at END, last_seen_at = EXCLUDED.last_seen_at`

// recommendationTable is the parameters of upsertRecommendations, column by column.
type recommendationTable struct {
	tenants, ids, machines                        []pgtype.UUID
	codes, names, severities, descriptions, steps []string
	ats                                           []time.Time
}

// add notes those that are open, and tells which have ended.
func (t *recommendationTable) add(f *findingSet) (ended []string) {
	var present []string
	for i := range f.result.Recommendations {
		r := &f.result.Recommendations[i]
		present = append(present, r.Code)
		t.tenants, t.ids, t.machines = append(t.tenants, pgUUID(f.tenant)), append(t.ids, pgUUID(newID(f.at))), append(t.machines, pgUUID(f.machine.ID))
		t.codes, t.names, t.severities = append(t.codes, r.Code), append(t.names, r.DisplayName), append(t.severities, string(r.Severity))
		steps, _ := json.Marshal(notNil(r.RemediationSteps)) // strings always marshal
		t.descriptions, t.steps, t.ats = append(t.descriptions, r.Description), append(t.steps, string(steps)), append(t.ats, f.at)
	}
	return without(f.result.EvaluatedRecommendations, present)
}

const resolveRecommendations = `UPDATE recommendations r SET open = false, resolved_at = u.at
	FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[]) u (tenant_id, machine_id, code, at)
	WHERE r.tenant_id = u.tenant_id AND r.machine_id = u.machine_id AND r.code = u.code AND r.open`

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
