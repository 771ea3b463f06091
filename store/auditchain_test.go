package store_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/chain"
)

// chainOf reads the whole chain of a tenant and checks each link; it gives the events by seq from 1.
func chainOf(t testing.TB, s *store.Store, of uuid.UUID) []store.AuditEvent {
	t.Helper()
	var all []store.AuditEvent
	var cursor string
	for {
		items, next, err := s.ListAuditEvents(t.Context(), of, store.AuditFilter{}, store.Page{Sort: "seq", Limit: 500, Cursor: cursor})
		must0(t, err)
		all = append(all, items...)
		if cursor = next; next == "" {
			break
		}
	}
	previous := map[bool]chain.Hash{}
	var forward, earlier []store.AuditEvent
	for _, e := range all {
		if *e.Seq > 0 {
			forward = append(forward, e)
		} else {
			earlier = append([]store.AuditEvent{e}, earlier...) // -1 first
		}
	}
	for _, part := range [][]store.AuditEvent{forward, earlier} {
		for i, e := range part {
			want := int64(i + 1)
			if *e.Seq < 0 {
				want = -want
			}
			if *e.Seq != want {
				t.Fatalf("event %d of the chain has seq %d", i+1, *e.Seq)
			}
			hash := eventOf(of, e, previous[*e.Seq > 0]).Hash()
			if hex.EncodeToString(hash[:]) != hex.EncodeToString(e.Hash) {
				t.Fatalf("event %d (%s): the database's hash is %x, computed here it is %x", *e.Seq, e.Action, e.Hash, hash)
			}
			previous[*e.Seq > 0] = hash
		}
	}
	return forward
}

func eventOf(of uuid.UUID, e store.AuditEvent, previous chain.Hash) *chain.Event {
	return &chain.Event{TenantID: of.String(), EventID: e.ID.String(), Seq: *e.Seq, At: e.At, ActorKind: e.Actor.Kind, ActorID: e.Actor.ID,
		RemoteAddr: e.Actor.RemoteAddr, RequestID: e.Actor.RequestID, Action: e.Action, Target: e.Target, Before: e.Before, After: e.After, PrevHash: previous}
}

// Two replicas write events of three tenants at once, appraisals in groups among them: each tenant has one chain without a gap, in
// which every event is, and nobody meets a deadlock.
func TestConcurrentWritersMakeOneChain(t *testing.T) {
	s, conn := newStore(t)
	other := open(t, conn.Config().ConnString(), store.Options{})
	tenants := []uuid.UUID{tenant, uuid.MustParse("01900000-0000-7000-8000-0000000000aa"), uuid.MustParse("01900000-0000-7000-8000-0000000000bb")}
	machines := map[uuid.UUID][]store.Enrollment{}
	for _, of := range tenants {
		must0(t, s.EnsureTenant(t.Context(), of, t0))
		must0(t, s.CreateJoinToken(t.Context(), of, store.JoinToken{Name: "j", UsesLeft: 9, ExpiresAt: t0.Add(time.Hour), CreatedAt: t0}, hash("j"+of.String()), system))
		for i := range 4 {
			name := fmt.Sprint("m", i)
			e, err := s.CreateEnrollment(t.Context(), of, enrolment(hash("j"+of.String()), store.MachineInput{Name: name, ExternalID: name}, "ek "+name+of.String(), "ak "+name+of.String()), t0, system)
			must0(t, err)
			machines[of] = append(machines[of], e)
		}
	}
	const rounds = 25
	var wg sync.WaitGroup
	for _, replica := range []*store.Store{s, other} {
		for _, of := range tenants {
			for i := range machines[of] {
				e := machines[of][i]
				wg.Go(func() {
					for round := range rounds {
						rec := judgement(e, t0.Add(time.Duration(round)*time.Second), verifier.Affirming, fmt.Sprintf("%p %d", replica, round))
						rec.ChallengeKey = nil
						if _, err := replica.RecordAppraisal(context.WithoutCancel(t.Context()), of, rec); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Go(func() {
				for range rounds {
					if err := replica.RecordAudit(context.WithoutCancel(t.Context()), of, "test.note", "tenant:"+of.String(), json.RawMessage(`{"a" : "ä\u0000"}`), t0, system); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, of := range tenants {
		events := chainOf(t, s, of)
		if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE tenant_id = $1`, of); int64(len(events)) != n {
			t.Errorf("tenant %s: %d events, %d in the chain", of, n, len(events))
		}
		checkVerdictChains(t, s, of, len(machines[of]))
	}
}

// checkVerdictChains follows the chain of every machine's verdicts and the events about them.
func checkVerdictChains(t testing.TB, s *store.Store, of uuid.UUID, machines int) map[string]*store.ChainedVerdict {
	t.Helper()
	segments := must[[]store.ChainSegment](t)(s.ChainSegments(t.Context(), of, nil, nil, nil))
	if len(segments) != machines {
		t.Fatalf("%d machines have a chain, want %d", len(segments), machines)
	}
	told := map[string]string{}
	for _, e := range chainOf(t, s, of) {
		if e.Action == "verdict.change" {
			var v struct {
				VerdictID, Hash string
			}
			must0(t, json.Unmarshal([]byte(strings.ReplaceAll(*e.After, "verdict_id", "VerdictID")), &v))
			told[v.VerdictID] = v.Hash
		}
	}
	all := map[string]*store.ChainedVerdict{}
	for _, segment := range segments {
		var previous []byte
		next := int64(1)
		must0(t, s.EachChainedVerdict(t.Context(), of, segment, func(v *store.ChainedVerdict) error {
			hash := v.Verdict.Hash()
			if v.Seq != next || hex.EncodeToString(hash[:]) != hex.EncodeToString(v.Hash) || hex.EncodeToString(v.PrevHash) != hex.EncodeToString(previous) {
				t.Errorf("machine %s: link %d, want %d: hash %x, computed %x, after %x, want %x", segment.MachineID, v.Seq, next, v.Hash, hash, v.PrevHash, previous)
			}
			if at, ok := told[v.VerdictID]; ok && at != "" && at != hex.EncodeToString(v.Hash) {
				t.Errorf("the event about verdict %s has the hash %s, the verdict %x", v.VerdictID, at, v.Hash)
			}
			all[v.VerdictID] = v
			next, previous = v.Seq+1, v.Hash
			return nil
		}))
		if next != segment.To+1 {
			t.Errorf("machine %s: the chain ends at %d, want %d", segment.MachineID, next-1, segment.To)
		}
	}
	return all
}

// A transaction that is rolled back leaves no hole, and one that fails at its commit neither.
func TestRollbackLeavesNoHoleInTheChain(t *testing.T) {
	s, conn := newStore(t)
	const insert = `INSERT INTO audit_events (tenant_id, event_id, at, actor_kind, actor_id, action, target) VALUES ($1, gen_random_uuid(), $2, 'system', 'x', $3, 'b')`
	stop := errors.New("stop")
	for i := range 3 {
		err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			for range 2 {
				if _, err := tx.Exec(t.Context(), insert, tenant, t0, fmt.Sprint("try.", i)); err != nil {
					return err
				}
			}
			if i == 1 {
				return stop
			}
			return nil
		})
		if (err != nil) != (i == 1) {
			t.Fatal(err)
		}
	}
	var actions []string
	for _, e := range chainOf(t, s, tenant) {
		actions = append(actions, e.Action)
	}
	if got := strings.Join(actions, " "); got != "tenant.create try.0 try.0 try.2 try.2" {
		t.Errorf("the chain is %s", got)
	}
	for _, change := range []string{`UPDATE audit_chain SET seq = 9`, `DELETE FROM audit_chain`, `TRUNCATE audit_chain`, `TRUNCATE audit_events`} {
		if _, err := conn.Exec(t.Context(), change); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", change, err)
		}
	}
}

// An attestation that changes nothing writes no event and no link, and the machine's row stays as it is.
func TestSteadyAttestationTouchesNoChain(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	record(t, s, judgement(e, t0, verifier.Affirming, "good"))
	const state = `SELECT (SELECT count(*) FROM audit_chain) * 1000000 + (SELECT count(*) FROM audit_events) * 1000 + (SELECT count(*) FROM verdicts)`
	const row = `SELECT m.xmin::text::bigint FROM machines m WHERE machine_id = $1`
	before, version := number(t, conn, state), number(t, conn, row, e.MachineID)
	for i := range 5 {
		if r := record(t, s, judgement(e, t0.Add(time.Duration(i+1)*time.Minute), verifier.Affirming, "good")); r.New {
			t.Fatal("a new run")
		}
	}
	if after := number(t, conn, state); after != before {
		t.Errorf("chain, events and verdicts were %d and are %d", before, after)
	}
	if now := number(t, conn, row, e.MachineID); now != version {
		t.Error("the machine's row was written")
	}
}

// The verdicts of a machine are a chain; what the release before writes meanwhile is part of it, and the first states how many there were.
func TestVerdictsAreAChain(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	// Two verdicts from before the chain.
	const old = `INSERT INTO verdicts (tenant_id, verdict_id, machine_id, status, reason, assurance, genuine, first_at, last_at, run_count, appraisal)
		VALUES ($1, $2, $3, 'affirming', '', 'ek_activated', true, $4, $4, 1, '{"status": "affirming"}')`
	sql := func(q string, args ...any) {
		t.Helper()
		_, err := conn.Exec(t.Context(), q, args...)
		must0(t, err)
	}
	sql(`ALTER TABLE verdicts DISABLE TRIGGER verdicts_chain`)
	for i := range 2 {
		sql(old, tenant, fmt.Sprintf("01930000-0000-7000-8000-00000000000%d", i), e.MachineID, t0)
	}
	sql(`ALTER TABLE verdicts ENABLE TRIGGER verdicts_chain`)
	first := judgement(e, t0, verifier.Affirming, "good")
	first.JudgedBy = func() ([]byte, error) { return []byte(`{"engine": "x <&>"}`), nil }
	record(t, s, first)
	for i := 1; i <= 3; i++ {
		record(t, s, judgement(e, t0.Add(time.Duration(i)*time.Minute), verifier.Affirming, "good"))
	}
	record(t, s, judgement(e, t0.Add(4*time.Minute), verifier.Contraindicated, "bad"))
	sql(`UPDATE verdicts SET last_at = $2, run_count = 1 WHERE machine_id = $1 AND seq = 2`, e.MachineID, t0.Add(5*time.Minute))
	sql(old, tenant, "01950000-0000-7000-8000-000000000009", e.MachineID, t0.Add(6*time.Minute))
	sql(`UPDATE machine_attestation_state SET verdict_id = '01950000-0000-7000-8000-000000000009', run_count = 1, run_last_at = $2 WHERE machine_id = $1`, e.MachineID, t0.Add(6*time.Minute))
	record(t, s, judgement(e, t0.Add(7*time.Minute), verifier.Affirming, "better"))
	all := checkVerdictChains(t, s, tenant, 1)
	if len(all) != 4 {
		t.Fatalf("%d verdicts are chained, want 4", len(all))
	}
	for _, v := range all {
		if v.Seq == 1 && (v.Earlier != 2 || v.EvidenceDigest == nil || string(v.JudgedBy) != `{"engine": "x <&>"}` || v.Count != 4) {
			t.Errorf("the first link: %+v", v)
		}
		if v.Seq == 2 && (v.PreviousCount != 4 || !v.PreviousLastAt.Equal(t0.Add(3*time.Minute))) {
			t.Errorf("the second link: %+v", v)
		}
	}
}

// Events from before the chain are chained backwards, in pages, by whoever comes first; an event then says how many.
func TestEarlierEventsAreChained(t *testing.T) {
	s, conn := newStore(t)
	sql := func(q string, args ...any) {
		t.Helper()
		_, err := conn.Exec(t.Context(), q, args...)
		must0(t, err)
	}
	of := uuid.MustParse("01900000-0000-7000-8000-0000000000cc")
	sql(`ALTER TABLE audit_events DISABLE TRIGGER audit_events_chain`)
	sql(`INSERT INTO audit_events (tenant_id, event_id, at, actor_kind, actor_id, action, target, before, after)
		SELECT $1, assay_uuid7_floor($2::timestamptz + n * interval '1 second'), $2::timestamptz + n * interval '1 second', 'admin', 'x', 'old.change', 'thing:' || n, CASE WHEN n % 2 = 0 THEN '{"n" :  1}'::json END, '[]'
		FROM generate_series(1, 25) n`, of, t0)
	sql(`ALTER TABLE audit_events ENABLE TRIGGER audit_events_chain`)
	sql(`INSERT INTO audit_heads (tenant_id, earlier_done) VALUES ($1, false)`, of)
	must0(t, s.RecordAudit(t.Context(), of, "new.change", "thing:1", nil, t0, system))
	if items, _, err := s.ListAuditEvents(t.Context(), of, store.AuditFilter{Action: "old.change"}, store.Page{}); err != nil || len(items) != 25 || items[0].Seq != nil || items[0].Hash != nil {
		t.Fatalf("before they are chained: %d, %v", len(items), err)
	}
	var pages []int
	for {
		n := must[int](t)(s.ChainEarlierAudit(t.Context(), of, 10, t0))
		pages = append(pages, n)
		if n < 10 {
			break
		}
	}
	if n := must[int](t)(s.ChainEarlierAudit(t.Context(), of, 10, t0)); n != 0 || fmt.Sprint(pages) != "[10 10 5]" {
		t.Errorf("pages %v, then %d", pages, n)
	}
	events := chainOf(t, s, of)
	if len(events) != 2 || events[1].Action != "audit.earlier_chained" {
		t.Fatalf("the chain: %+v", events)
	}
	oldest, _, err := s.ListAuditEvents(t.Context(), of, store.AuditFilter{}, store.Page{Sort: "seq", Limit: 1})
	must0(t, err)
	if want := fmt.Sprintf(`{"events":25,"hash":"%x","seq":-25}`, oldest[0].Hash); *events[1].After != want || *oldest[0].Seq != -25 || oldest[0].Target != "thing:1" {
		t.Errorf("it says %s, want %s", *events[1].After, want)
	}
}

func TestAuditEventsAreFiltered(t *testing.T) {
	s, _ := newStore(t)
	for i := range 10 {
		a := store.Actor{Kind: []string{"admin", "system"}[i%2], ID: fmt.Sprint("who", i%3), RequestID: fmt.Sprint("req", i)}
		must0(t, s.RecordAudit(t.Context(), tenant, []string{"a.x", "a.y", "b.x"}[i%3], fmt.Sprint([]string{"thing:", "thingy:"}[i%2], i), nil, t0.Add(time.Duration(i)*time.Hour), a))
	}
	at := func(h int) *time.Time { x := t0.Add(time.Duration(h) * time.Hour); return &x }
	for want, f := range map[int]store.AuditFilter{
		11: {}, 5: {ActorKind: "admin"}, 4: {ActorID: "who0"}, 7: {Action: "a.x,a.y"}, 1: {Target: "thing:4"}, 6: {Since: at(2), Until: at(7)}, 2: {TargetKind: "thing", Since: at(5), Until: at(8)}, 0: {RequestID: "req"},
	} {
		if items, _, err := s.ListAuditEvents(t.Context(), tenant, f, store.Page{}); err != nil || len(items) != want {
			t.Errorf("%+v: %d, want %d (%v)", f, len(items), want, err)
		}
	}
}
