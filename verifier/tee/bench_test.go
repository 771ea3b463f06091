package tee

import "testing"

func benchmark(b *testing.B, e *Evidence, trust *Trust) {
	if r := Verify(e, trust, july2023); r.Report == nil {
		b.Fatalf("%+v", r.Steps)
	}
	b.ReportAllocs()
	for b.Loop() {
		Verify(e, trust, july2023)
	}
}

// BenchmarkVerifySNP verifies a Milan report and its VCEK, up to AMD's real root.
func BenchmarkVerifySNP(b *testing.B) {
	benchmark(b, snpEvidence(b, "snp/attestation.bin", "snp/vcek.testcer"), vendors(b))
}

// BenchmarkVerifyHCL verifies the evidence of an Azure confidential VM.
func BenchmarkVerifyHCL(b *testing.B) {
	e, trust := azureEvidence(b, "trustee-snp-v2"), vendors(b)
	if r := Verify(e, trust, today); r.Report == nil {
		b.Fatalf("%+v", r.Steps)
	}
	b.ReportAllocs()
	for b.Loop() {
		Verify(e, trust, today)
	}
}

// BenchmarkVerifyTDX verifies a quote with its CRLs and QE identity, up to Intel's real root.
func BenchmarkVerifyTDX(b *testing.B) {
	trust := vendors(b)
	trust.Collateral = collateral2023(b)[1:]
	benchmark(b, &Evidence{Type: TypeTDX, Quote: read(b, "tdx/tdx_prod_quote_SPR_E4.dat")}, trust)
}
