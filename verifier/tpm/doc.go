// Package tpm judges what a TPM 2.0 says about itself: quotes over PCR banks, attestation keys (AK),
// endorsement keys (EK) and their certificates, and the credential that proves the two to be of one TPM.
//
// The way of an appraisal is
//
//	ak, err := tpm.ParsePublic(akPublic)        // once, at enrolment
//	err = tpm.CheckAK(ak)                       // the key can sign nothing but what the TPM itself made
//	… the AK is proved: MakeCredential against a certified EK, VerifyAKChain, or a hardware report …
//	verified, report := tpm.Verify(ak, quotes, pcrs, expectation)
//
// Only Verify makes a VerifiedQuote, and it makes none unless every step passed, so that whoever
// holds one holds PCR values that this AK's TPM signed.
//
// Everything here is pure: bytes, keys, times and randomness come in, values go out. All input is
// untrusted; it is bounded before it is read, and nothing panics on it.
//
// Part 1, Part 2 and Part 3 in comments are those of the TCG "Trusted Platform Module Library
// Specification, Family 2.0", revision 1.59.
package tpm
