package eventlog

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// The vendor GUIDs of variables that decide a boot, as they stand in a log.
var (
	guidGlobal   = [16]byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c} // EFI_GLOBAL_VARIABLE
	guidSecurity = [16]byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f} // EFI_IMAGE_SECURITY_DATABASE
	guidShim     = [16]byte{0x50, 0xab, 0x5d, 0x60, 0x46, 0xe0, 0x00, 0x43, 0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23} // shim's SHIM_LOCK
)

// variable is a UEFI_VARIABLE_DATA (PFP 1.06, section 10.2.6). The slices alias the log.
type variable struct {
	vendor [16]byte
	name   []byte // UTF-16LE, without a final zero
	value  []byte
	extra  int // bytes after the structure; an old shim wrote a few too many
}

// maxVariableName is the most UTF-16 units that a name may have; longer ones are no variables.
const maxVariableName = 512

// parseVariable reads a UEFI_VARIABLE_DATA: GUID, length of the name in UTF-16 units, length of the
// value in bytes, name, value.
func parseVariable(data []byte) (v variable, ok bool) {
	if len(data) < 34 {
		return v, false
	}
	nameUnits := binary.LittleEndian.Uint64(data[16:])
	valueSize := binary.LittleEndian.Uint64(data[24:])
	if nameUnits == 0 || nameUnits > maxVariableName || 32+2*nameUnits > uint64(len(data)) {
		return v, false
	}
	rest := data[32+2*nameUnits:]
	if valueSize > uint64(len(rest)) || uint64(len(rest))-valueSize > 8 {
		return v, false
	}
	copy(v.vendor[:], data)
	v.name = data[32 : 32+2*nameUnits]
	v.value = rest[:valueSize:valueSize]
	v.extra = len(rest) - int(valueSize) // #nosec G115 -- at most 8
	for i := 0; i < len(v.name); i += 2 {
		if c := v.name[i]; c < 0x20 || c > 0x7E || v.name[i+1] != 0 {
			return variable{}, false
		}
	}
	return v, true
}

// is tells whether the variable has this vendor and name.
func (v *variable) is(vendor [16]byte, name string) bool {
	if v.vendor != vendor || len(v.name) != 2*len(name) {
		return false
	}
	for i := range len(name) {
		if v.name[2*i] != name[i] {
			return false
		}
	}
	return true
}

// variableData serialises a UEFI_VARIABLE_DATA.
func variableData(vendor [16]byte, name string, value []byte) []byte {
	out := append([]byte{}, vendor[:]...)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(name)))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(value)))
	return append(append(out, utf16Bytes(name)...), value...)
}

// covered tells whether the digests cover the whole structure, name included.
func (v *variable) covered(e *Event) bool {
	if e.Covered {
		return true
	}
	// shim before 15.4 logged bytes after the structure and left the last one out of the digest.
	return v.extra > 0 && covers(e.Digests, e.Data[:len(e.Data)-1])
}

func isVariableType(t EventType) bool {
	switch t {
	case EvEFIVariableDriverConfig, EvEFIVariableBoot, EvEFIVariableBoot2, EvEFIVariableAuthority:
		return true
	}
	return false
}

// bootVariable tells whether the name is BootOrder or Boot####.
func bootVariable(name string) bool {
	if name == "BootOrder" || name == "BootNext" {
		return true
	}
	if len(name) != 8 || !strings.HasPrefix(name, "Boot") {
		return false
	}
	for _, c := range name[4:] {
		if !strings.ContainsRune("0123456789ABCDEFabcdef", c) {
			return false
		}
	}
	return true
}

// variable describes a UEFI variable.
func (d *decoder) variable(e *Event, v variable) meaning {
	name := utf16String(v.name)
	m := meaning{component: ComponentPlatformConfig, key: "variable:" + name}
	whole := v.covered(e)
	if !whole && (d.registers && v.vendor == guidGlobal && bootVariable(name) || !d.registers && e.PCR != 7) {
		// EV_EFI_VARIABLE_BOOT covers the value only (PFP 1.06, section 10.4.1): the name is unproven.
		whole = covers(e.Digests, v.value)
	}
	e.Covered = whole
	d.mustCover = d.in(e, 7) || bootVariable(name) || isVariableType(e.Type)
	switch {
	case v.vendor == guidShim:
		d.shimVariable(&m, name, v.value)
	case v.vendor == guidSecurity || v.vendor == guidGlobal && secureBootVariables[name]:
		secureBootMeaning(&m, name, v.value)
	case bootVariable(name):
		bootMeaning(&m, name, v.value)
		// The name may be unproven, so that the value itself must be what it is called.
		m.machineSpecific = m.machineSpecific && v.vendor == guidGlobal
	default:
		m.description = fmt.Sprintf("UEFI variable %s (%s), %s", printable(name), guid(v.vendor[:]), plural(len(v.value), "byte"))
	}
	return m
}

var secureBootVariables = map[string]bool{
	"SecureBoot": true, "SetupMode": true, "AuditMode": true, "DeployedMode": true,
	"PK": true, "KEK": true, "VendorKeys": true, "OsRecoveryOrder": true,
}

var databaseNames = map[string]string{
	"PK": "Secure Boot platform key PK", "KEK": "Secure Boot key exchange keys KEK",
	"db": "Secure Boot signature database db", "dbx": "Secure Boot revocation database dbx",
	"dbt": "Secure Boot timestamp database dbt", "dbr": "Secure Boot recovery database dbr",
}

// secureBootMeaning describes the variables of Secure Boot (UEFI 2.10, section 32.4 and 3.3).
func secureBootMeaning(m *meaning, name string, value []byte) {
	m.component = ComponentSecureBoot
	if what := databaseNames[name]; what != "" {
		if signatures, ok := summarise(value); ok {
			m.description = what + ": " + signatures
			return
		}
		m.component, m.key = ComponentAuthority, "authority:"+name
		m.description = "what was booted is verified by " + name + ": " + authority(value).describe()
		return
	}
	switch name {
	case "SecureBoot":
		m.description = "Secure Boot: " + onOff(value)
	case "SetupMode":
		m.description = "Secure Boot setup mode: " + onOff(value)
	case "AuditMode":
		m.description = "Secure Boot audit mode: " + onOff(value)
	case "DeployedMode":
		m.description = "Secure Boot deployed mode: " + onOff(value)
	default:
		m.description = fmt.Sprintf("Secure Boot variable %s, %s", printable(name), plural(len(value), "byte"))
	}
}

// flag reads a one-byte switch; a value of no bytes is off, as firmware without Secure Boot says.
func flag(value []byte) (on, ok bool) {
	switch {
	case len(value) == 0:
		return false, true
	case len(value) == 1 && value[0] <= 1:
		return value[0] == 1, true
	}
	return false, false
}

func onOff(value []byte) string {
	on, ok := flag(value)
	switch {
	case !ok:
		return fmt.Sprintf("unknown (% x)", value[:min(len(value), 8)])
	case on:
		return "on"
	}
	return "off"
}

// shimVariable describes what shim measures of its own variables (shim, mok.c and sbat.c).
func (d *decoder) shimVariable(m *meaning, name string, value []byte) {
	m.component = ComponentShim
	switch name {
	case "SbatLevel":
		m.description = "shim SBAT revocation level: " + printable(strings.ReplaceAll(strings.TrimSpace(string(value)), "\n", "; "))
	case "MokSBState", "MokSBStateRT":
		m.description = "shim signature validation: enabled"
		if on, ok := flag(value); !ok || on {
			m.description = "shim signature validation: DISABLED (MokSBState)"
		}
	case "MokDBState", "MokIgnoreDB":
		m.description = "shim ignores the firmware's db: " + onOff(value)
	case "MokListTrusted":
		m.description = "kernel trusts the machine owner keys (MokListTrusted): " + onOff(value)
	default:
		m.component, m.key = ComponentAuthority, "authority:"+name
		m.description = fmt.Sprintf("what was booted is verified by shim (%s): %s", printable(name), authority(value).describe())
	}
}
