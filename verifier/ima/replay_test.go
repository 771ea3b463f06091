package ima_test

import (
	"bytes"
	"crypto"
	"encoding/binary"
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
		p.Allow = append(p.Allow, ima.Allow{Path: ima.EscapeGlob(e.Path), Digests: []string{e.Digest()}})
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

// That a kernel collects appended signatures is known from the first proven entry that has one, and for the rest of the
// boot; an entry that the quote does not prove shows nothing.
func TestCollectedSignaturesAreRemembered(t *testing.T) {
	le := binary.LittleEndian
	digest := append([]byte("sha256:\x00"), bytes.Repeat([]byte{0x11}, 32)...)
	module := func(name string, signature []byte) measured {
		return measured{pcr: 10, template: "ima-modsig", fields: [][]byte{digest, []byte(name + "\x00"), {}, digest, signature}}
	}
	unsigned, signed, file := module("/m/a.ko", nil), module("/m/b.ko", []byte{9}), ng("sha256", bytes.Repeat([]byte{1}, 32), "/bin/sh")
	quoted := func(entries ...measured) map[tpm.HashAlg][]byte {
		return map[tpm.HashAlg][]byte{tpm.SHA256: extend(tpm.SHA256, false, le, entries)}
	}
	for name, c := range map[string]struct {
		list, proven []measured
		want         bool
	}{
		"none signed":                 {[]measured{file, unsigned}, []measured{file, unsigned}, false},
		"one signed":                  {[]measured{unsigned, signed}, []measured{unsigned, signed}, true},
		"signed, but after the quote": {[]measured{unsigned, signed}, []measured{unsigned}, false},
	} {
		next, rep := parse(t, writeBinary(le, crypto.SHA1, c.list)).Replay(quoted(c.proven...), nil)
		if rep.Status != ima.Pass || next.Modsig != c.want {
			t.Errorf("%s: %+v, signatures collected: %t", name, rep, next.Modsig)
		}
	}
	from, _ := parse(t, writeBinary(le, crypto.SHA1, []measured{signed})).Replay(quoted(signed), nil)
	next, rep := parse(t, writeBinary(le, crypto.SHA1, []measured{unsigned})).Replay(quoted(signed, unsigned), &from)
	if rep.Status != ima.Pass || !next.Modsig {
		t.Errorf("not remembered: %+v %+v", rep, next)
	}
}
