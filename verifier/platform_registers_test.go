package verifier_test

import (
	"bytes"
	"crypto/rsa"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/anchors"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tee/teetest"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// td is a TDX guest whose registers are those of a real one, which the log cos-113-intel-tdx explains: on Azure beside
// the boot's TPM, and without a TPM.
func (g guest) td(t testing.TB, change func(*teetest.Quote)) (azure, alone *tee.Evidence) {
	t.Helper()
	cos := tee.Verify(&tee.Evidence{Type: tee.TypeTDX, Quote: slurp(t, "tee/testdata/tdx/cos-113-tdx-quote.dat")}, &tee.Trust{TDX: anchors.Purpose("tdx")}, platformTime)
	registers := func(q *teetest.Quote) {
		for i := range q.RTMRs {
			q.RTMRs[i], _ = cos.Report.RTMR(i)
		}
		if change != nil {
			change(q)
		}
	}
	azure = &tee.Evidence{Type: tee.TypeAzureHCL}
	azure.HCLReport, azure.Quote = g.intel.HCL(g.ak.Key().(*rsa.PublicKey), nil, teetest.HCL{Quote: registers})
	q := g.intel.Fields()
	registers(&q)
	q.ReportData = g.nonce
	return azure, &tee.Evidence{Type: tee.TypeTDX, Quote: g.intel.Quote(q)}
}

func parsedLog(t testing.TB, raw []byte) *eventlog.Log {
	t.Helper()
	log, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// The logs of a TDX guest: its own, that of another one, and its own with data that its digest does not cover.
func registerLogs(t testing.TB) (own, other, altered *eventlog.Log) {
	t.Helper()
	raw := inflate(t, "eventlog/testdata/tdx/ccel/cos-113-intel-tdx.bin.gz")
	return parsedLog(t, raw), parsedLog(t, inflate(t, "eventlog/testdata/tdx/ccel/gdc-tdx.bin.gz")),
		parsedLog(t, bytes.Replace(raw, []byte("sbat,1,2021"), []byte("sbat,1,2099"), 1))
}

// Of a TDX machine without a TPM the log may come as a boot log does, or in the hardware evidence. Where both came, both
// have to hold: the one that does not fit cannot be hidden by the other.
func TestEitherLogOfAMachineWithoutTPM(t *testing.T) {
	g := newGuest(t)
	_, alone := g.td(t, nil)
	own, other, _ := registerLogs(t)
	for name, c := range map[string]struct {
		in     verifier.Inputs
		status verifier.CheckStatus
	}{
		"neither":                           {verifier.Inputs{}, verifier.Skipped},
		"neither, and one is required":      {verifier.Inputs{Policy: verifier.Policy{RequireEventLog: true}}, verifier.Fail},
		"in the evidence":                   {verifier.Inputs{CCLog: own}, verifier.Pass},
		"as a boot log":                     {verifier.Inputs{Log: own}, verifier.Pass},
		"as a boot log, which is required":  {verifier.Inputs{Log: own, Policy: verifier.Policy{RequireEventLog: true}}, verifier.Pass},
		"both":                              {verifier.Inputs{Log: own, CCLog: own}, verifier.Pass},
		"of another, as a boot log":         {verifier.Inputs{Log: other}, verifier.Fail},
		"of another, beside its own":        {verifier.Inputs{Log: other, CCLog: own}, verifier.Fail},
		"its own, beside that of another":   {verifier.Inputs{Log: own, CCLog: other}, verifier.Fail},
		"its own, beside a broken one":      {verifier.Inputs{Log: own, CCLogFault: "broken"}, verifier.Fail},
		"a broken one, beside its own":      {verifier.Inputs{LogFault: "broken", CCLog: own}, verifier.Fail},
		"broken":                            {verifier.Inputs{CCLogFault: "broken"}, verifier.Fail},
		"broken, as a boot log":             {verifier.Inputs{LogFault: "broken"}, verifier.Fail},
		"none now, though there was one":    {verifier.Inputs{HadLog: true}, verifier.Fail},
		"as a boot log, as there was one":   {verifier.Inputs{HadLog: true, Log: own}, verifier.Pass},
		"in the evidence, as there was one": {verifier.Inputs{HadLog: true, CCLog: own}, verifier.Pass},
	} {
		a := g.alone(alone, func(in *verifier.Inputs) {
			in.Log, in.LogFault, in.CCLog, in.CCLogFault, in.HadLog = c.in.Log, c.in.LogFault, c.in.CCLog, c.in.CCLogFault, c.in.HadLog
			in.Policy.RequireEventLog = c.in.Policy.RequireEventLog
		})
		told(t, name, a, verifier.CheckEventLogReplay, c.status, "")
	}
}

// The CC event log of a machine that has a TPM too is judged once its report is proven and bound to it, and makes
// nothing better that the TPM's log did not.
func TestCCLogBesideATPM(t *testing.T) {
	g := newGuest(t)
	azure, _ := g.td(t, nil)
	debugged, _ := g.td(t, func(q *teetest.Quote) { q.TDAttributes = []byte{1} })
	own, other, altered := registerLogs(t)
	bare := func(in *verifier.Inputs) { in.Log = nil }
	const beside = "; CC event log: "
	for name, c := range map[string]struct {
		platform *tee.Evidence
		log      *eventlog.Log
		change   func(*verifier.Inputs)
		status   verifier.CheckStatus
		judged   bool
	}{
		"no such log":                           {azure, nil, nil, verifier.Pass, false},
		"its own":                               {azure, own, nil, verifier.Pass, true},
		"of another":                            {azure, other, nil, verifier.Fail, true},
		"altered":                               {azure, altered, nil, verifier.Warn, true},
		"its own, without one of the TPM":       {azure, own, bare, verifier.Skipped, true},
		"altered, without one of the TPM":       {azure, altered, bare, verifier.Warn, true},
		"altered, beside one that is broken":    {azure, altered, func(in *verifier.Inputs) { in.LogFault = "broken" }, verifier.Fail, true},
		"of another, beside one that is broken": {azure, other, func(in *verifier.Inputs) { in.LogFault = "broken" }, verifier.Fail, true},
		"of a guest under debug":                {debugged, other, nil, verifier.Pass, false},
		"no quote":                              {azure, other, func(in *verifier.Inputs) { in.Freshness = tpm.Freshness{Nonce: []byte("another")} }, verifier.Skipped, false},
		"a report of an AMD":                    {g.paravisor(nil), other, nil, verifier.Pass, false},
		"a report that is not proven": {azure, other, func(in *verifier.Inputs) {
			in.Platform = tee.Verify(azure, &tee.Trust{}, teetest.Now)
		}, verifier.Pass, false},
	} {
		a := g.judge(t, c.platform, func(_ *verifier.Evidence, in *verifier.Inputs) {
			in.CCLog = c.log
			if c.change != nil {
				c.change(in)
			}
		})
		told(t, name, a, verifier.CheckEventLogReplay, c.status, "")
		if detail := checkOf(a, verifier.CheckEventLogReplay).Detail; strings.Contains(detail, beside) != c.judged {
			t.Errorf("%s: %q", name, detail)
		}
		if !c.judged && c.log != nil && a.RTMRMeasurements != nil {
			t.Errorf("%s: the log was believed", name)
		}
	}
}
