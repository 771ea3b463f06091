package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier"
)

// TestSpan: times as people say them, at the edges.
func TestSpan(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	p := &printer{now: func() time.Time { return now }}
	for ahead, want := range map[time.Duration]string{
		0: "just now", -4 * time.Second: "just now", -59 * time.Second: "59 s ago", -60 * time.Second: "1 min ago",
		-3 * time.Minute: "3 min ago", -3599 * time.Second: "1 h ago", -47 * time.Hour: "47 h ago", -49 * time.Hour: "2 days ago",
		24*time.Hour - time.Second: "in 24 h", 72 * time.Hour: "in 3 days",
	} {
		if got := p.ago(now.Add(ahead)); got != want {
			t.Errorf("%v: %q, want %q", ahead, got, want)
		}
	}
	if got := p.ago(time.Time{}); got != "never" {
		t.Errorf("the zero time: %q", got)
	}
}

// TestClean: what a machine wrote cannot move the cursor, colour the terminal or turn text around.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"web-1 é ✓":          "web-1 é ✓",
		"\x1b[31mred":        `\u001b[31mred`,
		"a\nb\tc\x00":        `a\u000ab\u0009c\u0000`,
		"admin\u202etxt.exe": `admin\u202etxt.exe`,
		"zero\u200bwidth":    `zero\u200bwidth`,
		"bad\xffbyte":        `bad\ufffdbyte`,
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestHostileVerdict: a verdict full of escapes prints none.
func TestHostileVerdict(t *testing.T) {
	evil := "\x1b]0;owned\x07\r\u202e"
	var out bytes.Buffer
	p := &printer{w: &out, now: time.Now}
	p.verdict(&verdictView{ID: evil, MachineID: evil, MachineName: evil, Status: evil, Reason: evil, Assurance: evil,
		Checks:     []verifier.Check{{Code: verifier.CheckCode(evil), Status: verifier.CheckStatus(evil), Detail: evil}},
		Deviations: []verifier.Deviation{{PCR: 4, Description: evil, Expected: []string{evil}, Actual: evil}},
		Claims:     map[string]any{evil: evil, "list": []any{evil, map[string]any{"name": evil}}, "deep": map[string]any{evil: []any{evil}}},
		Baseline:   &verifier.VersionRef{ID: evil, Version: 1}, Policy: &verifier.VersionRef{ID: evil}})
	if strings.ContainsAny(out.String(), "\x1b\x07\r\u202e") {
		t.Errorf("%q", out.String())
	}
}

// TestTable: columns are aligned by characters, not by bytes, and colours do not shift them.
func TestTable(t *testing.T) {
	rows := func() [][]cell {
		return [][]cell{{plain("é"), status("affirming"), plain("x")}, {plain("long name"), status("none"), plain("y")}}
	}
	var plainOut, colored bytes.Buffer
	(&printer{w: &plainOut}).table([]string{"NAME", "STATUS", "LAST"}, rows())
	want := "NAME       STATUS     LAST\né          affirming  x\nlong name  none       y\n"
	if plainOut.String() != want {
		t.Errorf("got\n%swant\n%s", plainOut.String(), want)
	}
	(&printer{w: &colored, color: true}).table([]string{"NAME", "STATUS", "LAST"}, rows())
	stripped := colored.String()
	for _, code := range []string{red, green, yellow, bold, dim, "0"} {
		stripped = strings.ReplaceAll(stripped, "\x1b["+code+"m", "")
	}
	if stripped != want {
		t.Errorf("coloured, without its colours:\n%s", stripped)
	}
}

// TestColor: only on a terminal, and never against NO_COLOR.
func TestColor(t *testing.T) {
	for _, c := range []struct {
		env      map[string]string
		terminal bool
		json     bool
		want     bool
	}{
		{terminal: true, want: true}, {terminal: false}, {terminal: true, json: true},
		{env: map[string]string{"NO_COLOR": "1"}, terminal: true}, {env: map[string]string{"TERM": "dumb"}, terminal: true},
	} {
		a := &app{environment: environment{getenv: func(k string) string { return c.env[k] }}, json: c.json}
		if got := a.useColor(c.terminal); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
