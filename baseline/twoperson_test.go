package baseline_test

import (
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
)

func TestNeedsTwoPersons(t *testing.T) {
	policy := func(two bool, s verifier.Selector) verifier.Policy {
		return verifier.Policy{TwoPersonApproval: two, Selector: s}
	}
	sets := func(names ...string) verifier.Selector { return verifier.Selector{ScaleSet: names} }
	labels := func(key, value string) verifier.Selector {
		return verifier.Selector{Labels: map[string]string{key: value}}
	}
	one, two := policy(false, verifier.Selector{}), policy(true, verifier.Selector{})
	for name, tt := range map[string]struct {
		baseline verifier.Selector
		policies []verifier.Policy
		fallback verifier.Policy
		want     bool
	}{
		"no rule":                           {sets("web"), nil, one, false},
		"the default's rule":                {sets("web"), nil, two, true},
		"a rule for the set":                {sets("web"), []verifier.Policy{policy(true, sets("web"))}, one, true},
		"a rule for another set":            {sets("web"), []verifier.Policy{policy(true, sets("db"))}, one, false},
		"a rule for one of the sets":        {sets("web", "db"), []verifier.Policy{policy(true, sets("db"))}, one, true},
		"the whole fleet":                   {verifier.Selector{}, []verifier.Policy{policy(true, sets("db"))}, one, true},
		"exempt from the default's":         {sets("dev"), []verifier.Policy{policy(false, sets("dev", "ci"))}, two, false},
		"exempt in part":                    {sets("dev", "web"), []verifier.Policy{policy(false, sets("dev"))}, two, true},
		"labels that differ":                {labels("env", "dev"), []verifier.Policy{policy(true, labels("env", "prod"))}, one, false},
		"labels that do not tell":           {labels("tier", "1"), []verifier.Policy{policy(true, labels("env", "prod"))}, one, true},
		"a machine by id":                   {verifier.Selector{MachineIDs: []string{"m"}}, []verifier.Policy{policy(true, sets("web"))}, one, true},
		"exempt by label":                   {labels("env", "dev"), []verifier.Policy{policy(false, labels("env", "dev"))}, two, false},
		"the more specific one comes first": {sets("dev"), []verifier.Policy{policy(true, labels("env", "prod")), policy(false, sets("dev"))}, one, true},
	} {
		if got := baseline.NeedsTwoPersons(tt.baseline, tt.policies, tt.fallback); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
