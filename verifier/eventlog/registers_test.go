package eventlog

import (
	"bytes"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// ccel is a CC event log of a real guest.
func ccel(name string) string { return "testdata/tdx/ccel/" + name + ".bin.gz" }

// ccels are all of them but the one that has no SHA-384 bank.
func ccels(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, path := range specimens(t) {
		if strings.HasPrefix(path, "testdata/tdx/ccel/") && path != ccel("trustee-CCEL_data_csv") {
			out = append(out, path)
		}
	}
	if len(out) < 14 {
		t.Fatalf("only %d CC event logs", len(out))
	}
	return out
}

// ownRegisters are the RTMRs that the (last) log itself leads to.
func ownRegisters(t testing.TB, log *Log) registerValues {
	t.Helper()
	var out registerValues
	for i := range out {
		value, _, ok := log.PCR(tpm.SHA384, i+1)
		if !ok {
			t.Fatal("no SHA-384 bank")
		}
		out[i] = value
	}
	return out
}

// fold extends a register of zeros with digests, by the standard library alone.
func fold(digests ...[]byte) []byte {
	value := make([]byte, 48)
	for _, d := range digests {
		sum := sha512.Sum384(append(bytes.Clone(value), d...))
		value = sum[:]
	}
	return value
}

// ccRecord is a record whose digest is that of preimage, whatever its data is.
func ccRecord(register uint32, typ EventType, preimage, data []byte) []byte {
	return agileRecord(register, typ, data, sum(tpm.SHA384, preimage))
}

func ccLog(records ...[]byte) []byte {
	return join(header(tpm.SHA384), join(records...))
}

// measureCC replays a log to its own registers.
func measureCC(t testing.TB, raw []byte) (*Measurements, Report) {
	t.Helper()
	log := parseOK(t, raw)
	return log.replayRegisters(ownRegisters(t, log))
}

// cosReport is the proven report of a GCE guest, whose log is cos-113-intel-tdx.
func cosReport(t testing.TB) *tee.Report {
	t.Helper()
	block, _ := pem.Decode(readSpecimen(t, "../tee/testdata/tdx/intel_sgx_root.pem"))
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	result := tee.Verify(&tee.Evidence{Type: tee.TypeTDX, Quote: readSpecimen(t, "../tee/testdata/tdx/cos-113-tdx-quote.dat")},
		&tee.Trust{TDX: []*x509.Certificate{root}}, time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))
	if result.Report == nil {
		t.Fatalf("%+v", result.Steps)
	}
	return result.Report
}

func TestRegistersOfSpecimens(t *testing.T) {
	truth := readJSON[map[string]map[string]string](t, "testdata/tdx/rtmrs.json")
	seen := 0
	for _, path := range ccels(t) {
		want, ok := truth[strings.TrimSuffix(filepath.Base(path), ".gz")]
		if !ok {
			continue
		}
		seen++
		var values registerValues
		for index, text := range want {
			value, err := hex.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			values[index[0]-'0'] = value
		}
		log := mustParse(t, path)
		if report := log.CompareRTMR(values); report.Outcome != Replayed || len(report.Contradicted) > 0 || len(report.Banks[0].PCRs) != 3 {
			t.Errorf("%s: %+v", path, report)
		}
		for i := range 3 {
			wrong := values
			wrong[i] = corrupt(values[i], 47, values[i][47]^1)
			report := log.CompareRTMR(wrong)
			if report.Outcome != Failed || report.Banks[0].PCRs[i].State != Mismatch || !strings.Contains(report.Detail, "RTMR "+string(rune('0'+i))) {
				t.Errorf("%s, RTMR %d: %+v", path, i, report)
			}
		}
	}
	if seen != 4 {
		t.Errorf("%d logs have registers beside them", seen)
	}
}

// The signed quote of a real guest, down to claims.
func TestReplayOfSignedRegisters(t *testing.T) {
	report := cosReport(t)
	log := mustParse(t, ccel("cos-113-intel-tdx"))
	m, replay := ReplayRTMR(report, log)
	if replay.Outcome != Replayed || len(replay.Contradicted) != 0 || replay.Detail != "the CC event log replays to the RTMRs of the report" {
		t.Fatalf("%+v", replay)
	}
	if got := m.Banks(); len(got) != 1 || got[0] != tpm.RTMR {
		t.Errorf("banks %v", got)
	}
	for i := range 6 {
		if m.Verified(i) != (i < 4) {
			t.Errorf("register %d verified: %v", i, m.Verified(i))
		}
	}
	for _, e := range m.Events() {
		if e.PCR < 0 || e.PCR > 3 || len(e.Digests) != 1 || e.Digests[0].Alg != tpm.RTMR || !e.Extended {
			t.Errorf("%+v", e)
		}
	}
	if n := len(m.Events()); n != 43 || m.Log() != log || m.Empty() {
		t.Errorf("%d events", n)
	}
	for name, other := range map[string]string{"of the same image with another separator": ccel("cos-113-intel-tdx-dupe-separator"), "of another guest": ccel("gdc-tdx")} {
		m, replay := ReplayRTMR(report, mustParse(t, other))
		if replay.Outcome != Failed || len(m.Events()) != 0 || m.Verified(0) || m.Banks() != nil || !reflect.DeepEqual(m.Claims(), &Claims{}) {
			t.Errorf("a log %s: %+v", name, replay)
		}
	}
	// The decoded view that a TPM's log has is another one than that of the registers.
	if again, _ := log.replay(claimed(own(log))); reflect.DeepEqual(again.Events(), m.Events()) {
		t.Error("one view for PCRs and registers")
	}
}

func TestReplayRTMRRefuses(t *testing.T) {
	log := mustParse(t, ccel("cos-113-intel-tdx"))
	for name, c := range map[string]struct {
		report *tee.Report
		log    *Log
		detail string
	}{
		"nothing":                     {nil, nil, "no verified report"},
		"no report":                   {nil, log, "no verified report"},
		"no log":                      {cosReport(t), nil, "no verified report"},
		"a report without RTMRs":      {&tee.Report{}, log, "shows no run-time measurement registers"},
		"a TPM's log":                 {cosReport(t), mustParse(t, bootLog("sb-on-1")), "it is no CC event log"},
		"a log of SHA-1 alone":        {cosReport(t), mustParse(t, "testdata/eventlogs/gce/debian-10.bin"), "no SHA-384 digests"},
		"a log of SM3 (Hygon CSV)":    {cosReport(t), mustParse(t, ccel("trustee-CCEL_data_csv")), "no SHA-384 digests"},
		"a register beyond RTMR 3":    {cosReport(t), parseOK(t, join(serialise(log), ccRecord(5, EvIPL, nil, nil))), "beyond RTMR 3"},
		"... as if it did not extend": {cosReport(t), parseOK(t, join(serialise(log), ccRecord(1, EvNoAction, nil, nil))), ""},
	} {
		m, replay := ReplayRTMR(c.report, c.log)
		if c.detail == "" {
			if replay.Outcome != Replayed {
				t.Errorf("%s: %+v", name, replay)
			}
			continue
		}
		if replay.Outcome != Failed || !strings.Contains(replay.Detail, c.detail) || m == nil || m.Verified(0) || len(m.Events()) > 0 {
			t.Errorf("%s: %+v", name, replay)
		}
	}
	if m, replay := ReplayRTMR(cosReport(t), parseOK(t, make([]byte, 4096))); replay.Outcome != Empty || !m.Empty() || m.Verified(0) {
		t.Errorf("an empty log: %+v", replay)
	}
	if report := log.CompareRTMR(registerValues{}); report.Outcome != Failed {
		t.Errorf("no values: %+v", report)
	}
}

func TestRegistersWithoutEvents(t *testing.T) {
	separator := []byte{0, 0, 0, 0}
	log := parseOK(t, ccLog(ccRecord(0, EvSeparator, separator, separator), ccRecord(1, EvSeparator, separator, separator)))
	zero, other := make([]byte, 48), bytes.Repeat([]byte{7}, 48)
	good := registerValues{fold(sum(tpm.SHA384, separator).Bytes), zero, zero, zero}
	states := func(v registerValues) (Outcome, []PCRState) {
		report := log.CompareRTMR(v)
		var out []PCRState
		for _, p := range report.Banks[0].PCRs {
			out = append(out, p.State)
		}
		return report.Outcome, out
	}
	for name, c := range map[string]struct {
		change  func(v *registerValues)
		outcome Outcome
		states  []PCRState
	}{
		"all zero but what is logged": {func(*registerValues) {}, Replayed, []PCRState{Match, Match, Match, Match}},
		"RTMR 1 extended":             {func(v *registerValues) { v[1] = other }, Failed, []PCRState{Match, Mismatch, Match, Match}},
		"RTMR 2 extended":             {func(v *registerValues) { v[2] = other }, Failed, []PCRState{Match, Match, Mismatch, Match}},
		"RTMR 3 extended at run time": {func(v *registerValues) { v[3] = other }, Replayed, []PCRState{Match, Match, Match, Unexplained}},
		"RTMR 3 of a wrong size":      {func(v *registerValues) { v[3] = other[:47] }, Failed, []PCRState{Match, Match, Match, Mismatch}},
		"RTMR 0 zero, though logged":  {func(v *registerValues) { v[0] = zero }, Failed, []PCRState{Mismatch, Match, Match, Match}},
		"RTMR 0 cut short":            {func(v *registerValues) { v[0] = v[0][:32] }, Failed, []PCRState{Mismatch, Match, Match, Match}},
	} {
		v := good
		c.change(&v)
		if outcome, got := states(v); outcome != c.outcome || !reflect.DeepEqual(got, c.states) {
			t.Errorf("%s: %v %v", name, outcome, got)
		}
	}
	// What is said to be in MRTD is shown by nothing, and what RTMR 3 holds must be logged to the end.
	m, _ := log.replayRegisters(good)
	if len(m.Events()) != 1 || m.Events()[0].PCR != 0 {
		t.Errorf("%+v", m.Events())
	}
	v := good
	v[3] = other
	if m, _ := log.replayRegisters(v); m.Verified(3) || !m.Verified(2) {
		t.Error("an unexplained register is verified")
	}
	aael := mustParse(t, ccel("trustee-CCEL_AAEL_alibabacloud"))
	v = ownRegisters(t, aael)
	v[3] = fold(append(digestsOf(aael, 4), other)...)
	if report := aael.CompareRTMR(v); report.Outcome != Failed || report.Detail != "the CC event log does not lead to the value of RTMR 3" {
		t.Errorf("RTMR 3 extended after its log: %+v", report)
	}
}

func digestsOf(log *Log, register int) [][]byte {
	var out [][]byte
	for _, e := range log.Events() {
		if e.PCR == register && e.Extended {
			out = append(out, e.Digests[0].Bytes)
		}
	}
	return out
}

func TestSeveralCCLogsInOneBuffer(t *testing.T) {
	first := mustParse(t, ccel("CCEL_unpadded.data"))
	both := parseOK(t, join(serialise(first), serialise(mustParse(t, ccel("gdc-tdx")))))
	m, report := both.replayRegisters(ownRegisters(t, first))
	if report.Outcome != Replayed || !strings.HasSuffix(report.Detail, "(log 1 of 2 in the buffer)") || len(m.Events()) != 19 {
		t.Errorf("%+v, %d events", report, len(m.Events()))
	}
}

// decodedEvent is an event as trustee reads it.
type decodedEvent struct {
	Details struct {
		Text  string `json:"string"`
		Name  string `json:"unicode_name"`
		Value []byte `json:"variable_data"`
	} `json:"details"`
	Matches bool `json:"digest_matches_event"`
	Digests []struct {
		Alg    string `json:"alg"`
		Digest string `json:"digest"`
	} `json:"digests"`
	Event    string `json:"event"`
	Register uint32 `json:"index"`
	Type     string `json:"type_name"`
}

func decoded(t *testing.T, name string) []decodedEvent {
	t.Helper()
	var out struct {
		Events []decodedEvent `json:"uefi_event_logs"`
	}
	if err := json.Unmarshal(readSpecimen(t, "testdata/tdx/decoded/"+name+".json.gz"), &out); err != nil {
		t.Fatal(err)
	}
	return out.Events
}

// record rebuilds the record of an event.
func (e *decodedEvent) record(t *testing.T) []byte {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(e.Event)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := hex.DecodeString(e.Digests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	typ := EvNoAction
	for candidate, name := range typeNames {
		if name == e.Type {
			typ = candidate
		}
	}
	alg := tpm.SHA384
	if e.Digests[0].Alg == "SM3" {
		alg = tpm.SM3
	}
	return agileRecord(e.Register, typ, data, Digest{alg, digest})
}

// TestRegistersAgainstTrustee compares records, registers and decoded events with what trustee reads.
func TestRegistersAgainstTrustee(t *testing.T) {
	for _, name := range []string{"CCEL_AAEL_alibabacloud", "CCEL_data_csv", "CCEL_data_grub", "CCEL_data_grub_gke", "CCEL_data_ovmf"} {
		want := decoded(t, name)
		log := mustParse(t, ccel("trustee-"+name))
		events := log.Events()[1:]
		if len(events) != len(want) {
			t.Fatalf("%s: %d events of %d", name, len(events), len(want))
		}
		var digests [5][][]byte
		for i := range want {
			w, e := &want[i], &events[i]
			if rebuilt := w.record(t); !bytes.Equal(rebuilt, log.raw[e.Offset:e.Offset+len(rebuilt)]) {
				t.Errorf("%s: event %d: %x", name, i+1, rebuilt)
			}
			if e.Type.String() != w.Type {
				t.Errorf("%s: event %d is %v, not %s", name, i+1, e.Type, w.Type)
			}
			if e.Extended {
				digests[w.Register] = append(digests[w.Register], e.Digests[0].Bytes)
			}
			if name == "CCEL_data_csv" {
				continue // SM3 is not computed
			}
			if w.Matches && e.Extended && !e.Covered {
				t.Errorf("%s: event %d is not covered: %s", name, i+1, e.Description)
			}
			if v, ok := parseVariable(e.Data); (w.Details.Name != "" && w.Details.Name != "AAEL") != ok || ok && (utf16String(v.name) != w.Details.Name || !bytes.Equal(v.value, w.Details.Value)) {
				t.Errorf("%s: event %d is variable %q", name, i+1, w.Details.Name)
			}
			if text := strings.TrimRight(w.Details.Text, "\x00"); isText([]byte(text)) && text != "" && !strings.Contains(e.Description, strings.TrimPrefix(strings.TrimPrefix(printable(text), "grub_cmd: "), "kernel_cmdline: ")[:min(len(text)-1, 8)]) &&
				e.Component == ComponentUnknown {
				t.Errorf("%s: event %d: %q is described as %q", name, i+1, text, e.Description)
			}
		}
		if name == "CCEL_data_csv" {
			continue
		}
		var values registerValues
		for i := range values {
			values[i] = fold(digests[i+1]...)
		}
		if report := log.CompareRTMR(values); report.Outcome != Replayed || len(report.Contradicted) > 0 {
			t.Errorf("%s: %+v", name, report)
		}
	}
}

// describeRegisters writes what the registers of a log prove, one line an event.
func describeRegisters(t *testing.T, raw []byte) []string {
	t.Helper()
	m, report := measureCC(t, raw)
	if report.Outcome != Replayed {
		t.Fatalf("%+v", report)
	}
	var out []string
	for _, e := range m.Events() {
		mark := ""
		if e.Covered {
			mark = "*"
		}
		if e.MachineSpecific {
			mark += "~"
		}
		out = append(out, string(rune('0'+e.PCR))+" "+string(e.Component)+" "+e.Key+mark+": "+e.Description)
	}
	return out
}

func TestRegisterDescriptions(t *testing.T) {
	shim := decoded(t, "CCEL_data") // td-shim, rebuilt
	records := [][]byte{}
	for i := range shim {
		records = append(records, shim[i].record(t))
	}
	for name, c := range map[string]struct {
		raw  []byte
		want []string
	}{
		"cos-113": {readSpecimen(t, ccel("cos-113-intel-tdx")), []string{
			"0 platform_config handoff_tables:TdxTable:93bb96af-b9f2-4eb8-9462-e0ba74564236: TD HOB: memory and resources that the hypervisor tells firmware: TdxTable (93bb96af-b9f2-4eb8-9462-e0ba74564236)",
			"0 firmware firmware_blob:Fv(48DB5E17-707C-472D-91CD-1613E7EF51B0): firmware configuration that the launch did not measure: Fv(48DB5E17-707C-472D-91CD-1613E7EF51B0)",
			"0 secure_boot_policy variable:SecureBoot*: Secure Boot: off",
			"0 secure_boot_policy variable:PK*: Secure Boot platform key PK: 1 certificate (UEFI Platform Key v10)",
			"0 platform_config platform_config:ACPI DATA: ACPI tables (digest of them)",
			"0 separator separator*: separator: firmware hands over to the boot loader",
			"0 boot_order variable:BootOrder*~: boot order: Boot0001, Boot0000",
			`0 boot_order variable:Boot0001*~: boot option Boot0001: "UEFI nvme_card-pd", PciRoot(0x0)/Pci(0x4,0x0)/NVMe(0x1,0000000000000000)`,
			"0 shim variable:SbatLevel*: shim SBAT revocation level: sbat,1,2021030218",
			"1 action action:Calling EFI Application from Boot Option*: firmware starts a boot option",
			"1 partition_table gpt*~: GPT of disk e0c6c56e-5ef7-8e4a-ace6-3c31a7f75a29: 12 partitions",
			`1 boot_loader image:grub-lakitu.efi: boot loader image \EFI\BOOT\grub-lakitu.efi (Authenticode sha384 b1fb7f4c0689f5a920b800b2607075f4906f8c8282d44e56fc991ec01f1adac176d2040a26f1453df112d7c4f4293fc9)`,
			"2 machine_owner_key mok:MokList: machine owner keys (digest of MokList)",
			"2 boot_loader_config file:/efi/boot/grub.cfg: file /efi/boot/grub.cfg read by GRUB (digest of the file)",
			"2 boot_loader_config grub_cmd:set:timeout*: GRUB command: set timeout=0",
			"2 kernel kernel: kernel /syslinux/vmlinuz.A (digest of the file)",
		}},
		"gdc, GRUB and EFI stub": {readSpecimen(t, ccel("gdc-tdx")), []string{
			"2 kernel kernel: kernel /vmlinuz-6.11.0-21-generic (digest of the file)",
			"2 initrd initrd: initrd /initrd.img-6.11.0-21-generic (digest of the file)",
			"2 boot_loader_config grub_cmd:initrd*: GRUB command: initrd /initrd.img-6.11.0-21-generic",
			"2 kernel_command_line efistub:load_options: command line that the kernel's EFI stub was given (digest of it)",
			"2 initrd efistub:initrd: initrd that the kernel's EFI stub loaded (digest of its contents)",
		}},
		"an EFI stub without tags": {readSpecimen(t, ccel("CCEL_unpadded.data")), []string{
			"2 kernel_command_line efistub:load_options: command line that the kernel's EFI stub was given (digest of it)",
		}},
		"direct boot, older firmware": {readSpecimen(t, ccel("event_log")), []string{
			"0 platform_config post_code:ACPI DATA: ACPI tables",
			"0 platform_config platform_config:etc/acpi/tables: file etc/acpi/tables that the hypervisor hands over (digest of it)",
			"1 kernel platform_config:kernel: kernel that the hypervisor hands over (digest of it)",
			"1 kernel_command_line platform_config:DirectBoot Command Line: kernel command line that the hypervisor hands over (digest of it)",
			"1 boot_order variable:BootOrder*: boot order: Boot0000", // in RTMR 1 of all places: not passed over
		}},
		"unified kernel image": {readSpecimen(t, ccel("trustee-CCEL_data_grub_gke")), []string{
			"2 uki_section section-name:.linux*: unified kernel image has a section .linux",
			"2 uki_section section:.linux: unified kernel image section .linux (digest of its contents)",
			"2 uki_section section:.initrd: unified kernel image section .initrd (digest of its contents)",
		}},
		"GRUB's stray bytes, and an attestation agent": {readSpecimen(t, ccel("trustee-CCEL_AAEL_alibabacloud")), []string{
			"2 kernel kernel: kernel grub_linuxefi Kernel (digest of the file)",
			"2 initrd initrd: initrd grub_linuxefi Initrd (digest of the file)",
			"3 unknown aael:coco.com some-operation*: attestation agent: coco.com some-operation some-content",
		}},
		"td-shim": {ccLog(records...), []string{
			"1 firmware firmware_blob:td_payload: firmware code: td_payload",
		}},
		"QEMU fw_cfg": {ccLog(
			ccRecord(1, EvPlatformConfigFlags, []byte("x"), join([]byte("QEMU FW CFG\x00"), []byte("etc/boot-menu-wait\x00\x00\x00"))),
			ccRecord(2, EvPlatformConfigFlags, []byte("y"), []byte("QEMU FW CFG\x00initrd\x00")),
		), []string{
			"0 platform_config platform_config:etc/boot-menu-wait: file etc/boot-menu-wait that the hypervisor hands over (digest of it)",
			"1 initrd platform_config:initrd: initrd that the hypervisor hands over (digest of it)",
		}},
		"systemd-stub's command line": {ccLog(ccRecord(3, EvIPL, utf16Bytes("quiet\x00"), utf16Bytes("quiet\x00"))), []string{
			"2 kernel_command_line cmdline*: kernel command line: quiet",
		}},
	} {
		got := describeRegisters(t, c.raw)
		for _, line := range c.want {
			found := false
			for _, g := range got {
				found = found || g == line
			}
			if !found {
				t.Errorf("%s: no event %q in\n%s", name, line, strings.Join(got, "\n"))
			}
		}
	}
}

// A register tells what a TPM's log tells, as far as the two share what they hold: the same record has the same
// component, key and words. Those that differ know the PCR from the register's index, and say less.
func TestRegistersAndPCRsDescribeAlike(t *testing.T) {
	pcrs := map[string]Event{}
	for _, e := range mustParse(t, "testdata/eventlogs/gce/cs251200tpm.bin").Events() {
		pcrs[e.Type.String()+string(e.Data)] = e
	}
	m, _ := measureCC(t, readSpecimen(t, ccel("cs251200CCEL")))
	shared := 0
	for _, e := range m.Events() {
		p, ok := pcrs[e.Type.String()+string(e.Data)]
		if !ok || e.Type == EvEFIBootServicesApplication || e.Component == ComponentSeparator {
			continue
		}
		shared++
		if e.Component != p.Component || e.Key != p.Key || e.Description != p.Description || e.Covered != p.Covered || e.MachineSpecific != p.MachineSpecific || registerOf(p.PCR) != e.PCR {
			t.Errorf("RTMR %d %s %q %q covered %v, passed over %v\nPCR  %d %s %q %q covered %v, passed over %v", e.PCR, e.Component, e.Key, e.Description, e.Covered, e.MachineSpecific,
				p.PCR, p.Component, p.Key, p.Description, p.Covered, p.MachineSpecific)
		}
	}
	if shared < 30 {
		t.Errorf("only %d events are in both logs", shared)
	}
}

func TestRegisterClaims(t *testing.T) {
	for path, want := range map[string]string{
		ccel("cos-113-intel-tdx"):                "sb=off eff=off shim=unknown debug=off setup=unknown pk=1 kek=1 db=1 dbx=4/0 loaders=2 kernel=/syslinux/vmlinuz.A initrd=0 sections=0 mok=3 order=2 gpt=1",
		ccel("cos-113-intel-tdx-dupe-separator"): "sb=off eff=off shim=unknown debug=off setup=unknown pk=1 kek=1 db=1 dbx=4/0 loaders=2 kernel=/syslinux/vmlinuz.A initrd=0 sections=0 mok=3 order=2 gpt=1",
		ccel("cs251200CCEL"):                     "sb=off eff=off shim=unknown debug=off setup=unknown pk=1 kek=1 db=1 dbx=4/0 loaders=2 kernel=/syslinux/vmlinuz.B initrd=0 sections=0 mok=3 order=2 gpt=1",
		ccel("trustee-CCEL_data_grub"):           "sb=on eff=unknown shim=unknown debug=off setup=unknown pk=1 kek=2 db=2 dbx=0/1 loaders=5 kernel= initrd=1 sections=0 mok=6 order=2 gpt=1",
		ccel("trustee-CCEL_data_grub_gke"):       "sb=off eff=off shim=unknown debug=off setup=unknown pk=1 kek=1 db=2 dbx=3/183 loaders=2 kernel=.linux initrd=1 sections=6 mok=0 order=2 gpt=1",
		ccel("event_log"):                        "sb=off eff=off shim=unknown debug=off setup=unknown pk=0 kek=0 db=0 dbx=0/0 loaders=3 kernel= initrd=0 sections=0 mok=0 order=0 gpt=0",
		ccel("ubuntu-2404-intel-tdx"):            "sb=off eff=off shim=unknown debug=off setup=unknown pk=1 kek=2 db=4 dbx=0/371 loaders=2 kernel=/vmlinuz-6.17.0-1008-gcp initrd=0 sections=0 mok=3 order=19 gpt=1",
	} {
		m, _ := measureCC(t, readSpecimen(t, path))
		if got := claimsLine(m.Claims()); got != want {
			t.Errorf("%s:\n got %s\nwant %s", path, got, want)
		}
		c := m.Claims()
		if c.KernelCmdline != nil || c.UKI != nil || c.GRUBCommands != nil || c.BootAuthorities != nil || c.ShimSBATLevel != nil ||
			c.Windows != nil || c.OptionROMs != nil || c.Drivers != nil || c.FirmwareVersion != nil {
			t.Errorf("%s: claims that a register cannot prove: %+v", path, c)
		}
	}
}

func claimsLine(c *Claims) string {
	count := func(s *SignatureDatabase) int {
		if s == nil {
			return -1
		}
		return len(s.Certificates)
	}
	kernel, hashes := "", -1
	if c.Kernel != nil {
		kernel = c.Kernel.Name
	}
	if c.DBX != nil {
		hashes = c.DBX.HashCount
	}
	return strings.Join([]string{"sb=" + tristate(c.SecureBoot), "eff=" + tristate(c.SecureBootEffective), "shim=" + tristate(c.ShimValidationDisabled),
		"debug=" + tristate(c.FirmwareDebugger), "setup=" + tristate(c.SetupMode), "pk=" + itoa(count(c.PK)), "kek=" + itoa(count(c.KEK)), "db=" + itoa(count(c.DB)),
		"dbx=" + itoa(count(c.DBX)) + "/" + itoa(hashes), "loaders=" + itoa(len(c.BootLoaders)), "kernel=" + kernel, "initrd=" + itoa(len(c.Initrd)),
		"sections=" + itoa(len(c.UKISections)), "mok=" + itoa(len(c.MOKList)), "order=" + itoa(len(c.BootOrder)), "gpt=" + itoa(len(c.GPT))}, " ")
}

func itoa(n int) string { return numbers([]int{n}) }

// No log and no header can name the registers where a hash is named.
func TestHeaderCannotNameRegisters(t *testing.T) {
	if _, err := Parse(header(tpm.RTMR)); err == nil || !strings.Contains(err.Error(), "no hash of a log") {
		t.Errorf("%v", err)
	}
	if _, err := Parse(join(header(tpm.SHA384), agileRecord(1, EvIPL, nil, Digest{tpm.RTMR, make([]byte, 48)}))); err == nil {
		t.Error("a digest of the register's algorithm")
	}
}

func TestRegisterOf(t *testing.T) {
	var got []int
	for pcr := range 24 {
		got = append(got, registerOf(pcr))
	}
	if want := []int{-1, 0, 1, 1, 1, 1, 1, 0, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	sort.Ints(got)
}
