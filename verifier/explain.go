package verifier

import (
	"strings"

	"github.com/assay-verifier/assay/verifier/eventlog"
)

// text says in plain words how an event differs from the reference values, from its kind, Now and Before.
func (d *Deviation) text() string {
	switch d.Kind {
	case Added:
		return sentence(d.Component, "added", d.Now)
	case Removed:
		return sentence(d.Component, "no longer measured", d.Before)
	case Moved:
		return sentence(d.Component, "moved", d.Now)
	}
	return changedText(d.Component, d.Now, d.Before)
}

// NameKnown adds to a deviation that other reference values list what was measured: what they say that it is, and which
// they are.
func (d *Deviation) NameKnown(description, from string) {
	d.Known = from
	if description != "" && description != d.Now {
		d.Now = description
		d.Description = d.text()
	}
	d.Description += " (known from " + from + ")"
}

// sentence begins a description with the component, unless the text that follows does so itself.
func sentence(c eventlog.Component, verb, text string) string {
	if text == "" {
		text = "an event that nothing describes"
	}
	return componentName(c) + " " + verb + ": " + withoutComponent(c, text)
}

func componentName(c eventlog.Component) string { return strings.ReplaceAll(string(c), "_", " ") }

func withoutComponent(c eventlog.Component, text string) string {
	rest, repeated := strings.CutPrefix(text, componentName(c))
	if repeated && (strings.HasPrefix(rest, ":") || strings.HasPrefix(rest, " ")) {
		return strings.TrimLeft(rest, ": ")
	}
	return text
}

// changedText tells what is measured now and what was before. Of command lines and lines of a boot loader's
// configuration it names the words that came and went; of other texts that differ in one place, that place.
func changedText(c eventlog.Component, now, before string) string {
	now, before = withoutComponent(c, now), withoutComponent(c, before)
	if before == "" || before == now {
		return sentence(c, "changed", now)
	}
	was, is := strings.Fields(before), strings.Fields(now)
	if c == eventlog.ComponentKernelCmdline || c == eventlog.ComponentBootConfig {
		if text := wordsText(is, was); text != "" {
			return sentence(c, "changed", line(c, is)+text)
		}
	} else if text := arrowText(is, was); text != "" {
		return sentence(c, "changed", text)
	}
	return sentence(c, "changed", now) + "; before: " + before
}

// line says which line of a boot loader's configuration changed, by its first words.
func line(c eventlog.Component, words []string) string {
	const shown = 4
	switch {
	case c != eventlog.ComponentBootConfig:
		return ""
	case len(words) > shown:
		return strings.Join(words[:shown], " ") + " …: "
	}
	return strings.Join(words, " ") + ": "
}

// wordsText names the words that went and came; empty where nothing is left of what was before.
func wordsText(now, before []string) string {
	added, removed := wordDifference(now, before), wordDifference(before, now)
	var parts []string
	if len(removed) > 0 {
		parts = append(parts, "`"+strings.Join(removed, " ")+"` removed")
	}
	if len(added) > 0 {
		parts = append(parts, "`"+strings.Join(added, " ")+"` added")
	}
	switch {
	case len(parts) == 0:
		return "the same words in another order: `" + strings.Join(now, " ") + "`"
	case len(added) == len(now) || len(removed) == len(before):
		return ""
	}
	return strings.Join(parts, ", ")
}

// arrowText writes two texts that differ in one run of words as one: "grubx64.efi, version 2.06-13 → 2.06-14".
// Empty where they share no beginning, or differ in more than half of their words.
func arrowText(now, before []string) string {
	head := 0
	for head < len(now) && head < len(before) && now[head] == before[head] {
		head++
	}
	tail := 0
	for tail < len(now)-head && tail < len(before)-head && now[len(now)-1-tail] == before[len(before)-1-tail] {
		tail++
	}
	from, to := before[head:len(before)-tail], now[head:len(now)-tail]
	if head == 0 || len(from) == 0 || len(to) == 0 || len(from) > head+tail || len(to) > head+tail {
		return ""
	}
	last := len(from) - 1
	if end := strings.TrimLeft(from[last], "0123456789abcdefghijklmnopqrstuvwxyz"); end != "" && end != from[last] && strings.HasSuffix(to[len(to)-1], end) {
		from = append(append([]string{}, from[:last]...), strings.TrimSuffix(from[last], end)) // the bracket that closes both
	}
	words := append(append(append([]string{}, now[:head]...), from...), "→")
	return strings.Join(append(append(words, to...), now[len(now)-tail:]...), " ")
}

// wordDifference lists the words of a that b does not hold as often, in their order.
func wordDifference(a, b []string) []string {
	count := map[string]int{}
	for _, w := range b {
		count[w]++
	}
	var out []string
	for _, w := range a {
		if count[w]--; count[w] < 0 {
			out = append(out, w)
		}
	}
	return out
}

// shortHex is how many hex digits of a digest ShortDigest keeps: enough to tell two apart at a glance.
const shortHex = 16

// ShortDigest shortens the digest at the end of a text such as "sha256:<hex>" for a narrow place.
func ShortDigest(text string) string {
	if cut := strings.LastIndexByte(text, ':') + 1 + shortHex; cut < len(text) {
		return text[:cut] + "…"
	}
	return text
}
