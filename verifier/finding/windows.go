package finding

import (
	"strings"

	"github.com/assay-verifier/assay/verifier/eventlog"
)

// judgement is what a rule about Windows says of its measurements. With no text, nothing is wrong; that it is known says
// whether the measurements would show it.
type judgement struct {
	severity Severity // empty: the rule's
	text     string
	known    bool
}

// aboutWindows makes a rule's evaluate out of what it asks of the measurements of Windows. Only proven ones count; of a
// machine that runs Linux there is nothing to recommend.
func aboutWindows(ask func(in *Input, w *eventlog.Windows) judgement) func(*Rule, *Input, *Result) {
	return func(r *Rule, in *Input, out *Result) {
		w := measuredWindows(in)
		if w == nil {
			if in.Machine.OS == "linux" {
				r.settle(out)
			}
			return
		}
		switch j := ask(in, w); {
		case j.text != "" && j.severity != "":
			r.recommendAt(j.severity, in, out, j.text)
		case j.text != "":
			r.recommend(in, out, j.text)
		case j.known:
			r.settle(out)
		}
	}
}

// measuredWindows is what Windows measured of itself; nil where nothing is proven.
func measuredWindows(in *Input) *eventlog.Windows {
	if in.Appraisal == nil || !in.Appraisal.Genuine || in.Appraisal.Claims.Claims == nil {
		return nil
	}
	return in.Appraisal.Claims.Windows
}

// is tells whether a word was measured and is this one.
func is(p *string, word string) bool { return p != nil && *p == word }

// listed joins words as a sentence does.
func listed(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
