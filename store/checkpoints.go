package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/verifier/chain"
)

// keptHeads is of how many of the newest checkpoints the leaves of the tree are kept.
const keptHeads = 24

// AuditCheckpoint is a signed statement of how far the chains of a tenant reached.
type AuditCheckpoint struct {
	ID                 uuid.UUID
	Number             int64
	At                 time.Time
	AuditSeq           int64
	AuditHash          []byte
	Machines, Verdicts int64
	VerdictRoot        []byte
	KeyID              string
	Statement          string // compact JWS
}

const checkpointColumns = `k.checkpoint_id, k.number, k.at, k.audit_seq, k.audit_hash, k.machines, k.verdicts, k.verdict_root, k.key_id, k.statement`

func scanCheckpoint(row pgx.Row) (c AuditCheckpoint, err error) {
	err = row.Scan(&c.ID, &c.Number, &c.At, &c.AuditSeq, &c.AuditHash, &c.Machines, &c.Verdicts, &c.VerdictRoot, &c.KeyID, &c.Statement)
	return c, err
}

var checkpointList = listing[AuditCheckpoint]{
	name: "audit-checkpoints", columns: checkpointColumns, scan: scanCheckpoint, initial: "-number",
	sorts: map[string][]sortKey{"number": byNumber("k.number")},
}

// ListAuditCheckpoints lists checkpoints, newest first.
func (s *Store) ListAuditCheckpoints(ctx context.Context, tenant uuid.UUID, page Page) (items []AuditCheckpoint, next string, err error) {
	ctx = withTenant(ctx, tenant)
	return checkpointList.page(ctx, s.pool, newQuery(` FROM audit_checkpoints k WHERE k.tenant_id = $1`, tenant), page)
}

// GetAuditCheckpoint reads one. ErrNotFound.
func (s *Store) GetAuditCheckpoint(ctx context.Context, tenant, id uuid.UUID) (AuditCheckpoint, error) {
	ctx = withTenant(ctx, tenant)
	c, err := scanCheckpoint(s.pool.QueryRow(ctx, `SELECT `+checkpointColumns+` FROM audit_checkpoints k WHERE k.tenant_id = $1 AND k.checkpoint_id = $2`, pgUUID(tenant), pgUUID(id)))
	if err != nil {
		return AuditCheckpoint{}, notFound(err, "audit checkpoint", id)
	}
	return c, nil
}

// MakeAuditCheckpoint makes the tenant's next checkpoint. sign signs the statement and says with which key. Both chains are
// read in one snapshot, so that every verdict of the tree has its event in the audit chain. With unless set, none is made
// where the last is younger than that, or nothing was written since: ErrNoCheckpoint. Of replicas that make one at once,
// one does; the other gets ErrConflict, or ErrNoCheckpoint at the next try.
func (s *Store) MakeAuditCheckpoint(ctx context.Context, tenant uuid.UUID, unless time.Duration, now time.Time, actor Actor,
	sign func(chain.Checkpoint) (statement, keyID string, err error)) (AuditCheckpoint, error) {
	ctx = withTenant(ctx, tenant)
	var c, last AuditCheckpoint
	var heads chain.Heads
	read := func(tx pgx.Tx) (err error) {
		last, err = scanCheckpoint(tx.QueryRow(ctx, `SELECT `+checkpointColumns+` FROM audit_checkpoints k WHERE k.tenant_id = $1 ORDER BY k.number DESC LIMIT 1`, pgUUID(tenant)))
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if unless > 0 && last.Number > 0 && now.Sub(last.At) < unless {
			return ErrNoCheckpoint
		}
		c = AuditCheckpoint{ID: newID(now), Number: last.Number + 1, At: now.UTC().Truncate(time.Microsecond), AuditHash: make([]byte, chain.Size)}
		err = tx.QueryRow(ctx, `SELECT seq, hash FROM audit_chain WHERE tenant_id = $1 AND seq > 0 ORDER BY seq DESC LIMIT 1`, pgUUID(tenant)).Scan(&c.AuditSeq, &c.AuditHash)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		// The event about the last checkpoint is the only one since: nothing has happened.
		if unless > 0 && last.Number > 0 && c.AuditSeq <= last.AuditSeq+1 {
			return ErrNoCheckpoint
		}
		heads, err = readHeads(ctx, tx, tenant, &c)
		return err
	}
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, read)
	if err == nil { // written in a transaction of its own, which sees the head of the audit chain as it is then
		err = s.inTx(ctx, func(tx pgx.Tx) error { return storeCheckpoint(ctx, tx, tenant, &c, &last, heads, now, actor, sign) })
	}
	if isViolation(err, "audit_checkpoints_number") {
		err = fmt.Errorf("somebody else makes a checkpoint: %w", ErrConflict)
	}
	if err != nil {
		return AuditCheckpoint{}, fmt.Errorf("make a checkpoint: %w", err)
	}
	return c, nil
}

// readHeads reads the last verdict of every machine that has a chain.
func readHeads(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, c *AuditCheckpoint) (chain.Heads, error) {
	rows, err := tx.Query(ctx, `SELECT machine_id, verdict_seq, verdict_hash FROM machines WHERE tenant_id = $1 AND verdict_seq > 0 ORDER BY machine_id`, pgUUID(tenant))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var heads chain.Heads
	for rows.Next() {
		var h chain.Head
		var hash []byte
		if err := rows.Scan(&h.MachineID, &h.Seq, &hash); err != nil {
			return nil, err
		}
		if len(hash) != chain.Size {
			return nil, fmt.Errorf("the head of machine %s has no hash", uuid.UUID(h.MachineID))
		}
		h.Hash = chain.Hash(hash)
		heads = h.Append(heads)
		c.Machines, c.Verdicts = c.Machines+1, c.Verdicts+h.Seq
	}
	root := heads.Root()
	c.VerdictRoot = root[:]
	return heads, rows.Err()
}

func storeCheckpoint(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, c, last *AuditCheckpoint, heads chain.Heads, now time.Time, actor Actor,
	sign func(chain.Checkpoint) (statement, keyID string, err error)) error {
	said := chain.NewCheckpoint(tenant.String(), c.ID.String(), c.At)
	said.Number = c.Number
	said.Audit.Seq, said.Audit.Hash = c.AuditSeq, hex.EncodeToString(c.AuditHash)
	said.Verdicts.Machines, said.Verdicts.Count, said.Verdicts.Root = c.Machines, c.Verdicts, hex.EncodeToString(c.VerdictRoot)
	var previous []byte
	if last.Number > 0 {
		hash := chain.StatementHash(last.Statement)
		said.Previous = &hash
		previous, _ = hex.DecodeString(hash)
	}
	var err error
	if c.Statement, c.KeyID, err = sign(said); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO audit_checkpoints (tenant_id, checkpoint_id, number, at, audit_seq, audit_hash, machines, verdicts, verdict_root, previous, key_id, statement)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`, pgUUID(tenant), pgUUID(c.ID), c.Number, c.At, c.AuditSeq, c.AuditHash, c.Machines, c.Verdicts,
		c.VerdictRoot, previous, c.KeyID, c.Statement); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO audit_checkpoint_heads (tenant_id, checkpoint_id, heads) VALUES ($1, $2, $3)`, pgUUID(tenant), pgUUID(c.ID), append([]byte{}, heads...)); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM audit_checkpoint_heads h USING audit_checkpoints k WHERE h.tenant_id = $1 AND k.tenant_id = $1
		AND k.checkpoint_id = h.checkpoint_id AND k.number <= $2`, pgUUID(tenant), c.Number-keptHeads); err != nil {
		return err
	}
	return audit(ctx, tx, tenant, now, actor, "audit.checkpoint", "audit_checkpoint:"+c.ID.String(), nil,
		map[string]any{"number": c.Number, "audit_seq": c.AuditSeq, "machines": c.Machines, "verdicts": c.Verdicts, "statement_sha256": chain.StatementHash(c.Statement)})
}

// CheckpointWithHeads reads the newest checkpoint and the leaves of its tree. ErrNotFound where there is none.
func (s *Store) CheckpointWithHeads(ctx context.Context, tenant uuid.UUID) (AuditCheckpoint, chain.Heads, error) {
	ctx = withTenant(ctx, tenant)
	var heads []byte
	var c AuditCheckpoint
	err := s.pool.QueryRow(ctx, `SELECT `+checkpointColumns+`, h.heads FROM audit_checkpoints k
		JOIN audit_checkpoint_heads h ON h.tenant_id = k.tenant_id AND h.checkpoint_id = k.checkpoint_id
		WHERE k.tenant_id = $1 ORDER BY k.number DESC LIMIT 1`, pgUUID(tenant)).
		Scan(&c.ID, &c.Number, &c.At, &c.AuditSeq, &c.AuditHash, &c.Machines, &c.Verdicts, &c.VerdictRoot, &c.KeyID, &c.Statement, &heads)
	if err != nil {
		return AuditCheckpoint{}, nil, notFound(err, "audit checkpoint of tenant", tenant)
	}
	if err := chain.Heads(heads).Check(); err != nil {
		return AuditCheckpoint{}, nil, fmt.Errorf("audit checkpoint %s: %w", c.ID, err)
	}
	return c, heads, nil
}
