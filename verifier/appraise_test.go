package verifier_test

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Each recorded boot against the baseline of the first healthy one. The deviations are written as
// "pcr kind component", sorted, with repetitions.
func TestCapturesAgainstGolden(t *testing.T) {
	candidates := golden(t, "sb-on-1", "all-banks")
	tests := []struct {
		name, banks string
		status      verifier.Status
		reason      verifier.Reason
		deviations  []string
	}{
		{"sb-on-1", "sha256", verifier.Affirming, "", nil},
		{"sb-on-2", "sha256", verifier.Affirming, "", nil},
		{"sb-on-otherbox", "sha256", verifier.Affirming, "", nil},
		{"sb-on-sha384bank", "sha384", verifier.Warning, "", nil}, // the policy names sha256
		{"cmdline", "sha256", verifier.Contraindicated, verifier.BaselineDeviation, []string{
			"8 changed boot_loader_config", "8 changed kernel_command_line", "9 changed boot_loader_config"}},
		{"grubcfg-tampered", "sha256", verifier.Contraindicated, verifier.BaselineDeviation, []string{
			"8 added boot_loader_config", "9 changed boot_loader_config"}},
		{"initrd-tampered", "sha256", verifier.Contraindicated, verifier.BaselineDeviation, []string{"9 changed initrd"}},
		{"hw-changed", "sha256", verifier.Contraindicated, verifier.BaselineDeviation, []string{"0 changed firmware"}},
		{"ima-tcb-1", "sha256", verifier.Contraindicated, verifier.BaselineDeviation, []string{
			"8 changed boot_loader_config", "8 changed kernel_command_line", "9 changed boot_loader_config"}},
		{"mok-signed", "sha256", verifier.Contraindicated, verifier.BaselineDeviation, []string{
			"14 changed machine_owner_key", "7 added boot_authority", "9 changed kernel"}},
		// No event log: only values can be compared, and Secure Boot's state is unknown.
		{"sb-disabled", "sha256", verifier.Contraindicated, verifier.BaselineDeviation, []string{
			"4 changed boot_loader", "7 changed secure_boot_policy"}},
		{"sb-off", "sha256", verifier.Contraindicated, verifier.BaselineDeviation, []string{
			"0 changed firmware", "4 changed boot_loader", "7 changed secure_boot_policy"}},
		{"unlogged-extend", "sha256", verifier.Contraindicated, verifier.OriginUnverified, []string{"9 changed kernel"}},
		{"uki-sdboot-1", "sha256", verifier.Contraindicated, verifier.BaselineDeviation, slices.Concat([]string{"0 changed firmware"},
			repeat("11 added uki_section", 8), []string{"12 added kernel_command_line"}, repeat("14 removed machine_owner_key", 3),
			[]string{"4 added kernel", "4 changed boot_loader", "4 removed boot_loader", "4 removed kernel",
				"7 changed boot_authority", "7 changed secure_boot_policy", "7 changed secure_boot_policy", "7 changed secure_boot_policy",
				"7 removed boot_authority", "7 removed shim"},
			repeat("8 removed boot_loader_config", 9), []string{"8 removed kernel_command_line",
				"9 added kernel_command_line", "9 removed boot_loader_config", "9 removed kernel"})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := loadCapture(t, tt.name, "rsassa", tt.banks)
			in := c.inputs(t)
			in.Candidates = candidates
			got := verifier.Appraise(c.ev, in)
			if got.Status != tt.status || got.Reason != tt.reason {
				t.Errorf("%s %q, want %s %q\n%s", got.Status, got.Reason, tt.status, tt.reason, render(got))
			}
			if have := deviationKeys(got); strings.Join(have, "\n") != strings.Join(tt.deviations, "\n") {
				t.Errorf("deviations %q, want %q\n%s", have, tt.deviations, render(got))
			}
		})
	}
}

func repeat(s string, n int) []string { return slices.Repeat([]string{s}, n) }

// The verdict says in plain words what changed.
func TestDeviationsInPlainWords(t *testing.T) {
	candidates := golden(t, "sb-on-1", "sha256")
	for name, want := range map[string]string{
		"cmdline":          "kernel command line changed: `apparmor=0 mitigations=off single` added",
		"grubcfg-tampered": "boot loader config added: GRUB command: set superuser=attacker",
		"initrd-tampered":  "initrd changed: /initrd.img (digest of the file)",
		"mok-signed":       "boot authority added: what was booted is verified by shim (MokListRT): certificate my-mok",
	} {
		c := loadCapture(t, name, "ecdsa256", "sha256")
		in := c.inputs(t)
		in.Candidates = candidates
		got := render(verifier.Appraise(c.ev, in))
		if !strings.Contains(got, want) {
			t.Errorf("%s: no %q in\n%s", name, want, got)
		}
	}
}

// Each machine that no baseline but its own knows is healthy against its own, PCR-only ones included.
func TestEachCaptureAgainstItself(t *testing.T) {
	for _, name := range []string{"sb-on-1", "cmdline", "mok-signed", "uki-direct", "uki-sdboot-1", "snakeoil", "ima-tcb-1", "sb-off", "sb-disabled"} {
		c := loadCapture(t, name, "rsapss", "sha256")
		in := c.inputs(t)
		in.Policy.RequireSecureBoot = len(c.ev.EventLog) > 0
		in.Candidates = golden(t, name, "sha256")
		if got := verifier.Appraise(c.ev, in); got.Status != verifier.Affirming {
			t.Errorf("%s is %s\n%s", name, got.Status, render(got))
		}
	}
}

// Without a log, what only a log could tell is unknown, and PCR 7 of a baseline that says so proves
// Secure Boot.
func TestNoEventLog(t *testing.T) {
	c := loadCapture(t, "sb-on-1", "rsassa", "sha256")
	candidates := golden(t, "sb-on-1", "sha256")
	c.ev.EventLog = nil
	in := c.inputs(t)
	got := verifier.Appraise(c.ev, in)
	if got.Claims.SecureBoot != nil || got.Claims.KernelCmdline != nil {
		t.Error("a claim is known though there is no log")
	}
	if check(got, verifier.CheckEventLogReplay).Status != verifier.Skipped || check(got, verifier.CheckSecureBoot).Status != verifier.Fail {
		t.Errorf("without a baseline\n%s", render(got))
	}
	in.Candidates = candidates
	if got = verifier.Appraise(c.ev, in); got.Status != verifier.Affirming {
		t.Errorf("with a baseline that says that Secure Boot is on: %s\n%s", got.Status, render(got))
	}
	in.HadLog = true
	if got = verifier.Appraise(c.ev, in); got.Status != verifier.Contraindicated || got.Reason != verifier.OriginUnverified {
		t.Errorf("a log that this boot has shown is withheld: %s\n%s", got.Status, render(got))
	}
	in.HadLog, in.Candidates, in.Policy.RequireSecureBoot = false, nil, false
	if got = verifier.Appraise(c.ev, in); got.Status != verifier.None {
		t.Errorf("nothing could be appraised: %s\n%s", got.Status, render(got))
	}
}

// Every input that a caller can get wrong fails closed.
func TestFailClosed(t *testing.T) {
	c := loadCapture(t, "sb-on-1", "rsassa", "sha256")
	candidates := golden(t, "sb-on-1", "sha256")
	gone := []verifier.Withdrawn{{Baseline: verifier.VersionRef{ID: "gone", Version: 3}, Name: "web"}}
	tests := map[string]struct {
		change func(*verifier.Inputs)
		code   verifier.CheckCode
		status verifier.CheckStatus
		want   verifier.Status
	}{
		"no AK":                 {func(in *verifier.Inputs) { in.AK.Public = nil }, verifier.CheckAKTrusted, verifier.Fail, verifier.Contraindicated},
		"no assurance":          {func(in *verifier.Inputs) { in.AK.Assurance = "" }, verifier.CheckAKTrusted, verifier.Fail, verifier.Contraindicated},
		"unknown assurance":     {func(in *verifier.Inputs) { in.AK.Assurance = "absolute" }, verifier.CheckAKTrusted, verifier.Fail, verifier.Contraindicated},
		"AK revoked":            {func(in *verifier.Inputs) { in.AK.Fault = "revoked" }, verifier.CheckAKTrusted, verifier.Fail, verifier.Contraindicated},
		"AK not proven":         {func(in *verifier.Inputs) { in.AK.Unproven = "no anchors" }, verifier.CheckAKTrusted, verifier.Warn, verifier.Warning},
		"zero freshness":        {func(in *verifier.Inputs) { in.Freshness = tpm.Freshness{} }, verifier.CheckQuoteNonce, verifier.Fail, verifier.Contraindicated},
		"used nonce":            {func(in *verifier.Inputs) { in.Freshness.Fault = "already used" }, verifier.CheckQuoteNonce, verifier.Fail, verifier.Contraindicated},
		"nonce not checked":     {func(in *verifier.Inputs) { in.Freshness = tpm.Freshness{Unchecked: true} }, verifier.CheckQuoteNonce, verifier.Skipped, verifier.Warning},
		"reset count back":      {func(in *verifier.Inputs) { in.LastClock = &tpm.ClockState{ResetCount: 1 << 30} }, verifier.CheckQuoteClock, verifier.Fail, verifier.Contraindicated},
		"log unreadable":        {func(in *verifier.Inputs) { in.LogFault, in.Log = "cut short", nil }, verifier.CheckEventLogReplay, verifier.Fail, verifier.Contraindicated},
		"baseline required":     {func(in *verifier.Inputs) { in.Policy.RequireBaseline, in.Candidates = true, nil }, verifier.CheckBaselineMatch, verifier.Fail, verifier.Contraindicated},
		"baseline withdrawn":    {func(in *verifier.Inputs) { in.Candidates, in.Withdrawn = nil, gone }, verifier.CheckBaselineMatch, verifier.Fail, verifier.Contraindicated},
		"one of two withdrawn":  {func(in *verifier.Inputs) { in.Withdrawn = gone }, verifier.CheckBaselineMatch, verifier.Fail, verifier.Contraindicated},
		"log required":          {func(in *verifier.Inputs) { in.Policy.RequireEventLog, in.Log = true, nil }, verifier.CheckEventLogReplay, verifier.Fail, verifier.Contraindicated},
		"IMA required":          {func(in *verifier.Inputs) { in.Policy.RequireIMA = true }, verifier.CheckIMAPolicy, verifier.Fail, verifier.Contraindicated},
		"IMA unreadable":        {func(in *verifier.Inputs) { in.IMAFault = "cut short" }, verifier.CheckIMAReplay, verifier.Fail, verifier.Contraindicated},
		"SHA-384 required only": {func(in *verifier.Inputs) { in.Policy.PCRs = map[string][]int{"sha384": {0}} }, verifier.CheckQuoteSelection, verifier.Fail, verifier.Contraindicated},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			in := c.inputs(t)
			in.Candidates = candidates
			tt.change(&in)
			got := verifier.Appraise(c.ev, in)
			if have := check(got, tt.code); have.Status != tt.status || got.Status != tt.want {
				t.Errorf("%s, check %s %s\n%s", got.Status, have.Code, have.Status, render(got))
			}
			if got.Status == verifier.Contraindicated && got.Reason == verifier.NoReason {
				t.Error("contraindicated without a reason")
			}
		})
	}
}

// What was withdrawn is said in words, beside what deviates from the baselines that are left.
func TestWithdrawnBaselineIsTold(t *testing.T) {
	c := loadCapture(t, "cmdline", "rsassa", "sha256")
	in := c.inputs(t)
	in.Withdrawn = []verifier.Withdrawn{{Baseline: verifier.VersionRef{ID: "a", Version: 3}, Name: "web"},
		{Baseline: verifier.VersionRef{ID: "b", Version: 1}, Name: "db", Ended: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}}
	const told = "version 3 of web was withdrawn and nothing replaces it; version 1 of db ended at 2026-11-25T12:00:00Z and nothing replaces it"
	got := verifier.Appraise(c.ev, in)
	if have := check(got, verifier.CheckBaselineMatch); have.Detail != told || got.Reason != verifier.BaselineDeviation {
		t.Errorf("%s", render(got))
	}
	in.Candidates = golden(t, "sb-on-1", "sha256")
	got = verifier.Appraise(c.ev, in)
	if have := check(got, verifier.CheckBaselineMatch); !strings.HasPrefix(have.Detail, told+"; ") || len(got.Deviations) == 0 {
		t.Errorf("%s", render(got))
	}
}

// A key known by its certificate alone is taken on the issuer's word, and on nobody else's.
func TestKeyWithoutAttributes(t *testing.T) {
	c := loadCapture(t, "sb-on-1", "rsassa", "sha256")
	bare, err := tpm.PublicFromCrypto(c.ak.Key())
	if err != nil {
		t.Fatal(err)
	}
	in := c.inputs(t)
	in.AK = verifier.AttestationKey{Public: bare, Assurance: verifier.AKCertified}
	if got := verifier.Appraise(c.ev, in); got.Status != verifier.Affirming {
		t.Errorf("certified: %s\n%s", got.Status, render(got))
	}
	in.AK.Assurance = verifier.FirstUse
	if got := verifier.Appraise(c.ev, in); check(got, verifier.CheckAKTrusted).Status != verifier.Fail {
		t.Errorf("on first use\n%s", render(got))
	}
}

// A TPM that has only SHA-384 is affirmed where the policy names that bank, and a quoted bank that the
// policy requires must be one that the log explains.
func TestBanks(t *testing.T) {
	c := loadCapture(t, "sb-on-sha384bank", "rsassa", "sha384")
	in := c.inputs(t)
	if got := verifier.Appraise(c.ev, in); got.Status != verifier.Warning || check(got, verifier.CheckQuoteSelection).Status != verifier.Warn {
		t.Errorf("in place of sha256: %s\n%s", got.Status, render(got))
	}
	in.Policy.PCRs = map[string][]int{"sha384": in.Policy.PCRs["sha256"]}
	if got := verifier.Appraise(c.ev, in); got.Status != verifier.Affirming {
		t.Errorf("named by the policy: %s\n%s", got.Status, render(got))
	}

	// Quoted in all banks, with the log of a machine that has only SHA-384.
	all := loadCapture(t, "sb-on-1", "rsassa", "all-banks")
	in = all.inputs(t)
	ev := *all.ev
	ev.EventLog = c.ev.EventLog
	withLogs(&in, &ev)
	if got := verifier.Appraise(&ev, in); check(got, verifier.CheckEventLogReplay).Status != verifier.Fail {
		t.Errorf("the required bank is not explained: %s\n%s", got.Status, render(got))
	}
}

// The quote of one machine with the log of another, and with the key of another.
func TestMixedMachines(t *testing.T) {
	a, b := loadCapture(t, "sb-on-1", "rsassa", "sha256"), loadCapture(t, "uki-direct", "rsassa", "sha256")
	in := a.inputs(t)
	ev := *a.ev
	ev.EventLog = b.ev.EventLog
	withLogs(&in, &ev)
	if got := verifier.Appraise(&ev, in); got.Reason != verifier.OriginUnverified || check(got, verifier.CheckEventLogReplay).Status != verifier.Fail {
		t.Errorf("another machine's log\n%s", render(got))
	}
	other := loadCapture(t, "sb-on-otherbox", "rsassa", "sha256")
	in = a.inputs(t)
	in.AK.Public = other.ak
	if got := verifier.Appraise(a.ev, in); got.Reason != verifier.OriginUnverified || check(got, verifier.CheckQuoteSignature).Status != verifier.Fail {
		t.Errorf("another machine's key\n%s", render(got))
	}
}

// Every verdict reports every check, in the order of the API.
func TestChecksInOrder(t *testing.T) {
	want := []verifier.CheckCode{"ak.trusted", "platform.report", "platform.binding", "quote.signature", "quote.type", "quote.nonce",
		"quote.selection", "quote.digest", "quote.clock", "eventlog.replay", "secure_boot.enabled", "baseline.match", "ima.replay",
		"ima.policy", "policy.rules"}
	c := loadCapture(t, "sb-on-1", "rsassa", "sha256")
	for _, in := range []verifier.Inputs{{}, c.inputs(t)} {
		got := verifier.Appraise(c.ev, in)
		var have []verifier.CheckCode
		for _, check := range got.Checks {
			have = append(have, check.Code)
			if check.Detail == "" || check.Citation == "" {
				t.Errorf("%s has no detail or citation", check.Code)
			}
		}
		if !slices.Equal(have, want) {
			t.Errorf("checks %v", have)
		}
	}
}

// The IMA list of a recorded boot, whole and as increments, with files allowed and not.
func TestIMA(t *testing.T) {
	c := loadCapture(t, "ima-tcb-1", "ecdsa256", "sha256")
	c.ev.IMALog = read(t, boots, "ima-tcb-1", "evidence", "ima_binary_runtime_measurements")
	in := c.inputs(t)
	got := verifier.Appraise(c.ev, in)
	if got.Status != verifier.Affirming || check(got, verifier.CheckIMAReplay).Status != verifier.Pass || got.NextIMA == nil {
		t.Fatalf("whole list: %s\n%s", got.Status, render(got))
	}
	ref, err := verifier.ParseReferenceValues([]byte(`{"ima": {"allow": [{"path": "/nothing", "digests": ["sha256:` + zeroPCR + `"]}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	in.Candidates = []verifier.Candidate{{Reference: ref}}
	got = verifier.Appraise(c.ev, in)
	if check(got, verifier.CheckIMAPolicy).Status != verifier.Fail || got.Reason != verifier.BaselineDeviation || len(got.Deviations) == 0 ||
		!strings.Contains(got.Deviations[0].Description, "/") {
		t.Errorf("no file is allowed: %s\n%s", got.Status, render(got))
	}
	if ref, err = verifier.ParseReferenceValues([]byte(`{"ima": {"exclude": ["/.*", "[a-z_]*"]}}`)); err != nil {
		t.Fatal(err)
	}
	in.Candidates = []verifier.Candidate{{Reference: ref}}
	if got = verifier.Appraise(c.ev, in); check(got, verifier.CheckIMAPolicy).Status == verifier.Skipped {
		t.Errorf("the baseline's file list was not judged\n%s", render(got))
	}
	ev := *c.ev
	ev.IMALog = nil
	withLogs(&in, &ev)
	if got = verifier.Appraise(&ev, in); check(got, verifier.CheckIMAPolicy).Status != verifier.Fail {
		t.Errorf("the list is withheld\n%s", render(got))
	}
	ev = *c.ev
	ev.IMALogOffset = 3
	in = c.inputs(t)
	if got = verifier.Appraise(&ev, in); check(got, verifier.CheckIMAReplay).Status != verifier.Fail {
		t.Errorf("an increment to nothing\n%s", render(got))
	}
}

func deviationKeys(a *verifier.Appraisal) []string {
	out := []string{}
	for _, d := range a.Deviations {
		out = append(out, fmt.Sprintf("%d %s %s", d.PCR, d.Kind, d.Component))
	}
	sort.Strings(out)
	return out
}

func render(a *verifier.Appraisal) string {
	var b strings.Builder
	for _, c := range a.Checks {
		fmt.Fprintf(&b, "%-8s %-20s %s\n", c.Status, c.Code, c.Detail)
	}
	for _, d := range a.Deviations {
		fmt.Fprintf(&b, "PCR %d %s %s: %s\n", d.PCR, d.Kind, d.Component, d.Description)
	}
	return b.String()
}
