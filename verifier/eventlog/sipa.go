package eventlog

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// The identifiers of Windows' boot events (Windows SDK, wbcl.h: SIPAEVENT_*).
const (
	sipaAggregation = 0x40000000 // flag: the value is a series of events

	sipaELAMAggregation   = 0x40010002
	sipaModuleAggregation = 0x40010003

	sipaBootCounter     = 0x00020002
	sipaBitLockerUnlock = 0x00020005
	sipaEventCounter    = 0x00020006
	sipaBootDebugging   = 0x00040001
	sipaKernelDebugging = 0x00050001
	sipaCodeIntegrity   = 0x00050002
	sipaTestSigning     = 0x00050003
	sipaDEP             = 0x00050004
	sipaSafeMode        = 0x00050005
	sipaWinPE           = 0x00050006
	sipaOSDevice        = 0x00050008
	sipaHypervisor      = 0x0005000A
	sipaHypervisorDebug = 0x0005000D
	sipaDriverPolicy    = 0x0005000E
	sipaVSMLaunch       = 0x00050012
	sipaFlightSigning   = 0x00050021

	sipaFilePath        = 0x00070001
	sipaImageSize       = 0x00070002
	sipaAuthenticode    = 0x00070004
	sipaIssuer          = 0x00070005
	sipaSerial          = 0x00070006
	sipaPublisher       = 0x00070008
	sipaSHA1Thumbprint  = 0x00070009
	sipaImageValidated  = 0x0007000A
	sipaELAMKeyName     = 0x00090001
	sipaELAMConfig      = 0x00090002
	sipaELAMPolicy      = 0x00090003
	sipaELAMMeasured    = 0x00090004
	sipaHVCIPolicy      = 0x000A0007
	sipaVSMRequired     = 0x000A0001
	sipaSecureBootOfVBS = 0x000A0002
)

// walkSIPA calls visit with each of a series of Windows boot events: identifier 4, size 4, value, where
// the value may be a series itself, at depth+1. ok is false if the series is malformed.
func walkSIPA(data []byte, visit func(depth int, id uint32, value []byte)) (ok bool) {
	var open [6][]byte
	open[0] = data
	for depth := 0; depth >= 0; {
		rest := open[depth]
		if len(rest) == 0 {
			depth--
			continue
		}
		if len(rest) < 8 {
			return false
		}
		id, size := binary.LittleEndian.Uint32(rest), binary.LittleEndian.Uint32(rest[4:])
		if uint64(size) > uint64(len(rest)-8) {
			return false
		}
		value := rest[8 : 8+size]
		open[depth] = rest[8+size:]
		visit(depth, id, value)
		if id&sipaAggregation != 0 && depth+1 < len(open) {
			depth++
			open[depth] = value
		}
	}
	return true
}

// isSIPA tells whether data is a series of Windows boot events with known categories at its top.
func isSIPA(data []byte) bool {
	if len(data) < 8 {
		return false
	}
	known := true
	ok := walkSIPA(data, func(depth int, id uint32, _ []byte) {
		if category := id >> 16 & 0xFF; depth == 0 && (category == 0 || category > 0x0C) { // SIPAEVENTTYPE_DRTM is the last
			known = false
		}
	})
	return ok && known
}

// windows describes a covered series of Windows boot events.
func (d *decoder) windows(e *Event) meaning {
	d.sipa[e.PCR]++
	m := meaning{component: ComponentWindows, key: fmt.Sprintf("windows:%d", d.sipa[e.PCR])}
	modules, events, counters := 0, 0, 0
	var remarks []string
	walkSIPA(e.Data, func(_ int, id uint32, value []byte) {
		events++
		switch id {
		case sipaModuleAggregation:
			modules++
		case sipaBootCounter, sipaEventCounter:
			counters++
		}
		if name, bad := sipaSwitches[id]; bad && nonZero(value) && len(remarks) < 8 {
			remarks = append(remarks, name+" is on")
		}
		if id == sipaCodeIntegrity && !nonZero(value) {
			remarks = append(remarks, "code integrity is OFF")
		}
		if n, ok := sipaNumber(value); ok && id == sipaDEP && dataExecution[n] == DEPAlwaysOff {
			remarks = append(remarks, "data execution prevention is OFF")
		}
	})
	m.machineSpecific = events > 0 && events == counters // and nothing beside them
	m.description = "Windows boot: " + plural(events, "event")
	if modules > 0 {
		m.description += ", " + plural(modules, "loaded module")
	}
	if len(remarks) > 0 {
		m.description += "; " + strings.Join(remarks, ", ")
	}
	if e.PCR == 14 {
		m.description += " (signing authorities)"
	}
	m.description = printable(m.description)
	return m
}

// sipaSwitches are settings that weaken Windows where they are on.
var sipaSwitches = map[uint32]string{
	sipaBootDebugging: "boot debugging", sipaKernelDebugging: "kernel debugging", sipaTestSigning: "test signing",
	sipaSafeMode: "safe mode", sipaWinPE: "Windows PE", sipaHypervisorDebug: "hypervisor debugging", sipaFlightSigning: "flight signing",
}

func nonZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return true
		}
	}
	return false
}
