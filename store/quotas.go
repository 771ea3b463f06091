package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// QuotaKind is what a quota counts.
type QuotaKind string

// The kinds.
const (
	QuotaMachines         QuotaKind = "machines"
	QuotaBaselines        QuotaKind = "baselines"         // but for those that first boots taught
	QuotaBaselineVersions QuotaKind = "baseline_versions" // likewise
	QuotaJoinTokens       QuotaKind = "join_tokens"       // that can still be used
	QuotaAPITokens        QuotaKind = "api_tokens"        // that have not expired
	QuotaChannels         QuotaKind = "notification_channels"
	QuotaEvidence         QuotaKind = "evidence_bytes_per_day" // of stored evidence, compressed, by days of UTC
)

// Unlimited is the quota that nothing exceeds.
const Unlimited int64 = math.MaxInt64

// quotaKinds are the kinds in the order in which they are shown, with their defaults and how what there is of them is counted: $1 is
// the tenant, $2 the time. A count is of the tenant's own rows by an index that begins with it.
var quotaKinds = []struct {
	kind    QuotaKind
	initial int64
	count   string
}{
	{QuotaMachines, Unlimited, `SELECT count(*) FROM machines WHERE tenant_id = $1 AND $2::timestamptz IS NOT NULL`},
	{QuotaBaselines, 10_000, `SELECT count(*) FROM baseline_versions WHERE tenant_id = $1 AND version = 1 AND origin <> 'learned' AND $2::timestamptz IS NOT NULL`},
	{QuotaBaselineVersions, 100_000, `SELECT count(*) FROM baseline_versions WHERE tenant_id = $1 AND origin <> 'learned' AND $2::timestamptz IS NOT NULL`},
	{QuotaJoinTokens, 10_000, `SELECT count(*) FROM join_tokens WHERE tenant_id = $1 AND expires_at > $2 AND uses_left > 0`},
	{QuotaAPITokens, 10_000, `SELECT count(*) FROM api_tokens WHERE tenant_id = $1 AND (expires_at IS NULL OR expires_at > $2)`},
	{QuotaChannels, 50 /* each may keep one worker of the service busy */, `SELECT count(*) FROM notification_channels WHERE tenant_id = $1 AND $2::timestamptz IS NOT NULL`},
	{QuotaEvidence, Unlimited, `SELECT coalesce(sum(octet_length(compressed)), 0) FROM evidence WHERE tenant_id = $1 AND verdict_id >= $2`},
}

// QuotaKinds are all kinds.
func QuotaKinds() []QuotaKind {
	out := make([]QuotaKind, len(quotaKinds))
	for i := range quotaKinds {
		out[i] = quotaKinds[i].kind
	}
	return out
}

// QuotaError is a change that would exceed a quota. Nothing was changed.
type QuotaError struct {
	Kind  QuotaKind
	Limit int64
	Used  int64 // without the change
	// Until is when the count begins anew; zero for what does not come back by itself.
	Until time.Time
}

// Error implements error.
func (e *QuotaError) Error() string {
	return fmt.Sprintf("the tenant has %d of %d %s", e.Used, e.Limit, e.Kind)
}

// Quota is how a tenant stands.
type Quota struct {
	Kind  QuotaKind
	Limit int64 // Unlimited for none
	Used  int64
	Own   bool // an operator set it for this tenant
}

func (s *Store) quotaDefault(kind QuotaKind) int64 {
	if n, set := s.quotas[kind]; set {
		return n
	}
	for i := range quotaKinds {
		if quotaKinds[i].kind == kind {
			return quotaKinds[i].initial
		}
	}
	return 0 // a kind that does not exist: nothing of it
}

// quotaLimit reads what a tenant may have of a kind.
func (s *Store) quotaLimit(ctx context.Context, q rowQuerier, tenant uuid.UUID, kind QuotaKind) (limit int64, own bool, err error) {
	var set *int64
	err = q.QueryRow(ctx, `SELECT max_count FROM tenant_quotas WHERE tenant_id = $1 AND kind = $2`, tenant, string(kind)).Scan(&set)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, false, fmt.Errorf("read the quota of %s: %w", kind, err)
	}
	if set == nil {
		return s.quotaDefault(kind), false, nil
	}
	return *set, true, nil
}

// rowQuerier is a pool or a transaction.
type rowQuerier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func countQuota(ctx context.Context, q rowQuerier, tenant uuid.UUID, kind QuotaKind, now time.Time) (n int64, err error) {
	for i := range quotaKinds {
		if quotaKinds[i].kind != kind {
			continue
		}
		var since any = now
		if kind == QuotaEvidence {
			since = firstID(dayOf(now))
		}
		if err := q.QueryRow(ctx, quotaKinds[i].count, tenant, since).Scan(&n); err != nil {
			return 0, fmt.Errorf("count %s: %w", kind, err)
		}
		return n, nil
	}
	return 0, fmt.Errorf("there is no quota of %s", kind)
}

// dayOf is the beginning of the day of UTC.
func dayOf(now time.Time) time.Time { return now.UTC().Truncate(24 * time.Hour) }

// firstID is the least UUIDv7 of a time.
func firstID(at time.Time) uuid.UUID {
	var id uuid.UUID
	ms := uint64(at.UnixMilli()) // #nosec G115 -- later than 1970
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id
}

// withinQuota refuses the transaction with a *QuotaError where what it has added exceeds a quota. It is to be the last
// statement: of two transactions the second waits here until the first has ended, and then counts what that has added; since nothing else
// is locked afterwards, no two wait for each other. What has no limit is not counted.
func (s *Store) withinQuota(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, kind QuotaKind, now time.Time) error {
	limit, _, err := s.quotaLimit(ctx, tx, tenant, kind)
	if err != nil || limit == Unlimited {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO tenant_quotas (tenant_id, kind) VALUES ($1, $2) ON CONFLICT DO NOTHING`, tenant, string(kind)); err != nil {
		return fmt.Errorf("lock the quota of %s: %w", kind, err)
	}
	if _, err := tx.Exec(ctx, `SELECT FROM tenant_quotas WHERE tenant_id = $1 AND kind = $2 FOR UPDATE`, tenant, string(kind)); err != nil {
		return fmt.Errorf("lock the quota of %s: %w", kind, err)
	}
	n, err := countQuota(ctx, tx, tenant, kind, now)
	if err != nil || n <= limit {
		return err
	}
	return &QuotaError{Kind: kind, Limit: limit, Used: n - 1}
}

// Quotas tells how a tenant stands.
func (s *Store) Quotas(ctx context.Context, tenant uuid.UUID, now time.Time) ([]Quota, error) {
	ctx = withTenant(ctx, tenant)
	out := make([]Quota, len(quotaKinds))
	for i := range quotaKinds {
		q := &out[i]
		q.Kind = quotaKinds[i].kind
		var err error
		if q.Limit, q.Own, err = s.quotaLimit(ctx, s.pool, tenant, q.Kind); err != nil {
			return nil, err
		}
		if q.Used, err = countQuota(ctx, s.pool, tenant, q.Kind, now); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// SetQuota sets a tenant's quota; nil is the service's default. What the tenant has above it stays. ErrNotFound: no such tenant, or
// no such kind.
func (s *Store) SetQuota(ctx context.Context, tenant uuid.UUID, kind QuotaKind, limit *int64, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	known := false
	for i := range quotaKinds {
		known = known || quotaKinds[i].kind == kind
	}
	if !known {
		return fmt.Errorf("quota %q: %w", kind, ErrNotFound)
	}
	defer s.evidence.Delete(tenant) // other processes count again within quotaAge
	return s.inTx(ctx, func(tx pgx.Tx) error {
		var there bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM tenants WHERE tenant_id = $1)`, tenant).Scan(&there); err != nil {
			return fmt.Errorf("set the quota of %s: %w", kind, err)
		}
		if !there {
			return fmt.Errorf("tenant %s: %w", tenant, ErrNotFound)
		}
		before, _, err := s.quotaLimit(ctx, tx, tenant, kind)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO tenant_quotas (tenant_id, kind, max_count, changed_at, changed_by) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (tenant_id, kind) DO UPDATE SET max_count = excluded.max_count, changed_at = excluded.changed_at, changed_by = excluded.changed_by`,
			tenant, string(kind), limit, now, actor.String()); err != nil {
			return fmt.Errorf("set the quota of %s: %w", kind, err)
		}
		return audit(ctx, tx, tenant, now, actor, "quota.set", "quota:"+string(kind), map[string]any{"limit": before}, map[string]any{"limit": limit})
	})
}

// quotaAge is for how long what a tenant has stored of evidence is known without being counted again. Replicas count apart, so
// that a tenant can exceed its quota by what the others store meanwhile.
const quotaAge = 10 * time.Second

// storedToday is what a tenant has stored of evidence today, as far as this process knows.
type storedToday struct {
	mu           sync.Mutex
	day, counted time.Time
	limit, used  int64
}

// reserveEvidence refuses evidence that would exceed what a tenant may store in a day. It is asked for a change of judgement
// only: evidence that changes nothing is not stored. What is refused is no verdict: a machine that is not judged is overdue, which is
// seen, where one that is judged and whose evidence is not kept could not be judged again.
func (s *Store) reserveEvidence(ctx context.Context, tenant uuid.UUID, bytes int, now time.Time) error {
	ctx = withTenant(ctx, tenant)
	held, _ := s.evidence.LoadOrStore(tenant, &storedToday{})
	t := held.(*storedToday)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.day.Equal(dayOf(now)) || now.Sub(t.counted) >= quotaAge || now.Before(t.counted) {
		limit, _, err := s.quotaLimit(ctx, s.pool, tenant, QuotaEvidence)
		if err != nil {
			return err
		}
		var used int64
		if limit != Unlimited {
			if used, err = countQuota(ctx, s.pool, tenant, QuotaEvidence, now); err != nil {
				return err
			}
		}
		t.day, t.counted, t.limit, t.used = dayOf(now), now, limit, used
	}
	if t.limit == Unlimited {
		return nil
	}
	if t.used+int64(bytes) > t.limit {
		return &QuotaError{Kind: QuotaEvidence, Limit: t.limit, Used: t.used, Until: t.day.Add(24 * time.Hour)}
	}
	t.used += int64(bytes)
	return nil
}
