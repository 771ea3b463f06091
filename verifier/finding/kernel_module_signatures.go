package finding

import (
	"strings"

	"github.com/assay-verifier/assay/verifier"
)

// R7: kernel module signatures should be enforced. The proven kernel command line can show it
// (module.sig_enforce, or lockdown). What it does not show is not known: many distributions lock the
// kernel down by themselves when Secure Boot is on. Only where Secure Boot is off too does nothing
// enforce signatures.
var kernelModuleSignatures = &Rule{
	Code:      "kernel_module_signatures",
	Title:     "Linux virtual machines should enforce kernel module signature validation",
	Severity:  Low,
	Area:      "kernel",
	Kinds:     []Kind{KindAssessment, KindRecommendation},
	Condition: "The proven kernel command line has neither module.sig_enforce nor lockdown, and Secure Boot is not shown to be effective.",
	Why:       "A module is code with all rights. Where nothing checks its signature, whoever is root for a minute can stay in the kernel.",
	Needs:     []string{"claims.kernel_cmdline", "claims.secure_boot_effective", "inventory.os"},
	Citations: []Citation{
		{"Linux kernel, admin-guide/module-signing", "Non-valid signatures and unsigned modules", "https://www.kernel.org/doc/html/latest/admin-guide/module-signing.html"},
		{"kernel_lockdown(7)", "description", "https://man7.org/linux/man-pages/man7/kernel_lockdown.7.html"},
	},
	Steps: map[string][]string{
		"linux": {
			"Add `module.sig_enforce=1` (or `lockdown=integrity`) to the kernel command line: in /etc/default/grub, then `update-grub`; with a unified kernel image, where its command line is built.",
			"Sign the modules that the machine builds itself, and enrol their key with `mokutil --import`.",
			"Reboot, and register the new command line in the baseline.",
		},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		a := in.Appraisal
		if in.Machine.OS == "windows" {
			r.assess(out, NotApplicable, "not_linux", "The rule is about the Linux kernel.")
			r.settle(out)
			return
		}
		if a == nil {
			return
		}
		line := kernelCmdline(a)
		if line == "" {
			r.assess(out, NotApplicable, "unknown", "The evidence does not prove the kernel command line.")
			return
		}
		by, enforced := signatureEnforcement(line)
		switch {
		case enforced:
			r.assess(out, Healthy, "enforced", "The proven kernel command line has "+by+".")
			r.settle(out)
		case effective(a):
			r.assess(out, NotApplicable, "not_shown", "The kernel command line does not enforce module signatures; whether the kernel does so by itself, as many do under Secure Boot, the evidence does not show.")
		default:
			text := in.name() + " enforces no kernel module signatures: its proven command line has neither module.sig_enforce nor lockdown, and Secure Boot is not shown to be effective. The command line is: " + shorten(line)
			r.assess(out, Unhealthy, "not_enforced", text)
			r.recommend(in, out, text)
		}
	},
}

// signatureEnforcement finds the parameter that makes the kernel refuse modules without a good
// signature. Both parameters only tighten: a later one that says otherwise does not undo the first
// (kernel/module/signing.c, sig_enforce is bool_enable_only; security/lockdown/lockdown.c). What follows
// "--" is for init and not for the kernel.
func signatureEnforcement(line string) (parameter string, enforced bool) {
	for _, p := range strings.Fields(line) {
		name, value, given := strings.Cut(p, "=")
		name = strings.ReplaceAll(name, "-", "_") // the kernel takes either
		switch {
		case p == "--":
			return "", false
		case name == "module.sig_enforce" && (!given || value == "1" || value == "y" || value == "Y" || value == "on"):
			return p, true
		case name == "lockdown" && (value == "integrity" || value == "confidentiality"):
			return p, true
		}
	}
	return "", false
}

// kernelCmdline is the command line that the evidence proves; empty where it proves none.
func kernelCmdline(a *verifier.Appraisal) string {
	if !a.Genuine || a.Claims.Claims == nil || a.Claims.KernelCmdline == nil {
		return ""
	}
	return *a.Claims.KernelCmdline
}

// shorten bounds a value in a description.
func shorten(s string) string {
	const limit = 1000
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
