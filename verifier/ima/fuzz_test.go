package ima_test

import (
	"crypto"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// checkList holds for any list that Parse accepts: no panic anywhere, entries within the input, and a
// replay to the PCR that the list's data gives proves all of its entries of PCR 10.
func checkList(t *testing.T, raw []byte) {
	l, err := ima.Parse(raw)
	if err != nil {
		if l != nil {
			t.Fatal("a list beside an error")
		}
		return
	}
	if l.Len()*33 > len(raw)*2 {
		t.Fatalf("%d entries in %d bytes", l.Len(), len(raw))
	}
	pcr := make([]byte, 20)
	last := 0
	for i := range l.Len() {
		e := l.Entry(i)
		if e.Fault != "" && (len(e.FileDigest) > 0 || e.Path != "") && len(e.Signature) == 0 {
			t.Fatalf("a faulty entry with content: %+v", e)
		}
		if e.Digest() == "" {
			t.Fatal("no digest text")
		}
		if e.PCR != ima.PCR || len(e.TemplateHash) != 20 {
			continue
		}
		last = i + 1
		h := e.TemplateHash
		if e.Violation {
			h = []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
		}
		pcr = sum(crypto.SHA1, append(pcr, h...))
	}
	_, rep := l.Replay(map[tpm.HashAlg][]byte{tpm.SHA1: pcr, tpm.SHA256: make([]byte, 32)}, nil)
	if rep.Status == ima.Pass && l.Len() > 0 {
		t.Fatalf("entries against a PCR that never moved: %+v", rep)
	}
	var next ima.State
	next, rep = l.Replay(map[tpm.HashAlg][]byte{tpm.SHA1: pcr}, nil)
	if rep.Status == ima.Pass && (rep.Matched != last || next.Entries != last) {
		t.Fatalf("matched %d of %d: %+v", rep.Matched, last, rep)
	}
	policy, err := (&ima.Policy{Allow: []ima.Allow{{Path: "/usr/**", Digests: []string{"sha1:0000000000000000000000000000000000000000"}}}}).Compile()
	if err != nil {
		t.Fatal(err)
	}
	l.Judge(policy, ima.Report{Status: ima.Pass, Matched: l.Len()})
}

func FuzzParseBinary(f *testing.F) {
	for _, v := range captures(f) {
		f.Add(binaryList(f, v))
	}
	f.Add(readFile(f, "testdata/imasig.log")[:4096])
	f.Add(readFile(f, "testdata/h12ssl.binary")[:4096])
	f.Add(writeBinary(binary.BigEndian, crypto.SHA384, []measured{ng("sha256", make([]byte, 32), "/a")}))
	f.Fuzz(checkList)
}

func FuzzParseASCII(f *testing.F) {
	for _, v := range captures(f) {
		f.Add(asciiList(f, v))
	}
	files, err := filepath.Glob("testdata/*[0-9a-z]")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		if b, err := os.ReadFile(name); err == nil && len(b) < 20000 {
			f.Add(b)
		}
	}
	f.Fuzz(checkList)
}

// Parse takes no more than eight times its input, also for input made of the shortest entries.
func TestParseMemory(t *testing.T) {
	short := writeBinary(binary.LittleEndian, crypto.SHA1, []measured{{pcr: 10, template: "x"}})
	line := []byte("1 0000000000000000000000000000000000000000 x\n")
	evm := []byte("1 0000000000000000000000000000000000000000 evm-sig       0 0 0\n")
	for _, unit := range [][]byte{short, line, evm} {
		var raw []byte
		for len(raw) < 1<<20 {
			raw = append(raw, unit...)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		l, err := ima.Parse(raw)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatalf("%q: %v", unit, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 8*uint64(len(raw)) {
			t.Errorf("%q: %d entries took %d bytes for %d", unit, l.Len(), got, len(raw))
		}
	}
}

func TestReplayDoesNotAllocatePerEntry(t *testing.T) {
	l := parse(t, readFile(t, "testdata/h12ssl.binary"))
	quoted := map[tpm.HashAlg][]byte{tpm.SHA256: unhex(t, "c770b4b7a6a8c48ef7a4fd58fed362470106b4d20d2e8c1dff21362a5fe4f902")}
	if n := testing.AllocsPerRun(3, func() { l.Replay(quoted, nil) }); n > 40 {
		t.Errorf("%v allocations for %d entries", n, l.Len())
	}
}

func benchmarkList(b *testing.B) (raw []byte, l *ima.List, quoted map[tpm.HashAlg][]byte) {
	raw = readFile(b, "testdata/h12ssl.binary")
	return raw, parse(b, raw), map[tpm.HashAlg][]byte{tpm.SHA256: unhex(b, "c770b4b7a6a8c48ef7a4fd58fed362470106b4d20d2e8c1dff21362a5fe4f902")}
}

func perEntry(b *testing.B, l *ima.List) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*l.Len()), "ns/entry")
}

func BenchmarkParse(b *testing.B) {
	raw, l, _ := benchmarkList(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ima.Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
	perEntry(b, l)
}

func BenchmarkReplay(b *testing.B) {
	_, l, quoted := benchmarkList(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, rep := l.Replay(quoted, nil); rep.Status != ima.Pass {
			b.Fatal(rep.Detail)
		}
	}
	perEntry(b, l)
}

func BenchmarkJudge(b *testing.B) {
	_, l, quoted := benchmarkList(b)
	_, rep := l.Replay(quoted, nil)
	policy := allowAll(b, l)
	b.ReportAllocs()
	for b.Loop() {
		l.Judge(policy, rep)
	}
	perEntry(b, l)
}
