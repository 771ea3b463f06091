package baseline_test

import (
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
)

const (
	hashA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hashB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	hashC = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
)

func pcr(t *testing.T, index, value string) *verifier.Reference {
	t.Helper()
	r, err := verifier.CompileReference(verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {index: {value}}}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMatches(t *testing.T) {
	m := baseline.MachineFacts{ID: "m1", Platform: "qemu", ScaleSet: "web", Labels: map[string]string{"env": "prod", "tier": "1"}}
	for name, tt := range map[string]struct {
		s    verifier.Selector
		want bool
	}{
		"all":              {verifier.Selector{}, true},
		"machine":          {verifier.Selector{MachineIDs: []string{"m0", "m1"}}, true},
		"another machine":  {verifier.Selector{MachineIDs: []string{"m2"}}, false},
		"scale set":        {verifier.Selector{ScaleSet: []string{"web"}}, true},
		"another set":      {verifier.Selector{ScaleSet: []string{"db"}}, false},
		"platform":         {verifier.Selector{Platform: []string{"azure", "qemu"}}, true},
		"another platform": {verifier.Selector{Platform: []string{"azure"}}, false},
		"labels":           {verifier.Selector{Labels: map[string]string{"env": "prod", "tier": "1"}}, true},
		"one label off":    {verifier.Selector{Labels: map[string]string{"env": "prod", "tier": "2"}}, false},
		"label missing":    {verifier.Selector{Labels: map[string]string{"zone": ""}}, false},
		"one of two off":   {verifier.Selector{ScaleSet: []string{"web"}, Platform: []string{"azure"}}, false},
	} {
		if got := baseline.Matches(tt.s, m); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func refs(c []verifier.Candidate) []verifier.VersionRef {
	out := []verifier.VersionRef{}
	for _, x := range c {
		out = append(out, x.Baseline)
	}
	return out
}

func equal(a, b []verifier.VersionRef) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestEffective(t *testing.T) {
	all, web := verifier.Selector{}, verifier.Selector{ScaleSet: []string{"web"}}
	active := func(id string, v int, s verifier.Selector, r *verifier.Reference) baseline.Layer {
		return baseline.Layer{ID: id, Version: v, State: baseline.StateActive, Selector: s, Reference: r}
	}
	inState := func(l baseline.Layer, state string) baseline.Layer { l.State = state; return l }
	ref := func(id string, v int) verifier.VersionRef { return verifier.VersionRef{ID: id, Version: v} }
	t.Run("active before grace, drafts and retired left out", func(t *testing.T) {
		got := baseline.Effective([]baseline.Layer{
			inState(active("a", 6, web, pcr(t, "4", hashA)), baseline.StateGrace),
			active("a", 7, web, pcr(t, "4", hashB)),
			inState(active("a", 8, web, pcr(t, "4", hashC)), baseline.StateDraft),
			inState(active("a", 5, web, pcr(t, "4", hashC)), baseline.StateRetired),
		})
		if want := []verifier.VersionRef{ref("a", 7), ref("a", 6)}; !equal(refs(got), want) {
			t.Errorf("%v", refs(got))
		}
	})
	t.Run("the more specific lies over the less specific", func(t *testing.T) {
		got := baseline.Effective([]baseline.Layer{active("fleet", 1, all, pcr(t, "0", hashA)), active("web", 1, web, pcr(t, "4", hashB)),
			active("fleet4", 1, all, pcr(t, "4", hashC))})
		if want := []verifier.VersionRef{ref("web", 1)}; !equal(refs(got), want) {
			t.Fatalf("%v", refs(got))
		}
		v := got[0].Reference.Values().PCRs["sha256"]
		if len(v["0"]) != 1 || v["0"][0] != hashA || len(v["4"]) != 1 || v["4"][0] != hashB {
			t.Errorf("%v", v)
		}
		if !got[0].Reference.Judges(0) || !got[0].Reference.Judges(4) {
			t.Error("a layer is not judged")
		}
	})
	t.Run("equals that judge the same are alternatives", func(t *testing.T) {
		got := baseline.Effective([]baseline.Layer{active("a", 1, web, pcr(t, "4", hashA)), active("b", 1, web, pcr(t, "4", hashB))})
		if want := []verifier.VersionRef{ref("b", 1), ref("a", 1)}; !equal(refs(got), want) {
			t.Errorf("%v", refs(got))
		}
	})
	t.Run("equals that judge different things add up", func(t *testing.T) {
		got := baseline.Effective([]baseline.Layer{active("a", 1, web, pcr(t, "4", hashA)), active("b", 1, web, pcr(t, "0", hashB))})
		if len(got) != 1 || !got[0].Reference.Judges(0) || !got[0].Reference.Judges(4) {
			t.Errorf("%v", refs(got))
		}
	})
	t.Run("a small one does not switch off a large one", func(t *testing.T) {
		large, err := verifier.CompileReference(verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {"4": {hashA}, "7": {hashA}, "8": {hashA}}}})
		if err != nil {
			t.Fatal(err)
		}
		got := baseline.Effective([]baseline.Layer{active("a", 1, web, large), active("b", 1, web, pcr(t, "7", hashB))})
		if len(got) != 2 {
			t.Fatalf("%v", refs(got))
		}
		for _, c := range got {
			if !c.Reference.Judges(4) || !c.Reference.Judges(7) || !c.Reference.Judges(8) {
				t.Errorf("candidate %v leaves out what the large one judges", c.Baseline)
			}
		}
	})
	t.Run("bounded", func(t *testing.T) {
		var layers []baseline.Layer
		for v := 1; v <= 40; v++ {
			layers = append(layers, active("a", v, web, pcr(t, "4", hashA)))
		}
		if got := baseline.Effective(layers); len(got) != 16 {
			t.Errorf("%d candidates", len(got))
		}
	})
	if got := baseline.Effective(nil); len(got) != 0 {
		t.Errorf("no layers: %v", refs(got))
	}
}

func TestDiff(t *testing.T) {
	compile := func(body string) *verifier.Reference {
		r, err := verifier.ParseReferenceValues([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	event := func(digest, key, text string) string {
		return `{"pcr": 4, "type": "EV_EFI_BOOT_SERVICES_APPLICATION", "component": "boot_loader", "key": "` + key + `", "description": "` + text + `", "digests": {"sha256": ["` + digest + `"]}}`
	}
	before := compile(`{"events": [` + event(hashA, "image:grubx64.efi", "grub 2.06-13") + `], "claims": {"secure_boot": true, "kernel_cmdline": "quiet"}, "pcrs": {"sha256": {"0": ["` + hashA + `"]}}}`)
	after := compile(`{"events": [` + event(hashB, "image:grubx64.efi", "grub 2.06-14") + `,` + event(hashC, "image:fb.efi", "fallback") + `], "claims": {"secure_boot": false}, "pcrs": {"sha256": {"0": ["` + hashB + `"]}}}`)
	got := baseline.Diff(before, after)
	want := []struct {
		kind verifier.DeviationKind
		text string
	}{
		{verifier.Changed, "PCR 0 (platform firmware): accepted sha256 values changed: added " + hashB + "; removed " + hashA},
		{verifier.Changed, "boot loader changed: grub 2.06-13 → 2.06-14"},
		{verifier.Added, "boot loader added: fallback"},
		{verifier.Changed, "claim secure_boot is now expected to be false; before: true"},
		{verifier.Removed, "claim kernel_cmdline is no longer judged"},
	}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, w := range want {
		if got[i].Kind != w.kind || got[i].Description != w.text {
			t.Errorf("%d: %s %q, want %s %q", i, got[i].Kind, got[i].Description, w.kind, w.text)
		}
	}
	if same := baseline.Diff(before, before); len(same) != 0 {
		t.Errorf("a reference differs from itself: %+v", same)
	}
}

func TestCaptureRefuses(t *testing.T) {
	if _, err := baseline.Capture(nil, verifier.DefaultPolicy()); err != baseline.ErrNotGenuine {
		t.Errorf("nothing: %v", err)
	}
	if _, err := baseline.Capture(&verifier.Appraisal{Status: verifier.Affirming}, verifier.DefaultPolicy()); err != baseline.ErrNotGenuine {
		t.Errorf("not genuine: %v", err)
	}
}
