package attester

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/platform"
	"github.com/assay-verifier/assay/store/keyring"
)

// The server's time is taken as it is; only where it says none there is jitter.
func TestNextInterval(t *testing.T) {
	for _, c := range []struct {
		seconds int
		random  float64
		want    time.Duration
	}{
		{300, 0, 300 * time.Second},
		{151, 1, 151 * time.Second},
		{0, 0, 270 * time.Second},
		{0, 0.5, defaultInterval},
		{0, 1, 330 * time.Second},
		{-5, 0.5, defaultInterval},
		{1 << 40, 0.5, 7 * 24 * time.Hour},
	} {
		if got := nextInterval(c.seconds, c.random); got != c.want {
			t.Errorf("%d s, %v: %s, not %s", c.seconds, c.random, got, c.want)
		}
	}
}

func TestBackOff(t *testing.T) {
	plain := errors.New("connection refused")
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 10: 512 * time.Second, 11: maxBackOff, 1000: maxBackOff} {
		if low, high := backOff(failures, plain, 0), backOff(failures, plain, 1); low != want/2 || high != want {
			t.Errorf("%d failures: %s to %s, not up to %s", failures, low, high, want)
		}
	}
	throttled := fmt.Errorf("TD quote: %w", &platform.RefusedError{Status: 429, RetryAfter: time.Minute})
	if got := backOff(1, throttled, 0.5); got != time.Minute {
		t.Errorf("the metadata service's Retry-After is not honoured: %s", got)
	}
	asked := fmt.Errorf("post evidence: %w", &client.Problem{Status: 503, RetryAfter: time.Hour})
	if got := backOff(1, asked, 0.5); got != time.Hour {
		t.Errorf("Retry-After is not honoured: %s", got)
	}
}

// The life of a challenge is measured by the server's clock at its beginning and this machine's
// monotonic one from then on.
func TestChallengeLifetime(t *testing.T) {
	asked := time.Now()
	server := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) // years off
	verdict := &client.Verdict{ServerTime: server, NextChallenge: &client.Challenge{Nonce: []byte{1}, ExpiresAt: server.Add(time.Minute)}}
	var n nextChallenge
	n.keep(verdict, asked)
	if n.take(asked.Add(54*time.Second)) == nil || n.take(asked) != nil {
		t.Error("a good challenge is taken, and once")
	}
	n.keep(verdict, asked)
	if n.take(asked.Add(56*time.Second)) != nil {
		t.Error("an expired challenge is taken")
	}
	// A verdict that stands for many may have an old time of receipt.
	verdict.ReceivedAt = server.Add(-time.Hour)
	n.keep(verdict, asked)
	if n.take(asked.Add(2*time.Minute)) != nil {
		t.Error("an expired challenge is taken")
	}
	verdict.ServerTime, verdict.ReceivedAt = time.Time{}, time.Time{}
	n.keep(verdict, asked)
	if n.take(asked) != nil {
		t.Error("without the server's time nothing is known of a challenge's end")
	}
}

func TestPlatform(t *testing.T) {
	dmi := func(files ...string) fstest.MapFS {
		host := fstest.MapFS{"etc/machine-id": {Data: []byte("abc\n")}}
		for i := 0; i < len(files); i += 2 {
			name := files[i]
			if !strings.Contains(name, "/") {
				name = "sys/class/dmi/id/" + name
			}
			host[name] = &fstest.MapFile{Data: []byte(files[i+1] + "\n")}
		}
		return host
	}
	for _, c := range []struct {
		host               fstest.MapFS
		platform, security string
	}{
		{dmi("sys_vendor", "Microsoft Corporation", "product_name", "Virtual Machine", "chassis_asset_tag", azureChassis), "azure", "trusted_launch"},
		{dmi("sys_vendor", "Microsoft Corporation", "product_name", "Virtual Machine", "proc/cpuinfo", "flags : fpu hypervisor"), "other", "standard"},
		{dmi("sys_vendor", "Google", "product_name", "Google Compute Engine"), "gcp", "trusted_launch"},
		{dmi("sys_vendor", "Google", "product_name", "Google Compute Engine", "dev/sev-guest", ""), "gcp", "confidential_snp"},
		{dmi("sys_vendor", "Google", "product_name", "Google Compute Engine", "dev/tdx_guest", ""), "gcp", "confidential_tdx"},
		{dmi("sys_vendor", "Amazon EC2", "product_name", "m7i.large"), "aws", "trusted_launch"},
		{dmi("sys_vendor", "Amazon EC2", "product_name", "m7i.metal"), "physical", "physical"},
		{dmi("sys_vendor", "VMware, Inc.", "product_name", "VMware20,1"), "vmware", "standard"},
		{dmi("sys_vendor", "QEMU", "product_name", "Standard PC (Q35 + ICH9, 2009)"), "qemu", "standard"},
		{dmi("sys_vendor", "LENOVO", "product_name", "20XW", "proc/cpuinfo", "flags : fpu vme"), "physical", "physical"},
		{dmi(), "other", "standard"},
	} {
		m := DetectMachine(c.host, nil)
		if m.Platform != c.platform || m.SecurityType != c.security || m.ExternalID != "abc" || m.OS == "" {
			t.Errorf("%+v, not %s, %s", m, c.platform, c.security)
		}
	}
}

func TestStateSurvives(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s, err := LoadState(dir)
	if err != nil || s.Enrolled() {
		t.Fatalf("%+v, %v", s, err)
	}
	s.Server, s.MachineID, s.Token, s.AK = "https://x", "m", keyring.NewSecret([]byte("secret")), AK{Alg: "ecdsa", Blob: []byte{1}}
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	again, err := LoadState(dir)
	if err != nil || !again.Enrolled() || again.Bearer() != "secret" || again.Last != nil {
		t.Errorf("%+v, %v", again, err)
	}
	for _, name := range []string{stateFile, tokenFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, stateFile)); err != nil || strings.Contains(string(text), "secret") {
		t.Errorf("the token is in the state: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".new-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadState(dir); err == nil || !strings.Contains(err.Error(), stateFile) {
		t.Errorf("%v", err)
	}
}

// What counts as enrolled: a key of any kind, or hardware evidence in the place of one.
func TestEnrolled(t *testing.T) {
	for _, c := range []struct {
		state State
		want  bool
		text  string
	}{
		{State{AK: AK{Alg: "ecdsa", Blob: []byte{1}}}, true, "ecdsa"},
		{State{AK: AK{Alg: "rsassa", Handle: 0x81000003}}, true, "rsassa, made by the paravisor"},
		{State{AK: AK{Alg: "ecdsa", Template: 0x01c10003}}, true, "ecdsa, certified by the cloud"},
		{State{Platform: client.TDX}, true, "none"},
		{State{}, false, "none"},
	} {
		c.state.dir, c.state.MachineID, c.state.Token = t.TempDir(), "m", keyring.NewSecret([]byte("t"))
		if err := c.state.Save(); err != nil {
			t.Fatal(err)
		}
		again, err := LoadState(c.state.dir)
		if err != nil || again.Enrolled() != c.want || again.AK.Text() != c.text || again.Platform != c.state.Platform {
			t.Errorf("%+v, %v", again, err)
		}
	}
}

func TestMeasurements(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if b, err := measurements(file); b != nil || err != nil {
		t.Errorf("absent: %v, %v", b, err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := measurements(file); b != nil || err != nil {
		t.Errorf("empty: %v, %v", b, err)
	}
	if _, err := measurements(t.TempDir()); err == nil {
		t.Error("a folder is read")
	}
	if err := os.WriteFile(file, make([]byte, maxMeasurements+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := measurements(file); err == nil {
		t.Error("a log without end is read")
	}
}

func TestWanted(t *testing.T) {
	got, err := wanted(map[string][]int{"sha384": {1}, "sha256": {0, 7}})
	if err != nil || len(got) != 2 || got[0].Mask != 0x81 || got[1].Mask != 2 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []map[string][]int{{"md5": {0}}, {"sha256": {24}}, {"sha256": {-1}}} {
		if _, err := wanted(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}
