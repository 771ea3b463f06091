package tee

import (
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tdxtesting "github.com/google/go-tdx-guest/testing"
)

var (
	today    = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	mid2025  = time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC) // the VLEK's year
	july2023 = time.Date(2023, 7, 1, 1, 0, 0, 0, time.UTC) // the TDX collateral's month
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// certs reads a file of PEM certificates, or one in DER.
func certs(t testing.TB, name string) []*x509.Certificate {
	t.Helper()
	return parseCerts(t, read(t, name))
}

func parseCerts(t testing.TB, b []byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	if out == nil {
		c, err := x509.ParseCertificate(b)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func ders(list []*x509.Certificate) [][]byte {
	out := make([][]byte, len(list))
	for i, c := range list {
		out[i] = c.Raw
	}
	return out
}

// vendors trusts AMD's and Intel's real roots.
func vendors(t testing.TB) *Trust {
	t.Helper()
	trust := &Trust{TDX: certs(t, "tdx/intel_sgx_root.pem")}
	files, err := filepath.Glob("testdata/amd-roots/*.pem")
	if err != nil || len(files) != 6 {
		t.Fatalf("%v %v", files, err)
	}
	for _, f := range files {
		trust.SNP = append(trust.SNP, certs(t, strings.TrimPrefix(f, "testdata/"))...)
	}
	return trust
}

func snpEvidence(t testing.TB, report, certificate string) *Evidence {
	t.Helper()
	return &Evidence{Type: TypeSEVSNP, Report: read(t, report), Certificates: ders(certs(t, certificate))}
}

func azureEvidence(t testing.TB, set string) *Evidence {
	t.Helper()
	e := &Evidence{Type: TypeAzureHCL, HCLReport: read(t, "azure/"+set+"/hcl-report.bin")}
	for _, name := range []string{"vcek.pem", "vcek.der", "certs.pem"} {
		if _, err := os.Stat("testdata/azure/" + set + "/" + name); err == nil {
			e.Certificates = append(e.Certificates, ders(certs(t, "azure/"+set+"/"+name))...)
		}
	}
	if b, err := os.ReadFile("testdata/azure/" + set + "/td-quote.bin"); err == nil {
		e.Quote = b
	}
	return e
}

func unescape(t testing.TB, header map[string][]string) []byte {
	t.Helper()
	for _, values := range header {
		text, err := url.QueryUnescape(values[0])
		if err != nil {
			t.Fatal(err)
		}
		return []byte(text)
	}
	return nil
}

// collateral2023 is Intel's collateral for tdx_prod_quote_SPR_E4.dat, valid in July 2023.
func collateral2023(t testing.TB) []Collateral {
	t.Helper()
	var out []Collateral
	for _, c := range []struct {
		kind  Kind
		file  string
		chain []byte
	}{
		{KindTCBInfo, "tdx/sample_tcbInfo_response", unescape(t, tdxtesting.TcbInfoHeader)},
		{KindQEIdentity, "tdx/sample_qeIdentity_response", unescape(t, tdxtesting.QeIdentityHeader)},
		{KindPCKCRL, "tdx/pckcrl", unescape(t, tdxtesting.PckCrlHeader)},
		{KindRootCRL, "tdx/rootcrl.der", nil},
	} {
		parsed, err := ParseCollateral(c.kind, read(t, c.file), c.chain)
		if err != nil {
			t.Fatalf("%s: %v", c.kind, err)
		}
		out = append(out, parsed)
	}
	return out
}

func step(r *Result, s Step) StepResult {
	for _, x := range r.Steps {
		if x.Step == s {
			return x
		}
	}
	return StepResult{s, Skipped, "(absent)"}
}

// Each set gives what its README or MANIFEST states.
func TestSpecimens(t *testing.T) {
	for _, c := range []struct {
		name     string
		evidence *Evidence
		at       time.Time
		want     Outcome
		detail   string
	}{
		{"go-sev-guest, Milan, version 2", snpEvidence(t, "snp/attestation.bin", "snp/vcek.testcer"), today, Pass, "version 2, signed by a Milan VCEK"},
		{"trustee, Milan, version 2", snpEvidence(t, "snp/test-report.bin", "snp/test-vcek.der"), today, Pass, "version 2, signed by a Milan VCEK"},
		{"trustee, VLEK in its year", snpEvidence(t, "snp/test-vlek-report.bin", "snp/test-vlek.der"), mid2025, Pass, "signed by a Milan VLEK"},
		{"trustee, VLEK expired", snpEvidence(t, "snp/test-vlek-report.bin", "snp/test-vlek.der"), today, Fail, "expired"},
		{"trustee, invalid VCEK", snpEvidence(t, "snp/test-report.bin", "snp/test-vcek-invalid-legacy.der"), today, Fail, "does not chain to a trusted AMD root"},
		{"trustee, invalid VCEK, new", snpEvidence(t, "snp/test-report.bin", "snp/test-vcek-invalid-new.der"), today, Fail, "does not chain to a trusted AMD root"},
		{"report and VCEK of two chips", snpEvidence(t, "snp/test-report.bin", "snp/vcek.testcer"), today, Fail, "the signature does not verify"},
		{"Azure SEV-SNP, v0", azureEvidence(t, "trustee-snp-v0"), today, Pass, "version 3, signed by a Milan VCEK"},
		{"Azure SEV-SNP, v2", azureEvidence(t, "trustee-snp-v2"), today, Pass, "version 3, signed by a Milan VCEK"},
		{"Azure TDX", azureEvidence(t, "trustee-tdx-v0"), today, Pass, "TD quote, version 4"},
		{"Azure mixed set", azureEvidence(t, "kinvolk-snp"), today, Fail, "the signature does not verify"},
		{"GCE TDX, COS 113", &Evidence{Type: TypeTDX, Quote: read(t, "tdx/cos-113-tdx-quote.dat")}, today, Pass, "TD quote, version 4"},
		{"TDX, Sapphire Rapids", &Evidence{Type: TypeTDX, Quote: read(t, "tdx/tdx_prod_quote_SPR_E4.dat")}, july2023, Pass, "TD quote, version 4"},
		{"TDX, version 5", &Evidence{Type: TypeTDX, Quote: read(t, "tdx/quote_v5_sample.dat")}, today, Fail, "unsupported: TD quote version 5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Verify(c.evidence, vendors(t), c.at)
			got := step(r, StepReport)
			if got.Outcome != c.want || !strings.Contains(got.Detail, c.detail) {
				t.Errorf("%+v", r.Steps)
			}
			if (r.Report != nil) != (c.want == Pass) {
				t.Errorf("report %v", r.Report)
			}
			if r.Report != nil && (r.Root == nil || !r.ValidUntil.After(c.at)) {
				t.Errorf("root %v, until %v", r.Root, r.ValidUntil)
			}
			t.Logf("%+v", r.Steps)
			if r.Report != nil {
				t.Logf("%+v", r.Report.Judge(&Policy{}))
			}
		})
	}
}
