package auth

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/verifier"
)

var github = uuid.New()

// pipelineRule lets main of example/images write the baselines web-* of the scale set web.
func pipelineRule() Rule {
	return Rule{
		ID: uuid.New(), Name: "images", ProviderID: github,
		Conditions: []Condition{{"repository", Match{In: []string{"example/images"}}}, {"ref", Match{Pattern: `refs/heads/main|refs/tags/v\d+`}}},
		Baselines:  Match{Pattern: "web-.*"}, Selector: verifier.Selector{ScaleSet: []string{"web", "web-canary"}, Labels: map[string]string{"env": "prod"}},
		Actions: []Action{ActionCreate, ActionAddVersion}, States: []string{StateDraft},
	}
}

func identity(claims string) *Identity {
	c, err := ParseClaims([]byte(claims))
	if err != nil {
		panic(err)
	}
	sub, _ := c.text("sub")
	return &Identity{ProviderID: github, Subject: sub, Claims: c}
}

const main = `{"sub":"repo:example/images:ref:refs/heads/main","repository":"example/images","ref":"refs/heads/main"}`

func good() Attempt {
	return Attempt{Action: ActionCreate, Baseline: "web-1", State: StateDraft, Selector: verifier.Selector{ScaleSet: []string{"web"}, Labels: map[string]string{"env": "prod", "x": "y"}}}
}

func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		why    string // empty: allowed
		claims string
		change func(*Rule, *Attempt)
	}{
		"allowed":             {"", main, nil},
		"a tag":               {"", strings.Replace(main, `"ref":"refs/heads/main"`, `"ref":"refs/tags/v12"`, 1), nil},
		"both sets":           {"", main, func(_ *Rule, a *Attempt) { a.Selector.ScaleSet = []string{"web", "web-canary"} }},
		"add a version":       {"", main, func(_ *Rule, a *Attempt) { a.Action = ActionAddVersion }},
		"narrower":            {"", main, func(_ *Rule, a *Attempt) { a.Selector.Platform = []string{"azure"} }},
		"another repository":  {`claim repository is "evil/images"`, strings.Replace(main, `"repository":"example`, `"repository":"evil`, 1), nil},
		"another case":        {`claim repository is "Example/images"`, strings.Replace(main, `"repository":"example`, `"repository":"Example`, 1), nil},
		"another branch":      {`claim ref is "refs/heads/dev"`, strings.Replace(main, `"ref":"refs/heads/main"`, `"ref":"refs/heads/dev"`, 1), nil},
		"a longer branch":     {`claim ref is "refs/heads/main2"`, strings.Replace(main, `"ref":"refs/heads/main"`, `"ref":"refs/heads/main2"`, 1), nil},
		"a line more":         {`claim ref is "refs/heads/main\n"`, strings.Replace(main, `"ref":"refs/heads/main"`, `"ref":"refs/heads/main\n"`, 1), nil},
		"no repository":       {"claim repository is missing", `{"sub":"x","ref":"refs/heads/main"}`, nil},
		"repository object":   {"claim repository is missing", `{"sub":"x","ref":"refs/heads/main","repository":{"example/images":1}}`, nil},
		"promote":             {"does not allow the action promote", main, func(_ *Rule, a *Attempt) { a.Action = ActionPromote }},
		"dry run":             {"does not allow the action dry_run", main, func(_ *Rule, a *Attempt) { a.Action = ActionDryRun }},
		"no action":           {"does not allow the action", main, func(_ *Rule, a *Attempt) { a.Action = "" }},
		"active":              {`begin as "active"`, main, func(_ *Rule, a *Attempt) { a.State = StateActive }},
		"no state":            {`begin as ""`, main, func(_ *Rule, a *Attempt) { a.State = "" }},
		"another name":        {"not about baselines of this name", main, func(_ *Rule, a *Attempt) { a.Baseline = "db-1" }},
		"name by prefix":      {"not about baselines of this name", main, func(_ *Rule, a *Attempt) { a.Baseline = "my-web-1" }},
		"another set":         {"scale_set is wider", main, func(_ *Rule, a *Attempt) { a.Selector.ScaleSet = []string{"web", "db"} }},
		"every set":           {"scale_set is wider", main, func(_ *Rule, a *Attempt) { a.Selector.ScaleSet = nil }},
		"another label":       {"labels are wider", main, func(_ *Rule, a *Attempt) { a.Selector.Labels["env"] = "test" }},
		"no label":            {"labels are wider", main, func(_ *Rule, a *Attempt) { a.Selector.Labels = nil }},
		"machines by id":      {"machine_ids are not those", main, func(_ *Rule, a *Attempt) { a.Selector.MachineIDs = []string{"x"} }},
		"bound to machines":   {"machine_ids are not those", main, func(r *Rule, _ *Attempt) { r.Selector.MachineIDs = []string{"x"} }},
		"bound platform":      {"platform is wider", main, func(r *Rule, _ *Attempt) { r.Selector.Platform = []string{"azure"} }},
		"rule without bounds": {"does not say which machines", main, func(r *Rule, _ *Attempt) { r.Selector = verifier.Selector{} }},
		"whole fleet": {"", main, func(r *Rule, a *Attempt) {
			r.Selector, r.WholeFleet, a.Selector = verifier.Selector{}, true, verifier.Selector{}
		}},
		"another provider":    {"no pipeline rule for this identity provider", main, func(r *Rule, _ *Attempt) { r.ProviderID = uuid.New() }},
		"no condition":        {"has no condition", main, func(r *Rule, _ *Attempt) { r.Conditions = nil }},
		"empty match":         {"claim ref is", main, func(r *Rule, _ *Attempt) { r.Conditions[1].Match = Match{} }},
		"both kinds of match": {"claim repository is", main, func(r *Rule, _ *Attempt) { r.Conditions[0].Pattern = ".*" }},
		"broken pattern":      {"claim ref is", main, func(r *Rule, _ *Attempt) { r.Conditions[1].Pattern = "(" }},
		"subject":             {"", main, func(r *Rule, _ *Attempt) { r.Subject = &Match{Pattern: "repo:example/.*"} }},
		"another subject":     {"the subject is", main, func(r *Rule, _ *Attempt) { r.Subject = &Match{In: []string{"repo:example/images"}} }},
		"zero rule":           {"no pipeline rule", main, func(r *Rule, _ *Attempt) { *r = Rule{} }},
		"empty rule":          {"has no condition", main, func(r *Rule, _ *Attempt) { *r = Rule{ProviderID: github} }},
	} {
		r, a := pipelineRule(), good()
		if c.change != nil {
			c.change(&r, &a)
		}
		d := Decide([]Rule{r}, identity(c.claims), a)
		if (d.By != nil) != (c.why == "") || !strings.Contains(d.Why(), c.why) {
			t.Errorf("%s: %v, %s", name, d.By != nil, d.Why())
		}
	}
	if d := Decide(nil, identity(main), good()); d.By != nil {
		t.Error("no rules allow something")
	}
}

func TestOneOfSeveralRulesIsEnough(t *testing.T) {
	narrow, wide := pipelineRule(), pipelineRule()
	narrow.Actions = []Action{ActionDryRun}
	wide.Name = "wide"
	d := Decide([]Rule{narrow, wide}, identity(main), good())
	if d.By == nil || d.By.Name != "wide" || len(d.Outcomes) != 2 {
		t.Errorf("%+v", d)
	}
	// But what two rules allow only together is not allowed.
	draft, promote := pipelineRule(), pipelineRule()
	promote.Actions, promote.States, promote.Baselines = []Action{ActionPromote}, nil, Match{In: []string{"db"}}
	a := good()
	a.Action, a.State = ActionPromote, ""
	if d := Decide([]Rule{draft, promote}, identity(main), a); d.By != nil {
		t.Error("the action of one rule and the name of another were put together")
	}
}

func TestRefusalsDoNotTellWhatARuleWants(t *testing.T) {
	r := pipelineRule()
	r.Conditions[0].In = []string{"example/secret-project"}
	d := Decide([]Rule{r}, identity(main), good())
	if why := d.Why(); strings.Contains(why, "secret-project") || strings.Contains(why, "tags") {
		t.Error(why)
	}
}

func TestValuesOfClaims(t *testing.T) {
	c, err := ParseClaims([]byte(`{"t":"x","n":74,"b":true,"null":null,"list":["a",1,null,{"x":1},["b"]],"k.io":{"namespace":"ci","a/b":{"~":"deep"}},"long":"` + strings.Repeat("x", maxClaimText+1) + `","":"empty"}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"t": "x", "n": "74", "b": "true", "null": "", "list": "a 1", "k.io": "", "/k.io/namespace": "ci", "/k.io/a~1b/~0": "deep", "/k.io/none": "", "/none/x": "", "/t/x": "", "long": "", "none": "", "/": "empty", "/list/0": "",
	} {
		if got := strings.Join(c.Values(name), " "); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if _, err := ParseClaims([]byte(`{"a":1,"a":2}`)); err == nil {
		t.Error("a claim given twice is read")
	}
}

func TestCheckRefusesRulesThatSayTooLittle(t *testing.T) {
	const gh, own = "https://token.actions.githubusercontent.com", "https://gitlab.internal.example"
	for name, c := range map[string]struct {
		pointer, issuer string
		change          func(*Rule)
	}{
		"good":                    {"", gh, func(*Rule) {}},
		"own issuer, any claim":   {"", own, func(r *Rule) { r.Conditions = []Condition{{"ref_protected", Match{In: []string{"true"}}}} }},
		"GitHub, any repository":  {"/conditions", gh, func(r *Rule) { r.Conditions = r.Conditions[1:] }},
		"GitHub by subject":       {"", gh, func(r *Rule) { r.Conditions, r.Subject = nil, &Match{Pattern: "repo:example/.*"} }},
		"GitHub, every subject":   {"/conditions", gh, func(r *Rule) { r.Conditions, r.Subject = r.Conditions[1:], &Match{Pattern: "repo:.*|.*"} }},
		"every repository":        {"/conditions", gh, func(r *Rule) { r.Conditions[0].Match = Match{Pattern: ".*"} }},
		"some text":               {"/conditions", own, func(r *Rule) { r.Conditions = []Condition{{"repository", Match{Pattern: ".+"}}} }},
		"nothing":                 {"/conditions", own, func(r *Rule) { r.Conditions = nil }},
		"no match":                {"/conditions/1", gh, func(r *Rule) { r.Conditions[1].Match = Match{} }},
		"two matches":             {"/conditions/0", gh, func(r *Rule) { r.Conditions[0].Pattern = "x" }},
		"broken pattern":          {"/conditions/1/pattern", gh, func(r *Rule) { r.Conditions[1].Pattern = "a)|(b" }},
		"a pattern that explodes": {"/conditions/1/pattern", gh, func(r *Rule) { r.Conditions[1].Pattern = "((a{1000}){1000}){1000}" }},
		"long pattern":            {"/conditions/1/pattern", gh, func(r *Rule) { r.Conditions[1].Pattern = strings.Repeat("a", maxPattern+1) }},
		"broken subject":          {"/subject", gh, func(r *Rule) { r.Subject = &Match{} }},
		"no names":                {"/baselines", gh, func(r *Rule) { r.Baselines = Match{} }},
		"no machines":             {"/selector", gh, func(r *Rule) { r.Selector = verifier.Selector{} }},
		"all and some machines":   {"/selector", gh, func(r *Rule) { r.WholeFleet = true }},
		"no actions":              {"/actions", gh, func(r *Rule) { r.Actions = nil }},
		"no states":               {"/states", gh, func(r *Rule) { r.States = nil }},
		"states for nothing":      {"/states", gh, func(r *Rule) { r.Actions = []Action{ActionPromote} }},
	} {
		r := pipelineRule()
		c.change(&r)
		err := r.Check(c.issuer)
		field, _ := err.(*verifier.FieldError)
		if (err == nil) != (c.pointer == "") || (field != nil && field.Pointer != c.pointer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMatchIsAFullMatch compares with the definition: the pattern between the ends of the text.
func TestMatchIsAFullMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`(a|b|ab|a\*|a\?|\(a\|b\)|\(a\|ab\)\(c\|bcd\)|c|\^|\$|\.|\n){1,6}`).Draw(t, "pattern")
		text := rapid.StringMatching(`[abcd\n]{0,6}`).Draw(t, "text")
		re, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
		if err != nil {
			t.Fatal(err)
		}
		m := Match{Pattern: pattern}
		if m.matches(text) != re.MatchString(text) {
			t.Fatalf("%q on %q: %v", pattern, text, m.matches(text))
		}
	})
	for pattern, text := range map[string]string{`\Qa`: "ab", `(?m)^a$`: "b\na", `a|b`: "ab", `(?i)a`: "b"} {
		if (&Match{Pattern: pattern}).matches(text) {
			t.Errorf("%q matches %q", pattern, text)
		}
	}
}

// FuzzRule decides on whatever a rule and claims may be: nothing panics, what the zero value says stays a no, and a
// text of In alone is admitted.
func FuzzRule(f *testing.F) {
	rule, err := json.Marshal(pipelineRule())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(rule, []byte(main))
	f.Add([]byte(`{"subject":{"pattern":"a|ab"},"whole_fleet":true}`), []byte(`{"sub":"ab","list":["a",1,{}]}`))
	f.Add([]byte(`{"conditions":[{"claim":"/a/b~1c","in":["x"]}]}`), []byte(`{"a":{"b/c":"x"}}`))
	f.Fuzz(func(t *testing.T, rule, claims []byte) {
		var r Rule
		if json.Unmarshal(rule, &r) != nil {
			return
		}
		c, err := ParseClaims(claims)
		if err != nil {
			return
		}
		sub, _ := c.text("sub")
		o := r.Admit(sub, c)
		if o.Admits != (len(o.Reasons) == 0) {
			t.Fatal("admitted for a reason, or refused without")
		}
		if o.Admits && r.Subject == nil && len(r.Conditions) == 0 {
			t.Fatal("a rule without a condition admits")
		}
		for _, cond := range r.Conditions {
			if o.Admits && len(c.Values(cond.Claim)) == 0 {
				t.Fatal("a claim that has no value was admitted")
			}
			for _, v := range c.Values(cond.Claim) {
				if cond.Pattern == "" && (&Match{In: []string{v}}).matches(v) == false {
					t.Fatal("a text does not match itself")
				}
			}
		}
		if err := r.Check("https://gitlab.com"); err == nil && o.Admits && r.Admit("x", Claims{}).Admits {
			t.Fatal("a checked rule admits a token that says nothing")
		}
	})
}
