package verifier_test

import (
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
)

// What a machine measured against a baseline, approved, is what the new version allows: added, the machine before still
// fits; in its place, it does not; and no third machine fits because of it.
func TestApprovedDeviations(t *testing.T) {
	candidates := golden(t, "sb-on-1", "sha256")
	judge := func(name string, rv verifier.ReferenceValues) *verifier.Appraisal {
		t.Helper()
		r, err := verifier.CompileReference(rv)
		if err != nil {
			t.Fatal(err)
		}
		c := loadCapture(t, name, "rsassa", "sha256")
		in := c.inputs(t)
		in.Candidates, in.Policy.RequireSecureBoot = []verifier.Candidate{{Reference: r}}, false
		return verifier.Appraise(c.ev, in)
	}
	rv := candidates[0].Reference.Values()
	for _, name := range []string{"cmdline", "grubcfg-tampered", "initrd-tampered", "hw-changed", "mok-signed", "uki-direct", "uki-sdboot-1", "sb-off", "sb-disabled"} {
		a := judge(name, rv)
		added, err := baseline.Extension{}.Extend(rv, a, a.Deviations)
		if err != nil {
			t.Fatal(err)
		}
		replaced, err := baseline.Extension{Replace: true}.Extend(rv, a, a.Deviations)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			story, evidence string
			rv              verifier.ReferenceValues
			affirms         bool
		}{
			{"the machine after", name, added, true},
			{"the machine before", "sb-on-otherbox", added, true},
			{"the machine after, replaced", name, replaced, true},
			{"the machine before, replaced", "sb-on-otherbox", replaced, false},
			{"another change", "ima-tcb-1", added, false},
			{"another change, replaced", "ima-tcb-1", replaced, false},
		} {
			if got := judge(tt.evidence, tt.rv); (check(got, verifier.CheckBaselineMatch).Status == verifier.Pass) != tt.affirms {
				t.Errorf("%s: %s:\n%s", name, tt.story, render(got))
			}
		}
		// A layer of one machine says the same of what deviates, and leaves the rest to what it lies over.
		only, err := baseline.Restrict(rv, a.Deviations)
		if err != nil {
			t.Fatal(err)
		}
		if only, err = (baseline.Extension{}).Extend(only, a, a.Deviations); err != nil {
			t.Fatal(err)
		}
		layer, err := verifier.CompileReference(only)
		if err != nil {
			t.Fatal(err)
		}
		if len(only.PCRs["sha256"]) >= len(rv.PCRs["sha256"]) {
			t.Errorf("%s: the layer names %d PCRs", name, len(only.PCRs["sha256"]))
		}
		if got := judge(name, verifier.Merge(layer, candidates[0].Reference).Values()); check(got, verifier.CheckBaselineMatch).Status != verifier.Pass {
			t.Errorf("%s: with its layer:\n%s", name, render(got))
		}
	}
}
