package finding

import (
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/cmdline"
)

// R7: a Linux kernel module was refused. IMA measures a module before the kernel decides on it, so a
// module without a signature, on a kernel whose proven command line enforces signatures, was refused.
// Input.RefusedModules names those. An alert of something that happened does not end by itself.
var kernelModuleRefused = &Rule{
	Code:      "kernel_module_refused",
	Title:     "A Linux kernel module was refused",
	Severity:  Low,
	Area:      "kernel",
	Kinds:     []Kind{KindAlert},
	Condition: "The IMA list proves that a kernel module without a signature was read, and the proven command line that the kernel enforces signatures.",
	Why:       "Somebody tried to bring code into the kernel. The kernel refused it; who tried, and how the file came there, is worth a look.",
	Needs:     []string{"claims.kernel_cmdline", "evidence.ima_log"},
	Citations: []Citation{
		{"Linux kernel, admin-guide/module-signing", "Non-valid signatures and unsigned modules", "https://www.kernel.org/doc/html/latest/admin-guide/module-signing.html"},
		{"Linux kernel, security/IMA-templates", "ima-modsig", "https://www.kernel.org/doc/html/latest/security/IMA-templates.html"},
	},
	Steps: map[string][]string{
		"linux": {
			"Find out what tried to load the module: `journalctl -k -b | grep -i module`, and who put the file there.",
			"If the module is wanted, sign it with a key that the kernel trusts; if not, remove it and examine the machine.",
		},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		if in.Appraisal == nil || len(in.RefusedModules) == 0 {
			return
		}
		shown, more := in.RefusedModules, ""
		if len(shown) > maxListed {
			more = fmt.Sprintf(" and %d more", len(shown)-maxListed)
			shown = shown[:maxListed]
		}
		r.alert(in, out, verifier.NoReason, in.name()+" tried to load kernel modules that carry no signature, and its kernel enforces signatures: "+
			strings.Join(shown, ", ")+more+".")
		out.group(Group{Cause: in.RefusedModules[:1], Title: in.RefusedModules[0] + " refused"})
	},
}

// RefusedModules picks, out of proven IMA entries, the files that are kernel modules without an appended
// signature, where the appraisal proves that the kernel enforces signatures. Only uncompressed modules
// count: of a compressed one IMA sees no signature even if there is one. Where the command line makes ima-modsig the
// template of all entries, a module that was only read (by depmod, by a backup) has such an entry as well, and nothing
// tells it from one that was to be loaded.
func RefusedModules(a *verifier.Appraisal, unsigned []string) []string {
	line := kernelCmdline(a)
	if _, enforced := signatureEnforcement(line); !enforced {
		return nil
	}
	for _, p := range cmdline.Parse(line) {
		if (p.Name == "ima_template" || p.Name == "ima_template_fmt") && strings.Contains(p.Value, "modsig") {
			return nil
		}
	}
	var out []string
	for _, path := range unsigned {
		if strings.HasSuffix(path, ".ko") {
			out = append(out, path)
		}
	}
	return out
}
