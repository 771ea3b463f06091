package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// A CC event log (ACPI table CCEL) has the records of a TPM's log, but its "PCR index" is a measurement
// register: 0 is MRTD, which only the launch extends, and 1 to 4 are RTMR 0 to 3 (UEFI 2.10, section 38.4.1;
// Intel TDX Virtual Firmware Design Guide, section 8.1). What a TPM keeps apart shares a register:
//
//	RTMR 0   PCR 1 and 7     firmware's configuration, Secure Boot; and what the hypervisor hands to firmware
//	RTMR 1   PCR 2 to 6      boot loaders and drivers, partition table
//	RTMR 2   PCR 8 to 15     boot loader's commands and files, kernel, initrd, unified kernel images, shim's state
//	RTMR 3   —               the running system
//
// So the register tells less than a PCR does of what an event may be. Whoever writes the log knows the preimage
// of most digests, and chooses some of what is measured: a file that GRUB reads can hold the text of a command,
// a blob of the hypervisor the structure of a variable. What is told apart by the PCR in a TPM's log, and by
// nothing that a digest covers, is not told at all here.

// registerOf is the RTMR in which what belongs to a PCR is measured; -1 is MRTD.
func registerOf(pcr int) int {
	switch {
	case pcr == 0:
		return -1
	case pcr == 1 || pcr == 7:
		return 0
	case pcr <= 6:
		return 1
	case pcr <= 15:
		return 2
	}
	return 3
}

// registerValues are values of RTMR 0 to 3; nil is not known.
type registerValues [tpm.NumRTMRs][]byte

// ReplayRTMR compares a CC event log with the run-time measurement registers of a verified TDX report. It checks:
//   - RTMR 0 to 3 with events have exactly the value that they lead to;
//   - RTMR 0 to 2 without events are zero: firmware and boot loaders log all that they extend there;
//   - RTMR 3 without events is Unexplained if it is not zero: the running system extends it;
//   - no event is in a register beyond RTMR 3, as those of a TPM's log are.
//
// Events of register 0 (MRTD) extend nothing that the report shows, and are left out. Only the log's SHA-384
// digests count. As in Replay, of several logs in one buffer the last one that replays counts, and the
// Measurements hold only what the replay proved.
func ReplayRTMR(r *tee.Report, log *Log) (*Measurements, Report) {
	if r == nil || log == nil {
		return &Measurements{}, Report{Detail: "no verified report or no log to replay"}
	}
	var values registerValues
	for i := range values {
		value, ok := r.RTMR(i)
		if !ok {
			return &Measurements{log: log}, Report{Detail: fmt.Sprintf("the report (%s) shows no run-time measurement registers", r.Technology())}
		}
		values[i] = value
	}
	return log.replayRegisters(values)
}

// CompareRTMR is ReplayRTMR with values that nobody vouches for; nil ones are not compared. It makes no
// Measurements.
func (l *Log) CompareRTMR(values [tpm.NumRTMRs][]byte) Report {
	_, report := l.replayRegisters(values)
	return report
}

func (l *Log) replayRegisters(values registerValues) (*Measurements, Report) {
	if l.Empty() {
		return &Measurements{log: l, empty: true}, Report{Outcome: Empty, Detail: "the CC event log is empty: the RTMRs stand alone"}
	}
	last := len(l.segments) - 1
	key := viewKey{segment: last, registers: true}
	report := l.segments[last].compareRegisters(&values, &key)
	for i := last - 1; i >= 0 && report.Outcome != Replayed; i-- {
		earlier := viewKey{segment: i, registers: true}
		if r := l.segments[i].compareRegisters(&values, &earlier); r.Outcome == Replayed {
			report, key = r, earlier
			report.Detail += fmt.Sprintf(" (log %d of %d in the buffer)", i+1, last+1)
		}
	}
	if report.Outcome != Replayed {
		return &Measurements{log: l}, report
	}
	v := l.view(key)
	report.Contradicted = v.contradicted
	return &Measurements{log: l, view: v}, report
}

// compareRegisters judges one segment and notes in key which RTMRs it proves.
func (g *segment) compareRegisters(values *registerValues, key *viewKey) Report {
	n := indexOf(g.algorithms, tpm.SHA384)
	if n < 0 {
		return Report{Detail: "the CC event log has no SHA-384 digests, which RTMRs are extended with"}
	}
	for i := range g.banks {
		if beyond := g.banks[i].extended >> (tpm.NumRTMRs + 1); beyond != 0 {
			return Report{Detail: "the log has events of registers beyond RTMR 3: it is no CC event log, but that of a TPM"}
		}
	}
	result := BankResult{Alg: tpm.RTMR, State: BankReplayed}
	b := &g.banks[n]
	for i, value := range values {
		if value == nil {
			continue
		}
		p := PCRResult{PCR: i, Quoted: value, Logged: b.value(tpm.RTMR.Size(), i+1), Events: b.extended&(1<<(i+1)) != 0}
		switch {
		case bytes.Equal(p.Quoted, p.Logged):
			p.State = Match
			key.proven[i] = 1 << n
		case i == 3 && !p.Events && len(value) == tpm.RTMR.Size():
			p.State = Unexplained
		default:
			result.State = BankFailed
		}
		result.PCRs = append(result.PCRs, p)
	}
	report := Report{Banks: []BankResult{result}}
	switch {
	case len(result.PCRs) == 0:
		report.Banks[0].State = BankFailed
		report.Detail = "there is no RTMR to compare the CC event log with"
	case result.State != BankReplayed:
		report.Detail = registerMismatch(&result)
	default:
		report.Outcome, report.Detail = Replayed, "the CC event log replays to the RTMRs of the report"
	}
	return report
}

func registerMismatch(result *BankResult) string {
	var with, without []int
	for _, p := range result.PCRs {
		switch {
		case p.State != Mismatch:
		case p.Events:
			with = append(with, p.PCR)
		default:
			without = append(without, p.PCR)
		}
	}
	switch {
	case len(without) == 0:
		return fmt.Sprintf("the CC event log does not lead to the value of RTMR %s", numbers(with))
	case len(with) == 0:
		return fmt.Sprintf("RTMR %s was extended and the CC event log does not explain it", numbers(without))
	}
	return fmt.Sprintf("the CC event log does not lead to the value of RTMR %s, and does not explain RTMR %s at all", numbers(with), numbers(without))
}

// in tells whether the event is where those of a PCR are: in the PCR, or in the register that it shares.
func (d *decoder) in(e *Event, pcr int) bool {
	if d.registers {
		return e.PCR == registerOf(pcr)
	}
	return e.PCR == pcr
}

// registerComponent is what an RTMR holds, where the event does not tell.
func registerComponent(register int) Component {
	switch register {
	case 0:
		return ComponentPlatformConfig
	case 1:
		return ComponentBootLoader
	case 2:
		return ComponentBootConfig
	}
	return ComponentUnknown
}

var callingBootOption = newConstant([]byte("Calling EFI Application from Boot Option"))

// ownRegister tells whether an event may be passed over as the machine's own. RTMRs take what the hypervisor hands
// over (ACPI tables, a kernel to boot directly), and so whatever bytes it likes. A boot option is passed over only in
// its strict form, which neither UEFI variables nor images nor text have; a boot order only before exactly its
// options (confirmBootOrder); a partition table only once firmware has called a boot option, which is after all that
// the hypervisor hands over. Windows' events are not: GRUB may read the same from a file.
func (d *decoder) ownRegister(c Component, e *Event) bool {
	switch c {
	case ComponentBootOrder:
		v, ok := parseVariable(e.Data)
		return ok && e.PCR == 0 && (isOrder(&v) || strictLoadOption(v.value))
	case ComponentPartitionTable:
		return e.PCR == 1 && d.booting && strictGPT(e.Data)
	}
	return false
}

func isOrder(v *variable) bool { return v.is(guidGlobal, "BootOrder") && isBootOrder(v.value) }

// autoCreated marks boot options that firmware makes of the devices it finds (EDK II, mBmAutoCreateBootOptionGuid).
var autoCreated = []byte{0x4e, 0xac, 0x08, 0x81, 0x11, 0x9f, 0x59, 0x4d, 0x85, 0x0e, 0xe2, 0x1a, 0x52, 0x2c, 0x59, 0xb2}

// strictLoadOption tells whether value is an EFI_LOAD_OPTION to the last byte (UEFI 2.10, section 3.1.3): attributes
// of those that are defined, a path of well-formed nodes with its end, and no arguments for what is started.
func strictLoadOption(value []byte) bool {
	o, ok := parseLoadOption(value)
	if !ok || binary.LittleEndian.Uint32(value)&^0x1F0B != 0 {
		return false
	}
	if len(o.options) > 0 && !bytes.Equal(o.options, autoCreated) {
		return false
	}
	path, ended := o.path, false
	for len(path) > 0 {
		if len(path) < 4 {
			return false
		}
		size := int(binary.LittleEndian.Uint16(path[2:]))
		if size < 4 || size > len(path) {
			return false
		}
		ended = path[0] == 0x7F && path[1] == 0xFF
		path = path[size:]
	}
	return ended
}

// strictGPT tells whether data begins with a GPT header of revision 1.0 and 92 bytes (UEFI 2.10, section 5.3.2), so
// that it is no text.
func strictGPT(data []byte) bool {
	return len(data) >= gptHeaderSize && binary.LittleEndian.Uint32(data[8:]) == 0x00010000 && binary.LittleEndian.Uint32(data[12:]) == gptHeaderSize
}

// confirmBootOrder keeps a boot order machine-specific only where exactly its boot options follow it in the register,
// as firmware measures them: a short text or table of the hypervisor could be read as a boot order too.
func confirmBootOrder(events []Event) {
	for i := range events {
		e := &events[i]
		if !e.MachineSpecific || e.Component != ComponentBootOrder {
			continue
		}
		v, ok := parseVariable(e.Data)
		if ok && v.is(guidGlobal, "BootOrder") {
			e.MachineSpecific = followedBy(events[i+1:], e.PCR, bootOrder(v.value))
		}
	}
}

// followedBy tells whether the next events of the register are these boot options, and no other one.
func followedBy(events []Event, register int, options []string) bool {
	for i := range events {
		e := &events[i]
		if e.PCR != register {
			continue
		}
		v, ok := parseVariable(e.Data)
		option := ok && e.MachineSpecific && e.Component == ComponentBootOrder && !v.is(guidGlobal, "BootOrder")
		if len(options) == 0 {
			return !option
		}
		if !option || !v.is(guidGlobal, options[0]) {
			return false
		}
		options = options[1:]
	}
	return len(options) == 0
}
