package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// RecommendationEvent is one entry of a recommendation's history: what was decided about it, and when that ended.
type RecommendationEvent struct {
	ID        uuid.UUID
	At        time.Time
	Kind      string // exempted, unexempted, exemption_ended
	Actor     string // kind:id
	Reason    string // waiver, mitigated; empty but for exempted
	Comment   string
	ExpiresAt *time.Time
}

func noteExemption(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID, e RecommendationEvent) error {
	_, err := tx.Exec(ctx, `INSERT INTO recommendation_events (tenant_id, recommendation_id, event_id, at, kind, actor, reason, comment, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, pgUUID(tenant), pgUUID(id), pgUUID(newID(e.At)), e.At, e.Kind, e.Actor, e.Reason, e.Comment, e.ExpiresAt)
	if err != nil {
		return fmt.Errorf("note what became of recommendation %s: %w", id, err)
	}
	return nil
}

var recommendationHistoryList = listing[RecommendationEvent]{
	name: "recommendation_history", columns: "event_id, at, kind, actor, reason, comment, expires_at", initial: "-id",
	sorts: map[string][]sortKey{"id": ids("event_id")},
	scan: func(row pgx.Row) (e RecommendationEvent, err error) {
		err = row.Scan(&e.ID, &e.At, &e.Kind, &e.Actor, &e.Reason, &e.Comment, &e.ExpiresAt)
		return e, err
	},
}

// RecommendationHistory lists what was decided about a recommendation, newest first. ErrNotFound: no such recommendation.
func (s *Store) RecommendationHistory(ctx context.Context, tenant, id uuid.UUID, page Page, now time.Time) (items []RecommendationEvent, next string, err error) {
	ctx = withTenant(ctx, tenant)
	if err := recommendationHistoryList.check(page); err != nil {
		return nil, "", err
	}
	if _, err := s.GetRecommendation(ctx, tenant, id, now); err != nil {
		return nil, "", err
	}
	q := newQuery(` FROM recommendation_events WHERE tenant_id = $1`, tenant)
	q.and("recommendation_id = ?", pgUUID(id))
	return recommendationHistoryList.page(ctx, s.pool, q, page)
}

const clearExemption = `exemption_reason = NULL, exemption_comment = '', exemption_expires_at = NULL, exemption_by = '', exemption_at = NULL`

// UnexemptRecommendation ends an exemption by hand: the recommendation counts again. ErrNotFound; *StateError where it is not
// exempt.
func (s *Store) UnexemptRecommendation(ctx context.Context, tenant, id uuid.UUID, comment string, now time.Time, actor Actor) (Recommendation, error) {
	ctx = withTenant(ctx, tenant)
	var r Recommendation
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		was, err := lockRecommendation(ctx, tx, tenant, id, now)
		if err != nil {
			return err
		}
		if was.Exemption == nil || was.Exemption.ended(now) {
			return &StateError{"the recommendation is not exempt"}
		}
		if _, err := tx.Exec(ctx, `UPDATE recommendations SET `+clearExemption+` WHERE tenant_id = $1 AND recommendation_id = $2`, pgUUID(tenant), pgUUID(id)); err != nil {
			return err
		}
		if err := noteExemption(ctx, tx, tenant, id, RecommendationEvent{At: now, Kind: "unexempted", Actor: actor.String(), Comment: comment}); err != nil {
			return err
		}
		if r, err = scanRecommendation(tx.QueryRow(ctx, recommendationSelect+` AND r.recommendation_id = $3`, pgUUID(tenant), now, pgUUID(id))); err != nil {
			return notFound(err, "recommendation", id)
		}
		return audit(ctx, tx, tenant, now, actor, "recommendation.unexempt", "recommendation:"+id.String(), was.Exemption.audited(), map[string]any{"comment": comment})
	})
	if err != nil {
		return Recommendation{}, fmt.Errorf("end the exemption of a recommendation: %w", err)
	}
	return r, nil
}

func (e *Exemption) ended(now time.Time) bool { return e.ExpiresAt != nil && !now.Before(*e.ExpiresAt) }

// audited is what the audit record keeps of an exemption; nil for none.
func (e *Exemption) audited() any {
	if e == nil {
		return nil
	}
	return map[string]any{"reason": e.Reason, "comment": e.Comment, "expires_at": e.ExpiresAt}
}

func lockRecommendation(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID, now time.Time) (Recommendation, error) {
	if _, err := tx.Exec(ctx, `SELECT FROM recommendations WHERE tenant_id = $1 AND recommendation_id = $2 FOR UPDATE`, pgUUID(tenant), pgUUID(id)); err != nil {
		return Recommendation{}, err
	}
	r, err := scanRecommendation(tx.QueryRow(ctx, recommendationSelect+` AND r.recommendation_id = $3`, pgUUID(tenant), now, pgUUID(id)))
	if err != nil {
		return r, notFound(err, "recommendation", id)
	}
	return r, nil
}

// exemptionsAtOnce bounds one transaction of EndExemptions.
const exemptionsAtOnce = 500

// EndExemptions takes away the exemptions whose time is over, with history, audit and, where the recommendation is open, an
// event recommendation.exemption_ended in the outbox. That they are over holds without it too: status goes by the time. It
// answers how many there were; several may run at once.
func (s *Store) EndExemptions(ctx context.Context, tenant uuid.UUID, now time.Time, actor Actor) (ended int, err error) {
	ctx = withTenant(ctx, tenant)
	for {
		n := 0
		err := s.inTx(ctx, func(tx pgx.Tx) error {
			var err error
			n, err = endExemptions(ctx, tx, tenant, now, actor)
			return err
		})
		if err != nil {
			return ended, fmt.Errorf("end exemptions: %w", err)
		}
		if ended += n; n < exemptionsAtOnce {
			return ended, nil
		}
	}
}

func endExemptions(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, now time.Time, actor Actor) (int, error) {
	type over struct {
		id, machine uuid.UUID
		code        string
		open        bool
		was         Exemption
	}
	rows, _ := tx.Query(ctx, `SELECT recommendation_id, machine_id, code, open, exemption_reason, exemption_comment, exemption_expires_at FROM recommendations
		WHERE tenant_id = $1 AND exemption_expires_at <= $2 ORDER BY exemption_expires_at LIMIT $3 FOR UPDATE SKIP LOCKED`, pgUUID(tenant), now, exemptionsAtOnce)
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (over, error) {
		var o over
		err := row.Scan(&o.id, &o.machine, &o.code, &o.open, &o.was.Reason, &o.was.Comment, &o.was.ExpiresAt)
		return o, err
	})
	if err != nil || len(list) == 0 {
		return 0, err
	}
	var b pgx.Batch
	ids := make([]pgtype.UUID, len(list))
	for i := range list {
		o := &list[i]
		ids[i] = pgUUID(o.id)
		if o.open {
			b.Queue(`INSERT INTO outbox (tenant_id, event_id, kind, subject_id, payload, created_at) VALUES ($1, $2, 'recommendation.exemption_ended', $3, $4, $5)`,
				pgUUID(tenant), pgUUID(newID(now)), pgUUID(o.id), map[string]any{"recommendation_id": o.id, "machine_id": o.machine, "code": o.code, "reason": o.was.Reason, "comment": o.was.Comment}, now)
		}
		args, err := auditArgs(tenant, now, actor, "recommendation.exemption_ended", "recommendation:"+o.id.String(), o.was.audited(), nil)
		if err != nil {
			return 0, err
		}
		b.Queue(insertAudit, args...)
		b.Queue(`INSERT INTO recommendation_events (tenant_id, recommendation_id, event_id, at, kind, actor, expires_at) VALUES ($1, $2, $3, $4, 'exemption_ended', $5, $6)`,
			pgUUID(tenant), pgUUID(o.id), pgUUID(newID(now)), now, actor.String(), o.was.ExpiresAt)
	}
	b.Queue(`UPDATE recommendations SET `+clearExemption+` WHERE tenant_id = $1 AND recommendation_id = ANY ($2)`, pgUUID(tenant), ids)
	return len(list), tx.SendBatch(ctx, &b).Close()
}
