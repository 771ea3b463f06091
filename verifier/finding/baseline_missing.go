package finding

// Without a baseline a verdict says that the evidence is genuine, and nothing of whether what booted was meant to. A
// baseline whose versions were all withdrawn is no case of it: its machines fail, and the verdict says why.
var baselineMissing = &Rule{
	Code:      "baseline_missing",
	Title:     "A baseline should cover each machine that attests",
	Severity:  Low,
	Area:      "baseline",
	Kinds:     []Kind{KindRecommendation},
	Condition: "The machine has sent genuine evidence, and no baseline covers it.",
	Why:       "Only a baseline tells what the machine was meant to boot. Without one, another boot loader or kernel changes no verdict.",
	Needs:     []string{"baseline", "verdict"},
	Citations: []Citation{
		{"RFC 9334 (RATS Architecture)", "section 8.3, Reference Values", "https://www.rfc-editor.org/rfc/rfc9334#section-8.3"},
		{"NIST SP 800-155 (draft)", "section 3, golden measurements", "https://csrc.nist.gov/pubs/sp/800/155/ipd"},
	},
	Steps: map[string][]string{
		"": {
			"Register a baseline whose selector covers the machine: from the pipeline that builds its image (`assay baselines register`), from a signed document of its vendor (`assay baselines import`), or predicted from its files (`assay baselines predict`).",
			"Where none of these exists, take what this machine has booted: `assay baselines capture` makes a baseline of its last genuine verdict. Look at what it holds first.",
			"Once every machine has one, set require_baseline in the policy, so that a machine without one fails.",
		},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		if in.Baselines == nil || in.Appraisal == nil || !in.Appraisal.Genuine {
			return
		}
		if len(in.Baselines.Valid)+len(in.Baselines.Withdrawn) > 0 {
			r.settle(out)
			return
		}
		r.recommend(in, out, in.name()+" sends genuine evidence, but no baseline covers it: whether what it booted is what it was meant to boot, nothing judges.")
	},
}
