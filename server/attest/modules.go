package attest

import (
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/ima"
)

// refusedModules are the kernel modules that the evidence proves to have been refused. Only a list with
// the template ima-modsig tells signed modules from unsigned ones, only where the kernel has shown that it collects
// signatures (ima.State.Modsig), and only the entries that the quoted PCR 10 proves are asked.
func (a *appraisal) refusedModules(judged *verifier.Appraisal) []string {
	if !judged.Genuine || judged.NextIMA == nil || !judged.NextIMA.Modsig || a.imaList == nil {
		return nil
	}
	proven := judged.NextIMA.Entries
	if a.imaState != nil {
		proven -= a.imaState.Entries
	}
	var unsigned []string
	for i := range min(proven, a.imaList.Len()) {
		if e := a.imaList.Entry(i); unsignedModule(&e) {
			unsigned = append(unsigned, e.Path)
		}
	}
	if len(unsigned) == 0 {
		return nil
	}
	return finding.RefusedModules(judged, unsigned)
}

func unsignedModule(e *ima.Entry) bool {
	return e.TemplateName == "ima-modsig" && e.PCR == ima.PCR && !e.Violation && e.Fault == "" &&
		len(e.Modsig) == 0 && strings.HasSuffix(e.Path, ".ko")
}
