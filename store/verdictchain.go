package store

import (
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/chain"
)

// chainLink is a verdict's place in the chain of its machine's verdicts.
type chainLink struct {
	seq  int64
	hash []byte
}

// linkTable is the links of a group's new verdicts, column by column. The head of a machine's chain is in its row, which
// is locked and written with each new verdict anyway, so that the chain costs no statement.
type linkTable struct {
	seqs             []int64
	previous, hashes [][]byte
	evidence         [][]byte
	judgedBy         []pgtype.Text
	earlier          []pgtype.Int8
}

func (t *linkTable) last() chainLink {
	i := len(t.seqs) - 1
	return chainLink{t.seqs[i], t.hashes[i]}
}

func (t *linkTable) add(c *change, id uuid.UUID) {
	rec, a, run := c.p.rec, c.p.rec.Appraisal, c.run
	v := chain.Verdict{
		TenantID: c.p.tenant.String(), MachineID: rec.MachineID.String(), VerdictID: id.String(), Seq: run.chainSeq + 1, Earlier: run.earlier.Int64,
		Status: a.Status.String(), Reason: string(a.Reason), Assurance: string(a.Assurance), Genuine: a.Genuine, FirstAt: rec.ReceivedAt,
		KeyID: textOfID(rec.KeyID), Trigger: string(rec.Trigger), Appraisal: c.p.prepared.appraisal, JudgedBy: c.p.prepared.judgedBy,
		EventLogDigest: rec.EventLogHash, EvidenceDigest: c.p.prepared.evidenceDigest,
		Supersedes: textOfID(c.supersedes), EvidenceID: textOfID(c.evidence), ReappraisalID: textOfID(c.reappraisal),
		PreviousLastAt: run.lastAt.Time, PreviousCount: run.count, PrevHash: run.chainHash,
	}
	hash := v.Hash()
	t.seqs, t.previous, t.hashes = append(t.seqs, v.Seq), append(t.previous, run.chainHash), append(t.hashes, hash[:])
	t.evidence = append(t.evidence, v.EvidenceDigest)
	t.judgedBy = append(t.judgedBy, pgtype.Text{String: string(v.JudgedBy), Valid: v.JudgedBy != nil})
	t.earlier = append(t.earlier, run.earlier)
}

// textOfID is an id in text; empty for none.
func textOfID(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()
}
