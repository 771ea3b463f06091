package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/cmd/assay-agent/attester"
	agent "github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/integration/measure"
	"github.com/assay-verifier/assay/integration/swtpm"
	"github.com/assay-verifier/assay/store/keyring"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// liveService is a real assayd on its embedded Postgres, and how assay reaches it.
type liveService struct {
	t   *testing.T
	url string
	env []string
}

// startService builds and runs assayd for the duration of the test.
func startService(t *testing.T) *liveService {
	t.Helper()
	dir := t.TempDir()
	daemon := filepath.Join(dir, "assayd")
	if out, err := exec.Command("go", "build", "-o", daemon, "../assayd").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.MkdirTemp("", "assay-cli-data") // short, since a socket is below it
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	var log bytes.Buffer
	cmd := exec.Command(daemon, "dev", "--data-dir", filepath.Join(data, "d"), "--listen", address, "--admin-listen", "", "--allow-insecure-issuers", "--notify-allow-networks", "127.0.0.0/8")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("assayd: %v\n%s", err, log.String())
		}
		_ = os.RemoveAll(data)
	})
	s := &liveService{t: t, url: "http://" + address}
	s.env = []string{"ASSAY_SERVER=" + s.url, "ASSAY_TOKEN_FILE=" + filepath.Join(data, "d", "admin.token")}
	for range 1200 {
		if resp, err := http.Get(s.url + "/readyz"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("assayd did not get ready")
	return nil
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// run runs assay against the service and wants the exit code.
func (s *liveService) run(code int, args ...string) string {
	s.t.Helper()
	r := assay(s.t, s.env, args...)
	if r.code != code {
		s.t.Fatalf("assay %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.stdout, r.stderr)
	}
	if code != 0 {
		return r.stdout + r.stderr
	}
	return r.stdout
}

// wants runs assay and looks for each text in what it says.
func (s *liveService) wants(code int, texts []string, args ...string) {
	s.t.Helper()
	out := s.run(code, args...)
	for _, text := range texts {
		if !strings.Contains(out, text) {
			s.t.Errorf("assay %s: no %q in\n%s", strings.Join(args, " "), text, out)
		}
	}
}

func (s *liveService) json(into any, args ...string) {
	s.t.Helper()
	out := s.run(0, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		s.t.Fatalf("assay %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestAgainstService is a day of an operator: a real service, a real software TPM that enrols, boots what
// was recorded of real boots, and is judged; and everything that people do about it on the command line.
func TestAgainstService(t *testing.T) {
	s := startService(t)
	ctx := context.Background()

	s.wants(0, []string{"0 machines"}, "overview")
	device := swtpm.New(t, swtpm.Options{Name: "web-1", Banks: []string{"sha1", "sha256"}})
	root, err := device.RootPEM()
	if err != nil {
		t.Fatal(err)
	}
	intermediate, err := device.IntermediatePEM()
	if err != nil {
		t.Fatal(err)
	}
	anchors := writeFile(t, append(root, intermediate...))
	s.wants(0, []string{"vendor: 2 certificates trusted for ek"}, "trust-anchors", "add", "--name", "vendor", "--purpose", "ek", anchors)
	s.wants(0, []string{"vendor", "ek"}, "trust-anchors")
	s.wants(0, []string{"id,name,purpose", ",vendor,ek,", "\n#complete,"}, "trust-anchors", "--all", "--output", "csv", "--sort=-name")
	s.wants(0, []string{`"name":"vendor"`, `{"complete":true,"count":`}, "trust-anchors", "--all", "--output", "ndjson")
	s.wants(2, []string{"add --all"}, "trust-anchors", "--output", "csv")
	s.wants(1, []string{"sort"}, "trust-anchors", "--sort", "nonsense")

	join := strings.TrimSpace(s.run(0, "join-tokens", "create", "--name", "fleet", "--uses", "5", "--label", "env=prod"))
	if !strings.HasPrefix(join, "assay_join_") || strings.ContainsAny(join, " \n") {
		t.Fatalf("the join token is not alone on standard output: %q", join)
	}
	s.wants(0, []string{"fleet", "env=prod"}, "join-tokens")

	bootLog := func(boot string) string { return filepath.Join(boots, boot, "evidence", "binary_bios_measurements") }
	bootInto := func(boot string) {
		raw, err := os.ReadFile(bootLog(boot))
		if err != nil {
			t.Fatal(err)
		}
		d, err := tpmdevice.Open(device.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := measure.Log(d, raw, tpm.SHA1, tpm.SHA256); err != nil {
			t.Fatal(err)
		}
	}
	state := t.TempDir()
	attest := func(boot string) *agent.Verdict {
		a, err := attester.New(attester.Config{Server: s.url, StateDir: state, TPM: device.Socket, EventLog: bootLog(boot), IMALog: filepath.Join(state, "none")})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if !a.State().Enrolled() {
			if _, err := a.Enroll(ctx, attester.Enrollment{JoinToken: keyring.NewSecret([]byte(join)), Machine: agent.Machine{Name: "web-1", ExternalID: "vm-1", OS: "linux", Platform: "qemu", SecurityType: "trusted_launch", ScaleSet: "web"}}); err != nil {
				t.Fatal(err)
			}
		}
		v, err := a.Attest(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	bootInto("sb-on-1")
	attest("sb-on-1")
	s.wants(0, []string{"web-1", "affirming", "ek_activated", "just now"}, "machines")
	s.wants(0, []string{"web golden version 1 is active"}, "baselines", "capture", "--machine", "web-1", "--name", "web golden", "--scale-set", "web")
	s.wants(0, []string{"web golden", "1 active", "scale set web"}, "baselines")
	s.wants(0, []string{"web golden", "active", "captured"}, "baselines", "show", "web golden")
	s.wants(0, []string{"Events (", "GRUB command", "secure_boot"}, "baselines", "show", "web golden@1")

	testDryRun(t, s)
	if err := device.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	bootInto("cmdline")
	attest("cmdline")
	s.wants(0, []string{"contraindicated", "baseline_deviation"}, "machines", "list", "--status", "contraindicated", "--label", "env=prod")
	s.wants(0, []string{"web-1", "Assessments", "Unhealthy", "Open alerts", "baseline_deviation"}, "machines", "show", "web-1")
	s.wants(0, []string{"contraindicated", "affirming"}, "verdicts", "list", "--machine", "web-1")
	s.wants(0, []string{"✗ baseline.match", "Deviations (3)", "mitigations=off", "ek_activated"}, "verdicts", "show", "web-1")
	s.wants(0, []string{"DESCRIPTION", "boot_loader", "✓"}, "verdicts", "show", "web-1", "--event-log")

	var alerts struct {
		Items []struct {
			ID        string `json:"id"`
			VerdictID string `json:"verdict_id"`
			Status    string `json:"status"`
		} `json:"items"`
	}
	s.json(&alerts, "alerts", "--machine", "web-1", "--status", "active")
	if len(alerts.Items) == 0 {
		t.Fatal("no alert")
	}
	id := alerts.Items[0].ID
	s.wants(0, []string{"contraindicated"}, "verdicts", "show", alerts.Items[0].VerdictID)
	s.wants(0, []string{"What to do", "web-1"}, "alerts", "show", id)
	s.wants(0, []string{"in_progress"}, "alerts", "in-progress", id)
	s.wants(0, []string{"active"}, "alerts", "activate", id)
	s.wants(0, []string{"dismissed", "closed"}, "alerts", "dismiss", id, "--comment", "known since Monday")
	s.wants(0, []string{"active", "opened again", "1 time"}, "alerts", "activate", id)
	s.run(0, "alerts", "comment", id, "asked the owner")
	s.wants(0, []string{"opened", "reopened", "known since Monday", "asked the owner", "system:alerts"}, "alerts", "history", id)
	s.wants(0, []string{alerts.Items[0].VerdictID}, "alerts", "verdicts", id)
	s.wants(0, []string{"Would have hidden 1 of 1 alert", "web-1", "resolved by hand"}, "suppressions", "simulate", "--scale-set", "web")
	s.wants(2, []string{"--everywhere"}, "suppressions", "simulate")
	testIncident(s, id)

	rule := strings.TrimSpace(s.run(0, "suppressions", "create", "--reason", "lab machines", "--scale-set", "web", "--expires-in", "720h"))
	s.wants(0, []string{"machine.scale_set in web", "lab machines", "in 30 days"}, "suppressions")
	s.wants(0, []string{"suppressed"}, "alerts", "--include-suppressed")
	s.run(0, "suppressions", "delete", rule)
	s.wants(0, []string{"web-1"}, "alerts", "--status", "active")
	s.wants(2, []string{"--everywhere"}, "suppressions", "create", "--reason", "no scope")

	testDecisions(t, s, id)
	testBaselines(t, s)
	testAudit(t, s)
	testInventory(t, s)
	// The machine is reinstalled: its agent has lost its state, and comes with another AK of the same TPM.
	state = t.TempDir()
	lost, err := attester.New(attester.Config{Server: s.url, StateDir: state, TPM: device.Socket, EventLog: bootLog("cmdline"), IMALog: filepath.Join(state, "none")})
	if err != nil {
		t.Fatal(err)
	}
	web := agent.Machine{Name: "web-1", ExternalID: "vm-1", OS: "linux"}
	_, err = lost.Enroll(ctx, attester.Enrollment{JoinToken: keyring.NewSecret([]byte(join)), Machine: web})
	if err == nil || !strings.Contains(err.Error(), "identity_conflict") {
		t.Errorf("another AK before the release: %v", err)
	}
	s.wants(0, []string{"web-1 is released"}, "machines", "release", "web-1")
	s.wants(1, []string{"conflict", "no active key"}, "machines", "release", "web-1")
	if _, err := lost.Enroll(ctx, attester.Enrollment{JoinToken: keyring.NewSecret([]byte(join)), Machine: web}); err != nil {
		t.Errorf("another AK after the release: %v", err)
	}
	lost.Close()
	testRevocation(t, s, join)
	testAdministration(t, s)
	s.wants(0, []string{"By last verdict", "contraindicated"}, "overview")
}

// testDryRun asks what would become of web-1, which has booted sb-on-1.
func testDryRun(t *testing.T, s *liveService) {
	same, next := captured(t, "sb-on-1"), captured(t, "cmdline")
	s.wants(0, []string{"Of 1 machine", "1 would be healthy"}, "baselines", "dry-run", "web golden@1")
	s.wants(0, []string{"1 would be healthy"}, "baselines", "dry-run", "--reference-values", same, "--scale-set", "web")
	s.wants(0, []string{"Of 0 machines"}, "baselines", "dry-run", "--reference-values", next, "--scale-set", "nothing")
	s.wants(1, []string{"0 would be healthy", "What differs", "mitigations=off", "web-1", "affirming", "contraindicated"}, "baselines", "dry-run", "web golden", "--reference-values", next)
	out := s.run(1, "baselines", "dry-run", "web golden", "--reference-values", next, "-o", "json")
	var result trial
	if err := json.Unmarshal([]byte(out), &result); err != nil || result.BecomeUnhealthy != 1 || len(result.Deviations) == 0 {
		t.Errorf("%v\n%s", err, out)
	}
	s.wants(2, []string{"NAME@VERSION"}, "baselines", "dry-run")
	s.wants(2, []string{"leave --scale-set"}, "baselines", "dry-run", "web golden@1", "--scale-set", "web")
	s.wants(2, []string{"web golden has no version 9"}, "baselines", "dry-run", "web golden@9")
	s.wants(2, []string{"no baseline"}, "baselines", "dry-run", "nothing@1")
	s.wants(2, []string{"reference values"}, "baselines", "dry-run", "--reference-values", writeFile(t, []byte("{")))
	policy := writeFile(t, []byte(`{"require_ima": true}`))
	s.wants(1, []string{"0 would be healthy", "ima.policy"}, "policies", "test", policy)
	s.wants(0, []string{"Of 0 machines"}, "policies", "test", policy, "--platform", "azure")
	s.wants(2, []string{"a policy"}, "policies", "test", writeFile(t, []byte(`{"pcrs": {}}`)))

	s.wants(2, []string{"--everywhere"}, "reappraisals", "start", "--comment", "an audit")
	id := strings.TrimSpace(s.run(0, "reappraisals", "start", "--comment", "an audit", "--scale-set", "web"))
	s.wants(0, []string{"an audit", id, "BETTER", "OTHERWISE"}, "reappraisals")
	s.wants(0, []string{"an audit", "asked", "judged again"}, "reappraisals", "show", id)
	s.wants(1, []string{"no such thing"}, "reappraisals", "show", "01900000-0000-7000-8000-0000000000ff")
	var one struct {
		Reappraisal struct{ State string }
		Machines    struct{ Items []any }
	}
	s.json(&one, "reappraisals", "show", id)
	if one.Reappraisal.State == "" || one.Machines.Items == nil {
		t.Errorf("%+v", one)
	}
}

// testDecisions refuses and approves the alert about another kernel command line.
func testDecisions(t *testing.T, s *liveService, alert string) {
	s.wants(0, []string{"web golden would get a version, made out of version 1", "Changes (4)", "mitigations=off", "allows sha256:", "allows PCR 8 sha256:"}, "alerts", "approve", alert, "--preview")
	s.wants(0, []string{"of the machine's own would be made"}, "alerts", "approve", alert, "--preview", "--scope", "machine")
	s.wants(2, []string{"--comment"}, "alerts", "approve", alert)
	s.wants(0, []string{"refused", "nobody announced it", "active"}, "alerts", "refuse", alert, "--comment", "nobody announced it")
	s.wants(1, []string{"refused_before", "nobody announced it"}, "alerts", "approve", alert, "--comment", "it was")
	s.wants(2, []string{"--until-moved"}, "alerts", "approve", alert, "--comment", "x", "--until-moved", "all")
	s.wants(0, []string{"web golden version 2 is draft", "Changes (4)"}, "alerts", "approve", alert, "--comment", "it was", "--force", "--draft", "--replace", "--baseline", "web golden")
	s.wants(1, []string{"version_changed", "was approved by"}, "alerts", "refuse", alert, "--comment", "no")
	s.wants(1, []string{"second_person_required", "this principal made the version"}, "baseline", "approve", "web golden", "2")
	s.wants(0, []string{"web golden  version 1 active", "0.0 % moved", "never affirmed"}, "baseline", "rollout", "web golden")
	s.wants(0, []string{"web golden version 2 is retired"}, "baseline", "retire", "web golden", "2", "--expected-state", "draft")
}

func testBaselines(t *testing.T, s *liveService) {
	first, second := captured(t, "sb-on-1"), captured(t, "cmdline")
	s.wants(0, []string{"ci version 1 is active"}, "baselines", "register", "--name", "ci", "--file", first, "--scale-set", "other", "--repository", "acme/image", "--commit", "abc123")
	s.wants(1, []string{"--add-version", "conflict", `a baseline has the name "ci"`}, "baselines", "register", "--name", "ci", "--file", first, "--scale-set", "other")
	s.wants(2, []string{"--everywhere"}, "baselines", "register", "--name", "all", "--file", first)
	s.wants(0, []string{"all version 1 is draft, for all machines"}, "baselines", "register", "--name", "all", "--file", first, "--everywhere", "--draft")
	// A workflow runs the same line again and again.
	again := []string{"baselines", "register", "--name", "ci", "--file", second, "--add-version", "--draft", "--scale-set", "other"}
	s.wants(0, []string{"ci version 2 is draft, for scale set other"}, again...)
	s.wants(2, []string{"ci is for scale set other, and the flags choose scale set other, more"}, append(again, "--scale-set", "more")...)
	s.wants(2, []string{"the flags choose all machines"}, "baselines", "register", "--name", "ci", "--file", second, "--add-version", "--everywhere")
	s.wants(1, []string{"another version of the baseline is active", "--draft, and then assay baselines promote"}, "baselines", "register", "--baseline", "ci", "--file", second, "--state", "active")
	s.wants(1, []string{"Changes (", "mitigations=off"}, "baselines", "diff", "ci@1", "ci@2")
	s.wants(1, []string{"mitigations=off"}, "baselines", "diff", "ci", "1", "ci", "2")
	s.wants(1, []string{"mitigations=off"}, "baselines", "diff", "ci", "1", "2")
	s.wants(2, []string{"one is named"}, "baselines", "diff", "ci", "2")
	s.wants(0, nil, "baselines", "diff", "ci@1", first)
	s.wants(0, nil, "baselines", "diff", first, "ci", "1")
	s.wants(0, []string{`"claims"`}, "baselines", "export", "ci", "2")
	s.wants(1, []string{"version 2 is draft", "format=assay"}, "baselines", "export", "ci@2", "--format", "corim")
	s.wants(0, []string{"ci version 2  draft"}, "baselines", "show", "ci", "2")
	s.wants(2, []string{"ci@1 names its version"}, "baselines", "show", "ci@1", "2")
	s.wants(0, []string{"Of 0 machines"}, "baselines", "dry-run", "ci", "2")
	s.wants(2, []string{"name the version", "2 draft, 1 active", "try: ci@2"}, "baselines", "promote", "ci")
	s.wants(2, []string{"not both"}, "baselines", "promote", "ci@2", "--grace-for", "48h", "--grace-until", "2099-01-01T00:00:00Z")
	s.wants(2, []string{"is no time"}, "baselines", "promote", "ci@2", "--grace-until", "friday")
	s.wants(1, []string{"version_changed", "version 2 is draft"}, "baselines", "promote", "ci@2", "--expected-state", "active")
	s.wants(0, []string{"ci version 2 is active"}, "baselines", "promote", "ci@2", "--grace-for", "48h", "--until-moved", "95%")
	s.wants(0, []string{"ci  version 2 active", "grace of 1 ends", "95 % moved (0.0 % so far)"}, "baselines", "rollout", "ci")
	s.wants(0, []string{"grace", "acme/image abc123"}, "baselines", "show", "ci")
	s.wants(0, []string{"ci version 1 is retired"}, "baselines", "retire", "ci@1")
	s.wants(1, []string{"ci has no version 9", "2 active, 1 retired"}, "baselines", "promote", "ci@9")
	s.wants(0, []string{"ci version 2 is active", "proposed", "to retire it and to release its machines, by admin:"}, "baselines", "retire", "ci@2", "--release", "--propose")
	s.wants(0, []string{"ci version 2 is retired", "judged without the baseline"}, "baselines", "retire", "ci@2", "--release", "--comment", "over")
	s.wants(1, []string{"version_changed"}, "baselines", "retire", "ci@2", "--release")
	s.wants(2, []string{"name the version"}, "baselines", "promote", "ci")
	predicted := predictDocument(t)
	s.wants(0, []string{"ci version 3 is draft"}, "baseline", "register", "--baseline", "ci", "--reference-values", predicted, "--build-url", "https://ci.example/7")
	s.wants(0, []string{"acme/web abc https://ci.example/7"}, "baselines", "show", "ci")
	s.wants(0, []string{"signed by Debian Secure Boot Signer 2022"}, "baselines", "show", "ci@3")
	s.wants(0, []string{"predicted version 1 is active"}, "baseline", "register", "--name", "predicted", "--reference-values", predicted, "--selector", `{"scale_set":["elsewhere"]}`)
	s.wants(0, []string{"scale set elsewhere"}, "baselines", "show", "predicted")
	s.wants(1, []string{"no baseline"}, "baseline", "register", "--baseline", "absent", "--file", predicted)
	s.wants(2, []string{"--baseline"}, "baseline", "register", "--file", predicted)
	s.wants(2, []string{"keeps the machines"}, "baseline", "register", "--baseline", "ci", "--file", predicted, "--scale-set", "x")
	s.wants(2, []string{"--selector"}, "baseline", "register", "--name", "x", "--file", predicted, "--selector", `{"colour":1}`)
	s.wants(2, []string{"--selector says all"}, "baseline", "register", "--name", "x", "--file", predicted, "--selector", `{}`, "--scale-set", "x")
	s.wants(2, []string{"/nonsense"}, "baselines", "register", "--name", "x", "--file", writeFile(t, []byte(`{"nonsense":1}`)))
}

func testInventory(t *testing.T, s *liveService) {
	token, err := os.ReadFile(strings.TrimPrefix(s.env[1], "ASSAY_TOKEN_FILE="))
	if err != nil {
		t.Fatal(err)
	}
	post := func(body string) {
		req, err := http.NewRequest(http.MethodPost, s.url+"/v1/machines", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
	}
	for i := range 3 {
		post(fmt.Sprintf(`{"name":"db","external_id":"db-%d","platform":"azure","os":"linux","security_type":"trusted_launch","declared":{"secure_boot_supported":true,"secure_boot":true,"vtpm":true,"agent_installed":false}}`, i))
	}
	s.wants(1, []string{`Several machines are named "db"`}, "machines", "show", "db")
	s.wants(1, []string{`There is no machine named "nope"`}, "machines", "show", "nope")
	var list struct {
		Items      []struct{ Name string } `json:"items"`
		NextCursor *string                 `json:"next_cursor"`
	}
	s.json(&list, "machines", "--limit", "2")
	if len(list.Items) != 2 || list.NextCursor == nil {
		t.Errorf("--limit 2: %+v", list)
	}
	s.json(&list, "machines", "--cursor", *list.NextCursor, "--all")
	if len(list.Items) != 2 || list.NextCursor != nil {
		t.Errorf("--cursor: %+v", list)
	}
	s.json(&list, "machines", "list", "--all")
	if len(list.Items) != 4 {
		t.Errorf("--all: %+v", list)
	}
	var recommendations struct {
		Items []struct{ ID, Code string } `json:"items"`
	}
	s.json(&recommendations, "recommendations", "--code", "guest_attestation_installed")
	if len(recommendations.Items) != 3 {
		t.Fatalf("%+v", recommendations)
	}
	id := recommendations.Items[0].ID
	s.wants(0, []string{"Guest attestation agent should be installed", "What to do"}, "recommendations", "show", id)
	s.wants(0, []string{"exempt", "waiver: until the rebuild"}, "recommendations", "exempt", id, "--reason", "waiver", "--comment", "until the rebuild", "--expires-in", "24h")
	s.wants(0, []string{"db"}, "recommendations", "list", "--status", "exempt")
	s.wants(0, []string{"test_platform_keys", "high", "recommendation"}, "catalog", "list", "--severity", "high", "--os", "linux")
	s.wants(0, []string{"guest_attestation_installed", "2 recommendations"}, "catalog", "--kind", "recommendation", "--counts")
	s.wants(0, []string{"When: Secure Boot and vTPM are on", "Why:", "What to do", "windows:", "Rests on", "RFC 9334", "2 recommendations"}, "catalog", "show", "guest_attestation_installed")
	s.wants(1, []string{"no such thing"}, "catalog", "show", "nonsense")
	s.wants(0, []string{"guest_attestation_healthy", "Unhealthy", "web-1"}, "assessments", "--machine", "web-1")
}

func testRevocation(t *testing.T, s *liveService, join string) {
	var list struct {
		Items []struct{ ID, Name string } `json:"items"`
	}
	idOf := func(name string) string {
		t.Helper()
		for _, x := range list.Items {
			if x.Name == name {
				return x.ID
			}
		}
		t.Fatalf("no %s in %+v", name, list.Items)
		return ""
	}
	s.json(&list, "join-tokens", "--all")
	s.run(0, "join-tokens", "revoke", idOf("fleet"))
	s.wants(1, []string{"not_found"}, "join-tokens", "revoke", idOf("fleet"))
	s.wants(2, []string{"no id of a join token"}, "join-tokens", "revoke", "fleet")
	if out := s.run(0, "join-tokens", "--all", "-o", "json"); strings.Contains(out, "fleet") || strings.Contains(out, join) {
		t.Errorf("the revoked token is still listed: %s", out)
	}
	spare := strings.TrimSpace(s.run(0, "api-tokens", "create", "--name", "spare", "--role", "reader"))
	asSpare := func() result { return assay(t, []string{s.env[0], "ASSAY_TOKEN=" + spare}, "machines") }
	if r := asSpare(); r.code != 0 {
		t.Errorf("before: %+v", r)
	}
	s.json(&list, "api-tokens", "--all")
	s.run(0, "api-tokens", "revoke", idOf("spare"))
	if r := asSpare(); r.code != 1 || !strings.Contains(r.stderr, "unauthenticated") {
		t.Errorf("a revoked token: %+v", r)
	}
	s.wants(1, []string{"conflict", "another one"}, "api-tokens", "revoke", idOf("bootstrap"))
}

func testAdministration(t *testing.T, s *liveService) {
	policy := s.run(0, "policies", "show")
	changed := strings.Replace(policy, `"attestation_interval_seconds": 300`, `"attestation_interval_seconds": 600`, 1)
	s.wants(0, []string{"default is now at version 2"}, "policies", "set", "--file", writeFile(t, []byte(changed)))
	s.wants(0, []string{`"attestation_interval_seconds": 600`}, "policies", "show", "default")
	full := s.run(0, "policies", "show", "-o", "json")
	s.wants(0, []string{"strict is now at version 1"}, "policies", "set", "strict", "--file", writeFile(t, []byte(full)))
	s.wants(0, []string{"default", "strict"}, "policies")
	var paged struct {
		Items      []struct{ Name string } `json:"items"`
		NextCursor *string                 `json:"next_cursor"`
	}
	s.json(&paged, "policies", "--limit", "1")
	if len(paged.Items) != 1 || paged.Items[0].Name != "default" || paged.NextCursor == nil {
		t.Fatalf("--limit 1: %+v", paged)
	}
	s.json(&paged, "policies", "--cursor", *paged.NextCursor)
	if len(paged.Items) != 1 || paged.Items[0].Name != "strict" || paged.NextCursor != nil {
		t.Errorf("--cursor: %+v", paged)
	}
	s.wants(0, []string{"default", "2", "1"}, "policies", "versions")
	s.wants(2, []string{"/rules/0/expression: line 1, column 1"}, "policies", "set", "--file", writeFile(t, []byte(`{"rules": [{"name": "a", "expression": "1"}]}`)))

	// What is known to be bad: shipped, and added to.
	s.wants(0, []string{"DBXUpdate-amd64.bin", "443", "2026-05-21", "sbat_level", "shipped"}, "revocations")
	level := writeFile(t, []byte("sbat,1,2026110100\nshim,5\ngrub,6\n"))
	s.wants(0, []string{"sbat_level, 2 entries: added"}, "revocations", "import", level)
	s.wants(0, []string{"sbat_level, 2 entries: held already"}, "revocations", "import", level)
	s.wants(0, []string{"imported", "2026110100"}, "revocations", "list")
	s.wants(1, []string{"409 revocations_not_newer", "one of 2026110100 is held"}, "revocations", "import", writeFile(t, []byte("sbat,1,2025110100\nshim,5\n")))
	s.wants(0, []string{"dbx, 26 entries: held already"}, "revocations", "import", "../../verifier/revocations/data/DBXUpdate-arm64.bin")
	s.wants(1, []string{"422 revocations_invalid", "does not hold"}, "revocations", "import", "../../verifier/revocations/testdata/DBUpdate2024.bin")
	s.wants(2, []string{"line 2"}, "revocations", "import", writeFile(t, []byte("sbat,1,2026110100\nshim\n")))
	s.wants(0, []string{"image 80b4d969", "a signed update", "shim.efi", "2018-04-01"}, "revocations", "show", "sha256:80B4D96931BF0D02FD91A61E19D14F1DA452E66DB2408CA8604D411F92659F0A")
	s.wants(1, []string{"404 not_found"}, "revocations", "show", strings.Repeat("ab", 32))

	s.wants(2, []string{"/challenge_lifetime_seconds"}, "policies", "set", "--file", writeFile(t, []byte(`{"challenge_lifetime_seconds": 1}`)))

	reader := strings.TrimSpace(s.run(0, "api-tokens", "create", "--name", "dashboard", "--role", "reader"))
	s.wants(0, []string{"dashboard", "reader", "bootstrap"}, "api-tokens")
	as := func(token string, args ...string) result {
		return assay(t, []string{s.env[0], "ASSAY_TOKEN=" + token}, args...)
	}
	if r := as(reader, "machines"); r.code != 0 {
		t.Errorf("a reader may list machines: %+v", r)
	}
	r := as(reader, "join-tokens", "create", "--name", "x", "-o", "json")
	var p problem
	if err := json.Unmarshal([]byte(r.stderr), &p); err != nil || r.code != 1 || p.Code != "forbidden" || p.Status != 403 || p.Instance == "" || r.stdout != "" {
		t.Errorf("a reader creates a token: exit %d, %+v, %v", r.code, p, err)
	}
	if r := as("assay_adm_wrong", "machines"); r.code != 1 || !strings.Contains(r.stderr, "401 unauthenticated") || !strings.Contains(r.stderr, "request ") || !strings.Contains(r.stderr, "--token-file") {
		t.Errorf("a wrong token: %+v", r)
	}
	s.wants(0, []string{"vendor: deleted", "rested on it"}, "trust-anchors", "delete", "vendor")
	s.wants(1, []string{"There is no trust anchor"}, "trust-anchors", "delete", "vendor")
	collateralCommands(t, s)
	notificationCommands(t, s)
}

// collateralCommands is what people do about the roots that are shipped and about collateral.
func collateralCommands(t *testing.T, s *liveService) {
	const amd = "AMD SEV-SNP (Milan, Genoa, Turin)"
	s.wants(0, []string{amd, "shipped", "Intel SGX and TDX", "Google Cloud attestation keys"}, "trust-anchors", "list", "--all")
	s.wants(0, []string{"CN=ARK-Milan", "in "}, "trust-anchors", "list", "--purpose", "snp", "--certificates")
	s.wants(1, []string{"409 conflict", "disable it"}, "trust-anchors", "delete", amd)
	s.wants(0, []string{amd + ": disabled", "0 machines rested on it"}, "trust-anchors", "disable", amd)
	var off struct {
		Items []struct{ Name string }
	}
	if s.json(&off, "trust-anchors", "list", "--state", "disabled"); len(off.Items) != 1 || off.Items[0].Name != amd {
		t.Errorf("disabled are %+v", off)
	}
	specimens := filepath.Join("..", "..", "verifier", "tee", "testdata")
	vcek := filepath.Join(specimens, "snp", "vcek.testcer")
	s.wants(1, []string{"422 collateral_invalid", vcek}, "collateral", "import", vcek)
	s.wants(0, []string{amd + ": enabled"}, "trust-anchors", "enable", amd)
	if out := s.run(0, "trust-anchors", "machines", amd); out != "" {
		t.Errorf("on it rests %s", out)
	}

	s.wants(0, []string{"vcek milan/", "stored"}, "collateral", "import", vcek)
	s.wants(0, []string{"nothing newer"}, "collateral", "import", vcek)
	var list struct {
		Items []struct{ Kind, Name, Source string }
	}
	if s.json(&list, "collateral"); len(list.Items) != 1 || list.Items[0].Kind != "vcek" || list.Items[0].Source != "uploaded" {
		t.Fatalf("held are %+v", list)
	}
	name := list.Items[0].Name
	s.wants(0, []string{"vcek " + name, "sha256"}, "collateral", "show", "vcek", name)
	want, err := os.ReadFile(vcek)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.run(0, "collateral", "show", "vcek", name, "--raw"); got != string(want) {
		t.Error("--raw is not what was imported")
	}
	s.wants(1, []string{"There is no vlek"}, "collateral", "show", "vlek", name)
	s.wants(1, []string{"404 not_found"}, "collateral", "show", "vlek", name, "--raw")
	s.wants(0, []string{"deleted"}, "collateral", "delete", "vcek", name)
	s.wants(1, []string{"404 not_found"}, "collateral", "delete", "vcek", name)

	// What no service needs to be asked for.
	info := filepath.Join(specimens, "tdx", "sample_tcbInfo_response")
	s.wants(2, []string{"needs the chain", ".chain.pem", "Issuer-Chain"}, "collateral", "import", info)
	s.wants(2, []string{"trust-anchors add"}, "collateral", "import", filepath.Join(specimens, "tdx", "intel_sgx_root.pem"))
	s.wants(2, []string{"tcbInfo"}, "collateral", "import", writeFile(t, []byte(`{}`)))
	s.wants(2, []string{"no CRL"}, "collateral", "import", writeFile(t, []byte("text")))
}

// TestKindOfCollateral: the kind is told by the content.
// testIncident takes the incident of an active alert through its life, and leaves the alert active.
func testIncident(s *liveService, alert string) {
	s.t.Helper()
	var shown struct {
		IncidentID *string `json:"incident_id"`
	}
	for range 1200 { // the service counts incidents by itself, a moment later
		if s.json(&shown, "alerts", "show", alert); shown.IncidentID != nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if shown.IncidentID == nil {
		s.t.Fatal("the alert is of no incident")
	}
	id := *shown.IncidentID
	s.wants(0, []string{id}, "incidents", "--closed")
	s.wants(0, []string{"1 alert"}, "incidents", "comment", id, "hello")
	s.wants(0, []string{"1 alert"}, "incidents", "in-progress", id, "--assignee", "alex")
	s.wants(0, []string{"in_progress", "web-1", "on 1 machine of scale set web since"}, "incidents", "show", id)
	s.wants(0, []string{"1 alert"}, "incidents", "resolve", id, "--comment", "repaired")
	s.wants(1, []string{"conflict"}, "incidents", "dismiss", id)
	s.wants(0, []string{"hello", "repaired"}, "alerts", "history", alert)
	s.run(0, "alerts", "activate", alert)
	for _, action := range []string{"show", "dismiss", "resolve", "in-progress"} {
		s.wants(1, []string{"not_found"}, "incidents", action, uuid.NewString())
	}
}

func TestKindOfCollateral(t *testing.T) {
	for file, want := range map[string]string{
		"snp/vcek.testcer": "vcek", "snp/test-vlek.der": "vlek", "tdx/sample_tcbInfo_response": "tdx_tcb_info",
		"tdx/sample_qeIdentity_response": "tdx_qe_identity", "tdx/pckcrl": "tdx_pck_crl", "tdx/rootcrl.der": "tdx_root_crl",
	} {
		body, err := os.ReadFile(filepath.Join("..", "..", "verifier", "tee", "testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if kind, err := kindOf(body); err != nil || string(kind) != want {
			t.Errorf("%s: %q, %v; want %s", file, kind, err, want)
		}
	}
}

// TestRetryOnlyGet: a GET that fails for a passing reason is repeated, a write never is.
func TestRetryOnlyGet(t *testing.T) {
	var gets, posts atomic.Int32
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	busy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls := &gets
		if r.Method != http.MethodGet {
			calls = &posts
		}
		if calls.Add(1) < 3 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"items":[],"next_cursor":null}`))
	}), ReadHeaderTimeout: time.Minute}
	go func() { _ = busy.Serve(l) }()
	defer busy.Close()
	env := []string{"ASSAY_SERVER=http://" + l.Addr().String()}
	if r := assay(t, env, "machines"); r.code != 0 || gets.Load() != 3 {
		t.Errorf("%d tries: %+v", gets.Load(), r)
	}
	if r := assay(t, env, "join-tokens", "create", "--name", "x"); r.code != 1 || posts.Load() != 1 {
		t.Errorf("%d tries of a write: %+v", posts.Load(), r)
	}
}

// TestConnection: what can go wrong on the way says what to do.
func TestConnection(t *testing.T) {
	dead := "http://" + freeAddress(t)
	if r := assay(t, nil, "overview", "--server", dead); r.code != 1 || !strings.Contains(r.stderr, "cannot be reached") || !strings.Contains(r.stderr, "--server") {
		t.Errorf("%+v", r)
	}
	if r := assay(t, nil, "overview", "--server", "localhost:8440"); r.code != 2 {
		t.Errorf("an address without a scheme: %+v", r)
	}
	if r := assay(t, nil, "overview", "--server", dead, "--token-file", writeFile(t, []byte("two tokens\n"))); r.code != 2 {
		t.Errorf("a token file with more in it: %+v", r)
	}
	key := writeFile(t, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}))
	if r := assay(t, nil, "overview", "--server", dead, "--ca", key); r.code != 2 {
		t.Errorf("--ca with a private key: %+v", r)
	}
}
