package finding_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/boottest"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/revocations"
)

// short are the rules about what is known to be bad, by a letter.
var short = map[string]string{"revoked_boot_component": "R", "dbx_outdated": "D", "secure_boot_certificates_2011": "K", "sbat_level_outdated": "S"}

// knownBadOf is what the rules recommend for a real boot log, in short; "R" with its severity.
func knownBadOf(t testing.TB, path string, set *revocations.Set) string {
	t.Helper()
	a := boottest.Appraise(t, path)
	result := finding.Derive(finding.Input{Appraisal: a, Policy: verifier.DefaultPolicy(), KnownBad: set.Assess(a.Measurements, a.Claims.Claims), Now: boottest.At})
	out := ""
	for _, r := range result.Recommendations {
		if letter, ok := short[r.Code]; ok {
			out += letter
			if r.Code == "revoked_boot_component" {
				out += "(" + string(r.Severity) + ")"
			}
		}
	}
	return out
}

// A digest that is added later makes a finding of a boot that had none, and takes no other away.
func TestAddedEntryIsFound(t *testing.T) {
	const golden = "../../integration/testdata/boots/sb-on-1/evidence/binary_bios_measurements"
	a := boottest.Appraise(t, golden)
	digest := a.Claims.BootLoaders[0].Digests["sha256"]
	list := `{"images": {"x64": [{"authenticodeHash": "` + strings.ToUpper(digest) + `", "hashType": "SHA256", "filename": "shimx64.efi", "companyName": "Debian", "description": "CVE-2026-99999", "dateOfAddition": "2026-11-24"}]}}`
	set, err := revocations.With([]revocations.Addition{{Kind: revocations.KindInfo, Body: []byte(list)}})
	if err != nil {
		t.Fatal(err)
	}
	if got := knownBadOf(t, golden, set); got != "R(high)DK" {
		t.Error(got)
	}
	result := finding.Derive(finding.Input{Appraisal: a, KnownBad: set.Assess(a.Measurements, a.Claims.Claims), Now: boottest.At})
	i := slices.IndexFunc(result.Recommendations, func(r finding.Recommendation) bool { return r.Code == "revoked_boot_component" })
	if text := result.Recommendations[i].Description; !strings.Contains(text, "shimx64.efi of Debian") && !strings.Contains(text, "CVE-2026-99999; revoked since 2026-11-24") {
		t.Error(text)
	}
}
