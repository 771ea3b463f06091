package main

import (
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/assay-verifier/assay/verifier"
)

// verdictView is a verdict as it is shown: what the API and the offline judgement have in common.
type verdictView struct {
	ID          string               `json:"id"`
	MachineID   string               `json:"machine_id"`
	MachineName string               `json:"machine_name"`
	ReceivedAt  time.Time            `json:"received_at"`
	FirstAt     *time.Time           `json:"first_at"`
	LastAt      *time.Time           `json:"last_at"`
	Count       int64                `json:"count"`
	Trigger     string               `json:"trigger"`
	Status      string               `json:"status"`
	Reason      string               `json:"reason"`
	Assurance   string               `json:"assurance"`
	Checks      []verifier.Check     `json:"checks"`
	Deviations  []verifier.Deviation `json:"deviations"`
	Claims      map[string]any       `json:"claims"`
	Baseline    *verifier.VersionRef `json:"baseline"`
	Policy      *verifier.VersionRef `json:"policy"`
}

func parseVerdict(body []byte) (*verdictView, error) {
	var v verdictView
	if err := json.Unmarshal(body, &v); err != nil {
		return nil, fmt.Errorf("the verdict cannot be read: %w", err)
	}
	return &v, nil
}

// assuranceWords says what each level means.
var assuranceWords = map[string]string{
	string(verifier.TEEBound):    "bound to the confidential VM by its hardware report",
	string(verifier.EKActivated): "proved by credential activation",
	string(verifier.AKCertified): "proved by the AK's certificate",
	string(verifier.FirstUse):    "taken on the word of whoever enrolled it",
}

// verdict writes a verdict for people: the outcome, each check, what deviates, what is claimed.
func (p *printer) verdict(v *verdictView) {
	head := p.paint(bold+";"+statusColor(v.Status), clean(v.Status))
	if v.Reason != "" {
		head += "  " + clean(v.Reason)
	}
	p.line("%s", head)
	if v.MachineName != "" {
		p.field("machine", clean(v.MachineName)+" "+p.paint(dim, clean(v.MachineID)))
	} else {
		p.field("machine", clean(v.MachineID))
	}
	p.field("verdict", clean(v.ID))
	assurance := clean(v.Assurance)
	if words := assuranceWords[v.Assurance]; words != "" {
		assurance += "  " + p.paint(dim, words)
	}
	p.field("assurance", assurance)
	switch {
	case v.Count > 1 && v.FirstAt != nil && v.LastAt != nil:
		p.field("held", fmt.Sprintf("%d times, from %s to %s", v.Count, v.FirstAt.UTC().Format(time.RFC3339), p.when(*v.LastAt)))
	case !v.ReceivedAt.IsZero():
		p.field("judged", p.when(v.ReceivedAt))
	}
	p.field("came after", clean(v.Trigger))
	p.field("baseline", versionText(v.Baseline))
	p.field("policy", versionText(v.Policy))
	p.checks(v)
	p.deviations("Deviations", v.Deviations)
	p.claims(v.Claims)
}

func versionText(r *verifier.VersionRef) string {
	if r == nil || r.ID == "" {
		return ""
	}
	if r.Version == 0 {
		return clean(r.ID)
	}
	return fmt.Sprintf("%s version %d", clean(r.ID), r.Version)
}

var checkMarks = map[verifier.CheckStatus]string{verifier.Pass: "✓", verifier.Fail: "✗", verifier.Warn: "!", verifier.Skipped: "–"}

// checks writes one line a check. What failed the comparison with the baseline is listed below in full,
// so its line only says how much.
func (p *printer) checks(v *verdictView) {
	p.heading("Checks")
	width := 0
	for _, c := range v.Checks {
		width = max(width, len(c.Code))
	}
	for _, c := range v.Checks {
		mark, known := checkMarks[c.Status]
		if !known {
			mark = "?"
		}
		detail := clean(c.Detail)
		if c.Code == verifier.CheckBaselineMatch && c.Status == verifier.Fail && len(v.Deviations) > 0 {
			detail = count(len(v.Deviations), "deviation") + ", listed below"
		}
		p.line("  %s %s  %s", p.paint(statusColor(string(c.Status)), mark), pad(clean(string(c.Code)), width), detail)
	}
}

func (p *printer) deviations(title string, list []verifier.Deviation) {
	if len(list) == 0 {
		return
	}
	p.heading("%s (%d)", title, len(list))
	for _, d := range list {
		p.line("  %s  %s", p.paint(red, pad(placeOf(&d), 6)), clean(d.Description))
		for _, expected := range d.Expected {
			p.line("          %s %s", p.paint(dim, "expected"), clean(expected))
		}
		if d.Actual != "" {
			p.line("          %s %s", p.paint(dim, "actual  "), clean(d.Actual))
		}
		p.allows(d.Allows)
	}
}

// claims writes what is known in one line each; the JSON form has lists, digests and certificates in full. What a
// hardware report proves comes first, by itself.
func (p *printer) claims(claims map[string]any) {
	rest := make(map[string]any, len(claims))
	for name, value := range claims {
		if report, ok := value.(map[string]any); ok && name == "platform" {
			p.platform(report)
			continue
		}
		rest[name] = value
	}
	flat := map[string]any{}
	flatten(flat, "", rest, 0)
	if len(flat) == 0 {
		return
	}
	p.heading("Claims")
	p.sorted(flat)
}

// platformFirst are the claims of a hardware report that are read most, in their order; what else there is follows by
// its name.
var platformFirst = []string{"tee_type", "product", "launch_measurement", "tcb", "committed_tcb", "current_tcb", "tee_tcb_svn",
	"tcb_status.platform", "tcb_status.quoting_enclave", "tcb_status.advisories", "vmpl", "debug", "migratable", "vm_configuration.vm_id",
	"vm_configuration.secure_boot", "vm_configuration.tpm_enabled", "vm_configuration.console_enabled", "signed_by", "root", "collateral_until"}

// platform writes what the hardware report of a confidential VM proves, and what could not be checked of it.
func (p *printer) platform(report map[string]any) {
	flat, folded := map[string]any{}, make(map[string]any, len(report))
	for name, value := range report {
		switch v := value.(type) {
		case map[string]any:
			if text, ok := tcbText(v); ok {
				value = text
			}
		case []any:
			if name == "unknown" {
				continue // listed below
			}
		}
		folded[name] = value
	}
	flatten(flat, "", folded, 0)
	p.heading("Confidential VM, by its hardware report")
	p.ordered(flat, platformFirst)
	unknown, ok := report["unknown"].([]any)
	if !ok || len(unknown) == 0 {
		return
	}
	p.heading("Not checked for want of collateral")
	for _, text := range unknown {
		p.line("  %s", clean(fmt.Sprint(text)))
	}
}

// tcbText writes the parts of an AMD TCB in one line.
func tcbText(tcb map[string]any) (text string, ok bool) {
	parts := make([]string, 0, 5)
	for _, name := range []string{"fmc", "bootloader", "tee", "snp", "microcode"} {
		if n, known := tcb[name].(float64); known {
			parts = append(parts, fmt.Sprintf("%s %d", name, int(n)))
		}
	}
	return strings.Join(parts, ", "), len(parts) >= 4 && len(parts) == len(tcb)
}

// sorted writes "name  value" lines in the order of the names.
func (p *printer) sorted(values map[string]any) { p.ordered(values, nil) }

// ordered writes "name  value" lines: those of first in its order, the others in the order of their names. Long hex is
// broken into lines of 64 digits below each other.
func (p *printer) ordered(values map[string]any, first []string) {
	place := make(map[string]int, len(first))
	for i, name := range first {
		place[name] = i - len(first)
	}
	names := make([]string, 0, len(values))
	width := 0
	for name := range values {
		names = append(names, name)
		width = max(width, utf8.RuneCountInString(name))
	}
	sort.Slice(names, func(i, j int) bool {
		a, b := place[names[i]], place[names[j]]
		return a < b || a == b && names[i] < names[j]
	})
	for _, name := range names {
		label := pad(clean(name), width)
		for _, text := range hexLines(clean(fmt.Sprint(values[name]))) {
			p.line("  %s  %s", label, text)
			label = pad("", width)
		}
	}
}

// hexDigits is how much of a long digest stands in one line.
const hexDigits = 64

// hexLines breaks what is nothing but hex and longer than a line; all other text stays as it is.
func hexLines(text string) (lines []string) {
	if len(text) > hexDigits && strings.Trim(text, "0123456789abcdef") == "" {
		for len(text) > hexDigits {
			lines, text = append(lines, text[:hexDigits]), text[hexDigits:]
		}
	}
	return append(lines, text)
}

const maxClaimDepth = 3

// detailOnly are claims that say nothing to a reader.
var detailOnly = map[string]bool{"digests": true, "hash_count": true}

func flatten(out map[string]any, prefix string, value any, depth int) {
	switch v := value.(type) {
	case nil:
	case map[string]any:
		if depth == maxClaimDepth {
			out[prefix] = count(len(v), "field")
			return
		}
		for name, inner := range v {
			if detailOnly[name] {
				continue
			}
			full := name
			if prefix != "" {
				full = prefix + "." + name
			}
			flatten(out, full, inner, depth+1)
		}
	case []any:
		out[prefix] = listText(v)
	case bool:
		out[prefix] = map[bool]string{true: "yes", false: "no"}[v]
	case float64:
		out[prefix] = strconv.FormatFloat(v, 'f', -1, 64)
	case string:
		if v != "" {
			out[prefix] = strings.Join(strings.Fields(v), " ")
		}
	}
}

// listText shows short lists of words in full, lists of named things by their names, others by size.
func listText(list []any) string {
	if len(list) == 0 {
		return "none"
	}
	words := make([]string, 0, len(list))
	for _, item := range list {
		word, ok := item.(string)
		if object, isObject := item.(map[string]any); isObject {
			for _, key := range []string{"subject", "name", "description"} {
				if word, ok = object[key].(string); ok {
					break
				}
			}
		}
		if !ok || len(word) > 80 {
			return count(len(list), "item")
		}
		words = append(words, word)
	}
	if len(words) > 8 {
		return count(len(list), "item")
	}
	return strings.Join(words, ", ")
}
