package tee

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"time"
)

// The types of evidence, as the API spells them.
const (
	TypeAzureHCL = "azure_hcl" // an HCL report, with the VCEK (SEV-SNP) or the TD quote (TDX) beside it
	TypeSEVSNP   = "sev_snp"   // an attestation report
	TypeTDX      = "tdx"       // a TD quote
)

// Technology is the kind of hardware that made a report.
type Technology string

// The technologies.
const (
	SEVSNP Technology = "sev_snp"
	TDX    Technology = "tdx"
)

// Evidence is hardware evidence as a machine sent it: bounded, not believed.
type Evidence struct {
	Type         string
	HCLReport    []byte   // azure_hcl: NV index 0x01400001
	Report       []byte   // sev_snp: ATTESTATION_REPORT, 1184 bytes, in the ABI's own form
	Quote        []byte   // tdx, and azure_hcl of a TDX machine
	Certificates [][]byte // DER: VCEK or VLEK, and what else the machine was given; in any order
	Collateral   []Collateral
	// EventLog is the CC event log (CCEL) of a TDX machine that has a vTPM with a log of its own too. A
	// machine without a vTPM sends its CC event log as its event log.
	EventLog []byte
}

// Digest names the evidence: SHA-256 over its type, HCL report, report, quote, event log and certificates, in this
// order, each preceded by its length as 8 bytes big-endian. Collateral does not count: it is not the machine's.
func (e *Evidence) Digest() [32]byte {
	h := sha256.New()
	var size [8]byte
	write := func(b []byte) {
		binary.BigEndian.PutUint64(size[:], uint64(len(b)))
		h.Write(size[:])
		h.Write(b)
	}
	for _, part := range [...][]byte{[]byte(e.Type), e.HCLReport, e.Report, e.Quote, e.EventLog} {
		write(part)
	}
	for _, c := range e.Certificates {
		write(c)
	}
	return [32]byte(h.Sum(nil))
}

// PeekNonce is the report_data of a report or quote, unread and unproven: a guest without a TPM puts the nonce of its
// challenge there. All 64 bytes, or the first 32 where the others are zero; nil where the evidence is too short.
func (e *Evidence) PeekNonce() []byte {
	var data []byte
	switch {
	case e.Type == TypeSEVSNP && len(e.Report) >= 0x90:
		data = e.Report[0x50:0x90]
	case e.Type == TypeTDX && len(e.Quote) >= 48+584:
		data = e.Quote[48+520 : 48+584]
	default:
		return nil
	}
	if isZero(data[32:]) {
		return data[:32]
	}
	return data
}

// Kind is a kind of collateral.
type Kind string

// The kinds of collateral.
const (
	KindVCEK       Kind = "vcek"            // X.509: a chip's endorsement key at one TCB level
	KindVLEK       Kind = "vlek"            // X.509: a cloud provider's endorsement key at one TCB level
	KindSNPCRL     Kind = "snp_crl"         // CRL of an ARK
	KindTCBInfo    Kind = "tdx_tcb_info"    // JSON of Intel's PCS, signed
	KindQEIdentity Kind = "tdx_qe_identity" // JSON of Intel's PCS, signed
	KindPCKCRL     Kind = "tdx_pck_crl"     // CRL of a PCK CA (processor or platform)
	KindRootCRL    Kind = "tdx_root_crl"    // CRL of the Intel SGX Root CA
)

// Kinds lists the kinds of collateral.
var Kinds = []Kind{KindVCEK, KindVLEK, KindSNPCRL, KindTCBInfo, KindQEIdentity, KindPCKCRL, KindRootCRL}

// Collateral is one piece of what a chain is checked with beside the evidence. ParseCollateral makes it.
type Collateral struct {
	Kind Kind
	// Name says what it is for, read from its content: "milan/<chip id>/<TCB>" of a VCEK, "milan/<CSP id>/<TCB>" of a
	// VLEK, "ARK-Milan" of an AMD CRL, the FMSPC of TCB info, "td" of a QE identity, the CA's name of an Intel CRL.
	Name string
	// Body is DER for certificates and CRLs, and the exact JSON that was signed for the others.
	Body []byte
	// IssuerChain is the PEM chain (signing certificate, root) that Intel sends in a header of the answer; the
	// JSON kinds need it, CRLs are checked with the quote's own chain.
	IssuerChain []byte
	NotBefore   time.Time // thisUpdate, issueDate or the certificate's notBefore
	NotAfter    time.Time // nextUpdate or the certificate's notAfter: not valid from then on
}

// Trust is what a verification may lead to and be helped by. Its zero value trusts nothing.
type Trust struct {
	SNP        []*x509.Certificate // ARKs, and ASKs or ASVKs to build chains with: only self-signed ones are roots
	TDX        []*x509.Certificate // Intel SGX Root CA
	Collateral []Collateral        // held by the verifier; the evidence may bring more
	// RequireCRL fails a chain that no valid CRL was held for.
	RequireCRL bool
	// Chains, where given, remembers AMD chains that were verified under these anchors.
	Chains *Chains
}
