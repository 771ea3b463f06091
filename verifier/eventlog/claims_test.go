package eventlog

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// claimsOf draws the claims of a specimen, with the PCR values beside it or its own.
func claimsOf(t testing.TB, path string) *Claims {
	t.Helper()
	log := mustParse(t, path)
	pcrs := pcrFile(t, path)
	if pcrs == nil {
		pcrs = own(log)
	}
	m, report := log.replay(claimed(pcrs))
	if report.Outcome != Replayed {
		t.Fatalf("%s: %s", path, report.Detail)
	}
	return m.Claims()
}

func tristate(p *bool) string {
	switch {
	case p == nil:
		return "unknown"
	case *p:
		return "on"
	}
	return "off"
}

func TestSecureBootOfSpecimens(t *testing.T) {
	for path, want := range map[string]string{
		// As their manifest says.
		"testdata/eventlogs/gce/rhel8-uefi.bin":                                          "on",
		"testdata/eventlogs/gce/debian-10.bin":                                           "on",
		"testdata/eventlogs/gce/cos-85-amd-sev.bin":                                      "on",
		"testdata/eventlogs/gce/ubuntu-1804-amd-sev.bin":                                 "off",
		"testdata/eventlogs/gce/ubuntu-2104-no-secure-boot.bin":                          "off",
		"testdata/eventlogs/gce/arch-linux-workstation.bin":                              "off", // a variable of no bytes
		"testdata/eventlogs/misc/goattest-coreos_36_shielded_vm_no_secure_boot_eventlog": "off",
		"testdata/eventlogs/misc/goattest-sb_cert_eventlog":                              "on",
		"testdata/eventlogs/misc/keylime-binary_bios_measurements":                       "off",
		"testdata/quotes/goattest-windows-gce-shielded-vm/eventlog.bin":                  "on",
		"testdata/quotes/guard-supermicro-win2022-a/eventlog.bin":                        "unknown", // it is not measured
		"testdata/eventlogs/misc/tpm2-tools-event-uefiaction.bin":                        "unknown",
		bootLog("sb-on-1"): "on", bootLog("sb-on-sha384bank"): "on", bootLog("mok-signed"): "on", bootLog("uki-direct"): "on",
	} {
		if got := tristate(claimsOf(t, path).SecureBoot); got != want {
			t.Errorf("%s: Secure Boot %s, want %s", path, got, want)
		}
	}
}

func TestShimValidation(t *testing.T) {
	zero4, on := make([]byte, 4), []byte{1}
	base := join(header(tpm.SHA256), event(7, EvEFIVariableDriverConfig, variableData(guidGlobal, "SecureBoot", on)), event(7, EvSeparator, zero4))
	disabled := variableData(guidShim, "MokSBState", on)
	sbat := event(7, EvEFIVariableAuthority, variableData(guidShim, "SbatLevel", []byte("sbat,1,2021030218\n")))
	state := func(name string) []byte { return agileRecord(14, EvIPL, []byte(name+"\x00"), sum(tpm.SHA256, on)) }
	for _, c := range []struct {
		name                string
		raw                 []byte
		disabled, effective string
	}{
		{"no shim", base, "off", "on"},
		{"shim that validates", join(base, sbat, state("MokListTrusted")), "off", "on"},
		{"MokSBState in PCR 7", join(base, sbat, event(7, EvEFIVariableAuthority, disabled)), "on", "off"},
		{"MokSBState in PCR 7, told otherwise", join(base, sbat, agileRecord(7, EvEFIAction, []byte("hello"), sum(tpm.SHA256, disabled))), "on", "off"},
		{"MokSBStateRT in PCR 7", join(base, event(7, EvEFIVariableAuthority, variableData(guidShim, "MokSBStateRT", on))), "on", "off"},
		{"MokSBState that is no switch", join(base, event(7, EvEFIVariableAuthority, variableData(guidShim, "MokSBState", []byte{1, 0}))), "on", "off"},
		{"MokSBState of zero", join(base, sbat, event(7, EvEFIVariableAuthority, variableData(guidShim, "MokSBState", []byte{0}))), "off", "on"},
		{"MokSBState in PCR 14", join(base, state("MokSBState")), "on", "off"},
		{"an old shim's switch of unknown name", join(base, state("MokListTrusted")), "unknown", "unknown"},
	} {
		log := parseOK(t, c.raw)
		m, _ := log.replay(claimed(own(log)))
		got := m.Claims()
		if tristate(got.ShimValidationDisabled) != c.disabled || tristate(got.SecureBootEffective) != c.effective {
			t.Errorf("%s: disabled %s, effective %s; want %s, %s", c.name, tristate(got.ShimValidationDisabled), tristate(got.SecureBootEffective), c.disabled, c.effective)
		}
	}
	// PCR 14 was not quoted: an old shim could have said it there.
	log := parseOK(t, base)
	pcrs := own(log)
	pcrs[0].Mask &^= 1 << 14
	m, _ := log.replay(claimed(pcrs))
	if got := tristate(m.Claims().ShimValidationDisabled); got != "unknown" {
		t.Errorf("without PCR 14: %s", got)
	}
}

// The command line of each capture is the one that its kernel showed, wherever it is proven.
func TestKernelCommandLines(t *testing.T) {
	unproven := map[string]bool{"uki-direct": true, "snakeoil": true} // only its digest is in the log
	checked := 0
	for _, path := range specimens(t) {
		if !strings.HasPrefix(path, boots) {
			continue
		}
		variant := filepath.Base(filepath.Dir(filepath.Dir(path)))
		if variant == "unlogged-extend" {
			continue
		}
		want := strings.TrimRight(string(readSpecimen(t, filepath.Join(filepath.Dir(path), "cmdline"))), "\n")
		got := claimsOf(t, path).KernelCmdline
		switch {
		case unproven[variant]:
			if got != nil {
				t.Errorf("%s: %q is not proven", variant, *got)
			}
		case got == nil || *got != want:
			t.Errorf("%s: %v, want %q", variant, got, want)
		}
		checked++
	}
	if checked < 15 {
		t.Errorf("only %d captures", checked)
	}
}

// Another command line than the one that the kernel's EFI stub was given is not the kernel's.
func TestIgnoredCommandLineIsNotClaimed(t *testing.T) {
	zero := []byte{0, 0}
	line := event(12, EvIPL, append(utf16Bytes("quiet"), zero...))
	options := func(s string) []byte {
		return agileRecord(9, EvEventTag, join(le32(tagLoadOptions), le32(4), []byte("opt\x00")), sum(tpm.SHA256, append(utf16Bytes(s), zero...)))
	}
	section := func(s string) []byte {
		name := append(utf16Bytes(".cmdline"), zero...)
		return join(agileRecord(11, EvIPL, name, sum(tpm.SHA256, []byte(".cmdline\x00"))), agileRecord(11, EvIPL, name, sum(tpm.SHA256, []byte(s))))
	}
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"alone":                      {line, "quiet"},
		"stub was given the same":    {join(line, options("quiet")), "quiet"},
		"stub was given another":     {join(line, options("debug")), ""},
		"section is the same":        {join(line, section("quiet")), "quiet"},
		"section is another":         {join(line, section("debug")), ""},
		"data is not what is hashed": {agileRecord(12, EvIPL, append(utf16Bytes("quiet"), zero...), sum(tpm.SHA256, []byte("x"))), ""},
	} {
		log := parseOK(t, join(header(tpm.SHA256), c.raw))
		m, _ := log.replay(claimed(own(log)))
		got := ""
		if p := m.Claims().KernelCmdline; p != nil {
			got = *p
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestClaimsOfACapture(t *testing.T) {
	log := mustParse(t, bootLog("sb-on-1"))
	m, _ := Replay(quoteOf(t, "sb-on-1"), log)
	c := m.Claims()
	truth := readJSON[struct {
		Files map[string]struct {
			SHA256       string            `json:"sha256"`
			Authenticode map[string]string `json:"authenticode"`
		} `json:"boot_disk_files"`
	}](t, filepath.Join(boots, "sb-on-1", "truth.json")).Files
	if c.Kernel == nil || c.Kernel.Digests["sha256"] != truth["/vmlinuz"].SHA256 || c.Kernel.Name != "/vmlinuz" {
		t.Errorf("kernel %+v", c.Kernel)
	}
	if len(c.Initrd) != 1 || c.Initrd[0].Digests["sha256"] != truth["/initrd.img"].SHA256 {
		t.Errorf("initrd %+v", c.Initrd)
	}
	var loaders []string
	for _, image := range c.BootLoaders {
		loaders = append(loaders, image.File)
	}
	if !reflect.DeepEqual(loaders, []string{"BOOTX64.EFI", "grubx64.efi", "", ""}) || c.BootLoaders[2].Digests["sha256"] != truth["/vmlinuz"].Authenticode["sha256"] {
		t.Errorf("boot loaders %q", loaders)
	}
	if len(c.BootAuthorities) != 2 || c.BootAuthorities[0].Certificate.Name != "Microsoft Corporation UEFI CA 2011" || c.BootAuthorities[1].Source != "MokListRT" {
		t.Errorf("authorities %+v", c.BootAuthorities)
	}
	if len(c.GRUBCommands) != 9 || c.GRUBCommands[6] != "linux /vmlinuz console=ttyS0,115200" {
		t.Errorf("GRUB commands %q", c.GRUBCommands)
	}
	if c.UKI == nil || *c.UKI || c.Windows != nil || len(c.BootOrder) != 3 || len(c.BootEntries) != 3 || len(c.GPT) != 1 || c.GPT[0].Partitions[0].Name != "ESP" {
		t.Errorf("%+v", c)
	}
	hashes := 0
	c.DBX.Hashes(func(kind string, _, data []byte) {
		if kind == "sha256" && len(data) == 32 {
			hashes++
		}
	})
	if hashes != c.DBX.HashCount || hashes != 1 || len(c.DB.Certificates) != 2 {
		t.Errorf("db %+v, dbx %+v", c.DB, c.DBX)
	}
	out, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{`"secure_boot":true`, `"setup_mode":null`, `"secure_boot_effective":true`, `"kernel_cmdline":"BOOT_IMAGE=/vmlinuz console=ttyS0,115200"`, `"windows":null`, `"uki":false`} {
		if !strings.Contains(string(out), field) {
			t.Errorf("no %s in %s", field, out)
		}
	}
	if len(out) > 32<<10 {
		t.Errorf("claims of %d bytes", len(out))
	}
}

func TestUKIClaims(t *testing.T) {
	for _, variant := range []string{"uki-direct", "uki-sdboot-1", "snakeoil"} {
		c := claimsOf(t, bootLog(variant))
		var names []string
		for _, s := range c.UKISections {
			names = append(names, s.Name)
			if len(s.Digests) == 0 {
				t.Errorf("%s: section %s has no digest", variant, s.Name)
			}
		}
		if c.UKI == nil || !*c.UKI || !reflect.DeepEqual(names, []string{".linux", ".osrel", ".cmdline", ".initrd"}) || c.Kernel == nil {
			t.Errorf("%s: %v", variant, names)
		}
	}
}

func TestWindowsClaims(t *testing.T) {
	for path, want := range map[string]struct {
		modules int
		count   uint64
	}{
		"testdata/quotes/goattest-windows-gce-shielded-vm/eventlog.bin":        {64, 4},
		"testdata/quotes/guard-supermicro-win2022-a/eventlog.bin":              {73, 14},
		"testdata/quotes/guard-dell-r340-win2019-a/eventlog.bin":               {69, 85},
		"testdata/eventlogs/baremetal/guard-set-t480s-win10/eventlog.bin":      {75, 71},
		"testdata/eventlogs/baremetal/guard-dell-notebook-5eventlogs-WBCL.log": {73, 177},
		"testdata/eventlogs/baremetal/guard-tpm12_windows_lenovo_x1carbonv3":   {74, 0}, // a TPM 1.2 has no counter
	} {
		w := claimsOf(t, path).Windows
		if w == nil {
			t.Errorf("%s: no Windows", path)
			continue
		}
		for name, pair := range map[string][2]string{
			"boot debugging": {tristate(w.BootDebugging), "off"}, "kernel debugging": {tristate(w.KernelDebugging), "off"},
			"test signing": {tristate(w.TestSigning), "off"}, "code integrity": {tristate(w.CodeIntegrity), "on"}, "safe mode": {tristate(w.SafeMode), "off"},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s: %s is %s", path, name, pair[0])
			}
		}
		if len(w.Modules) != want.modules || w.BootCount == nil || *w.BootCount != want.count {
			t.Errorf("%s: %d modules, boot %v", path, len(w.Modules), w.BootCount)
		}
		if len(w.ELAM) != 1 || w.ELAM[0].Name != "Windows Defender" {
			t.Errorf("%s: ELAM %+v", path, w.ELAM)
		}
		named := 0
		for _, m := range w.Modules {
			if m.Path != "" && m.Publisher != "" && m.Authenticode != "" {
				named++
			}
		}
		if named < want.modules-2 {
			t.Errorf("%s: only %d modules are named", path, named)
		}
	}
}

// Switches that weaken Windows stay on once they were on, and code integrity off once it was off, and
// nothing counts after the end of the Windows log.
func TestWindowsSwitches(t *testing.T) {
	sipa := func(id uint32, value byte) []byte { return join(le32(id), le32(1), []byte{value}) }
	boundary := func(parts ...[]byte) []byte {
		body := join(parts...)
		return event(13, EvEventTag, join(le32(0x40010001), le32(uint32(len(body))), body))
	}
	for _, c := range []struct {
		name                string
		raw                 []byte
		testSigning, ci, ok string
	}{
		{"good", boundary(sipa(sipaTestSigning, 0), sipa(sipaCodeIntegrity, 1)), "off", "on", ""},
		{"bad once", join(boundary(sipa(sipaTestSigning, 1), sipa(sipaCodeIntegrity, 0)), boundary(sipa(sipaTestSigning, 0), sipa(sipaCodeIntegrity, 1))), "on", "off", ""},
		{"after the end", join(boundary(sipa(sipaTestSigning, 0)), event(13, EvSeparator, []byte("WBCL")), boundary(sipa(sipaCodeIntegrity, 1))), "off", "unknown", ""},
	} {
		log := parseOK(t, join(header(tpm.SHA256), c.raw))
		m, _ := log.replay(claimed(own(log)))
		w := m.Claims().Windows
		if w == nil || tristate(w.TestSigning) != c.testSigning || tristate(w.CodeIntegrity) != c.ci {
			t.Errorf("%s: %+v", c.name, w)
		}
	}
	// Data that no digest covers says nothing.
	body := sipa(sipaCodeIntegrity, 1)
	log := parseOK(t, join(header(tpm.SHA256), agileRecord(13, EvEventTag, join(le32(0x40010001), le32(9), body), sum(tpm.SHA256, []byte("x")))))
	m, report := log.replay(claimed(own(log)))
	if m.Claims().Windows != nil || len(report.Contradicted) != 1 {
		t.Errorf("%+v %v", m.Claims().Windows, report.Contradicted)
	}
}

func TestSignatureListsOfAbsurdSizes(t *testing.T) {
	list := func(size, head, entry uint32, body int) []byte {
		return join(make([]byte, 16), le32(size), le32(head), le32(entry), make([]byte, body))
	}
	for name, c := range map[string]struct {
		raw   []byte
		count int
		ok    bool
	}{
		"nothing":               {nil, 0, true},
		"empty list":            {list(28, 0, 0, 0), 0, true},
		"size 0":                {list(0, 0, 0, 0), 0, false},
		"4 GB":                  {list(0xFFFFFFFF, 0, 48, 48), 0, false},
		"header of 4 GB":        {list(28, 0xFFFFFFFF, 48, 0), 0, false},
		"entries of 0 bytes":    {list(28+48, 0, 0, 48), 0, false},
		"entries of 16 bytes":   {list(28+48, 0, 16, 48), 0, false},
		"entries of 4 GB":       {list(28+48, 0, 0xFFFFFFFF, 48), 0, false},
		"entries do not divide": {list(28+50, 0, 48, 50), 0, false},
		"two entries":           {list(28+96, 0, 48, 96), 2, true},
		"cut":                   {list(28+96, 0, 48, 95), 0, false},
		"short":                 {make([]byte, 27), 0, false},
	} {
		count := 0
		err := walkSignatures(c.raw, func(string, []byte, []byte) { count++ })
		if (err == nil) != c.ok || c.ok && count != c.count {
			t.Errorf("%s: %d entries, %v", name, count, err)
		}
	}
}

// Certificates that strict parsers refuse are read as far as they go.
func TestLenientCertificates(t *testing.T) {
	der := func(tag byte, parts ...[]byte) []byte {
		body := join(parts...)
		return join([]byte{tag, 0x82, byte(len(body) >> 8), byte(len(body))}, body)
	}
	name := func(cn string) []byte {
		return der(derSequence, der(derSet, der(derSequence, der(derOID, []byte{0x55, 4, 3}), der(0x0C, []byte(cn)))))
	}
	validity := der(derSequence, der(derUTCTime, []byte("120101000000Z")), der(derUTCTime, []byte("991231235959Z")))
	negative := der(derSequence, der(derSequence, der(derVersion, der(derInteger, []byte{2})), der(derInteger, []byte{0xFF, 0x01}), der(derSequence), name("Issuer, Inc."), validity, name("Subject")))
	c := parseCertificate(negative)
	if c.Serial != "-ff" || c.Name != "Subject" || c.Issuer != `CN="Issuer, Inc."` || c.NotAfter == nil || c.NotAfter.Year() != 1999 || len(c.SHA256) != 64 {
		t.Errorf("%+v", c)
	}
	for _, bad := range [][]byte{nil, {0x30}, {0x30, 0x80}, {0x30, 0x84, 1, 1, 1, 1}, der(derSequence), negative[:40], []byte("not DER at all")} {
		if c := parseCertificate(bad); c.SHA256 == "" || c.Subject != "" {
			t.Errorf("%x: %+v", bad, c)
		}
	}
	// Every certificate of every specimen has at least a subject, an issuer and a serial number.
	seen := 0
	for _, path := range specimens(t) {
		log := mustParse(t, path)
		m, _ := log.replay(claimed(own(log)))
		for _, db := range []*SignatureDatabase{m.Claims().PK, m.Claims().KEK, m.Claims().DB, m.Claims().DBX} {
			if db == nil {
				continue
			}
			for _, c := range db.Certificates {
				if seen++; c.Subject == "" || c.Issuer == "" || c.Serial == "" || c.NotAfter == nil || c.Name == "" {
					t.Errorf("%s: %+v", path, c)
				}
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d certificates", seen)
	}
}

func TestMachineSpecificNeedsCoveredData(t *testing.T) {
	value := []byte{1, 0}
	order := variableData(guidGlobal, "BootOrder", value)
	covered := event(1, EvEFIVariableBoot2, order)
	valueOnly := agileRecord(1, EvEFIVariableBoot, order, sum(tpm.SHA256, value))
	uncovered := agileRecord(1, EvEFIVariableBoot, order, sum(tpm.SHA256, []byte("x")))
	events := parseOK(t, join(header(tpm.SHA256), covered, valueOnly, uncovered)).Events()
	if !events[1].MachineSpecific || !events[2].MachineSpecific || events[3].MachineSpecific {
		t.Errorf("%v %v %v", events[1].MachineSpecific, events[2].MachineSpecific, events[3].MachineSpecific)
	}
}

// Variables of PCR 7 whose data no digest covers say nothing.
func TestUncoveredVariablesAreNotClaimed(t *testing.T) {
	lie := func(vendor [16]byte, name string, value []byte) []byte {
		return agileRecord(7, EvEFIVariableAuthority, variableData(vendor, name, value), sum(tpm.SHA256, []byte(name)))
	}
	certificate := join([]byte{derSequence, 0x82, 0, 4}, make([]byte, 4))
	log := parseOK(t, join(header(tpm.SHA256), lie(guidSecurity, "db", nil), lie(guidGlobal, "SetupMode", []byte{0}),
		event(7, EvSeparator, make([]byte, 4)), lie(guidShim, "SbatLevel", []byte("sbat,1\n")), lie(guidSecurity, "db", certificate)))
	m, report := log.replay(claimed(own(log)))
	c := m.Claims()
	if c.DB != nil || c.SetupMode != nil || c.ShimSBATLevel != nil || c.BootAuthorities != nil || len(report.Contradicted) != 4 {
		t.Errorf("%+v, contradicted %v", c, report.Contradicted)
	}
}

// Firmware that measures its protection against DMA to be off is believed by the digest, whatever type the log states;
// firmware that measures nothing of the kind leaves it unknown.
func TestDMAProtectionClaim(t *testing.T) {
	for path, want := range map[string]bool{
		"baremetal/guard-set-elitebook830g6-mok-baseline/eventlog.bin": true, "gce/gdc-host.bin": true, "misc/ita-binary_bios_measurements20": true,
		"baremetal/guard-set-t480s-win10/eventlog.bin": false, "gce/debian-10.bin": false,
	} {
		path := filepath.Join("testdata", "eventlogs", path)
		if got := tristate(claimsOf(t, path).DMAProtectionDisabled); got != map[bool]string{true: "on", false: "unknown"}[want] {
			t.Errorf("%s: %s, want %t", path, got, want)
		}
		if !want {
			continue
		}
		m, _ := measure(t, mustParse(t, path), own(mustParse(t, path)))
		events := slices.Clone(m.Events())
		for i := range events {
			if events[i].PCR == 7 && string(events[i].Data) == "DMA Protection Disabled" {
				events[i].Type, events[i].Data, events[i].Covered = EvIPL, []byte("harmless"), false
			}
		}
		r := claimsReader{verified: func(int) bool { return true }, claims: &Claims{}}
		r.read(events)
		if got := r.claims.DMAProtectionDisabled; got == nil || !*got {
			t.Errorf("%s: retyping the event hides it", path)
		}
	}
}
