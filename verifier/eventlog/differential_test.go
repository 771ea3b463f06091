package eventlog

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-eventlog/extract"
	pb "github.com/google/go-eventlog/proto/state"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
	"github.com/google/go-eventlog/tpmeventlog"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// The differential tests compare this package with the two public libraries, on every specimen and in
// every bank that both can compute. The libraries can crash or loop on real logs, so each call is
// guarded. Every difference is written down in knownDifferences, and one that no longer exists fails.

// finding is what one implementation says of a log in one bank.
type finding struct {
	replay     string // "ok", "parse: …" or "mismatch"
	events     string // PCR, type and digest of each replayed event
	secureBoot string // "on", "off", "unknown", or "error: …"
	cmdline    string // GRUB's kernel command line, "" if none
}

// guarded runs f with a time limit and turns a panic into an error.
func guarded(f func() error) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("panic: %v", r)
			}
		}()
		done <- f()
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		return errors.New("no end after 30 seconds")
	}
}

func eventLine(pcr int, typ uint32, digest []byte) string {
	return fmt.Sprintf("%d %08x %x\n", pcr, typ, digest)
}

func ours(log *Log, pcrs tpm.PCRs) finding {
	m, report := log.replay(claimed(pcrs))
	if report.Outcome != Replayed {
		return finding{replay: "mismatch"}
	}
	f := finding{replay: "ok", secureBoot: "unknown"}
	for _, e := range m.Events() {
		f.events += eventLine(e.PCR, uint32(e.Type), e.Digests[0].Bytes)
	}
	c := m.Claims()
	switch {
	case c.SecureBoot == nil:
	case *c.SecureBoot:
		f.secureBoot = "on"
	default:
		f.secureBoot = "off"
	}
	if c.KernelCmdline != nil && len(c.GRUBCommands) > 0 {
		f.cmdline = strings.TrimPrefix(*c.KernelCmdline, "BOOT_IMAGE=")
	}
	return f
}

func goAttestation(raw []byte, bank *tpm.Bank) finding {
	var f finding
	log, err := attest.ParseEventLog(raw)
	if err != nil {
		return finding{replay: "parse: " + err.Error()}
	}
	var pcrs []attest.PCR
	for i, value := range bank.Values {
		if value != nil {
			pcrs = append(pcrs, attest.PCR{Index: i, Digest: value, DigestAlg: bank.Alg.Hash()})
		}
	}
	events, err := log.Verify(pcrs)
	if err != nil {
		return finding{replay: "mismatch"}
	}
	f.replay = "ok"
	for _, e := range events {
		f.events += eventLine(e.Index, uint32(e.Type), e.Digest)
	}
	state, err := attest.ParseSecurebootState(events)
	switch {
	case err != nil:
		f.secureBoot = "error: " + err.Error()
	case state.Enabled:
		f.secureBoot = "on"
	default:
		f.secureBoot = "off"
	}
	return f
}

func goEventlog(raw []byte, bank *tpm.Bank) finding {
	var f finding
	var pcrs []register.PCR
	var mrs []register.MR
	for i, value := range bank.Values {
		if value != nil {
			p := register.PCR{Index: i, Digest: value, DigestAlg: bank.Alg.Hash()}
			pcrs, mrs = append(pcrs, p), append(mrs, p)
		}
	}
	events, err := tcg.ParseAndReplay(raw, mrs, tcg.ParseOpts{})
	if err != nil {
		if strings.Contains(err.Error(), "replay") {
			return finding{replay: "mismatch"}
		}
		return finding{replay: "parse: " + err.Error()}
	}
	f.replay = "ok"
	for _, e := range events {
		f.events += eventLine(e.Index, uint32(e.Type), e.ReplayedDigest())
	}
	algorithms := map[crypto.Hash]pb.HashAlgo{crypto.SHA1: pb.HashAlgo_SHA1, crypto.SHA256: pb.HashAlgo_SHA256, crypto.SHA384: pb.HashAlgo_SHA384}
	state, err := tpmeventlog.ReplayAndExtract(raw, register.PCRBank{TCGHashAlgo: algorithms[bank.Alg.Hash()], PCRs: pcrs}, extract.Opts{
		Loader: extract.GRUB, AllowEmptySBVar: true, AllowEFIAppBeforeCallingEvent: true, SkipACPITableCheck: true,
	})
	switch {
	case state == nil || state.GetSecureBoot() == nil:
		f.secureBoot = "error: " + fmt.Sprint(err)
	case state.GetSecureBoot().GetEnabled():
		f.secureBoot = "on"
	default:
		f.secureBoot = "off"
	}
	if kernel := state.GetLinuxKernel(); kernel != nil {
		f.cmdline = strings.TrimRight(kernel.GetCommandLine(), "\x00") // it keeps GRUB's final zero
	}
	return f
}

// knownDifferences says, for "library what specimen", why it differs from us.
var knownDifferences = map[string]string{
	// Both libraries refuse a log in which an event has no digest of the bank that is replayed; Windows
	// writes such events, and here it is an event without a SHA-384 digest: it extended nothing there.
	"go-attestation replay tpm2-tools-event-uefiaction.bin": "an event without a digest of the bank",
	"go-eventlog replay tpm2-tools-event-uefiaction.bin":    "an event without a digest of the bank",

	// The header does not count its vendor data in its size; tpm2_eventlog reads it, as we do.
	"go-attestation replay tpm2-tools-specid-vendordata.bin": "vendor data after the header",
	"go-eventlog replay tpm2-tools-specid-vendordata.bin":    "vendor data after the header",

	// Windows ends its log with a trust point, a record of PCR 0xFFFFFFFF, which go-eventlog takes for padding.
	"go-eventlog replay guard-dell-r340-win2019-a":  "trust point taken for padding",
	"go-eventlog replay guard-supermicro-win2022-a": "trust point taken for padding",

	// A SecureBoot variable of no bytes is how firmware without Secure Boot measures it: off.
	"go-attestation secure_boot arch-linux-workstation.bin":         "SecureBoot of no bytes",
	"go-attestation secure_boot goattest-crypto_agile_eventlog":     "SecureBoot of no bytes",
	"go-attestation secure_boot tpm2-tools-event-uefi-sha1-log.bin": "SecureBoot of no bytes",

	// Actions in PCR 7 that the libraries do not know ("Security Level is Downgraded to 0") are data to us.
	"go-attestation secure_boot guard-set-elitebook830g6-mok-baseline": "an unknown action in PCR 7",
	"go-attestation secure_boot guard-set-elitebook830g6-mokx-added":   "an unknown action in PCR 7",
	"go-eventlog secure_boot guard-set-elitebook830g6-mok-baseline":    "an unknown action in PCR 7",
	"go-eventlog secure_boot guard-set-elitebook830g6-mokx-added":      "an unknown action in PCR 7",

	// Where the log does not measure SecureBoot, the libraries say off and we say unknown.
	"go-attestation secure_boot guard-supermicro-win2022-a":        "SecureBoot is not measured",
	"go-attestation secure_boot tpm2-tools-event-uefiaction.bin":   "SecureBoot is not measured",
	"go-attestation secure_boot tpm2-tools-event-uefiservices.bin": "SecureBoot is not measured",
	"go-attestation secure_boot tpm2-tools-event.bin":              "SecureBoot is not measured",
	"go-eventlog secure_boot tpm2-tools-event-uefiaction.bin":      "SecureBoot is not measured",
	"go-eventlog secure_boot tpm2-tools-event-uefiservices.bin":    "SecureBoot is not measured",
	"go-eventlog secure_boot tpm2-tools-event.bin":                 "SecureBoot is not measured",
}

func TestDifferential(t *testing.T) {
	libraries := map[string]func([]byte, *tpm.Bank) finding{"go-attestation": goAttestation, "go-eventlog": goEventlog}
	seen := map[string]string{}
	for _, path := range specimens(t) {
		if strings.HasPrefix(path, "testdata/tdx") {
			continue // registers of another kind; they are not replayed here
		}
		raw := readSpecimen(t, path)
		log := parseOK(t, raw)
		pcrs := pcrFile(t, path)
		if pcrs == nil {
			pcrs = own(log)
		}
		for i := range pcrs {
			bank := &pcrs[i]
			if _, _, ok := log.PCR(bank.Alg, 0); !ok || bank.Alg == tpm.SHA512 {
				continue // the libraries do not take SHA-512 banks
			}
			want := ours(log, pcrs[i:i+1])
			for name, library := range libraries {
				var got finding
				if err := guarded(func() error { got = library(bytes.Clone(raw), bank); return nil }); err != nil {
					got.replay = err.Error()
				}
				for what, detail := range got.differs(want, name) {
					seen[fmt.Sprintf("%s %s %s", name, what, label(path))] = fmt.Sprintf("%v: %s", bank.Alg, detail)
				}
			}
		}
	}
	var keys []string
	for key := range seen {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		if knownDifferences[key] == "" {
			t.Errorf("unknown difference: %s\n%s", key, seen[key])
		}
	}
	for key := range knownDifferences {
		if seen[key] == "" {
			t.Errorf("no such difference any more: %s", key)
		}
	}
}

// label names a specimen shortly.
func label(path string) string {
	parts := strings.Split(path, "/")
	for _, generic := range []string{"eventlog.bin", "binary_bios_measurements", "evidence"} {
		if parts[len(parts)-1] == generic {
			parts = parts[:len(parts)-1]
		}
	}
	if parts[len(parts)-1] == "evidence" {
		parts = parts[:len(parts)-1]
	}
	return parts[len(parts)-1]
}

// differs lists in what two findings differ.
func (f finding) differs(want finding, name string) map[string]string {
	out := map[string]string{}
	if f.replay != want.replay {
		out["replay"] = fmt.Sprintf("theirs %q, ours %q", f.replay, want.replay)
		return out
	}
	if want.replay != "ok" {
		return nil
	}
	if f.events != want.events {
		out["events"] = fmt.Sprintf("theirs:\n%s\nours:\n%s", f.events, want.events)
	}
	// go-attestation cannot compare hashes of 48 bytes, so it has no state for SHA-384 banks.
	if f.secureBoot != want.secureBoot && !strings.HasSuffix(f.secureBoot, "cannot compare hash of length 48") {
		out["secure_boot"] = fmt.Sprintf("theirs %q, ours %q", f.secureBoot, want.secureBoot)
	}
	if name == "go-eventlog" && f.cmdline != want.cmdline {
		out["cmdline"] = fmt.Sprintf("theirs %q, ours %q", f.cmdline, want.cmdline)
	}
	return out
}
