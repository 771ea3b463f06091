package store_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/chain"
)

// stated "signs" by writing the statement down.
func stated(c chain.Checkpoint) (string, string, error) {
	b, err := json.Marshal(c)
	return string(b), "key", err
}

func TestCheckpoints(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 9)
	for i := range 3 {
		e := active(t, s, token, fmt.Sprint("m", i))
		for j := range i + 1 {
			record(t, s, judgement(e, t0, verifier.Affirming, fmt.Sprint("boot ", j)))
		}
	}
	first, err := s.MakeAuditCheckpoint(t.Context(), tenant, time.Hour, t0, system, stated)
	must0(t, err)
	said, err := chain.ParseCheckpoint([]byte(first.Statement))
	must0(t, err)
	events := chainOf(t, s, tenant)
	last := events[len(events)-2] // before the event about the checkpoint
	if said.Number != 1 || said.Verdicts.Machines != 3 || said.Verdicts.Count != 6 || said.Audit.Seq != *last.Seq || said.Audit.Hash != hex.EncodeToString(last.Hash) || said.Previous != nil {
		t.Errorf("%+v", said)
	}
	got, heads, err := s.CheckpointWithHeads(t.Context(), tenant)
	must0(t, err)
	if root := heads.Root(); got.ID != first.ID || hex.EncodeToString(root[:]) != said.Verdicts.Root || heads.Len() != 3 {
		t.Errorf("%+v with %d heads", got, heads.Len())
	}
	// By time none is made too early, nor where nothing was written since.
	for _, at := range []time.Time{t0.Add(time.Minute), t0.Add(2 * time.Hour)} {
		if _, err := s.MakeAuditCheckpoint(t.Context(), tenant, time.Hour, at, system, stated); !errors.Is(err, store.ErrNoCheckpoint) {
			t.Errorf("at %s: %v", at, err)
		}
	}
	// Several at once: each number is made once, and each names the one before it.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				_, err := s.MakeAuditCheckpoint(t.Context(), tenant, 0, t0.Add(time.Hour), system, stated)
				if err == nil {
					return
				}
				if !errors.Is(err, store.ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	list, _, err := s.ListAuditCheckpoints(t.Context(), tenant, store.Page{Sort: "number", Limit: 100})
	must0(t, err)
	previous := ""
	for i, c := range list {
		said, err := chain.ParseCheckpoint([]byte(c.Statement))
		must0(t, err)
		if said.Number != int64(i+1) || (said.Previous != nil && *said.Previous != previous) {
			t.Errorf("checkpoint %d: %+v, after %s", i+1, said, previous)
		}
		previous = chain.StatementHash(c.Statement)
	}
	if len(list) != 9 {
		t.Errorf("%d checkpoints", len(list))
	}
	for range 20 {
		_, err := s.MakeAuditCheckpoint(t.Context(), tenant, 0, t0.Add(time.Hour), system, stated)
		must0(t, err)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_checkpoint_heads`); n != 24 {
		t.Errorf("leaves of %d checkpoints are kept, want 24", n)
	}
	if _, err := conn.Exec(t.Context(), `UPDATE audit_checkpoints SET statement = 'x'`); err == nil {
		t.Error("a checkpoint can be changed")
	}
	if _, err := s.MakeAuditCheckpoint(t.Context(), tenant, 0, t0, system, func(chain.Checkpoint) (string, string, error) { return "", "", errors.New("no key") }); err == nil {
		t.Error("a checkpoint was made without a signature")
	}
}
