package verifier

import (
	"fmt"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// registerKind is a kind of measurement register: a TPM's PCRs, or the run-time measurement registers of a TDX
// guest. Both are judged alike, and never one for the other.
type registerKind struct {
	name      string // before the index
	count     int
	notShown  string // of a register that the evidence lacks
	bank      string // of a deviation for which nothing was shown
	component func(index int) eventlog.Component
	meaning   func(index int) string
}

var (
	pcrKind = &registerKind{name: "PCR", count: tpm.NumPCRs, notShown: "is in the baseline but was not quoted",
		component: pcrComponent, meaning: pcrMeaning}
	rtmrKind = &registerKind{name: "RTMR", count: tpm.NumRTMRs, notShown: "is in the baseline but not shown",
		bank: tpm.RTMR.String(), component: rtmrComponent, meaning: rtmrMeaning}
)

// Register names the register that the deviation is in, "PCR 4" or "RTMR 1"; empty where it is in none.
func (d *Deviation) Register() string {
	if d.PCR < 0 {
		return ""
	}
	alg, _ := tpm.ParseHashAlg(d.Bank)
	return fmt.Sprintf("%s %d", kindOf(alg).name, d.PCR)
}

// kindOf is the kind of register that a bank has.
func kindOf(alg tpm.HashAlg) *registerKind {
	if alg == tpm.RTMR {
		return rtmrKind
	}
	return pcrKind
}

// shown is what evidence proves of registers: *tpm.VerifiedQuote is it of PCRs.
type shown interface {
	Banks() []tpm.HashAlg
	PCR(alg tpm.HashAlg, index int) (value []byte, ok bool)
}

// shownRTMRs are the registers of a hardware report.
type shownRTMRs struct{ report *tee.Report }

// Banks implements shown.
func (s shownRTMRs) Banks() []tpm.HashAlg {
	if _, ok := s.report.RTMR(0); !ok {
		return nil
	}
	return []tpm.HashAlg{tpm.RTMR}
}

// PCR implements shown.
func (s shownRTMRs) PCR(alg tpm.HashAlg, index int) (value []byte, ok bool) {
	if alg != tpm.RTMR {
		return nil, false
	}
	return s.report.RTMR(index)
}

// nothingShown stands for evidence that lacks a kind of register.
type nothingShown struct{}

// Banks implements shown.
func (nothingShown) Banks() []tpm.HashAlg { return nil }

// PCR implements shown.
func (nothingShown) PCR(tpm.HashAlg, int) (value []byte, ok bool) { return nil, false }

// shown is what the evidence proves of a kind of register, and the log that explains it.
func (m *measured) shown(kind *registerKind) (shown, *eventlog.Measurements) {
	switch {
	case kind == pcrKind && m.quote != nil:
		return m.quote, m.log
	case kind == rtmrKind && m.rtmrs != nil:
		return shownRTMRs{m.rtmrs}, m.rtmrLog
	}
	return nothingShown{}, nil
}

// The registers of a TDX guest (Intel TDX Virtual Firmware Design Guide, section 8.1; UEFI 2.10, section 38.4.1).
func rtmrComponent(index int) eventlog.Component {
	switch index {
	case 0:
		return eventlog.ComponentPlatformConfig
	case 1:
		return eventlog.ComponentBootLoader
	case 2:
		return eventlog.ComponentKernel
	}
	return eventlog.ComponentUnknown
}

func rtmrMeaning(index int) string {
	return [tpm.NumRTMRs]string{"firmware configuration and Secure Boot", "boot loader, partition table",
		"kernel, command line, initrd", "run time"}[index]
}

// Trigger is what evidence came after, in its own words: of evidence that is not genuine they prove nothing.
type Trigger string

// The triggers.
const (
	TriggerFirst       Trigger = "first"       // before it there was no genuine evidence of the machine, or of its key
	TriggerBoot        Trigger = "boot"        // the machine has booted since its last genuine evidence
	TriggerPeriodic    Trigger = "periodic"    // the same boot as then
	TriggerUnknown     Trigger = "unknown"     // the evidence names no boot, as that of a guest without a TPM and without our agent
	TriggerReappraisal Trigger = "reappraisal" // stored evidence was judged again: no attestation
)
