package server

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// verdict is the contract's Verdict as the history shows it. It embeds the appraisal, whose JSON form is the
// wire's.
type verdict struct {
	ID          uuid.UUID `json:"id"`
	MachineID   uuid.UUID `json:"machine_id"`
	MachineName string    `json:"machine_name,omitempty"`
	ReceivedAt  time.Time `json:"received_at"`
	verifier.Appraisal

	FirstAt        *time.Time `json:"first_at,omitempty"`
	LastAt         *time.Time `json:"last_at,omitempty"`
	Count          int64      `json:"count,omitempty"`
	Trigger        string     `json:"trigger,omitempty"`
	EventLogDigest string     `json:"event_log_digest,omitempty"`
	Origin         string     `json:"origin,omitempty"`
	ReappraisalID  *uuid.UUID `json:"reappraisal_id,omitempty"`
	Supersedes     *uuid.UUID `json:"supersedes,omitempty"`
	SupersededBy   *uuid.UUID `json:"superseded_by,omitempty"`
}

// withoutNulls replaces absent lists by empty ones, in a copy: the appraisal may be shared.
func withoutNulls(a verifier.Appraisal) verifier.Appraisal {
	a.Checks = orEmpty(a.Checks)
	if len(a.Deviations) == 0 {
		a.Deviations = []verifier.Deviation{}
		return a
	}
	a.Deviations = append([]verifier.Deviation(nil), a.Deviations...)
	for i := range a.Deviations {
		a.Deviations[i].Expected = orEmpty(a.Deviations[i].Expected)
	}
	return a
}

// evidenceAnswer is the verdict as the agent gets it: signed, and with what to do next. It is a verdict object,
// put together without the struct, since the appraisal has a faster way of its own to JSON. machineToken is one that replaces the
// agent's; empty for none.
func evidenceAnswer(r *attest.Result, machineToken string) ([]byte, error) {
	b := make([]byte, 0, 16<<10)
	b = append(append(b, `{"id":"`...), r.ID.String()...)
	b = append(append(b, `","machine_id":"`...), r.MachineID.String()...)
	b = append(utc(r.ReceivedAt).AppendFormat(append(b, `","received_at":"`...), time.RFC3339Nano), `",`...)
	b, err := r.Appraisal.AppendMembers(b)
	if err != nil {
		return nil, err
	}
	b = append(append(append(b, `,"trigger":"`...), r.Trigger...), '"')
	b = append(append(append(b, `,"result_token":"`...), r.ResultToken...), `","next_attestation_after_seconds":`...)
	b = strconv.AppendInt(b, int64(r.NextAttestationAfterSeconds), 10)
	if machineToken != "" {
		b = append(append(append(b, `,"machine_token":"`...), machineToken...), '"')
	}
	if r.NextChallenge != nil {
		challenge, err := json.Marshal(challengeDTO(r.NextChallenge))
		if err != nil {
			return nil, err
		}
		b = append(append(b, `,"next_challenge":`...), challenge...)
	}
	return append(b, '}'), nil
}

// storedVerdict is the verdict as the history shows it: how long it has held and how often.
func storedVerdict(v store.Verdict) verdict {
	first, last := utc(v.FirstAt), utc(v.LastAt)
	out := verdict{
		ID: v.ID, MachineID: v.MachineID, MachineName: v.MachineName, ReceivedAt: first,
		Appraisal: withoutNulls(v.Appraisal), FirstAt: &first, LastAt: &last, Count: v.Count, Trigger: string(v.Trigger),
		Origin: "evidence", ReappraisalID: v.ReappraisalID, Supersedes: v.Supersedes, SupersededBy: v.SupersededBy,
	}
	if v.ReappraisalID != nil {
		out.Origin, out.ReceivedAt = "reappraisal", utc(v.ReceivedAt)
	}
	if len(v.EventLogHash) > 0 {
		out.EventLogDigest = "sha256:" + hex.EncodeToString(v.EventLogHash)
	}
	return out
}

type verdictList struct {
	Items      []verdict `json:"items"`
	NextCursor *string   `json:"next_cursor"`
}

// ListMachineVerdicts lists the changes of judgement of a machine.
func (s *Server) ListMachineVerdicts(ctx context.Context, req openapi.ListMachineVerdictsRequestObject) (openapi.ListMachineVerdictsResponseObject, error) {
	p, q := principalOf(ctx), req.Params
	if _, err := s.store.GetMachine(ctx, p.tenant, req.MachineID); err != nil {
		return nil, err
	}
	f := store.VerdictFilter{MachineID: &req.MachineID, Status: joined(q.Status), Reason: joined(q.Reason), Assurance: joined(q.Assurance), Since: q.Since, Until: q.Until}
	return s.listVerdicts(ctx, f, pageOf(q.Limit, q.Cursor, q.Sort))
}

// ListVerdicts lists the changes of judgement of the fleet.
func (s *Server) ListVerdicts(ctx context.Context, req openapi.ListVerdictsRequestObject) (openapi.ListVerdictsResponseObject, error) {
	q := req.Params
	f := store.VerdictFilter{Scope: callerScope(ctx), MachineID: q.MachineID, Status: joined(q.Status), Reason: joined(q.Reason), Assurance: joined(q.Assurance),
		ScaleSet: value(q.ScaleSet), Since: q.Since, Until: q.Until}
	return s.listVerdicts(ctx, f, pageOf(q.Limit, q.Cursor, q.Sort))
}

func (s *Server) listVerdicts(ctx context.Context, f store.VerdictFilter, page store.Page) (jsonAnswer, error) {
	items, next, err := s.store.ListVerdicts(ctx, principalOf(ctx).tenant, f, page)
	return jsonAnswer{http.StatusOK, verdictList{Items: each(items, storedVerdict), NextCursor: nextCursor(next)}}, err
}

// GetVerdict answers one verdict.
func (s *Server) GetVerdict(ctx context.Context, req openapi.GetVerdictRequestObject) (openapi.GetVerdictResponseObject, error) {
	v, err := s.store.GetVerdict(ctx, principalOf(ctx).tenant, req.VerdictID)
	if err != nil {
		return nil, s.orPruned(ctx, "verdicts", req.VerdictID, err)
	}
	return jsonAnswer{http.StatusOK, storedVerdict(v)}, nil
}

// GetVerdictEventLog answers the decoded log behind a verdict.
func (s *Server) GetVerdictEventLog(ctx context.Context, req openapi.GetVerdictEventLogRequestObject) (openapi.GetVerdictEventLogResponseObject, error) {
	events, err := s.attest.DecodedLog(ctx, principalOf(ctx).tenant, req.VerdictID)
	if err != nil {
		return nil, s.orPruned(ctx, "evidence", req.VerdictID, err)
	}
	if len(events) == 0 {
		return nil, refuse(codeNotFound, "the verdict was reached without an event log")
	}
	return jsonAnswer{http.StatusOK, events}, nil
}
