package baseline_test

import (
	"encoding/json"
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/ima"
)

func values(t *testing.T, body string) verifier.ReferenceValues {
	t.Helper()
	r, err := verifier.ParseReferenceValues([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return r.Values()
}

// What is not genuine is never taken up.
func TestExtendRefusesWhatIsNotGenuine(t *testing.T) {
	rv := values(t, `{"claims": {"secure_boot": true}}`)
	for _, a := range []*verifier.Appraisal{nil, {Status: verifier.Affirming}} {
		if _, err := (baseline.Extension{}).Extend(rv, a, nil); err != baseline.ErrNotGenuine {
			t.Errorf("%v", err)
		}
	}
}

// Claims that are otherwise, and files that were not allowed, are added or put in place of what was expected; the values
// that are extended stay as they are.
func TestExtendClaimsAndFiles(t *testing.T) {
	rv := values(t, `{"claims": {"secure_boot": true, "setup_mode": false, "kernel_cmdline": {"pattern": "quiet( .*)?"}, "deployed_mode": {"any_of": [true]}},
		"ima": {"allow": [{"path": "/usr/bin/a", "digests": ["sha256:`+hashA+`"]}]}}`)
	a := &verifier.Appraisal{Genuine: true}
	files := []verifier.Deviation{
		{EventType: "IMA", IMAKind: ima.KindFile, Now: "/usr/bin/a", Actual: "sha256:" + hashB},
		{EventType: "IMA", IMAKind: ima.KindFile, Now: "/opt/[b]*", Actual: "sha256:" + hashC},
		{EventType: "IMA", IMAKind: ima.KindUnprovable, Now: "/violation", Actual: ""},
		{PCR: -1, Claims: []verifier.UnmetClaim{{Name: "secure_boot", Expected: `true`, Actual: "false"}, {Name: "deployed_mode", Expected: `{"any_of": [true]}`, Actual: "false"},
			{Name: "kernel_cmdline", Expected: `{"pattern": "quiet( .*)?"}`, Actual: `"init=/bin/sh (x)"`}}},
	}
	got, err := baseline.Extension{}.Extend(rv, a, files)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"secure_boot": `{"any_of":[true,false]}`, "setup_mode": `false`, "deployed_mode": `{"any_of":[true,false]}`,
		"kernel_cmdline": `{"pattern":"(?:quiet( .*)?)|init=/bin/sh \\(x\\)"}`,
	}
	for name, text := range want {
		if string(got.Claims[name]) != text {
			t.Errorf("%s: %s, want %s", name, got.Claims[name], text)
		}
	}
	files1, _ := json.Marshal(got.IMA.Allow)
	if want := `[{"path":"/usr/bin/a","digests":["sha256:` + hashA + `","sha256:` + hashB + `"]},{"path":"/opt/[b]\\*","digests":["sha256:` + hashC + `"]}]`; string(files1) != want {
		t.Errorf("files %s\nwant %s", files1, want)
	}
	if len(rv.IMA.Allow) != 1 || len(rv.IMA.Allow[0].Digests) != 1 || string(rv.Claims["secure_boot"]) != "true" {
		t.Errorf("what was extended was changed: %+v", rv)
	}
	replaced, err := baseline.Extension{Replace: true}.Extend(rv, a, files)
	if err != nil {
		t.Fatal(err)
	}
	if string(replaced.Claims["secure_boot"]) != "false" || string(replaced.Claims["kernel_cmdline"]) != `"init=/bin/sh (x)"` {
		t.Errorf("replaced: %v", replaced.Claims)
	}
	only, err := baseline.Restrict(rv, files)
	if err != nil {
		t.Fatal(err)
	}
	if len(only.Claims) != 3 || only.IMA == nil || len(only.PCRs) != 0 {
		t.Errorf("restricted: %+v", only)
	}
}

// A diff tells of registers that events moved between, of files and of launch measurements.
func TestDiffOfLists(t *testing.T) {
	compile := func(body string) *verifier.Reference {
		r, err := verifier.ParseReferenceValues([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	launchA, launchB := hashA+hashA[:32], hashB+hashB[:32]
	before := compile(`{"events": [{"pcr": 4, "component": "kernel", "description": "vmlinuz", "digests": {"sha256": ["` + hashA + `"]}}, {"pcr": 4, "component": "shim", "digests": {"sha256": ["` + hashB + `"]}}],
		"ima": {"allow": [{"path": "/a", "digests": ["sha256:` + hashA + `"]}, {"path": "/b", "digests": ["sha256:` + hashA + `"]}], "exclude": ["/tmp/.*"]}, "launch_measurements": ["` + launchA + `"]}`)
	after := compile(`{"events": [{"pcr": 9, "component": "kernel", "description": "vmlinuz", "digests": {"sha256": ["` + hashA + `"]}}, {"pcr": 4, "component": "shim", "digests": {"sha256": ["` + hashB + `"]}}],
		"ima": {"allow": [{"path": "/a", "digests": ["sha256:` + hashB + `"]}, {"path": "/c", "digests": ["sha256:` + hashA + `"]}], "exclude": ["/var/.*"]}, "launch_measurements": ["` + launchB + `"]}`)
	want := []string{
		"moved kernel moved from PCR 4 to PCR 9: vmlinuz",
		"changed file /a: now also sha256:" + hashB + "; no longer sha256:" + hashA,
		"added file /c is now allowed",
		"removed file /b is no longer allowed",
		"added files that match /var/.* are no longer judged",
		"removed files that match /tmp/.* are judged again",
		"added launch measurement " + launchB + " is now allowed",
		"removed launch measurement " + launchA + " is no longer allowed",
	}
	got := baseline.Diff(before, after)
	if len(got) != len(want) {
		t.Fatalf("%d changes: %+v", len(got), got)
	}
	for i := range got {
		if text := string(got[i].Kind) + " " + got[i].Description; text != want[i] {
			t.Errorf("%d: %s\nwant %s", i, text, want[i])
		}
	}
	// Against nothing, everything is new.
	for _, d := range baseline.Diff(verifier.NoReference(), after) {
		if d.Kind != verifier.Added {
			t.Errorf("%s %s", d.Kind, d.Description)
		}
	}
	// A value that is also allowed, besides the same events.
	one := compile(`{"pcrs": {"sha256": {"4": ["` + hashA + `"]}}, "events": [{"pcr": 4, "digests": {"sha256": ["` + hashA + `"]}}]}`)
	two := compile(`{"pcrs": {"sha256": {"4": ["` + hashA + `", "` + hashB + `"]}}, "events": [{"pcr": 4, "digests": {"sha256": ["` + hashA + `"]}}]}`)
	if d := baseline.Diff(one, two); len(d) != 1 || d[0].Kind != verifier.Added || d[0].Description != "PCR 4 (boot loader): accepted sha256 values changed: added "+hashB {
		t.Errorf("%+v", d)
	}
	if d := baseline.Diff(two, one); len(d) != 1 || d[0].Kind != verifier.Removed {
		t.Errorf("%+v", d)
	}
}

// An approval widens only the claims that its deviations name, and only where these reference values are what the claim
// was judged by: a more specific layer may say the opposite.
func TestExtendLeavesOtherClaims(t *testing.T) {
	a := &verifier.Appraisal{Genuine: true}
	launch := verifier.Deviation{PCR: -1, Component: verifier.ComponentLaunch}
	for _, tt := range []struct{ own, other string }{{"false", "true"}, {"true", "false"}} {
		rv := values(t, `{"claims": {"secure_boot": `+tt.own+`, "setup_mode": false}}`)
		named := verifier.Deviation{PCR: 7, Bank: "sha256", Claims: []verifier.UnmetClaim{{Name: "secure_boot", Expected: tt.other, Actual: tt.own}}}
		for _, d := range []verifier.Deviation{launch, named} {
			got, err := baseline.Extension{}.Extend(rv, a, []verifier.Deviation{d})
			if err != nil {
				t.Fatal(err)
			}
			if string(got.Claims["secure_boot"]) != tt.own || string(got.Claims["setup_mode"]) != "false" {
				t.Errorf("%s: %s", tt.own, got.Claims)
			}
		}
		only, err := baseline.Restrict(rv, []verifier.Deviation{launch})
		if err != nil {
			t.Fatal(err)
		}
		if len(only.Claims) != 0 {
			t.Errorf("restricted: %s", only.Claims)
		}
		if only, err = baseline.Restrict(rv, []verifier.Deviation{named}); err != nil || len(only.Claims) != 1 || string(only.Claims["secure_boot"]) != tt.own {
			t.Errorf("restricted: %s %v", only.Claims, err)
		}
	}
}

// Keys and buffers are allowed in their own tables; what needs a signature is not allowed by a digest.
func TestExtendIMAKinds(t *testing.T) {
	rv := values(t, `{"ima": {"keyrings": {".ima": ["sha256:`+hashA+`"]}, "buffers": {"dm_table_load": ["sha256:`+hashA+`"]}}}`)
	entry := func(kind ima.EntryKind, name, hash string) verifier.Deviation {
		return verifier.Deviation{PCR: ima.PCR, EventType: "IMA", IMAKind: kind, Now: name, Actual: "sha256:" + hash}
	}
	got, err := baseline.Extension{}.Extend(rv, &verifier.Appraisal{Genuine: true}, []verifier.Deviation{
		entry(ima.KindKeyring, ".ima", hashB), entry(ima.KindKeyring, ".evm", hashC), entry(ima.KindKeyring, ".evm", hashC), entry(ima.KindKeyring, "dm_table_load", hashB),
		entry(ima.KindBuffer, "kexec-cmdline", hashB), entry(ima.KindBuffer, ".ima", hashC),
		entry(ima.KindSignature, "/usr/bin/a", hashB), entry(ima.KindUnprovable, "/usr/bin/b", hashB), entry("", "/usr/bin/c", hashB),
	})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(got.IMA)
	sha := func(h string) string { return `"sha256:` + h + `"` }
	want := `{"keyrings":{".evm":[` + sha(hashC) + `],".ima":[` + sha(hashA) + `,` + sha(hashB) + `,` + sha(hashC) + `]},"buffers":{"dm_table_load":[` + sha(hashA) + `,` + sha(hashB) + `],"kexec-cmdline":[` + sha(hashB) + `]}}`
	if string(text) != want {
		t.Errorf("%s\nwant %s", text, want)
	}
	if _, err := verifier.CompileReference(got); err != nil {
		t.Error(err)
	}
	if len(rv.IMA.Keyrings[".ima"]) != 1 || len(rv.IMA.Keyrings) != 1 {
		t.Errorf("what was extended was changed: %v", rv.IMA)
	}
}
