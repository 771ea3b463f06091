package eventlog

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// loadOption is an EFI_LOAD_OPTION, the value of Boot#### (UEFI 2.10, section 3.1.3).
type loadOption struct {
	active      bool
	description string
	path        []byte // device path list
	options     []byte
}

func parseLoadOption(b []byte) (o loadOption, ok bool) {
	if len(b) < 8 {
		return o, false
	}
	o.active = b[0]&1 != 0
	size := int(binary.LittleEndian.Uint16(b[4:]))
	name, rest, ok := utf16Prefix(b[6:])
	if !ok || size > len(rest) {
		return o, false
	}
	o.description, o.path, o.options = printable(name), rest[:size], rest[size:]
	return o, true
}

// bootOrder reads the value of BootOrder: 16-bit numbers of boot options.
func bootOrder(value []byte) []string {
	var out []string
	for ; len(value) >= 2 && len(out) < maxBootOptions; value = value[2:] {
		out = append(out, fmt.Sprintf("Boot%04X", binary.LittleEndian.Uint16(value)))
	}
	return out
}

// isBootOrder tells whether value is a list of boot options, each once: what any other data hardly is.
func isBootOrder(value []byte) bool {
	if len(value) == 0 || len(value)%2 != 0 || len(value) > 2*maxBootOptions {
		return false
	}
	seen := make(map[uint16]bool, len(value)/2)
	for i := 0; i < len(value); i += 2 {
		n := binary.LittleEndian.Uint16(value[i:])
		if seen[n] {
			return false
		}
		seen[n] = true
	}
	return true
}

// maxBootOptions is the most boot options that a claim or description lists.
const maxBootOptions = 128

func bootMeaning(m *meaning, name string, value []byte) {
	m.component = ComponentBootOrder
	if name == "BootOrder" || name == "BootNext" {
		m.machineSpecific = isBootOrder(value)
		m.description = printable("boot order: " + strings.Join(bootOrder(value), ", "))
		return
	}
	o, ok := parseLoadOption(value)
	if !ok {
		m.description = fmt.Sprintf("boot option %s, %s", name, plural(len(value), "byte"))
		return
	}
	m.machineSpecific = true
	m.description = fmt.Sprintf("boot option %s: %q", name, o.description)
	if path := devicePath(o.path); path != "" {
		m.description = printable(m.description + ", " + path)
	}
}
