package tpm

import (
	"fmt"
	"math/bits"
)

const (
	generatedValue = 0xff544347 // TPM_GENERATED_VALUE, Part 2, section 6.2
	maxSelections  = 16         // TPML_PCR_SELECTION: more banks than there are hash algorithms
	maxName        = 2 + 64     // TPM2B_NAME with the longest digest
	maxExtraData   = 2 + 64     // TPM2B_DATA is bounded by the size of a TPMT_HA, Part 2, section 10.4.3
)

// AttestType is a TPMI_ST_ATTEST (Part 2, section 10.12.10): which command made an attestation.
type AttestType uint16

// The types of attestation; only a quote speaks of PCRs.
const (
	AttestNV           AttestType = 0x8014
	AttestCommandAudit AttestType = 0x8015
	AttestSessionAudit AttestType = 0x8016
	AttestCertify      AttestType = 0x8017
	AttestQuote        AttestType = 0x8018
	AttestTime         AttestType = 0x8019
	AttestCreation     AttestType = 0x801A
	AttestNVDigest     AttestType = 0x801C
)

// String names the command that makes the type.
func (t AttestType) String() string {
	switch t {
	case AttestNV:
		return "TPM2_NV_Certify"
	case AttestCommandAudit:
		return "TPM2_GetCommandAuditDigest"
	case AttestSessionAudit:
		return "TPM2_GetSessionAuditDigest"
	case AttestCertify:
		return "TPM2_Certify"
	case AttestQuote:
		return "TPM2_Quote"
	case AttestTime:
		return "TPM2_GetTime"
	case AttestCreation:
		return "TPM2_CertifyCreation"
	case AttestNVDigest:
		return "TPM2_NV_Certify (digest)"
	}
	return fmt.Sprintf("0x%04x", uint16(t))
}

// TypeError is the error of ParseAttest for an attestation that the TPM made, but not by TPM2_Quote.
type TypeError struct{ Type AttestType }

// Error names the type.
func (e *TypeError) Error() string {
	return fmt.Sprintf("at byte 4: the attestation comes from %s, not from TPM2_Quote", e.Type)
}

// Attest is a TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE (Part 2, sections 10.12.12 and 10.12.1).
// Nothing in it is true until its signature is verified. Its slices alias the parsed bytes.
type Attest struct {
	QualifiedSigner []byte      // qualified name of the key that signed
	ExtraData       []byte      // qualifyingData of the caller: the nonce, at most 66 bytes
	Clock           ClockState  // obfuscated, but constantly so, for keys outside the endorsement and platform hierarchies
	Selections      []Selection // in the order in which the digest was computed
	PCRDigest       []byte
}

// ParseAttest reads a TPMS_ATTEST without size prefix: magic TPM_GENERATED_VALUE, type quote
// (*TypeError otherwise), at most 16 PCR selections of at most PCR 23, no bytes left over.
func ParseAttest(b []byte) (*Attest, error) {
	a := &Attest{}
	if err := a.parse(b); err != nil {
		return nil, fmt.Errorf("TPMS_ATTEST: %w", err)
	}
	return a, nil
}

func (a *Attest) parse(b []byte) error {
	r := newReader("the attestation", b)
	if magic := r.u32("magic"); r.err == nil && magic != generatedValue {
		return fmt.Errorf("at byte 0: magic 0x%08x is not TPM_GENERATED_VALUE: the data was not made by a TPM", magic)
	}
	if t := AttestType(r.u16("type")); r.err == nil && t != AttestQuote {
		return &TypeError{Type: t}
	}
	a.QualifiedSigner = r.bytes2B(maxName, "qualifiedSigner")
	a.ExtraData = r.bytes2B(maxExtraData, "extraData")
	a.Clock.Clock = r.u64("clockInfo.clock")
	a.Clock.ResetCount = r.u32("clockInfo.resetCount")
	a.Clock.RestartCount = r.u32("clockInfo.restartCount")
	safe := r.u8("clockInfo.safe")
	if safe > 1 {
		r.failf("clockInfo.safe is %d, neither YES nor NO", safe)
	}
	a.Clock.Safe = safe == 1
	a.Clock.FirmwareVersion = r.u64("firmwareVersion")
	a.Selections = readSelections(r)
	a.PCRDigest = r.bytes2B(64, "pcrDigest")
	return r.end()
}

// readSelections reads a TPML_PCR_SELECTION (Part 2, sections 10.9.7 and 10.6.2).
func readSelections(r *reader) []Selection {
	count := r.u32("pcrSelect.count")
	if r.err == nil && count > maxSelections {
		r.failf("the quote lists %d PCR selections, at most %d are possible", count, maxSelections)
	}
	if r.err != nil {
		return nil
	}
	selections := make([]Selection, 0, count)
	for range count {
		s := Selection{Alg: HashAlg(r.u16("pcrSelect.hash"))}
		if r.err == nil && s.Alg == RTMR {
			r.failf("a PCR selection names algorithm 0x%04x, which no TPM has", uint16(s.Alg))
		}
		octets := int(r.u8("pcrSelect.sizeofSelect"))
		if r.err == nil && octets > 4 {
			r.failf("a PCR selection has %d octets, at most 4 are possible", octets)
		}
		for i, octet := range r.next(octets, "pcrSelect.pcrSelect") {
			s.Mask |= uint32(octet) << (8 * i)
		}
		if s.Mask >= 1<<NumPCRs {
			r.failf("PCR %d is selected; a PC Client TPM has %d", bits.Len32(s.Mask)-1, NumPCRs)
		}
		selections = append(selections, s)
	}
	return selections
}

// PeekExtraData reads the extraData of a TPMS_ATTEST of any type, so that a service can find which
// of its nonces is meant before anything is verified. What it returns is UNTRUSTED: nobody may have
// signed it, and the rest of the message may be nonsense. It serves to look up a challenge, and for
// nothing else. The result aliases message.
func PeekExtraData(message []byte) ([]byte, error) {
	r := newReader("the attestation", message)
	r.u32("magic")
	r.u16("type")
	r.bytes2B(maxName, "qualifiedSigner")
	extra := r.bytes2B(maxExtraData, "extraData")
	if r.err != nil {
		return nil, fmt.Errorf("TPMS_ATTEST: %w", r.err)
	}
	return extra, nil
}
