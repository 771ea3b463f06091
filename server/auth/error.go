package auth

import "time"

// The codes of *Error. They are stable and reach the API as problem codes.
const (
	CodeMalformed         = "token_malformed"
	CodeIssuer            = "token_issuer"
	CodeAudience          = "token_audience"
	CodeAlgorithm         = "token_algorithm"
	CodeExpired           = "token_expired"
	CodeNotYetValid       = "token_not_yet_valid"
	CodeLifetime          = "token_lifetime"
	CodeClaims            = "token_claims"
	CodeKeyUnknown        = "token_key_unknown"
	CodeSignature         = "token_signature"
	CodeIssuerUnavailable = "issuer_unavailable" // the only one that is not the token's fault
)

// TokenCodes are all codes that Verify refuses a token with.
func TokenCodes() []string {
	return []string{CodeMalformed, CodeIssuer, CodeAudience, CodeAlgorithm, CodeExpired, CodeNotYetValid, CodeLifetime, CodeClaims, CodeKeyUnknown, CodeSignature, CodeIssuerUnavailable}
}

// Error is why a token is refused. Its text never repeats the token or a part of it that could be a secret.
type Error struct {
	Code   string
	Detail string
	// RetryAfter is when it may be tried again, for CodeIssuerUnavailable.
	RetryAfter time.Duration
}

// Error implements error.
func (e *Error) Error() string { return e.Code + ": " + e.Detail }

func refuse(code, detail string) *Error { return &Error{Code: code, Detail: detail} }
