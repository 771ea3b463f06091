package verifier

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Bounds of a policy's rules.
const (
	MaxPolicyRules      = 64
	MaxRuleExpression   = 4096 // bytes
	maxRuleText         = 500  // bytes of a description or message
	maxRuleDetail       = 20   // rules that the check's detail names
	maxRuleDetailLength = 400  // bytes of what is said of one rule
)

// Effect is what becomes of a rule that does not hold.
type Effect string

// The effects of rules.
const (
	EffectFail Effect = "fail" // the check policy.rules fails: baseline_deviation
	EffectWarn Effect = "warn" // it warns
)

// PolicyRule is one rule of a policy: a CEL expression that has to be true. Package verifier/rules says which
// variables it sees, and compiles it.
type PolicyRule struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	// Expression has to be true.
	Expression string `json:"expression"`
	Effect     Effect `json:"effect,omitempty"` // EffectFail where absent
	// AppliesWhen, where given, has to be true for the rule to be asked at all.
	AppliesWhen string `json:"applies_when,omitempty"`
	// Message is what is said where the rule does not hold; the description, else the expression, where absent.
	Message string `json:"message,omitempty"`
}

var ruleName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// says is why a rule that does not hold matters.
func (r *PolicyRule) says() string {
	for _, text := range []string{r.Message, r.Description} {
		if text != "" {
			return text
		}
	}
	return "it is not true that " + r.Expression
}

// validateRules checks what can be checked without compiling. The error is a *FieldError.
func validateRules(list []PolicyRule) error {
	if len(list) > MaxPolicyRules {
		return fieldErrorf("/rules", "%d rules are more than %d", len(list), MaxPolicyRules)
	}
	seen := make(map[string]bool, len(list))
	for i := range list {
		r, at := &list[i], "/rules/"+strconv.Itoa(i)
		switch {
		case !ruleName.MatchString(r.Name):
			return fieldErrorf(at+"/name", "%q is no name of a rule: lower-case letters, digits, dot, underscore and hyphen, at most 63", r.Name)
		case seen[r.Name]:
			return fieldErrorf(at+"/name", "another rule is named %s too", r.Name)
		case r.Effect != EffectFail && r.Effect != EffectWarn && r.Effect != "":
			return fieldErrorf(at+"/effect", "%q is neither fail nor warn", string(r.Effect))
		case strings.TrimSpace(r.Expression) == "":
			return fieldErrorf(at+"/expression", "an expression is needed")
		}
		seen[r.Name] = true
		for _, f := range []struct {
			field, text string
			limit       int
		}{{"expression", r.Expression, MaxRuleExpression}, {"applies_when", r.AppliesWhen, MaxRuleExpression},
			{"description", r.Description, maxRuleText}, {"message", r.Message, maxRuleText}} {
			if len(f.text) > f.limit {
				return fieldErrorf(at+"/"+f.field, "%d bytes are more than %d", len(f.text), f.limit)
			}
		}
	}
	return nil
}

// MachineFacts is what the inventory says of the machine. Nothing of it is proven.
type MachineFacts struct {
	Name         string
	Platform     string
	OS           string
	SecurityType string
	ScaleSet     string
	Labels       map[string]string
}

// RuleFacts is what rules may ask: only what the evidence proves, and what the inventory says of the machine.
type RuleFacts struct {
	Now       time.Time
	Assurance Assurance
	Machine   *MachineFacts // nil: nothing is known, as of a file that is judged without a service
	Quote     *tpm.VerifiedQuote
	// Measurements is what the boot log proves; nil where no log was sent.
	Measurements *eventlog.Measurements
	Claims       *Claims
}

// RuleState is the outcome of one rule. The zero value is the one that proves nothing.
type RuleState uint8

// The outcomes of a rule.
const (
	RuleUnevaluated RuleState = iota // it could not be evaluated
	RuleHolds
	RuleBroken
	RuleNotApplicable
)

// RuleOutcome is the outcome of one rule, and why it could not be evaluated.
type RuleOutcome struct {
	State RuleState
	Why   string
}

// RuleSet is a policy's rules, compiled. It gives one outcome a rule, in the policy's order. Package verifier/rules
// makes it; it is an interface so that whoever judges without rules needs no expression language.
type RuleSet interface {
	Evaluate(*RuleFacts) []RuleOutcome
}

// checkRules asks the policy's rules. They are asked only of evidence whose origin is proven, since they would
// otherwise speak of data that anybody may have written. A rule that cannot be evaluated does not hold.
func (a *appraiser) checkRules() {
	list := a.in.Policy.Rules
	switch {
	case len(list) == 0:
		a.record(CheckPolicyRules, Skipped, "the policy has no rules of its own")
		return
	case !a.originProven():
		a.record(CheckPolicyRules, Skipped, "not judged: the origin of the evidence is not proven")
		return
	case a.in.Rules == nil:
		a.record(CheckPolicyRules, Fail, "the policy has rules, and they were not compiled")
		return
	}
	measurements := a.out.Measurements
	if measurements == nil {
		measurements = a.out.RTMRMeasurements
	}
	outcomes := a.in.Rules.Evaluate(&RuleFacts{Now: a.in.Now, Assurance: a.out.Assurance, Machine: a.in.Machine, Quote: a.out.Quote,
		Measurements: measurements, Claims: &a.out.Claims})
	if len(outcomes) != len(list) {
		a.recordf(CheckPolicyRules, Fail, "the policy has %d rules, and %d were compiled", len(list), len(outcomes))
		return
	}
	a.recordRules(list, outcomes)
}

// recordRules sums the outcomes up in one check.
func (a *appraiser) recordRules(list []PolicyRule, outcomes []RuleOutcome) {
	status, held, passedOver := Pass, 0, 0
	var failed, warned []string
	for i := range outcomes {
		r, o := &list[i], &outcomes[i]
		text := ""
		switch o.State {
		case RuleHolds:
			held++
			continue
		case RuleNotApplicable:
			passedOver++
			continue
		case RuleBroken:
			text = r.Name + ": " + r.says()
		default:
			text = r.Name + " could not be evaluated: " + o.Why
		}
		text = strings.TrimSuffix(clip(text, maxRuleDetailLength), ".")
		if r.Effect == EffectWarn {
			warned = append(warned, text)
		} else {
			failed = append(failed, text)
		}
	}
	lines := failed
	switch {
	case len(failed) > 0:
		status = Fail
		for _, text := range warned {
			lines = append(lines, text+" (warning)")
		}
	case len(warned) > 0:
		status, lines = Warn, warned
	}
	if len(lines) > maxRuleDetail {
		lines = append(lines[:maxRuleDetail:maxRuleDetail], fmt.Sprintf("and %d more", len(lines)-maxRuleDetail))
	}
	if len(lines) > 0 {
		a.record(CheckPolicyRules, status, strings.Join(lines, "; "))
		return
	}
	detail := fmt.Sprintf("%d of %d rules hold", held, len(list))
	if passedOver > 0 {
		detail += fmt.Sprintf(", %d do not apply", passedOver)
	}
	a.record(CheckPolicyRules, Pass, detail)
}

// clip cuts text to at most n bytes, between characters.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}

// originProven tells whether every check of origin so far passed.
func (a *appraiser) originProven() bool {
	for i := range a.out.Checks {
		if a.out.Checks[i].Status == Fail && originChecks[a.out.Checks[i].Code] {
			return false
		}
	}
	return a.proven()
}
