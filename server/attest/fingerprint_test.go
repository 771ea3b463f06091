package attest

import (
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

func judgement(change func(*verifier.Appraisal)) *verifier.Appraisal {
	a := &verifier.Appraisal{
		Status: verifier.Contraindicated, Reason: verifier.BaselineDeviation, Assurance: verifier.EKActivated, Genuine: true,
		Checks: []verifier.Check{
			{Code: verifier.CheckAKTrusted, Status: verifier.Pass, Detail: "trusted"},
			{Code: verifier.CheckQuoteClock, Status: verifier.Warn, Detail: "from 9 to 5"},
			{Code: verifier.CheckBaselineMatch, Status: verifier.Fail, Detail: "1 deviation"},
			{Code: verifier.CheckIMAReplay, Status: verifier.Pass, Detail: "120 entries"},
		},
		Deviations: []verifier.Deviation{{PCR: 8, Kind: verifier.Changed, Component: "kernel_command_line", Description: "d",
			EventType: "EV_IPL", Expected: []string{"aa", "bb"}, Actual: "cc", Bank: "sha256"}},
		Claims:   verifier.Claims{IMA: &verifier.IMAClaims{Entries: 120}},
		Baseline: &verifier.VersionRef{ID: "b", Version: 1}, Policy: verifier.VersionRef{ID: "p", Version: 1},
	}
	change(a)
	return a
}

// Whatever a reader of the verdict would call another judgement has another fingerprint.
func TestFingerprintTellsJudgementsApart(t *testing.T) {
	log := make([]byte, 32)
	base := fingerprint(judgement(func(*verifier.Appraisal) {}), &finding.Result{}, nil, log)
	for name, change := range map[string]func(*verifier.Appraisal){
		"status":            func(a *verifier.Appraisal) { a.Status = verifier.Warning },
		"reason":            func(a *verifier.Appraisal) { a.Reason = verifier.OriginUnverified },
		"assurance":         func(a *verifier.Appraisal) { a.Assurance = verifier.FirstUse },
		"check status":      func(a *verifier.Appraisal) { a.Checks[0].Status = verifier.Warn },
		"failing detail":    func(a *verifier.Appraisal) { a.Checks[2].Detail = "2 deviations" },
		"a check less":      func(a *verifier.Appraisal) { a.Checks = a.Checks[1:] },
		"no deviation":      func(a *verifier.Appraisal) { a.Deviations = nil },
		"deviation PCR":     func(a *verifier.Appraisal) { a.Deviations[0].PCR = 9 },
		"deviation kind":    func(a *verifier.Appraisal) { a.Deviations[0].Kind = verifier.Added },
		"deviation actual":  func(a *verifier.Appraisal) { a.Deviations[0].Actual = "dd" },
		"deviation bank":    func(a *verifier.Appraisal) { a.Deviations[0].Bank = "sha384" },
		"component":         func(a *verifier.Appraisal) { a.Deviations[0].Component = "initrd" },
		"description":       func(a *verifier.Appraisal) { a.Deviations[0].Description = "e" },
		"event type":        func(a *verifier.Appraisal) { a.Deviations[0].EventType = "EV_ACTION" },
		"expected":          func(a *verifier.Appraisal) { a.Deviations[0].Expected = []string{"aabb"} },
		"baseline":          func(a *verifier.Appraisal) { a.Baseline = nil },
		"baseline version":  func(a *verifier.Appraisal) { a.Baseline.Version = 2 },
		"policy version":    func(a *verifier.Appraisal) { a.Policy.Version = 2 },
		"unexpected file":   func(a *verifier.Appraisal) { a.Claims.IMA.Unexpected = 1 },
		"no IMA list":       func(a *verifier.Appraisal) { a.Claims.IMA = nil },
		"another baseline":  func(a *verifier.Appraisal) { a.Baseline.ID = "c" },
		"another policy":    func(a *verifier.Appraisal) { a.Policy.ID = "q" },
		"text moved across": func(a *verifier.Appraisal) { a.Deviations[0].Description, a.Deviations[0].EventType = "dE", "V_IPL" },
	} {
		if fingerprint(judgement(change), &finding.Result{}, nil, log) == base {
			t.Errorf("%s: the fingerprint is the same", name)
		}
	}
	if fingerprint(judgement(func(*verifier.Appraisal) {}), &finding.Result{Recommendations: []finding.Recommendation{{Code: "c"}}}, nil, log) == base {
		t.Error("with a recommendation more the fingerprint is the same")
	}
	if fingerprint(judgement(func(*verifier.Appraisal) {}), &finding.Result{}, nil, nil) == base {
		t.Error("without a log the fingerprint is the same")
	}
}

// Some recommendations come, and grow more pressing, with time alone: then the same evidence is another judgement.
func TestFingerprintCoversRecommendations(t *testing.T) {
	seen := map[[32]byte]string{}
	for name, list := range map[string][]finding.Recommendation{
		"none": nil, "low": {{Code: "a", Severity: finding.Low}}, "medium": {{Code: "a", Severity: finding.Medium}},
		"another": {{Code: "b", Severity: finding.Low}}, "two": {{Code: "a", Severity: finding.Low}, {Code: "b", Severity: finding.Low}},
	} {
		f := fingerprint(judgement(func(*verifier.Appraisal) {}), &finding.Result{Recommendations: list}, nil, nil)
		if seen[f] != "" {
			t.Errorf("%s and %s have one fingerprint", name, seen[f])
		}
		seen[f] = name
	}
}

// What moves by itself on an unchanged machine does not make another judgement.
func TestFingerprintLeavesOutWhatMoves(t *testing.T) {
	base := fingerprint(judgement(func(*verifier.Appraisal) {}), &finding.Result{}, nil, nil)
	for name, change := range map[string]func(*verifier.Appraisal){
		"clock in words":  func(a *verifier.Appraisal) { a.Checks[1].Detail = "from 19 to 15" },
		"passing detail":  func(a *verifier.Appraisal) { a.Checks[3].Detail = "140 entries" },
		"IMA list length": func(a *verifier.Appraisal) { a.Claims.IMA.Entries = 140 },
	} {
		if fingerprint(judgement(change), &finding.Result{}, nil, nil) != base {
			t.Errorf("%s: another fingerprint", name)
		}
	}
}

func TestFingerprintIsCheap(t *testing.T) {
	a := judgement(func(*verifier.Appraisal) {})
	if n := testing.AllocsPerRun(100, func() { fingerprint(a, &finding.Result{}, nil, nil) }); n > 1 {
		t.Errorf("%v allocations, want at most 1", n)
	}
}
