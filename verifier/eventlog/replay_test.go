package eventlog

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// TestSpecimensReplay compares every log that has PCR values beside it with them. Those that must not
// replay are listed with the PCRs that must mismatch.
func TestSpecimensReplay(t *testing.T) {
	mismatches := map[string][]int{
		bootLog("unlogged-extend"): {9},
		// The machine of this set reported another PCR 0 than its log, which is why the set is called "failed-1".
		"testdata/quotes/guard-haruhi-gentoo-b/eventlog.bin": {0},
	}
	capped := map[string]bool{
		"testdata/eventlogs/baremetal/guard-set-t480s-win10/eventlog.bin": true,
		"testdata/quotes/guard-supermicro-win2022-a/eventlog.bin":         true,
	}
	replayed := 0
	for _, path := range specimens(t) {
		pcrs := pcrFile(t, path)
		if pcrs == nil {
			continue
		}
		report := mustParse(t, path).Compare(pcrs)
		want := mismatches[path]
		if (report.Outcome == Replayed) != (want == nil) {
			t.Errorf("%s: %v: %s", path, report.Outcome, report.Detail)
			continue
		}
		replayed++
		if len(report.Contradicted) > 0 {
			t.Errorf("%s: events %v are said to be changed", path, report.Contradicted)
		}
		for _, bank := range report.Banks {
			if capped[path] && bank.Alg == tpm.SHA1 {
				if bank.State != BankCapped {
					t.Errorf("%s: the SHA-1 bank is %v, not capped", path, bank.State)
				}
				continue
			}
			var got []int
			for _, p := range bank.PCRs {
				switch p.State {
				case Mismatch:
					got = append(got, p.PCR)
				case Unexplained:
					t.Errorf("%s: %v PCR %d is unexplained", path, bank.Alg, p.PCR)
				case NotJudged:
					if p.PCR != 10 {
						t.Errorf("%s: %v PCR %d is not judged", path, bank.Alg, p.PCR)
					}
				}
			}
			if bank.State != BankNotCovered && !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %v PCRs %v mismatch, want %v", path, bank.Alg, got, want)
			}
		}
	}
	if replayed < 30 {
		t.Errorf("only %d logs have PCR values", replayed)
	}
}

// TestCapturesReplayAsTheirTruth compares with the capture's own account, bank by bank.
func TestCapturesReplayAsTheirTruth(t *testing.T) {
	entries, err := os.ReadDir(boots)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		truth := filepath.Join(boots, entry.Name(), "replay.json")
		if _, err := os.Stat(bootLog(entry.Name())); err != nil {
			continue
		}
		log := mustParse(t, bootLog(entry.Name()))
		_, report := Replay(quoteOf(t, entry.Name()), log)
		for bank, pcrs := range readJSON[map[string]map[string]string](t, truth) {
			for index, want := range pcrs {
				i, err := strconv.Atoi(index)
				if err != nil {
					t.Fatal(err)
				}
				if got := stateOf(report, bank, i); got.String() != strings.ToLower(want) {
					t.Errorf("%s: %s PCR %d: %v, want %s", entry.Name(), bank, i, got, want)
				}
			}
		}
	}
}

func stateOf(report Report, bank string, pcr int) PCRState {
	for _, b := range report.Banks {
		if b.Alg.String() != bank {
			continue
		}
		for _, p := range b.PCRs {
			if p.PCR == pcr {
				return p.State
			}
		}
	}
	return 99
}

func TestFailedReplayProvesNothing(t *testing.T) {
	log := mustParse(t, bootLog("unlogged-extend"))
	m, report := Replay(quoteOf(t, "unlogged-extend"), log)
	if report.Outcome != Failed || !strings.Contains(report.Detail, "PCR 9") {
		t.Errorf("%v: %s", report.Outcome, report.Detail)
	}
	if m.Verified(7) || m.Events() != nil || m.Banks() != nil || m.Claims().SecureBoot != nil {
		t.Error("measurements of a failed replay hold something")
	}
	// Another machine's log against this quote.
	m, report = Replay(quoteOf(t, "sb-on-1"), mustParse(t, bootLog("cmdline")))
	if report.Outcome != Failed || m.Events() != nil {
		t.Errorf("another boot's log: %v", report.Outcome)
	}
}

func TestEmptyLogIsAStatedCondition(t *testing.T) {
	log := parseOK(t, nil)
	m, report := Replay(quoteOf(t, "sb-off"), log)
	if report.Outcome != Empty || !m.Empty() || m.Claims().SecureBoot != nil || m.Events() != nil {
		t.Errorf("%v %+v", report, m.Claims())
	}
	if _, report := Replay(quoteOf(t, "sb-on-1"), nil); report.Outcome != Failed {
		t.Errorf("a nil log: %v", report.Outcome)
	}
	if _, report := Replay(nil, log); report.Outcome != Failed {
		t.Errorf("no quote: %v", report.Outcome)
	}
	// A header alone is a log, and it explains nothing of what was extended.
	if _, report := Replay(quoteOf(t, "sb-on-1"), parseOK(t, header(tpm.SHA256))); report.Outcome != Failed {
		t.Errorf("a header alone: %v", report.Outcome)
	}
}

// with sets one PCR of each bank to what extending it with data makes of it.
func with(t testing.TB, pcrs tpm.PCRs, index int, data []byte) tpm.PCRs {
	t.Helper()
	var out tpm.PCRs
	for _, b := range pcrs {
		b.Values[index] = bytes.Clone(b.Values[index])
		extend(b.Alg, b.Values[index], sum(b.Alg, data).Bytes)
		out = append(out, b)
	}
	return out
}

func TestPCRsWithoutEvents(t *testing.T) {
	log := mustParse(t, bootLog("uki-sdboot-1")) // has no events in 8, 10, 13, 14 and above
	pcrs := own(log)
	if report := log.Compare(pcrs); report.Outcome != Replayed {
		t.Fatal(report.Detail)
	}
	for pcr, want := range map[int]PCRState{8: Mismatch, 14: Mismatch, 10: NotJudged, 13: Unexplained, 15: Unexplained, 16: Unexplained, 17: Unexplained, 22: Unexplained, 23: Unexplained} {
		report := log.Compare(with(t, pcrs, pcr, []byte("something")))
		if got := stateOf(report, "sha256", pcr); got != want {
			t.Errorf("PCR %d extended without a log: %v, want %v", pcr, got, want)
		}
		if (report.Outcome == Failed) != (want == Mismatch) {
			t.Errorf("PCR %d extended without a log: %v", pcr, report.Outcome)
		}
		m, _ := measure(t, log, with(t, pcrs, pcr, []byte("something")))
		if want != Mismatch && m.Verified(pcr) {
			t.Errorf("PCR %d counts as verified", pcr)
		}
	}
	for pcr := range 8 {
		report := log.Compare(with(t, pcrs, pcr, []byte("something")))
		if report.Outcome != Failed || stateOf(report, "sha256", pcr) != Mismatch {
			t.Errorf("PCR %d extended once more: %v", pcr, report.Outcome)
		}
	}
}

func TestBootPhases(t *testing.T) {
	log := mustParse(t, bootLog("uki-direct"))
	for _, c := range []struct {
		words []string
		want  PCRState
	}{
		{[]string{"enter-initrd"}, Match},
		{[]string{"enter-initrd", "leave-initrd", "sysinit", "ready"}, Match},
		{[]string{"sysinit", "ready"}, Match},
		{[]string{"enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"}, Match},
		{[]string{"ready", "sysinit"}, Mismatch},
		{[]string{"enter-initrd", "malware"}, Mismatch},
	} {
		pcrs := own(log)
		for _, w := range c.words {
			pcrs = with(t, pcrs, 11, []byte(w))
		}
		m, report := measure(t, log, pcrs)
		if got := stateOf(report, "sha256", 11); got != c.want {
			t.Errorf("%v: %v, want %v", c.words, got, c.want)
		}
		if c.want != Match {
			continue
		}
		if uki := m.Claims().UKI; uki == nil || !*uki {
			t.Errorf("%v: the sections are no longer proven", c.words)
		}
		for _, p := range report.Banks[0].PCRs {
			if p.PCR == 11 && !reflect.DeepEqual(p.Phases, c.words) {
				t.Errorf("phases %v, want %v", p.Phases, c.words)
			}
		}
	}
	// Without a unified kernel image nothing explains PCR 11 but the phases.
	log = mustParse(t, bootLog("sb-on-1"))
	if got := stateOf(log.Compare(with(t, own(log), 11, []byte("sysinit"))), "sha256", 11); got != Match {
		t.Errorf("phases from the reset value: %v", got)
	}
	if got := stateOf(log.Compare(with(t, own(log), 11, []byte("other"))), "sha256", 11); got != Unexplained {
		t.Errorf("something else from the reset value: %v", got)
	}
}

func TestStartupLocality(t *testing.T) {
	for _, locality := range []byte{0, 3, 4} {
		data := append(bytes.Clone(startupLocality), locality)
		none := sum(tpm.SHA256, nil)
		clear(none.Bytes)
		raw := join(header(tpm.SHA256), agileRecord(0, EvNoAction, data, none), event(0, EvSCRTMVersion, []byte("1")),
			agileRecord(0, EvNoAction, append(bytes.Clone(startupLocality), 9), none)) // too late: PCR 0 was extended
		value := make([]byte, 32)
		value[31] = locality
		extend(tpm.SHA256, value, sum(tpm.SHA256, []byte("1")).Bytes)
		if got, _, _ := parseOK(t, raw).PCR(tpm.SHA256, 0); !bytes.Equal(got, value) {
			t.Errorf("locality %d: PCR 0 is %x", locality, got)
		}
	}
	value := make([]byte, 32)
	value[31] = 4
	extend(tpm.SHA256, value, sum(tpm.SHA256, []byte("HCRTM")).Bytes)
	if got, _, _ := parseOK(t, join(header(tpm.SHA256), event(0, EvEFIHCRTMEvent, []byte("HCRTM")))).PCR(tpm.SHA256, 0); !bytes.Equal(got, value) {
		t.Errorf("H-CRTM: PCR 0 is %x", got)
	}
}

func TestBanks(t *testing.T) {
	raw := readSpecimen(t, bootLog("sb-on-1"))
	log := parseOK(t, raw)
	pcrs := own(log)

	foreign := tpm.PCRs{{Alg: tpm.SHA512, Mask: 1}}
	foreign[0].Values[0] = make([]byte, 64)
	if report := log.Compare(foreign); report.Outcome != Failed || report.Banks[0].State != BankNotCovered {
		t.Errorf("no common bank: %v", report)
	}
	if report := log.Compare(append(foreign, pcrs[1])); report.Outcome != Replayed || report.Banks[0].State != BankNotCovered {
		t.Errorf("one common bank of two: %v", report)
	}
	if report := log.Compare(tpm.PCRs{}); report.Outcome != Failed {
		t.Errorf("nothing quoted: %v", report)
	}
	if report := log.Compare(tpm.PCRs{{Alg: tpm.SHA256}}); report.Outcome != Failed {
		t.Errorf("an empty selection: %v", report)
	}

	// SM3 is not computed: a log that only has it proves nothing.
	sm3 := join(header(tpm.SM3), agileRecord(7, EvSeparator, make([]byte, 4), Digest{tpm.SM3, make([]byte, 32)}))
	bank := tpm.PCRs{{Alg: tpm.SM3, Mask: 1 << 7}}
	bank[0].Values[7] = make([]byte, 32)
	if report := parseOK(t, sm3).Compare(bank); report.Outcome != Failed || report.Banks[0].State != BankNotComputed {
		t.Errorf("SM3 alone: %v", report)
	}

	// A bank that replays does not excuse one that does not.
	bad := with(t, pcrs, 4, []byte("x"))
	if report := log.Compare(tpm.PCRs{pcrs[1], bad[0]}); report.Outcome != Failed {
		t.Errorf("SHA-256 replays, SHA-1 does not: %v", report)
	}
}

func TestCappedBank(t *testing.T) {
	log := mustParse(t, bootLog("sb-on-1"))
	pcrs := own(log)
	zeroed := tpm.PCRs{pcrs[0], pcrs[1]} // sha1, sha256
	for pcr := range 14 {
		zeroed[0].Values[pcr] = bytes.Clone(zeroed[0].Values[pcr])
		extend(tpm.SHA1, zeroed[0].Values[pcr], make([]byte, 20))
	}
	m, report := measure(t, log, zeroed)
	if report.Outcome != Replayed || report.Banks[0].State != BankCapped {
		t.Fatalf("%v %v", report.Outcome, report.Banks[0].State)
	}
	if got := m.Banks(); len(got) != 1 || got[0] != tpm.SHA256 {
		t.Errorf("banks %v prove something", got)
	}
	for _, e := range m.Events() {
		if len(e.Digests) != 1 || e.Digests[0].Alg != tpm.SHA256 {
			t.Fatalf("event %d has digests of a bank that proves nothing: %v", e.Index, e.Digests)
		}
	}
	// Nothing but a stronger bank excuses it, and not if one PCR is something else.
	if report := log.Compare(zeroed[:1]); report.Outcome != Failed {
		t.Errorf("a capped bank alone: %v", report.Outcome)
	}
	inverse := tpm.PCRs{pcrs[0], pcrs[1]}
	for pcr := range 14 {
		inverse[1].Values[pcr] = bytes.Clone(inverse[1].Values[pcr])
		extend(tpm.SHA256, inverse[1].Values[pcr], make([]byte, 32))
	}
	if report := log.Compare(inverse); report.Outcome != Failed {
		t.Errorf("SHA-256 capped beside SHA-1: %v", report.Outcome)
	}
	zeroed[0].Values[4] = pcrs[0].Values[4]
	if report := log.Compare(zeroed); report.Outcome != Failed {
		t.Errorf("half capped: %v", report.Outcome)
	}
}

// Several logs in one buffer: the one that leads to the quoted values counts.
func TestSeveralLogs(t *testing.T) {
	first, second := readSpecimen(t, bootLog("cmdline")), readSpecimen(t, bootLog("sb-on-1"))
	for _, raw := range [][]byte{join(first, second), join(second, first)} {
		log := parseOK(t, raw)
		m, report := Replay(quoteOf(t, "sb-on-1"), log)
		if report.Outcome != Replayed || m.Claims().KernelCmdline == nil || *m.Claims().KernelCmdline != "BOOT_IMAGE=/vmlinuz console=ttyS0,115200" {
			t.Errorf("%v: %s", report.Outcome, report.Detail)
		}
		if len(log.Events()) != log.Len() {
			t.Errorf("%d events of %d records", len(log.Events()), log.Len())
		}
	}
	if _, report := Replay(quoteOf(t, "sb-on-1"), parseOK(t, join(first, first))); report.Outcome != Failed {
		t.Errorf("two logs, none of this boot: %v", report.Outcome)
	}
}

// The same log may be replayed by many appraisals at once.
func TestLogIsSafeForConcurrentUse(t *testing.T) {
	log := mustParse(t, bootLog("sb-on-1"))
	quote := quoteOf(t, "sb-on-1")
	done := make(chan bool)
	for range 8 {
		go func() {
			m, _ := Replay(quote, log)
			on := m.Claims().SecureBoot
			done <- on != nil && *on && len(log.Events()) == log.Len()
		}()
	}
	for range 8 {
		if !<-done {
			t.Error("a concurrent replay differs")
		}
	}
}

// TestQuotesOfRealMachines replays logs against the machines' own quotes.
func TestQuotesOfRealMachines(t *testing.T) {
	for name, want := range map[string]Outcome{
		"guard-dell-r340-win2019-a": Replayed, "guard-haruhi-gentoo-a": Replayed, "guard-haruhi-gentoo-b": Failed,
		"guard-supermicro-win2022-a": Replayed,
	} {
		dir := filepath.Join("testdata/quotes", name)
		block, _ := pem.Decode(readSpecimen(t, filepath.Join(dir, "ak-recovered.pem")))
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		public, err := tpm.PublicFromCrypto(key)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		quote := tpm.Quote{Message: readSpecimen(t, filepath.Join(dir, "quote.attest.bin")), Signature: readSpecimen(t, filepath.Join(dir, "quote.sig.bin"))}
		attested, err := tpm.ParseAttest(quote.Message)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// The set holds the values of more banks than were quoted.
		var quoted tpm.PCRs
		for _, b := range pcrFile(t, filepath.Join(dir, "eventlog.bin")) {
			for _, s := range attested.Selections {
				if s.Alg == b.Alg {
					for i := range tpm.NumPCRs {
						if !s.Has(i) {
							b.Values[i] = nil
						}
					}
					b.Mask = s.Mask
					quoted = append(quoted, b)
				}
			}
		}
		q, steps := tpm.Verify(public, []tpm.Quote{quote}, quoted, tpm.Expectation{Freshness: tpm.Freshness{Unchecked: true}, AllowSHA1PCRs: true})
		if q == nil {
			t.Errorf("%s: the quote does not verify: %+v", name, steps)
			continue
		}
		m, report := Replay(q, mustParse(t, filepath.Join(dir, "eventlog.bin")))
		if report.Outcome != want || m.Verified(7) != (want == Replayed) {
			t.Errorf("%s: %v: %s", name, report.Outcome, report.Detail)
		}
	}
}
