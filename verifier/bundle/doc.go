// Package bundle is the archive that verdicts travel in, with all that is needed to judge them again: the evidence, what it was judged
// with, their chain, and a checkpoint. Whoever has one needs no service: Check judges each verdict with the engine that the
// service has, compares, and follows the chain. It is pure.
//
// # The archive
//
// A bundle is a ZIP archive. The same verdicts of the same service give the same bytes. Its entries:
//
//	bundle.json                                   format, tenant, what was asked for
//	checkpoint.json                               the newest checkpoint, a JWS, and its key; absent where there was none
//	machines/<machine id>/machine.json            the stretch of its chain that is here, and its place in the checkpoint's tree
//	machines/<machine id>/<seq>/verdict.json      a verdict's fields that are hashed, its hash, and until when it held (seq has 12 digits)
//	machines/<machine id>/<seq>/appraisal.json    checks, deviations, claims, as stored
//	machines/<machine id>/<seq>/judged-by.json    what it was judged with (Inputs); absent where that was not kept
//	machines/<machine id>/<seq>/evidence          the raw evidence; absent where it is not held any more
//	event-logs/<sha256>                           boot logs that evidence only names
//	reference-values/<sha256>.json                reference values, as stored
//	platform-evidence/<digest>.json               hardware evidence that evidence only names (tee.Evidence.Digest)
//	collateral/<sha256>.json                      CRLs, TCB levels, endorsement keys
//	anchors/<sha256>.der                          certificates that hardware evidence had to lead to
//
// All but the first four kinds are named by their content, and so are they in judged-by.json and verdict.json, whose hashes are part of
// the verdict's hash. So nothing of it can be exchanged without the verdict's hash changing, and with it every later one of the
// machine, the record of changes, and the checkpoint.
//
// # What Check proves, and what it does not
//
// Between the first and the last verdict of a machine nothing is missing, nothing is in another place, and nothing of what is
// hashed was changed after it was written, or else somebody computed all later hashes anew: that is only found against a checkpoint that
// was kept elsewhere. The tail behind the checkpoint is consistent in itself and no more. A verdict's last time and count are
// covered once the next verdict has begun. How a key was proved, and the TPM's last clock before the evidence, are taken from the
// hashed record, since nothing in the evidence tells them.
package bundle
