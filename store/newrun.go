package store

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier"
)

// newRuns is what a group's new runs write, column by column: one statement a table for the whole group. In a
// reboot storm every record is a change; a statement for each of its rows costs Postgres more than twice as much.
type newRuns struct {
	superseding bool // the runs are of stored evidence that was judged again

	logs       bootLogTable
	platforms  platformTable
	collateral collateralTable

	hot      hotTable
	verdicts []pgtype.UUID // of hot's rows, as all that follows
	keys     []pgtype.UUID
	triggers []string
	bootIDs  []string

	statuses, reasons, assurances []string
	machineAssurances             []string
	appraisals                    []string
	digests                       [][]byte
	observed                      [4][]pgtype.Bool
	platformTypes, vmIDs, roots   []string

	evidence evidenceTable
	matches  matchTable
	fleet    fleetTable
	firmware firmwareTable
	large    []*evidenceTable // each of one row
	ended    endedRuns
	links    linkTable
	audit    auditTable
	findings []*findingSet

	returned returnedTable // of runs that are extended too
}

// newBoot: the first evidence of a key counts as a boot too, but for a boot that is known by its id.
const newBoot = `v.booted AND (v.boot_id = '' OR v.boot_id <> st.boot_id)`

const beginRuns = `UPDATE machine_attestation_state st SET verdict_id = v.verdict_id, fingerprint = u.fingerprint, run_count = 1,
	genuine_verdict_id = CASE WHEN u.genuine THEN v.verdict_id ELSE st.genuine_verdict_id END,
	boot_id = CASE WHEN u.genuine THEN v.boot_id ELSE st.boot_id END,
	boot_count = st.boot_count + (u.genuine AND ` + newBoot + `)::int,
	last_boot_at = CASE WHEN u.genuine AND ` + newBoot + ` THEN u.at ELSE st.last_boot_at END,` + hotAssignments + `
	FROM ` + hotParameters + ` JOIN unnest($17::uuid[], $18::text[], $19::boolean[]) WITH ORDINALITY v (verdict_id, boot_id, booted, ord) USING (ord)
	WHERE st.tenant_id = u.tenant_id AND st.machine_id = u.machine_id`

const insertVerdicts = `INSERT INTO verdicts (tenant_id, verdict_id, machine_id, key_id, status, reason, assurance, genuine, first_at, last_at, run_count, appraisal, event_log_digest, trigger,
		seq, prev_hash, hash, evidence_digest, judged_by)
	SELECT u.tenant_id, u.verdict_id, u.machine_id, u.key_id, u.status, u.reason, u.assurance, u.genuine, u.at, u.at, 1, u.appraisal::json, u.digest, NULLIF(u.trigger, ''),
		u.seq, u.prev_hash, u.hash, u.evidence_digest, u.judged_by::json
	FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::boolean[], $9::timestamptz[], $10::text[], $11::bytea[], $12::text[],
			$13::bigint[], $14::bytea[], $15::bytea[], $16::bytea[], $17::text[])
		u (tenant_id, verdict_id, machine_id, key_id, status, reason, assurance, genuine, at, appraisal, digest, trigger, seq, prev_hash, hash, evidence_digest, judged_by)`

// What was observed by evidence that is not genuine says nothing about the machine.
const setMachines = `UPDATE machines m SET status = u.status, reason = u.reason, assurance = u.assurance, last_verdict_id = u.verdict_id, updated_at = u.at,
		observed_secure_boot_supported = CASE WHEN u.genuine THEN u.supported ELSE m.observed_secure_boot_supported END,
		observed_secure_boot = CASE WHEN u.genuine THEN u.secure_boot ELSE m.observed_secure_boot END,
		observed_vtpm = CASE WHEN u.genuine THEN u.vtpm ELSE m.observed_vtpm END,
		observed_agent_installed = CASE WHEN u.genuine THEN u.agent ELSE m.observed_agent_installed END,
		platform_evidence_type = CASE WHEN u.genuine AND u.platform_type <> '' THEN u.platform_type ELSE m.platform_evidence_type END,
		vm_id = CASE WHEN u.genuine AND u.vm_id <> '' THEN u.vm_id ELSE m.vm_id END,
		platform_root = u.platform_root, verdict_seq = u.seq, verdict_hash = u.hash, verdicts_earlier = u.earlier
	FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::boolean[], $8::timestamptz[],
			$9::boolean[], $10::boolean[], $11::boolean[], $12::boolean[], $13::text[], $14::text[], $15::text[], $16::bigint[], $17::bytea[], $18::bigint[])
		u (tenant_id, machine_id, verdict_id, status, reason, assurance, genuine, at, supported, secure_boot, vtpm, agent, platform_type, vm_id, platform_root, seq, hash, earlier)
	WHERE m.tenant_id = u.tenant_id AND m.machine_id = u.machine_id`

// add notes the change that begins the run with that verdict.
func (n *newRuns) add(c *change, id uuid.UUID, h hotColumns) error {
	rec, a := c.p.rec, c.p.rec.Appraisal
	n.hot.add(c.p, h)
	n.verdicts, n.keys = append(n.verdicts, pgUUID(id)), append(n.keys, pgUUID(rec.KeyID))
	n.triggers, n.bootIDs = append(n.triggers, string(rec.Trigger)), append(n.bootIDs, rec.BootID)
	n.statuses, n.reasons = append(n.statuses, a.Status.String()), append(n.reasons, string(a.Reason))
	n.assurances = append(n.assurances, string(a.Assurance))
	n.machineAssurances = append(n.machineAssurances, string(cmp.Or(a.Assurance, c.run.machine.Assurance)))
	n.appraisals, n.digests = append(n.appraisals, string(c.p.prepared.appraisal)), append(n.digests, rec.EventLogHash)
	n.platformTypes, n.vmIDs = append(n.platformTypes, rec.PlatformType), append(n.vmIDs, rec.VMID)
	root := ""
	if p := a.Claims.Platform; p != nil {
		root = p.RootSHA256
	}
	n.roots = append(n.roots, root)
	o := rec.Observed
	for i, b := range [...]*bool{o.SecureBootSupported, o.SecureBoot, o.VTPM, o.AgentInstalled} {
		n.observed[i] = append(n.observed[i], boolOrNull(b))
	}
	switch e := c.p.prepared.evidence; {
	case e == nil:
	case len(e) > maxGroupedBytes:
		single := &evidenceTable{}
		single.add(c.p, id)
		n.large = append(n.large, single)
	default:
		n.evidence.add(c.p, id)
	}
	if c.run.verdict.Valid {
		n.ended.add(c)
	}
	n.matches.add(c.p, id)
	n.fleet.add(c.p, id)
	n.firmware.add(c.p)
	n.findings = append(n.findings, c.findings)
	n.links.add(c, id)
	return n.audit.add(c, id, n.links.last())
}

// booted tells which runs begin with a boot. The first of a machine, or of its key, counts as one.
func (n *newRuns) booted() []bool {
	out := make([]bool, len(n.triggers))
	for i, trigger := range n.triggers {
		out[i] = trigger == string(verifier.TriggerBoot) || trigger == string(verifier.TriggerFirst)
	}
	return out
}

func boolOrNull(b *bool) pgtype.Bool {
	if b == nil {
		return pgtype.Bool{}
	}
	return pgtype.Bool{Bool: *b, Valid: true}
}

// queue adds the statements of all that was noted.
func (n *newRuns) queue(b *pgx.Batch) {
	n.logs.queue(b)
	n.platforms.queue(b)
	n.collateral.queue(b)
	n.returned.queue(b)
	if len(n.verdicts) == 0 {
		queueFindings(b, n.findings)
		return
	}
	t := &n.hot
	if e := &n.ended; len(e.verdicts) > 0 {
		b.Queue(endRuns, e.tenants, e.verdicts, e.ats, e.counts)
	}
	if n.superseding {
		b.Queue(supersedeRuns, t.tenants, t.machines, n.verdicts, t.ats)
	} else {
		b.Queue(beginRuns, append(t.args(), n.verdicts, n.bootIDs, n.booted())...)
	}
	b.Queue(insertVerdicts, t.tenants, n.verdicts, t.machines, n.keys, n.statuses, n.reasons, n.assurances, t.genuine, t.ats, n.appraisals, n.digests, n.triggers,
		n.links.seqs, n.links.previous, n.links.hashes, n.links.evidence, n.links.judgedBy)
	if e := &n.evidence; len(e.verdicts) > 0 {
		b.Queue(insertEvidence, e.args()...)
	}
	b.Queue(setMachines, t.tenants, t.machines, n.verdicts, n.statuses, n.reasons, n.machineAssurances, t.genuine, t.ats,
		n.observed[0], n.observed[1], n.observed[2], n.observed[3], n.platformTypes, n.vmIDs, n.roots,
		n.links.seqs, n.links.hashes, n.links.earlier)
	n.matches.queue(b)
	n.fleet.queue(b)
	n.firmware.queue(b)
	a := &n.audit
	b.Queue(insertVerdictAudit, a.tenants, a.events, a.ats, a.kinds, a.ids, a.addresses, a.requests, a.targets, a.before, a.after)
	queueFindings(b, n.findings)
}

// endedRuns are the runs that end: their last time and count move from the hot row to the verdict.
type endedRuns struct {
	tenants, verdicts []pgtype.UUID
	ats               []pgtype.Timestamptz
	counts            []int64
}

const endRuns = `UPDATE verdicts v SET last_at = u.at, run_count = u.run_count
	FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[]) u (tenant_id, verdict_id, at, run_count)
	WHERE v.tenant_id = u.tenant_id AND v.verdict_id = u.verdict_id`

func (e *endedRuns) add(c *change) {
	e.tenants, e.verdicts = append(e.tenants, pgUUID(c.p.tenant)), append(e.verdicts, c.run.verdict)
	e.ats, e.counts = append(e.ats, c.run.lastAt), append(e.counts, c.run.count)
}

// maxGroupedBytes is the most that a value may have to share a statement, or a batch, with others: both are put
// together in memory, and copied as they grow.
const maxGroupedBytes = 64 << 10

type evidenceTable struct {
	tenants, verdicts   []pgtype.UUID
	types               []string
	sizes               []int
	compressed, digests [][]byte
	imaFrom             []pgtype.Text
}

const insertEvidence = `INSERT INTO evidence (tenant_id, verdict_id, content_type, size, compressed, event_log_digest, ima_from)
	SELECT u.tenant_id, u.verdict_id, u.content_type, u.size, u.compressed, u.digest, u.ima_from::json
	FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::bytea[], $6::bytea[], $7::text[])
		u (tenant_id, verdict_id, content_type, size, compressed, digest, ima_from)`

func (e *evidenceTable) add(p *pending, id uuid.UUID) {
	e.tenants, e.verdicts = append(e.tenants, pgUUID(p.tenant)), append(e.verdicts, pgUUID(id))
	e.types, e.sizes = append(e.types, p.rec.EvidenceType), append(e.sizes, len(p.rec.Evidence))
	e.compressed, e.digests = append(e.compressed, p.prepared.evidence), append(e.digests, p.rec.EventLogHash)
	e.imaFrom = append(e.imaFrom, pgtype.Text{String: string(p.prepared.imaFrom), Valid: p.prepared.imaFrom != nil})
}

func (e *evidenceTable) args() []any {
	return []any{e.tenants, e.verdicts, e.types, e.sizes, e.compressed, e.digests, e.imaFrom}
}

// writeLarge writes the evidence that is too large to be gathered, one after the other.
func (n *newRuns) writeLarge(ctx context.Context, tx pgx.Tx) error {
	for _, e := range n.large {
		if _, err := tx.Exec(ctx, insertEvidence, e.args()...); err != nil {
			return fmt.Errorf("write evidence: %w", err)
		}
	}
	return nil
}

// verdictSummary is what the audit record keeps of a verdict.
type verdictSummary struct {
	VerdictID *uuid.UUID      `json:"verdict_id"`
	Status    verifier.Status `json:"status"`
	Reason    verifier.Reason `json:"reason"`
	// Its link in the chain of the machine's verdicts, so that the record of changes covers all verdicts.
	Seq  int64  `json:"seq,omitempty"`
	Hash string `json:"hash,omitempty"`
}

type auditTable struct {
	tenants, events                          []pgtype.UUID
	ats                                      []time.Time
	kinds, ids, addresses, requests, targets []string
	before, after                            []pgtype.Text
}

const insertVerdictAudit = `INSERT INTO audit_events (tenant_id, event_id, at, actor_kind, actor_id, remote_addr, request_id, action, target, before, after)
	SELECT u.tenant_id, u.event_id, u.at, u.kind, u.id, u.address, u.request, 'verdict.change', u.target, u.before::json, u.after::json
	FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[])
		u (tenant_id, event_id, at, kind, id, address, request, target, before, after)`

func (t *auditTable) add(c *change, id uuid.UUID, link chainLink) error {
	rec := c.p.rec
	var previous any
	if m := c.run.machine; m.LastVerdict != nil {
		previous = verdictSummary{VerdictID: m.LastVerdict, Status: m.Status, Reason: m.Reason}
	}
	before, err := marshalOrNull(previous)
	if err != nil {
		return err
	}
	after, err := marshalOrNull(verdictSummary{&id, rec.Appraisal.Status, rec.Appraisal.Reason, link.seq, hex.EncodeToString(link.hash)})
	if err != nil {
		return err
	}
	t.tenants, t.events = append(t.tenants, pgUUID(c.p.tenant)), append(t.events, pgUUID(newID(rec.ReceivedAt)))
	t.ats, t.kinds, t.ids = append(t.ats, rec.ReceivedAt), append(t.kinds, rec.Actor.Kind), append(t.ids, rec.Actor.ID)
	t.addresses, t.requests = append(t.addresses, rec.Actor.RemoteAddr), append(t.requests, rec.Actor.RequestID)
	t.targets = append(t.targets, "machine:"+rec.MachineID.String())
	t.before = append(t.before, pgtype.Text{String: string(before), Valid: before != nil})
	t.after = append(t.after, pgtype.Text{String: string(after), Valid: after != nil})
	return nil
}
