package verifier

import (
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// The content types of evidence.
const (
	MediaTypeJSON     = "application/json"
	MediaTypeProtobuf = "application/x-protobuf" // attest.Attestation of go-tpm-tools, as `gotpm attest --format binarypb` writes it
)

// Bounds of one piece of evidence. A body's size is bounded by the caller.
const (
	maxQuotes       = 8
	maxCertificates = 16
)

// The codes of a DecodeError; they are stable and part of the API.
const (
	CodeMalformedJSON     = "malformed_json"
	CodeUnknownField      = "unknown_field"
	CodeInvalidField      = "invalid_field"
	CodeMalformedProtobuf = "malformed_protobuf"
	CodeUnsupportedMedia  = "unsupported_media_type"
)

// DecodeError is a statement about the request: the body cannot be read as what it claims to be.
type DecodeError struct {
	Code    string
	Pointer string // RFC 6901 into a JSON body; empty for the body as a whole
	Detail  string
}

// Error implements error.
func (e *DecodeError) Error() string {
	if e.Pointer == "" {
		return e.Detail
	}
	return e.Pointer + ": " + e.Detail
}

func invalidField(pointer, format string, args ...any) *DecodeError {
	return &DecodeError{Code: CodeInvalidField, Pointer: pointer, Detail: fmt.Sprintf(format, args...)}
}

// DecodeStrict decodes one JSON value: unknown and repeated fields, wrong letter case, invalid UTF-8
// and anything after the value are refused. The error is a *DecodeError.
func DecodeStrict(b []byte, into any) error {
	err := json.Unmarshal(b, into, json.RejectUnknownMembers(true))
	if err == nil {
		return nil
	}
	var placed *DecodeError // of a bounded list, which knows its place
	if errors.As(err, &placed) {
		return placed
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		return decodeErrorOf(semantic)
	}
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		pointer := string(syntactic.JSONPointer)
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return &DecodeError{Code: CodeMalformedJSON, Pointer: pointer, Detail: "this field is given twice"}
		}
		return &DecodeError{Code: CodeMalformedJSON, Pointer: pointer,
			Detail: fmt.Sprintf("not JSON at byte %d: %s", syntactic.ByteOffset, plainCause(syntactic.Err))}
	}
	return &DecodeError{Code: CodeMalformedJSON, Detail: "not JSON: " + plainCause(err)}
}

func decodeErrorOf(e *json.SemanticError) *DecodeError {
	pointer := string(e.JSONPointer)
	switch {
	case errors.Is(e, json.ErrUnknownName):
		return &DecodeError{Code: CodeUnknownField, Pointer: pointer, Detail: "there is no such field"}
	case e.Err != nil:
		return invalidField(pointer, "%s", plainCause(e.Err))
	default:
		return invalidField(pointer, "a JSON %s does not fit here", kindName(e.JSONKind))
	}
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "boolean"
	case '"':
		return "string"
	case '0':
		return "number"
	case '{':
		return "object"
	case '[':
		return "array"
	}
	return "value"
}

// plainCause drops the library's own prefixes, which mean nothing to the client.
func plainCause(err error) string {
	s := err.Error()
	for _, prefix := range []string{"jsontext: ", "json: "} {
		s = strings.TrimPrefix(s, prefix)
	}
	return s
}

type wireQuote struct {
	Message   []byte `json:"message"`
	Signature []byte `json:"signature"`
}

type wireAgent struct {
	Version       string  `json:"version"`
	BootID        string  `json:"boot_id"`
	Kernel        string  `json:"kernel"`
	UptimeSeconds float64 `json:"uptime_seconds"`
}

type wireEnrollment struct {
	AKPublic           []byte          `json:"ak_public"`
	AKCertificate      []byte          `json:"ak_certificate"`
	AKCertificateChain certificateList `json:"ak_certificate_chain"`
}

type wireEvidence struct {
	Quotes           quoteList     `json:"quotes"`
	PCRs             pcrBanks      `json:"pcrs"`
	EventLog         []byte        `json:"event_log"`
	EventLogDigest   *string       `json:"event_log_digest"`
	IMALog           []byte        `json:"ima_log"`
	IMALogOffset     int64         `json:"ima_log_offset"`
	PlatformEvidence *WirePlatform `json:"platform_evidence"`
	// PlatformEvidenceDigest names evidence that the verifier holds.
	PlatformEvidenceDigest *string    `json:"platform_evidence_digest"`
	Agent                  *wireAgent `json:"agent"`
}

type wireOffline struct {
	wireEvidence
	Enrollment *wireEnrollment `json:"enrollment"`
}

// Decode reads the body of an evidence POST by its content type: JSON as API.md has it, or the
// protobuf of go-tpm-tools. It checks shape and bounds only; nothing in the result is believed yet.
// The error is a *DecodeError.
func Decode(contentType string, body []byte) (*Evidence, error) {
	media, err := mediaType(contentType)
	if err != nil {
		return nil, err
	}
	if media == MediaTypeProtobuf {
		return decodeProtobuf(body)
	}
	var w wireEvidence
	if err := DecodeStrict(body, &w); err != nil {
		return nil, err
	}
	return w.evidence()
}

// DecodeOffline reads what `assay verify` judges: the JSON of an evidence POST with one more object
// "enrollment" that identifies the AK, or the protobuf of go-tpm-tools, which carries the AK itself.
func DecodeOffline(body []byte) (*Evidence, error) {
	if !looksLikeJSON(body) {
		return decodeProtobuf(body)
	}
	var w wireOffline
	if err := DecodeStrict(body, &w); err != nil {
		return nil, err
	}
	ev, err := w.evidence()
	if err != nil {
		return nil, err
	}
	if w.Enrollment != nil {
		if ev.Enrollment, err = w.Enrollment.keyEvidence(); err != nil {
			return nil, err
		}
	}
	return ev, nil
}

func looksLikeJSON(body []byte) bool {
	trimmed := strings.TrimLeft(string(body[:min(len(body), 64)]), " \t\r\n")
	return strings.HasPrefix(trimmed, "{")
}

func mediaType(contentType string) (string, error) {
	media, params, err := mime.ParseMediaType(contentType)
	if err == nil && media == MediaTypeProtobuf {
		return media, nil
	}
	if err == nil && media == MediaTypeJSON {
		if cs, given := params["charset"]; !given || strings.EqualFold(cs, "utf-8") {
			return media, nil
		}
	}
	return "", &DecodeError{Code: CodeUnsupportedMedia,
		Detail: fmt.Sprintf("evidence is %s or %s, not %q", MediaTypeJSON, MediaTypeProtobuf, contentType)}
}

func (w *wireEvidence) evidence() (*Evidence, error) {
	ev := &Evidence{EventLog: w.EventLog, IMALog: w.IMALog}
	err := w.platform(ev)
	if err != nil {
		return nil, err
	}
	if len(w.Quotes) == 0 && len(w.PCRs) == 0 && ev.Platform != nil && ev.Platform.Type != tee.TypeAzureHCL {
		ev.NoTPM = true
	} else if err := w.tpm(ev); err != nil {
		return nil, err
	}
	if err := w.logs(ev); err != nil {
		return nil, err
	}
	if w.Agent != nil {
		ev.Agent = AgentInfo(*w.Agent)
		for _, f := range []struct{ name, text string }{
			{"version", w.Agent.Version}, {"boot_id", w.Agent.BootID}, {"kernel", w.Agent.Kernel}} {
			if len(f.text) > 256 || strings.ContainsFunc(f.text, isControl) {
				return nil, invalidField("/agent/"+f.name, "at most 256 characters and no control characters")
			}
		}
	}
	return ev, nil
}

// tpm reads quotes and PCR values.
func (w *wireEvidence) tpm(ev *Evidence) error {
	if len(w.Quotes) == 0 {
		return invalidField("/quotes", "at least one quote is needed; only a confidential VM without a TPM (platform_evidence of type sev_snp or tdx) sends none")
	}
	ev.Quotes = make([]tpm.Quote, len(w.Quotes))
	for i, q := range w.Quotes {
		if len(q.Message) == 0 {
			return invalidField("/quotes/"+strconv.Itoa(i)+"/message", "a TPMS_ATTEST is needed")
		}
		if len(q.Signature) == 0 {
			return invalidField("/quotes/"+strconv.Itoa(i)+"/signature", "a TPMT_SIGNATURE is needed")
		}
		ev.Quotes[i] = tpm.Quote{Message: q.Message, Signature: q.Signature}
	}
	if len(w.PCRs) == 0 {
		return invalidField("/pcrs", "the quoted PCR values are needed")
	}
	ev.PCRs = tpm.PCRs(w.PCRs)
	return nil
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

func (w *wireEvidence) logs(ev *Evidence) error {
	if w.EventLogDigest != nil {
		if len(w.EventLog) > 0 {
			return invalidField("/event_log_digest", "give event_log or event_log_digest, not both")
		}
		text, found := strings.CutPrefix(*w.EventLogDigest, "sha256:")
		sum, err := hex.DecodeString(text)
		if !found || err != nil || len(sum) != 32 {
			return invalidField("/event_log_digest", "sha256: and 64 hex digits are needed")
		}
		ev.EventLogDigest = (*[32]byte)(sum)
	}
	if w.IMALogOffset < 0 || w.IMALogOffset > 1<<31 {
		return invalidField("/ima_log_offset", "%d is no count of entries", w.IMALogOffset)
	}
	ev.IMALogOffset = int(w.IMALogOffset)
	return nil
}

// pointerEscapes is made once: a set of reference values escapes some names an event.
var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

func escapePointer(s string) string { return pointerEscapes.Replace(s) }

func (w *wireEnrollment) keyEvidence() (*KeyEvidence, error) {
	k := &KeyEvidence{AKCertificate: w.AKCertificate, AKCertificateChain: w.AKCertificateChain}
	if len(w.AKPublic) > 0 {
		pub, err := tpm.ParsePublic(w.AKPublic)
		if err != nil {
			return nil, invalidField("/enrollment/ak_public", "%s", err)
		}
		k.AKPublic = pub
	}
	return k, nil
}
