package tee

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

// maxMemory is what one call may allocate in all: 8 times its input, and what certificates, roots and a result of
// ordinary size take.
func maxMemory(input int) uint64 { return 8*uint64(input) + 1<<20 }

// bounded fails where f allocates more than it may; it asks twice, since other goroutines allocate too.
func bounded(t *testing.T, input int, f func()) {
	t.Helper()
	if allocated(f) <= maxMemory(input) {
		return
	}
	runtime.GC()
	if n := allocated(f); n > maxMemory(input) {
		t.Fatalf("%d bytes for an input of %d", n, input)
	}
}

// proves nothing fails unless the result is the one that bytes have which nobody signed.
func provesNothing(t *testing.T, r *Result) {
	t.Helper()
	if r.Report != nil || len(r.Steps) == 0 || !r.ValidUntil.IsZero() {
		t.Fatalf("believed: %+v", r.Steps)
	}
	for _, s := range r.Steps {
		if s.Detail == "" || len(s.Detail) > 4096 {
			t.Fatalf("%s says %q", s.Step, s.Detail)
		}
	}
}

// FuzzSNPReport: no input panics, costs more memory than its bound, or is believed unless it is the specimen.
func FuzzSNPReport(f *testing.F) {
	names := []string{"snp/attestation.bin", "snp/test-report.bin", "snp/test-vlek-report.bin"}
	certificates := [][]byte{read(f, "snp/test-vcek.der"), read(f, "snp/test-vlek.der"), certs(f, "snp/vcek.testcer")[0].Raw}
	var genuine [][]byte
	for _, n := range names {
		genuine = append(genuine, read(f, n))
		f.Add(read(f, n))
	}
	for _, version := range []uint32{2, 3, 4, 5} {
		amd := teetest.NewAMD(f, teetest.Turin)
		f.Add(amd.Report(amd.Fields(version)))
	}
	trust := vendors(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r *Result
		bounded(t, len(raw), func() {
			r = Verify(&Evidence{Type: TypeSEVSNP, Report: raw, Certificates: certificates}, trust, mid2025)
		})
		for _, g := range genuine {
			if bytes.Equal(raw, g) {
				return
			}
		}
		provesNothing(t, r)
		r.Binding(nil, []byte("nonce"))
		r.Nonce()
	})
}

// FuzzHCLReport: no input panics, costs more than its bound, or is believed unless report and runtime data are the specimen's.
func FuzzHCLReport(f *testing.F) {
	trust := vendors(f)
	var certificates [][]byte
	var genuine []*hclReport
	for _, set := range []string{"trustee-snp-v0", "trustee-snp-v2", "trustee-tdx-v0", "kinvolk-snp"} {
		e := azureEvidence(f, set)
		f.Add(e.HCLReport)
		certificates = append(certificates, e.Certificates...)
		h, err := parseHCL(e.HCLReport)
		if err != nil {
			f.Fatal(err)
		}
		genuine = append(genuine, h)
	}
	quote := azureEvidence(f, "trustee-tdx-v0").Quote
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r *Result
		bounded(t, len(raw)+len(quote), func() {
			r = Verify(&Evidence{Type: TypeAzureHCL, HCLReport: raw, Quote: quote, Certificates: certificates}, trust, today)
		})
		if h, err := parseHCL(raw); err == nil {
			for _, g := range genuine {
				if bytes.Equal(h.runtime.raw, g.runtime.raw) && (bytes.Equal(h.hardware, g.hardware) || h.kind == hclTypeTDX) {
					return
				}
			}
		}
		provesNothing(t, r)
		if ak := r.AK(); ak != nil {
			r.Binding(ak, nil)
		}
	})
}

// FuzzRuntimeData: what a paravisor says is bounded and printable, whatever it says.
func FuzzRuntimeData(f *testing.F) {
	for _, set := range []string{"trustee-snp-v0", "trustee-tdx-v0", "kinvolk-snp"} {
		h, err := parseHCL(azureEvidence(f, set).HCLReport)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(h.runtime.raw, uint32(1))
	}
	f.Add([]byte(`{"keys":[{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"AA"}]}`), uint32(3))
	f.Fuzz(func(t *testing.T, raw []byte, hash uint32) {
		var r *runtimeData
		var err error
		bounded(t, len(raw), func() { r, err = parseRuntime(raw, hash) })
		if err != nil {
			return
		}
		if r.ak == nil || len(r.hash) < 32 || len(r.vm.VMID) > 64 || strings.ContainsFunc(r.vm.VMID, func(c rune) bool { return c <= ' ' || c > '~' }) || len(r.userData) > 64 {
			t.Fatalf("%+v", r)
		}
		if r.covered(make([]byte, 64)) == nil {
			t.Fatal("zeros are its hash")
		}
	})
}

// FuzzTDQuote: no input panics, costs more than its bound, or is believed unless all that is signed is the specimen's.
func FuzzTDQuote(f *testing.F) {
	names := []string{"tdx/tdx_prod_quote_SPR_E4.dat", "tdx/cos-113-tdx-quote.dat", "tdx/quote_v5_sample.dat", "azure/trustee-tdx-v0/td-quote.bin"}
	signed := map[string]bool{}
	for _, n := range names {
		b := read(f, n)
		f.Add(b)
		signed[string(b[:0x278])] = true
	}
	trust := vendors(f)
	trust.Collateral = collateral2023(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r *Result
		// go-tdx-guest copies a quote once for each of its eight structures, and makes text of its certificates.
		bounded(t, 4*len(raw), func() { r = Verify(&Evidence{Type: TypeTDX, Quote: raw}, trust, july2023) })
		if r.Report == nil {
			provesNothing(t, r)
			return
		}
		if len(raw) < 0x278 || !signed[string(raw[:0x278])] {
			t.Fatalf("believed: %x", raw[:0x278])
		}
	})
}

// FuzzCertificate: what is read of an endorsement key's certificate is whole, and none is believed but the specimens.
func FuzzCertificate(f *testing.F) {
	genuine := [][]byte{read(f, "snp/test-vcek.der"), certs(f, "snp/vcek.testcer")[0].Raw, read(f, "snp/test-vlek.der"), read(f, "azure/trustee-snp-v2/vcek.der"),
		certs(f, "azure/trustee-snp-v0/vcek.pem")[0].Raw}
	for _, g := range genuine {
		f.Add(g)
	}
	f.Add(read(f, "snp/test-vcek-invalid-new.der"))
	f.Add(read(f, "snp/test-vcek-invalid-legacy.der"))
	for _, p := range products {
		amd := teetest.NewAMD(f, p)
		f.Add(amd.VCEK(amd.ChipID, amd.TCB))
		f.Add(amd.VLEK("cloud", amd.TCB))
	}
	trust := vendors(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, kind := range []Kind{KindVCEK, KindVLEK} {
			var c Collateral
			var err error
			bounded(t, len(raw), func() { c, err = ParseCollateral(kind, raw, nil) })
			if err != nil {
				continue
			}
			parts := strings.Split(c.Name, "/")
			if len(parts) != 3 || !utf8.ValidString(c.Name) || parts[1] == "" || len(parts[1]) > 128 || !c.NotAfter.After(c.NotBefore) {
				t.Fatalf("%q", c.Name)
			}
			if trust.CheckCollateral(c, mid2025) == nil {
				for _, g := range genuine {
					if bytes.Equal(c.Body, g) {
						return
					}
				}
				t.Fatal("believed")
			}
		}
	})
}

// FuzzCRL: a CRL is read as crypto/x509 reads it, at a fraction of the memory.
func FuzzCRL(f *testing.F) {
	real := collateral2023(f)
	f.Add(real[2].Body)
	f.Add(real[3].Body)
	amd := teetest.NewAMD(f, teetest.Milan)
	f.Add(amd.CRL(teetest.CollateralFrom, teetest.CRLUntil, amd.ASK, amd.ASVK))
	f.Fuzz(func(t *testing.T, raw []byte) {
		bounded(t, len(raw), func() { _, _ = parseCRL(raw) })
		sameAsX509(t, raw)
		for _, kind := range []Kind{KindSNPCRL, KindPCKCRL, KindRootCRL} {
			if c, err := ParseCollateral(kind, raw, nil); err == nil && (c.Name == "" || !c.NotAfter.After(c.NotBefore)) {
				t.Fatalf("%+v", c)
			}
		}
	})
}

// FuzzSignedJSON: an answer of Intel's PCS is believed only if what is signed is what Intel signed.
func FuzzSignedJSON(f *testing.F) {
	real := collateral2023(f)[:2]
	for _, c := range real {
		f.Add(c.Body, c.IssuerChain)
	}
	f.Add([]byte(`{"tcbInfo":{"id":"TDX","version":3,"fmspc":"50806f000000"},"signature":""}`), []byte(nil))
	trust := vendors(f)
	f.Fuzz(func(t *testing.T, body, chain []byte) {
		for _, was := range real {
			var c Collateral
			var err error
			bounded(t, len(body)+len(chain), func() { c, err = ParseCollateral(was.Kind, body, chain) })
			if err != nil {
				continue
			}
			bounded(t, 2*(len(body)+len(chain)), func() { err = trust.CheckCollateral(c, july2023) })
			if err != nil {
				continue
			}
			got, _ := parseSigned(body)
			want, _ := parseSigned(was.Body)
			_, a := got.content(was.Kind)
			if _, b := want.content(was.Kind); !bytes.Equal(a, b) {
				t.Fatalf("believed: %s", a)
			}
		}
	})
}

// FuzzPolicy: a policy that is valid judges every report without a panic, and as often again.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"launch_measurements":["` + strings.Repeat("AB", 48) + `"],"snp":{"minimum_tcb":{"milan":{"snp":24}},"max_vmpl":0},"tdx":{"minimum_tee_tcb_svn":"` + strings.Repeat("00", 16) + `","allowed_tcb_statuses":["UpToDate"]}}`))
	amd, intel := teetest.NewAMD(f, teetest.Milan), teetest.NewIntel(f)
	reports := []*Report{
		Verify(genuine(amd, 3), &Trust{SNP: []*x509.Certificate{amd.ARK, amd.ASK}}, teetest.Now).Report,
		Verify(quote(intel), &Trust{TDX: intel.Anchors(), Collateral: allOf(f, intel)}, teetest.Now).Report,
		Verify(quote(intel), &Trust{TDX: intel.Anchors()}, teetest.Now).Report,
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p Policy
		if json.Unmarshal(raw, &p) != nil {
			return
		}
		if err := p.Validate(); err == nil {
			if err := p.Validate(); err != nil {
				t.Fatalf("valid once: %v", err)
			}
		}
		for _, r := range reports {
			for _, s := range r.Judge(&p) {
				if s.Detail == "" {
					t.Fatalf("%+v", s)
				}
			}
			r.Outdated(&p)
		}
	})
}
