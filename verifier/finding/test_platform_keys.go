package finding

import (
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier/eventlog"
)

// Keys that were made for tests own nothing: whoever has such a platform key's private part, and that is the public
// by now, may replace KEK, db and dbx from the running system, and Secure Boot stays on all the while.
var testPlatformKeys = &Rule{
	Code:      "test_platform_keys",
	Title:     "Secure Boot should not rest on test keys or leaked keys",
	Severity:  High,
	Area:      "secure_boot",
	Kinds:     []Kind{KindRecommendation},
	Condition: "A certificate in PK, KEK or db is a maker's test key (PKfail), or its private key is published. Low where Secure Boot is proven to be off.",
	Why:       "With the private key of PK or KEK anybody can add his own certificate to db, and with that of db sign a boot loader; Secure Boot then checks signatures of the attacker's.",
	Needs:     []string{"claims.pk", "claims.kek", "claims.db", "claims.secure_boot"},
	Citations: []Citation{
		{"Binarly BRLY-2024-005 (PKfail)", "Detection; list of untrusted PKs", "https://github.com/binarly-io/Vulnerability-REsearch/blob/main/PKfail/BRLY-2024-005.md"},
		{"CERT/CC VU#455367, CVE-2024-8105", "Insecure Platform Key (PK) used in UEFI system firmware signature", "https://kb.cert.org/vuls/id/455367"},
		{"UEFI Specification 2.10", "section 32.3.1 (enrolling the platform key)", "https://uefi.org/specs/UEFI/2.10/32_Secure_Boot_and_Driver_Signing.html"},
	},
	Steps: map[string][]string{
		"": {
			"Install the firmware update of the machine's maker that replaces the key; if there is none, put keys of your own into PK, KEK and db in the firmware setup.",
			"Look at what is in KEK, db and dbx now: whoever held the leaked key may have added to them.",
			"Capture a new baseline afterwards, since PCR 7 changes.",
		},
		"linux":   {"On Linux, `efi-readvar -v PK` (or `mokutil --pk`) shows the key; `sbctl` makes and installs keys of your own."},
		"windows": {"On Windows, `[System.Text.Encoding]::ASCII.GetString((Get-SecureBootUEFI PK).bytes) -match \"DO NOT TRUST|DO NOT SHIP\"` in an elevated PowerShell tells."},
		"qemu":    {"On QEMU, start the machine with variables that hold real keys (OVMF_VARS.ms.fd) in place of the snakeoil ones."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		c := provenClaims(in)
		if c == nil || c.PK == nil && c.KEK == nil && c.DB == nil {
			return
		}
		parts := testKeys(nil, "PK", c.PK)
		parts = testKeys(parts, "KEK", c.KEK)
		parts = testKeys(parts, "db", c.DB)
		if len(parts) == 0 {
			if c.PK != nil { // the others say nothing of the key that owns the machine
				r.settle(out)
			}
			return
		}
		severity, text := r.Severity, "Secure Boot of "+in.subject()+" rests on keys whose private part others hold: "+strings.Join(parts, "; ")+"."
		if isFalse(c.SecureBoot) {
			severity, text = Low, text+" It is off at present; turned on, it would protect from nobody."
		}
		r.recommendAt(severity, in, out, text)
	},
}

// provenClaims are the claims of genuine evidence; nil without.
func provenClaims(in *Input) *eventlog.Claims {
	if in.Appraisal == nil || !in.Appraisal.Genuine {
		return nil
	}
	return in.Appraisal.Claims.Claims
}

// testKeys adds what is wrong with the certificates of a database.
func testKeys(parts []string, name string, db *eventlog.SignatureDatabase) []string {
	if db == nil {
		return parts
	}
	for i := range db.Certificates {
		c := &db.Certificates[i]
		if why := testKey(c); why != "" && len(parts) < maxListed {
			parts = append(parts, fmt.Sprintf("%s has %s, %s", name, nameOfCertificate(c), why))
		}
	}
	return parts
}

// nameOfCertificate is how a description calls a certificate.
func nameOfCertificate(c *eventlog.Certificate) string {
	if c.Name == "" {
		return "a certificate without a name (SHA-256 " + c.SHA256[:min(16, len(c.SHA256))] + "…)"
	}
	return `"` + c.Name + `"`
}

// testKey says why a certificate's private key is to be taken as known; empty where nothing says so.
func testKey(c *eventlog.Certificate) string {
	if why := publishedKeys[c.SHA256]; why != "" {
		return why
	}
	marked := func(name string) bool {
		return strings.Contains(name, "DO NOT TRUST") || strings.Contains(name, "DO NOT SHIP")
	}
	switch {
	case pkfailSerials[c.Serial] && (marked(c.Subject) || marked(c.Issuer)):
		return "a test key of AMI's on the list of PKfail (CVE-2024-8105)"
	case marked(c.Subject), marked(c.Issuer):
		return "which names itself a test key"
	}
	return ""
}

// publishedKeys are certificates whose private key anybody can download, by the SHA-256 of their DER.
var publishedKeys = map[string]string{
	// debian/PkKek-1-snakeoil.{key,pem} of Debian's source package edk2; in the package ovmf as /usr/share/ovmf.
	"282e8130b7070f107aaecc25d3992ca4440270860b09088792a5075fab0d13f8": "Debian's snakeoil key, whose private part is in the package ovmf",
}

// pkfailSerials are the serial numbers of the platform keys that Binarly found in firmware of more than ten makers, as
// Certificate.Serial writes them (BRLY-2024-005, retrieved 2026-11-25). Each is marked in its subject or issuer, too.
var pkfailSerials = map[string]bool{
	"55fbef878123008447170bb3cd873af4":  true,
	"-8c2d1c36c9b514fb37c6a020812cd59":  true,
	"-15fe0d049b3b7470bc6f1ad296edc47b": true,
	"-3d0b418817bb6d55b0d679ba5e56d3a7": true,
	"-1bed93e2594e2b60be6b1f01c9afa637": true,
	"584c656dd40d8dae48e5ecbba97f6f51":  true,
	"-b799448a77741b11682d2be16503b":    true,
	"1aa9c761c86abe884d85f5ad2b953bf1":  true,
	"271d73f22b76f7b24d52e152e040ebdd":  true,
	"-621d1a58a834f262bf4e2be527e9321c": true,
	"751548571ac5499d4be32511e17d413a":  true,
	"39e77f95d59d7483460cb0067554abf5":  true,
	"33c9da4a889052a54dda26fec3c7bcbe":  true,
	"-45d3fd0033525d45b536de474e15cc56": true,
	"4518b4224e57128b441825a1f45e811d":  true,
	"-3ee50134bda5df51bf6ea56f2a78088f": true,
	"-8d71ad0151ff541bb20e7ee5521996d":  true,
	"-520b5c2169a25a64bbabf5d8ef5a7cce": true,
	"18ab836014846e8447d4bcea92444bd2":  true,
	"-79f37c33751bf5cb33b53739224e6c6":  true,
	"-d4e5614a0939251b3a55899ce7c4003":  true,
	"-4f95812ea5056267b44666d1f75c229d": true,
}
