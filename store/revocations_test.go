package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/boottest"
	"github.com/assay-verifier/assay/verifier/revocations"
)

// What is imported is in the next appraisal's snapshot, of its tenant alone, and in the audit record.
func TestRevocations(t *testing.T) {
	s, conn := newStore(t)
	ctx := t.Context()
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	other := uuid.MustParse("01900000-0000-7000-8000-00000000000b")
	must0(t, s.EnsureTenant(ctx, other, t0))
	snapshot := func() *revocations.Set {
		t.Helper()
		return must[store.AppraisalInputs](t)(s.AppraisalInputs(ctx, tenant, e.MachineID, t0)).Revocations
	}
	shipped := must[*revocations.Set](t)(revocations.Shipped())
	if snapshot() != shipped {
		t.Error("a tenant that imported nothing has a set of its own")
	}
	digest := [32]byte{7}
	update := revocations.Addition{Kind: revocations.KindDBX, Body: boottest.NewKeyExchangeKey(t).Update(t, "dbx", digest)}
	held, stored, err := s.PutRevocations(ctx, tenant, update, t0, system)
	if err != nil || !stored || held.Entries != 1 || held.CreatedBy != "system:test" {
		t.Fatal(held, stored, err)
	}
	if _, revoked := snapshot().Lookup(digest); !revoked {
		t.Error("the next appraisal does not know what was imported")
	}
	if set := must[*revocations.Set](t)(s.Revocations(ctx, other)); set != shipped {
		t.Error("another tenant sees it")
	}
	if _, again, err := s.PutRevocations(ctx, tenant, update, t0.Add(time.Hour), system); err != nil || again {
		t.Error(again, err)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'revocations.import' AND target = 'revocations:dbx'`); n != 1 {
		t.Errorf("%d audit events", n)
	}
	list := must[[]store.StoredRevocations](t)(s.ListRevocations(ctx, tenant))
	if last := list[len(list)-1]; len(list) != len(shipped.Sources())+1 || last.SHA256 != held.SHA256 || last.CreatedAt == nil || list[0].CreatedAt != nil {
		t.Error(list)
	}
	if _, _, err := s.PutRevocations(ctx, uuid.New(), update, t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if _, _, err := s.PutRevocations(ctx, tenant, revocations.Addition{Kind: revocations.KindLevel, Body: []byte("x")}, t0, system); err == nil {
		t.Error("what cannot be read is stored")
	}
}

// Of several who import levels at once the newest stands at the end, whatever the order.
func TestConcurrentImportsKeepTheNewest(t *testing.T) {
	s, conn := newStore(t)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			level := fmt.Sprintf("sbat,1,20261%d%02d00\nshim,5\n", 1+i%2, 1+i)
			if _, _, err := s.PutRevocations(t.Context(), tenant, revocations.Addition{Kind: revocations.KindLevel, Body: []byte(level)}, t0, system); err != nil && !errors.Is(err, store.ErrNotNewer) {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if n := number(t, conn, `SELECT count(*) FROM revocations WHERE version = '2026121200'`); n != 1 {
		t.Error("the newest level is not what is held")
	}
	if n := number(t, conn, `SELECT count(*) FROM revocations`); n != 1 {
		t.Errorf("%d levels are held", n)
	}
}

func TestPolicyVersions(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	if _, _, err := s.ListPolicyVersions(ctx, tenant, "mine", store.Page{Limit: 10}); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	p := verifier.DefaultPolicy()
	for i := range 3 {
		p.AttestationIntervalSeconds = 100 + i
		must[store.PolicyVersion](t)(s.PutPolicy(ctx, tenant, "mine", p, t0, system))
	}
	var seen []int
	cursor := ""
	for {
		items, next, err := s.ListPolicyVersions(ctx, tenant, "mine", store.Page{Limit: 2, Cursor: cursor})
		must0(t, err)
		for _, v := range items {
			seen = append(seen, v.Version*1000+v.Policy.AttestationIntervalSeconds)
		}
		if cursor = next; next == "" {
			break
		}
	}
	if fmt.Sprint(seen) != "[3102 2101 1100]" {
		t.Error(seen)
	}
	if _, _, err := s.ListPolicyVersions(ctx, tenant, "mine", store.Page{Limit: 2, Cursor: "AAAA"}); !errors.Is(err, store.ErrInvalidCursor) {
		t.Error(err)
	}
}
