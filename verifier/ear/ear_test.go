package ear

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/verifier"
)

var update = flag.Bool("update", false, "write the golden files")

var codes = []verifier.CheckCode{
	verifier.CheckAKTrusted, verifier.CheckPlatformReport, "platform.chip_id", "platform.tcb", "platform.vmpl", "platform.debug", "platform.migration",
	"platform.measurement", "platform.signer", verifier.CheckPlatformConfig, verifier.CheckPlatformBinding, verifier.CheckQuoteSignature,
	verifier.CheckQuoteType, verifier.CheckQuoteNonce, verifier.CheckQuoteSelection, verifier.CheckQuoteDigest,
	verifier.CheckQuoteClock, verifier.CheckEventLogReplay, verifier.CheckSecureBoot, verifier.CheckBaselineMatch,
	verifier.CheckIMAReplay, verifier.CheckIMAPolicy, verifier.CheckPolicyRules,
}

// appraisal makes one whose checks pass but for those named.
func appraisal(status verifier.Status, reason verifier.Reason, differ map[verifier.CheckCode]verifier.CheckStatus) *verifier.Appraisal {
	a := &verifier.Appraisal{Status: status, Reason: reason, Genuine: reason != verifier.OriginUnverified,
		Policy: verifier.VersionRef{ID: "01900000-0000-7000-8000-00000000000a", Version: 3}}
	for _, code := range codes {
		st := verifier.Pass
		if s, ok := differ[code]; ok {
			st = s
		}
		a.Checks = append(a.Checks, verifier.Check{Code: code, Status: st})
	}
	return a
}

// confidential is the appraisal of a confidential VM, with its claims for relying parties. It is genuine unless a check
// of its hardware report fails.
func confidential(status verifier.Status, compliance, tcbStatus string, differ map[verifier.CheckCode]verifier.CheckStatus) *verifier.Appraisal {
	yes, no := true, false
	a := appraisal(status, verifier.NoReason, differ)
	if len(differ) > 0 {
		a.Reason, a.Genuine = verifier.OriginUnverified, false
	}
	a.Assurance = verifier.TEEBound
	a.Claims.Relying = &verifier.RelyingClaims{SecureBoot: &yes, Debug: &no, TEEType: "tdx", Compliance: compliance,
		VMID: "6332533d-5649-4d02-8aa7-8f64b7c3ee21", TCB: "02010600000000000000000000000000", TCBStatus: tcbStatus}
	return a
}

func context() Context {
	nonce := make([]byte, 32)
	for i := range nonce {
		nonce[i] = byte(i)
	}
	return Context{
		TokenID: "01900000-0000-7000-8000-000000000003", VerdictID: "01900000-0000-7000-8000-000000000001", MachineID: "01900000-0000-7000-8000-000000000002",
		Issuer: "https://assay.example", Build: "assay 1.0.0", Nonce: nonce,
		IssuedAt: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), Lifetime: 5 * time.Minute,
	}
}

// The golden files are what a relying party sees: a change of them is a change of the contract.
func TestGolden(t *testing.T) {
	skipPlatform := map[verifier.CheckCode]verifier.CheckStatus{
		verifier.CheckPlatformReport: verifier.Skipped, verifier.CheckPlatformBinding: verifier.Skipped,
		verifier.CheckIMAReplay: verifier.Skipped, verifier.CheckIMAPolicy: verifier.Skipped, verifier.CheckPolicyRules: verifier.Skipped,
	}
	with := func(code verifier.CheckCode, status verifier.CheckStatus) map[verifier.CheckCode]verifier.CheckStatus {
		out := map[verifier.CheckCode]verifier.CheckStatus{code: status}
		for k, v := range skipPlatform {
			out[k] = v
		}
		return out
	}
	for name, a := range map[string]*verifier.Appraisal{
		"affirming":          appraisal(verifier.Affirming, verifier.NoReason, skipPlatform),
		"baseline_deviation": appraisal(verifier.Contraindicated, verifier.BaselineDeviation, with(verifier.CheckBaselineMatch, verifier.Fail)),
		"secure_boot_off":    appraisal(verifier.Contraindicated, verifier.BaselineDeviation, with(verifier.CheckSecureBoot, verifier.Fail)),
		"origin_unverified":  appraisal(verifier.Contraindicated, verifier.OriginUnverified, with(verifier.CheckQuoteSignature, verifier.Fail)),
		"key_not_enrolled":   appraisal(verifier.Contraindicated, verifier.OriginUnverified, with(verifier.CheckAKTrusted, verifier.Fail)),
		"confidential":       confidential(verifier.Affirming, "compliant", "UpToDate", nil),
		"tcb_out_of_date":    confidential(verifier.Warning, "noncompliant", "OutOfDate", nil),
		"debug_refused": confidential(verifier.Contraindicated, "noncompliant", "UpToDate", map[verifier.CheckCode]verifier.CheckStatus{
			"platform.debug": verifier.Fail}),
		"none": nil,
	} {
		got, err := json.MarshalIndent(From(a, context()), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(path, append(got, '\n'), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(got)+"\n" != string(want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
}

var rank = map[string]int{"none": -1, "affirming": 0, "warning": 1, "contraindicated": 2}

// Whatever the checks say, a result is never better than its verdict, it affirms only what the verdict
// affirms, and its status is no better than its worst claim (draft-fv-rats-ear-05, section 3.1).
func TestNeverBetterThanTheVerdict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := &verifier.Appraisal{
			Status:  verifier.Status(rapid.IntRange(0, 3).Draw(t, "status")), //nolint:gosec // 0 to 3
			Genuine: rapid.Bool().Draw(t, "genuine"),
		}
		if rapid.Bool().Draw(t, "relying") {
			a.Claims.Relying = &verifier.RelyingClaims{TEEType: "tdx", Compliance: rapid.SampledFrom([]string{"compliant", "noncompliant"}).Draw(t, "compliance"),
				TCBStatus: rapid.SampledFrom([]string{"", "UpToDate", "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked"}).Draw(t, "tcb status")}
		}
		failing, platformFailing := false, false
		for _, code := range codes {
			s := rapid.SampledFrom([]verifier.CheckStatus{verifier.Pass, verifier.Fail, verifier.Warn, verifier.Skipped}).Draw(t, string(code))
			failing = failing || s == verifier.Fail
			platformFailing = platformFailing || s == verifier.Fail && strings.HasPrefix(string(code), "platform.")
			a.Checks = append(a.Checks, verifier.Check{Code: code, Status: s})
		}
		submod := From(a, context()).Submods[Submodule]
		if rank[submod.Status] < rank[a.Status.String()] {
			t.Fatalf("verdict %s, result %s", a.Status, submod.Status)
		}
		if submod.Status == "affirming" && a.Status != verifier.Affirming {
			t.Fatalf("verdict %s became affirming", a.Status)
		}
		if a.Status == verifier.Affirming && !failing && submod.Status != "affirming" {
			t.Fatalf("an affirming verdict without failures became %s", submod.Status)
		}
		worst := tier(submod.Vector)
		if rank[submod.Status] < rank[worst.String()] && submod.Status != "none" {
			t.Fatalf("status %s hides a claim of tier %s: %+v", submod.Status, worst, submod.Vector)
		}
		if !a.Genuine && (submod.Vector.Configuration != noClaim || submod.Vector.Executables != noClaim) {
			t.Fatalf("evidence that is not genuine makes claims about the machine: %+v", submod.Vector)
		}
		if !a.Genuine && (tierOf(submod.Vector.InstanceIdentity) == verifier.Affirming || tierOf(submod.Vector.Hardware) == verifier.Affirming || submod.Claims != nil) {
			t.Fatalf("evidence that is not genuine affirms something: %+v, %+v", submod.Vector, submod.Claims)
		}
		if platformFailing && submod.Vector.Hardware != hardwareNotGenuine {
			t.Fatalf("a check of the hardware report fails, and the hardware is %d", submod.Vector.Hardware)
		}
		if submod.Vector.Hardware == hardwareGenuine && knownVulnerable(a.Claims.Relying) {
			t.Fatal("hardware with known vulnerabilities is affirmed")
		}
		if c := submod.Claims; c != nil && c.Compliance == "compliant" && submod.Status == "contraindicated" {
			t.Fatalf("a compliant machine in a result that contraindicates: %+v", submod)
		}
	})
}

// Each check shows in the one claim that it speaks to.
func TestVector(t *testing.T) {
	for _, c := range []struct {
		code   verifier.CheckCode
		status verifier.CheckStatus
		want   Vector
	}{
		{verifier.CheckPolicyRules, verifier.Skipped, Vector{2, 2, 2, 2}},
		{verifier.CheckAKTrusted, verifier.Fail, Vector{97, 2, 2, 2}},
		{verifier.CheckAKTrusted, verifier.Warn, Vector{32, 2, 2, 2}},
		{verifier.CheckQuoteSignature, verifier.Fail, Vector{99, 2, 2, 2}},
		{verifier.CheckQuoteType, verifier.Fail, Vector{99, 2, 2, 2}},
		{verifier.CheckQuoteNonce, verifier.Fail, Vector{99, 2, 2, 2}},
		{verifier.CheckQuoteSelection, verifier.Fail, Vector{99, 2, 2, 2}},
		{verifier.CheckQuoteDigest, verifier.Fail, Vector{99, 2, 2, 2}},
		{verifier.CheckQuoteClock, verifier.Fail, Vector{99, 2, 2, 2}},
		{verifier.CheckEventLogReplay, verifier.Fail, Vector{99, 2, 2, 2}},
		{verifier.CheckIMAReplay, verifier.Fail, Vector{99, 2, 2, 2}},
		{verifier.CheckPlatformBinding, verifier.Fail, Vector{99, 2, 2, 96}},
		{verifier.CheckPlatformBinding, verifier.Skipped, Vector{2, 2, 2, 0}},
		{"platform.chip_id", verifier.Fail, Vector{2, 2, 2, 96}},
		{"platform.tcb", verifier.Fail, Vector{2, 2, 2, 96}},
		{"platform.tcb", verifier.Skipped, Vector{2, 2, 2, 2}},
		{"platform.vmpl", verifier.Fail, Vector{2, 2, 2, 96}},
		{"platform.debug", verifier.Fail, Vector{2, 2, 2, 96}},
		{"platform.migration", verifier.Fail, Vector{2, 2, 2, 96}},
		{"platform.measurement", verifier.Fail, Vector{2, 2, 2, 96}},
		{"platform.signer", verifier.Fail, Vector{2, 2, 2, 96}},
		{verifier.CheckPlatformConfig, verifier.Warn, Vector{2, 2, 2, 2}},
		{verifier.CheckPlatformReport, verifier.Fail, Vector{2, 2, 2, 96}},
		{verifier.CheckPlatformReport, verifier.Warn, Vector{2, 2, 2, 32}},
		{verifier.CheckPlatformReport, verifier.Skipped, Vector{2, 2, 2, 0}},
		{verifier.CheckSecureBoot, verifier.Fail, Vector{2, 96, 2, 2}},
		{verifier.CheckSecureBoot, verifier.Warn, Vector{2, 36, 2, 2}},
		{verifier.CheckSecureBoot, verifier.Skipped, Vector{2, 0, 2, 2}},
		{verifier.CheckPolicyRules, verifier.Fail, Vector{2, 96, 2, 2}},
		{verifier.CheckBaselineMatch, verifier.Fail, Vector{2, 2, 96, 2}},
		{verifier.CheckBaselineMatch, verifier.Warn, Vector{2, 2, 33, 2}},
		{verifier.CheckBaselineMatch, verifier.Skipped, Vector{2, 2, 0, 2}},
		{verifier.CheckIMAPolicy, verifier.Fail, Vector{2, 2, 96, 2}},
		{verifier.CheckIMAPolicy, verifier.Skipped, Vector{2, 2, 3, 2}},
	} {
		a := appraisal(verifier.Contraindicated, verifier.BaselineDeviation, map[verifier.CheckCode]verifier.CheckStatus{c.code: c.status})
		if got := vector(a); got != c.want {
			t.Errorf("%s %s: %+v, want %+v", c.code, c.status, got, c.want)
		}
	}
}

// Intel's word on a TCB that the policy admits shows in the hardware claim.
func TestHardwareWithKnownVulnerabilities(t *testing.T) {
	for status, want := range map[string]int8{
		"": hardwareGenuine, "UpToDate": hardwareGenuine, "SWHardeningNeeded": hardwareGenuine, "ConfigurationNeeded": hardwareGenuine,
		"OutOfDate": hardwareVulnerable, "OutOfDateConfigurationNeeded": hardwareVulnerable, "Revoked": hardwareVulnerable,
	} {
		if got := vector(confidential(verifier.Warning, "", status, nil)).Hardware; got != want {
			t.Errorf("%s: %d, want %d", status, got, want)
		}
	}
}

func BenchmarkFrom(b *testing.B) {
	a, c := appraisal(verifier.Affirming, verifier.NoReason, nil), context()
	b.ReportAllocs()
	for b.Loop() {
		From(a, c)
	}
}
