package tpm

import (
	"errors"
	"fmt"
	"strings"
)

// ErrAttributesUnknown is the answer of CheckAK and CheckEK for a key of which nothing but the
// public key is known (PublicFromCrypto): nothing speaks against it, but the rules that make it an
// AK or EK could not be checked. Whoever vouches for such a key (a CA, a hardware report) vouches
// for its attributes too.
var ErrAttributesUnknown = errors.New("only the public key is known, so the TPM attributes of the key cannot be checked")

// KeyError lists every rule that a key breaks, each a sentence.
type KeyError struct {
	Role       string // "attestation key" or "endorsement key"
	Violations []string
}

// Error joins the sentences.
func (e *KeyError) Error() string {
	return "not an acceptable " + e.Role + ": " + strings.Join(e.Violations, " ")
}

// rules gathers violations; it allocates nothing while there are none.
type rules struct{ violations []string }

func (r *rules) require(ok bool, sentence string) {
	if !ok {
		r.violations = append(r.violations, sentence)
	}
}

func (r *rules) result(role string, p *Public) error {
	if len(r.violations) > 0 {
		return &KeyError{Role: role, Violations: r.violations}
	}
	if !p.HasAttributes() {
		return ErrAttributesUnknown
	}
	return nil
}

// CheckAK checks that a key can serve as attestation key. It returns nil, a *KeyError, or
// ErrAttributesUnknown. The rules, and what would go wrong without each:
//
//   - restricted: it signs only what the TPM made itself; an unrestricted key signs a forged quote that software hands it
//   - sign and not decrypt: a key of a single purpose (Part 1, section 27.2.2.2)
//   - fixedTPM and fixedParent: it cannot be duplicated to another TPM or into software
//   - sensitiveDataOrigin: the TPM made the private key; it was not imported
//   - RSA of at least 2048 bits with an odd exponent of at least 65537 (FIPS 186-5, section A.1.1), or P-256, P-384, P-521
//   - nameAlg SHA-256, SHA-384 or SHA-512: the name that a credential binds to cannot be made to collide
//   - scheme RSASSA, RSAPSS or ECDSA with SHA-256, SHA-384 or SHA-512, never SHA-1
//
// CheckAK does not tell whose key it is: that is proved by MakeCredential, VerifyAKChain or a
// hardware report.
func CheckAK(p *Public) error {
	if p == nil || p.Key() == nil {
		return &KeyError{Role: "attestation key", Violations: []string{"There is no key."}}
	}
	var r rules
	r.checkKey(p)
	if p.HasAttributes() {
		r.checkFixed(p)
		a := p.attributes
		r.require(a.Has(Restricted), "The key is not restricted, so it could sign a quote that no TPM made.")
		r.require(a.Has(Sign), "The key lacks the attribute sign.")
		r.require(a&Decrypt == 0, "The key has the attribute decrypt, which an attestation key must not have.")
		want := AlgECDSA
		if p.rsa != nil {
			want = AlgRSASSA
			if p.scheme.Alg == AlgRSAPSS {
				want = AlgRSAPSS
			}
		}
		if p.scheme.Alg != want {
			r.require(false, fmt.Sprintf("The key's signing scheme is %s, not RSASSA, RSAPSS or ECDSA as its type demands.", p.scheme.Alg))
		} else if !signatureHash(p.scheme.Hash) {
			r.require(false, fmt.Sprintf("The key signs with %s; only sha256, sha384 and sha512 are accepted.", p.scheme.Hash))
		}
	}
	return r.result("attestation key", p)
}

// CheckEK checks that a key can serve as endorsement key: a restricted decryption key that the TPM
// made and cannot give away, so that only this TPM opens a credential (TCG EK Credential Profile
// 2.5, section 2.1.5 and appendix B). It returns nil, a *KeyError, or ErrAttributesUnknown.
func CheckEK(p *Public) error {
	if p == nil || p.Key() == nil {
		return &KeyError{Role: "endorsement key", Violations: []string{"There is no key."}}
	}
	var r rules
	r.checkKey(p)
	if p.HasAttributes() {
		r.checkFixed(p)
		a := p.attributes
		r.require(a.Has(Restricted), "The key is not restricted, so software could have it decrypt a credential for a key of another TPM.")
		r.require(a.Has(Decrypt), "The key lacks the attribute decrypt.")
		r.require(a&Sign == 0, "The key has the attribute sign, which an endorsement key must not have.")
		s := p.symmetric
		r.require(s.Alg == AlgAES && s.Mode == AlgCFB && (s.Bits == 128 || s.Bits == 192 || s.Bits == 256),
			"The key's symmetric cipher is not AES-CFB.")
		// Part 2, section 12.2.3.5: a restricted decryption key has no scheme of its own.
		r.require(p.scheme.Alg == AlgNull, "The key has a scheme of its own, which a restricted decryption key cannot have.")
	}
	return r.result("endorsement key", p)
}

func (r *rules) checkKey(p *Public) {
	if p.rsa != nil {
		r.require(p.rsa.N.BitLen() >= 2048, "The RSA key has fewer than 2048 bits.")
		r.require(p.rsa.E >= 65537, "The RSA exponent is less than 65537.")
	}
}

func (r *rules) checkFixed(p *Public) {
	a := p.attributes
	r.require(a.Has(FixedTPM), "The key lacks the attribute fixedTPM, so it could be moved to another TPM.")
	r.require(a.Has(FixedParent), "The key lacks the attribute fixedParent, so it could be moved to another parent.")
	r.require(a.Has(SensitiveDataOrigin), "The key lacks the attribute sensitiveDataOrigin, so its private part may be known outside the TPM.")
	r.require(signatureHash(p.nameAlg), "The key's nameAlg is not sha256, sha384 or sha512.")
}

// signatureHash tells whether a hash is good enough for signatures and names.
func signatureHash(a HashAlg) bool { return a == SHA256 || a == SHA384 || a == SHA512 }
