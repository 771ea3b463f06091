package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/verifier/bundle"
	"github.com/assay-verifier/assay/verifier/chain"
)

// AuditCommand holds the commands about the record of changes.
type AuditCommand struct {
	List       AuditList       `cmd:"" help:"List who changed what."`
	Verify     AuditVerify     `cmd:"" help:"Check the whole record: each hash, each link, and against checkpoints that were kept."`
	Checkpoint AuditCheckpoint `cmd:"" help:"Signed statements of how far the record reaches, to be kept elsewhere."`
}

// AuditList lists events.
type AuditList struct {
	Paging     `embed:""`
	ActorKind  []string   `placeholder:"KIND" help:"Kinds of actors: admin, machine, pipeline, system and others."`
	ActorID    string     `placeholder:"ID" help:"Which actor."`
	Action     []string   `placeholder:"ACTION" help:"Actions, for example baseline.promote."`
	Target     string     `placeholder:"KIND:ID" help:"What was changed."`
	TargetKind string     `placeholder:"KIND" help:"What was changed, by kind alone."`
	RequestID  string     `placeholder:"ID" help:"Id of the request."`
	Since      *time.Time `placeholder:"TIME" help:"Not before this (RFC 3339)."`
	Until      *time.Time `placeholder:"TIME" help:"Not after this (RFC 3339)."`
}

// Run lists them.
func (c *AuditList) Run(a *app) error {
	params := client.ListAuditEventsParams{ActorID: optional(c.ActorID), Target: optional(c.Target), TargetKind: optional(c.TargetKind), RequestID: optional(c.RequestID),
		Since: c.Since, Until: c.Until}
	if len(c.ActorKind) > 0 {
		params.ActorKind = &c.ActorKind
	}
	if len(c.Action) > 0 {
		params.Action = &c.Action
	}
	items, all, err := fetchList[client.AuditEvent](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		params.Limit, params.Cursor = limit, cursor
		return api.ListAuditEventsWithResponse(a.ctx, &params)
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no such event.", func(list []client.AuditEvent) {
		rows := make([][]cell, len(list))
		for i := range list {
			e := &list[i]
			seq := "-"
			if e.Seq != nil {
				seq = fmt.Sprint(*e.Seq)
			}
			rows[i] = []cell{plain(seq), plain(a.print.when(e.At)), plain(e.ActorKind + ":" + e.ActorID), plain(e.Action), plain(e.Target), {e.ID.String(), dim}}
		}
		a.print.table([]string{"SEQ", "WHEN", "WHO", "WHAT", "TARGET", "ID"}, rows)
	})
}

// AuditCheckpoint holds the commands about checkpoints.
type AuditCheckpoint struct {
	List   AuditCheckpoints      `cmd:"" help:"List checkpoints."`
	Create AuditCheckpointCreate `cmd:"" help:"Make one now."`
	Export AuditCheckpointExport `cmd:"" help:"Write a checkpoint and its key to a file, for audit verify and verify --bundle."`
}

// AuditCheckpoints lists checkpoints.
type AuditCheckpoints struct {
	Paging `embed:""`
}

// Run lists them.
func (c *AuditCheckpoints) Run(a *app) error {
	items, all, err := a.checkpoints(c.Paging)
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no checkpoint yet.", func(list []client.AuditCheckpoint) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			rows[i] = []cell{plain(fmt.Sprint(x.Number)), plain(a.print.when(x.At)), plain(fmt.Sprint(x.AuditSeq)), plain(fmt.Sprint(x.Machines)), plain(fmt.Sprint(x.Verdicts)), plain(x.KeyID), {x.ID.String(), dim}}
		}
		a.print.table([]string{"NUMBER", "MADE", "EVENTS", "MACHINES", "VERDICTS", "KEY", "ID"}, rows)
	})
}

func (a *app) checkpoints(p Paging) ([]client.AuditCheckpoint, page, error) {
	return fetchList[client.AuditCheckpoint](a, p, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListAuditCheckpointsWithResponse(a.ctx, &client.ListAuditCheckpointsParams{Limit: limit, Cursor: cursor})
	})
}

// AuditCheckpointCreate makes a checkpoint.
type AuditCheckpointCreate struct{}

// Run makes it.
func (AuditCheckpointCreate) Run(a *app) error {
	x, raw, err := a.makeCheckpoint()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("checkpoint %d covers %d events and %d verdicts of %s: %s", x.Number, x.AuditSeq, x.Verdicts, count(int(x.Machines), "machine"), x.ID)
	return nil
}

func (a *app) makeCheckpoint() (client.AuditCheckpoint, []byte, error) {
	api, err := a.api()
	if err != nil {
		return client.AuditCheckpoint{}, nil, err
	}
	resp, err := api.CreateAuditCheckpointWithResponse(a.ctx, &client.CreateAuditCheckpointParams{})
	return answer[client.AuditCheckpoint](a, resp, err)
}

// AuditCheckpointExport writes a checkpoint to a file.
type AuditCheckpointExport struct {
	ID   *uuid.UUID `arg:"" optional:"" help:"Id of the checkpoint; the newest otherwise."`
	File string     `short:"f" default:"-" placeholder:"FILE" help:"File to write; standard output otherwise. It must not exist."`
}

// Run writes it.
func (c *AuditCheckpointExport) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	if c.ID == nil {
		newest, _, err := a.checkpoints(Paging{Limit: 1})
		if err != nil {
			return err
		}
		if len(newest) == 0 {
			return &problem{Title: "There is no checkpoint yet", Code: "not_found", Detail: "nothing was written", Hint: "assay audit checkpoint create"}
		}
		c.ID = &newest[0].ID
	}
	resp, err := api.GetAuditCheckpointWithResponse(a.ctx, *c.ID)
	x, _, err := answer[client.AuditCheckpointDetail](a, resp, err)
	if err != nil {
		return err
	}
	key, err := json.Marshal(x.Jwk)
	if err != nil {
		return err
	}
	body, err := json.MarshalIndent(bundle.Signed{JWS: x.Statement, JWK: key}, "", "  ")
	if err != nil {
		return err
	}
	body = append(body, '\n')
	if c.File == "-" {
		_, err = a.stdout.Write(body)
		return err
	}
	return writeNew(c.File, func(f *os.File) error { _, err := f.Write(body); return err })
}

// writeNew writes a file that does not exist yet, readable by its owner alone, and leaves none behind where that fails.
func writeNew(name string, write func(*os.File) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return &problem{Title: "The file cannot be written", Code: "unwritable_output", Detail: err.Error(), exit: exitBadCall}
	}
	err = write(f)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(name)
	}
	return err
}

// AuditVerify checks the record of changes.
type AuditVerify struct {
	Checkpoints  []string `name:"checkpoint" type:"path" placeholder:"FILE" help:"A checkpoint that was kept (audit checkpoint export), whose key is trusted with it. May be repeated."`
	JWKS         string   `name:"jwks" type:"path" placeholder:"FILE" help:"A key set that was kept. Without it, and without --checkpoint, the service itself says which keys to trust, which shows mistakes and no attack."`
	AllowTrimmed bool     `help:"Accept that the oldest events are not there any more, as after retention has deleted them."`
}

// Help explains the exit code.
func (c *AuditVerify) Help() string {
	return "Fetches every event, computes its hash here, and compares links, places, and checkpoints. Exit code: 0 everything agrees, 1 it does not, 2 input that cannot be read."
}

// auditReport is what is printed.
type auditReport struct {
	Valid          bool         `json:"valid"`
	Events         int64        `json:"events"`
	FirstSeq       int64        `json:"first_seq"`
	LastSeq        int64        `json:"last_seq"`
	EarlierCovered bool         `json:"earlier_events_covered"`
	Checkpoints    int          `json:"checkpoints"`
	Compared       int64        `json:"checkpoints_compared"`
	Trees          int64        `json:"verdict_trees_compared"`
	Pinned         int          `json:"checkpoints_pinned"`
	KeysPinned     bool         `json:"keys_pinned"`
	Fault          *chain.Fault `json:"fault"`
}

// Run checks it.
func (c *AuditVerify) Run(a *app) error {
	pinned, keys, err := readPinned(a, c.Checkpoints, c.JWKS)
	if err != nil {
		return err
	}
	report := auditReport{Pinned: len(pinned), KeysPinned: len(keys) > 0}
	statements, fault, err := a.verifiedCheckpoints(pinned, keys)
	if err != nil {
		return err
	}
	report.Checkpoints = len(statements)
	walk := chain.NewWalk(statements)
	walk.Trimmed = c.AllowTrimmed
	if fault == nil {
		if fault, err = a.walkEvents(walk); err != nil {
			return err
		}
	}
	if fault == nil {
		fault = walk.End()
	}
	report.Valid, report.Fault, report.Events, report.FirstSeq, report.LastSeq = fault == nil, fault, walk.Events, walk.Begun(), walk.Last()
	report.Compared, report.Trees, report.EarlierCovered = walk.Checked, walk.Rooted, walk.EarlierCovered
	if a.json {
		err = a.printJSON(report)
	} else {
		a.printAudit(&report)
	}
	if err == nil && !report.Valid {
		return quietExit(exitFailed)
	}
	return err
}

// pinnedCheckpoint is a checkpoint out of a file that the caller trusts.
type pinnedCheckpoint struct {
	file string
	jws  string
	said chain.Checkpoint
}

// readPinned reads checkpoints that were kept, and keys that were.
func readPinned(a *app, files []string, jwks string) (pinned []pinnedCheckpoint, keys []relying.Key, err error) {
	if jwks != "" {
		body, err := readFile(jwks, 256<<10, a.stdin)
		if err == nil {
			keys, err = relying.ParseKeySet(body)
		}
		if err != nil {
			return nil, nil, unreadable(jwks, "a key set", err)
		}
	}
	for _, file := range files {
		signed, own, err := readSigned(a, file)
		if err != nil {
			return nil, nil, unreadable(file, "a checkpoint", err)
		}
		if jwks == "" {
			keys = append(keys, own...)
		}
		said, err := verifyCheckpoint(signed.JWS, keys)
		if err != nil {
			return nil, nil, unreadable(file, "a checkpoint", err)
		}
		pinned = append(pinned, pinnedCheckpoint{file, signed.JWS, said})
	}
	return pinned, keys, nil
}

// readSigned reads an exported checkpoint with its key.
func readSigned(a *app, file string) (s bundle.Signed, keys []relying.Key, err error) {
	body, err := readFile(file, 256<<10, a.stdin)
	if err != nil {
		return s, nil, err
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, nil, err
	}
	keys, err = keysOf(s.JWK)
	return s, keys, err
}

func keysOf(jwks ...json.RawMessage) ([]relying.Key, error) {
	set, err := json.Marshal(map[string]any{"keys": jwks})
	if err != nil {
		return nil, err
	}
	return relying.ParseKeySet(set)
}

func verifyCheckpoint(jws string, keys []relying.Key) (chain.Checkpoint, error) {
	payload, err := relying.VerifyCheckpoint(jws, keys)
	if err != nil {
		return chain.Checkpoint{}, err
	}
	return chain.ParseCheckpoint(payload)
}

// verifiedCheckpoints fetches all checkpoints, verifies each, and that they follow one another and are those that were kept.
func (a *app) verifiedCheckpoints(pinned []pinnedCheckpoint, keys []relying.Key) ([]chain.Checkpoint, *chain.Fault, error) {
	list, _, err := a.checkpoints(Paging{All: true, Sort: "number"})
	if err != nil {
		return nil, nil, err
	}
	if len(list) > 0 {
		served, err := a.servedKeys()
		if err != nil {
			return nil, nil, err
		}
		keys = append(keys[:len(keys):len(keys)], served...) // one that was kept goes first
	}
	kept := map[int64]*pinnedCheckpoint{}
	for i := range pinned {
		kept[pinned[i].said.Number] = &pinned[i]
	}
	var out []chain.Checkpoint
	previous := ""
	for i := range list {
		fault := func(detail, expected, found string) *chain.Fault {
			return &chain.Fault{Kind: chain.FaultCheckpoint, Seq: list[i].AuditSeq, Detail: fmt.Sprintf("checkpoint %d: %s", list[i].Number, detail), Expected: expected, Found: found}
		}
		said, err := verifyCheckpoint(list[i].Statement, keys)
		switch {
		case err != nil:
			return nil, fault(err.Error(), "", ""), nil
		case said.Number != int64(i+1):
			return nil, fault("checkpoints are missing before it", fmt.Sprint(i+1), fmt.Sprint(said.Number)), nil
		case said.Previous != nil && *said.Previous != previous:
			return nil, fault("it was made after another checkpoint than the one before it", *said.Previous, previous), nil
		}
		previous = chain.StatementHash(list[i].Statement)
		if p := kept[said.Number]; p != nil {
			if p.jws != list[i].Statement {
				return nil, fault("it is another one than "+p.file+", which was kept", chain.StatementHash(p.jws), previous), nil
			}
			delete(kept, said.Number)
		}
		out = append(out, said)
	}
	for number, p := range kept {
		return nil, &chain.Fault{Kind: chain.FaultCheckpoint, Seq: p.said.Audit.Seq, Detail: fmt.Sprintf("checkpoint %d, which was kept in %s, is not there any more", number, p.file)}, nil
	}
	return out, nil, nil
}

// servedKeys are the keys that the service says it signed with, ended ones too, but no revoked ones.
func (a *app) servedKeys() ([]relying.Key, error) {
	api, err := a.api()
	if err != nil {
		return nil, err
	}
	resp, err := api.ListSigningKeysWithResponse(a.ctx)
	list, _, err := answer[client.SigningKeyList](a, resp, err)
	if err != nil {
		return nil, err
	}
	var keys []json.RawMessage
	for i := range list.Items {
		k, err := json.Marshal(list.Items[i].PublicKey)
		if err != nil {
			return nil, err
		}
		if list.Items[i].RevokedAt == nil {
			keys = append(keys, k)
		}
	}
	return keysOf(keys...)
}

// walkEvents fetches the events in the order of the chain and checks each.
func (a *app) walkEvents(walk *chain.Walk) (*chain.Fault, error) {
	api, err := a.api()
	if err != nil {
		return nil, err
	}
	limit, sort := maxPage, client.ListAuditEventsParamsSort("seq")
	params := client.ListAuditEventsParams{Limit: &limit, Sort: &sort}
	shown := a.now()
	for {
		resp, err := api.ListAuditEventsWithResponse(a.ctx, &params)
		page, _, err := answer[client.AuditEventList](a, resp, err)
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			e, stated, err := chainEvent(&page.Items[i])
			if err != nil {
				return nil, badAnswer(err)
			}
			if fault := walk.Next(e, stated); fault != nil {
				return fault, nil
			}
		}
		if now := a.now(); now.Sub(shown) > 2*time.Second {
			fmt.Fprintf(a.stderr, "assay: %d events checked\n", walk.Events)
			shown = now
		}
		if params.Cursor = page.NextCursor; page.NextCursor == nil {
			return nil, nil
		}
	}
}

// chainEvent is an event as it is hashed.
func chainEvent(e *client.AuditEvent) (*chain.Event, chain.Hash, error) {
	if e.Seq == nil || e.PrevHash == nil || e.Hash == nil {
		return nil, chain.Hash{}, fmt.Errorf("event %s is not in the chain", e.ID)
	}
	previous, err := hex.DecodeString(*e.PrevHash)
	stated, err2 := hex.DecodeString(*e.Hash)
	if err = errors.Join(err, err2); err != nil || len(previous) != chain.Size || len(stated) != chain.Size {
		return nil, chain.Hash{}, fmt.Errorf("event %s: a hash is not 64 hexadecimal digits", e.ID)
	}
	return &chain.Event{TenantID: e.TenantID.String(), EventID: e.ID.String(), Seq: *e.Seq, At: e.At, ActorKind: e.ActorKind, ActorID: e.ActorID, RemoteAddr: e.RemoteAddr,
		RequestID: e.RequestID, Action: e.Action, Target: e.Target, Before: e.Before, After: e.After, PrevHash: chain.Hash(previous)}, chain.Hash(stated), nil
}

func (a *app) printAudit(r *auditReport) {
	p := a.print
	if r.Fault != nil {
		p.line("%s  the record of changes does not hold", p.paint(red, "BROKEN"))
		p.field("first fault", strings.ReplaceAll(r.Fault.Kind, "_", " "))
		p.field("event", fmt.Sprintf("%d %s", r.Fault.Seq, clean(r.Fault.EventID)))
		p.field("what", clean(r.Fault.Detail))
		p.field("expected", clean(r.Fault.Expected))
		p.field("found", clean(r.Fault.Found))
	} else {
		p.line("%s  %d events, %d to %d, each linked to the one before it", p.paint(green, "HOLDS"), r.Events, r.FirstSeq, r.LastSeq)
	}
	p.field("checkpoints", fmt.Sprintf("%d, %d compared, %d with the verdicts", r.Checkpoints, r.Compared, r.Trees))
	switch {
	case r.Pinned > 0:
		p.field("kept elsewhere", count(r.Pinned, "checkpoint")+": nothing before it was changed or dropped")
	case !r.KeysPinned:
		p.field("note", "the service itself says which keys to trust: keep a checkpoint elsewhere to find what somebody with its database and keys does")
	}
}
