package attest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

// reappraise carries out what is waiting and gives the newest reappraisal.
func (b *bench) reappraise() store.Reappraisal {
	b.t.Helper()
	if _, err := b.Reappraise(b.ctx, b.tenant); err != nil {
		b.t.Fatal(err)
	}
	list, _, err := b.store.ListReappraisals(b.ctx, b.tenant, store.ReappraisalFilter{}, store.Page{})
	if err != nil || len(list) == 0 {
		b.t.Fatalf("%d reappraisals, %v", len(list), err)
	}
	if list[0].State != "done" || list[0].FinishedAt == nil || list[0].Machines == nil {
		b.t.Fatalf("%+v", list[0])
	}
	b.wait(time.Second) // what is asked for next is newer
	return list[0]
}

// counts are the outcomes of a reappraisal: unchanged, worse, better, otherwise, not judged, alerts.
func counts(r store.Reappraisal) string {
	return fmt.Sprint(r.Unchanged, r.Worse, r.Better, r.Changed, r.NotJudged, r.AlertsOpened)
}

// standing is the verdict that stands.
func (b *bench) standing(m *machine) store.Verdict {
	b.t.Helper()
	v, err := b.store.GetVerdict(b.ctx, b.tenant, *mustMachine(b, m.id).LastVerdict)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// said is the judgement that stands.
func (b *bench) said(m *machine) *verifier.Appraisal {
	b.t.Helper()
	v := b.standing(m)
	return &v.Appraisal
}

// state is the hot row of a machine, as text, but for the run.
func (b *bench) state(m *machine) string {
	b.t.Helper()
	conn, err := pgx.Connect(b.ctx, b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close(b.ctx) }()
	var text string
	err = conn.QueryRow(b.ctx, `SELECT (to_jsonb(st) - 'verdict_id' - 'fingerprint' - 'run_count' - 'run_last_at')::text FROM machine_attestation_state st
		WHERE tenant_id = $1 AND machine_id = $2`, b.tenant, m.id).Scan(&text)
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

// An anchor is withdrawn: the machine that rests on it is of unverified origin without sending anything, and the one that
// does not stays as it is. What the machine last proved, and its challenges, stay untouched; its next evidence
// is judged as any, on the one alert.
func TestWithdrawnAnchorIsJudgedBackwards(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	anchor := b.trustAMD(amd)
	c := b.azure(amd, teetest.HCL{})
	b.admit(c.machine, c.enrolment(t, nil))
	plain := b.enrolled("sb-on-1")
	first := b.prove(c, nil)
	expect(t, first, verifier.Affirming, verifier.NoReason)
	other := b.attest(plain)
	before := b.state(c.machine)
	pending := b.nonce(c.machine)
	tokens := b.rows()["verdicts"]

	b.wait(time.Minute)
	if _, err := b.store.SetTrustAnchorEnabled(b.ctx, b.tenant, anchor.ID, false, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	r := b.reappraise()
	if r.Cause.Kind != store.CauseTrustAnchor || r.Cause.ID != anchor.ID.String() || !strings.Contains(r.Cause.Detail, "disabled") || r.RequestedBy != "admin:test" {
		t.Errorf("%+v", r)
	}
	if got := counts(r); got != "0 1 0 0 0 1" || *r.Machines != 1 {
		t.Errorf("counts %s of %d machines", got, *r.Machines)
	}
	v := b.standing(c.machine)
	if v.Appraisal.Status != verifier.Contraindicated || v.Appraisal.Reason != verifier.OriginUnverified || v.Supersedes == nil || *v.Supersedes != first.ID ||
		v.EvidenceID == nil || *v.EvidenceID != first.ID || v.ReappraisalID == nil || *v.ReappraisalID != r.ID || !v.FirstAt.Equal(r.RequestedAt) || v.Count != 1 {
		t.Fatalf("%+v", v)
	}
	old, err := b.store.GetVerdict(b.ctx, b.tenant, first.ID)
	if err != nil || old.Appraisal.Status != verifier.Affirming || old.SupersededBy == nil || *old.SupersededBy != v.ID || old.Count != 1 || !old.LastAt.Equal(old.FirstAt) {
		t.Errorf("the earlier verdict: %+v, %v", old, err)
	}
	if got := b.state(c.machine); got != before {
		t.Errorf("the machine's state:\n%s\nbefore:\n%s", got, before)
	}
	if got := b.standing(plain); got.ID != other.ID {
		t.Errorf("a machine that does not rest on the anchor: %+v", got)
	}
	alerts := b.alerts(c.machine)
	if len(alerts) != 1 || alerts[0].Reason != verifier.OriginUnverified || alerts[0].VerdictID != v.ID || alerts[0].Count != 1 {
		t.Fatalf("%+v", alerts)
	}
	if got := b.assessment(c.machine, "guest_attestation_healthy"); got.Status != "Unhealthy" {
		t.Errorf("%+v", got)
	}
	changed, _, err := b.store.ListReappraisalMachines(b.ctx, b.tenant, r.ID, "", store.Page{})
	if err != nil || len(changed) != 1 || changed[0].MachineID != c.id || changed[0].Outcome != store.OutcomeWorse || *changed[0].VerdictID != v.ID ||
		*changed[0].SupersededID != first.ID || changed[0].StatusBefore != "affirming" || changed[0].StatusAfter != "contraindicated" || changed[0].ReasonAfter != "origin_unverified" {
		t.Errorf("%+v, %v", changed, err)
	}
	if n := b.rows()["verdicts"] - tokens; n != 1 {
		t.Errorf("%d new verdicts", n)
	}
	if events, err := b.DecodedLog(b.ctx, b.tenant, v.ID); err != nil || len(events) == 0 || events[0].Verified {
		t.Errorf("the log behind it: %d events, %v", len(events), err)
	}

	// The challenge that the machine held is good, and the new verdict is its own; the alert is the same.
	e := c.quote(pending)
	e.Platform = c.evidence
	real, err := b.post(c.machine, e)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, real, verifier.Contraindicated, verifier.OriginUnverified)
	if checkOf(real.Appraisal, verifier.CheckQuoteNonce).Status != verifier.Pass || !real.New || real.ID == v.ID {
		t.Errorf("%+v", real)
	}
	if v := b.standing(c.machine); v.ID != real.ID || v.Supersedes != nil || v.EvidenceID != nil {
		t.Errorf("%+v", v)
	}
	if again := b.prove(c, nil); again.New {
		t.Error("an unchanged attestation afterwards makes another verdict")
	}
	if alerts := b.alerts(c.machine); len(alerts) != 1 || alerts[0].Status != "active" || alerts[0].Count != 3 {
		t.Errorf("%+v", alerts)
	}
	// Trusted again and judged again by hand, the stored evidence is as good as it was: the later one, of the same key.
	if _, err := b.store.SetTrustAnchorEnabled(b.ctx, b.tenant, anchor.ID, true, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.RequestReappraisal(b.ctx, b.tenant, verifier.Selector{MachineIDs: []string{c.id.String()}}, "trusted again", b.now(), admin); err != nil {
		t.Fatal(err)
	}
	if r := b.reappraise(); counts(r) != "0 0 1 0 0 0" {
		t.Errorf("%+v", r)
	}
	if alerts := b.alerts(c.machine); len(alerts) != 1 || alerts[0].Status != "resolved" {
		t.Errorf("%+v", alerts)
	}
}

// A version is retired: a machine that is still on it deviates, once, however often it is judged again.
func TestRetiredVersionIsJudgedBackwards(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	b.attest(m)
	one, err := b.CaptureBaseline(b.ctx, b.tenant, m.id, "web", &verifier.Selector{Labels: map[string]string{}}, admin)
	if err != nil {
		t.Fatal(err)
	}
	m.reboot(specimen(t, "cmdline", bootLog))
	two := b.attest(m)
	expect(t, two, verifier.Contraindicated, verifier.BaselineDeviation)
	captured, err := b.captureReference(b.ctx, b.tenant, ptr(b.standing(m)), false)
	if err != nil {
		t.Fatal(err)
	}
	v2, err := b.store.AddBaselineVersion(b.ctx, b.tenant, one.BaselineID, store.BaselineVersion{Reference: captured}, b.now(), admin)
	if err != nil {
		t.Fatal(err)
	}
	until := b.now().Add(time.Hour)
	if _, err := b.store.PromoteVersion(b.ctx, b.tenant, one.BaselineID, v2.Version, store.Promotion{Grace: store.Grace{Until: &until}}, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	m.reboot(specimen(t, "sb-on-1", bootLog)) // back on the old one, which is in grace
	expect(t, b.attest(m), verifier.Affirming, verifier.NoReason)
	if b.rows()["reappraisals"] != 0 {
		t.Error("grace is no withdrawal")
	}
	b.wait(time.Second)
	if _, err := b.store.RetireVersion(b.ctx, b.tenant, one.BaselineID, 1, store.Retirement{}, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	r := b.reappraise()
	if r.Cause.Kind != store.CauseBaselineVersion || r.Cause.ID != one.BaselineID.String()+"/1" || counts(r) != "0 1 0 0 0 1" {
		t.Fatalf("%+v", r)
	}
	v := b.standing(m)
	if v.Appraisal.Reason != verifier.BaselineDeviation || len(v.Appraisal.Deviations) == 0 || !v.Appraisal.Genuine {
		t.Errorf("%+v", v)
	}
	for range 2 {
		b.wait(time.Second)
		if _, err := b.store.RequestReappraisal(b.ctx, b.tenant, verifier.Selector{}, "again", b.now(), admin); err != nil {
			t.Fatal(err)
		}
		if r := b.reappraise(); counts(r) != "1 0 0 0 0 0" {
			t.Errorf("judged again: %+v", r)
		}
	}
	if v := b.standing(m); v.Count != 1 {
		t.Errorf("counted as an attestation: %+v", v)
	}
	b.attest(m)
	open := 0
	for _, a := range b.alerts(m) {
		if a.Status == "active" {
			open++
		}
	}
	if open != 1 {
		t.Errorf("%d open alerts", open)
	}
}

// Of two changes at once the first reappraisal judges by both, and the report of the second says where to look.
func TestReappraisalNamesThoseBesideIt(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	b.attest(m)
	b.wait(time.Second)
	first, err := b.store.RequestReappraisal(b.ctx, b.tenant, verifier.Selector{}, "an audit", b.now(), admin)
	if err != nil {
		t.Fatal(err)
	}
	b.wait(time.Second)
	b.policy(func(p *verifier.Policy) { p.RequireIMA = true })
	r := b.reappraise()
	if r.Cause.Kind != store.CausePolicy || counts(r) != "1 0 0 0 0 0" || len(r.Beside) != 1 || r.Beside[0] != first.ID {
		t.Errorf("the second: %+v", r)
	}
	if first, err = b.store.GetReappraisal(b.ctx, b.tenant, first.ID); err != nil || first.Worse != 1 || len(first.Beside) != 0 {
		t.Errorf("the first: %+v, %v", first, err)
	}
	if _, err := b.store.RequestReappraisal(b.ctx, b.tenant, verifier.Selector{}, "later", b.now(), admin); err != nil {
		t.Fatal(err)
	}
	if r := b.reappraise(); len(r.Beside) != 0 {
		t.Errorf("one that was asked for after the end of the others: %+v", r)
	}
}

// The last version that covers a machine is withdrawn: a machine that rested on it fails, one that deviated goes on failing,
// and the alert of neither is resolved by it. Released, they are judged without it; a version that is tried is judged by.
func TestLastVersionWithdrawn(t *testing.T) {
	for name, selector := range map[string]*verifier.Selector{"fleet": {Labels: map[string]string{}}, "bound": nil} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			good, bad := b.enrolled("sb-on-1"), b.enrolled("sb-on-1")
			b.attest(good)
			b.attest(bad)
			if selector == nil {
				selector = &verifier.Selector{MachineIDs: []string{good.id.String(), bad.id.String()}}
			}
			v, err := b.CaptureBaseline(b.ctx, b.tenant, good.id, "web", selector, admin)
			if err != nil {
				t.Fatal(err)
			}
			bad.reboot(specimen(t, "initrd-tampered", bootLog))
			expect(t, b.attest(bad), verifier.Contraindicated, verifier.BaselineDeviation)
			expect(t, b.attest(good), verifier.Affirming, verifier.NoReason)
			b.wait(time.Second)
			retire := func(r store.Retirement) {
				t.Helper()
				if _, err := b.store.RetireVersion(b.ctx, b.tenant, v.BaselineID, 1, r, b.now(), admin); err != nil {
					t.Fatal(err)
				}
			}
			retire(store.Retirement{})
			if r := b.reappraise(); r.Better != 0 || r.Worse != 1 || r.AlertsOpened != 1 {
				t.Errorf("%+v", r)
			}
			const told = "version 1 of web was withdrawn and nothing replaces it"
			failing := func(story string) {
				t.Helper()
				for _, m := range []*machine{good, bad} {
					a := b.said(m)
					if c := checkOf(a, verifier.CheckBaselineMatch); a.Reason != verifier.BaselineDeviation || c.Status != verifier.Fail || c.Detail != told {
						t.Errorf("%s: %s %s: %+v", story, a.Status, a.Reason, c)
					}
					if alerts := b.alerts(m); len(alerts) != 1 || alerts[0].Status != "active" {
						t.Errorf("%s: %+v", story, alerts)
					}
				}
			}
			failing("judged again")
			b.attest(good)
			b.attest(bad)
			failing("attested")
			if got := valueOf(b.PreviewApproval(b.ctx, b.tenant, b.alerts(bad)[0].ID, ApprovalChoice{})); code(got) != CodeNotApprovable || !strings.Contains(got.Error(), told) {
				t.Errorf("approvable: %v", got)
			}
			trial, err := b.DryRunVersion(b.ctx, b.tenant, v.BaselineID, 1, func(int64, int64) {})
			if err != nil || trial.Healthy != 1 {
				t.Errorf("tried: %+v, %v", trial, err)
			}
			b.wait(time.Second)
			retire(store.Retirement{Release: true, Comment: "the scale set is gone"})
			b.reappraise()
			for _, m := range []*machine{good, bad} {
				expect(t, b.attest(m), verifier.Affirming, verifier.NoReason)
			}
		})
	}
}

func valueOf(_ *Approval, err error) error { return err }

// A machine that was judged before learns nothing: not from its stored evidence, and not when it attests again.
func TestNothingIsLearnedLater(t *testing.T) {
	b := newBench(t)
	b.policy(func(p *verifier.Policy) { p.RequireBaseline = true })
	m := b.enrolled("sb-on-1")
	expect(t, b.attest(m), verifier.Contraindicated, verifier.BaselineDeviation)
	b.policy(func(p *verifier.Policy) { p.LearnFirstBoot, p.RequireBaseline = true, true })
	if _, err := b.store.RequestReappraisal(b.ctx, b.tenant, verifier.Selector{}, "", b.now(), admin); err != nil {
		t.Fatal(err)
	}
	if r := b.reappraise(); r.Better != 0 {
		t.Errorf("%+v", r)
	}
	policy := verifier.DefaultPolicy()
	policy.LearnFirstBoot, policy.RequireBaseline = true, true
	trial, err := b.TestPolicy(b.ctx, b.tenant, policy, nil, func(int64, int64) {})
	if err != nil || trial.Healthy != 0 {
		t.Errorf("tried: %+v, %v", trial, err)
	}
	expect(t, b.attest(m), verifier.Contraindicated, verifier.BaselineDeviation)
	if n := b.rows()["baseline_versions"]; n != 0 {
		t.Errorf("%d baseline versions", n)
	}
}

// Evidence that is found genuine only when it is judged again is not learned either.
func TestStoredEvidenceTeachesNothing(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	anchor := b.trustAMD(amd)
	c := b.azure(amd, teetest.HCL{})
	b.admit(c.machine, c.enrolment(t, nil))
	b.policy(func(p *verifier.Policy) { p.LearnFirstBoot, p.RequireBaseline = true, true })
	for _, enabled := range []bool{false, true} {
		if _, err := b.store.SetTrustAnchorEnabled(b.ctx, b.tenant, anchor.ID, enabled, b.now(), admin); err != nil {
			t.Fatal(err)
		}
		if !enabled {
			expect(t, b.prove(c, nil), verifier.Contraindicated, verifier.OriginUnverified)
		}
	}
	b.wait(time.Second)
	if _, err := b.store.RequestReappraisal(b.ctx, b.tenant, verifier.Selector{}, "", b.now(), admin); err != nil {
		t.Fatal(err)
	}
	b.reappraise()
	a := b.said(c.machine)
	if got := checkOf(a, verifier.CheckBaselineMatch); !a.Genuine || a.Reason != verifier.BaselineDeviation || got.Status != verifier.Fail {
		t.Errorf("%s %s %+v: %s", a.Status, a.Reason, got, firstFailure(a))
	}
}

func ptr[T any](v T) *T { return &v }

// What evidence was when it came it stays: a nonce that was used then, a forged value, and a clock that was good.
func TestStoredEvidenceIsWhatItWas(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	e := m.quote(b.nonce(m))
	for _, want := range []verifier.CheckStatus{verifier.Pass, verifier.Fail} {
		r, err := b.post(m, e)
		if err != nil || checkOf(r.Appraisal, verifier.CheckQuoteNonce).Status != want {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	unchanged := func() {
		t.Helper()
		b.wait(time.Hour) // every challenge has expired long since
		if _, err := b.store.RequestReappraisal(b.ctx, b.tenant, verifier.Selector{}, "", b.now(), admin); err != nil {
			t.Fatal(err)
		}
		if r := b.reappraise(); counts(r) != "1 0 0 0 0 0" {
			list, _, _ := b.store.ListReappraisalMachines(b.ctx, b.tenant, r.ID, "", store.Page{})
			t.Errorf("%s: %+v\n%s", counts(r), list, firstFailure(b.said(m)))
		}
	}
	unchanged()
	forged := m.quote(b.nonce(m))
	forged.PCRs["sha256"]["4"] = strings.Repeat("00", 32)
	if _, err := b.post(m, forged); err != nil {
		t.Fatal(err)
	}
	unchanged()
	late := m.quote(b.nonce(m))
	b.wait(time.Hour)
	if r, err := b.post(m, late); err != nil || checkOf(r.Appraisal, verifier.CheckQuoteNonce).Detail != faultExpired {
		t.Fatalf("%+v, %v", r, err)
	}
	unchanged()
	b.attest(m)
	for range 3 { // the run goes on, and the TPM's clock with it: the evidence is of the first
		b.wait(time.Minute)
		if b.attest(m).New {
			t.Fatal("a new run")
		}
	}
	unchanged()
	m.log = nil
	m.reboot(nil)
	if r := b.attest(m); !r.Appraisal.Genuine {
		t.Fatalf("%s", firstFailure(r.Appraisal))
	}
	unchanged()
	m.log = specimen(t, "sb-on-1", bootLog)
	m.reboot(m.log)
	b.attest(m)
	m.log = nil // the same boot has shown a log before
	if r := b.attest(m); r.Appraisal.Genuine {
		t.Fatal("genuine")
	}
	unchanged()
}

// An IMA list that continues is judged from where it began, also once the machine has sent more; and where that is not
// known, that is said.
func TestStoredIncrementOfAnIMAList(t *testing.T) {
	b := newBench(t)
	m := b.measuring()
	m.measure(8)
	if _, err := b.post(m.machine, m.evidence(b.nonce(m.machine), 0)); err != nil {
		t.Fatal(err)
	}
	b.policy(func(p *verifier.Policy) { p.AttestationIntervalSeconds = 60 }) // a new version of the policy begins a new run
	for _, more := range []int{5, 3} {
		from := m.extended
		m.measure(more)
		r, err := b.post(m.machine, m.evidence(b.nonce(m.machine), from))
		if err != nil || checkOf(r.Appraisal, verifier.CheckIMAReplay).Status != verifier.Pass {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	ask := func(want string) store.Reappraisal {
		t.Helper()
		if _, err := b.store.RequestReappraisal(b.ctx, b.tenant, verifier.Selector{}, "", b.now(), admin); err != nil {
			t.Fatal(err)
		}
		r := b.reappraise()
		if counts(r) != want {
			t.Errorf("%s, not %s: %s", counts(r), want, firstFailure(b.said(m.machine)))
		}
		return r
	}
	ask("1 0 0 0 0 0")
	conn, err := pgx.Connect(b.ctx, b.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(b.ctx) }()
	if _, err := conn.Exec(b.ctx, `UPDATE evidence SET ima_from = NULL`); err != nil { // as it was stored before ima_from was
		t.Fatal(err)
	}
	r := ask("0 0 0 0 1 0")
	list, _, err := b.store.ListReappraisalMachines(b.ctx, b.tenant, r.ID, store.OutcomeNotJudged, store.Page{})
	if err != nil || len(list) != 1 || list[0].Why != string(IMAIncrement) || list[0].VerdictID != nil {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := conn.Exec(b.ctx, `DELETE FROM evidence`); err != nil {
		t.Fatal(err)
	}
	r = ask("0 0 0 0 1 0")
	if list, _, err = b.store.ListReappraisalMachines(b.ctx, b.tenant, r.ID, "", store.Page{}); err != nil || len(list) != 1 || list[0].Why != string(NoEvidence) {
		t.Errorf("%+v, %v", list, err)
	}
}

// A stricter TCB level, a CRL and a deleted CRL are changes that stored evidence is judged by; how often a machine
// attests is not.
func TestHardwareTrustIsJudgedBackwards(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	b.trustAMD(amd)
	c := b.azure(amd, teetest.HCL{})
	b.admit(c.machine, c.enrolment(t, nil))
	expect(t, b.prove(c, nil), verifier.Affirming, verifier.NoReason)
	queued := b.rows()["reappraisals"]
	b.policy(func(p *verifier.Policy) { p.AttestationIntervalSeconds = 600 })
	if n := b.rows()["reappraisals"]; n != queued {
		t.Errorf("%d reappraisals", n)
	}
	b.policy(func(p *verifier.Policy) {
		p.PlatformEvidence.SNP.MinimumTCB = map[tee.Product]tee.TCB{tee.Milan: {Bootloader: 255, TEE: 255, SNP: 255, Microcode: 255}}
	})
	r := b.reappraise()
	if r.Cause.Kind != store.CausePolicy || counts(r) != "0 1 0 0 0 1" {
		t.Fatalf("%+v: %s", r, firstFailure(b.said(c.machine)))
	}
	if v := b.standing(c.machine); checkOf(&v.Appraisal, "platform.tcb").Status != verifier.Fail {
		t.Errorf("%+v", v)
	}
	b.policy(func(*verifier.Policy) {})
	if r := b.reappraise(); counts(r) != "0 0 1 0 0 0" {
		t.Fatalf("%+v: %s", r, firstFailure(b.said(c.machine)))
	}
}

// many registers machines with copies of one machine's evidence, so that a reappraisal has several pages.
func (b *bench) many(m *machine, n int) {
	b.t.Helper()
	conn, err := pgx.Connect(b.ctx, b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close(b.ctx) }()
	// Their keys are others', so that each is "not judged" for its own reason and still counted, listed and paged.
	if _, err := conn.Exec(b.ctx, `WITH more AS (SELECT gen_random_uuid() AS machine_id, gen_random_uuid() AS verdict_id, i FROM generate_series(1, $3) i),
		m AS (INSERT INTO machines (tenant_id, machine_id, external_id, name, state, status, created_at, updated_at)
			SELECT $1, machine_id, 'copy-' || i, 'copy-' || i, 'active', 'affirming', now(), now() FROM more RETURNING machine_id),
		v AS (INSERT INTO verdicts (tenant_id, verdict_id, machine_id, key_id, status, reason, assurance, genuine, first_at, last_at, run_count, appraisal)
			SELECT $1, more.verdict_id, more.machine_id, v.key_id, v.status, v.reason, v.assurance, v.genuine, v.first_at, v.last_at, 1, v.appraisal
			FROM more, verdicts v WHERE v.tenant_id = $1 AND v.machine_id = $2),
		e AS (INSERT INTO evidence (tenant_id, verdict_id, content_type, size, compressed, event_log_digest)
			SELECT $1, more.verdict_id, e.content_type, e.size, e.compressed, e.event_log_digest FROM more, evidence e)
		INSERT INTO machine_attestation_state (tenant_id, machine_id, verdict_id, fingerprint) SELECT $1, machine_id, verdict_id, '' FROM more`,
		b.tenant, m.id, n); err != nil {
		b.t.Fatal(err)
	}
}

// A worker is killed in the middle: the next one goes on where it ended, and nothing is done twice.
func TestReappraisalResumes(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	b.attest(m)
	b.many(m, 3*trialPage)
	if _, err := b.store.RequestReappraisal(b.ctx, b.tenant, verifier.Selector{}, "", b.now(), admin); err != nil {
		t.Fatal(err)
	}
	job, err := b.store.ClaimReappraisal(b.ctx, b.tenant, reappraisalLease, b.now())
	if err != nil {
		t.Fatal(err)
	}
	after, err := b.reappraisePage(b.ctx, b.tenant, &job) // and then it is dead
	if err != nil || after.State != "running" || after.NotJudged+after.Judged() != trialPage {
		t.Fatalf("%+v, %v", after, err)
	}
	if report, err := b.Reappraise(b.ctx, b.tenant); report != "" || err != nil {
		t.Fatalf("before the lease ends: %q, %v", report, err)
	}
	b.wait(reappraisalLease)
	if r := b.reappraise(); r.NotJudged != 3*trialPage || r.Judged() != 1 || b.rows()["reappraisal_machines"] != 3*trialPage {
		t.Errorf("%+v", r)
	}
	// A worker that comes back from the dead finds that its page is written.
	if _, err := b.reappraisePage(b.ctx, b.tenant, &job); !errors.Is(err, store.ErrConflict) {
		t.Errorf("%v", err)
	}

	// The service ends in the middle: the work is left to whoever comes next, at once.
	if _, err := b.store.RequestReappraisal(b.ctx, b.tenant, verifier.Selector{}, "", b.now(), admin); err != nil {
		t.Fatal(err)
	}
	if job, err = b.store.ClaimReappraisal(b.ctx, b.tenant, reappraisalLease, b.now()); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(b.ctx)
	if job, err = b.reappraisePage(ctx, b.tenant, &job); err != nil {
		t.Fatal(err)
	}
	end()
	if _, err = b.carryOut(ctx, b.tenant, job); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	if err := b.giveBack(ctx, b.tenant, &job, err); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	if r := b.reappraise(); r.NotJudged != 3*trialPage {
		t.Errorf("%+v", r)
	}
}

// Two replicas at once judge each machine once.
func TestTwoReappraisersAtOnce(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	anchor := b.trustAMD(amd)
	c := b.azure(amd, teetest.HCL{})
	b.admit(c.machine, c.enrolment(t, nil))
	b.prove(c, nil)
	if _, err := b.store.SetTrustAnchorEnabled(b.ctx, b.tenant, anchor.ID, false, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := b.store.RequestReappraisal(b.ctx, b.tenant, verifier.Selector{}, "", b.now(), admin); err != nil {
			t.Fatal(err)
		}
	}
	job, err := b.store.ClaimReappraisal(b.ctx, b.tenant, reappraisalLease, b.now())
	if err != nil {
		t.Fatal(err)
	}
	services := []*Service{b.Service, b.service()}
	var same sync.WaitGroup
	failed := make([]error, len(services))
	for i, s := range services { // both believe that the same one is theirs
		same.Go(func() { _, failed[i] = s.carryOut(b.ctx, b.tenant, job) })
	}
	same.Wait()
	if (failed[0] == nil) == (failed[1] == nil) || !errors.Is(errors.Join(failed...), store.ErrConflict) {
		t.Fatalf("%v, %v", failed[0], failed[1])
	}
	for i, s := range services { // and share what is left
		same.Go(func() { _, failed[i] = s.Reappraise(b.ctx, b.tenant) })
	}
	same.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	list, _, err := b.store.ListReappraisals(b.ctx, b.tenant, store.ReappraisalFilter{State: "done"}, store.Page{})
	if err != nil || len(list) != 4 {
		t.Fatalf("%d done, %v", len(list), err)
	}
	var worse, unchanged int64
	for _, r := range list {
		worse, unchanged = worse+r.Worse, unchanged+r.Unchanged
	}
	if worse != 1 || unchanged != 3 || b.rows()["verdicts"] != 2 || len(b.alerts(c.machine)) != 1 {
		t.Errorf("%d worse, %d unchanged, %d verdicts, alerts %+v", worse, unchanged, b.rows()["verdicts"], b.alerts(c.machine))
	}
}

// Evidence that comes while the stored one is judged wins.
func TestAttestationOvertakesReappraisal(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	b.attest(m)
	if _, err := b.store.RequestReappraisal(b.ctx, b.tenant, verifier.Selector{}, "", b.now(), admin); err != nil {
		t.Fatal(err)
	}
	job, err := b.store.ClaimReappraisal(b.ctx, b.tenant, reappraisalLease, b.now())
	if err != nil {
		t.Fatal(err)
	}
	page, err := b.store.StoredJudgements(b.ctx, b.tenant, job.Scope, uuid.Nil, 10, true, b.now())
	if err != nil || len(page) != 1 {
		t.Fatalf("%d, %v", len(page), err)
	}
	m.reboot(specimen(t, "cmdline", bootLog))
	r := b.attest(m)
	judged, err := b.judgePage(b.ctx, b.tenant, page, assumption{}, b.now())
	if err != nil {
		t.Fatal(err)
	}
	page[0].Fingerprint = nil // as if it were judged otherwise now
	done, err := b.store.RecordReappraisals(b.ctx, b.tenant, &job, []store.Rejudged{{Judgement: &page[0], Record: judged[0].request.superseding(&page[0], judged[0].appraisal, history{})}},
		true, reappraisalLease, b.now(), reappraiser)
	if err != nil || counts(done) != "0 0 0 0 1 0" || b.standing(m).ID != r.ID {
		t.Errorf("%+v, %v", done, err)
	}
}

// What the clock was warned of when the evidence came, it is warned of still.
func TestClockWarningStands(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	b.attest(m)
	page, err := b.store.StoredJudgements(b.ctx, b.tenant, store.MachineScope{}, uuid.Nil, 10, false, b.now())
	if err != nil || len(page) != 1 {
		t.Fatalf("%d, %v", len(page), err)
	}
	page[0].Checks = []verifier.Check{{Code: verifier.CheckQuoteClock, Status: verifier.Warn, Detail: "the TPM's firmware version changed"}}
	_, judged, why, err := b.judgeStored(b.ctx, b.tenant, &page[0], assumption{}, b.now())
	if err != nil || why != "" || judged.Status != verifier.Warning || checkOf(judged, verifier.CheckQuoteClock).Detail != "the TPM's firmware version changed" {
		t.Errorf("%+v, %q, %v", judged, why, err)
	}
	// Of evidence that failed then for being late, or used, nothing is forgiven.
	for _, fault := range []string{faultExpired, faultUsed} {
		page[0].Genuine, page[0].Checks = false, []verifier.Check{{Code: verifier.CheckQuoteNonce, Status: verifier.Fail, Detail: fault}}
		if _, judged, _, err := b.judgeStored(b.ctx, b.tenant, &page[0], assumption{}, b.now()); err != nil || judged.Genuine || checkOf(judged, verifier.CheckQuoteNonce).Detail != fault {
			t.Errorf("%s: %+v, %v", fault, judged, err)
		}
	}
	for story, c := range map[NotJudged]func(*store.StoredJudgement){
		KeyChanged:      func(j *store.StoredJudgement) { j.KeyID = uuid.New() },
		NoEvidence:      func(j *store.StoredJudgement) { j.Kept = false },
		EventLogMissing: func(j *store.StoredJudgement) { j.EventLogHash = make([]byte, 32) },
	} {
		j := page[0]
		c(&j)
		if _, judged, why, err := b.judgeStored(b.ctx, b.tenant, &j, assumption{}, b.now()); judged != nil || why != story || err != nil {
			t.Errorf("%s: %v, %q, %v", story, judged, why, err)
		}
	}
}
