package finding

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/assay-verifier/assay/verifier"
)

// Group is what the alerts of one cause share, on whatever machines: they are one incident. It holds nothing that is of
// one machine alone, but for the silence of one (Missing).
//
// The zero Group stands for all alerts of the code and reason.
type Group struct {
	// Cause names what happened, in stable words: it is part of the key.
	Cause []string
	// Title says it to people, without a machine ("grubx64.efi changed"). Empty stands for the alert's display name.
	Title string
}

// GroupKey is the SHA-256 that alerts of one cause share: over code, reason and the parts of the cause, each ended by a
// zero byte. Migration 0012 computes it likewise for alerts that were there before.
func (a *Alert) GroupKey() [32]byte {
	h := sha256.New()
	for _, part := range append([]string{a.Code, string(a.Reason)}, a.Group.Cause...) {
		h.Write([]byte(strings.ReplaceAll(part, "\x00", "\uFFFD")))
		h.Write([]byte{0})
	}
	return [32]byte(h.Sum(nil))
}

// GroupTitle is what the alerts of the cause are called.
func (a *Alert) GroupTitle() string {
	if a.Group.Title != "" {
		return a.Group.Title
	}
	return a.DisplayName
}

// causeOf is what a failed appraisal has in common with that of another machine that failed by the same: which checks of
// origin failed, or which events, claims and registers deviate, and how. Names, places and times of the machine are left
// out, and so are values of registers, which differ between machines where one event of theirs does. Of IMA's list the
// first file that is not allowed counts: what ran besides differs from machine to machine.
func causeOf(a *verifier.Appraisal) Group {
	if a.Reason == verifier.OriginUnverified {
		codes := failedChecks(a)
		return Group{Cause: codes, Title: "The origin of evidence could not be verified: " + strings.Join(codes, ", ")}
	}
	var g Group
	var titles []string
	files := 0
	for i := range a.Deviations {
		d := &a.Deviations[i]
		if d.EventType == imaEvent {
			if files++; files > 1 {
				continue
			}
		}
		g.Cause = append(g.Cause, deviationCause(d))
		titles = append(titles, deviationTitle(d))
	}
	slices.Sort(g.Cause)
	g.Cause = slices.Compact(g.Cause)
	var checks []string
	for _, code := range failedChecks(a) {
		if len(a.Deviations) == 0 || code != string(verifier.CheckBaselineMatch) && code != string(verifier.CheckIMAPolicy) {
			checks = append(checks, code)
		}
	}
	g.Cause = append(g.Cause, checks...)
	if len(checks) > 0 {
		titles = append(titles, "failed "+strings.Join(checks, ", "))
	}
	g.Title = summary(titles)
	return g
}

// imaEvent is the event type of deviations in IMA's list.
const imaEvent = "IMA"

func failedChecks(a *verifier.Appraisal) []string {
	var out []string
	for i := range a.Checks {
		if a.Checks[i].Status == verifier.Fail {
			out = append(out, string(a.Checks[i].Code))
		}
	}
	return out
}

// longestClaim is the most characters of a claim's value that counts as one that machines share: true, false, a number or
// a word. A command line names disks.
const longestClaim = 16

// deviationCause is one deviation in stable words.
func deviationCause(d *verifier.Deviation) string {
	what, value := d.EventType, d.Actual
	switch {
	case d.EventType == imaEvent:
		value = d.Now + " " + d.Actual
	case d.EventType != "" && d.Actual == "":
		value = strings.Join(d.Expected, " ")
	case d.EventType == "" && d.Component != verifier.ComponentLaunch && len(value) > longestClaim:
		value = ""
	}
	if d.EventType == "" {
		what = d.Register()
	}
	return strings.Join([]string{string(d.Kind), string(d.Component), what, value}, "\x1f")
}

// deviationTitle says one deviation in a few words.
func deviationTitle(d *verifier.Deviation) string {
	name := d.Now
	if name == "" {
		name = d.Before
	}
	if name == "" {
		name = strings.ReplaceAll(string(d.Component), "_", " ")
		if register := d.Register(); register != "" {
			name += " (" + register + ")"
		}
	}
	if runes := []rune(name); len(runes) > maxTitleName {
		name = string(runes[:maxTitleName]) + "…"
	}
	return name + " " + string(d.Kind)
}

const maxTitleName = 80 // characters of a name in a title

// summary is the first of the titles, and how many there are besides.
func summary(titles []string) string {
	switch len(titles) {
	case 0:
		return ""
	case 1:
		return titles[0]
	}
	return fmt.Sprintf("%s, and %d more", titles[0], len(titles)-1)
}
