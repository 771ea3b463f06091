package ima_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

const boots = "../../integration/testdata/boots"

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, raw []byte) *ima.List {
	t.Helper()
	l, err := ima.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// banks reads all PCR values of a capture.
func banks(t testing.TB, variant string) tpm.PCRs {
	t.Helper()
	var doc struct {
		PCRs map[string]map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal(readFile(t, filepath.Join(boots, variant, "evidence/tpm.json")), &doc); err != nil {
		t.Fatal(err)
	}
	var out tpm.PCRs
	for name, values := range doc.PCRs {
		alg, ok := tpm.ParseHashAlg(name)
		if !ok {
			t.Fatalf("bank %q", name)
		}
		bank := tpm.Bank{Alg: alg}
		for i := range bank.Values {
			if text, ok := values[itoa(i)]; ok {
				bank.Values[i] = unhex(t, text)
				bank.Mask |= 1 << i
			}
		}
		out = append(out, bank)
	}
	return out
}

func itoa(i int) string { b, _ := json.Marshal(i); return string(b) }

func quotedPCR10(pcrs tpm.PCRs) map[tpm.HashAlg][]byte {
	out := map[tpm.HashAlg][]byte{}
	for _, b := range pcrs {
		if len(b.Values[10]) > 0 {
			out[b.Alg] = b.Values[10]
		}
	}
	return out
}

func captures(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob(boots + "/*/evidence/ima_binary_runtime_measurements")
	if err != nil || len(paths) < 10 {
		t.Fatalf("captures: %d, %v", len(paths), err)
	}
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = filepath.Base(filepath.Dir(filepath.Dir(p)))
	}
	return out
}

func binaryList(t testing.TB, variant string) []byte {
	return readFile(t, filepath.Join(boots, variant, "evidence/ima_binary_runtime_measurements"))
}

func asciiList(t testing.TB, variant string) []byte {
	return readFile(t, filepath.Join(boots, variant, "evidence/ima_ascii_runtime_measurements"))
}

// Every capture replays, in both formats, to PCR 10 of every bank, and both formats say the same.
func TestCapturesReplay(t *testing.T) {
	for _, variant := range captures(t) {
		t.Run(variant, func(t *testing.T) {
			pcrs := banks(t, variant)
			quoted := quotedPCR10(pcrs)
			bin, asc := parse(t, binaryList(t, variant)), parse(t, asciiList(t, variant))
			if bin.Len() != asc.Len() {
				t.Fatalf("binary has %d entries, ascii %d", bin.Len(), asc.Len())
			}
			for i := range bin.Len() {
				if a, b := bin.Entry(i), asc.Entry(i); !reflect.DeepEqual(a, b) {
					t.Fatalf("entry %d differs:\n%+v\n%+v", i, a, b)
				}
			}
			want := strings.TrimSpace(string(readFile(t, filepath.Join(boots, variant, "evidence/ima_runtime_measurements_count"))))
			for _, l := range []*ima.List{bin, asc} {
				next, rep := l.Replay(quoted, nil)
				if rep.Status != ima.Pass {
					t.Fatalf("%v: %s %+v", rep.Status, rep.Detail, rep.Banks)
				}
				if itoa(rep.Matched) != want || rep.Beyond != 0 || next.Entries != rep.Matched {
					t.Errorf("matched %d, beyond %d, next %d; the kernel counted %s", rep.Matched, rep.Beyond, next.Entries, want)
				}
				for _, b := range rep.Banks {
					// Debian's 6.1 kernel has no SHA-384 when IMA starts and pads SHA-1 instead.
					if wantPadded := b.Alg == tpm.SHA384; b.Padded != wantPadded {
						t.Errorf("bank %s: padded %v", b.Alg, b.Padded)
					}
				}
			}
			e := bin.Entry(0)
			alg, _ := tpm.ParseHashAlg(e.FileDigestAlg)
			if bank := pcrs.Bank(alg); bank != nil {
				found := false
				for _, d := range ima.BootAggregate(bank) {
					found = found || bytes.Equal(d, e.FileDigest)
				}
				// unlogged-extend moved PCR 9 after the kernel had read it.
				if e.Path != "boot_aggregate" || found == (variant == "unlogged-extend") {
					t.Errorf("boot_aggregate %s %q is not the hash of the PCRs", e.Digest(), e.Path)
				}
			}
		})
	}
}

// A capture replays from its parts: a SHA-384 bank alone keeps its rule in the state.
func TestPaddedRuleIsKept(t *testing.T) {
	quoted := quotedPCR10(banks(t, "sb-on-sha384bank"))
	l := parse(t, binaryList(t, "sb-on-sha384bank"))
	next, rep := l.Replay(quoted, nil)
	if rep.Status != ima.Pass || !next.Padded["sha384"] {
		t.Fatalf("%+v %+v", rep, next)
	}
	next.Padded["sha384"] = false
	next.Entries, next.PCR["sha384"] = 1, make([]byte, 48)
	if _, rep := l.Replay(quoted, &next); rep.Status != ima.Fail {
		t.Errorf("a bank may not change its rule within a boot: %+v", rep)
	}
}

// A server with thousands of entries and some violations; each bank has its own hash.
func TestServerH12SSL(t *testing.T) {
	l := parse(t, readFile(t, "testdata/h12ssl.binary"))
	next, rep := l.Replay(map[tpm.HashAlg][]byte{
		tpm.SHA1:   unhex(t, "1de9e6b4dc8c6a1c0839b1fe28fca998a0057fd9"),
		tpm.SHA256: unhex(t, "c770b4b7a6a8c48ef7a4fd58fed362470106b4d20d2e8c1dff21362a5fe4f902"),
	}, nil)
	if rep.Status != ima.Pass || next.Padded["sha256"] || rep.Matched != 5071 || rep.Violations != 9 {
		t.Errorf("%+v", rep)
	}
}

// statedPCR extends a SHA-1 PCR with what the list states, as a TPM would have been.
func statedPCR(l *ima.List, n int) []byte {
	pcr := make([]byte, 20)
	for i := range n {
		e := l.Entry(i)
		h := e.TemplateHash
		if e.Violation {
			h = bytes.Repeat([]byte{0xff}, 20)
		}
		s := crypto.SHA1.New()
		s.Write(pcr)
		s.Write(h)
		pcr = s.Sum(nil)
	}
	return pcr
}

// Each published specimen has its expectation: how many entries, and whether its template hashes are
// those of its data.
func TestPublishedSpecimens(t *testing.T) {
	for _, c := range []struct {
		file    string
		entries int
		status  ima.Status
	}{
		{"imasig.log", 1083, ima.Fail}, // entry 1079 was tampered with: /usr/bin/xautt
		{"measurements-ima-sig.ascii", 3, ima.Pass},
		{"signatures-ima-sig.ascii", 2, ima.Pass},
		{"bad-signature-size.ascii", 1, ima.Fail},
		{"keyrings-ima-buf.ascii", 1, ima.Pass},
		{"dm-entries-raw.txt", 15, ima.Pass},
		{"ima-log-sha1", 2, ima.Pass},
		{"ima-log-sha256", 2, ima.Pass},
		{"ima-log-sha384", 2, ima.Pass},
		{"ima-log-sha512", 2, ima.Pass},
	} {
		t.Run(c.file, func(t *testing.T) {
			l := parse(t, readFile(t, "testdata/"+c.file))
			if l.Len() != c.entries {
				t.Errorf("%d entries, not %d", l.Len(), c.entries)
			}
			_, rep := l.Replay(map[tpm.HashAlg][]byte{tpm.SHA1: statedPCR(l, l.Len())}, nil)
			if rep.Status != c.status {
				t.Errorf("%v: %s", rep.Status, rep.Detail)
			}
			for i := range l.Len() {
				if e := l.Entry(i); e.Fault != "" && c.status == ima.Pass {
					t.Errorf("entry %d: %s", i, e.Fault)
				}
			}
		})
	}
	// Made for a policy tool: their template hashes are not hashes of anything.
	for _, file := range []string{"ima-log-sm3_256", "ima-log-unknown"} {
		l := parse(t, readFile(t, "testdata/"+file))
		if l.Len() != 2 || l.Entry(1).Path != "/data" || !l.Entry(0).Violation {
			t.Errorf("%s: %+v", file, l.Entry(1))
		}
	}
}

// The published list of 1083 entries has one that was changed afterwards. Up to there it replays, and the
// files are signed.
func TestTamperedEntry(t *testing.T) {
	l := parse(t, readFile(t, "testdata/imasig.log"))
	_, rep := l.Replay(map[tpm.HashAlg][]byte{tpm.SHA1: statedPCR(l, 1083)}, nil)
	if rep.Status != ima.Fail || !strings.Contains(rep.Detail, "entry 1079") {
		t.Errorf("%+v", rep)
	}
	_, rep = l.Replay(map[tpm.HashAlg][]byte{tpm.SHA1: statedPCR(l, 1079)}, nil)
	if rep.Status != ima.Pass || rep.Matched != 1079 || rep.Beyond != 4 {
		t.Errorf("%+v", rep)
	}
	cert, err := x509.ParseCertificate(readFile(t, "testdata/imakey.der"))
	if err != nil {
		t.Fatal(err)
	}
	// Three do not verify with this key. A signature covers the file's digest, not its path: xautt verifies.
	unsigned := map[string]bool{"/usr/sbin/atd": true, "/usr/bin/trojan_badkey": true, "/usr/bin/trojan_badsig": true}
	signed := 0
	for i := range l.Len() {
		e := l.Entry(i)
		if len(e.Signature) == 0 {
			continue
		}
		signed++
		if err := ima.VerifySignature(&e, cert.PublicKey); (err != nil) != unsigned[e.Path] {
			t.Errorf("entry %d %s: %v", i, e.Path, err)
		}
	}
	if signed != 899 {
		t.Errorf("%d signed entries", signed)
	}
}

// The signature with the wrong size is refused even where nothing else would tell.
func TestBadSignatureSize(t *testing.T) {
	e := parse(t, readFile(t, "testdata/bad-signature-size.ascii")).Entry(0)
	if !strings.Contains(e.Fault, "18432 bytes, but 72 follow") {
		t.Errorf("fault %q", e.Fault)
	}
	if err := ima.VerifySignature(&e, &rsa.PublicKey{}); err == nil {
		t.Error("a signature with a wrong size verifies")
	}
}

func TestFileSignatures(t *testing.T) {
	block, _ := pem.Decode(readFile(t, "testdata/rsa2048pub.pem"))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	e := parse(t, readFile(t, "testdata/signatures-ima-sig.ascii")).Entry(0)
	if err := ima.VerifySignature(&e, key); err != nil {
		t.Errorf("/usr/bin/dd: %v", err)
	}
	for i := range e.Signature {
		flipped := e
		flipped.Signature = bytes.Clone(e.Signature)
		flipped.Signature[i] ^= 0x10
		// The key id (bytes 3 to 6) only helps to find the key.
		if err := ima.VerifySignature(&flipped, key); err == nil && (i < 3 || i > 6) {
			t.Errorf("byte %d flipped still verifies", i)
		}
	}
	flipped := e
	flipped.FileDigest = bytes.Clone(e.FileDigest)
	flipped.FileDigest[0] ^= 1
	if ima.VerifySignature(&flipped, key) == nil {
		t.Error("another digest verifies")
	}
}

func TestContentOfBuffers(t *testing.T) {
	e := parse(t, readFile(t, "testdata/keyrings-ima-buf.ascii")).Entry(0)
	if _, err := x509.ParseCertificate(e.Buffer); e.Path != ".ima" || err != nil {
		t.Errorf("%q: %v", e.Path, err)
	}
	l := parse(t, binaryList(t, "ima-critical"))
	if e := l.Entry(1); e.Path != "kernel_version" || string(e.Buffer) != "6.1.0-56-cloud-amd64" {
		t.Errorf("%q %q", e.Path, e.Buffer)
	}
}
