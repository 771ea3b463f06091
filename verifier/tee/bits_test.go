package tee

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

// uncovered is a range of bytes that nothing proves, and why it need not be.
type uncovered struct {
	from, to int
	why      string
}

func in(list []uncovered, at int) bool {
	return slices.ContainsFunc(list, func(u uncovered) bool { return at >= u.from && at < u.to })
}

// long is set by make test-long: every bit takes minutes.
var long = os.Getenv("ASSAY_TEST_LONG") != ""

// everyBit flips one bit of each byte of b, in turn, and each in the long run, on all cores; holds tells whether the altered bytes are still believed.
func everyBit(t *testing.T, b []byte, holds func(altered []byte, at int) bool) {
	t.Helper()
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			altered := bytes.Clone(b)
			for bit := w; bit < 8*len(b); bit += workers {
				at := bit / 8
				if !long && bit%8 != at%8 {
					continue // the bits in turn
				}
				altered[at] ^= 1 << (bit % 8)
				if holds(altered, at) {
					t.Errorf("byte %#x, bit %d: believed all the same", at, bit%8)
				}
				altered[at] = b[at]
			}
		}()
	}
	wg.Wait()
}

// Every bit of an SEV-SNP report is signed, or is of the signature.
func TestEveryBitOfAnSNPReportCounts(t *testing.T) {
	for name, product := range map[Product]string{Milan: teetest.Milan, Turin: teetest.Turin} {
		amd := teetest.NewAMD(t, product)
		e, trust := genuine(amd, 5), &Trust{SNP: amd.Anchors()}
		passes(t, Verify(e, trust, teetest.Now))
		everyBit(t, e.Report, func(altered []byte, _ int) bool {
			return Verify(&Evidence{Type: TypeSEVSNP, Report: altered, Certificates: e.Certificates}, trust, teetest.Now).Report != nil
		})
		if name == Turin {
			continue
		}
		everyBit(t, e.Certificates[0], func(altered []byte, _ int) bool {
			return Verify(&Evidence{Type: TypeSEVSNP, Report: e.Report, Certificates: [][]byte{altered}}, trust, teetest.Now).Report != nil
		})
	}
}

// Every field of an HCL report is checked or covered by report_data; its padding is not, and nothing reads it.
func TestEveryBitOfAnHCLReportCounts(t *testing.T) {
	e, trust := azureEvidence(t, "trustee-snp-v2"), vendors(t)
	passes(t, Verify(e, trust, today))
	end := hclRuntimeStart + int(binary.LittleEndian.Uint32(e.HCLReport[hclRuntimeStart:]))
	free := []uncovered{{end, len(e.HCLReport), "padding behind the runtime data"}}
	everyBit(t, e.HCLReport, func(altered []byte, at int) bool {
		if at >= hclHeaderSize && at < hclRuntimeStart && altered[at]^e.HCLReport[at] != 1<<(at%8) {
			return false // one bit a byte: TestEveryBitOfAnSNPReportCounts takes them all
		}
		holds := Verify(&Evidence{Type: TypeAzureHCL, HCLReport: altered, Certificates: e.Certificates}, trust, today).Report != nil
		if in(free, at) {
			return !holds // said to be free, and is not
		}
		return holds
	})
}

func TestEveryBitOfAnAzureTDREPORTCounts(t *testing.T) {
	e, trust := azureEvidence(t, "trustee-tdx-v0"), vendors(t)
	passes(t, Verify(e, trust, today))
	end := hclRuntimeStart + int(binary.LittleEndian.Uint32(e.HCLReport[hclRuntimeStart:]))
	free := []uncovered{
		{32, 32 + 128, "REPORTMACSTRUCT: report type, CPUSVN, hashes of what follows: only the MAC covers them, which its processor alone can check"},
		{32 + 192, 32 + 264, "REPORTMACSTRUCT: reserved and MAC; TEE_TCB_INFO.VALID"},
		{32 + 384, 32 + 512, "TEE_TCB_INFO: what no quote of version 4 tells"},
		{32 + 912, hclRuntimeStart, "TDINFO: what no quote of version 4 tells, and the rest of the field"},
		{end, len(e.HCLReport), "padding behind the runtime data"},
	}
	everyBit(t, e.HCLReport, func(altered []byte, at int) bool {
		if in(free, at) && altered[at]^e.HCLReport[at] != 1<<(at%8) {
			return false
		}
		holds := Verify(&Evidence{Type: TypeAzureHCL, HCLReport: altered, Quote: e.Quote}, trust, today).Report != nil
		if in(free, at) {
			return !holds
		}
		return holds
	})
}

// Every bit of a TD quote is signed, or leads to what is signed. Of the PEM around its certificates only what it
// decodes to counts.
func TestEveryBitOfATDQuoteCounts(t *testing.T) {
	b, trust := read(t, "tdx/tdx_prod_quote_SPR_E4.dat"), vendors(t)
	q, err := parseTDX(b)
	if err != nil {
		t.Fatal(err)
	}
	pemAt := bytes.Index(b, []byte("-----BEGIN"))
	everyBit(t, b, func(altered []byte, at int) bool {
		if at >= pemAt && altered[at]^b[at] != 1<<(at%8) {
			return false // one bit a byte of text
		}
		if Verify(&Evidence{Type: TypeTDX, Quote: altered}, trust, july2023).Report == nil {
			return false
		}
		if at < pemAt {
			return true
		}
		same, err := parseTDX(altered)
		return err != nil || !same.chain.PCKCertificate.Equal(q.chain.PCKCertificate) || !same.chain.IntermediateCertificate.Equal(q.chain.IntermediateCertificate) ||
			!same.chain.RootCertificate.Equal(q.chain.RootCertificate)
	})
	padded := read(t, "tdx/cos-113-tdx-quote.dat")
	end := 0x27C + int(binary.LittleEndian.Uint32(padded[0x278:]))
	for at := end; at < len(padded); at++ { // padding: nothing reads it
		altered := bytes.Clone(padded)
		altered[at] ^= 1
		if r := Verify(&Evidence{Type: TypeTDX, Quote: altered}, trust, today); at%97 == 0 && r.Report == nil {
			t.Fatalf("padding at %#x counts", at)
		}
	}
}

// Every bit of collateral is signed. Of a JSON answer what stands around the signed object may change as long as object
// and signature stay what they are: the case of names and hex digits.
func TestEveryBitOfCollateralCounts(t *testing.T) {
	trust := vendors(t)
	amd := teetest.NewAMD(t, teetest.Genoa)
	trust.SNP = append(trust.SNP, amd.Anchors()...)
	for _, c := range append(collateral2023(t), snpCRL(t, amd, teetest.CollateralFrom, teetest.CRLUntil, amd.ASVK), collected(t, KindVLEK, amd.VLEK("cloud", amd.TCB), nil)) {
		at := map[bool]time.Time{true: teetest.Now, false: july2023}[c.Kind == KindSNPCRL || c.Kind == KindVLEK]
		if err := trust.CheckCollateral(c, at); err != nil {
			t.Fatal(err)
		}
		original, _ := parseSigned(c.Body)
		name, content := original.content(c.Kind)
		everyBit(t, c.Body, func(altered []byte, _ int) bool {
			x := c
			x.Body = altered
			if trust.CheckCollateral(x, at) != nil {
				return false
			}
			if c.Kind != KindTCBInfo && c.Kind != KindQEIdentity {
				return true
			}
			s, err := parseSigned(altered)
			n, got := s.content(c.Kind)
			was, _ := hex.DecodeString(original.Signature)
			is, _ := hex.DecodeString(s.Signature)
			return err != nil || n != name || !bytes.Equal(got, content) || !bytes.Equal(was, is)
		})
	}
}
