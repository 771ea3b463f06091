package verifier

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tee/teetest"
	"github.com/assay-verifier/assay/verifier/tpm"
)

func to[T any](v T) *T { return &v }

// A step that both the proof and the policy speak of has the worse outcome, and where both are content both texts.
func TestMergeSteps(t *testing.T) {
	step := func(s tee.Step, o tee.Outcome, detail string) tee.StepResult {
		return tee.StepResult{Step: s, Outcome: o, Detail: detail}
	}
	proof := []tee.StepResult{step(tee.StepReport, tee.Pass, "genuine"), step(tee.StepTCB, tee.Pass, "the certificate's")}
	failed := []tee.StepResult{step(tee.StepTCB, tee.Fail, "another")}
	for name, c := range map[string]struct{ proof, judged, want []tee.StepResult }{
		"one speaks":         {proof, []tee.StepResult{step(tee.StepDebug, tee.Pass, "no")}, append(slices.Clone(proof), step(tee.StepDebug, tee.Pass, "no"))},
		"both are content":   {proof, []tee.StepResult{step(tee.StepTCB, tee.Pass, "new")}, []tee.StepResult{proof[0], step(tee.StepTCB, tee.Pass, "the certificate's; new")}},
		"the policy is not":  {proof, []tee.StepResult{step(tee.StepTCB, tee.Fail, "old")}, []tee.StepResult{proof[0], step(tee.StepTCB, tee.Fail, "old")}},
		"the proof is not":   {failed, []tee.StepResult{step(tee.StepTCB, tee.Pass, "new")}, failed},
		"neither is content": {failed, []tee.StepResult{step(tee.StepTCB, tee.Fail, "old")}, failed},
	} {
		before := slices.Clone(c.proof)
		if got := mergeSteps(c.proof, c.judged); !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v", name, got)
		}
		if !slices.Equal(before, c.proof) {
			t.Errorf("%s: the result of a verification, which is kept, was changed", name)
		}
	}
}

func TestPlatformFailed(t *testing.T) {
	for code, want := range map[CheckCode]bool{"platform.report": true, "platform.x": true, "platform.": false, "platform": false, "x": false,
		"platforms.report": false, CheckAKTrusted: false, CheckBaselineMatch: false} {
		for _, status := range []CheckStatus{Fail, Warn, Pass, Skipped} {
			a := &appraiser{out: &Appraisal{Checks: []Check{{Code: CheckQuoteNonce, Status: Fail}, {Code: code, Status: status}}}}
			if got := a.platformFailed(); got != (want && status == Fail) {
				t.Errorf("%s %s: %v", code, status, got)
			}
		}
	}
}

// Without a TPM, Secure Boot is on where the log says so, nothing says that shim does not validate, and a baseline knows
// both registers that hold it.
func TestSecureBootByRTMRs(t *testing.T) {
	report := cosReport(t)
	value := func(i int) string {
		v, _ := report.RTMR(i)
		return hex.EncodeToString(v)
	}
	candidate := func(zero, one string) Candidate {
		return Candidate{Reference: compiled(t, ReferenceValues{PCRs: map[string]map[string][]string{"rtmr": {"0": {zero}, "1": {one}}}})}
	}
	other := strings.Repeat("ab", 48)
	good := []Candidate{candidate(value(0), value(1))}
	on := eventlog.Claims{SecureBoot: to(true)}
	for name, c := range map[string]struct {
		noTPM      bool
		report     *tee.Report
		claims     eventlog.Claims
		candidates []Candidate
		want       bool
	}{
		"on":                               {true, report, on, good, true},
		"on, and shim validates":           {true, report, eventlog.Claims{SecureBoot: to(true), ShimValidationDisabled: to(false)}, good, true},
		"on, by the second baseline":       {true, report, on, append([]Candidate{candidate(other, other)}, good...), true},
		"with a TPM":                       {false, report, on, good, false},
		"no registers":                     {true, nil, on, good, false},
		"unknown":                          {true, report, eventlog.Claims{}, good, false},
		"off":                              {true, report, eventlog.Claims{SecureBoot: to(false)}, good, false},
		"on, and shim does not validate":   {true, report, eventlog.Claims{SecureBoot: to(true), ShimValidationDisabled: to(true)}, good, false},
		"no baseline":                      {true, report, on, nil, false},
		"another RTMR 0":                   {true, report, on, []Candidate{candidate(other, value(1))}, false},
		"another RTMR 1":                   {true, report, on, []Candidate{candidate(value(0), other)}, false},
		"each from a baseline of its own":  {true, report, on, []Candidate{candidate(other, value(1)), candidate(value(0), other)}, false},
		"a baseline that names no RTMR":    {true, report, on, []Candidate{{Reference: compiled(t, ReferenceValues{LaunchMeasurements: []string{other}})}}, false},
		"a baseline, and nothing measured": {true, &tee.Report{}, on, good, false},
	} {
		a := &appraiser{ev: &Evidence{NoTPM: c.noTPM}, in: Inputs{Candidates: c.candidates}, out: &Appraisal{RTMRs: c.report, Claims: Claims{Claims: &c.claims}}}
		if got := a.secureBootByRTMRs(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What relying parties are told of Secure Boot, debugging and test signing is the worst that is known, and a VM is
// compliant only where every part of it holds.
func TestRelyingClaims(t *testing.T) {
	type parts struct {
		out      Appraisal
		log      eventlog.Claims
		platform tee.Claims
	}
	judge := func(change func(*parts)) *RelyingClaims {
		p := &parts{out: Appraisal{Genuine: true, Assurance: TEEBound, Status: Affirming}, log: eventlog.Claims{SecureBoot: to(true), SecureBootEffective: to(true)},
			platform: tee.Claims{TEEType: "sev_snp", TCB: &tee.TCB{SNP: 24}}}
		if change != nil {
			change(p)
		}
		p.out.Claims.Claims, p.out.Claims.Platform = &p.log, &p.platform
		return (&appraiser{out: &p.out}).relying()
	}
	for name, change := range map[string]func(*parts){
		"all is well":                         nil,
		"nothing debugs it":                   func(p *parts) { p.log.FirmwareDebugger = to(false) },
		"Windows, released":                   func(p *parts) { p.log.Windows = &eventlog.Windows{TestSigning: to(false), KernelDebugging: to(false)} },
		"the log's word beside a paravisor's": func(p *parts) { p.platform.VM = &tee.VMConfiguration{SecureBoot: to(false)} },
		"a warning":                           func(p *parts) { p.out.Status = Warning },
		"a check that warns":                  func(p *parts) { p.out.Checks = []Check{{Code: CheckPlatformConfig, Status: Warn}} },
		"firmware's word alone":               func(p *parts) { p.log.SecureBootEffective = nil },
		"another check, skipped":              func(p *parts) { p.out.Checks = []Check{{Code: CheckIMAPolicy, Status: Skipped}} },
	} {
		if r := judge(change); r.Compliance != "compliant" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for name, change := range map[string]func(*parts){
		"not bound":              func(p *parts) { p.out.Assurance = EKActivated },
		"contraindicated":        func(p *parts) { p.out.Status = Contraindicated },
		"a step failed":          func(p *parts) { p.out.Checks = []Check{{Code: CheckPlatformReport, Status: Fail}} },
		"Secure Boot unknown":    func(p *parts) { p.log = eventlog.Claims{} },
		"Secure Boot off":        func(p *parts) { p.log = eventlog.Claims{SecureBoot: to(false)} },
		"shim does not validate": func(p *parts) { p.log.SecureBootEffective = to(false) },
		"its host debugs it":     func(p *parts) { p.platform.Debug = true },
		"its host debugs it, though the firmware knows of nothing": func(p *parts) { p.platform.Debug, p.log.FirmwareDebugger = true, to(false) },
		"a debugger of the firmware":                               func(p *parts) { p.log.FirmwareDebugger = to(true) },
		"a debugger of the loader":                                 func(p *parts) { p.log.Windows = &eventlog.Windows{BootDebugging: to(true)} },
		"a debugger of the kernel": func(p *parts) {
			p.log.FirmwareDebugger, p.log.Windows = to(false), &eventlog.Windows{KernelDebugging: to(true), HypervisorDebugging: to(false)}
		},
		"a debugger of the hypervisor": func(p *parts) {
			p.log.Windows = &eventlog.Windows{BootDebugging: to(false), HypervisorDebugging: to(true)}
		},
		"test signing": func(p *parts) { p.log.Windows = &eventlog.Windows{TestSigning: to(true)} },
	} {
		if r := judge(change); r.Compliance != "noncompliant" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := judge(func(p *parts) { p.out.Genuine = false }); r != nil {
		t.Errorf("of evidence that is not genuine: %+v", r)
	}
	// What is known of no part is not told as if it were.
	r := judge(func(p *parts) {
		p.log = eventlog.Claims{Windows: &eventlog.Windows{}}
		p.platform = tee.Claims{TEEType: "tdx", TEETCBSVN: "0501", TCBStatus: &tee.TCBStatus{Platform: "OutOfDate"}, VM: &tee.VMConfiguration{VMID: "vm"}}
	})
	if r.SecureBoot != nil || r.TestSigning != nil || r.Debug == nil || *r.Debug || r.TEEType != "tdx" || r.TCB != "0501" || r.TCBStatus != "OutOfDate" || r.VMID != "vm" {
		t.Errorf("%+v", r)
	}
	if r := judge(nil); r.TCB == "" || r.TCBStatus != "" || r.VMID != "" {
		t.Errorf("%+v", r)
	}
}

// The paravisor's word on Secure Boot and the CC event log count only beside a report that is bound, and of which no
// step failed: Appraise keeps no other, and what reads it asks again.
func TestReportIsAskedForAgain(t *testing.T) {
	report, log := cosReport(t), ccLog(t, "cos-113-intel-tdx")
	replay := Check{Code: CheckEventLogReplay, Status: Pass}
	amd := teetest.NewAMD(t, teetest.Milan)
	azure := tee.Verify(&tee.Evidence{Type: tee.TypeAzureHCL, HCLReport: amd.HCL(&teetest.RSAKey(t, "ak").PublicKey, nil, teetest.HCL{}),
		Certificates: [][]byte{amd.VCEK(amd.ChipID, amd.TCB)}}, &tee.Trust{SNP: amd.Anchors()}, teetest.Now).Report
	for name, c := range map[string]struct {
		checks []Check
		judged bool
	}{
		"bound":             {[]Check{{Code: CheckPlatformBinding, Status: Pass}, replay}, true},
		"not bound":         {[]Check{{Code: CheckPlatformBinding, Status: Skipped}, replay}, false},
		"nothing binds it":  {[]Check{replay}, false},
		"a step failed":     {[]Check{{Code: CheckPlatformBinding, Status: Pass}, {Code: CheckPlatformReport, Status: Fail}, replay}, false},
		"no replay to join": {[]Check{{Code: CheckPlatformBinding, Status: Pass}, {Code: CheckSecureBoot, Status: Pass}}, false},
	} {
		a := &appraiser{ev: &Evidence{}, in: Inputs{CCLog: log}, out: &Appraisal{Quote: &tpm.VerifiedQuote{}, Platform: report, Checks: c.checks,
			Claims: Claims{Claims: &eventlog.Claims{}}}}
		a.replayBeside()
		if got := strings.Contains(c.checks[len(c.checks)-1].Detail, "CC event log"); got != c.judged {
			t.Errorf("%s: %+v", name, c.checks)
		}
		a = &appraiser{ev: &Evidence{}, out: &Appraisal{Platform: azure, Checks: c.checks}}
		if want := name == "bound" || name == "no replay to join"; a.secureBootByParavisor() != want {
			t.Errorf("%s: Secure Boot by the paravisor's word: %v", name, !want)
		}
	}
	// A log that cannot be read fails where it is asked for, whoever asks.
	a := &appraiser{ev: &Evidence{NoTPM: true}, in: Inputs{CCLog: log, LogFault: "broken"}, out: &Appraisal{Platform: report, Claims: Claims{Claims: &eventlog.Claims{}}}}
	a.replayWithoutTPM()
	if c := a.out.Checks[0]; c.Status != Fail || !strings.Contains(c.Detail, "broken") {
		t.Errorf("%+v", c)
	}
}
