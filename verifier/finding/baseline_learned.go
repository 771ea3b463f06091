package finding

import (
	"fmt"
	"slices"
	"strings"
)

// A policy may take a machine's first boot for its baseline. That is trust on first use: whoever had the machine before
// its first attestation has chosen what it is judged by. It ends once a person has activated a version.
var baselineLearned = &Rule{
	Code:      "baseline_learned",
	Title:     "A baseline that was learned should be confirmed by a person",
	Severity:  Low,
	Area:      "baseline",
	Kinds:     []Kind{KindRecommendation},
	Condition: "A valid baseline of the machine was learned at its first boot, and no person has activated a version since.",
	Why:       "What was learned is whatever booted first, also where that was changed already.",
	Needs:     []string{"baseline"},
	Citations: []Citation{
		{"RFC 9334 (RATS Architecture)", "section 7.4, Endorser, Reference Value Provider, and Verifier Owner", "https://www.rfc-editor.org/rfc/rfc9334#section-7.4"},
	},
	Steps: map[string][]string{
		"": {
			"Compare what was learned with a source that you trust: a machine of the same image that nobody could change, the vendor's values, or a prediction from the files (`assay baselines predict`).",
			"If it is right, register the same values as a further version of it in your own name (`assay baselines show` prints them, `assay baselines register` takes them) and promote that.",
			"Better, cover the machine by a baseline of its image, and retire and release the one that was learned.",
		},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		if in.Baselines == nil {
			return
		}
		var learned []string
		for _, v := range in.Baselines.Valid {
			confirmed := slices.ContainsFunc(in.Baselines.Valid, func(o BaselineVersion) bool { return o.Name == v.Name && !o.Learned })
			if v.Learned && !confirmed {
				learned = append(learned, fmt.Sprintf("%q (version %d)", v.Name, v.Version))
			}
		}
		if len(learned) == 0 {
			r.settle(out)
			return
		}
		r.recommend(in, out, in.name()+" is judged by what it booted first, and nobody has said that it was right: baseline "+strings.Join(learned, ", ")+".")
	},
}
