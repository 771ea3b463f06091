package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// ListAssessments lists assessments by machine, the machine known last first, then by code. (That order
// does not change while a client pages through it, as an order by time of change would.)
func (s *Store) ListAssessments(ctx context.Context, tenant uuid.UUID, f AssessmentFilter, page Page) (items []Assessment, next string, err error) {
	key, err := decodeCursor("assessments", page.Cursor, 2)
	if err != nil {
		return nil, "", err
	}
	q := newQuery(`SELECT a.machine_id, m.name, a.code, a.display_name, a.severity, a.status, a.cause, a.description,
			a.first_evaluated_at, a.status_changed_at, GREATEST(a.evaluated_at, st.run_last_at)
		FROM assessments a
		JOIN machines m ON m.tenant_id = a.tenant_id AND m.machine_id = a.machine_id
		JOIN machine_attestation_state st ON st.tenant_id = a.tenant_id AND st.machine_id = a.machine_id
		WHERE a.tenant_id = $1`, tenant)
	if f.MachineID != nil {
		q.and("a.machine_id = ?", pgUUID(*f.MachineID))
	}
	q.text("a.code = ?", f.Code)
	q.text("a.status = ?", f.Status)
	q.text("a.severity = ?", f.Severity)
	q.text("m.scale_set = ?", f.ScaleSet)
	if key != nil {
		machine, err := uuid.Parse(key[0])
		if err != nil {
			return nil, "", ErrInvalidCursor
		}
		q.and("a.machine_id <= ?", pgUUID(machine))
		q.args = append(q.args, key[1])
		fmt.Fprintf(&q.sql, " AND (a.machine_id < $%d OR a.code > $%d)", len(q.args)-1, len(q.args))
	}
	q.sql.WriteString(" ORDER BY a.machine_id DESC, a.code")
	q.limit(page)
	rows, _ := s.pool.Query(ctx, q.sql.String(), q.args...)
	items, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Assessment, error) {
		var a Assessment
		err := row.Scan(&a.MachineID, &a.MachineName, &a.Code, &a.DisplayName, &a.Severity, &a.Status, &a.Cause, &a.Description,
			&a.FirstEvaluatedAt, &a.StatusChangedAt, &a.EvaluatedAt)
		return a, err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list assessments: %w", err)
	}
	items, next = cut(items, page, "assessments", func(a Assessment) []string { return []string{a.MachineID.String(), a.Code} })
	return items, next, nil
}

// recommendationSelect takes the time as $2: an exemption ends by itself.
const recommendationSelect = `SELECT * FROM (SELECT r.recommendation_id, r.machine_id, m.name, m.scale_set, r.code, r.display_name, r.severity, r.description, r.remediation_steps,
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

// ListRecommendations lists recommendations, newest first.
func (s *Store) ListRecommendations(ctx context.Context, tenant uuid.UUID, f RecommendationFilter, page Page, now time.Time) (items []Recommendation, next string, err error) {
	before, err := page.beforeID("recommendations")
	if err != nil {
		return nil, "", err
	}
	q := newQuery(recommendationSelect, tenant)
	q.args = append(q.args, now)
	if f.MachineID != nil {
		q.and("r.machine_id = ?", pgUUID(*f.MachineID))
	}
	q.text("r.code = ?", f.Code)
	q.text("r.status = ?", f.Status)
	q.text("r.severity = ?", f.Severity)
	q.text("r.scale_set = ?", f.ScaleSet)
	if f.ExemptionEndsBefore != nil {
		q.and("r.status = 'exempt' AND r.exemption_expires_at < ?", *f.ExemptionEndsBefore)
	}
	q.page("r.recommendation_id", before, page)
	rows, _ := s.pool.Query(ctx, q.sql.String(), q.args...)
	items, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Recommendation, error) { return scanRecommendation(row) })
	if err != nil {
		return nil, "", fmt.Errorf("list recommendations: %w", err)
	}
	items, next = cut(items, page, "recommendations", func(r Recommendation) []string { return []string{r.ID.String()} })
	return items, next, nil
}

// GetRecommendation reads one recommendation. ErrNotFound.
func (s *Store) GetRecommendation(ctx context.Context, tenant, id uuid.UUID, now time.Time) (Recommendation, error) {
	r, err := scanRecommendation(s.pool.QueryRow(ctx, recommendationSelect+` AND r.recommendation_id = $3`, pgUUID(tenant), now, pgUUID(id)))
	if err != nil {
		return Recommendation{}, notFound(err, "recommendation", id)
	}
	return r, nil
}

// ExemptRecommendation exempts a recommendation until e.ExpiresAt (nil: for good); e.Reason and e.Comment are
// given. An earlier exemption is replaced. ErrNotFound; ErrConflict where it is resolved.
func (s *Store) ExemptRecommendation(ctx context.Context, tenant, id uuid.UUID, e Exemption, now time.Time, actor Actor) (Recommendation, error) {
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

// Overview is the fleet in numbers, as of one snapshot.
func (s *Store) Overview(ctx context.Context, tenant uuid.UUID, now time.Time) (Overview, error) {
	var o Overview
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		for _, c := range []struct {
			into *map[string]int64
			sql  string
		}{
			{&o.MachinesByStatus, `SELECT CASE WHEN last_verdict_id IS NULL THEN 'unattested' ELSE status END, count(*) FROM machines WHERE tenant_id = $1 AND $2::timestamptz IS NOT NULL GROUP BY 1`},
			{&o.MachinesByPlatform, `SELECT platform, count(*) FROM machines WHERE tenant_id = $1 AND $2::timestamptz IS NOT NULL GROUP BY 1`},
			{&o.OpenAlertsBySeverity, `SELECT a.severity, count(*)` + openAlerts + `AND NOT ` + isSuppressed + ` GROUP BY 1`},
			{&o.OpenAlertsByReason, `SELECT a.reason, count(*)` + openAlerts + `AND a.reason <> '' AND NOT ` + isSuppressed + ` GROUP BY 1`},
			{&o.RecommendationsByCode, `SELECT code, count(*) FROM (` + recommendationSelect + `) x WHERE status = 'active' GROUP BY 1`},
			{&o.RecommendationsBySev, `SELECT severity, count(*) FROM (` + recommendationSelect + `) x WHERE status = 'active' GROUP BY 1`},
			{&o.AssessmentsByStatus, `SELECT status, count(*) FROM assessments WHERE tenant_id = $1 AND $2::timestamptz IS NOT NULL AND code = 'guest_attestation_healthy' GROUP BY 1`},
		} {
			counts := map[string]int64{}
			rows, _ := tx.Query(ctx, c.sql, pgUUID(tenant), now)
			var word string
			var n int64
			if _, err := pgx.ForEachRow(rows, []any{&word, &n}, func() error { counts[word] = n; return nil }); err != nil {
				return err
			}
			*c.into = counts
		}
		for _, n := range o.MachinesByStatus {
			o.Machines += n
		}
		if err := tx.QueryRow(ctx, `SELECT count(*)`+openAlerts+`AND `+isSuppressed, pgUUID(tenant), now).Scan(&o.SuppressedAlerts); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, `SELECT st.last_seen_at, st.machine_id FROM machine_attestation_state st JOIN machines m USING (tenant_id, machine_id)
			WHERE st.tenant_id = $1 AND m.state = 'active' AND st.last_seen_at IS NOT NULL ORDER BY st.last_seen_at LIMIT 1`, pgUUID(tenant))
		var at time.Time
		var owner uuid.UUID
		_, err := pgx.ForEachRow(rows, []any{&at, &owner}, func() error {
			oldest, machine := at, owner
			o.OldestAttestation, o.OldestAttestationOwner = &oldest, &machine
			return nil
		})
		return err
	})
	if err != nil {
		return Overview{}, fmt.Errorf("overview: %w", err)
	}
	return o, nil
}
