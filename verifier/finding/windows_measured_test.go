package finding_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/boottest"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/finding"
)

// measured is a real boot log of Windows in which one value was measured otherwise: data and digests are changed in every
// event that holds it, as they would have been. The quote is made for it (boottest); no machine made either.
func measured(t *testing.T, raw []byte, id uint32, value []byte) []byte {
	t.Helper()
	raw = bytes.Clone(raw)
	log, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	head := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, id), uint32(len(value)))
	changed := 0
	for _, e := range log.Events() {
		if e.PCR != 12 && e.PCR != 13 || !e.Covered {
			continue
		}
		found := false
		for at := 0; ; {
			i := bytes.Index(e.Data[at:], head)
			if i < 0 {
				break
			}
			at += i + len(head)
			copy(e.Data[at:at+len(value)], value) // the event's data is the log's
			found = true
		}
		if !found {
			continue
		}
		changed++
		for _, d := range e.Digests {
			h := d.Alg.Hash().New()
			h.Write(e.Data)
			copy(d.Bytes, h.Sum(nil))
		}
	}
	if changed == 0 {
		t.Fatalf("the log measures no %08x", id)
	}
	return raw
}

func recommended(t *testing.T, raw []byte, os string) []string {
	t.Helper()
	ev, in := boottest.Evidence(t, raw)
	a := verifier.Appraise(ev, in)
	if !a.Genuine || a.Measurements == nil {
		t.Fatal(boottest.Describe(a))
	}
	var out []string
	for _, r := range finding.Derive(finding.Input{Machine: finding.Machine{OS: os}, Appraisal: a, Policy: verifier.DefaultPolicy(), Now: boottest.At}).Recommendations {
		if finding.By(r.Code).Area == "windows" {
			out = append(out, r.Code+" "+string(r.Severity))
		}
	}
	return out
}

// A real Windows log of each generation raises, with one value measured otherwise, the one recommendation that is about
// it beside what it raises anyway.
func TestWindowsMeasuredOtherwise(t *testing.T) {
	u64 := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	u32 := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
	for _, specimen := range []string{
		"../eventlog/testdata/eventlogs/baremetal/guard-tpm12_windows_lenovo_x1carbonv3",
		"../eventlog/testdata/quotes/guard-supermicro-win2022-a/eventlog.bin",
		"../eventlog/testdata/quotes/goattest-windows-gce-shielded-vm/eventlog.bin",
		"../eventlog/testdata/eventlogs/baremetal/guard-dell-notebook-5eventlogs-WBCL.log",
	} {
		raw := boottest.Read(t, specimen)
		before := recommended(t, raw, "windows")
		for _, c := range []struct {
			id    uint32
			value []byte
			want  string
		}{
			{0x00040001, []byte{1}, "windows_debugging high"},
			{0x00050001, []byte{1}, "windows_debugging high"},
			{0x00050003, []byte{1}, "windows_test_signing high"},
			{0x00050021, []byte{1}, "windows_test_signing low"},
			{0x00050002, []byte{0}, "windows_code_integrity_off high"},
			{0x00050004, u64(2), "windows_dep_off medium"},
			{0x00050005, []byte{1}, "windows_repair_mode medium"},
			{0x00050006, []byte{1}, "windows_repair_mode medium"},
			{0x00050008, u32(0x00010002), "windows_boot_device medium"},
			{0x00050008, u32(0x00030000), "windows_boot_device medium"},
			{0x0005000E, u32(7), "windows_elam_off medium"},
		} {
			got := recommended(t, measured(t, raw, c.id, c.value), "windows")
			added := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return slices.Contains(before, s) })
			if !slices.Equal(added, []string{c.want}) || len(got) != len(before)+1 {
				t.Errorf("%s, %08x = %x: %v beside %v, want %s", specimen, c.id, c.value, added, before, c.want)
			}
		}
		// The machine's own word for what it runs changes nothing of what is proven.
		if got := recommended(t, measured(t, raw, 0x00050003, []byte{1}), "linux"); !slices.Contains(got, "windows_test_signing high") {
			t.Errorf("%s told to be Linux: %v", specimen, got)
		}
	}
	x1 := boottest.Read(t, "../eventlog/testdata/eventlogs/baremetal/guard-tpm12_windows_lenovo_x1carbonv3")
	for _, c := range []struct {
		id    uint32
		value []byte
		want  []string
	}{
		{0x0005000D, []byte{1}, []string{"windows_debugging high"}},
		{0x00050012, u64(0), []string{"windows_vbs_off low"}},
		{0x00020005, u32(0), []string{"windows_bitlocker low"}},
		{0x00020005, u32(0x40), []string{"windows_bitlocker low"}},
		{0x00020005, u32(4), nil},
	} {
		if got := recommended(t, measured(t, x1, c.id, c.value), "windows"); !slices.Equal(got, c.want) {
			t.Errorf("%08x = %x: %v, want %v", c.id, c.value, got, c.want)
		}
	}
}
