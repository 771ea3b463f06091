// Package attest carries out the use cases of the service: Challenge, Enrol, Activate, Appraise, and
// what hangs on them. It decides nothing about a machine (verifier and verifier/finding do, purely)
// and stores nothing by itself (store does, in one transaction a use case); it brings the two
// together in the one order that is safe.
//
// # The appraisal cycle
//
// One POST of evidence goes one way, and there is no way back:
//
//	server        bounds the body and authenticates the machine        nothing is stored yet
//	1 Decode      verifier.Decode: bytes to Evidence                   a body that does not fit is an error
//	2 inputs      store.AppraisalInputs: one snapshot of the key, the last clock, the last redeemed
//	              challenge, the policy and the baselines
//	3 nonce       is the quote's nonce ours, for this machine? No: 409 and an audit event, no verdict.
//	              Ours but late or used: the appraisal is told so and fails at quote.nonce
//	4 log         from the body, or by digest from the cache or the store (409 event_log_required)
//	5 Appraise    verifier.Appraise over baseline.Effective: a verdict, whatever it is; no error
//	6 Derive      finding.Derive: assessments, recommendations, alerts
//	7 record      store.RecordAppraisal: ONE transaction redeems the nonce and stores verdict,
//	              evidence, log, findings, learned baseline and outbox
//	8 sign        token.Sign of the EAR claims: only what is recorded is ever signed
//	9 answer      the verdict, the result token, and the next challenge
//
// A statement about the request is an *Error; a statement about the machine is a recorded verdict.
//
// # What survives a crash
//
//	during 1-6    nothing was stored. The nonce is not redeemed: the agent posts the same evidence
//	              again and is judged as if for the first time.
//	during 7      the transaction is whole or absent. If it was committed and the answer lost, the
//	              nonce is redeemed and the verdict stands; the agent's retry of the same evidence is
//	              told that its nonce has been used. That retry is recorded as origin_unverified, since
//	              nobody can tell it from a replay; agents therefore ask for a new challenge and quote
//	              again after an answer that was lost, and never post the same quote twice.
//	during 8, 9   the verdict stands, unsigned. Nothing is signed later: results are about a moment,
//	              and the next evidence brings the next.
//
// # One nonce, one verdict
//
// A challenge costs no row (nonce.go): it is 8 bytes of time, 8 random bytes and a MAC over both, the
// tenant and the machine. That it is ours is checked without a read. That it is used once is decided in
// step 7, where a machine's last redeemed challenge may only move forward. Whoever loses that race is
// judged again, with the nonce as a fault, and that judgement is what is recorded.
//
// # Stored evidence
//
//	DryRunVersion, DryRunValues, TestPolicy   judge the evidence behind the standing verdicts under an assumption, and
//	                                          record nothing (trial.go)
//	Reappraise                                judges it by what is in force now, and supersedes the verdicts that come
//	                                          out otherwise; resumes after a crash at the last page (reappraise.go)
//
// rejudge.go says what is taken as it was when the evidence came.
//
// # Enrolment
//
//	Enrol      checks the AK's rules; then either a certificate of the AK chains to a trusted root
//	           (active at once, ak_certified), or the EK does and a credential is made that only the
//	           TPM with that EK and that AK can open (TPM2_MakeCredential, TPM 2.0 Part 1, section 24).
//	           The store holds the SHA-256 of the secret, for five minutes.
//	Activate   one try. The right secret makes the key active: ek_activated where the EK is certified.
//	           Where the policy admits an EK without certificate, the activation proves possession of
//	           that EK and nothing about its maker, so the assurance stays first_use.
//	VouchKey   an administrator vouches for a key of a client that cannot activate: first_use.
//
// A crash between Enrol and Activate leaves a pending enrolment that expires; the agent enrols again
// with the same keys and gets a new credential.
package attest
