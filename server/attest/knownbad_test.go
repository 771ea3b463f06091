package attest

import (
	"errors"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/revocations"
)

// addRevocation imports a list that revokes a digest, under a date.
func (b *bench) addRevocation(digest, date string) {
	b.t.Helper()
	list := `{"images": {"x64": [{"authenticodeHash": "` + digest + `", "hashType": "SHA256", "filename": "shimx64.efi", "companyName": "Debian", "description": "CVE-2026-99999", "dateOfAddition": "` + date + `"}]}}`
	if _, stored, err := b.store.PutRevocations(b.ctx, b.tenant, revocations.Addition{Kind: revocations.KindInfo, Body: []byte(list)}, b.now(), admin); err != nil || !stored {
		b.t.Fatal(stored, err)
	}
}

// A machine whose boot is found bad later gets the finding at its next attestation, though nothing of the boot or its
// verdict has changed; one that booted something else keeps its run.
func TestRevokedLaterIsFoundAtTheNextAttestation(t *testing.T) {
	b := newBench(t)
	m, other := b.enrolled("sb-on-1"), b.enrolled("uki-direct")
	const code = "revoked_boot_component"
	for _, x := range []*machine{m, other} {
		expect(t, b.attest(x), verifier.Affirming, verifier.NoReason)
		if again := b.attest(x); again.New || b.recommended(x, code) != "" {
			t.Errorf("before the import: new run %t, %q", again.New, b.recommended(x, code))
		}
	}
	if b.recommended(m, "dbx_outdated") != finding.Medium || b.recommended(m, "secure_boot_certificates_2011") != finding.Medium || b.recommended(other, "dbx_outdated") != "" {
		t.Error("the old dbx and keys of OVMF are not found, or a machine with keys of its own is asked for Microsoft's")
	}
	claims := b.attest(m).Appraisal.Claims
	b.addRevocation(claims.BootLoaders[0].Digests["sha256"], "2026-11-24")
	result := b.attest(m)
	expect(t, result, verifier.Affirming, verifier.NoReason)
	if !result.New || b.recommended(m, code) != finding.High {
		t.Errorf("after the import: new run %t, %q", result.New, b.recommended(m, code))
	}
	if again := b.attest(m); again.New {
		t.Error("the same judgement began another run")
	}
	if untouched := b.attest(other); untouched.New || b.recommended(other, code) != "" {
		t.Errorf("another boot: new run %t, %q", untouched.New, b.recommended(other, code))
	}
	// What booted is replaced: the finding ends.
	m.reboot(specimen(t, "uki-direct", "binary_bios_measurements"))
	if b.attest(m); b.recommended(m, code) != "" {
		t.Error("the finding outlives what it was about")
	}
}

// Rules of the machine's policy are asked, of the inventory too, and by the newest version of the policy.
func TestPolicyRules(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	rule := verifier.PolicyRule{Name: "command_line", Expression: `claims.kernel_cmdline.contains("console=ttyS0")`, AppliesWhen: `machine.os == "linux"`}
	b.policy(func(p *verifier.Policy) { p.Rules = []verifier.PolicyRule{rule} })
	result := b.attest(m)
	expect(t, result, verifier.Affirming, verifier.NoReason)
	if c := checkNamed(result.Appraisal, verifier.CheckPolicyRules); c.Status != verifier.Pass || c.Detail != "1 of 1 rules hold" {
		t.Error(c)
	}
	if again := b.attest(m); again.New {
		t.Error("the same judgement began another run")
	}
	rule.Expression, rule.Message = `claims.kernel_cmdline.contains("lockdown=")`, "the kernel is not locked down"
	b.policy(func(p *verifier.Policy) { p.Rules = []verifier.PolicyRule{rule} })
	result = b.attest(m)
	expect(t, result, verifier.Contraindicated, verifier.BaselineDeviation)
	if c := checkNamed(result.Appraisal, verifier.CheckPolicyRules); c.Detail != "command_line: the kernel is not locked down" {
		t.Error(c)
	}
	alerts, _, err := b.store.ListAlerts(b.ctx, b.tenant, store.AlertFilter{MachineID: &m.id}, store.Page{Limit: 10}, b.now())
	if err != nil || len(alerts) != 1 || !strings.Contains(alerts[0].Description, "policy.rules (command_line: the kernel is not locked down)") {
		t.Error(alerts, err)
	}
	// The stored log is decoded with the same policy, rules and all.
	events, err := b.service().DecodedLog(b.ctx, b.tenant, result.ID)
	if err != nil || len(events) == 0 {
		t.Error(len(events), err)
	}
}

// Rules that this version cannot compile judge nothing: nobody is affirmed for want of a rule.
func TestRulesThatDoNotCompile(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	b.policy(func(p *verifier.Policy) {
		p.Rules = []verifier.PolicyRule{{Name: "later", Expression: "claims.of_a_later_version == true"}}
	})
	before := b.rows()
	_, err := b.post(m, m.quote(b.nonce(m)))
	var refused *Error
	if err == nil || errors.As(err, &refused) || !strings.Contains(err.Error(), "/rules/0/expression") {
		t.Error(err)
	}
	b.sameRows(before)
}

func checkNamed(a *verifier.Appraisal, code verifier.CheckCode) verifier.Check {
	for _, c := range a.Checks {
		if c.Code == code {
			return c
		}
	}
	return verifier.Check{}
}

func TestFingerprintCoversWhatIsKnownToBeBad(t *testing.T) {
	set, err := revocations.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	none := set.Assess(nil, &eventlog.Claims{})
	some := set.Assess(nil, &eventlog.Claims{BootLoaders: []eventlog.Image{{Digests: map[string]string{"sha256": "80b4d96931bf0d02fd91a61e19d14f1da452e66db2408ca8604d411f92659f0a"}}}})
	a := judgement(func(*verifier.Appraisal) {})
	if fingerprint(a, &finding.Result{}, none, nil) == fingerprint(a, &finding.Result{}, some, nil) {
		t.Error("a revoked boot loader leaves the fingerprint as it is")
	}
	if fingerprint(a, &finding.Result{}, none, nil) != fingerprint(a, &finding.Result{}, set.Assess(nil, &eventlog.Claims{}), nil) {
		t.Error("the same assessment makes another fingerprint")
	}
}
