package ima_test

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// measured is an entry as a kernel makes it; the writers below are an oracle independent of the parser.
type measured struct {
	pcr       int
	template  string
	fields    [][]byte // as template data
	violation bool
}

func ng(alg string, digest []byte, path string, more ...[]byte) measured {
	return measured{pcr: 10, template: "ima-ng",
		fields: append([][]byte{append([]byte(alg+":\x00"), digest...), append([]byte(path), 0)}, more...)}
}

func (m measured) data(order binary.ByteOrder) []byte {
	var out []byte
	for _, f := range m.fields {
		var n [4]byte
		order.PutUint32(n[:], uint32(len(f)))
		out = append(append(out, n[:]...), f...)
	}
	return out
}

func sum(h crypto.Hash, b []byte) []byte {
	s := h.New()
	s.Write(b)
	return s.Sum(nil)
}

func writeBinary(order binary.ByteOrder, listHash crypto.Hash, entries []measured) []byte {
	var out []byte
	u32 := func(n int) {
		var b [4]byte
		order.PutUint32(b[:], uint32(n))
		out = append(out, b[:]...)
	}
	for _, m := range entries {
		data := m.data(order)
		u32(m.pcr)
		if m.violation {
			out = append(out, make([]byte, listHash.Size())...)
		} else {
			out = append(out, sum(listHash, data)...)
		}
		u32(len(m.template))
		out = append(out, m.template...)
		u32(len(data))
		out = append(out, data...)
	}
	return out
}

// extend gives PCR 10 of a bank after the entries.
func extend(bank tpm.HashAlg, padded bool, order binary.ByteOrder, entries []measured) []byte {
	pcr := make([]byte, bank.Size())
	for _, m := range entries {
		if m.pcr != 10 {
			continue
		}
		h := make([]byte, bank.Size())
		switch {
		case m.violation:
			h = bytes.Repeat([]byte{0xff}, bank.Size())
		case padded:
			copy(h, sum(crypto.SHA1, m.data(order)))
		default:
			h = sum(bank.Hash(), m.data(order))
		}
		pcr = sum(bank.Hash(), append(pcr, h...))
	}
	return pcr
}

func someEntries(t *rapid.T) []measured {
	n := rapid.IntRange(1, 30).Draw(t, "n")
	out := make([]measured, n)
	for i := range out {
		out[i] = ng("sha256", rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest"), fmt.Sprintf("/file/%d", i))
		out[i].violation = rapid.IntRange(0, 5).Draw(t, "violation") == 0
		if rapid.IntRange(0, 9).Draw(t, "elsewhere") == 0 {
			out[i].pcr = 11
		}
	}
	out[0].violation, out[0].pcr = false, 10
	return out
}

// Reading in two steps ends where reading at once ends, and the same list may be cut anywhere.
func TestIncrementalEqualsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := someEntries(t)
		order := binary.ByteOrder(binary.LittleEndian)
		if rapid.Bool().Draw(t, "big") {
			order = binary.BigEndian
		}
		padded := rapid.Bool().Draw(t, "padded")
		quote := func(n int) map[tpm.HashAlg][]byte {
			return map[tpm.HashAlg][]byte{
				tpm.SHA1:   extend(tpm.SHA1, false, order, entries[:n]),
				tpm.SHA256: extend(tpm.SHA256, padded, order, entries[:n]),
				tpm.SHA384: extend(tpm.SHA384, !padded, order, entries[:n]),
			}
		}
		read := func(from, to int) *ima.List {
			l, err := ima.Parse(writeBinary(order, crypto.SHA1, entries[from:to]))
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		whole, rep := read(0, len(entries)).Replay(quote(len(entries)), nil)
		if rep.Status != ima.Pass {
			t.Fatalf("whole: %+v", rep)
		}
		cut := rapid.IntRange(1, len(entries)).Draw(t, "cut")
		first, rep := read(0, len(entries)).Replay(quote(cut), nil)
		if rep.Status != ima.Pass || rep.Matched > cut || rep.Matched+rep.Beyond != len(entries) {
			t.Fatalf("first: %+v", rep)
		}
		second, rep := read(first.Entries, len(entries)).Replay(quote(len(entries)), &first)
		if rep.Status != ima.Pass || rep.First != first.Entries {
			t.Fatalf("second: %+v", rep)
		}
		if second.Entries != whole.Entries || !maps.EqualFunc(second.PCR, whole.PCR, bytes.Equal) || !maps.Equal(second.Padded, whole.Padded) {
			t.Fatalf("%+v\n%+v", second, whole)
		}
	})
}

// A list shorter than the quote, in another order, with an entry dropped or added, or changed anywhere
// in what is hashed, does not replay.
func TestChangedListsFail(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := someEntries(t)
		for i := range entries {
			entries[i].pcr, entries[i].violation = 10, false
		}
		quoted := map[tpm.HashAlg][]byte{tpm.SHA256: extend(tpm.SHA256, false, binary.LittleEndian, entries)}
		at := rapid.IntRange(0, len(entries)-1).Draw(t, "at")
		changed := append([]measured(nil), entries...)
		switch rapid.SampledFrom([]string{"cut", "drop", "insert", "swap", "violate", "move"}).Draw(t, "how") {
		case "cut":
			changed = changed[:at]
		case "drop":
			changed = append(changed[:at], changed[at+1:]...)
		case "insert":
			changed = append(changed[:at], append([]measured{ng("sha256", make([]byte, 32), "/evil")}, entries[at:]...)...)
		case "swap":
			other := rapid.IntRange(0, len(entries)-1).Draw(t, "other")
			if other == at {
				return
			}
			changed[at], changed[other] = changed[other], changed[at]
		case "violate":
			changed[at].violation = true
		case "move":
			changed[at].pcr = 11
		}
		l, err := ima.Parse(writeBinary(binary.LittleEndian, crypto.SHA1, changed))
		if err != nil {
			t.Fatal(err)
		}
		if next, rep := l.Replay(quoted, nil); rep.Status == ima.Pass || next.Entries != 0 {
			t.Fatalf("%+v", rep)
		}
	})
}

// Any byte flipped in a real list: it is no list any more, or does not replay, or the flip was in the
// template's name, which nothing covers and which Judge then reports.
func TestFlippedBytes(t *testing.T) {
	for _, variant := range []string{"ima-tcb-1", "ima-critical", "ima-ng"} {
		raw := binaryList(t, variant)
		quoted := quotedPCR10(banks(t, variant))
		whole := parse(t, raw)
		allow := allowAll(t, whole)
		_, rep := whole.Replay(quoted, nil)
		if j := whole.Judge(allow, rep); j.Unexpected != 0 {
			t.Fatalf("%s: %+v", variant, j.Findings)
		}
		accepted := 0
		for i := range raw {
			flipped := bytes.Clone(raw)
			flipped[i] ^= 0x01
			l, err := ima.Parse(flipped)
			if err != nil {
				continue
			}
			_, rep := l.Replay(quoted, nil)
			if rep.Status != ima.Pass {
				continue
			}
			accepted++
			if j := l.Judge(allow, rep); j.Unexpected == 0 {
				t.Errorf("%s: byte %d flipped is not noticed", variant, i)
			}
		}
		if accepted > whole.Len()*len("ima-sig") {
			t.Errorf("%s: %d flips replay", variant, accepted)
		}
	}
}

// allowAll allows exactly the files of a list.
func allowAll(t testing.TB, l *ima.List) *ima.CompiledPolicy {
	t.Helper()
	var p ima.Policy
	for i := range l.Len() {
		e := l.Entry(i)
		p.Allow = append(p.Allow, ima.Allow{Path: strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`).Replace(e.Path), Digests: []string{e.Digest()}})
	}
	c, err := p.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStatedTemplateHashMustFit(t *testing.T) {
	raw := bytes.Clone(binaryList(t, "sb-on-1"))
	raw[4] ^= 1 // the first entry's SHA-1; no quoted bank depends on it
	quoted := quotedPCR10(banks(t, "sb-on-1"))
	_, rep := parse(t, raw).Replay(map[tpm.HashAlg][]byte{tpm.SHA256: quoted[tpm.SHA256]}, nil)
	if rep.Status != ima.Fail || rep.Matched != 0 || !strings.Contains(rep.Detail, "entry 0") {
		t.Errorf("%+v", rep)
	}
}

func TestBanksMustAgree(t *testing.T) {
	entries := []measured{ng("sha256", make([]byte, 32), "/a"), ng("sha256", make([]byte, 32), "/b")}
	l := parse(t, writeBinary(binary.LittleEndian, crypto.SHA1, entries))
	_, rep := l.Replay(map[tpm.HashAlg][]byte{
		tpm.SHA1:   extend(tpm.SHA1, false, binary.LittleEndian, entries[:1]),
		tpm.SHA256: extend(tpm.SHA256, false, binary.LittleEndian, entries),
	}, nil)
	if rep.Status != ima.Fail || !strings.Contains(rep.Detail, "different numbers") {
		t.Errorf("%+v", rep)
	}
}

// A bank may not change between its own hash and the padded one.
func TestPaddingIsNotMixed(t *testing.T) {
	a, b := ng("sha256", make([]byte, 32), "/a"), ng("sha256", make([]byte, 32), "/b")
	pcr := extend(tpm.SHA256, false, binary.LittleEndian, []measured{a})
	mixed := sum(crypto.SHA256, append(bytes.Clone(pcr), append(sum(crypto.SHA1, b.data(binary.LittleEndian)), make([]byte, 12)...)...))
	l := parse(t, writeBinary(binary.LittleEndian, crypto.SHA1, []measured{a, b}))
	if _, rep := l.Replay(map[tpm.HashAlg][]byte{tpm.SHA256: mixed}, nil); rep.Status != ima.Fail {
		t.Errorf("%+v", rep)
	}
	from, rep := parse(t, writeBinary(binary.LittleEndian, crypto.SHA1, []measured{a})).Replay(map[tpm.HashAlg][]byte{tpm.SHA256: pcr}, nil)
	if rep.Status != ima.Pass {
		t.Fatalf("%+v", rep)
	}
	rest := parse(t, writeBinary(binary.LittleEndian, crypto.SHA1, []measured{b}))
	if _, rep := rest.Replay(map[tpm.HashAlg][]byte{tpm.SHA256: mixed}, &from); rep.Status != ima.Fail {
		t.Errorf("%+v", rep)
	}
}

func TestNothingProven(t *testing.T) {
	entries := []measured{ng("sha256", make([]byte, 32), "/a")}
	l := parse(t, writeBinary(binary.LittleEndian, crypto.SHA1, entries))
	empty := parse(t, nil)
	full := extend(tpm.SHA256, false, binary.LittleEndian, entries)
	state := &ima.State{Entries: 1, PCR: map[string][]byte{"sha256": full}}
	for _, c := range []struct {
		name   string
		list   *ima.List
		quoted map[tpm.HashAlg][]byte
		from   *ima.State
		want   ima.Status
	}{
		{"no quote of PCR 10", l, nil, nil, ima.Unsupported},
		{"bank not computed", l, map[tpm.HashAlg][]byte{tpm.SM3: make([]byte, 32)}, nil, ima.Unsupported},
		{"value of a wrong length", l, map[tpm.HashAlg][]byte{tpm.SHA256: full[:31]}, nil, ima.Fail},
		{"entries, but PCR never extended", l, map[tpm.HashAlg][]byte{tpm.SHA256: make([]byte, 32)}, nil, ima.Fail},
		{"PCR extended, but no entries", empty, map[tpm.HashAlg][]byte{tpm.SHA256: full}, nil, ima.Fail},
		{"nothing at all", empty, map[tpm.HashAlg][]byte{tpm.SHA256: make([]byte, 32)}, nil, ima.Pass},
		{"nothing new", empty, map[tpm.HashAlg][]byte{tpm.SHA256: full}, state, ima.Pass},
		{"another bank than before", empty, map[tpm.HashAlg][]byte{tpm.SHA1: make([]byte, 20)}, state, ima.Unsupported},
		{"whole list sent again", l, map[tpm.HashAlg][]byte{tpm.SHA256: bytes.Repeat([]byte{7}, 32)}, state, ima.Fail},
	} {
		_, rep := c.list.Replay(c.quoted, c.from)
		if rep.Status != c.want || rep.Matched != 0 || rep.Detail == "" {
			t.Errorf("%s: %+v", c.name, rep)
		}
		if rep.NeedWhole != (c.name == "another bank than before") {
			t.Errorf("%s: NeedWhole %v", c.name, rep.NeedWhole)
		}
	}
}

// Violations extend all ones.
func TestViolations(t *testing.T) {
	entries := []measured{ng("sha256", make([]byte, 32), "/a"), ng("sha256", make([]byte, 32), "/b")}
	entries[1].violation = true
	l := parse(t, writeBinary(binary.LittleEndian, crypto.SHA1, entries))
	_, rep := l.Replay(map[tpm.HashAlg][]byte{tpm.SHA256: extend(tpm.SHA256, false, binary.LittleEndian, entries)}, nil)
	if rep.Status != ima.Pass || rep.Violations != 1 || !l.Entry(1).Violation {
		t.Errorf("%+v", rep)
	}
}

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
