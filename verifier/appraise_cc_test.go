package verifier

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

func readCC(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(path[len(path)-1], ".gz") {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if b, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func ccLog(t testing.TB, name string) *eventlog.Log {
	t.Helper()
	log, err := eventlog.Parse(readCC(t, "eventlog/testdata/tdx/ccel", name+".bin.gz"))
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// tdxReport verifies a real TD quote: "cos-113-tdx-quote" has the registers of log "cos-113-intel-tdx".
func tdxReport(t testing.TB, name string, at time.Time) *tee.Report {
	t.Helper()
	block, _ := pem.Decode(readCC(t, "tee/testdata/tdx/intel_sgx_root.pem"))
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	result := tee.Verify(&tee.Evidence{Type: tee.TypeTDX, Quote: readCC(t, "tee/testdata/tdx", name+".dat")}, &tee.Trust{TDX: []*x509.Certificate{root}}, at)
	if result.Report == nil {
		t.Fatalf("%+v", result.Steps)
	}
	return result.Report
}

func cosReport(t testing.TB) *tee.Report {
	return tdxReport(t, "cos-113-tdx-quote", time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))
}

// altered gives the data of the first event that holds old other bytes.
func altered(t testing.TB, old, changed string) *eventlog.Log {
	t.Helper()
	raw := readCC(t, "eventlog/testdata/tdx/ccel/cos-113-intel-tdx.bin.gz")
	if !bytes.Contains(raw, []byte(old)) || len(old) != len(changed) {
		t.Fatal("nothing to change")
	}
	log, err := eventlog.Parse(bytes.Replace(raw, []byte(old), []byte(changed), 1))
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func TestReplayCC(t *testing.T) {
	report, log := cosReport(t), ccLog(t, "cos-113-intel-tdx")
	empty, err := eventlog.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	quote := &tpm.VerifiedQuote{}
	for name, c := range map[string]struct {
		report *tee.Report
		quote  *tpm.VerifiedQuote
		in     Inputs
		status CheckStatus
		detail string
		claims bool
	}{
		"no report":                       {nil, nil, Inputs{CCLog: log}, Skipped, "no TDX report", false},
		"a report of nothing":             {&tee.Report{}, nil, Inputs{CCLog: log}, Skipped, "no TDX report", false},
		"unreadable log":                  {report, nil, Inputs{CCLogFault: "broken"}, Fail, "cannot be read: broken", false},
		"no log":                          {report, nil, Inputs{}, Skipped, "only the values of its RTMRs", false},
		"an empty log":                    {report, nil, Inputs{CCLog: empty}, Skipped, "only the values of its RTMRs", false},
		"no log, though there was one":    {report, nil, Inputs{HadLog: true}, Fail, "has shown one before", false},
		"no log, though one is required":  {report, nil, Inputs{Policy: Policy{RequireEventLog: true}}, Fail, "the policy requires", false},
		"no log beside a TPM":             {report, quote, Inputs{HadLog: true, Policy: Policy{RequireEventLog: true}}, Skipped, "only the values of its RTMRs", false},
		"log of another guest":            {report, nil, Inputs{CCLog: ccLog(t, "gdc-tdx")}, Fail, "does not lead to the value of RTMR 0, 1, 2", false},
		"log of a TPM":                    {report, nil, Inputs{CCLog: ccLog(t, "trustee-CCEL_data_csv")}, Fail, "no SHA-384 digests", false},
		"its log":                         {report, nil, Inputs{CCLog: log}, Pass, "replays to the RTMRs", true},
		"its log beside a TPM":            {report, quote, Inputs{CCLog: log}, Pass, "replays to the RTMRs", false},
		"its log, altered after the fact": {report, nil, Inputs{CCLog: altered(t, "sbat,1,2021", "sbat,1,2099")}, Warn, "event 21 is not what its digest covers", true},
	} {
		a := &appraiser{in: c.in, out: &Appraisal{Quote: c.quote, Claims: Claims{Claims: &eventlog.Claims{}}}}
		status, detail := a.replayCC(c.report)
		if status != c.status || !strings.Contains(detail, c.detail) {
			t.Errorf("%s: %s %q", name, status, detail)
		}
		if want := c.status == Pass || c.status == Warn; (a.out.RTMRMeasurements != nil) != want {
			t.Errorf("%s: measurements %v", name, a.out.RTMRMeasurements)
		}
		if want := c.report == report; (a.out.RTMRs != nil) != want {
			t.Errorf("%s: report %v", name, a.out.RTMRs)
		}
		if (a.out.Claims.SecureBoot != nil) != c.claims {
			t.Errorf("%s: claims %+v", name, a.out.Claims.Claims)
		}
	}
}

// cosMeasured is what a real guest without a TPM shows.
func cosMeasured(t testing.TB) measured {
	t.Helper()
	report := cosReport(t)
	m, replay := eventlog.ReplayRTMR(report, ccLog(t, "cos-113-intel-tdx"))
	if replay.Outcome != eventlog.Replayed {
		t.Fatalf("%+v", replay)
	}
	return measured{rtmrs: report, rtmrLog: m, claims: &Claims{Claims: m.Claims()}}
}

// capturedFrom makes reference values of a CC event log as a capture does; decoded by the log's own word, since most
// specimens have no quote.
func capturedFrom(t testing.TB, name string, required bool) ReferenceValues {
	t.Helper()
	out := ReferenceValues{}
	seen := map[string]bool{}
	for _, e := range ccLog(t, name).Events() {
		if !e.Extended || e.PCR < 1 || e.PCR > 3 || e.MachineSpecific || e.Component == eventlog.ComponentPartitionTable {
			continue
		}
		digest := hex.EncodeToString(e.Digests[0].Bytes)
		if key := string(rune('0'+e.PCR)) + digest; !seen[key] {
			seen[key] = true
			out.Events = append(out.Events, ReferenceEvent{PCR: e.PCR - 1, Type: e.Type.String(), Digests: map[string][]string{"rtmr": {digest}},
				Description: e.Description, Component: string(e.Component), Key: e.Key, Required: required})
		}
	}
	return out
}

func compiled(t testing.TB, rv ReferenceValues) *Reference {
	t.Helper()
	r, err := CompileReference(rv)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func parsed(t testing.TB, body string) *Reference {
	t.Helper()
	r, err := ParseReferenceValues([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Each log as the reference of one real guest: only its own image matches.
func TestReferencesOfOtherGuests(t *testing.T) {
	m := cosMeasured(t)
	for name, want := range map[string]bool{
		"cos-113-intel-tdx": true, "cos-113-intel-tdx-dupe-separator": false, "cs251200CCEL": false, "gdc-tdx": false, "ubuntu-2404-intel-tdx": false,
		"event_log": false, "CCEL_unpadded.data": false, "trustee-CCEL_data_gcp": false, "trustee-CCEL_data_grub": false, "trustee-CCEL_data_grub_gke": false,
		"trustee-CCEL_data_ovmf": false, "trustee-CCEL_AAEL_alibabacloud": false,
	} {
		deviations := compiled(t, capturedFrom(t, name, true)).match(m)
		if (len(deviations) == 0) != want {
			t.Errorf("%s: %+v", name, deviations)
		}
		for _, d := range deviations {
			if d.Bank != "rtmr" || d.PCR < 0 || d.PCR > 2 || d.Component == "" || d.Description == "" {
				t.Errorf("%s: %+v", name, d)
			}
		}
	}
}

func TestDeviationsOfRegisters(t *testing.T) {
	m := cosMeasured(t)
	value := func(i int) string {
		v, _ := m.rtmrs.RTMR(i)
		return hex.EncodeToString(v)
	}
	other := strings.Repeat("ab", 48)
	event := func(key string) ReferenceEvent {
		for _, e := range capturedFrom(t, "cos-113-intel-tdx", true).Events {
			if e.Key == key {
				return e
			}
		}
		t.Fatalf("no event %s", key)
		return ReferenceEvent{}
	}
	own := capturedFrom(t, "cos-113-intel-tdx", true)
	without := func(key string) ReferenceValues {
		var out ReferenceValues
		for _, e := range own.Events {
			if e.Key != key {
				out.Events = append(out.Events, e)
			}
		}
		return out
	}
	changedTo := func(key string, change func(e *ReferenceEvent)) ReferenceValues {
		out := ReferenceValues{Events: append([]ReferenceEvent{}, own.Events...)}
		for i := range out.Events {
			if out.Events[i].Key == key {
				change(&out.Events[i])
			}
		}
		return out
	}
	noLog := m
	noLog.rtmrLog = nil
	for name, c := range map[string]struct {
		reference *Reference
		m         measured
		want      []string // kind, register, component and words
	}{
		"values": {parsed(t, `{"pcrs": {"rtmr": {"0": ["`+value(0)+`", "`+other+`"], "2": ["`+value(2)+`"]}}}`), m, nil},
		"another value, no events": {parsed(t, `{"pcrs": {"rtmr": {"1": ["`+other+`"]}}}`), m,
			[]string{"changed rtmr 1 boot_loader RTMR 1 (boot loader, partition table) has another value than the baseline, which lists no events for it"}},
		"another value, no log": {parsed(t, `{"pcrs": {"rtmr": {"0": ["`+other+`"]}}}`), noLog,
			[]string{"changed rtmr 0 platform_config RTMR 0 (firmware configuration and Secure Boot) has another value than the baseline, and no event log explains which event changed"}},
		"run time": {parsed(t, `{"pcrs": {"rtmr": {"3": ["`+other+`"]}}}`), m,
			[]string{"changed rtmr 3 unknown RTMR 3 (run time) has another value than the baseline, which lists no events for it"}},
		"none of the events": {parsed(t, `{"events": [{"pcr": 3, "digests": {"rtmr": ["`+other+`"]}}]}`), m,
			[]string{"removed rtmr 3 unknown RTMR 3 (run time) holds none of the events that the baseline expects"}},
		"kernel changed": {compiled(t, changedTo("kernel", func(e *ReferenceEvent) {
			e.Digests = map[string][]string{"rtmr": {other}}
			e.Description = "kernel /syslinux/vmlinuz.A of before"
		})), m,
			[]string{"changed rtmr 2 kernel kernel changed: /syslinux/vmlinuz.A (digest of the file); before: /syslinux/vmlinuz.A of before"}},
		"boot loader added": {compiled(t, without("image:grub-lakitu.efi")), m,
			[]string{`added rtmr 1 boot_loader boot loader added: image \EFI\BOOT\grub-lakitu.efi (Authenticode sha384 b1fb7f4c0689f5a920b800b2607075f4906f8c8282d44e56fc991ec01f1adac176d2040a26f1453df112d7c4f4293fc9)`}},
		"an event no longer measured": {compiled(t, ReferenceValues{Events: append([]ReferenceEvent{{PCR: 0, Digests: map[string][]string{"rtmr": {other}}, Required: true,
			Component: "shim", Description: "shim SBAT revocation level: sbat,1,2099010100"}}, own.Events...)}), m,
			[]string{"removed rtmr 0 shim shim no longer measured: SBAT revocation level: sbat,1,2099010100"}},
		"PCRs of a machine without a TPM": {parsed(t, `{"pcrs": {"sha256": {"4": ["`+other[:64]+`"]}, "rtmr": {"2": ["`+value(2)+`"]}}}`), m,
			[]string{"removed  4 boot_loader PCR 4 (boot loader) is in the baseline but was not quoted"}},
		"... by events": {parsed(t, `{"events": [{"pcr": 9, "digests": {"sha256": ["`+other[:64]+`"]}}]}`), m,
			[]string{"removed  9 kernel PCR 9 (files read by the boot loader: kernel and initrd) is in the baseline but was not quoted"}},
		"RTMRs of a machine that shows none": {parsed(t, `{"pcrs": {"rtmr": {"0": ["`+other+`"], "2": ["`+other+`"]}}}`), measured{claims: m.claims},
			[]string{"removed rtmr 0 platform_config RTMR 0 (firmware configuration and Secure Boot) is in the baseline but not shown",
				"removed rtmr 2 kernel RTMR 2 (kernel, command line, initrd) is in the baseline but not shown"}},
		"RTMRs of a report that has none": {parsed(t, `{"events": [{"pcr": 1, "digests": {"rtmr": ["`+other+`"]}}]}`), measured{rtmrs: &tee.Report{}, claims: m.claims},
			[]string{"removed rtmr 1 boot_loader RTMR 1 (boot loader, partition table) is in the baseline but not shown"}},
		"a claim": {parsed(t, `{"claims": {"secure_boot": true}}`), m,
			[]string{"changed rtmr 0 secure_boot_policy claim secure_boot is false; expected true"}},
		"... whose register deviates is not told twice": {parsed(t, `{"claims": {"secure_boot": true}, "pcrs": {"rtmr": {"0": ["`+other+`"]}}}`), noLog,
			[]string{"changed rtmr 0 platform_config RTMR 0 (firmware configuration and Secure Boot) has another value than the baseline, and no event log explains which event changed"}},
		"... the PCR of the same number is another one": {parsed(t, `{"claims": {"secure_boot": true}, "pcrs": {"sha384": {"0": ["`+other+`"]}}}`), m,
			[]string{"removed  0 firmware PCR 0 (platform firmware) is in the baseline but was not quoted", "changed rtmr 0 secure_boot_policy claim secure_boot is false; expected true"}},
		"a claim that a register cannot prove": {parsed(t, `{"claims": {"kernel_cmdline": "quiet"}}`), m,
			[]string{`removed  -1 kernel_command_line claim kernel_cmdline is expected to be "quiet", but nothing in the evidence proves it`}},
		"... but equal registers do": {parsed(t, `{"claims": {"kernel_cmdline": "quiet"}, "pcrs": {"rtmr": {"0": ["`+value(0)+`"], "1": ["`+value(1)+`"], "2": ["`+value(2)+`"]}}}`), m, nil},
		"... not two of them": {parsed(t, `{"claims": {"kernel_cmdline": "quiet"}, "pcrs": {"rtmr": {"0": ["`+value(0)+`"], "1": ["`+value(1)+`"]}}}`), m,
			[]string{`removed  -1 kernel_command_line claim kernel_cmdline is expected to be "quiet", but nothing in the evidence proves it`}},
		"a list by hand": {compiled(t, ReferenceValues{Events: []ReferenceEvent{byHand(event("image:bootx64.efi")), byHand(event("image:grub-lakitu.efi"))}}), m, nil},
		"... that lacks one": {compiled(t, ReferenceValues{Events: []ReferenceEvent{byHand(event("image:bootx64.efi"))}}), m,
			[]string{`added rtmr 1 boot_loader boot loader added: image \EFI\BOOT\grub-lakitu.efi (Authenticode sha384 b1fb7f4c0689f5a920b800b2607075f4906f8c8282d44e56fc991ec01f1adac176d2040a26f1453df112d7c4f4293fc9)`}},
	} {
		var got []string
		for _, d := range c.reference.match(c.m) {
			got = append(got, strings.Join([]string{string(d.Kind), d.Bank, itoa(d.PCR), string(d.Component), d.Description}, " "))
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, c.want)
		}
	}
}

func TestRegisterOfDeviation(t *testing.T) {
	for _, c := range []struct {
		d    Deviation
		want string
	}{{Deviation{PCR: 4}, "PCR 4"}, {Deviation{PCR: 14, Bank: "sha256"}, "PCR 14"}, {Deviation{PCR: 1, Bank: "rtmr"}, "RTMR 1"}, {Deviation{PCR: -1, Bank: "rtmr"}, ""}} {
		if got := c.d.Register(); got != c.want {
			t.Errorf("%+v: %q", c.d, got)
		}
	}
}

func itoa(n int) string {
	if n < 0 {
		return "-1"
	}
	return string(rune('0' + n))
}

func byHand(e ReferenceEvent) ReferenceEvent {
	e.Required = false
	return e
}

// Digests of a register say nothing of the PCR of the same number, nor the other way round.
func TestRegistersAndPCRsAreJudgedApart(t *testing.T) {
	m := cosMeasured(t)
	digest := strings.Repeat("ab", 48)
	own := capturedFrom(t, "cos-113-intel-tdx", false)
	kernel := own.Events[len(own.Events)-3]
	mixed := ReferenceValues{Events: []ReferenceEvent{{PCR: 2, Digests: map[string][]string{"rtmr": kernel.Digests["rtmr"], "sha384": {digest}}}}}
	r := compiled(t, mixed)
	if !r.Judges(2) || !r.JudgesRTMR(2) || r.Judges(0) || r.JudgesRTMR(0) {
		t.Error("a mixed event judges both")
	}
	only := compiled(t, ReferenceValues{Events: []ReferenceEvent{{PCR: 2, Digests: map[string][]string{"sha384": kernel.Digests["rtmr"]}}}})
	if only.JudgesRTMR(2) || !only.Judges(2) {
		t.Error("a PCR's event judges the register")
	}
	// The digest of an event of RTMR 2, given as that of PCR 2, allows nothing in RTMR 2.
	rv := ReferenceValues{Events: append([]ReferenceEvent{}, own.Events...)}
	for i := range rv.Events {
		if rv.Events[i].PCR == 2 {
			rv.Events[i].Digests = map[string][]string{"sha384": rv.Events[i].Digests["rtmr"]}
		}
	}
	deviations := compiled(t, rv).match(m)
	if len(deviations) != 1 || deviations[0].PCR != 2 || deviations[0].Bank != "" || deviations[0].Kind != Removed {
		t.Errorf("%+v", deviations)
	}
}

func TestMergeAndDiffOfRegisters(t *testing.T) {
	a, b, c := strings.Repeat("aa", 48), strings.Repeat("bb", 48), strings.Repeat("cc", 48)
	upper := parsed(t, `{"pcrs": {"rtmr": {"1": ["`+a+`"]}, "sha384": {"2": ["`+a+`"]}}, "events": [{"pcr": 3, "key": "k", "digests": {"rtmr": ["`+a+`"]}}]}`)
	lower := parsed(t, `{"pcrs": {"rtmr": {"1": ["`+b+`"], "2": ["`+b+`"]}, "sha384": {"1": ["`+b+`"], "2": ["`+b+`"]}},
		"events": [{"pcr": 3, "key": "k", "digests": {"rtmr": ["`+b+`"], "sha384": ["`+b+`"]}}, {"pcr": 3, "digests": {"rtmr": ["`+c+`"]}}]}`)
	merged := Merge(upper, lower)
	want := ReferenceValues{
		PCRs: map[string]map[string][]string{"rtmr": {"1": {a}, "2": {b}}, "sha384": {"1": {b}, "2": {a}}},
		Events: []ReferenceEvent{
			{PCR: 3, Key: "k", Digests: map[string][]string{"sha384": {b}}},
			{PCR: 3, Key: "k", Digests: map[string][]string{"rtmr": {a}}},
		},
	}
	got := merged.Values()
	if !reflect.DeepEqual(got.PCRs, want.PCRs) || !reflect.DeepEqual(got.Events, want.Events) {
		t.Errorf("%+v", got)
	}
	if len(merged.rtmrs.events[3]) != 1 || len(merged.pcrs.events[3]) != 1 || !merged.JudgesRTMR(2) || !bytes.Equal(merged.rtmrs.values[tpm.RTMR][1][0], bytes.Repeat([]byte{0xaa}, 48)) {
		t.Errorf("compiled: %+v", merged.rtmrs)
	}
	// What Values tells compiles to the same.
	again := compiled(t, got)
	if d := Diff(merged, again); len(d) != 0 || again.rtmrs.judged != merged.rtmrs.judged || again.pcrs.judged != merged.pcrs.judged {
		t.Errorf("%+v", d)
	}
	rtmr1, pcr1, pcr2 := parsed(t, `{"pcrs": {"rtmr": {"1": []}}}`), parsed(t, `{"pcrs": {"sha256": {"1": []}}}`), parsed(t, `{"pcrs": {"sha256": {"2": []}}}`)
	if !upper.Overlaps(rtmr1) || upper.Overlaps(pcr1) || !upper.Overlaps(pcr2) || rtmr1.Overlaps(pcr1) {
		t.Error("overlaps")
	}
	var words []string
	for _, d := range Diff(upper, lower) {
		words = append(words, strings.Join([]string{string(d.Kind), d.Bank, itoa(d.PCR), d.Description}, " "))
	}
	if want := []string{
		"added sha384 1 PCR 1 (platform configuration): is now judged; accepted sha384 values: " + b,
		"changed sha384 2 PCR 2 (option ROMs and drivers): accepted sha384 values changed: added " + b + "; removed " + a,
		"added sha384 3 option rom added: an event that nothing describes",
		"changed rtmr 1 RTMR 1 (boot loader, partition table): accepted rtmr values changed: added " + b + "; removed " + a,
		"added rtmr 2 RTMR 2 (kernel, command line, initrd): is now judged; accepted rtmr values: " + b,
		"changed rtmr 3 unknown changed: an event that nothing describes",
		"added rtmr 3 unknown added: an event that nothing describes",
	}; !reflect.DeepEqual(words, want) {
		t.Errorf("%q", words)
	}
}

// Of two guests and a list by hand: type and data may say what they like, text that runs is not passed over.
func TestTypeMakesNoAction(t *testing.T) {
	raw := readCC(t, "eventlog/testdata/tdx/ccel/cos-113-intel-tdx.bin.gz")
	log := ccLog(t, "cos-113-intel-tdx")
	m := cosMeasured(t)
	var allowed ReferenceValues
	var out []byte
	events := log.Events()
	for i, e := range events {
		end := e.Offset + 12 + 2 + 48 + 4 + len(e.Data) // the last: padding follows
		if i+1 < len(events) {
			end = events[i+1].Offset
		}
		record := raw[e.Offset:end]
		if line, ok := bytes.CutPrefix(e.Data, []byte("grub_cmd: linux ")); ok {
			text := append([]byte("linux "), bytes.TrimRight(line, "\x00")...)
			head := bytes.Clone(record[:len(record)-len(e.Data)-4])
			copy(head[4:], []byte{0x07, 0, 0, 0x80}) // EV_EFI_ACTION
			record = append(append(head, byte(len(text)), byte(len(text)>>8), 0, 0), text...)
		} else if e.PCR == 3 {
			allowed.Events = append(allowed.Events, ReferenceEvent{PCR: 2, Digests: map[string][]string{"rtmr": {hex.EncodeToString(e.Digests[0].Bytes)}}})
		}
		out = append(out, record...)
	}
	dressed, err := eventlog.Parse(out)
	if err != nil {
		t.Fatal(err)
	}
	measurements, replay := eventlog.ReplayRTMR(m.rtmrs, dressed)
	if replay.Outcome != eventlog.Replayed || len(replay.Contradicted) > 0 {
		t.Fatalf("the attack is none: %+v", replay)
	}
	m.rtmrLog = measurements
	deviations := compiled(t, allowed).match(m)
	if len(deviations) != 1 || deviations[0].Kind != Added || deviations[0].EventType != "EV_EFI_ACTION" {
		t.Errorf("%+v", deviations)
	}
}

// The registers of a TDX guest can be named neither by evidence nor by a policy.
func TestRegistersAreNoPCRs(t *testing.T) {
	if _, err := ParsePolicy([]byte(`{"pcrs": {"rtmr": [0]}}`)); err == nil || !strings.Contains(err.Error(), "/pcrs/rtmr") {
		t.Errorf("policy: %v", err)
	}
	body := `{"quotes": [{"message": "AA==", "signature": "AA=="}], "pcrs": {"rtmr": {"0": "` + strings.Repeat("00", 48) + `"}}}`
	if _, err := Decode("application/json", []byte(body)); err == nil || !strings.Contains(err.Error(), "rtmr") {
		t.Errorf("evidence: %v", err)
	}
	if _, err := decodeProtobufPCRs("quote", []byte{pbPCRsHash << 3, 0xFE, 0xFF, 0x03}); err == nil || !strings.Contains(err.Error(), "65534 is no PCR bank") {
		t.Errorf("protobuf: %v", err)
	}
}
