package store_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
)

// waiting are the queued reappraisals of a cause.
func waiting(t testing.TB, s *store.Store, kind string) []store.Reappraisal {
	t.Helper()
	items, _, err := s.ListReappraisals(t.Context(), tenant, store.ReappraisalFilter{State: "queued"}, store.Page{})
	must0(t, err)
	return slices.DeleteFunc(items, func(r store.Reappraisal) bool { return r.Cause.Kind != kind })
}

// Each withdrawal asks for what it concerns, in its own transaction; what withdraws nothing asks for nothing.
func TestWithdrawalsAskForReappraisals(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	put := func(c tee.Collateral, source string) {
		t.Helper()
		if stored, err := s.PutCollateral(ctx, tenant, c, source, t0, system); err != nil || !stored {
			t.Fatalf("%v, %v", stored, err)
		}
	}
	put(vcek("milan/aa/bb", "key"), store.CollateralUploaded)
	put(crl("ARK-Genoa", t0, "brought"), store.CollateralFromEvidence)
	if got := waiting(t, s, store.CauseCollateral); len(got) != 0 {
		t.Errorf("a chip's key, and the first CRL of a machine: %+v", got)
	}
	put(crl("ARK-Genoa", t0.Add(time.Hour), "newer"), store.CollateralFromEvidence)
	put(crl("ARK-Milan", t0, "first"), store.CollateralUploaded)
	put(crl("ARK-Milan", t0.Add(time.Hour), "second"), store.CollateralUploaded)
	must0(t, s.DeleteCollateral(ctx, tenant, tee.KindSNPCRL, "ARK-Milan", t0, system))
	got := waiting(t, s, store.CauseCollateral)
	if len(got) != 2 {
		t.Fatalf("%+v", got)
	}
	for _, r := range got {
		if !slices.Equal(r.Scope.PlatformTypes, []string{tee.TypeAzureHCL, tee.TypeSEVSNP}) || r.RequestedBy != "system:test" {
			t.Errorf("%+v", r)
		}
	}

	c := rootCertificate(t, "CA")
	a := must[store.TrustAnchor](t)(s.CreateTrustAnchor(ctx, tenant, store.TrustAnchor{Name: "CA", Purpose: "ek", Certificates: []store.TrustCertificate{c}}, t0, system))
	for _, enabled := range []bool{true, false, false, true} {
		must[store.TrustAnchor](t)(s.SetTrustAnchorEnabled(ctx, tenant, a.ID, enabled, t0, system))
	}
	must[store.TrustAnchor](t)(s.DeleteTrustAnchor(ctx, tenant, a.ID, t0.Add(time.Second), system))
	if got := waiting(t, s, store.CauseTrustAnchor); len(got) != 2 || got[0].Cause.ID != a.ID.String() || !slices.Equal(got[0].Scope.AnchorFingerprints, []string{c.Fingerprint}) {
		t.Errorf("%+v", got)
	}

	selector := verifier.Selector{ScaleSet: []string{"web"}}
	v := must[store.BaselineVersion](t)(s.CreateBaseline(ctx, tenant, "web", selector, store.BaselineVersion{}, t0, system))
	for range 3 {
		must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, v.BaselineID, store.BaselineVersion{}, t0, system))
	}
	must[store.BaselineVersion](t)(s.RetireVersion(ctx, tenant, v.BaselineID, 4, store.Retirement{}, t0, system)) // a draft judged nobody
	if got := waiting(t, s, store.CauseBaselineVersion); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, v.BaselineID, 2, store.Promotion{}, t0, system)) // replaces 1 at once
	got = waiting(t, s, store.CauseBaselineVersion)
	if len(got) != 1 || got[0].Cause.ID != v.BaselineID.String()+"/1" || !slices.Equal(got[0].Scope.Selector.ScaleSet, selector.ScaleSet) {
		t.Errorf("%+v", got)
	}
	if _, err := s.RequestReappraisal(ctx, tenant, verifier.Selector{MachineIDs: []string{"web"}}, "", t0, system); err == nil {
		t.Error("a machine id that is none")
	}
}

// A reappraisal that fails again and again is given up, and says why; one that is queued is taken by one worker.
func TestReappraisalIsGivenUp(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	asked := must[store.Reappraisal](t)(s.RequestReappraisal(ctx, tenant, verifier.Selector{}, "x", t0, system))
	now := t0
	for range 3 {
		r := must[store.Reappraisal](t)(s.ClaimReappraisal(ctx, tenant, time.Minute, now))
		if r.ID != asked.ID || r.State != "running" || *r.Machines != 0 {
			t.Fatalf("%+v", r)
		}
		if _, err := s.ClaimReappraisal(ctx, tenant, time.Minute, now); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("two workers have it: %v", err)
		}
		now = now.Add(time.Second)
		must0(t, s.FailReappraisal(ctx, tenant, r.ID, "the disk is full", 3, now, now))
	}
	r := must[store.Reappraisal](t)(s.GetReappraisal(ctx, tenant, asked.ID))
	if r.State != "failed" || r.Error != "the disk is full" || r.FinishedAt == nil {
		t.Errorf("%+v", r)
	}
	if _, err := s.RecordReappraisals(ctx, tenant, &r, nil, true, time.Minute, now, system); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a page of one that was given up: %v", err)
	}
	if _, err := s.GetReappraisal(ctx, tenant, uuid.New()); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

// The scope of a reappraisal or trial, condition by condition.
func TestMachineScope(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	token := joinToken(t, s, "fleet", 10)
	a := active(t, s, token, "a")
	active(t, s, token, "b")
	for i, c := range []struct {
		scope store.MachineScope
		want  int64
	}{
		{store.MachineScope{}, 2},
		{store.MachineScope{Selector: verifier.Selector{ScaleSet: []string{"web", "db"}}}, 2},
		{store.MachineScope{Selector: verifier.Selector{ScaleSet: []string{"db"}}}, 0},
		{store.MachineScope{Selector: verifier.Selector{MachineIDs: []string{a.MachineID.String()}}}, 1},
		{store.MachineScope{Selector: verifier.Selector{Labels: map[string]string{"env": "prod"}}}, 0},
		{store.MachineScope{Selector: verifier.Selector{Platform: []string{"azure"}}}, 0},
		{store.MachineScope{PlatformTypes: []string{"tdx"}}, 0},
		{store.MachineScope{AnchorFingerprints: []string{"ab"}}, 0},
	} {
		n, err := s.CountMachinesIn(ctx, tenant, c.scope)
		must0(t, err)
		page, err := s.StoredJudgements(ctx, tenant, c.scope, uuid.Nil, 10, true, t0)
		must0(t, err)
		if n != c.want || int64(len(page)) != c.want {
			t.Errorf("%d: %d counted, %d read, want %d", i, n, len(page), c.want)
		}
	}
	page, err := s.StoredJudgements(ctx, tenant, store.MachineScope{}, uuid.Nil, 1, false, t0)
	must0(t, err)
	if len(page) != 1 || page[0].Kept || page[0].VerdictID != uuid.Nil {
		t.Errorf("a machine that never attested: %+v", page)
	}
	next, err := s.StoredJudgements(ctx, tenant, store.MachineScope{}, page[0].Inputs.Machine.ID, 1, false, t0)
	must0(t, err)
	if len(next) != 1 || next[0].Inputs.Machine.ID == page[0].Inputs.Machine.ID {
		t.Errorf("the next page: %+v", next)
	}
	if _, err := s.EvidenceOf(ctx, tenant, &page[0]); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}
