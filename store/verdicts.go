package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// The end of a machine's current run is in its hot row.
const verdictColumns = `v.verdict_id, v.machine_id, m.name, v.first_at,
	CASE WHEN st.verdict_id = v.verdict_id THEN st.run_last_at ELSE v.last_at END,
	CASE WHEN st.verdict_id = v.verdict_id THEN st.run_count ELSE v.run_count END,
	v.appraisal, v.genuine, v.event_log_digest, v.key_id, v.supersedes, v.superseded_by, v.evidence_id, v.reappraisal_id, coalesce(v.trigger, '')`

const verdictTables = ` FROM verdicts v
	JOIN machines m ON m.tenant_id = v.tenant_id AND m.machine_id = v.machine_id
	JOIN machine_attestation_state st ON st.tenant_id = v.tenant_id AND st.machine_id = v.machine_id `

func scanVerdict(row pgx.Row) (Verdict, error) {
	var v Verdict
	var id, machine, key, supersedes, by, evidence, reappraisal pgtype.UUID
	var body []byte
	var genuine bool
	if err := row.Scan(&id, &machine, &v.MachineName, &v.FirstAt, &v.LastAt, &v.Count, &body, &genuine, &v.EventLogHash, &key,
		&supersedes, &by, &evidence, &reappraisal, &v.Trigger); err != nil {
		return Verdict{}, err
	}
	v.ID, v.MachineID, v.KeyID = id.Bytes, machine.Bytes, key.Bytes
	v.Supersedes, v.SupersededBy, v.EvidenceID, v.ReappraisalID = uuidPtr(supersedes), uuidPtr(by), uuidPtr(evidence), uuidPtr(reappraisal)
	if v.ReceivedAt = v.FirstAt; v.EvidenceID != nil {
		v.ReceivedAt = timeOfID(*v.EvidenceID)
	}
	if err := json.Unmarshal(body, &v.Appraisal); err != nil {
		return Verdict{}, fmt.Errorf("stored appraisal of verdict %s: %w", v.ID, err)
	}
	v.Appraisal.Genuine = genuine
	return v, nil
}

// GetVerdict reads one verdict. ErrNotFound.
func (s *Store) GetVerdict(ctx context.Context, tenant, id uuid.UUID) (Verdict, error) {
	ctx = withTenant(ctx, tenant)
	v, err := scanVerdict(s.pool.QueryRow(ctx, `SELECT `+verdictColumns+verdictTables+`WHERE v.tenant_id = $1 AND v.verdict_id = $2`, pgUUID(tenant), pgUUID(id)))
	if err != nil {
		return Verdict{}, notFound(err, "verdict", id)
	}
	return v, nil
}

var verdictList = listing[Verdict]{
	name: "verdicts", columns: verdictColumns, scan: scanVerdict, initial: "-id",
	sorts: map[string][]sortKey{
		"id":         ids("v.verdict_id"),
		"first_at":   ids("v.verdict_id"), // the id is made of that time
		"status":     byText("v.status", ids("v.verdict_id")...),
		"machine_id": ids("v.machine_id", "v.verdict_id"),
	},
}

// ListVerdicts lists verdicts, newest first. Since and Until choose the runs that touch that time.
func (s *Store) ListVerdicts(ctx context.Context, tenant uuid.UUID, f VerdictFilter, page Page) (items []Verdict, next string, err error) {
	ctx = withTenant(ctx, tenant)
	return verdictList.page(ctx, s.pool, verdictQuery(tenant, f), page)
}

func verdictQuery(tenant uuid.UUID, f VerdictFilter) *query {
	q := newQuery(verdictTables+`WHERE v.tenant_id = $1`, tenant)
	q.id("v.machine_id = ?", f.MachineID)
	q.oneOf("v.status", f.Status)
	q.oneOf("v.reason", f.Reason)
	if f.Reason != "" {
		q.plain("v.reason <> ''") // the partial index's
	}
	q.oneOf("v.assurance", f.Assurance)
	q.text("m.scale_set = ?", f.ScaleSet)
	if f.Until != nil {
		q.and("v.first_at <= ?", *f.Until)
		q.and("v.verdict_id < ?", pgUUID(idBound(f.Until.UnixMilli()+1))) // the same, in terms of the index and the partitions
	}
	q.at("(v.last_at >= ? OR st.verdict_id = v.verdict_id AND st.run_last_at >= ?)", f.Since)
	return q.within(f.Scope)
}

// idBound is the smallest UUIDv7 of a millisecond.
func idBound(ms int64) uuid.UUID {
	var id uuid.UUID
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id
}

// GetEvidence reads the raw evidence behind a verdict, which for one that a reappraisal made is that of an earlier one.
// ErrNotFound where none was kept.
func (s *Store) GetEvidence(ctx context.Context, tenant, verdictID uuid.UUID) (StoredEvidence, error) {
	ctx = withTenant(ctx, tenant)
	var e StoredEvidence
	var size int
	var frame []byte
	err := s.pool.QueryRow(ctx, `SELECT content_type, size, compressed, event_log_digest FROM evidence WHERE tenant_id = $1
		AND verdict_id = coalesce((SELECT evidence_id FROM verdicts WHERE tenant_id = $1 AND verdict_id = $2), $2)`, pgUUID(tenant), pgUUID(verdictID)).
		Scan(&e.ContentType, &size, &frame, &e.EventLogHash)
	if err != nil {
		return StoredEvidence{}, notFound(err, "evidence of verdict", verdictID)
	}
	if e.Body, err = decompress(frame, size); err != nil {
		return StoredEvidence{}, fmt.Errorf("evidence of verdict %s: %w", verdictID, err)
	}
	return e, nil
}

// LastGenuineVerdict reads the machine's last verdict of genuine evidence, and that evidence. ErrNotFound.
func (s *Store) LastGenuineVerdict(ctx context.Context, tenant, machineID uuid.UUID) (Verdict, StoredEvidence, error) {
	ctx = withTenant(ctx, tenant)
	v, err := scanVerdict(s.pool.QueryRow(ctx, `SELECT `+verdictColumns+verdictTables+`
		WHERE st.tenant_id = $1 AND st.machine_id = $2 AND v.verdict_id = st.genuine_verdict_id`, pgUUID(tenant), pgUUID(machineID)))
	if err != nil {
		return Verdict{}, StoredEvidence{}, notFound(err, "genuine verdict of machine", machineID)
	}
	e, err := s.GetEvidence(ctx, tenant, v.ID)
	if err != nil {
		return Verdict{}, StoredEvidence{}, err
	}
	return v, e, nil
}
