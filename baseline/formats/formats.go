// Package formats is the one table of the formats that reference values are imported from: what a Content-Type means, and
// which package reads it. The formats themselves are in the packages beside it.
package formats

import (
	"bytes"
	"sort"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/corim"
	"github.com/assay-verifier/assay/baseline/dsse"
	"github.com/assay-verifier/assay/baseline/golden"
	"github.com/assay-verifier/assay/baseline/intoto"
	"github.com/assay-verifier/assay/baseline/jsondoc"
	"github.com/assay-verifier/assay/baseline/keylime"
	"github.com/assay-verifier/assay/baseline/launch"
	"github.com/assay-verifier/assay/baseline/rim"
	"github.com/assay-verifier/assay/baseline/systemd"
)

// MaxDocument bounds a document in bytes.
const MaxDocument = 16 << 20

// Request is a document with what belongs to it.
type Request struct {
	Document []byte
	// Support are the files that the document refers to, by their names: the event logs of a RIM.
	Support map[string][]byte
	Trust   *baseline.ImportTrust
}

type importer func(*Request) (*baseline.Imported, error)

// Media types that say nothing of the format: the content decides.
const (
	mediaJSON   = "application/json"
	mediaBinary = "application/octet-stream"
)

// Media types of the formats.
const (
	mediaDSSE          = "application/vnd.dsse.envelope.v1+json"
	mediaRefState      = "application/vnd.keylime.mb-refstate+json"
	mediaRuntimePolicy = "application/vnd.keylime.runtime-policy+json"
	mediaPCRLock       = "application/vnd.systemd.pcrlock+json"
	mediaMeasure       = "application/vnd.systemd.measure+json"
	mediaPCRSig        = "application/vnd.systemd.pcrsig+json"
	mediaLaunch        = "application/vnd.google.vm-launch-endorsement"
	mediaEvidence      = "application/vnd.assay.evidence+json"
	mediaAttestation   = "application/x-protobuf" // attest.Attestation of go-tpm-tools
	mediaReferences    = "application/vnd.assay.reference-values+json"
	mediaCoRIM         = "application/rim+cbor" // draft-ietf-rats-corim
	mediaSignedCoRIM   = "application/rim+cose"
	mediaRIM           = "application/swid+xml" // a TCG RIM is a SWID tag
	mediaXML           = "application/xml"
)

// importers are the formats by media type.
var importers = map[string]importer{
	mediaDSSE:          envelope,
	mediaRefState:      document(keylime.Import),
	mediaRuntimePolicy: document(keylime.Import),
	mediaPCRLock:       pcrLock,
	mediaMeasure:       measure,
	mediaPCRSig:        pcrSig,
	mediaLaunch:        document(launch.Import),
	mediaEvidence:      document(golden.Import),
	mediaAttestation:   document(golden.Import),
	mediaReferences:    referenceValues,
	mediaCoRIM:         document(corim.Import),
	mediaSignedCoRIM:   document(corim.Import),
	mediaRIM:           tagRIM,
	mediaXML:           tagRIM,
}

// takesSupport are the formats whose documents may come with other files.
var takesSupport = map[string]bool{mediaPCRLock: true, mediaPCRSig: true, mediaRIM: true, mediaXML: true}

// document is an importer of a format without support files.
func document(read func([]byte, *baseline.ImportTrust) (*baseline.Imported, error)) importer {
	return func(r *Request) (*baseline.Imported, error) { return read(r.Document, r.Trust) }
}

// MediaTypes are those that Import takes, sorted.
func MediaTypes() []string {
	out := []string{mediaJSON, mediaBinary}
	for media := range importers {
		out = append(out, media)
	}
	sort.Strings(out)
	return out
}

// Import reads a document of a media type. Its reference values are ones that an appraisal can use. A document that has
// a signature is only imported where that holds; Imported.Signer is nil where it has none. The error is a
// *baseline.ImportError.
func Import(mediaType string, r *Request) (*baseline.Imported, error) {
	if len(r.Document) > MaxDocument {
		return nil, baseline.ImportErrorf(baseline.ImportTooLarge, "", "a document of %d bytes; at most %d are accepted", len(r.Document), MaxDocument)
	}
	if len(r.Document) == 0 {
		return nil, baseline.ImportErrorf(baseline.ImportMalformed, "", "the document is empty")
	}
	if mediaType == mediaJSON || mediaType == mediaBinary {
		if mediaType = Guess(r.Document); mediaType == "" {
			return nil, baseline.ImportErrorf(baseline.ImportUnsupported, "", "its content is of no format that is known; name it with its own Content-Type")
		}
	}
	read := importers[mediaType]
	if read == nil {
		return nil, baseline.ImportErrorf(baseline.ImportUnsupported, "", "documents of type %s are not read", mediaType)
	}
	if len(r.Support) > 0 && !takesSupport[mediaType] {
		return nil, baseline.ImportErrorf(baseline.ImportMalformed, "", "a document of type %s comes without other files", mediaType)
	}
	return read(r)
}

// tagRIM reads a TCG RIM with its support RIMs.
func tagRIM(r *Request) (*baseline.Imported, error) {
	return rim.Import(r.Document, r.Support, r.Trust)
}

func measure(r *Request) (*baseline.Imported, error) { return systemd.Measure(r.Document) }

func pcrLock(r *Request) (*baseline.Imported, error) { return systemd.PCRLock(r.Document, r.Support) }

// pcrSig takes one file beside the signatures: the values that they are over.
func pcrSig(r *Request) (*baseline.Imported, error) {
	if len(r.Support) > 1 {
		return nil, baseline.ImportErrorf(baseline.ImportMalformed, "", "one file belongs to a .pcrsig: the output of systemd-measure calculate")
	}
	var values []byte
	for _, content := range r.Support {
		values = content
	}
	return systemd.PCRSig(r.Document, values, r.Trust)
}

// envelope reads a DSSE envelope by the type of its payload, once that is verified.
func envelope(r *Request) (*baseline.Imported, error) {
	verified, err := dsse.Open(r.Document, r.Trust)
	if err != nil {
		return nil, err
	}
	if verified.PayloadType == keylime.PayloadType {
		return keylime.Signed(verified)
	}
	return intoto.Statement(verified)
}

// referenceValues reads our own format, which has no signature.
func referenceValues(r *Request) (*baseline.Imported, error) {
	out := &baseline.Imported{Format: "assay"}
	doc := jsondoc.New(r.Document, "")
	raw, at := doc.Raw()
	doc.End()
	if doc.Err() != nil {
		return nil, doc.Err()
	}
	return out, intoto.Values(raw, at, &out.Values)
}

// members tell JSON formats apart: the first of these names among an object's members says what it is.
var members = map[string]string{
	"payload":             mediaDSSE,
	"payloadType":         mediaDSSE,
	"quotes":              mediaEvidence,
	"enrollment":          mediaEvidence,
	"records":             mediaPCRLock,
	"scrtm_and_bios":      mediaRefState,
	"kernels":             mediaRefState,
	"meta":                mediaRuntimePolicy,
	"digests":             mediaRuntimePolicy,
	"excludes":            mediaRuntimePolicy,
	"events":              mediaReferences,
	"claims":              mediaReferences,
	"ima":                 mediaReferences,
	"launch_measurements": mediaReferences,
	"sha1":                mediaMeasure,
	"sha256":              mediaMeasure,
	"sha384":              mediaMeasure,
	"sha512":              mediaMeasure,
}

// What a CoRIM begins with: the CBOR tags 18 (COSE_Sign1), 501 (unsigned) and, of earlier drafts, 500 (either).
var (
	signedTag   = []byte{0xd2}
	corimTag    = []byte{0xd9, 0x01, 0xf4}
	unsignedTag = []byte{0xd9, 0x01, 0xf5}
)

// Guess tells the media type of a document by its content; empty if it is of no format that is known. It decides
// nothing but which reader refuses or reads it.
func Guess(b []byte) string {
	switch text := bytes.TrimLeft(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), " \t\r\n"); {
	case len(text) == 0:
		return ""
	case text[0] == '<':
		return mediaRIM
	case bytes.HasPrefix(b, signedTag):
		return mediaSignedCoRIM
	case bytes.HasPrefix(b, unsignedTag), bytes.HasPrefix(b, corimTag):
		return mediaCoRIM
	case text[0] != '{':
		return guessProtobuf(b)
	}
	name := jsondoc.FirstOf(b, func(name string) bool { return members[name] != "" || name == "pcrs" })
	switch media := members[name]; {
	case name == "pcrs" && bytes.Contains(b, []byte(`"quotes"`)): // both have PCR values
		return mediaEvidence
	case name == "pcrs":
		return mediaReferences
	case media == mediaMeasure && bytes.Contains(b, []byte(`"pkfp"`)):
		return mediaPCRSig
	default:
		return media
	}
}

// guessProtobuf tells Google's endorsement, which has two fields of bytes, from an attestation, whose second are
// messages that begin with a field of their own.
func guessProtobuf(b []byte) string {
	seen := map[protowire.Number]int{}
	for rest := b; len(rest) > 0; {
		number, typ, n := protowire.ConsumeTag(rest)
		if n < 0 || typ != protowire.BytesType && typ != protowire.VarintType {
			return ""
		}
		m := protowire.ConsumeFieldValue(number, typ, rest[n:])
		if m < 0 {
			return ""
		}
		rest = rest[n+m:]
		seen[number]++
		if len(seen) > 32 {
			return ""
		}
	}
	switch {
	case len(seen) == 2 && seen[1] == 1 && seen[2] == 1:
		return mediaLaunch
	case seen[1] == 1 && seen[2] > 0:
		return mediaAttestation
	}
	return ""
}
