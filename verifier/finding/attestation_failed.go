package finding

import (
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier"
)

// R4 and R5: attestation failed. It is raised by every failed appraisal, periodic or after boot, where
// vTPM is on and the agent is installed, and says which of the two reasons it was. A confidential VM that attests
// without a TPM has its hardware report in place of one. It ends with the next appraisal that does not fail.
var attestationFailed = &Rule{
	Code:     "attestation_failed",
	Title:    "Attestation failed for your virtual machine",
	Severity: Medium,
	Citation: "RFC 9334, section 8.4 (Attestation Results)",
	Steps:    attestationSteps,
	evaluate: func(r *Rule, in *Input, out *Result) {
		a := in.Appraisal
		if a == nil || !in.Machine.NoTPM && !isTrue(in.vtpm()) || !isTrue(in.agent()) {
			return
		}
		if a.Status != verifier.Contraindicated {
			r.clear(out)
			return
		}
		r.alert(in, out, a.Reason, explain(in, a))
		out.group(causeOf(a))
	},
}

var attestationSteps = map[string][]string{
	"": {
		"Read the verdict of the alert: its checks say what failed, its deviations what was measured instead of what.",
		"Where the change was announced, `assay alerts approve <id> --preview` shows what approving it would allow.",
		"If the change was meant (an update, a new configuration), capture or register a new baseline version that allows it.",
		"If it was not meant, isolate the machine, keep its disk for examination, and reinstall it from a trusted image.",
		"If the origin could not be verified, check whether the machine was restored from a snapshot, cloned or moved; if not, treat the path between agent and verifier, and the machine, as compromised.",
		"If Secure Boot has to stay off on this machine, make a suppression rule for its scope.",
	},
	"linux":   {"On Linux, `mokutil --sb-state` shows the state of Secure Boot, `journalctl -k -b` what the kernel refused."},
	"windows": {"On Windows, `Confirm-SecureBootUEFI` shows the state of Secure Boot, the CodeIntegrity event log what was refused."},
}

// maxListed bounds the lines of a description; the verdict has all.
const maxListed = 20

// explain says in plain words why an appraisal failed.
func explain(in *Input, a *verifier.Appraisal) string {
	if a.Reason == verifier.OriginUnverified {
		own := "TPM"
		if in.Machine.NoTPM {
			own = "hardware"
		}
		return "The evidence could not be verified to come from this machine's own " + own + "; something may be intercepting the traffic to it. " +
			in.name() + " failed: " + listChecks(a, verifier.Fail)
	}
	var b strings.Builder
	b.WriteString(in.name() + " is genuine, but not what it is meant to be; untrusted modules may have been loaded.")
	if len(a.Deviations) > 0 {
		b.WriteString(" Different from the trusted baseline: ")
		for i := range a.Deviations {
			if i == maxListed {
				fmt.Fprintf(&b, "; and %d more", len(a.Deviations)-maxListed)
				break
			}
			if i > 0 {
				b.WriteString("; ")
			}
			b.WriteString(describe(&a.Deviations[i]))
		}
		b.WriteString(".")
	}
	if rest := failuresBeside(a, verifier.CheckBaselineMatch, verifier.CheckIMAPolicy); rest != "" {
		b.WriteString(" Failed: " + rest)
	} else if len(a.Deviations) == 0 {
		b.WriteString(" Failed: " + listChecks(a, verifier.Fail))
	}
	return b.String()
}

// describe gives one deviation in its own plain words, with its register.
func describe(d *verifier.Deviation) string {
	text := strings.TrimSuffix(d.Description, ".")
	register := d.Register()
	if register == "" || strings.HasPrefix(text, "PCR ") || strings.HasPrefix(text, "RTMR ") {
		return text
	}
	return fmt.Sprintf("%s (%s)", text, register)
}

// failuresBeside lists failed checks other than those whose deviations are listed.
func failuresBeside(a *verifier.Appraisal, listed ...verifier.CheckCode) string {
	rest := verifier.Appraisal{}
	for _, c := range a.Checks {
		skip := false
		for _, code := range listed {
			skip = skip || c.Code == code
		}
		if !skip {
			rest.Checks = append(rest.Checks, c)
		}
	}
	return listChecks(&rest, verifier.Fail)
}

// listChecks names the checks of a status with their details. Of the skipped ones only a nonce that
// nobody expected is worth a word.
func listChecks(a *verifier.Appraisal, statuses ...verifier.CheckStatus) string {
	var parts []string
	for _, c := range a.Checks {
		for _, s := range statuses {
			if c.Status != s || (s == verifier.Skipped && c.Code != verifier.CheckQuoteNonce) {
				continue
			}
			parts = append(parts, fmt.Sprintf("%s (%s)", c.Code, strings.TrimSuffix(c.Detail, ".")))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, "; ") + "."
}
