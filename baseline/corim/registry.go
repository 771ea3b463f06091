package corim

import (
	"encoding/asn1"
	"encoding/hex"
	"strings"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Profile is the identifier of our profile (see the package documentation). Any change to the profile changes it.
const Profile = "tag:github.com,2026:assay-verifier/assay:reference-values:1"

// profiles are those that are understood: ours, and those that add keys to the standard ones without changing what
// they mean. The keys that they add are noted and not judged by.
var profiles = map[string]bool{
	Profile:                              true,
	"http://amd.com/please-permalink-me": true, // SEV-SNP, draft-deeglaze-amd-sev-snp-corim-profile
	"tag:amd.com,2024:snp-corim-profile": true, // its later name
	"2.16.840.1.113741.1.16.1":           true, // draft-cds-rats-intel-corim-profile
}

// The CBOR tags of CoRIM (draft-ietf-rats-corim-11, section 11.2), and those that it uses.
const (
	tagEpochTime    = 1
	tagSign1        = 18
	tagURI          = 32
	tagUUID         = 37
	tagOID          = 111
	tagCorim        = 500 // around 501 or 502, in drafts before 04
	tagUnsigned     = 501
	tagSigned       = 502 // around 18, in drafts before 04
	tagCoSWID       = 505
	tagCoMID        = 506
	tagTrustStore   = 507
	tagTagList      = 508
	tagBytes        = 560
	tagMaskedValues = 563
)

// The names of the keys, for places; those that are not read are named too, so that a note can name them.
var (
	corimNames = map[int64]string{0: "id", 1: "tags", 2: "dependent-rims", 3: "profile", 4: "rim-validity", 5: "entities"}
	comidNames = map[int64]string{0: "language", 1: "tag-identity", 2: "entities", 3: "linked-tags", 4: "triples"}

	identityNames = map[int64]string{0: "tag-id", 1: "tag-version"}
	entityNames   = map[int64]string{0: "entity-name", 1: "reg-id", 2: "role"}
	validityNames = map[int64]string{0: "not-before", 1: "not-after"}

	tripleNames = map[int64]string{0: "reference-triples", 1: "endorsed-triples", 2: "identity-triples", 3: "attest-key-triples",
		4: "dependency-triples", 5: "membership-triples", 6: "coswid-triples", 7: "conditional-reference-triples",
		8: "conditional-endorsement-series-triples", 9: "conditional-endorsement-series-triples", 10: "conditional-endorsement-triples"}
	environmentNames = map[int64]string{0: "class", 1: "instance", 2: "group"}
	classNames       = map[int64]string{0: "class-id", 1: "vendor", 2: "model", 3: "layer", 4: "index"}
	measurementNames = map[int64]string{0: "mkey", 1: "mval", 2: "authorized-by"}
	valueNames       = map[int64]string{0: "version", 1: "svn", 2: "digests", 3: "flags", 4: "raw-value", 5: "raw-value-mask",
		6: "mac-addr", 7: "ip-addr", 8: "serial-number", 9: "ueid", 10: "uuid", 11: "name", 12: "user-id", 13: "cryptokeys",
		14: "integrity-registers", 15: "int-range"}
	// ourNames are the keys that our profile adds to measurement values.
	ourNames = map[int64]string{keyRegister: "register", keyType: "type", keyComponent: "component", keyKey: "key",
		keyRequired: "required", keyRTMRDigests: "rtmr-digests", keyEmpty: "registers-without-values", keyClaim: "claim", keyIMA: "ima"}

	headerNames = map[int64]string{1: "alg", 2: "crit", 3: "content-type", 4: "kid", 8: "corim-meta", 15: "cwt-claims", 33: "x5chain", 258: "payload-hash-alg"}
	metaNames   = map[int64]string{0: "signer", 1: "signature-validity"}
	signerNames = map[int64]string{0: "signer-name", 1: "signer-uri"}
	cwtNames    = map[int64]string{1: "iss", 2: "sub", 4: "exp", 5: "nbf"}
)

// The keys that our profile adds.
const (
	keyRegister    = -1
	keyType        = -2
	keyComponent   = -3
	keyKey         = -4
	keyRequired    = -5
	keyRTMRDigests = -6
	keyEmpty       = -7
	keyClaim       = -8
	keyIMA         = -9
)

// The classes of our profile.
const (
	ourVendor   = "Assay"
	modelTPM    = "TPM"
	modelTDX    = "TDX"
	modelTEE    = "TEE"
	modelClaims = "claims"
	modelIMA    = "IMA"
)

// hashNumbers are the hash algorithms by number: of the Named Information registry, and, negative, of COSE.
var hashNumbers = map[int64]tpm.HashAlg{1: tpm.SHA256, 7: tpm.SHA384, 8: tpm.SHA512, 10: tpm.SHA3_256, 11: tpm.SHA3_384, 12: tpm.SHA3_512,
	-14: tpm.SHA1, -16: tpm.SHA256, -43: tpm.SHA384, -44: tpm.SHA512}

// hashNames are the same by name, as the registry and others spell them.
var hashNames = map[string]tpm.HashAlg{"sha-1": tpm.SHA1, "sha1": tpm.SHA1, "sha-256": tpm.SHA256, "sha256": tpm.SHA256,
	"sha-384": tpm.SHA384, "sha384": tpm.SHA384, "sha-512": tpm.SHA512, "sha512": tpm.SHA512, "sha3-256": tpm.SHA3_256, "sha3_256": tpm.SHA3_256,
	"sha3-384": tpm.SHA3_384, "sha3_384": tpm.SHA3_384, "sha3-512": tpm.SHA3_512, "sha3_512": tpm.SHA3_512, "sm3": tpm.SM3, "sm3_256": tpm.SM3, "sm3-256": tpm.SM3}

// exportedHash is how a bank's algorithm is written: by its number in the Named Information registry if it has one.
func exportedHash(alg tpm.HashAlg) any {
	for number, a := range hashNumbers {
		if a == alg && number > 0 {
			return number
		}
	}
	return alg.String()
}

// The class ids that say what is measured. AMD's is of the profile's draft.
const oidSNP = "1.3.6.1.4.1.3704.2.1"

// oidText is an object identifier in dots. The tag 111 holds its BER encoding without the head (RFC 9090).
func oidText(b []byte) string {
	if len(b) > 0 && len(b) < 64 {
		var oid asn1.ObjectIdentifier
		// The content of an OBJECT IDENTIFIER (tag 6); shorter than 128 bytes, its length is one byte.
		if rest, err := asn1.Unmarshal(append([]byte{6, byte(len(b))}, b...), &oid); err == nil && len(rest) == 0 {
			return oid.String()
		}
	}
	return hex.EncodeToString(b)
}

// uuidText is a UUID as RFC 9562 writes it; other bytes are written as hex.
func uuidText(b []byte) string {
	text := hex.EncodeToString(b)
	if len(b) != 16 {
		return text
	}
	return strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
}
