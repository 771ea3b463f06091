package attest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// A deviation from the captured baseline is explained event by event, and named in the alert; booting
// the baseline again ends it.
func TestDeviationAndRecovery(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	b.attest(m)
	if _, err := b.CaptureBaseline(b.ctx, b.tenant, m.id, "golden", nil, admin); err != nil {
		t.Fatal(err)
	}
	matched := b.attest(m)
	expect(t, matched, verifier.Affirming, verifier.NoReason)
	if matched.Appraisal.Baseline == nil || matched.Appraisal.Baseline.Version != 1 {
		t.Fatalf("baseline %+v", matched.Appraisal.Baseline)
	}
	m.reboot(specimen(t, "sb-on-2", bootLog))
	expect(t, b.attest(m), verifier.Affirming, verifier.NoReason)

	m.reboot(specimen(t, "cmdline", bootLog))
	r := b.attest(m)
	expect(t, r, verifier.Contraindicated, verifier.BaselineDeviation)
	if len(r.Appraisal.Deviations) == 0 || !slices.ContainsFunc(r.Appraisal.Deviations, func(d verifier.Deviation) bool { return d.PCR == 8 }) {
		t.Fatalf("deviations %+v", r.Appraisal.Deviations)
	}
	alerts := b.alerts(m)
	if len(alerts) != 1 || alerts[0].Reason != verifier.BaselineDeviation || !strings.Contains(alerts[0].Description, "PCR 8") {
		t.Fatalf("alerts %+v", alerts)
	}
	m.reboot(specimen(t, "sb-on-1", bootLog))
	expect(t, b.attest(m), verifier.Affirming, verifier.NoReason)
	if alerts := b.alerts(m); len(alerts) != 1 || alerts[0].Status != "resolved" {
		t.Errorf("alerts %+v", alerts)
	}
}

// With learn_first_boot the first genuine boot becomes the baseline, also where a baseline is required;
// the second machine's boot does not replace it.
func TestLearnFirstBoot(t *testing.T) {
	b := newBench(t)
	b.policy(func(p *verifier.Policy) { p.LearnFirstBoot, p.RequireBaseline = true, true })
	m := b.enrolled("sb-on-1")
	expect(t, b.attest(m), verifier.Affirming, verifier.NoReason)
	second := b.attest(m)
	expect(t, second, verifier.Affirming, verifier.NoReason)
	if second.Appraisal.Baseline == nil {
		t.Fatal("nothing was learned")
	}
	m.reboot(specimen(t, "initrd-tampered", bootLog))
	expect(t, b.attest(m), verifier.Contraindicated, verifier.BaselineDeviation)
	if n := b.rows()["baseline_versions"]; n != 1 {
		t.Errorf("%d baseline versions", n)
	}
}

// A boot that breaks the policy is not learned.
func TestBadBootIsNotLearned(t *testing.T) {
	b := newBench(t)
	b.policy(func(p *verifier.Policy) { p.LearnFirstBoot = true })
	m := b.enrolled("sb-on-1")
	m.log = nil // nothing then proves Secure Boot
	r := b.attest(m)
	expect(t, r, verifier.Contraindicated, verifier.BaselineDeviation)
	if n := b.rows()["baseline_versions"]; n != 0 {
		t.Errorf("%d baseline versions", n)
	}
	forged := m.quote(b.nonce(m))
	forged.PCRs["sha256"]["4"] = strings.Repeat("00", 32)
	if r, err := b.post(m, forged); err != nil || r.Appraisal.Genuine {
		t.Errorf("%+v, %v", r, err)
	}
	if n := b.rows()["baseline_versions"]; n != 0 {
		t.Errorf("%d baseline versions", n)
	}
}

// A baseline is captured of genuine evidence only, which is judged again for it.
func TestCaptureBaseline(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	if _, err := b.CaptureBaseline(b.ctx, b.tenant, m.id, "golden", nil, admin); code(err) != CodeNoGenuineVerdict {
		t.Fatalf("before any verdict: %v", err)
	}
	forged := m.quote(b.nonce(m))
	forged.PCRs["sha256"]["4"] = strings.Repeat("00", 32)
	if r, err := b.post(m, forged); err != nil || r.Appraisal.Genuine {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := b.CaptureBaseline(b.ctx, b.tenant, m.id, "golden", nil, admin); code(err) != CodeNoGenuineVerdict {
		t.Fatalf("of a forgery: %v", err)
	}
	b.attest(m)
	v, err := b.CaptureBaseline(b.ctx, b.tenant, m.id, "golden", &verifier.Selector{ScaleSet: []string{"web"}}, admin)
	if err != nil || v.Version != 1 || v.State != "active" || v.Origin != "captured" || len(v.Reference.PCRs["sha256"]) == 0 || len(v.Reference.Events) == 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	if len(v.Selector.ScaleSet) != 1 {
		t.Errorf("selector %+v", v.Selector)
	}
	if _, err := b.CaptureBaseline(b.ctx, b.tenant, m.id, "golden", nil, admin); code(err) != CodeConflict {
		t.Errorf("a name that is taken: %v", err)
	}
	if _, err := b.CaptureBaseline(b.ctx, b.tenant, m.id, "a\nb", nil, admin); code(err) != CodeInvalidField {
		t.Errorf("a name of two lines: %v", err)
	}
	if _, err := b.CaptureBaseline(b.ctx, b.tenant, uuid.New(), "x", nil, admin); code(err) != CodeNotFound {
		t.Errorf("unknown machine: %v", err)
	}
	unnamed, err := b.CaptureBaseline(b.ctx, b.tenant, m.id, "", nil, admin)
	if err != nil || len(unnamed.Selector.MachineIDs) != 1 || unnamed.Selector.MachineIDs[0] != m.id.String() {
		t.Errorf("%+v, %v", unnamed, err)
	}
}

// What covers a machine shows in its recommendations: nothing, what it learned itself, what a person has promoted since,
// and what is about to end.
func TestBaselineRecommendations(t *testing.T) {
	b := newBench(t)
	want := func(m *machine, when, missing, learned, expiring string) {
		t.Helper()
		for name, pair := range map[string][2]string{
			"baseline_missing": {string(b.recommended(m, "baseline_missing")), missing}, "baseline_learned": {string(b.recommended(m, "baseline_learned")), learned},
			"baseline_expiring": {string(b.recommended(m, "baseline_expiring")), expiring},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s: %s is %q, want %q", when, name, pair[0], pair[1])
			}
		}
	}
	m := b.enrolled("sb-on-1")
	b.attest(m)
	want(m, "nothing covers it", "low", "", "")
	if _, err := b.CaptureBaseline(b.ctx, b.tenant, m.id, "golden", nil, admin); err != nil {
		t.Fatal(err)
	}
	b.attest(m)
	want(m, "a captured one covers it", "", "", "")

	b.policy(func(p *verifier.Policy) { p.LearnFirstBoot = true })
	second := b.enrolled("sb-on-2")
	b.attest(second)
	want(second, "its first boot was learned", "", "low", "")
	b.attest(second)
	want(second, "it is judged by it", "", "low", "")
	inputs, err := b.store.AppraisalInputs(b.ctx, b.tenant, second.id, b.now())
	if err != nil || len(inputs.Versions) != 1 {
		t.Fatalf("%+v, %v", inputs.Versions, err)
	}
	v := inputs.Versions[0]
	until := b.now().Add(10 * 24 * time.Hour)
	draft, err := b.store.AddBaselineVersion(b.ctx, b.tenant, v.BaselineID, store.BaselineVersion{Reference: v.Reference, State: "draft", ActiveUntil: &until}, b.now(), admin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.PromoteVersion(b.ctx, b.tenant, v.BaselineID, draft.Version, store.Promotion{}, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	b.attest(second)
	want(second, "a person has made a version of it that ends", "", "", "low")
}
