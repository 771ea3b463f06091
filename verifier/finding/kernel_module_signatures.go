package finding

import (
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/cmdline"
)

// R7: kernel module signatures should be enforced. The proven kernel command line can show it
// (module.sig_enforce, or lockdown). What it does not show is not known: many distributions lock the
// kernel down by themselves when Secure Boot is on. Only where Secure Boot is proven to be off too does
// nothing enforce signatures, unless the kernel was built to, which no log shows and the description says.
var kernelModuleSignatures = &Rule{
	Code:      "kernel_module_signatures",
	Title:     "Linux virtual machines should enforce kernel module signature validation",
	Severity:  Low,
	Area:      "kernel",
	Kinds:     []Kind{KindAssessment, KindRecommendation},
	Condition: "The proven kernel command line has neither module.sig_enforce nor lockdown, and Secure Boot is proven to be off or without effect, so that nothing makes the kernel enforce signatures but the way it was built.",
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
		case !ineffective(a), saysMore(line):
			r.assess(out, NotApplicable, "not_shown", "The kernel command line does not enforce module signatures; whether the kernel does so by itself, as many do under Secure Boot, the evidence does not show.")
			r.settle(out)
		default:
			text := in.name() + " enforces no kernel module signatures, unless its kernel was built to: its proven command line has neither module.sig_enforce nor lockdown, and Secure Boot, under which many kernels enforce them, is " + withoutEffect(a) + ". The command line is: " + shorten(line)
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
	parsed := cmdline.Parse(line)
	for i := range parsed {
		p := &parsed[i]
		if on, known := p.Bool(); p.Name == "module.sig_enforce" && !p.ForInit && on && known {
			return p.Text, true
		}
	}
	return lockdown(parsed)
}

// lockdown finds the parameter that locks the kernel down. It does nothing where lsm= leaves lockdown out of the security
// modules that are started.
func lockdown(l cmdline.Line) (parameter string, on bool) {
	if p, given := l.Last("lsm"); given && !item("lockdown")(&p) {
		return "", false
	}
	for i := range l {
		if p := &l[i]; p.Name == "lockdown" && !p.ForInit && (p.Value == "integrity" || p.Value == "confidentiality") {
			return p.Text, true
		}
	}
	return "", false
}

// saysMore tells whether a line without module.sig_enforce and lockdown may lead to either all the same: bootconfig adds
// parameters out of the initrd, IMA's policy secure_boot asks for signatures of modules, a lockdown that lsm= seems to
// leave out may be compiled to start before all others, and some versions of the kernel take other words for true.
func saysMore(line string) bool {
	l := cmdline.Parse(line)
	for i := range l {
		p := &l[i]
		if p.ForInit {
			continue
		}
		_, known := p.Bool()
		switch p.Name {
		case "bootconfig":
			return true
		case "ima_policy":
			if strings.Contains(p.Value, "secure_boot") {
				return true
			}
		case "module.sig_enforce":
			if !known {
				return true
			}
		case "lockdown":
			if p.Value == "integrity" || p.Value == "confidentiality" {
				return true
			}
		}
	}
	return false
}

// ineffective tells whether Secure Boot is proven to be off, or to be on without effect since shim does not validate.
func ineffective(a *verifier.Appraisal) bool {
	return a.Claims.Claims != nil && isFalse(a.Claims.SecureBootEffective)
}

// withoutEffect says which of the two it is.
func withoutEffect(a *verifier.Appraisal) string {
	if isTrue(a.Claims.ShimValidationDisabled) {
		return "without effect, since shim was told not to validate"
	}
	return "off"
}

// kernelCmdline is the command line that the evidence proves; empty where it proves none.
func kernelCmdline(a *verifier.Appraisal) string {
	if !a.Genuine || a.Claims.Claims == nil || a.Claims.KernelCmdline == nil {
		return ""
	}
	return *a.Claims.KernelCmdline
}

// kernelCmdlines are the command lines that the kernel may have been given, and whether there is one and no other.
func kernelCmdlines(a *verifier.Appraisal) (lines []string, certain bool) {
	if line := kernelCmdline(a); line != "" {
		return []string{line}, true
	}
	if !a.Genuine || a.Claims.Claims == nil {
		return nil, false
	}
	return a.Claims.KernelCmdlineCandidates, false
}

// shorten bounds a value in a description.
func shorten(s string) string {
	const limit = 1000
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
