package finding

import (
	"path"
	"slices"
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/cmdline"
)

// danger is a parameter of the kernel's command line that weakens the machine.
type danger struct {
	name string // with underscores
	// values are those that weaken; nil for a flag that weakens where it stands without a value. matches decides instead
	// of both, where it is set.
	values  []string
	matches func(p *cmdline.Parameter) bool
	// each: every occurrence counts. Of other parameters the last one does.
	each bool
	// anywhere: it is read by user space, or by the kernel before it parses its line, and neither stops at "--".
	anywhere bool
	severity Severity
	// reason says what it does, and goes on from the parameter: "starts a shell ...".
	reason string
	// unless tells of something in the line or the evidence that makes it harmless.
	unless func(l cmdline.Line, a *verifier.Appraisal) bool
}

func (d *danger) in(p *cmdline.Parameter) bool {
	switch {
	case p.Name != d.name || p.ForInit && !d.anywhere:
		return false
	case d.matches != nil:
		return d.matches(p)
	case d.values == nil:
		return !p.Given
	}
	return p.Given && slices.Contains(d.values, p.Value)
}

// found lists the occurrences of a danger in a line.
func (d *danger) found(l cmdline.Line, a *verifier.Appraisal) (texts []string) {
	for i := len(l) - 1; i >= 0; i-- {
		p := &l[i]
		if p.Name != d.name || p.ForInit && !d.anywhere {
			continue
		}
		if d.in(p) && (d.unless == nil || !d.unless(l, a)) {
			texts = append(texts, p.Text)
		}
		if !d.each {
			break
		}
	}
	slices.Reverse(texts)
	return texts
}

func given(*cmdline.Parameter) bool { return true }

func off(p *cmdline.Parameter) bool { on, known := p.Bool(); return known && !on }

// item tells whether a value is a comma-separated list that holds a word.
func item(word string) func(*cmdline.Parameter) bool {
	return func(p *cmdline.Parameter) bool { return slices.Contains(strings.Split(p.Value, ","), word) }
}

// systemdOn reads a switch of systemd, which may also name a terminal (systemd, basic/parse-util.c).
func systemdOn(p *cmdline.Parameter) bool {
	return !slices.Contains([]string{"0", "no", "n", "false", "f", "off"}, strings.ToLower(p.Value))
}

// shells are programs that give whoever starts them a prompt, or run what they are told.
var shells = []string{"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "csh", "tcsh", "fish", "busybox", "toybox", "sulogin", "python", "python3", "perl", "ruby", "lua", "env", "sushell"}

// inits are the names of programs that start a system.
var inits = []string{"init", "systemd", "openrc-init", "runit-init", "runit", "s6-svscan", "s6-linux-init", "dinit", "ostree-prepare-root", "preinit", "linuxrc"}

func startsShell(p *cmdline.Parameter) bool { return slices.Contains(shells, path.Base(p.Value)) }

func startsOther(p *cmdline.Parameter) bool {
	return p.Value != "" && !startsShell(p) && !slices.Contains(inits, path.Base(p.Value))
}

// environment that makes every service load somebody's code, or sulogin ask for no password.
var dangerousEnvironment = []string{"LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "SYSTEMD_SULOGIN_FORCE"}

func setsEnvironment(p *cmdline.Parameter) bool {
	name, value, _ := strings.Cut(p.Value, "=")
	return slices.Contains(dangerousEnvironment, name) && value != "" && (name != "SYSTEMD_SULOGIN_FORCE" || value == "1")
}

// guards are services without which a machine is less guarded, or nobody sees what happens on it.
var guards = []string{"auditd", "apparmor", "firewalld", "nftables", "iptables", "ufw", "usbguard", "fapolicyd", "aide", "systemd-journald"}

func masksGuard(p *cmdline.Parameter) bool {
	return slices.Contains(guards, strings.TrimSuffix(p.Value, ".service"))
}

// otherLSM tells whether the line chooses another major security module, so that the lack of this one is no loss.
func otherLSM(this string) func(cmdline.Line, *verifier.Appraisal) bool {
	others := slices.DeleteFunc([]string{"selinux", "apparmor", "smack", "tomoyo"}, func(s string) bool { return s == this })
	return func(l cmdline.Line, _ *verifier.Appraisal) bool {
		for _, other := range others {
			if p, ok := l.Last("security"); ok && p.Value == other {
				return true
			}
			if p, ok := l.Last("lsm"); ok && item(other)(&p) {
				return true
			}
			if p, ok := l.Last(other); ok && p.Value == "1" {
				return true
			}
		}
		return false
	}
}

// underSecureBoot: the kernel ignores ima_appraise where Secure Boot is effective (security/integrity/ima/ima_appraise.c).
func underSecureBoot(_ cmdline.Line, a *verifier.Appraisal) bool { return effective(a) }

const (
	console    = "so that whoever is at the console is root"
	cpuReason  = "turns off a protection against reading the memory of others through the processor"
	singleUser = "starts the system in a mode for repairs, without most services, and leaves a root shell at the console"
)

// flags are dangers of one kind that differ by name and values only.
func flags(severity Severity, reason string, anywhere bool, params ...string) []danger {
	out := make([]danger, len(params))
	for i, p := range params {
		name, values, given := strings.Cut(p, "=")
		out[i] = danger{name: name, severity: severity, reason: reason, anywhere: anywhere}
		if given {
			out[i].values = strings.Split(values, "|")
		}
	}
	return out
}

// dangers are the parameters that weaken a machine. Their meaning is that of admin-guide/kernel-parameters,
// admin-guide/hw-vuln, kernel-command-line(7), dracut.cmdline(7) and initramfs-tools(7).
//
// Not among them are those that change nothing: module.sig_enforce=0 and lockdown=none (both only tighten), ima=off (it
// is heeded by crash-dump kernels alone), debugfs=on (the default), slub_debug (it checks more), iommu=pt (devices that
// the host does not trust stay isolated). resume= is not either: whether the image that it names is encrypted is not in a log.
var dangers = slices.Concat([]danger{
	{name: "init", matches: startsShell, anywhere: true, severity: High, reason: "starts a shell in place of the system, " + console},
	{name: "rdinit", matches: startsShell, severity: High, reason: "starts a shell in place of the initrd, " + console},
	{name: "init", matches: startsOther, anywhere: true, severity: Low, reason: "starts a program of its own in place of the system's init"},
	{name: "rdinit", matches: startsOther, severity: Low, reason: "starts a program of its own in place of the initrd's init"},
	{name: "rd.break", matches: given, each: true, anywhere: true, severity: High, reason: "stops in the initrd (dracut) with a root shell that asks for no password"},
	{name: "break", matches: given, each: true, anywhere: true, severity: High, reason: "stops in the initrd (initramfs-tools) with a root shell that asks for no password"},
	{name: "systemd.debug_shell", matches: systemdOn, anywhere: true, severity: High, reason: "opens a root shell that asks for no password (tty9, unless another is named)"},
	{name: "rd.systemd.debug_shell", matches: systemdOn, anywhere: true, severity: High, reason: "opens a root shell that asks for no password while the initrd runs"},
	{name: "systemd.run", matches: given, each: true, anywhere: true, severity: High, reason: "runs a command as root in place of the system"},
	{name: "systemd.setenv", matches: setsEnvironment, each: true, anywhere: true, severity: High, reason: "gives every service an environment that makes it load foreign code, or lets sulogin ask for no password"},
	{name: "LD_PRELOAD", matches: given, severity: High, reason: "is handed to init as its environment, so that it and what it starts load foreign code"},
	{name: "LD_LIBRARY_PATH", matches: given, severity: High, reason: "is handed to init as its environment, so that it and what it starts load foreign code"},
	{name: "SYSTEMD_SULOGIN_FORCE", values: []string{"1"}, severity: High, reason: "makes sulogin ask for no password"},
	{name: "systemd.unit", values: []string{"rescue.target", "emergency.target", "runlevel1.target"}, anywhere: true, severity: Medium, reason: singleUser},
	{name: "rd.systemd.unit", values: []string{"rescue.target", "emergency.target"}, anywhere: true, severity: Medium, reason: "stops in the initrd, with a root shell at the console"},
	{name: "systemd.wants", values: []string{"debug-shell.service"}, each: true, anywhere: true, severity: High, reason: "opens a root shell that asks for no password"},
	{name: "systemd.mask", matches: masksGuard, each: true, anywhere: true, severity: Low, reason: "keeps a service from starting that guards the machine or records what happens on it"},
	{name: "selinux", values: []string{"0"}, severity: Medium, reason: "turns SELinux off", unless: otherLSM("selinux")},
	{name: "enforcing", values: []string{"0"}, severity: Medium, reason: "makes SELinux report and allow what its policy forbids", unless: otherLSM("selinux")},
	{name: "apparmor", values: []string{"0"}, severity: Medium, reason: "turns AppArmor off", unless: otherLSM("apparmor")},
	{name: "ima_appraise", values: []string{"off", "fix", "log"}, severity: Low, reason: "lets files run whose IMA signature or hash is wrong or missing", unless: underSecureBoot},
	{name: "evm", values: []string{"fix"}, severity: Low, reason: "lets the protection of files' attributes (EVM) be rewritten whatever it says"},
	{name: "ima_hash", values: []string{"sha1", "md5"}, severity: Low, reason: "makes IMA measure files with a hash for which two files of one hash can be made"},
	{name: "mitigations", matches: func(p *cmdline.Parameter) bool { return p.Value == "off" }, severity: Medium, reason: "turns off all protections against reading the memory of others through the processor"},
	{name: "iommu", matches: item("off"), each: true, severity: Low, reason: "turns the IOMMU off, so that a device can read and write all memory"},
	{name: "intel_iommu", matches: item("off"), severity: Low, reason: "turns the IOMMU off, so that a device can read and write all memory"},
	{name: "amd_iommu", values: []string{"off"}, severity: Low, reason: "turns the IOMMU off, so that a device can read and write all memory"},
	{name: "kgdboc", matches: given, severity: Medium, reason: "lets a debugger at the serial line or keyboard read and change the running kernel"},
	{name: "kgdbwait", matches: given, severity: Medium, reason: "makes the kernel wait for a debugger"},
	{name: "rodata", matches: off, severity: Medium, reason: "leaves the kernel's code and constants writable"},
	{name: "loadpin.enforce", matches: off, severity: Medium, reason: "lets kernel modules and firmware be loaded from any file system"},
	{name: "systemd.verity", matches: func(p *cmdline.Parameter) bool { return !systemdOn(p) }, anywhere: true, severity: Medium, reason: "leaves file systems unverified that dm-verity should check"},
	{name: "hardened_usercopy", matches: off, severity: Low, reason: "turns off checks of what is copied between the kernel and programs"},
	{name: "randomize_kstack_offset", matches: off, severity: Low, reason: "makes the kernel's stack predictable"},
	{name: "audit", values: []string{"0", "off"}, severity: Low, reason: "turns the audit subsystem off, so that it records nothing"},
	{name: "mem_encrypt", values: []string{"off"}, severity: Low, reason: "leaves memory unencrypted that the processor could encrypt"},
	{name: "vsyscall", values: []string{"native"}, severity: Low, reason: "leaves code at an address that every attacker knows"},
	{name: "iomem", values: []string{"relaxed"}, severity: Low, reason: "lets root reach the memory of devices behind their drivers' backs"},
	{name: "clearcpuid", matches: func(p *cmdline.Parameter) bool { return item("smep")(p) || item("smap")(p) }, each: true, severity: Low, reason: "lets the kernel run or read what programs hand it by mistake (SMEP, SMAP)"},
	{name: "kpti", matches: off, severity: Low, reason: cpuReason},
},
	flags(Low, "makes the kernel's addresses predictable", true, "nokaslr"),
	flags(Low, "makes the addresses of programs predictable", false, "norandmaps"),
	flags(Low, "shows the kernel's addresses to whoever reads its messages", false, "no_hash_pointers"),
	flags(Low, "lets whoever is at the keyboard or serial line reboot, kill and dump as root", false, "sysrq_always_enabled"),
	flags(Low, "lets the kernel run or read what programs hand it by mistake (kernels before 5.19)", true, "nosmep", "nosmap"),
	// These the kernels for x86 look for in the whole line before they parse it (arch/x86/lib/cmdline.c).
	flags(Low, cpuReason, true, "nopti", "pti=off", "nospectre_v1", "nospectre_v2", "spectre_v2=off", "spectre_v2_user=off",
		"nospec_store_bypass_disable", "spec_store_bypass_disable=off"),
	flags(Low, cpuReason, false, "spectre_bhi=off", "nospectre_bhb", "ssbd=force-off", "l1tf=off", "mds=off", "tsx_async_abort=off",
		"mmio_stale_data=off", "srbds=off", "retbleed=off", "spec_rstack_overflow=off", "gather_data_sampling=off",
		"reg_file_data_sampling=off", "indirect_target_selection=off", "tsa=off", "vmscape=off", "kvm.nx_huge_pages=off|never|0|n|N",
		"no_entry_flush", "no_uaccess_flush", "no_rfi_flush", "no_stf_barrier"),
	singleUserModes(),
)

// singleUserModes are the bare words that systemd and others take for a mode (systemd, basic/runlevel; "-b" is
// emergency mode).
func singleUserModes() []danger {
	out := flags(Medium, singleUser, true, "single", "s", "S", "1", "rescue", "emergency", "_b")
	return append(out, flags(Medium, "stops in the initrd, with a root shell at the console", true, "rd.rescue", "rd.emergency")...)
}
