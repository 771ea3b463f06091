package rim

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
)

// Format is the name of the format in Imported.
const Format = "tcg-rim"

// Bounds of the support RIMs.
const (
	maxSupport = 16 << 20 // bytes of all together
	maxEvents  = 20000
)

// Import reads a base RIM and the support RIMs that it names, by file name. It checks that
//   - the document is within its bounds and declares no document type or entity;
//   - its signature covers the whole document and is that of a trusted key (see verify);
//   - it is a PC Client RIM;
//   - each file of the payload is given, by its name or by its hash, and has that hash and size;
//   - no file is given that the payload does not name.
//
// The events and PCR values of the support RIMs become reference values as a captured log's do (baseline.OfLog). A patch
// or supplemental tag, or several logs, say nothing of a PCR's final value, so only their events count.
//
// The error is a *baseline.ImportError that names the element.
func Import(document []byte, support map[string][]byte, trust *baseline.ImportTrust) (*baseline.Imported, error) {
	root, err := parse(document)
	if err != nil {
		return nil, err
	}
	v, err := verify(root, trust)
	if err != nil {
		return nil, err
	}
	t, err := tagOf(v.tag)
	if err != nil {
		return nil, err
	}
	out := &baseline.Imported{Format: Format, Signer: v.signer, Provenance: t.provenance, Notes: t.notes}
	if v.reindented {
		out.Notes = append(out.Notes, "The document was indented after it was signed: its signature covers it without the white space between elements.")
	}
	noteTimestamps(out, v.timestamps)
	contents, err := t.support(support)
	if err != nil {
		return nil, err
	}
	if err := t.values(out, contents); err != nil {
		return nil, err
	}
	if len(out.Values.Events) == 0 && len(out.Values.PCRs) == 0 {
		return nil, baseline.ImportErrorf(baseline.ImportNothingFound, path(v.tag)+"/Payload", "the support RIMs hold neither events nor PCR values")
	}
	if _, err := verifier.CompileReference(out.Values); err != nil {
		return nil, malformed(path(v.tag)+"/Payload", "the support RIMs make no reference values: %s", err)
	}
	return out, nil
}

// noteTimestamps notes the times that the signer claims (PC Client RIM 1.04, section 3.4). They are the signer's own
// word: the token of a time stamp authority is not verified.
func noteTimestamps(out *baseline.Imported, signed []*node) {
	for _, property := range signed {
		property.walk(func(n *node) bool {
			if n.local != "TimeStamp" {
				return true
			}
			at := n.attribute("dateTime")
			switch {
			case slices.ContainsFunc(n.namespaces, func(ns namespace) bool { return strings.Contains(ns.uri, "rfc3339") }):
				out.Provenance["signed_at"] = shown(at)
				out.Notes = append(out.Notes, path(n)+": the signer says that it was signed at "+shown(at))
			default:
				out.Notes = append(out.Notes, path(n)+": a time stamp token, which is not verified")
			}
			return true
		})
	}
}

// content is a support RIM that the payload names, with its bytes.
type content struct {
	file  *file
	bytes []byte
}

// support pairs the files of the payload with those that were given.
func (t *tag) support(given map[string][]byte) ([]content, error) {
	total := 0
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if total += len(given[name]); total > maxSupport {
			return nil, tooLarge("", "the support RIMs have more than %d bytes in all", maxSupport)
		}
	}
	if len(given) > maxFiles {
		return nil, tooLarge("", "more than %d support RIMs", maxFiles)
	}
	var out []content
	used := map[string]bool{}
	for i := range t.files {
		f := &t.files[i]
		name, err := f.find(given)
		if err != nil {
			return nil, err
		}
		if f.size >= 0 && f.size != len(given[name]) {
			return nil, untrusted(f.element+"/@size", "the payload says %d bytes; %s has %d", f.size, shown(name), len(given[name]))
		}
		used[name] = true
		out = append(out, content{f, given[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !used[name] {
			return nil, untrusted("/SoftwareIdentity/Payload", "the payload does not name the file %s", shown(name))
		}
	}
	return out, nil
}

// find is the name of the given file that is the payload's: of its name, or else of its hash.
func (f *file) find(given map[string][]byte) (string, error) {
	if content, ok := given[f.name]; ok {
		if !f.matches(content) {
			return "", untrusted(f.element, "the support RIM %s is not the one that was signed: its hash is not %s", shown(f.name), digestText(f.hashes[0].digest))
		}
		return f.name, nil
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if f.matches(given[name]) {
			return name, nil
		}
	}
	return "", malformed(f.element, "the support RIM %s is not given: no file has its name, nor the hash %s", shown(f.name), digestText(f.hashes[0].digest))
}

// values makes reference values of the support RIMs.
func (t *tag) values(out *baseline.Imported, contents []content) error {
	out.Values.PCRs = map[string]map[string][]string{}
	logs, last := 0, ""
	for _, c := range contents {
		values, isLog, err := valuesOf(&c)
		if err != nil {
			return err
		}
		if isLog {
			logs++
			last = c.file.element
		}
		if len(out.Values.Events)+len(values.Events) > maxEvents {
			return tooLarge(c.file.element, "more than %d events", maxEvents)
		}
		out.Values.Events = append(out.Values.Events, values.Events...)
		if isLog && logs > 1 {
			continue
		}
		addValues(out.Values.PCRs, values.PCRs)
	}
	switch {
	case t.partial != "" && len(out.Values.PCRs) > 0:
		out.Values.PCRs = nil
		out.Notes = append(out.Notes, fmt.Sprintf("%s: a %s tag adds to another RIM: its events count, its PCR values do not", "/SoftwareIdentity/@"+t.partial, t.partial))
	case logs > 1:
		out.Values.PCRs = nil
		out.Notes = append(out.Notes, last+": several logs share PCRs: their events count, their PCR values do not")
	}
	if len(out.Values.PCRs) == 0 {
		out.Values.PCRs = nil
	}
	return nil
}

// addValues adds acceptable PCR values, each once.
func addValues(to, from map[string]map[string][]string) {
	for bank, values := range from {
		if to[bank] == nil {
			to[bank] = map[string][]string{}
		}
		for index, list := range values {
			for _, value := range list {
				if !slices.Contains(to[bank][index], value) {
					to[bank][index] = append(to[bank][index], value)
				}
			}
		}
	}
}

// valuesOf reads one support RIM: a list of PCR values by its name, or else a boot log.
func valuesOf(c *content) (values verifier.ReferenceValues, isLog bool, err error) {
	if strings.HasSuffix(strings.ToLower(c.file.name), ".rimpcr") {
		values, err = pcrAssertion(c)
		return values, false, err
	}
	if bytes.HasPrefix(bytes.TrimLeft(c.bytes, "\xef\xbb\xbf \t\r\n"), []byte("<")) {
		return values, false, unsupported(c.file.element, "%s is XML, as a base RIM in a base RIM is: import it by itself", shown(c.file.name))
	}
	log, err := eventlog.Parse(c.bytes)
	if err != nil {
		return values, true, malformed(c.file.element, "%s is no boot log: %s", shown(c.file.name), err)
	}
	if log.Len() > maxEvents {
		return values, true, tooLarge(c.file.element, "%s has %d events; at most %d are read", shown(c.file.name), log.Len(), maxEvents)
	}
	return baseline.OfLog(log), true, nil
}
