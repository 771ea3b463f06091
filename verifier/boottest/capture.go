package boottest

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Captures lists the project's own captures that hold evidence, by the path to a checkout's root: folders with the
// quotes of a real (software) TPM.
func Captures(t testing.TB, root string) []string {
	t.Helper()
	quotes, err := filepath.Glob(filepath.Join(root, "integration/testdata/boots/*/evidence/quote-rsassa-all-banks.tpms_attest"))
	if err != nil || len(quotes) < 15 {
		t.Fatalf("%d captures below %s: %v", len(quotes), root, err)
	}
	out := make([]string, len(quotes))
	for i, quote := range quotes {
		out[i] = filepath.Dir(filepath.Dir(quote))
	}
	return out
}

// Captured judges a capture by its own quote over all banks, with the IMA list where there is one. Unlike Appraise it
// takes what does not replay as it is.
func Captured(t testing.TB, dir string) *verifier.Appraisal {
	t.Helper()
	file := func(name string) []byte { return Read(t, filepath.Join(dir, "evidence", name)) }
	optional := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, "evidence", name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return b
	}
	public, err := tpm.ParsePublic(file("ak-rsassa.tpmt_public"))
	if err != nil {
		t.Fatal(err)
	}
	nonce, err := hex.DecodeString(strings.TrimSpace(string(Read(t, filepath.Join(dir, "nonce.hex")))))
	if err != nil {
		t.Fatal(err)
	}
	quote := tpm.Quote{Message: file("quote-rsassa-all-banks.tpms_attest"), Signature: file("quote-rsassa-all-banks.tpmt_signature")}
	ev := &verifier.Evidence{Quotes: []tpm.Quote{quote}, PCRs: quoted(t, quote.Message, file("tpm.json")),
		EventLog: optional("binary_bios_measurements"), IMALog: optional("ima_ascii_runtime_measurements")}
	policy := verifier.DefaultPolicy()
	policy.PCRs = map[string][]int{}
	for i := range ev.PCRs {
		if bank := &ev.PCRs[i]; bank.Alg != tpm.SHA1 || len(ev.PCRs) == 1 {
			policy.PCRs[bank.Alg.String()] = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}
			break
		}
	}
	in := verifier.Inputs{Now: At, AK: verifier.AttestationKey{Public: public, Assurance: verifier.AKCertified},
		Freshness: tpm.Freshness{Nonce: nonce}, Policy: policy, PolicyRef: verifier.VersionRef{ID: "test", Version: 1}}
	if ev.EventLog != nil {
		if in.Log, err = eventlog.Parse(ev.EventLog); err != nil {
			t.Fatal(err)
		}
	}
	if ev.IMALog != nil {
		if in.IMA, err = ima.Parse(ev.IMALog); err != nil {
			t.Fatal(err)
		}
	}
	return verifier.Appraise(ev, in)
}

// quoted gives the recorded values of the PCRs that a quote selects.
func quoted(t testing.TB, message, recorded []byte) tpm.PCRs {
	t.Helper()
	var doc struct {
		PCRs map[string]map[string]string `json:"pcrs"`
	}
	attest, err := tpm.ParseAttest(message)
	if err == nil {
		err = json.Unmarshal(recorded, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	var out tpm.PCRs
	for _, s := range attest.Selections {
		bank := tpm.Bank{Alg: s.Alg, Mask: s.Mask}
		for _, i := range s.Indices() {
			if bank.Values[i], err = hex.DecodeString(doc.PCRs[s.Alg.String()][strconv.Itoa(i)]); err != nil {
				t.Fatal(err)
			}
		}
		if bank.Mask != 0 {
			out = append(out, bank)
		}
	}
	return out
}
