package eventlog

import (
	"bytes"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// systemd-pcrphase extends PCR 11 with a word at each step of the boot, after firmware has closed its
// log (systemd-pcrphase.service(8)). The words come in a fixed order, so that a value of PCR 11 that
// the log does not reach by itself is explained if a prefix of one of these sequences reaches it.
var phaseSequences = [][]string{
	{"enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"},
	{"sysinit", "ready", "shutdown", "final"}, // no systemd in the initrd
	{"enter-initrd", "leave-initrd", "ready", "shutdown", "final"},
	{"ready", "shutdown", "final"},
}

// phases finds the boot phases that lead from the log's PCR 11 to the quoted one; nil if none do.
func phases(alg tpm.HashAlg, logged, quoted []byte) []string {
	var value, digest [maxComputed]byte
	size := len(logged)
	for _, sequence := range phaseSequences {
		copy(value[:size], logged)
		for i, word := range sequence {
			hashInto(alg, digest[:size], []byte(word))
			extend(alg, value[:size], digest[:size])
			if bytes.Equal(value[:size], quoted) {
				return sequence[:i+1]
			}
		}
	}
	return nil
}
