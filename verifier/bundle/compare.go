package bundle

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/chain"
)

// compare holds the stored judgement against the one of now. What decides has to be the same: status, reason, assurance, whether the
// evidence is genuine, baseline, policy, each check and its outcome, each deviation. Words, citations and claims may have
// changed with the engine; that they have is noted.
func compare(folder string, v *Verdict, stored, again *verifier.Appraisal) judged {
	var faults []Fault
	differ := func(what, expected, found string) {
		if expected != found {
			faults = append(faults, Fault{Kind: FaultJudgement, Entry: folder + "verdict.json", Detail: what + " is another one", Expected: expected, Found: found})
		}
	}
	differ("the status", v.Status, again.Status.String())
	differ("the reason", v.Reason, string(again.Reason))
	differ("the assurance", v.Assurance, string(again.Assurance))
	differ("whether the evidence is genuine", fmt.Sprint(v.Genuine), fmt.Sprint(again.Genuine))
	differ("the status in the appraisal", stored.Status.String(), again.Status.String())
	differ("the reason in the appraisal", string(stored.Reason), string(again.Reason))
	differ("the baseline", references(stored.Baseline, stored.Layers), references(again.Baseline, again.Layers))
	differ("the policy", references(&stored.Policy, nil), references(&again.Policy, nil))
	differ("the outcome of the checks", checks(stored), checks(again))
	differ("the list of deviations", deviations(stored), deviations(again))
	if len(faults) > 0 {
		return judged{outcome: Differs, faults: faults}
	}
	out := judged{outcome: Agreed}
	if !sameWords(stored, again) {
		out.note = "the same judgement in other words: the engine has changed since"
	}
	return out
}

func references(first *verifier.VersionRef, layers []verifier.VersionRef) string {
	if first == nil {
		return "none"
	}
	if len(layers) == 0 {
		layers = []verifier.VersionRef{*first}
	}
	names := make([]string, len(layers))
	for i, r := range layers {
		names[i] = fmt.Sprintf("%s version %d", r.ID, r.Version)
	}
	return strings.Join(names, " over ")
}

func checks(a *verifier.Appraisal) string {
	list := make([]string, len(a.Checks))
	for i := range a.Checks {
		list[i] = string(a.Checks[i].Code) + " " + string(a.Checks[i].Status)
	}
	return strings.Join(list, ", ")
}

func deviations(a *verifier.Appraisal) string {
	list := make([]string, len(a.Deviations))
	for i := range a.Deviations {
		d := &a.Deviations[i]
		list[i] = fmt.Sprintf("PCR %d %s%s %s %q", d.PCR, d.Bank, d.Kind, d.Component, d.Actual)
	}
	return strings.Join(list, ", ")
}

// sameWords tells whether the two are the same but for what is looked up in the store when evidence is judged there: which
// other reference values list what deviates, and what they say that it is (verifier.Deviation, NameKnown).
func sameWords(stored, again *verifier.Appraisal) bool {
	plain := func(a *verifier.Appraisal) []byte {
		with := *a
		with.Measurements = nil // claims that are marshalled already
		with.Deviations = slices.Clone(a.Deviations)
		for i := range with.Deviations {
			if d := &with.Deviations[i]; i < len(stored.Deviations) && stored.Deviations[i].Known != "" {
				d.Known, d.Now, d.Description = "", "", ""
			}
		}
		b, err := with.AppendJSON(nil)
		if err != nil {
			return nil
		}
		return b
	}
	return bytes.Equal(plain(stored), plain(again))
}

func runOf(at *time.Time, count *int64) string {
	if at == nil || count == nil {
		return "nothing"
	}
	return fmt.Sprintf("to %s, %d times", chain.Time(*at), *count)
}
