package integration_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
)

// TestCVE20266420ChallengesAreNeverTheSame: a verifier challenged every machine with a fixed value, so that one quote answered for ever
// (CVE-2026-6420). Here no two challenges are the same: of one machine and of two, of many at once, before and after the service was
// started anew; the part that is left to chance differs in every one. An answer given once is worth nothing again, nor after a start.
func TestCVE20266420ChallengesAreNeverTheSame(t *testing.T) {
	svc := newService(t)
	a, b := booted(t, svc, "fixed-a", "", "sb-on-1"), booted(t, svc, "fixed-b", "", "sb-on-otherbox")
	var mu sync.Mutex
	whole, chance := map[string]bool{}, map[string]bool{}
	ask := func(m *machine) {
		state := m.agentState()
		got, err := svc.send(t.Context(), http.MethodPost, "/v1/machines/"+state.MachineID+"/challenges", state.Bearer(), "", nil)
		var c client.Challenge
		if err == nil && got.status != http.StatusCreated {
			err = fmt.Errorf("%d %s", got.status, got.body)
		}
		if err == nil {
			err = json.Unmarshal(got.body, &c)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil || len(c.Nonce) < 32 {
			t.Errorf("%v, nonce of %d bytes", err, len(c.Nonce))
			return
		}
		// The nonce begins with its time; what follows is chance and the MAC over both.
		if whole[string(c.Nonce)] || chance[string(c.Nonce[8:])] {
			t.Errorf("the challenge %x was given twice", c.Nonce)
		}
		whole[string(c.Nonce)], chance[string(c.Nonce[8:])] = true, true
	}
	const rounds = 50
	round := func() {
		t.Helper()
		for range rounds {
			ask(a)
			ask(b)
		}
		var done sync.WaitGroup
		for range 4 {
			for _, m := range []*machine{a, b} {
				done.Go(func() {
					for range rounds {
						ask(m)
					}
				})
			}
		}
		done.Wait()
	}
	round()
	answered := a.evidence(a.challenge())
	a.judged(answered).must(t, "affirming", "")
	a.judged(answered).must(t, "contraindicated", "origin_unverified", "quote.nonce")
	if err := svc.terminate(); err != nil {
		t.Fatal(err)
	}
	if err := svc.start(); err != nil {
		t.Fatal(err)
	}
	round()
	a.judged(answered).must(t, "contraindicated", "origin_unverified", "quote.nonce")
	if want := 2 * 2 * rounds * 5; len(whole) != want {
		t.Errorf("%d challenges of %d differ", len(whole), want)
	}
}
