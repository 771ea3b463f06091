// Package intoto imports reference values out of in-toto attestations: a DSSE envelope with a Statement (version 1, or
// 0.1) whose predicate is the one that this package defines.
//
// The predicate type is PredicateType. Its predicate is
//
//	{"reference_values": {…}, "provenance": {"repository": "…", "commit": "…", "build_url": "…"}}
//
// with reference_values as in the API. The subjects of the statement are the images that were measured; they are kept in
// the provenance and judge nothing, since no machine reports them.
package intoto

import (
	"cmp"
	"errors"
	"sort"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/dsse"
	"github.com/assay-verifier/assay/baseline/jsondoc"
	"github.com/assay-verifier/assay/verifier"
)

// PredicateType names our predicate. A later version that means something else gets another URI.
const PredicateType = "https://assay-verifier.github.io/attestations/reference-values/v1"

// PayloadType is that of an in-toto statement in an envelope.
const PayloadType = "application/vnd.in-toto+json"

// Format is the name of the format in provenance.
const Format = "in-toto"

const maxSubjects = 256

type statement struct {
	typ, predicateType string
	subjects           map[string]string // name -> "alg:hex" of its first digest
	predicate          []byte
	predicateAt        string
}

// Import verifies the envelope and reads the statement. The error is a *baseline.ImportError; its place in the payload
// begins with /payload.
func Import(b []byte, trust *baseline.ImportTrust) (*baseline.Imported, error) {
	envelope, err := dsse.Open(b, trust)
	if err != nil {
		return nil, err
	}
	return Statement(envelope)
}

// Statement reads the statement of an envelope that has been verified.
func Statement(envelope *dsse.Verified) (*baseline.Imported, error) {
	if envelope.PayloadType != PayloadType {
		return nil, baseline.ImportErrorf(baseline.ImportUnsupported, "/payloadType", "the payload is %q; an in-toto statement is %q", envelope.PayloadType, PayloadType)
	}
	s, err := parseStatement(envelope.Payload)
	if err != nil {
		return nil, err
	}
	out := &baseline.Imported{Format: Format, Signer: &envelope.Signer, Provenance: map[string]string{"predicate_type": s.predicateType}}
	for name, digest := range s.subjects {
		out.Provenance["subject "+name] = digest
	}
	if err := readPredicate(out, s); err != nil {
		return nil, err
	}
	return out, nil
}

func parseStatement(payload []byte) (*statement, error) {
	s := &statement{subjects: map[string]string{}}
	r := jsondoc.New(payload, "/payload")
	r.Object(func(name string) {
		switch name {
		case "_type":
			s.typ = r.Text()
		case "subject":
			r.Array(func() { s.subject(r) })
		case "predicateType":
			s.predicateType = r.Text()
		case "predicate":
			s.predicate, s.predicateAt = r.Raw()
		default:
			r.Unknown()
		}
	})
	r.End()
	switch {
	case r.Err() != nil:
	case s.typ != "https://in-toto.io/Statement/v1" && s.typ != "https://in-toto.io/Statement/v0.1":
		r.FailAt(baseline.ImportUnsupported, "/payload/_type", "%q is no statement of version 1 or 0.1", s.typ)
	case s.predicateType != PredicateType:
		r.FailAt(baseline.ImportUnsupported, "/payload/predicateType", "%q says nothing that a machine could be judged by; %q does", s.predicateType, PredicateType)
	case s.predicate == nil:
		r.FailAt(baseline.ImportMalformed, "/payload/predicate", "the statement has no predicate")
	case len(s.subjects) == 0:
		r.FailAt(baseline.ImportMalformed, "/payload/subject", "the statement names no subject")
	}
	return s, r.Err()
}

// subject reads a ResourceDescriptor (in-toto/attestation, spec/v1/resource_descriptor.md).
func (s *statement) subject(r *jsondoc.Reader) {
	if len(s.subjects) == maxSubjects {
		r.Fail(baseline.ImportTooLarge, "more than %d subjects", maxSubjects)
		return
	}
	var name, uri string
	digests := map[string]string{}
	r.Object(func(field string) {
		switch field {
		case "name":
			name = r.Text()
		case "uri":
			uri = r.Text()
		case "digest":
			r.Object(func(alg string) { digests[alg] = r.Text() })
		case "content", "downloadLocation", "mediaType", "annotations":
			r.Skip()
		default:
			r.Unknown()
		}
	})
	if r.Err() == nil && len(digests) == 0 {
		r.Fail(baseline.ImportMalformed, "the subject has no digest")
	}
	algs := make([]string, 0, len(digests))
	for alg := range digests {
		algs = append(algs, alg)
	}
	sort.Strings(algs)
	if len(algs) > 0 {
		s.subjects[cmp.Or(name, uri)] = algs[0] + ":" + digests[algs[0]]
	}
}

func readPredicate(out *baseline.Imported, s *statement) error {
	r := jsondoc.New(s.predicate, s.predicateAt)
	var raw []byte
	var at string
	r.Object(func(name string) {
		switch name {
		case "reference_values":
			raw, at = r.Raw()
		case "provenance":
			r.Object(func(name string) { readProvenance(r, out, name) })
		default:
			r.Unknown()
		}
	})
	if r.Err() == nil && raw == nil {
		r.FailAt(baseline.ImportMalformed, s.predicateAt+"/reference_values", "the predicate has none")
	}
	if r.Err() != nil {
		return r.Err()
	}
	return Values(raw, at, &out.Values)
}

func readProvenance(r *jsondoc.Reader, out *baseline.Imported, name string) {
	switch name {
	case "repository", "commit", "build_url":
		out.Provenance[name] = r.Text()
	default:
		r.Unknown()
	}
}

// Values reads a reference_values object of ours that lies at a place of a document.
func Values(raw []byte, at string, into *verifier.ReferenceValues) error {
	err := verifier.DecodeStrict(raw, into)
	var decode *verifier.DecodeError
	if errors.As(err, &decode) {
		return baseline.ImportErrorf(baseline.ImportMalformed, at+decode.Pointer, "%s", decode.Detail)
	}
	if err != nil {
		return err
	}
	return baseline.CheckValues(*into, func(pointer string) string { return at + pointer })
}
