package eventlog

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// maxText is the most bytes of text that a description takes from a log.
const maxText = 400

// guid writes a GUID as UEFI stores it: the first three fields little-endian (UEFI 2.10, appendix A).
func guid(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}

// printable replaces what is not printable by "?" (a line's end by a space), so that text of a log can
// stand in a description, and shortens it to maxText bytes. It never gets longer than its input and "…".
func printable(s string) string {
	s = strings.TrimRight(s, "\x00 \n")
	cut := len(s) > maxText
	if cut {
		s = s[:maxText]
		for len(s) > 0 && s[len(s)-1] >= utf8.RuneSelf { // not in the middle of a character
			s = s[:len(s)-1]
		}
	}
	if !plain(s) {
		s = strings.Map(func(r rune) rune {
			switch {
			case r == '\n' || r == '\t':
				return ' '
			case unprintable(r):
				return '?'
			}
			return r
		}, s)
	}
	if cut {
		s += "…"
	}
	return s
}

// plain tells whether s is printable ASCII, as nearly all text of a log is.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7E {
			return false
		}
	}
	return true
}

func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// isText tells whether b is printable ASCII, with zeros only at its end.
func isText(b []byte) bool {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	if len(b) == 0 {
		return false
	}
	for _, c := range b {
		if (c < 0x20 || c > 0x7E) && c != '\n' && c != '\t' && c != '\r' {
			return false
		}
	}
	return true
}

// utf16Text decodes UTF-16LE up to its first zero; ok is false if it is not printable text.
func utf16Text(b []byte) (s string, ok bool) {
	if len(b) < 4 {
		return "", false
	}
	units := make([]uint16, 0, len(b)/2)
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	for _, rest := range b {
		if rest != 0 {
			return "", false
		}
	}
	s = string(utf16.Decode(units))
	if s == "" || strings.IndexFunc(s, func(r rune) bool { return unprintable(r) && r != '\n' && r != '\t' }) >= 0 {
		return "", false
	}
	return s, true
}

// utf16Prefix decodes UTF-16LE up to its first zero and returns what follows that zero; ok is false
// where there is no zero.
func utf16Prefix(b []byte) (s string, rest []byte, ok bool) {
	for i := 0; i+1 < len(b); i += 2 {
		if b[i] == 0 && b[i+1] == 0 {
			return utf16String(b[:i]), b[i+2:], true
		}
	}
	return "", nil, false
}

// utf16String decodes all of b, an odd byte at its end left out.
func utf16String(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}

// utf16Bytes encodes s as UTF-16LE without a final zero.
func utf16Bytes(s string) []byte {
	units := utf16.Encode([]rune(s))
	out := make([]byte, 0, 2*len(units)+4)
	for _, u := range units {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

// text is the text in data, in ASCII or UTF-16; "" if it is neither.
func text(data []byte) string {
	if isText(data) {
		return printable(string(data))
	}
	if s, ok := utf16Text(data); ok {
		return printable(s)
	}
	return ""
}

// plural is "1 thing" or "n things".
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
