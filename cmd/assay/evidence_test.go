package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/tpm"
)

const boots = "../../integration/testdata/boots"

// binary is assay as a user runs it: built once, statically.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "assay-cli")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "assay")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-X main.version=1.2.3-test", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// result is what one run of the binary gave.
type result struct {
	code           int
	stdout, stderr string
}

// assay runs the binary with nothing of the caller's environment but what is given.
func assay(t *testing.T, env []string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Env = append([]string{"HOME=" + t.TempDir()}, env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

type document = map[string]any

// evidenceDocument is the JSON of an evidence POST made of one captured boot: the quote of one AK over
// one bank, the quoted values, the logs where asked for, and the AK as enrollment.
func evidenceDocument(t *testing.T, variant, ak, bank string, withIMA bool) document {
	t.Helper()
	dir := filepath.Join(boots, variant, "evidence")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	stem := "quote-" + ak + "-" + bank
	message := read(stem + ".tpms_attest")
	attest, err := tpm.ParseAttest(message)
	if err != nil {
		t.Fatal(err)
	}
	var claimed struct {
		PCRs map[string]map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal(read("tpm.json"), &claimed); err != nil {
		t.Fatal(err)
	}
	pcrs := document{}
	for _, s := range attest.Selections {
		if s.Mask == 0 {
			continue
		}
		values := document{}
		for _, i := range s.Indices() {
			key := itoa(i)
			values[key] = claimed.PCRs[s.Alg.String()][key]
		}
		pcrs[s.Alg.String()] = values
	}
	doc := document{
		"quotes":     []document{{"message": message, "signature": read(stem + ".tpmt_signature")}},
		"pcrs":       pcrs,
		"enrollment": document{"ak_public": read("ak-" + ak + ".tpmt_public")},
	}
	if log, err := os.ReadFile(filepath.Join(dir, "binary_bios_measurements")); err == nil && len(log) > 0 {
		doc["event_log"] = log
	}
	if withIMA {
		doc["ima_log"] = read("ima_binary_runtime_measurements")
	}
	return doc
}

func itoa(i int) string {
	b, _ := json.Marshal(i)
	return string(b)
}

// bootEvidence writes the evidence of a boot, quoted by the RSASSA key over SHA-256, and gives its file.
func bootEvidence(t *testing.T, variant string) string {
	t.Helper()
	return writeJSON(t, evidenceDocument(t, variant, "rsassa", "sha256", false))
}

func writeJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, b)
}

func writeFile(t *testing.T, b []byte) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "*.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func bootNonce(t *testing.T, variant string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(boots, variant, "nonce.hex"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimSpace(string(b))
	if _, err := hex.DecodeString(text); err != nil {
		t.Fatal(err)
	}
	return text
}

// captured is the baseline captured from one boot, as a file.
func captured(t *testing.T, variant string) string {
	t.Helper()
	r := assay(t, nil, "capture", "--evidence", bootEvidence(t, variant))
	if r.code != 0 {
		t.Fatalf("capture of %s: exit %d: %s", variant, r.code, r.stderr)
	}
	return writeFile(t, []byte(r.stdout))
}

// verdictDocument is a verdict as --output json prints it.
type verdictDocument struct {
	Status     string
	Reason     *string
	Assurance  string
	Checks     []struct{ Code, Status, Detail, Citation string }
	Deviations []struct {
		PCR                          int
		Kind, Component, Description string
		Expected                     []string
		Actual                       string
		EventType                    string `json:"event_type"`
	}
	Claims   map[string]any
	Baseline *struct {
		ID      string
		Version int
	}
}

func verify(t *testing.T, args ...string) (verdictDocument, result) {
	t.Helper()
	r := assay(t, nil, append([]string{"verify", "--output", "json"}, args...)...)
	var v verdictDocument
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		t.Fatalf("exit %d, stdout %q, stderr %q: %v", r.code, r.stdout, r.stderr, err)
	}
	return v, r
}

func (v *verdictDocument) check(code string) (status, detail string) {
	for _, c := range v.Checks {
		if c.Code == code {
			return c.Status, c.Detail
		}
	}
	return "", ""
}
