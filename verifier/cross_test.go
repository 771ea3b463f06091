package verifier_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
)

// bootDisk is what truth.json says of the files on a boot disk.
type bootDisk map[string]struct {
	SHA256       string `json:"sha256"`
	Authenticode struct {
		SHA256 string `json:"sha256"`
	} `json:"authenticode"`
	Text string `json:"text"`
}

// keysOf are the Secure Boot keys in the variable store of a capture, by its digest in truth.json.
var keysOf = map[string]string{"e6044c5d": "Microsoft", "5ca7c049": "Microsoft", "148f8f8e": "own", "4460f43f": "snakeoil", "76c54395": "Microsoft, Secure Boot off", "5d2ac383": "none"}

// fresh: the variable store was made by hand and holds no memory map of an earlier boot, so the firmware unpacks its volume
// to another address, which it measures.
const fresh = "fresh variable store"

// The facts that truth.json does not hold, out of the README of each capture and of the script that made it: who
// vouches for what was booted, the machine owner's keys, and the firmware and memory of the machine.
var (
	mokOf      = map[string]string{"mok-signed": "my-mok"}
	firmwareOf = map[string]string{"hw-changed": "768 MB", "uki-direct": fresh, "uki-sdboot-1": fresh, "sb-off": "firmware of Debian 13"}
)

// truth gives for each "PCR component" what decides about it, so that two captures deviate in it exactly where they differ.
func truth(t *testing.T, name string) map[string]string {
	t.Helper()
	var doc struct {
		Vars string   `json:"vars_sha256"`
		Disk bootDisk `json:"boot_disk_files"`
	}
	if err := json.Unmarshal(read(t, boots, name, "truth.json"), &doc); err != nil {
		t.Fatal(err)
	}
	keys := keysOf[doc.Vars[:8]]
	first, shim := doc.Disk["/EFI/BOOT/BOOTX64.EFI"].Authenticode.SHA256, false
	if _, shim = doc.Disk["/EFI/BOOT/grubx64.efi"]; !shim {
		return truthOfUKI(name, keys, first, doc.Disk)
	}
	cfg := doc.Disk["/EFI/debian/grub.cfg"]
	out := map[string]string{
		"0 firmware":             firmwareOf[name],
		"4 boot_loader":          first + doc.Disk["/EFI/BOOT/grubx64.efi"].Authenticode.SHA256,
		"4 kernel":               doc.Disk["/vmlinuz"].Authenticode.SHA256,
		"7 secure_boot_policy":   keys,
		"7 boot_authority":       keys + "+Debian+" + mokOf[name],
		"7 shim":                 "sbat",
		"8 boot_loader_config":   cfg.Text,
		"9 boot_loader_config":   cfg.SHA256,
		"9 kernel":               doc.Disk["/vmlinuz"].SHA256,
		"9 initrd":               doc.Disk["/initrd.img"].SHA256,
		"14 machine_owner_key":   "MokList of " + mokOf[name],
		"8 kernel_command_line":  lineOf(cfg.Text, "linux "),
		"9 kernel_command_line":  "",
		"11 uki_section":         "",
		"12 kernel_command_line": "",
	}
	if !secureBoot(keys) {
		out["4 kernel"] = "not measured: without Secure Boot this GRUB starts the kernel without the firmware"
		out["7 boot_authority"], out["7 shim"] = "", ""
	}
	return out
}

func truthOfUKI(name, keys, first string, disk bootDisk) map[string]string {
	out := map[string]string{
		"0 firmware":             firmwareOf[name],
		"4 boot_loader":          first,
		"4 kernel":               disk["/EFI/Linux/test.efi"].Authenticode.SHA256,
		"7 secure_boot_policy":   keys,
		"7 boot_authority":       keys,
		"9 initrd":               "839acb441230609ce944eae1e31740a315b0fec00a008009612b886639d64018", // in the image
		"9 kernel_command_line":  "given by the stub",
		"11 uki_section":         "sections of the image",
		"12 kernel_command_line": "",
	}
	if name == "uki-sdboot-1" {
		out["12 kernel_command_line"] = "console=ttyS0,115200"
	}
	return out
}

func secureBoot(keys string) bool { return keys != "none" && !strings.HasSuffix(keys, "off") }

func lineOf(text, prefix string) string {
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, prefix) {
			return l
		}
	}
	return ""
}

// logged are the captures with an event log that replays.
var logged = []string{"sb-on-1", "sb-on-2", "sb-on-otherbox", "cmdline", "grubcfg-tampered", "hw-changed", "ima-critical", "ima-ng", "ima-tcb-1", "ima-tcb-2",
	"initrd-tampered", "mok-signed", "snakeoil", "uki-direct", "uki-sdboot-1"}

// Every capture as golden against every capture as evidence: the deviations name exactly what differs between the two
// machines by what is known of them, and nothing else. What moves by itself (boot order, disk ids, the TPM, another boot)
// never shows. The TPM of sb-on-sha384bank has no SHA-256 bank, so it is compared in the other.
func TestCrossTable(t *testing.T) {
	crossTable(t, "sha256", logged)
	crossTable(t, "sha384", append([]string{"sb-on-sha384bank"}, logged...))
}

func crossTable(t *testing.T, bank string, logged []string) {
	t.Helper()
	all := append(slices.Clone(logged), "sb-disabled", "sb-off") // without event log: registers as a whole
	facts := map[string]map[string]string{}
	for _, name := range all {
		facts[name] = truth(t, name)
	}
	for _, gold := range all {
		candidates := golden(t, gold, bank)
		for _, name := range all {
			explained := slices.Contains(logged, gold) && slices.Contains(logged, name)
			a := againstGolden(t, name, bank, candidates)
			want, got := differing(facts[gold], facts[name], explained), []string{}
			for i := range a.Deviations {
				d := &a.Deviations[i]
				if d.Description == "" || d.Bank != bank {
					t.Errorf("%s against %s: %+v", name, gold, d)
				}
				got = append(got, cell(fmt.Sprintf("%d %s", d.PCR, d.Component), explained))
			}
			if got = set(got); !slices.Equal(got, want) {
				t.Errorf("%s, %s against %s:\n got %q\nwant %q", bank, name, gold, got, want)
			}
			if affirmed := a.Status == verifier.Affirming; affirmed != (len(want) == 0) {
				t.Errorf("%s, %s against %s: %s", bank, name, gold, a.Status)
			}
		}
		// What was extended and not logged is no deviation: the log does not tell this machine's boot.
		if a := againstGolden(t, "unlogged-extend", bank, candidates); a.Reason != verifier.OriginUnverified || check(a, verifier.CheckEventLogReplay).Status != verifier.Fail {
			t.Errorf("%s, unlogged-extend against %s: %s %s", bank, gold, a.Status, a.Reason)
		}
	}
}

func againstGolden(t *testing.T, name, bank string, candidates []verifier.Candidate) *verifier.Appraisal {
	t.Helper()
	c := loadCapture(t, name, "rsassa", bank)
	in := c.inputs(t)
	in.Candidates, in.Policy.RequireSecureBoot = candidates, false
	in.Policy.PCRs = map[string][]int{bank: in.Policy.PCRs["sha256"]}
	return verifier.Appraise(c.ev, in)
}

// differing is where two captures differ by what is known of them.
func differing(gold, name map[string]string, explained bool) []string {
	want := []string{}
	for key := range gold {
		if gold[key] != name[key] {
			want = append(want, cell(key, explained))
		}
	}
	for key := range name {
		if _, both := gold[key]; !both && name[key] != "" {
			want = append(want, cell(key, explained))
		}
	}
	return set(want)
}

// cell is what a deviation is compared by: without an event log the register alone.
func cell(key string, explained bool) string {
	if explained {
		return key
	}
	register, _, _ := strings.Cut(key, " ")
	return register
}

func set(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
