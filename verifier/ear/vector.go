package ear

import (
	"strings"

	"github.com/assay-verifier/assay/verifier"
)

// checkStates is the status of each check that the vector speaks of; a check that is absent is
// skipped.
type checkStates []verifier.Check

func (s checkStates) get(code verifier.CheckCode) verifier.CheckStatus {
	for i := range s {
		if s[i].Code == code {
			return s[i].Status
		}
	}
	return verifier.Skipped
}

// originChecks are the checks that decide whether the evidence is this machine's at all. The AK has
// its own value, so it is not among them.
var originChecks = [...]verifier.CheckCode{
	verifier.CheckPlatformBinding, verifier.CheckQuoteSignature, verifier.CheckQuoteType,
	verifier.CheckQuoteNonce, verifier.CheckQuoteSelection, verifier.CheckQuoteDigest,
	verifier.CheckQuoteClock, verifier.CheckEventLogReplay, verifier.CheckIMAReplay,
}

// vector maps the checks. What is not proven makes no claim: where the origin failed, only the
// identity and the hardware are spoken of, and neither is affirmed. An affirming appraisal has no value outside the affirming
// tier, since its warnings were judged to be harmless.
func vector(a *verifier.Appraisal) Vector {
	states := checkStates(a.Checks)
	v := Vector{InstanceIdentity: identity(states), Hardware: hardware(a)}
	if a.Genuine {
		v.Configuration = configuration(states)
		v.Executables = executables(states)
	} else {
		// A key whose hardware report was refused, say: nothing contradicts it, and nothing proves it.
		for _, p := range [...]*int8{&v.InstanceIdentity, &v.Hardware} {
			if tierOf(*p) == verifier.Affirming {
				*p = noClaim
			}
		}
	}
	if a.Status == verifier.Affirming {
		for _, p := range [...]*int8{&v.InstanceIdentity, &v.Configuration, &v.Executables, &v.Hardware} {
			if tierOf(*p) == verifier.Warning {
				*p = noClaim
			}
		}
	}
	return v
}

func identity(s checkStates) int8 {
	if s.get(verifier.CheckAKTrusted) == verifier.Fail {
		return identityNotRecognised
	}
	for _, code := range originChecks {
		if s.get(code) == verifier.Fail {
			return cryptographyFailed
		}
	}
	switch {
	case s.get(verifier.CheckQuoteSignature) != verifier.Pass:
		return noClaim
	case s.get(verifier.CheckAKTrusted) == verifier.Pass:
		return identityTrustworthy
	case s.get(verifier.CheckAKTrusted) == verifier.Warn:
		return identityUnproven
	}
	return noClaim
}

// hardware speaks of the processor of a confidential VM. Its report is genuine and this machine's, and nothing about it
// was refused; or it is one of the things that AR4SI has the value 96 for: hardware that is recognised, and cannot be
// trusted as it is (draft-ietf-rats-ar4si-08, section 2.3.4, hardware).
func hardware(a *verifier.Appraisal) int8 {
	s := checkStates(a.Checks)
	for i := range s {
		if s[i].Status == verifier.Fail && strings.HasPrefix(string(s[i].Code), "platform.") {
			return hardwareNotGenuine
		}
	}
	report, binding := s.get(verifier.CheckPlatformReport), s.get(verifier.CheckPlatformBinding)
	switch {
	case report == verifier.Warn, report == verifier.Pass && binding == verifier.Pass && knownVulnerable(a.Claims.Relying):
		return hardwareVulnerable
	case report == verifier.Pass && binding == verifier.Pass:
		return hardwareGenuine
	}
	return noClaim
}

// knownVulnerable tells whether Intel says that the TCB, which the policy admits, has known vulnerabilities.
func knownVulnerable(r *verifier.RelyingClaims) bool {
	if r == nil {
		return false
	}
	switch r.TCBStatus {
	case "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked":
		return true
	}
	return false
}

func configuration(s checkStates) int8 {
	if s.get(verifier.CheckPolicyRules) == verifier.Fail {
		return configurationUnsafe
	}
	switch s.get(verifier.CheckSecureBoot) {
	case verifier.Pass:
		return configurationApproved
	case verifier.Warn:
		return configurationNotShown
	case verifier.Fail:
		return configurationUnsafe
	}
	return noClaim
}

func executables(s checkStates) int8 {
	boot, runtime := s.get(verifier.CheckBaselineMatch), s.get(verifier.CheckIMAPolicy)
	switch {
	case boot == verifier.Fail || runtime == verifier.Fail:
		return executablesRefused
	case boot == verifier.Warn || runtime == verifier.Warn:
		return executablesUnknown
	case boot == verifier.Pass && runtime == verifier.Pass:
		return executablesApproved
	case boot == verifier.Pass:
		return executablesApprovedNow
	}
	return noClaim
}

// tierOf is the tier of one value (draft-ietf-rats-ar4si, section 2.3.2).
func tierOf(v int8) verifier.Status {
	switch {
	case v >= 96:
		return verifier.Contraindicated
	case v >= 32:
		return verifier.Warning
	case v >= 2:
		return verifier.Affirming
	}
	return verifier.None
}

// tier is the worst tier in the vector; None when it makes no claim.
func tier(v Vector) verifier.Status {
	worst := verifier.None
	for _, n := range [...]int8{v.InstanceIdentity, v.Configuration, v.Executables, v.Hardware} {
		worst = max(worst, tierOf(n))
	}
	return worst
}

// worse is the less trusted of an appraisal's status and the vector's tier. Status None stays None:
// what was not appraised is not improved, and not worsened, by its vector; only Contraindicated is
// worse than it.
func worse(status, vectorTier verifier.Status) verifier.Status {
	if status == verifier.None && vectorTier != verifier.Contraindicated {
		return verifier.None
	}
	return max(status, vectorTier)
}
