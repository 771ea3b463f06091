package verifier_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

const boots = "../integration/testdata/boots"

// capture is one recorded boot as evidence.
type capture struct {
	name  string
	ak    *tpm.Public
	ev    *verifier.Evidence
	nonce []byte
}

func read(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// loadCapture builds evidence of a recorded boot from the quote of one AK over one selection of banks
// ("sha256", "sha384", "all-banks").
func loadCapture(t testing.TB, name, ak, banks string) capture {
	t.Helper()
	dir := filepath.Join(boots, name, "evidence")
	c := capture{name: name, ev: &verifier.Evidence{}}
	var err error
	if c.ak, err = tpm.ParsePublic(read(t, dir, "ak-"+ak+".tpmt_public")); err != nil {
		t.Fatal(err)
	}
	c.ev.Quotes = []tpm.Quote{{
		Message:   read(t, dir, "quote-"+ak+"-"+banks+".tpms_attest"),
		Signature: read(t, dir, "quote-"+ak+"-"+banks+".tpmt_signature"),
	}}
	c.ev.PCRs = capturePCRs(t, dir, c.ev.Quotes[0].Message)
	if log, err := os.ReadFile(filepath.Join(dir, "binary_bios_measurements")); err == nil {
		c.ev.EventLog = log
	}
	nonce := strings.TrimSpace(string(read(t, boots, name, "nonce.hex")))
	if c.nonce, err = hex.DecodeString(nonce); err != nil {
		t.Fatal(err)
	}
	return c
}

// capturePCRs gives the recorded values of exactly the PCRs that the quote selects.
func capturePCRs(t testing.TB, dir string, message []byte) tpm.PCRs {
	t.Helper()
	var doc struct {
		PCRs map[string]map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal(read(t, dir, "tpm.json"), &doc); err != nil {
		t.Fatal(err)
	}
	attest, err := tpm.ParseAttest(message)
	if err != nil {
		t.Fatal(err)
	}
	var out tpm.PCRs
	for _, s := range attest.Selections {
		bank := tpm.Bank{Alg: s.Alg, Mask: s.Mask}
		for _, i := range s.Indices() {
			value, err := hex.DecodeString(doc.PCRs[s.Alg.String()][strconv.Itoa(i)])
			if err != nil || len(value) != s.Alg.Size() {
				t.Fatalf("%s: no value of PCR %d in bank %s", dir, i, s.Alg)
			}
			bank.Values[i] = value
		}
		if bank.Mask != 0 {
			out = append(out, bank)
		}
	}
	return out
}

var judgedAt = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func (c capture) inputs(t testing.TB) verifier.Inputs {
	t.Helper()
	in := verifier.Inputs{
		Now:       judgedAt,
		AK:        verifier.AttestationKey{Public: c.ak, Assurance: verifier.FirstUse},
		Freshness: tpm.Freshness{Nonce: c.nonce},
		Policy:    verifier.DefaultPolicy(),
	}
	withLogs(&in, c.ev)
	return in
}

// withLogs parses the logs as the caller of Appraise must.
func withLogs(in *verifier.Inputs, ev *verifier.Evidence) {
	in.Log, in.LogFault, in.IMA, in.IMAFault = nil, "", nil, ""
	if len(ev.EventLog) > 0 {
		log, err := eventlog.Parse(ev.EventLog)
		if err != nil {
			in.LogFault = err.Error()
		} else {
			in.Log = log
		}
	}
	if len(ev.IMALog) > 0 {
		list, err := ima.Parse(ev.IMALog)
		if err != nil {
			in.IMAFault = err.Error()
		} else {
			in.IMA = list
		}
	}
}

// golden captures a baseline from a recorded boot.
func golden(t testing.TB, name, banks string) []verifier.Candidate {
	t.Helper()
	c := loadCapture(t, name, "rsassa", banks)
	in := c.inputs(t)
	rv, err := baseline.Capture(verifier.Appraise(c.ev, in), in.Policy)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := verifier.CompileReference(rv)
	if err != nil {
		t.Fatal(err)
	}
	return []verifier.Candidate{{Baseline: verifier.VersionRef{ID: "golden", Version: 1}, Reference: ref}}
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

func check(a *verifier.Appraisal, code verifier.CheckCode) verifier.Check {
	for _, c := range a.Checks {
		if c.Code == code {
			return c
		}
	}
	return verifier.Check{}
}
