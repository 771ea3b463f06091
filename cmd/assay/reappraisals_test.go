package main

import (
	"bytes"
	"strings"
	"testing"
)

// A refusal that a service says twice, as its detail and as its only error, is printed once, with its place.
func TestProblemSaysItOnce(t *testing.T) {
	for want, p := range map[string]problem{
		"assay: No: /a: bad\n":                {Title: "No", Detail: "/a: bad", Errors: []problemError{{"/a", "bad"}}},
		"assay: No: name: bad\n":              {Title: "No", Detail: "name: bad", Errors: []problemError{{"", "bad"}}},
		"assay: No: /a: bad\n ":               {Title: "No", Detail: "bad", Errors: []problemError{{"/a", "bad"}}, Hint: "x"},
		"assay: No: /a: bad (something else)": {Title: "No", Detail: "something else", Errors: []problemError{{"/a", "bad"}}},
	} {
		if got := p.text(&printer{w: &bytes.Buffer{}}); !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestNotJudgedInWords(t *testing.T) {
	for why, want := range map[string]string{"no_evidence": "it never attested, or its evidence is not kept", "attested_since": "it sent evidence meanwhile", "of_tomorrow": "of_tomorrow", "": "–"} {
		if got := notJudgedText(why); got != want {
			t.Errorf("%q: %q", why, got)
		}
	}
}
