// Package rules compiles and evaluates the rules of a policy: expressions of CEL (https://cel.dev) over what evidence
// proves. It is pure, and the only user of cel-go, so that whoever judges without rules does not carry it.
//
//	set, err := rules.Compile(policy.Rules)
//	verdict := verifier.Appraise(ev, verifier.Inputs{Policy: policy, Rules: set, ...})
//
// An expression gives a bool and sees these variables:
//
//	claims         map    the verdict's claims, as in its JSON: claims.secure_boot, claims.kernel_cmdline,
//	                      claims.db.certificates, claims.windows.test_signing, claims.platform.tee_type, ...
//	                      Claims of the boot log are always there and null where unknown. tpm is there always, ima and
//	                      platform only where there was a list or a hardware report. A field that does not exist is
//	                      an error when the policy is stored.
//	events         list   the proven events of the boot log, in its order: {index: int, pcr: int, type: string,
//	                      component: string, description: string, digests: map of bank to hex, verified: bool}.
//	                      The digests are proven. verified says that a digest covers the data, so that the description
//	                      is proven too; the type never is. Unknown where no event log was proven.
//	event_log      bool   whether an event log was proven
//	verified_pcrs  list   the PCRs (int) that the event log explains; events of others are not in events
//	pcrs           map    the quoted values, by bank and PCR: pcrs.sha256[7] is hex
//	assurance      string tee_bound, ek_activated, ak_certified or first_use
//	machine        object {name, platform, os, security_type, scale_set: string, labels: map of string to string}: what
//	                      the inventory says, which nothing proves. Unknown where there is no inventory.
//	now            timestamp of the judgement
//
// Beside the standard functions there are optional values (claims.?platform.?tee_type.orValue("")).
//
// Rules fail closed. One that cannot be evaluated does not hold: an absent key (guard it with has()), a null where a
// text or list is needed (claims.kernel_cmdline != null && ...), events without a log (event_log && ...), or a limit that was
// reached. So events.all(...) and !events.exists(...) do not hold of a machine that sends no log.
//
// What an expression may cost is bounded twice, in CEL's units of cost: by an estimate when it is compiled, for logs
// of several thousand events, and by a count when it is evaluated. Neither looks at a clock, so that the same evidence
// judged again gives the same verdict.
package rules
