package baseline

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// ErrNotGenuine is returned for evidence whose origin is not proven: it must not become a baseline.
var ErrNotGenuine = errors.New("the evidence is not proven to come from the machine's own TPM, so no baseline can be captured from it")

// ErrNothingToCapture is returned where none of the PCRs that the policy judges was quoted.
var ErrNothingToCapture = errors.New("none of the PCRs that the policy judges was quoted")

// capturedRTMRs are the run-time measurement registers that the boot extends.
const capturedRTMRs = 3

// windowsVolatile are the PCRs that Windows extends with what differs at every boot: counters, random
// seeds and the drivers loaded so far (SIPA events). Their state is judged by claims instead.
const windowsVolatile = 1<<11 | 1<<12 | 1<<13

// Capture makes reference values of a machine that is known to be good, from the appraisal of its
// evidence: for each PCR that the policy judges, the quoted value and, where the log explains it, the
// events behind it; of a TDX guest the same of RTMR 0 to 2, since the running system extends RTMR 3; of a confidential
// VM its launch measurement. Events that name the machine and not its software are left out, so that the same values
// fit the machine after a reboot and other machines of its kind.
func Capture(a *verifier.Appraisal, p verifier.Policy) (verifier.ReferenceValues, error) {
	if a == nil || !a.Genuine || a.Quote == nil && a.RTMRs == nil && a.Platform == nil {
		return verifier.ReferenceValues{}, ErrNotGenuine
	}
	out := verifier.ReferenceValues{PCRs: map[string]map[string][]string{}, Claims: map[string]json.RawMessage{}}
	windows := a.Claims.Claims != nil && a.Claims.Windows != nil
	for _, pcr := range p.BaselinePCRs {
		if windows && windowsVolatile&(1<<uint(pcr)) != 0 {
			continue
		}
		capturePCR(&out, a, pcr)
	}
	for index := range capturedRTMRs {
		captureRTMR(&out, a, index)
	}
	if a.Platform != nil {
		out.LaunchMeasurements = []string{hex.EncodeToString(a.Platform.Measurement())}
	}
	if len(out.PCRs) == 0 && len(out.LaunchMeasurements) == 0 {
		return verifier.ReferenceValues{}, ErrNothingToCapture
	}
	captureClaims(&out, a)
	return out, nil
}

func capturePCR(out *verifier.ReferenceValues, a *verifier.Appraisal, pcr int) {
	if a.Quote == nil {
		return
	}
	captured := false
	for _, alg := range a.Quote.Banks() {
		if value, quoted := a.Quote.PCR(alg, pcr); quoted {
			captureValue(out, alg, pcr, value)
			captured = true
		}
	}
	if captured {
		captureEvents(out, a.Measurements, pcr, a.Quote.Banks())
	}
}

func captureRTMR(out *verifier.ReferenceValues, a *verifier.Appraisal, index int) {
	value, shown := a.RTMRs.RTMR(index)
	if !shown {
		return
	}
	captureValue(out, tpm.RTMR, index, value)
	captureEvents(out, a.RTMRMeasurements, index, []tpm.HashAlg{tpm.RTMR})
}

func captureValue(out *verifier.ReferenceValues, alg tpm.HashAlg, index int, value []byte) {
	bank := out.PCRs[alg.String()]
	if bank == nil {
		bank = map[string][]string{}
		out.PCRs[alg.String()] = bank
	}
	bank[strconv.Itoa(index)] = []string{hex.EncodeToString(value)}
}

// captureEvents keeps the events of a register that its log explains.
func captureEvents(out *verifier.ReferenceValues, m *eventlog.Measurements, index int, banks []tpm.HashAlg) {
	if m == nil || !m.Verified(index) {
		return
	}
	appendEvents(out, m.Events(), index, banks)
}

// appendEvents keeps the events of one register that name software, with their digests of the banks.
func appendEvents(out *verifier.ReferenceValues, events []eventlog.Event, index int, banks []tpm.HashAlg) {
	seen := map[string]bool{} // firmware measures some images twice; matching goes by digest, so once is enough
	for i := range events {
		e := &events[i]
		if e.PCR != index || !e.Extended || e.MachineSpecific || len(e.Digests) == 0 || seen[string(e.Digests[0].Bytes)] {
			continue
		}
		ref := referenceEvent(e, banks)
		if len(ref.Digests) == 0 {
			continue // none of a bank that counts
		}
		seen[string(e.Digests[0].Bytes)] = true
		out.Events = append(out.Events, ref)
	}
}

// referenceEvent keeps the digests of the banks that are proven.
func referenceEvent(e *eventlog.Event, banks []tpm.HashAlg) verifier.ReferenceEvent {
	ref := verifier.ReferenceEvent{PCR: e.PCR, Type: e.Type.String(), Digests: map[string][]string{},
		Description: e.Description, Component: string(e.Component), Key: e.Key, Required: true}
	for _, alg := range banks {
		for _, d := range e.Digests {
			if d.Alg == alg {
				ref.Digests[alg.String()] = []string{hex.EncodeToString(d.Bytes)}
			}
		}
	}
	return ref
}

func captureClaims(out *verifier.ReferenceValues, a *verifier.Appraisal) {
	c := a.Claims.Claims
	if c == nil {
		return
	}
	keep := func(name string, value *bool) {
		if value != nil {
			out.Claims[name] = json.RawMessage(strconv.FormatBool(*value))
		}
	}
	keep("secure_boot", c.SecureBoot)
	keep("secure_boot_effective", c.SecureBootEffective)
}
