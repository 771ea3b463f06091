package finding

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
)

// Severities and titles are those of the reference behaviour (R1 to R7), which nobody may change.
func TestReferenceBehaviour(t *testing.T) {
	for code, severity := range map[string]Severity{
		"secure_boot_enabled": Low, "vtpm_enabled": Low, "guest_attestation_installed": Low, "guest_attestation_healthy": Medium,
		"attestation_failed": Medium, "trusted_boot_components": Low, "kernel_module_signatures": Low, "kernel_module_refused": Low,
	} {
		if r := By(code); r == nil || r.Severity != severity {
			t.Errorf("rule %s: %+v, want severity %s", code, r, severity)
		}
	}
	for code, title := range map[string]string{
		"secure_boot_enabled":         "Secure Boot should be enabled on supported Windows/Linux virtual machines",
		"guest_attestation_installed": "Guest attestation agent should be installed on supported Windows/Linux virtual machines",
		"guest_attestation_healthy":   "Guest attestation status should be healthy",
		"attestation_failed":          "Attestation failed for your virtual machine",
	} {
		if r := By(code); r == nil || r.Title != title {
			t.Errorf("rule %s: %+v, want title %q", code, r, title)
		}
	}
}

// Every entry of the catalogue is whole, and is in the file that is named after it.
func TestCatalogIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Rules {
		if seen[r.Code] {
			t.Errorf("rule %s is listed twice", r.Code)
		}
		seen[r.Code] = true
		for _, fault := range faults(r) {
			t.Errorf("rule %s: %s", r.Code, fault)
		}
		source, err := os.ReadFile(r.Code + ".go")
		if err != nil || !strings.Contains(string(source), `"`+r.Code+`"`) {
			t.Errorf("rule %s is not in the file that is named after it (%v)", r.Code, err)
		}
	}
	// A rule that is written and not listed would never be asked.
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if code := strings.TrimSuffix(file, ".go"); strings.Contains(string(source), " = &Rule{") && !strings.HasSuffix(file, "_test.go") && !seen[code] {
			t.Errorf("%s holds a rule that Rules does not list", file)
		}
	}
	if len(seen) < 19 {
		t.Errorf("only %d rules", len(seen))
	}
}

// faults are what an entry lacks.
func faults(r *Rule) []string {
	var out []string
	complain := func(bad bool, text string) {
		if bad {
			out = append(out, text)
		}
	}
	for name, text := range map[string]string{"Code": r.Code, "Title": r.Title, "Condition": r.Condition, "Why": r.Why} {
		complain(strings.TrimSpace(text) == "" || text != strings.TrimSpace(text), name+" is empty or padded")
	}
	complain(!strings.HasSuffix(r.Condition, ".") || !strings.HasSuffix(r.Why, "."), "Condition and Why are sentences")
	complain(r.Severity != Low && r.Severity != Medium && r.Severity != High, "severity "+string(r.Severity))
	complain(!slices.Contains(Areas, r.Area), "area "+r.Area)
	complain(len(r.Kinds) == 0, "no kind")
	for i, k := range r.Kinds {
		complain(k != KindAssessment && k != KindRecommendation && k != KindAlert || slices.Contains(r.Kinds[:i], k), "kind "+string(k))
	}
	complain((r.evaluate == nil) == (r.FoundBy == ""), "either evaluate or FoundBy")
	complain(len(r.Citations) == 0, "no citation")
	for _, c := range r.Citations {
		u, err := url.Parse(c.URL)
		complain(c.Document == "" || c.Section == "" || err != nil || u.Scheme != "https" || u.Host == "", "citation of "+c.Document+" is not whole")
	}
	complain(len(r.steps(&Input{})) == 0, "no steps")
	for name, steps := range r.Steps {
		complain(name != "" && !slices.Contains(systems, name) && !slices.Contains(platforms, name), "steps for "+name)
		complain(len(steps) == 0 || slices.Contains(steps, ""), "empty step for "+name)
	}
	complain(len(r.Needs) == 0, "needs nothing")
	for _, need := range r.Needs {
		complain(!knownNeed(need), "needs "+need)
	}
	return out
}

// knownNeed tells whether a rule's need is one that exists: a claim by its JSON name, or a word of the list.
func knownNeed(need string) bool {
	source, name, _ := strings.Cut(need, ".")
	if source == "claims" {
		return slices.Contains(claimNames, name)
	}
	return slices.Contains([]string{"evidence", "verdict", "inventory", "policy", "baseline", "collateral", "history", "fleet"}, source)
}

// claimNames are the JSON names of all claims.
var claimNames = append(jsonNames(reflect.TypeFor[eventlog.Claims]()), jsonNames(reflect.TypeFor[verifier.Claims]())...)

func jsonNames(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" && name != "-" {
			out = append(out, name)
		}
	}
	return out
}

// checkDeclared fails where a result holds what no rule declares: a code that is not in Rules, or a kind that the
// rule does not name.
func checkDeclared(t *testing.T, result Result) {
	t.Helper()
	check := func(code string, kind Kind) {
		if r := By(code); r == nil || !slices.Contains(r.Kinds, kind) {
			t.Errorf("%s %s is not declared in the catalogue", kind, code)
		}
	}
	for i := range result.Assessments {
		check(result.Assessments[i].Code, KindAssessment)
	}
	for i := range result.Recommendations {
		check(result.Recommendations[i].Code, KindRecommendation)
	}
	for i := range result.Alerts {
		check(result.Alerts[i].Code, KindAlert)
	}
	for _, code := range result.EvaluatedRecommendations {
		check(code, KindRecommendation)
	}
	for _, code := range result.EvaluatedAlerts {
		check(code, KindAlert)
	}
}

// Every kind that a rule declares, some specimen of it shows.
func TestDeclaredKindsAreShown(t *testing.T) {
	for _, r := range Rules {
		if r.evaluate == nil {
			continue
		}
		shown := map[Kind]bool{}
		files, err := filepath.Glob(filepath.Join("testdata", r.Code, "fail*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var s specimen
			if err := json.Unmarshal(raw, &s); err != nil {
				t.Fatal(file, err)
			}
			got := under(r.Code, Derive(s.input(t)))
			shown[KindAssessment] = shown[KindAssessment] || got.assessment != nil
			shown[KindRecommendation] = shown[KindRecommendation] || got.recommendation != nil
			shown[KindAlert] = shown[KindAlert] || got.alert != nil
		}
		for _, kind := range r.Kinds {
			if !shown[kind] {
				t.Errorf("no specimen of %s shows its %s", r.Code, kind)
			}
		}
	}
}

// An incomplete entry is found. Without this test the one above could pass by looking at nothing.
func TestFaultsOfAnEntry(t *testing.T) {
	whole := *vtpmEnabled
	if got := faults(&whole); got != nil {
		t.Fatal(got)
	}
	for name, spoil := range map[string]func(*Rule){
		"title":      func(r *Rule) { r.Title = "" },
		"condition":  func(r *Rule) { r.Condition = "no full stop" },
		"why":        func(r *Rule) { r.Why = "" },
		"severity":   func(r *Rule) { r.Severity = "critical" },
		"area":       func(r *Rule) { r.Area = "misc" },
		"kinds":      func(r *Rule) { r.Kinds = nil },
		"kind":       func(r *Rule) { r.Kinds = []Kind{"event"} },
		"kind twice": func(r *Rule) { r.Kinds = []Kind{KindAlert, KindAlert} },
		"evaluate":   func(r *Rule) { r.evaluate = nil },
		"found by":   func(r *Rule) { r.FoundBy = "a job" },
		"citations":  func(r *Rule) { r.Citations = nil },
		"url":        func(r *Rule) { r.Citations = []Citation{{"RFC 9334", "section 3", "http://example.org"}} },
		"section":    func(r *Rule) { r.Citations = []Citation{{"RFC 9334", "", "https://example.org"}} },
		"steps":      func(r *Rule) { r.Steps = nil },
		"step":       func(r *Rule) { r.Steps = map[string][]string{"": {""}} },
		"system":     func(r *Rule) { r.Steps = map[string][]string{"": {"a"}, "beos": {"b"}} },
		"needs":      func(r *Rule) { r.Needs = nil },
		"claim":      func(r *Rule) { r.Needs = []string{"claims.no_such_claim"} },
		"source":     func(r *Rule) { r.Needs = []string{"luck"} },
	} {
		r := *vtpmEnabled
		spoil(&r)
		if faults(&r) == nil {
			t.Errorf("%s: nothing is found", name)
		}
	}
}

// The steps are those of the machine's system and platform; where these are not known, of all.
func TestStepsByPlatform(t *testing.T) {
	r := &Rule{Steps: map[string][]string{"": {"all"}, "linux": {"linux"}, "windows": {"windows"}, "azure": {"azure"}, "gcp": {"gcp"}}}
	for want, m := range map[string]Machine{
		"all linux azure":             {OS: "linux", Platform: "azure"},
		"all windows gcp":             {OS: "windows", Platform: "gcp"},
		"all linux":                   {OS: "linux", Platform: "other"},
		"all linux windows azure gcp": {},
	} {
		if got := strings.Join(r.stepsFor(&m), " "); got != want {
			t.Errorf("%+v: %q, want %q", m, got, want)
		}
	}
}
