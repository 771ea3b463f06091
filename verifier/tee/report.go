package tee

import (
	"bytes"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"time"

	"github.com/google/go-sev-guest/abi"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Report is what a piece of hardware evidence proves. Only Verify makes one.
type Report struct {
	technology  Technology
	version     int
	reportData  []byte // 64 bytes
	measurement []byte // 48 bytes: MEASUREMENT, or MRTD
	rtmrs       [4][]byte
	debug       bool
	migratable  bool
	snp         *snpFacts
	tdx         *tdxFacts
	tcbStatus   *TCBStatus
	runtime     *runtimeData
	ak          *tpm.Public // of the runtime data

	keyKind    Kind
	cspID      string
	root       *x509.Certificate
	notes      []string
	validUntil time.Time

	claims     *Claims // made once, since a report is judged again and again
	claimsJSON []byte
}

// snpFacts are what only an SEV-SNP report says.
type snpFacts struct {
	product                              Product
	vmpl, guestSVN                       uint32
	reported, current, committed, launch TCB
	policy                               abi.SnpPolicy
	smt                                  bool
	chipID                               []byte
	idKeyDigest, authorKeyDigest         []byte // zero where the launch was not signed
	hostData, reportID, familyID, image  []byte
}

// tdxFacts are what only a TD quote says.
type tdxFacts struct {
	teeTCBSVN, mrSeam, mrSignerSeam    []byte
	mrConfigID, mrOwner, mrOwnerConfig []byte
	attributes, xfam, seamAttributes   []byte
	fmspc, pceID                       string
	servicesDebug                      bool
	pceSVN                             uint16
	qeSVN                              uint32
}

func claimSNP(r *snpReport, runtime *runtimeData) *Report {
	p := r.proto
	out := &Report{technology: SEVSNP, version: int(p.GetVersion()), reportData: p.GetReportData(), measurement: p.GetMeasurement(),
		debug: r.policy.Debug, migratable: r.policy.MigrateMA,
		snp: &snpFacts{product: r.product, vmpl: p.GetVmpl(), guestSVN: p.GetGuestSvn(),
			reported: r.tcb(offsetReportedTCB), current: r.tcb(offsetCurrentTCB), committed: r.tcb(offsetCommittedTCB), launch: r.tcb(offsetLaunchTCB),
			policy: r.policy, smt: p.GetPlatformInfo()&1 != 0, chipID: p.GetChipId(),
			idKeyDigest: p.GetIdKeyDigest(), authorKeyDigest: p.GetAuthorKeyDigest(), hostData: p.GetHostData(), reportID: p.GetReportId(),
			familyID: p.GetFamilyId(), image: p.GetImageId()}}
	out.bind(runtime)
	return out
}

func claimTDX(q *tdQuote, runtime *runtimeData) *Report {
	b := q.proto.GetTdQuoteBody()
	attributes := b.GetTdAttributes()
	out := &Report{technology: TDX, version: int(q.proto.GetHeader().GetVersion()), reportData: b.GetReportData(), measurement: b.GetMrTd(),
		// TDX Module ABI, ATTRIBUTES: bits 7:0 are the TUD group (DEBUG is bit 0), bit 29 is MIGRATABLE.
		debug: attributes[0] != 0, migratable: attributes[3]&(1<<5) != 0,
		tdx: &tdxFacts{teeTCBSVN: b.GetTeeTcbSvn(), mrSeam: b.GetMrSeam(), mrSignerSeam: b.GetMrSignerSeam(), mrConfigID: b.GetMrConfigId(),
			mrOwner: b.GetMrOwner(), mrOwnerConfig: b.GetMrOwnerConfig(), attributes: attributes, xfam: b.GetXfam(), seamAttributes: b.GetSeamAttributes(),
			fmspc: lowerHex(q.pck.FMSPC), pceID: lowerHex(q.pck.PCEID), servicesDebug: !isZero(b.GetSeamAttributes()), pceSVN: q.pck.TCB.PCESvn,
			qeSVN: q.proto.GetSignedData().GetCertificationData().GetQeReportCertificationData().GetQeReport().GetIsvSvn()}}
	for i, rtmr := range b.GetRtmrs() {
		if i < len(out.rtmrs) {
			out.rtmrs[i] = rtmr
		}
	}
	out.bind(runtime)
	return out
}

func (r *Report) bind(runtime *runtimeData) {
	if runtime != nil {
		r.runtime, r.ak = runtime, runtime.ak
	}
}

func (r *Report) signedBy(e *endorsement) { r.keyKind, r.cspID = e.kind, e.cspID }

// Technology is the hardware that made the report.
func (r *Report) Technology() Technology { return r.technology }

// Paravisor tells whether the report binds the runtime data of a paravisor, as Azure's does: then the key that it
// names is that of the VM's own vTPM, by the word of what was measured at launch. Without one, report_data is what
// software in the guest asked for.
func (r *Report) Paravisor() bool { return r != nil && r.runtime != nil }

// RTMR is a run-time measurement register of a TDX machine (SHA-384); ok is false where there is none. The
// bytes must not be modified.
func (r *Report) RTMR(index int) (value []byte, ok bool) {
	if r == nil || index < 0 || index >= len(r.rtmrs) || r.rtmrs[index] == nil {
		return nil, false
	}
	return r.rtmrs[index], true
}

// Measurement is the launch measurement: MEASUREMENT of SEV-SNP, MRTD of TDX (SHA-384).
func (r *Report) Measurement() []byte { return r.measurement }

// VM is what the paravisor says of the virtual machine; ok is false without a paravisor.
func (r *Report) VM() (vm VMConfiguration, ok bool) {
	if !r.Paravisor() {
		return VMConfiguration{}, false
	}
	return r.runtime.vm, true
}

// TCBStatus is Intel's word on the TCB; nil where no collateral told it, and for SEV-SNP.
func (r *Report) TCBStatus() *TCBStatus { return r.tcbStatus }

// ValidUntil is the end of the first thing that the proof rests on.
func (r *Report) ValidUntil() time.Time { return r.validUntil }

// Binding is how a report is bound to a quote or a challenge. The zero value is Unbound.
type Binding uint8

// The kinds of binding.
const (
	Unbound      Binding = iota // report_data names neither the key nor the nonce
	BoundRuntime                // the runtime data that it covers names the key (azure_hcl)
	BoundKey                    // it is KeyBinding of nonce and key: software in the guest names the key, for this challenge
	BoundNonce                  // it is the nonce alone: fresh, but it names no key
)

// bindingLabel separates what report_data is computed from here from everything else that is hashed anywhere.
const bindingLabel = "assay-platform-binding-v1\x00"

// KeyBinding is the report_data by which software in a guest binds its report to the AK that signs the quote, and to
// the challenge: SHA-512 over the label, the nonce and the AK's Name.
func KeyBinding(nonce, akName []byte) [64]byte {
	return sha512.Sum512(append(append([]byte(bindingLabel), nonce...), akName...))
}

// Binding tells how the evidence, proven or not, is bound to an attestation key and a nonce; ak is nil for a guest
// without a TPM.
func (r *Result) Binding(ak *tpm.Public, nonce []byte) Binding {
	c := r.claimed
	switch {
	case c == nil:
		return Unbound
	case c.runtime != nil:
		if ak != nil && c.ak.SameKey(ak) {
			return BoundRuntime
		}
		return Unbound
	case len(nonce) == 0 || len(nonce) > 64 || len(c.reportData) != 64:
		return Unbound
	}
	if ak != nil && len(ak.Name()) > 0 {
		if want := KeyBinding(nonce, ak.Name()); bytes.Equal(want[:], c.reportData) {
			return BoundKey
		}
	}
	if bytes.HasPrefix(c.reportData, nonce) && isZero(c.reportData[len(nonce):]) {
		return BoundNonce
	}
	return Unbound
}

// Nonce is what a guest without a TPM put into report_data, proven or not: all of it, without trailing zeros beyond
// 32 bytes. Nil without evidence.
func (r *Result) Nonce() []byte {
	if r == nil || r.claimed == nil || len(r.claimed.reportData) != 64 {
		return nil
	}
	if isZero(r.claimed.reportData[32:]) {
		return r.claimed.reportData[:32]
	}
	return r.claimed.reportData
}

// Claims are facts of a proven report, for people, baselines and relying parties. Nil or empty is not known.
type Claims struct {
	TEEType           string           `json:"tee_type"` // sev_snp, tdx
	ReportVersion     int              `json:"report_version"`
	Product           Product          `json:"product,omitempty"`
	LaunchMeasurement string           `json:"launch_measurement"` // hex
	Debug             bool             `json:"debug"`
	Migratable        bool             `json:"migratable"`
	SignedBy          string           `json:"signed_by,omitempty"` // vcek, vlek, pck
	CSP               string           `json:"csp_id,omitempty"`
	ChipID            string           `json:"chip_id,omitempty"` // hex; empty where it is masked
	VMPL              *uint32          `json:"vmpl,omitempty"`
	GuestSVN          *uint32          `json:"guest_svn,omitempty"`
	SMT               *bool            `json:"smt,omitempty"`
	TCB               *TCB             `json:"tcb,omitempty"`           // SEV-SNP: reported
	CommittedTCB      *TCB             `json:"committed_tcb,omitempty"` // what the platform cannot go back below
	CurrentTCB        *TCB             `json:"current_tcb,omitempty"`
	TEETCBSVN         string           `json:"tee_tcb_svn,omitempty"` // TDX, hex
	FMSPC             string           `json:"fmspc,omitempty"`
	TCBStatus         *TCBStatus       `json:"tcb_status,omitempty"`
	IDKeyDigest       string           `json:"id_key_digest,omitempty"`
	AuthorKeyDigest   string           `json:"author_key_digest,omitempty"`
	HostData          string           `json:"host_data,omitempty"`
	MRSeam            string           `json:"mr_seam,omitempty"`
	MRSignerSeam      string           `json:"mr_signer_seam,omitempty"`
	SEAMAttributes    string           `json:"seam_attributes,omitempty"` // hex; set where the TDX module runs under debug
	MRConfigID        string           `json:"mr_config_id,omitempty"`
	MROwner           string           `json:"mr_owner,omitempty"`
	MROwnerConfig     string           `json:"mr_owner_config,omitempty"`
	RTMRs             []string         `json:"rtmrs,omitempty"`
	VM                *VMConfiguration `json:"vm_configuration,omitempty"`
	UserData          string           `json:"user_data,omitempty"` // hex: what software in the guest had the paravisor bind
	Root              string           `json:"root,omitempty"`
	RootSHA256        string           `json:"root_sha256,omitempty"`
	// CollateralUntil is when the first certificate, CRL or TCB info that the proof rests on ends.
	CollateralUntil time.Time `json:"collateral_until"`
	// Unknown says in words what was not checked for want of collateral.
	Unknown []string `json:"unknown,omitempty"`
}

// Claims are the facts of the report. They are shared and must not be modified.
func (r *Report) Claims() *Claims { return r.claims }

// ClaimsJSON is Claims as JSON. It is shared and must not be modified.
func (r *Report) ClaimsJSON() []byte { return r.claimsJSON }

// GuestID is the hardware's id of the running guest: REPORT_ID of an SEV-SNP report, which stays until the guest is launched
// anew (AMD 56860, table 23). Nil where the hardware gives none.
func (r *Report) GuestID() []byte {
	if r.snp == nil || isZero(r.snp.reportID) {
		return nil
	}
	return r.snp.reportID
}

func (r *Report) makeClaims() *Claims {
	c := &Claims{TEEType: string(r.technology), ReportVersion: r.version, LaunchMeasurement: hex.EncodeToString(r.measurement),
		Debug: r.debug, Migratable: r.migratable, CollateralUntil: r.validUntil.UTC(), Unknown: r.notes, TCBStatus: r.tcbStatus}
	if r.root != nil {
		c.Root, c.RootSHA256 = r.root.Subject.CommonName, fingerprint(r.root)
	}
	if r.snp != nil {
		r.snp.into(c)
		c.SignedBy, c.CSP = string(r.keyKind), r.cspID
	}
	if r.tdx != nil {
		r.tdx.into(c)
		c.SignedBy = "pck"
		for _, rtmr := range r.rtmrs {
			c.RTMRs = append(c.RTMRs, hex.EncodeToString(rtmr))
		}
	}
	if vm, ok := r.VM(); ok {
		c.VM, c.UserData = &vm, hexOrNone(r.runtime.userData)
	}
	return c
}

func (f *snpFacts) into(c *Claims) {
	c.Product, c.VMPL, c.GuestSVN, c.SMT = f.product, &f.vmpl, &f.guestSVN, &f.smt
	c.TCB, c.CommittedTCB, c.CurrentTCB = &f.reported, &f.committed, &f.current
	c.ChipID, c.IDKeyDigest, c.AuthorKeyDigest, c.HostData = hexOrNone(f.chipID), hexOrNone(f.idKeyDigest), hexOrNone(f.authorKeyDigest), hexOrNone(f.hostData)
}

func (f *tdxFacts) into(c *Claims) {
	c.TEETCBSVN, c.FMSPC = hex.EncodeToString(f.teeTCBSVN), f.fmspc
	c.MRSeam, c.MRSignerSeam, c.SEAMAttributes = hex.EncodeToString(f.mrSeam), hexOrNone(f.mrSignerSeam), hexOrNone(f.seamAttributes)
	c.MRConfigID, c.MROwner, c.MROwnerConfig = hexOrNone(f.mrConfigID), hexOrNone(f.mrOwner), hexOrNone(f.mrOwnerConfig)
}

// hexOrNone is empty for zeros, which stand for "none".
func hexOrNone(b []byte) string {
	if isZero(b) {
		return ""
	}
	return hex.EncodeToString(b)
}
