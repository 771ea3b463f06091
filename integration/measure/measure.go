// Package measure boots a software TPM: it extends the events of a real boot log into it, so that its
// quotes and the log are genuine together. The demo and the end-to-end tests use it.
package measure

import (
	"bytes"
	"fmt"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// TPM is what is extended: a *tpmdevice.Device.
type TPM interface {
	Extend(index int, digests map[tpm.HashAlg][]byte) error
}

// Log extends every event of a boot log into the PCR that it names, in each of the banks that the log
// has. The TPM must be freshly reset.
func Log(device TPM, raw []byte, banks ...tpm.HashAlg) error {
	log, err := eventlog.Parse(raw)
	if err != nil {
		return fmt.Errorf("parsing the boot log: %w", err)
	}
	for _, e := range log.Events() {
		if !e.Extended {
			continue
		}
		digests := map[tpm.HashAlg][]byte{}
		for _, d := range e.Digests {
			for _, bank := range banks {
				if d.Alg == bank {
					digests[bank] = d.Bytes
				}
			}
		}
		if err := device.Extend(e.PCR, digests); err != nil {
			return fmt.Errorf("event %d: %w", e.Index, err)
		}
	}
	return nil
}

// IMA extends the entries of an IMA list into PCR 10, as the kernel does: in each bank the hash of the
// template data, and all ones for a violation.
func IMA(device TPM, raw []byte, banks ...tpm.HashAlg) error {
	list, err := ima.Parse(raw)
	if err != nil {
		return fmt.Errorf("parsing the IMA list: %w", err)
	}
	for i := range list.Len() {
		entry := list.Entry(i)
		digests := map[tpm.HashAlg][]byte{}
		for _, alg := range banks {
			digests[alg] = bytes.Repeat([]byte{0xff}, alg.Size())
			if !entry.Violation {
				h := alg.Hash().New()
				h.Write(entry.TemplateData)
				digests[alg] = h.Sum(nil)
			}
		}
		if err := device.Extend(ima.PCR, digests); err != nil {
			return fmt.Errorf("IMA entry %d: %w", i, err)
		}
	}
	return nil
}
