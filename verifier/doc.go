// Package verifier judges attestation evidence of measured boots: a Verifier in the sense of RFC 9334.
//
// Decode reads what a machine sent, Appraise judges it against Inputs (the machine's attestation key,
// the challenge, the policy and the reference values) and returns an Appraisal: a status, the checks
// from the key to the booted component in order, each deviation from the reference values event by
// event, and the claims that the evidence proves.
//
// The package and all below it are pure: no network, no database, no files, no clock, no randomness.
// Time and keys are passed in, so that the same evidence judged again gives the same verdict. A service
// is not needed to use it:
//
//	ev, err := verifier.Decode(contentType, body)
//	log, err := eventlog.Parse(ev.EventLog)
//	verdict := verifier.Appraise(ev, verifier.Inputs{Now: now, AK: key, Freshness: tpm.Freshness{Nonce: nonce},
//		Policy: verifier.DefaultPolicy(), Log: log, Candidates: candidates})
//
// A statement about the request (it cannot be read) is an error of Decode; a statement about the
// machine is a failing check of the Appraisal. The zero value of every outcome is the one that proves
// nothing.
package verifier
