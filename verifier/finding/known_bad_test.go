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

// What the shipped data says of each real boot log, and why it is true. What is not here has nothing of the kind.
var knownBadTable = map[string]string{
	// Secure Boot with Microsoft's certificates of 2011 alone and a dbx of its day; shim at its first level.
	"eventlogs/baremetal/guard-set-elitebook830g6-mok-baseline": "DKS",
	"eventlogs/baremetal/guard-set-elitebook830g6-mokx-added":   "DKS",
	// Windows whose boot manager the Production PCA of 2011 verified: CVE-2023-24932, an optional revocation.
	"eventlogs/baremetal/guard-set-t480s-win10":                 "R(medium)DK",
	"eventlogs/baremetal/guard-tpm12_windows_lenovo_x1carbonv3": "R(medium)DK",
	"quotes/guard-dell-r340-win2019-a":                          "R(medium)DK",
	"quotes/guard-supermicro-win2022-a":                         "R(medium)", // its firmware does not measure db
	// Shims of 2018 to 2021 that dbx revoked in 2020 and 2021 (BootHole and what followed).
	"eventlogs/gce/rhel8-uefi.bin":                  "R(high)DK",
	"eventlogs/gce/ubuntu-1804-amd-sev.bin":         "R(high)", // Secure Boot is off
	"eventlogs/misc/goattest-sb_cert_eventlog":      "R(high)DK",
	"eventlogs/misc/keylime-mb_log.bin":             "R(high)DK",
	"eventlogs/misc/tpm2-tools-event-bootorder.bin": "R(high)", // Secure Boot is off
	"eventlogs/misc/tpm2-tools-event-postcode.bin":  "R(high)DK",
	// Nothing revoked, but an old dbx and the certificates of 2011.
	"eventlogs/gce/debian-10.bin":             "DK",
	"quotes/goattest-windows-gce-shielded-vm": "DK",
	"quotes/guard-haruhi-gentoo-a":            "DK",
	"quotes/guard-haruhi-gentoo-b":            "DK",
	// The project's own: OVMF's keys of Microsoft of 2011 and an empty dbx.
	"boots/cmdline":          "DK",
	"boots/grubcfg-tampered": "DK",
	"boots/hw-changed":       "DK",
	"boots/ima-critical":     "DK",
	"boots/ima-ng":           "DK",
	"boots/ima-tcb-1":        "DK",
	"boots/ima-tcb-2":        "DK",
	"boots/initrd-tampered":  "DK",
	"boots/mok-signed":       "DK",
	"boots/sb-on-1":          "DK",
	"boots/sb-on-2":          "DK",
	"boots/sb-on-otherbox":   "DK",
	"boots/sb-on-sha384bank": "DK",
	"boots/unlogged-extend":  "DK",
}

func TestKnownBadOfRealLogs(t *testing.T) {
	set, err := revocations.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, path := range boottest.Specimens(t, "../..") {
		name := boottest.Name(path)
		seen[name] = true
		if got := knownBadOf(t, path, set); got != knownBadTable[name] {
			t.Errorf("%q: %q,", name, got)
		}
	}
	for name := range knownBadTable {
		if !seen[name] {
			t.Errorf("%s is no specimen", name)
		}
	}
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
