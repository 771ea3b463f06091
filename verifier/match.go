package verifier

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// measured is what one piece of evidence proves, as matching needs it.
type measured struct {
	quote   *tpm.VerifiedQuote     // nil: the machine has no TPM
	log     *eventlog.Measurements // nil: no log, or it did not replay at all
	rtmrs   *tee.Report            // nil: no TDX report
	rtmrLog *eventlog.Measurements // the same of the CC event log
	claims  *Claims
}

// match compares what was measured with the reference values: no deviation means that all of it is as
// expected.
//
// A register (PCR or RTMR) that the reference names matches by value, in every quoted bank that the reference
// has values for; or else by its events, each of which must be allowed by digest. Event types take no part: no
// digest covers them. Events that name the machine and not its software are passed over, where covered
// data proves that they do.
func (r *Reference) match(m measured) []Deviation {
	out, byValue := r.pcrs.match(&m)
	rtmrs, rtmrsByValue := r.rtmrs.match(&m)
	out = append(out, rtmrs...)
	return append(out, r.matchClaims(m, byValue, rtmrsByValue, out)...)
}

// match compares the registers of one kind; byValue has bit i set where register i has one of the values.
func (r *expected) match(m *measured) (out []Deviation, byValue uint32) {
	values, log := m.shown(r.kind)
	for index := range r.kind.count {
		if !r.judges(index) {
			continue
		}
		if r.matchValue(values, index) {
			byValue |= 1 << uint(index)
			continue
		}
		out = append(out, r.matchEvents(values, log, index)...)
	}
	return out, byValue
}

// matchValue is true where the reference lists values of the PCR in at least one quoted bank and the
// quoted value is among them in each such bank.
func (r *expected) matchValue(q shown, pcr int) bool {
	found := false
	for _, alg := range q.Banks() {
		table := r.values[alg]
		if table == nil || len(table[pcr]) == 0 {
			continue
		}
		value, quoted := q.PCR(alg, pcr)
		if !quoted {
			continue
		}
		if !containsDigest(table[pcr], value) {
			return false
		}
		found = true
	}
	return found
}

func containsDigest(set [][]byte, digest []byte) bool {
	for _, d := range set {
		if bytes.Equal(d, digest) {
			return true
		}
	}
	return false
}

func (r *expected) matchEvents(q shown, log *eventlog.Measurements, pcr int) []Deviation {
	alg, value, quoted := strongestQuoted(q, pcr)
	if !quoted {
		return []Deviation{{PCR: pcr, Kind: Removed, Component: r.kind.component(pcr), Bank: r.kind.bank, Expected: r.expectedValues(0, pcr),
			Description: fmt.Sprintf("%s %d (%s) %s", r.kind.name, pcr, r.kind.meaning(pcr), r.kind.notShown)}}
	}
	alg, comparable := r.comparableBank(q, pcr, alg)
	if comparable {
		value, _ = q.PCR(alg, pcr)
	}
	if !comparable {
		return []Deviation{r.valueDeviation(alg, pcr, value, fmt.Sprintf("cannot be compared: the baseline has no reference values for the quoted bank %s", alg))}
	}
	if !explains(log, alg, pcr) {
		return []Deviation{r.valueDeviation(alg, pcr, value, "has another value than the baseline, and no event log explains which event changed")}
	}
	if !r.hasEvents(alg, pcr) && !r.expectsReset(alg, pcr) {
		return []Deviation{r.valueDeviation(alg, pcr, value, "has another value than the baseline, which lists no events for it")}
	}
	return r.diffEvents(log.Events(), alg, pcr)
}

// explains tells whether the log replayed to the PCR in the bank, so that its events are proven.
func explains(m *eventlog.Measurements, alg tpm.HashAlg, pcr int) bool {
	return m != nil && m.Verified(pcr) && slices.Contains(m.Banks(), alg)
}

func strongestQuoted(q shown, pcr int) (alg tpm.HashAlg, value []byte, ok bool) {
	for _, a := range q.Banks() {
		if v, quoted := q.PCR(a, pcr); quoted && (!ok || a.Size() > alg.Size()) {
			alg, value, ok = a, v, true
		}
	}
	return alg, value, ok
}

// comparableBank picks the quoted bank that the reference can judge the PCR in: the strongest with
// event digests, else the strongest with values, else none (preferred is returned with false).
func (r *expected) comparableBank(q shown, pcr int, preferred tpm.HashAlg) (tpm.HashAlg, bool) {
	best, rank := preferred, 0
	for _, alg := range q.Banks() {
		if _, quoted := q.PCR(alg, pcr); !quoted {
			continue
		}
		score := 0
		if table := r.values[alg]; table != nil && len(table[pcr]) > 0 {
			score = alg.Size()
		}
		if r.hasEvents(alg, pcr) {
			score = 1000 + alg.Size()
		}
		if score > rank {
			best, rank = alg, score
		}
	}
	return best, rank > 0
}

func (r *expected) hasEvents(alg tpm.HashAlg, pcr int) bool {
	for i := range r.events[pcr] {
		if len(r.events[pcr][i].digests[alg]) > 0 {
			return true
		}
	}
	return false
}

func (r *expected) expectedValues(alg tpm.HashAlg, pcr int) []string {
	out := []string{}
	for a, table := range r.values {
		if alg != 0 && a != alg {
			continue
		}
		for _, v := range table[pcr] {
			out = append(out, hex.EncodeToString(v))
		}
	}
	sort.Strings(out)
	return out
}

func (r *expected) valueDeviation(alg tpm.HashAlg, pcr int, value []byte, why string) Deviation {
	return Deviation{PCR: pcr, Kind: Changed, Component: r.kind.component(pcr), Bank: alg.String(),
		Expected: r.expectedValues(alg, pcr), Actual: hex.EncodeToString(value),
		Description: fmt.Sprintf("%s %d (%s) %s", r.kind.name, pcr, r.kind.meaning(pcr), why)}
}

// expectsReset tells whether the reference knows the PCR only as never extended, so that every event in
// it is one too many.
func (r *expected) expectsReset(alg tpm.HashAlg, pcr int) bool {
	table := r.values[alg]
	if table == nil || len(table[pcr]) == 0 {
		return false
	}
	for _, value := range table[pcr] {
		if strings.Trim(string(value), "\x00") != "" {
			return false
		}
	}
	return true
}

// diffEvents compares the PCR's events with the reference events of one bank.
func (r *expected) diffEvents(events []eventlog.Event, alg tpm.HashAlg, pcr int) []Deviation {
	refs := r.events[pcr]
	present := make([]bool, len(refs))
	matched := false
	lenient := !anyRequired(refs) // a list made by hand names software only; a captured one names every event
	var strangers []observedEvent
	for i := range events {
		e := &events[i]
		if e.PCR != pcr || !e.Extended {
			continue
		}
		digest := eventDigest(e, alg)
		allowed := false
		for j := range refs {
			if containsDigest(refs[j].digests[alg], digest) {
				allowed, present[j] = true, true
			}
		}
		matched = matched || allowed
		// Firmware measures some images twice. Matching goes by digest, so one stranger is told once.
		known := allowed || slices.ContainsFunc(strangers, func(s observedEvent) bool { return bytes.Equal(s.digest, digest) })
		if !known && !e.MachineSpecific && !(lenient && eventlog.FixedText(e)) {
			strangers = append(strangers, observedEvent{component: e.Component, typ: e.Type.String(), key: e.Key, description: e.Description, digest: digest})
		}
	}
	if !matched && len(strangers) == 0 && lenient {
		// Nothing that the reference names was measured. "Each of no events is allowed" must not pass.
		return []Deviation{{PCR: pcr, Kind: Removed, Component: r.kind.component(pcr), Bank: alg.String(), Expected: r.expectedValues(alg, pcr),
			Description: fmt.Sprintf("%s %d (%s) holds none of the events that the baseline expects", r.kind.name, pcr, r.kind.meaning(pcr))}}
	}
	var missing []*referenceEvent
	for j := range refs {
		if refs[j].source.Required && !present[j] && len(refs[j].digests[alg]) > 0 {
			missing = append(missing, &refs[j])
		}
	}
	return pairDeviations(strangers, missing, refs, alg, pcr)
}

// observedEvent is an event that the reference does not allow.
type observedEvent struct {
	component             eventlog.Component
	typ, key, description string
	digest                []byte
	allows                []string // of two references that are compared: Deviation.Allows
}

// pairDeviations tells changes from additions and removals: first by the events' keys, then, within
// what is left, by component and type in order of appearance.
func pairDeviations(strangers []observedEvent, missing []*referenceEvent, all []referenceEvent, alg tpm.HashAlg, pcr int) []Deviation {
	partner := make([]*referenceEvent, len(strangers))
	taken := make([]bool, len(missing))
	pair := func(same func(*observedEvent, *ReferenceEvent) bool) {
		for i := range strangers {
			for j, ref := range missing {
				if partner[i] == nil && !taken[j] && same(&strangers[i], ref.source) {
					partner[i], taken[j] = ref, true
				}
			}
		}
	}
	pair(func(e *observedEvent, ref *ReferenceEvent) bool { return e.key != "" && e.key == ref.Key })
	pair(func(e *observedEvent, ref *ReferenceEvent) bool {
		return (e.key == "" || ref.Key == "") && string(e.component) == ref.Component && e.typ == ref.Type
	})

	out := make([]Deviation, 0, len(strangers)+len(missing))
	for _, i := range onceEach(strangers, partner, alg) {
		out = append(out, strangerDeviation(&strangers[i], partner[i], all, alg, pcr))
	}
	var gone []*referenceEvent // what a change tells of is not told again, nor anything twice
	for j, ref := range missing {
		if taken[j] {
			gone = append(gone, ref)
		}
	}
	for j, ref := range missing {
		if taken[j] || slices.ContainsFunc(gone, func(o *referenceEvent) bool { return sameDigests(o, ref, alg) }) {
			continue
		}
		gone = append(gone, ref)
		component := eventlog.Component(ref.source.Component)
		if component == "" {
			component = kindOf(alg).component(pcr)
		}
		d := Deviation{PCR: pcr, Kind: Removed, Component: component, EventType: ref.source.Type, Bank: alg.String(),
			Expected: hexDigests(ref.digests[alg]), Before: ref.source.Description}
		d.Description = d.text()
		out = append(out, d)
	}
	return out
}

// onceEach are the strangers to tell of: an image that is measured twice (firmware and GRUB do it) is one. Of two with
// the same digest that which has a partner is kept, and both only where they take the place of different events.
func onceEach(strangers []observedEvent, partner []*referenceEvent, alg tpm.HashAlg) []int {
	var out []int
	for i := range strangers {
		repeats := false
		for j := range strangers {
			if i == j || repeats || !bytes.Equal(strangers[i].digest, strangers[j].digest) {
				continue
			}
			same := partner[i] == partner[j] || partner[i] != nil && partner[j] != nil && sameDigests(partner[i], partner[j], alg)
			if partner[i] == nil && partner[j] != nil || same && j < i {
				repeats = true
				for _, allowed := range strangers[i].allows {
					if !slices.Contains(strangers[j].allows, allowed) {
						strangers[j].allows = append(strangers[j].allows, allowed)
					}
				}
			}
		}
		if !repeats {
			out = append(out, i)
		}
	}
	return out
}

func sameDigests(a, b *referenceEvent, alg tpm.HashAlg) bool {
	return slices.EqualFunc(a.digests[alg], b.digests[alg], bytes.Equal)
}

func strangerDeviation(e *observedEvent, before *referenceEvent, all []referenceEvent, alg tpm.HashAlg, pcr int) Deviation {
	d := Deviation{PCR: pcr, Kind: Added, Component: e.component, EventType: e.typ, Bank: alg.String(),
		Expected: []string{}, Actual: hex.EncodeToString(e.digest), Allows: e.allows}
	d.Now = e.description
	if before != nil {
		d.Kind, d.Expected, d.Before = Changed, hexDigests(before.digests[alg]), before.source.Description
		d.Description = d.text()
		return d
	}
	// A reference made by hand requires no event; one of the same key still tells what was expected.
	for i := range all {
		if e.key != "" && all[i].source.Key == e.key {
			d.Kind = Changed
			d.Expected = append(d.Expected, hexDigests(all[i].digests[alg])...)
			d.Before = all[i].source.Description
		}
	}
	if d.Kind != Changed || anyRequired(all) {
		d.Kind, d.Expected, d.Before = Added, []string{}, ""
	}
	d.Description = d.text()
	return d
}

func anyRequired(refs []referenceEvent) bool {
	for i := range refs {
		if refs[i].source.Required {
			return true
		}
	}
	return false
}

func eventDigest(e *eventlog.Event, alg tpm.HashAlg) []byte {
	for _, d := range e.Digests {
		if d.Alg == alg {
			return d.Bytes
		}
	}
	return nil
}

func hexDigests(digests [][]byte) []string {
	out := make([]string, len(digests))
	for i, d := range digests {
		out[i] = hex.EncodeToString(d)
	}
	return out
}

// matchClaims compares the claims that the reference names. A claim that only a log can tell is
// unknown without one; it then counts as proven if the PCRs that carry it have exactly the values of
// the reference, since equal PCRs mean equal events. Of RTMRs a log does not tell all claims either. A claim whose PCR deviates is not told twice.
func (r *Reference) matchClaims(m measured, byValue, rtmrsByValue uint32, already []Deviation) []Deviation {
	if len(r.claims) == 0 {
		return nil
	}
	var known map[string]any
	var out []Deviation
	for i := range r.claims {
		c := &r.claims[i]
		actual, isKnown := valueOf(m.claims, c.name, &known)
		if isKnown && actual != nil {
			if c.holds(actual) {
				continue
			}
		} else if (m.unexplained() || m.quote == nil) && r.provenByValue(c.name, m.quote != nil, byValue, rtmrsByValue) {
			continue
		}
		component, pcr, bank := m.claimHome(c.name)
		var unmet []UnmetClaim
		if actual != nil {
			unmet = []UnmetClaim{{c.name, c.text, claimText(actual)}}
		}
		if told := deviationOf(already, pcr, bank); told != nil {
			told.Claims = append(told.Claims, unmet...)
			continue
		}
		d := Deviation{PCR: pcr, Kind: Changed, Component: component, Bank: bank, Expected: []string{c.text}, Actual: claimText(actual), Claims: unmet}
		if actual == nil {
			d.Kind = Removed
			d.Description = fmt.Sprintf("claim %s is expected to be %s, but nothing in the evidence proves it", c.name, c.text)
		} else {
			d.Description = fmt.Sprintf("claim %s is %s; expected %s", c.name, claimText(actual), c.text)
			if text := c.words(actual); text != "" {
				d.Description = componentName(component) + " changed: " + text + "; " + d.Description
			}
		}
		out = append(out, d)
	}
	return out
}

// valueOf is a claim by its dotted name; all is filled when a claim is asked for that needs it.
func valueOf(claims *Claims, name string, all *map[string]any) (value any, known bool) {
	if value, known = capturedClaim(claims, name); known {
		return value, true
	}
	if *all == nil {
		*all = flattenClaims(claims)
	}
	value, known = (*all)[name]
	return value, known
}

// JudgesDeviation tells whether the reference judges what a deviation is about: its register, a claim that it carries, the
// files of IMA's list or the launch measurement.
func (r *Reference) JudgesDeviation(d *Deviation) bool {
	switch {
	case d.EventType == "IMA":
		return r.ima != nil
	case d.Component == ComponentLaunch:
		return len(r.values.LaunchMeasurements) > 0
	case d.Bank == "" && len(d.Claims) > 0:
		return slices.ContainsFunc(d.Claims, func(c UnmetClaim) bool { return r.JudgesClaim(c.Name) })
	case d.Bank == "":
		return slices.ContainsFunc(r.claims, func(c referenceClaim) bool {
			component, _ := claimHome(c.name)
			return component == d.Component && slices.Contains(d.Expected, c.text)
		})
	}
	return r.judges(d.Bank, d.PCR)
}

// JudgesClaim tells whether the reference names the claim.
func (r *Reference) JudgesClaim(name string) bool {
	return slices.ContainsFunc(r.claims, func(c referenceClaim) bool { return c.name == name })
}

// unexplained tells whether there is no log that claims are drawn from: the boot log, or the CC event log of a
// machine without a TPM.
func (m *measured) unexplained() bool {
	log := m.log
	if m.quote == nil {
		log = m.rtmrLog
	}
	return log == nil || log.Empty()
}

// claimHome is the register that carries a claim, -1 if no single one does. The claims of a machine without a TPM
// are drawn from its RTMRs.
func (m *measured) claimHome(name string) (component eventlog.Component, index int, bank string) {
	component, index = claimHome(name)
	if index == 7 && m.quote == nil && m.rtmrs != nil {
		return component, 0, tpm.RTMR.String()
	}
	return component, index, ""
}

// deviationOf is the first of the deviations that is in the register; nil where none is.
func deviationOf(deviations []Deviation, pcr int, bank string) *Deviation {
	rtmr := bank == tpm.RTMR.String()
	for i := range deviations {
		if pcr >= 0 && deviations[i].PCR == pcr && (deviations[i].Bank == tpm.RTMR.String()) == rtmr {
			return &deviations[i]
		}
	}
	return nil
}

func (c *referenceClaim) holds(actual any) bool {
	if c.pattern != nil {
		text, isText := actual.(string)
		return isText && c.pattern.MatchString(text)
	}
	have := claimText(actual)
	for _, want := range c.literal {
		if claimText(want) == have {
			return true
		}
	}
	return false
}

// words names the words of a command line that are not those of the one that is expected; empty for other claims.
func (c *referenceClaim) words(actual any) string {
	now, isText := actual.(string)
	if c.name != "kernel_cmdline" || c.pattern != nil || len(c.literal) != 1 || !isText {
		return ""
	}
	before, isText := c.literal[0].(string)
	if !isText {
		return ""
	}
	return wordsText(strings.Fields(now), strings.Fields(before))
}

// provenByValue tells whether registers that matched by value settle the claim: PCRs, or of a machine without a TPM
// its RTMRs.
func (r *Reference) provenByValue(name string, hasTPM bool, byValue, rtmrsByValue uint32) bool {
	if !hasTPM {
		need := uint32(1<<0 | 1<<1 | 1<<2)
		if strings.HasPrefix(name, "secure_boot") {
			need = 1<<0 | 1<<1 // firmware's and shim's variables, and shim itself
		}
		return rtmrsByValue&need == need
	}
	need := uint32(1<<4 | 1<<8 | 1<<9 | 1<<11 | 1<<12)
	if strings.HasPrefix(name, "secure_boot") {
		need = 1 << 7
	}
	listed := need & r.pcrs.judged
	return listed != 0 && byValue&listed == listed && (need == 1<<7 || listed&(1<<4|1<<8|1<<9) == 1<<4|1<<8|1<<9)
}

// secureBootByValue tells whether the reference states that Secure Boot is on and the quoted PCR 7 has
// exactly one of its values: without a log, that is what proves it.
func (r *Reference) secureBootByValue(q *tpm.VerifiedQuote) bool {
	for i := range r.claims {
		c := &r.claims[i]
		if (c.name == "secure_boot" || c.name == "secure_boot_effective") && c.pattern == nil && len(c.literal) == 1 && c.literal[0] == true {
			return r.pcrs.matchValue(q, 7)
		}
	}
	return false
}

func claimText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

// capturedClaim is flattenClaims for the claims that every captured baseline holds, without the way over
// JSON: a quarter of what the service spends on an unchanged machine.
func capturedClaim(c *Claims, name string) (value any, known bool) {
	if c.Claims == nil {
		return nil, false
	}
	var p *bool
	switch name {
	case "secure_boot":
		p = c.SecureBoot
	case "secure_boot_effective":
		p = c.SecureBootEffective
	default:
		return nil, false
	}
	if p == nil {
		return nil, true
	}
	return *p, true
}

// flattenClaims gives every claim by its dotted name.
func flattenClaims(c *Claims) map[string]any {
	out := map[string]any{}
	b, err := json.Marshal(c)
	if err != nil {
		return out
	}
	var tree map[string]any
	if err := json.Unmarshal(b, &tree); err != nil {
		return out
	}
	for name, value := range tree {
		out[name] = value
		if inner, isObject := value.(map[string]any); isObject {
			for sub, v := range inner {
				out[name+"."+sub] = v
			}
		}
	}
	return out
}

func claimHome(name string) (eventlog.Component, int) {
	switch {
	case strings.HasPrefix(name, "secure_boot"), name == "setup_mode", name == "audit_mode", name == "deployed_mode", name == "shim_validation_disabled":
		return eventlog.ComponentSecureBoot, 7
	case name == "kernel_cmdline":
		return eventlog.ComponentKernelCmdline, -1
	case strings.HasPrefix(name, "windows"):
		return eventlog.ComponentWindows, -1
	}
	return eventlog.ComponentUnknown, -1
}

// pcrComponent and pcrMeaning name a PCR as a whole, where no event tells more (PC Client Platform
// Firmware Profile 1.06, table 1; for 8-14 the Linux TPM PCR Registry of the UAPI Group).
func pcrComponent(pcr int) eventlog.Component {
	switch pcr {
	case 0:
		return eventlog.ComponentFirmware
	case 1:
		return eventlog.ComponentPlatformConfig
	case 2, 3:
		return eventlog.ComponentOptionROM
	case 4:
		return eventlog.ComponentBootLoader
	case 5, 8, 12:
		return eventlog.ComponentBootConfig
	case 7:
		return eventlog.ComponentSecureBoot
	case 9:
		return eventlog.ComponentKernel
	case 10:
		return eventlog.ComponentIMA
	case 11:
		return eventlog.ComponentUKISection
	case 14:
		return eventlog.ComponentMOK
	}
	return eventlog.ComponentUnknown
}

func pcrMeaning(pcr int) string {
	meanings := [...]string{"platform firmware", "platform configuration", "option ROMs and drivers", "option ROM configuration",
		"boot loader", "boot loader configuration and partition table", "host platform manufacturer", "Secure Boot policy",
		"boot loader commands and kernel command line", "files read by the boot loader: kernel and initrd", "IMA", "unified kernel image",
		"kernel command line and credentials", "system extensions", "machine owner keys"}
	if pcr < len(meanings) {
		return meanings[pcr]
	}
	return "application"
}
