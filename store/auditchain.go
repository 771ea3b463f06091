package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// lockAuditHeads locks the heads of the audit chains of several tenants in one order, as the last thing before a commit that
// writes events of them: the triggers that append at commit come in the order of the events, which differs between replicas.
// Of one tenant there is nothing to order, and the trigger locks.
func lockAuditHeads(ctx context.Context, tx pgx.Tx, tenants []pgtype.UUID) error {
	if !slices.ContainsFunc(tenants, func(t pgtype.UUID) bool { return t != tenants[0] }) {
		return nil
	}
	if _, err := tx.Exec(ctx, `SELECT 1 FROM audit_heads WHERE tenant_id = ANY ($1) ORDER BY tenant_id FOR UPDATE`, tenants); err != nil {
		return fmt.Errorf("lock the audit chains: %w", err)
	}
	return nil
}

// AuditEvent is an entry of the record of changes.
type AuditEvent struct {
	ID            uuid.UUID
	At            time.Time
	Actor         Actor
	Action        string
	Target        string  // kind:id
	Before, After *string // JSON, as it is stored; nil for null
	// Seq is its place in the tenant's chain, negative for an event from before the chain; nil while such an event is not chained
	// yet, and then the hashes are nil too.
	Seq            *int64
	PrevHash, Hash []byte
}

// AuditFilter narrows ListAuditEvents; an empty member lets all through.
type AuditFilter struct {
	ActorKind, ActorID string
	Action             string // may hold several with commas between them
	Target             string // a whole one; with TargetKind only the part before the colon
	TargetKind         string
	RequestID          string
	Since, Until       *time.Time
}

const auditColumns = `a.event_id, a.at, a.actor_kind, a.actor_id, a.remote_addr, a.request_id, a.action, a.target, a.before::text, a.after::text, c.seq, c.prev_hash, c.hash`

func scanAuditEvent(row pgx.Row) (e AuditEvent, err error) {
	err = row.Scan(&e.ID, &e.At, &e.Actor.Kind, &e.Actor.ID, &e.Actor.RemoteAddr, &e.Actor.RequestID, &e.Action, &e.Target, &e.Before, &e.After,
		&e.Seq, &e.PrevHash, &e.Hash)
	return e, err
}

var auditList = listing[AuditEvent]{
	name: "audit-events", columns: auditColumns, scan: scanAuditEvent, initial: "-id",
	sorts: map[string][]sortKey{
		"id":  ids("a.event_id"),
		"at":  ids("a.event_id"), // the id is made of that time
		"seq": byNumber("c.seq"),
	},
}

// ListAuditEvents lists the record of changes, newest first. By seq it lists what is chained, which all is but for events
// from before the chain, until those have been chained too.
func (s *Store) ListAuditEvents(ctx context.Context, tenant uuid.UUID, f AuditFilter, page Page) (items []AuditEvent, next string, err error) {
	ctx = withTenant(ctx, tenant)
	return auditList.page(ctx, s.pool, auditQuery(tenant, f, page.Sort), page)
}

func auditQuery(tenant uuid.UUID, f AuditFilter, sort string) *query {
	tables := ` FROM audit_events a LEFT JOIN audit_chain c ON c.tenant_id = a.tenant_id AND c.event_id = a.event_id WHERE a.tenant_id = $1`
	if sort == "seq" || sort == "-seq" {
		tables = ` FROM audit_chain c JOIN audit_events a ON a.tenant_id = c.tenant_id AND a.event_id = c.event_id WHERE c.tenant_id = $1`
	}
	q := newQuery(tables, tenant)
	q.oneOf("a.actor_kind", f.ActorKind)
	q.text("a.actor_id = ?", f.ActorID)
	q.oneOf("a.action", f.Action)
	q.text("a.target = ?", f.Target)
	if f.TargetKind != "" {
		q.and("a.target ^@ ?", f.TargetKind+":")
	}
	q.text("a.request_id = ?", f.RequestID)
	if f.Since != nil {
		q.and("a.at >= ?", *f.Since)
		q.and("a.event_id >= ?", pgUUID(idBound(f.Since.UnixMilli()))) // in terms of the key and the partitions
	}
	if f.Until != nil {
		q.and("a.at <= ?", *f.Until)
		q.and("a.event_id < ?", pgUUID(idBound(f.Until.UnixMilli()+1)))
	}
	return q
}

// GetAuditEvent reads one event. ErrNotFound.
func (s *Store) GetAuditEvent(ctx context.Context, tenant, id uuid.UUID) (AuditEvent, error) {
	ctx = withTenant(ctx, tenant)
	q := auditQuery(tenant, AuditFilter{}, "")
	q.and("a.event_id = ?", pgUUID(id))
	e, err := scanAuditEvent(s.pool.QueryRow(ctx, `SELECT `+auditColumns+q.sql.String(), q.args...))
	if err != nil {
		return AuditEvent{}, notFound(err, "audit event", id)
	}
	return e, nil
}

// chainer is who chains events from before the chain, in the audit record.
var chainer = Actor{Kind: "system", ID: "audit-chain"}

// ChainEarlierAudit chains up to limit of the events that were written before there was a chain, and says how many; fewer than
// limit where they have all been chained. That they have been is then said by an event of the chain, once, with their number and the hash of
// the last: so the chain, and with it each later checkpoint, covers them. Replicas may do so at once.
func (s *Store) ChainEarlierAudit(ctx context.Context, tenant uuid.UUID, limit int, now time.Time) (n int, err error) {
	ctx = withTenant(ctx, tenant)
	var left bool // asked without the lock that every writer needs
	if err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM audit_heads WHERE tenant_id = $1 AND NOT earlier_done)`, pgUUID(tenant)).Scan(&left); err != nil || !left {
		return 0, err
	}
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT assay_chain_earlier($1, $2)`, pgUUID(tenant), limit).Scan(&n); err != nil || n == limit {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE audit_heads SET earlier_done = true WHERE tenant_id = $1 AND NOT earlier_done`, pgUUID(tenant))
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		var last pgtype.Int8
		var hash []byte
		err = tx.QueryRow(ctx, `SELECT min(seq), (array_agg(hash ORDER BY seq))[1] FROM (SELECT seq, hash FROM audit_chain
			WHERE tenant_id = $1 AND seq < 0 ORDER BY seq LIMIT 1) c`, pgUUID(tenant)).Scan(&last, &hash)
		if err != nil || !last.Valid {
			return err
		}
		return audit(ctx, tx, tenant, now, chainer, "audit.earlier_chained", "tenant:"+tenant.String(), nil,
			map[string]any{"events": -last.Int64, "seq": last.Int64, "hash": hex.EncodeToString(hash)})
	})
	if err != nil {
		return 0, fmt.Errorf("chain earlier audit events: %w", err)
	}
	return n, nil
}
