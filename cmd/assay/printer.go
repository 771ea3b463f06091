package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ANSI colours, used only on a terminal.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
	dim    = "2"
)

// printer writes for people.
type printer struct {
	w     io.Writer
	color bool
	now   func() time.Time
}

func (p *printer) paint(code, s string) string {
	if !p.color || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(p.w, format+"\n", args...)
}

func (p *printer) heading(format string, args ...any) {
	fmt.Fprintln(p.w, "\n"+p.paint(bold, fmt.Sprintf(format, args...)))
}

// field writes "  name   value", the names of one block aligned to the same width.
func (p *printer) field(name, value string) {
	if value != "" {
		fmt.Fprintf(p.w, "  %s  %s\n", p.paint(dim, pad(name, 18)), value)
	}
}

// clean makes text that came from a machine safe to show: what is not printable, such as terminal
// escapes, line feeds and bidirectional overrides, is written as its escape.
func clean(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
			b.WriteString(`\ufffd`)
		case unprintable(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }

func pad(s string, width int) string {
	if n := utf8.RuneCountInString(s); n < width {
		return s + strings.Repeat(" ", width-n)
	}
	return s
}

// cell is one field of a table and the colour to show it in.
type cell struct{ text, color string }

func plain(s string) cell { return cell{text: s} }

// table writes rows below their headings, each column as wide as its widest cell.
func (p *printer) table(headings []string, rows [][]cell) {
	width := make([]int, len(headings))
	for i, h := range headings {
		width[i] = utf8.RuneCountInString(h)
	}
	for _, row := range rows {
		for i := range row {
			row[i].text = clean(row[i].text)
			width[i] = max(width[i], utf8.RuneCountInString(row[i].text))
		}
	}
	head := make([]cell, len(headings))
	for i, h := range headings {
		head[i] = cell{h, bold}
	}
	for _, row := range append([][]cell{head}, rows...) {
		var b strings.Builder
		for i, c := range row {
			text := c.text
			if i < len(row)-1 {
				text = pad(text, width[i])
			}
			if i > 0 {
				b.WriteString("  ")
			}
			if c.color != "" {
				text = p.paint(c.color, text)
			}
			b.WriteString(text)
		}
		fmt.Fprintln(p.w, strings.TrimRight(b.String(), " "))
	}
}

// ago tells a time as people say it; the zero time is "never".
func (p *printer) ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := p.now().Sub(t)
	if d < 0 {
		return "in " + span(-d)
	}
	if d < 5*time.Second {
		return "just now"
	}
	return span(d) + " ago"
}

func (p *printer) agoPtr(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return p.ago(*t)
}

func span(d time.Duration) string {
	whole := func(unit time.Duration) int { return int(d.Round(unit) / unit) }
	switch {
	case d < time.Minute-time.Second/2:
		return fmt.Sprintf("%d s", whole(time.Second))
	case d < time.Hour-time.Minute/2:
		return fmt.Sprintf("%d min", whole(time.Minute))
	case d < 48*time.Hour-time.Hour/2:
		return fmt.Sprintf("%d h", whole(time.Hour))
	}
	return fmt.Sprintf("%d days", whole(24*time.Hour))
}

// when is a time in full with what it means now.
func (p *printer) when(t time.Time) string {
	return t.UTC().Format(time.RFC3339) + " (" + p.ago(t) + ")"
}

// count is "1 alert", "3 alerts".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// statusColor gives the colour of a verdict, a check, an assessment or an alert by its word.
func statusColor(word string) string {
	switch word {
	case "affirming", "pass", "Healthy", "resolved", "active-version":
		return green
	case "warning", "warn", "none", "medium", "in_progress", "unattested":
		return yellow
	case "contraindicated", "fail", "Unhealthy", "high", "active":
		return red
	}
	return dim
}

// status is a word in its colour.
func status(word string) cell { return cell{word, statusColor(word)} }
