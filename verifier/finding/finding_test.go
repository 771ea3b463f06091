package finding

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/revocations"
	"github.com/assay-verifier/assay/verifier/tee"
)

// specimen is one file of testdata; its README tells what the fields mean.
type specimen struct {
	Story   string `json:"story"`
	Machine struct {
		Name         string            `json:"name"`
		OS           string            `json:"os"`
		Platform     string            `json:"platform"`
		SecurityType string            `json:"security_type"`
		ScaleSet     string            `json:"scale_set"`
		Labels       map[string]string `json:"labels"`
		Declared     Posture           `json:"declared"`
		Observed     Posture           `json:"observed"`
		Enrolled     bool              `json:"enrolled"`
		NoTPM        bool              `json:"no_tpm"`
		KeyExpiresAt *time.Time        `json:"key_expires_at"`
		Evidence     string            `json:"platform_evidence"`
		Instance     bool              `json:"instance_proven"`
		Endorsement  *Endorsement      `json:"endorsement"`
	} `json:"machine"`
	Policy         json.RawMessage         `json:"policy"`
	Genuine        bool                    `json:"genuine"`
	Appraisal      *verifier.Appraisal     `json:"appraisal"`
	RefusedModules []string                `json:"refused_modules"`
	KnownBad       *revocations.Assessment `json:"known_bad"`
	Rollbacks      []Rollback              `json:"rollbacks"`
	Silent         *Silence                `json:"silent"`
	Baselines      *Baselines              `json:"baselines"`
	Fleet          *Fleet                  `json:"fleet"`
	Expect         expectation             `json:"expect"`
}

type expectation struct {
	Assessment *struct {
		Status AssessmentStatus `json:"status"`
		Cause  string           `json:"cause"`
	} `json:"assessment"`
	Recommended *bool `json:"recommended"`
	Alert       *struct {
		Reason verifier.Reason `json:"reason"`
	} `json:"alert"`
	Severity     Severity `json:"severity"`
	Cleared      bool     `json:"cleared"`
	Contains     []string `json:"contains"`
	StepsContain []string `json:"steps_contain"`
	StepsLack    []string `json:"steps_lack"`
}

func (s *specimen) input(t *testing.T) Input {
	t.Helper()
	policy := verifier.DefaultPolicy()
	if s.Policy != nil {
		if err := json.Unmarshal(s.Policy, &policy); err != nil {
			t.Fatal(err)
		}
	}
	if s.Appraisal != nil {
		s.Appraisal.Genuine = s.Genuine
	}
	m := s.Machine
	return Input{
		Machine: Machine{Name: m.Name, OS: m.OS, Platform: m.Platform, SecurityType: m.SecurityType, ScaleSet: m.ScaleSet,
			Labels: m.Labels, Declared: m.Declared, Observed: m.Observed, Enrolled: m.Enrolled,
			NoTPM: m.NoTPM, KeyExpiresAt: m.KeyExpiresAt, PlatformEvidence: m.Evidence, InstanceProven: m.Instance,
			Endorsement: m.Endorsement},
		Appraisal: s.Appraisal, Policy: policy, RefusedModules: s.RefusedModules, KnownBad: s.KnownBad, Rollbacks: s.Rollbacks,
		Silent: s.Silent, Fleet: s.Fleet, Baselines: s.Baselines, Now: now,
	}
}

// now is when every specimen is judged.
var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// found is what a result says under one code.
type found struct {
	assessment       *Assessment
	recommendation   *Recommendation
	alert            *Alert
	recommendDecided bool
	alertDecided     bool
}

func (f *found) descriptions() string {
	var parts []string
	if f.assessment != nil {
		parts = append(parts, f.assessment.Description)
	}
	if f.recommendation != nil {
		parts = append(parts, f.recommendation.Description)
	}
	if f.alert != nil {
		parts = append(parts, f.alert.Description)
	}
	return strings.Join(parts, "\n")
}

func (f *found) steps() string {
	switch {
	case f.alert != nil:
		return strings.Join(f.alert.RemediationSteps, "\n")
	case f.recommendation != nil:
		return strings.Join(f.recommendation.RemediationSteps, "\n")
	}
	return ""
}

func under(code string, r Result) found {
	f := found{recommendDecided: slices.Contains(r.EvaluatedRecommendations, code), alertDecided: slices.Contains(r.EvaluatedAlerts, code)}
	for i := range r.Assessments {
		if r.Assessments[i].Code == code {
			f.assessment = &r.Assessments[i]
		}
	}
	for i := range r.Recommendations {
		if r.Recommendations[i].Code == code {
			f.recommendation = &r.Recommendations[i]
		}
	}
	for i := range r.Alerts {
		if r.Alerts[i].Code == code {
			f.alert = &r.Alerts[i]
		}
	}
	return f
}

// Every rule has a folder with a machine that passes and one that fails, and does as they say.
func TestSpecimens(t *testing.T) {
	for _, rule := range Rules {
		if rule.evaluate == nil {
			continue
		}
		for _, kind := range []string{"pass", "fail"} {
			files, err := filepath.Glob(filepath.Join("testdata", rule.Code, kind+"*.json"))
			if err != nil {
				t.Fatal(err)
			}
			if len(files) == 0 {
				t.Errorf("rule %s has no specimen that %ses", rule.Code, kind)
			}
			for _, file := range files {
				t.Run(rule.Code+"/"+strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) { testSpecimen(t, rule, kind, file) })
			}
		}
	}
	// A folder without a rule would be a test that never runs.
	folders, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		if f.IsDir() && !slices.ContainsFunc(Rules, func(r *Rule) bool { return r.Code == f.Name() }) {
			t.Errorf("testdata/%s belongs to no rule", f.Name())
		}
	}
}

func testSpecimen(t *testing.T, rule *Rule, kind, file string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var s specimen
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	if err := dec.Decode(&s); err != nil {
		t.Fatal(err)
	}
	result := Derive(s.input(t))
	checkDeclared(t, result)
	got, want := under(rule.Code, result), s.Expect
	if bad := got.alert != nil || got.recommendation != nil || (got.assessment != nil && got.assessment.Status == Unhealthy); bad != (kind == "fail") {
		t.Errorf("%s: the rule says %+v", s.Story, got)
	}
	switch {
	case want.Assessment == nil && got.assessment != nil:
		t.Errorf("states an assessment: %+v", *got.assessment)
	case want.Assessment != nil && got.assessment == nil:
		t.Error("states no assessment")
	case want.Assessment != nil && (got.assessment.Status != want.Assessment.Status || got.assessment.Cause != want.Assessment.Cause):
		t.Errorf("assessment %s %q, want %s %q", got.assessment.Status, got.assessment.Cause, want.Assessment.Status, want.Assessment.Cause)
	}
	if want.Severity != "" && (got.recommendation == nil || got.recommendation.Severity != want.Severity) {
		t.Errorf("recommendation %+v, want severity %s", got.recommendation, want.Severity)
	}
	switch {
	case want.Recommended == nil && got.recommendDecided:
		t.Error("decides on a recommendation where nothing is known")
	case want.Recommended != nil && (!got.recommendDecided || (got.recommendation != nil) != *want.Recommended):
		t.Errorf("recommendation raised: %t, decided: %t; want raised: %t", got.recommendation != nil, got.recommendDecided, *want.Recommended)
	}
	switch {
	case want.Alert != nil && got.alert == nil:
		t.Error("raises no alert")
	case want.Alert != nil && got.alert.Reason != want.Alert.Reason:
		t.Errorf("alert reason %q, want %q", got.alert.Reason, want.Alert.Reason)
	case want.Alert == nil && got.alertDecided != want.Cleared:
		t.Errorf("alert cleared: %t, want %t", got.alertDecided, want.Cleared)
	}
	for _, text := range want.Contains {
		if !strings.Contains(got.descriptions(), text) {
			t.Errorf("the description lacks %q:\n%s", text, got.descriptions())
		}
	}
	for _, text := range want.StepsContain {
		if !strings.Contains(got.steps(), text) {
			t.Errorf("the steps lack %q:\n%s", text, got.steps())
		}
	}
	for _, text := range want.StepsLack {
		if strings.Contains(got.steps(), text) {
			t.Errorf("the steps of another system are listed (%q):\n%s", text, got.steps())
		}
	}
}

// The reports of real machines give the findings that are true of them, and no others. Each is judged half a year
// before the end of what it was proven with.
func TestReportsOfRealMachines(t *testing.T) {
	findings := map[string][]string{
		// Azure's default; see the rule.
		"azure-snp-v0": {"tee_console_enabled"}, "azure-snp-v2": {"tee_console_enabled"}, "azure-tdx-v0": {"tee_console_enabled"},
		// Its platform has committed to microcode 219 and reports 217.
		"snp-trustee-vlek": {"tee_tcb_out_of_date"},
		// Its guest policy allows debugging.
		"snp-go-sev-guest": {"tee_debug_enabled"},
	}
	files, err := filepath.Glob("../tee/testdata/claims/*.json")
	if err != nil || len(files) < 8 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		claims := new(tee.Claims)
		if err := json.Unmarshal(raw, claims); err != nil {
			t.Fatal(err)
		}
		a := &verifier.Appraisal{Status: verifier.Affirming, Genuine: true, Assurance: verifier.TEEBound, Claims: verifier.Claims{Platform: claims}}
		var got []string
		for _, r := range Derive(Input{Appraisal: a, Policy: verifier.DefaultPolicy(), Now: claims.CollateralUntil.AddDate(0, -6, 0)}).Recommendations {
			got = append(got, r.Code)
		}
		if !slices.Equal(got, findings[name]) {
			t.Errorf("%s: %v, want %v", name, got, findings[name])
		}
	}
}

// Only what is told of in time can be renewed in time; and what was renewed is told of no more.
func TestExpiryOverTime(t *testing.T) {
	day := 24 * time.Hour
	for _, c := range []struct {
		teeType string
		left    time.Duration
		want    Severity // empty: settled
	}{
		{"sev_snp", 31 * day, ""}, {"sev_snp", 30*day + time.Second, ""}, {"sev_snp", 30 * day, Low}, {"sev_snp", 7*day + time.Second, Low}, {"sev_snp", 7 * day, Medium}, {"sev_snp", -day, Medium},
		// Intel's collateral ends 30 days after it was issued.
		{"tdx", 30 * day, ""}, {"tdx", 15*day + time.Second, ""}, {"tdx", 15 * day, Low}, {"tdx", 7 * day, Medium},
	} {
		a := &verifier.Appraisal{Genuine: true, Assurance: verifier.TEEBound, Claims: verifier.Claims{Platform: &tee.Claims{TEEType: c.teeType, CollateralUntil: now.Add(c.left)}}}
		got := under("tee_collateral_expiring", Derive(Input{Appraisal: a, Policy: verifier.DefaultPolicy(), Now: now}))
		if !got.recommendDecided || (got.recommendation != nil) != (c.want != "") || got.recommendation != nil && got.recommendation.Severity != c.want {
			t.Errorf("%s, %s left: %+v, want %q", c.teeType, c.left, got.recommendation, c.want)
		}
	}
	for left, want := range map[time.Duration]bool{30*day + time.Second: false, 30 * day: true, 0: true, -day: true} {
		end := now.Add(left)
		got := under("ak_certificate_expiring", Derive(Input{Machine: Machine{KeyExpiresAt: &end}, Now: now}))
		if !got.recommendDecided || (got.recommendation != nil) != want {
			t.Errorf("an AK certificate with %s left: %+v", left, got.recommendation)
		}
	}
}

// A long list of deviations stays a readable description; the verdict has all of them.
func TestDescriptionsAreBounded(t *testing.T) {
	a := &verifier.Appraisal{Status: verifier.Contraindicated, Reason: verifier.BaselineDeviation, Genuine: true}
	for range 5000 {
		a.Deviations = append(a.Deviations, verifier.Deviation{PCR: 10, Kind: verifier.Added, Component: "ima", Description: "a file"})
	}
	text := explain(&Input{}, a)
	if len(text) > 4000 || !strings.Contains(text, "and 4980 more") {
		t.Errorf("%d bytes: %.200s", len(text), text)
	}
}

// Modules count as refused only where the evidence proves enforcement, and only plain .ko files.
func TestRefusedModules(t *testing.T) {
	line := "ro module.sig_enforce=1"
	a := &verifier.Appraisal{Genuine: true}
	if err := json.Unmarshal([]byte(`{"kernel_cmdline":"ro module.sig_enforce=1"}`), &a.Claims); err != nil {
		t.Fatal(err)
	}
	paths := []string{"/m/a.ko", "/m/b.ko.xz", "/bin/sh"}
	if got := RefusedModules(a, paths); !slices.Equal(got, []string{"/m/a.ko"}) {
		t.Errorf("with %q: %v", line, got)
	}
	for template, want := range map[string]int{"ima_template=ima-sig": 1, "ima_template=ima-modsig": 0, "ima-template-fmt=d-ng|n-ng|d-modsig|modsig": 0} {
		if got := RefusedModules(told(line+" "+template, true), paths); len(got) != want {
			t.Errorf("with %s: %v", template, got)
		}
	}
	a.Genuine = false
	if got := RefusedModules(a, paths); got != nil {
		t.Errorf("evidence that is not genuine: %v", got)
	}
}

func BenchmarkDerive(b *testing.B) {
	in := Input{Machine: Machine{Name: "web-1", OS: "linux", Enrolled: true}, Policy: verifier.DefaultPolicy(),
		Appraisal: &verifier.Appraisal{Status: verifier.Affirming, Genuine: true, Checks: []verifier.Check{{Code: verifier.CheckBaselineMatch, Status: verifier.Pass}}}}
	b.ReportAllocs()
	for b.Loop() {
		Derive(in)
	}
}

func TestDescribeNamesTheRegister(t *testing.T) {
	for want, d := range map[string]verifier.Deviation{
		"kernel changed: b (PCR 9)":  {PCR: 9, Bank: "sha256", Description: "kernel changed: b."},
		"kernel changed: b (RTMR 2)": {PCR: 2, Bank: "rtmr", Description: "kernel changed: b."},
		"RTMR 2 (kernel, command line, initrd) is in the baseline but not shown": {PCR: 2, Bank: "rtmr", Description: "RTMR 2 (kernel, command line, initrd) is in the baseline but not shown"},
		"claim kernel_cmdline is unknown":                                        {PCR: -1, Description: "claim kernel_cmdline is unknown"},
	} {
		if got := describe(&d); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Whoever reads that attestation failed is told how a change that was announced is approved.
func TestAttestationFailedTellsOfThePreview(t *testing.T) {
	if steps := strings.Join(attestationFailed.Steps[""], "\n"); !strings.Contains(steps, "Where the change was announced, `assay alerts approve <id> --preview`") {
		t.Error(steps)
	}
}
