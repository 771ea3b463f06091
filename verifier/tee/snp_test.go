package tee

import (
	"bytes"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

// said fails the test unless the result proves nothing and the step says why.
func said(t *testing.T, r *Result, s Step, reason string) {
	t.Helper()
	if got := step(r, s); r.Report != nil || got.Outcome != Fail || !strings.Contains(got.Detail, reason) {
		t.Errorf("want %s to fail for %q, have %+v (report %v)", s, reason, r.Steps, r.Report != nil)
	}
	if !r.ValidUntil.IsZero() {
		t.Errorf("nothing is proven, until %s", r.ValidUntil)
	}
}

// passes fails the test unless the result proves a report.
func passes(t *testing.T, r *Result) *Report {
	t.Helper()
	if r.Report == nil || step(r, StepReport).Outcome != Pass {
		t.Fatalf("not proven: %+v", r.Steps)
	}
	return r.Report
}

// A host that masks the chip id (SNP_CONFIG.MASK_CHIP_ID) still has its reports signed by the chip's key. MASK_CHIP_KEY
// is another switch: it turns the signature off.
func TestAMaskedChipIDIsNoMismatch(t *testing.T) {
	for _, name := range products {
		amd := teetest.NewAMD(t, name)
		for _, info := range []uint32{0, teetest.SignerMaskChipKey} {
			r := Verify(genuine(amd, 3, func(f *teetest.Report) { f.ChipID, f.SignerInfo = nil, info }), &Trust{SNP: amd.Anchors()}, teetest.Now)
			c := passes(t, r).Claims()
			if s := step(r, StepChipID); s.Outcome != Skipped || !strings.Contains(s.Detail, "masks the chip id") || c.ChipID != "" {
				t.Errorf("%+v %q", s, c.ChipID)
			}
			r = Verify(&Evidence{Type: TypeSEVSNP, Report: amd.Report(func() teetest.Report { f := amd.Fields(3); f.ChipID = nil; return f }())}, &Trust{SNP: amd.Anchors()}, teetest.Now)
			if said(t, r, StepReport, "neither sent nor is it held"); len(r.Wants) != 0 {
				t.Errorf("nobody can ask for the VCEK of no chip: %v", r.Wants)
			}
		}
		other := genuine(amd, 3, func(f *teetest.Report) {
			f.ChipID, f.SignerInfo = bytes.Repeat([]byte{1}, 64), teetest.SignerMaskChipKey
		})
		said(t, Verify(other, &Trust{SNP: amd.Anchors()}, teetest.Now), StepChipID, "the report is of chip 0101010101010101…")
	}
}
