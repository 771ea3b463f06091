package attest

import (
	"errors"
	"fmt"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// Code is the stable word of an error, as problem documents carry it.
type Code string

// The codes. Each is a statement about the request; what is wrong with a machine is a verdict, not an
// error.
const (
	CodeUnauthenticated     Code = "unauthenticated"               // 401: the token's key is no longer the machine's
	CodeForbidden           Code = "forbidden"                     // 403: the join token is unknown, expired or used up
	CodeNotFound            Code = "not_found"                     // 404
	CodeIdentityConflict    Code = "identity_conflict"             // 409: the machine exists with another EK or AK
	CodeUnknownChallenge    Code = "unknown_challenge"             // 409: a nonce that was never ours for this machine
	CodeEventLogRequired    Code = "event_log_required"            // 409: the named log is not held
	CodeNoGenuineVerdict    Code = "no_genuine_verdict"            // 409: nothing to capture a baseline from
	CodeNoVerdict           Code = "no_verdict"                    // 409: nothing to sign a result about
	CodeVerdictStale        Code = "verdict_stale"                 // 409: evidence is overdue
	CodeNotAffirming        Code = "not_affirming"                 // 409: a result for an audience, of a machine that is not sound
	CodeOriginUnverified    Code = "origin_unverified"             // 409: evidence that is not genuine cannot be approved
	CodeNotApprovable       Code = "not_approvable"                // 409: there is nothing in the alert that a baseline could allow
	CodeConflict            Code = "conflict"                      // 409: collides with what is stored
	CodeActivationUsed      Code = "activation_used"               // 409: the one try has been used
	CodeActivationFailed    Code = "activation_failed"             // 403: wrong secret, or too late
	CodeInvalidField        Code = "invalid_field"                 // 400, with a pointer
	CodeUnknownField        Code = "unknown_field"                 // 400, with a pointer
	CodeMalformedJSON       Code = "malformed_json"                // 400
	CodeUnsupportedMedia    Code = "unsupported_media_type"        // 415
	CodeAKRefused           Code = "ak_refused"                    // 422: the AK breaks a rule for attestation keys
	CodeEKUntrusted         Code = "ek_untrusted"                  // 422: the EK is missing, malformed, or of no trusted maker
	CodeDigestMismatch      Code = "digest_mismatch"               // 422: a body that does not hash to its name
	CodeTrialRunning        Code = "trial_running"                 // 429: the tenant has a dry run or policy test under way
	CodePlatformUnsupported Code = "platform_evidence_unsupported" // 422: a hardware report of a version that is not read
	CodePlatformRefused     Code = "platform_evidence_refused"     // 422: the hardware report does not hold, or the policy refuses it
	CodePlatformRequired    Code = "platform_evidence_required"    // 409: the named hardware evidence is not held
)

// Error is a statement about a request.
type Error struct {
	Code    Code
	Detail  string // plain words, fit for whoever sent the request
	Pointer string // RFC 6901 pointer into the body; empty where no one place is at fault
}

// Error implements error.
func (e *Error) Error() string {
	if e.Pointer != "" {
		return fmt.Sprintf("%s: %s: %s", e.Code, e.Pointer, e.Detail)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Detail)
}

func errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

func fieldErrorf(pointer, format string, args ...any) *Error {
	return &Error{Code: CodeInvalidField, Pointer: pointer, Detail: fmt.Sprintf(format, args...)}
}

// fromStore turns the store's errors that say something about the request into an *Error. Everything
// else is a failure of ours and keeps its chain.
func fromStore(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return errorf(CodeNotFound, "%s: there is no such thing", doing)
	case errors.Is(err, store.ErrIdentityConflict):
		return errorf(CodeIdentityConflict, "the machine exists with another EK or AK; nothing was changed")
	case errors.Is(err, store.ErrConflict):
		return errorf(CodeConflict, "%s: it conflicts with what is stored", doing)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// fromDecode turns a refusal of verifier.Decode into an *Error.
func fromDecode(err error) error {
	var d *verifier.DecodeError
	if errors.As(err, &d) {
		return &Error{Code: Code(d.Code), Detail: d.Detail, Pointer: d.Pointer}
	}
	return errorf(CodeInvalidField, "the evidence cannot be read")
}
