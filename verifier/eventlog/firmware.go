package eventlog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// noAction describes a record that extends nothing (PFP 1.06, section 10.4.5).
func noAction(e *Event) meaning {
	m := meaning{component: ComponentFirmware, key: "no_action"}
	switch {
	case bytes.HasPrefix(e.Data, specIDSignature):
		m.key, m.description = "spec_id", "header of a crypto-agile log"
	case bytes.HasPrefix(e.Data, []byte("Spec ID Event")):
		m.key, m.description = "spec_id", "header of a TCG 1.2 log"
	case bytes.HasPrefix(e.Data, startupLocality) && len(e.Data) > len(startupLocality):
		m.key = "startup_locality"
		m.description = fmt.Sprintf("the TPM was started from locality %d", e.Data[len(startupLocality)])
	case bytes.HasPrefix(e.Data, []byte("SP800-155 Event")):
		m.key, m.description = "sp800_155", "where the manufacturer's reference values are (SP 800-155)"
	case bytes.HasPrefix(e.Data, []byte("H-CRTM")), bytes.HasPrefix(e.Data, []byte("HCRTM")):
		m.key, m.description = "hcrtm", "H-CRTM information"
	case e.PCR == 0 && isSIPA(e.Data):
		m.component, m.key, m.description = ComponentWindows, "windows:trust_point", "Windows trust point: quote of the boot by Windows itself (not used)"
	default:
		m.description = "information that is not measured"
		if s := text(e.Data); s != "" {
			m.description += ": " + s
		}
	}
	return m
}

// byType describes data that does not explain itself, by the type that the log states. Most of it is
// not covered: what is proven is the digest, what is described is what the log says of it.
func (d *decoder) byType(e *Event) meaning {
	if m, ok := d.section(e); ok {
		return m
	}
	if e.Covered && (e.PCR >= 11 && e.PCR <= 14 || d.in(e, 11)) && isSIPA(e.Data) {
		return d.windows(e)
	}
	d.mustCover = d.mustCover || isVariableType(e.Type)
	switch e.Type {
	case EvEFIBootServicesApplication, EvEFIBootServicesDriver, EvEFIRuntimeServicesDriver:
		return d.image(e)
	case EvIPL:
		return d.ipl(e)
	case EvAction, EvEFIAction:
		d.mustCover = e.Type == EvEFIAction
		return meaning{component: ComponentAction, key: "action:" + text(e.Data), description: action(text(e.Data))}
	case EvSCRTMVersion:
		// Where Boot Guard measured first, some firmware (Dell's) hashes something else.
		d.mustCover = !d.contents
		return meaning{component: ComponentFirmware, key: "crtm_version", description: "firmware version " + versionText(e.Data)}
	case EvSCRTMContents:
		d.contents = true
		return named(ComponentFirmware, "crtm_contents", "root of trust code", e.Data)
	case EvEFIHCRTMEvent:
		return meaning{component: ComponentFirmware, key: "hcrtm", description: "root of trust code, measured by the hardware (H-CRTM)"}
	case EvPostCode, EvPostCode2:
		return postCode(e.Data)
	case EvEFIPlatformFirmwareBlob:
		return firmwareBlob(e.Data)
	case EvEFIPlatformFirmwareBlob2:
		return d.firmwareBlob2(e)
	case EvCPUMicrocode:
		return named(ComponentFirmware, "microcode", "CPU microcode", e.Data)
	case EvPlatformConfigFlags:
		return platformConfig(e.Data)
	case EvTableOfDevices:
		return named(ComponentPlatformConfig, "table_of_devices", "table of devices", e.Data)
	case EvEFIHandoffTables, EvEFIHandoffTables2:
		return d.handoff(e)
	case EvNonhostCode, EvNonhostConfig, EvNonhostInfo:
		return named(ComponentPlatformConfig, "nonhost", "platform code or settings outside the host CPU", e.Data)
	case EvOmitBootDeviceEvents:
		return meaning{component: ComponentAction, key: "omit_boot_device_events", description: "boot device events are omitted"}
	case EvIPLPartitionData:
		return meaning{component: ComponentPartitionTable, key: "ipl_partition_data", description: "partition table of the boot disk (legacy boot)"}
	case EvCompactHash:
		d.mustCover = e.PCR == 11
		return compactHash(e, d.componentOf(e.PCR))
	case EvEFIGPTEvent:
		d.mustCover = true
		return meaning{component: ComponentPartitionTable, key: "gpt", description: "GUID partition table (malformed)"}
	case EvEFIVariableDriverConfig, EvEFIVariableBoot, EvEFIVariableBoot2, EvEFIVariableAuthority:
		return named(d.componentOf(e.PCR), "variable", "UEFI variable (malformed)", e.Data)
	case EvEFISPDMFirmwareBlob, EvEFISPDMFirmwareConfig:
		return named(ComponentOptionROM, "spdm", "device firmware or its configuration (SPDM)", nil)
	case EvEFISPDMDevicePolicy, EvEFISPDMDeviceAuthority:
		return named(ComponentSecureBoot, "spdm_policy", "device authentication policy or authority (SPDM)", nil)
	case EvEventTag:
		if string(e.Data) == "LOADED_IMAGE::LoadOptions\x00" {
			return tags[tagLoadOptions] // an early EFI stub for CC measurement logged no tag
		}
		if tag, value, ok := parseTag(e.Data); ok {
			return d.unknownTag(e, tag, value)
		}
	}
	return named(d.componentOf(e.PCR), "type:"+strings.ToLower(e.Type.String()), "event of type "+e.Type.String(), e.Data)
}

// componentOf is what a PCR holds (PFP 1.06, section 3.3.4), or an RTMR.
func (d *decoder) componentOf(pcr int) Component {
	if d.registers {
		return registerComponent(pcr)
	}
	switch pcr {
	case 0:
		return ComponentFirmware
	case 1, 3, 6:
		return ComponentPlatformConfig
	case 2:
		return ComponentOptionROM
	case 4:
		return ComponentBootLoader
	case 5, 8, 12:
		return ComponentBootConfig
	case 7:
		return ComponentSecureBoot
	case 10:
		return ComponentIMA
	case 11:
		return ComponentUKISection
	case 14:
		return ComponentMOK
	}
	return ComponentUnknown
}

// named describes data by what it is and by the text in it, if there is any.
func named(component Component, key, what string, data []byte) meaning {
	m := meaning{component: component, key: key, description: what}
	if s := leadingText(data); s != "" {
		m.key, m.description = key+":"+s, what+": "+s
	}
	return m
}

// leadingText is the text that data consists of, or starts with before a zero.
func leadingText(data []byte) string {
	if s := text(data); s != "" {
		return s
	}
	if i := bytes.IndexByte(data, 0); i >= 4 && i <= 64 && isText(data[:i]) {
		return printable(string(data[:i]))
	}
	return ""
}

// versionText reads the data of EV_S_CRTM_VERSION: text in UTF-16 or ASCII, or a GUID.
func versionText(data []byte) string {
	if s := text(data); s != "" {
		return s
	}
	switch {
	case len(bytes.Trim(data, "\x00")) == 0:
		return "(none given)"
	case len(data) == 16:
		return guid(data)
	}
	return fmt.Sprintf("(%s)", plural(len(data), "byte"))
}

// action puts the strings of EV_EFI_ACTION (PFP 1.06, section 10.4.4) in plain words where they need it.
func action(s string) string {
	switch s {
	case "Calling EFI Application from Boot Option":
		return "firmware starts a boot option"
	case "Returning from EFI Application from Boot Option":
		return "a boot option returned to firmware"
	case "Exit Boot Services Invocation":
		return "the operating system takes over from firmware"
	case "Exit Boot Services Returned with Success":
		return "the operating system took over from firmware"
	case "Exit Boot Services Returned with Failure":
		return "the operating system failed to take over from firmware"
	case "UEFI Debug Mode":
		return "a firmware debugger is enabled"
	case "DMA Protection Disabled":
		return "firmware does not protect memory against DMA"
	}
	return "action: " + s
}

func postCode(data []byte) meaning {
	m := meaning{component: ComponentFirmware, key: "post_code", description: "firmware code"}
	switch {
	case len(data) == 16 && !isText(data):
		m = firmwareBlob(data)
	case len(data) > 1 && int(data[0]) < len(data) && isText(data[1:1+int(data[0])]):
		return new(decoder).firmwareBlob2(&Event{Data: data})
	default:
		if s := text(data); s != "" {
			m.key, m.description = "post_code:"+s, "firmware code: "+s
			if s == "ACPI DATA" {
				m.component, m.description = ComponentPlatformConfig, "ACPI tables"
			}
		}
	}
	return m
}

// firmwareBlob reads a UEFI_PLATFORM_FIRMWARE_BLOB: base address 8, length 8 (PFP 1.06, section 10.2.4).
func firmwareBlob(data []byte) meaning {
	m := meaning{component: ComponentFirmware, key: "firmware_volume", description: "firmware volume"}
	if len(data) == 16 {
		base, size := binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint64(data[8:])
		m.key = fmt.Sprintf("firmware_volume:0x%x", base)
		m.description = fmt.Sprintf("firmware volume at 0x%x, %d bytes", base, size)
	}
	return m
}

// firmwareBlob2 reads a UEFI_PLATFORM_FIRMWARE_BLOB2: length of the description 1, description, base
// address 8, length 8 (PFP 1.06, section 10.2.5).
func (d *decoder) firmwareBlob2(e *Event) meaning {
	data := e.Data
	if len(data) < 1 || 1+int(data[0]) > len(data) {
		return meaning{component: ComponentFirmware, key: "firmware_blob", description: "firmware code"}
	}
	what := "firmware code"
	if d.in(e, 1) && d.registers {
		what = "firmware configuration that the launch did not measure" // TDVF's CFV; its code is in MRTD
	}
	return named(ComponentFirmware, "firmware_blob", what, data[1:1+int(data[0])])
}

// The configuration tables that handoff events name (UEFI 2.10, section 4.6).
var tableNames = map[string]string{
	"eb9d2d31-2d88-11d3-9a16-0090273fc14d": "SMBIOS",
	"f2fd1544-9794-4a2c-992e-e5bbcf20e394": "SMBIOS3",
	"8868e871-e4f1-11d3-bc22-0080c73c8881": "ACPI 2.0",
	"eb9d2d30-2d88-11d3-9a16-0090273fc14d": "ACPI 1.0",
}

// handoff reads a UEFI_HANDOFF_TABLE_POINTERS or ..2: (length of the description 1, description,)
// number of tables 8, and for each a GUID and an address. The tables themselves are not in the log.
func (d *decoder) handoff(e *Event) meaning {
	typ, data := e.Type, e.Data
	m := meaning{component: ComponentPlatformConfig, key: "handoff_tables", description: "tables that firmware hands over"}
	if typ == EvEFIHandoffTables2 {
		if len(data) < 1 || 1+int(data[0]) > len(data) {
			return m
		}
		s := leadingText(data[1 : 1+int(data[0])])
		if d.registers && s == "TdxTable" {
			m.description = "TD HOB: memory and resources that the hypervisor tells firmware" // EDK II, OvmfPkg/Library/PeilessStartupLib
		}
		if s != "" {
			m.key, m.description = "handoff_tables:"+s, m.description+": "+s
		}
		data = data[1+int(data[0]):]
	}
	if len(data) < 8 {
		return m
	}
	count := binary.LittleEndian.Uint64(data)
	data = data[8:]
	var names []string
	for ; count > 0 && len(data) >= 24 && len(names) < 8; count, data = count-1, data[24:] {
		id := guid(data)
		if name, ok := tableNames[id]; ok {
			id = name
		}
		names = append(names, id)
	}
	if len(names) > 0 {
		list := strings.Join(names, ", ")
		m.key += ":" + list
		m.description += " (" + list + ")"
	}
	return m
}

// platformConfig describes EV_PLATFORM_CONFIG_FLAGS. Under QEMU firmware measures each file of the fw_cfg device that
// it uses: "QEMU FW CFG" and the name, or the name alone (EDK II, OvmfPkg/Library/QemuFwCfgLib). The digest is that
// of the file.
func platformConfig(data []byte) meaning {
	file, device := bytes.CutPrefix(data, []byte("QEMU FW CFG\x00"))
	name := leadingText(file)
	switch name {
	case "ACPI DATA":
		return meaning{component: ComponentPlatformConfig, key: "platform_config:" + name, description: "ACPI tables (digest of them)"}
	case "kernel":
		return meaning{component: ComponentKernel, key: "platform_config:kernel", description: "kernel that the hypervisor hands over (digest of it)"}
	case "initrd":
		return meaning{component: ComponentInitrd, key: "platform_config:initrd", description: "initrd that the hypervisor hands over (digest of it)"}
	case "cmdline", "DirectBoot Command Line":
		return meaning{component: ComponentKernelCmdline, key: "platform_config:" + name, description: "kernel command line that the hypervisor hands over (digest of it)"}
	case "":
	default:
		if device || strings.HasPrefix(name, "etc/") {
			return meaning{component: ComponentPlatformConfig, key: "platform_config:" + name, description: "file " + name + " that the hypervisor hands over (digest of it)"}
		}
	}
	return named(ComponentPlatformConfig, "platform_config", "platform configuration", data)
}

// compactHash describes EV_COMPACT_HASH: in PCR 11 BitLocker locks its key with it, elsewhere firmware
// names a setting.
func compactHash(e *Event, component Component) meaning {
	if e.PCR == 11 && len(e.Data) == 4 {
		return meaning{component: ComponentWindows, key: "windows:bitlocker:" + hex.EncodeToString(e.Data), description: "Windows closes the key of BitLocker"}
	}
	m := meaning{component: component, key: "compact_hash", description: "setting of the platform manufacturer"}
	if s := text(e.Data); s != "" {
		m.key, m.description = m.key+":"+s, m.description+": "+s
	}
	return m
}

// imageEvent is a UEFI_IMAGE_LOAD_EVENT: address 8, length 8, link-time address 8, length of the device
// path 8, device path (PFP 1.06, section 10.2.3). Only the digest, the image's Authenticode hash, is
// proven; the path is what the log says.
type imageEvent struct {
	path []byte
}

func parseImage(data []byte) (i imageEvent, ok bool) {
	if len(data) < 32 {
		return i, false
	}
	size := binary.LittleEndian.Uint64(data[24:])
	if size > uint64(len(data)-32) {
		return i, false
	}
	return imageEvent{data[32 : 32+size]}, true
}

// image describes an image that firmware or shim loaded.
func (d *decoder) image(e *Event) meaning {
	m := meaning{component: ComponentBootLoader, key: "image:"}
	what := "boot loader image"
	i, _ := parseImage(e.Data)
	file := filePath(i.path)
	driver := e.Type != EvEFIBootServicesApplication
	switch {
	case driver && file == "" && !hasPathNode(i.path, 4, 6) && !hasPathNode(i.path, 4, 7):
		m.component, m.key, what = ComponentOptionROM, "option_rom:", "option ROM"
	case driver:
		m.component, m.key, what = ComponentDriver, "driver:", "UEFI driver"
	case hasPathNode(i.path, 4, 6) || hasPathNode(i.path, 4, 7):
		what = "firmware application"
	case file == "" && d.kernelPath != "":
		// GRUB has shim, or the firmware, verify the kernel from memory: there is no path.
		m.component, what, file = ComponentKernel, "kernel image", ""
		m.key = "image:kernel"
	case isKernelFile(file):
		m.component, what = ComponentKernel, "kernel image"
	}
	name := file
	if name == "" {
		name = devicePath(i.path)
	}
	if m.key != "image:kernel" {
		m.key += strings.ToLower(baseName(name))
	}
	if name != "" {
		what += " " + name
	}
	m.description = what + " (Authenticode " + describeDigest(e.Digests) + ")"
	return m
}

// isKernelFile tells whether a path is that of a kernel or a unified kernel image.
func isKernelFile(file string) bool {
	lower := strings.ToLower(file)
	base := baseName(lower)
	return hasAnyPrefix(base, "vmlinuz", "linux-", "bzimage") || strings.HasPrefix(lower, `\efi\linux\`)
}

// baseName is the part of a path after the last backslash.
func baseName(file string) string { return file[strings.LastIndex(file, `\`)+1:] }

// describeDigest names the SHA-256 digest, or else the longest.
func describeDigest(digests []Digest) string {
	var best Digest
	for _, d := range digests {
		if d.Alg == tpm.SHA256 {
			best = d
			break
		}
		if len(d.Bytes) > len(best.Bytes) {
			best = d
		}
	}
	name := best.Alg.String()
	if best.Alg == tpm.RTMR {
		name = tpm.SHA384.String() // what is described is a hash, not a register
	}
	return name + " " + hex.EncodeToString(best.Bytes)
}
