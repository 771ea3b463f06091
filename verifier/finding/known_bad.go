package finding

import (
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier/revocations"
)

// knownBad is what is known to be bad of a proven boot; nil where the evidence proves nothing.
func knownBad(in *Input) *revocations.Assessment {
	if in.Appraisal == nil || !in.Appraisal.Genuine {
		return nil
	}
	return in.KnownBad
}

// enforced tells whether Secure Boot may be on: where it is proven to be off, its lists refuse nothing, and to bring
// them up to date would help nobody.
func enforced(in *Input) bool {
	c := in.Appraisal.Claims.Claims
	return c == nil || !isFalse(c.SecureBoot)
}

// maxCVEs bounds the identifiers that a sentence names.
const maxCVEs = 6

// advisory says in words why something was revoked.
func advisory(a *revocations.Advisory) string {
	var parts []string
	switch {
	case len(a.CVEs) > maxCVEs:
		parts = append(parts, fmt.Sprintf("%s and %d more", strings.Join(a.CVEs[:maxCVEs], ", "), len(a.CVEs)-maxCVEs))
	case len(a.CVEs) > 0:
		parts = append(parts, strings.Join(a.CVEs, ", "))
	case a.Description != "":
		parts = append(parts, a.Description)
	}
	if a.Added != "" {
		parts = append(parts, "revoked since "+a.Added)
	}
	return strings.Join(parts, "; ")
}

// product names what an advisory is about: the file and who made it.
func product(a *revocations.Advisory) string {
	name := a.File
	if a.Company != "" && a.Company != "Unknown" {
		if name != "" {
			name += " of "
		}
		name += a.Company
	}
	return name
}
