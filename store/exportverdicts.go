package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/chain"
)

// ChainedVerdict is a verdict with all that its hash covers, and the raw evidence that was judged.
type ChainedVerdict struct {
	chain.Verdict
	Hash         []byte
	LastAt       time.Time // of the run, so far
	Count        int64
	SupersededBy *uuid.UUID
	EvidenceType string // empty where no evidence is held
	Evidence     []byte // nil where none is held
}

// ChainSegment is a stretch of the chain of a machine's verdicts.
type ChainSegment struct {
	MachineID uuid.UUID
	Name      string
	Earlier   int64 // verdicts from before the chain
	From, To  int64 // first and last seq
}

// ChainSegments lists, by machine, the stretch of its chain that covers all verdicts whose run touches the time from since to
// until; nil bounds nothing. machine chooses one machine.
func (s *Store) ChainSegments(ctx context.Context, tenant uuid.UUID, machine *uuid.UUID, since, until *time.Time) ([]ChainSegment, error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(` FROM verdicts v JOIN machines m ON m.tenant_id = v.tenant_id AND m.machine_id = v.machine_id
		JOIN machine_attestation_state st ON st.tenant_id = v.tenant_id AND st.machine_id = v.machine_id
		WHERE v.tenant_id = $1 AND v.seq IS NOT NULL`, tenant)
	q.id("v.machine_id = ?", machine)
	q.at("(v.last_at >= ? OR st.verdict_id = v.verdict_id AND st.run_last_at >= ?)", since)
	q.at("v.first_at <= ?", until)
	rows, _ := s.pool.Query(ctx, `SELECT v.machine_id, m.name, coalesce(m.verdicts_earlier, 0), min(v.seq), max(v.seq)`+q.sql.String()+
		` GROUP BY v.machine_id, m.name, m.verdicts_earlier ORDER BY v.machine_id`, q.args...)
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c ChainSegment, err error) {
		err = row.Scan(&c.MachineID, &c.Name, &c.Earlier, &c.From, &c.To)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("list chains of verdicts: %w", err)
	}
	return out, nil
}

// chainedPage is how many verdicts of a chain are read at once: their evidence may be large.
const chainedPage = 8

const chainedVerdicts = `SELECT v.verdict_id, v.seq, v.status, v.reason, v.assurance, v.genuine, v.first_at, v.key_id, coalesce(v.trigger, ''), v.appraisal::text, v.judged_by::text,
		v.event_log_digest, v.evidence_digest, v.supersedes, v.evidence_id, v.reappraisal_id, v.superseded_by, v.prev_hash, v.hash,
		CASE WHEN st.verdict_id = v.verdict_id THEN st.run_last_at ELSE v.last_at END, CASE WHEN st.verdict_id = v.verdict_id THEN st.run_count ELSE v.run_count END,
		e.content_type, e.size, e.compressed
	FROM verdicts v JOIN machine_attestation_state st ON st.tenant_id = v.tenant_id AND st.machine_id = v.machine_id
	LEFT JOIN evidence e ON e.tenant_id = v.tenant_id AND e.verdict_id = coalesce(v.evidence_id, v.verdict_id)
	WHERE v.tenant_id = $1 AND v.machine_id = $2 AND v.seq BETWEEN $3 AND $4 ORDER BY v.seq LIMIT $5`

// EachChainedVerdict calls f with the verdicts of a segment in the order of the chain. Between two pages nothing is held in
// the database.
func (s *Store) EachChainedVerdict(ctx context.Context, tenant uuid.UUID, segment ChainSegment, f func(*ChainedVerdict) error) error {
	ctx = withTenant(ctx, tenant)
	var previous ChainedVerdict
	for from := segment.From; from <= segment.To; {
		page, err := s.chainedPage(ctx, tenant, &segment, from)
		if err != nil {
			return fmt.Errorf("read the verdicts of machine %s: %w", segment.MachineID, err)
		}
		for i := range page {
			v := &page[i]
			if v.Seq == 1 {
				v.Earlier = segment.Earlier
			} else if previous.Seq == v.Seq-1 {
				v.PreviousLastAt, v.PreviousCount = previous.LastAt, previous.Count
			} else if err := s.endOfPrevious(ctx, tenant, &segment, v); err != nil {
				return err
			}
			if err := f(v); err != nil {
				return err
			}
			previous = ChainedVerdict{LastAt: v.LastAt, Count: v.Count}
			previous.Seq = v.Seq
		}
		if len(page) == 0 {
			return nil
		}
		from = page[len(page)-1].Seq + 1
	}
	return nil
}

// endOfPrevious reads how long the verdict before the first of a segment held.
func (s *Store) endOfPrevious(ctx context.Context, tenant uuid.UUID, segment *ChainSegment, v *ChainedVerdict) error {
	err := s.pool.QueryRow(ctx, `SELECT last_at, run_count FROM verdicts WHERE tenant_id = $1 AND machine_id = $2 AND seq = $3`,
		pgUUID(tenant), pgUUID(segment.MachineID), v.Seq-1).Scan(&v.PreviousLastAt, &v.PreviousCount)
	if err != nil && err != pgx.ErrNoRows { //nolint:errorlint // pgx answers it as it is; a missing link is for the reader of the export to find
		return fmt.Errorf("read the verdict before verdict %s: %w", v.VerdictID, err)
	}
	return nil
}

func (s *Store) chainedPage(ctx context.Context, tenant uuid.UUID, segment *ChainSegment, from int64) ([]ChainedVerdict, error) {
	rows, err := s.pool.Query(ctx, chainedVerdicts, pgUUID(tenant), pgUUID(segment.MachineID), from, segment.To, chainedPage)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var page []ChainedVerdict
	for rows.Next() {
		v := ChainedVerdict{Verdict: chain.Verdict{TenantID: tenant.String(), MachineID: segment.MachineID.String()}}
		var id, key, supersedes, evidence, reappraisal, by pgtype.UUID
		var appraisal string
		var judgedBy, contentType pgtype.Text
		var size pgtype.Int4
		var frame []byte
		if err := rows.Scan(&id, &v.Seq, &v.Status, &v.Reason, &v.Assurance, &v.Genuine, &v.FirstAt, &key, &v.Trigger, &appraisal, &judgedBy,
			&v.EventLogDigest, &v.EvidenceDigest, &supersedes, &evidence, &reappraisal, &by, &v.PrevHash, &v.Hash, &v.LastAt, &v.Count,
			&contentType, &size, &frame); err != nil {
			return nil, err
		}
		v.VerdictID, v.KeyID, v.Appraisal = textOfID(id.Bytes), textOfID(key.Bytes), []byte(appraisal)
		v.Supersedes, v.EvidenceID, v.ReappraisalID, v.SupersededBy = textOfID(supersedes.Bytes), textOfID(evidence.Bytes), textOfID(reappraisal.Bytes), uuidPtr(by)
		if judgedBy.Valid {
			v.JudgedBy = []byte(judgedBy.String)
		}
		if contentType.Valid {
			v.EvidenceType = contentType.String
			if v.Evidence, err = decompress(frame, int(size.Int32)); err != nil {
				return nil, fmt.Errorf("evidence of verdict %s: %w", v.VerdictID, err)
			}
		}
		page = append(page, v)
	}
	return page, rows.Err()
}

// AnchorCertificate reads the certificate of an anchor, enabled or not, by its SHA-256 in lower-case hex. ErrNotFound.
func (s *Store) AnchorCertificate(ctx context.Context, tenant uuid.UUID, fingerprint string) ([]byte, error) {
	ctx = withTenant(ctx, tenant)
	var der []byte
	if err := s.pool.QueryRow(ctx, `SELECT der FROM trust_anchor_certificates WHERE tenant_id = $1 AND fingerprint = $2 LIMIT 1`, pgUUID(tenant), fingerprint).Scan(&der); err != nil {
		return nil, notFound(err, "trust anchor with certificate", fingerprint)
	}
	return der, nil
}

// ReferenceBody reads reference values by their digest, as they are stored. ErrNotFound.
func (s *Store) ReferenceBody(ctx context.Context, tenant uuid.UUID, digest []byte) ([]byte, error) {
	ctx = withTenant(ctx, tenant)
	var body []byte
	if err := s.pool.QueryRow(ctx, `SELECT body FROM reference_values WHERE tenant_id = $1 AND digest = $2`, pgUUID(tenant), digest).Scan(&body); err != nil {
		return nil, notFound(err, "reference values", fmt.Sprintf("%x", digest))
	}
	return body, nil
}
