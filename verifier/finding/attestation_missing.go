package finding

import (
	"fmt"
	"strings"
	"time"
)

// Words of machines that are silent. They are found by the time alone, by whoever looks for deadlines that have passed.
const (
	CodeAttestationMissing = "attestation_missing"
	// CauseStale is the cause of guest_attestation_healthy while a machine is silent.
	CauseStale = "stale"
)

// A machine that has to attest and did not. Evidence of any kind ends it: what the evidence is worth is for the other
// rules. It is raised by whoever finds a deadline missed
// (Missing, MissingTogether), since no appraisal shows that evidence is missing.
var attestationMissing = &Rule{
	Code:      CodeAttestationMissing,
	Title:     "Attestation evidence is missing",
	Severity:  Medium,
	Area:      "attestation",
	Kinds:     []Kind{KindAlert},
	Condition: "The machine has not attested within its interval, the policy's grace (then the assessment is Unhealthy, cause stale) and the policy's delay.",
	Why:       "Nothing is known of a machine that is silent: it may be off, cut off, or kept from telling what it runs.",
	Needs:     []string{"history.deadlines", "policy.attestation_interval_seconds"},
	Citations: []Citation{
		{"RFC 9334 (RATS Architecture)", "section 10 (Freshness)", "https://www.rfc-editor.org/rfc/rfc9334#section-10"},
	},
	Steps: map[string][]string{
		"": {
			"Find out whether the machine runs. One that was retired should be released: `assay machines release <id>`.",
			"Check whether it reaches this service: its network, its proxy, the time of its clock.",
			"Until it attests again nothing is known of it: what relies on its last result should stop doing so.",
		},
		"linux":   {"On Linux, `systemctl status assay-agent` and `journalctl -u assay-agent` show what the agent does."},
		"windows": {"On Windows, look at the agent's service and at the event log."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		switch {
		case in.Silent != nil:
			r.alert(in, out, "", in.silence())
		case in.Appraisal != nil:
			r.clear(out)
		}
	},
}

// Silence is a deadline that a machine missed.
type Silence struct {
	HeardAt time.Time `json:"heard_at"` // zero where it never attested
	DueAt   time.Time `json:"due_at"`
}

// Stale is the assessment of a machine that is silent past its deadline.
func Stale(m *Machine, s Silence) Assessment {
	var out Result
	guestAttestationHealthy.evaluate(guestAttestationHealthy, &Input{Machine: *m, Silent: &s}, &out)
	return out.Assessments[0]
}

// Missing is the alert of one machine that is silent, which is known by an id. It is an incident of its own: what silences
// have in common is a mass silence's, and one more machine that is cut off has to be told of.
func Missing(id string, m *Machine, s Silence) Alert {
	var out Result
	attestationMissing.evaluate(attestationMissing, &Input{Machine: *m, Silent: &s}, &out)
	out.group(Group{Cause: []string{id}, Title: attestationMissing.Title + ": " + m.Name})
	return out.Alerts[0]
}

// MissingTogether is the one alert of many machines that went silent together: silent of them in a scope (see Scopes),
// of which heard others have attested since the first deadline was missed.
func MissingTogether(scope string, silent, heard int, since time.Time) Alert {
	var out Result
	attestationMissing.alert(&Input{}, &out, "", fmt.Sprintf("%d machines of %s missed their deadline from %s on; %d others of it have attested since. "+commonSuspect,
		silent, scopeInWords(scope), since.UTC().Format(time.RFC3339), heard))
	a := out.Alerts[0]
	a.RemediationSteps = append([]string{"Look for what the machines have in common before looking at any of them: `assay machines list --stale` lists them."}, a.RemediationSteps...)
	return a
}

// GrownTogether is what the alert of MissingTogether says once there are many more of them.
func GrownTogether(scope string, silent int, since time.Time) string {
	return fmt.Sprintf("%d machines of %s are silent by now; the first of them missed its deadline at %s. "+commonSuspect, silent, scopeInWords(scope), since.UTC().Format(time.RFC3339))
}

const commonSuspect = "What they have in common is the first suspect: the network, a proxy, a change that was rolled out. They have no alerts of their own while this lasts."

// silence says which deadline was missed.
func (in *Input) silence() string {
	due := in.Silent.DueAt.UTC().Format(time.RFC3339)
	if in.Silent.HeardAt.IsZero() {
		return fmt.Sprintf("%s has enrolled and never attested; its first evidence was due at %s.", in.name(), due)
	}
	return fmt.Sprintf("%s attested last at %s, and its next evidence was due at %s.", in.name(), in.Silent.HeardAt.UTC().Format(time.RFC3339), due)
}

func scopeInWords(scope string) string {
	kind, value, _ := strings.Cut(scope, ":")
	switch kind {
	case scopeFleet:
		return "the fleet"
	case scopePlatform:
		return "platform " + value
	case scopeScaleSet:
		return "scale set " + value
	}
	key, value, _ := strings.Cut(value, "=")
	return key + " " + value
}
