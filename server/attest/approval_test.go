package attest

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/ima"
)

// Approving a file leaves a claim alone that a more specific baseline says the opposite of, whichever it is.
func TestApprovalLeavesShadowedClaims(t *testing.T) {
	b := newBench(t)
	m := b.measuring()
	secureBoot := func(text string) map[string]json.RawMessage {
		return map[string]json.RawMessage{"secure_boot": json.RawMessage(text)}
	}
	wide := verifier.ReferenceValues{Claims: secureBoot("false"), IMA: &verifier.ReferenceIMA{}}
	for i := range 9 {
		e := m.list.Entry(i)
		wide.IMA.Allow = append(wide.IMA.Allow, verifier.ReferenceFile{Path: ima.EscapeGlob(e.Path), Digests: []string{e.Digest()}})
	}
	made := map[string]store.BaselineVersion{}
	for name, x := range map[string]struct {
		selector verifier.Selector
		values   verifier.ReferenceValues
	}{"wide": {verifier.Selector{}, wide}, "own": {verifier.Selector{MachineIDs: []string{m.id.String()}}, verifier.ReferenceValues{Claims: secureBoot("true")}}} {
		v, err := b.store.CreateBaseline(b.ctx, b.tenant, name, x.selector, store.BaselineVersion{
			State: "active", Reference: x.values, Origin: "registered", CreatedAt: b.now()}, b.now(), admin)
		if err != nil {
			t.Fatal(err)
		}
		made[name] = v
	}
	for n := 9; ; n++ { // up to a file that is none of those allowed
		if e := m.list.Entry(n); !allowed(wide.IMA.Allow, ima.EscapeGlob(e.Path), e.Digest()) {
			m.measure(n + 1)
			break
		}
	}
	r, err := b.post(m.machine, m.evidence(b.nonce(m.machine), 0))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Contraindicated, verifier.BaselineDeviation)
	p, err := b.PreviewApproval(b.ctx, b.tenant, b.alerts(m.machine)[0].ID, ApprovalChoice{})
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "wide" || string(p.Reference.Claims["secure_boot"]) != "false" || len(p.Changes) != 1 || len(p.Remaining) != 0 {
		t.Errorf("%q: claims %s, changes %+v, remaining %q", p.Name, p.Reference.Claims, p.Changes, p.Remaining)
	}
	if d := p.Deviations[0]; d.IMAKind != ima.KindFile || !slices.Equal(p.Changes[0].Allows, []string{d.Actual}) {
		t.Errorf("deviation %+v, change %+v", d, p.Changes[0])
	}
	// A register of one baseline carries a claim of another: the claim is not the first one's to widen.
	versions := []store.BaselineVersion{made["own"], made["wide"]}
	var layers []verifier.VersionRef
	for _, v := range versions {
		layers = append(layers, verifier.VersionRef{ID: v.BaselineID.String(), Version: v.Version})
	}
	for i, want := range []int{1, 0} {
		d := []verifier.Deviation{{PCR: 7, Bank: "sha256", Claims: []verifier.UnmetClaim{{Name: "secure_boot", Expected: "true", Actual: "false"}}}}
		if err := b.keepClaims(d, versions[i].BaselineID, versions, layers); err != nil || len(d[0].Claims) != want {
			t.Errorf("%s: %+v, %v", versions[i].Name, d[0].Claims, err)
		}
	}
}

// A preview does not claim that nothing remains where IMA's list has what no baseline can allow, or was not judged.
func TestWhatRemainsOfIMA(t *testing.T) {
	check := func(code verifier.CheckCode, status verifier.CheckStatus, detail string) verifier.Check {
		return verifier.Check{Code: code, Status: status, Detail: detail}
	}
	entry := func(kind ima.EntryKind, text string) verifier.Deviation {
		return verifier.Deviation{EventType: "IMA", IMAKind: kind, Now: text, Actual: "sha256:00", Description: text}
	}
	failed := []verifier.Check{check(verifier.CheckIMAReplay, verifier.Pass, ""), check(verifier.CheckIMAPolicy, verifier.Fail, "files")}
	file, signed := entry(ima.KindFile, "/a is new"), entry(ima.KindSignature, "/b needs a signature")
	other := verifier.Deviation{PCR: 9, Bank: "sha256", EventType: "EV_IPL"}
	for name, tt := range map[string]struct {
		checks     []verifier.Check
		taken, all []verifier.Deviation
		unexpected int
		want       string
	}{
		"a file":                    {failed, []verifier.Deviation{file}, []verifier.Deviation{file}, 1, ""},
		"a signature is missing":    {failed, []verifier.Deviation{file, signed}, []verifier.Deviation{file, signed}, 2, "/b needs a signature; no digest in a baseline makes up for it"},
		"another baseline's files":  {failed, []verifier.Deviation{other}, []verifier.Deviation{other, file}, 1, "/a is new"},
		"more than is kept":         {failed, []verifier.Deviation{file}, []verifier.Deviation{file}, 3, "2 more entries"},
		"a list that is not proven": {[]verifier.Check{check(verifier.CheckIMAReplay, verifier.Fail, "does not lead to PCR 10"), check(verifier.CheckIMAPolicy, verifier.Skipped, "")}, []verifier.Deviation{other}, []verifier.Deviation{other}, 0, "ima.replay: does not lead to PCR 10"},
		"no list":                   {[]verifier.Check{check(verifier.CheckIMAPolicy, verifier.Fail, "no list was sent")}, []verifier.Deviation{other}, []verifier.Deviation{other}, 0, "ima.policy: no list was sent"},
		"not judged":                {[]verifier.Check{check(verifier.CheckIMAPolicy, verifier.Skipped, "")}, []verifier.Deviation{other}, []verifier.Deviation{other}, 0, "have not been judged"},
	} {
		p := &Approval{Deviations: tt.taken, effective: verifier.ReferenceValues{IMA: &verifier.ReferenceIMA{}}}
		then := &verifier.Appraisal{Checks: tt.checks}
		then.Claims.IMA = &verifier.IMAClaims{Unexpected: tt.unexpected}
		if got := strings.Join(remainingOfIMA(p, then, tt.all), "\n"); (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, not %q", name, got, tt.want)
		}
		if p.effective.IMA = nil; remainingOfIMA(p, then, tt.all) != nil {
			t.Errorf("%s: no baseline judges files", name)
		}
	}
}
