package eventlog

import "github.com/assay-verifier/assay/verifier/tpm"

// EventType is the TCG event type of a log record. It is NOT covered by the digest: nothing may be
// decided by it alone (TCG PC Client Platform Firmware Profile 1.06, section 10.4.1).
type EventType uint32

// Component says which part of the boot an event measures, in the words that the API uses.
type Component string

// The components. A deviation carries the component of its event.
const (
	ComponentFirmware       Component = "firmware"           // SRTM, firmware volumes, microcode (PCR 0)
	ComponentPlatformConfig Component = "platform_config"    // setup, SMBIOS, memory map, ACPI (PCR 0, 1)
	ComponentOptionROM      Component = "option_rom"         // drivers of add-in cards (PCR 2)
	ComponentDriver         Component = "driver"             // UEFI drivers loaded from elsewhere (PCR 2)
	ComponentBootOrder      Component = "boot_order"         // BootOrder, Boot#### (PCR 1)
	ComponentSecureBoot     Component = "secure_boot_policy" // SecureBoot, PK, KEK, db, dbx, modes (PCR 7)
	ComponentAuthority      Component = "boot_authority"     // the key that verified what was booted (PCR 7)
	ComponentShim           Component = "shim"               // shim's own state: SBAT, MokList, … (PCR 7, 14)
	ComponentMOK            Component = "machine_owner_key"  // MokList, MokListX, MokListTrusted (PCR 14)
	ComponentBootLoader     Component = "boot_loader"        // shim, GRUB, systemd-boot, Windows boot manager images (PCR 4)
	ComponentBootConfig     Component = "boot_loader_config" // grub.cfg commands, loader.conf, BCD (PCR 8, 5, 12)
	ComponentKernel         Component = "kernel"
	ComponentInitrd         Component = "initrd"
	ComponentKernelCmdline  Component = "kernel_command_line"
	ComponentUKISection     Component = "uki_section"     // sections that systemd-stub measures (PCR 11)
	ComponentBootPhase      Component = "boot_phase"      // systemd-pcrphase (PCR 11)
	ComponentPartitionTable Component = "partition_table" // GPT (PCR 5)
	ComponentWindows        Component = "windows"         // SIPA events (PCR 11-14)
	ComponentSeparator      Component = "separator"
	ComponentAction         Component = "action" // strings such as "Calling EFI Application from Boot Option"
	ComponentIMA            Component = "ima"
	ComponentUnknown        Component = "unknown"
)

// Digest is one digest of an event. Bytes aliases the log.
type Digest struct {
	Alg   tpm.HashAlg
	Bytes []byte
}

// Event is one decoded record of the log.
type Event struct {
	Index   int       // position in the log, the specification id event of a crypto-agile log included
	Offset  int       // byte offset of the record
	PCR     int       // as the log says; -1 never occurs (an absurd index refuses the log)
	Type    EventType // untrusted
	Digests []Digest
	Data    []byte // aliases the log

	// Extended is false for EV_NO_ACTION records, which extend no PCR and so prove nothing.
	Extended bool
	// Covered says that the event's digest is the hash of its data (or of what the type defines), so
	// that the data is as trustworthy as the PCR once the log has replayed.
	Covered bool
	// MachineSpecific marks events that name the machine and not its software: boot order and boot
	// entries, disk and partition GUIDs, serial numbers, per-boot counters. Only set where covered
	// data proves it.
	MachineSpecific bool
	Component       Component
	// Key is a short stable identity of what is measured, the same over versions of it: for example
	// "variable:dbx", "image:shimx64.efi", "grub_cmd:linux", "cmdline", "section:.initrd". Two events
	// with the same PCR and Key in two logs are "the same thing, changed". Empty if nothing is known.
	Key         string
	Description string // plain words
}
