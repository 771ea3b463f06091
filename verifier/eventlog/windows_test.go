package eventlog

import (
	"encoding/binary"
	"testing"

	"github.com/assay-verifier/assay/verifier/tpm"
)

func said(p *string) string {
	if p == nil {
		return "unknown"
	}
	return *p
}

// What the loaders of recorded boots were told. Clients come with opt_in, servers with opt_out; only one of the machines
// was set up for virtualization-based security.
func TestLoaderOptionsOfSpecimens(t *testing.T) {
	for path, want := range map[string][5]string{
		"testdata/quotes/goattest-windows-gce-shielded-vm/eventlog.bin":        {"opt_out", "off", "off", "good_unknown", "partition"},
		"testdata/quotes/guard-supermicro-win2022-a/eventlog.bin":              {"opt_out", "off", "off", "good_unknown", "partition"},
		"testdata/quotes/guard-dell-r340-win2019-a/eventlog.bin":               {"opt_out", "off", "off", "good_unknown", "partition"},
		"testdata/eventlogs/baremetal/guard-set-t480s-win10/eventlog.bin":      {"opt_in", "off", "off", "good_unknown", "partition"},
		"testdata/eventlogs/baremetal/guard-dell-notebook-5eventlogs-WBCL.log": {"opt_in", "off", "off", "good_unknown", "partition"},
		"testdata/eventlogs/baremetal/guard-tpm12_windows_lenovo_x1carbonv3":   {"opt_in", "auto", "auto", "good_unknown", "partition"},
	} {
		w := claimsOf(t, path).Windows
		got := [5]string{said(w.DataExecutionPrevention), said(w.HypervisorLaunch), said(w.VSMLaunch), said(w.DriverLoadPolicy), said(w.OSDevice)}
		if got != want || !w.Complete {
			t.Errorf("%s: %v (complete: %t), want %v", path, got, w.Complete, want)
		}
	}
}

// sipaEvent is one measurement of Windows in PCR 12 or 13.
func sipaEvent(pcr uint32, id uint32, value []byte) []byte {
	return event(pcr, EvEventTag, join(le32(0x40010001), le32(uint32(8+len(value))), le32(id), le32(uint32(len(value))), value))
}

func windowsOf(t testing.TB, records ...[]byte) *Windows {
	t.Helper()
	log := parseOK(t, join(append([][]byte{header(tpm.SHA256)}, records...)...))
	m, _ := log.replay(claimed(own(log)))
	return m.Claims().Windows
}

// A value that weakens stays, whatever is measured after it; numbers without a name stay numbers; what has not the size of
// a number is none.
func TestLoaderOptions(t *testing.T) {
	u64 := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	for _, c := range []struct {
		id    uint32
		value [][]byte
		want  string
	}{
		{sipaDEP, [][]byte{u64(2)}, "always_off"}, {sipaDEP, [][]byte{u64(2), u64(3)}, "always_off"}, {sipaDEP, [][]byte{u64(3), u64(2)}, "always_off"},
		{sipaDEP, [][]byte{u64(0), u64(1)}, "opt_out"}, {sipaDEP, [][]byte{u64(9)}, "9"}, {sipaDEP, [][]byte{{2}}, "unknown"},
		{sipaVSMLaunch, [][]byte{u64(0), u64(1)}, "off"}, {sipaHypervisor, [][]byte{u64(1)}, "auto"},
		{sipaDriverPolicy, [][]byte{le32(7), le32(1)}, "all"}, {sipaDriverPolicy, [][]byte{le32(3)}, "good_unknown_critical"},
		{sipaOSDevice, [][]byte{le32(0x10002), le32(0x10004)}, "removable_disk"}, {sipaOSDevice, [][]byte{le32(0x30000)}, "network"},
		{sipaOSDevice, [][]byte{le32(0x10006)}, "ram_disk"}, {sipaOSDevice, [][]byte{le32(0x10003)}, "cdrom"},
	} {
		var records [][]byte
		for i, v := range c.value {
			records = append(records, sipaEvent(uint32(12+i%2), c.id, v))
		}
		w := windowsOf(t, records...)
		got := said(map[uint32]*string{sipaDEP: w.DataExecutionPrevention, sipaVSMLaunch: w.VSMLaunch, sipaHypervisor: w.HypervisorLaunch,
			sipaDriverPolicy: w.DriverLoadPolicy, sipaOSDevice: w.OSDevice}[c.id])
		if got != c.want {
			t.Errorf("%08x %x: %s, want %s", c.id, c.value, got, c.want)
		}
	}
}

// All is known only if both registers were closed by their separators, and everything before these is covered.
func TestCompleteMeasurementsOfWindows(t *testing.T) {
	end := func(pcr uint32) []byte { return event(pcr, EvSeparator, []byte("WBCL")) }
	on := sipaEvent(13, sipaCodeIntegrity, []byte{1})
	lie := agileRecord(12, EvEventTag, join(le32(0x40010001), le32(9), le32(sipaTestSigning), le32(1), []byte{0}), sum(tpm.SHA256, []byte("test signing is on")))
	for name, c := range map[string]struct {
		records [][]byte
		want    bool
	}{
		"both closed":         {[][]byte{on, end(12), end(13)}, true},
		"PCR 13 open":         {[][]byte{on, end(12)}, false},
		"PCR 12 open":         {[][]byte{on, end(13)}, false},
		"not covered":         {[][]byte{lie, on, end(12), end(13)}, false},
		"not covered, later":  {[][]byte{on, end(12), lie, end(13)}, true},
		"no event of Windows": {[][]byte{event(12, EvIPL, []byte("text")), on, end(12), end(13)}, false},
	} {
		if w := windowsOf(t, c.records...); w.Complete != c.want {
			t.Errorf("%s: complete %t", name, w.Complete)
		}
	}
}

// Events of the dynamic root of trust (category 12) beside others make them no less known.
func TestDRTMEventsAreOfWindows(t *testing.T) {
	body := join(le32(0x000C0002), le32(4), le32(1))
	w := windowsOf(t, event(12, EvEventTag, body), sipaEvent(12, sipaTestSigning, []byte{1}), event(12, EvSeparator, []byte("WBCL")), event(13, EvSeparator, []byte("WBCL")))
	if w == nil || !w.Complete || tristate(w.TestSigning) != "on" {
		t.Errorf("%+v", w)
	}
}
