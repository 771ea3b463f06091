package store_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// TestScopes reads a fleet of four through scopes of each form.
func TestScopes(t *testing.T) {
	s, _ := newStore(t)
	machines := must[[]store.Machine](t)(s.UpsertMachines(t.Context(), tenant, []store.MachineInput{
		{Name: "a", ExternalID: "a", OS: "linux", Platform: "azure", ScaleSet: "web", Labels: map[string]string{"env": "prod", "team": "x"}},
		{Name: "b", ExternalID: "b", OS: "linux", Platform: "gcp", ScaleSet: "web", Labels: map[string]string{"env": "lab"}},
		{Name: "c", ExternalID: "c", OS: "linux", Platform: "azure", ScaleSet: "db", Labels: map[string]string{"env": "prod"}},
		{Name: "d", ExternalID: "d", OS: "linux", Platform: "azure"},
	}, nil, t0, system))
	id := func(i int) string { return machines[i].ID.String() }
	scope := func(selectors ...verifier.Selector) store.Scope { return selectors }
	for _, x := range []struct {
		story string
		scope store.Scope
		want  string
	}{
		{"the whole tenant", nil, "a b c d"},
		{"no selector", store.Scope{}, ""},
		{"a selector that bounds nothing", scope(verifier.Selector{}), ""},
		{"a scale set", scope(verifier.Selector{ScaleSet: []string{"web"}}), "a b"},
		{"two scale sets", scope(verifier.Selector{ScaleSet: []string{"web", "db"}}), "a b c"},
		{"the empty scale set", scope(verifier.Selector{ScaleSet: []string{""}}), "d"},
		{"a label", scope(verifier.Selector{Labels: map[string]string{"env": "prod"}}), "a c"},
		{"two labels", scope(verifier.Selector{Labels: map[string]string{"env": "prod", "team": "x"}}), "a"},
		{"a platform", scope(verifier.Selector{Platform: []string{"gcp"}}), "b"},
		{"machines", scope(verifier.Selector{MachineIDs: []string{id(1), id(3)}}), "b d"},
		{"all of a selector", scope(verifier.Selector{ScaleSet: []string{"web"}, Labels: map[string]string{"env": "prod"}, Platform: []string{"azure"}, MachineIDs: []string{id(0), id(1)}}), "a"},
		{"any of the selectors", scope(verifier.Selector{Platform: []string{"gcp"}}, verifier.Selector{ScaleSet: []string{"db"}}, verifier.Selector{}), "b c"},
		{"what is no SQL", scope(verifier.Selector{ScaleSet: []string{"web' OR TRUE --", "{machine}", "$1"}, Labels: map[string]string{"'": `"`}}), ""},
	} {
		items, _, err := s.ListMachines(t.Context(), tenant, store.MachineFilter{Scope: x.scope}, store.Page{Sort: "name"})
		if err != nil {
			t.Fatalf("%s: %v", x.story, err)
		}
		names := make([]string, len(items))
		for i := range items {
			names[i] = items[i].Name
			if err := s.InScope(t.Context(), tenant, x.scope, "machine", items[i].ID); err != nil {
				t.Errorf("%s: %s is listed, and %v", x.story, items[i].Name, err)
			}
		}
		if got := strings.Join(names, " "); got != x.want {
			t.Errorf("%s: %q, not %q", x.story, got, x.want)
		}
		for i := range machines {
			err := s.InScope(t.Context(), tenant, x.scope, "machine", machines[i].ID)
			if listed := slices.Contains(names, machines[i].Name); listed != (err == nil) || !listed && !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s: %s: %v", x.story, machines[i].Name, err)
			}
		}
	}
	for kind := range map[string]bool{"machine": true, "verdict": true, "alert": true, "recommendation": true, "incident": true, "baseline": true, "api_token": true} {
		if err := s.InScope(t.Context(), tenant, scope(verifier.Selector{ScaleSet: []string{"web"}}), kind, uuid.Max); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if err := s.InScope(t.Context(), tenant, store.Scope{}, "made up", uuid.Max); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("a kind that is none: %v", err)
	}
}

// TestWhatAScopeCovers compares selectors with a scope of each form, and machines that are named with where they are.
func TestWhatAScopeCovers(t *testing.T) {
	s, _ := newStore(t)
	machines := must[[]store.Machine](t)(s.UpsertMachines(t.Context(), tenant, []store.MachineInput{
		{Name: "a", ExternalID: "a", OS: "linux", ScaleSet: "web"}, {Name: "b", ExternalID: "b", OS: "linux", ScaleSet: "db"},
	}, nil, t0, system))
	a, b := machines[0].ID.String(), machines[1].ID.String()
	bound := store.Scope{{ScaleSet: []string{"web", "app"}}, {Labels: map[string]string{"team": "x"}, Platform: []string{"gcp"}}}
	for _, x := range []struct {
		story    string
		selector verifier.Selector
		covered  bool
	}{
		{"everything", verifier.Selector{}, false},
		{"the same set", verifier.Selector{ScaleSet: []string{"web"}}, true},
		{"both sets", verifier.Selector{ScaleSet: []string{"web", "app"}}, true},
		{"one more", verifier.Selector{ScaleSet: []string{"web", "db"}}, false},
		{"narrower", verifier.Selector{ScaleSet: []string{"web"}, Platform: []string{"aws"}}, true},
		{"half of the second", verifier.Selector{Labels: map[string]string{"team": "x"}}, false},
		{"the second", verifier.Selector{Labels: map[string]string{"team": "x", "env": "lab"}, Platform: []string{"gcp"}}, true},
		{"another value", verifier.Selector{Labels: map[string]string{"team": "y"}, Platform: []string{"gcp"}}, false},
		{"a machine within", verifier.Selector{MachineIDs: []string{a}}, true},
		{"written otherwise", verifier.Selector{MachineIDs: []string{strings.ToUpper(a)}}, true},
		{"a machine outside", verifier.Selector{MachineIDs: []string{b}}, false},
		{"one of each", verifier.Selector{MachineIDs: []string{a, b}}, false},
		{"a machine that there is not", verifier.Selector{MachineIDs: []string{uuid.Max.String()}}, false},
	} {
		if got := must[bool](t)(s.Covers(t.Context(), tenant, bound, x.selector)); got != x.covered {
			t.Errorf("%s: %v", x.story, got)
		}
		if !must[bool](t)(s.Covers(t.Context(), tenant, nil, x.selector)) {
			t.Errorf("%s: not within the whole tenant", x.story)
		}
		if must[bool](t)(s.Covers(t.Context(), tenant, store.Scope{{}}, x.selector)) && x.selector.MachineIDs == nil {
			t.Errorf("%s: within nothing", x.story)
		}
	}
}
