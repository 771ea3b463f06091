package tpm

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const boots = "../../integration/testdata/boots"

// specimen is one quote with all that it takes to verify it.
type specimen struct {
	name  string
	ak    *Public
	quote Quote
	all   PCRs // every value that came with it
	nonce []byte
	sha1  bool // only the SHA-1 bank is quoted
}

// claims are the values that the quote selects.
func (s specimen) claims(t testing.TB) PCRs {
	t.Helper()
	a, err := ParseAttest(s.quote.Message)
	if err != nil {
		t.Fatal(err)
	}
	return restrict(s.all, a.Selections)
}

// expectation is one that the specimen satisfies.
func (s specimen) expectation() Expectation {
	e := Expectation{AllowSHA1PCRs: s.sha1, Freshness: Freshness{Nonce: s.nonce}}
	e.Freshness.Unchecked = len(s.nonce) == 0
	return e
}

// restrict copies what the selections name out of all.
func restrict(all PCRs, selections []Selection) PCRs {
	var out PCRs
	for _, s := range selections {
		from := all.Bank(s.Alg)
		if from == nil || s.Mask == 0 {
			continue
		}
		bank := Bank{Alg: s.Alg, Mask: s.Mask & from.Mask}
		for i, value := range from.Values {
			if s.Has(i) && value != nil {
				bank.Values[i] = append([]byte(nil), value...)
			}
		}
		out = append(out, bank)
	}
	return out
}

func clonePCRs(p PCRs) PCRs {
	out := make(PCRs, len(p))
	for i, bank := range p {
		out[i] = bank
		for j, value := range bank.Values {
			if value != nil {
				out[i].Values[j] = append([]byte{}, value...)
			}
		}
	}
	return out
}

func read(t testing.TB, elements ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parsePCRs(t testing.TB, banks map[string]map[string]string) PCRs {
	t.Helper()
	var out PCRs
	for _, name := range []string{"sha1", "sha256", "sha384", "sha512"} {
		values, ok := banks[name]
		if !ok {
			continue
		}
		alg, _ := ParseHashAlg(name)
		bank := Bank{Alg: alg}
		for index, value := range values {
			i, err := strconv.Atoi(index)
			if err != nil {
				t.Fatal(err)
			}
			bank.Values[i] = unhex(t, value)
			bank.Mask |= 1 << i
		}
		out = append(out, bank)
	}
	return out
}

func readPCRs(t testing.TB, path string) PCRs {
	t.Helper()
	var banks map[string]map[string]string
	if err := json.Unmarshal(read(t, path), &banks); err != nil {
		t.Fatal(err)
	}
	return parsePCRs(t, banks)
}

// readKey finds the AK beside a quote, in whatever form it was published.
func readKey(t testing.TB, dir string) *Public {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(dir, "ak.pub.bin")); err == nil {
		p, err := ParsePublic(b)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if b, err := os.ReadFile(filepath.Join(dir, "ak-cert.pem")); err == nil {
		cert, err := ParseEKCertificate(b)
		if err != nil {
			t.Fatal(err)
		}
		p, err := PublicFromCertificate(cert)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	der, err := os.ReadFile(filepath.Join(dir, "ak.spki.der"))
	for _, name := range []string{"ak.pem", "ak-recovered.pem"} {
		if b, readErr := os.ReadFile(filepath.Join(dir, name)); readErr == nil {
			block, _ := pem.Decode(b)
			der, err = block.Bytes, nil
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	p, err := PublicFromCrypto(key)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// published are the quotes of real machines under testdata.
func published(t testing.TB) []specimen {
	t.Helper()
	// Nonces that are known; the others are taken from the quote itself, so that there the nonce
	// step says nothing.
	nonces := map[string][]byte{
		"kinvolk-azure-snp-vtpm": []byte("challenge"),
		"trustee-snp-v0":         []byte("challenge"),
		"trustee-tdx-v0":         []byte("challenge"),
		"trustee-snp-v2":         unhex(t, "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f819ef"),
	}
	var out []specimen
	for _, pattern := range []string{"testdata/quotes/*/quote.attest.bin", "testdata/azure-hcl/*/quote.attest.bin"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			dir := filepath.Dir(file)
			s := specimen{name: filepath.Base(dir), ak: readKey(t, dir), all: readPCRs(t, filepath.Join(dir, "pcrs.json"))}
			s.quote.Message = read(t, file)
			if raw, err := os.ReadFile(filepath.Join(dir, "quote.rsassa-sig.bin")); err == nil {
				s.quote.Signature = (&Signature{Scheme: Scheme{AlgRSASSA, SHA256}, RSA: raw}).Marshal()
			} else {
				s.quote.Signature = read(t, dir, "quote.sig.bin")
			}
			s.nonce = nonces[s.name]
			if s.nonce == nil {
				extra, err := PeekExtraData(s.quote.Message)
				if err != nil {
					t.Fatal(err)
				}
				s.nonce = extra
			}
			s.sha1 = s.name == "goattest-windows-gce-shielded-vm"
			out = append(out, s)
		}
	}
	if len(out) != 11 {
		t.Fatalf("%d specimens", len(out))
	}
	return out
}

// captured are the quotes of one of the project's boots: 4 AKs by 4 selections.
func captured(t testing.TB, boot string) []specimen {
	t.Helper()
	dir := filepath.Join(boots, boot, "evidence")
	var info struct {
		PCRs map[string]map[string]string
	}
	if err := json.Unmarshal(read(t, dir, "tpm.json"), &info); err != nil {
		t.Fatal(err)
	}
	all := parsePCRs(t, info.PCRs)
	nonce := unhex(t, string(read(t, boots, boot, "nonce.hex")))
	var out []specimen
	files, err := filepath.Glob(filepath.Join(dir, "quote-*.tpms_attest"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		base := strings.TrimSuffix(filepath.Base(file), ".tpms_attest")
		parts := strings.SplitN(base, "-", 3)
		ak, err := ParsePublic(read(t, dir, "ak-"+parts[1]+".tpmt_public"))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, specimen{name: boot + "/" + base, ak: ak, all: all, nonce: nonce, sha1: parts[2] == "sha1",
			quote: Quote{Message: read(t, file), Signature: read(t, dir, base+".tpmt_signature")}})
	}
	return out
}

// capture is one quote of a boot, for instance "sb-on-1", "rsassa-sha256".
func capture(t testing.TB, boot, quote string) specimen {
	t.Helper()
	for _, s := range captured(t, boot) {
		if s.name == boot+"/quote-"+quote {
			return s
		}
	}
	t.Fatalf("no capture %s of %s", quote, boot)
	return specimen{}
}

func bootsWithEvidence(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(boots, "*", "evidence", "tpm.json"))
	if err != nil || len(files) < 15 {
		t.Fatalf("%d boots, %v", len(files), err)
	}
	var out []string
	for _, file := range files {
		out = append(out, filepath.Base(filepath.Dir(filepath.Dir(file))))
	}
	return out
}

// outcome is the report as one line: "pass pass fail …".
func outcome(r Report) string {
	var words []string
	for _, s := range r.Steps {
		words = append(words, s.Outcome.String())
	}
	return strings.Join(words, " ")
}

// mustFail asserts that Verify made no VerifiedQuote and that the named step is the first that failed.
func mustFail(t *testing.T, step Step, detail string, v *VerifiedQuote, r Report) {
	t.Helper()
	if v != nil {
		t.Fatalf("verified: %+v", r)
	}
	for _, s := range r.Steps {
		if s.Outcome != Fail {
			continue
		}
		if s.Step != step || !strings.Contains(s.Detail, detail) {
			t.Fatalf("failed at %s: %q, want %s: %q", s.Step.Code(), s.Detail, step.Code(), detail)
		}
		return
	}
	t.Fatalf("nothing failed: %+v", r)
}

func mustPass(t *testing.T, v *VerifiedQuote, r Report) *VerifiedQuote {
	t.Helper()
	if v == nil {
		t.Fatalf("not verified: %s", describe(r))
	}
	return v
}

func describe(r Report) string {
	var b strings.Builder
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "\n%s %s: %s", s.Step.Code(), s.Outcome, s.Detail)
	}
	return b.String()
}
