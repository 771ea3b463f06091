package eventlog

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
)

// Windows is what the Windows boot manager and loader measured in PCR 11 to 14. A switch that was not
// measured is nil.
type Windows struct {
	BootDebugging       *bool `json:"boot_debugging"`
	KernelDebugging     *bool `json:"kernel_debugging"`
	HypervisorDebugging *bool `json:"hypervisor_debugging"`
	TestSigning         *bool `json:"test_signing"`
	FlightSigning       *bool `json:"flight_signing"`
	CodeIntegrity       *bool `json:"code_integrity"` // on each time it was measured
	SafeMode            *bool `json:"safe_mode"`
	WinPE               *bool `json:"win_pe"`
	VSMRequired         *bool `json:"vsm_required"`
	// DataExecutionPrevention is the loader's policy: opt_in and opt_out (the defaults of clients and servers),
	// always_off or always_on. HypervisorLaunch and VSMLaunch say whether the hypervisor and, in it, virtualization-based
	// security were to be started: off or auto. DriverLoadPolicy says which of the drivers that ELAM has classed
	// are started: good, good_unknown, good_unknown_critical or all. OSDevice is what Windows was loaded from: partition,
	// hard_disk, removable_disk, cdrom, file, ram_disk, virtual_hard_disk, serial or network. A value that is not among
	// these is written as its number. Of several values that were measured, it is one that weakens, if any does.
	DataExecutionPrevention *string `json:"data_execution_prevention"`
	HypervisorLaunch        *string `json:"hypervisor_launch"`
	VSMLaunch               *string `json:"vsm_launch"`
	DriverLoadPolicy        *string `json:"driver_load_policy"`
	OSDevice                *string `json:"os_device"`
	// Complete says that all that Windows measured in PCR 12 and 13 before its separators is covered by its digests, so
	// that what is not among the claims was not measured.
	Complete        bool     `json:"complete"`
	HVCIPolicy      string   `json:"hvci_policy,omitempty"` // hex
	BitLockerUnlock []uint32 `json:"bitlocker_unlock"`      // FVEB_UNLOCK_FLAG of each unlocked volume
	// BootCount and EventCount are monotonic counters of this machine.
	BootCount  *uint64         `json:"boot_count"`
	EventCount *uint64         `json:"event_count"`
	ELAM       []ELAMDriver    `json:"elam"`
	Modules    []WindowsModule `json:"modules"`
	// ModulesOmitted is the number of modules beyond those listed.
	ModulesOmitted int `json:"modules_omitted,omitempty"`
}

// Values of the claims that weaken Windows.
const (
	DEPAlwaysOff    = "always_off"
	LaunchOff       = "off"
	AllDrivers      = "all"
	DeviceRemovable = "removable_disk"
	DeviceCDROM     = "cdrom"
	DeviceRAMDisk   = "ram_disk"
	DeviceNetwork   = "network"
)

// The meaning of numbers: BcdOSLoader_NxPolicy and the launch types of BCD's elements 0x250000F0 and 0x25000142
// (Microsoft, Boot Configuration Data reference), the registry's EarlyLaunch\DriverLoadPolicy (EarlyLaunchAM.admx) and
// OSDEVICE_TYPE of wbcl.h.
var (
	dataExecution = map[uint64]string{0: "opt_in", 1: "opt_out", 2: DEPAlwaysOff, 3: "always_on"}
	launchTypes   = map[uint64]string{0: LaunchOff, 1: "auto"}
	driverPolicy  = map[uint64]string{8: "good", 1: "good_unknown", 3: "good_unknown_critical", 7: AllDrivers}
	osDevices     = map[uint64]string{
		0x10001: "hard_disk", 0x10002: DeviceRemovable, 0x10003: DeviceCDROM, 0x10004: "partition", 0x10005: "file",
		0x10006: DeviceRAMDisk, 0x10007: "virtual_hard_disk", 0x20000: "serial", 0x30000: DeviceNetwork,
	}
	weakWindows = map[string]bool{DEPAlwaysOff: true, LaunchOff: true, AllDrivers: true, DeviceRemovable: true, DeviceCDROM: true, DeviceRAMDisk: true, DeviceNetwork: true}
)

// sipaNumber reads a number of 4 or 8 bytes.
func sipaNumber(value []byte) (n uint64, ok bool) {
	switch len(value) {
	case 4:
		return uint64(binary.LittleEndian.Uint32(value)), true
	case 8:
		return binary.LittleEndian.Uint64(value), true
	}
	return 0, false
}

// word keeps what a number means; a value that weakens is not replaced.
func word(p **string, value []byte, meaning map[uint64]string) {
	n, ok := sipaNumber(value)
	if !ok || *p != nil && weakWindows[**p] {
		return
	}
	text, known := meaning[n]
	if !known {
		text = strconv.FormatUint(n, 10)
	}
	*p = &text
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
	case sipaDEP:
		word(&c.DataExecutionPrevention, value, dataExecution)
	case sipaHypervisor:
		word(&c.HypervisorLaunch, value, launchTypes)
	case sipaVSMLaunch:
		word(&c.VSMLaunch, value, launchTypes)
	case sipaDriverPolicy:
		word(&c.DriverLoadPolicy, value, driverPolicy)
	case sipaOSDevice:
		word(&c.OSDevice, value, osDevices)
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
