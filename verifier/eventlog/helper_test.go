package eventlog

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/tpm"
)

const boots = "../../integration/testdata/boots"

// readSpecimen reads a specimen, decompressed if it was compressed.
func readSpecimen(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(path, ".gz") {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if b, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// specimens lists every well-formed boot log: those of real machines and the project's own captures.
func specimens(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, root := range []string{"testdata/eventlogs", "testdata/quotes", "testdata/tdx", boots} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name := d.Name()
			inBoots := strings.HasPrefix(path, boots)
			switch {
			case inBoots && name != "binary_bios_measurements":
			case !inBoots && (strings.HasSuffix(strings.TrimSuffix(name, ".gz"), ".json") || strings.HasSuffix(name, ".pem")):
			case strings.HasPrefix(path, "testdata/quotes") && name != "eventlog.bin":
			default:
				out = append(out, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(out) < 60 {
		t.Fatalf("only %d specimens found", len(out))
	}
	return out
}

func mustParse(t testing.TB, path string) *Log {
	t.Helper()
	log, err := Parse(readSpecimen(t, path))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return log
}

// pcrsOf turns {"sha256": {"0": "hex"}} into claimed PCR values.
func pcrsOf(t testing.TB, values map[string]map[string]string) tpm.PCRs {
	t.Helper()
	var out tpm.PCRs
	for name, bank := range values {
		alg, ok := tpm.ParseHashAlg(name)
		if !ok {
			t.Fatalf("unknown bank %q", name)
		}
		b := tpm.Bank{Alg: alg}
		for index, value := range bank {
			i, err := strconv.Atoi(index)
			if err != nil || i >= tpm.NumPCRs {
				t.Fatalf("PCR %q", index)
			}
			raw, err := hex.DecodeString(value)
			if err != nil {
				t.Fatal(err)
			}
			b.Values[i], b.Mask = raw, b.Mask|1<<i
		}
		out = append(out, b)
	}
	return out
}

func readJSON[T any](t testing.TB, path string) T {
	t.Helper()
	var v T
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

// pcrFile finds the PCR values that belong to a log: nil if there are none.
func pcrFile(t testing.TB, logPath string) tpm.PCRs {
	t.Helper()
	if strings.HasPrefix(logPath, boots) {
		return pcrsOf(t, readJSON[struct {
			PCRs map[string]map[string]string `json:"pcrs"`
		}](t, filepath.Join(filepath.Dir(logPath), "tpm.json")).PCRs)
	}
	for _, path := range []string{logPath + ".pcrs.json", filepath.Join(filepath.Dir(logPath), "pcrs.json")} {
		if _, err := os.Stat(path); err == nil {
			return pcrsOf(t, readJSON[map[string]map[string]string](t, path))
		}
	}
	return nil
}

func bootLog(variant string) string {
	return filepath.Join(boots, variant, "evidence", "binary_bios_measurements")
}

// quoteOf verifies the real quote of a capture over all banks it has.
func quoteOf(t testing.TB, variant string) *tpm.VerifiedQuote {
	t.Helper()
	dir := filepath.Join(boots, variant, "evidence")
	public, err := tpm.ParsePublic(readSpecimen(t, filepath.Join(dir, "ak-rsassa.tpmt_public")))
	if err != nil {
		t.Fatal(err)
	}
	nonce, err := hex.DecodeString(strings.TrimSpace(string(readSpecimen(t, filepath.Join(boots, variant, "nonce.hex")))))
	if err != nil {
		t.Fatal(err)
	}
	quote := tpm.Quote{
		Message:   readSpecimen(t, filepath.Join(dir, "quote-rsassa-all-banks.tpms_attest")),
		Signature: readSpecimen(t, filepath.Join(dir, "quote-rsassa-all-banks.tpmt_signature")),
	}
	q, report := tpm.Verify(public, []tpm.Quote{quote}, pcrFile(t, bootLog(variant)), tpm.Expectation{Freshness: tpm.Freshness{Nonce: nonce}, AllowSHA1PCRs: true})
	if q == nil {
		t.Fatalf("%s: the capture's quote does not verify: %+v", variant, report)
	}
	return q
}

// measure replays plain PCR values, as only a test may, to look at what follows from them.
func measure(t testing.TB, log *Log, pcrs tpm.PCRs) (*Measurements, Report) {
	t.Helper()
	return log.replay(claimed(pcrs))
}

// own are the PCR values that the log itself leads to, in every bank that is computed.
func own(log *Log) tpm.PCRs {
	var out tpm.PCRs
	for _, alg := range log.Banks() {
		b := tpm.Bank{Alg: alg}
		for i := range tpm.NumPCRs {
			if value, _, ok := log.PCR(alg, i); ok {
				b.Values[i], b.Mask = value, b.Mask|1<<i
			}
		}
		if b.Mask != 0 {
			out = append(out, b)
		}
	}
	return out
}
