package finding

import (
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier"
)

// R7: a Linux kernel module was refused. IMA measures a module before the kernel decides on it, so a
// module without a signature, on a kernel whose proven command line enforces signatures, was refused.
// Input.RefusedModules names those. An alert of something that happened does not end by itself.
var kernelModuleRefused = &Rule{
	Code:     "kernel_module_refused",
	Title:    "A Linux kernel module was refused",
	Severity: Low,
	Citation: "Linux kernel, Documentation/admin-guide/module-signing.rst; Documentation/security/IMA-templates.rst (ima-modsig)",
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
// count: of a compressed one IMA sees no signature even if there is one.
func RefusedModules(a *verifier.Appraisal, unsigned []string) []string {
	if _, enforced := signatureEnforcement(kernelCmdline(a)); !enforced {
		return nil
	}
	var out []string
	for _, path := range unsigned {
		if strings.HasSuffix(path, ".ko") {
			out = append(out, path)
		}
	}
	return out
}
