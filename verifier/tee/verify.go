package tee

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Outcome of one step. The zero value is Fail.
type Outcome uint8

// The outcomes.
const (
	Fail Outcome = iota
	Pass
	Warn
	Skipped
)

// Step is one question that is asked of hardware evidence. Its text is the code of the check in a verdict.
type Step string

// The steps, in the order in which a verdict tells them.
const (
	StepReport        Step = "platform.report"        // genuine: signature, chain, revocation, dates
	StepChipID        Step = "platform.chip_id"       // the report's chip is the certificate's
	StepTCB           Step = "platform.tcb"           // the report's TCB is the certificate's, and as new as is required
	StepVMPL          Step = "platform.vmpl"          // made for the privilege level that is trusted
	StepDebug         Step = "platform.debug"         // the host cannot debug the guest
	StepMigration     Step = "platform.migration"     // no migration agent may move the guest
	StepMeasurement   Step = "platform.measurement"   // the launch measurement is one that is allowed
	StepSigner        Step = "platform.signer"        // whoever signed the launch is one that is allowed
	StepConfiguration Step = "platform.configuration" // what the paravisor says of the VM agrees with its boot log
	StepBinding       Step = "platform.binding"       // the report names the key that signed the quote
)

// StepResult is the outcome of one step and why.
type StepResult struct {
	Step    Step
	Outcome Outcome
	Detail  string
}

// Result is what Verify found.
type Result struct {
	// Report is what the evidence proves; nil unless the report is genuine and its chip and TCB are those of the
	// key that signed it.
	Report *Report
	// Steps are platform.report, and for SEV-SNP platform.chip_id and platform.tcb where it came so far.
	Steps []StepResult
	// Unsupported is set where the evidence is of a version that is not read: nothing about it is known then.
	Unsupported bool
	// Root is the anchor that the chain ended in; nil if it did not hold.
	Root *x509.Certificate
	// Wants names collateral that was lacked, Used what came with the evidence, holds, and is worth keeping.
	Wants []Want
	Used  []Collateral
	// ValidUntil is when the first certificate, CRL or TCB info that the result rests on ends: until then the same
	// evidence under the same Trust has the same result. Zero where Report is nil.
	ValidUntil time.Time

	claimed *Report // as the evidence says, proven or not
	notes   []string
}

// AK is the attestation key that the evidence names (HCLAkPub), proven or not; nil where it names none.
func (r *Result) AK() *tpm.Public {
	if r == nil || r.claimed == nil {
		return nil
	}
	return r.claimed.ak
}

// verification is the state of one call of Verify.
type verification struct {
	trust        *Trust
	now          time.Time
	certificates []*x509.Certificate // that came along
	sent         []Collateral        // that came along
	result       *Result
	failed       bool
}

// Verify decodes hardware evidence and verifies it up to an anchor in trust, as of now. It checks:
//
//   - azure_hcl: the HCL report's structure, and that its runtime data is what the report's report_data covers
//   - SEV-SNP: version 2 to 5; VCEK or VLEK, found among what was sent and what is held, chains over ASK or ASVK to a
//     trusted ARK that is not the evidence's own, at now; nothing in the chain is revoked by a CRL that is held;
//     ECDSA P-384 signature; then, as steps of their own, chip id and TCB against the certificate's extensions
//   - TDX: version 4; PCK chain to a trusted Intel root, at now; revocation by CRLs that are held; QE report signature,
//     QE report data, quote signature; QE identity and TCB status where collateral for them is held
//
// It needs no network. What the policy makes of the report is Report.Judge's, and whether it is of the machine
// that signed the quote is Result.Binding's. The result must not be modified; it may be kept until ValidUntil.
func Verify(e *Evidence, trust *Trust, now time.Time) *Result {
	v := &verification{trust: trust, now: now, sent: e.Collateral, result: &Result{}}
	if trust == nil {
		v.trust = &Trust{}
	}
	if len(e.Certificates) > maxSent || len(e.Collateral) > maxSent {
		v.fail("%d certificates and %d pieces of collateral were sent; at most %d of each are accepted", len(e.Certificates), len(e.Collateral), maxSent)
		return v.result
	}
	v.readCertificates(e.Certificates)
	switch e.Type {
	case TypeAzureHCL:
		v.azure(e)
	case TypeSEVSNP:
		v.snp(e.Report, nil)
	case TypeTDX:
		v.tdx(e.Quote, nil)
	default:
		v.fail("%q is no type of hardware evidence", e.Type)
	}
	v.finish()
	return v.result
}

// fail notes why the report is not genuine; the first reason stays.
func (v *verification) fail(format string, args ...any) {
	if v.failed {
		return
	}
	v.failed = true
	v.result.Steps = append(v.result.Steps, StepResult{StepReport, Fail, fmt.Sprintf(format, args...)})
}

func (v *verification) note(format string, args ...any) {
	v.result.notes = append(v.result.notes, fmt.Sprintf(format, args...))
}

// want names collateral that was lacked, once.
func (v *verification) want(kind Kind, name string) {
	if w := (Want{kind, name}); !slices.Contains(v.result.Wants, w) {
		v.result.Wants = append(v.result.Wants, w)
	}
}

// until shortens how long the result may be kept.
func (v *verification) until(t time.Time) {
	if v.result.ValidUntil.IsZero() || t.Before(v.result.ValidUntil) {
		v.result.ValidUntil = t
	}
}

// readCertificates reads what can be read: certificates are helpers, and one that cannot be read helps nobody.
func (v *verification) readCertificates(ders [][]byte) {
	for _, der := range ders {
		if len(der) > maxCertificate {
			continue
		}
		if cert, err := x509.ParseCertificate(der); err == nil {
			v.certificates = append(v.certificates, cert)
		}
	}
}

// collateral lists what was sent and what is held of a kind and name.
func (v *verification) collateral(kind Kind, name string) []Collateral {
	var out []Collateral
	for _, from := range [...][]Collateral{v.sent, v.trust.Collateral} {
		for i := range from {
			if from[i].Kind == kind && from[i].Name == name {
				out = append(out, from[i])
			}
		}
	}
	return out
}

// used keeps collateral that came with the evidence and served.
func (v *verification) used(c Collateral) {
	for i := range v.sent {
		if v.sent[i].Kind == c.Kind && slices.Equal(v.sent[i].Body, c.Body) {
			if !slices.ContainsFunc(v.result.Used, func(u Collateral) bool { return u.Kind == c.Kind && slices.Equal(u.Body, c.Body) }) {
				v.result.Used = append(v.result.Used, c)
			}
			return
		}
	}
}

// endorsements lists the certificates of a kind of endorsement key: those that were sent, and the held ones that
// are named as the report asks.
func (v *verification) endorsements(kind Kind, r *snpReport) []*endorsement {
	var out []*endorsement
	for _, cert := range v.certificates {
		if !isAMD(cert) {
			continue
		}
		e, err := readEndorsement(cert)
		if err != nil {
			v.note("a certificate of AMD's that was sent cannot be used: %s", err)
			continue
		}
		if e.kind == kind {
			out = append(out, e)
		}
	}
	for _, from := range [...][]Collateral{v.sent, v.trust.Collateral} {
		for i := range from {
			if from[i].Kind != kind {
				continue
			}
			cert, err := x509.ParseCertificate(from[i].Body)
			if err != nil {
				continue
			}
			e, err := readEndorsement(cert)
			if err != nil || e.kind != kind || (r.product != "" && e.product != r.product) {
				continue
			}
			if kind == KindVCEK && !e.ofChip(r.proto.GetChipId()) {
				continue
			}
			out = append(out, e)
		}
	}
	return out
}

// snp verifies an attestation report; runtime is what its report_data covers, in HCL evidence.
func (v *verification) snp(raw []byte, runtime *runtimeData) {
	r, err := parseSNP(raw)
	if err != nil {
		v.unsupported(err)
		return
	}
	v.result.claimed = claimSNP(r, runtime)
	if err := runtime.covered(r.proto.GetReportData()); err != nil {
		v.fail("%s", err)
		return
	}
	e := v.verifySNP(r)
	if e == nil {
		return
	}
	chip, tcb := r.agree(e)
	v.result.Steps = append(v.result.Steps, StepResult{StepReport, Pass, v.sentence(fmt.Sprintf(
		"an SEV-SNP report, version %d, signed by a %s %s key that chains to %s", r.proto.GetVersion(), e.product.amdName(), kindName(e.kind), v.result.Root.Subject.CommonName))}, chip, tcb)
	v.keepEndorsement(e)
	if chip.Outcome == Fail || tcb.Outcome == Fail {
		return
	}
	v.result.claimed = claimSNP(r, runtime) // the product is known now, also of a version 2 report
	v.result.claimed.signedBy(e)
	v.result.Report = v.result.claimed
}

// keepEndorsement names a certificate that was sent as worth keeping.
func (v *verification) keepEndorsement(e *endorsement) {
	for _, cert := range v.certificates {
		if cert == e.certificate {
			v.result.Used = append(v.result.Used, Collateral{Kind: e.kind, Name: e.name(), Body: cert.Raw, NotBefore: cert.NotBefore, NotAfter: cert.NotAfter})
			return
		}
	}
}

// unsupported fails with a decoder's error, and says so where it is the version that is not read.
func (v *verification) unsupported(err error) {
	if isUnsupported(err) {
		v.result.Unsupported = true
	}
	v.fail("%s", err)
}

// sentence adds the notes to a detail.
func (v *verification) sentence(detail string) string {
	for _, n := range v.result.notes {
		detail += "; " + n
	}
	return detail
}

// finish makes sure that the result says something, and rests on nothing where it proves nothing.
func (v *verification) finish() {
	if v.result.Report == nil {
		v.result.ValidUntil = time.Time{}
	} else {
		v.result.Report.notes = v.result.notes
		v.result.Report.root = v.result.Root
		v.result.Report.validUntil = v.result.ValidUntil
		v.result.Report.claims = v.result.Report.makeClaims()
		v.result.Report.claimsJSON, _ = json.Marshal(v.result.Report.claims) // numbers, booleans and text: it cannot fail
	}
	if len(v.result.Steps) == 0 {
		v.fail("nothing was proven")
	}
}

// akOf makes the TPM public of a runtime data key.
func akOf(key *rsa.PublicKey) (*tpm.Public, error) { return tpm.PublicFromCrypto(key) }
