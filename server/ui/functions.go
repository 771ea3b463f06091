package ui

import (
	"fmt"
	"html/template"
	"time"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// functions are what templates can call.
var functions = template.FuncMap{
	"at":             at,
	"assessment":     func(s finding.AssessmentStatus) string { return assessmentWord(string(s)) },
	"assurance":      assuranceWord,
	"checkTitle":     checkTitle,
	"checkWord":      checkWord,
	"component":      componentName,
	"count":          count,
	"count64":        func(n int, one, many string) string { return count(int64(n), one, many) },
	"eventText":      eventText,
	"evidence":       evidenceName,
	"isDigest":       isDigest,
	"kinds":          kindWord,
	"mark":           mark,
	"nav":            navEntry,
	"platform":       platformName,
	"reasonMeaning":  reasonMeaning,
	"reasonWord":     reasonWord,
	"register":       func(d verifier.Deviation) string { return d.Register() },
	"rows":           func(l layout, items any, machine bool) rows { return rows{l.Now, items, machine} },
	"scopeText":      conditionsOf,
	"security":       securityTypeName,
	"shortDigest":    verifier.ShortDigest,
	"statusMark":     statusMark,
	"statusWord":     statusWord,
	"text":           func(v any) string { return fmt.Sprint(v) },
	"thousands":      thousands,
	"tone":           tone,
	"verdictMeaning": verdictMeaning,
	"words":          words,
}

// rows is what the templates of table rows get: Items, and whether the machine gets a column.
type rows struct {
	Now     time.Time
	Items   any
	Machine bool
}

func navEntry(l layout, value, link, label string) choice {
	return choice{Value: value, Link: link, Label: label, Selected: l.Nav == value}
}

// mark is the sign of a check's outcome. What is none of the four counts as failed.
func mark(s verifier.CheckStatus) string {
	switch s {
	case verifier.Pass, verifier.Warn, verifier.Skipped:
		return string(s)
	}
	return string(verifier.Fail)
}

func checkWord(s verifier.CheckStatus) string {
	return map[string]string{"pass": "Passed", "warn": "Warning", "skipped": "Skipped", "fail": "Failed"}[mark(s)]
}

// statusMark is the sign of a verdict's status.
func statusMark(status string) string {
	switch status {
	case "affirming":
		return "pass"
	case "warning":
		return "warn"
	case "contraindicated":
		return "fail"
	}
	return "skipped"
}

// tone chooses the colour of a claim's value: only answers have one.
func tone(value string) string {
	if value == "yes" || value == "no" {
		return "claim-" + value
	}
	return "text"
}

func reasonMeaning(r verifier.Reason) string {
	switch r {
	case verifier.OriginUnverified:
		return "The evidence could not be shown to come from this machine’s own TPM. Something may be answering in its place, or intercepting its traffic."
	case verifier.BaselineDeviation:
		return "The evidence is genuine, and what it attests is not what was expected. Untrusted modules may have been loaded."
	}
	return ""
}

// verdictMeaning says a verdict in one sentence.
func verdictMeaning(a verifier.Appraisal) string {
	switch {
	case a.Reason != verifier.NoReason:
		return reasonMeaning(a.Reason)
	case a.Status == verifier.Affirming && a.Baseline != nil:
		return "The evidence is genuine, and the machine booted what its baseline expects."
	case a.Status == verifier.Affirming:
		return "The evidence is genuine and satisfies the policy. No baseline applies to this machine."
	case a.Status == verifier.Warning:
		return "The evidence is genuine, but something about it needs a look: see the checks that warn."
	case a.Status == verifier.Contraindicated:
		return "The evidence does not satisfy the policy: see the checks that failed."
	}
	return "Nothing in the evidence could be judged."
}
