package attest

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/revocations"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// fingerprint identifies a judgement: two appraisals with one fingerprint say the same of the same boot
// of a machine, so the second only counts the first one up. It covers
//
//   - status, reason, assurance, baseline and policy
//   - each check with its status, and what it says where it does not pass
//   - the deviations
//   - the boot: the TPM's reset count and firmware version, the log, and which PCRs the log explains.
//     The claims follow from these, so they need not be read
//   - what the hardware report proves
//   - how many measured files were refused
//   - which recommendations follow and how pressing they are, since some come with time alone
//   - what is known to be bad of what booted. It is what the data says of this boot and not the data's version, so
//     that an entry which is added starts a new run for those that booted it, and for no others
//
// and leaves out what moves by itself: the TPM's clock and restart count, the length of the IMA list,
// and the words of a clock that went back (they hold both times). Values that no check speaks of do not
// count either; PCR 10 differs at every reading.
func fingerprint(a *verifier.Appraisal, findings *finding.Result, bad *revocations.Assessment, logDigest []byte) [32]byte {
	f := fields{buf: make([]byte, 0, 1024)}
	f.number(uint64(a.Status))
	f.text(string(a.Reason))
	f.text(string(a.Assurance))
	f.reference(a.Baseline)
	for i := range a.Layers {
		f.reference(&a.Layers[i])
	}
	f.reference(&a.Policy)
	f.number(uint64(len(a.Checks)))
	for i := range a.Checks {
		c := &a.Checks[i]
		f.text(string(c.Code))
		f.text(string(c.Status))
		if c.Status != verifier.Pass && c.Code != verifier.CheckQuoteClock {
			f.text(c.Detail)
		}
	}
	f.number(uint64(len(a.Deviations)))
	for i := range a.Deviations {
		f.deviation(&a.Deviations[i])
	}
	f.text(string(logDigest))
	if a.Quote != nil {
		clock := a.Quote.Clock()
		f.number(uint64(clock.ResetCount))
		f.number(clock.FirmwareVersion)
	}
	if a.Platform != nil {
		f.text(string(a.Platform.ClaimsJSON()))
	}
	for i := range findings.Recommendations {
		f.text(findings.Recommendations[i].Code)
		f.text(string(findings.Recommendations[i].Severity))
	}
	if bad != nil {
		f.text(bad.Digest())
	}
	if a.Measurements != nil {
		explained := uint64(0)
		for pcr := range tpm.NumPCRs {
			if a.Measurements.Verified(pcr) {
				explained |= 1 << uint(pcr)
			}
		}
		f.number(explained)
	}
	if a.RTMRMeasurements != nil {
		explained := uint64(0)
		for i := range 4 {
			if a.RTMRMeasurements.Verified(i) {
				explained |= 1 << uint(i)
			}
		}
		f.number(explained)
	}
	if a.Claims.IMA != nil {
		f.number(uint64(a.Claims.IMA.Unexpected)) //nolint:gosec // a count
	}
	return sha256.Sum256(f.buf)
}

// fields writes values so that no two different lists of values give the same bytes.
type fields struct{ buf []byte }

func (f *fields) number(n uint64) { f.buf = binary.BigEndian.AppendUint64(f.buf, n) }

func (f *fields) text(s string) {
	f.number(uint64(len(s)))
	f.buf = append(f.buf, s...)
}

func (f *fields) reference(r *verifier.VersionRef) {
	if r == nil {
		f.number(0)
		return
	}
	f.number(1)
	f.text(r.ID)
	f.number(uint64(r.Version)) //nolint:gosec // a count
}

func (f *fields) deviation(d *verifier.Deviation) {
	f.number(uint64(int64(d.PCR))) //nolint:gosec // -1 becomes a number that no PCR has
	f.text(string(d.Kind))
	f.text(string(d.Component))
	f.text(d.Description)
	f.text(d.EventType)
	f.text(d.Actual)
	f.text(d.Bank)
	f.number(uint64(len(d.Expected)))
	for _, e := range d.Expected {
		f.text(e)
	}
}
