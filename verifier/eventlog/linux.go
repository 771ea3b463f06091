package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"
)

// The prefixes of what GRUB writes in PCR 8 (GRUB manual, "Measured Boot"); the two without a colon are
// of Red Hat's GRUB before 2.04.
var grubPrefixes = []struct {
	text          string
	kernelCmdline bool
}{
	{"grub_cmd: ", false}, {"kernel_cmdline: ", true}, {"module_cmdline: ", false},
	{"grub_cmd ", false}, {"grub_kernel_cmdline ", true},
}

// grubText is a command or command line that GRUB measured. GRUB hashes the text after the prefix;
// older versions its final zero too, and some log a stray byte after it.
type grubText struct {
	prefix        string
	kernelCmdline bool
	line          []byte // up to the first zero
	zero          []byte // the same with that zero; nil if there is none
}

func parseGRUB(data []byte) (g grubText, ok bool) {
	if len(data) < 4 || (data[0] != 'g' && data[0] != 'k' && data[0] != 'm') {
		return g, false
	}
	for _, p := range grubPrefixes {
		rest, found := bytes.CutPrefix(data, []byte(p.text))
		if !found {
			continue
		}
		g = grubText{prefix: p.text, kernelCmdline: p.kernelCmdline}
		var zero bool
		if g.line, _, zero = bytes.Cut(rest, []byte{0}); zero {
			g.zero = rest[:len(g.line)+1]
		}
		return g, true
	}
	return g, false
}

// grub describes a command of GRUB.
func (d *decoder) grub(e *Event) (meaning, bool) {
	g, ok := parseGRUB(e.Data)
	if !ok {
		return meaning{}, false
	}
	e.Covered = covers(e.Digests, g.line) || g.zero != nil && covers(e.Digests, g.zero)
	d.mustCover = true
	line := printable(string(g.line[:min(len(g.line), maxText+1)]))
	switch {
	case g.kernelCmdline:
		return meaning{component: ComponentKernelCmdline, key: "cmdline", description: "kernel command line: " + line}, true
	case strings.HasPrefix(g.prefix, "module"):
		return meaning{component: ComponentKernelCmdline, key: "module_cmdline", description: "module command line: " + line}, true
	}
	return meaning{component: ComponentBootConfig, key: "grub_cmd:" + d.command(g.line), description: "GRUB command: " + line}, true
}

// command remembers which files a command of GRUB names, and says what the command is about.
func (d *decoder) command(line []byte) string {
	words := strings.Fields(string(line[:min(len(line), maxText)]))
	if len(words) == 0 {
		return ""
	}
	name := printable(words[0])
	switch words[0] {
	case "linux", "linuxefi", "linux16":
		if len(words) > 1 {
			d.kernelPath = words[1]
		}
	case "initrd", "initrdefi", "initrd16":
		d.initrds = words[1:]
	case "set", "export":
		if len(words) > 1 {
			variable, _, _ := strings.Cut(words[1], "=")
			name += ":" + printable(variable)
		}
	case "menuentry", "submenu":
		title, _, _ := strings.Cut(strings.Join(words[1:], " "), " --")
		name += ":" + printable(title)
	}
	return name
}

// grubFile describes a file that GRUB read: the digest is of its contents, the path is unproven.
func (d *decoder) grubFile(name string) meaning {
	base := path.Base(name)
	switch {
	case name == d.kernelPath && name != "", hasAnyPrefix(base, "vmlinuz", "bzImage", "kernel"), name == "grub_linuxefi Kernel":
		return meaning{component: ComponentKernel, key: "kernel", description: "kernel " + name + " (digest of the file)"}
	case slices.Contains(d.initrds, name), hasAnyPrefix(base, "initrd", "initramfs"), name == "grub_linuxefi Initrd":
		return meaning{component: ComponentInitrd, key: "initrd", description: "initrd " + name + " (digest of the file)"}
	}
	return meaning{component: ComponentBootConfig, key: "file:" + name, description: "file " + name + " read by GRUB (digest of the file)"}
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// utf16Covered tells whether the digests cover a text in UTF-16, with or without a final zero. An old
// systemd-boot logged one byte less than it hashed.
func utf16Covered(e *Event) bool {
	if e.Covered {
		return true
	}
	padded := append(append(make([]byte, 0, len(e.Data)+2), e.Data...), 0, 0)
	return coversAny(e.Digests, padded[:len(e.Data)+1], padded)
}

// utf16CommandLine describes a command line that systemd-boot or systemd-stub measured (PCR 12; PCR 8
// before version 251).
func (d *decoder) utf16CommandLine(e *Event) (meaning, bool) {
	if !d.in(e, 8) && !d.in(e, 12) {
		return meaning{}, false
	}
	s, ok := utf16Text(e.Data)
	if !ok || !utf16Covered(e) {
		d.mustCover = e.Type == EvIPL && !d.registers // RTMR 2 has files too
		return meaning{}, false
	}
	e.Covered = true
	return meaning{component: ComponentKernelCmdline, key: "cmdline", description: "kernel command line: " + printable(s)}, true
}

// sectionName reads the name of a UKI section that systemd-stub measured: logged in UTF-16, hashed in
// ASCII with a final zero.
func sectionName(e *Event) (name string, ok bool) {
	if len(e.Data) < 4 || e.Data[0] != '.' {
		return "", false
	}
	s, ok := utf16Text(e.Data)
	if !ok || !covers(e.Digests, append([]byte(s), 0)) {
		return "", false
	}
	return s, true
}

// section describes a UKI section (systemd-stub(7)): for each, its name and then its contents.
func (d *decoder) section(e *Event) (meaning, bool) {
	if !d.in(e, 11) {
		return meaning{}, false
	}
	if s, ok := sectionName(e); ok {
		e.Covered, d.stubName = true, s
		return meaning{component: ComponentUKISection, key: "section-name:" + printable(s), description: "unified kernel image has a section " + printable(s)}, true
	}
	s, ok := utf16Text(e.Data)
	if !ok || d.stubName == "" || s != d.stubName {
		d.mustCover = e.Type == EvIPL && !d.registers // it stands where a name must stand
		return meaning{}, false
	}
	d.stubName = ""
	return meaning{component: ComponentUKISection, key: "section:" + printable(s), description: "unified kernel image section " + printable(s) + " (digest of its contents)"}, true
}

// The tags of EV_EVENT_TAG: Linux (drivers/firmware/efi/libstub/efistub.h) and systemd
// (src/fundamental/tpm2-pcr.h).
const (
	tagInitrd      = 0x8F3B22EC
	tagLoadOptions = 0x8F3B22ED
	tagAAEL        = 0x4141454C
)

var tags = map[uint32]meaning{
	tagInitrd:      {component: ComponentInitrd, key: "efistub:initrd", description: "initrd that the kernel's EFI stub loaded (digest of its contents)"},
	tagLoadOptions: {component: ComponentKernelCmdline, key: "efistub:load_options", description: "command line that the kernel's EFI stub was given (digest of it)"},
	0xF5BC582A:     {component: ComponentBootConfig, key: "loader.conf", description: "systemd-boot configuration (digest of it)"},
	0x6C46F751:     {component: ComponentUKISection, key: "addon:devicetree", description: "device tree of an addon (digest of it)"},
	0x49DFFE0F:     {component: ComponentInitrd, key: "addon:initrd", description: "initrd of an addon (digest of it)"},
	0xDAC08E1A:     {component: ComponentUKISection, key: "addon:microcode", description: "microcode of an addon (digest of it)"},
	0x13AED6DB:     {component: ComponentUKISection, key: "uki:profile", description: "profile of the unified kernel image (digest of it)"},
}

// parseTag reads a TCG_PCClientTaggedEvent: tag 4, size 4, data.
func parseTag(data []byte) (tag uint32, value []byte, ok bool) {
	if len(data) < 8 {
		return 0, nil, false
	}
	size := binary.LittleEndian.Uint32(data[4:])
	if uint64(size) > uint64(len(data)-8) {
		return 0, nil, false
	}
	return binary.LittleEndian.Uint32(data), data[8 : 8+size], true
}

// tagged describes an event with a tag that is known.
func (d *decoder) tagged(e *Event) (meaning, bool) {
	tag, value, ok := parseTag(e.Data)
	m, known := tags[tag]
	if !ok || !known {
		d.mustCover = d.mustCover || e.Type == EvEventTag && e.PCR >= 12 && !d.registers // Windows
		return meaning{}, false
	}
	if !e.Covered {
		e.Covered = covers(e.Digests, value)
	}
	if name := text(value); name != "" && tag != tagInitrd && tag != tagLoadOptions {
		m.description += ": " + name
	}
	return m, true
}

// shimState describes what shim writes in PCR 14 (shim, mok.c): the text is only the name of the
// variable, the digest is of its contents.
func shimState(name string) (meaning, bool) {
	m := meaning{component: ComponentMOK, key: "mok:" + name}
	switch name {
	case "MokList":
		m.description = "machine owner keys (digest of MokList)"
	case "MokListX":
		m.description = "machine owner's forbidden keys (digest of MokListX)"
	case "MokListTrusted":
		m.description = "whether the kernel trusts the machine owner keys (digest of MokListTrusted)"
	case "MokSBState":
		m.component, m.description = ComponentShim, "whether shim validates signatures (digest of MokSBState)"
	case "MokDBState", "MokPolicy", "HSIStatus", "SbatLevel", "MokPWStore":
		m.component, m.description = ComponentShim, "shim's variable "+name+" (digest of it)"
	default:
		return meaning{}, false
	}
	return m, true
}

// fileName reads the name that GRUB logs for a file: text, after whose final zero some versions log a stray byte.
func fileName(data []byte) string {
	if len(data) > 2 && !isText(data) && data[len(data)-2] == 0 {
		data = data[:len(data)-2]
	}
	if !isText(data) {
		return ""
	}
	return printable(string(data))
}

// unknownTag describes a tagged event that nothing is known of but its text. Attestation agents extend RTMR 3 with
// such events (AAEL, the attestation agent's event log of Confidential Containers).
func (d *decoder) unknownTag(e *Event, tag uint32, value []byte) meaning {
	if tag == tagAAEL && d.registers && isText(value) {
		if !e.Covered {
			e.Covered = covers(e.Digests, value)
		}
		domain, rest, _ := strings.Cut(printable(string(value)), " ")
		operation, _, _ := strings.Cut(rest, " ")
		return meaning{component: ComponentUnknown, key: "aael:" + domain + " " + operation, description: "attestation agent: " + printable(string(value))}
	}
	return named(d.componentOf(e.PCR), fmt.Sprintf("tag:%08x", tag), fmt.Sprintf("tagged event 0x%08x", tag), value)
}

// ipl describes an EV_IPL whose data did not explain itself.
func (d *decoder) ipl(e *Event) meaning {
	if name := fileName(e.Data); name != "" {
		if m, ok := shimState(name); ok {
			return m
		}
		// CC event logs keep GRUB's files in register 3, which is RTMR 2.
		if d.in(e, 9) || e.PCR == 3 && !d.registers || strings.HasPrefix(name, "grub_linuxefi") {
			return d.grubFile(name)
		}
	}
	m := meaning{component: ComponentBootLoader, key: "ipl"}
	switch {
	case d.registers:
		m.component = registerComponent(e.PCR)
	case e.PCR == 11:
		m.component = ComponentUKISection
	case e.PCR == 12 || e.PCR == 13 || e.PCR == 5 || e.PCR == 8:
		m.component = ComponentBootConfig
	}
	if s := text(e.Data); s != "" {
		m.key, m.description = "ipl:"+s, "boot loader measured "+s
	} else {
		m.description = fmt.Sprintf("boot loader measured %s of unknown data", plural(len(e.Data), "byte"))
	}
	return m
}
