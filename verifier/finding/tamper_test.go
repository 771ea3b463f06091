package finding_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/boottest"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// A liar is a machine that has something to hide: its true log, and what the catalogue says of it.
type liar struct {
	name    string
	raw     []byte
	records [][]byte // the header first
	raised  []string // codes of kernel and Windows
}

// told is what the catalogue says of evidence: the codes that it raises and those that it settles.
func toldBy(ev *verifier.Evidence, in verifier.Inputs) (raised, settled []string) {
	a := verifier.Appraise(ev, in)
	result := finding.Derive(finding.Input{Appraisal: a, Policy: verifier.DefaultPolicy(), Now: boottest.At})
	for _, code := range result.EvaluatedRecommendations {
		if area := finding.By(code).Area; area != "kernel" && area != "windows" {
			continue
		}
		if slices.ContainsFunc(result.Recommendations, func(r finding.Recommendation) bool { return r.Code == code }) {
			raised = append(raised, code)
		} else {
			settled = append(settled, code)
		}
	}
	return raised, settled
}

func liars(t *testing.T) []liar {
	t.Helper()
	windows := boottest.Read(t, "../eventlog/testdata/quotes/guard-supermicro-win2022-a/eventlog.bin")
	var out []liar
	for name, raw := range map[string][]byte{
		"cmdline": boottest.Read(t, "../../integration/testdata/boots/cmdline/evidence/binary_bios_measurements"),
		"h12ssl":  boottest.Read(t, "../eventlog/testdata/eventlogs/baremetal/guard-set-h12ssl-values/eventlog.bin"),
		"arch":    boottest.Read(t, "../eventlog/testdata/eventlogs/gce/arch-linux-workstation.bin"),
		"windows": measured(t, measured(t, windows, 0x00050003, []byte{1}), 0x00050002, []byte{0}),
	} {
		l := liar{name: name, raw: raw}
		log, err := eventlog.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		events := log.Events()
		for i := range events {
			end := len(raw)
			if i+1 < len(events) {
				end = events[i+1].Offset
			}
			l.records = append(l.records, raw[events[i].Offset:end])
		}
		l.raised, _ = toldBy(boottest.Evidence(t, raw))
		if len(l.raised) == 0 {
			t.Fatalf("%s has nothing to hide", name)
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b liar) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
	return out
}

// retold is the evidence of the liar with another log over the same quote.
func (l *liar) retold(t *testing.T, log []byte) (*verifier.Evidence, verifier.Inputs) {
	ev, in := boottest.Evidence(t, l.raw)
	ev.EventLog = log
	in.Log, in.LogFault = nil, ""
	parsed, err := eventlog.Parse(log)
	if err != nil {
		in.LogFault = err.Error()
	} else {
		in.Log = parsed
	}
	return ev, in
}

// Whatever the log tells of what was measured (retyped, repeated, left out, moved, changed), no finding of kernel or
// Windows is said to have ended, and none is raised that the true log does not raise.
func TestRetoldLogsChangeNoFinding(t *testing.T) {
	all := liars(t)
	rapid.Check(t, func(rt *rapid.T) {
		l := all[rapid.IntRange(0, len(all)-1).Draw(rt, "liar")]
		records := slices.Clone(l.records)
		for range rapid.IntRange(1, 3).Draw(rt, "changes") {
			i := rapid.IntRange(1, len(records)-1).Draw(rt, "record")
			switch rapid.IntRange(0, 5).Draw(rt, "kind") {
			case 0: // retyped
				records[i] = bytes.Clone(records[i])
				binary.LittleEndian.PutUint32(records[i][4:], rapid.SampledFrom([]uint32{3, 4, 5, 6, 0xD, 0x80000003, 0x800000E0, 0x8401}).Draw(rt, "type"))
			case 1: // its data changed
				at := rapid.IntRange(0, len(records[i])-1).Draw(rt, "at")
				records[i] = bytes.Clone(records[i])
				records[i][at] ^= rapid.Byte().Draw(rt, "with")
			case 2: // again
				at := rapid.IntRange(1, len(records)).Draw(rt, "to")
				records = slices.Insert(records, at, records[i])
			case 3: // left out
				if len(records) > 2 {
					records = slices.Delete(records, i, i+1)
				}
			case 4: // swapped
				j := rapid.IntRange(1, len(records)-1).Draw(rt, "other")
				records[i], records[j] = records[j], records[i]
			case 5: // moved to the end
				r := records[i]
				records = append(slices.Delete(records, i, i+1), r)
			}
		}
		raised, settled := toldBy(l.retold(t, bytes.Join(records, nil)))
		for _, code := range l.raised {
			if slices.Contains(settled, code) {
				rt.Fatalf("%s: %s is said to have ended", l.name, code)
			}
		}
		for _, code := range raised {
			if !slices.Contains(l.raised, code) {
				rt.Fatalf("%s: %s appears", l.name, code)
			}
		}
	})
}

// extension is a record of somebody who extends a PCR after the boot, in all banks of the log.
func extension(log *eventlog.Log, pcr uint32, typ eventlog.EventType, data, hashed []byte) []byte {
	out := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, pcr), uint32(typ))
	out = binary.LittleEndian.AppendUint32(out, uint32(len(log.Banks())))
	for _, alg := range log.Banks() {
		h := alg.Hash().New()
		h.Write(hashed)
		out = h.Sum(binary.LittleEndian.AppendUint16(out, uint16(alg)))
	}
	return append(binary.LittleEndian.AppendUint32(out, uint32(len(data))), data...)
}

// Whoever is root after the boot extends what he likes and adds it to the log: what was raised of the boot stays.
func TestExtendedAfterTheBootEndsNoFinding(t *testing.T) {
	wide := func(s string) []byte {
		out := make([]byte, 0, 2*len(s)+2)
		for _, c := range []byte(s) {
			out = append(out, c, 0)
		}
		return append(out, 0, 0)
	}
	sipa := func(id uint32, value byte) []byte {
		body := append(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, id), 1), value)
		return append(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, 0x40010001), uint32(len(body))), body...)
	}
	tag := append(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, 0x8F3B22ED), 4), "opt\x00"...)
	all := liars(t)
	rapid.Check(t, func(rt *rapid.T) {
		l := all[rapid.IntRange(0, len(all)-1).Draw(rt, "liar")]
		log, err := eventlog.Parse(l.raw)
		if err != nil {
			rt.Fatal(err)
		}
		if slices.Contains(log.Banks(), tpm.SHA1) && len(log.Banks()) == 1 {
			return // the format of TPM 1.2 has other records
		}
		raw := slices.Clone(l.raw)
		for range rapid.IntRange(1, 4).Draw(rt, "extensions") {
			line := rapid.SampledFrom([]string{"/vmlinuz ro quiet", "/vmlinuz ro lockdown=integrity", "/vmlinuz ro"}).Draw(rt, "line")
			switch rapid.IntRange(0, 4).Draw(rt, "kind") {
			case 0: // what GRUB would have measured of a harmless boot
				raw = append(raw, extension(log, 8, eventlog.EvIPL, []byte("grub_cmd: linux "+line+"\x00"), []byte("linux "+line))...)
				raw = append(raw, extension(log, 8, eventlog.EvIPL, []byte("kernel_cmdline: "+line+"\x00"), []byte(line))...)
			case 1: // what systemd-boot would have
				raw = append(raw, extension(log, rapid.SampledFrom([]uint32{8, 12}).Draw(rt, "pcr"), eventlog.EvIPL, wide(line), wide(line))...)
			case 2: // what the EFI stub would have
				raw = append(raw, extension(log, 9, eventlog.EvEventTag, tag, wide(line))...)
			case 3: // what Windows would have
				raw = append(raw, extension(log, rapid.SampledFrom([]uint32{11, 12, 13, 14}).Draw(rt, "pcr"), eventlog.EvEventTag, sipa(0x00050003, 0), sipa(0x00050003, 0))...)
				raw = append(raw, extension(log, 13, eventlog.EvEventTag, sipa(0x00050002, 1), sipa(0x00050002, 1))...)
			case 4:
				raw = append(raw, extension(log, rapid.SampledFrom([]uint32{7, 12, 13}).Draw(rt, "pcr"), eventlog.EvSeparator, []byte("WBCL"), []byte("WBCL"))...)
			}
		}
		_, settled := toldBy(boottest.Evidence(t, raw))
		for _, code := range l.raised {
			if slices.Contains(settled, code) {
				rt.Fatalf("%s: %s is said to have ended", l.name, code)
			}
		}
	})
}
