package baseline_test

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"os"
	"testing"
	"time"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tee"
)

func file(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tdxGuest is the appraisal of a real guest without a TPM, as far as a capture reads it.
func tdxGuest(t *testing.T) *verifier.Appraisal {
	t.Helper()
	block, _ := pem.Decode(file(t, "../verifier/tee/testdata/tdx/intel_sgx_root.pem"))
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	result := tee.Verify(&tee.Evidence{Type: tee.TypeTDX, Quote: file(t, "../verifier/tee/testdata/tdx/cos-113-tdx-quote.dat")},
		&tee.Trust{TDX: []*x509.Certificate{root}}, time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))
	if result.Report == nil {
		t.Fatalf("%+v", result.Steps)
	}
	z, err := gzip.NewReader(bytes.NewReader(file(t, "../verifier/eventlog/testdata/tdx/ccel/cos-113-intel-tdx.bin.gz")))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	m, replay := eventlog.ReplayRTMR(result.Report, log)
	if replay.Outcome != eventlog.Replayed {
		t.Fatalf("%+v", replay)
	}
	return &verifier.Appraisal{Genuine: true, RTMRs: result.Report, RTMRMeasurements: m, Claims: verifier.Claims{Claims: m.Claims()}}
}

func TestCaptureOfRegisters(t *testing.T) {
	guest := tdxGuest(t)
	values, err := baseline.Capture(guest, verifier.DefaultPolicy())
	if err != nil {
		t.Fatal(err)
	}
	if len(values.PCRs) != 1 || len(values.PCRs["rtmr"]) != 3 {
		t.Fatalf("%+v", values.PCRs)
	}
	for index, key := range []string{"0", "1", "2"} {
		value, _ := guest.RTMRs.RTMR(index)
		if list := values.PCRs["rtmr"][key]; len(list) != 1 || list[0] != hex.EncodeToString(value) {
			t.Errorf("RTMR %s: %v", key, list)
		}
	}
	count := map[int]int{}
	for _, e := range values.Events {
		count[e.PCR]++
		if len(e.Digests) != 1 || len(e.Digests["rtmr"]) != 1 || !e.Required || e.Key == "" || e.Description == "" {
			t.Errorf("%+v", e)
		}
		if e.Component == string(eventlog.ComponentBootOrder) || e.Component == string(eventlog.ComponentPartitionTable) {
			t.Errorf("the machine's own is captured: %s", e.Description)
		}
	}
	// Of 16, 7 and 20 events: without three of the boot order and a partition table, and with MokList and MokListX,
	// which are both empty, once.
	if want := map[int]int{0: 13, 1: 6, 2: 19}; len(count) != 3 || count[0] != want[0] || count[1] != want[1] || count[2] != want[2] {
		t.Errorf("%v", count)
	}
	if got := string(values.Claims["secure_boot"]); got != "false" {
		t.Errorf("secure_boot %s", got)
	}
	reference, err := verifier.CompileReference(values)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if reference.JudgesRTMR(i) != (i < 3) || reference.Judges(i) {
			t.Errorf("register %d", i)
		}
	}
	guest.RTMRMeasurements = nil
	if values, err = baseline.Capture(guest, verifier.DefaultPolicy()); err != nil || len(values.Events) != 0 || len(values.PCRs["rtmr"]) != 3 {
		t.Errorf("without a log: %v, %+v", err, values)
	}
	guest.Genuine = false
	if _, err = baseline.Capture(guest, verifier.DefaultPolicy()); err != baseline.ErrNotGenuine {
		t.Errorf("not genuine: %v", err)
	}
	if _, err = baseline.Capture(&verifier.Appraisal{Genuine: true, RTMRs: &tee.Report{}}, verifier.DefaultPolicy()); err != baseline.ErrNothingToCapture {
		t.Errorf("a report without registers: %v", err)
	}
}
