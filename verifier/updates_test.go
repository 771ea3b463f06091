package verifier_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// softwareKey quotes PCR values that were recorded on a real machine without a quote of its own.
type softwareKey struct {
	key    *ecdsa.PrivateKey
	public *tpm.Public
}

func newSoftwareKey(t *testing.T) softwareKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// TPMT_PUBLIC (TPM 2.0 Part 2, 12.2.4): a restricted, fixed signing key, ECDSA with SHA-256 on P-256.
	b := []byte{0x00, 0x23, 0x00, 0x0b, 0x00, 0x05, 0x00, 0x72, 0, 0, 0x00, 0x10, 0x00, 0x18, 0x00, 0x0b, 0x00, 0x03, 0x00, 0x10}
	raw, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b = append(sized(b, raw[1:33]), sized(nil, raw[33:])...)
	public, err := tpm.ParsePublic(b)
	if err != nil {
		t.Fatal(err)
	}
	return softwareKey{key, public}
}

func sized(b, value []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(value))), value...)
}

// quote makes a TPMS_ATTEST over SHA-256 PCRs (TPM 2.0 Part 2, 10.12.12) and signs it.
func (k softwareKey) quote(t *testing.T, bank tpm.Bank, nonce []byte) tpm.Quote {
	t.Helper()
	digest := sha256.New()
	for i := range tpm.NumPCRs {
		if bank.Mask&(1<<i) != 0 {
			digest.Write(bank.Values[i])
		}
	}
	m := sized(sized([]byte{0xff, 'T', 'C', 'G', 0x80, 0x18}, nil), nonce)
	m = append(m, make([]byte, 8+4+4)...)
	m = append(m, 1)
	m = append(m, make([]byte, 8)...)
	m = append(m, 0, 0, 0, 1, 0x00, 0x0b, 3, byte(bank.Mask), byte(bank.Mask>>8), byte(bank.Mask>>16))
	m = sized(m, digest.Sum(nil))
	sum := sha256.Sum256(m)
	r, s, err := ecdsa.Sign(rand.Reader, k.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return tpm.Quote{Message: m, Signature: append(sized([]byte{0x00, 0x18, 0x00, 0x0b}, r.FillBytes(make([]byte, 32))), sized(nil, s.FillBytes(make([]byte, 32)))...)}
}

// recorded is a real machine's log with the PCR values that were recorded beside it.
func recorded(t *testing.T, dir string) (capture, verifier.Inputs) {
	t.Helper()
	var values map[string]map[string]string
	if err := json.Unmarshal(read(t, dir, "pcrs.json"), &values); err != nil {
		t.Fatal(err)
	}
	bank := tpm.Bank{Alg: tpm.SHA256}
	for index, text := range values["sha256"] {
		i, err := strconv.Atoi(index)
		if err != nil || i > 14 {
			continue
		}
		if bank.Values[i], err = hex.DecodeString(text); err != nil {
			t.Fatal(err)
		}
		bank.Mask |= 1 << i
	}
	k := newSoftwareKey(t)
	c := capture{name: dir, ak: k.public, nonce: []byte("nonce of this test"), ev: &verifier.Evidence{PCRs: tpm.PCRs{bank}, EventLog: read(t, dir, "eventlog.bin")}}
	c.ev.Quotes = []tpm.Quote{k.quote(t, bank, c.nonce)}
	in := c.inputs(t)
	in.Policy.RequireSecureBoot = false
	in.Policy.PCRs = map[string][]int{"sha256": {}}
	for i := range tpm.NumPCRs {
		if bank.Mask&(1<<i) != 0 {
			in.Policy.PCRs["sha256"] = append(in.Policy.PCRs["sha256"], i)
		}
	}
	return c, in
}

// Changes of real machines, before and after, in the words of the verdict, and nothing else.
func TestUpdatesOfRealMachines(t *testing.T) {
	const corpus = "eventlog/testdata"
	for _, tt := range []struct {
		story, before, after string
		want                 []string
	}{
		{"a key is forbidden by the machine's owner (MokListX)", "eventlogs/baremetal/guard-set-elitebook830g6-mok-baseline", "eventlogs/baremetal/guard-set-elitebook830g6-mokx-added",
			[]string{"PCR 14: machine owner key changed: machine owner's forbidden keys (digest of MokListX)"}},
		{"and allowed again", "eventlogs/baremetal/guard-set-elitebook830g6-mokx-added", "eventlogs/baremetal/guard-set-elitebook830g6-mok-baseline",
			[]string{"PCR 14: machine owner key changed: machine owner's forbidden keys (digest of MokListX)"}},
		{"the same log beside another PCR 0: nothing tells what was measured", "quotes/guard-haruhi-gentoo-a", "quotes/guard-haruhi-gentoo-b",
			[]string{"PCR 0: PCR 0 (platform firmware) has another value than the baseline, and no event log explains which event changed"}},
		{"nothing changed", "quotes/guard-haruhi-gentoo-a", "quotes/guard-haruhi-gentoo-a", nil},
	} {
		c, in := recorded(t, filepath.Join(corpus, tt.before))
		was := verifier.Appraise(c.ev, in)
		rv, err := baseline.Capture(was, in.Policy)
		if err != nil {
			t.Fatalf("%s: %v\n%s", tt.story, err, render(was))
		}
		reference, err := verifier.CompileReference(rv)
		if err != nil {
			t.Fatal(err)
		}
		c, in = recorded(t, filepath.Join(corpus, tt.after))
		in.Candidates = []verifier.Candidate{{Baseline: verifier.VersionRef{ID: "before", Version: 1}, Reference: reference}}
		a := verifier.Appraise(c.ev, in)
		var got []string
		for i := range a.Deviations {
			got = append(got, a.Deviations[i].Register()+": "+a.Deviations[i].Description)
		}
		if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
			t.Errorf("%s:\n%s\nwant\n%s", tt.story, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
	}
}
