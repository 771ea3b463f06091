package ui

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tee"
)

func TestRelative(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "just now", -9 * time.Second: "just now", -59 * time.Second: "59 s ago", -3 * time.Minute: "3 min ago",
		-90 * time.Minute: "1 h ago", -47 * time.Hour: "47 h ago", -72 * time.Hour: "3 days ago", -65 * 24 * time.Hour: "2 months ago",
		-800 * 24 * time.Hour: "2 years ago", 5 * time.Minute: "in 5 min", 30 * time.Second: "in 30 s",
	} {
		if got := relative(d); got != want {
			t.Errorf("relative(%s) = %q, want %q", d, got, want)
		}
	}
	if m := at(time.Now(), (*time.Time)(nil)); m.Exact != "" {
		t.Errorf("a time that never was: %+v", m)
	}
}

func TestLocalPath(t *testing.T) {
	for in, want := range map[string]string{
		"/ui/alerts?status=all": "/ui/alerts?status=all", "": "/ui/", "/ui/": "/ui/", "//evil.example/ui/": "/ui/", "https://evil.example/ui/": "/ui/",
		"/ui/../v1/machines": "/ui/", `/ui/\evil`: "/ui/", "/other": "/ui/", "javascript:alert(1)": "/ui/", "/ui/sign-in?next=x": "/ui/", "\x00": "/ui/",
		"/ui/%2e%2e/x": "/ui/",
	} {
		if got := localPath(in); got != want {
			t.Errorf("localPath(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %q", n, got)
		}
	}
}

// TestChain: every check finds its hop, nothing is lost, and what follows a failed link is not vouched for.
func TestChain(t *testing.T) {
	all := []verifier.CheckCode{
		verifier.CheckAKTrusted, verifier.CheckPlatformReport, "platform.chip_id", "platform.tcb", "platform.vmpl", "platform.debug", "platform.migration",
		"platform.measurement", "platform.signer", verifier.CheckPlatformConfig, verifier.CheckPlatformBinding, verifier.CheckQuoteSignature, verifier.CheckQuoteType,
		verifier.CheckQuoteNonce, verifier.CheckQuoteSelection, verifier.CheckQuoteDigest, verifier.CheckQuoteClock, verifier.CheckEventLogReplay,
		verifier.CheckSecureBoot, verifier.CheckBaselineMatch, verifier.CheckIMAReplay, verifier.CheckIMAPolicy, verifier.CheckPolicyRules, "made.up",
	}
	var checks []verifier.Check
	for _, code := range all {
		c := verifier.Check{Code: code, Status: verifier.Pass}
		if code == verifier.CheckQuoteNonce {
			c.Status = verifier.Fail
		}
		checks = append(checks, c)
	}
	seen := 0
	for _, h := range chain(checks) {
		seen += len(h.Checks)
		want := h.Name == "Event log" || h.Name == "Boot components" || h.Name == "Runtime"
		if h.Broken != want {
			t.Errorf("%s: broken is %v", h.Name, h.Broken)
		}
		if (h.Status == verifier.Fail) != (h.Name == "Quote") {
			t.Errorf("%s: %s", h.Name, h.Status)
		}
	}
	if seen != len(all) {
		t.Errorf("%d of %d checks are shown", seen, len(all))
	}
	for _, code := range all[:len(all)-1] {
		if checkTitles[code] == "" {
			t.Errorf("%s has no title", code)
		}
	}
	if worst([]verifier.Check{{Status: "what"}}) != verifier.Fail || mark("what") != "fail" {
		t.Error("an unknown outcome must look failed")
	}
}

// TestHardwareHop: whatever is asked of a hardware report is in its hop, also what this page does not know yet. A report
// that is proven and says something unwanted is told apart from one that is not; what it was launched with breaks no link.
func TestHardwareHop(t *testing.T) {
	codes := []verifier.CheckCode{verifier.CheckPlatformReport, "platform.debug", "platform.measurement", "platform.signer", "platform.new", verifier.CheckPlatformConfig,
		verifier.CheckPlatformBinding, verifier.CheckAKTrusted}
	for failing, want := range map[verifier.CheckCode]struct {
		says   string
		broken bool
	}{
		"": {"vouches for the virtual machine and its TPM", false}, verifier.CheckPlatformReport: {"does not vouch", true}, verifier.CheckPlatformBinding: {"does not vouch", true},
		"platform.debug": {"not as your policy asks", true}, "platform.new": {"not as your policy asks", true}, "platform.measurement": {"not as your policy asks", false},
		"platform.signer": {"not as your policy asks", false}, verifier.CheckPlatformConfig: {"not as your policy asks", false},
	} {
		var checks []verifier.Check
		for _, code := range codes {
			c := verifier.Check{Code: code, Status: verifier.Pass}
			if code == failing {
				c.Status = verifier.Fail
			}
			checks = append(checks, c)
		}
		got := chain(checks)
		if len(got) != 2 || len(got[0].Checks) != len(codes)-1 || !strings.Contains(got[0].Says, want.says) || got[1].Broken != want.broken {
			t.Errorf("%q fails: %+v", failing, got)
		}
	}
}

// TestPlatformClaims: the claims of real hardware reports, in the order in which they are read.
func TestPlatformClaims(t *testing.T) {
	files, err := filepath.Glob("../../verifier/tee/testdata/claims/*.json")
	if err != nil || len(files) < 8 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		claims := new(tee.Claims)
		if err := json.Unmarshal(raw, claims); err != nil {
			t.Fatal(err)
		}
		view, err := describeClaims(verifier.Claims{Platform: claims})
		if err != nil {
			t.Fatal(err)
		}
		shown := map[string]claimNode{}
		for _, n := range view.Platform {
			shown[n.Label] = n
		}
		if view.Platform[0].Label != "TEE type" || !strings.HasPrefix(view.Platform[0].Value, map[string]string{"sev_snp": "AMD", "tdx": "Intel"}[claims.TEEType]) {
			t.Errorf("%s begins with %+v", file, view.Platform[0])
		}
		if n := shown["Launch measurement"]; n.Value != claims.LaunchMeasurement || !n.Digest {
			t.Errorf("%s: launch measurement %+v", file, n)
		}
		if claims.TCB != nil && shown["TCB"].Value != claims.TCB.String() {
			t.Errorf("%s: TCB %+v", file, shown["TCB"])
		}
		if claims.VM != nil && shown["VM id"].Value != claims.VM.VMID {
			t.Errorf("%s: VM id %+v", file, shown["VM id"])
		}
		if shown["Debugging allowed"].Value != yesNo(claims.Debug) || shown["Root"].Value != claims.Root || len(view.Unchecked) != len(claims.Unknown) {
			t.Errorf("%s: %+v, unchecked %v", file, shown, view.Unchecked)
		}
		if last := view.Platform[len(view.Platform)-1]; last.Label != "Further fields" || !last.Long() {
			t.Errorf("%s ends with %+v", file, last)
		}
	}
	view, err := describeClaims(verifier.Claims{Claims: &eventlog.Claims{}})
	if err != nil || view.Platform != nil || view.Unchecked != nil {
		t.Errorf("a machine without a hardware report: %+v, %v", view, err)
	}
}

func TestSlices(t *testing.T) {
	got := slices(map[string]int64{"b": 1, "known": 2, "a": 1, "none": 0}, []string{"known"}, anyText(words), "/x?k=")
	if len(got) != 3 || got[0].Key != "known" || got[1].Key != "a" || got[2].Key != "b" {
		t.Fatalf("%+v", got)
	}
	if got[0].Share != 50 || got[1].Offset != 50 || got[2].Offset != 75 || got[0].Link != "/x?k=known" {
		t.Errorf("%+v", got)
	}
}

func TestDescribeClaims(t *testing.T) {
	yes := true
	view, err := describeClaims(verifier.Claims{Claims: &eventlog.Claims{SecureBoot: &yes, Initrd: []eventlog.NamedDigest{
		{Name: "initrd.img", Digests: map[string]string{"sha256": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if view.Known[0].Label != "Secure Boot" || view.Known[0].Value != "yes" {
		t.Errorf("%+v", view.Known[0])
	}
	found := false
	for _, n := range view.Known {
		if n.Label == "Initial RAM disk" {
			c := n.Children[0]
			found = c.Summary == "initrd.img" && c.Children[0].Label == "SHA-256" && c.Children[0].Digest
		}
	}
	if !found {
		t.Errorf("initrd is not shown with its digest: %+v", view.Known)
	}
	unknown := false
	for _, n := range view.Unknown {
		unknown = unknown || n == "Setup mode"
	}
	if !unknown {
		t.Errorf("what is null must be listed as unknown: %v", view.Unknown)
	}
}
