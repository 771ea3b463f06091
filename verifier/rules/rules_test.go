package rules_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/boottest"
	"github.com/assay-verifier/assay/verifier/rules"
)

const golden = root + "/integration/testdata/boots/sb-on-1/evidence/binary_bios_measurements"

// asks judges the golden boot by one expression.
func asks(t testing.TB, rule verifier.PolicyRule) verifier.Check {
	t.Helper()
	policy := verifier.DefaultPolicy()
	if rule.Name == "" {
		rule.Name = "r"
	}
	policy.Rules = []verifier.PolicyRule{rule}
	return check(t, judge(t, golden, policy))
}

// Every variable is there, with the shape that the documentation gives it.
func TestVariables(t *testing.T) {
	for _, x := range []string{
		`claims.secure_boot == true && claims.secure_boot_effective == true`,
		`claims.kernel_cmdline == "BOOT_IMAGE=/vmlinuz console=ttyS0,115200"`,
		`claims.boot_loaders.size() == 4 && claims.boot_loaders[0].digests.sha256.size() == 64`,
		`claims.db.certificates.exists(c, c.name == "Microsoft Corporation UEFI CA 2011" && timestamp(c.not_after) < now)`,
		`claims.windows == null && claims.uki == false`,
		`claims.tpm.reset_count == 1 && claims.tpm.banks.exists(b, b == "sha256")`,
		`!has(claims.platform) && !has(claims.ima)`,
		`claims.?platform.?tee_type.orValue("none") == "none"`,
		`events.size() > 20 && events[0].index == 1 && events[0].pcr == 0`,
		`events.exists(e, e.pcr == 4 && e.component == "boot_loader" && e.type == "EV_EFI_BOOT_SERVICES_APPLICATION" && e.digests.sha256 != "" && !e.verified)`,
		`events.exists(e, e.pcr == 7 && e.component == "secure_boot_policy" && e.verified)`,
		`event_log && 7 in verified_pcrs && !(23 in verified_pcrs && false)`,
		`pcrs.sha256[7].matches("^[0-9a-f]{64}$") && pcrs["sha256"].size() == 24`,
		`assurance == "ak_certified"`,
		`machine.name == "m" && machine.os == "linux" && machine.labels["env"] == "prod" && machine.scale_set == "" && machine.platform == "" && machine.security_type == ""`,
		`now > timestamp("2026-11-25T11:59:59Z") && now < timestamp("2026-11-25T12:00:01Z")`,
	} {
		if c := asks(t, verifier.PolicyRule{Expression: x}); c.Status != verifier.Pass {
			t.Errorf("%s: %s: %s", x, c.Status, c.Detail)
		}
	}
}

// Errors point at the expression, and give line and column in it.
func TestErrorsHaveTheirPlace(t *testing.T) {
	deep := strings.Repeat("(", 60) + "true" + strings.Repeat(")", 60)
	for _, c := range []struct{ expression, want string }{
		{"claims.secure_boot ==", "line 1, column 22: Syntax error"},
		{"true &&\n  claims.secure_bot", `line 2, column 9: claims have no field "secure_bot" here; there are secure_boot, `},
		{"claims.windows.testsigning == false", `line 1, column 15: claims have no field "testsigning"`},
		{"has(claims.plattform)", `claims have no field "plattform"`},
		{"claims.relying_party.debug == true", `claims have no field "relying_party"`},
		{"events.exists(e, e.pcrs == 4)", "line 1, column 19: undefined field 'pcrs'"},
		{"event.size() > 0", "line 1, column 1: undeclared reference to 'event'"},
		{"machine.os == 1", "line 1, column 12: found no matching overload for '_==_'"},
		{"1 + 1", "line 1, column 1: the result has to be true or false, and it is of type int"},
		{"claims", "line 1, column 1: the result has to be true or false"},
		{`claims.kernel_cmdline.matches("(")`, "line 1, column 31: invalid matches argument"},
		{"events.all(a, events.all(b, events.all(c, a.pcr + b.pcr != c.pcr)))", "line 1, column 1: it may cost "},
		{`"x".matches("(a{1000}){1000}")`, "invalid"},
		{deep, "line 1, column "},
		{"true || " + strings.Repeat("x", verifier.MaxRuleExpression), "4104 bytes are more than 4096"},
	} {
		_, err := rules.Compile([]verifier.PolicyRule{{Name: "a", Expression: "true"}, {Name: "b", Expression: c.expression}})
		var field *verifier.FieldError
		if !errors.As(err, &field) || field.Pointer != "/rules/1/expression" || !strings.Contains(field.Detail, c.want) {
			t.Errorf("%.60s: %v, want %q", c.expression, err, c.want)
		}
	}
	_, err := rules.Compile([]verifier.PolicyRule{{Name: "a", Expression: "true", AppliesWhen: "1"}})
	if err == nil || !strings.HasPrefix(err.Error(), "/rules/0/applies_when: line 1, column 1: ") {
		t.Error(err)
	}
	if faults := rules.Lint([]verifier.PolicyRule{{Expression: "1", AppliesWhen: "x"}, {Expression: "true"}, {Expression: "y"}}); len(faults) != 3 ||
		faults[0].Pointer != "/rules/0/applies_when" || faults[1].Pointer != "/rules/0/expression" || faults[2].Pointer != "/rules/2/expression" {
		t.Error(faults)
	}
}

// What a rule that does not hold, or cannot be evaluated, does to the verdict.
func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		name   string
		rule   verifier.PolicyRule
		status verifier.CheckStatus
		detail string
	}{
		{"holds", verifier.PolicyRule{Expression: "true"}, verifier.Pass, "1 of 1 rules hold"},
		{"broken", verifier.PolicyRule{Name: "no", Expression: "false", Message: "it is off"}, verifier.Fail, "no: it is off"},
		{"broken, described", verifier.PolicyRule{Name: "no", Expression: "false", Description: "It should be on."}, verifier.Fail, "no: It should be on"},
		{"broken, bare", verifier.PolicyRule{Name: "no", Expression: "false"}, verifier.Fail, "no: it is not true that false"},
		{"warns", verifier.PolicyRule{Name: "no", Expression: "false", Effect: verifier.EffectWarn}, verifier.Warn, "no: it is not true that false"},
		{"does not apply", verifier.PolicyRule{Expression: "false", AppliesWhen: `machine.os == "windows"`}, verifier.Pass, "0 of 1 rules hold, 1 do not apply"},
		{"applies", verifier.PolicyRule{Name: "no", Expression: "false", AppliesWhen: `machine.os == "linux"`}, verifier.Fail, "no: it is not true"},
		{"absent key", verifier.PolicyRule{Name: "no", Expression: `claims.platform.debug == false`}, verifier.Fail, "no could not be evaluated: no such key: platform"},
		{"absent key, warns", verifier.PolicyRule{Name: "no", Expression: `claims.platform.debug == false`, Effect: verifier.EffectWarn}, verifier.Warn, "no could not be evaluated: no such key: platform"},
		{"absent key, guarded", verifier.PolicyRule{Expression: `!has(claims.platform) || claims.platform.debug == false`}, verifier.Pass, "1 of 1"},
		{"absent label", verifier.PolicyRule{Name: "no", Expression: `machine.labels["tier"] == "1"`}, verifier.Fail, "no such key: tier"},
		{"null", verifier.PolicyRule{Name: "no", Expression: `claims.windows.elam.size() > 0`}, verifier.Fail, "no could not be evaluated: "},
		{"null is not false", verifier.PolicyRule{Name: "no", Expression: `claims.audit_mode == false`}, verifier.Fail, "no: "},
		{"applies unknown", verifier.PolicyRule{Name: "no", Expression: "true", AppliesWhen: `machine.labels["tier"] == "1"`}, verifier.Fail, "no could not be evaluated: whether it applies is unknown: no such key: tier"},
		{"no bool", verifier.PolicyRule{Name: "no", Expression: `claims.kernel_cmdline`}, verifier.Fail, "no could not be evaluated: its result is neither true nor false, but of type string"},
		{"costs", verifier.PolicyRule{Name: "no", Expression: `[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, a+b+c+d+e > 0)))))`},
			verifier.Fail, "no could not be evaluated: actual cost limit exceeded"},
	} {
		got := asks(t, c.rule)
		if got.Status != c.status || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%s: %s %q, want %s %q", c.name, got.Status, got.Detail, c.status, c.detail)
		}
	}
}

// Rules in the whole verdict: their failure is a deviation and not one of origin, warnings warn, and nothing is asked
// of evidence that is not proven.
func TestVerdicts(t *testing.T) {
	policy := verifier.DefaultPolicy()
	policy.Rules = []verifier.PolicyRule{{Name: "yes", Expression: "true"}, {Name: "careful", Expression: "false", Effect: verifier.EffectWarn}}
	if a := judge(t, golden, policy); a.Status != verifier.Warning || a.Reason != verifier.NoReason || !a.Genuine {
		t.Error(a.Status, a.Reason, a.Checks)
	}
	policy.Rules = append(policy.Rules, verifier.PolicyRule{Name: "no", Expression: "false"})
	a := judge(t, golden, policy)
	if c := check(t, a); a.Status != verifier.Contraindicated || a.Reason != verifier.BaselineDeviation || !a.Genuine || c.Detail != "no: it is not true that false; careful: it is not true that false (warning)" {
		t.Error(a.Status, a.Reason, c)
	}
	ev, in := boottest.Evidence(t, boottest.Read(t, golden))
	in.Policy.Rules = policy.Rules
	if c := check(t, verifier.Appraise(ev, in)); c.Status != verifier.Fail || !strings.Contains(c.Detail, "were not compiled") {
		t.Error("rules that nobody compiled:", c)
	}
	short, err := rules.Compile(policy.Rules[:1])
	if err != nil {
		t.Fatal(err)
	}
	in.Rules = short
	if c := check(t, verifier.Appraise(ev, in)); c.Status != verifier.Fail || !strings.Contains(c.Detail, "3 rules, and 1 were compiled") {
		t.Error("rules of another policy:", c)
	}
	in.Freshness.Nonce = []byte("another")
	if c := check(t, verifier.Appraise(ev, in)); c.Status != verifier.Skipped {
		t.Error("rules of evidence that is not fresh:", c)
	}
}

// A list of what must not be there does not hold of a machine that shows no log.
func TestNoLogHoldsNothing(t *testing.T) {
	for expression, want := range map[string]string{
		`!events.exists(e, e.pcr == 2)`:              "could not be evaluated: no event log is proven, so events are unknown",
		`events.all(e, e.pcr != 2)`:                  "could not be evaluated: no event log is proven",
		`event_log`:                                  "it is not true",
		`claims.boot_loaders.all(b, b.path != "x")`:  "could not be evaluated",
		`claims.secure_boot == true`:                 "it is not true",
		`!claims.grub_commands.exists(c, c == "ls")`: "could not be evaluated",
		`7 in verified_pcrs`:                         "it is not true",
	} {
		ev, in := boottest.Evidence(t, boottest.Read(t, golden))
		ev.EventLog, in.Log = nil, nil
		in.Policy.RequireSecureBoot = false
		in.Policy.Rules = []verifier.PolicyRule{{Name: "r", Expression: expression}}
		set, err := rules.Compile(in.Policy.Rules)
		if err != nil {
			t.Fatal(err)
		}
		in.Rules = set
		if c := check(t, verifier.Appraise(ev, in)); c.Status != verifier.Fail || !strings.Contains(c.Detail, want) {
			t.Errorf("%s: %s %q, want %q", expression, c.Status, c.Detail, want)
		}
	}
}

// All rules together may cost no more than a few of them each may.
func TestTotalCost(t *testing.T) {
	policy := verifier.DefaultPolicy()
	const dear = `[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, a+b+c+d > 0))))`
	for i := range verifier.MaxPolicyRules {
		policy.Rules = append(policy.Rules, verifier.PolicyRule{Name: fmt.Sprintf("r%d", i), Expression: dear})
	}
	c := check(t, judge(t, golden, policy))
	if c.Status != verifier.Fail || !strings.Contains(c.Detail, "the rules before it have used up what all may cost") || strings.Contains(c.Detail, "r0 ") || !strings.Contains(c.Detail, "and ") {
		t.Error(c)
	}
}

func TestEndOfContextEndsRules(t *testing.T) {
	set, err := rules.Compile([]verifier.PolicyRule{{Name: "r", Expression: `[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, a+b+c > 0)))`}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	facts := &verifier.RuleFacts{Claims: &verifier.Claims{}}
	if out := set.Within(ctx).Evaluate(facts); out[0].State != verifier.RuleHolds {
		t.Error(out)
	}
	cancel()
	if out := set.Within(ctx).Evaluate(facts); out[0].State != verifier.RuleUnevaluated || !strings.Contains(out[0].Why, "interrupted") {
		t.Error(out)
	}
}

// FuzzRule compiles and evaluates whatever compiles: neither may panic or take long.
func FuzzRule(f *testing.F) {
	all, err := rules.Templates()
	if err != nil {
		f.Fatal(err)
	}
	for _, t := range all {
		for _, r := range t.Policy.Rules {
			f.Add(r.Expression)
		}
	}
	f.Add("events.map(e, e.digests).exists(d, d.size() > 1) || [[1]].exists(x, x == [1.0])")
	f.Add("{1: 2u}.size() == 1 && dyn(b'a') != duration('1s')")
	ev, in := boottest.Evidence(f, boottest.Read(f, golden))
	a := verifier.Appraise(ev, in)
	facts := &verifier.RuleFacts{Now: in.Now, Assurance: a.Assurance, Machine: &verifier.MachineFacts{}, Quote: a.Quote, Measurements: a.Measurements, Claims: &a.Claims}
	f.Fuzz(func(t *testing.T, expression string) {
		list := []verifier.PolicyRule{{Name: "r", Expression: expression}}
		set, err := rules.Compile(list)
		if (err == nil) != (len(rules.Lint(list)) == 0) {
			t.Fatal("Compile and Lint disagree")
		}
		if err != nil {
			return
		}
		first, second := set.Evaluate(facts), set.Evaluate(facts)
		if len(first) != 1 || first[0].State != second[0].State {
			t.Fatalf("%v, then %v", first, second)
		}
	})
}

func BenchmarkEvaluate(b *testing.B) {
	ev, in := boottest.Evidence(b, boottest.Read(b, golden))
	in.Policy.Rules = template(b, "grub").Rules
	set, err := rules.Compile(in.Policy.Rules)
	if err != nil {
		b.Fatal(err)
	}
	a := verifier.Appraise(ev, in)
	facts := &verifier.RuleFacts{Now: in.Now, Assurance: a.Assurance, Quote: a.Quote, Measurements: a.Measurements, Claims: &a.Claims}
	b.ReportAllocs()
	for b.Loop() {
		set.Evaluate(facts)
	}
}

func BenchmarkCompile(b *testing.B) {
	list := template(b, "grub").Rules
	b.ReportAllocs()
	for b.Loop() {
		if _, err := rules.Compile(list); err != nil {
			b.Fatal(err)
		}
	}
}
