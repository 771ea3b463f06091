package tee

import (
	"crypto/x509"
	"runtime"
	"testing"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// every product line, as package tee and as AMD's certificates spell it.
var products = map[Product]string{Milan: teetest.Milan, Genoa: teetest.Genoa, Turin: teetest.Turin}

func akKey(t testing.TB) *tpm.Public { return akOfKey(t, "ak") }

// genuine is an ordinary report of the AMD's chip with its VCEK, or its VLEK, changed by edit before it is signed.
func genuine(a *teetest.AMD, version uint32, edits ...func(*teetest.Report)) *Evidence {
	f := a.Fields(version)
	for _, edit := range edits {
		edit(&f)
	}
	e := &Evidence{Type: TypeSEVSNP, Report: a.Report(f)}
	if f.SignerInfo>>2&7 == 1 {
		e.Certificates = [][]byte{a.VLEK("cloud", a.TCB)}
	} else {
		e.Certificates = [][]byte{a.VCEK(a.ChipID, a.TCB)}
	}
	return e
}

func byVLEK(r *teetest.Report) { r.SignerInfo = teetest.SignerVLEK }

// Every version of every product line, signed by either key, is proven and says what it was made of.
func TestEveryReportIsProvenUnderItsRoot(t *testing.T) {
	for product, name := range products {
		amd := teetest.NewAMD(t, name)
		for version := uint32(2); version <= 5; version++ {
			for _, edits := range [][]func(*teetest.Report){nil, {byVLEK}} {
				r := Verify(genuine(amd, version, edits...), &Trust{SNP: amd.Anchors()}, teetest.Now)
				if r.Report == nil {
					t.Fatalf("%s, version %d: %+v", name, version, r.Steps)
				}
				c := r.Report.Claims()
				if c.Product != product || c.ReportVersion != int(version) || c.TCB.Microcode != amd.TCB.Microcode || c.TCB.SNP != amd.TCB.SNP ||
					(c.TCB.FMC != nil) != (product == Turin) || c.SignedBy != map[bool]string{true: "vlek", false: "vcek"}[edits != nil] {
					t.Errorf("%s, version %d: %+v", name, version, c)
				}
			}
		}
	}
}

func TestAzureEvidenceBindsItsKey(t *testing.T) {
	amd := teetest.NewAMD(t, teetest.Genoa)
	e := &Evidence{Type: TypeAzureHCL, HCLReport: amd.HCL(&teetest.RSAKey(t, "ak").PublicKey, nil, teetest.HCL{EK: &teetest.RSAKey(t, "ek").PublicKey}),
		Certificates: [][]byte{amd.VCEK(amd.ChipID, amd.TCB)}}
	r := Verify(e, &Trust{SNP: amd.Anchors()}, teetest.Now)
	if r.Report == nil || r.Binding(akKey(t), nil) != BoundRuntime {
		t.Fatalf("%+v", r.Steps)
	}
	if vm, ok := r.Report.VM(); !ok || !*vm.SecureBoot || vm.VMID != "0f8fad5b-d9cb-469f-a165-70867728950e" {
		t.Errorf("%+v", vm)
	}
}

// collected parses collateral of the kind's own Intel.
func collected(t testing.TB, kind Kind, body, chain []byte) Collateral {
	t.Helper()
	c, err := ParseCollateral(kind, body, chain)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tcbInfo(t testing.TB, i *teetest.Intel, edits ...func(teetest.Object)) Collateral {
	t.Helper()
	info := teetest.TCBInfo()
	for _, edit := range edits {
		edit(info)
	}
	body, chain := i.Signed("tcbInfo", info)
	return collected(t, KindTCBInfo, body, chain)
}

func qeIdentity(t testing.TB, i *teetest.Intel, edits ...func(teetest.Object)) Collateral {
	t.Helper()
	id := teetest.QEIdentity()
	for _, edit := range edits {
		edit(id)
	}
	body, chain := i.Signed("enclaveIdentity", id)
	return collected(t, KindQEIdentity, body, chain)
}

func pckCRL(t testing.TB, i *teetest.Intel, certificates ...*x509.Certificate) Collateral {
	t.Helper()
	return collected(t, KindPCKCRL, i.CRL(i.PCKCA, teetest.CollateralFrom, teetest.CRLUntil, certificates...), teetest.PEM(i.PCKCA, i.Root))
}

func rootCRL(t testing.TB, i *teetest.Intel, certificates ...*x509.Certificate) Collateral {
	t.Helper()
	return collected(t, KindRootCRL, i.CRL(i.Root, teetest.CollateralFrom, teetest.CRLUntil, certificates...), nil)
}

// allOf is all the collateral that a quote of Intel's can use.
func allOf(t testing.TB, i *teetest.Intel) []Collateral {
	t.Helper()
	return []Collateral{tcbInfo(t, i), qeIdentity(t, i), pckCRL(t, i), rootCRL(t, i)}
}

func quote(i *teetest.Intel, edits ...func(*teetest.Quote)) *Evidence {
	q := i.Fields()
	for _, edit := range edits {
		edit(&q)
	}
	return &Evidence{Type: TypeTDX, Quote: i.Quote(q)}
}

func TestAQuoteIsProvenAndUpToDateWithAllCollateral(t *testing.T) {
	intel := teetest.NewIntel(t)
	r := Verify(quote(intel), &Trust{TDX: intel.Anchors(), Collateral: allOf(t, intel), RequireCRL: true}, teetest.Now)
	if r.Report == nil {
		t.Fatalf("%+v", r.Steps)
	}
	if s := r.Report.TCBStatus(); s == nil || s.Platform != "UpToDate" || s.QE != "UpToDate" || len(s.Advisories) != 0 || s.Date != "2026-01-01T00:00:00Z" {
		t.Errorf("%+v", s)
	}
	if unknown := r.Report.Claims().Unknown; len(unknown) != 0 {
		t.Errorf("all is known, and yet: %v", unknown)
	}
	if len(r.Wants) != 0 || len(r.Used) != 0 || !r.ValidUntil.Equal(teetest.TCBInfoUntil) || r.Root != intel.Root {
		t.Errorf("wants %v, used %v, until %v", r.Wants, r.Used, r.ValidUntil)
	}
}

func TestAnAzureTDXMachineBindsItsKey(t *testing.T) {
	intel := teetest.NewIntel(t)
	e := &Evidence{Type: TypeAzureHCL}
	e.HCLReport, e.Quote = intel.HCL(&teetest.RSAKey(t, "ak").PublicKey, nil, teetest.HCL{})
	r := Verify(e, &Trust{TDX: intel.Anchors()}, teetest.Now)
	if r.Report == nil || r.Binding(akKey(t), nil) != BoundRuntime {
		t.Fatalf("%+v", r.Steps)
	}
}

func akOfKey(t testing.TB, name string) *tpm.Public {
	t.Helper()
	ak, err := tpm.PublicFromCrypto(&teetest.RSAKey(t, name).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return ak
}

// allocated is how many bytes f allocates in all, garbage included.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
