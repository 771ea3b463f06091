package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Whoever sends a CC event log writes it, knows the preimage of most digests, and as the owner of the host chooses
// some of what firmware measures. These attacks keep the registers and change the log; what follows must not be
// better than what follows from the true log.

// passedOver are the events that a baseline need not name, by register and digest.
func passedOver(m *Measurements) map[string]bool {
	out := map[string]bool{}
	events := m.Events()
	for i := range events {
		if e := &events[i]; e.MachineSpecific || FixedText(e) {
			out[fmt.Sprintf("%d %x", e.PCR, e.Digests[0].Bytes)] = true
		}
	}
	return out
}

// noBetterCC fails if a changed log leads to more than the true one with the same registers.
func noBetterCC(t testing.TB, what string, raw []byte, values registerValues, truth *Measurements) Report {
	t.Helper()
	log, err := Parse(raw)
	if err != nil {
		return Report{}
	}
	m, report := log.replayRegisters(values)
	if report.Outcome != Replayed {
		if !reflect.DeepEqual(m.Claims(), &Claims{}) || len(m.Events()) > 0 || m.Verified(0) {
			t.Errorf("%s: claims without a replay", what)
		}
		return report
	}
	fair := passedOver(truth)
	for event := range passedOver(m) {
		if !fair[event] {
			t.Errorf("%s: passed over: %s", what, event)
		}
	}
	got, want := m.Claims(), truth.Claims()
	for name, pair := range map[string][2]*bool{
		"secure_boot": {got.SecureBoot, want.SecureBoot}, "secure_boot_effective": {got.SecureBootEffective, want.SecureBootEffective},
		"deployed_mode": {got.DeployedMode, want.DeployedMode}, "shim_validation_disabled": {got.ShimValidationDisabled, want.ShimValidationDisabled},
		"firmware_debugger": {got.FirmwareDebugger, want.FirmwareDebugger}, "setup_mode": {got.SetupMode, want.SetupMode}, "audit_mode": {got.AuditMode, want.AuditMode},
	} {
		if pair[0] != nil && (pair[1] == nil || *pair[0] != *pair[1]) {
			t.Errorf("%s: %s became %v", what, name, *pair[0])
		}
	}
	if !reflect.DeepEqual(got.SecureBoot, want.SecureBoot) || !reflect.DeepEqual(got.ShimValidationDisabled, want.ShimValidationDisabled) {
		t.Errorf("%s: what is recognised by digest was hidden: %s %s", what, tristate(got.SecureBoot), tristate(got.ShimValidationDisabled))
	}
	for name, pair := range map[string][2]*SignatureDatabase{"pk": {got.PK, want.PK}, "kek": {got.KEK, want.KEK}, "db": {got.DB, want.DB}, "dbx": {got.DBX, want.DBX}} {
		if pair[0] != nil && !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %s changed", what, name)
		}
	}
	for _, loader := range want.BootLoaders {
		found := false
		for _, g := range got.BootLoaders {
			found = found || reflect.DeepEqual(g.Digests, loader.Digests)
		}
		if !found && len(got.BootLoaders) < maxImages {
			t.Errorf("%s: boot loader %s was hidden", what, loader.File)
		}
	}
	if got.BootOrder != nil && !reflect.DeepEqual(got.BootOrder, want.BootOrder) || len(got.GPT) > len(want.GPT) {
		t.Errorf("%s: boot order %v, %d partition tables", what, got.BootOrder, len(got.GPT))
	}
	if got.KernelCmdline != nil || got.UKI != nil || got.GRUBCommands != nil || got.BootAuthorities != nil || got.ShimSBATLevel != nil || got.Windows != nil {
		t.Errorf("%s: claims that a register cannot prove", what)
	}
	return report
}

// preimage is what the event's digest is the hash of, as far as its data tells.
func preimage(e *Event) []byte {
	candidates := [][]byte{e.Data}
	if v, ok := parseVariable(e.Data); ok {
		candidates = append(candidates, v.value)
	}
	if g, ok := parseGRUB(e.Data); ok {
		candidates = append(candidates, g.line)
	}
	for _, c := range candidates {
		if covers(e.Digests, c) {
			return c
		}
	}
	return nil
}

var guises = []func(p []byte) []byte{
	func(p []byte) []byte { return p },
	func([]byte) []byte { return []byte("ACPI DATA") },
	func([]byte) []byte { return nil },
	func(p []byte) []byte { return variableData(guidGlobal, "Boot0001", p) },
	func(p []byte) []byte { return variableData(guidGlobal, "BootOrder", p) },
	func(p []byte) []byte { return variableData(guidGlobal, "BootNext", p) },
	func(p []byte) []byte { return variableData(guidGlobal, "SecureBoot", p) },
	func(p []byte) []byte { return append([]byte("grub_cmd: "), p...) },
	func(p []byte) []byte { return append([]byte("kernel_cmdline: "), p...) },
	func(p []byte) []byte { return []byte("MokList\x00") },
	func(p []byte) []byte { return join(le32(tagInitrd), le32(uint32(len(p))), p) },
}

func TestMutatedCCLogIsNeverBetter(t *testing.T) {
	for _, path := range []string{ccel("cos-113-intel-tdx"), ccel("cos-113-intel-tdx-dupe-separator-unpadded"), ccel("trustee-CCEL_data_grub"),
		ccel("trustee-CCEL_data_grub_gke"), ccel("event_log"), ccel("CCEL_unpadded.data"), ccel("trustee-CCEL_AAEL_alibabacloud")} {
		log := mustParse(t, path)
		values := ownRegisters(t, log)
		truth, report := log.replayRegisters(values)
		if report.Outcome != Replayed || len(report.Contradicted) > 0 {
			t.Fatalf("%s: %+v", path, report)
		}
		records := raws(log)
		events := log.Events()
		with := func(i int, record ...[]byte) []byte {
			return join(join(records[:i]...), join(record...), join(records[i+1:]...))
		}
		must := func(what string, i int, raw []byte) {
			if report := noBetterCC(t, fmt.Sprintf("%s: event %d %s", path, i, what), raw, values, truth); report.Outcome == Replayed {
				t.Errorf("%s: replays with event %d %s", path, i, what)
			}
		}
		for i := 1; i < len(records); i++ {
			e := &events[i]
			name := fmt.Sprintf("%s: event %d (%s)", path, i, e.Key)
			if e.Extended && e.PCR > 0 {
				if e.PCR != 4 || len(digestsOf(log, 4)) > 1 {
					must("dropped", i, with(i))
				}
				must("twice", i, with(i, records[i], records[i]))
				must("appended again", i, join(serialise(log), records[i]))
				must("as if it did not extend", i, with(i, retyped(records[i], EvNoAction)))
				for to := uint32(0); to <= 5; to++ {
					if int(to) != e.PCR {
						must(fmt.Sprintf("moved to %d", to), i, with(i, join(le32(to), records[i][4:])))
					}
				}
				at := bytes.Index(records[i], e.Digests[0].Bytes)
				must("with a flipped digest", i, with(i, corrupt(records[i], at, records[i][at]^1)))
			}
			for _, typ := range []EventType{EvPostCode, EvSeparator, EvAction, EvEventTag, EvIPL, EvPlatformConfigFlags, EvEFIVariableDriverConfig, EvEFIVariableBoot,
				EvEFIBootServicesApplication, EvEFIBootServicesDriver, EvEFIGPTEvent, EvEFIAction, EvEFIPlatformFirmwareBlob2, EvEFIVariableAuthority, 0x7777} {
				noBetterCC(t, name+" retyped to "+typ.String(), with(i, retyped(records[i], typ)), values, truth)
			}
			p := preimage(e)
			for n, guise := range guises {
				if p == nil && n > 2 {
					continue
				}
				data := guise(p)
				for _, typ := range []EventType{EvIPL, EvEFIAction, EvEFIVariableBoot} {
					noBetterCC(t, fmt.Sprintf("%s dressed up (%d) as %s", name, n, typ), with(i, withEventData(retyped(records[i], typ), len(e.Data), data)), values, truth)
				}
			}
			if len(e.Data) > 0 && e.Covered && len(records) < 60 {
				for at := len(records[i]) - len(e.Data); at < len(records[i]); at += 1 + len(e.Data)/16 {
					noBetterCC(t, fmt.Sprintf("%s with byte %d flipped", name, at), with(i, corrupt(records[i], at, records[i][at]^0x20)), values, truth)
				}
			}
		}
		for i := 1; i+1 < len(records); i++ { // order within a register is proven, between registers it is not
			swapped := join(join(records[:i]...), records[i+1], records[i], join(records[i+2:]...))
			report := noBetterCC(t, fmt.Sprintf("%s: events %d and %d swapped", path, i, i+1), swapped, values, truth)
			same := events[i].PCR == events[i+1].PCR && events[i].Extended && events[i+1].Extended && !bytes.Equal(events[i].Digests[0].Bytes, events[i+1].Digests[0].Bytes)
			if (report.Outcome == Replayed) == same && events[i].PCR != 0 {
				t.Errorf("%s: events %d and %d swapped: %v", path, i, i+1, report.Outcome)
			}
		}
	}
}

func retyped(record []byte, typ EventType) []byte {
	out := bytes.Clone(record)
	binary.LittleEndian.PutUint32(out[4:], uint32(typ))
	return out
}

// withEventData gives a record other data.
func withEventData(record []byte, length int, data []byte) []byte {
	return join(record[:len(record)-length-4], le32(uint32(len(data))), data)
}

// boot is what firmware measures of a guest with Secure Boot on, up to the first boot option.
func boot() [][]byte {
	records := [][]byte{
		ccRecord(1, EvEFIHandoffTables2, []byte("HOB"), []byte("\x09TdxTable\x00")),
		ccRecord(1, EvEFIPlatformFirmwareBlob2, []byte("CFV"), []byte("\x03CFV")),
	}
	for _, v := range []struct {
		vendor [16]byte
		name   string
		value  []byte
	}{{guidGlobal, "SecureBoot", []byte{1}}, {guidGlobal, "PK", nil}, {guidGlobal, "KEK", nil}, {guidSecurity, "db", nil}, {guidSecurity, "dbx", nil}} {
		records = append(records, whole(v.vendor, v.name, v.value))
	}
	return append(records, ccSeparator(1))
}

func whole(vendor [16]byte, name string, value []byte) []byte {
	data := variableData(vendor, name, value)
	return ccRecord(1, EvEFIVariableDriverConfig, data, data)
}

func ccSeparator(register uint32) []byte {
	return ccRecord(register, EvSeparator, make([]byte, 4), make([]byte, 4))
}

func valueOnly(register uint32, name string, value []byte) []byte {
	return ccRecord(register, EvEFIVariableBoot, value, variableData(guidGlobal, name, value))
}

var (
	calling = ccRecord(2, EvEFIAction, []byte("Calling EFI Application from Boot Option"), []byte("Calling EFI Application from Boot Option"))
	option  = join(le32(1), le16(4), utf16Bytes("disk\x00"), []byte{0x7F, 0xFF, 4, 0})
)

func gptData(partitions int) []byte {
	out := make([]byte, gptHeaderSize+8+128*partitions)
	copy(out, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	binary.LittleEndian.PutUint32(out[84:], 128)
	binary.LittleEndian.PutUint64(out[gptHeaderSize:], uint64(partitions))
	return out
}

// TestPassedOverInRegisters: what names the machine is passed over in the place and form in which firmware measures
// it, and nothing else that could be read so.
func TestPassedOverInRegisters(t *testing.T) {
	if !isSIPA(sipaData) {
		t.Fatal("the attack is none: these are no events of Windows")
	}
	order := valueOnly(1, "BootOrder", []byte{7, 0})
	bigDBX := variableData(guidSecurity, "dbx", make([]byte, 20000)) // long enough to be read as a boot option
	if o, ok := parseLoadOption(bigDBX); !ok || len(o.path) == 0 {
		t.Fatal("the attack is none: the variable cannot be read as a boot option")
	}
	text := []byte("init=/bin/sh")
	if !isBootOrder(text) {
		t.Fatal("the attack is none: the text cannot be read as a boot order")
	}
	notPath := join(le32(1), le16(4), utf16Bytes("disk\x00"), []byte{4, 4, 4, 0})
	arguments := join(option, utf16Bytes("init=/bin/sh"))
	category := join(le32(0x10001), option[4:])
	textGPT := gptData(2)
	copy(textGPT[8:], " init=/bin/sh\x00")
	for name, c := range map[string]struct {
		records [][]byte
		want    string // of each event: ~ is passed over, - is not
	}{
		"boot options":                             {[][]byte{order, valueOnly(1, "Boot0007", option)}, "~~"},
		"... and what follows":                     {[][]byte{order, valueOnly(1, "Boot0007", option), ccSeparator(1)}, "~~-"},
		"... interleaved with another register":    {[][]byte{order, calling, valueOnly(1, "Boot0007", option)}, "~-~"},
		"an order without its option":              {[][]byte{order}, "-"},
		"... with another one":                     {[][]byte{order, valueOnly(1, "Boot0008", option)}, "-~"},
		"... with one too many":                    {[][]byte{order, valueOnly(1, "Boot0007", option), valueOnly(1, "Boot0008", option)}, "-~~"},
		"... with something between":               {[][]byte{order, ccSeparator(1), valueOnly(1, "Boot0007", option)}, "--~"},
		"an order of what follows itself":          {[][]byte{order, order, valueOnly(1, "Boot0007", option)}, "-~~"},
		"text as a boot order":                     {[][]byte{valueOnly(1, "BootOrder", text)}, "-"},
		"text as the next boot":                    {[][]byte{valueOnly(1, "BootNext", text)}, "-"},
		"boot options in RTMR 1":                   {[][]byte{valueOnly(2, "BootOrder", []byte{7, 0}), valueOnly(2, "Boot0007", option)}, "--"},
		"a command line as a boot order, RTMR 1":   {[][]byte{valueOnly(2, "BootOrder", text)}, "-"},
		"boot options in RTMR 2":                   {[][]byte{valueOnly(3, "Boot0007", option)}, "-"},
		"dbx as a boot option":                     {[][]byte{valueOnly(1, "Boot0007", bigDBX)}, "-"},
		"a path without an end":                    {[][]byte{valueOnly(1, "Boot0007", notPath)}, "-"},
		"a boot option with arguments":             {[][]byte{valueOnly(1, "Boot0007", arguments)}, "-"},
		"... of what firmware made":                {[][]byte{valueOnly(1, "Boot0007", join(option, autoCreated))}, "~"},
		"undefined attributes":                     {[][]byte{valueOnly(1, "Boot0007", category)}, "-"},
		"partition table":                          {[][]byte{calling, ccRecord(2, EvEFIGPTEvent, gptData(3), gptData(3))}, "-~"},
		"... before a boot option is called":       {[][]byte{ccRecord(2, EvEFIGPTEvent, gptData(3), gptData(3)), calling}, "--"},
		"... called in another register":           {[][]byte{ccRecord(1, EvEFIAction, []byte("Calling EFI Application from Boot Option"), nil), ccRecord(2, EvEFIGPTEvent, gptData(3), gptData(3))}, "--"},
		"... called by the log's word alone":       {[][]byte{ccRecord(2, EvEFIAction, nil, []byte("Calling EFI Application from Boot Option")), ccRecord(2, EvEFIGPTEvent, gptData(3), gptData(3))}, "--"},
		"... in RTMR 2":                            {[][]byte{calling, ccRecord(3, EvEFIGPTEvent, gptData(3), gptData(3))}, "--"},
		"a command line as a partition table":      {[][]byte{calling, ccRecord(2, EvEFIGPTEvent, textGPT, textGPT)}, "--"},
		"Windows' events, which GRUB may read":     {[][]byte{ccRecord(3, EvEventTag, sipaData, sipaData)}, "-"},
		"a variable whose name is not in the hash": {[][]byte{ccRecord(1, EvEFIVariableDriverConfig, []byte{1}, variableData(guidGlobal, "SecureBoot", []byte{1}))}, "-"},
	} {
		m, report := measureCC(t, ccLog(c.records...))
		got := ""
		for _, e := range m.Events() {
			if e.MachineSpecific {
				got += "~"
			} else {
				got += "-"
			}
		}
		if got != c.want || report.Outcome != Replayed {
			t.Errorf("%s: %s, want %s (%s)", name, got, c.want, report.Detail)
		}
	}
}

// sipaData is a SIPA event of Windows: boot debugging is off.
var sipaData = join(le32(0x40010001), le32(9), le32(0x00050001), le32(1), []byte{0})

func TestRegistersSecureBoot(t *testing.T) {
	mokState := whole(guidShim, "MokSBState", []byte{1})
	sbat := whole(guidShim, "SbatLevel", []byte("sbat,1,2099010100\n"))
	on := whole(guidGlobal, "SecureBoot", []byte{1})
	off := whole(guidGlobal, "SecureBoot", []byte{0})
	errorSeparator := ccRecord(1, EvSeparator, []byte{1, 0, 0, 0}, []byte{1, 0, 0, 0})
	for name, c := range map[string]struct {
		records         [][]byte
		sb, eff, shim   string
		debugger, setup string
	}{
		"on":                                       {boot(), "on", "unknown", "unknown", "off", "unknown"},
		"off beats on":                             {append([][]byte{off}, boot()...), "off", "off", "unknown", "off", "unknown"},
		"... in any order":                         {append([][]byte{on, off}, boot()...), "off", "off", "unknown", "off", "unknown"},
		"on, hidden by its data":                   {[][]byte{ccRecord(1, EvPostCode, variableData(guidGlobal, "SecureBoot", []byte{0}), []byte("ACPI DATA")), ccSeparator(1)}, "off", "off", "unknown", "off", "unknown"},
		"on only after the separator":              {[][]byte{ccSeparator(1), on}, "unknown", "unknown", "unknown", "off", "unknown"},
		"no separator":                             {[][]byte{on}, "unknown", "unknown", "unknown", "unknown", "unknown"},
		"a separator of another register":          {[][]byte{on, ccSeparator(2), ccSeparator(3)}, "unknown", "unknown", "unknown", "unknown", "unknown"},
		"a separator with an error":                {[][]byte{on, errorSeparator}, "unknown", "unknown", "unknown", "off", "unknown"},
		"... then one without":                     {[][]byte{on, errorSeparator, ccSeparator(1)}, "unknown", "unknown", "unknown", "off", "unknown"},
		"a boot order like a separator's error":    {append(boot(), valueOnly(1, "BootOrder", []byte{1, 0, 0, 0}), valueOnly(1, "Boot0001", option), valueOnly(1, "Boot0000", option)), "on", "unknown", "unknown", "off", "unknown"},
		"separators twice":                         {append(boot(), ccSeparator(1), ccSeparator(1)), "on", "unknown", "unknown", "off", "unknown"},
		"shim told not to validate":                {append(boot(), mokState), "on", "off", "on", "off", "unknown"},
		"... hidden by its data":                   {append(boot(), ccRecord(1, EvPostCode, variableData(guidShim, "MokSBState", []byte{1}), []byte("ACPI DATA"))), "on", "off", "on", "off", "unknown"},
		"... and a new SBAT level after it":        {append(boot(), mokState, sbat), "on", "off", "on", "off", "unknown"},
		"a new SBAT level proves no validation":    {append(boot(), sbat), "on", "unknown", "unknown", "off", "unknown"},
		"SecureBoot in RTMR 1":                     {[][]byte{ccRecord(2, EvEFIVariableDriverConfig, variableData(guidGlobal, "SecureBoot", []byte{1}), variableData(guidGlobal, "SecureBoot", []byte{1})), ccSeparator(2)}, "unknown", "unknown", "unknown", "unknown", "unknown"},
		"debugger":                                 {append([][]byte{ccRecord(1, EvEFIAction, []byte("UEFI Debug Mode"), []byte("x"))}, boot()...), "on", "unknown", "unknown", "on", "unknown"},
		"setup mode":                               {append([][]byte{whole(guidGlobal, "SetupMode", []byte{1})}, boot()...), "on", "unknown", "unknown", "off", "on"},
		"setup mode, measured twice":               {append([][]byte{whole(guidGlobal, "SetupMode", []byte{1}), whole(guidGlobal, "SetupMode", []byte{0})}, boot()...), "on", "unknown", "unknown", "off", "unknown"},
		"setup mode off, after the separator":      {append(boot(), whole(guidGlobal, "SetupMode", []byte{0})), "on", "unknown", "unknown", "off", "unknown"},
		"setup mode by a value whose name is free": {append([][]byte{ccRecord(1, EvEFIVariableBoot, []byte{0}, variableData(guidGlobal, "SetupMode", []byte{0}))}, boot()...), "on", "unknown", "unknown", "off", "unknown"},
		"a boot option that holds an SBAT level":   {append(boot(), ccRecord(1, EvEFIVariableAuthority, variableData(guidShim, "SbatLevel", []byte("x")), variableData(guidShim, "SbatLevel", []byte("x")))), "on", "unknown", "unknown", "off", "unknown"},
	} {
		m, report := measureCC(t, ccLog(c.records...))
		claims := m.Claims()
		got := []string{tristate(claims.SecureBoot), tristate(claims.SecureBootEffective), tristate(claims.ShimValidationDisabled), tristate(claims.FirmwareDebugger), tristate(claims.SetupMode)}
		if want := []string{c.sb, c.eff, c.shim, c.debugger, c.setup}; report.Outcome != Replayed || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		if claims.ShimSBATLevel != nil || claims.BootAuthorities != nil {
			t.Errorf("%s: %v %v", name, claims.ShimSBATLevel, claims.BootAuthorities)
		}
	}
	// Nothing is drawn from a register that is not proven.
	log := parseOK(t, ccLog(boot()...))
	values := ownRegisters(t, log)
	values[0] = nil
	if m, _ := log.replayRegisters(values); m.Claims().SecureBoot != nil || len(m.Events()) > 0 || m.Verified(0) {
		t.Error("claims of a register that was not compared")
	}
}

// A file that GRUB reads is measured into the same register as its commands, with the same hash that a command of
// that text has. So a file can pass for the command line, and the true one for a file.
func TestCommandLineCannotBeProvenByRegister(t *testing.T) {
	good, evil := []byte("/vmlinuz ro lockdown=confidentiality"), []byte("/vmlinuz rw init=/bin/sh")
	forged := ccLog(
		ccRecord(3, EvIPL, append([]byte("linux "), evil...), []byte("/grub/fs.lst\x00")), // the true commands, called files
		ccRecord(3, EvIPL, evil, []byte("/grub/terminal.lst\x00")),
		ccRecord(3, EvIPL, append([]byte("linux "), good...), append([]byte("grub_cmd: linux "), good...)), // files, called commands
		ccRecord(3, EvIPL, []byte("kernel"), []byte("/vmlinuz\x00")),
		ccRecord(3, EvIPL, good, append([]byte("kernel_cmdline: "), good...)),
		ccRecord(3, EvEventTag, append(utf16Bytes(string(good)), 0, 0), join(le32(tagLoadOptions), le32(0))),
	)
	m, report := measureCC(t, forged)
	if c := m.Claims(); report.Outcome != Replayed || len(report.Contradicted) > 0 || c.KernelCmdline != nil || c.GRUBCommands != nil {
		t.Errorf("%+v: %v", report, c.KernelCmdline)
	}
	// A file that holds a section's name makes no unified kernel image.
	m, _ = measureCC(t, ccLog(ccRecord(3, EvIPL, []byte(".linux\x00"), utf16Bytes(".linux\x00")), ccRecord(3, EvIPL, []byte("x"), utf16Bytes(".linux\x00"))))
	if c := m.Claims(); c.UKI != nil || len(c.UKISections) != 1 || c.Kernel == nil {
		t.Errorf("%+v", c)
	}
	// What Windows measures could be a file of GRUB's.
	m, _ = measureCC(t, ccLog(ccRecord(3, EvEventTag, sipaData, sipaData)))
	if c := m.Claims(); c.Windows != nil {
		t.Errorf("%+v", c.Windows)
	}
}

// An image whose bytes are the data of its event, so that its digest covers them, is still an image.
func TestBootLoaderCannotExplainItselfAway(t *testing.T) {
	image := []byte("MZ what Authenticode hashes of an image")
	for name, record := range map[string][]byte{
		"as it is":              ccRecord(2, EvEFIBootServicesApplication, image, nil),
		"with its bytes":        ccRecord(2, EvEFIBootServicesApplication, image, image),
		"as an action":          ccRecord(2, EvEFIAction, image, image),
		"as a driver":           ccRecord(2, EvEFIBootServicesDriver, image, nil),
		"as a separator":        ccRecord(2, EvSeparator, image, image),
		"as a boot option":      ccRecord(2, EvEFIVariableBoot, image, variableData(guidGlobal, "Driver0000", image)),
		"as a partition table":  ccRecord(2, EvEFIGPTEvent, image, gptData(1)),
		"as a line of GRUB's":   ccRecord(2, EvIPL, image, append([]byte("grub_cmd: "), image...)),
		"as a separator's fail": ccRecord(2, EvSeparator, []byte{1, 0, 0, 0}, []byte{1, 0, 0, 0}),
	} {
		m, report := measureCC(t, ccLog(calling, ccSeparator(2), record))
		if c := m.Claims(); report.Outcome != Replayed || len(c.BootLoaders) != 1 {
			t.Errorf("%s: %+v", name, c.BootLoaders)
		}
	}
}

func TestFixedText(t *testing.T) {
	for text, want := range map[string]bool{
		"Exit Boot Services Invocation": true, "Calling EFI Application from Boot Option\x00": true, "\x00\x00\x00\x00": true, "\xff\xff\xff\xff": true,
		"\x01\x00\x00\x00": false, "UEFI Debug Mode": false, "linux /vmlinuz init=/bin/sh": false, "": false,
	} {
		for _, alg := range []tpm.HashAlg{tpm.SHA1, tpm.SHA256, tpm.SHA384, tpm.RTMR} {
			e := Event{Type: EvEFIAction, Data: []byte(text), Digests: []Digest{sum(alg, []byte(text))}, Covered: true, Component: ComponentAction}
			if got := FixedText(&e); got != want {
				t.Errorf("%q in %v: %v", text, alg, got)
			}
		}
	}
	if FixedText(&Event{Type: EvSeparator, Data: make([]byte, 4), Component: ComponentSeparator, Covered: true}) {
		t.Error("a separator without a digest")
	}
	two := Event{Digests: []Digest{sum(tpm.SHA256, make([]byte, 4)), sum(tpm.SHA384, []byte("else"))}}
	if FixedText(&two) {
		t.Error("a separator in one bank alone")
	}
}

func TestContradictedCCEvents(t *testing.T) {
	for name, c := range map[string]struct {
		record []byte
		want   bool
	}{
		"a variable of Secure Boot":    {ccRecord(1, EvEFIVariableDriverConfig, []byte("x"), variableData(guidGlobal, "SecureBoot", []byte{1})), true},
		"... by its value alone":       {ccRecord(1, EvEFIVariableDriverConfig, []byte{1}, variableData(guidGlobal, "SecureBoot", []byte{1})), true},
		"... as a platform's blob":     {ccRecord(1, EvPostCode, []byte("x"), variableData(guidGlobal, "SecureBoot", []byte{1})), true},
		"a boot option":                {ccRecord(1, EvEFIVariableBoot, []byte("x"), variableData(guidGlobal, "Boot0001", option)), true},
		"a partition table":            {ccRecord(2, EvEFIGPTEvent, []byte("x"), gptData(1)), true},
		"an action":                    {ccRecord(2, EvEFIAction, []byte("x"), []byte("Exit Boot Services Invocation")), true},
		"a separator":                  {ccRecord(1, EvSeparator, []byte("x"), make([]byte, 4)), true},
		"a command of GRUB":            {ccRecord(3, EvIPL, []byte("x"), []byte("grub_cmd: set a=b")), true},
		"a file of GRUB":               {ccRecord(3, EvIPL, []byte("x"), []byte("/grub.cfg")), false},
		"ACPI tables":                  {ccRecord(1, EvPlatformConfigFlags, []byte("x"), []byte("ACPI DATA")), false},
		"an image":                     {ccRecord(2, EvEFIBootServicesApplication, []byte("x"), nil), false},
		"the EFI stub's command line":  {ccRecord(3, EvEventTag, []byte("x"), join(le32(tagLoadOptions), le32(0))), false},
		"a command line in UTF-16":     {ccRecord(3, EvIPL, []byte("x"), utf16Bytes("quiet splash")), false}, // or the name of a section's contents
		"an early stub's command line": {ccRecord(3, EvEventTag, []byte("x"), []byte("LOADED_IMAGE::LoadOptions\x00")), false},
	} {
		_, report := measureCC(t, ccLog(c.record))
		if got := len(report.Contradicted) == 1 && report.Contradicted[0] == 1; got != c.want || report.Outcome != Replayed {
			t.Errorf("%s: %+v", name, report)
		}
	}
}

// Each log against the registers of each other: none replays to another's, but those that are the same log.
func TestCCLogsAgainstEachOther(t *testing.T) {
	paths := ccels(t)
	for _, a := range paths {
		values := ownRegisters(t, mustParse(t, a))
		for _, b := range paths {
			log := mustParse(t, b)
			report := log.CompareRTMR(values)
			same := reflect.DeepEqual(values, ownRegisters(t, log))
			if (report.Outcome == Replayed) != same {
				t.Errorf("%s with the registers of %s: %v %s", b, a, report.Outcome, report.Detail)
			}
			if same && a != b && !strings.Contains(a, "dupe-separator") && !strings.Contains(a, "CCEL") {
				t.Errorf("%s and %s are the same", a, b)
			}
		}
	}
}

// FuzzReplayRTMR: any log is compared with true registers; what replays leads to nothing better than the true log.
func FuzzReplayRTMR(f *testing.F) {
	victim := mustParse(f, ccel("trustee-CCEL_data_grub"))
	values := ownRegisters(f, victim)
	truth, _ := victim.replayRegisters(values)
	for _, path := range ccels(f) {
		f.Add(serialise(mustParse(f, path)), uint32(0), []byte(nil), false)
	}
	raw := serialise(victim)
	for _, e := range victim.Events() {
		f.Add([]byte(nil), uint32(e.Offset), []byte{1, 0, 0, 0}, false)
		f.Add([]byte(nil), uint32(e.Offset+4), []byte{0xD, 0, 0, 0}, false)
		f.Add([]byte(nil), uint32(e.Offset), ccSeparator(1), true)
	}
	f.Fuzz(func(t *testing.T, whole []byte, at uint32, patch []byte, insert bool) {
		if len(patch) > 4096 || int(at) > len(raw) {
			return
		}
		if len(whole) == 0 {
			end := int(at)
			if !insert {
				end = min(len(raw), int(at)+len(patch))
			}
			whole = join(raw[:at], patch, raw[end:])
		}
		noBetterCC(t, "fuzzed", whole, values, truth)
		log, err := Parse(whole)
		if err != nil || log.Empty() || indexOf(log.last().algorithms, tpm.SHA384) < 0 {
			return
		}
		m, report := log.replayRegisters(ownRegisters(t, log))
		if beyond := strings.Contains(report.Detail, "beyond RTMR 3"); (report.Outcome == Replayed) == beyond {
			t.Fatalf("a log does not replay to its own registers: %+v", report)
		}
		for _, e := range m.Events() {
			if e.PCR < 0 || e.PCR >= tpm.NumRTMRs || len(e.Digests) != 1 || e.Digests[0].Alg != tpm.RTMR || e.MachineSpecific && !e.Covered {
				t.Fatalf("%+v", e)
			}
		}
		_ = m.Claims()
	})
}
