package finding_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/boottest"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/revocations"
	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

// specimens are all recorded boots, judged: logs of real machines under quotes of a test's key, logs of real TDX guests under
// reports of a test's signer, and the project's captures under their own quotes.
func specimens(t testing.TB) map[string]*verifier.Appraisal {
	t.Helper()
	out := map[string]*verifier.Appraisal{}
	for _, path := range boottest.Specimens(t, "../..") {
		if !strings.Contains(path, "integration") {
			out[boottest.Name(path)] = boottest.Appraise(t, path)
		}
	}
	for _, dir := range boottest.Captures(t, "../..") {
		out[boottest.Name(dir)] = boottest.Captured(t, dir)
	}
	intel := teetest.NewIntel(t)
	for _, path := range boottest.CCLogs(t, "../..") {
		out[boottest.Name(path)] = boottest.Guest(t, intel, path)
	}
	return out
}

// inputOf is what the rules are asked about a specimen: an enrolled machine of which nothing is known but its system.
func inputOf(a *verifier.Appraisal, set *revocations.Set) finding.Input {
	in := finding.Input{Appraisal: a, Policy: verifier.DefaultPolicy(), Now: boottest.At, Machine: finding.Machine{Name: "m", OS: "linux", Enrolled: true}}
	if a.Claims.Claims != nil && a.Claims.Windows != nil {
		in.Machine.OS = "windows"
	}
	if a.Genuine {
		measurements := a.Measurements
		if measurements == nil {
			measurements = a.RTMRMeasurements
		}
		in.KnownBad = set.Assess(measurements, a.Claims.Claims)
		in.Machine.NoTPM = a.RTMRs != nil
	}
	return in
}

// findingsOf are the codes that a result raises with their severities, sorted; what follows from the verdict alone is
// left out, since no baseline judges the specimens.
func findingsOf(r finding.Result) []string {
	var out []string
	for i := range r.Recommendations {
		out = append(out, r.Recommendations[i].Code+" "+string(r.Recommendations[i].Severity))
	}
	for i := range r.Alerts {
		out = append(out, r.Alerts[i].Code+" "+string(r.Alerts[i].Severity))
	}
	for i := range r.Assessments {
		if a := &r.Assessments[i]; a.Status == finding.Unhealthy && a.Code != "guest_attestation_healthy" {
			out = append(out, a.Code+" "+string(a.Severity))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// trueFindings reads testdata/true_findings.tsv: by specimen, the findings with the reason why each is true.
func trueFindings(t testing.TB) map[string]map[string]string {
	t.Helper()
	raw, err := os.ReadFile("testdata/true_findings.tsv")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]string{}
	for n, line := range strings.Split(string(raw), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		cells := strings.Split(line, "\t")
		if len(cells) != 4 || slices.Contains(cells, "") {
			t.Fatalf("true_findings.tsv:%d: want specimen, code, severity and reason", n+1)
		}
		if finding.By(cells[1]) == nil {
			t.Errorf("true_findings.tsv:%d: there is no rule %s", n+1, cells[1])
		}
		if out[cells[0]] == nil {
			out[cells[0]] = map[string]string{}
		}
		out[cells[0]][cells[1]+" "+cells[2]] = cells[3]
	}
	return out
}

// On the recorded boots the catalogue raises what is listed as true, and nothing else; and all that is listed.
func TestNoFalseFindingOnRecordedBoots(t *testing.T) {
	set, err := revocations.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	listed, all := trueFindings(t), specimens(t)
	for name, a := range all {
		got := findingsOf(finding.Derive(inputOf(a, set)))
		for _, f := range got {
			if listed[name][f] == "" {
				t.Errorf("%s\t%s\tis found and not listed as true", name, strings.ReplaceAll(f, " ", "\t"))
			}
		}
		for f := range listed[name] {
			if !slices.Contains(got, f) {
				t.Errorf("%s: %s is listed as true and not found", name, f)
			}
		}
	}
	for name := range listed {
		if all[name] == nil {
			t.Errorf("%s is no specimen", name)
		}
	}
}

// A boot with some findings, as most machines of a fleet are: each appraisal derives anew.
func BenchmarkDeriveOfARealBoot(b *testing.B) {
	set, err := revocations.Shipped()
	if err != nil {
		b.Fatal(err)
	}
	in := inputOf(boottest.Captured(b, "../../integration/testdata/boots/sb-on-1"), set)
	b.ReportAllocs()
	for b.Loop() {
		finding.Derive(in)
	}
}
