package verifier_test

import (
	"bytes"
	"crypto/rsa"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tee/teetest"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// guest is a recorded boot, made a confidential VM by hardware reports that name its attestation key or its nonce.
type guest struct {
	capture
	amd   *teetest.AMD
	intel *teetest.Intel
}

func newGuest(t testing.TB) guest {
	t.Helper()
	return guest{loadCapture(t, "sb-on-1", "rsassa", "sha256"), teetest.NewAMD(t, teetest.Milan), teetest.NewIntel(t)}
}

func (g guest) trust() *tee.Trust {
	return &tee.Trust{SNP: g.amd.Anchors(), TDX: g.intel.Anchors()}
}

// paravisor is the HCL report of a VM whose vTPM has the boot's key.
func (g guest) paravisor(vm map[string]any, edits ...func(*teetest.Report)) *tee.Evidence {
	return &tee.Evidence{Type: tee.TypeAzureHCL, Certificates: [][]byte{g.amd.VCEK(g.amd.ChipID, g.amd.TCB)},
		HCLReport: g.amd.HCL(g.ak.Key().(*rsa.PublicKey), vm, teetest.HCL{Fields: func(f *teetest.Report) {
			for _, edit := range edits {
				edit(f)
			}
		}})}
}

// own is a report that software in the guest asked for, with its report_data.
func (g guest) own(data []byte) *tee.Evidence {
	f := g.amd.Fields(3)
	f.ReportData = data
	return &tee.Evidence{Type: tee.TypeSEVSNP, Report: g.amd.Report(f), Certificates: [][]byte{g.amd.VCEK(g.amd.ChipID, g.amd.TCB)}}
}

// named is report_data that names the boot's key, for its challenge.
func (g guest) named() []byte {
	data := tee.KeyBinding(g.nonce, g.ak.Name())
	return data[:]
}

// judge appraises the boot with hardware evidence beside it.
func (g guest) judge(t testing.TB, platform *tee.Evidence, change func(*verifier.Evidence, *verifier.Inputs)) *verifier.Appraisal {
	t.Helper()
	ev := *g.ev
	ev.Platform = platform
	in := g.inputs(t)
	if platform != nil {
		in.Platform = tee.Verify(platform, g.trust(), teetest.Now)
	}
	if change != nil {
		change(&ev, &in)
	}
	return verifier.Appraise(&ev, in)
}

// alone appraises a machine that has no TPM: its report stands in place of a quote.
func (g guest) alone(platform *tee.Evidence, change func(*verifier.Inputs)) *verifier.Appraisal {
	in := verifier.Inputs{Now: judgedAt, Policy: verifier.DefaultPolicy(), Platform: tee.Verify(platform, g.trust(), teetest.Now),
		AK: verifier.AttestationKey{Assurance: verifier.TEEBound, NoTPM: true}, Freshness: tpm.Freshness{Nonce: g.nonce}}
	in.Policy.RequireSecureBoot = false
	if change != nil {
		change(&in)
	}
	return verifier.Appraise(&verifier.Evidence{NoTPM: true, Platform: platform}, in)
}

// told fails the test unless a check has that status, and words.
func told(t testing.TB, name string, a *verifier.Appraisal, code verifier.CheckCode, status verifier.CheckStatus, detail string) {
	t.Helper()
	if c := checkOf(a, code); c.Status != status || !strings.Contains(c.Detail, detail) {
		t.Errorf("%s: want %s %q, have %+v", name, status, detail, c)
	}
}

// What each kind of report binds, what it has to bind, and what it raises: a report that names the key only where
// every hop to the quote holds, and one that names no key nothing.
func TestWhatAReportBindsAndRaises(t *testing.T) {
	g := newGuest(t)
	otherKey := func(ev *verifier.Evidence, _ *verifier.Inputs) {
		ev.Quotes = []tpm.Quote{{Message: g.ev.Quotes[0].Message, Signature: bytes.Clone(g.ev.Quotes[0].Signature)}}
		ev.Quotes[0].Signature[40] ^= 1
	}
	otherValue := func(ev *verifier.Evidence, _ *verifier.Inputs) {
		ev.PCRs = append(tpm.PCRs{}, g.ev.PCRs...)
		ev.PCRs[0].Values[0] = make([]byte, 32)
	}
	assured := func(by verifier.Assurance) func(*verifier.Evidence, *verifier.Inputs) {
		return func(_ *verifier.Evidence, in *verifier.Inputs) { in.AK.Assurance = by }
	}
	required := func(_ *verifier.Evidence, in *verifier.Inputs) { in.Policy.PlatformEvidence.Require = true }
	unproven := func(_ *verifier.Evidence, in *verifier.Inputs) {
		in.Platform = tee.Verify(g.own(g.named()), &tee.Trust{}, teetest.Now)
	}
	pinned := func(_ *verifier.Evidence, in *verifier.Inputs) {
		in.Policy.PlatformEvidence.LaunchMeasurements = []string{strings.Repeat("3e", 48)}
	}
	paravisor, named, fresh := g.paravisor(nil), g.own(g.named()), g.own(g.nonce)
	for name, c := range map[string]struct {
		platform  *tee.Evidence
		change    []func(*verifier.Evidence, *verifier.Inputs)
		status    verifier.CheckStatus
		detail    string
		assurance verifier.Assurance
		claims    bool
	}{
		"a paravisor's":                          {paravisor, nil, verifier.Pass, "since the policy names no launch measurement and no signer", verifier.TEEBound, true},
		"a paravisor's, again":                   {paravisor, many(assured(verifier.TEEBound), required), verifier.Pass, "names the key that signed", verifier.TEEBound, true},
		"a paravisor's, with a false value":      {paravisor, many(otherValue), verifier.Pass, "names the key that signed", verifier.FirstUse, true},
		"a paravisor's, with a false signature":  {paravisor, many(otherKey), verifier.Fail, "not signed by the key that the report names", verifier.FirstUse, false},
		"a paravisor's, debugged":                {g.paravisor(nil, func(f *teetest.Report) { f.Policy |= teetest.PolicyDebug }), nil, verifier.Pass, "", verifier.FirstUse, true},
		"a paravisor's, of a machine with no AK": {paravisor, many(func(_ *verifier.Evidence, in *verifier.Inputs) { in.AK.Public = nil }), verifier.Fail, "none is known of the machine", verifier.FirstUse, false},
		"of another key": {&tee.Evidence{Type: tee.TypeAzureHCL, HCLReport: g.amd.HCL(&teetest.RSAKey(t, "other").PublicKey, nil, teetest.HCL{}), Certificates: paravisor.Certificates},
			nil, verifier.Fail, "names another attestation key", verifier.FirstUse, false},
		"an HCL report that cannot be read": {&tee.Evidence{Type: tee.TypeAzureHCL, HCLReport: []byte("HCLA")}, nil, verifier.Fail, "names no key that could be compared", verifier.FirstUse, false},
		"of nothing":                        {g.own(nil), nil, verifier.Fail, "neither the key that signed the quote nor this challenge", verifier.FirstUse, false},

		"names a key of which nothing is known":  {named, nil, verifier.Pass, "made for this challenge and names the key", verifier.FirstUse, true},
		"names an activated key":                 {named, many(assured(verifier.EKActivated)), verifier.Pass, "names the key", verifier.TEEBound, true},
		"names an activated key, as required":    {named, many(assured(verifier.EKActivated), required), verifier.Pass, "names the key", verifier.TEEBound, true},
		"names a certified key":                  {named, many(assured(verifier.AKCertified)), verifier.Pass, "names the key", verifier.TEEBound, true},
		"names the key, with a false value":      {named, many(assured(verifier.EKActivated), otherValue), verifier.Pass, "names the key", verifier.EKActivated, true},
		"names the key, no nonce is known":       {named, many(assured(verifier.EKActivated), unchecked), verifier.Pass, "names the key", verifier.TEEBound, true},
		"names the key, where a paravisor did":   {named, many(assured(verifier.TEEBound)), verifier.Fail, "this report is not one that names the key", verifier.FirstUse, false},
		"names the key, and is not proven":       {named, many(assured(verifier.EKActivated), unproven), verifier.Skipped, "but is not proven itself", verifier.EKActivated, false},
		"names the key, not proven, required":    {named, many(unproven, required), verifier.Fail, "nothing shows that this one is: the report names the key, but is not proven", verifier.FirstUse, false},
		"names no key":                           {fresh, many(assured(verifier.EKActivated)), verifier.Skipped, "it raises nothing", verifier.EKActivated, false},
		"names no key, as a report is required":  {fresh, many(assured(verifier.EKActivated), required), verifier.Fail, "the policy requires the hardware report of this machine", verifier.EKActivated, false},
		"names no key, where a paravisor did":    {fresh, many(assured(verifier.TEEBound)), verifier.Fail, "could be of any confidential VM", verifier.FirstUse, false},
		"no quote, and no nonce is known":        {fresh, many(otherKey, unchecked), verifier.Fail, "neither the key", verifier.FirstUse, false},
		"no quote, and the nonce was used":       {fresh, many(otherKey, used), verifier.Fail, "neither the key", verifier.FirstUse, false},
		"a paravisor's, where the launch is set": {paravisor, many(pinned), verifier.Pass, "", verifier.TEEBound, true},
	} {
		a := g.judge(t, c.platform, func(ev *verifier.Evidence, in *verifier.Inputs) {
			for _, change := range c.change {
				change(ev, in)
			}
		})
		told(t, name, a, verifier.CheckPlatformBinding, c.status, c.detail)
		if a.Assurance != c.assurance || (a.Claims.Platform != nil) != c.claims || (a.Platform != nil) != c.claims {
			t.Errorf("%s: %s, claims %v", name, a.Assurance, a.Claims.Platform)
		}
		if open := strings.Contains(checkOf(a, verifier.CheckPlatformBinding).Detail, "only a baseline tells"); open && name == "a paravisor's, where the launch is set" {
			t.Errorf("%s: a baseline is asked for", name)
		}
	}
}

func many[T any](v ...T) []T { return v }

func unchecked(_ *verifier.Evidence, in *verifier.Inputs) {
	in.Freshness = tpm.Freshness{Unchecked: true}
}

func used(_ *verifier.Evidence, in *verifier.Inputs) { in.Freshness = tpm.Freshness{Fault: "used"} }

// A machine without a TPM answers the challenge by its report alone.
func TestReportInPlaceOfAQuote(t *testing.T) {
	g := newGuest(t)
	fresh := g.own(g.nonce)
	other := bytes.Repeat([]byte{1}, len(g.nonce))
	for name, c := range map[string]struct {
		change    func(*verifier.Inputs)
		binding   verifier.CheckStatus
		nonce     verifier.CheckStatus
		detail    string
		assurance verifier.Assurance
	}{
		"fresh":                       {nil, verifier.Pass, verifier.Pass, "made for the nonce of this challenge", verifier.TEEBound},
		"of another challenge":        {func(in *verifier.Inputs) { in.Freshness.Nonce = other }, verifier.Fail, verifier.Fail, "made for another nonce", verifier.FirstUse},
		"offline, of another":         {func(in *verifier.Inputs) { in.Freshness = tpm.Freshness{Nonce: other, Unchecked: true} }, verifier.Fail, verifier.Fail, "made for another nonce", verifier.FirstUse},
		"offline, of this one":        {func(in *verifier.Inputs) { in.Freshness.Unchecked = true }, verifier.Pass, verifier.Pass, "made for the nonce", verifier.TEEBound},
		"offline, without a nonce":    {func(in *verifier.Inputs) { in.Freshness = tpm.Freshness{Unchecked: true} }, verifier.Pass, verifier.Skipped, "judged without a nonce", verifier.TEEBound},
		"no nonce is expected":        {func(in *verifier.Inputs) { in.Freshness = tpm.Freshness{} }, verifier.Fail, verifier.Fail, "no nonce is expected", verifier.FirstUse},
		"used":                        {func(in *verifier.Inputs) { in.Freshness.Fault = "used before" }, verifier.Pass, verifier.Fail, "used before", verifier.FirstUse},
		"used, and the nonce is gone": {func(in *verifier.Inputs) { in.Freshness = tpm.Freshness{Fault: "used before"} }, verifier.Pass, verifier.Fail, "used before", verifier.FirstUse},
		"not proven": {func(in *verifier.Inputs) { in.Platform = tee.Verify(fresh, &tee.Trust{}, teetest.Now) }, verifier.Skipped, verifier.Skipped,
			"the hardware report is not proven", verifier.FirstUse},
		"not verified": {func(in *verifier.Inputs) { in.Platform = nil }, verifier.Fail, verifier.Fail, "made for another nonce", verifier.FirstUse},
	} {
		a := g.alone(fresh, c.change)
		told(t, name, a, verifier.CheckPlatformBinding, c.binding, "")
		told(t, name, a, verifier.CheckQuoteNonce, c.nonce, c.detail)
		if a.Assurance != c.assurance {
			t.Errorf("%s: %s", name, a.Assurance)
		}
		for _, code := range []verifier.CheckCode{verifier.CheckQuoteSignature, verifier.CheckQuoteType, verifier.CheckQuoteSelection, verifier.CheckQuoteDigest, verifier.CheckQuoteClock} {
			told(t, name, a, code, verifier.Skipped, "stands in place of a quote")
		}
	}
	told(t, "of another challenge", g.alone(g.own(other), nil), verifier.CheckPlatformBinding, verifier.Fail, "was not made for this challenge")
	told(t, "no registers", g.alone(fresh, nil), verifier.CheckEventLogReplay, verifier.Skipped, "has no registers that a boot log could be compared with")
}

// What the paravisor says of the VM, held against what the VM shows; it is told before the binding, and of paravisors
// alone.
func TestParavisorsConfiguration(t *testing.T) {
	g := newGuest(t)
	vm := func(edit func(map[string]any)) *tee.Evidence {
		m := teetest.VM()
		edit(m)
		return g.paravisor(m)
	}
	noLog := func(_ *verifier.Evidence, in *verifier.Inputs) { in.Log = nil }
	noTPM := vm(func(m map[string]any) { m["tpm-enabled"] = false })
	off := vm(func(m map[string]any) { m["secure-boot"] = false })
	silent := vm(func(m map[string]any) { delete(m, "secure-boot"); delete(m, "tpm-enabled") })
	for name, c := range map[string]struct {
		platform *tee.Evidence
		change   func(*verifier.Evidence, *verifier.Inputs)
		status   verifier.CheckStatus
		detail   string
	}{
		"agrees":                         {g.paravisor(nil), nil, verifier.Pass, "agrees with what the VM shows"},
		"says little":                    {silent, nil, verifier.Pass, "agrees"},
		"no TPM, and a quote":            {noTPM, nil, verifier.Warn, "says that the VM has no TPM"},
		"no TPM, and no quote":           {noTPM, unexpected, verifier.Skipped, "no boot log"},
		"another word on Secure Boot":    {off, nil, verifier.Warn, "says that Secure Boot is off, the boot log that it is on"},
		"another word, and nothing else": {off, noLog, verifier.Skipped, "no boot log"},
	} {
		a := g.judge(t, c.platform, c.change)
		told(t, name, a, verifier.CheckPlatformConfig, c.status, c.detail)
		for i := range a.Checks {
			if a.Checks[i].Code == verifier.CheckPlatformConfig && a.Checks[i+1].Code != verifier.CheckPlatformBinding {
				t.Errorf("%s: before %s", name, a.Checks[i+1].Code)
			}
		}
	}
	told(t, "no paravisor", g.judge(t, g.own(g.named()), nil), verifier.CheckPlatformConfig, "absent", "")
	told(t, "not proven", g.judge(t, g.paravisor(nil), func(_ *verifier.Evidence, in *verifier.Inputs) {
		in.Platform = tee.Verify(g.paravisor(nil), &tee.Trust{}, teetest.Now)
	}), verifier.CheckPlatformConfig, "absent", "")
}

// unexpected has the quote answer another challenge.
func unexpected(_ *verifier.Evidence, in *verifier.Inputs) { in.Freshness.Nonce = []byte("another") }

// The text that demands a step is that of the hardware that made the report.
func TestEachStepCitesItsHardware(t *testing.T) {
	g := newGuest(t)
	td := &tee.Evidence{Type: tee.TypeAzureHCL}
	td.HCLReport, td.Quote = g.intel.HCL(g.ak.Key().(*rsa.PublicKey), nil, teetest.HCL{})
	for name, c := range map[string]struct {
		platform *tee.Evidence
		who      string
	}{
		"snp": {g.own(g.named()), "AMD "}, "tdx": {&tee.Evidence{Type: tee.TypeTDX, Quote: g.intel.Quote(g.intel.Fields())}, "Intel "},
		"azure, snp": {g.paravisor(nil), "AMD "}, "azure, tdx": {td, "Intel "},
		"snp, with a quote that is no part of it": {&tee.Evidence{Type: tee.TypeSEVSNP, Quote: td.Quote}, "AMD "},
	} {
		for _, check := range g.judge(t, c.platform, nil).Checks {
			if strings.HasPrefix(string(check.Code), "platform.") && check.Code != verifier.CheckPlatformConfig && !strings.HasPrefix(check.Citation, c.who) {
				t.Errorf("%s: %+v", name, check)
			}
		}
	}
}
