package finding

import (
	"fmt"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
)

// told is an appraisal that proves a command line, under Secure Boot or not.
func told(line string, secureBoot bool) *verifier.Appraisal {
	return &verifier.Appraisal{Genuine: true, Claims: verifier.Claims{Claims: &eventlog.Claims{KernelCmdline: &line, SecureBoot: &secureBoot, SecureBootEffective: &secureBoot}}}
}

// findings is what a line is said to hold, in short: severity and parameter.
func findings(line string, secureBoot bool) string {
	severity, parts := weakened([]string{line}, told(line, secureBoot))
	for i, p := range parts {
		p, _, _ = strings.Cut(strings.TrimPrefix(p, "`"), "`")
		parts[i] = p
	}
	if len(parts) == 0 {
		return ""
	}
	return string(severity) + ": " + strings.Join(parts, ", ")
}

func TestDangers(t *testing.T) {
	for line, want := range map[string]string{
		// What runs first. The last one counts; the kernel's rdinit ends with "--", which no initrd heeds for init.
		"init=/bin/sh":                           "high: init=/bin/sh",
		"init=/usr/bin/busybox":                  "high: init=/usr/bin/busybox",
		"init=/bin/sh init=/sbin/init":           "",
		"init=/sbin/init init=/bin/sh":           "high: init=/bin/sh",
		"-- init=/bin/sh":                        "high: init=/bin/sh",
		"rdinit=/bin/sh":                         "high: rdinit=/bin/sh",
		"-- rdinit=/bin/sh":                      "",
		"rdinit=/init init=/lib/systemd/systemd": "",
		"init=/nix/store/abc-nixos-system/init":  "",
		"init=/opt/collector":                    "low: init=/opt/collector",
		"init=":                                  "",
		`"init=/bin/sh"`:                         `high: "init=/bin/sh"`,
		// Shells and commands.
		"rd.break":                  "high: rd.break",
		"rd.break=pre-mount":        "high: rd.break=pre-mount",
		"break":                     "high: break",
		"break=premount":            "high: break=premount",
		"systemd.debug-shell":       "high: systemd.debug-shell",
		"systemd.debug_shell=1":     "high: systemd.debug_shell=1",
		"systemd.debug-shell=ttyS1": "high: systemd.debug-shell=ttyS1",
		"systemd.debug-shell=no":    "",
		"systemd.debug-shell=1 systemd.debug-shell=0":                         "",
		"rd.systemd.debug-shell":                                              "high: rd.systemd.debug-shell",
		"systemd.run=/x":                                                      "high: systemd.run=/x",
		`systemd.run="/bin/x y"`:                                              `high: systemd.run="/bin/x y"`,
		"systemd.wants=debug-shell.service":                                   "high: systemd.wants=debug-shell.service",
		"systemd.wants=sshd.service":                                          "",
		"systemd.setenv=LD_PRELOAD=/x.so":                                     "high: systemd.setenv=LD_PRELOAD=/x.so",
		"systemd.setenv=SYSTEMD_SULOGIN_FORCE=1":                              "high: systemd.setenv=SYSTEMD_SULOGIN_FORCE=1",
		"systemd.setenv=SYSTEMD_SULOGIN_FORCE=0":                              "",
		"systemd.setenv=LANG=C systemd.setenv=LD_AUDIT=/x systemd.setenv=A=b": "high: systemd.setenv=LD_AUDIT=/x",
		"LD_PRELOAD=/x.so":                                                    "high: LD_PRELOAD=/x.so",
		"-- LD_PRELOAD=/x.so":                                                 "", // an argument of init, and not its environment
		"SYSTEMD_SULOGIN_FORCE=1":                                             "high: SYSTEMD_SULOGIN_FORCE=1",
		// Modes.
		"single":                     "medium: single",
		"s":                          "medium: s",
		"1":                          "medium: 1",
		"-b":                         "medium: -b",
		"-- emergency":               "medium: emergency",
		"rd.rescue":                  "medium: rd.rescue",
		"single=1":                   "",
		"systemd.unit=rescue.target": "medium: systemd.unit=rescue.target",
		"systemd.unit=rescue.target systemd.unit=multi-user.target": "",
		"rd.systemd.unit=emergency.target":                          "medium: rd.systemd.unit=emergency.target",
		"systemd.mask=auditd systemd.mask=cups.service":             "low: systemd.mask=auditd",
		"systemd.mask=update-engine.service":                        "",
		// Security modules.
		"selinux=0":                        "medium: selinux=0",
		"selinux=0 security=apparmor":      "",
		"selinux=0 lsm=lockdown,apparmor":  "",
		"selinux=0 apparmor=1":             "",
		"enforcing=0":                      "medium: enforcing=0",
		"apparmor=0":                       "medium: apparmor=0",
		"apparmor=0 security=selinux":      "",
		"selinux=0 apparmor=0":             "medium: selinux=0, apparmor=0",
		"selinux=1 enforcing=1 apparmor=1": "",
		"audit=0":                          "low: audit=0",
		"audit=1":                          "",
		// Integrity.
		"ima_appraise=off":              "low: ima_appraise=off",
		"ima_appraise=enforce":          "",
		"evm=fix":                       "low: evm=fix",
		"ima_hash=sha1":                 "low: ima_hash=sha1",
		"ima_hash=sha256":               "",
		"ima=off":                       "",
		"loadpin.enforce=0":             "medium: loadpin.enforce=0",
		"loadpin.exclude=kernel-module": "",
		"systemd.verity=no":             "medium: systemd.verity=no",
		"systemd.verity=yes":            "",
		// The kernel itself.
		"mitigations=off":                      "medium: mitigations=off",
		"mitigations=auto":                     "",
		"mitigations=off -- mitigations=auto":  "medium: mitigations=off",
		"mitigations=off mitigations=auto":     "",
		"nopti":                                "low: nopti",
		"nopti=1":                              "",
		"-- nospectre_v2":                      "low: nospectre_v2", // read before the line is parsed
		"-- l1tf=off":                          "",
		"spectre_v2=off spectre_v2=on":         "",
		"spectre_v2=retpoline mds=off tsa=off": "low: mds=off, tsa=off",
		"kvm.nx_huge_pages=off":                "low: kvm.nx_huge_pages=off",
		"kpti=0":                               "low: kpti=0",
		"iommu=off":                            "low: iommu=off",
		"iommu=soft,off iommu=pt":              "low: iommu=soft,off", // pt does not turn it on again
		"iommu=pt intel_iommu=on":              "",
		"intel_iommu=off intel_iommu=on":       "",
		"intel_iommu=on,tgfx_off":              "",
		"amd_iommu=off":                        "low: amd_iommu=off",
		"kgdboc=ttyS0,115200":                  "medium: kgdboc=ttyS0,115200",
		"kgdbwait":                             "medium: kgdbwait",
		"rodata=off":                           "medium: rodata=off",
		"rodata=full":                          "",
		"nokaslr":                              "low: nokaslr",
		"norandmaps no_hash_pointers":          "low: norandmaps, no_hash_pointers",
		"sysrq-always-enabled":                 "low: sysrq-always-enabled",
		"hardened_usercopy=off randomize_kstack_offset=0": "low: hardened_usercopy=off, randomize_kstack_offset=0",
		"mem_encrypt=off":     "low: mem_encrypt=off",
		"vsyscall=native":     "low: vsyscall=native",
		"vsyscall=xonly":      "",
		"iomem=relaxed":       "low: iomem=relaxed",
		"clearcpuid=smap,304": "low: clearcpuid=smap,304",
		"clearcpuid=304":      "",
		"nosmep nosmap":       "low: nosmep, nosmap",
		// Nothing of it.
		"module.sig_enforce=0 lockdown=none debugfs=on slub_debug=FZP resume=/dev/sda2 noresume": "",
		"BOOT_IMAGE=/x root=/dev/sda1 ro console=ttyS0 panic=-1 crashkernel=auto rd.luks.uuid=1": "",
	} {
		if got := findings(line, false); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	if got := findings("ima_appraise=off", true); got != "" {
		t.Errorf("under Secure Boot, where the kernel ignores it: %q", got)
	}
}

// Each entry of the table is found by a line that holds it alone, and says why in words that go on from the parameter.
func TestEveryDangerIsFound(t *testing.T) {
	for i := range dangers {
		d := &dangers[i]
		candidates := []string{d.name, d.name + "=off", d.name + "=0", d.name + "=/bin/sh", d.name + "=/opt/x", d.name + "=LD_PRELOAD=/x", d.name + "=auditd", d.name + "=smep"}
		if d.values != nil {
			candidates = []string{d.name + "=" + d.values[0]}
		}
		found := false
		for _, line := range candidates {
			_, parts := weakened([]string{line}, told(line, false))
			for _, p := range parts {
				found = found || strings.HasSuffix(p, "` "+d.reason)
			}
		}
		if !found || d.reason == "" || strings.HasSuffix(d.reason, ".") || severityRank[d.severity] == 0 || strings.Contains(d.name, "-") {
			t.Errorf("%s (%s): found %t", d.name, d.reason, found)
		}
	}
}

// A line of a megabyte stays a readable description.
func TestLongCommandLines(t *testing.T) {
	var b strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&b, "systemd.run=%d ", i)
	}
	in := Input{Appraisal: told(b.String(), false), Policy: verifier.DefaultPolicy()}
	got := under("kernel_command_line_dangerous", Derive(in)).recommendation
	if got == nil || got.Severity != High || len(got.Description) > 8000 || !strings.Contains(got.Description, " more.") {
		t.Errorf("%+.300v", got)
	}
}

func TestSignatureEnforcement(t *testing.T) {
	for line, want := range map[string]string{
		"module.sig_enforce":                         "module.sig_enforce",
		"module.sig-enforce=yes":                     "module.sig-enforce=yes",
		"module.sig_enforce=on module.sig_enforce=0": "module.sig_enforce=on", // it cannot be undone
		"module.sig_enforce=0":                       "",
		"module.sig_enforce=true":                    "",
		"-- module.sig_enforce":                      "",
		`x="module.sig_enforce=1 y"`:                 "",
		`x="a module.sig_enforce=1 b"`:               "",
		"lockdown=integrity lockdown=none":           "lockdown=integrity",
		"lockdown=confidentiality lsm=lockdown,yama": "lockdown=confidentiality",
		"lockdown=confidentiality lsm=yama,apparmor": "",
		"lockdown=none":                              "",
		`"lockdown=integrity"`:                       `"lockdown=integrity"`,
	} {
		if got, enforced := signatureEnforcement(line); got != want || enforced != (want != "") {
			t.Errorf("%s: %q %t, want %q", line, got, enforced, want)
		}
	}
	for line, want := range map[string]bool{
		"ro": false, "bootconfig": true, "-- bootconfig": false, "ima_policy=secure_boot": true, `ima_policy="tcb|secure_boot"`: true, "ima_policy=tcb": false,
		"module.sig_enforce=t": true, "module.sig_enforce=0": false, "lockdown=integrity lsm=yama": true, "lockdown=none": false,
	} {
		if got := saysMore(line); got != want {
			t.Errorf("%s: says more %t", line, got)
		}
	}
}
