package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/verifier"
)

// TestSpan: times as people say them, at the edges.
func TestSpan(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	p := &printer{now: func() time.Time { return now }}
	for ahead, want := range map[time.Duration]string{
		0: "just now", -4 * time.Second: "just now", -59 * time.Second: "59 s ago", -60 * time.Second: "1 min ago",
		-3 * time.Minute: "3 min ago", -3599 * time.Second: "1 h ago", -47 * time.Hour: "47 h ago", -49 * time.Hour: "2 days ago",
		24*time.Hour - time.Second: "in 24 h", 72 * time.Hour: "in 3 days",
	} {
		if got := p.ago(now.Add(ahead)); got != want {
			t.Errorf("%v: %q, want %q", ahead, got, want)
		}
	}
	if got := p.ago(time.Time{}); got != "never" {
		t.Errorf("the zero time: %q", got)
	}
}

// TestClean: what a machine wrote cannot move the cursor, colour the terminal or turn text around.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"web-1 é ✓":          "web-1 é ✓",
		"\x1b[31mred":        `\u001b[31mred`,
		"a\nb\tc\x00":        `a\u000ab\u0009c\u0000`,
		"admin\u202etxt.exe": `admin\u202etxt.exe`,
		"zero\u200bwidth":    `zero\u200bwidth`,
		"bad\xffbyte":        `bad\ufffdbyte`,
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestHostileVerdict: a verdict full of escapes prints none.
func TestHostileVerdict(t *testing.T) {
	evil := "\x1b]0;owned\x07\r\u202e"
	var out bytes.Buffer
	p := &printer{w: &out, now: time.Now}
	p.verdict(&verdictView{ID: evil, MachineID: evil, MachineName: evil, Status: evil, Reason: evil, Assurance: evil,
		Checks:     []verifier.Check{{Code: verifier.CheckCode(evil), Status: verifier.CheckStatus(evil), Detail: evil}},
		Deviations: []verifier.Deviation{{PCR: 4, Description: evil, Expected: []string{evil}, Actual: evil}},
		Claims: map[string]any{evil: evil, "list": []any{evil, map[string]any{"name": evil}}, "deep": map[string]any{evil: []any{evil}},
			"platform": map[string]any{evil: evil, "tcb": map[string]any{evil: evil}, "unknown": []any{evil, map[string]any{evil: evil}}}},
		Baseline: &verifier.VersionRef{ID: evil, Version: 1}, Policy: &verifier.VersionRef{ID: evil}})
	if strings.ContainsAny(out.String(), "\x1b\x07\r\u202e") {
		t.Errorf("%q", out.String())
	}
}

// TestPlatformClaims: the claims of a real hardware report, as people read them.
func TestPlatformClaims(t *testing.T) {
	raw, err := os.ReadFile("../../verifier/tee/testdata/claims/azure-snp-v2.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := parseVerdict([]byte(`{"claims": {"secure_boot": true, "platform": ` + string(raw) + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	(&printer{w: &out}).claims(v.Claims)
	want := `
Confidential VM, by its hardware report
  tee_type                          sev_snp
  product                           milan
  launch_measurement                5b0ce64ad1c1f6375dbda5f760b98526ca1bcf91b8195091afc28e7b024251d6
                                    8fe32e05af34048d6607678cd23283ff
  tcb                               bootloader 4, tee 0, snp 24, microcode 219
  committed_tcb                     bootloader 4, tee 0, snp 24, microcode 219
  current_tcb                       bootloader 4, tee 0, snp 24, microcode 219
  vmpl                              0
  debug                             no
  migratable                        no
  vm_configuration.vm_id            7df7b373-b947-4aaa-96e5-c358f2a03d20
  vm_configuration.secure_boot      yes
  vm_configuration.tpm_enabled      yes
  vm_configuration.console_enabled  yes
  signed_by                         vcek
  root                              ARK-Milan
  collateral_until                  2032-01-28T16:33:43Z
  chip_id                           2e0e62a0e6f39bc491381b091ff79cfe03ad0b42a6bbe764fd408923963d9097
                                    440365dbf8c3412c8da4969024d81b19c1d4f12197f460bf2b5283a25e32f684
  guest_svn                         12
  id_key_digest                     942fd93ebde6ea7a96efadeafc60f1c6b3d10e703b1dafd7555b92f7f3d32d0e
                                    006767648cba5b102af3d65756af4177
  report_version                    3
  root_sha256                       69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd
  smt                               yes
  user_data                         982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9a
                                    a398f647caa2338748cd0fd9f5f819ef00000000000000000000000000000000

Not checked for want of collateral
  no CRL of ARK-Milan is held, so nothing tells whether a key was revoked

Claims
  secure_boot  yes
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// TestMachineOfACloud: which instance and which VM it is, where hardware and cloud prove it.
func TestMachineOfACloud(t *testing.T) {
	kind, id := "azure_hcl", "7df7b373-b947-4aaa-96e5-c358f2a03d20"
	m := client.Machine{Name: "cvm-1", PlatformEvidenceType: &kind, VMID: &id,
		Instance: &map[string]any{"project_id": "acme-prod", "zone": "europe-west4-a", "instance_name": "cvm-1\x1b[31m", "instance_id": 4231.0}}
	var out bytes.Buffer
	p := &printer{w: &out, now: time.Now}
	p.machine(&m)
	for _, want := range []string{"hardware report     azure_hcl", "vm id               " + id, `instance            acme-prod/europe-west4-a/cvm-1\u001b[31m`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, out.String())
		}
	}
}

// TestTable: columns are aligned by characters, not by bytes, and colours do not shift them.
func TestTable(t *testing.T) {
	rows := func() [][]cell {
		return [][]cell{{plain("é"), status("affirming"), plain("x")}, {plain("long name"), status("none"), plain("y")}}
	}
	var plainOut, colored bytes.Buffer
	(&printer{w: &plainOut}).table([]string{"NAME", "STATUS", "LAST"}, rows())
	want := "NAME       STATUS     LAST\né          affirming  x\nlong name  none       y\n"
	if plainOut.String() != want {
		t.Errorf("got\n%swant\n%s", plainOut.String(), want)
	}
	(&printer{w: &colored, color: true}).table([]string{"NAME", "STATUS", "LAST"}, rows())
	stripped := colored.String()
	for _, code := range []string{red, green, yellow, bold, dim, "0"} {
		stripped = strings.ReplaceAll(stripped, "\x1b["+code+"m", "")
	}
	if stripped != want {
		t.Errorf("coloured, without its colours:\n%s", stripped)
	}
}

// TestColor: only on a terminal, and never against NO_COLOR.
func TestColor(t *testing.T) {
	for _, c := range []struct {
		env      map[string]string
		terminal bool
		json     bool
		want     bool
	}{
		{terminal: true, want: true}, {terminal: false}, {terminal: true, json: true},
		{env: map[string]string{"NO_COLOR": "1"}, terminal: true}, {env: map[string]string{"TERM": "dumb"}, terminal: true},
	} {
		a := &app{environment: environment{getenv: func(k string) string { return c.env[k] }}, json: c.json}
		if got := a.useColor(c.terminal); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
