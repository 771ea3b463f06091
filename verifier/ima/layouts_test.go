package ima_test

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Lists of other hashes and byte orders read the same.
func TestOtherLayouts(t *testing.T) {
	entries := []measured{ng("sha256", bytes.Repeat([]byte{1}, 32), "boot_aggregate"), ng("sha256", bytes.Repeat([]byte{2}, 32), "/init")}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			l := parse(t, writeBinary(order, h, entries))
			_, rep := l.Replay(map[tpm.HashAlg][]byte{tpm.SHA256: extend(tpm.SHA256, false, order, entries)}, nil)
			if rep.Status != ima.Pass || l.Entry(1).Path != "/init" {
				t.Errorf("%v %v: %+v", order, h, rep)
			}
		}
		// The ASCII list of a big-endian machine: the order shows only in the hash.
		var text strings.Builder
		for _, m := range entries {
			fmt.Fprintf(&text, "10 %x ima-ng sha256:%x %s\n", sum(crypto.SHA1, m.data(order)), m.fields[0][8:], bytes.TrimRight(m.fields[1], "\x00"))
		}
		_, rep := parse(t, []byte(text.String())).Replay(map[tpm.HashAlg][]byte{tpm.SHA256: extend(tpm.SHA256, false, order, entries)}, nil)
		if rep.Status != ima.Pass {
			t.Errorf("ascii %v: %+v", order, rep)
		}
	}
}

// The old template ima: a bare SHA-1 digest, and a name that is hashed padded to 256 bytes.
func TestOldTemplate(t *testing.T) {
	digest, path := bytes.Repeat([]byte{0xab}, 20), "/sbin/init"
	hashed := append(bytes.Clone(digest), make([]byte, 256)...)
	copy(hashed[20:], path)
	var raw []byte
	raw = binary.LittleEndian.AppendUint32(raw, 10)
	raw = append(raw, sum(crypto.SHA1, hashed)...)
	raw = append(binary.LittleEndian.AppendUint32(raw, 3), "ima"...)
	raw = append(raw, digest...)
	raw = append(binary.LittleEndian.AppendUint32(raw, uint32(len(path))), path...)
	ascii := fmt.Sprintf("10 %x ima %x %s\n", sum(crypto.SHA1, hashed), digest, path)
	quoted := map[tpm.HashAlg][]byte{tpm.SHA256: sum(crypto.SHA256, append(make([]byte, 32), sum(crypto.SHA256, hashed)...))}
	for _, b := range [][]byte{raw, []byte(ascii)} {
		l := parse(t, b)
		_, rep := l.Replay(quoted, nil)
		e := l.Entry(0)
		if rep.Status != ima.Pass || e.Path != path || e.Digest() != "sha1:"+strings.Repeat("ab", 20) {
			t.Errorf("%+v %+v", rep, e)
		}
	}
}

// A template that is not known is replayed as data. In an ASCII list only the SHA-1 bank can be.
func TestUnknownTemplate(t *testing.T) {
	m := ng("sha256", make([]byte, 32), "/a")
	m.template = "vendor-x"
	quoted := map[tpm.HashAlg][]byte{tpm.SHA256: extend(tpm.SHA256, false, binary.LittleEndian, []measured{m})}
	l := parse(t, writeBinary(binary.LittleEndian, crypto.SHA1, []measured{m}))
	_, rep := l.Replay(quoted, nil)
	if rep.Status != ima.Pass || l.Entry(0).Fault == "" || l.Entry(0).Path != "" {
		t.Errorf("%+v %+v", rep, l.Entry(0))
	}
	c, err := (&ima.Policy{Exclude: []string{".*"}}).Compile()
	if err != nil {
		t.Fatal(err)
	}
	if j := l.Judge(c, rep); j.Unexpected != 1 {
		t.Errorf("%+v", j)
	}
	ascii := parse(t, fmt.Appendf(nil, "10 %x vendor-x some text\n", sum(crypto.SHA1, m.data(binary.LittleEndian))))
	if _, rep := ascii.Replay(quoted, nil); rep.Status != ima.Unsupported {
		t.Errorf("%+v", rep)
	}
	quoted = map[tpm.HashAlg][]byte{tpm.SHA1: extend(tpm.SHA1, false, binary.LittleEndian, []measured{m})}
	if _, rep := ascii.Replay(quoted, nil); rep.Status != ima.Pass {
		t.Errorf("%+v", rep)
	}
}

func TestTemplates(t *testing.T) {
	d := append([]byte("sha256:\x00"), bytes.Repeat([]byte{0x11}, 32)...)
	d2 := append([]byte("verity:sha256:\x00"), bytes.Repeat([]byte{0x11}, 32)...)
	n := []byte("/usr/bin/x\x00")
	le := binary.LittleEndian
	for _, c := range []struct {
		template string
		fields   [][]byte
		ascii    string // after the template's name
	}{
		{"ima-ng", [][]byte{d, n}, "sha256:" + strings.Repeat("11", 32) + " /usr/bin/x"},
		{"ima-ngv2", [][]byte{d2, n}, "verity:sha256:" + strings.Repeat("11", 32) + " /usr/bin/x"},
		{"ima-sigv2", [][]byte{d2, n, {1, 2}}, "verity:sha256:" + strings.Repeat("11", 32) + " /usr/bin/x 0102"},
		{"ima-modsig", [][]byte{d, n, {}, d, {9}}, "sha256:" + strings.Repeat("11", 32) + " /usr/bin/x  sha256:" + strings.Repeat("11", 32) + " 09"},
		{"evm-sig", [][]byte{d, n, {2, 3}, []byte("security.ima\x00"), {1, 0, 0, 0}, {0xff}, le.AppendUint32(nil, 1000), le.AppendUint32(nil, 0), le.AppendUint16(nil, 0o100755)},
			"sha256:" + strings.Repeat("11", 32) + " /usr/bin/x 0203 security.ima 01000000 ff 1000 0 33261"},
		{"d-ng|n-ng|sig|iuid", [][]byte{d, n, {}, le.AppendUint32(nil, 7)}, "sha256:" + strings.Repeat("11", 32) + " /usr/bin/x  7"},
	} {
		m := measured{pcr: 10, template: c.template, fields: c.fields}
		bin := parse(t, writeBinary(le, crypto.SHA1, []measured{m}))
		asc := parse(t, fmt.Appendf(nil, "10 %x %s %s\n", sum(crypto.SHA1, m.data(le)), c.template, c.ascii))
		quoted := map[tpm.HashAlg][]byte{tpm.SHA512: extend(tpm.SHA512, false, le, []measured{m})}
		for _, l := range []*ima.List{bin, asc} {
			_, rep := l.Replay(quoted, nil)
			e := l.Entry(0)
			if rep.Status != ima.Pass || e.Fault != "" || e.Path != "/usr/bin/x" {
				t.Errorf("%s: %s %+v", c.template, rep.Detail, e)
			}
			if want := strings.HasSuffix(c.template, "v2"); want != strings.HasPrefix(e.Digest(), "verity:sha256:") {
				t.Errorf("%s: %s", c.template, e.Digest())
			}
		}
	}
}

func TestParseErrors(t *testing.T) {
	good := binaryList(t, "sb-on-1")
	for _, c := range []struct{ name, raw, want string }{
		{"text of something else", "hello world", "line 1"},
		{"PCR 24", "24 " + strings.Repeat("00", 20) + " ima-ng x y\n", "line 1"},
		{"odd hex", "10 " + strings.Repeat("0", 41) + " ima-ng x y\n", "line 1"},
		{"not hex", "10 " + strings.Repeat("zz", 20) + " ima-ng sha1:00 /a\n", "line 1"},
		{"second line", string(asciiList(t, "sb-on-1")[:180]) + "\x01\n", "line 2"},
		{"empty line", "\n10 x", "byte 0"},
		{"too many fields", "10 " + strings.Repeat("00", 20) + " ima-sig sha1:" + strings.Repeat("00", 20) + " /a 00 11\n", "last field"},
		{"hashes of two sizes", "10 " + strings.Repeat("00", 20) + " ima-ng sha1:00 /a\n10 " + strings.Repeat("00", 32) + " ima-ng sha1:00 /a\n", "line 2"},
		{"cut within an entry", string(good[:len(good)-1]), "are left"},
		{"cut within a header", string(good[:len(good)-60]), "entry 12"},
		{"garbage", "\x00\x01\x02\x03", "byte 0"},
	} {
		_, err := ima.Parse([]byte(c.raw))
		var pe *ima.ParseError
		if !errors.As(err, &pe) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// What is left after skipping is the list of the later entries, in both formats.
func TestSkip(t *testing.T) {
	for _, raw := range [][]byte{binaryList(t, "ima-tcb-1"), asciiList(t, "ima-tcb-1")} {
		whole := parse(t, raw)
		for n := 0; n <= whole.Len(); n++ {
			rest, err := ima.Skip(raw, n)
			if err != nil {
				t.Fatal(err)
			}
			l := parse(t, rest)
			if l.Len() != whole.Len()-n {
				t.Fatalf("%d entries after skipping %d of %d", l.Len(), n, whole.Len())
			}
			if l.Len() > 0 && l.Entry(0).Path != whole.Entry(n).Path {
				t.Errorf("entry %d: %s", n, l.Entry(0).Path)
			}
		}
		if _, err := ima.Skip(raw, whole.Len()+1); err == nil {
			t.Error("more is skipped than there is")
		}
	}
	if _, err := ima.Skip([]byte("\x00garbage"), 1); err == nil {
		t.Error("garbage is skipped")
	}
	if _, err := ima.Skip(nil, 1); err == nil {
		t.Error("an empty list has no entry to skip")
	}
}
