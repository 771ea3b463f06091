package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }

func person(name string) store.Actor { return store.Actor{Kind: "admin", ID: name} }

func changed(err error) string {
	var e *store.VersionChangedError
	if !errors.As(err, &e) {
		return ""
	}
	return e.What
}

func needsSecond(err error) bool {
	var e *store.SecondPersonError
	return errors.As(err, &e)
}

// race starts all calls at once and gives their errors.
func race(calls ...func() error) []error {
	errs := make([]error, len(calls))
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i, call := range calls {
		wg.Go(func() {
			<-start
			errs[i] = call()
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// onlyOne makes sure that one call has won, and that the others were told what happened.
func onlyOne(t *testing.T, story string, errs []error, told string) {
	t.Helper()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		if !strings.Contains(changed(err), told) {
			t.Errorf("%s: %v", story, err)
		}
	}
	if won != 1 {
		t.Errorf("%s: %d have won", story, won)
	}
}

// Of several people who change a version at once exactly one does, and the others are told who.
func TestConcurrentChangesOfAVersion(t *testing.T) {
	s, conn := newStore(t)
	ctx := t.Context()
	base := must[store.BaselineVersion](t)(s.CreateBaseline(ctx, tenant, "web", verifier.Selector{}, reference("v1"), t0, person("author"))).BaselineID
	for round := range 5 {
		v := must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, base, reference("next"), t0, person("author")))
		before := number(t, conn, `SELECT count(*) FROM audit_events WHERE action IN ('baseline.promote', 'baseline.retire')`)
		var calls []func() error
		for i := range 8 {
			who := person(fmt.Sprint("p", i))
			calls = append(calls, func() error {
				_, err := s.PromoteVersion(ctx, tenant, base, v.Version, store.Promotion{Expected: "draft"}, t0, who)
				return err
			}, func() error {
				_, err := s.RetireVersion(ctx, tenant, base, v.Version, store.Retirement{Expected: "draft"}, t0, who)
				return err
			})
		}
		onlyOne(t, fmt.Sprint("round ", round), race(calls...), fmt.Sprintf("version %d is ", v.Version))
		if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action IN ('baseline.promote', 'baseline.retire')`); n != before+1 {
			t.Errorf("%d events in the audit record", n-before)
		}
		if n := number(t, conn, `SELECT count(*) FROM baseline_versions WHERE state = 'active'`); n != 1 {
			t.Errorf("%d active versions", n)
		}
	}
	// Versions of one baseline, promoted at once, follow each other: the last stays.
	var calls []func() error
	for range 6 {
		v := must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, base, reference("next"), t0, person("author")))
		calls = append(calls, func() error {
			_, err := s.PromoteVersion(ctx, tenant, base, v.Version, store.Promotion{}, t0, person("p"))
			return err
		})
	}
	for _, err := range race(calls...) {
		must0(t, err)
	}
	if n := number(t, conn, `SELECT count(*) FROM baseline_versions WHERE state = 'active'`); n != 1 {
		t.Errorf("%d active versions", n)
	}
	// What happened is told in words.
	v := must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, base, reference("next"), t0, person("author")))
	must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, base, v.Version, store.Promotion{}, t0, person("alice")))
	_, err := s.RetireVersion(ctx, tenant, base, v.Version, store.Retirement{Expected: "draft"}, t0, person("bob"))
	if want := fmt.Sprintf("version %d is active: promoted by admin:alice at 2026-11-23T12:00:00Z", v.Version); changed(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
	_, err = s.PromoteVersion(ctx, tenant, base, 1, store.Promotion{}, t0, person("bob"))
	if !strings.HasPrefix(changed(err), "version 1 is retired: ") || !errors.Is(err, store.ErrConflict) {
		t.Error(err)
	}
}

func twoPersons(t *testing.T, s *store.Store) {
	t.Helper()
	p := verifier.DefaultPolicy()
	p.TwoPersonApproval = true
	must[store.PolicyVersion](t)(s.PutPolicy(t.Context(), tenant, "default", p, t0, system))
}

func TestTwoPersonRule(t *testing.T) {
	s, conn := newStore(t)
	ctx := t.Context()
	alice, bob := person("alice"), person("bob")
	base := must[store.BaselineVersion](t)(s.CreateBaseline(ctx, tenant, "web", verifier.Selector{ScaleSet: []string{"web"}}, reference("v1"), t0, alice)).BaselineID
	twoPersons(t, s)

	// Nothing becomes active by the word of one.
	active := reference("x")
	active.State = "active"
	if _, err := s.CreateBaseline(ctx, tenant, "alone", verifier.Selector{}, active, t0, alice); !needsSecond(err) {
		t.Errorf("an active baseline was made by one: %v", err)
	}
	if v := must[store.BaselineVersion](t)(s.CreateBaseline(ctx, tenant, "alone", verifier.Selector{}, reference("x"), t0, alice)); v.State != "draft" || !v.NeedsSecond {
		t.Errorf("%+v", v)
	}
	// Nor does the last version that judges end by the word of one, whoever it is.
	for _, r := range []store.Retirement{{}, {Release: true}} {
		for _, who := range []store.Actor{alice, bob} {
			if _, err := s.RetireVersion(ctx, tenant, base, 1, r, t0, who); !needsSecond(err) {
				t.Errorf("%+v by one: %v", r, err)
			}
		}
	}
	proposed := must[store.BaselineVersion](t)(s.RetireVersion(ctx, tenant, base, 1, store.Retirement{Propose: true, Comment: "over"}, t0, alice))
	if p := proposed.Proposal; proposed.State != "active" || p == nil || !p.Retire || p.Release || p.By != "admin:alice" || p.Comment != "over" {
		t.Errorf("%+v", proposed)
	}
	if _, err := s.RetireVersion(ctx, tenant, base, 1, store.Retirement{}, t0, alice); !needsSecond(err) {
		t.Errorf("one's own proposal: %v", err)
	}
	if _, err := s.RetireVersion(ctx, tenant, base, 1, store.Retirement{Release: true}, t0, bob); !needsSecond(err) {
		t.Errorf("more than was proposed: %v", err)
	}
	must[store.BaselineVersion](t)(s.RetireVersion(ctx, tenant, base, 1, store.Retirement{}, t0, bob))
	// Retired, it is released by two as well.
	must[store.BaselineVersion](t)(s.RetireVersion(ctx, tenant, base, 1, store.Retirement{Propose: true, Release: true}, t0, bob))
	if _, err := s.RetireVersion(ctx, tenant, base, 1, store.Retirement{Release: true}, t0, bob); !needsSecond(err) {
		t.Errorf("released by one: %v", err)
	}
	must[store.BaselineVersion](t)(s.RetireVersion(ctx, tenant, base, 1, store.Retirement{Release: true}, t0, alice))
	if _, err := s.AddBaselineVersion(ctx, tenant, base, active, t0, alice); !needsSecond(err) {
		t.Errorf("an active version was added by one: %v", err)
	}
	must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, base, reference("v2"), t0, alice))
	if _, err := s.PromoteVersion(ctx, tenant, base, 2, store.Promotion{}, t0, alice); !needsSecond(err) {
		t.Errorf("the author promoted alone: %v", err)
	}
	if _, err := s.ApproveVersion(ctx, tenant, base, 2, "", "mine", t0, alice); !needsSecond(err) {
		t.Errorf("the author approved his own: %v", err)
	}
	// Approved by another, its author may promote it.
	v := must[store.BaselineVersion](t)(s.ApproveVersion(ctx, tenant, base, 2, "draft", "looked at the build", t0, bob))
	if v.State != "draft" || len(v.Approvals) != 1 || v.Approvals[0].By != "admin:bob" || v.Approvals[0].Comment != "looked at the build" {
		t.Errorf("%+v", v)
	}
	if _, err := s.ApproveVersion(ctx, tenant, base, 2, "", "again", t0, bob); !strings.Contains(changed(err), "approved by admin:bob at") {
		t.Error(err)
	}
	if _, err := s.ApproveVersion(ctx, tenant, base, 2, "", "too late", t0, person("carol")); !strings.Contains(changed(err), "approved by admin:bob at") {
		t.Error(err)
	}
	must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, base, 2, store.Promotion{}, t0, alice))
	// Whoever promotes another's is the second person.
	must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, base, reference("v3"), t0, alice))
	must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, base, 3, store.Promotion{Comment: "fine"}, t0, bob))
	kept := must[store.BaselineVersion](t)(s.GetBaselineVersion(ctx, tenant, base, 3))
	if len(kept.Approvals) != 1 || kept.Approvals[0].By != "admin:bob" || kept.Approvals[0].Comment != "fine" || !kept.NeedsSecond {
		t.Errorf("%+v", kept)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'baseline.approve'`); n != 2 {
		t.Errorf("%d approvals in the audit record", n)
	}

	// A pipeline is nobody's second person, under whatever names its runs go; it may carry out what a person has approved.
	must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, base, reference("ci"), t0, store.Actor{Kind: "pipeline", ID: "repo:x:ref:main"}))
	deploy := store.Actor{Kind: "pipeline", ID: "repo:x:environment:prod"}
	if _, err := s.PromoteVersion(ctx, tenant, base, 4, store.Promotion{}, t0, deploy); !needsSecond(err) {
		t.Errorf("a pipeline was the second person: %v", err)
	}
	must[store.BaselineVersion](t)(s.ApproveVersion(ctx, tenant, base, 4, "", "", t0, bob))
	must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, base, 4, store.Promotion{}, t0, deploy))

	// Also at once: however often the author tries, only another's approval counts, and only one of those.
	must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, base, reference("v5"), t0, alice))
	var calls []func() error
	approve := func(who store.Actor) func() error {
		return func() error {
			_, err := s.ApproveVersion(ctx, tenant, base, 5, "draft", "", t0, who)
			return err
		}
	}
	for i := range 8 {
		calls = append(calls, approve(alice), approve(person(fmt.Sprint("p", i))))
	}
	won := 0
	for i, err := range race(calls...) {
		switch {
		case i%2 == 0 && !needsSecond(err):
			t.Errorf("the author: %v", err)
		case i%2 == 1 && err == nil:
			won++
		case i%2 == 1 && changed(err) == "":
			t.Error(err)
		}
	}
	if n := number(t, conn, `SELECT count(*) FROM baseline_approvals WHERE version = 5`); won != 1 || n != 1 {
		t.Errorf("%d have approved, %d are kept", won, n)
	}
	if n := number(t, conn, `SELECT count(*) FROM baseline_approvals x JOIN baseline_versions v USING (tenant_id, baseline_id, version) WHERE x.approved_by = v.created_by`); n != 0 {
		t.Errorf("%d approvals of one's own", n)
	}
}

// alerted is a machine with an alert about a deviation from baseline "web" version 1.
func alerted(t *testing.T, s *store.Store) (f *rolling, d store.Decision) {
	t.Helper()
	f = newRolling(t, s, 1)
	f.affirm(0, 1)
	f.minute++
	r := record(t, s, judgement(f.machines[0], f.now(), verifier.Contraindicated, "bad"))
	return f, store.Decision{AlertID: r.OpenedAlerts[0], VerdictID: r.VerdictID, DeviationDigest: hash("bad"), Comment: "why"}
}

func (f *rolling) approval(d store.Decision) store.AlertApproval {
	return store.AlertApproval{Decision: d, BaselineID: &f.baseline, BasedOn: 1, Version: reference("more"), Activate: true}
}

func TestApproveAlert(t *testing.T) {
	s, conn := newStore(t)
	ctx := t.Context()
	f, d := alerted(t, s)
	var calls []func() error
	for i := range 8 {
		who := person(fmt.Sprint("p", i))
		calls = append(calls, func() error {
			_, err := s.ApproveAlert(ctx, tenant, f.approval(d), f.now(), who)
			return err
		})
	}
	onlyOne(t, "approving an alert", race(calls...), "by admin:p")
	if n := number(t, conn, `SELECT count(*) FROM baseline_versions`); n != 2 {
		t.Errorf("%d versions", n)
	}
	if got := valid(t, s, f.machines[0].MachineID, f.now()); got != "more " {
		t.Errorf("judged by %s", got)
	}
	a := must[store.Alert](t)(s.GetAlert(ctx, tenant, d.AlertID, f.now()))
	decisions := must[[]store.AlertDecision](t)(s.AlertDecisions(ctx, tenant, d.AlertID))
	if a.Status != "in_progress" || len(decisions) != 1 || decisions[0].Decision != store.DecisionApproved || *decisions[0].Version != 2 || *decisions[0].State != "active" || *decisions[0].Baseline != "web" {
		t.Errorf("%+v %+v", a, decisions)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'alert.approve'`); n != 1 {
		t.Errorf("%d in the audit record", n)
	}
	if err := s.RefuseAlert(ctx, tenant, d, f.now(), person("late")); !strings.Contains(changed(err), "was approved by admin:p") {
		t.Error(err)
	}
	other := d
	other.VerdictID = uuid.New()
	if err := s.RefuseAlert(ctx, tenant, other, f.now(), system); !strings.Contains(changed(err), "attested otherwise since") {
		t.Error(err)
	}
	other.AlertID = uuid.New()
	if err := s.RefuseAlert(ctx, tenant, other, f.now(), system); !isNotFound(err) {
		t.Error(err)
	}
	f.affirm(0, 2)
	if err := s.RefuseAlert(ctx, tenant, d, f.now(), system); !strings.Contains(changed(err), "the alert is resolved") {
		t.Error(err)
	}
}

func TestRefusedDeviationsNeedForce(t *testing.T) {
	s, conn := newStore(t)
	ctx := t.Context()
	f, d := alerted(t, s)
	must0(t, s.RefuseAlert(ctx, tenant, d, f.now(), person("alice")))
	a := must[store.Alert](t)(s.GetAlert(ctx, tenant, d.AlertID, f.now()))
	if a.Status != "active" || number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'alert.refuse'`) != 1 {
		t.Errorf("%+v", a)
	}
	_, err := s.ApproveAlert(ctx, tenant, f.approval(d), f.now(), person("bob"))
	var before *store.RefusedBeforeError
	if !errors.As(err, &before) || !strings.Contains(before.What, "refused by admin:alice at 2026-11-23T12:02:00Z: why") {
		t.Fatal(err)
	}
	f.minute++ // the later decision stands
	p := f.approval(d)
	p.Force = true
	must[store.BaselineVersion](t)(s.ApproveAlert(ctx, tenant, p, f.now(), person("bob")))
	if r := must[*store.AlertDecision](t)(s.Refusal(ctx, tenant, d.DeviationDigest)); r != nil {
		t.Errorf("a refusal that was overruled: %+v", r)
	}
}

// Under the two-person rule an approval is a draft, with what its author proposed, until another approves it.
func TestApproveAlertByTwo(t *testing.T) {
	s, conn := newStore(t)
	ctx := t.Context()
	f, d := alerted(t, s)
	twoPersons(t, s)
	p := f.approval(d)
	p.Grace = percent(95)
	v := must[store.BaselineVersion](t)(s.ApproveAlert(ctx, tenant, p, f.now(), person("alice")))
	if v.State != "draft" || !v.NeedsSecond || v.Proposal == nil || *v.Proposal.MovedPercent != 95 || *v.Proposal.AlertID != d.AlertID {
		t.Fatalf("%+v", v)
	}
	if _, err := s.ApproveVersion(ctx, tenant, f.baseline, 2, "", "", f.now(), person("alice")); !needsSecond(err) {
		t.Error(err)
	}
	// Approvals and promotions by several others at once: one wins.
	var calls []func() error
	for i := range 6 {
		who := person(fmt.Sprint("p", i))
		calls = append(calls, func() error {
			_, err := s.ApproveVersion(ctx, tenant, f.baseline, 2, "", "", f.now(), who)
			return err
		}, func() error {
			_, err := s.PromoteVersion(ctx, tenant, f.baseline, 2, store.Promotion{Grace: percent(95)}, f.now(), who)
			return err
		})
	}
	onlyOne(t, "the second person", race(calls...), "version 2 is active: promoted by admin:p")
	v1 := must[store.BaselineVersion](t)(s.GetBaselineVersion(ctx, tenant, f.baseline, 1))
	v2 := must[store.BaselineVersion](t)(s.GetBaselineVersion(ctx, tenant, f.baseline, 2))
	if v1.State != "grace" || *v1.GraceMovedPercent != 95 || v2.State != "active" || v2.Proposal != nil || len(v2.Approvals) != 1 {
		t.Errorf("%+v\n%+v", v1, v2)
	}
	if n := number(t, conn, `SELECT count(*) FROM baseline_approvals`); n != 1 {
		t.Errorf("%d approvals", n)
	}
}

// A version that was made out of another replaces that one and no other: what was changed between would be lost.
func TestApprovalOfAnOlderVersion(t *testing.T) {
	s, _ := newStore(t)
	ctx := context.WithoutCancel(t.Context())
	f, d := alerted(t, s)
	p := f.approval(d)
	p.Activate = false
	v := must[store.BaselineVersion](t)(s.ApproveAlert(ctx, tenant, p, f.now(), person("alice")))
	if v.State != "draft" || v.Proposal != nil || *v.BasedOn != 1 {
		t.Fatalf("%+v", v)
	}
	f.promote(3, store.Grace{})
	_, err := s.PromoteVersion(ctx, tenant, f.baseline, 2, store.Promotion{}, f.now(), person("bob"))
	if !strings.Contains(changed(err), "made out of version 1, which is not the active one any more: version 3 is active: promoted by system:test at") {
		t.Error(err)
	}
	// Retired, it is out of the way of another approval, which is told that version 1 is not active.
	must[store.BaselineVersion](t)(s.RetireVersion(ctx, tenant, f.baseline, 2, store.Retirement{}, f.now(), person("bob")))
	if _, err := s.ApproveAlert(ctx, tenant, p, f.now(), person("alice")); !strings.Contains(changed(err), "the baseline has changed since: version 1 is retired") {
		t.Error(err)
	}
	p.BasedOn = 3
	must[store.BaselineVersion](t)(s.ApproveAlert(ctx, tenant, p, f.now(), person("alice")))
}

// An approval for one machine makes a baseline of its own.
func TestApproveForOneMachine(t *testing.T) {
	s, _ := newStore(t)
	f, d := alerted(t, s)
	p := store.AlertApproval{Decision: d, Name: "own", Selector: verifier.Selector{MachineIDs: []string{f.machines[0].MachineID.String()}}, Version: reference("own"), Activate: true}
	v := must[store.BaselineVersion](t)(s.ApproveAlert(t.Context(), tenant, p, f.now(), person("alice")))
	if v.State != "active" || v.Version != 1 || v.BasedOn != nil {
		t.Errorf("%+v", v)
	}
	if got := valid(t, s, f.machines[0].MachineID, f.now()); got != "own v1 " {
		t.Errorf("judged by %s", got)
	}
}
