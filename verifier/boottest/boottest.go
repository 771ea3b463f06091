// Package boottest makes evidence of recorded boot logs whose TPM is not at hand: a key in software signs a quote of
// the PCR values that the log replays to. It is for tests alone; nothing else may import it.
package boottest

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// At is when specimens are judged.
var At = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// Specimens lists the well-formed boot logs of a checkout, by the path to its root: those of real machines and the
// project's own captures.
func Specimens(t testing.TB, root string) []string {
	t.Helper()
	var out []string
	for _, folder := range []string{"verifier/eventlog/testdata/eventlogs", "verifier/eventlog/testdata/quotes", "integration/testdata/boots"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, d fs.DirEntry, err error) error {
			name := filepath.Base(path)
			switch {
			case err != nil || d.IsDir():
			case folder == "verifier/eventlog/testdata/eventlogs" && !strings.HasSuffix(strings.TrimSuffix(name, ".gz"), ".json"), name == "eventlog.bin", name == "binary_bios_measurements":
				out = append(out, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(out) < 50 {
		t.Fatalf("only %d specimens below %s", len(out), root)
	}
	return out
}

// Name is how tests call a specimen: its path without what all paths have.
func Name(path string) string {
	path = filepath.ToSlash(path)
	for _, cut := range []string{"verifier/eventlog/testdata/", "integration/testdata/"} {
		if _, rest, found := strings.Cut(path, cut); found {
			path = rest
		}
	}
	return strings.TrimSuffix(strings.TrimSuffix(path, "/evidence/binary_bios_measurements"), "/eventlog.bin")
}

// Read reads a specimen, decompressed if it was compressed.
func Read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil && strings.HasSuffix(path, ".gz") {
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(b)); err == nil {
			b, err = io.ReadAll(z)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Evidence is evidence of a boot log, and what it is judged by: the default policy, reduced to the banks that the log
// has, and a key that is taken as certified.
func Evidence(t testing.TB, raw []byte) (*verifier.Evidence, verifier.Inputs) {
	t.Helper()
	log, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm.PublicFromCrypto(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ev := &verifier.Evidence{EventLog: raw, PCRs: replayed(log)}
	if len(ev.PCRs) == 0 {
		t.Fatal("the log has no bank that can be judged")
	}
	nonce := []byte("a nonce for recorded boots")
	message := quote(ev.PCRs, nonce)
	digest := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := tpm.Signature{Scheme: tpm.Scheme{Alg: tpm.AlgECDSA, Hash: tpm.SHA256}, R: r.Bytes(), S: s.Bytes()}
	ev.Quotes = []tpm.Quote{{Message: message, Signature: signature.Marshal()}}
	policy := verifier.DefaultPolicy()
	policy.PCRs, policy.AllowSHA1PCRs = map[string][]int{}, true
	for _, bank := range ev.PCRs {
		policy.PCRs[bank.Alg.String()] = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}
	}
	return ev, verifier.Inputs{Now: At, AK: verifier.AttestationKey{Public: public, Assurance: verifier.AKCertified},
		Freshness: tpm.Freshness{Nonce: nonce}, Policy: policy, PolicyRef: verifier.VersionRef{ID: "test", Version: 1}, Log: log}
}

// Appraise judges a specimen. What does not replay fails the test.
func Appraise(t testing.TB, path string) *verifier.Appraisal {
	t.Helper()
	ev, in := Evidence(t, Read(t, path))
	a := verifier.Appraise(ev, in)
	if !a.Genuine || a.Measurements == nil {
		t.Fatalf("%s: %v", path, a.Checks)
	}
	return a
}

// replayed are the PCR values that the log leads to, in every bank that is computed.
func replayed(log *eventlog.Log) tpm.PCRs {
	var out tpm.PCRs
	for _, alg := range log.Banks() {
		bank := tpm.Bank{Alg: alg}
		for i := range tpm.NumPCRs {
			if value, _, ok := log.PCR(alg, i); ok {
				bank.Values[i], bank.Mask = value, bank.Mask|1<<i
			}
		}
		if bank.Mask != 0 && alg.PCRBank() && alg.Hash() != 0 {
			out = append(out, bank)
		}
	}
	return out
}

// quote is a TPMS_ATTEST over all values (TPM 2.0 Part 2, section 10.12.12).
func quote(pcrs tpm.PCRs, nonce []byte) []byte {
	h := sha256.New()
	b := binary.BigEndian.AppendUint32(nil, 0xFF544347)
	b = binary.BigEndian.AppendUint16(b, uint16(tpm.AttestQuote))
	sized := func(v []byte) { b = append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...) }
	sized([]byte("signer"))
	sized(nonce)
	b = binary.BigEndian.AppendUint64(b, 1000) // clock
	b = binary.BigEndian.AppendUint32(b, 1)    // reset count
	b = binary.BigEndian.AppendUint32(b, 0)    // restart count
	b = append(b, 1)                           // safe
	b = binary.BigEndian.AppendUint64(b, 1)    // firmware version
	b = binary.BigEndian.AppendUint32(b, uint32(len(pcrs)))
	for i := range pcrs {
		bank := &pcrs[i]
		b = binary.BigEndian.AppendUint16(b, uint16(bank.Alg))
		b = append(b, 3, byte(bank.Mask), byte(bank.Mask>>8), byte(bank.Mask>>16))
		for pcr := range bank.Values {
			h.Write(bank.Values[pcr])
		}
	}
	sized(h.Sum(nil))
	return b
}

// Describe is the failing checks of an appraisal, for messages.
func Describe(a *verifier.Appraisal) string {
	var out []string
	for _, c := range a.Checks {
		if c.Status == verifier.Fail || c.Status == verifier.Warn {
			out = append(out, fmt.Sprintf("%s %s: %s", c.Code, c.Status, c.Detail))
		}
	}
	return strings.Join(out, "; ")
}
