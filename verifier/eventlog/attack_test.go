package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// The attacks of this file are those of somebody who controls the log and not the PCRs, or who can
// extend PCRs but not take an extend back. Each compares what follows from the changed log with what
// follows from the true one, for the same quote.

// victims are logs whose claims are worth changing.
var victims = []string{
	bootLog("sb-on-1"), bootLog("uki-sdboot-1"), bootLog("mok-signed"),
	"testdata/quotes/guard-supermicro-win2022-a/eventlog.bin",
	"testdata/eventlogs/baremetal/guard-set-elitebook830g6-mok-baseline/eventlog.bin",
	"testdata/eventlogs/gce/ubuntu-2104-no-secure-boot.bin",
	"testdata/eventlogs/gce/arch-linux-workstation.bin",
	"testdata/eventlogs/misc/goattest-crypto_agile_eventlog",
	"testdata/eventlogs/gce/rhel8-uefi.bin",
}

// raws splits a log into the bytes of its records, the header first.
func raws(log *Log) [][]byte {
	var out [][]byte
	log.walk(log.last(), func(_ int, r *record) { out = append(out, bytes.Clone(log.raw[r.offset:r.end])) })
	return out
}

// noBetter fails if a changed log leads to more than the true one: it must fail, or be empty, or lead
// to no claim that the true one does not lead to.
func noBetter(t testing.TB, what string, raw []byte, pcrs tpm.PCRs, truth *Claims) (outcome Outcome, contradicted bool) {
	t.Helper()
	log, err := Parse(raw)
	if err != nil {
		return Failed, false
	}
	m, report := log.replay(claimed(pcrs))
	if report.Outcome != Replayed {
		if !reflect.DeepEqual(m.Claims(), &Claims{}) {
			t.Errorf("%s: claims without a replay", what)
		}
		return report.Outcome, false
	}
	got := m.Claims()
	for name, pair := range map[string][2]*bool{
		"secure_boot": {got.SecureBoot, truth.SecureBoot}, "secure_boot_effective": {got.SecureBootEffective, truth.SecureBootEffective},
		"deployed_mode": {got.DeployedMode, truth.DeployedMode},
	} {
		if pair[0] != nil && *pair[0] && (pair[1] == nil || !*pair[1]) {
			t.Errorf("%s: %s became true", what, name)
		}
	}
	for name, pair := range map[string][2]*bool{
		"shim_validation_disabled": {got.ShimValidationDisabled, truth.ShimValidationDisabled},
		"firmware_debugger":        {got.FirmwareDebugger, truth.FirmwareDebugger}, "setup_mode": {got.SetupMode, truth.SetupMode},
	} {
		if pair[0] != nil && !*pair[0] && (pair[1] == nil || *pair[1]) {
			t.Errorf("%s: %s became false", what, name)
		}
	}
	if truth.SecureBoot != nil && !*truth.SecureBoot && (got.SecureBoot == nil || *got.SecureBoot) {
		t.Errorf("%s: secure_boot off was hidden", what)
	}
	for name, pair := range map[string][2]*string{
		"kernel_cmdline": {got.KernelCmdline, truth.KernelCmdline}, "shim_sbat_level": {got.ShimSBATLevel, truth.ShimSBATLevel},
	} {
		if pair[0] != nil && (pair[1] == nil || *pair[0] != *pair[1]) {
			t.Errorf("%s: %s became %q", what, name, *pair[0])
		}
	}
	for name, pair := range map[string][2]*SignatureDatabase{"pk": {got.PK, truth.PK}, "kek": {got.KEK, truth.KEK}, "db": {got.DB, truth.DB}, "dbx": {got.DBX, truth.DBX}} {
		if pair[0] != nil && !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %s changed", what, name)
		}
	}
	for _, a := range got.BootAuthorities {
		found := false
		for _, b := range truth.BootAuthorities {
			found = found || reflect.DeepEqual(a, b)
		}
		if !found {
			t.Errorf("%s: a new authority %+v", what, a)
		}
	}
	if len(got.BootAuthorities) < len(truth.BootAuthorities) && len(report.Contradicted) == 0 {
		t.Errorf("%s: an authority was hidden", what)
	}
	if w := got.Windows; w != nil {
		for name, pair := range map[string][2]*bool{
			"boot_debugging": {w.BootDebugging, truth.Windows.BootDebugging}, "kernel_debugging": {w.KernelDebugging, truth.Windows.KernelDebugging},
			"test_signing": {w.TestSigning, truth.Windows.TestSigning}, "code_integrity": {w.CodeIntegrity, truth.Windows.CodeIntegrity},
		} {
			if pair[0] != nil && !reflect.DeepEqual(pair[0], pair[1]) {
				t.Errorf("%s: windows.%s changed", what, name)
			}
		}
	}
	return report.Outcome, len(report.Contradicted) > 0
}

// eachVictim runs an attack on each victim, with the true PCRs and claims.
func eachVictim(t *testing.T, attack func(name string, records [][]byte, extends []bool, pcrs tpm.PCRs, truth *Claims)) {
	for _, path := range victims {
		log := mustParse(t, path)
		pcrs := own(log)
		m, report := log.replay(claimed(pcrs))
		if report.Outcome != Replayed {
			t.Fatalf("%s: %s", path, report.Detail)
		}
		var extends []bool
		log.walk(log.last(), func(_ int, r *record) { extends = append(extends, r.extends()) })
		attack(path, raws(log), extends, pcrs, m.Claims())
	}
}

func TestDroppedEventsFail(t *testing.T) {
	eachVictim(t, func(name string, records [][]byte, extends []bool, pcrs tpm.PCRs, truth *Claims) {
		for i := range records {
			without := append(append([][]byte{}, records[:i]...), records[i+1:]...)
			outcome, _ := noBetter(t, fmt.Sprintf("%s without event %d", name, i), join(without...), pcrs, truth)
			if extends[i] && outcome != Failed && !onlyOneOfItsPCR(records, i) {
				t.Errorf("%s replays without event %d", name, i)
			}
		}
		for n := range records {
			outcome, _ := noBetter(t, fmt.Sprintf("%s cut to %d events", name, n), join(records[:n]...), pcrs, truth)
			if n > 0 && n < len(records)-4 && outcome == Replayed {
				t.Errorf("%s replays with %d of its %d events", name, n, len(records))
			}
		}
	})
}

// onlyOneOfItsPCR tells whether the record is the only one of a PCR that need not have a log: without
// it, the PCR is unexplained, and nothing is drawn from it.
func onlyOneOfItsPCR(records [][]byte, i int) bool {
	for j, r := range records {
		if j != i && r[0] == records[i][0] {
			return false
		}
	}
	return records[i][0] >= 11 && records[i][0] != 14
}

func TestRepeatedEventsFail(t *testing.T) {
	eachVictim(t, func(name string, records [][]byte, extends []bool, pcrs tpm.PCRs, truth *Claims) {
		for i := 1; i < len(records); i++ {
			for _, at := range []int{i, len(records)} {
				twice := append(append(append([][]byte{}, records[:at]...), records[i]), records[at:]...)
				outcome, _ := noBetter(t, fmt.Sprintf("%s with event %d again at %d", name, i, at), join(twice...), pcrs, truth)
				if extends[i] && outcome != Failed {
					t.Errorf("%s replays with event %d twice", name, i)
				}
			}
		}
	})
}

func TestMovedEventsFail(t *testing.T) {
	eachVictim(t, func(name string, records [][]byte, extends []bool, pcrs tpm.PCRs, truth *Claims) {
		for i := 1; i < len(records); i++ {
			for pcr := range 16 {
				if int(records[i][0]) == pcr {
					continue
				}
				moved := append([][]byte{}, records...)
				moved[i] = corrupt(records[i], 0, byte(pcr))
				outcome, _ := noBetter(t, fmt.Sprintf("%s with event %d in PCR %d", name, i, pcr), join(moved...), pcrs, truth)
				if extends[i] && outcome != Failed {
					t.Errorf("%s replays with event %d in PCR %d", name, i, pcr)
				}
			}
		}
	})
}

// An event's type is covered by no digest: whatever it is told to be, no claim gets better.
func TestRetypedEventsGainNothing(t *testing.T) {
	types := []EventType{EvNoAction, EvSeparator, EvEventTag, EvIPL, EvEFIVariableDriverConfig, EvEFIVariableAuthority, EvEFIBootServicesApplication, EvEFIAction, 0x8401}
	eachVictim(t, func(name string, records [][]byte, extends []bool, pcrs tpm.PCRs, truth *Claims) {
		for i := 1; i < len(records); i++ {
			for _, typ := range types {
				retyped := append([][]byte{}, records...)
				retyped[i] = bytes.Clone(records[i])
				binary.LittleEndian.PutUint32(retyped[i][4:], uint32(typ))
				noBetter(t, fmt.Sprintf("%s with event %d as %v", name, i, typ), join(retyped...), pcrs, truth)
			}
		}
	})
}

// A byte changed in data that was covered: the log fails or is told to be changed, and no claim gains.
func TestChangedCoveredDataIsSeen(t *testing.T) {
	for _, path := range victims {
		log := mustParse(t, path)
		pcrs := own(log)
		m, _ := log.replay(claimed(pcrs))
		truth := m.Claims()
		for _, e := range log.Events() {
			if !e.Covered || len(e.Data) == 0 {
				continue
			}
			start := e.Offset + 4 + 4
			if log.last().agile {
				start += 4
				for _, d := range e.Digests {
					start += 2 + len(d.Bytes)
				}
			} else {
				start += 20
			}
			start += 4
			step := max(1, len(e.Data)/8)
			for at := 0; at < len(e.Data); at += step {
				raw := bytes.Clone(log.raw)
				raw[start+at] ^= 0x21
				what := fmt.Sprintf("%s event %d (%v) byte %d", path, e.Index, e.Type, at)
				outcome, contradicted := noBetter(t, what, raw, pcrs, truth)
				if outcome == Replayed && !contradicted && e.Type != EvPlatformConfigFlags && e.Type != EvNonhostInfo && !strayByte(&e, at) {
					t.Errorf("%s: changed data passes for true", what)
				}
			}
		}
	}
}

// strayByte tells whether a byte of the data is not covered though the rest is (what follows GRUB's text,
// what an old shim wrote too much, all but the value of a boot variable), or need not be.
func strayByte(e *Event, at int) bool {
	if e.Type == EvSCRTMVersion {
		return true // see decoder.contents
	}
	if g, ok := parseGRUB(e.Data); ok {
		return at < len(g.prefix) || at >= len(g.prefix)+len(g.line)
	}
	if v, ok := parseVariable(e.Data); ok {
		return at < 32+len(v.name) && !covers(e.Digests, e.Data) || v.extra > 0 && at >= len(e.Data)-v.extra
	}
	return false
}

// A changed digest never replays.
func TestChangedDigestsFail(t *testing.T) {
	for _, path := range victims {
		log := mustParse(t, path)
		pcrs := own(log)
		for _, e := range log.Events() {
			if !e.Extended {
				continue
			}
			start := e.Offset + 8
			if log.last().agile {
				start += 4 + 2
			}
			raw := bytes.Clone(log.raw)
			raw[start+e.Index%20] ^= 1
			if changed, err := Parse(raw); err == nil && changed.Compare(pcrs).Outcome != Failed {
				t.Errorf("%s replays with another digest in event %d", path, e.Index)
			}
		}
	}
}

// Somebody who runs after firmware can extend what he likes. A measurement of Secure Boot after the
// separator must not count, whatever he makes of the log.
func TestExtendedAfterTheSeparator(t *testing.T) {
	on := variableData(guidGlobal, "SecureBoot", []byte{1})
	off := variableData(guidGlobal, "SecureBoot", []byte{0})
	zero4 := make([]byte, 4)
	junk := bytes.Repeat([]byte{0xAA}, 40)
	honest := [][]byte{event(7, EvEFIVariableDriverConfig, off), event(7, EvSeparator, zero4), event(7, EvEFIVariableDriverConfig, on), event(7, EvSeparator, zero4)}
	retold := func(data []byte, typ EventType, of []byte) []byte {
		return agileRecord(7, typ, data, sum(tpm.SHA256, of))
	}
	for name, records := range map[string][][]byte{
		"honest log":                  honest,
		"first value hidden":          {retold(junk, 0x8401, off), honest[1], honest[2], honest[3]},
		"separator hidden":            {honest[0], retold(junk, EvEFIAction, zero4), honest[2], honest[3]},
		"both hidden":                 {retold(junk, EvEFIAction, off), retold(junk, EvEFIAction, zero4), honest[2], honest[3]},
		"first value told otherwise":  {retold(on, EvEFIVariableDriverConfig, off), honest[1], honest[2], honest[3]},
		"value and separator swapped": {retold(zero4, EvSeparator, off), retold(on, EvEFIVariableDriverConfig, zero4), honest[2], honest[3]},
	} {
		log := parseOK(t, join(header(tpm.SHA256), join(records...)))
		m, report := log.replay(claimed(own(parseOK(t, join(header(tpm.SHA256), join(honest...))))))
		if report.Outcome != Replayed {
			t.Fatalf("%s: %s", name, report.Detail)
		}
		c := m.Claims()
		if c.SecureBoot == nil || *c.SecureBoot || c.SecureBootEffective == nil || *c.SecureBootEffective {
			t.Errorf("%s: secure boot %v, effective %v", name, c.SecureBoot, c.SecureBootEffective)
		}
	}
	// Without a separator nobody knows where firmware ended; an error in its place says it itself.
	for name, raw := range map[string][]byte{
		"no separator":    join(header(tpm.SHA256), event(7, EvEFIVariableDriverConfig, on)),
		"error":           join(header(tpm.SHA256), event(7, EvEFIVariableDriverConfig, on), event(7, EvSeparator, []byte{1, 0, 0, 0})),
		"only after":      join(header(tpm.SHA256), event(7, EvSeparator, zero4), event(7, EvEFIVariableDriverConfig, on)),
		"in another PCR":  join(header(tpm.SHA256), event(6, EvEFIVariableDriverConfig, on), event(7, EvSeparator, zero4)),
		"another vendor":  join(header(tpm.SHA256), event(7, EvEFIVariableDriverConfig, variableData(guidSecurity, "SecureBoot", []byte{1})), event(7, EvSeparator, zero4)),
		"value not a bit": join(header(tpm.SHA256), event(7, EvEFIVariableDriverConfig, variableData(guidGlobal, "SecureBoot", []byte{2})), event(7, EvSeparator, zero4)),
		"not covered":     join(header(tpm.SHA256), retold(on, EvEFIVariableDriverConfig, junk), event(7, EvSeparator, zero4)),
	} {
		log := parseOK(t, raw)
		m, _ := log.replay(claimed(own(log)))
		if c := m.Claims(); c.SecureBoot != nil {
			t.Errorf("%s: secure boot is said to be %v", name, *c.SecureBoot)
		}
	}
	both := join(header(tpm.SHA256), event(7, EvEFIVariableDriverConfig, on), event(7, EvEFIVariableDriverConfig, off), event(7, EvSeparator, zero4))
	log := parseOK(t, both)
	m, _ := log.replay(claimed(own(log)))
	if c := m.Claims(); c.SecureBoot == nil || *c.SecureBoot {
		t.Errorf("on and off: %v", c.SecureBoot)
	}
}

// Digests of a bank that was not quoted are worth nothing: they must not be proven, nor cover data.
func TestUnquotedBanksProveNothing(t *testing.T) {
	lie := variableData(guidGlobal, "SecureBoot", []byte{1})
	truth := variableData(guidGlobal, "SecureBoot", []byte{0})
	zero4 := make([]byte, 4)
	separator := agileRecord(7, EvSeparator, zero4, sum(tpm.SHA1, zero4), sum(tpm.SHA256, zero4))
	log := parseOK(t, join(header(tpm.SHA1, tpm.SHA256), agileRecord(7, EvEFIVariableDriverConfig, lie, sum(tpm.SHA1, lie), sum(tpm.SHA256, truth)), separator))
	m, report := log.replay(claimed(own(log)[1:]))
	if report.Outcome != Replayed || len(report.Contradicted) != 1 {
		t.Errorf("%v, contradicted %v", report.Outcome, report.Contradicted)
	}
	for _, e := range m.Events() {
		if len(e.Digests) != 1 || e.Digests[0].Alg != tpm.SHA256 {
			t.Errorf("event %d keeps %v", e.Index, e.Digests)
		}
	}
	if c := m.Claims(); c.SecureBoot == nil || *c.SecureBoot {
		t.Errorf("secure boot %v", c.SecureBoot)
	}
	// An event that was never extended in the quoted bank is no event of it.
	only := parseOK(t, join(header(tpm.SHA1, tpm.SHA256), agileRecord(7, EvEFIVariableDriverConfig, lie, sum(tpm.SHA1, lie)), separator))
	m, _ = only.replay(claimed(own(only)[1:]))
	if len(m.Events()) != 1 || m.Claims().SecureBoot != nil {
		t.Errorf("%d events, secure boot %v", len(m.Events()), m.Claims().SecureBoot)
	}
}

// Any sequence of changes to the records of a true log.
func TestReplayMutations(t *testing.T) {
	type victim struct {
		records [][]byte
		pcrs    tpm.PCRs
		truth   *Claims
	}
	var all []victim
	eachVictim(t, func(_ string, records [][]byte, _ []bool, pcrs tpm.PCRs, truth *Claims) {
		all = append(all, victim{records, pcrs, truth})
	})
	rapid.Check(t, func(rt *rapid.T) {
		v := all[rapid.IntRange(0, len(all)-1).Draw(rt, "victim")]
		records := append([][]byte{}, v.records...)
		for range rapid.IntRange(1, 4).Draw(rt, "changes") {
			i := rapid.IntRange(0, len(records)-1).Draw(rt, "record")
			switch rapid.IntRange(0, 5).Draw(rt, "kind") {
			case 0:
				records = append(records[:i:i], records[i+1:]...)
			case 1:
				at := rapid.IntRange(0, len(records)).Draw(rt, "at")
				records = append(append(records[:at:at], records[i]), records[at:]...)
			case 2:
				records[i] = bytes.Clone(records[i])
				binary.LittleEndian.PutUint32(records[i][4:], rapid.SampledFrom([]uint32{3, 4, 5, 6, 8, 0xD, 0x80000001, 0x80000003, 0x80000007, 0x800000E0, 0x8401}).Draw(rt, "type"))
			case 3:
				records[i] = corrupt(records[i], 0, rapid.Byte().Draw(rt, "pcr"))
			case 4:
				records[i] = corrupt(records[i], rapid.IntRange(0, len(records[i])-1).Draw(rt, "at"), rapid.Byte().Draw(rt, "value"))
			case 5:
				j := rapid.IntRange(0, len(records)-1).Draw(rt, "other")
				records[i], records[j] = records[j], records[i]
			}
			if len(records) == 0 {
				return
			}
		}
		noBetter(t, "mutation", join(records...), v.pcrs, v.truth)
	})
}
