package format

import (
	"fmt"
	"strings"
	"time"

	"github.com/assay-verifier/assay/server/notify/event"
)

// Mail is the event for a person: the subject in one line, and plain text.
func Mail(e *event.Event) (subject, text string) {
	subject = "[Assay] " + e.Summary()
	if s := e.Severity(); s != "" && !Over(e) {
		subject = fmt.Sprintf("[Assay, %s] %s", s, e.Summary())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", e.Summary())
	switch {
	case e.Alert != nil:
		paragraph(&b, e.Alert.Description)
	case e.Compliance != nil:
		paragraph(&b, e.Compliance.Description)
	case e.Channel != nil:
		paragraph(&b, e.Channel.Detail)
	}
	table(&b, rows(e))
	switch {
	case e.Alert != nil && !Over(e):
		steps(&b, e.Alert.Remediation)
	case e.Compliance != nil && !Over(e):
		steps(&b, e.Compliance.Remediation)
	}
	if e.Link != "" {
		fmt.Fprintf(&b, "\n%s\n", e.Link)
	}
	return subject, b.String()
}

func paragraph(b *strings.Builder, text string) {
	if text != "" {
		fmt.Fprintf(b, "%s\n\n", text)
	}
}

// rows are the facts, by name.
func rows(e *event.Event) [][2]string {
	out := [][2]string{{"Time", stamp(e.Time)}}
	if a := e.Alert; a != nil {
		out = append(out, [][2]string{{"Alert", a.Code}, {"Status", was(a.Status, a.Previous)}, {"Severity", a.Severity}, {"Reason", a.Reason},
			{"Scope", a.Scope}, {"Seen", fmt.Sprintf("%d times, first %s, last %s", a.Count, stamp(a.FirstSeen), stamp(a.LastSeen))},
			{"Changed by", a.ChangedBy}, {"Comment", a.Comment}}...)
		if a.Suppressed {
			out = append(out, [2]string{"Suppressed", "by a rule"})
		}
	}
	if i := e.Incident; i != nil {
		out = append(out, [][2]string{{"Incident", i.Code}, {"Status", i.Status}, {"Severity", i.Severity}, {"Machines", fmt.Sprint(i.Machines)},
			{"Since", stamp(i.FirstSeen)}, {"Last seen", stamp(i.LastSeen)}}...)
	}
	if c := e.Compliance; c != nil {
		out = append(out, [][2]string{{"Rule", c.Code}, {"Status", was(c.Status, c.Previous)}, {"Severity", c.Severity}, {"Cause", c.Cause}}...)
	}
	if m := e.Machine; m != nil {
		out = append(out, [][2]string{{"Machine", m.Name}, {"External id", m.ExternalID}, {"Platform", m.Platform}, {"Scale set", m.ScaleSet},
			{"Labels", strings.Join(labels(m.Labels), ", ")}}...)
	}
	if c := e.Channel; c != nil {
		out = append(out, [2]string{"Channel", c.Name + " (" + c.Kind + ")"})
	}
	if e.VerdictID != nil {
		out = append(out, [2]string{"Verdict", e.VerdictID.String()})
	}
	return out
}

func was(now, before string) string {
	if before == "" {
		return now
	}
	return now + " (was " + before + ")"
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func table(b *strings.Builder, rows [][2]string) {
	for _, r := range rows {
		if r[1] != "" {
			fmt.Fprintf(b, "%-12s %s\n", r[0]+":", r[1])
		}
	}
}

func steps(b *strings.Builder, steps []string) {
	if len(steps) == 0 {
		return
	}
	b.WriteString("\nWhat to do:\n")
	for i, s := range steps {
		fmt.Fprintf(b, "%2d. %s\n", i+1, s)
	}
}

// SyslogSeverity is the severity of a syslog message (RFC 5424, section 6.2.1): critical for high, warning for medium,
// notice for low, informational for what is over and what has none.
func SyslogSeverity(e *event.Event) int {
	if Over(e) {
		return 6
	}
	switch e.Severity() {
	case "high":
		return 2
	case "medium":
		return 4
	case "low":
		return 5
	}
	return 6
}
