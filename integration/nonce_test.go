package integration_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
)

// attestations is how many pieces of evidence were judged so, by the counts of the machine's history.
func (m *machine) attestations(status string) int64 {
	m.t.Helper()
	var list struct{ Items []verdict }
	m.svc.get(m.t, "/v1/machines/"+m.id()+"/verdicts?limit=500&status="+status, &list)
	var n int64
	for _, v := range list.Items {
		n += v.Count
	}
	return n
}

// Of several posts of one nonce at the same time exactly one counts; the others are recorded as replays (CVE-2026-6420: a challenge that
// could be answered again).
func TestConcurrentNonce(t *testing.T) {
	svc := sharedService(t)
	m := booted(t, svc, "nonce-web", "nonce", "sb-on-1")
	m.attest().must(t, "affirming", "")
	state := m.agentState()
	db := svc.sql(t)
	for _, posts := range []int{2, 20} {
		t.Run(fmt.Sprintf("%d posts", posts), func(t *testing.T) {
			affirming, refused := m.attestations("affirming"), m.attestations("contraindicated")
			c := m.challenge()
			body := m.evidence(c)
			answers := make([]answer, posts)
			errs := make([]error, posts)
			var start, done sync.WaitGroup
			start.Add(1)
			for i := range posts {
				done.Go(func() {
					start.Wait()
					answers[i], errs[i] = svc.send(context.Background(), http.MethodPost, "/v1/machines/"+state.MachineID+"/evidence", state.Bearer(), "application/json", body)
				})
			}
			start.Done()
			done.Wait()
			accepted := 0
			for i, a := range answers {
				if errs[i] != nil || a.status != http.StatusCreated {
					t.Fatalf("post %d: %v %d %s", i, errs[i], a.status, a.body)
				}
				v := parseVerdict(t, a.body)
				if v.Status == "affirming" {
					accepted++
					continue
				}
				v.must(t, "contraindicated", "origin_unverified", "quote.nonce")
			}
			if accepted != 1 {
				t.Errorf("%d of %d posts of one nonce were affirmed", accepted, posts)
			}
			if got := m.attestations("affirming") - affirming; got != 1 {
				t.Errorf("the history counts %d affirmed attestations", got)
			}
			if got := m.attestations("contraindicated") - refused; got != int64(posts-1) {
				t.Errorf("the history counts %d replays, %d were sent", got, posts-1)
			}
			last := one[[]byte](t, db, `SELECT last_challenge FROM machine_attestation_state WHERE machine_id = $1`, state.MachineID)
			if !bytes.Equal(last, c.Nonce[:len(last)]) || len(last) == 0 {
				t.Errorf("the redeemed challenge is %x, the nonce was %x", last, c.Nonce)
			}
		})
	}
}

// traces is all that evidence could change about a machine, but for the audit record.
const traces = `SELECT concat_ws('|',
	(SELECT m::text FROM machines m WHERE m.machine_id = $1),
	(SELECT s::text FROM machine_attestation_state s WHERE s.machine_id = $1),
	(SELECT string_agg(v::text, ';' ORDER BY v.verdict_id) FROM verdicts v WHERE v.machine_id = $1),
	(SELECT string_agg(a::text, ';' ORDER BY a.code) FROM assessments a WHERE a.machine_id = $1),
	(SELECT string_agg(a::text, ';' ORDER BY a.alert_id) FROM alerts a WHERE a.machine_id = $1),
	(SELECT count(*) FROM evidence e JOIN verdicts v USING (tenant_id, verdict_id) WHERE v.machine_id = $1))`

const auditEvents = `SELECT count(*) FROM audit_events WHERE target = 'machine:' || $1::text`

// A nonce that was not made for this machine is refused, and leaves nothing but an audit event: evidence of
// another machine, and a nonce that nobody made.
func TestForeignNonce(t *testing.T) {
	svc := sharedService(t)
	a := booted(t, svc, "nonce-a", "", "sb-on-1")
	b := booted(t, svc, "nonce-b", "", "sb-on-otherbox")
	b.attest().must(t, "affirming", "")
	db := svc.sql(t)
	made := a.challenge()
	invented := *made
	invented.Nonce = make([]byte, 32)
	if _, err := rand.Read(invented.Nonce); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{
		"evidence of another machine":          a.evidence(made),
		"another machine's nonce":              b.evidence(made),
		"a nonce that nobody made":             b.evidence(&invented),
		"a nonce of another length":            b.evidence(shorter(made)),
		"a nonce of ours with one bit changed": b.evidence(flipped(b.challenge())),
	} {
		before, events := one[string](t, db, traces, b.id()), one[int64](t, db, auditEvents, b.id())
		got := b.submit(body)
		if got.status != http.StatusConflict || problemCode(t, got) != "unknown_challenge" {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		if after := one[string](t, db, traces, b.id()); after != before {
			t.Errorf("%s was stored:\n%s\n%s", name, before, after)
		}
		if n := one[int64](t, db, auditEvents, b.id()) - events; n != 1 {
			t.Errorf("%s: %d audit events", name, n)
		}
	}
	// With its own token a machine posts for itself only.
	state := a.agentState()
	got, err := svc.send(t.Context(), http.MethodPost, "/v1/machines/"+b.id()+"/evidence", state.Bearer(), "application/json", a.evidence(made))
	if err != nil || got.status != http.StatusForbidden {
		t.Errorf("another machine's token: %v %d %s", err, got.status, got.body)
	}
	a.judged(a.evidence(made)).must(t, "affirming", "")
}

func shorter(c *client.Challenge) *client.Challenge {
	out := *c
	out.Nonce = c.Nonce[:16]
	return &out
}

func flipped(c *client.Challenge) *client.Challenge {
	out := *c
	out.Nonce = bytes.Clone(c.Nonce)
	out.Nonce[31] ^= 1
	return &out
}

// An expired challenge of ours is a finding about the machine, not an error.
func TestExpiredNonce(t *testing.T) {
	t.Parallel()
	svc := sharedService(t)
	svc.policy(t, "nonce-expiry", map[string]any{"challenge_lifetime_seconds": 5})
	m := booted(t, svc, "nonce-late", "nonce-expiry", "sb-on-1")
	late := m.challenge()
	body := m.evidence(late)
	time.Sleep(time.Until(late.ExpiresAt))
	m.judged(body).must(t, "contraindicated", "origin_unverified", "quote.nonce")
	m.judged(m.evidence(m.challenge())).must(t, "affirming", "")
	// Once a later challenge was answered, an earlier one is spent.
	earlier, later := m.challenge(), m.challenge()
	first, second := m.evidence(earlier), m.evidence(later)
	m.judged(second)
	m.judged(first).must(t, "contraindicated", "origin_unverified", "quote.nonce")
}

// Identical evidence with one more field is still the same nonce.
func TestReplayDressedUp(t *testing.T) {
	svc := sharedService(t)
	m := booted(t, svc, "nonce-dressed", "", "sb-on-1")
	body := m.evidence(m.challenge())
	m.judged(body).must(t, "affirming", "")
	var fields map[string]any
	if err := json.Unmarshal(body, &fields); err != nil {
		t.Fatal(err)
	}
	fields["agent"] = map[string]any{"version": "2", "boot_id": "another"}
	again, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	m.judged(again).must(t, "contraindicated", "origin_unverified", "quote.nonce")
}
