// Package corim imports and exports Concise Reference Integrity Manifests: CBOR documents of reference values, which a
// COSE signature may cover.
//
// # What is read
//
// The document is a signed CoRIM (COSE_Sign1, tag 18) or an unsigned one (tag 501); the outer tags 500 and 502 of earlier
// drafts may be around them. Its CoMID tags (506) hold reference triples, each an environment and what is measured in it:
//
//	integrity registers (key 14)    PCR values by index; RTMRs, in the environment of a TDX guest or by the name "rtmr1"
//	digests (2), raw value (4)      launch measurements, in the environment of an SEV-SNP or TDX guest;
//	                                PCR and RTMR values by the measurement key "pcr4" or "rtmr1"
//
// An environment is an SEV-SNP guest's by the class id 1.3.6.1.4.1.3704.2.1, or by the words SEV-SNP in its vendor or
// model; a TDX guest's by the word TDX. Everything else that a document says is in Imported.Notes, with its place: it is
// not judged by. Where a measurement has a digest and, beside it, a security version or flags, the digest is accepted
// whatever those are, and the note says so.
//
// A profile that is not known refuses the document, as the draft asks. So does a validity that is over at trust.Now.
// Lengths must be definite; no key may be in a map twice; size, depth and numbers are bounded, and nothing is built in
// memory that is not asked for.
//
// # Our profile
//
// Export writes a CoRIM of the profile Profile, so that Import gives back exactly what was exported. What the standard
// has a place for is there, so that other readers see it. Classes have the vendor "Assay" and these models:
//
//	"TPM"      PCR values as integrity registers, by index; digests alg: sha-256 (1), sha-384 (7), sha-512 (8),
//	           sha3-256 (10), sha3-384 (11), sha3-512 (12) of the Named Information registry, "sha1" and "sm3_256" as text
//	           events: measurement key "event/<position>", digests, name (11: the description), and the keys
//	           -1 register, -2 type, -3 component, -4 key, -5 required, -6 digests of the RTMR of that index
//	"TDX"      RTMR values as integrity registers, by index; events that are of an RTMR alone, as above
//	"TEE"      launch measurements: one measurement without key, its digests are the acceptable ones
//	"claims"   expected claims: the measurement key is the claim's name, -8 its JSON text
//	"IMA"      files of the IMA list: one measurement without key, -9 the JSON text of the list
//
// -7 lists, as pairs of bank and index, registers that are judged and have no acceptable value of their own: their
// events decide. Negative keys mean this in this profile alone. Encoding is deterministic (RFC 8949, section 4.2.1).
// Banks and lists without entries are not exported, as they say nothing.
//
// # Sources
//
// draft-ietf-rats-corim-11, and its earlier versions from 00 on where they number differently; RFC 9052, RFC 9053 and
// RFC 9360 (COSE, its algorithms, X.509 in COSE); RFC 9597 (CWT claims in COSE headers);
// draft-deeglaze-amd-sev-snp-corim-profile-02; IANA Named Information Hash Algorithm Registry and COSE Algorithms.
package corim
