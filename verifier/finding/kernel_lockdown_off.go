package finding

import "github.com/assay-verifier/assay/verifier/cmdline"

// Lockdown keeps root from changing the kernel. It is turned on by the command line; by the kernels of Debian, Ubuntu,
// Fedora, Red Hat and SUSE themselves where they see Secure Boot in force (upstream's and Arch's do not); by how a kernel
// was built; or later through /sys/kernel/security/lockdown. A boot log shows the first, and rules the second out where
// Secure Boot is proven to be off. The last two it never shows, and the description says so.
var kernelLockdownOff = &Rule{
	Code:      "kernel_lockdown_off",
	Title:     "The Linux kernel should be locked down",
	Severity:  Low,
	Area:      "kernel",
	Kinds:     []Kind{KindRecommendation},
	Condition: "The proven kernel command line has no lockdown=, and Secure Boot, under which the kernels of many distributions lock themselves down, is proven to be off or without effect.",
	Why:       "Without lockdown whoever is root can change the running kernel (/dev/mem, kexec of an unsigned kernel, unsigned modules, hibernation images), and what the boot measured then says little of what runs.",
	Needs:     []string{"claims.kernel_cmdline", "claims.secure_boot_effective", "inventory.os"},
	Citations: []Citation{
		{"kernel_lockdown(7)", "DESCRIPTION", "https://man7.org/linux/man-pages/man7/kernel_lockdown.7.html"},
		{"Linux kernel, admin-guide/kernel-parameters", "lockdown=", "https://www.kernel.org/doc/html/latest/admin-guide/kernel-parameters.html"},
	},
	Steps: map[string][]string{
		"linux": {
			"On Linux, `cat /sys/kernel/security/lockdown` shows the mode that is in force, in brackets.",
			"Turn Secure Boot on, which locks down the kernels of Debian, Ubuntu, Fedora, Red Hat and SUSE; or add `lockdown=integrity` to the kernel command line.",
			"Test first what needs the kernel unlocked: unsigned drivers, hibernation, kexec of unsigned kernels, some debugging tools.",
			"Reboot, and register the new command line in the baseline.",
		},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		if in.Machine.OS == "windows" {
			r.settle(out)
			return
		}
		if in.Appraisal == nil {
			return
		}
		line := kernelCmdline(in.Appraisal)
		if line == "" {
			return
		}
		if _, on := lockdown(cmdline.Parse(line)); on || !ineffective(in.Appraisal) || saysMore(line) {
			r.settle(out)
			return
		}
		r.recommend(in, out, "Nothing that the evidence shows locks the kernel of "+in.subject()+" down: its proven command line has no lockdown=, and Secure Boot is "+
			withoutEffect(in.Appraisal)+". Only a kernel that was built to, or a service that does it later, would. The command line is: "+shorten(line))
	},
}
