// Package chain is the arithmetic of the records that must not be changed: the hash of an audit event and of a verdict, each over
// the one before it, the Merkle tree over the last verdicts of all machines, and the statement that a checkpoint signs. The
// service, the command assay and whoever checks the service compute them with the same code; the database computes
// that of audit events by itself (migration 0021). It is pure.
//
// # What is hashed
//
// Every hash is SHA-256 over netstrings, one after the other: the length of the value in bytes in decimal, a colon, the
// value, a comma ("5:hello,"). A value that is absent (null) is "-,", which no netstring is. So no two lists of values
// give the same bytes. All values are text in UTF-8: hashes in lower-case hex, ids as RFC 9562 writes them in lower case, numbers in
// decimal, times in UTC to the microsecond as 2006-01-02T15:04:05.000000Z, truth as true or false. JSON is taken as it is
// stored, byte by byte, and not as anybody reads it.
//
// An audit event is hashed as
//
//	"assay-audit-event-v1", prev_hash, tenant_id, seq, event_id, at, actor_kind, actor_id, remote_addr, request_id,
//	action, target, before, after
//
// with prev_hash the hash of the event with seq - 1, or 64 zeros for seq 1. Events from before the chain have the seqs -1, -2
// and so on, the newest first, and prev_hash is that of seq + 1 (64 zeros for -1). When all of them are chained, an event
// audit.earlier_chained of the chain states their number and the hash of the last, so that what is signed covers them too.
//
// A verdict is hashed as
//
//	"assay-verdict-v1", prev_hash, tenant_id, machine_id, seq, earlier, verdict_id, status, reason, assurance, genuine, first_at,
//	key_id, trigger, SHA-256(appraisal), SHA-256(judged_by), event_log_digest, evidence_digest, supersedes, evidence_id,
//	reappraisal_id, previous_last_at, previous_count
//
// with prev_hash the hash of the same machine's verdict with seq - 1, absent for seq 1. earlier is the number of verdicts of the
// machine from before its chain, and is there for seq 1 only. previous_last_at and previous_count are how long, and how often, the
// verdict before it held: a verdict's own end is known, and so hashed, only when the next begins. Where judged_by is absent,
// which is so of what the release before the chain wrote, supersedes, evidence_id and reappraisal_id are absent as well.
package chain

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"time"
)

// Size of all hashes, in bytes.
const Size = sha256.Size

// Hash is one hash.
type Hash = [Size]byte

// record is what is hashed, while it is written.
type record struct{ buf []byte }

func (r *record) text(s string) {
	r.buf = append(strconv.AppendInt(r.buf, int64(len(s)), 10), ':')
	r.buf = append(append(r.buf, s...), ',')
}

func (r *record) absent() { r.buf = append(r.buf, "-,"...) }

// optional writes s, or that it is absent where it is nil.
func (r *record) optional(s *string) {
	if s == nil {
		r.absent()
		return
	}
	r.text(*s)
}

// given writes s, or that it is absent where it is empty.
func (r *record) given(s string) {
	if s == "" {
		r.absent()
		return
	}
	r.text(s)
}

func (r *record) bytes(b []byte) { r.given(hex.EncodeToString(b)) }

// digest writes the SHA-256 of b, or that it is absent where it is nil.
func (r *record) digest(b []byte) {
	if b == nil {
		r.absent()
		return
	}
	sum := sha256.Sum256(b)
	r.bytes(sum[:])
}

func (r *record) number(n int64) { r.text(strconv.FormatInt(n, 10)) }

// Time is a time as chains write it.
func Time(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

// Event is an audit event in its chain.
type Event struct {
	TenantID, EventID     string // lower case
	Seq                   int64
	At                    time.Time
	ActorKind, ActorID    string
	RemoteAddr, RequestID string
	Action, Target        string
	Before, After         *string // JSON, as it is stored; nil for null
	PrevHash              Hash
}

// Hash is the event's hash.
func (e *Event) Hash() Hash {
	r := record{buf: make([]byte, 0, 512)}
	r.text("assay-audit-event-v1")
	r.bytes(e.PrevHash[:])
	r.text(e.TenantID)
	r.number(e.Seq)
	r.text(e.EventID)
	r.text(Time(e.At))
	for _, s := range [...]string{e.ActorKind, e.ActorID, e.RemoteAddr, e.RequestID, e.Action, e.Target} {
		r.text(s)
	}
	r.optional(e.Before)
	r.optional(e.After)
	return sha256.Sum256(r.buf)
}

// Verdict is a verdict in the chain of its machine.
type Verdict struct {
	TenantID, MachineID, VerdictID string // lower case
	Seq                            int64
	Earlier                        int64 // verdicts from before the chain; only of Seq 1
	Status, Reason, Assurance      string
	Genuine                        bool
	FirstAt                        time.Time
	KeyID, Trigger                 string // empty where absent
	Appraisal                      []byte // JSON, as it is stored
	JudgedBy                       []byte // likewise; nil where it was not kept
	EventLogDigest, EvidenceDigest []byte // nil where absent
	// Supersedes, EvidenceID and ReappraisalID are of a verdict that judged stored evidence again; empty otherwise.
	Supersedes, EvidenceID, ReappraisalID string
	// PreviousLastAt and PreviousCount are of the run of the verdict before; only where Seq is above 1.
	PreviousLastAt time.Time
	PreviousCount  int64
	PrevHash       []byte // nil of Seq 1
}

// Hash is the verdict's hash.
func (v *Verdict) Hash() Hash {
	r := record{buf: make([]byte, 0, 1024)}
	r.text("assay-verdict-v1")
	r.bytes(v.PrevHash)
	r.text(v.TenantID)
	r.text(v.MachineID)
	r.number(v.Seq)
	if v.Seq == 1 {
		r.number(v.Earlier)
	} else {
		r.absent()
	}
	for _, s := range [...]string{v.VerdictID, v.Status, v.Reason, v.Assurance, strconv.FormatBool(v.Genuine), Time(v.FirstAt)} {
		r.text(s)
	}
	r.given(v.KeyID)
	r.given(v.Trigger)
	r.digest(v.Appraisal)
	r.digest(v.JudgedBy)
	r.bytes(v.EventLogDigest)
	r.bytes(v.EvidenceDigest)
	for _, s := range [...]string{v.Supersedes, v.EvidenceID, v.ReappraisalID} {
		if v.JudgedBy == nil {
			s = ""
		}
		r.given(s)
	}
	if v.Seq > 1 {
		r.text(Time(v.PreviousLastAt))
		r.number(v.PreviousCount)
	} else {
		r.absent()
		r.absent()
	}
	return sha256.Sum256(r.buf)
}
