package tee

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
	"github.com/assay-verifier/assay/verifier/tpm"
)

var update = flag.Bool("update", false, "write the golden claims again")

// The claims of each specimen that proves something are what its golden file says.
func TestClaimsOfEverySpecimen(t *testing.T) {
	spr := func(collateral ...Collateral) (*Evidence, *Trust) {
		trust := vendors(t)
		trust.Collateral = collateral
		return &Evidence{Type: TypeTDX, Quote: read(t, "tdx/tdx_prod_quote_SPR_E4.dat")}, trust
	}
	withAll, trustAll := spr(collateral2023(t)[1:]...) // without the TCB info: see TestRealCollateralOf2023
	without, trust := spr()
	for _, c := range []struct {
		name     string
		evidence *Evidence
		trust    *Trust
		at       time.Time
	}{
		{"snp-go-sev-guest", snpEvidence(t, "snp/attestation.bin", "snp/vcek.testcer"), trust, today},
		{"snp-trustee", snpEvidence(t, "snp/test-report.bin", "snp/test-vcek.der"), trust, today},
		{"snp-trustee-vlek", snpEvidence(t, "snp/test-vlek-report.bin", "snp/test-vlek.der"), trust, mid2025},
		{"azure-snp-v0", azureEvidence(t, "trustee-snp-v0"), trust, today},
		{"azure-snp-v2", azureEvidence(t, "trustee-snp-v2"), trust, today},
		{"azure-tdx-v0", azureEvidence(t, "trustee-tdx-v0"), trust, today},
		{"tdx-cos-113", &Evidence{Type: TypeTDX, Quote: read(t, "tdx/cos-113-tdx-quote.dat")}, trust, today},
		{"tdx-spr", without, trust, july2023},
		{"tdx-spr-with-collateral", withAll, trustAll, july2023},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := passes(t, Verify(c.evidence, c.trust, c.at))
			got, err := json.MarshalIndent(r.Claims(), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", "claims", c.name+".json")
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := read(t, "claims/"+c.name+".json"); !bytes.Equal(append(got, '\n'), want) {
				t.Errorf("%s", got)
			}
		})
	}
}

// The Sapphire Rapids of the specimen has an older TCB (SGX components 3 3 2 2 2 1 0 2) than the lowest level of its
// TCB info (5 5 2 2 3 1 0 3), which Intel's own library calls not supported. The rest of the collateral holds.
func TestRealCollateralOf2023(t *testing.T) {
	trust := vendors(t)
	trust.RequireCRL = true
	all := collateral2023(t)
	e := &Evidence{Type: TypeTDX, Quote: read(t, "tdx/tdx_prod_quote_SPR_E4.dat"), Collateral: all}
	said(t, Verify(e, trust, july2023), StepReport, "its TCB is below every level that Intel lists")
	for _, c := range all {
		if err := trust.CheckCollateral(c, july2023); err != nil {
			t.Error(err)
		}
	}
	e.Collateral = all[1:]
	r := Verify(e, trust, july2023)
	if s := passes(t, r).TCBStatus(); s.Platform != "" || s.QE != "UpToDate" || len(r.Wants) != 1 || r.Wants[0] != (Want{KindTCBInfo, "50806f000000"}) || len(r.Used) != 3 {
		t.Errorf("%+v, wants %v, used %d", s, r.Wants, len(r.Used))
	}
	for _, c := range e.Collateral {
		if r.ValidUntil.After(c.NotAfter) {
			t.Errorf("rests on %s beyond %s", c.Kind, c.NotAfter)
		}
	}
	// Three years later all of it is history, and the policy wants CRLs.
	e.Collateral = all
	said(t, Verify(e, trust, today), StepReport, "no valid CRL of Intel SGX PCK Platform CA is held")
	trust.RequireCRL = false
	if r := Verify(e, trust, today); passes(t, r).TCBStatus() != nil || len(r.Wants) != 4 || len(r.Used) != 0 {
		t.Errorf("wants %v", r.Wants)
	}
}

// Claims tell every field of a report in its own place.
func TestClaimsOfAChosenReport(t *testing.T) {
	amd := teetest.NewAMD(t, teetest.Turin)
	r := snpOf(t, teetest.Turin, func(f *teetest.Report) {
		f.VMPL, f.PlatformInfo, f.Policy = 2, 0, f.Policy|teetest.PolicyDebug
		f.Current.SNP, f.Committed.SNP, f.Launch.SNP = 30, 20, 10
	})
	c := r.Claims()
	if c.TEEType != "sev_snp" || c.Product != Turin || *c.VMPL != 2 || *c.GuestSVN != 3 || *c.SMT || !c.Debug || c.Migratable || c.TCB.SNP != 24 || c.CurrentTCB.SNP != 30 ||
		c.CommittedTCB.SNP != 20 || r.snp.launch.SNP != 10 || c.IDKeyDigest[:2] != "1d" || c.AuthorKeyDigest[:2] != "a0" || c.HostData[:2] != "05" || c.LaunchMeasurement[:2] != "3e" ||
		len(c.ChipID) != 128 || c.Root != "ARK-Turin" || c.RootSHA256 != fingerprint(amd.ARK) || !c.CollateralUntil.Equal(teetest.LeafUntil) || c.VM != nil || c.CSP != "" {
		t.Errorf("%+v", c)
	}
	if c = snpOf(t, teetest.Milan, byVLEK, func(f *teetest.Report) {
		f.Policy |= teetest.PolicyMigrateMA
		f.IDKeyDigest, f.AuthorKeyDigest, f.HostData = nil, nil, nil
	}).Claims(); c.CSP != "cloud" || c.SignedBy != "vlek" || !c.Migratable || !*c.SMT || c.IDKeyDigest != "" || c.AuthorKeyDigest != "" || c.HostData != "" {
		t.Errorf("%+v", c)
	}
	c = tdxOf(t, func(q *teetest.Quote) {
		q.MRConfigID, q.MROwner, q.MROwnerConfig, q.MRSignerSeam = []byte{1}, []byte{2}, []byte{3}, []byte{4}
	}).Claims()
	if c.TEEType != "tdx" || c.SignedBy != "pck" || c.FMSPC != "50806f000000" || c.TEETCBSVN != "0501"+"0303030303030303030303030303" || c.MRConfigID[:2] != "01" || c.MROwner[:2] != "02" ||
		c.MROwnerConfig[:2] != "03" || c.MRSignerSeam[:2] != "04" || c.MRSeam[:2] != "5e" || len(c.RTMRs) != 4 || c.RTMRs[3][:2] != "43" || c.Debug || c.Migratable || c.VMPL != nil {
		t.Errorf("%+v", c)
	}
}

// boundTo is evidence whose report_data is chosen.
func boundTo(t *testing.T, data []byte) *Result {
	t.Helper()
	amd := teetest.NewAMD(t, teetest.Milan)
	return Verify(genuine(amd, 3, func(f *teetest.Report) { f.ReportData = data }), &Trust{SNP: amd.Anchors()}, teetest.Now)
}

// tpmtPublic is the AK as a TPM tells it: TPMT_PUBLIC of a restricted RSASSA key.
func tpmtPublic(t *testing.T) []byte {
	n := teetest.RSAKey(t, "ak").N.Bytes()
	b := []byte{0, 1, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x14, 0, 0x0b, 8, 0, 0, 0, 0, 0}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(n))), n...)
}

func TestBindingOfEveryKind(t *testing.T) {
	ak, other := akKey(t), akOfKey(t, "another ak")
	named, err := tpm.ParsePublic(tpmtPublic(t))
	if err != nil {
		t.Fatal(err)
	}
	nonce, otherNonce := bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{8}, 32)
	key := KeyBinding(nonce, named.Name())
	long := bytes.Repeat([]byte{9}, 64)
	longKey, tooLong := KeyBinding(long, named.Name()), KeyBinding(append(bytes.Clone(long), 9), named.Name())
	for name, c := range map[string]struct {
		data  []byte
		ak    *tpm.Public
		nonce []byte
		want  Binding
	}{
		"key and nonce":                {key[:], named, nonce, BoundKey},
		"another nonce":                {key[:], named, otherNonce, Unbound},
		"another key":                  {key[:], ak, nonce, Unbound},
		"no key":                       {key[:], nil, nonce, Unbound},
		"the nonce alone":              {nonce, named, nonce, BoundNonce},
		"the nonce, no key":            {nonce, nil, nonce, BoundNonce},
		"a nonce of 64 bytes":          {long, nil, long, BoundNonce},
		"a nonce of 65 bytes":          {long, nil, append(bytes.Clone(long), 9), Unbound},
		"key, a nonce of 64 bytes":     {longKey[:], named, long, BoundKey},
		"key, a nonce of 65 bytes":     {tooLong[:], named, append(bytes.Clone(long), 9), Unbound},
		"no nonce":                     {make([]byte, 64), nil, nil, Unbound},
		"no nonce, a key":              {func() []byte { b := KeyBinding(nil, named.Name()); return b[:] }(), named, nil, Unbound},
		"a byte behind the nonce":      {append(bytes.Clone(nonce), 1), nil, nonce, Unbound},
		"the last byte":                {append(bytes.Clone(nonce), append(make([]byte, 31), 1)...), nil, nonce, Unbound},
		"a nonce that goes on":         {nonce[:31], nil, nonce, Unbound},
		"a key without a name":         {func() []byte { b := KeyBinding(nonce, nil); return b[:] }(), ak, nonce, Unbound},
		"the nonce of another, longer": {nonce, nil, long, Unbound},
	} {
		if got := boundTo(t, c.data).Binding(c.ak, c.nonce); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	amd := teetest.NewAMD(t, teetest.Milan)
	azure := Verify(azureOf(t, amd, nil, teetest.HCL{}), &Trust{SNP: amd.Anchors()}, teetest.Now)
	for name, c := range map[string]struct {
		ak   *tpm.Public
		want Binding
	}{"its key": {ak, BoundRuntime}, "another": {other, Unbound}, "none": {nil, Unbound}} {
		if got := azure.Binding(c.ak, azure.claimed.reportData); got != c.want {
			t.Errorf("azure, %s: %d", name, got)
		}
	}
	if (&Result{}).Binding(ak, nonce) != Unbound {
		t.Error("nothing is bound to nothing")
	}
	// What is not proven names its key too: whoever asks has to ask for the proof as well.
	unproven := Verify(azureOf(t, amd, nil, teetest.HCL{}), nil, teetest.Now)
	if unproven.Report != nil || unproven.Binding(ak, nil) != BoundRuntime || !unproven.AK().SameKey(ak) {
		t.Error("unproven evidence")
	}
	if want := sha512.Sum512(append(append([]byte("assay-platform-binding-v1\x00"), nonce...), named.Name()...)); key != want {
		t.Error("agents in the field compute it like this")
	}
}

func TestNonceOfAGuestWithoutATPM(t *testing.T) {
	short, long := bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{9}, 64)
	for _, c := range [][2][]byte{{short, short}, {long, long}, {short[:5], append(bytes.Clone(short[:5]), make([]byte, 27)...)},
		{append(bytes.Clone(short), 1), append(append(bytes.Clone(short), 1), make([]byte, 31)...)}} {
		if got := boundTo(t, c[0]).Nonce(); !bytes.Equal(got, c[1]) {
			t.Errorf("%x: %x", c[0], got)
		}
	}
	if (*Result)(nil).Nonce() != nil || (&Result{}).Nonce() != nil || (*Result)(nil).AK() != nil || (&Result{}).AK() != nil || boundTo(t, short).AK() != nil {
		t.Error("nothing says nothing")
	}
}

func TestDigestNamesWhatTheMachineSent(t *testing.T) {
	base := Evidence{Type: TypeTDX, HCLReport: []byte{1}, Report: []byte{2}, Quote: []byte{3}, EventLog: []byte{4}, Certificates: [][]byte{{5}, {6}}}
	seen := map[[32]byte]string{base.Digest(): "base"}
	for name, edit := range map[string]func(*Evidence){
		"type":            func(e *Evidence) { e.Type = TypeSEVSNP },
		"HCL report":      func(e *Evidence) { e.HCLReport = []byte{9} },
		"report":          func(e *Evidence) { e.Report = []byte{9} },
		"quote":           func(e *Evidence) { e.Quote = []byte{9} },
		"event log":       func(e *Evidence) { e.EventLog = []byte{9} },
		"certificate":     func(e *Evidence) { e.Certificates = [][]byte{{5}, {9}} },
		"order":           func(e *Evidence) { e.Certificates = [][]byte{{6}, {5}} },
		"one certificate": func(e *Evidence) { e.Certificates = [][]byte{{5}} },
		"joined":          func(e *Evidence) { e.Certificates = [][]byte{{5, 6}} },
		"a part moves":    func(e *Evidence) { e.HCLReport, e.Report = []byte{1, 2}, nil },
		"a byte moves":    func(e *Evidence) { e.HCLReport, e.Report = nil, []byte{1, 2} },
		"a part more":     func(e *Evidence) { e.Certificates = append(e.Certificates[:2:2], nil) },
	} {
		e := base
		edit(&e)
		if other, ok := seen[e.Digest()]; ok {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[e.Digest()] = name
	}
	e := base
	e.Collateral = []Collateral{{Kind: KindVCEK}}
	if e.Digest() != base.Digest() {
		t.Error("collateral is not the machine's")
	}
	if got := base.Digest(); hex.EncodeToString(got[:]) != "c76ed25ee2ec44f40c94c616d80664ef21c7cdfd23809b2a3824327358d0d1b5" {
		t.Errorf("stored digests would no longer be found: %x", got)
	}
}

func TestUnknownTypesAreRefused(t *testing.T) {
	r := Verify(&Evidence{Type: "sgx", Quote: []byte{1}}, vendors(t), today)
	said(t, r, StepReport, `"sgx" is no type of hardware evidence`)
	if len(r.Steps) != 1 || r.Root != nil || r.Unsupported {
		t.Errorf("%+v", r)
	}
}
