package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/tee"
)

// CollateralWant is one row of collateral_wants. Wants are the bookkeeping of the job that fetches, and no change that
// an auditor looks for: what is fetched is.
type CollateralWant struct {
	tee.Want
	FirstWantedAt time.Time
	Attempts      int
	NextAttemptAt time.Time
	LastError     string
}

const (
	// wantAgain is how long a want that a check repeats is not written again.
	wantAgain = time.Hour
	// maxRecordWants and maxTenantWants bound what evidence, which anybody who is enrolled can make up, may ask for.
	maxRecordWants = 8
	maxTenantWants = 10_000
)

// newWants is what the record lacks that this process has not noted lately.
func (s *Store) newWants(tenant uuid.UUID, rec *AppraisalRecord) []tee.Want {
	var out []tee.Want
	for _, w := range rec.CollateralWants {
		if at, noted := s.wanted.get(collateralName{tenant, w.Kind, w.Name}); noted && rec.ReceivedAt.Sub(at) < wantAgain {
			continue
		}
		if len(out) == maxRecordWants {
			break
		}
		out = append(out, w)
	}
	return out
}

const insertWants = `INSERT INTO collateral_wants (tenant_id, kind, name, first_wanted_at, next_attempt_at)
	SELECT u.tenant_id, u.kind, u.name, u.at, u.at FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) u (tenant_id, kind, name, at)
	WHERE (SELECT count(*) FROM collateral_wants w WHERE w.tenant_id = u.tenant_id) < $5
	ORDER BY u.tenant_id, u.kind, u.name ON CONFLICT DO NOTHING`

func wantArgs(wants []collateralName, ats []time.Time) []any {
	var tenants []pgtype.UUID
	var kinds, names []string
	for _, w := range wants {
		tenants, kinds, names = append(tenants, pgUUID(w.tenant)), append(kinds, string(w.kind)), append(names, w.name)
	}
	return []any{tenants, kinds, names, ats, int64(maxTenantWants)}
}

// WantCollateral notes what should be fetched; what is noted already stays as it is.
func (s *Store) WantCollateral(ctx context.Context, tenant uuid.UUID, wants []tee.Want, now time.Time) error {
	ctx = withTenant(ctx, tenant)
	names := make([]collateralName, len(wants))
	for i, w := range wants {
		names[i] = collateralName{tenant, w.Kind, w.Name}
	}
	if _, err := s.pool.Exec(ctx, insertWants, wantArgs(names, slices.Repeat([]time.Time{now}, len(wants)))...); err != nil {
		return fmt.Errorf("note wanted collateral: %w", err)
	}
	return nil
}

// ClaimWants takes up to limit wants of those kinds that are due, longest waiting first, and moves them on by lease: no
// other replica gets them before, and a fetch that a crash ended is tried again after it.
func (s *Store) ClaimWants(ctx context.Context, tenant uuid.UUID, kinds []tee.Kind, limit int, lease time.Duration, now time.Time) ([]CollateralWant, error) {
	ctx = withTenant(ctx, tenant)
	rows, _ := s.pool.Query(ctx, `UPDATE collateral_wants w SET next_attempt_at = $5
		FROM (SELECT kind, name FROM collateral_wants WHERE tenant_id = $1 AND kind = ANY ($2) AND next_attempt_at <= $3
			ORDER BY next_attempt_at, kind, name LIMIT $4 FOR UPDATE SKIP LOCKED) due
		WHERE w.tenant_id = $1 AND w.kind = due.kind AND w.name = due.name
		RETURNING w.kind, w.name, w.first_wanted_at, w.attempts, w.next_attempt_at, w.last_error`, pgUUID(tenant), kinds, now, limit, now.Add(lease))
	wants, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (CollateralWant, error) {
		var w CollateralWant
		err := row.Scan(&w.Kind, &w.Name, &w.FirstWantedAt, &w.Attempts, &w.NextAttemptAt, &w.LastError)
		return w, err
	})
	if err != nil {
		return nil, fmt.Errorf("claim wanted collateral: %w", err)
	}
	slices.SortFunc(wants, func(a, b CollateralWant) int { return a.FirstWantedAt.Compare(b.FirstWantedAt) })
	return wants, nil
}

// WantSucceeded ends a want: what is held is what the vendor has.
func (s *Store) WantSucceeded(ctx context.Context, tenant uuid.UUID, w tee.Want) error {
	ctx = withTenant(ctx, tenant)
	if _, err := s.pool.Exec(ctx, `DELETE FROM collateral_wants WHERE tenant_id = $1 AND kind = $2 AND name = $3`, pgUUID(tenant), string(w.Kind), w.Name); err != nil {
		return fmt.Errorf("end the want of %s %s: %w", w.Kind, w.Name, err)
	}
	return nil
}

// WantFailed counts a failed fetch and says when to try again, and why it failed.
func (s *Store) WantFailed(ctx context.Context, tenant uuid.UUID, w tee.Want, next time.Time, reason string) error {
	ctx = withTenant(ctx, tenant)
	if _, err := s.pool.Exec(ctx, `UPDATE collateral_wants SET attempts = attempts + 1, next_attempt_at = $4, last_error = $5
		WHERE tenant_id = $1 AND kind = $2 AND name = $3`, pgUUID(tenant), string(w.Kind), w.Name, next, reason); err != nil {
		return fmt.Errorf("note the failed fetch of %s %s: %w", w.Kind, w.Name, err)
	}
	return nil
}

// ReleaseWant lets a want that was claimed and not tried be due again.
func (s *Store) ReleaseWant(ctx context.Context, tenant uuid.UUID, w tee.Want, now time.Time) error {
	ctx = withTenant(ctx, tenant)
	if _, err := s.pool.Exec(ctx, `UPDATE collateral_wants SET next_attempt_at = $4 WHERE tenant_id = $1 AND kind = $2 AND name = $3`,
		pgUUID(tenant), string(w.Kind), w.Name, now); err != nil {
		return fmt.Errorf("release the want of %s %s: %w", w.Kind, w.Name, err)
	}
	return nil
}

// PostponeWants lets no want of those kinds be due before next: their source asked to be left alone until then.
func (s *Store) PostponeWants(ctx context.Context, tenant uuid.UUID, kinds []tee.Kind, next time.Time) error {
	ctx = withTenant(ctx, tenant)
	if _, err := s.pool.Exec(ctx, `UPDATE collateral_wants SET next_attempt_at = $3 WHERE tenant_id = $1 AND kind = ANY ($2) AND next_attempt_at < $3`,
		pgUUID(tenant), kinds, next); err != nil {
		return fmt.Errorf("postpone wanted collateral: %w", err)
	}
	return nil
}

// PostponedUntil is until when the source of those kinds is left alone, and after how many failures in a row: the latest
// next attempt of a want whose last error begins with those words. The zero time: it is not.
func (s *Store) PostponedUntil(ctx context.Context, tenant uuid.UUID, kinds []tee.Kind, words string) (until time.Time, failures int, err error) {
	ctx = withTenant(ctx, tenant)
	var at pgtype.Timestamptz
	if err := s.pool.QueryRow(ctx, `SELECT max(next_attempt_at), coalesce(max(attempts), 0) FROM collateral_wants
		WHERE tenant_id = $1 AND kind = ANY ($2) AND starts_with(last_error, $3)`, pgUUID(tenant), kinds, words).Scan(&at, &failures); err != nil {
		return time.Time{}, 0, fmt.Errorf("read until when wanted collateral is postponed: %w", err)
	}
	return at.Time, failures, nil
}

// DropWants forgets the wants that were tried at least so often and first wanted before: nobody has what they name. A
// check that lacks it still notes it again.
func (s *Store) DropWants(ctx context.Context, tenant uuid.UUID, attempts int, before time.Time) (int64, error) {
	ctx = withTenant(ctx, tenant)
	tag, err := s.pool.Exec(ctx, `DELETE FROM collateral_wants WHERE tenant_id = $1 AND attempts >= $2 AND first_wanted_at < $3`, pgUUID(tenant), attempts, before)
	if err != nil {
		return 0, fmt.Errorf("forget wanted collateral: %w", err)
	}
	return tag.RowsAffected(), nil
}

// ListWants lists what is wanted, longest first, at most limit.
func (s *Store) ListWants(ctx context.Context, tenant uuid.UUID, limit int) ([]CollateralWant, error) {
	ctx = withTenant(ctx, tenant)
	rows, _ := s.pool.Query(ctx, `SELECT kind, name, first_wanted_at, attempts, next_attempt_at, last_error FROM collateral_wants
		WHERE tenant_id = $1 ORDER BY first_wanted_at, kind, name LIMIT $2`, pgUUID(tenant), limit)
	wants, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (CollateralWant, error) {
		var w CollateralWant
		err := row.Scan(&w.Kind, &w.Name, &w.FirstWantedAt, &w.Attempts, &w.NextAttemptAt, &w.LastError)
		return w, err
	})
	if err != nil {
		return nil, fmt.Errorf("list wanted collateral: %w", err)
	}
	return wants, nil
}
