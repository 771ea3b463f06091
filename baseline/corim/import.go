package corim

import (
	"fmt"
	"strconv"
	"time"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
)

// Format is the name of the format in Imported.
const Format = "corim"

const (
	maxFacts    = 64  // of a document's origin
	maxFactSize = 512 // bytes of one of them
	maxNotes    = 50
	maxValues   = 4096 // register values; as many launch measurements
	maxEvents   = 20000
)

// Import reads a CoRIM. It checks that
//   - the document is well-formed and within its bounds;
//   - if it is signed: the signature is that of a trusted key, by an allowed algorithm, and valid at trust.Now (see verify);
//   - the profile, if it names one, is understood, and the document is valid at trust.Now;
//   - it holds values that a machine can be judged by.
//
// An unsigned document has no Signer: whoever posts it vouches for it, if the caller lets him.
//
// The error is a *baseline.ImportError that names the place.
func Import(b []byte, trust *baseline.ImportTrust) (*baseline.Imported, error) {
	document, err := open(b, nil, "")
	if err != nil {
		return nil, err
	}
	r := &reading{now: nowOf(trust), out: &baseline.Imported{Format: Format, Provenance: map[string]string{}}}
	for depth := 0; document.major == majorTag && (document.arg == tagCorim || document.arg == tagSigned) && depth < 2; depth++ {
		document = document.content()
	}
	switch {
	case document.major == majorTag && document.arg == tagSign1:
		if document, err = r.signed(document, trust); err != nil {
			return nil, err
		}
	case document.major == majorMap:
		return nil, document.unsupported("a map without a tag: a CoRIM is needed, signed (tag 18) or unsigned (tag 501); a CoMID alone is none")
	case document.major == majorTag && document.arg == tagCoMID:
		return nil, document.unsupported("this is a CoMID tag (506) alone; a CoRIM (18 or 501) is needed around it")
	}
	content, ok := document.tagged(tagUnsigned)
	if !ok {
		return nil, document.unsupported("a CoRIM is needed: a signed one is tag 18, an unsigned one tag 501; this is %s", document.kind())
	}
	if err := r.corim(content); err != nil {
		return nil, err
	}
	return r.finish(content)
}

func nowOf(trust *baseline.ImportTrust) time.Time {
	if trust == nil {
		return time.Time{}
	}
	return trust.Now
}

// reading is a document that is being read.
type reading struct {
	out    *baseline.Imported
	now    time.Time
	ours   bool // the document is of our profile
	unsaid int  // notes beyond maxNotes

	events   []event
	instance string // the one machine that values are of
	values   int    // of registers
}

// note says what is not judged by.
func (r *reading) note(v *value, format string, args ...any) {
	if len(r.out.Notes) == maxNotes {
		r.unsaid++
		return
	}
	r.out.Notes = append(r.out.Notes, v.pointer()+": "+fmt.Sprintf(format, args...))
}

// noteRest notes the keys of a map that are not known.
func (r *reading) noteRest(rest []entry) {
	for i := range rest {
		r.note(&rest[i].value, "not a key that is judged by")
	}
}

// fact notes what the document says of its origin; the first of a name counts.
func (r *reading) fact(name, text string) {
	if text == "" || r.out.Provenance[name] != "" || len(r.out.Provenance) >= maxFacts {
		return
	}
	r.out.Provenance[name] = baseline.Shown(text, maxFactSize)
}

// factOf notes a text or an identifier.
func (r *reading) factOf(name string, v *value) error {
	if v == nil {
		return nil
	}
	text, err := identifier(v)
	if err != nil {
		return err
	}
	r.fact(name, text)
	return nil
}

// identifier is a text, a UUID, an OID, a URI or opaque bytes in text form.
func identifier(v *value) (string, error) {
	switch {
	case v.major == majorTag && v.arg == tagOID:
		b, err := v.content().bytes()
		return oidText(b), err
	case v.major == majorTag && v.arg == tagUUID:
		b, err := v.content().bytes()
		return uuidText(b), err
	case v.major == majorTag:
		return identifier(v.content())
	case v.major == majorBytes:
		return uuidText(v.body), nil
	case v.major == majorUnsigned || v.major == majorNegative:
		n, err := v.integer()
		return strconv.FormatInt(n, 10), err
	}
	return v.text()
}

// corim reads a corim-map (section 4.1).
func (r *reading) corim(v *value) error {
	f, err := v.fields(corimNames)
	if err != nil {
		return err
	}
	if f.get(0) == nil || f.get(1) == nil {
		return v.malformed("a CoRIM has an id (0) and tags (1)")
	}
	if err := r.factOf("corim_id", f.get(0)); err != nil {
		return err
	}
	if err := r.profile(f.get(3)); err != nil {
		return err
	}
	if err := r.validity(f.get(4), "valid"); err != nil {
		return err
	}
	if err := r.entities(f.get(5), "manifest_"); err != nil {
		return err
	}
	if f.get(2) != nil {
		r.note(f.get(2), "other manifests that this one depends on are not fetched")
	}
	r.noteRest(f.rest)
	tags, err := f.get(1).oneOrMore()
	if err != nil {
		return err
	}
	for i := range tags {
		if err := r.tag(&tags[i]); err != nil {
			return err
		}
	}
	return nil
}

// profile refuses a document of a profile that is not understood (section 4.1.4). Earlier drafts have an array.
func (r *reading) profile(v *value) error {
	if v == nil {
		return nil
	}
	list := []value{*v}
	if v.major == majorArray {
		var err error
		if list, err = v.oneOrMore(); err != nil {
			return err
		}
	}
	for i := range list {
		name, err := identifier(&list[i])
		if err != nil {
			return err
		}
		if !profiles[name] {
			return list[i].unsupported("the profile %s is not known, so the document cannot be understood", shown(name))
		}
		r.ours = r.ours || name == Profile
		r.fact("profile", name)
	}
	return nil
}

// validity reads a validity-map (section 7.3) and compares it with the time.
func (r *reading) validity(v *value, fact string) error {
	from, until, err := validityOf(v)
	if err != nil || v == nil {
		return err
	}
	if !from.IsZero() {
		r.fact(fact+"_from", from.Format(time.RFC3339))
	}
	r.fact(fact+"_until", until.Format(time.RFC3339))
	return r.within(v, from, until)
}

func validityOf(v *value) (from, until time.Time, err error) {
	if v == nil {
		return
	}
	f, err := v.fields(validityNames)
	if err != nil {
		return
	}
	if f.get(1) == nil || len(f.rest) > 0 {
		return from, until, v.malformed("a validity has a time after which it ends (1), and may have one before which it is not valid (0)")
	}
	if f.get(0) != nil {
		if from, err = timeOf(f.get(0)); err != nil {
			return
		}
	}
	until, err = timeOf(f.get(1))
	return
}

// within refuses what is not valid now. A zero time has no bound on its side.
func (r *reading) within(v *value, from, until time.Time) error {
	switch {
	case r.now.IsZero():
		return v.untrusted("the time to judge the validity at is not given")
	case !from.IsZero() && r.now.Before(from):
		return v.untrusted("not valid before %s", from.Format(time.RFC3339))
	case !until.IsZero() && r.now.After(until):
		return v.untrusted("not valid after %s", until.Format(time.RFC3339))
	}
	return nil
}

// timeOf reads seconds since 1970, with or without their tag (RFC 8949, section 3.4.2). Fractions are not read.
func timeOf(v *value) (time.Time, error) {
	seconds, err := v.untagged(tagEpochTime).integer()
	if err != nil {
		return time.Time{}, v.malformed("a time is needed, in whole seconds since 1970")
	}
	const most = 253402300799 // the end of the year 9999
	if seconds < -most || seconds > most {
		return time.Time{}, v.malformed("the time is beyond the year 9999")
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// The roles of CoMID entities (section 5.1.2) and of CoRIM entities (section 4.1.5), by number.
var roleNames = map[string]map[int64]string{
	"":          {0: "tag_creator", 1: "vendor", 2: "maintainer"},
	"manifest_": {1: "creator", 2: "signer"},
}

// entities reads who had a part in the document (section 7.2).
func (r *reading) entities(v *value, prefix string) error {
	if v == nil {
		return nil
	}
	list, err := v.oneOrMore()
	if err != nil {
		return err
	}
	for i := range list {
		f, err := list[i].fields(entityNames)
		if err != nil {
			return err
		}
		if f.get(0) == nil {
			return list[i].malformed("an entity has a name (0)")
		}
		name, err := identifier(f.get(0))
		if err != nil {
			return err
		}
		var roles []value
		if f.get(2) != nil {
			if roles, err = f.get(2).elements(); err != nil {
				return err
			}
		}
		for j := range roles {
			role, err := roles[j].integer()
			if err != nil {
				return err
			}
			known := roleNames[prefix][role]
			if known == "" {
				known = "entity"
			}
			r.fact(prefix+known, name)
			if err := r.factOf(prefix+known+"_uri", f.get(1)); err != nil {
				return err
			}
		}
		r.noteRest(f.rest)
	}
	return nil
}

// tag reads one of the tags (section 4.1.2).
func (r *reading) tag(v *value) error {
	if v.major != majorTag {
		return v.malformed("a tag is needed; this is %s", v.kind())
	}
	switch v.arg {
	case tagCoMID:
		comid, err := v.content().embedded()
		if err != nil {
			return err
		}
		return r.comid(comid)
	case tagCoSWID:
		r.note(v, "a CoSWID names software and is not judged by")
	case tagTagList:
		r.note(v, "a list of tags: all tags of the document are read, listed or not")
	case tagTrustStore:
		r.note(v, "a store of trust anchors is not taken over")
	default:
		r.note(v, "tag %d is not known", v.arg)
	}
	return nil
}

// finish makes the result of what was read.
func (r *reading) finish(v *value) (*baseline.Imported, error) {
	r.placeEvents()
	if r.unsaid > 0 {
		r.out.Notes = append(r.out.Notes, fmt.Sprintf("and %d more places that are not judged by", r.unsaid))
	}
	values := &r.out.Values
	if len(values.PCRs) == 0 && len(values.Events) == 0 && len(values.Claims) == 0 && values.IMA == nil && len(values.LaunchMeasurements) == 0 {
		detail := "the document holds no values that a machine can be judged by"
		if len(r.out.Notes) > 0 {
			detail += "; " + r.out.Notes[0]
		}
		return nil, baseline.ImportErrorf(baseline.ImportNothingFound, v.pointer(), "%s", detail)
	}
	if _, err := verifier.CompileReference(*values); err != nil {
		return nil, v.malformed("the document makes no reference values: %s", err)
	}
	return r.out, nil
}
