package finding

import (
	"fmt"
	"time"

	"github.com/assay-verifier/assay/verifier/tee"
)

// Collateral should be renewed before it ends. What a hardware report was proven with (a chip's certificate, a CRL,
// Intel's TCB info) ends on a day that is known long before: then the report cannot be proven any more, or less of
// it is checked.
var teeCollateralExpiring = &Rule{
	Code:      "tee_collateral_expiring",
	Title:     "Collateral of hardware reports should be renewed before it expires",
	Severity:  Low,
	Area:      "tee",
	Kinds:     []Kind{KindRecommendation},
	Condition: "The first certificate, CRL or TCB info that a hardware report was proven with ends within 30 days (Intel's: 15 days); medium within 7 days.",
	Why:       "When it has ended the report is proven with less, or not at all, and a machine whose assurance rests on it fails.",
	Needs:     []string{"claims.platform", "collateral.tee"},
	Citations: []Citation{
		{"RFC 5280", "section 5.1.2.5 (nextUpdate)", "https://www.rfc-editor.org/rfc/rfc5280#section-5.1.2.5"},
		{"Intel Provisioning Certification Service API v4", "TCB info (nextUpdate)", "https://api.portal.trustedservices.intel.com/content/documentation.html"},
	},
	Steps: map[string][]string{
		"": {
			"Where the service may reach the vendors, turn on the job that fetches collateral: it renews it before it ends.",
			"Else fetch what the description names from AMD's KDS or Intel's PCS (or the cloud's cache of it) on a connected machine, and upload it: `assay collateral import FILE`, or `PUT /v1/collateral/...`.",
			"A machine may bring it itself, too: its agent sends the collateral that it is given along with its evidence.",
		},
		"linux":   {"On Linux, an agent that is configured to fetch certificates asks the cloud's metadata service for the chip's current one after a reboot."},
		"windows": {"On Windows, send the collateral from another machine, by `assay collateral import`."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		c := platformClaims(in.Appraisal)
		if c == nil {
			r.withoutReport(in, out, false)
			return
		}
		left := c.CollateralUntil.Sub(in.Now)
		if left > collateralNotice(c.TEEType) {
			r.settle(out)
			return
		}
		severity := r.Severity
		if left <= urgentNotice {
			severity = Medium
		}
		text := fmt.Sprintf("The first certificate, CRL or TCB info that the %s report of %s was proven with ends on %s. From then on the report is proven with less, or not at all: a machine whose assurance rests on it then fails.",
			technologyName(c.TEEType), in.subject(), c.CollateralUntil.UTC().Format(time.DateOnly))
		r.recommendAt(severity, in, out, text)
	},
}

// expiryNotice is how long before its end something is told of, urgentNotice when it becomes pressing.
const (
	expiryNotice = 30 * 24 * time.Hour
	urgentNotice = 7 * 24 * time.Hour
)

// collateralNotice is shorter for TDX: Intel issues TCB info, QE identities and CRLs for 30 days each, so that with a
// notice of as much, collateral that was fetched a minute ago would be told of.
func collateralNotice(teeType string) time.Duration {
	if teeType == string(tee.TDX) {
		return expiryNotice / 2
	}
	return expiryNotice
}
