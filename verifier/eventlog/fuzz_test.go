package eventlog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// FuzzParse: no input panics, takes more memory than its bound, or parses to records that are not in it;
// what parses replays to its own values.
func FuzzParse(f *testing.F) {
	for _, path := range specimens(f) {
		if raw := readSpecimen(f, path); len(raw) <= 64<<10 {
			f.Add(raw)
		}
	}
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		log, err := Parse(raw)
		if err != nil {
			return
		}
		again := serialise(log)
		if !bytes.HasPrefix(raw, again) || notPadding(raw[len(again):]) >= 0 {
			t.Fatalf("the records do not add up to the log")
		}
		events := log.Events()
		if len(events) != log.Len() {
			t.Fatalf("%d events of %d records", len(events), log.Len())
		}
		for _, e := range events {
			if !utf8.ValidString(e.Description) || !utf8.ValidString(e.Key) || len(e.Description) > 6*maxText || e.PCR < 0 || e.PCR >= tpm.NumPCRs {
				t.Fatalf("event %d: %+v", e.Index, e)
			}
		}
		m, report := log.replay(claimed(own(log)))
		if pcrs := own(log); len(pcrs) > 0 && !log.Empty() && report.Outcome != Replayed {
			t.Fatalf("a log does not replay to its own values: %s", report.Detail)
		}
		if _, err := json.Marshal(m.Claims()); err != nil {
			t.Fatal(err)
		}
		if used, ok := withinMemory(maxMemory(raw), func() any { return everything(raw) }); !ok {
			t.Fatalf("%d bytes for a log of %d", used, len(raw))
		}
	})
}

// FuzzReplayMutations changes one place of a true log: it must not lead to more than the true one.
func FuzzReplayMutations(f *testing.F) {
	raw := readSpecimen(f, bootLog("mok-signed"))
	log := parseOK(f, raw)
	pcrs := own(log)
	m, _ := log.replay(claimed(pcrs))
	truth := m.Claims()
	for _, e := range log.Events() {
		f.Add(uint32(e.Offset), []byte{1, 0, 0, 0}, false)
		f.Add(uint32(e.Offset+4), []byte{0xD, 0, 0, 0}, false)
		f.Add(uint32(e.Offset), raw[:73], true)
	}
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, insert bool) {
		if int(at) > len(raw) || len(patch) > 4096 {
			return
		}
		end := int(at)
		if !insert {
			end = min(len(raw), int(at)+len(patch))
		}
		noBetter(t, "mutation", join(raw[:at], patch, raw[end:]), pcrs, truth)
	})
}

// FuzzDecoders runs the parsers of event data on any data.
func FuzzDecoders(f *testing.F) {
	for _, path := range []string{bootLog("sb-on-1"), bootLog("uki-sdboot-1"), "testdata/quotes/guard-supermicro-win2022-a/eventlog.bin", "testdata/eventlogs/gce/gdc-host.bin"} {
		for _, e := range mustParse(f, path).Events() {
			f.Add(e.Data)
			if v, ok := parseVariable(e.Data); ok {
				f.Add(v.value)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if v, ok := parseVariable(data); ok {
			if again := variableData(v.vendor, utf16String(v.name), v.value); !bytes.Equal(again, data[:len(data)-v.extra]) {
				t.Fatalf("variable: %x", again)
			}
		}
		total := 0
		if walkSignatures(data, func(_ string, owner, entry []byte) { total += len(owner) + len(entry) }) == nil && total > len(data) {
			t.Fatalf("signature entries of %d bytes in %d", total, len(data))
		}
		leaves := 0
		if walkSIPA(data, func(_ int, id uint32, value []byte) {
			if id&sipaAggregation == 0 {
				leaves += 8 + len(value)
			}
		}); leaves > len(data) {
			t.Fatalf("Windows events of %d bytes in %d", leaves, len(data))
		}
		if table, ok := parseGPT(data); ok && len(table.Partitions)*128 > len(data) {
			t.Fatalf("%d partitions in %d bytes", len(table.Partitions), len(data))
		}
		for _, s := range []string{devicePath(data), filePath(data), certificateName(data), authority(data).describe(), versionText(data), text(data), printable(string(data))} {
			if len(s) > maxText+len("…")+100 {
				t.Fatalf("text of %d bytes", len(s))
			}
		}
		if o, ok := parseLoadOption(data); ok && len(o.path)+len(o.options) > len(data) {
			t.Fatal("boot option longer than its data")
		}
		w := windowsReader{modules: map[string]int{}}
		w.read(data)
		for _, typ := range []EventType{EvPostCode, EvEFIHandoffTables, EvEFIHandoffTables2, EvEFIPlatformFirmwareBlob2, EvIPL, EvEFIBootServicesDriver, EvEventTag, EvNoAction} {
			for pcr := range 16 {
				e := Event{PCR: pcr, Type: typ, Data: data, Extended: typ != EvNoAction, Digests: []Digest{sum(tpm.SHA256, data)}}
				new(decoder).decode(&e)
				if e.Description == "" || e.Component == "" || len(data) < 1<<10 && len(e.Key) > 6*maxText {
					t.Fatalf("%+v", e)
				}
			}
		}
		if len(data) >= 4 && binary.LittleEndian.Uint32(data) == 0 {
			_ = bootOrder(data)
		}
	})
}
