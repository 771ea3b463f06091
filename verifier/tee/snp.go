package tee

import (
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-sev-guest/abi"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	sevverify "github.com/google/go-sev-guest/verify"
)

// snpReport is a decoded ATTESTATION_REPORT (AMD 56860, table 23).
type snpReport struct {
	raw     []byte
	proto   *spb.Report
	policy  abi.SnpPolicy
	signer  abi.SignerInfo
	product Product // empty for version 2, whose certificate tells it
}

// parseSNP decodes a report. Nothing of it is believed yet.
func parseSNP(raw []byte) (*snpReport, error) {
	if len(raw) != abi.ReportSize {
		return nil, fmt.Errorf("an attestation report has %d bytes, not %d", abi.ReportSize, len(raw))
	}
	version := binary.LittleEndian.Uint32(raw)
	if version < abi.MinSupportedReportVersion || version > abi.MaxSupportedReportVersion {
		return nil, fmt.Errorf("unsupported: report version %d; versions %d to %d are read", version, abi.MinSupportedReportVersion, abi.MaxSupportedReportVersion)
	}
	r := &snpReport{raw: raw}
	err := guarded("attestation report", func() (err error) {
		if r.proto, err = abi.ReportToProto(raw); err != nil {
			return err
		}
		if r.policy, err = abi.ParseSnpPolicy(r.proto.GetPolicy()); err != nil {
			return err
		}
		r.signer, err = abi.ParseSignerInfo(r.proto.GetSignerInfo())
		return err
	})
	if err != nil {
		return nil, err
	}
	if version >= abi.ReportVersion3 {
		var known bool
		if r.product, known = productOfCPUID(raw[0x188], raw[0x189]); !known {
			return nil, fmt.Errorf("unsupported: a processor of family 0x%x, model 0x%x", raw[0x188], raw[0x189])
		}
	}
	return r, nil
}

// The places of the four TCB versions in a report.
const (
	offsetCurrentTCB   = 0x38
	offsetReportedTCB  = 0x180
	offsetCommittedTCB = 0x1E0
	offsetLaunchTCB    = 0x1F0
)

func (r *snpReport) tcb(offset int) TCB { return tcbOf(r.product, r.raw[offset:offset+8]) }

// keyKind is the kind of key that the report says has signed it.
func (r *snpReport) keyKind() (Kind, error) {
	switch r.signer.SigningKey {
	case abi.VcekReportSigner:
		return KindVCEK, nil
	case abi.VlekReportSigner:
		return KindVLEK, nil
	}
	return "", errors.New("the report is not signed (SIGNING_KEY is none)")
}

// want names the certificate that the report needs; empty where the report does not tell enough to ask for it.
func (r *snpReport) want() (Want, bool) {
	kind, err := r.keyKind()
	if err != nil || kind != KindVCEK || r.product == "" || isZero(r.proto.GetChipId()) {
		return Want{}, false
	}
	e := endorsement{kind: kind, product: r.product, chipID: r.proto.GetChipId(), tcb: r.tcb(offsetReportedTCB)}
	if r.product == Turin {
		e.chipID = e.chipID[:8]
	}
	return Want{Kind: KindVCEK, Name: e.name()}, true
}

// verifySNP proves a report: it finds the certificate of the key that signed it, verifies that certificate up to a
// trusted ARK, asks the CRL, and checks the signature. Of several certificates of the right kind the first counts
// whose key signed the report; if none did, the failure of the first is told.
func (v *verification) verifySNP(r *snpReport) *endorsement {
	kind, err := r.keyKind()
	if err != nil {
		v.fail("%s", err)
		return nil
	}
	candidates := v.endorsements(kind, r)
	if len(candidates) == 0 {
		v.fail("the certificate of the %s that signed the report was neither sent nor is it held", kindName(kind))
		if w, ok := r.want(); ok {
			v.want(w.Kind, w.Name)
		}
		return nil
	}
	var first error
	for _, e := range candidates {
		if err = v.provenBy(r, e); err == nil {
			return e
		}
		if first == nil {
			first = err
		}
	}
	v.fail("%s", first)
	return nil
}

// provenBy checks that the key of a certificate signed the report, and that the certificate holds.
func (v *verification) provenBy(r *snpReport, e *endorsement) error {
	name := kindName(e.kind)
	if r.product != "" && r.product != e.product {
		return fmt.Errorf("the %s is one of %s, but the report is of a %s processor", name, e.product.amdName(), r.product.amdName())
	}
	chain, err := v.trust.amdChain(e, v.certificates, v.now)
	if err != nil {
		return fmt.Errorf("the %s does not chain to a trusted AMD root: %w", name, err)
	}
	if err := guarded("report", func() error { return sevverify.SnpReportSignature(r.raw, e.certificate) }); err != nil {
		return fmt.Errorf("the report is not signed by the key of its %s: the signature does not verify", name)
	}
	if err := v.notRevoked(chain); err != nil {
		return err
	}
	r.product = e.product
	v.result.Root = chain[len(chain)-1]
	for _, c := range chain {
		v.until(c.NotAfter)
	}
	return nil
}

// notRevoked asks the CRL of the chain's ARK. AMD's CRLs name ASKs and ASVKs (AMD 57230, section 4.4); an
// endorsement key is named too where one ever is. A revocation counts also if the CRL has expired.
func (v *verification) notRevoked(chain []*x509.Certificate) error {
	root := chain[len(chain)-1]
	if held, err := v.askCRLs(KindSNPCRL, root, chain[:len(chain)-1]...); held || err != nil {
		return err
	}
	v.want(KindSNPCRL, root.Subject.CommonName)
	if v.trust.RequireCRL {
		return fmt.Errorf("no valid CRL of %s is held, and the policy requires one", root.Subject.CommonName)
	}
	v.note("no CRL of %s is held, so nothing tells whether a key was revoked", root.Subject.CommonName)
	return nil
}

// askCRLs asks every CRL of an issuer that was sent or is held whether it revokes one of the certificates, and tells
// whether one of the CRLs is valid now. Dates are the CRL's own; a revocation counts also outside of them.
func (v *verification) askCRLs(kind Kind, issuer *x509.Certificate, certificates ...*x509.Certificate) (held bool, err error) {
	var until time.Time
	for _, c := range v.collateral(kind, issuer.Subject.CommonName) {
		crl, err := parseCRL(c.Body)
		if err != nil || crl.CheckSignatureFrom(issuer) != nil {
			continue
		}
		for _, cert := range certificates {
			if at, revoked := crl.revoked(cert); revoked {
				return false, fmt.Errorf("the certificate of %s was revoked at %s", cert.Subject.CommonName, at.UTC().Format(time.RFC3339))
			}
		}
		if !v.now.Before(crl.ThisUpdate) && v.now.Before(crl.NextUpdate) {
			held = true
			if crl.NextUpdate.After(until) {
				until = crl.NextUpdate
			}
			v.used(c)
		}
	}
	if held {
		v.until(until)
	}
	return held, nil
}

// agree checks that chip id and TCB of the report are those that the certificate was made for.
func (r *snpReport) agree(e *endorsement) (chip, tcb StepResult) {
	chip, tcb = StepResult{Step: StepChipID}, StepResult{Step: StepTCB}
	switch {
	case e.kind == KindVLEK:
		chip.Outcome, chip.Detail = Skipped, fmt.Sprintf("signed by a VLEK of %s, which stands for no single chip", e.cspID)
	case isZero(r.proto.GetChipId()): // MASK_CHIP_ID of SNP_CONFIG; SIGNER_INFO does not tell it, MASK_CHIP_KEY is another thing
		chip.Outcome, chip.Detail = Skipped, "the host masks the chip id; the signature is that of the chip's key all the same"
	case !e.ofChip(r.proto.GetChipId()):
		chip.Detail = fmt.Sprintf("the report is of chip %s…, its VCEK is of chip %s…", hex.EncodeToString(r.proto.GetChipId()[:8]), hex.EncodeToString(e.chipID[:8]))
	default:
		chip.Outcome, chip.Detail = Pass, "the report and its VCEK name the same chip"
	}
	if reported := r.tcb(offsetReportedTCB); !reported.equal(e.tcb) {
		tcb.Detail = fmt.Sprintf("the report's TCB (%s) is not the one that its %s was made for (%s)", reported, kindName(e.kind), e.tcb)
	} else {
		tcb.Outcome, tcb.Detail = Pass, "the report and its "+kindName(e.kind)+" name the same TCB: "+reported.String()
	}
	return chip, tcb
}

func kindName(k Kind) string {
	if k == KindVLEK {
		return "VLEK"
	}
	return "VCEK"
}
