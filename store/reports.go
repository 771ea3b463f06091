package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

var assessmentList = listing[Assessment]{
	name: "assessments", initial: "-machine_id",
	columns: `a.machine_id, m.name, a.code, a.display_name, a.severity, a.status, a.cause, a.description,
		a.first_evaluated_at, a.status_changed_at, GREATEST(a.evaluated_at, st.run_last_at)`,
	scan: func(row pgx.Row) (Assessment, error) {
		var a Assessment
		err := row.Scan(&a.MachineID, &a.MachineName, &a.Code, &a.DisplayName, &a.Severity, &a.Status, &a.Cause, &a.Description,
			&a.FirstEvaluatedAt, &a.StatusChangedAt, &a.EvaluatedAt)
		return a, err
	},
	sorts: map[string][]sortKey{
		"machine_id":        {{"a.machine_id", keyID}, {"a.code", keyText}},
		"code":              {{"a.code", keyText}, {"a.machine_id", keyID}},
		"status":            {{"a.status", keyText}, {"a.machine_id", keyID}, {"a.code", keyText}},
		"severity":          {{severityRank("a.severity"), keyNumber}, {"a.machine_id", keyID}, {"a.code", keyText}},
		"status_changed_at": {{"a.status_changed_at", keyTime}, {"a.machine_id", keyID}, {"a.code", keyText}},
	},
}

// ListAssessments lists assessments by machine, the machine known last first. (That order does not change while a client
// pages through it, as an order by time of change would.)
func (s *Store) ListAssessments(ctx context.Context, tenant uuid.UUID, f AssessmentFilter, page Page) (items []Assessment, next string, err error) {
	ctx = withTenant(ctx, tenant)
	return assessmentList.page(ctx, s.pool, assessmentQuery(tenant, f), page)
}

func assessmentQuery(tenant uuid.UUID, f AssessmentFilter) *query {
	q := newQuery(` FROM assessments a
		JOIN machines m ON m.tenant_id = a.tenant_id AND m.machine_id = a.machine_id
		JOIN machine_attestation_state st ON st.tenant_id = a.tenant_id AND st.machine_id = a.machine_id
		WHERE a.tenant_id = $1`, tenant)
	q.id("a.machine_id = ?", f.MachineID)
	q.oneOf("a.code", f.Code)
	q.oneOf("a.status", f.Status)
	q.oneOf("a.severity", f.Severity)
	q.text("m.scale_set = ?", f.ScaleSet)
	q.at("a.status_changed_at >= ?", f.Since)
	q.at("a.status_changed_at < ?", f.Until)
	return q.within(f.Scope)
}

// recommendationSelect takes the time as $2: an exemption ends by itself.
const recommendationSelect = `SELECT *` + recommendationTables

const recommendationTables = ` FROM (SELECT r.recommendation_id, r.machine_id, m.name, m.scale_set, r.code, r.display_name, r.severity, r.description, r.remediation_steps,
		CASE WHEN NOT r.open THEN 'resolved'
			WHEN r.exemption_reason IS NOT NULL AND (r.exemption_expires_at IS NULL OR r.exemption_expires_at > $2) THEN 'exempt'
			ELSE 'active' END AS status,
		r.first_seen_at, r.last_seen_at, r.exemption_reason, r.exemption_comment, r.exemption_expires_at, r.exemption_by, r.exemption_at, r.tenant_id
	FROM recommendations r JOIN machines m ON m.tenant_id = r.tenant_id AND m.machine_id = r.machine_id) r WHERE r.tenant_id = $1`

func scanRecommendation(row pgx.Row) (Recommendation, error) {
	var r Recommendation
	var reason *string
	var e Exemption
	var at *time.Time
	var scaleSet string
	var tenant pgtype.UUID
	err := row.Scan(&r.ID, &r.MachineID, &r.MachineName, &scaleSet, &r.Code, &r.DisplayName, &r.Severity, &r.Description, &r.RemediationSteps,
		&r.Status, &r.FirstSeenAt, &r.LastSeenAt, &reason, &e.Comment, &e.ExpiresAt, &e.CreatedBy, &at, &tenant)
	if reason != nil && at != nil {
		e.Reason, e.CreatedAt = *reason, *at
		r.Exemption = &e
	}
	return r, err
}

var recommendationList = listing[Recommendation]{
	name: "recommendations", columns: "r.*", scan: scanRecommendation, initial: "-id",
	sorts: map[string][]sortKey{
		"id":            ids("r.recommendation_id"),
		"severity":      byNumber(severityRank("r.severity"), ids("r.recommendation_id")...),
		"code":          byText("r.code", ids("r.recommendation_id")...),
		"first_seen_at": byTime("r.first_seen_at", ids("r.recommendation_id")...),
	},
}

// ListRecommendations lists recommendations, newest first.
func (s *Store) ListRecommendations(ctx context.Context, tenant uuid.UUID, f RecommendationFilter, page Page, now time.Time) (items []Recommendation, next string, err error) {
	ctx = withTenant(ctx, tenant)
	return recommendationList.page(ctx, s.pool, recommendationQuery(tenant, f, now), page)
}

func recommendationQuery(tenant uuid.UUID, f RecommendationFilter, now time.Time) *query {
	q := newQuery(recommendationTables, tenant, now)
	q.id("r.machine_id = ?", f.MachineID)
	q.oneOf("r.code", f.Code)
	q.oneOf("r.status", f.Status)
	q.oneOf("r.severity", f.Severity)
	q.text("r.scale_set = ?", f.ScaleSet)
	if f.ExemptionEndsBefore != nil {
		q.and("r.status = 'exempt' AND r.exemption_expires_at < ?", *f.ExemptionEndsBefore)
	}
	q.at("r.first_seen_at >= ?", f.Since)
	q.at("r.first_seen_at < ?", f.Until)
	return q.within(f.Scope)
}

// GetRecommendation reads one recommendation. ErrNotFound.
func (s *Store) GetRecommendation(ctx context.Context, tenant, id uuid.UUID, now time.Time) (Recommendation, error) {
	ctx = withTenant(ctx, tenant)
	r, err := scanRecommendation(s.pool.QueryRow(ctx, recommendationSelect+` AND r.recommendation_id = $3`, pgUUID(tenant), now, pgUUID(id)))
	if err != nil {
		return Recommendation{}, notFound(err, "recommendation", id)
	}
	return r, nil
}

// ExemptRecommendation exempts a recommendation until e.ExpiresAt (nil: for good); e.Reason and e.Comment are
// given. An earlier exemption is replaced. ErrNotFound; ErrConflict where it is resolved.
func (s *Store) ExemptRecommendation(ctx context.Context, tenant, id uuid.UUID, e Exemption, now time.Time, actor Actor) (Recommendation, error) {
	ctx = withTenant(ctx, tenant)
	var r Recommendation
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		was, err := lockRecommendation(ctx, tx, tenant, id, now)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE recommendations SET exemption_reason = $3, exemption_comment = $4, exemption_expires_at = $5, exemption_by = $6, exemption_at = $7
			WHERE tenant_id = $1 AND recommendation_id = $2 AND open`, tenant, id, e.Reason, e.Comment, e.ExpiresAt, actor.String(), now)
		if err != nil {
			return fmt.Errorf("exempt recommendation %s: %w", id, err)
		}
		if r, err = scanRecommendation(tx.QueryRow(ctx, recommendationSelect+` AND r.recommendation_id = $3`, pgUUID(tenant), now, pgUUID(id))); err != nil {
			return notFound(err, "recommendation", id)
		}
		if tag.RowsAffected() == 0 {
			return &StateError{"the recommendation is resolved"}
		}
		if err := noteExemption(ctx, tx, tenant, id, RecommendationEvent{At: now, Kind: "exempted", Actor: actor.String(), Reason: e.Reason, Comment: e.Comment, ExpiresAt: e.ExpiresAt}); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "recommendation.exempt", "recommendation:"+id.String(), was.Exemption.audited(), e.audited())
	})
	if err != nil {
		return Recommendation{}, err
	}
	return r, nil
}
