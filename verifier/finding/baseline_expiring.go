package finding

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A baseline whose last valid version ends fails its machines from then on (checkBaseline). That is meant to be noticed
// before.
var baselineExpiring = &Rule{
	Code:      "baseline_expiring",
	Title:     "A baseline should be renewed before its last version ends",
	Severity:  Low,
	Area:      "baseline",
	Kinds:     []Kind{KindRecommendation},
	Condition: "All valid versions of a baseline of the machine end within 14 days (medium: within 3).",
	Why:       "Once the last version has ended, every machine that the baseline covers fails, whatever it booted.",
	Needs:     []string{"baseline"},
	Citations: []Citation{
		{"RFC 9334 (RATS Architecture)", "section 10, Freshness", "https://www.rfc-editor.org/rfc/rfc9334#section-10"},
	},
	Steps: map[string][]string{
		"": {
			"If the software is to stay, register the same reference values as a new version without an end, or with a later one, and promote it.",
			"If it is to be replaced, register and promote the version of its replacement first, and let the machines move.",
			"If the machines need no baseline any more, retire it with `release`, so that they are judged without it.",
		},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		if in.Baselines == nil {
			return
		}
		var parts []string
		severity := Low
		for _, last := range lastEnds(in.Baselines.Valid) {
			left := last.Until.Sub(in.Now)
			if left > baselineNotice {
				continue
			}
			if left <= baselineUrgent {
				severity = Medium
			}
			parts = append(parts, fmt.Sprintf("baseline %q at %s, with version %d", last.Name, last.Until.UTC().Format(time.RFC3339), last.Version))
		}
		if len(parts) == 0 {
			r.settle(out)
			return
		}
		r.recommendAt(severity, in, out, "What "+in.subject()+" is judged by ends, and nothing follows it: "+strings.Join(parts, "; ")+".")
	},
}

// How long before the end it is told, and from when on it is pressing.
const (
	baselineNotice = 14 * 24 * time.Hour
	baselineUrgent = 3 * 24 * time.Hour
)

// lastEnds is, of each baseline whose versions all end, the one that ends last; by name.
func lastEnds(valid []BaselineVersion) []BaselineVersion {
	last, endless := map[string]BaselineVersion{}, map[string]bool{}
	for _, v := range valid {
		switch before, seen := last[v.Name]; {
		case v.Until == nil:
			endless[v.Name] = true
		case !seen || v.Until.After(*before.Until):
			last[v.Name] = v
		}
	}
	var out []BaselineVersion
	for name, v := range last {
		if !endless[name] {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b BaselineVersion) int { return strings.Compare(a.Name, b.Name) })
	return out
}
