package boottest

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tee/teetest"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// CCLogs lists the CC event logs of real TDX guests, by the path to a checkout's root, but those without a SHA-384 bank.
func CCLogs(t testing.TB, root string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(root, "verifier/eventlog/testdata/tdx/ccel/*.gz"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, path := range all {
		if !strings.HasSuffix(path, "CCEL_data_csv.bin.gz") {
			out = append(out, path)
		}
	}
	if len(out) < 14 {
		t.Fatalf("only %d CC event logs below %s", len(out), root)
	}
	return out
}

// Guest is what rules see of a TDX guest without a TPM that measured such a log: its report is a signer's of a test, with
// the registers that the log leads to.
func Guest(t testing.TB, intel *teetest.Intel, path string) *verifier.Appraisal {
	t.Helper()
	log, err := eventlog.Parse(Read(t, path))
	if err != nil {
		t.Fatal(err)
	}
	fields := intel.Fields()
	for i := range fields.RTMRs {
		if value, _, ok := log.PCR(tpm.SHA384, i+1); ok {
			fields.RTMRs[i] = value
		}
	}
	result := tee.Verify(&tee.Evidence{Type: tee.TypeTDX, Quote: intel.Quote(fields)}, &tee.Trust{TDX: intel.Anchors()}, At)
	if result.Report == nil {
		t.Fatalf("%s: %+v", path, result.Steps)
	}
	m, replay := eventlog.ReplayRTMR(result.Report, log)
	if replay.Outcome != eventlog.Replayed {
		t.Fatalf("%s: %s", path, replay.Detail)
	}
	return &verifier.Appraisal{Status: verifier.Affirming, Genuine: true, Assurance: verifier.TEEBound, RTMRs: result.Report, RTMRMeasurements: m,
		Claims: verifier.Claims{Claims: m.Claims()}}
}
