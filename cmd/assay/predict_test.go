package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const predictData = "../../baseline/predict/testdata"

// manifestFiles are the entries of a file manifest.
func manifestFiles(t *testing.T, file string) map[string]map[string]any {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Files map[string]map[string]any `json:"boot_disk_files"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m.Files
}

// predictArguments are the command line for a captured boot: its truth.json, what is known of its packages, and the keys
// of its firmware.
func predictArguments(t *testing.T, boot, keys string) []string {
	t.Helper()
	truth := filepath.Join(boots, boot, "truth.json")
	args := []string{"baseline", "predict", "--bank", "sha256,sha384,sha1"}
	if strings.HasPrefix(boot, "uki") || boot == "snakeoil" {
		args = append(args, "--manifest", ukiManifest(t, truth))
	} else {
		args = append(args, "--truth", truth)
		if boot != "mok-signed" { // whose kernel is not the package's
			args = append(args, "--manifest", filepath.Join(predictData, "debian-12.manifest.json"))
		}
	}
	for _, v := range [][2]string{{"--pk", "PK"}, {"--kek", "KEK"}, {"--secure-boot-db", "db"}, {"--secure-boot-dbx", "dbx"}} {
		args = append(args, v[0], filepath.Join(predictData, "efivars", keys, v[1]))
	}
	return args
}

// ukiManifest adds to a truth.json what is in the unified kernel image.
func ukiManifest(t *testing.T, truth string) string {
	t.Helper()
	files, images := manifestFiles(t, truth), manifestFiles(t, filepath.Join(predictData, "uki.manifest.json"))
	uki := "/EFI/BOOT/BOOTX64.EFI"
	if files["/EFI/Linux/test.efi"] != nil {
		files[uki]["systemd_boot"] = images[uki]["systemd_boot"]
		uki = "/EFI/Linux/test.efi"
	}
	files[uki]["uki"] = images["/EFI/Linux/test.efi"]["uki"]
	return writeJSON(t, document{"boot_disk_files": files})
}

func predictFile(t *testing.T, boot, keys string) string {
	t.Helper()
	r := assay(t, nil, predictArguments(t, boot, keys)...)
	if r.code != 0 {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	return writeFile(t, []byte(r.stdout))
}

// TestPredictedBaselines judges captured boots by what was predicted of the files of healthy ones: the boot of those
// files has no deviation, and each of the others exactly in what was changed.
func TestPredictedBaselines(t *testing.T) {
	debian, direct, sdboot := predictFile(t, "sb-on-1", "microsoft"), predictFile(t, "uki-direct", "own"), predictFile(t, "uki-sdboot-1", "own")
	for _, c := range []struct {
		baseline, boot string
		deviations     []string
		says           string
	}{
		{debian, "sb-on-1", nil, ""},
		{debian, "sb-on-2", nil, ""},
		{debian, "sb-on-otherbox", nil, ""},
		{debian, "hw-changed", nil, ""},
		{debian, "cmdline", []string{"8 boot_loader_config", "8 kernel_command_line", "9 boot_loader_config"}, "`apparmor=0 mitigations=off single` added"},
		{debian, "grubcfg-tampered", []string{"8 boot_loader_config", "9 boot_loader_config"}, "set superuser=attacker"},
		{debian, "initrd-tampered", []string{"9 initrd"}, "initrd changed: /initrd.img"},
		{debian, "mok-signed", []string{"7 boot_authority", "9 kernel", "14 machine_owner_key"}, "my-mok"},
		{direct, "uki-direct", nil, ""},
		{direct, "snakeoil", []string{"4 boot_loader", "7 boot_authority", "7 secure_boot_policy"}, "SnakeOil"},
		{sdboot, "uki-sdboot-1", nil, ""},
		{sdboot, "uki-direct", []string{"4 boot_loader", "4 kernel", "12 kernel_command_line"}, "version 252.39-1~deb12u2"},
	} {
		t.Run(c.boot, func(t *testing.T) {
			v, r := verify(t, "--evidence", bootEvidence(t, c.boot), "--nonce", bootNonce(t, c.boot), "--baseline", c.baseline)
			got, all := []string{}, ""
			for _, d := range v.Deviations {
				all += d.Description + "\n"
				if place := fmt.Sprintf("%d %s", d.PCR, d.Component); !slices.Contains(got, place) {
					got = append(got, place)
				}
			}
			slices.Sort(got)
			slices.Sort(c.deviations)
			if !slices.Equal(got, c.deviations) && len(got)+len(c.deviations) > 0 || !strings.Contains(all, c.says) {
				t.Errorf("deviations %q, want %q and %q in\n%s", got, c.deviations, c.says, all)
			}
			if healthy := len(c.deviations) == 0; healthy != (v.Status == "affirming") || healthy != (r.code == 0) {
				t.Errorf("status %s, exit %d", v.Status, r.code)
			}
		})
	}
}

// TestPredictWithoutLog: a machine whose kernel got no event log is judged by the predicted values alone.
func TestPredictWithoutLog(t *testing.T) {
	optional := writeJSON(t, document{"require_secure_boot": false})
	r := assay(t, nil, append(predictArguments(t, "sb-disabled", "microsoft"), "--secure-boot", "off")...)
	v, _ := verify(t, "--evidence", bootEvidence(t, "sb-disabled"), "--nonce", bootNonce(t, "sb-disabled"), "--policy", optional, "--baseline", writeFile(t, []byte(r.stdout)))
	if v.Status != "affirming" || len(v.Deviations) > 0 {
		t.Errorf("%s: %+v", v.Status, v.Deviations)
	}
}

// predictDocument is what --output json prints.
func predictDocument(t *testing.T) string {
	t.Helper()
	args := append(predictArguments(t, "sb-on-1", "microsoft"), "--output", "json", "--description", "web image 7", "--repository", "acme/web", "--commit", "abc")
	r := assay(t, nil, args...)
	if r.code != 0 {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	return writeFile(t, []byte(r.stdout))
}

// TestPredictDocument: the document says of every PCR from 0 to 15 whether it is determined and why, is a baseline
// itself, and differs from another one in what differs.
func TestPredictDocument(t *testing.T) {
	file := predictDocument(t)
	var doc struct {
		Description string            `json:"description"`
		Provenance  map[string]string `json:"provenance"`
		Events      []document        `json:"events"`
		PCRs        []struct {
			PCR            int
			Status, Reason string
		} `json:"pcrs"`
	}
	if b, err := os.ReadFile(file); err != nil || json.Unmarshal(b, &doc) != nil {
		t.Fatalf("%v: %s", err, b)
	}
	if doc.Description != "web image 7" || doc.Provenance["repository"] != "acme/web" || doc.Provenance["commit"] != "abc" || len(doc.Events) < 20 {
		t.Errorf("%q %v, %d events", doc.Description, doc.Provenance, len(doc.Events))
	}
	for i, p := range doc.PCRs {
		if p.PCR != i || p.Status == "" || p.Reason == "" {
			t.Errorf("PCR %d: %+v", i, p)
		}
	}
	if len(doc.PCRs) != 16 {
		t.Errorf("%d PCRs", len(doc.PCRs))
	}
	if v, _ := verify(t, "--evidence", bootEvidence(t, "sb-on-1"), "--nonce", bootNonce(t, "sb-on-1"), "--baseline", file); v.Status != "affirming" {
		t.Errorf("the document as a baseline: %s", v.Status)
	}
	diff := assay(t, nil, "baselines", "diff", file, predictFile(t, "cmdline", "microsoft"))
	if !strings.Contains(diff.stdout, "`apparmor=0 mitigations=off single` added") || diff.code != 1 {
		t.Errorf("exit %d: %s%s", diff.code, diff.stdout, diff.stderr)
	}
}

// TestRegisterStandardInput: a pipeline needs no file between the two commands; without a service the second one says so.
func TestRegisterStandardInput(t *testing.T) {
	var stderr strings.Builder
	cmd := exec.Command(binary, "baseline", "register", "--name", "x", "--reference-values", "-", "--server", "http://127.0.0.1:1")
	b, err := os.ReadFile(predictDocument(t))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stderr = bytes.NewReader(b), &stderr
	cmd.Env = []string{"ASSAY_TOKEN=x", "HOME=" + t.TempDir()}
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "127.0.0.1:1") {
		t.Errorf("%v: %s", err, stderr.String())
	}
}

// TestPredictRefuses: what cannot be used is exit code 2, with the place.
func TestPredictRefuses(t *testing.T) {
	truth := filepath.Join(boots, "sb-on-1", "truth.json")
	noImage := writeFile(t, []byte("MZ but nothing else"))
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{2, "nothing to boot", nil},
		{2, "no PCR bank", []string{"--truth", truth, "--bank", "md5"}},
		{2, "rtmr", []string{"--truth", truth, "--bank", "rtmr"}},
		{2, "MS-DOS header", []string{"--uki", noImage}},
		{2, "no unified kernel image", []string{"--uki", writeFile(t, []byte("text"))}},
		{2, "cannot be opened", []string{"--shim", "/nonexistent"}},
		{2, "--grub is needed", []string{"--kernel", truth}},
		{2, "signature list at offset 0", []string{"--truth", truth, "--secure-boot-db", noImage}},
		{2, "no GUID", []string{"--truth", truth, "--owner", "x"}},
		{2, "kernel command line", []string{"--truth", truth, "--cmdline", "quiet"}},
		{2, "/boot_disk_files", []string{"--truth", writeFile(t, []byte("{}"))}},
		{2, "PATH=FILE", []string{"--truth", truth, "--file", "x"}},
		{1, "determine no PCR", []string{"--truth", filepath.Join(boots, "uki-direct", "truth.json")}},
	} {
		if r := assay(t, nil, append([]string{"baseline", "predict"}, c.args...)...); r.code != c.code || !strings.Contains(r.stderr, c.says) {
			t.Errorf("%v: exit %d, want %d and %q: %s", c.args, r.code, c.code, c.says, r.stderr)
		}
	}
	r := assay(t, nil, "baseline", "predict", "--truth", truth, "--cmdline", "console=ttyS0,115200", "--write-manifest", filepath.Join(t.TempDir(), "m.json"))
	if r.code != 0 {
		t.Errorf("the command line that is meant: exit %d: %s", r.code, r.stderr)
	}
}
