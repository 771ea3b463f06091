package ui

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"plain <b>text</b>\n\tläuft – ✓ שלום 日本": "plain <b>text</b>\n\tläuft – ✓ שלום 日本",
		"gpj.\u202eexe":             "gpj.⟨U+202E⟩exe",
		"a\u2066b\u2069":            "a⟨U+2066⟩b⟨U+2069⟩",
		"zero\u200bwidth\ufeff":     "zero⟨U+200B⟩width⟨U+FEFF⟩",
		"bell\x07 esc\x1b[2J\r":     "bell⟨U+0007⟩ esc⟨U+001B⟩[2J⟨U+000D⟩",
		"c1\u009b":                  "c1⟨U+009B⟩",
		"tag\U000e0041":             "tag⟨U+E0041⟩",
		"not UTF-8 \xff\xc3":        "not UTF-8 ⟨0xFF⟩⟨0xC3⟩",
		"line\u2028paragraph\u2029": "line⟨U+2028⟩paragraph⟨U+2029⟩",
	} {
		if got := string(visible([]byte(in))); got != want {
			t.Errorf("visible(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestTemplatesHoldNothingHidden: visible works on finished pages, so markup itself must be free of what it
// replaces.
func TestTemplatesHoldNothingHidden(t *testing.T) {
	files, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := templateFiles.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if at := nextHidden(text, 0); at >= 0 {
			t.Errorf("%s: hidden character at byte %d", file, at)
		}
		for _, banned := range []string{"style=", "<style", "onclick", "javascript:", "http://", "https://"} {
			if strings.Contains(string(text), banned) {
				t.Errorf("%s contains %q, which the content security policy forbids", file, banned)
			}
		}
	}
}

func FuzzVisible(f *testing.F) {
	for _, s := range []string{"", "web-1", "a\u202eb", "\xff", "\x00\x1b[31m", "<p>ok</p>\n", "\U000e0001\u200d"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out := visible(in)
		if nextHidden(out, 0) >= 0 || !utf8.Valid(out) {
			t.Fatalf("%q leaves %q", in, out)
		}
		if !bytes.Equal(visible(out), out) {
			t.Fatal("not stable")
		}
		if len(out) > 16*len(in)+256 {
			t.Fatalf("%d bytes became %d", len(in), len(out))
		}
	})
}
