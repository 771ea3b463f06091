package rim

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/baseline"
)

// The namespaces of SWID tags. Some tools write elements inside the root without one.
var spacesSWID = []string{
	"http://standards.iso.org/iso/19770/-2/2015/schema.xsd",
	"http://standards.iso.org/iso/19770/-2/2015-current/schema.xsd",
	"",
}

const (
	maxFiles      = 256
	maxFacts      = 64  // of a document's origin
	maxProvenance = 512 // bytes of one of them
	maxNotes      = 50
)

// tag is what a SWID tag says, as far as a base RIM needs it.
type tag struct {
	provenance map[string]string
	// partial is set for a patch or supplemental tag: it adds to another RIM and does not stand alone.
	partial string
	files   []file
	notes   []string
	unsaid  int // notes beyond maxNotes
}

// file is a support RIM that the payload names.
type file struct {
	element string // its place
	name    string
	size    int // -1 where it is not given
	hashes  []hash
}

type hash struct {
	algorithm string // the namespace of its attribute, see digestMethods
	digest    []byte
}

func isSWID(n *node, local string) bool {
	return n.local == local && slices.Contains(spacesSWID, n.space)
}

// tagOf reads the signed element.
func tagOf(root *node) (*tag, error) {
	if !isSWID(root, "SoftwareIdentity") || root.space == "" {
		return nil, unsupported(path(root), "a SoftwareIdentity of ISO/IEC 19770-2:2015 is needed; this is {%s}%s", shown(root.space), root.local)
	}
	t := &tag{provenance: map[string]string{}}
	for attribute, name := range map[string]string{"name": "name", "tagId": "tag_id", "tagVersion": "tag_version", "version": "version", "versionScheme": "version_scheme"} {
		t.keep(name, root.attribute(attribute))
	}
	if root.attribute("corpus") == "true" {
		return nil, unsupported(path(root)+"/@corpus", "a corpus tag describes an installer, not what a machine measures")
	}
	for _, kind := range []string{"patch", "supplemental"} {
		if root.attribute(kind) == "true" {
			t.partial = kind
		}
	}
	payloads := 0
	for _, e := range root.elements() {
		switch {
		case isSWID(e, "Entity"):
			t.entity(e)
		case isSWID(e, "Link"):
			t.keep("link_"+e.attribute("rel"), e.attribute("href"))
		case isSWID(e, "Meta"):
			if err := t.meta(e); err != nil {
				return nil, err
			}
		case isSWID(e, "Payload"):
			payloads++
			if err := t.directory(e); err != nil {
				return nil, err
			}
		default:
			t.note(e, "not an element that a base RIM is judged by")
		}
	}
	switch {
	case payloads != 1:
		return nil, malformed(path(root), "%d Payload elements; a base RIM has exactly one", payloads)
	case len(t.provenance) > maxFacts:
		return nil, tooLarge(path(root), "more than %d facts of the document's origin", maxFacts)
	case t.unsaid > 0:
		t.notes = append(t.notes, fmt.Sprintf("and %d more elements", t.unsaid))
	}
	return t, nil
}

func (t *tag) note(e *node, text string) {
	if len(t.notes) == maxNotes {
		t.unsaid++
		return
	}
	t.notes = append(t.notes, path(e)+": "+text)
}

// keep notes one fact of the document's origin; the first of a name counts.
func (t *tag) keep(name, value string) {
	if value == "" || t.provenance[name] != "" {
		return
	}
	t.provenance[baseline.Shown(name, maxStep)] = baseline.Shown(value, maxProvenance)
}

// entity notes who made the tag and who the software (ISO/IEC 19770-2, section 8.5.3).
func (t *tag) entity(e *node) {
	for _, role := range strings.FieldsFunc(e.attribute("role"), func(r rune) bool { return r == ' ' || r == ',' }) {
		switch role {
		case "tagCreator":
			t.keep("tag_creator", e.attribute("name"))
			t.keep("tag_creator_regid", e.attribute("regid"))
		case "softwareCreator":
			t.keep("vendor", e.attribute("name"))
		}
	}
}

// bindingSpec is what PC Client RIMs name (PC Client RIM 1.04, table 1).
const bindingSpec = "PC Client RIM"

// metaNames are the attributes of Meta that are kept, by their names in the document (NISTIR 8060 section 3; RIM
// Information Model, table 2).
var metaNames = map[string]string{
	"product": "product", "edition": "edition", "revision": "revision", "colloquialVersion": "colloquial_version",
	"platformManufacturerStr": "platform_manufacturer", "platformManufacturerId": "platform_manufacturer_id",
	"platformModel": "model", "platformVersion": "platform_version",
	"firmwareManufacturerStr": "firmware_manufacturer", "firmwareManufacturerId": "firmware_manufacturer_id",
	"firmwareModel": "firmware_model", "firmwareVersion": "firmware_version",
	"bindingSpec": "binding_spec", "bindingSpecVersion": "binding_spec_version",
	"pcURIlocal": "platform_certificate_local", "pcURIGlobal": "platform_certificate_uri",
	"rimLinkHash": "rim_link_hash", "PayloadType": "payload_type",
}

func (t *tag) meta(e *node) error {
	for _, a := range e.attributes {
		if a.local == "bindingSpec" && a.value != bindingSpec {
			return unsupported(path(e)+"/@bindingSpec", "%q; only %q is read", shown(a.value), bindingSpec)
		}
		if name, ok := metaNames[a.local]; ok {
			t.keep(name, a.value)
		} else {
			t.keep(a.local, a.value)
		}
	}
	return nil
}

// directory reads the files of a Payload or a Directory. Directories are not nested deeper than the document may be.
func (t *tag) directory(e *node) error {
	for _, c := range e.elements() {
		switch {
		case isSWID(c, "Directory"):
			if err := t.directory(c); err != nil {
				return err
			}
		case isSWID(c, "File"):
			if len(t.files) == maxFiles {
				return tooLarge(path(c), "more than %d files", maxFiles)
			}
			f, err := fileOf(c)
			if err != nil {
				return err
			}
			t.files = append(t.files, *f)
		default:
			t.note(c, "only files are support RIMs")
		}
	}
	return nil
}

// fileOf reads a File: its hash attributes are called "hash", in the namespace of their algorithm (NISTIR 8060, section
// 3.3.3).
func fileOf(e *node) (*file, error) {
	f := &file{element: path(e), name: e.attribute("name"), size: -1}
	if f.name == "" {
		return nil, malformed(f.element, "the file has no name")
	}
	if text := e.attribute("size"); text != "" {
		size, err := strconv.Atoi(text)
		if err != nil || size < 0 {
			return nil, malformed(f.element+"/@size", "%q is no size in bytes", shown(text))
		}
		f.size = size
	}
	for _, a := range e.attributes {
		if a.local != "hash" {
			continue
		}
		algorithm, ok := digestMethods[a.space]
		if !ok {
			continue // a weak hash proves nothing; without a strong one the file is refused below
		}
		digest, err := hex.DecodeString(a.value)
		if err != nil || len(digest) != algorithm.Size() {
			return nil, malformed(f.element+"/@"+qualified(a.prefix, a.local), "%d hex digits are needed", 2*algorithm.Size())
		}
		f.hashes = append(f.hashes, hash{a.space, digest})
	}
	if len(f.hashes) == 0 {
		return nil, untrusted(f.element, "the file %s has no hash by SHA-256, SHA-384 or SHA-512", shown(f.name))
	}
	return f, nil
}

// matches tells whether content has every hash that the payload gives.
func (f *file) matches(content []byte) bool {
	for _, want := range f.hashes {
		h := digestMethods[want.algorithm].New()
		h.Write(content)
		if !slices.Equal(h.Sum(nil), want.digest) {
			return false
		}
	}
	return true
}
