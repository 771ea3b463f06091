package tpm

import (
	"crypto"
	_ "crypto/sha1" // PCR banks only; never accepted in a signature
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"
)

// HashAlg is a TPM_ALG_ID of a hash (TCG Algorithm Registry, table 3). It names a PCR bank.
type HashAlg uint16

// The hash algorithms that PCR banks use.
const (
	SHA1     HashAlg = 0x0004
	SHA256   HashAlg = 0x000B
	SHA384   HashAlg = 0x000C
	SHA512   HashAlg = 0x000D
	SM3      HashAlg = 0x0012 // known by size only; never computed
	SHA3_256 HashAlg = 0x0027
	SHA3_384 HashAlg = 0x0028
	SHA3_512 HashAlg = 0x0029
)

// RTMR stands where a bank is named for the run-time measurement registers of a TDX guest: registers 0 to 3,
// extended with SHA-384. It is no bank of a TPM: nothing that a TPM signs, a machine claims or a log's header
// announces may name it. The TCG Algorithm Registry assigns no value from 0x8000 on (they are structure tags).
const RTMR HashAlg = 0xFFFE

// NumRTMRs is the number of run-time measurement registers of a TDX guest (Intel TDX Module ABI, TDINFO_STRUCT).
const NumRTMRs = 4

// NumPCRs is the number of PCRs of a PC Client TPM (PC Client Platform TPM Profile, section 4.7).
const NumPCRs = 24

// String is the lower-case bank name of the API: "sha1", "sha256", ….
func (a HashAlg) String() string {
	switch a {
	case SHA1:
		return "sha1"
	case SHA256:
		return "sha256"
	case SHA384:
		return "sha384"
	case SHA512:
		return "sha512"
	case SM3:
		return "sm3_256"
	case SHA3_256:
		return "sha3_256"
	case SHA3_384:
		return "sha3_384"
	case SHA3_512:
		return "sha3_512"
	case RTMR:
		return "rtmr"
	}
	return fmt.Sprintf("alg_0x%04x", uint16(a))
}

// ParseHashAlg is the inverse of String for the named algorithms; ok is false for any other text. It knows "rtmr":
// whoever asks for a bank of a TPM must ask PCRBank too.
func ParseHashAlg(name string) (alg HashAlg, ok bool) {
	for _, a := range [...]HashAlg{SHA1, SHA256, SHA384, SHA512, SM3, SHA3_256, SHA3_384, SHA3_512, RTMR} {
		if a.String() == name {
			return a, true
		}
	}
	return 0, false
}

// Size is the digest length in bytes, or 0 when the algorithm is not known.
func (a HashAlg) Size() int {
	switch a {
	case SHA1:
		return 20
	case SHA256, SM3, SHA3_256:
		return 32
	case SHA384, SHA3_384, RTMR:
		return 48
	case SHA512, SHA3_512:
		return 64
	}
	return 0
}

// PCRBank tells whether a TPM can have a bank of the algorithm: one that is known, and no RTMR.
func (a HashAlg) PCRBank() bool { return a.Size() > 0 && a != RTMR }

// Hash is the Go implementation, or 0 when this package does not compute the algorithm.
func (a HashAlg) Hash() crypto.Hash {
	switch a {
	case SHA1:
		return crypto.SHA1
	case SHA256:
		return crypto.SHA256
	case SHA384:
		return crypto.SHA384
	case SHA512:
		return crypto.SHA512
	}
	return 0
}

// Selection is one TPMS_PCR_SELECTION: a bank and the set of its PCRs as a bit mask (bit i is PCR i).
type Selection struct {
	Alg  HashAlg
	Mask uint32
}

// Has tells whether PCR index is selected.
func (s Selection) Has(index int) bool {
	return index >= 0 && index < NumPCRs && s.Mask&(1<<uint(index)) != 0
}

// Indices lists the selected PCRs in ascending order.
func (s Selection) Indices() []int {
	out := make([]int, 0, NumPCRs)
	for i := 0; i < NumPCRs; i++ {
		if s.Has(i) {
			out = append(out, i)
		}
	}
	return out
}

// Bank holds claimed values of PCRs of one algorithm. Values[i] is nil where bit i of Mask is clear
// and Alg.Size() bytes long where it is set.
type Bank struct {
	Alg    HashAlg
	Mask   uint32
	Values [NumPCRs][]byte
}

// PCRs are claimed PCR values, at most one Bank an algorithm. They are untrusted until Verify has
// compared their digest with a signed quote.
type PCRs []Bank

// Bank returns the bank of alg, or nil.
func (p PCRs) Bank(alg HashAlg) *Bank {
	for i := range p {
		if p[i].Alg == alg {
			return &p[i]
		}
	}
	return nil
}

// Quote is one signed quote as it came over the wire: a TPMS_ATTEST without size prefix and a
// TPMT_SIGNATURE.
type Quote struct {
	Message   []byte
	Signature []byte
}

// ClockState is what a verifier remembers of a TPM's clock between two quotes
// (TPMS_CLOCK_INFO, TPM 2.0 Part 2, section 10.11.1, and the firmware version beside it).
type ClockState struct {
	Clock           uint64 // milliseconds the TPM has been powered
	ResetCount      uint32 // TPM resets (a machine's boots)
	RestartCount    uint32 // resumes since the last reset
	Safe            bool   // no earlier Clock value can have been reported
	FirmwareVersion uint64
}
