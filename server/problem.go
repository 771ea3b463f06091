package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// problemKind is what a code always means. The table is the x-problem-catalogue of the contract, so
// that there is one and it is documented.
type problemKind struct {
	status int
	title  string
	detail string // for the page that explains the code
}

// The codes that this package itself decides. The others come from server/attest and verifier.
const (
	codeMalformedJSON       = "malformed_json"
	codeMalformedEncoding   = "malformed_encoding"
	codeInvalidField        = "invalid_field"
	codeUnknownField        = "unknown_field"
	codeInvalidCursor       = "invalid_cursor"
	codeExportRunning       = "export_running"
	codeUnauthenticated     = "unauthenticated"
	codeForbidden           = "forbidden"
	codeScopeForbids        = "scope_forbids"
	codeRuleDenied          = "rule_denied"
	codeNotFound            = "not_found"
	codeMethodNotAllowed    = "method_not_allowed"
	codeIdentityConflict    = "identity_conflict"
	codeActivationUsed      = "activation_used"
	codeConflict            = "conflict"
	codeVersionChanged      = "version_changed"
	codeSecondPerson        = "second_person_required"
	codeRefusedBefore       = "refused_before"
	codeIdempotencyConflict = "idempotency_conflict"
	codeBodyTooLarge        = "body_too_large"
	codeUnsupportedMedia    = "unsupported_media_type"
	codeUnsupportedEncoding = "unsupported_encoding"
	codeCollateralInvalid   = "collateral_invalid"
	codeRevocationsInvalid  = "revocations_invalid"
	codeRevocationsNotNewer = "revocations_not_newer"
	codeKeyEnded            = "key_ended"
	codeRateLimited         = "rate_limited"
	codeQuotaExceeded       = "quota_exceeded"
	codeInternal            = "internal"
	codeOverloaded          = "overloaded"
	codeNotReady            = "not_ready"
)

// fieldProblem is one entry of a problem's errors.
type fieldProblem struct {
	Pointer   string `json:"pointer,omitempty"`   // RFC 6901, into the body
	Parameter string `json:"parameter,omitempty"` // path, query or header parameter
	Detail    string `json:"detail"`
}

// requestError is a statement about the request, on its way to becoming a problem document.
type requestError struct {
	code   string
	detail string
	errors []fieldProblem
	header http.Header // added to the answer, e.g. Accept-Post
	quota  *quotaProblem
}

// quotaProblem is what was exceeded.
type quotaProblem struct {
	Kind  string `json:"kind"`
	Limit int64  `json:"limit"`
	Used  int64  `json:"used"`
}

// Error implements error.
func (e *requestError) Error() string { return e.code + ": " + e.detail }

func refuse(code, detail string) *requestError { return &requestError{code: code, detail: detail} }

// refuseField is a refusal for one place in the body.
func refuseField(code, pointer, detail string) *requestError {
	e := &requestError{code: code, errors: []fieldProblem{{Pointer: pointer, Detail: detail}}}
	e.detail = e.summary()
	return e
}

// refuseParameter is a refusal for a path, query or header parameter.
func refuseParameter(code, name, detail string) *requestError {
	e := &requestError{code: code, errors: []fieldProblem{{Parameter: name, Detail: detail}}}
	e.detail = e.summary()
	return e
}

func (e *requestError) with(header, value string) *requestError {
	if e.header == nil {
		e.header = http.Header{}
	}
	e.header.Set(header, value)
	return e
}

// summary is the first of the field problems, for readers that show the detail only.
func (e *requestError) summary() string {
	first := e.errors[0]
	place := first.Pointer + first.Parameter
	if place == "" {
		return first.Detail
	}
	return place + ": " + first.Detail
}

// asRequestError is the one table from the errors of the layers below to codes. ok is false for a
// failure of ours: its text is for the log and never for the client.
func asRequestError(err error) (e *requestError, ok bool) {
	var own *requestError
	var decode *verifier.DecodeError
	var field *verifier.FieldError
	var use *attest.Error
	var changed *store.VersionChangedError
	var second *store.SecondPersonError
	var state *store.StateError
	var unvouched *store.UnvouchedError
	var before *store.RefusedBeforeError
	var quota *store.QuotaError
	switch {
	case errors.As(err, &quota):
		return quotaExceeded(quota), true
	case errors.As(err, &own):
		return own, true
	case errors.As(err, &use):
		e := located(string(use.Code), use.Pointer, use.Detail)
		if use.Code == attest.CodeTrialRunning {
			return e.with("Retry-After", "5"), true
		}
		return e, true
	case errors.As(err, &decode):
		return located(decode.Code, decode.Pointer, decode.Detail), true
	case errors.As(err, &field):
		return located(codeInvalidField, field.Pointer, field.Detail), true
	case errors.As(err, &changed):
		return refuse(codeVersionChanged, changed.What), true
	case errors.As(err, &state):
		return refuse(codeConflict, state.What), true
	case errors.As(err, &unvouched):
		return refuse(baseline.ImportUntrusted, unvouched.What), true
	case errors.As(err, &second):
		return refuse(codeSecondPerson, second.What), true
	case errors.As(err, &before):
		return refuse(codeRefusedBefore, before.What+"; force approves them all the same"), true
	case errors.Is(err, store.ErrNotFound):
		return refuse(codeNotFound, "nothing with this id exists"), true
	case errors.Is(err, store.ErrIdentityConflict):
		return refuse(codeIdentityConflict, "the machine exists with another EK or AK; nothing was changed"), true
	case errors.Is(err, store.ErrConflict):
		return refuse(codeConflict, "the name is taken, or the present state does not allow this"), true
	case errors.Is(err, store.ErrOtherCursor):
		return refuseParameter(codeInvalidCursor, "cursor", "it was answered for another sort or other filters; ask for the first page"), true
	case errors.Is(err, store.ErrInvalidCursor):
		return refuseParameter(codeInvalidCursor, "cursor", "it is not one that this list answered"), true
	case errors.Is(err, store.ErrAttemptUsed):
		return refuse(codeActivationUsed, "the one activation attempt has been used"), true
	case errors.Is(err, store.ErrTokenInvalid):
		return unauthenticated("the token is unknown, expired or used up"), true
	}
	return nil, false
}

func located(code, pointer, detail string) *requestError {
	e := &requestError{code: code, detail: detail}
	if pointer != "" || code == codeInvalidField || code == codeUnknownField || code == codeMalformedJSON {
		e.errors = []fieldProblem{{Pointer: pointer, Detail: detail}}
		e.detail = e.summary()
	}
	return e
}

// problem is the document of RFC 9457.
type problem struct {
	Type     string         `json:"type"`
	Title    string         `json:"title"`
	Status   int            `json:"status"`
	Detail   string         `json:"detail"`
	Code     string         `json:"code"`
	Instance string         `json:"instance"`
	Errors   []fieldProblem `json:"errors,omitempty"`
	Quota    *quotaProblem  `json:"quota,omitempty"`
}

// fail answers err as a problem document. What is no statement about the request is logged with its
// text and answered as internal, without it.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e, doc := s.problemOf(r, err)
	body, err := json.Marshal(doc)
	if err != nil { // cannot happen: the type holds strings and numbers
		http.Error(w, "internal", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	for name, values := range e.header {
		h[name] = values
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(doc.Status)
	_, _ = w.Write(body)
}

// problemOf is the document of an error, noted for the log and the metrics.
func (s *Server) problemOf(r *http.Request, err error) (*requestError, problem) {
	e, ok := asRequestError(err)
	if !ok {
		if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
			s.log.InfoContext(r.Context(), "client went away", "request_id", requestID(r.Context()))
		} else {
			s.log.ErrorContext(r.Context(), "request failed", "request_id", requestID(r.Context()), "error", err.Error())
		}
		e = refuse(codeInternal, "the request could not be completed; its id finds the reason in the logs")
	}
	kind, known := s.problems[e.code]
	if !known {
		s.log.ErrorContext(r.Context(), "code without a problem kind", "request_id", requestID(r.Context()), "code", e.code)
		e, kind = refuse(codeInternal, "the request could not be completed; its id finds the reason in the logs"), s.problems[codeInternal]
	}
	noteProblem(r.Context(), e.code)
	return e, problem{
		Type:     "/docs/problems/" + e.code,
		Title:    kind.title,
		Status:   kind.status,
		Detail:   e.detail,
		Code:     e.code,
		Instance: requestID(r.Context()),
		Errors:   e.errors,
		Quota:    e.quota,
	}
}
