package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// importing is a version of a document whose signature ends in the anchor's certificate.
func importing(anchor store.TrustAnchor, state string) store.BaselineVersion {
	return store.BaselineVersion{State: state, ImportAnchor: anchor.Certificates[0].Fingerprint}
}

// Who withdraws an anchor of reference values withdraws what it vouched for: valid versions are retired, their machines
// judged again, and drafts stay drafts.
func TestAWithdrawnAnchorRetiresWhatItVouchedFor(t *testing.T) {
	for _, how := range []string{"disable", "delete"} {
		t.Run(how, func(t *testing.T) { testWithdrawnAnchor(t, how) })
	}
}

func testWithdrawnAnchor(t *testing.T, how string) {
	s, _ := newStore(t)
	ctx := t.Context()
	add := func(name string, c store.TrustCertificate) store.TrustAnchor {
		return must[store.TrustAnchor](t)(s.CreateTrustAnchor(ctx, tenant, store.TrustAnchor{Name: name, Purpose: store.ReferenceAnchor, Certificates: []store.TrustCertificate{c}}, t0, system))
	}
	builds, others := add("builds", rootCertificate(t, "builds")), add("others", rootCertificate(t, "others"))
	web := must[store.BaselineVersion](t)(s.CreateBaseline(ctx, tenant, "web", verifier.Selector{ScaleSet: []string{"web"}}, importing(builds, "active"), t0, system))
	must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, web.BaselineID, importing(builds, "draft"), t0, system))
	until := t0.Add(time.Hour)
	must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, web.BaselineID, 2, store.Promotion{Grace: store.Grace{Until: &until}}, t0, system))
	must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, web.BaselineID, importing(builds, "draft"), t0, system))
	kept := must[store.BaselineVersion](t)(s.CreateBaseline(ctx, tenant, "kept", verifier.Selector{}, importing(others, "active"), t0, system))
	own := must[store.BaselineVersion](t)(s.CreateBaseline(ctx, tenant, "own", verifier.Selector{}, store.BaselineVersion{}, t0, system))

	withdraw := func(a store.TrustAnchor) []store.BaselineVersion {
		t.Helper()
		if how == "delete" {
			return must[store.TrustAnchor](t)(s.DeleteTrustAnchor(ctx, tenant, a.ID, t0, system)).Retired
		}
		return must[store.TrustAnchor](t)(s.SetTrustAnchorEnabled(ctx, tenant, a.ID, false, t0, system)).Retired
	}
	// As long as somebody else vouches for them nothing is lost.
	if retired := withdraw(add("builds too", builds.Certificates[0])); len(retired) != 0 {
		t.Errorf("the same certificate is still trusted, and %+v were retired", retired)
	}
	retired := withdraw(builds)
	if len(retired) != 2 || retired[0].Version != 2 || retired[1].Version != 1 || retired[0].Name != "web" || retired[0].State != "retired" {
		t.Fatalf("retired were %+v", retired)
	}
	for _, v := range []struct {
		of     store.BaselineVersion
		number int
		state  string
	}{{web, 1, "retired"}, {web, 2, "retired"}, {web, 3, "draft"}, {kept, 1, "active"}, {own, 1, "active"}} {
		if got := must[store.BaselineVersion](t)(s.GetBaselineVersion(ctx, tenant, v.of.BaselineID, v.number)); got.State != v.state {
			t.Errorf("%s version %d is %s", v.of.Name, v.number, got.State)
		}
	}
	asked := waiting(t, s, store.CauseBaselineVersion)
	if len(asked) != 2 || !slices.Equal(asked[0].Scope.Selector.ScaleSet, []string{"web"}) || !strings.Contains(asked[0].Cause.Detail, "trust anchor") {
		t.Errorf("reappraisals: %+v", asked)
	}

	var unvouched *store.UnvouchedError
	_, err := s.PromoteVersion(ctx, tenant, web.BaselineID, 3, store.Promotion{}, t0, system)
	if !errors.As(err, &unvouched) || !strings.Contains(err.Error(), "withdrawn") {
		t.Errorf("a draft of a withdrawn anchor is promoted: %v", err)
	}
	// An import whose signature was verified just before.
	if _, err := s.CreateBaseline(ctx, tenant, "late", verifier.Selector{}, importing(builds, "active"), t0, system); !errors.As(err, &unvouched) {
		t.Errorf("an import under a withdrawn anchor: %v", err)
	}
	if _, err := s.PromoteVersion(ctx, tenant, web.BaselineID, 1, store.Promotion{}, t0, system); err == nil || !strings.Contains(err.Error(), "the trust anchor that vouched for it was withdrawn") {
		t.Errorf("what became of version 1: %v", err)
	}
	add("builds again", builds.Certificates[0])
	must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, web.BaselineID, 3, store.Promotion{}, t0, system))
}

// Any change of what a policy asks of evidence, or of whom, asks for a reappraisal of those whom it judged or judges.
func TestPolicyChangesAskForReappraisals(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	p := verifier.DefaultPolicy()
	p.Selector = verifier.Selector{ScaleSet: []string{"web"}}
	put := func() []store.Reappraisal { // those that a version of the policy asked for
		t.Helper()
		v := must[store.PolicyVersion](t)(s.PutPolicy(ctx, tenant, "web", p, t0, system))
		return slices.DeleteFunc(waiting(t, s, store.CausePolicy), func(r store.Reappraisal) bool { return r.Cause.ID != fmt.Sprintf("web/%d", v.Version) })
	}
	if asked := put(); len(asked) != 1 || !slices.Equal(asked[0].Scope.Selector.ScaleSet, []string{"web"}) {
		t.Errorf("a new policy: %+v", asked)
	}
	for name, change := range map[string]func(){
		"require_ima":  func() { p.RequireIMA = true },
		"allow_sha1":   func() { p.AllowSHA1PCRs = true },
		"pcrs":         func() { p.PCRs = map[string][]int{"sha256": {0, 7}} },
		"rules":        func() { p.Rules = []verifier.PolicyRule{{Name: "a", Expression: "true"}} },
		"require_base": func() { p.RequireBaseline = true },
	} {
		change()
		if asked := put(); len(asked) != 1 || !slices.Equal(asked[0].Scope.Selector.ScaleSet, []string{"web"}) {
			t.Errorf("%s: %+v", name, asked)
		}
	}
	p.AttestationIntervalSeconds, p.ChallengeLifetimeSeconds, p.BaselinePCRs, p.LearnFirstBoot, p.TwoPersonApproval = 60, 60, []int{7}, true, true
	if asked := put(); len(asked) != 0 {
		t.Errorf("what judges no evidence: %+v", asked)
	}
	p.Selector = verifier.Selector{ScaleSet: []string{"db"}}
	if asked := put(); len(asked) != 1 || len(asked[0].Scope.Selector.ScaleSet) != 0 {
		t.Errorf("another selector concerns web and db: %+v", asked)
	}
}
