// Package rim imports TCG PC Client Reference Integrity Manifests: a base RIM, which is a signed SWID tag in XML, and the
// support RIMs that it names by their hashes, which are boot logs or lists of PCR values.
//
// # What is believed
//
// Only what the signature covers. The document is read once into a tree; the tree without its Signature element is
// written in canonical form and hashed; and the same tree is what is read. So there is no second reading that could
// see something else than what was signed, and an element that was moved, added or wrapped changes the hash.
//
//   - One Signature, a child of the root, with one Reference to the whole document (URI ""), and transforms of a short
//     list. Other references may only point into the Signature itself, where time stamps are.
//   - RSA (PKCS #1 v1.5, PSS) and ECDSA with SHA-256, SHA-384 or SHA-512. Nothing with SHA-1, no HMAC, no XSLT, no XPath.
//   - The certificate of the signer comes with the document, or is a trusted one. KeyName and KeyValue are hints that
//     nobody signed: a key counts only if it is trusted.
//   - DOCTYPE and entities are refused before the document is parsed; size, depth and number of elements are bounded.
//
// Some tools indent a document after they have signed it. Where the signature fails, it is tried once more without the
// white space between elements; what is read then has none either, and a note says so.
//
// A support RIM counts if the payload names its SHA-256, SHA-384 or SHA-512. It need not have the payload's file name.
//
// # Sources
//
// TCG PC Client Reference Integrity Manifest Specification 1.04 (with the attributes of TCG RIM Information Model 1.01),
// ISO/IEC 19770-2:2015, NISTIR 8060 (SWID tags: hash attributes by namespace), W3C XML Signature 1.1, Canonical XML 1.0
// and 1.1, Exclusive XML Canonicalization 1.0, RFC 6931 (names of algorithms).
package rim
