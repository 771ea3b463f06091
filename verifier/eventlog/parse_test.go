package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Builders of logs, for cases that no machine shows.

func le16(n int) []byte    { return binary.LittleEndian.AppendUint16(nil, uint16(n)) }
func le32(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func legacyRecord(pcr uint32, typ EventType, digest, data []byte) []byte {
	return join(le32(pcr), le32(uint32(typ)), digest, le32(uint32(len(data))), data)
}

func header(algorithms ...tpm.HashAlg) []byte {
	data := join(specIDSignature, le32(0), []byte{0, 2, 0, 2}, le32(uint32(len(algorithms))))
	for _, a := range algorithms {
		size := a.Size()
		if size == 0 {
			size = 32
		}
		data = join(data, le16(int(a)), le16(size))
	}
	return legacyRecord(0, EvNoAction, make([]byte, 20), append(data, 0))
}

func agileRecord(pcr uint32, typ EventType, data []byte, digests ...Digest) []byte {
	out := join(le32(pcr), le32(uint32(typ)), le32(uint32(len(digests))))
	for _, d := range digests {
		out = join(out, le16(int(d.Alg)), d.Bytes)
	}
	return join(out, le32(uint32(len(data))), data)
}

func sum(alg tpm.HashAlg, data []byte) Digest {
	out := make([]byte, alg.Size())
	hashInto(alg, out, data)
	return Digest{alg, out}
}

// event is a record whose digest is the SHA-256 of its data.
func event(pcr uint32, typ EventType, data []byte) []byte {
	return agileRecord(pcr, typ, data, sum(tpm.SHA256, data))
}

func parseOK(t testing.TB, raw []byte) *Log {
	t.Helper()
	log, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func TestEverySpecimenParses(t *testing.T) {
	for _, path := range specimens(t) {
		raw := readSpecimen(t, path)
		log, err := Parse(raw)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if log.Len() == 0 {
			t.Errorf("%s: no records", path)
		}
		if again := serialise(log); !bytes.HasPrefix(raw, again) || notPadding(raw[len(again):]) >= 0 {
			t.Errorf("%s: the records do not add up to the log", path)
		}
		for _, e := range log.Events() {
			if e.Description == "" || e.Key == "" || e.Component == "" {
				t.Errorf("%s: event %d (%v) is not described: %+v", path, e.Index, e.Type, e)
			}
			if len(e.Description) > 6*maxText {
				t.Errorf("%s: event %d: description of %d bytes", path, e.Index, len(e.Description))
			}
		}
	}
}

// serialise writes the records of a log back.
func serialise(log *Log) []byte {
	var out []byte
	for i := range log.segments {
		log.walk(&log.segments[i], func(_ int, r *record) { out = append(out, log.raw[r.offset:r.end]...) })
	}
	return out
}

func TestMalformedSpecimens(t *testing.T) {
	log := mustParse(t, "testdata/eventlogs-malformed/goattest-short_no_action_eventlog")
	if log.Len() != 1 || log.Events()[0].Extended {
		t.Errorf("a log of one EV_NO_ACTION: %+v", log.Events())
	}
	_, err := Parse(readSpecimen(t, "testdata/eventlogs-malformed/keylime-binary_bios_measurements-bogus"))
	var p *ParseError
	if !errors.As(err, &p) {
		t.Fatalf("bogus bytes: %v", err)
	}
}

func TestNoLogIsNoError(t *testing.T) {
	for _, raw := range [][]byte{nil, {}, make([]byte, 100), bytes.Repeat([]byte{0xFF}, 4096), {0}} {
		log, err := Parse(raw)
		if err != nil || !log.Empty() || len(log.Events()) != 0 {
			t.Errorf("%d bytes of padding: %v, %d records", len(raw), err, log.Len())
		}
	}
}

func TestPaddingEndsTheLog(t *testing.T) {
	for _, path := range []string{bootLog("sb-on-1"), "testdata/eventlogs/gce/debian-10.bin"} {
		raw := readSpecimen(t, path)
		want := mustParse(t, path)
		for _, pad := range []byte{0x00, 0xFF} {
			for _, n := range []int{1, 7, 8, 11, 12, 31, 32, 33, 4096} {
				log, err := Parse(append(bytes.Clone(raw), bytes.Repeat([]byte{pad}, n)...))
				if err != nil || log.Len() != want.Len() {
					t.Errorf("%s and %d bytes of 0x%02x: %v", path, n, pad, err)
				}
			}
		}
		if _, err := Parse(append(append(bytes.Clone(raw), make([]byte, 64)...), 'x')); err == nil {
			t.Errorf("%s: data after the padding was accepted", path)
		}
	}
}

func TestVendorData(t *testing.T) {
	raw := readSpecimen(t, "testdata/eventlogs/misc/tpm2-tools-specid-vendordata.bin")
	// The header counts its vendor data neither in its own size; a record follows it all the same.
	log := parseOK(t, append(bytes.Clone(raw), agileRecord(4, EvSeparator, make([]byte, 4), sum(tpm.SHA1, make([]byte, 4)), sum(tpm.SHA256, make([]byte, 4)))...))
	if log.Len() != 2 || log.Events()[1].PCR != 4 || !log.Events()[1].Covered {
		t.Errorf("%+v", log.Events())
	}
	inside := header(tpm.SHA256)
	inside = append(inside[:len(inside)-1], 3, 'a', 'b', 'c')
	binary.LittleEndian.PutUint32(inside[28:], uint32(len(inside)-32))
	if log := parseOK(t, append(inside, event(1, EvSeparator, make([]byte, 4))...)); log.Len() != 2 {
		t.Errorf("%d records", log.Len())
	}
}

func TestUnknownAlgorithmsBySize(t *testing.T) {
	raw := join(header(tpm.SHA256, 0x0099, tpm.SM3),
		agileRecord(7, 0x8401, []byte("?"), sum(tpm.SHA256, []byte("?")), Digest{0x0099, make([]byte, 32)}, Digest{tpm.SM3, make([]byte, 32)}))
	log := parseOK(t, raw)
	e := log.Events()[1]
	if e.Type.String() != "0x00008401" || len(e.Digests) != 3 || !e.Covered {
		t.Errorf("%+v", e)
	}
	if _, _, ok := log.PCR(tpm.SM3, 7); ok {
		t.Error("SM3 is not computed, so it has no replayed value")
	}
}

func TestErrorsNameTheirPlace(t *testing.T) {
	zero4 := make([]byte, 4)
	good := event(0, EvSeparator, zero4)
	head := header(tpm.SHA256)
	n := len(head)
	sha := sum(tpm.SHA256, zero4)
	for _, c := range []struct {
		name   string
		raw    []byte
		offset int
		record int
		detail string
	}{
		{"absurd PCR", join(head, event(24, EvSeparator, zero4)), n, 1, "PCR index 24"},
		{"no PCR but extended", join(head, event(noPCR, EvSeparator, zero4)), n, 1, "PCR index 4294967295"},
		{"no digest", join(head, good, agileRecord(1, EvSeparator, zero4)), n + len(good) + 8, 2, "0 digests"},
		{"too many digests", join(head, agileRecord(1, EvSeparator, zero4, sha, sha)), n + 8, 1, "2 digests"},
		{"4 billion digests", join(head, le32(0), le32(4), le32(0xFFFFFFFF)), n + 8, 1, "4294967295 digests"},
		{"digest of another algorithm", join(head, agileRecord(1, EvSeparator, zero4, sum(tpm.SHA1, zero4))), n + 12, 1, "algorithm 0x0004 is not in the header"},
		{"digest twice", join(header(tpm.SHA1, tpm.SHA256), agileRecord(1, EvSeparator, zero4, sha, sha)), n + 4 + 12 + 34, 1, "two digests"},
		{"cut in the digest", join(head, good[:30]), n + 14, 1, "within a digest"},
		{"cut in the list", join(head, good[:13]), n + 12, 1, "within a list"},
		{"cut before the size", join(head, good[:48]), n + 46, 1, "before the size"},
		{"cut in the data", join(head, good[:len(good)-1]), n + 46, 1, "data of 4 bytes, but only 3"},
		{"data of 4 GB", join(head, good[:46], le32(0xFFFFFFFF)), n + 46, 1, "data of 4294967295 bytes"},
		{"cut in a TCG 1.2 record", []byte("some text"), 0, 0, "too few"},
		{"header of no algorithm", header(), 56, 0, "0 algorithms"},
		{"header of wrong size", corrupt(head, 62, 33), 60, 0, "sha256 digests of 33 bytes"},
		{"header of tiny digests", corrupt(corrupt(head, 60, 0x77), 62, 1), 60, 0, "digests of 1 bytes"},
		{"header with one algorithm twice", header(tpm.SHA256, tpm.SHA256), 64, 0, "twice"},
		{"header with too many algorithms", corrupt(head, 56, 200), 56, 0, "200 algorithms"},
		{"header cut", corrupt(head, 56, 9), 60, 0, "too short for 9"},
		{"header in PCR 99", corrupt(head, 0, 99), 0, 0, "PCR index 99"},
		{"too many logs", bytes.Repeat(head, maxLogs+1), n * maxLogs, maxLogs, "more than 8 logs"},
	} {
		_, err := Parse(c.raw)
		var p *ParseError
		if !errors.As(err, &p) {
			t.Errorf("%s: no error", c.name)
			continue
		}
		if p.Offset != c.offset || p.Record != c.record || !strings.Contains(p.Detail, c.detail) {
			t.Errorf("%s: %v; want record %d at byte %d: …%s…", c.name, p, c.record, c.offset, c.detail)
		}
	}
}

func corrupt(b []byte, at int, value byte) []byte {
	out := bytes.Clone(b)
	out[at] = value
	return out
}

// Every prefix of a log is either a shorter log or refused, and never more than the log.
func TestTruncation(t *testing.T) {
	raw := readSpecimen(t, "testdata/eventlogs/misc/hirs-TpmLog.bin")
	full := parseOK(t, raw).Len()
	for n := range raw {
		if log, err := Parse(raw[:n]); err == nil && log.Len() > full {
			t.Fatalf("%d bytes: %d records", n, log.Len())
		}
	}
}

// maxMemory is what parsing and decoding raw may leave on the heap: 8 times its size, and the PCR
// values of at most 8 logs.
func maxMemory(raw []byte) uint64 { return 8*uint64(len(raw)) + 96<<10 }

func heapOf(f func() any) uint64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	keep := f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(keep)
	if after.HeapAlloc < before.HeapAlloc {
		return 0
	}
	return after.HeapAlloc - before.HeapAlloc
}

// withinMemory tells whether f keeps no more than limit; what it allocates at all is asked first, since
// that is quick.
func withinMemory(limit uint64, f func() any) (used uint64, ok bool) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if after.TotalAlloc-before.TotalAlloc <= limit {
		return 0, true
	}
	used = heapOf(f)
	return used, used <= limit
}

// everything parses, replays, decodes and draws claims, and returns what is kept of it.
func everything(raw []byte) any {
	log, err := Parse(raw)
	if err != nil {
		return err
	}
	m, report := log.replay(claimed(own(log)))
	return []any{log, m, report, m.Claims()}
}

func TestMemoryIsBounded(t *testing.T) {
	tiny := bytes.Repeat(legacyRecord(0, EvIPL, make([]byte, 20), nil), 20000)
	agile := join(header(tpm.SHA256), bytes.Repeat(agileRecord(9, EvIPL, nil, sum(tpm.SHA256, nil)), 20000))
	unknown := header(0x0099)
	binary.LittleEndian.PutUint16(unknown[62:], minDigest)
	unknown = join(unknown, bytes.Repeat(agileRecord(8, EvIPL, nil, Digest{0x0099, make([]byte, minDigest)}), 20000))
	commands := join(header(tpm.SHA256), bytes.Repeat(event(8, EvIPL, append([]byte("grub_cmd: "), bytes.Repeat([]byte{0x80}, 350)...)), 2000))
	list := join(make([]byte, 16), le32(28+17*3000), le32(0), le32(17), make([]byte, 17*3000))
	lists := join(header(tpm.SHA256), event(7, EvEFIVariableDriverConfig, variableData(guidSecurity, "dbx", bytes.Repeat(list, 20))))
	for name, raw := range map[string][]byte{
		"tiny records": tiny, "tiny crypto-agile records": agile, "an unknown algorithm": unknown,
		"unprintable commands": commands, "long lists": lists, "headers alone": bytes.Repeat(header(tpm.SHA1, tpm.SHA256, tpm.SHA384, tpm.SHA512), maxLogs),
	} {
		if used, ok := withinMemory(maxMemory(raw), func() any { return everything(raw) }); !ok {
			t.Errorf("%s: %d bytes for a log of %d", name, used, len(raw))
		}
	}
	for _, path := range specimens(t) {
		raw := readSpecimen(t, path)
		if used, ok := withinMemory(maxMemory(raw), func() any { return everything(raw) }); !ok {
			t.Errorf("%s: %d bytes for a log of %d", path, used, len(raw))
		}
	}
}

func TestParseAllocatesNothingPerEvent(t *testing.T) {
	record := event(4, EvEFIAction, []byte("Calling EFI Application from Boot Option"))
	short := join(header(tpm.SHA256), bytes.Repeat(record, 10))
	long := join(header(tpm.SHA256), bytes.Repeat(record, 1000))
	allocations := func(raw []byte) float64 {
		return testing.AllocsPerRun(20, func() {
			if _, err := Parse(raw); err != nil {
				t.Fatal(err)
			}
		})
	}
	if a, b := allocations(short), allocations(long); a != b {
		t.Errorf("%v allocations for 10 events, %v for 1000", a, b)
	}
}

func TestEventTypeNames(t *testing.T) {
	for typ, want := range map[EventType]string{
		3: "EV_NO_ACTION", 4: "EV_SEPARATOR", 0xD: "EV_IPL", 0x13: "EV_POST_CODE2", 0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
		0x8000000C: "EV_EFI_VARIABLE_BOOT2", 0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB", 0x8401: "0x00008401", 0xFFFFFFFF: "0xFFFFFFFF",
	} {
		if got := typ.String(); got != want {
			t.Errorf("%#x: %s, want %s", uint32(typ), got, want)
		}
	}
}
