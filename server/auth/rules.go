package auth

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/verifier"
)

// Match says which texts are meant: one of In, or all that Pattern (RE2) matches from the first to the last
// character. Exactly one of the two is given. The zero value matches nothing.
type Match struct {
	In      []string `json:"in,omitempty"`
	Pattern string   `json:"pattern,omitempty"`
}

// Condition is a Match for one claim of a token (see Claims.Values). Of a claim that is a list one element has to
// match.
type Condition struct {
	Claim string `json:"claim"`
	Match
}

// Action is what a rule can allow.
type Action string

// The actions.
const (
	ActionCreate     Action = "create"      // a baseline, also by import
	ActionAddVersion Action = "add_version" // to a baseline, also by import
	ActionPromote    Action = "promote"     // a draft to the active version
	ActionDryRun     Action = "dry_run"     // judge stored evidence by a version
)

// The states that a rule can allow a version to begin in.
const (
	StateDraft  = "draft"
	StateActive = "active"
)

// Rule lets identities of one provider write baselines. All that is given must hold. The zero value allows
// nothing to nobody.
type Rule struct {
	ID         uuid.UUID `json:"-"`
	Name       string    `json:"-"`
	ProviderID uuid.UUID `json:"-"`

	// Subject is about the claim sub, Conditions about others. One of them at least is needed.
	Subject    *Match      `json:"subject,omitempty"`
	Conditions []Condition `json:"conditions,omitempty"`

	// Baselines are the names that it is about.
	Baselines Match `json:"baselines"`
	// Selector bounds the machines: a baseline's selector must be at least as narrow in each field. A field that is
	// empty here does not bound, except machine_ids: which machines may be named has to be said.
	Selector verifier.Selector `json:"selector"`
	// WholeFleet allows baselines that choose every machine; without it Selector must bound.
	WholeFleet bool     `json:"whole_fleet,omitempty"`
	Actions    []Action `json:"actions"`
	// States are those that a new version may begin in.
	States []string `json:"states,omitempty"`
}

// Attempt is what an identity wants to do.
type Attempt struct {
	Action   Action
	Baseline string            // name
	Selector verifier.Selector // of the baseline
	State    string            // of the version that is made; empty for other actions
}

// Outcome is what one rule says.
type Outcome struct {
	Rule *Rule
	// Admits tells whether the rule is about this identity; Allows whether it also lets it do what it wants.
	Admits, Allows bool
	// Reasons say in words what does not hold, with the token's own values and never with what the rule wants: they
	// reach whoever has a token of the issuer, which may be anybody.
	Reasons []string
}

// Decision is what all rules say together.
type Decision struct {
	// By is the rule that allows it; nil if none does.
	By       *Rule
	Outcomes []Outcome
}

// Decide tells whether the rules let the identity do it. It is pure. Rules of other providers are passed over; what
// no rule allows is not allowed.
func Decide(rules []Rule, id *Identity, a Attempt) Decision {
	var d Decision
	for i := range rules {
		r := &rules[i]
		if r.ProviderID != id.ProviderID {
			continue
		}
		o := r.Admit(id.Subject, id.Claims)
		if o.Admits {
			o.Reasons = r.refuses(a)
			o.Allows = len(o.Reasons) == 0
		}
		if o.Allows && d.By == nil {
			d.By = r
		}
		d.Outcomes = append(d.Outcomes, o)
	}
	return d
}

// Admitted are the rules that are about the identity.
func Admitted(rules []Rule, id *Identity) []Rule {
	var out []Rule
	for _, r := range rules {
		if r.ProviderID == id.ProviderID && r.Admit(id.Subject, id.Claims).Admits {
			out = append(out, r)
		}
	}
	return out
}

// Why says in words why nothing allows it.
func (d *Decision) Why() string {
	const most = 5
	if len(d.Outcomes) == 0 {
		return "there is no pipeline rule for this identity provider"
	}
	var parts []string
	// Rules that are about the identity say what is closest to being right.
	for _, admits := range []bool{true, false} {
		for _, o := range d.Outcomes {
			if o.Admits == admits && len(parts) < most {
				parts = append(parts, fmt.Sprintf("rule %s: %s", shown(o.Rule.Name), strings.Join(o.Reasons, ", ")))
			}
		}
	}
	if left := len(d.Outcomes) - len(parts); left > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", left))
	}
	return strings.Join(parts, "; ")
}

// Admit tells whether the rule is about an identity.
func (r *Rule) Admit(subject string, claims Claims) Outcome {
	o := Outcome{Rule: r}
	if r.Subject == nil && len(r.Conditions) == 0 {
		o.Reasons = []string{"it has no condition"}
	}
	if r.Subject != nil && !r.Subject.matches(subject) {
		o.Reasons = append(o.Reasons, "the subject is "+shown(subject)+", which it does not admit")
	}
	for _, c := range r.Conditions {
		if why := c.refuses(claims); why != "" {
			o.Reasons = append(o.Reasons, why)
		}
	}
	o.Admits = len(o.Reasons) == 0
	return o
}

func (c *Condition) refuses(claims Claims) string {
	values := claims.Values(c.Claim)
	if slices.ContainsFunc(values, c.matches) {
		return ""
	}
	switch len(values) {
	case 0:
		return "the claim " + c.Claim + " is missing or is no text"
	case 1:
		return "the claim " + c.Claim + " is " + shown(values[0]) + ", which it does not admit"
	}
	return fmt.Sprintf("none of the %d values of the claim %s is one that it admits", len(values), c.Claim)
}

// matches compares. A pattern must match the whole text; leftmost-longest matching finds that match if there is one.
func (m *Match) matches(s string) bool {
	if m.Pattern == "" {
		return slices.Contains(m.In, s)
	}
	if len(m.In) > 0 {
		return false // not both: Check refuses it
	}
	re, err := regexp.Compile(m.Pattern)
	if err != nil {
		return false // Check refuses it
	}
	re.Longest()
	at := re.FindStringIndex(s)
	return at != nil && at[0] == 0 && at[1] == len(s)
}

// refuses says what of an attempt the rule does not allow.
func (r *Rule) refuses(a Attempt) []string {
	var why []string
	if !slices.Contains(r.Actions, a.Action) {
		why = append(why, "it does not allow the action "+string(a.Action))
	}
	if !r.Baselines.matches(a.Baseline) {
		why = append(why, "it is not about baselines of this name")
	}
	makes := a.Action == ActionCreate || a.Action == ActionAddVersion
	if makes && !slices.Contains(r.States, a.State) {
		why = append(why, "it does not allow versions that begin as "+shown(a.State))
	}
	return append(why, r.outside(a.Selector)...)
}

// Covers tells whether a rule is about a baseline, whatever it allows there.
func (r *Rule) Covers(name string, selector verifier.Selector) bool {
	return r.Baselines.matches(name) && len(r.outside(selector)) == 0
}

// outside says in which fields a selector is wider than the rule's bounds.
func (r *Rule) outside(s verifier.Selector) []string {
	var why []string
	b := r.Selector
	if !r.WholeFleet && !bounds(b) {
		why = append(why, "it does not say which machines it is about")
	}
	if !narrower(s.ScaleSet, b.ScaleSet) {
		why = append(why, "the selector's scale_set is wider than it allows")
	}
	if !narrower(s.Platform, b.Platform) {
		why = append(why, "the selector's platform is wider than it allows")
	}
	for key, value := range b.Labels {
		if have, ok := s.Labels[key]; !ok || have != value {
			why = append(why, "the selector's labels are wider than it allows")
			break
		}
	}
	if !narrower(s.MachineIDs, b.MachineIDs) || (len(b.MachineIDs) == 0 && len(s.MachineIDs) > 0) {
		why = append(why, "the selector's machine_ids are not those that it allows")
	}
	return why
}

func bounds(s verifier.Selector) bool {
	return len(s.ScaleSet)+len(s.Labels)+len(s.Platform)+len(s.MachineIDs) > 0
}

// narrower tells whether a field of a selector chooses nothing beyond a bound. Empty chooses all.
func narrower(field, bound []string) bool {
	if len(bound) == 0 {
		return true
	}
	return len(field) > 0 && !slices.ContainsFunc(field, func(s string) bool { return !slices.Contains(bound, s) })
}
