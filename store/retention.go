package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Retention is how many days a tenant keeps what was judged.
type Retention struct {
	EvidenceDays int `json:"evidence_days"` // raw evidence and boot logs; 7 to 36,500 and not above VerdictDays
	VerdictDays  int `json:"verdict_days"`  // 30 to 36,500
	AuditDays    int `json:"audit_days"`    // 365 to 36,500
}

// DefaultRetention is what holds where nobody says otherwise: a quarter of evidence, a year of verdicts and the month in which it
// is looked back on, seven years of the audit record.
var DefaultRetention = Retention{EvidenceDays: 90, VerdictDays: 400, AuditDays: 2557}

// Check refuses what the database would.
func (r Retention) Check() error {
	const most = 36500
	switch {
	case r.EvidenceDays < 7 || r.EvidenceDays > most:
		return fmt.Errorf("evidence is kept for 7 to %d days, and not for %d", most, r.EvidenceDays)
	case r.VerdictDays < 30 || r.VerdictDays > most:
		return fmt.Errorf("verdicts are kept for 30 to %d days, and not for %d", most, r.VerdictDays)
	case r.AuditDays < 365 || r.AuditDays > most:
		return fmt.Errorf("the audit record is kept for 365 to %d days, and not for %d", most, r.AuditDays)
	case r.EvidenceDays > r.VerdictDays:
		return fmt.Errorf("evidence (%d days) is not kept for longer than verdicts (%d days)", r.EvidenceDays, r.VerdictDays)
	}
	return nil
}

// RetentionPolicy is a tenant's decision. UpdatedAt is zero where it has made none.
type RetentionPolicy struct {
	Retention
	UpdatedBy string
	UpdatedAt time.Time
}

// GetRetention reads the tenant's retention; standard is that of the service.
func (s *Store) GetRetention(ctx context.Context, tenant uuid.UUID, standard Retention) (RetentionPolicy, error) {
	ctx = withTenant(ctx, tenant)
	return readRetention(ctx, s.pool, tenant, standard)
}

// querierRow is what reads one row: a pool or a transaction.
type querierRow interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func readRetention(ctx context.Context, db querierRow, tenant uuid.UUID, standard Retention) (RetentionPolicy, error) {
	p := RetentionPolicy{Retention: standard}
	err := db.QueryRow(ctx, `SELECT evidence_days, verdict_days, audit_days, updated_by, updated_at FROM retention_policies WHERE tenant_id = $1`, pgUUID(tenant)).
		Scan(&p.EvidenceDays, &p.VerdictDays, &p.AuditDays, &p.UpdatedBy, &p.UpdatedAt)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return p, fmt.Errorf("read the retention: %w", err)
	}
	return p, nil
}

// PutRetention sets the tenant's retention. It holds from the next round of the job on.
func (s *Store) PutRetention(ctx context.Context, tenant uuid.UUID, r, standard Retention, now time.Time, actor Actor) (RetentionPolicy, error) {
	ctx = withTenant(ctx, tenant)
	if err := r.Check(); err != nil {
		return RetentionPolicy{}, err
	}
	out := RetentionPolicy{Retention: r, UpdatedBy: actor.String(), UpdatedAt: now}
	return out, s.inTx(ctx, func(tx pgx.Tx) error {
		before, err := readRetention(ctx, tx, tenant, standard)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO retention_policies (tenant_id, evidence_days, verdict_days, audit_days, updated_by, updated_at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (tenant_id) DO UPDATE SET evidence_days = EXCLUDED.evidence_days, verdict_days = EXCLUDED.verdict_days, audit_days = EXCLUDED.audit_days,
				updated_by = EXCLUDED.updated_by, updated_at = EXCLUDED.updated_at`,
			tenant, r.EvidenceDays, r.VerdictDays, r.AuditDays, out.UpdatedBy, now); err != nil {
			return fmt.Errorf("set the retention: %w", err)
		}
		return audit(ctx, tx, tenant, now, actor, "retention.update", "retention:"+tenant.String(), before.Retention, r)
	})
}

// RetentionMark is up to where a series was pruned: from its beginning, so that a verifier of its chain begins behind it.
type RetentionMark struct {
	Kind     string // audit_events, verdicts or evidence
	Subject  uuid.UUID
	LastID   uuid.UUID
	LastHash []byte // nil where it had none
	Count    int64
	PrunedAt time.Time
}

// GetRetentionMark reads a mark; ErrNotFound where nothing of the series was pruned. subject is the machine of verdicts, else
// the tenant.
func (s *Store) GetRetentionMark(ctx context.Context, tenant uuid.UUID, kind string, subject uuid.UUID) (RetentionMark, error) {
	ctx = withTenant(ctx, tenant)
	m := RetentionMark{Kind: kind, Subject: subject}
	err := s.pool.QueryRow(ctx, `SELECT pruned_id, pruned_hash, pruned_count, pruned_at FROM retention_marks WHERE tenant_id = $1 AND kind = $2 AND subject_id = $3`,
		pgUUID(tenant), kind, pgUUID(subject)).Scan(&m.LastID, &m.LastHash, &m.Count, &m.PrunedAt)
	if err != nil {
		return m, notFound(err, "retention mark of "+kind, subject)
	}
	return m, nil
}

// WasPruned tells whether what has that id may have been pruned: the tenant has pruned rows of that age or a later one. It says
// nothing of whether there ever was such a row, of this tenant or another.
func (s *Store) WasPruned(ctx context.Context, tenant uuid.UUID, kind string, id uuid.UUID) (bool, error) {
	ctx = withTenant(ctx, tenant)
	var pruned bool
	err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM retention_marks WHERE tenant_id = $1 AND kind = $2 AND pruned_id >= $3)`,
		pgUUID(tenant), kind, pgUUID(id)).Scan(&pruned)
	if err != nil {
		return false, fmt.Errorf("read the retention marks: %w", err)
	}
	return pruned, nil
}

// Pruned is what a round took out.
type Pruned struct {
	Evidence, BootLogs, Verdicts, AuditEvents, Answers int64
}

// The rows of one transaction of pruning, and how long it waits for a lock: those who come after it must not wait long behind it.
const (
	prunePage     = 500
	pruneLockWait = `SET LOCAL lock_timeout = '2s'`
)

// What is taken out is decided in the database (migration 0024), by the right of the tables' owner. A verdict is needed, and stays, where it
// is the machine's standing one or the last genuine one, where an alert that is open rests on it, where a baseline version that is not
// retired was taken from it, or where the machine was moved to a version by it; its evidence stays with it.
//
// Where a machine boots back into a boot log at the very moment when it is taken out, its evidence names a log that is gone: it is asked
// for the log again at its next attestation (event_log_required).
const (
	pruneVerdicts = `SELECT pruned, reached FROM assay_prune_verdicts($1, $2, $3, $4, $5)`
	pruneEvidence = `SELECT pruned, reached FROM assay_prune_evidence($1, $2, $3, $4, $5)`
	pruneLogs     = `SELECT assay_prune_boot_logs($1, $2, $3)`
)

// PruneTenant takes out what the tenant keeps no longer, in pages of a transaction each. Events of the audit record go by its one way
// out (assay_prune_audit); each page is recorded in the audit record itself.
func (s *Store) PruneTenant(ctx context.Context, tenant uuid.UUID, standard Retention, now time.Time) (Pruned, error) {
	ctx = withTenant(ctx, tenant)
	var out Pruned
	r, err := s.GetRetention(ctx, tenant, standard)
	if err != nil {
		return out, err
	}
	// Where this host's clock is ahead nothing young must go: the earlier of the two clocks counts.
	var there time.Time
	if err := s.pool.QueryRow(ctx, `SELECT now()`).Scan(&there); err != nil {
		return out, fmt.Errorf("read the database's clock: %w", err)
	}
	if there.Before(now) {
		now = there
	}
	bound := func(days int) time.Time { return now.AddDate(0, 0, -days) }
	if out.Evidence, err = s.prunePages(ctx, tenant, "evidence", pruneEvidence, bound(r.EvidenceDays), now); err != nil {
		return out, err
	}
	if out.BootLogs, err = s.pruneWhile(ctx, func(tx pgx.Tx) (int64, error) {
		var n int64
		err := tx.QueryRow(ctx, pruneLogs, pgUUID(tenant), bound(r.EvidenceDays), prunePage).Scan(&n)
		return n, err
	}); err != nil {
		return out, fmt.Errorf("prune boot logs: %w", err)
	}
	if out.Verdicts, err = s.prunePages(ctx, tenant, "verdicts", pruneVerdicts, bound(r.VerdictDays), now); err != nil {
		return out, err
	}
	if out.AuditEvents, err = s.pruneAudit(ctx, tenant, bound(r.AuditDays), now); err != nil {
		return out, err
	}
	out.Answers, err = s.pruneWhile(ctx, func(tx pgx.Tx) (int64, error) {
		tag, err := tx.Exec(ctx, `DELETE FROM idempotency_keys WHERE tenant_id = $1 AND (principal, key) IN
			(SELECT principal, key FROM idempotency_keys WHERE tenant_id = $1 AND expires_at < $2 LIMIT $3)`, pgUUID(tenant), now, prunePage)
		return tag.RowsAffected(), err
	})
	if err != nil {
		return out, fmt.Errorf("prune kept answers: %w", err)
	}
	return out, nil
}

// pruneWhile does pages until one is not full.
func (s *Store) pruneWhile(ctx context.Context, page func(tx pgx.Tx) (int64, error)) (total int64, err error) {
	for {
		var n int64
		err := s.inTx(ctx, func(tx pgx.Tx) (err error) {
			if _, err := tx.Exec(ctx, pruneLockWait); err != nil {
				return err
			}
			n, err = page(tx)
			return err
		})
		total += n
		if err != nil || n < prunePage {
			return total, err
		}
	}
}

// prunePages walks the ids below the bound, page by page, and deletes what the statement says.
func (s *Store) prunePages(ctx context.Context, tenant uuid.UUID, kind, statement string, before, now time.Time) (total int64, err error) {
	after, bound := pgtype.UUID{Valid: true}, idBound(before.UnixMilli()) // from the nil UUID, below all, on
	for {
		var n int64
		var last pgtype.UUID
		err := s.inTx(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, pruneLockWait); err != nil {
				return err
			}
			if err := tx.QueryRow(ctx, statement, pgUUID(tenant), after, pgUUID(bound), prunePage, now).Scan(&n, &last); err != nil {
				return err
			}
			return auditPruned(ctx, tx, tenant, kind, n, before, now)
		})
		if err != nil {
			return total, fmt.Errorf("prune %s: %w", kind, err)
		}
		total += n
		if !last.Valid {
			return total, nil
		}
		after = last
	}
}

func (s *Store) pruneAudit(ctx context.Context, tenant uuid.UUID, before, now time.Time) (int64, error) {
	total := int64(0)
	for {
		var n int64
		err := s.inTx(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, pruneLockWait); err != nil {
				return err
			}
			if err := tx.QueryRow(ctx, `SELECT assay_prune_audit($1, $2, $3, $4)`, pgUUID(tenant), pgUUID(idBound(before.UnixMilli())), prunePage, now).Scan(&n); err != nil {
				return err
			}
			return auditPruned(ctx, tx, tenant, "audit_events", n, before, now)
		})
		if err != nil {
			return total, fmt.Errorf("prune the audit record: %w", err)
		}
		if total += n; n == 0 {
			return total, nil
		}
	}
}

func auditPruned(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, kind string, n int64, before, now time.Time) error {
	if n == 0 {
		return nil
	}
	return audit(ctx, tx, tenant, now, Actor{Kind: "system", ID: "retention"}, "retention.prune", kind+":", nil, map[string]any{"rows": n, "before": before.UTC()})
}

// DropEmptyPartitions drops the months before now of which no tenant has a row left. It gives up at a table that is being read
// for long; the next round tries again.
func (s *Store) DropEmptyPartitions(ctx context.Context, now time.Time) (dropped int, err error) {
	for _, table := range []string{"verdicts", "evidence", "audit_events"} {
		err := s.inTx(beforeTenant(ctx), func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, pruneLockWait); err != nil {
				return err
			}
			var n int
			err := tx.QueryRow(ctx, `SELECT assay_drop_empty_partitions($1::text::regclass, $2)`, table, now).Scan(&n)
			dropped += n
			return err
		})
		if err != nil && !isCode(err, "55P03") { // lock_not_available
			return dropped, fmt.Errorf("drop partitions of %s: %w", table, err)
		}
	}
	return dropped, nil
}
