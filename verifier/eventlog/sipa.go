package eventlog

import (
	"encoding/binary"
	"encoding/hex"
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
	sipaSafeMode        = 0x00050005
	sipaWinPE           = 0x00050006
	sipaHypervisorDebug = 0x0005000D
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
		if category := id >> 16 & 0xFF; depth == 0 && (category == 0 || category > 0x0B) {
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

// Windows is what the Windows boot manager and loader measured in PCR 11 to 14. A switch that was not
// measured is nil.
type Windows struct {
	BootDebugging       *bool    `json:"boot_debugging"`
	KernelDebugging     *bool    `json:"kernel_debugging"`
	HypervisorDebugging *bool    `json:"hypervisor_debugging"`
	TestSigning         *bool    `json:"test_signing"`
	FlightSigning       *bool    `json:"flight_signing"`
	CodeIntegrity       *bool    `json:"code_integrity"` // on each time it was measured
	SafeMode            *bool    `json:"safe_mode"`
	WinPE               *bool    `json:"win_pe"`
	VSMRequired         *bool    `json:"vsm_required"`
	HVCIPolicy          string   `json:"hvci_policy,omitempty"` // hex
	BitLockerUnlock     []uint32 `json:"bitlocker_unlock"`      // FVEB_UNLOCK_FLAG of each unlocked volume
	// BootCount and EventCount are monotonic counters of this machine.
	BootCount  *uint64         `json:"boot_count"`
	EventCount *uint64         `json:"event_count"`
	ELAM       []ELAMDriver    `json:"elam"`
	Modules    []WindowsModule `json:"modules"`
	// ModulesOmitted is the number of modules beyond those listed.
	ModulesOmitted int `json:"modules_omitted,omitempty"`
}

// ELAMDriver is the registration of an early-launch anti-malware driver; values are hex.
type ELAMDriver struct {
	Name          string `json:"name"`
	Measured      string `json:"measured,omitempty"`
	Configuration string `json:"configuration,omitempty"`
	Policy        string `json:"policy,omitempty"`
}

// WindowsModule is an image that Windows loaded before its kernel ran.
type WindowsModule struct {
	Path         string `json:"path,omitempty"`
	Authenticode string `json:"authenticode"` // hex
	Size         uint64 `json:"size,omitempty"`
	Publisher    string `json:"publisher,omitempty"`
	Issuer       string `json:"issuer,omitempty"`
	Serial       string `json:"serial,omitempty"`          // hex
	Thumbprint   string `json:"thumbprint_sha1,omitempty"` // of the signer's certificate, hex
	Validated    *bool  `json:"validated,omitempty"`
}

// The most modules and drivers that the claims list.
const (
	maxModules = 256
	maxELAM    = 16
)

// windowsReader gathers the claims of proven, covered Windows events.
type windowsReader struct {
	claims  Windows
	modules map[string]int // index in claims.Modules by Authenticode hash
	module  *WindowsModule
	elam    *ELAMDriver
	seen    bool
}

// read takes one event.
func (w *windowsReader) read(data []byte) {
	w.seen = true
	walkSIPA(data, w.event)
	w.finish()
}

func (w *windowsReader) event(_ int, id uint32, value []byte) {
	if id&sipaAggregation != 0 {
		w.finish()
		switch id {
		case sipaModuleAggregation:
			w.module = &WindowsModule{}
		case sipaELAMAggregation:
			w.elam = &ELAMDriver{}
		}
		return
	}
	category := id >> 16 & 0xFF
	switch {
	case category == 7 && w.module != nil:
		w.modulePart(id, value)
		return
	case category == 9 && w.elam != nil:
		w.elamPart(id, value)
		return
	}
	w.finish()
	w.setting(id, value)
}

func (w *windowsReader) setting(id uint32, value []byte) {
	c := &w.claims
	switch id {
	case sipaBootDebugging:
		ever(&c.BootDebugging, nonZero(value))
	case sipaKernelDebugging:
		ever(&c.KernelDebugging, nonZero(value))
	case sipaHypervisorDebug:
		ever(&c.HypervisorDebugging, nonZero(value))
	case sipaTestSigning:
		ever(&c.TestSigning, nonZero(value))
	case sipaFlightSigning:
		ever(&c.FlightSigning, nonZero(value))
	case sipaSafeMode:
		ever(&c.SafeMode, nonZero(value))
	case sipaWinPE:
		ever(&c.WinPE, nonZero(value))
	case sipaCodeIntegrity:
		always(&c.CodeIntegrity, nonZero(value))
	case sipaVSMRequired:
		always(&c.VSMRequired, nonZero(value))
	case sipaHVCIPolicy:
		if len(value) <= 16 {
			c.HVCIPolicy = hex.EncodeToString(value)
		}
	case sipaBitLockerUnlock:
		if len(value) == 4 && len(c.BitLockerUnlock) < 64 {
			c.BitLockerUnlock = append(c.BitLockerUnlock, binary.LittleEndian.Uint32(value))
		}
	case sipaBootCounter:
		counter(&c.BootCount, value)
	case sipaEventCounter:
		counter(&c.EventCount, value)
	}
}

// ever keeps whether a switch was on at least once.
func ever(p **bool, on bool) {
	if *p == nil || on {
		*p = &on
	}
}

// always keeps whether a switch was on each time.
func always(p **bool, on bool) {
	if *p == nil || !on {
		*p = &on
	}
}

func counter(p **uint64, value []byte) {
	if len(value) == 8 && *p == nil {
		n := binary.LittleEndian.Uint64(value)
		*p = &n
	}
}

func (w *windowsReader) modulePart(id uint32, value []byte) {
	m := w.module
	switch id {
	case sipaFilePath:
		m.Path = sipaText(value)
	case sipaImageSize:
		if len(value) == 8 {
			m.Size = binary.LittleEndian.Uint64(value)
		}
	case sipaAuthenticode:
		m.Authenticode = shortHex(value)
	case sipaIssuer:
		m.Issuer = sipaText(value)
	case sipaSerial:
		m.Serial = shortHex(value)
	case sipaPublisher:
		m.Publisher = sipaText(value)
	case sipaSHA1Thumbprint:
		m.Thumbprint = shortHex(value)
	case sipaImageValidated:
		valid := nonZero(value)
		m.Validated = &valid
	}
}

func (w *windowsReader) elamPart(id uint32, value []byte) {
	switch id {
	case sipaELAMKeyName:
		w.elam.Name = sipaText(value)
	case sipaELAMConfig:
		w.elam.Configuration = shortHex(value)
	case sipaELAMPolicy:
		w.elam.Policy = shortHex(value)
	case sipaELAMMeasured:
		w.elam.Measured = shortHex(value)
	}
}

func sipaText(value []byte) string { return printable(utf16String(value[:min(len(value), 2*maxText)])) }

// shortHex is the hex of a value of at most 64 bytes; of a longer one only its length is told.
func shortHex(value []byte) string {
	if len(value) > 64 {
		return fmt.Sprintf("(%d bytes)", len(value))
	}
	return hex.EncodeToString(value)
}

// finish files the module or driver that was being read. The boot manager measures each module twice:
// its hash in PCR 12, and all of it in PCR 13.
func (w *windowsReader) finish() {
	if m := w.module; m != nil && m.Authenticode != "" {
		if i, known := w.modules[m.Authenticode]; !known {
			if len(w.claims.Modules) == maxModules {
				w.claims.ModulesOmitted++
			} else {
				w.modules[m.Authenticode] = len(w.claims.Modules)
				w.claims.Modules = append(w.claims.Modules, *m)
			}
		} else if w.claims.Modules[i].Path == "" && m.Path != "" {
			w.claims.Modules[i] = *m
		}
	}
	if w.elam != nil && len(w.claims.ELAM) < maxELAM {
		w.claims.ELAM = append(w.claims.ELAM, *w.elam)
	}
	w.module, w.elam = nil, nil
}
