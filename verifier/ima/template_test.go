package ima_test

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Template data that does not read as its template says gives no digest and no path, replays, and is
// reported: the template's name is covered by nothing, so a wrong one must not make an entry readable
// as something else.
func TestFaults(t *testing.T) {
	d := append([]byte("sha256:\x00"), make([]byte, 32)...)
	n := []byte("/usr/bin/x\x00")
	for _, c := range []struct {
		name, template string
		fields         [][]byte
		want           string
	}{
		{"NUL within the name", "ima-ng", [][]byte{d, []byte("/a\x00/b\x00")}, "holds a NUL"},
		{"name without NUL", "ima-ng", [][]byte{d, []byte("/a")}, "does not end with NUL"},
		{"digest too short", "ima-ng", [][]byte{d[:39], n}, "32 bytes long, not 31"},
		{"digest without algorithm", "ima-ng", [][]byte{make([]byte, 32), n}, "begin with its algorithm"},
		{"typed digest in an untyped template", "ima-ng", [][]byte{append([]byte("verity:"), d...), n}, "does not fit its template"},
		{"untyped digest in a typed template", "ima-ngv2", [][]byte{d, n}, "does not fit its template"},
		{"a type that is none", "ima-ngv2", [][]byte{append([]byte("other:"), d...), n}, "neither ima nor verity"},
		{"a field too many", "ima-ng", [][]byte{d, n, {1}}, "follow the last field"},
		{"a field too few", "ima-sig", [][]byte{d, n}, "field 3 of 3 is missing"},
		{"owner of two bytes", "d-ng|n-ng|iuid", [][]byte{d, n, {1, 2}}, "owner"},
		{"mode of four bytes", "d-ng|n-ng|imode", [][]byte{d, n, {1, 2, 3, 4}}, "mode"},
		{"fields in another order", "n-ng|d-ng", [][]byte{n, d}, "not known"},
		{"two digests", "d-ng|n-ng|d-ng", [][]byte{d, n, d}, "not known"},
		{"one field", "d-ng", [][]byte{d}, "not known"},
		{"short signature", "ima-sig", [][]byte{d, n, {3, 2, 4}}, "shorter than its header"},
	} {
		m := measured{pcr: 10, template: c.template, fields: c.fields}
		l := parse(t, writeBinary(binary.LittleEndian, crypto.SHA1, []measured{m, m}))
		_, rep := l.Replay(map[tpm.HashAlg][]byte{tpm.SHA256: extend(tpm.SHA256, false, binary.LittleEndian, []measured{m, m})}, nil)
		if rep.Status != ima.Pass {
			t.Errorf("%s: %+v", c.name, rep)
		}
		e := l.Entry(0)
		if !strings.Contains(e.Fault, c.want) {
			t.Errorf("%s: fault %q", c.name, e.Fault)
		}
		if (e.Path != "" || len(e.FileDigest) > 0) && c.name != "short signature" {
			t.Errorf("%s: %+v", c.name, e)
		}
		everything, err := (&ima.Policy{Allow: []ima.Allow{{Path: "**", Digests: []string{"sha256:" + strings.Repeat("00", 32)}}}}).Compile()
		if err != nil {
			t.Fatal(err)
		}
		if j := l.Judge(everything, rep); j.Unexpected != 2 {
			t.Errorf("%s: %+v", c.name, j)
		}
	}
}

// In the old template a name after a longer one is padded with zeros again.
func TestOldTemplateNamesOfSeveralLengths(t *testing.T) {
	pcr := make([]byte, 32)
	var raw []byte
	for _, path := range []string{"/usr/lib/a-long-name", "/init", strings.Repeat("x", 255)} {
		hashed := make([]byte, 20+256)
		copy(hashed[20:], path)
		raw = binary.LittleEndian.AppendUint32(raw, 10)
		raw = append(raw, sum(crypto.SHA1, hashed)...)
		raw = append(binary.LittleEndian.AppendUint32(raw, 3), "ima"...)
		raw = append(raw, make([]byte, 20)...)
		raw = append(binary.LittleEndian.AppendUint32(raw, uint32(len(path))), path...)
		pcr = sum(crypto.SHA256, append(bytes.Clone(pcr), sum(crypto.SHA256, hashed)...))
	}
	if _, rep := parse(t, raw).Replay(map[tpm.HashAlg][]byte{tpm.SHA256: pcr}, nil); rep.Status != ima.Pass || rep.Matched != 3 {
		t.Errorf("%+v", rep)
	}
}
