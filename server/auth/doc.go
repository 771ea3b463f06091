// Package auth finds out who sends an OpenID Connect identity token, and decides what that identity may do.
// A pipeline of GitHub Actions, GitLab CI or any other issuer proves itself by a token that its platform
// signs for one run: there is no secret of ours to keep or to leak.
//
// # What Verifier.Verify checks, in this order
//
//	form        at most 16 KiB; three parts of base64url; header and claims without repeated members; no
//	            crit, b64, zip or enc; typ JWT, at+jwt or none                                 token_malformed
//	issuer      iss names an enabled provider of the tenant. It only chooses a row of the database: nothing
//	            is ever fetched for an issuer that nobody configured                           token_issuer
//	audience    aud holds one of that provider's audiences, and of no other provider           token_audience
//	algorithm   one of RS256, PS256, ES256, ES384, EdDSA that the provider allows              token_algorithm
//	time        exp, iat and nbf; 60 s leeway for iat and nbf, none for exp; exp - iat is bounded
//	                                                          token_expired token_not_yet_valid token_lifetime
//	claims      sub                                                                            token_claims
//	key         the issuer's key of this kid, whose type fits the algorithm        token_key_unknown
//	                                                                               issuer_unavailable
//	signature   over exactly the bytes that were read                                          token_signature
//
// What comes before the signature is cheap and reads nothing but the database; nothing of the token is
// believed, or said to anybody but its sender, before the signature holds. Keys in the token's header
// (jwk, jku, x5c, x5u) are never looked at.
//
// # Which tenant
//
// The audience tells (TenantOf): it is signed by the issuer, chosen by whoever set up the pipeline, and a
// tenant can only configure audiences of its own. So two tenants may use the same issuer, neither can take
// the other's tokens, and neither can find out what the other configured.
//
// # The issuer's keys
//
// They come from {issuer}/.well-known/openid-configuration (OpenID Connect Discovery 1.0, section 4) and
// its jwks_uri, over https, without redirects, with bounds on size and time, and from no private,
// link-local or metadata address (checked on the address that is dialled, after name resolution). They are
// kept in the database for the life that Cache-Control: max-age gives them, at least 5 minutes and at most
// 24 hours (1 hour where it says nothing). From half of their life on they are fetched anew; while that
// fails they go on working to the end of their life, also after a restart, and then tokens are refused
// (issuer_unavailable). A key id that is not among them causes at most one fetch a minute.
//
// # What an identity may do
//
// Nothing, unless a Rule says so: Decide, which is pure.
package auth
