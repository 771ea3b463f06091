package ui

import (
	"fmt"
	"unicode/utf8"
)

// visible makes what is invisible in a finished page visible: control characters but tab and line
// breaks, the Unicode controls that reorder, join or hide text (UAX #9 and UTS #39), and bytes that are
// not UTF-8. A machine's name or the text of its boot log must not be able to make a page say something
// else than it holds. The markup itself contains none of them (a test holds every template to it), so
// working on the whole page changes nothing but data, wherever it stands.
func visible(page []byte) []byte {
	first := nextHidden(page, 0)
	if first < 0 {
		return page
	}
	out := make([]byte, 0, len(page)+256)
	done := 0
	for at := first; at >= 0; at = nextHidden(page, done) {
		out = append(out, page[done:at]...)
		r, size := utf8.DecodeRune(page[at:])
		if r == utf8.RuneError && size == 1 {
			out = fmt.Appendf(out, "⟨0x%02X⟩", page[at])
		} else {
			out = fmt.Appendf(out, "⟨U+%04X⟩", r)
		}
		done = at + size
	}
	return append(out, page[done:]...)
}

// nextHidden is the offset of the first hidden character at or after from; -1 if there is none.
func nextHidden(b []byte, from int) int {
	for i := from; i < len(b); {
		if c := b[i]; c < utf8.RuneSelf {
			if (c < 0x20 && c != '\t' && c != '\n') || c == 0x7f {
				return i
			}
			i++
			continue
		}
		r, size := utf8.DecodeRune(b[i:])
		if hidden(r) || (r == utf8.RuneError && size == 1) {
			return i
		}
		i += size
	}
	return -1
}

func hidden(r rune) bool {
	switch {
	case r >= 0x80 && r <= 0x9f, // C1 controls
		r == 0xad, r == 0x34f, r == 0x61c, r == 0x115f, r == 0x1160, r == 0x17b4, r == 0x17b5, // soft hyphen, joiners, fillers, Arabic letter mark
		r >= 0x180b && r <= 0x180f,
		r >= 0x200b && r <= 0x200f, // zero width characters and marks of direction
		r >= 0x2028 && r <= 0x202e, // line and paragraph separators, embeddings and overrides
		r >= 0x2060 && r <= 0x206f, // word joiner, isolates, deprecated formatting
		r == 0x3164, r == 0xfeff, r == 0xffa0,
		r >= 0xfe00 && r <= 0xfe0f, // variation selectors
		r >= 0xfff0 && r <= 0xfffb,
		r >= 0x1d173 && r <= 0x1d17a,
		r >= 0xe0000 && r <= 0xe0fff: // tags and more variation selectors
		return true
	}
	return false
}
