package baseline

import (
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// OfLog makes reference values of a boot log that no quote proves and somebody vouches for otherwise, as a signed
// manifest does: for each PCR that the log extends, the value that it leads to in each bank that is computed here, and
// its events. Of several logs in one buffer the last one counts. As in Capture, events that name the machine and not its software are left out, and so are the PCRs that
// Windows extends with what differs at every boot. A log without events gives none.
func OfLog(log *eventlog.Log) verifier.ReferenceValues {
	out := verifier.ReferenceValues{PCRs: map[string]map[string][]string{}}
	events := log.LastEvents()
	skip := volatileOf(events)
	var banks []tpm.HashAlg
	for _, alg := range log.Banks() {
		computed := false
		for pcr := range tpm.NumPCRs {
			value, extended, ok := log.PCR(alg, pcr)
			computed = computed || ok
			if ok && extended && skip&(1<<uint(pcr)) == 0 {
				captureValue(&out, alg, pcr, value)
			}
		}
		if computed {
			banks = append(banks, alg)
		}
	}
	for pcr := range tpm.NumPCRs {
		if skip&(1<<uint(pcr)) == 0 {
			appendEvents(&out, events, pcr, banks)
		}
	}
	return out
}

// volatileOf are the PCRs to leave out of a log of Windows; none of another.
func volatileOf(events []eventlog.Event) uint32 {
	for i := range events {
		if e := &events[i]; e.Extended && e.Component == eventlog.ComponentWindows && windowsVolatile&(1<<uint(e.PCR)) != 0 {
			return windowsVolatile
		}
	}
	return 0
}
