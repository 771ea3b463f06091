// Package measure boots a software TPM: it extends the events of a real boot log into it, so that its
// quotes and the log are genuine together. The demo and the end-to-end tests use it.
package measure

import (
	"bytes"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Log extends every event of a boot log into the PCR that it names, in each bank that the log has.
// The TPM must be freshly reset.
func Log(device transport.TPM, raw []byte) error {
	log, err := eventlog.Parse(raw)
	if err != nil {
		return fmt.Errorf("parsing the boot log: %w", err)
	}
	for _, e := range log.Events() {
		if !e.Extended {
			continue
		}
		if err := extend(device, e.PCR, e.Digests); err != nil {
			return fmt.Errorf("event %d: %w", e.Index, err)
		}
	}
	return nil
}

// IMA extends the entries of an IMA list into PCR 10, as the kernel does: in each bank the hash of the
// template data, and all ones for a violation.
func IMA(device transport.TPM, raw []byte, banks ...tpm.HashAlg) error {
	list, err := ima.Parse(raw)
	if err != nil {
		return fmt.Errorf("parsing the IMA list: %w", err)
	}
	for i := range list.Len() {
		entry := list.Entry(i)
		var digests []eventlog.Digest
		for _, alg := range banks {
			digest := bytes.Repeat([]byte{0xff}, alg.Size())
			if !entry.Violation {
				h := alg.Hash().New()
				h.Write(entry.TemplateData)
				digest = h.Sum(nil)
			}
			digests = append(digests, eventlog.Digest{Alg: alg, Bytes: digest})
		}
		if err := extend(device, ima.PCR, digests); err != nil {
			return fmt.Errorf("IMA entry %d: %w", i, err)
		}
	}
	return nil
}

// Extend adds one digest to a PCR, as malware that keeps no log would.
func Extend(device transport.TPM, pcr int, alg tpm.HashAlg, digest []byte) error {
	return extend(device, pcr, []eventlog.Digest{{Alg: alg, Bytes: digest}})
}

func extend(device transport.TPM, pcr int, digests []eventlog.Digest) error {
	var list tpm2.TPMLDigestValues
	for _, d := range digests {
		if d.Alg.Hash() == 0 {
			continue
		}
		list.Digests = append(list.Digests, tpm2.TPMTHA{HashAlg: tpm2.TPMIAlgHash(d.Alg), Digest: d.Bytes})
	}
	if len(list.Digests) == 0 {
		return nil
	}
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   list,
	}.Execute(device)
	if err != nil {
		return fmt.Errorf("TPM2_PCR_Extend of PCR %d: %w", pcr, err)
	}
	return nil
}
