package eventlog

import (
	"encoding/hex"
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// describe lists the events of a log as "PCR key: description", covered ones with a star.
func describe(log *Log) map[string]bool {
	out := map[string]bool{}
	for _, e := range log.Events() {
		star := ""
		if e.Covered {
			star = "*"
		}
		out[fmt.Sprintf("%d %s%s: %s", e.PCR, e.Key, star, e.Description)] = true
	}
	return out
}

func TestDescriptions(t *testing.T) {
	for path, want := range map[string][]string{
		bootLog("sb-on-1"): {
			"0 firmware_volume:0x820000: firmware volume at 0x820000, 917504 bytes",
			"7 variable:SecureBoot*: Secure Boot: on",
			"7 variable:KEK*: Secure Boot key exchange keys KEK: 2 certificates (Debian UEFI Secure Boot (PK/KEK key), Microsoft Corporation KEK CA 2011)",
			"7 variable:db*: Secure Boot signature database db: 2 certificates (Microsoft Windows Production PCA 2011, Microsoft Corporation UEFI CA 2011)",
			"7 variable:dbx*: Secure Boot revocation database dbx: 1 hash",
			"7 authority:db*: what was booted is verified by db: certificate Microsoft Corporation UEFI CA 2011",
			"7 authority:MokListRT*: what was booted is verified by shim (MokListRT): certificate Debian Secure Boot CA",
			"7 variable:SbatLevel*: shim SBAT revocation level: sbat,1,2025021800; shim,4; grub,5",
			"1 variable:BootOrder*: boot order: Boot0001, Boot0000, Boot0002",
			`1 variable:Boot0002*: boot option Boot0002: "EFI Internal Shell", Fv(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(7c04a583-9e3e-4f1c-ad65-e05268d0b4d1)`,
			"5 gpt*: GPT of disk 11111111-2222-3333-4444-555555555555: 1 partition",
			`4 image:grubx64.efi: boot loader image \EFI\BOOT\grubx64.efi (Authenticode sha256 a68f6d71ebddaa19751ff8d729f67d11b0df8e4c49400c3e7e90de16119e1265)`,
			"4 image:kernel: kernel image (Authenticode sha256 5f21ff2c0d5d899842b28a8b19901ba72cf7a7ab93c02a77fadc6ff72be85b31)",
			"8 grub_cmd:linux*: GRUB command: linux /vmlinuz console=ttyS0,115200",
			"8 grub_cmd:set:timeout*: GRUB command: set timeout=0",
			"8 cmdline*: kernel command line: /vmlinuz console=ttyS0,115200",
			"9 kernel: kernel /vmlinuz (digest of the file)",
			"9 initrd: initrd /initrd.img (digest of the file)",
			"9 file:(hd0,gpt1)/EFI/debian/grub.cfg: file (hd0,gpt1)/EFI/debian/grub.cfg read by GRUB (digest of the file)",
			"14 mok:MokList: machine owner keys (digest of MokList)",
			"5 action:Exit Boot Services Invocation*: the operating system takes over from firmware",
			"4 separator*: separator: firmware hands over to the boot loader",
		},
		bootLog("uki-sdboot-1"): {
			"12 cmdline*: kernel command line: console=ttyS0,115200",
			"11 section-name:.initrd*: unified kernel image has a section .initrd",
			"11 section:.initrd: unified kernel image section .initrd (digest of its contents)",
			"9 efistub:initrd: initrd that the kernel's EFI stub loaded (digest of its contents)",
			"9 efistub:load_options: command line that the kernel's EFI stub was given (digest of it)",
			`4 image:test.efi: kernel image \EFI\Linux\test.efi (Authenticode sha256 ` + digestOf(t, bootLog("uki-sdboot-1"), "image:test.efi") + ")",
		},
		"testdata/eventlogs/gce/arch-linux-workstation.bin": {
			"7 variable:SecureBoot*: Secure Boot: off",
			`8 cmdline*: kernel command line: initrd=\intel-ucode.img initrd=\initramfs-linux-lts.img cryptdevice=UUID=5465369a-996d-42ca-9ad4-91d0082e0b34:cryptroot root=/dev/mapper/cryptroot rw intel_iommu=on iommu=pt l1tf=off`,
		},
		"testdata/eventlogs/gce/rhel8-uefi.bin": {
			"8 grub_cmd:set:pager*: GRUB command: set pager=1",
			"9 kernel: kernel grub_linuxefi Kernel (digest of the file)",
		},
		"testdata/eventlogs/misc/keylime-binary_bios_measurements": {
			"0 startup_locality: the TPM was started from locality 3",
			"0 crtm_contents:Boot Guard Measured S-CRTM: root of trust code: Boot Guard Measured S-CRTM",
			"0 crtm_version*: firmware version N40ET41W",
			"0 post_code:ACPI DATA: ACPI tables",
			"1 handoff_tables:SMBIOS3: tables that firmware hands over (SMBIOS3)",
			"0 nonhost:IntelCSxEInfoEvent*: platform code or settings outside the host CPU: IntelCSxEInfoEvent",
		},
		"testdata/eventlogs/gce/eventlogwithsp800155.bin": {
			"0 sp800_155: where the manufacturer's reference values are (SP 800-155)",
			"1 variable:BootOrder*: boot order: Boot0001, Boot0000", // its digest is that of a separator with an error
		},
		"testdata/quotes/guard-supermicro-win2022-a/eventlog.bin": {
			"12 windows:1*: Windows boot: 17 events, 2 loaded modules",
			"13 windows:2*: Windows boot: 738 events, 71 loaded modules",
			"11 windows:bitlocker:ffff0000*: Windows closes the key of BitLocker",
			"12 separator*: end of the Windows boot log",
			"0 windows:trust_point: Windows trust point: quote of the boot by Windows itself (not used)",
		},
		"testdata/tdx/ccel/event_log.bin.gz": {
			"1 handoff_tables:TdxTable:93bb96af-b9f2-4eb8-9462-e0ba74564236: tables that firmware hands over: TdxTable (93bb96af-b9f2-4eb8-9462-e0ba74564236)",
			"1 firmware_blob:Fv(XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX): firmware code: Fv(XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX)",
		},
	} {
		got := describe(mustParse(t, path))
		for _, line := range want {
			if !got[line] {
				t.Errorf("%s: no event %q", path, line)
			}
		}
		if t.Failed() {
			var all []string
			for line := range got {
				all = append(all, line)
			}
			sort.Strings(all)
			t.Logf("%s:\n%s", path, strings.Join(all, "\n"))
		}
	}
}

func digestOf(t *testing.T, path, key string) string {
	t.Helper()
	for _, e := range mustParse(t, path).Events() {
		if e.Key == key {
			for _, d := range e.Digests {
				if d.Alg == tpm.SHA256 {
					return hex.EncodeToString(d.Bytes)
				}
			}
		}
	}
	t.Fatalf("%s: no event %s", path, key)
	return ""
}

// changes lists the keys, with their PCR, whose SHA-256 digests differ between two logs.
func changes(t *testing.T, before, after string) []string {
	t.Helper()
	digests := func(path string) map[string][]string {
		out := map[string][]string{}
		for _, e := range mustParse(t, path).Events() {
			for _, d := range e.Digests {
				if d.Alg == tpm.SHA256 && e.Extended {
					key := fmt.Sprintf("%d %s", e.PCR, e.Key)
					out[key] = append(out[key], hex.EncodeToString(d.Bytes))
				}
			}
		}
		return out
	}
	a, b := digests(before), digests(after)
	var out []string
	for key, want := range a {
		switch got, ok := b[key]; {
		case !ok:
			out = append(out, "-"+key)
		case strings.Join(got, " ") != strings.Join(want, " "):
			out = append(out, "~"+key)
		}
	}
	for key := range b {
		if _, ok := a[key]; !ok {
			out = append(out, "+"+key)
		}
	}
	sort.Strings(out)
	return out
}

// The keys make "the same thing, changed" out of two boots.
func TestKeysSurviveChanges(t *testing.T) {
	elitebook := "testdata/eventlogs/baremetal/guard-set-elitebook830g6-"
	for _, c := range []struct {
		before, after string
		want          []string
	}{
		{bootLog("sb-on-1"), bootLog("sb-on-2"), nil},
		{bootLog("sb-on-1"), bootLog("sb-on-otherbox"), nil},
		{bootLog("ima-tcb-1"), bootLog("ima-tcb-2"), nil},
		{bootLog("sb-on-1"), bootLog("cmdline"), []string{"~8 cmdline", "~8 grub_cmd:linux", "~9 file:(hd0,gpt1)/EFI/debian/grub.cfg"}},
		{bootLog("sb-on-1"), bootLog("grubcfg-tampered"), []string{"+8 grub_cmd:set:superuser", "~9 file:(hd0,gpt1)/EFI/debian/grub.cfg"}},
		{bootLog("sb-on-1"), bootLog("initrd-tampered"), []string{"~9 initrd"}},
		{bootLog("sb-on-1"), bootLog("hw-changed"), []string{"~0 firmware_volume:0x820000"}},
		{bootLog("sb-on-1"), bootLog("mok-signed"), []string{"~14 mok:MokList", "~7 authority:MokListRT", "~9 kernel"}},
		{elitebook + "mok-baseline/eventlog.bin", elitebook + "mokx-added/eventlog.bin", []string{"-1 variable:Boot0001", "~1 variable:Boot0007", "~1 variable:BootOrder", "~14 mok:MokListX"}},
	} {
		got := changes(t, c.before, c.after)
		if strings.Join(got, "|") != strings.Join(c.want, "|") {
			t.Errorf("%s → %s:\n got %q\nwant %q", c.before, c.after, got, c.want)
		}
	}
}
