package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/ima"
)

// MachineScope chooses machines whose stored evidence is judged again. All that is given must hold; the zero value
// chooses every machine.
type MachineScope struct {
	Selector verifier.Selector `json:"selector,omitzero"`
	// AnchorFingerprints chooses the machines whose active key, or whose last hardware evidence, rests on one of these
	// certificates (SHA-256 in lower-case hex).
	AnchorFingerprints []string `json:"anchor_fingerprints,omitempty"`
	// PlatformTypes chooses the machines whose last genuine hardware evidence was of one of these types.
	PlatformTypes []string `json:"platform_types,omitempty"`
}

// StoredJudgement is a machine, what its evidence would be judged by today, and the evidence behind the verdict that
// stands, for judging it again.
type StoredJudgement struct {
	Inputs AppraisalInputs
	// VerdictID is the verdict that stands; uuid.Nil where the machine never attested. Policy is the one that it was
	// judged by, and Fingerprint that of the judgement; both only where they were asked for.
	VerdictID   uuid.UUID
	Policy      verifier.VersionRef
	Fingerprint []byte
	// EvidenceID is the verdict that the machine's evidence was first judged with, at EvidenceAt, by the key KeyID.
	EvidenceID uuid.UUID
	EvidenceAt time.Time
	KeyID      uuid.UUID
	// Genuine and Checks are of that first verdict. Checks is nil where it affirmed: then nothing failed or warned.
	Genuine bool
	Checks  []verifier.Check
	// Kept tells whether the evidence is held; EventLogHash and IMAFrom are of it.
	Kept         bool
	EventLogHash []byte
	IMAFrom      *ima.State

	contentType string
	size        int
	compressed  []byte // nil where it is too large to be read with others
}

// scoped adds the conditions of a scope on machines m.
func (q *query) scoped(s MachineScope) {
	if len(s.Selector.ScaleSet) > 0 {
		q.and("m.scale_set = ANY (?)", s.Selector.ScaleSet)
	}
	if len(s.Selector.Platform) > 0 {
		q.and("m.platform = ANY (?)", s.Selector.Platform)
	}
	if len(s.Selector.Labels) > 0 {
		q.and("m.labels @> ?", s.Selector.Labels)
	}
	if len(s.Selector.MachineIDs) > 0 {
		q.and("m.machine_id = ANY (?::text[]::uuid[])", s.Selector.MachineIDs)
	}
	if len(s.PlatformTypes) > 0 {
		q.and("m.platform_evidence_type = ANY (?)", s.PlatformTypes)
	}
	if len(s.AnchorFingerprints) > 0 {
		q.and(`(m.platform_root = ANY (?) OR EXISTS (SELECT FROM attestation_keys k WHERE k.tenant_id = m.tenant_id AND k.machine_id = m.machine_id
			AND k.state = 'active' AND k.anchor_fingerprint = ANY (?)))`, s.AnchorFingerprints)
	}
}

// CountMachinesIn counts the machines of a scope.
func (s *Store) CountMachinesIn(ctx context.Context, tenant uuid.UUID, scope MachineScope) (int64, error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(`SELECT count(*) FROM machines m WHERE m.tenant_id = $1`, tenant)
	q.scoped(scope)
	var n int64
	if err := s.pool.QueryRow(ctx, q.sql.String(), q.args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("count the machines in scope: %w", err)
	}
	return n, nil
}

// judgementColumns reads, for each of a page's machines, the verdict that stands, the first verdict of its evidence and
// that evidence. Parsing a stored appraisal costs Postgres more than all the rest, so that only what cannot be told
// without it is asked: $3 is whether the policy of the standing verdict is wanted.
const judgementColumns = `SELECT u.ord, v.verdict_id, CASE WHEN $3 THEN v.appraisal->'policy' END, coalesce(st.fingerprint, v.fingerprint),
		o.verdict_id, o.first_at, o.key_id, o.genuine, CASE WHEN o.status <> 'affirming' THEN o.appraisal->'checks' END,
		e.content_type, e.size, CASE WHEN octet_length(e.compressed) <= $4 THEN e.compressed END, e.event_log_digest, e.ima_from
	FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY u (tenant_id, machine_id, ord)
	JOIN machine_attestation_state st ON st.tenant_id = u.tenant_id AND st.machine_id = u.machine_id
	JOIN verdicts v ON v.tenant_id = st.tenant_id AND v.verdict_id = st.verdict_id
	JOIN verdicts o ON o.tenant_id = v.tenant_id AND o.verdict_id = coalesce(v.evidence_id, v.verdict_id)
	LEFT JOIN evidence e ON e.tenant_id = o.tenant_id AND e.verdict_id = o.verdict_id`

// byIndex tells the planner of one transaction that a page's handful of rows is found by index, one table after the other
// as they are written, however large the tables are and whatever is known of them.
const byIndex = `SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL join_collapse_limit = 1`

// StoredJudgements reads up to limit machines of a scope that come after a machine (uuid.Nil: from the first), in the
// order of their ids, all of one snapshot. The machines are fewer than limit where the last of the scope is among
// them. forRecord asks for what RecordReappraisals compares with.
func (s *Store) StoredJudgements(ctx context.Context, tenant uuid.UUID, scope MachineScope, after uuid.UUID, limit int, forRecord bool, now time.Time) ([]StoredJudgement, error) {
	ctx = withTenant(ctx, tenant)
	var out []StoredJudgement
	read := func(tx pgx.Tx) error {
		var err error
		out, err = s.readJudgements(ctx, tx, tenant, scope, after, limit, forRecord, now)
		return err
	}
	_, err := retryUnsent(ctx, s.pool, func() (struct{}, error) {
		return struct{}{}, pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, read)
	})
	if err != nil {
		return nil, fmt.Errorf("read stored evidence: %w", err)
	}
	return out, nil
}

func (s *Store) readJudgements(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, scope MachineScope, after uuid.UUID, limit int, forRecord bool, now time.Time) ([]StoredJudgement, error) {
	ids, keys, err := machinesOf(ctx, tx, tenant, scope, after, limit)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	if _, err := tx.Exec(ctx, byIndex); err != nil {
		return nil, err
	}
	rows, err := s.readInputs(ctx, tx, keys)
	if err != nil {
		return nil, err
	}
	out := make([]StoredJudgement, len(keys))
	for i, r := range rows {
		if r == nil {
			return nil, notFound(pgx.ErrNoRows, "attestation state of machine", keys[i].machine)
		}
		cfg, err := s.configAt(ctx, tx, tenant, r.generation)
		if err != nil {
			return nil, err
		}
		bound, err := s.loadVersions(ctx, tx, tenant, r)
		if err != nil {
			return nil, err
		}
		if out[i].Inputs, err = r.inputs(cfg, bound, now); err != nil {
			return nil, err
		}
	}
	return out, scanJudgements(ctx, tx, out, slices.Repeat([]pgtype.UUID{pgUUID(tenant)}, len(ids)), ids, forRecord, maxGroupedBytes)
}

// machinesOf is a page of the machines of a scope.
func machinesOf(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, scope MachineScope, after uuid.UUID, limit int) (ids []pgtype.UUID, keys []machineKey, err error) {
	q := newQuery(`SELECT m.machine_id FROM machines m WHERE m.tenant_id = $1`, tenant)
	q.scoped(scope)
	q.and("m.machine_id > ?", pgtype.UUID{Bytes: after, Valid: true})
	q.args = append(q.args, limit)
	q.sql.WriteString(fmt.Sprintf(" ORDER BY m.machine_id LIMIT $%d", len(q.args)))
	rows, _ := tx.Query(ctx, q.sql.String(), q.args...)
	if ids, err = pgx.CollectRows(rows, pgx.RowTo[pgtype.UUID]); err != nil {
		return nil, nil, err
	}
	for _, id := range ids {
		keys = append(keys, machineKey{tenant, id.Bytes})
	}
	return ids, keys, nil
}

// scanJudgements fills in what judgementColumns reads. Machines without a verdict have no row.
func scanJudgements(ctx context.Context, tx pgx.Tx, out []StoredJudgement, args ...any) error {
	rows, err := tx.Query(ctx, judgementColumns, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var ord int64
		var verdict, evidence, key pgtype.UUID
		var policy, checks, imaFrom []byte
		var contentType pgtype.Text
		var size pgtype.Int4
		var j StoredJudgement
		if err := rows.Scan(&ord, &verdict, &policy, &j.Fingerprint, &evidence, &j.EvidenceAt, &key, &j.Genuine, &checks,
			&contentType, &size, &j.compressed, &j.EventLogHash, &imaFrom); err != nil {
			return err
		}
		j.Inputs = out[ord-1].Inputs
		j.VerdictID, j.EvidenceID, j.KeyID = verdict.Bytes, evidence.Bytes, key.Bytes
		j.Kept, j.contentType, j.size = contentType.Valid, contentType.String, int(size.Int32)
		for _, part := range []struct {
			raw  []byte
			into any
		}{{policy, &j.Policy}, {checks, &j.Checks}, {imaFrom, &j.IMAFrom}} {
			if part.raw == nil {
				continue
			}
			if err := json.Unmarshal(part.raw, part.into); err != nil {
				return fmt.Errorf("stored verdict %s: %w", j.EvidenceID, err)
			}
		}
		out[ord-1] = j
	}
	return rows.Err()
}

// EvidenceOf reads the raw evidence of a stored judgement. ErrNotFound where none is kept.
func (s *Store) EvidenceOf(ctx context.Context, tenant uuid.UUID, j *StoredJudgement) (StoredEvidence, error) {
	ctx = withTenant(ctx, tenant)
	switch {
	case !j.Kept:
		return StoredEvidence{}, notFound(pgx.ErrNoRows, "evidence of verdict", j.EvidenceID)
	case j.compressed == nil:
		return s.GetEvidence(ctx, tenant, j.EvidenceID)
	}
	body, err := decompress(j.compressed, j.size)
	if err != nil {
		return StoredEvidence{}, fmt.Errorf("evidence of verdict %s: %w", j.EvidenceID, err)
	}
	return StoredEvidence{ContentType: j.contentType, Body: body, EventLogHash: j.EventLogHash}, nil
}

// Covers tells whether a selector chooses a machine.
func Covers(s verifier.Selector, m *Machine) bool { return baseline.Matches(s, factsOf(m)) }

// checkScope refuses a scope that Postgres would, before a change is made.
func checkScope(s MachineScope) error {
	for _, id := range s.Selector.MachineIDs {
		if _, err := uuid.Parse(id); err != nil {
			return errors.New("a machine id of the scope is no UUID")
		}
	}
	return nil
}
