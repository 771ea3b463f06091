package format

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/assay-verifier/assay/server/notify/event"
)

// The lengths of extension fields (Implementing ArcSight Common Event Format, version 25, "Extension Dictionary").
const (
	cefMessage = 1023  // msg, reason, request, dhost
	cefString  = 4000  // cs1 to cs6
	cefHeader  = 512   // name
	cefLine    = 16384 // the whole, which is ours to bound
)

// cef is the event in the Common Event Format, version 0: a header of seven fields and the extension.
func cef(e *event.Event, o Origin) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "CEF:0|Assay|Assay|%s|%s|%s|%d|", header(o.Version, 31), header(code(e), 1023), header(title(e), cefHeader), cefSeverity(e))
	x := extension{b: &b}
	x.add("rt", strconv.FormatInt(e.Time.UnixMilli(), 10), 32)
	x.add("cat", string(e.Kind), cefMessage)
	x.add("externalId", e.Subject().String(), 40)
	x.add("dvchost", o.Host, 100)
	x.add("request", e.Link, cefMessage)
	if m := e.Machine; m != nil {
		x.add("dhost", m.Name, cefMessage)
		x.add("deviceExternalId", m.ExternalID, 255)
		x.labelled(1, "machineId", m.ID.String())
		x.labelled(2, "scaleSet", m.ScaleSet)
		x.labelled(3, "labels", strings.Join(labels(m.Labels), ","))
	}
	switch {
	case e.Alert != nil:
		x.alert(e.Alert, e)
	case e.Incident != nil:
		i := e.Incident
		x.add("outcome", i.Status, 63)
		x.add("cnt", strconv.FormatInt(i.Machines, 10), 20)
		x.span(i.FirstSeen, i.LastSeen)
	case e.Compliance != nil:
		c := e.Compliance
		x.add("outcome", c.Status, 63)
		x.add("reason", c.Cause, cefMessage)
		x.add("msg", c.Description, cefMessage)
		x.labelled(4, "previousStatus", c.Previous)
	case e.Channel != nil:
		x.add("msg", e.Channel.Detail, cefMessage)
	}
	return []byte(b.String())
}

// extension writes key=value pairs, with spaces between them; a pair without a value is left out.
type extension struct {
	b    *strings.Builder
	some bool
}

func (x *extension) add(key, value string, limit int) {
	value = cut(value, limit)
	if value == "" || x.b.Len()+len(key)+2*len(value) > cefLine {
		return
	}
	if x.some {
		x.b.WriteByte(' ')
	}
	x.some = true
	x.b.WriteString(key)
	x.b.WriteByte('=')
	x.b.WriteString(escapeValue(value))
}

// labelled adds one of the fields that the sender names.
func (x *extension) labelled(n int, label, value string) {
	if value != "" {
		x.add(fmt.Sprintf("cs%dLabel", n), label, cefMessage)
		x.add(fmt.Sprintf("cs%d", n), value, cefString)
	}
}

func (x *extension) span(first, last time.Time) {
	if !first.IsZero() {
		x.add("start", strconv.FormatInt(first.UnixMilli(), 10), 32)
	}
	if !last.IsZero() {
		x.add("end", strconv.FormatInt(last.UnixMilli(), 10), 32)
	}
}

func (x *extension) alert(a *event.Alert, e *event.Event) {
	x.add("outcome", a.Status, 63)
	x.add("reason", a.Reason, cefMessage)
	x.add("cnt", strconv.FormatInt(a.Count, 10), 20)
	x.span(a.FirstSeen, a.LastSeen)
	x.add("msg", a.Description, cefMessage)
	x.labelled(4, "previousStatus", a.Previous)
	x.labelled(5, "scope", a.Scope)
	if e.VerdictID != nil {
		x.labelled(6, "verdictId", e.VerdictID.String())
	}
}

// title is the name of the header: the same for every event of a code, so that a SIEM groups by it.
func title(e *event.Event) string {
	switch {
	case e.Alert != nil:
		return e.Alert.Title
	case e.Incident != nil:
		return e.Incident.Title
	case e.Compliance != nil:
		return e.Compliance.Title
	}
	return e.Summary()
}

// cefSeverity is 0 (lowest) to 10: low 0–3, medium 4–6, high 7–8, very high 9–10. What is over is lowest.
func cefSeverity(e *event.Event) int {
	if Over(e) {
		return 0
	}
	switch e.Severity() {
	case "low":
		return 3
	case "medium":
		return 6
	case "high":
		return 8
	}
	return 0
}

// header is a field of the header: pipe and backslash are escaped, and there is no way to write a new line.
func header(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, cut(s, limit))
	return strings.NewReplacer(`\`, `\\`, `|`, `\|`).Replace(s)
}

var cefEscapes = strings.NewReplacer(`\`, `\\`, `=`, `\=`, "\r\n", `\n`, "\n", `\n`, "\r", `\r`, "\u2028", `\n`, "\u2029", `\n`)

// escapeValue escapes backslash, equals sign and line ends; other control characters become spaces.
func escapeValue(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, cefEscapes.Replace(s))
}

// cut shortens to the limit in characters, and makes the text UTF-8.
func cut(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if utf8.RuneCountInString(s) <= limit {
		return s
	}
	return string([]rune(s)[:limit-1]) + "…"
}

// labels are "key=value", in order.
func labels(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}
